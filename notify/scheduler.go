package notify

import (
	"container/heap"
	"math/rand/v2"
	"net/url"
	"slices"
	"strings"
	"time"

	"bellhop/dialog"
	"bellhop/notify/eventlog"
	"bellhop/notify/stream"
	"bellhop/notify/subscription"
)

// retrySchedules are the waits before the 2nd, 3rd … attempt of a delivery, by retention.
// A wait counts from the end of the attempt before it. The last live wait repeats until the
// event expires; the last durable wait is followed by one final attempt.
var retrySchedules = [...][]time.Duration{
	live: {2 * time.Second, 4 * time.Second, 8 * time.Second, 16 * time.Second, 16 * time.Second},
	durable: {5 * time.Second, 30 * time.Second, 2 * time.Minute, 10 * time.Minute, 30 * time.Minute,
		2 * time.Hour, 5 * time.Hour, 10 * time.Hour, 14 * time.Hour, 20 * time.Hour, 24 * time.Hour},
}

const (
	liveTTL             = 60 * time.Second       // age at which a live event expires
	maxInFlight         = 4                      // attempts at once, per subscription
	maxEndpointAttempts = 64                     // attempts at once, per endpoint
	outboxDelay         = time.Second            // a delivery that takes longer is written to the outbox, failed or not
	cursorSaveInterval  = 100 * time.Millisecond // between two writes of the cursor
	maxRecentEvents     = 16_384                 // events whose deliveries are not in the outbox
	maxPending          = 100_000                // deliveries of one subscription; ten times as many of all, see roomFor
	maxRetryAfter       = 24 * time.Hour         // the longest Retry-After that is honored
	disableAfter        = 5 * 24 * time.Hour     // of failures without a success: the subscription is disabled
	maxCachedMatches    = 100_000                // extensions whose subscribers are cached
)

// outcome is the result of a delivery.
type outcome int

const (
	willRetry outcome = iota // there will be another attempt
	delivered                // the receiver answered 2xx
	expired                  // too old, or the retry schedule is over
	refused                  // the receiver answered 410
	canceled                 // the subscription is deleted or disabled, or another event of its group was sent instead
	outcomes
)

// String returns the word of the delivery log. The words are stored: never change one.
func (o outcome) String() string {
	return [...]string{"waiting", "delivered", "expired", "refused", "canceled"}[o]
}

// A delivery is one event owed to one subscription.
//
//	queued ──first in queue──▶ due ──slot──▶ inFlight ──2xx, 410──▶ ended
//	                            ▲               │
//	                            └─ backingOff ◀─┘ failed
//
// Any state but inFlight also ends when the event expires or the subscription goes. While
// the circuit breaker of the endpoint or of the subscription is open, only its probe is
// due; every other delivery stays backingOff, held.
type delivery struct {
	queue  *deliveryQueue
	seq    uint64 // position of the event in the log
	id     string // of the event; "": the outbox did not have it
	kind   dialog.Type
	at     time.Time     // time of the event by the wall clock
	event  *dialog.Event // nil: to be read from the log
	recent *recentEvent  // the log event or page that this delivery belongs to; nil: it has ended, or is in the outbox

	observed time.Time // at on the monotonic clock, by which the event expires; zero: use at

	replay        bool // part of a replay
	state         state
	scheduleStep  int           // failed attempts that count in the retry schedule
	attempts      int           // all attempts begun
	outcome       outcome       // set when it has ended
	redelivered   bool          // delivered by Redeliver
	dueAt         time.Time     // of the next attempt
	backoff       time.Duration // from the last attempt until dueAt
	retryAfterSet bool          // the receiver sent Retry-After: no probe before dueAt
	held          bool          // is due, but a circuit breaker is open

	inGroup   bool // its party may belong to a group: see joinGroup
	postponed bool // has waited for other events of its call; does so only once

	party          string    // the party whose newCall this is, or depends on; "": the dialect has no newCall
	newCallUnknown bool      // this process has not seen the newCall
	urls           *callURLs // of a newCall: the URLs that its response named; nil: none
	reason         string    // why it ended; "": the last attempt or the outcome tells

	unsaved, saving, saved bool // the outbox must be updated; is being updated; has it
}

// newDelivery returns a delivery of event e at position seq, which belongs to recent.
func newDelivery(seq uint64, e *dialog.Event, recent *recentEvent) *delivery {
	return &delivery{seq: seq, id: e.ID, kind: e.Type, at: e.At, observed: e.Observed, event: e, recent: recent}
}

