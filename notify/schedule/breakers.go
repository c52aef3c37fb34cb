package schedule

import (
	"cmp"
	"iter"
	"maps"
	"time"
)

// breakers holds the open circuit breakers. It counts the results of attempts, opens and
// closes the breakers, and picks the deliveries to probe with.
type breakers struct {
	*dispatch
	endpoints   map[*endpoint]bool   // with an open circuit breaker
	subscribers map[*subscriber]bool // with an open circuit breaker of their own

	hooks *Hooks
}

// countOutcome counts an attempt in the circuit breakers of its endpoint and its
// subscriber, and reports whether it was a probe.
func (b *breakers) countOutcome(now time.Time, p *Attempt, r *Result) (probe bool) {
	e, sr := p.endpoint, p.delivery.queue.subscriber
	ofEndpoint, ofSubscriber := e.probe == p.delivery, sr.probe == p.delivery
	if ofEndpoint {
		e.probe = nil
	}
	if ofSubscriber {
		sr.probe = nil
	}
	switch {
	case r.NamedURL != nil:
		b.countNamedOutcome(now, p, r, ofEndpoint, ofSubscriber)
	case r.Outcome == Delivered:
		b.noteSuccess(now, sr, e)
	case r.Outcome == Refused:
		b.noteAnswer(now, sr, e)
	case r.Outcome == WillRetry && !r.LocalFault:
		if sr.failing.IsZero() && p.Sub.URL == sr.sub.URL {
			sr.failing = now
		}
		if r.Fault == BadStatus {
			b.noteAnswer(now, sr, e)
		} else {
			b.noteNoAnswer(now, p, r, ofEndpoint)
		}
		b.noteFailure(now, p, r, ofSubscriber)
	case r.Outcome == WillRetry: // tells nothing about the receiver
		if ofEndpoint {
			e.nextProbe = now.Add(e.probeInterval)
		}
		if ofSubscriber {
			sr.nextProbe = now.Add(sr.probeInterval)
		}
	} // else nothing was sent: the next attempt is the probe
	if e.open() {
		b.scheduleProbe(e.nextProbe)
	}
	if sr.open() {
		b.scheduleProbe(sr.nextProbe)
	}
	return ofEndpoint || ofSubscriber
}

// countNamedOutcome counts an attempt at a URL that the receiver has named. The breaker
// of the subscription does not count it, because that breaker concerns the subscription's
// own URL. The breaker of the endpoint counts it only if the named URL has the same
// endpoint.
func (b *breakers) countNamedOutcome(now time.Time, p *Attempt, r *Result, ofEndpoint, ofSubscriber bool) {
	e, sr := p.endpoint, p.delivery.queue.subscriber
	if ofSubscriber {
		sr.nextProbe = now.Add(minProbeInterval)
	}
	switch {
	case EndpointKey(r.NamedURL) != e.key:
		if ofEndpoint {
			e.nextProbe = now.Add(minProbeInterval)
		}
	case r.Status != 0:
		b.noteAnswer(now, sr, e)
	case r.Outcome == WillRetry && r.Fault == NoConnection && !r.LocalFault:
		b.noteNoAnswer(now, p, r, ofEndpoint)
	case ofEndpoint && e.open():
		e.probeFailed(now, r.Detail, r.RetryAfter)
	}
}

// noteAnswer records that endpoint e sent sr a response, whatever its status.
func (b *breakers) noteAnswer(now time.Time, sr *subscriber, e *endpoint) {
	e.countAttempt(now, false)
	sr.missedAnswer = false
	if e.open() {
		b.closeEndpoint(e)
	}
}

// noteSuccess records that sr received a delivery at e.
func (b *breakers) noteSuccess(now time.Time, sr *subscriber, e *endpoint) {
	sr.countAttempt(now, false)
	sr.failing = time.Time{}
	b.noteAnswer(now, sr, e)
	if sr.open() {
		b.closeSubscriber(sr)
	}
}

