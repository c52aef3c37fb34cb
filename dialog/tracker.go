package dialog

import "time"

// A Tracker follows calls.
type Tracker struct{}

// Config says what the tracker cannot see on the wire.
type Config struct{}

// New returns a Tracker that has seen nothing yet.
func New(c Config) *Tracker { return &Tracker{} }

// Observe shows the tracker one message.
func (t *Tracker) Observe(m Message) []Event { return nil }

// Next returns the earliest time at which Advance has something to do.
func (t *Tracker) Next() (time.Time, bool) { return time.Time{}, false }

// Advance does what is due at now.
func (t *Tracker) Advance(now time.Time) []Event { return nil }
