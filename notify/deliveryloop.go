package notify

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"bellhop/dialog"
	"bellhop/notify/eventlog"
	"bellhop/notify/send"
	"bellhop/notify/stream"
)

// A deliveryLoop delivers events: it feeds the scheduler from the log, hands attempts to
// senders, and writes the outbox. Its goroutine owns the scheduler; all others communicate
// with it by channels.
type deliveryLoop struct {
	*Notifier
	scheduler *scheduler

	nextSeq    uint64              // position of the first event that the scheduler has not seen
	logEntries chan eventlog.Entry // events read from the log; closed when all are read; nil: nothing is being read

	pages       chan page     // pages that were read again
	readingPage bool          // a page is being read
	replays     chan *logRead // newly requested replays

	attempts, results chan *attempt
	inFlight          int                // attempts with the senders
	senders           int                // goroutines that make attempts
	abort             context.CancelFunc // cancels attemptCtx
	attemptCtx        context.Context

	redeliveries  chan *nats.Msg // announcements of other goroutines and nodes
	updates       []outboxUpdate // being written to the outbox; nil: none
	updateBatches chan []*nats.Msg
	updateResults chan []stream.Result

	signers   map[string]*send.Signer // by subscription id
	disabling map[string]bool         // subscriptions that are being disabled

	helpers sync.WaitGroup
}

// runDelivery delivers the events of the log, from the stored cursor on, until ctx ends. It
// returns early only if the store fails. Attempts in flight are finished, unless leased has
// ended: then another node may make them.
func (n *Notifier) runDelivery(ctx, leased context.Context) error {
	l := &deliveryLoop{
		Notifier: n, scheduler: newScheduler(n.countEnd), signers: make(map[string]*send.Signer), disabling: make(map[string]bool),
		pages: make(chan page, 1), replays: make(chan *logRead),
		attempts: make(chan *attempt, maxSenders), results: make(chan *attempt, maxSenders),
		updateBatches: make(chan []*nats.Msg, 1), updateResults: make(chan []stream.Result, 1),
		redeliveries: make(chan *nats.Msg, 256),
	}
	n.delivering.Store(true)
	defer n.delivering.Store(false)
	l.scheduler.onBreakerChange, l.scheduler.onHealthChange, l.scheduler.onLagChange = l.reportBreaker, l.publishHealth, l.reportLag
	l.scheduler.maxPending = n.maxPending
	n.stats.lagging.Store(0)
	n.registry.markAllChanged()
	l.applySubscriptions()
	sweeper := newSweeper()
	known, err := n.restoreOutbox(ctx, l.scheduler, sweeper)
	if err != nil {
		return err
	}
	first, _, err := n.events.Bounds(ctx)
	if err != nil {
		return err
	}
	l.nextSeq = max(l.scheduler.cursor+1, first)
	writer, err := stream.NewWriter(n.js.Conn(), n.recoverPanic)
	if err != nil {
		return fmt.Errorf("write bellhop_outbox: %w", err)
	}
	defer writer.Close()
	redelivered, err := n.js.Conn().ChanSubscribe(redeliveredSubject, l.redeliveries)
	if err != nil {
		return fmt.Errorf("subscribe to %s: %w", redeliveredSubject, err)
	}
	defer redelivered.Unsubscribe()

	ctx, stop := context.WithCancel(ctx)
	l.attemptCtx, l.abort = context.WithCancel(leased)
	l.helpers.Go(func() { l.runOutboxWriter(writer, sweeper) })
	l.helpers.Go(func() {
		n.runRestarting(ctx, "replays", func(ctx context.Context) error { return l.watchReplays(ctx, &known) })
	})
	if n.sharesLog() {
		l.helpers.Go(func() {
			n.runRestarting(ctx, "release events", func(ctx context.Context) error {
				return n.events.ReleaseEvents(ctx, n.registry.syncSubscriptions)
			})
		})
	}
	defer func() {
		stop()
		l.drainAttempts()
		close(l.attempts)
		close(l.updateBatches)
		l.helpers.Wait()
	}()
	return l.runLoop(ctx)
}

