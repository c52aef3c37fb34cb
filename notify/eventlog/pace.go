package eventlog

import "time"

// A Pace returns how long work may wait to be done together with later work: Quiet while it
// arrives at less than Rate per second, Busy when it arrives faster. Burst is how much may
// arrive beyond the rate before that. It belongs to one goroutine.
type Pace struct {
	Rate, Burst float64
	Quiet, Busy time.Duration

	beyond float64 // work that arrived beyond the rate; at most twice the burst
	at     time.Time
}

// Add records that n pieces of work have arrived at now.
func (p *Pace) Add(now time.Time, n int) {
	p.beyond = max(0, p.beyond-p.Rate*now.Sub(p.at).Seconds())
	p.beyond = min(p.beyond+float64(n), 2*p.Burst)
	p.at = now
}

// Wait returns how long work that arrives now may wait.
func (p *Pace) Wait() time.Duration {
	if p.beyond > p.Burst {
		return p.Busy
	}
	return p.Quiet
}
