package dialog

import "slices"

// InheritClock copies the clock of another tracker.
func (t *Tracker) InheritClock(o *Tracker) {
	t.clock = o.clock
	t.clock.steps = slices.Clone(o.clock.steps)
}

// Inherit gives a tracker, which has restored the calls of another, the state that a
// restart loses: the bindings, and messages that have no call yet.
func (t *Tracker) Inherit(o *Tracker) {
	*t.directory = *o.directory
	t.directory.config = &t.config
	t.attempts.challenged = o.attempts.challenged
	t.texts.pending, t.texts.forks = o.texts.pending, o.texts.forks
	t.mailboxes.boxes = o.mailboxes.boxes
	r := t.registrar
	r.registrations, r.expiries, r.pending = o.registrar.registrations, o.registrar.expiries, o.registrar.pending
}

// Uncut restores the transactions that a restart loses.
func (t *Tracker) Uncut() {
	for _, c := range t.deadlines {
		for _, l := range c.legs {
			l.transactionLost = false
		}
	}
}