// state is the state of a delivery; see its diagram.
type state uint8

const (
	queued     state = iota // other deliveries are before it in its queue
	due                     // waits for a slot
	inFlight                // an attempt is being made
	backingOff              // waits for its next attempt
	ended                   // see outcome
)

// A recentEvent is an event that was read about a second ago or less; its deliveries are
// not in the outbox yet. It also stands for a page of the log that is read again.
type recentEvent struct {
	seq        uint64
	readAt     time.Time
	deliveries []*delivery
	unsettled  int      // how many deliveries have neither ended nor reached the outbox
	logRead    *logRead // of a page, up to seq; nil: it is an event
}

// A deliveryQueue holds the deliveries of one subscription and one call, in order. Only the
// first is attempted.
type deliveryQueue struct {
	subscriber *subscriber
	name       string
	deliveries []*delivery
	heapIndex  int // in backoffHeap; -1: not in it
}

// A subscriber is an active subscription with its delivery queues and its circuit breaker.
type subscriber struct {
	sub      *Subscription // never changed, only replaced
	url      *url.URL
	filter   subscription.Filter
	gone     bool // deleted or disabled
	endpoint *endpoint
	queues   map[string]*deliveryQueue
	pending  int             // deliveries that have not ended
	due      fifo[*delivery] // first deliveries of their queues
	inFlight int             // attempts
	enqueued bool            // in dueSubscribers of its endpoint
	failing  time.Time       // since when all attempts fail; zero: the last one succeeded
	breaker                  // of the statuses of its own URL, and of missing responses

	missedAnswer bool       // its last attempt got no response
	logReads     []*logRead // ranges of the log that are read again for it
	lag          *logRead   // the one that catches up; nil: it does not lag

	newCalls map[string]newCall // by party, of a dialect with newCall
}

// maxAttempts returns how many attempts of sr may be in flight. One of several subscribers
// of an endpoint takes at most half of the slots of the endpoint: a slow URL leaves room
// for the others.
func (sr *subscriber) maxAttempts() int {
	limit := sr.sub.MaxInFlight
	if limit == 0 {
		limit = maxInFlight
	}
	if len(sr.endpoint.subscribers) > 1 {
		return min(limit, maxEndpointAttempts/2)
	}
	return limit
}

// An endpoint is a scheme, host and port: a server that is up or down as a whole.
type endpoint struct {
	key            string
	subscribers    map[*subscriber]bool
	dueSubscribers fifo[*subscriber] // take turns
	inFlight       int               // attempts
	enqueued       bool              // in dueEndpoints

	breaker                     // of failed connections, and of missing responses
	suspect         *subscriber // had the first failure since the last response
	severalSuspects bool        // another subscriber has failed since then too
	noAnswers       bool        // the breaker opened for a missing response, not for a failed connection
}

// scheduler decides which delivery is attempted next, and when. It does no I/O and never
// reads the clock. One goroutine owns it.
//
// Endpoints take turns, and at each endpoint its subscribers do: each turn makes one
// attempt. An endpoint without a free slot is not in the queue, so one that does not answer
// delays no other.
type scheduler struct {
	subscribers map[string]*subscriber // by subscription id
	endpoints   map[string]*endpoint
	byUser      map[string][]*subscriber           // those that name one extension, by its user
	byRegex     []*subscriber                      // those that name a regular expression
	matchCache  map[dialog.Extension][]*subscriber // cleared whenever a subscription changes

	dueEndpoints    fifo[*endpoint]      // with a due delivery and a free slot
	openEndpoints   map[*endpoint]bool   // with an open circuit breaker
	openSubscribers map[*subscriber]bool // with an open circuit breaker of their own
	nextProbe       time.Time            // when the first open breaker may be probed; zero: none is open
	backoffs        backoffHeap
	pending         int // deliveries that have not ended

	recent   fifo[*recentEvent]   // in the order of the log
	moving   int                  // how many of recent, from the front, are being written to the outbox
	inOutbox map[deliveryKey]bool // restored deliveries that will be met again when the log is read
	unsaved  fifo[*delivery]      // deliveries whose outbox entry must be updated

	maxPending      int            // deliveries of one subscriber
	lagging         int            // subscribers that lag
	dueLogReads     fifo[*logRead] // whose next page is to be read
	unsavedLogReads fifo[*logRead] // whose outbox entry must be updated

	lastRead     uint64    // position of the last event added
	cursor       uint64    // every event up to here is settled or in the outbox
	savedCursor  uint64    // the cursor in the outbox
	saveCursorAt time.Time // when the cursor may be written next

	onEnd           func(*delivery, outcome) // called just before a delivery ends
	onBreakerChange func(*endpoint)          // called when the circuit breaker of an endpoint opens or closes
	onHealthChange  func(*subscriber)        // called when a subscriber is paused, is paused by another breaker, or is resumed
	onLagChange     func(*subscriber)        // called when a subscriber begins to lag, and when it has caught up
}

