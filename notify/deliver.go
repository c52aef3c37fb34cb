package notify

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"bellhop/dialog"
)

// A worker is the lanes and what stands around them: the log they are filled
// from, the senders that empty them, the outbox that remembers them. Its
// goroutine owns the lanes; all others talk to it by channels.
type worker struct {
	*Notifier
	lanes *lanes

	next   uint64     // place of the first event that the lanes have not seen
	unread chan entry // what is read of the log, until it is closed; nil: nothing is

	pages  chan page     // that were read again
	paging bool          // one is on its way
	orders chan *backlog // replays that somebody asks for

	todo, done chan *attempt
	under      int // attempts under way
	senders    int // goroutines that make them
	abort      context.CancelFunc
	attempting context.Context

	byHand  chan *nats.Msg // what was delivered so
	posting []letter       // on their way to the outbox; nil: none
	post    chan []*nats.Msg
	posted  chan []written

	hopeless map[string]bool // subscriptions that are being switched off

	helpers sync.WaitGroup
}

// An entry is an event at its place in the log.
type entry struct {
	seq   uint64
	event *dialog.Event
}

// deliver has every event of the log delivered to those who want it, from where
// it was left, until ctx ends. It returns early only if the store fails. Attempts
// under way are heard out, unless mine has ended: then it is no longer for this
// node to make them.
func (n *Notifier) deliver(ctx, mine context.Context) error {
	w := &worker{
		Notifier: n, lanes: newLanes(n.ended), hopeless: make(map[string]bool),
		pages: make(chan page, 1), orders: make(chan *backlog),
		todo: make(chan *attempt, maxSenders), done: make(chan *attempt, maxSenders),
		post: make(chan []*nats.Msg, 1), posted: make(chan []written, 1),
		byHand: make(chan *nats.Msg, 256),
	}
	n.delivers.Store(true)
	defer n.delivers.Store(false)
	w.lanes.changed, w.lanes.health, w.lanes.lagged = w.changed, w.health, w.lagged
	w.lanes.limit = n.maxPending
	n.stats.behind.Store(0)
	n.registry.changeAll()
	w.subscribe()
	sweeper := newSweeper()
	known, err := n.recall(ctx, w.lanes, sweeper)
	if err != nil {
		return err
	}
	first, err := n.fresh.look(ctx, n.events)
	if err != nil {
		return fmt.Errorf("read bellhop_events: %w", err)
	}
	w.next = max(w.lanes.floor+1, first)
	waver, err := newWaver(n)
	if err != nil {
		return fmt.Errorf("write bellhop_outbox: %w", err)
	}
	defer waver.close()
	heard, err := n.js.Conn().ChanSubscribe(handedSubject, w.byHand)
	if err != nil {
		return fmt.Errorf("hear %s: %w", handedSubject, err)
	}
	defer heard.Unsubscribe()

	ctx, stop := context.WithCancel(ctx)
	w.attempting, w.abort = context.WithCancel(mine)
	w.helpers.Go(func() { w.postLetters(waver, sweeper) })
	w.helpers.Go(func() {
		n.restarted(ctx, "replays", func(ctx context.Context) error { return w.hearOrders(ctx, &known) })
	})
	if n.fresh.shared {
		w.helpers.Go(func() { n.restarted(ctx, "follow", n.follow) })
	}
	defer func() {
		stop()
		w.finish()
		close(w.todo)
		close(w.post)
		w.helpers.Wait()
	}()
	return w.run(ctx)
}

// run does what is due, and waits for the next thing to happen.
func (w *worker) run(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		now := time.Now()
		if w.unread == nil && !w.lanes.full() {
			w.catchUp(ctx, now)
		}
		w.readAgain(ctx)
		w.lanes.tick(now)
		w.send(now)
		w.tell(now)
		w.stats.pending.Store(int64(w.lanes.pending))
		if at, ok := w.lanes.wakeAt(now); ok {
			timer.Reset(at.Sub(now))
		}
		unread := w.unread
		if w.lanes.full() {
			unread = nil
		}
		select {
		case <-ctx.Done():
			return nil
		case e, ok := <-unread:
			if !ok {
				w.unread = nil
				continue
			}
			w.subscribe() // who subscribed before it was said is told
			w.add(now, e)
		case p := <-w.pages:
			if err := w.turned(now, p); err != nil && ctx.Err() == nil {
				return err
			}
		case b := <-w.orders:
			w.subscribe()
			w.lanes.restoreBacklog(b)
		case <-w.fresh.news:
		case a := <-w.done:
			w.took(a)
			for range len(w.done) { // those that came together
				w.took(<-w.done)
			}
		case results := <-w.posted:
			w.arrived(results)
		case m := <-w.byHand:
			w.hear(m)
		case <-w.registry.changes:
			w.subscribe()
		case <-timer.C:
		}
	}
}

