package dialog

import "time"

// An emitter collects the events that a method of the Tracker returns.
type emitter struct {
	*clock
	events []Event
}

// emit appends an event that happened at a time of the steady clock. The caller may set
// further fields of the result until it calls emit again.
func (e *emitter) emit(at time.Time, ev *Event) *Event {
	ev.At, ev.Observed = e.wallTime(at), at
	e.events = append(e.events, *ev)
	return &e.events[len(e.events)-1]
}