// runLoop does all that is due, and waits for the next thing to happen.
func (l *deliveryLoop) runLoop(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		now := time.Now()
		if l.logEntries == nil && !l.scheduler.full() {
			l.takeNewEvents(ctx, now)
		}
		l.startPageRead(ctx)
		l.scheduler.runDue(now)
		l.startAttempts(now)
		l.saveUpdates(now)
		l.stats.pending.Store(int64(l.scheduler.pending))
		if at, ok := l.scheduler.nextWake(now); ok {
			timer.Reset(at.Sub(now))
		}
		unread := l.logEntries
		if l.scheduler.full() {
			unread = nil
		}
		select {
		case <-ctx.Done():
			return nil
		case e, ok := <-unread:
			if !ok {
				l.logEntries = nil
				continue
			}
			l.applySubscriptions() // a subscription made before the event was published receives it
			l.addEvent(now, e)
		case p := <-l.pages:
			if err := l.takePage(now, p); err != nil && ctx.Err() == nil {
				return err
			}
		case r := <-l.replays:
			l.applySubscriptions()
			l.scheduler.restoreLogRead(r)
		case <-l.events.ReleasedRaised:
		case a := <-l.results:
			l.takeResult(a)
			for range len(l.results) { // results that came together
				l.takeResult(<-l.results)
			}
		case results := <-l.updateResults:
			l.takeUpdateResults(results)
		case m := <-l.redeliveries:
			l.applyRedelivery(m)
		case <-l.registry.changedSignal:
			l.applySubscriptions()
		case <-timer.C:
		}
	}
}

// takeNewEvents queues the events that the log has in its cache, and starts reading further
// ones.
func (l *deliveryLoop) takeNewEvents(ctx context.Context, now time.Time) {
	limit := l.events.Released()
	entries, next := l.events.Cached(l.nextSeq, limit)
	if len(entries) > 0 {
		l.applySubscriptions() // a subscription made before the events were published receives them
	}
	for _, e := range entries {
		l.addEvent(now, e)
	}
	l.nextSeq = next
	if next > limit {
		return
	}
	unread := make(chan eventlog.Entry, readAhead)
	l.logEntries, l.nextSeq = unread, limit+1
	l.helpers.Go(func() {
		defer close(unread)
		for from := next; from <= limit && ctx.Err() == nil; from += readAhead {
			for _, e := range l.events.Read(ctx, from, min(limit, from+readAhead-1)) {
				select {
				case unread <- e:
				case <-ctx.Done():
					return
				}
			}
		}
	})
}

// readAhead is how many events are read from the log before the scheduler has taken them.
const readAhead = 256

// addEvent queues an event; a panic loses only that event.
func (l *deliveryLoop) addEvent(now time.Time, e eventlog.Entry) {
	defer l.recoverPanic("queue event")
	l.scheduler.addEvent(now, e.Seq, e.Event)
}

// applySubscriptions applies the subscriptions that have changed.
func (l *deliveryLoop) applySubscriptions() {
	for _, s := range l.registry.takeChanged() {
		delete(l.disabling, s.ID)
		l.signers[s.ID] = newSigner(&s)
		if !s.Active {
			delete(l.signers, s.ID)
			l.health.set(s.ID, nil)
		}
		st, _ := l.health.get(s.ID)
		known := l.scheduler.subscribers[s.ID] != nil
		l.scheduler.applySubscription(s, l.monotonicTime(st.Failing))
		l.restorePause(s, st, known)
	}
}

// restorePause opens the circuit breaker that the stored health of a subscription names, if
// this node did not deliver to it before. A subscription that was edited since starts
// unpaused.
func (l *deliveryLoop) restorePause(s Subscription, st healthState, known bool) {
	sr := l.scheduler.subscribers[s.ID]
	if sr == nil || known || st.Paused.IsZero() {
		return
	}
	if s.Modified.After(st.Paused) {
		l.publishHealth(sr)
		return
	}
	l.scheduler.restorePause(time.Now(), s.ID, st)
}

