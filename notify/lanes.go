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
var schedules = [...][]time.Duration{
	live: {2 * time.Second, 4 * time.Second, 8 * time.Second, 16 * time.Second, 16 * time.Second},
	record: {5 * time.Second, 30 * time.Second, 2 * time.Minute, 10 * time.Minute, 30 * time.Minute,
		2 * time.Hour, 5 * time.Hour, 10 * time.Hour, 14 * time.Hour, 20 * time.Hour, 24 * time.Hour},
}

const (
	liveTTL       = 60 * time.Second       // age at which a live event expires
	maxInFlight   = 4                      // attempts at once, per subscription
	endpointSlots = 64                     // attempts at once, per endpoint
	moment        = time.Second            // an event that is owed longer moves to the outbox, failed or not
	cursorPause   = 100 * time.Millisecond // between two writes of the cursor
	maxYoung      = 16_384                 // events that have not moved to the outbox
	maxPending    = 100_000                // deliveries of one target; ten times as many of all, see room
	maxRetryAfter = 24 * time.Hour         // the longest wait a receiver may ask for
	hopeless      = 5 * 24 * time.Hour     // of nothing but failures: the subscription is disabled
	maxMatches    = 100_000                // extensions whose subscriptions are remembered
)

// outcome is how a delivery stands or ended.
type outcome int

const (
	waiting   outcome = iota // there will be another attempt
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
	lane  *lane
	seq   uint64 // of the event in the log
	id    string // of the event; "": the outbox did not know
	kind  dialog.Type
	at    time.Time     // of the event, by the wall clock
	event *dialog.Event // nil: to be read from the log
	young *young        // the event whose moment this delivery shares; nil: over, or in the outbox

	observed time.Time // at on the clock that nobody sets, by which it expires; zero: as at

	replay   bool // somebody asked for it to be delivered again
	state    state
	attempts int           // failed ones that count
	tries    int           // all that were begun
	outcome  outcome       // how it ended, once it is over
	handed   bool          // was delivered by hand
	due      time.Time     // of the next attempt
	wait     time.Duration // from the last attempt until then
	patient  bool          // the receiver said when to come back: no probe before that
	held     bool          // is due, and rests while a circuit breaker is open

	inGroup   bool // its party may be one of a group: see joinGroup
	postponed bool // it has waited for other events of its call, and will not again

	party  string    // of a dialect whose receiver keeps calls: whose newCall this is, or depends on; "": of none
	unsure bool      // this process has not met the newCall
	urls   *callURLs // of a newCall: what its receiver named; nil: nothing
	why    string    // it ended as it did; "": an attempt tells, or the outcome does

	dirty, telling, told bool // the outbox must be told; is being told; was told
}

func newDelivery(seq uint64, e *dialog.Event, y *young) *delivery {
	return &delivery{seq: seq, id: e.ID, kind: e.Type, at: e.At, observed: e.Observed, event: e, young: y}
}

type state uint8

const (
	queued  state = iota // others are before it in its lane
	ready                // waits for a slot
	sending              // an attempt is being made
	resting              // waits for its next attempt
	over
)

// A young event is one that was read less than a moment ago, or little more.
type young struct {
	seq  uint64
	read time.Time
	owed []*delivery
	open int      // of owed: neither over nor in the outbox
	page *backlog // it is a page of that, up to seq; nil: an event
}

// A lane is what one subscription is owed of one call, in order. Only the
// first is attempted.
type lane struct {
	target *target
	name   string
	queue  []*delivery
	place  int // in the heap of resting lanes; -1: is not there
}

