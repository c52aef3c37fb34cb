package eventlog

import "time"

// A Pace sets how long work waits so that it can be done together with later work: Quiet
// while at most Rate items arrive per second, and Busy while more arrive. Burst is how
// many items may exceed the rate before Busy applies. A Pace belongs to one goroutine.
type Pace struct {
	Rate, Burst float64
	Quiet, Busy time.Duration

	beyond float64 // items that arrived in excess of the rate; at most twice the burst
	at     time.Time
}

// Add records that n items arrived at now.
func (p *Pace) Add(now time.Time, n int) {
	p.beyond = max(0, p.beyond-p.Rate*now.Sub(p.at).Seconds())
	p.beyond = min(p.beyond+float64(n), 2*p.Burst)
	p.at = now
}

// Wait returns how long an item that arrives now may wait.
func (p *Pace) Wait() time.Duration {
	if p.beyond > p.Burst {
		return p.Busy
	}
	return p.Quiet
}
