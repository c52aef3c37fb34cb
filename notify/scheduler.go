package notify

import (
	"container/heap"
	"math/rand/v2"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	"bellhop/dialog"
)

// schedules are the pauses before the 2nd, 3rd … attempt at a delivery of each
// class. A pause counts from the end of the attempt before it. The last live
// pause repeats until the event is too old; after the last record pause comes
// one attempt more.
var retrySchedules = [...][]time.Duration{
	live: {2 * time.Second, 4 * time.Second, 8 * time.Second, 16 * time.Second, 16 * time.Second},
	durable: {5 * time.Second, 30 * time.Second, 2 * time.Minute, 10 * time.Minute, 30 * time.Minute,
		2 * time.Hour, 5 * time.Hour, 10 * time.Hour, 14 * time.Hour, 20 * time.Hour, 24 * time.Hour},
}

const (
	liveTTL             = 60 * time.Second       // age at which a live event expires
	maxInFlight         = 4                      // attempts at once, per subscription
	maxEndpointAttempts = 64                     // attempts at once, per endpoint
	outboxDelay         = time.Second            // an event that is owed longer moves to the outbox, failed or not
	cursorSaveInterval  = 100 * time.Millisecond // between two writes of the cursor
	maxRecentEvents     = 16_384                 // events that have not moved to the outbox
	maxPending          = 100_000                // deliveries of one target; ten times as many of all, see room
	maxRetryAfter       = 24 * time.Hour         // the longest wait a receiver may ask for
	disableAfter        = 5 * 24 * time.Hour     // of nothing but failures: the subscription is disabled
	maxCachedMatches    = 100_000                // extensions whose subscriptions are remembered
)

// outcome is how a delivery stands or ended.
type outcome int

const (
	willRetry outcome = iota // there will be another attempt
	delivered                // the receiver answered 2xx
	expired                  // no longer worth it
	refused                  // the receiver answered 410
	canceled                 // the subscription is gone or switched off, or another of a group tells it
	outcomes
)

func (o outcome) String() string {
	return [...]string{"waiting", "delivered", "expired", "refused", "canceled"}[o]
}

// A delivery is one event owed to one subscription.
//
//	queued ──first in lane──▶ ready ──slot──▶ sending ──2xx, 410──▶ over
//	                            ▲                │
//	                            └─due── resting ◀┘ failed
//
// Any state but sending also falls to over: when the event is too old, or the
// subscription goes. While a circuit breaker is open, that of the endpoint or
// that of the subscription, none is ready but its probe: what would be rests, held.
type delivery struct {
	queue  *deliveryQueue
	seq    uint64 // of the event in the log
	id     string // of the event; "": the outbox did not know
	kind   dialog.Type
	at     time.Time     // of the event, by the wall clock
	event  *dialog.Event // nil: to be read from the log
	recent *recentEvent  // the event whose moment this delivery shares; nil: over, or in the outbox

	observed time.Time // at on the clock that nobody sets, by which it expires; zero: as at

	replay        bool // somebody asked for it to be delivered again
	state         state
	scheduleStep  int           // failed ones that count
	attempts      int           // all that were begun
	outcome       outcome       // how it ended, once it is over
	redelivered   bool          // was delivered by hand
	dueAt         time.Time     // of the next attempt
	backoff       time.Duration // from the last attempt until then
	retryAfterSet bool          // the receiver said when to come back: no probe before that
	held          bool          // is due, and rests while a circuit breaker is open

	inGroup   bool // its party may be one of a group: see joinGroup
	postponed bool // it has waited for other events of its call, and will not again

	party          string    // of a dialect whose receiver keeps calls: whose newCall this is, or depends on; "": of none
	newCallUnknown bool      // this process has not met the newCall
	urls           *callURLs // of a newCall: what its receiver named; nil: nothing
	reason         string    // it ended as it did; "": an attempt tells, or the outcome does

	unsaved, saving, saved bool // the outbox must be told; is being told; was told
}

func newDelivery(seq uint64, e *dialog.Event, recent *recentEvent) *delivery {
	return &delivery{seq: seq, id: e.ID, kind: e.Type, at: e.At, observed: e.Observed, event: e, recent: recent}
}

type state uint8

const (
	queued     state = iota // others are before it in its lane
	due                     // waits for a slot
	inFlight                // an attempt is being made
	backingOff              // waits for its next attempt
	ended
)

