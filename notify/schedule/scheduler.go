// Package schedule decides which delivery of an event is attempted next, and when.
//
// A [Scheduler] holds the pending deliveries of all subscriptions. It does no I/O, starts
// no goroutine and never reads the clock. The caller passes it the time and reports what
// has happened. [Scheduler.Run] adds events and hands out the attempts to make
// ([Hooks].Start). Other methods return what else the caller must do: the next page of the
// event log to read ([Scheduler.NextPage]), the writes to the outbox
// ([Scheduler.Updates]), and when to call Run again ([Scheduler.NextWake]).
//
// # Order
//
// The deliveries of one subscription and one call form a queue. Only the first delivery
// of a queue is attempted. Replayed events have queues of their own, and are attempted
// when no other delivery of their subscription is due. Endpoints take turns, and so do
// the subscriptions of each endpoint.
//
// # Circuit breakers
//
// Endpoints and subscriptions have circuit breakers. While a breaker is open, only its
// probes are attempted. [Fault] describes which failures each breaker counts.
//
// # What survives a crash
//
// A delivery that fails or takes longer than a second is written to the outbox. The
// outbox also has the cursor. Every event up to the cursor is settled: each of its
// deliveries has ended or is in the outbox. After a crash, the log is read again from the
// event after the cursor. A subscription with too many pending deliveries lags: its
// further events are read from the log when it has room for them.
package schedule

import (
	"container/heap"
	"iter"
	"slices"
	"time"

	"bellhop/dialog"
	"bellhop/notify/subscription"
)

// A Scheduler decides which delivery is attempted next, and when. It is not safe for
// concurrent use.
type Scheduler struct {
	subscribers map[string]*subscriber // by subscription id
	extensions  extensionIndex
	endpoints   map[string]*endpoint // by key

	dispatch dispatch
	breakers breakers
	outbox   outbox

	pending  int    // deliveries that have not ended
	lastRead uint64 // position of the last event added

	catchUp    catchUp
	maxPending int // pending deliveries of one subscriber at which it lags

	hooks Hooks
}

// New returns an empty scheduler. A subscription with maxPending pending deliveries lags.
func New(maxPending int, h Hooks) *Scheduler {
	s := &Scheduler{
		subscribers: make(map[string]*subscriber), extensions: newExtensionIndex(), endpoints: make(map[string]*endpoint),
		outbox:     outbox{restored: make(map[deliveryKey]bool)},
		maxPending: maxPending, hooks: h,
	}
	s.dispatch.outbox, s.catchUp.Scheduler = &s.outbox, s
	s.breakers = breakers{
		dispatch: &s.dispatch, hooks: &s.hooks,
		endpoints: make(map[*endpoint]bool), subscribers: make(map[*subscriber]bool),
	}
	return s
}

// Pending returns how many deliveries have not ended.
func (s *Scheduler) Pending() int { return s.pending }

// Lagging returns how many subscriptions lag.
func (s *Scheduler) Lagging() int { return s.catchUp.lagging }

// Cursor returns the position up to which every event is settled: each of its deliveries
// has ended or is in the outbox.
func (s *Scheduler) Cursor() uint64 { return s.outbox.cursor }

// LastRead returns the position of the last event added. Before the first it returns the
// cursor that was passed to Start.
func (s *Scheduler) LastRead() uint64 { return s.lastRead }

// Full reports whether no event can be added for now, because maxRecentEvents were added
// since the oldest one that is not settled.
func (s *Scheduler) Full() bool { return s.outbox.recent.len() >= maxRecentEvents }

// Run adds the next events of the log, each with its position, and does all that is due
// at now. Then it starts the attempts that are due, at most free of them. events is nil if
// there are none.
func (s *Scheduler) Run(now time.Time, events iter.Seq2[uint64, *dialog.Event], free int) {
	if events != nil {
		for seq, e := range events {
			s.addEvent(now, seq, e)
		}
	}
	s.runDue(now)
	for ; free > 0; free-- {
		a, ok := s.nextAttempt(now)
		if !ok {
			return
		}
		s.hooks.Start(a)
	}
}

// addEvent enqueues a delivery of e, the next event of the log, to each subscription that
// matches it. An event that was added before is ignored. If addEvent panics, only this
// event is lost.
func (s *Scheduler) addEvent(now time.Time, seq uint64, e *dialog.Event) {
	defer s.hooks.RecoverPanic("queue event")
	if seq <= s.lastRead {
		return
	}
	s.lastRead = seq
	c := &checkpoint{seq: seq, readAt: now}
	bit, k := subscription.EventMask(e), queueKey{order: e.OrderKey()}
	for _, sr := range s.extensions.match(e.Extension) {
		if sr.filter.Types&bit == 0 || sr.lag != nil || s.outbox.takeRestored(seq, sr) {
			continue
		}
		if sr.pending >= s.roomFor(sr) {
			s.catchUp.startLagging(sr, c)
			continue
		}
		d := newDelivery(seq, e, c)
		c.deliveries = append(c.deliveries, d)
		c.unsettled++
		s.enqueueDelivery(sr.queueOf(k), d)
	}
	s.outbox.addEvent(c)
}

