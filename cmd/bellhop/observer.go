package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync/atomic"
	"time"

	"bellhop/dialog"
	"bellhop/dialog/keep"
	"bellhop/dialog/trace"
	"bellhop/notify"
)

// observeQueueSize is the number of messages that may wait for the tracker: the
// messages of more than a second at 10,000 messages a second.
const observeQueueSize = 1 << 14

// observePace is the shortest time between two reads of the message queue. Under load,
// one read handles many messages, but a kill loses the messages that wait. After a
// quiet time, a message does not wait. A call has about 14 messages, so 200 calls a
// second stay below the rate and 1,000 calls a second exceed it.
var observePace = notify.Pace{Rate: 5000, Burst: 1000, Quiet: time.Millisecond, Busy: 10 * time.Millisecond}

// snapshotAge is how long after a change a call is stored. A call that ends within that
// time is never stored. snapshotInterval is the shortest time between two writes.
const (
	snapshotAge      = 250 * time.Millisecond
	snapshotInterval = 100 * time.Millisecond
)

// An observer owns the tracker. It lets the tracker observe each message after the proxy
// has forwarded it, publishes the resulting events, and stores the changes of live calls.
type observer struct {
	tracker      *dialog.Tracker
	traces       *trace.Recorder
	messages     <-chan dialog.Message // the proxy sends without blocking
	publish      func([]dialog.Event)
	storeChanges func(changes []dialog.Change, now, upTo time.Time)
	clock        func() (now time.Time, wallOffset time.Duration) // clock of the messages, and the offset of the wall clock
	unbatched    bool                                             // messages are not batched
	queries      chan func()                                      // functions to call between two messages
	log          *slog.Logger
	panics       atomic.Uint64 // recovered panics

	tracePanics atomic.Uint64 // recovered panics of the trace recorder
}

// newObserver returns an observer. run starts it.
func newObserver(t *dialog.Tracker, traces *trace.Recorder, messages <-chan dialog.Message, clock func() (time.Time, time.Duration), n *notify.Notifier, k *keep.Keeper, unbatched bool, log *slog.Logger) *observer {
	o := &observer{tracker: t, traces: traces, messages: messages, clock: clock, publish: n.EventLog.Append, storeChanges: k.Put, unbatched: unbatched, queries: make(chan func()), log: log}
	traces.OnPanic = func(reason any, stack []byte) {
		o.tracePanics.Add(1)
		o.log.Error("panic recovered", "in", "trace", "err", fmt.Sprint(reason), "stack", string(stack))
	}
	return o
}

// readClock returns the time on the clock of the messages, and updates the tracker's
// wall clock. To compare with times of the tracker, use readClock instead of time.Now.
// The times of the tracker have no monotonic reading, so a comparison with time.Now
// would use the wall clock.
func (o *observer) readClock() time.Time {
	now, offset := o.clock()
	o.tracker.SetClock(now, offset)
	return now
}

// run processes messages until ctx ends, and then those that are still queued.
func (o *observer) run(ctx context.Context) {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	var lastRead, lastStored time.Time
	pace := observePace
	var armed time.Time // when timer fires; zero: it is stopped
	for {
		now := o.readClock()
		storeAt := o.nextSnapshot(lastStored)
		if !storeAt.IsZero() && !storeAt.After(now) {
			o.snapshotCalls(now, now.Add(-snapshotAge))
			lastStored = now
			storeAt = o.nextSnapshot(lastStored)
		}
		at, _ := o.tracker.Next()
		if at.IsZero() || !storeAt.IsZero() && storeAt.Before(at) {
			at = storeAt
		}
		if !at.Equal(armed) {
			armed = at
			timer.Stop()
			if !at.IsZero() {
				timer.Reset(at.Sub(now))
			}
		}
		select {
		case m := <-o.messages:
			if !o.unbatched {
				time.Sleep(time.Until(lastRead.Add(pace.Wait())))
			}
			o.publishEvents(o.observeMessage(m))
			n := 1 + o.drainMessages()
			lastRead = time.Now()
			pace.Add(lastRead, n)
		case <-timer.C:
			armed = time.Time{}
			o.publishEvents(o.advanceTimers(o.readClock()))
		case do := <-o.queries:
			do()
		case <-ctx.Done():
			o.drainMessages()
			now := o.readClock()
			o.snapshotCalls(now, now)
			return
		}
	}
}

// nextSnapshot returns when to store changed calls next. lastStored is when they were
// last stored. The result is zero if no call has changed.
func (o *observer) nextSnapshot(lastStored time.Time) time.Time {
	changed, ok := o.tracker.OldestChange()
	if !ok {
		return time.Time{}
	}
	at := changed.Add(snapshotAge)
	if next := lastStored.Add(snapshotInterval); next.After(at) {
		return next
	}
	return at
}