// deliveryKey identifies a delivery.
type deliveryKey struct {
	seq uint64
	sub string
}

// newScheduler returns an empty scheduler that calls ended for each delivery that ends.
func newScheduler(ended func(*delivery, outcome)) *scheduler {
	return &scheduler{
		subscribers:     make(map[string]*subscriber),
		endpoints:       make(map[string]*endpoint),
		byUser:          make(map[string][]*subscriber),
		matchCache:      make(map[dialog.Extension][]*subscriber),
		inOutbox:        make(map[deliveryKey]bool),
		openEndpoints:   make(map[*endpoint]bool),
		openSubscribers: make(map[*subscriber]bool),
		maxPending:      maxPending,
		onEnd:           ended,
		onBreakerChange: func(*endpoint) {},
		onHealthChange:  func(*subscriber) {},
		onLagChange:     func(*subscriber) {},
	}
}

// applySubscription applies the current form of a subscription; one that is not active is
// removed. failing is since when a new one has failed, as an earlier process stored it.
func (s *scheduler) applySubscription(sub Subscription, failing time.Time) {
	clear(s.matchCache)
	sr := s.subscribers[sub.ID]
	if sr != nil {
		s.unindexSubscriber(sr)
		if sub.LiveTTL != sr.sub.LiveTTL {
			defer heap.Init(&s.backoffs)
		}
		if sub.URL != sr.sub.URL {
			sr.failing = time.Time{}
		}
		if !sub.AskedSince().Equal(sr.sub.AskedSince()) {
			sr.clearURLs()
		}
	}
	edited := sr != nil && (sub.URL != sr.sub.URL || sub.Revision != sr.sub.Revision)
	if !sub.Active && sr != nil {
		s.cancelSubscriber(sr)
	}
	if !sub.Active {
		return
	}
	if sr == nil {
		sr = &subscriber{queues: make(map[string]*deliveryQueue), failing: failing}
		s.subscribers[sub.ID] = sr
	}
	sr.sub, sr.filter = &sub, sub.Filter()
	sr.url = sub.BaseURL()
	if sub.ExtensionRegex != "" {
		s.byRegex = append(s.byRegex, sr)
	} else {
		user, _, _ := strings.Cut(sub.Extension, "@")
		s.byUser[user] = append(s.byUser[user], sr)
	}
	s.attachEndpoint(sr)
	if edited { // earlier failures do not concern the new form
		s.closeSubscriber(sr)
	}
	s.enqueueSubscriber(sr)
}

// unindexSubscriber removes sr from the indexes by extension.
func (s *scheduler) unindexSubscriber(sr *subscriber) {
	is := func(other *subscriber) bool { return other == sr }
	user, _, _ := strings.Cut(sr.sub.Extension, "@")
	s.byRegex = slices.DeleteFunc(s.byRegex, is)
	if s.byUser[user] = slices.DeleteFunc(s.byUser[user], is); len(s.byUser[user]) == 0 {
		delete(s.byUser, user)
	}
}

// attachEndpoint moves sr to the endpoint of its URL.
func (s *scheduler) attachEndpoint(sr *subscriber) {
	key := endpointKey(sr.url)
	old, e := sr.endpoint, s.endpoints[key]
	if old != nil && old == e {
		return
	}
	if e == nil {
		e = &endpoint{key: key, subscribers: make(map[*subscriber]bool)}
		s.endpoints[key] = e
	}
	e.subscribers[sr] = true
	sr.endpoint, sr.enqueued = e, false
	if old == nil {
		return
	}
	s.releaseHeld(sr)
	s.holdDue(sr)
	if old.open() {
		s.scheduleProbe(old.nextProbe) // its probe may have been a delivery of sr
	}
	s.leaveEndpoint(sr, old)
	if old.open() || e.open() {
		s.onHealthChange(sr)
	}
}

