package dialog

import (
	"container/heap"
	"slices"
)

// Abandon is called when Observe, Advance or Changed has panicked, before any other
// method. It returns the events until then, and gives up the call that was at hand:
// each of its parties that had a dial and no hangup gets one, UNKNOWN, and the call
// is forgotten. All other calls go on. If Abandon panics too, it is called again.
func (t *Tracker) Abandon() []Event {
	c := t.at
	if c == nil {
		return t.said
	}
	if c.place < len(t.due) && t.due[c.place] == c {
		heap.Remove(&t.due, c.place)
	}
	t.release(c)
	c.callIDs, c.keys = nil, nil
	for _, l := range c.legs {
		t.unreach(l)
		l.state = over
	}
	t.refers = slices.DeleteFunc(t.refers, func(r *refer) bool { return r.leg.call == c })
	t.touch(c)
	for _, p := range c.parties {
		if p.over {
			continue
		}
		p.over, p.outcome = true, outcome{status: Unknown, by: BySystem}
		if p.dialed {
			t.hangup(p, c.heard)
		}
	}
	c.legs = nil
	t.at = nil
	return t.said
}