// A young event is one that was read less than a moment ago, or little more.
type recentEvent struct {
	seq        uint64
	readAt     time.Time
	deliveries []*delivery
	unsettled  int      // of owed: neither over nor in the outbox
	logRead    *logRead // it is a page of that, up to seq; nil: an event
}

// A lane is what one subscription is owed of one call, in order. Only the
// first is attempted.
type deliveryQueue struct {
	subscriber *subscriber
	name       string
	deliveries []*delivery
	heapIndex  int // in the heap of resting lanes; -1: is not there
}

// A target is a subscription at work. Its lanes that are ready stand in line.
type subscriber struct {
	sub      *Subscription // never changed, only replaced
	url      *url.URL
	signer   *signer        // nil: has no secret
	regex    *regexp.Regexp // nil: exact
	typeMask uint32
	gone     bool
	endpoint *endpoint
	queues   map[string]*deliveryQueue
	pending  int // deliveries not over
	due      fifo[*delivery]
	inFlight int
	enqueued bool      // in the endpoint's line
	failing  time.Time // since when there are failures only; zero: the last attempt succeeded
	breaker            // of what its own URL answers, and of answers that do not come

	missedAnswer bool       // its last attempt got no answer
	logReads     []*logRead // what it is given by reading the log again
	lag          *logRead   // the one that it is behind with; nil: it is not

	newCalls map[string]newCall // of a receiver that keeps calls, by party
}

// slots is how many attempts t may make at once. One of several targets at an
// endpoint never takes more than half of what the endpoint has: a URL that is slow
// to answer leaves the others room.
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

// An endpoint is a scheme, host and port: what is up or down as a whole.
type endpoint struct {
	key            string
	subscribers    map[*subscriber]bool
	dueSubscribers fifo[*subscriber]
	inFlight       int
	enqueued       bool // in the line of endpoints

	breaker                     // of connections that cannot be made, and of answers that do not come
	suspect         *subscriber // had the first failure after the last answer
	severalSuspects bool        // and another target has had one since
	noAnswers       bool        // the breaker opened because an answer did not come, not because a connection was not made
}

// An attempt is one try at a delivery: what the sender needs to make it, and
// what came of it.
type attempt struct {
	*delivery   // the sender reads only what never changes
	endpoint    *endpoint
	sub         *Subscription
	url         *url.URL
	signer      *signer
	loadedEvent *dialog.Event // nil: to be read from the log

	outcome      outcome
	fault        fault         // of an attempt that failed
	detail       string        // why it failed
	localFault   bool          // it failed before the receiver was asked
	retryAfter   time.Duration // what the receiver asked for
	groupNewCall newCall       // the last of a group of its call that ended
	partyNewCall newCall       // of its party; zero: not known
	namedURL     *url.URL      // where it went, as the receiver asked for; nil: to the subscription's URL
	urls         *callURLs     // that the answer to a newCall names; nil: none
	loggedURLs   *callURLs     // what the delivery log has of its newCall, if that was looked up
	mayPostpone  bool          // it may be postponed
	notBefore    time.Time     // nothing was sent: other events of the call may follow until then; zero: it is not postponed

	attemptDetails // for the delivery log
}

// lanes decides who is told what, in which order, and when. It does no I/O and
// never reads the clock. One goroutine owns it.
//
// Endpoints stand in a line, and at each its subscriptions do: whose turn it is
// makes one attempt. Who has no slot left is not in line, so an endpoint that
// does not answer delays no other.
type scheduler struct {
	subscribers map[string]*subscriber // by subscription
	endpoints   map[string]*endpoint
	byUser      map[string][]*subscriber // by user
	byRegex     []*subscriber
	matchCache  map[dialog.Extension][]*subscriber // remembered; forgotten with every change

	dueEndpoints    fifo[*endpoint]
	openEndpoints   map[*endpoint]bool   // those whose circuit breaker is open
	openSubscribers map[*subscriber]bool // those whose own circuit breaker is open
	nextProbe       time.Time            // when the first of both may be probed; zero: never
	backoffs        backoffHeap
	pending         int // deliveries not over

	recent   fifo[*recentEvent] // in the order of the log
	moving   int                // how many of them, from the front, move to the outbox
	inOutbox map[deliveryKey]bool
	unsaved  fifo[*delivery]

	maxPending      int            // deliveries of one target
	lagging         int            // targets that are
	dueLogReads     fifo[*logRead] // of which a page is to be read
	unsavedLogReads fifo[*logRead] // of which the outbox must be told

	lastRead     uint64 // the last event added
	cursor       uint64 // every event up to here is settled or in the outbox
	savedCursor  uint64 // the floor that the outbox knows of
	saveCursorAt time.Time

	onEnd           func(*delivery, outcome) // told of every end, just before
	onBreakerChange func(*endpoint)          // called when the circuit breaker of an endpoint opens, and when it closes
	onHealthChange  func(*subscriber)        // called when a target becomes paused, is paused by another breaker, or is resumed
	onLagChange     func(*subscriber)        // told of every target that falls behind, and when it has caught up
}