// endpointKey returns scheme, host and port of a URL; a default port is left out.
func endpointKey(u *url.URL) string {
	host := strings.ToLower(u.Host)
	if port := u.Port(); port == map[string]string{"http": "80", "https": "443"}[u.Scheme] {
		host = strings.TrimSuffix(host, ":"+port)
	}
	return u.Scheme + "://" + host
}

// leaveEndpoint removes sr from an endpoint, and the endpoint with its last subscriber.
func (s *scheduler) leaveEndpoint(sr *subscriber, e *endpoint) {
	delete(e.subscribers, sr)
	if len(e.subscribers) == 0 && s.endpoints[e.key] == e {
		delete(s.endpoints, e.key)
		delete(s.openEndpoints, e)
	}
}

// cancelSubscriber cancels all deliveries of sr. An attempt in flight is finished, and its
// result counts.
func (s *scheduler) cancelSubscriber(sr *subscriber) {
	sr.gone = true
	s.unindexSubscriber(sr)
	clear(s.matchCache)
	delete(s.subscribers, sr.sub.ID)
	delete(s.openSubscribers, sr)
	for _, r := range slices.Clone(sr.logReads) {
		s.endLogRead(r)
	}
	for _, q := range sr.queues {
		for _, d := range slices.Clone(q.deliveries) {
			if d.state != inFlight {
				s.endDelivery(d, canceled)
			}
		}
	}
	s.leaveEndpoint(sr, sr.endpoint)
}

// matchSubscribers returns the subscribers whose subscription covers an extension.
func (s *scheduler) matchSubscribers(e dialog.Extension) []*subscriber {
	matched, ok := s.matchCache[e]
	if ok {
		return matched
	}
	for _, sr := range slices.Concat(s.byUser[e.User], s.byRegex) {
		if sr.filter.Covers(e) {
			matched = append(matched, sr)
		}
	}
	if len(s.matchCache) >= maxCachedMatches {
		clear(s.matchCache)
	}
	s.matchCache[e] = matched
	return matched
}

// full reports whether no event can be added for now.
func (s *scheduler) full() bool { return s.recent.len() >= maxRecentEvents }

// addEvent queues the next event of the log for its subscribers.
func (s *scheduler) addEvent(now time.Time, seq uint64, e *dialog.Event) {
	if seq <= s.lastRead {
		return
	}
	s.lastRead = seq
	recent := &recentEvent{seq: seq, readAt: now}
	bit, name := subscription.EventMask(e), eventlog.QueueName(e)
	for _, sr := range s.matchSubscribers(e.Extension) {
		if sr.filter.Types&bit == 0 || sr.lag != nil {
			continue
		}
		if key := (deliveryKey{seq, sr.sub.ID}); s.inOutbox[key] {
			delete(s.inOutbox, key)
			continue
		}
		if sr.pending >= s.roomFor(sr) {
			s.startLagging(sr, recent)
			continue
		}
		d := newDelivery(seq, e, recent)
		recent.deliveries = append(recent.deliveries, d)
		recent.unsettled++
		s.enqueueDelivery(sr, name, d)
	}
	s.recent.push(recent)
	s.advanceCursor()
}

// startFrom sets the position up to which the log is settled or in the outbox.
func (s *scheduler) startFrom(cursor uint64) {
	s.cursor, s.savedCursor, s.lastRead = cursor, cursor, cursor
}

// restoreDelivery queues a delivery of the outbox. Deliveries are restored in the order of
// the log, after startFrom and before the first addEvent. A delivery without a subscriber,
// or whose event the log has lost, is canceled.
func (s *scheduler) restoreDelivery(subscription, name string, d *delivery, eventLost bool) {
	if sr := s.subscribers[subscription]; sr != nil && !eventLost {
		d.saved = true
		if d.seq > s.settledPosition(sr) {
			s.inOutbox[deliveryKey{d.seq, subscription}] = true // addEvent or addCatchUpEvent will meet the event again
		}
		s.enqueueDelivery(sr, name, d)
		return
	}
	s.deleteFromOutbox(subscription, name, d)
	s.onEnd(d, canceled)
}

// deleteFromOutbox has the outbox entry of a delivery deleted.
func (s *scheduler) deleteFromOutbox(subscription, name string, d *delivery) {
	d.queue = &deliveryQueue{name: name, subscriber: &subscriber{sub: &Subscription{ID: subscription}}}
	d.state, d.saved = ended, true
	s.saveDelivery(d)
}

