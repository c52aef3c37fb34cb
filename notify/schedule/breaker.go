package schedule

import "time"

const (
	maxFailuresInRow    = 5                // failures in a row that open a circuit breaker
	minTrippingAttempts = 20               // or at least so many attempts within failureWindow, half of which failed
	failureWindow       = 60 * time.Second // see minTrippingAttempts
	minProbeInterval    = time.Second      // from opening to the first probe; doubled after each failed one
	MaxProbeInterval    = 30 * time.Second // limit of the doubling
)

// The scopes of a circuit breaker. The words are stored: never change one, only add.
const (
	EndpointBreaker     = "endpoint"
	SubscriptionBreaker = "subscription"
)

// Fault is the kind of a failed attempt; it decides whose circuit breaker counts it.
//
//	NoConnection   no connection was made       the endpoint's
//	NoAnswer       connected, but no response   the subscription's and the endpoint's
//	BadStatus      an HTTP status but 2xx       the subscription's
//
// A missing response may be the fault of one URL, such as a script that hangs, or of the
// whole endpoint. At an endpoint with several subscriptions it opens the endpoint's breaker
// only if two of them miss a response and none gets one. A subscription that misses none is
// still attempted then.
type Fault int

const (
	NoConnection Fault = iota
	NoAnswer
	BadStatus
)

// A breaker is a circuit breaker: failures open it, then only probes are sent, and the
// first success closes it. The zero value is closed.
type breaker struct {
	failures int // in a row
	tallies  [6]tally

	openSince     time.Time     // zero: it is closed
	reason        string        // the failure that opened it, or that of the last probe
	probeInterval time.Duration // between two probes
	nextProbe     time.Time     // when to probe
	probe         *delivery     // the delivery picked as the last probe
}

// A tally counts the attempts that ended in one sixth of failureWindow.
type tally struct {
	sixth         int64
	failed, total int
}

// open reports whether the breaker is open.
func (b *breaker) open() bool { return !b.openSince.IsZero() }

// countAttempt counts an attempt that ended at now.
func (b *breaker) countAttempt(now time.Time, failed bool) {
	sixth := now.Unix() / int64(failureWindow/time.Second/6)
	t := &b.tallies[sixth%6]
	if t.sixth != sixth {
		*t = tally{sixth: sixth}
	}
	t.total++
	if !failed {
		b.failures = 0
		return
	}
	t.failed++
	b.failures++
}

// mustOpen reports whether the counted attempts open the breaker.
func (b *breaker) mustOpen(now time.Time) bool {
	if b.failures >= maxFailuresInRow {
		return true
	}
	sixth := now.Unix() / int64(failureWindow/time.Second/6)
	var failed, ended int
	for _, t := range b.tallies {
		if t.sixth > sixth-6 && t.sixth <= sixth { // a tally dated in the future is old: the clock was set back since
			failed += t.failed
			ended += t.total
		}
	}
	return ended >= minTrippingAttempts && failed*2 >= ended
}

// trip opens the breaker. retryAfter is the Retry-After of the receiver.
func (b *breaker) trip(now time.Time, why string, retryAfter time.Duration) {
	b.openSince, b.reason, b.probeInterval = now, why, minProbeInterval
	b.nextProbe = now.Add(max(minProbeInterval, min(retryAfter, maxRetryAfter)))
}

// probeFailed schedules the next probe after one that failed.
func (b *breaker) probeFailed(now time.Time, why string, retryAfter time.Duration) {
	b.probeInterval = min(2*b.probeInterval, MaxProbeInterval)
	b.nextProbe = now.Add(max(b.probeInterval, min(retryAfter, maxRetryAfter)))
	b.reason = why
}

// probing reports whether a probe is due or in flight.
func (b *breaker) probing() bool {
	if b.probe == nil {
		return false
	}
	switch b.probe.state {
	case due, inFlight:
		return true
	case queued, backingOff, ended:
	}
	return false
}

// blocked reports whether an open circuit breaker keeps d from being attempted. A probe is
// not blocked by its breaker.
func (d *delivery) blocked() bool {
	sr := d.queue.subscriber
	switch {
	case !sr.blockedByEndpoint() && !sr.open(), d.exempt():
		return false
	case sr.blockedByEndpoint():
		return d != sr.endpoint.probe
	}
	return d != sr.probe
}

// exempt reports whether d goes to a named URL that no open circuit breaker covers.
func (d *delivery) exempt() bool {
	sr := d.queue.subscriber
	u := sr.namedFor(d)
	return u != nil && (!sr.blockedByEndpoint() || EndpointKey(u) != sr.endpoint.key)
}