// enqueueDelivery appends d to q.
func (s *Scheduler) enqueueDelivery(q *queue, d *delivery) {
	s.pending++
	q.subscriber.pending++
	d.queue = q
	q.subscriber.linkNewCall(d)
	q.deliveries = append(q.deliveries, d)
	if len(q.deliveries) == 1 {
		s.scheduleFirst(d)
	} else if q.deliveries[0].state == backingOff && !d.entry.stored {
		s.outbox.saveDelivery(d)
	}
}

// scheduleFirst makes d, the first delivery of its queue, due. If d was attempted before,
// it backs off until its next attempt instead. If d is not owed (see notOwedReason), it
// expires.
func (s *Scheduler) scheduleFirst(d *delivery) {
	switch why := d.queue.subscriber.notOwedReason(d); {
	case why != "":
		d.reason = why
		s.endDelivery(d, Expired)
	case d.backoff.until.IsZero():
		s.dispatch.makeDue(d)
	default:
		s.dispatch.backOff(d, bySchedule)
	}
}

// dispatch holds the deliveries that are due and those that back off.
//
// Endpoints take turns, and so do the subscribers of each endpoint. In each turn one
// attempt is started. An endpoint without a free slot is not in dueEndpoints, so that an
// endpoint that does not respond does not delay the others.
type dispatch struct {
	dueEndpoints fifo[*endpoint] // with a due delivery and a free slot
	backoffs     backoffHeap
	nextProbe    time.Time // when to look for open breakers to probe; zero: not scheduled
	outbox       *outbox
}

// makeDue makes d due. If a circuit breaker blocks d, d backs off until the breaker
// closes instead, and the deliveries of its queue are written to the outbox.
func (p *dispatch) makeDue(d *delivery) {
	if d.blocked() {
		p.backOff(d, byBreaker)
		p.outbox.saveQueue(d.queue)
		return
	}
	d.state, d.backoff.reason = due, noBackoff
	d.queue.subscriber.pushDue(d)
	p.enqueueSubscriber(d.queue.subscriber)
}

// pushDue adds d, the first of its queue, to the due deliveries.
func (sr *subscriber) pushDue(d *delivery) {
	if d.queue.replays {
		sr.dueReplays.push(d)
	} else {
		sr.due.push(d)
	}
}

// enqueueSubscriber adds sr to the due subscribers of its endpoint if it can make an
// attempt. It also adds the endpoint to the due endpoints if it can.
func (p *dispatch) enqueueSubscriber(sr *subscriber) {
	e := sr.endpoint
	if !sr.enqueued && !sr.gone && sr.hasDue() && sr.inFlight < sr.maxAttempts() {
		sr.enqueued = true
		e.dueSubscribers.push(sr)
	}
	p.enqueueEndpoint(e)
}

// enqueueEndpoint adds e to the due endpoints if it has a due subscriber and a free slot.
func (p *dispatch) enqueueEndpoint(e *endpoint) {
	if !e.enqueued && e.dueSubscribers.len() > 0 && e.inFlight < maxEndpointAttempts {
		e.enqueued = true
		p.dueEndpoints.push(e)
	}
}

// nextAttempt returns the attempt to make now; ok is false if there is none.
func (s *Scheduler) nextAttempt(now time.Time) (a Attempt, ok bool) {
	for s.dispatch.dueEndpoints.len() > 0 {
		e := s.dispatch.dueEndpoints.pop()
		e.enqueued = false
		if e.inFlight < maxEndpointAttempts && e.dueSubscribers.len() > 0 {
			a, ok = s.startAttempt(now, e, e.dueSubscribers.pop())
		}
		s.dispatch.enqueueEndpoint(e)
		if ok {
			return a, true
		}
	}
	return a, false
}