// catchUp gives the lanes what was just said, and has the log read if it has
// more than that.
func (w *worker) catchUp(ctx context.Context, now time.Time) {
	entries, newest := w.fresh.take()
	if len(entries) > 0 {
		w.subscribe() // who subscribed before they were said is told
	}
	for _, e := range entries {
		if e.seq == w.next {
			w.add(now, e)
			w.next++
		}
	}
	if w.next > newest {
		return
	}
	unread, from := make(chan entry, 256), w.next
	w.unread, w.next = unread, newest+1
	w.helpers.Go(func() {
		defer close(unread)
		w.read(ctx, from, newest, unread)
	})
}

// add gives the lanes an event.
func (w *worker) add(now time.Time, e entry) {
	defer w.contain("queue event")
	w.lanes.add(now, e.seq, e.event)
}

// subscribe takes the subscriptions that changed.
func (w *worker) subscribe() {
	for _, s := range w.registry.take() {
		delete(w.hopeless, s.ID)
		if !s.Active {
			w.standings.set(s.ID, nil)
		}
		st, _ := w.standings.of(s.ID)
		known := w.lanes.targets[s.ID] != nil
		w.lanes.subscribe(s, w.observed(st.Failing))
		w.restorePause(s, st, known)
	}
}

// restorePause opens the circuit breaker again that the standing of a subscription
// tells of, if this node did not deliver to it before. A subscription that was edited
// since gets a new chance.
func (w *worker) restorePause(s Subscription, st standing, known bool) {
	t := w.lanes.targets[s.ID]
	if t == nil || known || st.Paused.IsZero() {
		return
	}
	if s.Modified.After(st.Paused) {
		w.health(t)
		return
	}
	w.lanes.restorePause(time.Now(), s.ID, st)
}

// send hands attempts to the senders until none is ready or all are busy.
func (w *worker) send(now time.Time) {
	for w.under < maxSenders {
		a := w.lanes.next(now)
		if a == nil {
			return
		}
		if w.under++; w.under > w.senders {
			w.senders++
			w.helpers.Go(func() {
				for a := range w.todo {
					w.sender.attempt(w.attempting, w.Notifier, a)
					w.done <- a
				}
			})
		}
		w.todo <- a
	}
}

// took takes an attempt that was made.
func (w *worker) took(a *attempt) {
	w.under--
	if !a.notBefore.IsZero() { // nothing was sent
		if w.lanes.done(time.Now(), a); a.state == over && !a.handed {
			w.recordAttempt(a)
		}
		return
	}
	if a.outcome == waiting {
		w.stats.failed.Add(1)
		w.log.Debug("attempt failed", "subscriber", a.sub.ID, "event", a.seq, "type", a.kind, "err", a.detail)
	}
	if a.outcome == refused && a.named == nil {
		w.disable(a.sub, "the receiver answered 410 Gone")
	}
	now, t := time.Now(), a.lane.target
	w.lanes.done(now, a)
	w.recordAttempt(a)
	w.note(now, t, a.detail)
}

// note has it known if t has been failing for long, or no longer is.
func (w *worker) note(now time.Time, t *target, why string) {
	st, known := w.standings.of(t.sub.ID)
	switch {
	case t.gone:
	case t.failing.IsZero():
		if known && st.Paused.IsZero() {
			w.standings.set(t.sub.ID, nil)
		}
	case now.Sub(t.failing) >= hopeless:
		w.disable(t.sub, "nothing but failures since "+t.failing.UTC().Format(time.RFC3339)+"; the last one: "+why)
	case !known && now.Sub(t.failing) >= patience:
		w.standings.set(t.sub.ID, &standing{Failing: t.failing, Why: why})
	}
}

// changed logs and counts that the circuit breaker of an endpoint opens or closes.
func (w *worker) changed(e *endpoint) {
	if e.open() {
		w.stats.paused.Add(1)
		w.log.Warn("endpoint paused", "endpoint", e.key, "err", e.why)
	} else {
		w.log.Info("endpoint resumed", "endpoint", e.key)
	}
}

