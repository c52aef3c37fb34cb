package main

import (
	"context"
	"sync/atomic"
	"time"
)

// An overloadMonitor detects that SIP waits for processors, because this process or the
// machine has too much to do. Its goroutine measures how late a timer fires, because
// messages are handled equally late. It measures only while overloaded is called again
// and again.
type overloadMonitor struct {
	queried   chan struct{} // has room for one: overloaded was called
	lastDelay atomic.Int64  // time of the last late timer, in ns since 1970
}

// If a timer of overloadTick fires overloadDelay late, SIP counts as overloaded for
// overloadHold. One late timer among the hundred of a second suffices, because it
// raises the 99th percentile of the latency. The measurement stops overloadIdle after
// the last call of overloaded, and then costs nothing.
const (
	overloadTick  = 10 * time.Millisecond
	overloadDelay = 2 * time.Millisecond
	overloadHold  = time.Second
	overloadIdle  = 2 * time.Second
)

// newOverloadMonitor returns a monitor. run starts it.
func newOverloadMonitor() *overloadMonitor { return &overloadMonitor{queried: make(chan struct{}, 1)} }

// overloaded reports whether SIP waits for processors. It may be called from any
// goroutine.
func (s *overloadMonitor) overloaded() bool {
	select {
	case s.queried <- struct{}{}:
	default:
	}
	return s.overloadedAt(time.Now())
}

// overloadedAt reports whether a timer was late within overloadHold before now.
func (s *overloadMonitor) overloadedAt(now time.Time) bool {
	return now.UnixNano()-s.lastDelay.Load() < int64(overloadHold)
}

// recordDelay records that a timer fired at now, if it was late by overloadDelay or
// more.
func (s *overloadMonitor) recordDelay(late time.Duration, now time.Time) {
	if late >= overloadDelay {
		s.lastDelay.Store(now.UnixNano())
	}
}

// run measures until ctx ends. It pauses if overloaded has not been called for
// overloadIdle.
func (s *overloadMonitor) run(ctx context.Context) {
	timer := time.NewTimer(overloadTick)
	defer timer.Stop()
	for asked := time.Now(); ; {
		now := time.Now()
		if now.Sub(asked) > overloadIdle { // overloaded is not being called
			select {
			case <-s.queried:
			case <-ctx.Done():
				return
			}
			now = time.Now()
			asked = now
		}
		timer.Reset(overloadTick)
		select {
		case <-timer.C:
		case <-ctx.Done():
			return
		}
		end := time.Now()
		s.recordDelay(end.Sub(now)-overloadTick, end)
		select {
		case <-s.queried:
			asked = end
		default:
		}
	}
}