// snapshotCalls stores the calls that have changed up to the time upTo.
func (o *observer) snapshotCalls(now, upTo time.Time) {
	var remaining []dialog.Event
	func() {
		defer o.recoverPanic("keep", &remaining)
		o.storeChanges(o.tracker.Changed(upTo), now, upTo)
	}()
	o.publishEvents(remaining)
}

// observeMessage passes a message to the tracker and returns the events. A panic of the
// tracker loses that message and its call.
func (o *observer) observeMessage(m dialog.Message) (events []dialog.Event) {
	defer o.recoverPanic("message", &events)
	return o.traces.Observe(o.tracker, m)
}

// advanceTimers runs the tracker's timers that are due and returns the events. A panic
// of the tracker loses the call whose timer was due.
func (o *observer) advanceTimers(now time.Time) (events []dialog.Event) {
	defer o.recoverPanic("timer", &events)
	return o.traces.Advance(o.tracker, now)
}

// recoverPanic is deferred around calls of the tracker. After a panic it abandons the
// call that the tracker was changing. It sets events to those emitted before the panic,
// followed by the last events of that call.
func (o *observer) recoverPanic(what string, events *[]dialog.Event) {
	r := recover()
	if r == nil {
		return
	}
	o.countPanic(what, r)
	for range maxAbandons {
		if o.abandonCall(events) {
			return
		}
	}
}

// maxAbandons is the number of attempts to abandon a call. The tracker may panic again
// in an attempt, but each attempt abandons more of the call.
const maxAbandons = 8

// abandonCall abandons the call that the tracker was changing when it panicked, and
// sets events to those that the tracker still returns. It reports whether it succeeded.
func (o *observer) abandonCall(events *[]dialog.Event) (done bool) {
	defer func() {
		if r := recover(); r != nil {
			o.countPanic("abandon", r)
		}
	}()
	*events = o.tracker.AbandonCall()
	return true
}

// countPanic counts and logs a recovered panic.
func (o *observer) countPanic(what string, r any) {
	o.panics.Add(1)
	o.log.Error("panic recovered", "in", what, "err", fmt.Sprint(r), "stack", string(debug.Stack()))
}

// drainMessages passes all queued messages to the tracker and returns their number.
func (o *observer) drainMessages() (n int) {
	for ; ; n++ {
		select {
		case m := <-o.messages:
			o.publishEvents(o.observeMessage(m))
		default:
			return n
		}
	}
}

// publishEvents publishes events. It gives the time Observed of each event a monotonic
// reading, because the notifier measures the age of events by it.
func (o *observer) publishEvents(events []dialog.Event) {
	defer func() {
		if r := recover(); r != nil {
			o.countPanic("events", r)
		}
	}()
	if len(events) == 0 {
		return
	}
	now, _ := o.clock()
	for i := range events {
		e := &events[i]
		e.Observed = now.Add(e.Observed.Sub(now))
	}
	o.publish(events)
}

// queryTracker calls do with the tracker, between two messages. It returns an error if
// ctx ends first, if the observer is busy for a second, or if do panics.
func (o *observer) queryTracker(ctx context.Context, do func(*dialog.Tracker)) (err error) {
	done := make(chan struct{})
	guarded := func() {
		defer close(done)
		defer func() {
			if r := recover(); r != nil {
				o.countPanic("query", r)
				err = errors.New("query tracker: panic recovered: see the log")
			}
		}()
		do(o.tracker)
	}
	busy := time.NewTimer(time.Second)
	defer busy.Stop()
	select {
	case o.queries <- guarded:
		<-done
		return err
	case <-busy.C:
		return errors.New("query tracker: busy for 1s")
	case <-ctx.Done():
		return ctx.Err()
	}
}

// liveCalls returns the live calls, oldest first. It may be called from any goroutine.
func (o *observer) liveCalls(ctx context.Context) (calls []dialog.Call, err error) {
	err = o.queryTracker(ctx, func(t *dialog.Tracker) { calls = t.Calls() })
	return calls, err
}

// knownExtensions returns the extensions that the tracker knows. It may be called from
// any goroutine.
func (o *observer) knownExtensions(ctx context.Context) (all []dialog.ExtensionInfo, err error) {
	err = o.queryTracker(ctx, func(t *dialog.Tracker) { all = t.Extensions(o.readClock()) })
	return all, err
}

// knownExtension returns what the tracker knows of a user. ok reports whether the user
// is an extension. It may be called from any goroutine.
func (o *observer) knownExtension(ctx context.Context, user string) (k dialog.ExtensionInfo, ok bool, err error) {
	err = o.queryTracker(ctx, func(t *dialog.Tracker) { k, ok = t.ExtensionInfo(user, o.readClock()) })
	return k, ok, err
}

// callTrace returns the recorded messages of a call. ok reports whether there are any.
// It may be called from any goroutine.
func (o *observer) callTrace(ctx context.Context, id string) (call trace.Call, ok bool, err error) {
	err = o.queryTracker(ctx, func(t *dialog.Tracker) { call, ok = o.traces.Call(t, id) })
	return call, ok, err
}
