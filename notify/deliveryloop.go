package notify

import (
	"context"
	"fmt"
	"iter"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"bellhop/dialog"
	"bellhop/notify/eventlog"
	"bellhop/notify/schedule"
	"bellhop/notify/send"
	"bellhop/notify/stream"
)

// A deliveryLoop reads events from the log into the scheduler, hands attempts to sender
// goroutines, and writes the outbox. Only its own goroutine uses the scheduler. All other
// goroutines communicate with it by channels.
type deliveryLoop struct {
	*Notifier
	scheduler *schedule.Scheduler

	newEvents chan []eventlog.Entry // events of the log that may be delivered, in order

	pages       chan page       // pages of the log that were read again, for lagging subscriptions and replays
	readingPage bool            // a page is being read
	replays     chan storedRead // newly requested replays

	attempts, results chan *attempt
	inFlight          int                // attempts with the senders
	senders           int                // goroutines that make attempts
	abort             context.CancelFunc // cancels attemptCtx
	attemptCtx        context.Context

	redeliveries  chan *nats.Msg    // announcements that any node has redelivered an event
	updates       []schedule.Update // being written to the outbox; nil: none
	updateBatches chan []*nats.Msg
	updateResults chan []stream.Result

	signers   map[string]*send.Signer // by subscription id
	disabling map[string]bool         // subscriptions that are being disabled

	helpers sync.WaitGroup
}

// runDelivery delivers the events of the log, from the stored cursor on, until ctx ends.
// It returns early only if the store fails. After ctx has ended, it finishes the attempts
// in flight. If leased ends, it aborts them, because another node may make them.
func (n *Notifier) runDelivery(ctx, leased context.Context) error {
	l := &deliveryLoop{
		Notifier: n, signers: make(map[string]*send.Signer), disabling: make(map[string]bool),
		newEvents: make(chan []eventlog.Entry, 1), pages: make(chan page, 1), replays: make(chan storedRead),
		attempts: make(chan *attempt, maxSenders), results: make(chan *attempt, maxSenders),
		updateBatches: make(chan []*nats.Msg, 1), updateResults: make(chan []stream.Result, 1),
		redeliveries: make(chan *nats.Msg, 256),
	}
	n.delivering.Store(true)
	defer n.delivering.Store(false)
	l.scheduler = schedule.New(n.maxPending, schedule.Hooks{
		Start: l.startAttempt, Ended: n.countEnd, EndpointChanged: l.reportBreaker, HealthChanged: l.publishHealth, LagChanged: l.reportLag, RecoverPanic: n.recoverPanic,
	})
	n.stats.lagging.Store(0)
	n.registry.markAllChanged()
	l.applySubscriptions()
	sweeper := newSweeper()
	known, err := n.restoreOutbox(ctx, l.scheduler, sweeper)
	if err != nil {
		return err
	}
	first, _, err := n.EventLog.Bounds(ctx)
	if err != nil {
		return err
	}
	next := max(l.scheduler.Cursor()+1, first)
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
	l.helpers.Go(func() { n.EventLog.ReadReleased(ctx, next, l.newEvents) })
	l.helpers.Go(func() { l.runOutboxWriter(writer, sweeper) })
	l.helpers.Go(func() {
		n.runRestarting(ctx, "replays", func(ctx context.Context) error { return l.watchReplays(ctx, &known) })
	})
	if n.sharesLog() {
		l.helpers.Go(func() {
			n.runRestarting(ctx, "release events", func(ctx context.Context) error {
				return n.EventLog.ReleaseEvents(ctx, n.registry.syncSubscriptions)
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

// runLoop runs the scheduler until ctx ends. In each round it does everything that is
// due, and then waits for an event, a result, a change or the next due time. It returns
// early if the log cannot be read.
func (l *deliveryLoop) runLoop(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	var events iter.Seq2[uint64, *dialog.Event] // that came in the round before; nil: none
	for {
		now := time.Now()
		l.scheduler.Run(now, events, maxSenders-l.inFlight)
		l.startPageRead(ctx)
		l.saveUpdates(now)
		l.stats.pending.Store(int64(l.scheduler.Pending()))
		l.stats.lagging.Store(int64(l.scheduler.Lagging()))
		if at, ok := l.scheduler.NextWake(now); ok {
			timer.Reset(at.Sub(now))
		}
		newEvents := l.newEvents
		if l.scheduler.Full() {
			newEvents = nil
		}
		events = nil
		select {
		case <-ctx.Done():
			return nil
		case entries := <-newEvents:
			l.applySubscriptions() // a subscription made before the events were published receives them
			events = eachEvent(entries)
		case p := <-l.pages:
			if err := l.takePage(now, p); err != nil && ctx.Err() == nil {
				return err
			}
		case r := <-l.replays:
			l.applySubscriptions()
			l.scheduler.RestoreRead(r.subscription, r.name, r.StoredRead)
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

// drainAttempts waits up to five seconds for the attempts in flight, and writes their
// results to the outbox. It aborts the others; they are made again after a restart.
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
		l.scheduler.SaveCursor()
		l.saveUpdates(time.Now())
	}
	if l.updates != nil {
		l.takeUpdateResults(<-l.updateResults)
	}
	l.abort()
}
