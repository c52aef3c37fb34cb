package schedule

import "time"

const (
	maxFailuresInRow    = 5                // failures in a row that open a circuit breaker
	minTrippingAttempts = 20               // or at least so many attempts within failureWindow, half of which failed
	failureWindow       = 60 * time.Second // see minTrippingAttempts
	minProbeInterval    = time.Second      // from opening to the first probe; doubled after each failed probe
	MaxProbeInterval    = 30 * time.Second // limit of the doubling
)

// The scopes of a circuit breaker. The words are stored: never change one, only add.
const (
	EndpointBreaker     = "endpoint"
	SubscriptionBreaker = "subscription"
)

// Fault is the kind of a failed attempt. It decides which circuit breakers count the
// failure.
//
//	fault          meaning                      counted by the breaker of
//	NoConnection   no connection was made       the endpoint
//	NoAnswer       connected, but no response   the subscription and the endpoint
//	BadStatus      an HTTP status but 2xx       the subscription
//
// A missing response may be the fault of one URL, such as a script that hangs, or of the
// whole endpoint. If an endpoint has several subscriptions, missing responses open its
// breaker only if two of these subscriptions miss one and none gets one. While it is open
// for that reason, a subscription whose last attempt got a response is still attempted.
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
	nextProbe     time.Time     // time of the next probe
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

// mustOpen reports whether the counted attempts must open the breaker.
func (b *breaker) mustOpen(now time.Time) bool {
	if b.failures >= maxFailuresInRow {
		return true
	}
	sixth := now.Unix() / int64(failureWindow/time.Second/6)
	var failed, ended int
	for _, t := range b.tallies {
		if t.sixth > sixth-6 && t.sixth <= sixth { // a tally of the future is old: the clock was set back after it
			failed += t.failed
			ended += t.total
		}
	}
	return ended >= minTrippingAttempts && failed*2 >= ended
}

// trip opens the breaker. retryAfter is the Retry-After of the response, or 0.
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

// blocked reports whether an open circuit breaker keeps d from being attempted. A breaker
// does not block its own probe.
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

// exempt reports whether open circuit breakers do not apply to d, because it goes to a
// URL that the receiver has named. The breaker of the endpoint applies if that URL has
// the same endpoint.
func (d *delivery) exempt() bool {
	sr := d.queue.subscriber
	u := sr.namedFor(d)
	return u != nil && (!sr.blockedByEndpoint() || EndpointKey(u) != sr.endpoint.key)
}
