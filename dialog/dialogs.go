package dialog

// Dialogs returns the dialogs of all legs that have not ended, in no order.
func (t *Tracker) Dialogs() (up []LegID) {
	for _, c := range t.deadlines {
		for _, l := range c.legs {
			if l.state != over {
				up = append(up, t.parties.legID(l))
			}
		}
	}
	return up
}