// A target is a subscription at work. Its lanes that are ready stand in line.
type target struct {
	sub      *Subscription // never changed, only replaced
	url      *url.URL
	signer   *signer        // nil: has no secret
	regex    *regexp.Regexp // nil: exact
	wants    uint32
	gone     bool
	endpoint *endpoint
	lanes    map[string]*lane
	pending  int // deliveries not over
	ready    fifo[*delivery]
	sending  int
	lined    bool      // in the endpoint's line
	failing  time.Time // since when there are failures only; zero: the last attempt succeeded
	breaker            // of what its own URL answers, and of answers that do not come

	unanswered bool       // its last attempt got no answer
	backlogs   []*backlog // what it is given by reading the log again
	behind     *backlog   // the one that it is behind with; nil: it is not

	calls map[string]newCall // of a receiver that keeps calls, by party
}

// slots is how many attempts t may make at once. One of several targets at an
// endpoint never takes more than half of what the endpoint has: a URL that is slow
// to answer leaves the others room.
func (t *target) slots() int {
	slots := t.sub.MaxInFlight
	if slots == 0 {
		slots = maxInFlight
	}
	if len(t.endpoint.targets) > 1 {
		return min(slots, endpointSlots/2)
	}
	return slots
}

// An endpoint is a scheme, host and port: what is up or down as a whole.
type endpoint struct {
	key     string
	targets map[*target]bool
	line    fifo[*target]
	sending int
	lined   bool // in the line of endpoints

	breaker         // of connections that cannot be made, and of answers that do not come
	suspect *target // had the first failure after the last answer
	several bool    // and another target has had one since
	silent  bool    // the breaker opened because an answer did not come, not because a connection was not made
}

// An attempt is one try at a delivery: what the sender needs to make it, and
// what came of it.
type attempt struct {
	*delivery // the sender reads only what never changes
	endpoint  *endpoint
	sub       *Subscription
	url       *url.URL
	signer    *signer
	body      *dialog.Event // nil: to be read from the log

	outcome    outcome
	fault      fault         // of an attempt that failed
	detail     string        // why it failed
	ours       bool          // it failed before the receiver was asked
	retryAfter time.Duration // what the receiver asked for
	newCall    newCall       // the last of a group of its call that ended
	own        newCall       // of its party; zero: not known
	named      *url.URL      // where it went, as the receiver asked for; nil: to the subscription's URL
	urls       *callURLs     // that the answer to a newCall names; nil: none
	found      *callURLs     // what the delivery log has of its newCall, if that was looked up
	patience   bool          // it may be postponed
	notBefore  time.Time     // nothing was sent: other events of the call may follow until then; zero: it is not postponed

	trace // for the delivery log
}

// lanes decides who is told what, in which order, and when. It does no I/O and
// never reads the clock. One goroutine owns it.
//
// Endpoints stand in a line, and at each its subscriptions do: whose turn it is
// makes one attempt. Who has no slot left is not in line, so an endpoint that
// does not answer delays no other.
type lanes struct {
	targets   map[string]*target // by subscription
	endpoints map[string]*endpoint
	exact     map[string][]*target // by user
	regexes   []*target
	matches   map[dialog.Extension][]*target // remembered; forgotten with every change

	line    fifo[*endpoint]
	paused  map[*endpoint]bool // those whose circuit breaker is open
	failing map[*target]bool   // those whose own circuit breaker is open
	probeAt time.Time          // when the first of both may be probed; zero: never
	resting restingLanes
	pending int // deliveries not over

	young  fifo[*young] // in the order of the log
	moving int          // how many of them, from the front, move to the outbox
	moved  map[place]bool
	dirty  fifo[*delivery]

	limit    int            // deliveries of one target
	behind   int            // targets that are
	backlogs fifo[*backlog] // of which a page is to be read
	words    fifo[*backlog] // of which the outbox must be told

	read      uint64 // the last event added
	floor     uint64 // every event up to here is settled or in the outbox
	cursor    uint64 // the floor that the outbox knows of
	cursorDue time.Time

	ended   func(*delivery, outcome) // told of every end, just before
	changed func(*endpoint)          // called when the circuit breaker of an endpoint opens, and when it closes
	health  func(*target)            // called when a target becomes paused, is paused by another breaker, or is resumed
	lagged  func(*target)            // told of every target that falls behind, and when it has caught up
}

// place names a delivery.
type place struct {
	seq uint64
	sub string
}