// startAttempts hands attempts to the senders until none is due or maxSenders are in
// flight.
func (l *deliveryLoop) startAttempts(now time.Time) {
	for l.inFlight < maxSenders {
		planned, ok := l.scheduler.nextAttempt(now)
		if !ok {
			return
		}
		if l.inFlight++; l.inFlight > l.senders {
			l.senders++
			l.helpers.Go(func() {
				for a := range l.attempts {
					l.makeAttempt(l.attemptCtx, a)
					l.results <- a
				}
			})
		}
		l.attempts <- &attempt{plannedAttempt: planned, signer: l.signers[planned.sub.ID]}
	}
}

// takeResult applies, counts and records the result of an attempt.
func (l *deliveryLoop) takeResult(a *attempt) {
	l.inFlight--
	if !a.notBefore.IsZero() { // no request was sent
		if v := l.scheduler.finishAttempt(time.Now(), &a.plannedAttempt, &a.attemptResult); v.ended && !v.redelivered {
			l.recordAttempt(a, v)
		}
		return
	}
	if a.outcome == willRetry {
		l.stats.failed.Add(1)
		l.log.Debug("attempt failed", "subscriber", a.sub.ID, "event", a.seq, "type", a.kind, "err", a.detail)
	}
	if a.outcome == refused && a.namedURL == nil {
		l.disableSubscription(a.sub, "the receiver answered 410 Gone")
	}
	now, sr := time.Now(), a.delivery.queue.subscriber
	v := l.scheduler.finishAttempt(now, &a.plannedAttempt, &a.attemptResult)
	l.recordAttempt(a, v)
	l.updateHealth(now, sr, a.detail)
}

// updateHealth stores since when sr fails, or that it no longer does, and disables it after
// disableAfter.
func (l *deliveryLoop) updateHealth(now time.Time, sr *subscriber, why string) {
	st, known := l.health.get(sr.sub.ID)
	switch {
	case sr.gone:
	case sr.failing.IsZero():
		if known && st.Paused.IsZero() {
			l.health.set(sr.sub.ID, nil)
		}
	case now.Sub(sr.failing) >= disableAfter:
		l.disableSubscription(sr.sub, "all attempts failed since "+sr.failing.UTC().Format(time.RFC3339)+"; last failure: "+why)
	case !known && now.Sub(sr.failing) >= healthDelay:
		l.health.set(sr.sub.ID, &healthState{Failing: sr.failing, Why: why})
	}
}

// reportBreaker logs and counts that the circuit breaker of an endpoint opens or closes.
func (l *deliveryLoop) reportBreaker(e *endpoint) {
	if e.open() {
		l.stats.paused.Add(1)
		l.log.Warn("endpoint paused", "endpoint", e.key, "err", e.reason)
	} else {
		l.log.Info("endpoint resumed", "endpoint", e.key)
	}
}

// publishHealth publishes and stores whether a subscriber is paused, if that has changed.
func (l *deliveryLoop) publishHealth(sr *subscriber) {
	if sr.gone {
		return
	}
	st, _ := l.health.get(sr.sub.ID)
	b, of := sr.openBreaker()
	switch {
	case b == nil && st.Paused.IsZero():
	case b == nil:
		if sr.failing.IsZero() || st.Failing.IsZero() {
			l.health.set(sr.sub.ID, nil)
		} else {
			l.health.set(sr.sub.ID, &healthState{Failing: sr.failing, Why: st.Why})
		}
		if st.Breaker == breakerSubscription {
			l.log.Info("subscription resumed", "subscriber", sr.sub.ID)
		}
		l.Publish([]dialog.Event{sr.sub.StateEvent("resumed", "", time.Now())})
	case st.Paused.IsZero() || st.Breaker != of:
		begins := st.Paused.IsZero()
		st := healthState{Failing: sr.failing, Paused: b.openSince, Why: b.reason, Breaker: of}
		l.health.set(sr.sub.ID, &st)
		if of == breakerSubscription {
			l.stats.ownPaused.Add(1)
			l.log.Warn("subscription paused", "subscriber", sr.sub.ID, "err", b.reason)
		}
		if begins {
			l.Publish([]dialog.Event{sr.sub.StateEvent("paused", st.pauseReason(sr.sub), time.Now())})
		}
	}
}

