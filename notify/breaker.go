package notify

import (
	"cmp"
	"iter"
	"maps"
	"time"
)

const (
	maxFailuresInRow    = 5                // failures in a row that open a circuit breaker
	minTrippingAttempts = 20               // or at least so many attempts within failureWindow, half of which failed
	failureWindow       = 60 * time.Second // see minTrippingAttempts
	minProbeInterval    = time.Second      // from opening to the first probe; doubled after each failed one
	maxProbeInterval    = 30 * time.Second // limit of the doubling
)

// fault is the kind of a failed attempt; it decides whose circuit breaker counts it.
//
//	noConnection   no connection was made       the endpoint's
//	noAnswer       connected, but no response   the subscription's and the endpoint's
//	badStatus      an HTTP status but 2xx       the subscription's
//
// A missing response may be the fault of one URL, such as a script that hangs, or of the
// whole endpoint. At an endpoint with several subscriptions it opens the endpoint's breaker
// only if two of them miss a response and none gets one. A subscription that misses none is
// still attempted then.
type fault int

const (
	noConnection fault = iota
	noAnswer
	badStatus
)

// A breaker is a circuit breaker: failures open it, then only probes are sent, and the
// first success closes it. The zero value is closed.
type breaker struct {
	failures int // in a row
	tallies  [6]tally

	openSince time.Time     // zero: it is closed
	reason    string        // the failure that opened it, or that of the last probe
	backoff   time.Duration // between two probes
	nextProbe time.Time     // when to probe
	probe     *delivery     // the delivery picked as the last probe
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
	b.openSince, b.reason, b.backoff = now, why, minProbeInterval
	b.nextProbe = now.Add(max(minProbeInterval, min(retryAfter, maxRetryAfter)))
}

// probeFailed schedules the next probe after one that failed.
func (b *breaker) probeFailed(now time.Time, why string, retryAfter time.Duration) {
	b.backoff = min(2*b.backoff, maxProbeInterval)
	b.nextProbe = now.Add(max(b.backoff, min(retryAfter, maxRetryAfter)))
	b.reason = why
}

// probing reports whether a probe is due or in flight.
func (b *breaker) probing() bool {
	d := b.probe
	return d != nil && (d.state == due || d.state == inFlight)
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
	case sr.open():
		return d != sr.probe
	}
	return false
}

// blockedByEndpoint reports whether the circuit breaker of its endpoint keeps sr from
// attempts.
func (sr *subscriber) blockedByEndpoint() bool {
	e := sr.endpoint
	return e.open() && (sr.missedAnswer || !e.noAnswers)
}

// openBreaker returns the circuit breaker that pauses sr, and its scope: breakerEndpoint or
// breakerSubscription. It returns nil if sr is not paused.
func (sr *subscriber) openBreaker() (b *breaker, of string) {
	switch {
	case sr.blockedByEndpoint():
		return &sr.endpoint.breaker, breakerEndpoint
	case sr.open():
		return &sr.breaker, breakerSubscription
	}
	return nil, ""
}

// countOutcome counts an attempt in the circuit breakers of its endpoint and its
// subscriber, and reports whether it was a probe.
func (s *scheduler) countOutcome(now time.Time, p *plannedAttempt, r *attemptResult) (probe bool) {
	e, sr := p.endpoint, p.delivery.queue.subscriber
	ofEndpoint, ofTarget := e.probe == p.delivery, sr.probe == p.delivery
	if ofEndpoint {
		e.probe = nil
	}
	if ofTarget {
		sr.probe = nil
	}
	switch {
	case r.namedURL != nil:
		s.countNamedOutcome(now, p, r, ofEndpoint, ofTarget)
	case r.outcome == delivered:
		s.noteSuccess(now, sr, e)
	case r.outcome == refused:
		s.noteAnswer(now, sr, e)
	case r.outcome == willRetry && !r.localFault:
		if sr.failing.IsZero() && p.sub.URL == sr.sub.URL {
			sr.failing = now
		}
		if r.fault == badStatus {
			s.noteAnswer(now, sr, e)
		} else {
			s.blameEndpoint(now, p, r, ofEndpoint)
		}
		s.blameSubscriber(now, p, r, ofTarget)
	case r.outcome == willRetry: // tells nothing about the receiver
		if ofEndpoint {
			e.nextProbe = now.Add(e.backoff)
		}
		if ofTarget {
			sr.nextProbe = now.Add(sr.backoff)
		}
	} // else nothing was sent: the next attempt is the probe
	if e.open() {
		s.scheduleProbe(e.nextProbe)
	}
	if sr.open() {
		s.scheduleProbe(sr.nextProbe)
	}
	return ofEndpoint || ofTarget
}

