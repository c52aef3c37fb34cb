package dialog

import "slices"

// InheritClock gives a tracker the clock of another.
func (t *Tracker) InheritClock(o *Tracker) {
	t.clock = o.clock
	t.clock.steps = slices.Clone(o.clock.steps)
}

// Inherit gives a tracker that has restored the calls of another what a restart
// loses beside them: the bindings, and what is no call yet.
func (t *Tracker) Inherit(o *Tracker) {
	t.directory, t.challengedAttempts, t.pendingTexts, t.textForks = o.directory, o.challengedAttempts, o.pendingTexts, o.textForks
	t.mailboxes, t.registrar = o.mailboxes, o.registrar
}

// Uncut says that no transaction was lost.
func (t *Tracker) Uncut() {
	for _, c := range t.deadlines {
		for _, l := range c.legs {
			l.transactionLost = false
		}
	}
}
