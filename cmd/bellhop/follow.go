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

// watched is how many messages may wait for the tracker: more than a second's
// at 10,000 messages a second.
const watched = 1 << 14

// gathering is the least time between two looks at what came: under load one look
// serves many messages, but what waits is lost by a kill. After a quiet moment none
// has to wait. A call has some 14 messages, so that 200 calls a second stay below
// the rate, and 1,000 a second are above it.
var gathering = notify.Pace{Rate: 5000, Burst: 1000, Quiet: time.Millisecond, Busy: 10 * time.Millisecond}

// brief is how old a change is when the call is kept: a call that is over by
// then never is. keepEvery is the least time between two such looks.
const (
	brief     = 250 * time.Millisecond
	keepEvery = 100 * time.Millisecond
)

// A follower owns the tracker: it shows it what the hop saw, and passes on what
// that means, and what calls have become.
type follower struct {
	tracker *dialog.Tracker
	traces  *trace.Recorder
	watch   <-chan dialog.Message // the hop writes, and never waits
	say     func([]dialog.Event)
	put     func(changes []dialog.Change, now, upTo time.Time)
	clock   func() (now time.Time, wallOffset time.Duration) // that of the messages, and how far the wall clock is ahead
	prompt  bool                                             // messages do not wait for others
	ask     chan func()                                      // run between two messages
	log     *slog.Logger
	panics  atomic.Uint64 // recovered

	tracePanics atomic.Uint64 // recovered by the recorder
}

func newFollower(t *dialog.Tracker, traces *trace.Recorder, watch <-chan dialog.Message, clock func() (time.Time, time.Duration), n *notify.Notifier, k *keep.Keeper, prompt bool, log *slog.Logger) *follower {
	f := &follower{tracker: t, traces: traces, watch: watch, clock: clock, say: n.Publish, put: k.Put, prompt: prompt, ask: make(chan func()), log: log}
	traces.Panicked = func(reason any, stack []byte) {
		f.tracePanics.Add(1)
		f.log.Error("panic recovered", "in", "trace", "err", fmt.Sprint(reason), "stack", string(stack))
	}
	return f
}

// now reads the clock of the messages, and shows the tracker the wall clock. What
// is timed by the tracker is compared with this: time.Now is the wall clock, where
// it meets a time without a monotonic reading.
func (f *follower) now() time.Time {
	now, offset := f.clock()
	f.tracker.SetClock(now, offset)
	return now
}

// run follows calls until ctx ends, and what the hop saw until then.
func (f *follower) run(ctx context.Context) {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	var looked, kept time.Time
	pace := gathering
	var armed time.Time // when timer fires; zero: nobody cares
	for {
		now := f.now()
		keepAt := f.keepAt(kept)
		if !keepAt.IsZero() && !keepAt.After(now) {
			f.keep(now, now.Add(-brief))
			kept = now
			keepAt = f.keepAt(kept)
		}
		at, _ := f.tracker.Next()
		if at.IsZero() || !keepAt.IsZero() && keepAt.Before(at) {
			at = keepAt
		}
		if !at.Equal(armed) {
			armed = at
			timer.Stop()
			if !at.IsZero() {
				timer.Reset(at.Sub(now))
			}
		}
		select {
		case m := <-f.watch:
			if !f.prompt {
				time.Sleep(time.Until(looked.Add(pace.Wait())))
			}
			f.tell(f.observe(m))
			n := 1 + f.catchUp()
			looked = time.Now()
			pace.Add(looked, n)
		case <-timer.C:
			armed = time.Time{}
			f.tell(f.advance(f.now()))
		case do := <-f.ask:
			do()
		case <-ctx.Done():
			f.catchUp()
			now := f.now()
			f.keep(now, now)
			return
		}
	}
}

// keepAt is when calls are to be kept, if they were at kept the last time; zero:
// none has changed.
func (f *follower) keepAt(kept time.Time) time.Time {
	changed, ok := f.tracker.Unkept()
	if !ok {
		return time.Time{}
	}
	at := changed.Add(brief)
	if next := kept.Add(keepEvery); next.After(at) {
		return next
	}
	return at
}