// noteNoAnswer counts an attempt without a response against its endpoint, and opens the
// breaker of the endpoint if there are too many. probe is true if the attempt was a probe.
//
// If the connection failed, the endpoint is at fault. If only the response is missing, one
// URL may be at fault. So if the endpoint has several subscribers, missing responses open
// its breaker only if more than one of them has had some. A subscriber with an open breaker
// of its own does not count.
func (b *breakers) noteNoAnswer(now time.Time, p *Attempt, r *Result, probe bool) {
	e, sr := p.endpoint, p.delivery.queue.subscriber
	b.blockUnanswered(sr, e, r.Fault)
	certain := r.Fault == NoConnection || len(e.subscribers) <= 1 // the endpoint is at fault, not one URL
	switch {
	case certain:
		e.noteFailed(sr)
		e.countAttempt(now, true)
	case !sr.open():
		e.noteFailed(sr)
		e.failures++ // not in the tallies: one URL may make most of the attempts
	}
	switch {
	case probe && e.open():
		e.probeFailed(now, r.Detail, r.RetryAfter)
	case e.open() || len(e.subscribers) == 0 || !e.mustOpen(now):
	case certain || e.severalFailed && !sr.open():
		e.noAnswers = r.Fault == NoAnswer
		e.trip(now, r.Detail, r.RetryAfter)
		b.openEndpoint(e)
	}
}

// blockUnanswered records that sr got no response from e. If the breaker of e is open for
// missing responses, it blocks sr from now on. After a failed connection, it blocks all
// subscribers of e.
func (b *breakers) blockUnanswered(sr *subscriber, e *endpoint, f Fault) {
	again := sr.missedAnswer
	sr.missedAnswer = true
	switch {
	case e.noAnswers && f == NoConnection:
		e.noAnswers = false
		for other := range e.subscribers {
			b.holdDue(other)
			b.reportHealth(other)
		}
	case e.noAnswers && !again && sr.endpoint == e:
		b.holdDue(sr)
		b.reportHealth(sr)
	}
}

// noteFailure counts a failed attempt in the breaker of its subscriber, unless no
// connection was made, and opens the breaker if it must. An attempt at an earlier URL of
// the subscription does not count. probe says that the attempt was the breaker's probe.
func (b *breakers) noteFailure(now time.Time, p *Attempt, r *Result, probe bool) {
	sr := p.delivery.queue.subscriber
	if p.Sub.URL != sr.sub.URL || sr.gone {
		return
	}
	if r.Fault != NoConnection {
		sr.countAttempt(now, true)
	}
	switch {
	case probe && sr.open():
		sr.probeFailed(now, r.Detail, r.RetryAfter)
	case sr.open() || r.Fault == NoConnection || sr.endpoint.open() || !sr.mustOpen(now):
	default:
		sr.trip(now, r.Detail, r.RetryAfter)
		b.openSubscriber(sr)
	}
}

// openEndpoint holds the due deliveries of an endpoint whose breaker has opened.
func (b *breakers) openEndpoint(e *endpoint) {
	b.endpoints[e] = true
	b.hooks.EndpointChanged(e.key, true, e.reason)
	for sr := range e.subscribers {
		b.holdDue(sr)
		b.reportHealth(sr)
	}
	b.scheduleProbe(e.nextProbe)
}

// closeEndpoint closes the breaker of e and makes due the deliveries that it held.
func (b *breakers) closeEndpoint(e *endpoint) {
	e.breaker, e.noAnswers = breaker{}, false
	delete(b.endpoints, e)
	b.hooks.EndpointChanged(e.key, false, "")
	for sr := range e.subscribers {
		b.reportHealth(sr)
		b.releaseHeld(sr)
		if sr.open() {
			b.scheduleProbe(sr.nextProbe)
		}
	}
}

// openSubscriber holds the due deliveries of a subscriber whose own breaker has opened.
func (b *breakers) openSubscriber(sr *subscriber) {
	b.subscribers[sr] = true
	b.holdDue(sr)
	b.reportHealth(sr)
	b.scheduleProbe(sr.nextProbe)
}

// closeSubscriber closes the subscriber's own breaker, resets its counts, and makes due
// the deliveries that it held.
func (b *breakers) closeSubscriber(sr *subscriber) {
	was := sr.open()
	sr.breaker = breaker{}
	if was {
		delete(b.subscribers, sr)
		b.reportHealth(sr)
		b.releaseHeld(sr)
	}
}