// enqueueDelivery appends d to its queue.
func (s *scheduler) enqueueDelivery(sr *subscriber, name string, d *delivery) {
	s.pending++
	sr.pending++
	q := sr.queues[name]
	if q == nil {
		q = &deliveryQueue{subscriber: sr, name: name, heapIndex: -1}
		sr.queues[name] = q
	}
	d.queue = q
	sr.linkNewCall(d)
	q.deliveries = append(q.deliveries, d)
	if len(q.deliveries) == 1 {
		s.scheduleFirst(d)
	} else if q.deliveries[0].state == backingOff && !d.saved {
		s.saveDelivery(d)
	}
}

// scheduleFirst makes the first delivery of a queue due, or has it wait if it was attempted
// before. A delivery that is not owed expires.
func (s *scheduler) scheduleFirst(d *delivery) {
	switch why := d.queue.subscriber.notOwedReason(d); {
	case why != "":
		d.reason = why
		s.endDelivery(d, expired)
	case d.dueAt.IsZero():
		s.makeDue(d)
	default:
		s.backOff(d)
	}
}

// makeDue makes d due, or holds it while a circuit breaker is open.
func (s *scheduler) makeDue(d *delivery) {
	sr := d.queue.subscriber
	d.held = d.blocked()
	if d.held {
		s.backOff(d)
		s.saveQueue(d.queue)
		return
	}
	d.state = due
	sr.due.push(d)
	s.enqueueSubscriber(sr)
}

// backOff has d wait until it is due, expires, or is picked as a probe. The success of
// another delivery does not make it due earlier.
func (s *scheduler) backOff(d *delivery) {
	sr := d.queue.subscriber
	d.state = backingOff
	heap.Push(&s.backoffs, d.queue)
	switch {
	case sr.endpoint.open():
		s.scheduleProbe(sr.endpoint.nextProbe)
	case sr.open():
		s.scheduleProbe(sr.nextProbe)
	}
}

// endBackoff removes d from the waiting deliveries.
func (s *scheduler) endBackoff(d *delivery) { heap.Remove(&s.backoffs, d.queue.heapIndex) }

// backoffEnd returns when the wait of d ends by itself.
func (d *delivery) backoffEnd() time.Time {
	deadline, ok := d.deadline()
	switch {
	case ok && (d.held || deadline.Before(d.dueAt)):
		return deadline
	case d.held:
		return farFuture
	}
	return d.dueAt
}

// farFuture is later than all due times.
var farFuture = time.Unix(1<<40, 0)

// retention returns how long d is worth delivering; a replay is durable.
func (d *delivery) retention() retention {
	if d.replay {
		return durable
	}
	return retentionOf(d.kind)
}

// deadline returns when d expires; ok is false if it does so only by its retry schedule.
// Setting the wall clock does not change it once d is in memory.
func (d *delivery) deadline() (time.Time, bool) {
	if d.retention() != live {
		return time.Time{}, false
	}
	ttl := time.Duration(d.queue.subscriber.sub.LiveTTL)
	if ttl == 0 {
		ttl = liveTTL
	}
	if d.observed.IsZero() {
		return d.at.Add(ttl), true
	}
	return d.observed.Add(ttl), true
}

// expired reports whether the deadline of d has passed.
func (d *delivery) expired(now time.Time) bool {
	deadline, ok := d.deadline()
	return ok && !now.Before(deadline)
}

// enqueueSubscriber adds sr to the queue of its endpoint if it can make an attempt, and the
// endpoint to the queue of endpoints.
func (s *scheduler) enqueueSubscriber(sr *subscriber) {
	e := sr.endpoint
	if !sr.enqueued && !sr.gone && sr.due.len() > 0 && sr.inFlight < sr.maxAttempts() {
		sr.enqueued = true
		e.dueSubscribers.push(sr)
	}
	s.enqueueEndpoint(e)
}

// enqueueEndpoint adds e to the queue of endpoints if it has a due subscriber and a free
// slot.
func (s *scheduler) enqueueEndpoint(e *endpoint) {
	if !e.enqueued && e.dueSubscribers.len() > 0 && e.inFlight < maxEndpointAttempts {
		e.enqueued = true
		s.dueEndpoints.push(e)
	}
}

// nextAttempt returns the attempt to make now; ok is false if there is none.
func (s *scheduler) nextAttempt(now time.Time) (a plannedAttempt, ok bool) {
	for s.dueEndpoints.len() > 0 {
		e := s.dueEndpoints.pop()
		e.enqueued = false
		if e.inFlight < maxEndpointAttempts && e.dueSubscribers.len() > 0 {
			a, ok = s.startAttempt(now, e, e.dueSubscribers.pop())
		}
		s.enqueueEndpoint(e)
		if ok {
			return a, true
		}
	}
	return a, false
}

