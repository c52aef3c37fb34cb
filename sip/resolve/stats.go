package resolve

import "sync/atomic"

// Stats are counts since the start of the resolver.
type Stats struct {
	Lookups   uint64 // of names
	Failures  uint64 // lookups without an answer of a name server
	Questions uint64 // to name servers
	Stale     uint64 // expired answers that were used because no name server answered
	Panics    uint64 // lookups lost to a bug
}

type counters struct{ lookups, failures, questions, stale, panics atomic.Uint64 }

// Stats returns the current counts. It may be called from any goroutine at any time.
func (r *Resolver) Stats() Stats {
	return Stats{
		Lookups:   r.stats.lookups.Load(),
		Failures:  r.stats.failures.Load(),
		Questions: r.stats.questions.Load(),
		Stale:     r.stats.stale.Load(),
		Panics:    r.stats.panics.Load(),
	}
}
