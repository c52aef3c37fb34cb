package main

import (
	"context"
	"sync/atomic"
	"time"
)

// A strain says whether SIP waits for processors, because this process has too much to
// do or because the machine has: while somebody asks, its goroutine looks how late its
// timer is, as messages would be.
type strain struct {
	asked chan struct{} // somebody did
	last  atomic.Int64  // when the timer was late, in ns since the epoch
}

// Each strainTick it looks. A timer that is late by slowTimer is strain for strainFor:
// so is one of 100, as a p99 would have it. strainAsked after the last question it
// looks no more, and costs nothing.
const (
	strainTick  = 10 * time.Millisecond
	slowTimer   = 2 * time.Millisecond
	strainFor   = time.Second
	strainAsked = 2 * time.Second
)

func newStrain() *strain { return &strain{asked: make(chan struct{}, 1)} }

// strained reports whether there is strain. It may be called at any time.
func (s *strain) strained() bool {
	select {
	case s.asked <- struct{}{}:
	default:
	}
	return s.at(time.Now())
}

func (s *strain) at(now time.Time) bool { return now.UnixNano()-s.last.Load() < int64(strainFor) }

// saw takes how late the timer was.
func (s *strain) saw(late time.Duration, now time.Time) {
	if late >= slowTimer {
		s.last.Store(now.UnixNano())
	}
}

// run looks while somebody asks, until ctx ends.
func (s *strain) run(ctx context.Context) {
	timer := time.NewTimer(strainTick)
	defer timer.Stop()
	for asked := time.Now(); ; {
		now := time.Now()
		if now.Sub(asked) > strainAsked { // nobody asks
			select {
			case <-s.asked:
			case <-ctx.Done():
				return
			}
			now = time.Now()
			asked = now
		}
		timer.Reset(strainTick)
		select {
		case <-timer.C:
		case <-ctx.Done():
			return
		}
		end := time.Now()
		s.saw(end.Sub(now)-strainTick, end)
		select {
		case <-s.asked:
			asked = end
		default:
		}
	}
}