// startAttempt returns an attempt at the first due delivery of sr; ok is false if there is
// none.
func (s *scheduler) startAttempt(now time.Time, e *endpoint, sr *subscriber) (a plannedAttempt, ok bool) {
	if sr.endpoint != e {
		return a, false // it has moved to another endpoint and is enqueued there
	}
	sr.enqueued = false
	defer s.enqueueSubscriber(sr)
	if sr.due.len() == 0 {
		return a, false
	}
	d := sr.due.pop()
	switch {
	case d.state != due:
		return a, false // it was canceled
	case d.expired(now):
		s.endDelivery(d, expired)
		return a, false
	}
	d.state = inFlight
	d.attempts++
	sr.inFlight++
	e.inFlight++
	a = plannedAttempt{
		seq: d.seq, id: d.id, kind: d.kind, at: d.at, observed: d.observed, event: d.event,
		sub: sr.sub, url: sr.url, retention: d.retention(), number: d.attempts, replay: d.replay,
		party: d.party, newCallUnknown: d.newCallUnknown, partyNewCall: sr.newCalls[d.party], mayPostpone: !d.postponed,
		delivery: d, endpoint: e,
	}
	if sr.sub.GroupsCalls() {
		a.groupNewCall = sr.newCalls[groupCallKey(d.queue)]
	}
	return a, true
}

// finishAttempt applies the result of an attempt, and returns what it means for its
// delivery.
func (s *scheduler) finishAttempt(now time.Time, p *plannedAttempt, r *attemptResult) verdict {
	d, sr, e := p.delivery, p.delivery.queue.subscriber, p.endpoint
	if d.id == "" {
		d.id = r.eventID
	}
	sr.inFlight--
	e.inFlight--
	probe := s.countOutcome(now, p, r)
	sr.noteURLs(d, r)
	switch {
	case r.outcome == willRetry && d.redelivered:
		s.endDelivery(d, delivered)
	case r.outcome == willRetry && sr.gone:
		s.endDelivery(d, canceled)
	case r.outcome == willRetry && !r.notBefore.IsZero():
		s.postponeDelivery(now, d, r.notBefore)
	case r.outcome == willRetry:
		s.scheduleRetry(now, d, r.retryAfter, probe)
	default:
		s.endDelivery(d, r.outcome)
		if r.outcome == refused && p.sub == sr.sub && r.namedURL == nil && !sr.gone {
			s.cancelSubscriber(sr)
		}
	}
	s.enqueueSubscriber(sr)
	s.enqueueEndpoint(e)
	return d.verdict()
}

// verdict returns what the last attempt has meant for d.
func (d *delivery) verdict() verdict {
	v := verdict{ended: d.state == ended, outcome: d.outcome, redelivered: d.redelivered}
	if !v.ended {
		v.next = d.dueAt
		if b, _ := d.queue.subscriber.openBreaker(); b != nil && d.held {
			v.next = b.nextProbe
		}
	}
	return v
}

// applyRedelivery ends a pending delivery that Redeliver has delivered. An attempt in
// flight is finished. It counts as a success of the endpoint, unless it went to a URL that
// the receiver of its newCall had named.
func (s *scheduler) applyRedelivery(now time.Time, h redelivery) {
	sr, urls := s.subscribers[h.Subscription], parseCallURLs(h.OnAnswer, h.OnHangup)
	if sr == nil {
		return
	}
	if q := sr.queues[h.Queue]; q != nil {
		if i := slices.IndexFunc(q.deliveries, func(d *delivery) bool { return d.seq == h.Seq }); i >= 0 {
			d := q.deliveries[i]
			d.redelivered, d.urls = true, urls
			if d.state != inFlight {
				s.endDelivery(d, delivered)
			}
		}
	}
	sr.noteNewCallDelivered(h.Seq, urls)
	if !h.Named {
		s.noteSuccess(now, sr, sr.endpoint)
	}
	s.enqueueSubscriber(sr)
}

// postponeDelivery schedules d for later, once; the attempt does not count.
func (s *scheduler) postponeDelivery(now time.Time, d *delivery, until time.Time) {
	d.attempts--
	d.postponed = true
	d.dueAt, d.backoff = until, until.Sub(now)
	s.backOff(d)
}

