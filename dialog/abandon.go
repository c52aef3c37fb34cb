package dialog

import "container/heap"

// AbandonCall recovers from a panic in Observe, Advance or Changed: call it before any
// other method. It returns the events that were emitted before the panic, and removes the
// call that was being changed. Each party of the call that had a dial and no hangup gets an
// UNKNOWN hangup. All other calls go on. If AbandonCall panics too, call it again.
func (t *Tracker) AbandonCall() []Event {
	c := t.current
	if c == nil {
		return t.emitter.events
	}
	if c.heapIndex < len(t.deadlines) && t.deadlines[c.heapIndex] == c {
		heap.Remove(&t.deadlines, c.heapIndex)
	}
	t.index.unindexCall(c)
	c.callIDs, c.keys = nil, nil
	for _, l := range c.legs {
		t.numbers.unindexLeg(l)
		l.state = over
	}
	t.refers.removeCall(c)
	t.changes.mark(c)
	for _, p := range c.parties {
		if p.over {
			continue
		}
		p.over, p.outcome = true, outcome{status: Unknown, by: BySystem}
		if p.dialed {
			t.parties.emitHangup(p, c.lastHeard)
		}
	}
	c.legs = nil
	t.current = nil
	return t.emitter.events
}