// reportHealth calls the hook HealthChanged, because the health of sr may have changed.
func (b *breakers) reportHealth(sr *subscriber) {
	if !sr.gone {
		b.hooks.HealthChanged(sr.health())
	}
}

// holdDue looks for due deliveries of sr that a circuit breaker now blocks, and makes
// them back off.
func (p *dispatch) holdDue(sr *subscriber) {
	for _, waiting := range [...]*fifo[*delivery]{&sr.due, &sr.dueReplays} {
		for range waiting.len() {
			if d := waiting.pop(); d.state == due {
				p.makeDue(d)
			}
		}
	}
}

// releaseHeld looks for deliveries of sr that backed off because of a circuit breaker,
// and makes those due that are no longer blocked.
func (p *dispatch) releaseHeld(sr *subscriber) {
	for _, q := range sr.queues {
		if d := q.deliveries[0]; d.state == backingOff && d.backoff.reason == byBreaker {
			p.endBackoff(d)
			p.makeDue(d)
		}
	}
}

// scheduleProbe makes runDue look for open breakers to probe at the time at, or earlier.
func (p *dispatch) scheduleProbe(at time.Time) {
	if p.nextProbe.IsZero() || at.Before(p.nextProbe) {
		p.nextProbe = at
	}
}

// replaceProbe schedules another probe if d, which has ended, was the probe of a breaker.
func (b *breakers) replaceProbe(d *delivery) {
	sr := d.queue.subscriber
	if e := sr.endpoint; e.probe == d && e.open() {
		b.scheduleProbe(e.nextProbe)
	}
	if sr.probe == d && sr.open() {
		b.scheduleProbe(sr.nextProbe)
	}
}

// startProbes makes a probe due for each open breaker that may be probed at now.
func (b *breakers) startProbes(now time.Time) {
	b.nextProbe = time.Time{}
	for e := range b.endpoints {
		if b.mayProbe(now, &e.breaker) {
			b.startProbe(&e.breaker, pickProbe(maps.Keys(e.subscribers)))
		}
	}
	for sr := range b.subscribers {
		if !sr.blockedByEndpoint() && b.mayProbe(now, &sr.breaker) {
			b.startProbe(&sr.breaker, pickProbe(func(yield func(*subscriber) bool) { yield(sr) }))
		}
	}
}

// mayProbe reports whether an open breaker may be probed at now. If it is too early,
// mayProbe schedules the next check.
func (b *breakers) mayProbe(now time.Time, open *breaker) bool {
	if open.probing() {
		return false // countOutcome schedules the next probe
	}
	if open.nextProbe.After(now) {
		b.scheduleProbe(open.nextProbe)
		return false
	}
	return true
}

// startProbe makes d the probe of a breaker and makes it due. If d is nil, it does
// nothing: backOff schedules the probe once a delivery backs off.
func (b *breakers) startProbe(open *breaker, d *delivery) {
	if d == nil {
		return
	}
	open.probe = d
	if sr := d.queue.subscriber; sr.open() {
		sr.probe = d
	}
	b.endBackoff(d)
	b.makeDue(d)
}

// pickProbe picks the delivery to probe with, or returns nil if none may be sent. It
// prefers a delivery of a subscriber whose own breaker is closed, then a delivery that a
// breaker holds, then the delivery with the fewest attempts.
func pickProbe(subscribers iter.Seq[*subscriber]) (best *delivery) {
	for sr := range subscribers {
		for _, q := range sr.queues {
			d := q.deliveries[0]
			if d.state != backingOff || d.backoff.reason == byRetryAfter || d.exempt() {
				continue
			}
			if best == nil || cmp.Or(
				compareBools(sr.open(), best.queue.subscriber.open()),
				compareBools(d.backoff.reason != byBreaker, best.backoff.reason != byBreaker),
				cmp.Compare(d.attempts, best.attempts)) < 0 {
				best = d
			}
			if d.backoff.reason == byBreaker && d.attempts == 0 && !sr.open() {
				return d
			}
		}
	}
	return best
}

// compareBools orders false before true.
func compareBools(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}