// startAttempt removes the first due delivery of sr and returns an attempt at it. ok is
// false if no delivery is due, if that delivery has ended or expires now, or if sr has
// moved to another endpoint.
func (s *Scheduler) startAttempt(now time.Time, e *endpoint, sr *subscriber) (a Attempt, ok bool) {
	if sr.endpoint != e {
		return a, false // it has moved to another endpoint and is enqueued there
	}
	sr.enqueued = false
	defer s.dispatch.enqueueSubscriber(sr)
	if !sr.hasDue() {
		return a, false
	}
	d := sr.popDue()
	switch {
	case d.state != due:
		return a, false // it has ended since it became due
	case d.expired(now):
		s.endDelivery(d, Expired)
		return a, false
	}
	d.state = inFlight
	d.attempts++
	sr.inFlight++
	e.inFlight++
	dep := &d.dependency
	a = Attempt{
		Seq: d.seq, EventID: d.id, Type: d.kind, At: d.at, Observed: d.observed, Event: d.event,
		Sub: sr.sub, URL: sr.url, Live: d.live(), Number: d.attempts, Replay: d.queue.replays,
		Party: dep.party, NewCallUnknown: dep.unknown, PartyNewCall: sr.newCalls[dep.party], MayPostpone: !dep.postponed,
		delivery: d, endpoint: e,
	}
	if sr.sub.GroupsCalls() {
		a.GroupNewCall = sr.newCalls[groupKey(d.queue)]
	}
	return a, true
}

// popDue removes and returns the delivery to attempt next; there must be one.
func (sr *subscriber) popDue() *delivery {
	if sr.due.len() > 0 {
		return sr.due.pop()
	}
	return sr.dueReplays.pop()
}

// hasDue reports whether a delivery of sr is due.
func (sr *subscriber) hasDue() bool { return sr.due.len()+sr.dueReplays.len() > 0 }

// FinishAttempt applies the result of an attempt, and returns what becomes of its
// delivery.
func (s *Scheduler) FinishAttempt(now time.Time, a *Attempt, r *Result) Verdict {
	d, sr, e := a.delivery, a.delivery.queue.subscriber, a.endpoint
	if d.id == "" {
		d.id = r.FoundID
	}
	sr.inFlight--
	e.inFlight--
	probe := s.breakers.countOutcome(now, a, r)
	sr.noteURLs(d, r)
	switch {
	case r.Outcome == WillRetry && d.redelivered:
		s.endDelivery(d, Delivered)
	case r.Outcome == WillRetry && sr.gone:
		s.endDelivery(d, Canceled)
	case r.Outcome == WillRetry && !r.NotBefore.IsZero():
		s.postponeDelivery(now, d, r.NotBefore)
	case r.Outcome == WillRetry:
		s.scheduleRetry(now, d, r.RetryAfter, probe)
	default:
		s.endDelivery(d, r.Outcome)
		if r.Outcome == Refused && a.Sub == sr.sub && r.NamedURL == nil && !sr.gone {
			s.cancelSubscriber(sr)
		}
	}
	s.dispatch.enqueueSubscriber(sr)
	s.dispatch.enqueueEndpoint(e)
	return d.verdict()
}

// ApplyRedelivery applies a redelivery that succeeded outside the scheduler. If the
// delivery is pending, it ends as delivered; if an attempt at it is in flight, it ends
// with that attempt. The redelivery counts as a success of the subscription and of its
// endpoint, unless it went to a URL that the receiver had named in a response to a
// newCall.
func (s *Scheduler) ApplyRedelivery(now time.Time, r Redelivery) {
	sr := s.subscribers[r.Subscription]
	if sr == nil {
		return
	}
	if q := sr.queues[queueKey{order: r.Queue}]; q != nil {
		if i := slices.IndexFunc(q.deliveries, func(d *delivery) bool { return d.seq == r.Seq }); i >= 0 {
			d := q.deliveries[i]
			d.redelivered, d.dependency.urls = true, r.URLs
			switch d.state {
			case queued, due, backingOff:
				s.endDelivery(d, Delivered)
			case inFlight, ended:
			}
		}
	}
	sr.noteNewCallDelivered(r.Seq, r.URLs)
	if !r.Named {
		s.breakers.noteSuccess(now, sr, sr.endpoint)
	}
	s.dispatch.enqueueSubscriber(sr)
}

// postponeDelivery postpones the attempt at d to the time until, because other events of
// its call may follow before then. The attempt that was postponed does not count. A
// delivery is postponed only once.
func (s *Scheduler) postponeDelivery(now time.Time, d *delivery, until time.Time) {
	d.attempts--
	d.dependency.postponed = true
	d.backoff.until, d.backoff.wait = until, until.Sub(now)
	s.dispatch.backOff(d, byGroup)
}

