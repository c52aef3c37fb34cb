package sip

import (
	"fmt"
	"math/rand/v2"
	"testing"
)

// testTimer notes when it fired.
type testTimer struct {
	timer timer
	fired []instant
	then  func(now instant)
}

func (a *testTimer) handleTimer(now instant) {
	a.fired = append(a.fired, now)
	if a.then != nil {
		a.then(now)
	}
}

func newAlarm() *testTimer {
	a := &testTimer{}
	a.timer.owner = a
	return a
}

// advanceWheel advances the wheel as a worker does: to the next due tick, or to end.
func advanceWheel(w *wheel, end instant) {
	for {
		at, ok := w.next()
		if !ok || at > end {
			w.advance(end)
			return
		}
		w.advance(at)
	}
}

func TestTimersFireAtTheFirstTickAfterTheirDeadline(t *testing.T) {
	const second = instant(1e9)
	for _, start := range []instant{0, 3, tickLength - 1, tickLength, 100 * second, 3600*second + 7} {
		for _, after := range []instant{0, 1, tickLength - 1, tickLength, tickLength + 1, second / 2, 32 * second, 40 * second, slotCount*tickLength - 1, slotCount * tickLength, slotCount*tickLength + 1, 185 * second, 4000 * second} {
			w := &wheel{}
			w.advance(start)
			a := newAlarm()
			w.start(&a.timer, start+after)
			advanceWheel(w, start+after+2*slotCount*tickLength)
			want := (start + after + tickLength - 1) / tickLength * tickLength
			if want <= tickAt(start) {
				want = tickAt(start) + tickLength
			}
			if len(a.fired) != 1 || a.fired[0] != want {
				t.Errorf("from %d after %d: fired at %d, want %d", start, after, a.fired, want)
			}
			if _, ok := w.next(); ok || w.count != 0 {
				t.Errorf("from %d after %d: %d timers are left", start, after, w.count)
			}
		}
	}
}

// tickAt returns the last tick at or before start.
func tickAt(start instant) instant { return start / tickLength * tickLength }

func TestManyTimersFireInOrder(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	w := &wheel{}
	now := instant(0)
	pending := map[*testTimer]instant{}
	for round := range 2000 {
		for range r.IntN(5) {
			a := newAlarm()
			at := now + instant(r.Int64N(int64(100e9)))
			w.start(&a.timer, at)
			pending[a] = at
		}
		for a := range pending {
			switch r.IntN(20) {
			case 0:
				w.stop(&a.timer)
				w.stop(&a.timer)
				delete(pending, a)
			case 1:
				pending[a] = now + instant(r.Int64N(int64(1e9)))
				w.start(&a.timer, pending[a])
			}
		}
		if round%100 == 99 {
			now += instant(r.Int64N(int64(300e9))) // idle, or asleep, for long
		} else {
			now += instant(r.Int64N(int64(2e9)))
		}
		w.advance(now)
		for a, at := range pending {
			switch {
			case at <= now-tickLength && len(a.fired) != 1, at > now && len(a.fired) != 0:
				t.Fatalf("at %d: the timer for %d fired at %d", now, at, a.fired)
			case len(a.fired) == 1 && (a.fired[0] < at || a.fired[0] > at+2*tickLength):
				t.Fatalf("the timer for %d fired at %d", at, a.fired)
			}
			if len(a.fired) == 1 {
				delete(pending, a)
			}
		}
		if w.count != len(pending) {
			t.Fatalf("%d timers are set, want %d", w.count, len(pending))
		}
	}
}

func TestATimerThatFiresMaySetAndStopOthers(t *testing.T) {
	w := &wheel{}
	again, victim, other := newAlarm(), newAlarm(), newAlarm()
	again.then = func(now instant) {
		w.stop(&victim.timer)
		w.start(&other.timer, now)
		if len(again.fired) < 5 {
			w.start(&again.timer, now+slotCount*tickLength) // the same slot, a turn later
		}
	}
	w.start(&victim.timer, tickLength)
	w.start(&other.timer, 5*tickLength)
	w.start(&again.timer, tickLength)
	advanceWheel(w, 10*slotCount*tickLength)
	if got, want := fmt.Sprint(len(again.fired), len(victim.fired), len(other.fired), w.count), "5 0 5 0"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestLateWheelFiresAllDueTimers(t *testing.T) {
	w := &wheel{}
	var as []*testTimer
	for i := range 100 {
		a := newAlarm()
		w.start(&a.timer, instant(i)*slotCount*tickLength/7)
		as = append(as, a)
	}
	w.advance(1000 * slotCount * tickLength)
	for i, a := range as {
		if len(a.fired) != 1 {
			t.Errorf("timer %d fired %d times", i, len(a.fired))
		}
	}
}