// health publishes and stores whether a target is paused, if that is not what is
// known of it.
func (w *worker) health(t *target) {
	if t.gone {
		return
	}
	st, _ := w.standings.of(t.sub.ID)
	b, of := t.openBreaker()
	switch {
	case b == nil && st.Paused.IsZero():
	case b == nil:
		if t.failing.IsZero() || st.Failing.IsZero() {
			w.standings.set(t.sub.ID, nil)
		} else {
			w.standings.set(t.sub.ID, &standing{Failing: t.failing, Why: st.Why})
		}
		if st.Breaker == breakerSubscription {
			w.log.Info("subscription resumed", "subscriber", t.sub.ID)
		}
		w.Say([]dialog.Event{stateEvent(t.sub, "resumed", "", time.Now())})
	case st.Paused.IsZero() || st.Breaker != of:
		begins := st.Paused.IsZero()
		st := standing{Failing: t.failing, Paused: b.paused, Why: b.why, Breaker: of}
		w.standings.set(t.sub.ID, &st)
		if of == breakerSubscription {
			w.stats.ownPaused.Add(1)
			w.log.Warn("subscription paused", "subscriber", t.sub.ID, "err", b.why)
		}
		if begins {
			w.Say([]dialog.Event{stateEvent(t.sub, "paused", st.reason(t.sub), time.Now())})
		}
	}
}

// disable switches a subscription off.
func (w *worker) disable(s *Subscription, why string) {
	if w.hopeless[s.ID] {
		return
	}
	w.hopeless[s.ID] = true
	id, url := s.ID, s.URL
	w.stats.disabled.Add(1)
	w.log.Warn("subscription disabled", "subscriber", id, "why", why)
	w.Say([]dialog.Event{stateEvent(s, StateDisabled, why, time.Now())})
	w.helpers.Go(func() {
		defer w.contain("disable subscription")
		for w.attempting.Err() == nil {
			ctx, cancel := context.WithTimeout(w.attempting, waveTimeout)
			err := w.Notifier.disable(ctx, id, url, why)
			cancel()
			if err == nil {
				return
			}
			w.log.Error("subscription cannot be disabled", "subscriber", id, "err", err)
			pause(w.attempting, errorPause)
		}
	})
}

// tell sends the outbox what it must be told, a wave at a time.
func (w *worker) tell(now time.Time) {
	if w.posting != nil {
		return
	}
	if w.posting = w.lanes.letters(now); w.posting == nil {
		return
	}
	msgs := make([]*nats.Msg, len(w.posting))
	for i, l := range w.posting {
		msgs[i] = l.message()
	}
	w.post <- msgs
}

// arrived takes what became of the letters.
func (w *worker) arrived(results []written) {
	for i, l := range w.posting {
		w.lanes.posted(l, results[i].err)
	}
	w.posting = nil
}

// postLetters writes letters to the outbox, and sweeps it, until there are no
// more.
func (w *worker) postLetters(waver *waver, sweeper *sweeper) {
	for msgs := range w.post {
		w.posted <- w.postWave(waver, sweeper, msgs)
		w.sweep(waver, sweeper)
	}
}

// postWave writes a wave of letters, and says what became of each.
func (w *worker) postWave(waver *waver, sweeper *sweeper, msgs []*nats.Msg) (results []written) {
	results = unanswered(len(msgs)) // of a panic
	defer w.contain("write outbox")
	results = waver.write(w.attempting, msgs)
	for _, r := range results {
		if r.err != nil {
			w.log.Warn("the store does not take deliveries", "err", r.err)
			pause(w.attempting, errorPause)
			break
		}
	}
	for i, r := range results {
		sweeper.wrote(msgs[i], r)
	}
	return results
}

func (w *worker) sweep(waver *waver, sweeper *sweeper) {
	defer w.contain("sweep outbox")
	sweeper.sweep(w.attempting, waver)
}

// finish hears the attempts under way out, for five seconds, and tells the
// outbox what came of them. What was aborted is made again after a restart.
func (w *worker) finish() {
	timer := time.AfterFunc(5*time.Second, w.abort)
	defer timer.Stop()
	for w.under > 0 {
		a := <-w.done
		if w.attempting.Err() != nil {
			w.under--
			continue
		}
		w.took(a)
	}
	for range 2 { // what is on its way, and what has not been
		if w.posting != nil {
			w.arrived(<-w.posted)
		}
		w.lanes.cursorDue = time.Time{}
		w.tell(time.Now())
	}
	if w.posting != nil {
		w.arrived(<-w.posted)
	}
	w.abort()
}

// ended counts, records and logs how a delivery ends.
func (n *Notifier) ended(d *delivery, o outcome) {
	n.stats.ended[o].Add(1)
	n.recordEnd(d, o)
	if o == expired || o == refused {
		n.log.Warn("delivery "+o.String(), "subscriber", d.lane.target.sub.ID, "call", d.lane.name, "type", d.kind, "attempts", d.attempts)
	}
}