// noteAnswer records that endpoint e sent sr a response, whatever its status.
func (s *scheduler) noteAnswer(now time.Time, sr *subscriber, e *endpoint) {
	e.countAttempt(now, false)
	sr.missedAnswer = false
	if e.open() {
		s.closeEndpoint(e)
	}
}

// noteSuccess records that sr received a delivery at e.
func (s *scheduler) noteSuccess(now time.Time, sr *subscriber, e *endpoint) {
	sr.countAttempt(now, false)
	sr.failing = time.Time{}
	s.noteAnswer(now, sr, e)
	if sr.open() {
		s.closeSubscriber(sr)
	}
}

// blameEndpoint counts an attempt without a response in the breaker of its endpoint.
func (s *scheduler) blameEndpoint(now time.Time, p *plannedAttempt, r *attemptResult, probe bool) {
	e, sr := p.endpoint, p.delivery.queue.subscriber
	shared := len(e.subscribers) > 1
	missed := !sr.missedAnswer
	sr.missedAnswer = true
	switch {
	case e.noAnswers && r.fault == noConnection:
		e.noAnswers = false
		for other := range e.subscribers {
			s.holdDue(other)
			s.onHealthChange(other)
		}
	case e.noAnswers && missed && sr.endpoint == e:
		s.holdDue(sr)
		s.onHealthChange(sr)
	}
	switch {
	case r.fault == noConnection || !shared:
		e.noteSuspect(sr)
		e.countAttempt(now, true)
	case !sr.open(): // an open breaker already says that this URL does not respond
		e.noteSuspect(sr)
		e.failures++ // not in the tallies: one URL may make most of the attempts
	}
	switch {
	case probe && e.open():
		e.probeFailed(now, r.detail, r.retryAfter)
	case e.open() || s.endpoints[e.key] != e || !e.mustOpen(now):
	case r.fault == noConnection || !shared || e.severalSuspects && !sr.open():
		e.noAnswers = r.fault == noAnswer
		e.trip(now, r.detail, r.retryAfter)
		s.openEndpoint(e)
	}
}

// noteSuspect records which subscribers of e have failed since its last response, for a
// missing response or a failed connection.
func (e *endpoint) noteSuspect(sr *subscriber) {
	if e.failures == 0 {
		e.suspect, e.severalSuspects = sr, false
	}
	e.severalSuspects = e.severalSuspects || e.suspect != sr
}

// blameSubscriber counts a failed attempt in the breaker of its subscriber, if the URL may
// be at fault.
func (s *scheduler) blameSubscriber(now time.Time, p *plannedAttempt, r *attemptResult, probe bool) {
	sr := p.delivery.queue.subscriber
	if p.sub.URL != sr.sub.URL || sr.gone {
		return
	}
	if r.fault != noConnection {
		sr.countAttempt(now, true)
	}
	switch {
	case probe && sr.open():
		sr.probeFailed(now, r.detail, r.retryAfter)
	case sr.open() || r.fault == noConnection || sr.endpoint.open() || !sr.mustOpen(now):
	default:
		sr.trip(now, r.detail, r.retryAfter)
		s.openSubscriber(sr)
	}
}

// openEndpoint holds the due deliveries of an endpoint whose breaker has opened.
func (s *scheduler) openEndpoint(e *endpoint) {
	s.openEndpoints[e] = true
	s.onBreakerChange(e)
	for sr := range e.subscribers {
		s.holdDue(sr)
		s.onHealthChange(sr)
	}
	s.scheduleProbe(e.nextProbe)
}

// closeEndpoint closes the breaker of e and makes due the deliveries that it held.
func (s *scheduler) closeEndpoint(e *endpoint) {
	e.breaker, e.noAnswers = breaker{}, false
	delete(s.openEndpoints, e)
	s.onBreakerChange(e)
	for sr := range e.subscribers {
		s.onHealthChange(sr)
		s.releaseHeld(sr)
		if sr.open() {
			s.scheduleProbe(sr.nextProbe)
		}
	}
}

// openSubscriber holds the due deliveries of a subscriber whose own breaker has opened.
func (s *scheduler) openSubscriber(sr *subscriber) {
	s.openSubscribers[sr] = true
	s.holdDue(sr)
	s.onHealthChange(sr)
	s.scheduleProbe(sr.nextProbe)
}

