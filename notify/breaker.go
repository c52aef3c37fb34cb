package notify

import "time"

const (
	tripAfter  = 5                // failures in a row that pause an endpoint
	tripOf     = 20               // or half of at least so many attempts,
	tripWithin = 60 * time.Second // within so long
	firstProbe = time.Second      // from a pause to the first probe; then twice as long each time,
	maxProbe   = 30 * time.Second // but no longer
)

// A breaker says whether an endpoint is worth an attempt. It pauses after
// failures; then only a probe is made now and then, and the first success ends
// the pause.
type breaker struct {
	failures int // in a row
	tallies  [6]tally

	paused time.Time // since when; zero: is not
	why    string    // the failure that paused it, or the last probe's
	wait   time.Duration
	next   time.Time // when to probe
	probe  *delivery // the one that was last picked
}

// A tally counts the attempts that ended in one sixth of tripWithin.
type tally struct {
	sixth          int64
	failed, ending int
}

func (b *breaker) open() bool { return !b.paused.IsZero() }

// count takes an attempt that ended at now.
func (b *breaker) count(now time.Time, failed bool) {
	sixth := now.Unix() / int64(tripWithin/time.Second/6)
	t := &b.tallies[sixth%6]
	if t.sixth != sixth {
		*t = tally{sixth: sixth}
	}
	t.ending++
	if !failed {
		b.failures = 0
		return
	}
	t.failed++
	b.failures++
}

// trips reports whether what was counted until now pauses an endpoint.
func (b *breaker) trips(now time.Time) bool {
	if b.failures >= tripAfter {
		return true
	}
	sixth := now.Unix() / int64(tripWithin/time.Second/6)
	var failed, ended int
	for _, t := range b.tallies {
		if t.sixth > sixth-6 && t.sixth <= sixth { // one of the future is old: the clock was set back
			failed += t.failed
			ended += t.ending
		}
	}
	return ended >= tripOf && failed*2 >= ended
}

// pause begins a pause.
func (b *breaker) pause(now time.Time, why string) {
	b.paused, b.why = now, why
	b.wait, b.next = firstProbe, now.Add(firstProbe)
}

// missed takes a probe that failed, and what its receiver asked for.
func (b *breaker) missed(now time.Time, why string, retryAfter time.Duration) {
	b.wait = min(2*b.wait, maxProbe)
	b.next = now.Add(max(b.wait, min(retryAfter, maxRetryAfter)))
	b.why = why
}

// probing reports whether a probe is on its way from e.
func (e *endpoint) probing() bool {
	d := e.probe
	return d != nil && (d.state == ready || d.state == sending) && d.lane.target.endpoint == e
}
