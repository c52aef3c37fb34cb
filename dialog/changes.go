package dialog

import "time"

// changes are the live calls with a newer state than their last snapshot.
type changes struct {
	on    bool    // Changed or Restore was called: changes are collected
	calls []*call // in the order of their first changes
}

// mark notes that a call has changed, or may have.
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

// removeFirst removes the first n changes, after Changed has returned their snapshots.
func (s *changes) removeFirst(n int) {
	for _, c := range s.calls[:n] {
		c.changedAt, c.stored = time.Time{}, c.unfinished()
	}
	clear(s.calls[:n])
	if s.calls = s.calls[n:]; len(s.calls) == 0 {
		s.calls = nil
	}
}
