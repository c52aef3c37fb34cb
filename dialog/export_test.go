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
	t.directory, t.challengedAttempts, t.pendingTexts, t.textForks = o.directory, o.challengedAttempts, o.pendingTexts, o.textForks
	t.mailboxes, t.registrar = o.mailboxes, o.registrar
}

// Uncut restores the transactions that a restart loses.
func (t *Tracker) Uncut() {
	for _, c := range t.deadlines {
		for _, l := range c.legs {
			l.transactionLost = false
		}
	}
}