// place names a delivery.
type deliveryKey struct {
	seq uint64
	sub string
}

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

// subscribe takes a subscription as it is now; one that is not active is no
// target. A new one may have failed since before.
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
		if !sub.askedSince().Equal(sr.sub.askedSince()) {
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
	sr.sub, sr.typeMask = &sub, typeMask(sub.Types)
	sr.url, _ = url.Parse(urlBeforeVariables(sub.URL)) // Validate has parsed both
	sr.signer = newSigner(&sub)
	sr.regex, _ = compileAnchored(sub.ExtensionRegex)
	if sub.ExtensionRegex != "" {
		s.byRegex = append(s.byRegex, sr)
	} else {
		sr.regex = nil
		user, _, _ := strings.Cut(sub.Extension, "@")
		s.byUser[user] = append(s.byUser[user], sr)
	}
	s.attachEndpoint(sr)
	if edited { // what has failed is not what is tried from now on
		s.closeSubscriber(sr)
	}
	s.enqueueSubscriber(sr)
}

func (s *scheduler) unindexSubscriber(sr *subscriber) {
	is := func(other *subscriber) bool { return other == sr }
	user, _, _ := strings.Cut(sr.sub.Extension, "@")
	s.byRegex = slices.DeleteFunc(s.byRegex, is)
	if s.byUser[user] = slices.DeleteFunc(s.byUser[user], is); len(s.byUser[user]) == 0 {
		delete(s.byUser, user)
	}
}

// settle puts t at the endpoint of its URL.
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
		s.scheduleProbe(old.nextProbe) // what it was probed with may be gone
	}
	s.leaveEndpoint(sr, old)
	if old.open() || e.open() {
		s.onHealthChange(sr)
	}
}

// endpointKey names the endpoint of a URL.
func endpointKey(u *url.URL) string {
	host := strings.ToLower(u.Host)
	if port := u.Port(); port == map[string]string{"http": "80", "https": "443"}[u.Scheme] {
		host = strings.TrimSuffix(host, ":"+port)
	}
	return u.Scheme + "://" + host
}

// leave takes t from an endpoint, and the endpoint away with the last one.
func (s *scheduler) leaveEndpoint(sr *subscriber, e *endpoint) {
	delete(e.subscribers, sr)
	if len(e.subscribers) == 0 && s.endpoints[e.key] == e {
		delete(s.endpoints, e.key)
		delete(s.openEndpoints, e)
	}
}

// cancel ends everything that t waits for. An attempt under way is still
// heard.
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