// disableSubscription disables a subscription in the store, retrying until that succeeds.
func (l *deliveryLoop) disableSubscription(s *Subscription, why string) {
	if l.disabling[s.ID] {
		return
	}
	l.disabling[s.ID] = true
	id, url := s.ID, s.URL
	l.stats.disabled.Add(1)
	l.log.Warn("subscription disabled", "subscriber", id, "why", why)
	l.Publish([]dialog.Event{s.StateEvent(StateDisabled, why, time.Now())})
	l.helpers.Go(func() {
		defer l.recoverPanic("disable subscription")
		for l.attemptCtx.Err() == nil {
			ctx, cancel := context.WithTimeout(l.attemptCtx, stream.Timeout)
			err := l.Notifier.disableSubscription(ctx, id, url, why)
			cancel()
			if err == nil {
				return
			}
			l.log.Error("subscription not disabled", "subscriber", id, "err", err)
			sleep(l.attemptCtx, stream.Backoff)
		}
	})
}

// saveUpdates hands the next updates to the outbox writer, one batch at a time.
func (l *deliveryLoop) saveUpdates(now time.Time) {
	if l.updates != nil {
		return
	}
	if l.updates = l.scheduler.outboxUpdates(now); l.updates == nil {
		return
	}
	msgs := make([]*nats.Msg, len(l.updates))
	for i, u := range l.updates {
		msgs[i] = u.outboxMessage()
	}
	l.updateBatches <- msgs
}

// takeUpdateResults applies the results of a batch of updates.
func (l *deliveryLoop) takeUpdateResults(results []stream.Result) {
	for i, u := range l.updates {
		l.scheduler.finishUpdate(u, results[i].Err)
	}
	l.updates = nil
}

// runOutboxWriter writes batches to the outbox, and removes superseded messages, until
// updateBatches is closed.
func (l *deliveryLoop) runOutboxWriter(writer *stream.Writer, sweeper *sweeper) {
	for msgs := range l.updateBatches {
		l.updateResults <- l.writeOutboxBatch(writer, sweeper, msgs)
		l.sweepOutbox(writer, sweeper)
	}
}

// writeOutboxBatch writes a batch to the outbox and returns the result of each message.
func (l *deliveryLoop) writeOutboxBatch(writer *stream.Writer, sweeper *sweeper, msgs []*nats.Msg) (results []stream.Result) {
	results = stream.Unanswered(len(msgs)) // if it panics
	defer l.recoverPanic("write outbox")
	results = writer.Write(l.attemptCtx, msgs)
	for _, r := range results {
		if r.Err != nil {
			l.log.Warn("outbox not written", "err", r.Err)
			sleep(l.attemptCtx, stream.Backoff)
			break
		}
	}
	for i, r := range results {
		sweeper.noteResult(msgs[i], r)
	}
	return results
}

// sweepOutbox removes messages that the outbox no longer needs.
func (l *deliveryLoop) sweepOutbox(writer *stream.Writer, sweeper *sweeper) {
	defer l.recoverPanic("sweep outbox")
	sweeper.removeMessages(l.attemptCtx, writer)
}

// drainAttempts waits up to five seconds for the attempts in flight, and writes their
// results to the outbox. Aborted attempts are made again after a restart.
func (l *deliveryLoop) drainAttempts() {
	timer := time.AfterFunc(5*time.Second, l.abort)
	defer timer.Stop()
	for l.inFlight > 0 {
		a := <-l.results
		if l.attemptCtx.Err() != nil {
			l.inFlight--
			continue
		}
		l.takeResult(a)
	}
	for range 2 { // the batch being written, and the rest
		if l.updates != nil {
			l.takeUpdateResults(<-l.updateResults)
		}
		l.scheduler.saveCursorAt = time.Time{}
		l.saveUpdates(time.Now())
	}
	if l.updates != nil {
		l.takeUpdateResults(<-l.updateResults)
	}
	l.abort()
}

// countEnd counts, records and logs the end of a delivery.
func (n *Notifier) countEnd(d *delivery, o outcome) {
	n.stats.ended[o].Add(1)
	n.recordEnd(d, o)
	if o == expired || o == refused {
		n.log.Warn("delivery "+o.String(), "subscriber", d.queue.subscriber.sub.ID, "call", d.queue.name, "type", d.kind, "attempts", d.scheduleStep)
	}
}