func newLanes(ended func(*delivery, outcome)) *lanes {
	return &lanes{
		targets:   make(map[string]*target),
		endpoints: make(map[string]*endpoint),
		exact:     make(map[string][]*target),
		matches:   make(map[dialog.Extension][]*target),
		moved:     make(map[place]bool),
		paused:    make(map[*endpoint]bool),
		failing:   make(map[*target]bool),
		limit:     maxPending,
		ended:     ended,
		changed:   func(*endpoint) {},
		health:    func(*target) {},
		lagged:    func(*target) {},
	}
}

// subscribe takes a subscription as it is now; one that is not active is no
// target. A new one may have failed since before.
func (q *lanes) subscribe(s Subscription, failing time.Time) {
	clear(q.matches)
	t := q.targets[s.ID]
	if t != nil {
		q.unindex(t)
		if s.LiveTTL != t.sub.LiveTTL {
			defer heap.Init(&q.resting)
		}
		if s.URL != t.sub.URL {
			t.failing = time.Time{}
		}
		if !s.since().Equal(t.sub.since()) {
			t.forgetURLs()
		}
	}
	edited := t != nil && (s.URL != t.sub.URL || s.Revision != t.sub.Revision)
	if !s.Active && t != nil {
		q.cancel(t)
	}
	if !s.Active {
		return
	}
	if t == nil {
		t = &target{lanes: make(map[string]*lane), failing: failing}
		q.targets[s.ID] = t
	}
	t.sub, t.wants = &s, wants(s.Types)
	t.url, _ = url.Parse(address(s.URL)) // Validate has parsed both
	t.signer = newSigner(&s)
	t.regex, _ = anchored(s.ExtensionRegex)
	if s.ExtensionRegex != "" {
		q.regexes = append(q.regexes, t)
	} else {
		t.regex = nil
		user, _, _ := strings.Cut(s.Extension, "@")
		q.exact[user] = append(q.exact[user], t)
	}
	q.settle(t)
	if edited { // what has failed is not what is tried from now on
		q.closeTarget(t)
	}
	q.enlist(t)
}

func (q *lanes) unindex(t *target) {
	is := func(other *target) bool { return other == t }
	user, _, _ := strings.Cut(t.sub.Extension, "@")
	q.regexes = slices.DeleteFunc(q.regexes, is)
	if q.exact[user] = slices.DeleteFunc(q.exact[user], is); len(q.exact[user]) == 0 {
		delete(q.exact, user)
	}
}