// scheduleRetry schedules the next attempt, or ends the delivery. A probe that leaves its
// breaker open, or is made before the delivery is due, does not count in the retry
// schedule.
func (s *scheduler) scheduleRetry(now time.Time, d *delivery, retryAfter time.Duration, probe bool) {
	switch {
	case probe && d.dueAt.After(now):
	case probe && d.blocked():
		d.dueAt = now
	default:
		schedule, n := retrySchedules[d.retention()], d.scheduleStep
		d.scheduleStep++
		switch {
		case d.retention() == live:
			d.dueAt = now.Add(schedule[min(n, len(schedule)-1)])
		case n == len(schedule):
			s.endDelivery(d, expired)
			return
		default:
			d.dueAt = now.Add(jitter(schedule[n]))
		}
	}
	if earliest := now.Add(min(retryAfter, maxRetryAfter)); earliest.After(d.dueAt) {
		d.dueAt = earliest
	}
	d.backoff = d.dueAt.Sub(now)
	d.retryAfterSet = retryAfter > 0
	if d.expired(now) {
		s.endDelivery(d, expired)
		return
	}
	if d.dueAt.After(now) {
		s.backOff(d)
	} else {
		s.makeDue(d) // a blocked one becomes held
	}
	s.saveDelivery(d)
	s.saveQueue(d.queue)
}

// jitter lengthens a wait by up to a fifth, so that deliveries that failed together are not
// retried together.
func jitter(d time.Duration) time.Duration { return d + rand.N(d/5+1) }

// endDelivery removes d from its queue; the next delivery becomes the first.
func (s *scheduler) endDelivery(d *delivery, o outcome) {
	s.onEnd(d, o)
	q := d.queue
	if d.state == backingOff {
		s.endBackoff(d)
	}
	d.state, d.outcome = ended, o
	q.subscriber.noteEnd(d, o)
	s.replaceProbe(d)
	s.pending--
	q.subscriber.pending--
	s.releaseDelivery(d)
	if d.saved || d.saving {
		s.saveDelivery(d)
	}
	first := q.deliveries[0] == d
	if first {
		q.deliveries[0] = nil
		q.deliveries = q.deliveries[1:]
	} else {
		q.deliveries = slices.DeleteFunc(q.deliveries, func(other *delivery) bool { return other == d })
	}
	switch {
	case len(q.deliveries) == 0:
		delete(q.subscriber.queues, q.name)
	case first && !q.subscriber.gone:
		s.scheduleFirst(q.deliveries[0])
	}
	for _, r := range q.subscriber.logReads {
		s.enqueueLogRead(r)
	}
}

// releaseDelivery detaches d from its event in memory.
func (s *scheduler) releaseDelivery(d *delivery) {
	d.event = nil
	if recent := d.recent; recent != nil {
		d.recent = nil
		s.settleOne(recent)
	}
}

// settleOne records that one delivery of recent has ended or reached the outbox.
func (s *scheduler) settleOne(recent *recentEvent) {
	recent.unsettled--
	switch {
	case recent.logRead == nil:
		s.advanceCursor()
	case recent.unsettled == 0:
		s.finishPage(recent)
	}
}

// advanceCursor moves the cursor over all events that are settled.
func (s *scheduler) advanceCursor() {
	for s.recent.len() > 0 && s.recent.at(0).unsettled == 0 {
		s.cursor = s.recent.pop().seq
		s.moving = max(0, s.moving-1)
	}
}

// saveQueue has all deliveries of q written to the outbox that are not there, in their
// order: none of them will end within outboxDelay.
func (s *scheduler) saveQueue(q *deliveryQueue) {
	for _, d := range q.deliveries {
		if d.recent != nil {
			s.saveDelivery(d)
		}
	}
}

// saveDelivery has the outbox entry of d updated.
func (s *scheduler) saveDelivery(d *delivery) {
	if !d.unsaved {
		d.unsaved = true
		s.unsaved.push(d)
	}
}

// runDue does all that is due at now: retries, expiries, probes, and writes to the outbox.
func (s *scheduler) runDue(now time.Time) {
	for len(s.backoffs) > 0 && !s.backoffs[0].deliveries[0].backoffEnd().After(now) {
		d := s.backoffs[0].deliveries[0]
		if d.expired(now) {
			s.endDelivery(d, expired)
			continue
		}
		s.endBackoff(d)
		d.retryAfterSet = false
		s.makeDue(d)
	}
	if !s.nextProbe.IsZero() && !now.Before(s.nextProbe) {
		s.startProbes(now)
	}
	for s.moving < s.recent.len() && now.Sub(s.recent.at(s.moving).readAt) >= outboxDelay {
		for _, d := range s.recent.at(s.moving).deliveries {
			if d.recent != nil && !d.saving {
				s.saveDelivery(d)
			}
		}
		s.recent.at(s.moving).deliveries = nil
		s.moving++
	}
}

