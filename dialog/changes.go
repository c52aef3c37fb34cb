package dialog

import "time"

// changes collects the calls that have changed since their last snapshot.
type changes struct {
	on    bool    // Changed or Restore was called: changes are collected
	calls []*call // in the order of their first changes
}

// mark adds a call that has changed, or may have changed. It does nothing if the call was
// added since Changed last returned it.
func (s *changes) mark(c *call) {
	if s.on && c.changedAt.IsZero() {
		c.changedAt = c.lastHeard
		s.calls = append(s.calls, c)
	}
}

// oldest returns the time of the oldest change; false if there is none.
func (s *changes) oldest() (time.Time, bool) {
	if len(s.calls) == 0 {
		return time.Time{}, false
	}
	return s.calls[0].changedAt, true
}

// removeFirst removes the first n calls. Changed calls it for the calls that it returns.
func (s *changes) removeFirst(n int) {
	for _, c := range s.calls[:n] {
		c.changedAt, c.stored = time.Time{}, c.unfinished()
	}
	clear(s.calls[:n])
	if s.calls = s.calls[n:]; len(s.calls) == 0 {
		s.calls = nil
	}
}