// keep passes on what calls have become by upTo.
func (f *follower) keep(now, upTo time.Time) {
	var left []dialog.Event
	func() {
		defer f.recovered("keep", &left)
		f.put(f.tracker.Changed(upTo), now, upTo)
	}()
	f.tell(left)
}

// observe shows the tracker a message. A panic costs the message and the call it
// is of.
func (f *follower) observe(m dialog.Message) (events []dialog.Event) {
	defer f.recovered("message", &events)
	return f.traces.Observe(f.tracker, m)
}

// advance has the tracker do what is due. A panic costs the call that was due.
func (f *follower) advance(now time.Time) (events []dialog.Event) {
	defer f.recovered("timer", &events)
	return f.traces.Advance(f.tracker, now)
}

// recovered is deferred. After a panic in what runs it sets events to those of the
// tracker until then, and what is left to tell of the call at hand.
func (f *follower) recovered(what string, events *[]dialog.Event) {
	r := recover()
	if r == nil {
		return
	}
	f.panicked(what, r)
	for range maxAbandon {
		if f.abandon(events) {
			return
		}
	}
}

// maxAbandon is how often a tracker that panics while it gives a call up is asked
// again: each time it has given up more of it.
const maxAbandon = 8

func (f *follower) abandon(events *[]dialog.Event) (done bool) {
	defer func() {
		if r := recover(); r != nil {
			f.panicked("abandon", r)
		}
	}()
	*events = f.tracker.Abandon()
	return true
}

func (f *follower) panicked(what string, r any) {
	f.panics.Add(1)
	f.log.Error("panic recovered", "in", what, "err", fmt.Sprint(r), "stack", string(debug.Stack()))
}

// catchUp shows the tracker what waits already, and returns how many messages that
// was.
func (f *follower) catchUp() (n int) {
	for ; ; n++ {
		select {
		case m := <-f.watch:
			f.tell(f.observe(m))
		default:
			return n
		}
	}
}

// tell passes events on. When they were observed they say with a monotonic reading,
// by which others measure how old they are.
func (f *follower) tell(events []dialog.Event) {
	defer func() {
		if r := recover(); r != nil {
			f.panicked("events", r)
		}
	}()
	if len(events) == 0 {
		return
	}
	now, _ := f.clock()
	for i := range events {
		e := &events[i]
		e.Observed = now.Add(e.Observed.Sub(now))
	}
	f.say(events)
}

// with calls do with the tracker, between two messages. It fails when ctx ends
// first, when the follower is too busy for a second, or when do panics.
func (f *follower) with(ctx context.Context, do func(*dialog.Tracker)) (err error) {
	done := make(chan struct{})
	guarded := func() {
		defer close(done)
		defer func() {
			if r := recover(); r != nil {
				f.panicked("query", r)
				err = errors.New("ask the tracker: it failed: see the log")
			}
		}()
		do(f.tracker)
	}
	busy := time.NewTimer(time.Second)
	defer busy.Stop()
	select {
	case f.ask <- guarded:
		<-done
		return err
	case <-busy.C:
		return errors.New("the tracker is busy")
	case <-ctx.Done():
		return ctx.Err()
	}
}

// calls are the live calls, oldest first. It may be called from any goroutine.
func (f *follower) calls(ctx context.Context) (calls []dialog.Call, err error) {
	err = f.with(ctx, func(t *dialog.Tracker) { calls = t.Calls() })
	return calls, err
}

// extensions are those that the tracker knows. It may be called from any
// goroutine.
func (f *follower) extensions(ctx context.Context) (all []dialog.Known, err error) {
	err = f.with(ctx, func(t *dialog.Tracker) { all = t.Extensions(f.now()) })
	return all, err
}

// extension is what the tracker knows of a user, if that is an extension. It may
// be called from any goroutine.
func (f *follower) extension(ctx context.Context, user string) (k dialog.Known, ok bool, err error) {
	err = f.with(ctx, func(t *dialog.Tracker) { k, ok = t.Known(user, f.now()) })
	return k, ok, err
}

// trace is what is kept of a call. It may be called from any goroutine.
func (f *follower) trace(ctx context.Context, id string) (call trace.Call, ok bool, err error) {
	err = f.with(ctx, func(t *dialog.Tracker) { call, ok = f.traces.Call(t, id) })
	return call, ok, err
}