// nextWake returns when runDue or outboxUpdates has something to do next that is not due at
// now; ok is false if never.
func (s *scheduler) nextWake(now time.Time) (at time.Time, ok bool) {
	earlier := func(t time.Time) {
		if !ok || t.Before(at) {
			at, ok = t, true
		}
	}
	if len(s.backoffs) > 0 {
		earlier(s.backoffs[0].deliveries[0].backoffEnd())
	}
	if !s.nextProbe.IsZero() {
		earlier(s.nextProbe)
	}
	if s.moving < s.recent.len() {
		earlier(s.recent.at(s.moving).readAt.Add(outboxDelay))
	}
	if s.cursor > s.savedCursor && s.saveCursorAt.After(now) {
		earlier(s.saveCursorAt)
	}
	return at, ok
}

// An outboxUpdate is one write to the outbox: of a delivery, of a log read, or of the
// cursor.
type outboxUpdate struct {
	delivery *delivery
	logRead  *logRead
	ended    bool   // the delivery or log read has ended: its entry is deleted
	cursor   uint64 // if it is of neither
}

// outboxUpdates returns the writes to the outbox that are due at now.
func (s *scheduler) outboxUpdates(now time.Time) (updates []outboxUpdate) {
	updates = s.logReadUpdates()
	for len(updates) < stream.BatchSize && s.unsaved.len() > 0 {
		d := s.unsaved.pop()
		d.unsaved = false
		if d.state == ended && !d.saved {
			continue // the outbox never had it
		}
		d.saving = true
		updates = append(updates, outboxUpdate{delivery: d, ended: d.state == ended})
	}
	if s.cursor > s.savedCursor && !now.Before(s.saveCursorAt) {
		s.saveCursorAt = now.Add(cursorSaveInterval)
		updates = append(updates, outboxUpdate{cursor: s.cursor})
	}
	return updates
}

// finishUpdate applies the result of a write to the outbox; a failed one is repeated.
func (s *scheduler) finishUpdate(u outboxUpdate, err error) {
	d := u.delivery
	if u.logRead != nil {
		s.finishLogReadUpdate(u, err)
		return
	}
	if d == nil {
		if err == nil {
			s.savedCursor = max(s.savedCursor, u.cursor)
		}
		return
	}
	d.saving = false
	if err != nil {
		if r := d.queue.subscriber.replayOf(d); u.ended && r != nil {
			d = r // its message replaces that of d: both have the same subject
		}
		d.saved = true // the message may be stored: perhaps only its acknowledgement was lost
		s.saveDelivery(d)
		return
	}
	d.saved = !u.ended
	if !u.ended {
		s.releaseDelivery(d)
	}
}

// backoffHeap is a heap of queues by the end of the backoff of their first delivery.
type backoffHeap []*deliveryQueue

func (h backoffHeap) Len() int { return len(h) }
func (h backoffHeap) Less(i, j int) bool {
	return h[i].deliveries[0].backoffEnd().Before(h[j].deliveries[0].backoffEnd())
}
func (h backoffHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].heapIndex, h[j].heapIndex = i, j
}

func (h *backoffHeap) Push(x any) {
	q := x.(*deliveryQueue)
	q.heapIndex = len(*h)
	*h = append(*h, q)
}

func (h *backoffHeap) Pop() any {
	old := *h
	q := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	q.heapIndex = -1
	return q
}

// fifo is a queue. The zero value is empty.
type fifo[T any] struct {
	items []T
	head  int
}

func (f *fifo[T]) len() int   { return len(f.items) - f.head }
func (f *fifo[T]) at(i int) T { return f.items[f.head+i] }
func (f *fifo[T]) push(x T)   { f.items = append(f.items, x) }

// pop removes and returns the first item; there must be one.
func (f *fifo[T]) pop() T {
	var zero T
	x := f.items[f.head]
	f.items[f.head] = zero
	f.head++
	if f.head > 32 && f.head*2 >= len(f.items) {
		n := copy(f.items, f.items[f.head:])
		clear(f.items[n:])
		f.items, f.head = f.items[:n], 0
	} else if f.head == len(f.items) {
		f.items, f.head = f.items[:0], 0
	}
	return x
}