// of returns the targets that name an extension.
func (s *scheduler) matchSubscribers(e dialog.Extension) []*subscriber {
	matched, ok := s.matchCache[e]
	if ok {
		return matched
	}
	for _, sr := range slices.Concat(s.byUser[e.User], s.byRegex) {
		if sr.matchesExtension(e) {
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

// add takes the next event of the log.
func (s *scheduler) addEvent(now time.Time, seq uint64, e *dialog.Event) {
	if seq <= s.lastRead {
		return
	}
	s.lastRead = seq
	recent := &recentEvent{seq: seq, readAt: now}
	bit, name := eventBit(e), queueName(e)
	for _, sr := range s.matchSubscribers(e.Extension) {
		if sr.typeMask&bit == 0 || sr.lag != nil {
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

// begin says up to where the log has been worked off.
func (s *scheduler) startFrom(cursor uint64) {
	s.cursor, s.savedCursor, s.lastRead = cursor, cursor, cursor
}

// restore takes a delivery from the outbox. They come in the order of the log,
// after begin and before the first add. One that nobody wants any more, or
// whose event the log has lost, is forgotten.
func (s *scheduler) restoreDelivery(subscription, name string, d *delivery, lost bool) {
	if sr := s.subscribers[subscription]; sr != nil && !lost {
		d.saved = true
		if d.seq > s.settledPosition(sr) {
			s.inOutbox[deliveryKey{d.seq, subscription}] = true // add or addAgain will meet it again
		}
		s.enqueueDelivery(sr, name, d)
		return
	}
	s.deleteFromOutbox(subscription, name, d)
	s.onEnd(d, canceled)
}

// forget has the outbox told that a delivery it has is over.
func (s *scheduler) deleteFromOutbox(subscription, name string, d *delivery) {
	d.queue = &deliveryQueue{name: name, subscriber: &subscriber{sub: &Subscription{ID: subscription}}}
	d.state, d.saved = ended, true
	s.saveDelivery(d)
}

// join puts d at the end of its lane.
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

// first has the first of a lane wait for a slot, or for its time if it has been
// attempted before. What is not owed is over.
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

// rest has d wait until it is due or too old, or is picked as a probe. No success of
// another delivery makes it due earlier.
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

// unrest ends a rest.
func (s *scheduler) endBackoff(d *delivery) { heap.Remove(&s.backoffs, d.queue.heapIndex) }

// until is when a rest ends by itself.
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

// forever is later than all that is due.
var farFuture = time.Unix(1<<40, 0)

func (d *delivery) retention() retention {
	if d.replay {
		return durable
	}
	return retentionOf(d.kind)
}

// deadline is when d is too old, if it ever is. Nobody makes it older by setting the
// clock once it is here.
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

func (d *delivery) expired(now time.Time) bool {
	deadline, ok := d.deadline()
	return ok && !now.Before(deadline)
}

// enlist puts t in line if it can make an attempt, and its endpoint too.
func (s *scheduler) enqueueSubscriber(sr *subscriber) {
	e := sr.endpoint
	if !sr.enqueued && !sr.gone && sr.due.len() > 0 && sr.inFlight < sr.maxAttempts() {
		sr.enqueued = true
		e.dueSubscribers.push(sr)
	}
	s.enqueueEndpoint(e)
}

func (s *scheduler) enqueueEndpoint(e *endpoint) {
	if !e.enqueued && e.dueSubscribers.len() > 0 && e.inFlight < maxEndpointAttempts {
		e.enqueued = true
		s.dueEndpoints.push(e)
	}
}

// next returns the attempt to make now, or nil if there is none.
func (s *scheduler) nextAttempt(now time.Time) *attempt {
	for s.dueEndpoints.len() > 0 {
		e := s.dueEndpoints.pop()
		e.enqueued = false
		var a *attempt
		if e.inFlight < maxEndpointAttempts && e.dueSubscribers.len() > 0 {
			a = s.startAttempt(now, e, e.dueSubscribers.pop())
		}
		s.enqueueEndpoint(e)
		if a != nil {
			return a
		}
	}
	return nil
}

// turn is t's turn at e: it makes an attempt of what is ready first.
func (s *scheduler) startAttempt(now time.Time, e *endpoint, sr *subscriber) *attempt {
	if sr.endpoint != e {
		return nil // has moved: stands in line there
	}
	sr.enqueued = false
	defer s.enqueueSubscriber(sr)
	if sr.due.len() == 0 {
		return nil
	}
	d := sr.due.pop()
	switch {
	case d.state != due:
		return nil // was canceled
	case d.expired(now):
		s.endDelivery(d, expired)
		return nil
	}
	d.state = inFlight
	d.attempts++
	sr.inFlight++
	e.inFlight++
	a := &attempt{delivery: d, endpoint: e, sub: sr.sub, url: sr.url, signer: sr.signer, loadedEvent: d.event, mayPostpone: !d.postponed}
	if sr.sub.groupsCalls() {
		a.groupNewCall = sr.newCalls[groupCallKey(d.queue)]
	}
	a.partyNewCall = sr.newCalls[d.party]
	return a
}

// done takes an attempt that was made.
func (s *scheduler) finishAttempt(now time.Time, a *attempt) {
	d, sr, e := a.delivery, a.queue.subscriber, a.endpoint
	sr.inFlight--
	e.inFlight--
	probe := s.countOutcome(now, a)
	sr.noteURLs(a)
	switch {
	case a.outcome == willRetry && d.redelivered:
		s.endDelivery(d, delivered)
	case a.outcome == willRetry && sr.gone:
		s.endDelivery(d, canceled)
	case a.outcome == willRetry && !a.notBefore.IsZero():
		s.postponeDelivery(now, d, a.notBefore)
	case a.outcome == willRetry:
		s.scheduleRetry(now, a, probe)
	default:
		s.endDelivery(d, a.outcome)
		if a.outcome == refused && a.sub == sr.sub && a.namedURL == nil && !sr.gone {
			s.cancelSubscriber(sr)
		}
	}
	s.enqueueSubscriber(sr)
	s.enqueueEndpoint(e)
}

// handed takes a delivery that was delivered by hand: it is over, if it waited.
// An attempt at it that is under way is heard out. It is a success at the
// endpoint as any other, unless it went where the receiver of its newCall asked for.
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

// postpone has d attempted later, once: the attempt was none.
func (s *scheduler) postponeDelivery(now time.Time, d *delivery, until time.Time) {
	d.attempts--
	d.postponed = true
	d.dueAt, d.backoff = until, until.Sub(now)
	s.backOff(d)
}

// failed plans the next attempt, if there is one. A probe that leaves a breaker
// open, or that is made before the delivery is due, is no attempt of its schedule.
func (s *scheduler) scheduleRetry(now time.Time, a *attempt, probe bool) {
	d := a.delivery
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
	if earliest := now.Add(min(a.retryAfter, maxRetryAfter)); earliest.After(d.dueAt) {
		d.dueAt = earliest
	}
	d.backoff = d.dueAt.Sub(now)
	d.retryAfterSet = a.retryAfter > 0
	if d.expired(now) {
		s.endDelivery(d, expired)
		return
	}
	if d.dueAt.After(now) {
		s.backOff(d)
	} else {
		s.makeDue(d) // and is held
	}
	s.saveDelivery(d)
	s.saveQueue(d.queue)
}

// jitter lengthens a pause by up to a fifth, so that what failed together does
// not come back together.
func jitter(d time.Duration) time.Duration { return d + rand.N(d/5+1) }

// end takes d out of its lane; the next one's turn has come.
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

// release ends what d has to do with its young event.
func (s *scheduler) releaseDelivery(d *delivery) {
	d.event = nil
	if recent := d.recent; recent != nil {
		d.recent = nil
		s.settleOne(recent)
	}
}

// close settles one of what is open of y.
func (s *scheduler) settleOne(recent *recentEvent) {
	recent.unsettled--
	switch {
	case recent.logRead == nil:
		s.advanceCursor()
	case recent.unsettled == 0:
		s.finishPage(recent)
	}
}

// rise lifts the floor over the events that nothing is open of.
func (s *scheduler) advanceCursor() {
	for s.recent.len() > 0 && s.recent.at(0).unsettled == 0 {
		s.cursor = s.recent.pop().seq
		s.moving = max(0, s.moving-1)
	}
}

// dirtiedLane has the outbox told of all of l that it does not know, in their
// order: none of them leaves within a moment.
func (s *scheduler) saveQueue(q *deliveryQueue) {
	for _, d := range q.deliveries {
		if d.recent != nil {
			s.saveDelivery(d)
		}
	}
}

// dirtied has the outbox told of d.
func (s *scheduler) saveDelivery(d *delivery) {
	if !d.unsaved {
		d.unsaved = true
		s.unsaved.push(d)
	}
}

// tick does what is due at now.
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

// wakeAt is when tick, or letters, has something to do next that it had not at
// now.
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

// A letter is what the outbox must be told: of a delivery, of a backlog, or that
// the floor has risen.
type outboxUpdate struct {
	delivery *delivery
	logRead  *logRead
	ended    bool   // the delivery, or the backlog, is over
	cursor   uint64 // if it is of neither
}

// letters returns what the outbox must be told now.
func (s *scheduler) outboxUpdates(now time.Time) (updates []outboxUpdate) {
	updates = s.logReadUpdates()
	for len(updates) < batchSize && s.unsaved.len() > 0 {
		d := s.unsaved.pop()
		d.unsaved = false
		if d.state == ended && !d.saved {
			continue // it never heard of it
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

// posted takes a letter that was sent; one that failed is sent again.
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
			d = r // whose word takes the place of that of d
		}
		d.saved = true // it may have: the answer may be what was lost
		s.saveDelivery(d)
		return
	}
	d.saved = !u.ended
	if !u.ended {
		s.releaseDelivery(d)
	}
}

// restingLanes is a heap: the first is the one whose rest ends first.
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

// pop takes the first; there must be one.
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
