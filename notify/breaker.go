package notify

import (
	"cmp"
	"iter"
	"maps"
	"time"
)

const (
	tripAfter  = 5                // failures in a row that open a circuit breaker
	tripOf     = 20               // or half of at least so many attempts,
	tripWithin = 60 * time.Second // within so long
	firstProbe = time.Second      // from the opening to the first probe; then twice as long each time,
	maxProbe   = 30 * time.Second // but no longer
)

// fault is whose circuit breaker counts a failed attempt.
//
//	noConnection   no connection was made       the endpoint's
//	noAnswer    connected, but no answer     the subscription's and the endpoint's
//	badStatus      an HTTP status but 2xx       the subscription's
//
// A missing answer may be the fault of one URL, such as a script that hangs, or of
// the whole endpoint. At an endpoint with several subscriptions it opens the
// endpoint's breaker only if two of them miss an answer and none gets one, and a
// subscription that misses none is still attempted then.
type fault int

const (
	noConnection fault = iota
	noAnswer
	badStatus
)

// A breaker is a circuit breaker: it opens after failures. Then only a probe is
// made now and then, and the first success closes it. The zero value is closed.
type breaker struct {
	failures int // in a row
	tallies  [6]tally

	paused time.Time // since when it is open; zero: it is closed
	why    string    // the failure that opened it, or the last probe's
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

// trips reports whether what was counted until now opens the breaker.
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

// pause opens the breaker. retryAfter is what the receiver asked for.
func (b *breaker) pause(now time.Time, why string, retryAfter time.Duration) {
	b.paused, b.why, b.wait = now, why, firstProbe
	b.next = now.Add(max(firstProbe, min(retryAfter, maxRetryAfter)))
}

// missed takes a probe that failed, and what its receiver asked for.
func (b *breaker) missed(now time.Time, why string, retryAfter time.Duration) {
	b.wait = min(2*b.wait, maxProbe)
	b.next = now.Add(max(b.wait, min(retryAfter, maxRetryAfter)))
	b.why = why
}

// probing reports whether a probe of b is on its way.
func (b *breaker) probing() bool {
	d := b.probe
	return d != nil && (d.state == ready || d.state == sending)
}

// blocked reports whether a circuit breaker keeps d from being attempted. It does
// not block its probe.
func (d *delivery) blocked() bool {
	t := d.lane.target
	switch {
	case !t.shut() && !t.open(), d.exempt():
		return false
	case t.shut():
		return d != t.endpoint.probe
	case t.open():
		return d != t.probe
	}
	return false
}

// shut reports whether the circuit breaker of its endpoint keeps t from attempts.
func (t *target) shut() bool {
	e := t.endpoint
	return e.open() && (t.unanswered || !e.silent)
}

// openBreaker returns the circuit breaker that pauses t, and what of t it is of: the
// endpoint or the subscription. It is nil if t is not paused.
func (t *target) openBreaker() (b *breaker, of string) {
	switch {
	case t.shut():
		return &t.endpoint.breaker, breakerEndpoint
	case t.open():
		return &t.breaker, breakerSubscription
	}
	return nil, ""
}

// learn counts an attempt in the circuit breakers of its endpoint and its target.
// It reports whether the attempt was a probe.
func (q *lanes) learn(now time.Time, a *attempt) (probe bool) {
	e, t := a.endpoint, a.lane.target
	ofEndpoint, ofTarget := e.probe == a.delivery, t.probe == a.delivery
	if ofEndpoint {
		e.probe = nil
	}
	if ofTarget {
		t.probe = nil
	}
	switch {
	case a.named != nil:
		q.learnNamed(now, a, ofEndpoint, ofTarget)
	case a.outcome == delivered:
		q.succeeded(now, t, e)
	case a.outcome == refused:
		q.answered(now, t, e)
	case a.outcome == waiting && !a.ours:
		if t.failing.IsZero() && a.sub.URL == t.sub.URL {
			t.failing = now
		}
		if a.fault == badStatus {
			q.answered(now, t, e)
		} else {
			q.blameEndpoint(now, a, ofEndpoint)
		}
		q.blameTarget(now, a, ofTarget)
	case a.outcome == waiting: // says nothing of the receiver
		if ofEndpoint {
			e.next = now.Add(e.wait)
		}
		if ofTarget {
			t.next = now.Add(t.wait)
		}
	} // else it was not sent: the next is the probe
	if e.open() {
		q.probeBy(e.next)
	}
	if t.open() {
		q.probeBy(t.next)
	}
	return ofEndpoint || ofTarget
}

// answered notes that the endpoint e gave t an answer, whatever it says.
func (q *lanes) answered(now time.Time, t *target, e *endpoint) {
	e.count(now, false)
	t.unanswered = false
	if e.open() {
		q.closeEndpoint(e)
	}
}

// succeeded notes that t, at e, was delivered something.
func (q *lanes) succeeded(now time.Time, t *target, e *endpoint) {
	t.count(now, false)
	t.failing = time.Time{}
	q.answered(now, t, e)
	if t.open() {
		q.closeTarget(t)
	}
}

// blameEndpoint counts an attempt that got no answer in the breaker of its endpoint.
func (q *lanes) blameEndpoint(now time.Time, a *attempt, probe bool) {
	e, t := a.endpoint, a.lane.target
	shared := len(e.targets) > 1
	missed := !t.unanswered
	t.unanswered = true
	switch {
	case e.silent && a.fault == noConnection:
		e.silent = false
		for other := range e.targets {
			q.holdReady(other)
			q.health(other)
		}
	case e.silent && missed && t.endpoint == e:
		q.holdReady(t)
		q.health(t)
	}
	switch {
	case a.fault == noConnection || !shared:
		e.suspects(t)
		e.count(now, true)
	case !t.open(): // else it is known that this URL does not answer
		e.suspects(t)
		e.failures++ // and no part of the half of twenty: one URL may have most attempts
	}
	switch {
	case probe && e.open():
		e.missed(now, a.detail, a.retryAfter)
	case e.open() || q.endpoints[e.key] != e || !e.trips(now):
	case a.fault == noConnection || !shared || e.several && !t.open():
		e.silent = a.fault == noAnswer
		e.pause(now, a.detail, a.retryAfter)
		q.openEndpoint(e)
	}
}

// suspects notes which targets have missed an answer since the last one came.
func (e *endpoint) suspects(t *target) {
	if e.failures == 0 {
		e.suspect, e.several = t, false
	}
	e.several = e.several || e.suspect != t
}

// blameTarget counts an attempt in the breaker of its target, if that may be at fault.
func (q *lanes) blameTarget(now time.Time, a *attempt, probe bool) {
	t := a.lane.target
	if a.sub.URL != t.sub.URL || t.gone {
		return
	}
	if a.fault != noConnection {
		t.count(now, true)
	}
	switch {
	case probe && t.open():
		t.missed(now, a.detail, a.retryAfter)
	case t.open() || a.fault == noConnection || t.endpoint.open() || !t.trips(now):
	default:
		t.pause(now, a.detail, a.retryAfter)
		q.openTarget(t)
	}
}

// openEndpoint has all rest that waits for an endpoint whose breaker has opened.
func (q *lanes) openEndpoint(e *endpoint) {
	q.paused[e] = true
	q.changed(e)
	for t := range e.targets {
		q.holdReady(t)
		q.health(t)
	}
	q.probeBy(e.next)
}

// closeEndpoint makes due what waited for the breaker of e.
func (q *lanes) closeEndpoint(e *endpoint) {
	e.breaker, e.silent = breaker{}, false
	delete(q.paused, e)
	q.changed(e)
	for t := range e.targets {
		q.health(t)
		q.releaseHeld(t)
		if t.open() {
			q.probeBy(t.next)
		}
	}
}

// openTarget has all rest that waits for a target whose own breaker has opened.
func (q *lanes) openTarget(t *target) {
	q.failing[t] = true
	q.holdReady(t)
	q.health(t)
	q.probeBy(t.next)
}

// closeTarget makes due what waited for the own breaker of t, and forgets what
// that has counted.
func (q *lanes) closeTarget(t *target) {
	was := t.open()
	t.breaker = breaker{}
	if was {
		delete(q.failing, t)
		q.health(t)
		q.releaseHeld(t)
	}
}

// restorePause opens a breaker again that was open when the process before this one,
// or another node, stopped delivering. The first probe comes at once.
func (q *lanes) restorePause(now time.Time, subscription string, st standing) {
	t := q.targets[subscription]
	if t == nil {
		return
	}
	b := &t.breaker
	if st.Breaker == breakerEndpoint {
		b = &t.endpoint.breaker
	}
	if b.open() {
		return
	}
	*b = breaker{paused: st.Paused, why: st.Why, wait: firstProbe, next: now}
	if st.Breaker != breakerEndpoint {
		q.openTarget(t)
		return
	}
	t.endpoint.silent = false
	q.openEndpoint(t.endpoint)
}

// holdReady has all rest that waits for a slot and is blocked.
func (q *lanes) holdReady(t *target) {
	for range t.ready.len() {
		if d := t.ready.pop(); d.state == ready {
			q.makeReady(d)
		}
	}
}

// releaseHeld makes ready what t waits to be sent and is blocked no longer.
func (q *lanes) releaseHeld(t *target) {
	for _, l := range t.lanes {
		if d := l.queue[0]; d.state == resting && d.held {
			q.unrest(d)
			q.makeReady(d)
		}
	}
}

// probeBy has the open breakers looked at by then.
func (q *lanes) probeBy(at time.Time) {
	if q.probeAt.IsZero() || at.Before(q.probeAt) {
		q.probeAt = at
	}
}

// probeAfter has the next probe made if d, which is over, was one.
func (q *lanes) probeAfter(d *delivery) {
	t := d.lane.target
	if e := t.endpoint; e.probe == d && e.open() {
		q.probeBy(e.next)
	}
	if t.probe == d && t.open() {
		q.probeBy(t.next)
	}
}

// probe picks what is next attempted past each open breaker whose time has come.
func (q *lanes) probe(now time.Time) {
	q.probeAt = time.Time{}
	for e := range q.paused {
		if q.mayProbe(now, &e.breaker) {
			q.startProbe(&e.breaker, pickProbe(maps.Keys(e.targets)))
		}
	}
	for t := range q.failing {
		if !t.shut() && q.mayProbe(now, &t.breaker) {
			q.startProbe(&t.breaker, pickProbe(func(yield func(*target) bool) { yield(t) }))
		}
	}
}

// mayProbe reports whether it is time for a probe of b.
func (q *lanes) mayProbe(now time.Time, b *breaker) bool {
	if b.probing() {
		return false // learn asks for the next
	}
	if b.next.After(now) {
		q.probeBy(b.next)
		return false
	}
	return true
}

// startProbe makes d, if there is one, the probe of b. Without one, rest asks again.
func (q *lanes) startProbe(b *breaker, d *delivery) {
	if d == nil {
		return
	}
	b.probe = d
	if t := d.lane.target; t.open() {
		t.probe = d
	}
	q.unrest(d)
	q.makeReady(d)
}

// pickProbe picks what is next attempted for some targets: what is due rather than
// what backs off, and of that what was attempted least. It is nil if nothing may be.
func pickProbe(targets iter.Seq[*target]) (best *delivery) {
	for t := range targets {
		for _, l := range t.lanes {
			d := l.queue[0]
			if d.state != resting || d.patient || d.exempt() {
				continue
			}
			if best == nil || cmp.Or(
				compareBools(t.open(), best.lane.target.open()),
				compareBools(!d.held, !best.held),
				cmp.Compare(d.tries, best.tries)) < 0 {
				best = d
			}
			if d.held && d.tries == 0 && !t.open() {
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
