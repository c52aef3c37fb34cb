package notify

import "time"

// A Pace says how long what comes may wait for more, so that many share what
// costs as much for one: Quiet while it comes at less than Rate a second, Busy when
// it comes faster. Burst is how much may come beyond the rate before that. It
// belongs to one goroutine.
type Pace struct {
	Rate, Burst float64
	Quiet, Busy time.Duration

	beyond float64 // what has come beyond the rate; twice the burst at most
	at     time.Time
}

// Add notes that n have come by now.
func (p *Pace) Add(now time.Time, n int) {
	p.beyond = max(0, p.beyond-p.Rate*now.Sub(p.at).Seconds())
	p.beyond = min(p.beyond+float64(n), 2*p.Burst)
	p.at = now
}

// Wait is how long what comes may wait.
func (p *Pace) Wait() time.Duration {
	if p.beyond > p.Burst {
		return p.Busy
	}
	return p.Quiet
}