// settle puts t at the endpoint of its URL.
func (q *lanes) settle(t *target) {
	key := endpointKey(t.url)
	old, e := t.endpoint, q.endpoints[key]
	if old != nil && old == e {
		return
	}
	if e == nil {
		e = &endpoint{key: key, targets: make(map[*target]bool)}
		q.endpoints[key] = e
	}
	e.targets[t] = true
	t.endpoint, t.lined = e, false
	if old == nil {
		return
	}
	q.releaseHeld(t)
	q.holdReady(t)
	if old.open() {
		q.probeBy(old.next) // what it was probed with may be gone
	}
	q.leave(t, old)
	if old.open() || e.open() {
		q.health(t)
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
func (q *lanes) leave(t *target, e *endpoint) {
	delete(e.targets, t)
	if len(e.targets) == 0 && q.endpoints[e.key] == e {
		delete(q.endpoints, e.key)
		delete(q.paused, e)
	}
}

// cancel ends everything that t waits for. An attempt under way is still
// heard.
func (q *lanes) cancel(t *target) {
	t.gone = true
	q.unindex(t)
	clear(q.matches)
	delete(q.targets, t.sub.ID)
	delete(q.failing, t)
	for _, b := range slices.Clone(t.backlogs) {
		q.drop(b)
	}
	for _, l := range t.lanes {
		for _, d := range slices.Clone(l.queue) {
			if d.state != sending {
				q.end(d, canceled)
			}
		}
	}
	q.leave(t, t.endpoint)
}

// of returns the targets that name an extension.
func (q *lanes) of(e dialog.Extension) []*target {
	ts, ok := q.matches[e]
	if ok {
		return ts
	}
	for _, t := range slices.Concat(q.exact[e.User], q.regexes) {
		if t.names(e) {
			ts = append(ts, t)
		}
	}
	if len(q.matches) >= maxMatches {
		clear(q.matches)
	}
	q.matches[e] = ts
	return ts
}

// full reports whether no event can be added for now.
func (q *lanes) full() bool { return q.young.len() >= maxYoung }

// add takes the next event of the log.
func (q *lanes) add(now time.Time, seq uint64, e *dialog.Event) {
	if seq <= q.read {
		return
	}
	q.read = seq
	y := &young{seq: seq, read: now}
	bit, name := typeBit(e), laneOf(e)
	for _, t := range q.of(e.Extension) {
		if t.wants&bit == 0 || t.behind != nil {
			continue
		}
		if here := (place{seq, t.sub.ID}); q.moved[here] {
			delete(q.moved, here)
			continue
		}
		if t.pending >= q.room(t) {
			q.fallBehind(t, y)
			continue
		}
		d := newDelivery(seq, e, y)
		y.owed = append(y.owed, d)
		y.open++
		q.join(t, name, d)
	}
	q.young.push(y)
	q.rise()
}

// begin says up to where the log has been worked off.
func (q *lanes) begin(floor uint64) { q.floor, q.cursor, q.read = floor, floor, floor }

// restore takes a delivery from the outbox. They come in the order of the log,
// after begin and before the first add. One that nobody wants any more, or
// whose event the log has lost, is forgotten.
func (q *lanes) restore(subscription, name string, d *delivery, lost bool) {
	if t := q.targets[subscription]; t != nil && !lost {
		d.told = true
		if d.seq > q.settled(t) {
			q.moved[place{d.seq, subscription}] = true // add or addAgain will meet it again
		}
		q.join(t, name, d)
		return
	}
	q.forget(subscription, name, d)
	q.ended(d, canceled)
}

// forget has the outbox told that a delivery it has is over.
func (q *lanes) forget(subscription, name string, d *delivery) {
	d.lane = &lane{name: name, target: &target{sub: &Subscription{ID: subscription}}}
	d.state, d.told = over, true
	q.dirtied(d)
}

// join puts d at the end of its lane.
func (q *lanes) join(t *target, name string, d *delivery) {
	q.pending++
	t.pending++
	l := t.lanes[name]
	if l == nil {
		l = &lane{target: t, name: name, place: -1}
		t.lanes[name] = l
	}
	d.lane = l
	t.follow(d)
	l.queue = append(l.queue, d)
	if len(l.queue) == 1 {
		q.first(d)
	} else if l.queue[0].state == resting && !d.told {
		q.dirtied(d)
	}
}

// first has the first of a lane wait for a slot, or for its time if it has been
// attempted before. What is not owed is over.
func (q *lanes) first(d *delivery) {
	switch why := d.lane.target.notOwed(d); {
	case why != "":
		d.why = why
		q.end(d, expired)
	case d.due.IsZero():
		q.makeReady(d)
	default:
		q.rest(d)
	}
}

func (q *lanes) makeReady(d *delivery) {
	t := d.lane.target
	d.held = d.blocked()
	if d.held {
		q.rest(d)
		q.dirtiedLane(d.lane)
		return
	}
	d.state = ready
	t.ready.push(d)
	q.enlist(t)
}

// rest has d wait until it is due or too old, or is picked as a probe. No success of
// another delivery makes it due earlier.
func (q *lanes) rest(d *delivery) {
	t := d.lane.target
	d.state = resting
	heap.Push(&q.resting, d.lane)
	switch {
	case t.endpoint.open():
		q.probeBy(t.endpoint.next)
	case t.open():
		q.probeBy(t.next)
	}
}

// unrest ends a rest.
func (q *lanes) unrest(d *delivery) { heap.Remove(&q.resting, d.lane.place) }

// until is when a rest ends by itself.
func (d *delivery) until() time.Time {
	deadline, ok := d.deadline()
	switch {
	case ok && (d.held || deadline.Before(d.due)):
		return deadline
	case d.held:
		return forever
	}
	return d.due
}

// forever is later than all that is due.
var forever = time.Unix(1<<40, 0)

func (d *delivery) class() class {
	if d.replay {
		return record
	}
	return classOf(d.kind)
}

// deadline is when d is too old, if it ever is. Nobody makes it older by setting the
// clock once it is here.
func (d *delivery) deadline() (time.Time, bool) {
	if d.class() != live {
		return time.Time{}, false
	}
	ttl := time.Duration(d.lane.target.sub.LiveTTL)
	if ttl == 0 {
		ttl = liveTTL
	}
	if d.observed.IsZero() {
		return d.at.Add(ttl), true
	}
	return d.observed.Add(ttl), true
}

func (d *delivery) tooOld(now time.Time) bool {
	deadline, ok := d.deadline()
	return ok && !now.Before(deadline)
}

// enlist puts t in line if it can make an attempt, and its endpoint too.
func (q *lanes) enlist(t *target) {
	e := t.endpoint
	if !t.lined && !t.gone && t.ready.len() > 0 && t.sending < t.slots() {
		t.lined = true
		e.line.push(t)
	}
	q.lineUp(e)
}

func (q *lanes) lineUp(e *endpoint) {
	if !e.lined && e.line.len() > 0 && e.sending < endpointSlots {
		e.lined = true
		q.line.push(e)
	}
}

// next returns the attempt to make now, or nil if there is none.
func (q *lanes) next(now time.Time) *attempt {
	for q.line.len() > 0 {
		e := q.line.pop()
		e.lined = false
		var a *attempt
		if e.sending < endpointSlots && e.line.len() > 0 {
			a = q.turn(now, e, e.line.pop())
		}
		q.lineUp(e)
		if a != nil {
			return a
		}
	}
	return nil
}

// turn is t's turn at e: it makes an attempt of what is ready first.
func (q *lanes) turn(now time.Time, e *endpoint, t *target) *attempt {
	if t.endpoint != e {
		return nil // has moved: stands in line there
	}
	t.lined = false
	defer q.enlist(t)
	if t.ready.len() == 0 {
		return nil
	}
	d := t.ready.pop()
	switch {
	case d.state != ready:
		return nil // was canceled
	case d.tooOld(now):
		q.end(d, expired)
		return nil
	}
	d.state = sending
	d.tries++
	t.sending++
	e.sending++
	a := &attempt{delivery: d, endpoint: e, sub: t.sub, url: t.url, signer: t.signer, body: d.event, patience: !d.postponed}
	if t.sub.groups() {
		a.newCall = t.calls[groupKey(d.lane)]
	}
	a.own = t.calls[d.party]
	return a
}

// done takes an attempt that was made.
func (q *lanes) done(now time.Time, a *attempt) {
	d, t, e := a.delivery, a.lane.target, a.endpoint
	t.sending--
	e.sending--
	probe := q.learn(now, a)
	t.learnURLs(a)
	switch {
	case a.outcome == waiting && d.handed:
		q.end(d, delivered)
	case a.outcome == waiting && t.gone:
		q.end(d, canceled)
	case a.outcome == waiting && !a.notBefore.IsZero():
		q.postpone(now, d, a.notBefore)
	case a.outcome == waiting:
		q.failed(now, a, probe)
	default:
		q.end(d, a.outcome)
		if a.outcome == refused && a.sub == t.sub && a.named == nil && !t.gone {
			q.cancel(t)
		}
	}
	q.enlist(t)
	q.lineUp(e)
}

// handed takes a delivery that was delivered by hand: it is over, if it waited.
// An attempt at it that is under way is heard out. It is a success at the
// endpoint as any other, unless it went where the receiver of its newCall asked for.
func (q *lanes) handed(now time.Time, h handed) {
	t, urls := q.targets[h.Subscription], newCallURLs(h.OnAnswer, h.OnHangup)
	if t == nil {
		return
	}
	if l := t.lanes[h.Lane]; l != nil {
		if i := slices.IndexFunc(l.queue, func(d *delivery) bool { return d.seq == h.Seq }); i >= 0 {
			d := l.queue[i]
			d.handed, d.urls = true, urls
			if d.state != sending {
				q.end(d, delivered)
			}
		}
	}
	t.begins(h.Seq, urls)
	if !h.Named {
		q.succeeded(now, t, t.endpoint)
	}
	q.enlist(t)
}

// postpone has d attempted later, once: the attempt was none.
func (q *lanes) postpone(now time.Time, d *delivery, until time.Time) {
	d.tries--
	d.postponed = true
	d.due, d.wait = until, until.Sub(now)
	q.rest(d)
}

// failed plans the next attempt, if there is one. A probe that leaves a breaker
// open, or that is made before the delivery is due, is no attempt of its schedule.
func (q *lanes) failed(now time.Time, a *attempt, probe bool) {
	d := a.delivery
	switch {
	case probe && d.due.After(now):
	case probe && d.blocked():
		d.due = now
	default:
		pauses, n := schedules[d.class()], d.attempts
		d.attempts++
		switch {
		case d.class() == live:
			d.due = now.Add(pauses[min(n, len(pauses)-1)])
		case n == len(pauses):
			q.end(d, expired)
			return
		default:
			d.due = now.Add(jitter(pauses[n]))
		}
	}
	if back := now.Add(min(a.retryAfter, maxRetryAfter)); back.After(d.due) {
		d.due = back
	}
	d.wait = d.due.Sub(now)
	d.patient = a.retryAfter > 0
	if d.tooOld(now) {
		q.end(d, expired)
		return
	}
	if d.due.After(now) {
		q.rest(d)
	} else {
		q.makeReady(d) // and is held
	}
	q.dirtied(d)
	q.dirtiedLane(d.lane)
}

// jitter lengthens a pause by up to a fifth, so that what failed together does
// not come back together.
func jitter(d time.Duration) time.Duration { return d + rand.N(d/5+1) }

// end takes d out of its lane; the next one's turn has come.
func (q *lanes) end(d *delivery, o outcome) {
	q.ended(d, o)
	l := d.lane
	if d.state == resting {
		q.unrest(d)
	}
	d.state, d.outcome = over, o
	l.target.concludes(d, o)
	q.probeAfter(d)
	q.pending--
	l.target.pending--
	q.release(d)
	if d.told || d.telling {
		q.dirtied(d)
	}
	first := l.queue[0] == d
	if first {
		l.queue[0] = nil
		l.queue = l.queue[1:]
	} else {
		l.queue = slices.DeleteFunc(l.queue, func(other *delivery) bool { return other == d })
	}
	switch {
	case len(l.queue) == 0:
		delete(l.target.lanes, l.name)
	case first && !l.target.gone:
		q.first(l.queue[0])
	}
	for _, b := range l.target.backlogs {
		q.stand(b)
	}
}

// release ends what d has to do with its young event.
func (q *lanes) release(d *delivery) {
	d.event = nil
	if y := d.young; y != nil {
		d.young = nil
		q.close(y)
	}
}

// close settles one of what is open of y.
func (q *lanes) close(y *young) {
	y.open--
	switch {
	case y.page == nil:
		q.rise()
	case y.open == 0:
		q.pageSettled(y)
	}
}

// rise lifts the floor over the events that nothing is open of.
func (q *lanes) rise() {
	for q.young.len() > 0 && q.young.at(0).open == 0 {
		q.floor = q.young.pop().seq
		q.moving = max(0, q.moving-1)
	}
}

// dirtiedLane has the outbox told of all of l that it does not know, in their
// order: none of them leaves within a moment.
func (q *lanes) dirtiedLane(l *lane) {
	for _, d := range l.queue {
		if d.young != nil {
			q.dirtied(d)
		}
	}
}

// dirtied has the outbox told of d.
func (q *lanes) dirtied(d *delivery) {
	if !d.dirty {
		d.dirty = true
		q.dirty.push(d)
	}
}

// tick does what is due at now.
func (q *lanes) tick(now time.Time) {
	for len(q.resting) > 0 && !q.resting[0].queue[0].until().After(now) {
		d := q.resting[0].queue[0]
		if d.tooOld(now) {
			q.end(d, expired)
			continue
		}
		q.unrest(d)
		d.patient = false
		q.makeReady(d)
	}
	if !q.probeAt.IsZero() && !now.Before(q.probeAt) {
		q.probe(now)
	}
	for q.moving < q.young.len() && now.Sub(q.young.at(q.moving).read) >= moment {
		for _, d := range q.young.at(q.moving).owed {
			if d.young != nil && !d.telling {
				q.dirtied(d)
			}
		}
		q.young.at(q.moving).owed = nil
		q.moving++
	}
}

// wakeAt is when tick, or letters, has something to do next that it had not at
// now.
func (q *lanes) wakeAt(now time.Time) (at time.Time, ok bool) {
	earlier := func(t time.Time) {
		if !ok || t.Before(at) {
			at, ok = t, true
		}
	}
	if len(q.resting) > 0 {
		earlier(q.resting[0].queue[0].until())
	}
	if !q.probeAt.IsZero() {
		earlier(q.probeAt)
	}
	if q.moving < q.young.len() {
		earlier(q.young.at(q.moving).read.Add(moment))
	}
	if q.floor > q.cursor && q.cursorDue.After(now) {
		earlier(q.cursorDue)
	}
	return at, ok
}

// A letter is what the outbox must be told: of a delivery, of a backlog, or that
// the floor has risen.
type letter struct {
	delivery *delivery
	backlog  *backlog
	gone     bool   // the delivery, or the backlog, is over
	floor    uint64 // if it is of neither
}

// letters returns what the outbox must be told now.
func (q *lanes) letters(now time.Time) (letters []letter) {
	letters = q.wordsOfBacklogs()
	for len(letters) < waveSize && q.dirty.len() > 0 {
		d := q.dirty.pop()
		d.dirty = false
		if d.state == over && !d.told {
			continue // it never heard of it
		}
		d.telling = true
		letters = append(letters, letter{delivery: d, gone: d.state == over})
	}
	if q.floor > q.cursor && !now.Before(q.cursorDue) {
		q.cursorDue = now.Add(cursorPause)
		letters = append(letters, letter{floor: q.floor})
	}
	return letters
}

// posted takes a letter that was sent; one that failed is sent again.
func (q *lanes) posted(l letter, err error) {
	d := l.delivery
	if l.backlog != nil {
		q.postedBacklog(l, err)
		return
	}
	if d == nil {
		if err == nil {
			q.cursor = max(q.cursor, l.floor)
		}
		return
	}
	d.telling = false
	if err != nil {
		if r := d.lane.target.replayOf(d); l.gone && r != nil {
			d = r // whose word takes the place of that of d
		}
		d.told = true // it may have: the answer may be what was lost
		q.dirtied(d)
		return
	}
	d.told = !l.gone
	if !l.gone {
		q.release(d)
	}
}

// restingLanes is a heap: the first is the one whose rest ends first.
type restingLanes []*lane

func (h restingLanes) Len() int           { return len(h) }
func (h restingLanes) Less(i, j int) bool { return h[i].queue[0].until().Before(h[j].queue[0].until()) }
func (h restingLanes) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].place, h[j].place = i, j
}

func (h *restingLanes) Push(x any) {
	l := x.(*lane)
	l.place = len(*h)
	*h = append(*h, l)
}

func (h *restingLanes) Pop() any {
	old := *h
	l := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	l.place = -1
	return l
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