// closeSubscriber resets the own breaker of sr and makes due the deliveries that it held.
func (s *scheduler) closeSubscriber(sr *subscriber) {
	was := sr.open()
	sr.breaker = breaker{}
	if was {
		delete(s.openSubscribers, sr)
		s.onHealthChange(sr)
		s.releaseHeld(sr)
	}
}

// restorePause opens a breaker that was open when an earlier process, or another node,
// stopped delivering. Its first probe is due at once.
func (s *scheduler) restorePause(now time.Time, subscription string, st healthState) {
	sr := s.subscribers[subscription]
	if sr == nil {
		return
	}
	b := &sr.breaker
	if st.Breaker == breakerEndpoint {
		b = &sr.endpoint.breaker
	}
	if b.open() {
		return
	}
	*b = breaker{openSince: st.Paused, reason: st.Why, backoff: minProbeInterval, nextProbe: now}
	if st.Breaker != breakerEndpoint {
		s.openSubscriber(sr)
		return
	}
	sr.endpoint.noAnswers = false
	s.openEndpoint(sr.endpoint)
}

// holdDue holds those due deliveries of sr that are blocked.
func (s *scheduler) holdDue(sr *subscriber) {
	for range sr.due.len() {
		if d := sr.due.pop(); d.state == due {
			s.makeDue(d)
		}
	}
}

// releaseHeld makes due the held deliveries of sr that are blocked no longer.
func (s *scheduler) releaseHeld(sr *subscriber) {
	for _, q := range sr.queues {
		if d := q.deliveries[0]; d.state == backingOff && d.held {
			s.endBackoff(d)
			s.makeDue(d)
		}
	}
}

// scheduleProbe has startProbes check the open breakers at the time at, or earlier.
func (s *scheduler) scheduleProbe(at time.Time) {
	if s.nextProbe.IsZero() || at.Before(s.nextProbe) {
		s.nextProbe = at
	}
}

// replaceProbe schedules another probe if d, which has ended, was one.
func (s *scheduler) replaceProbe(d *delivery) {
	sr := d.queue.subscriber
	if e := sr.endpoint; e.probe == d && e.open() {
		s.scheduleProbe(e.nextProbe)
	}
	if sr.probe == d && sr.open() {
		s.scheduleProbe(sr.nextProbe)
	}
}

// startProbes makes a probe due for each open breaker whose time has come.
func (s *scheduler) startProbes(now time.Time) {
	s.nextProbe = time.Time{}
	for e := range s.openEndpoints {
		if s.mayProbe(now, &e.breaker) {
			s.startProbe(&e.breaker, pickProbe(maps.Keys(e.subscribers)))
		}
	}
	for sr := range s.openSubscribers {
		if !sr.blockedByEndpoint() && s.mayProbe(now, &sr.breaker) {
			s.startProbe(&sr.breaker, pickProbe(func(yield func(*subscriber) bool) { yield(sr) }))
		}
	}
}

// mayProbe reports whether b may be probed at now, and else schedules the next check.
func (s *scheduler) mayProbe(now time.Time, b *breaker) bool {
	if b.probing() {
		return false // countOutcome schedules the next probe
	}
	if b.nextProbe.After(now) {
		s.scheduleProbe(b.nextProbe)
		return false
	}
	return true
}

// startProbe makes d the probe of b. If d is nil, backOff schedules the probe once a
// delivery waits.
func (s *scheduler) startProbe(b *breaker, d *delivery) {
	if d == nil {
		return
	}
	b.probe = d
	if sr := d.queue.subscriber; sr.open() {
		sr.probe = d
	}
	s.endBackoff(d)
	s.makeDue(d)
}

// pickProbe picks the delivery to probe with: of a subscriber whose own breaker is closed
// before one of another, a held one before one that backs off, and then the one with the
// fewest attempts. It returns nil if none may be sent.
func pickProbe(subscribers iter.Seq[*subscriber]) (best *delivery) {
	for sr := range subscribers {
		for _, q := range sr.queues {
			d := q.deliveries[0]
			if d.state != backingOff || d.retryAfterSet || d.exempt() {
				continue
			}
			if best == nil || cmp.Or(
				compareBools(sr.open(), best.queue.subscriber.open()),
				compareBools(!d.held, !best.held),
				cmp.Compare(d.attempts, best.attempts)) < 0 {
				best = d
			}
			if d.held && d.attempts == 0 && !sr.open() {
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
