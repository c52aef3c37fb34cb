package sip

// A Dialog is one that was up when this process began.
type Dialog struct {
	CallID string
	Tag    string // of one of its ends
}

// oldDialogs are the dialogs of a worker in which tokens of version 1 open, by
// Call-ID. A build that made tokens of version 1 has left them.
type oldDialogs map[string][]string

// has reports whether m belongs to one of them.
func (o oldDialogs) contains(m *message) bool {
	if len(o) == 0 {
		return false
	}
	for _, tag := range o[string(m.text(m.callID))] {
		if tag == string(m.text(m.fromTag)) || tag == string(m.text(m.toTag)) {
			return true
		}
	}
	return false
}

// end forgets the dialogs of a Call-ID, whose BYE was answered.
func (o oldDialogs) remove(callID []byte) {
	if len(o) > 0 {
		delete(o, string(callID))
	}
}

// RestoreDialogs says which dialogs are up. Tokens of version 1, which say of no dialog that
// they are its own, open in these alone, until they end. It is called before Run.
func (h *Proxy) RestoreDialogs(dialogs []Dialog) {
	for _, d := range dialogs {
		w := h.workerOfCallID([]byte(d.CallID))
		if w.oldDialogs == nil {
			w.oldDialogs = oldDialogs{}
		}
		w.oldDialogs[d.CallID] = append(w.oldDialogs[d.CallID], d.Tag)
	}
}