// scheduleRetry schedules the next attempt at d after one that failed. If the retry
// schedule of d is over, or d has expired, d ends instead. A failed probe does not count
// in the retry schedule if d was not due yet, or if a breaker still blocks d.
func (s *Scheduler) scheduleRetry(now time.Time, d *delivery, retryAfter time.Duration, probe bool) {
	b := &d.backoff
	switch {
	case probe && b.until.After(now):
	case probe && d.blocked():
		b.until = now
	default:
		n := d.failures
		d.failures++
		switch {
		case d.live():
			b.until = now.Add(liveSchedule[min(n, len(liveSchedule)-1)])
		case n == len(durableSchedule):
			s.endDelivery(d, Expired)
			return
		default:
			b.until = now.Add(jitter(durableSchedule[n]))
		}
	}
	reason := bySchedule
	if retryAfter > 0 {
		reason = byRetryAfter
	}
	if earliest := now.Add(min(retryAfter, maxRetryAfter)); earliest.After(b.until) {
		b.until = earliest
	}
	b.wait = b.until.Sub(now)
	if d.expired(now) {
		s.endDelivery(d, Expired)
		return
	}
	if b.until.After(now) {
		s.dispatch.backOff(d, reason)
	} else {
		s.dispatch.makeDue(d) // makeDue holds d if a breaker blocks it
	}
	s.outbox.saveDelivery(d)
	s.outbox.saveQueue(d.queue)
}

// backOff makes d wait until it is due, expires, or is picked as a probe. The success of
// another delivery makes d due earlier only if the reason is byBreaker and the breaker
// closes.
func (p *dispatch) backOff(d *delivery, reason backoffReason) {
	sr := d.queue.subscriber
	d.state, d.backoff.reason = backingOff, reason
	heap.Push(&p.backoffs, d.queue)
	switch {
	case sr.endpoint.open():
		p.scheduleProbe(sr.endpoint.nextProbe)
	case sr.open():
		p.scheduleProbe(sr.nextProbe)
	}
}

// endBackoff removes d from the deliveries that back off.
func (p *dispatch) endBackoff(d *delivery) { heap.Remove(&p.backoffs, d.queue.heapIndex) }

// firstBackoff returns the delivery whose backoff ends first, or nil.
func (p *dispatch) firstBackoff() *delivery {
	if len(p.backoffs) == 0 {
		return nil
	}
	return p.backoffs[0].deliveries[0]
}

// endDelivery ends d with outcome o and removes it from its queue. If d was the first of
// its queue, the next delivery is scheduled.
func (s *Scheduler) endDelivery(d *delivery, o Outcome) {
	s.hooks.Ended(d.end(o))
	q := d.queue
	switch d.state {
	case backingOff:
		s.dispatch.endBackoff(d)
	case queued, due, inFlight, ended:
	}
	d.state, d.outcome = ended, o
	q.subscriber.noteEnd(d, o)
	s.breakers.replaceProbe(d)
	s.pending--
	q.subscriber.pending--
	s.settleDelivery(d)
	if d.entry.stored || d.entry.beingWritten() {
		s.outbox.saveDelivery(d)
	}
	first := q.remove(d)
	switch {
	case len(q.deliveries) == 0:
		delete(q.subscriber.queues, q.queueKey)
	case first && !q.subscriber.gone:
		s.scheduleFirst(q.deliveries[0])
	}
	for _, r := range q.subscriber.reads {
		s.catchUp.enqueueRead(r)
	}
}

// runDue does all that is due at now, except attempts: it ends expired deliveries, makes
// retries and probes due, and enqueues the deliveries of old events to be written to the
// outbox.
func (s *Scheduler) runDue(now time.Time) {
	for d := s.dispatch.firstBackoff(); d != nil && !d.backoffEnd().After(now); d = s.dispatch.firstBackoff() {
		if d.expired(now) {
			s.endDelivery(d, Expired)
			continue
		}
		s.dispatch.endBackoff(d)
		s.dispatch.makeDue(d)
	}
	if probe := s.dispatch.nextProbe; !probe.IsZero() && !now.Before(probe) {
		s.breakers.startProbes(now)
	}
	s.outbox.saveOld(now)
}

// NextWake returns when Run or Updates will next have something to do, provided that
// both have done all that is due at now. ok is false if nothing is scheduled.
func (s *Scheduler) NextWake(now time.Time) (at time.Time, ok bool) {
	earlier := func(t time.Time) {
		if !ok || t.Before(at) {
			at, ok = t, true
		}
	}
	if d := s.dispatch.firstBackoff(); d != nil {
		earlier(d.backoffEnd())
	}
	if !s.dispatch.nextProbe.IsZero() {
		earlier(s.dispatch.nextProbe)
	}
	s.outbox.nextWake(now, earlier)
	return at, ok
}

// SaveCursor makes the next Updates write the cursor if it has moved, even if the last
// write was less than cursorSaveInterval ago.
func (s *Scheduler) SaveCursor() { s.outbox.saveCursorAt = time.Time{} }
