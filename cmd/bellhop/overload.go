package main

import (
	"context"
	"sync/atomic"
	"time"
)

// An overloadMonitor detects that SIP waits for processors, because this process or the
// machine has too much to do. While overloaded is being called, its goroutine measures
// how late a timer fires, as late as messages would be handled.
type overloadMonitor struct {
	queried   chan struct{} // has room for one: overloaded was called
	lastDelay atomic.Int64  // time of the last late timer, in ns since 1970
}

// A timer of overloadTick that fires overloadDelay late means overload for overloadHold.
// One late timer of a hundred suffices, as for a p99. overloadIdle after the last call
// of overloaded the measurement stops and costs nothing.
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

// recordDelay records how late the timer fired.
func (s *overloadMonitor) recordDelay(late time.Duration, now time.Time) {
	if late >= overloadDelay {
		s.lastDelay.Store(now.UnixNano())
	}
}

// run measures until ctx ends, while overloaded is being called.
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
