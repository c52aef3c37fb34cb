package sip

import "math/bits"

// instant is a time in nanoseconds since the proxy was made.
type instant int64

const (
	tickLength = instant(10e6) // 10 ms: no SIP timer is finer
	slotCount  = 4096          // 41 s: every timer but Timer C fires within one turn
)

// timer is one deadline. It is on one wheel at most.
type timer struct {
	at         instant // tick at which it fires; 0: it is not running
	owner      interface{ handleTimer(now instant) }
	next, prev *timer
}

// running reports whether t is on a wheel.
func (t *timer) running() bool { return t.at != 0 }

// slotOf returns the slot of the timers that fire at a tick.
func slotOf(at instant) int { return int(at / tickLength % slotCount) }

// wheel holds the timers of one worker. A timer fires at the first tick at or after its
// deadline. Starting and stopping a timer takes constant time.
type wheel struct {
	slots      [slotCount]*timer
	occupied   [slotCount / 64]uint64 // one bit for each slot that holds a timer
	firedUntil instant                // all ticks up to and including it have fired
	count      int
}

// start sets t to fire at the given time. A deadline set before is replaced.
func (w *wheel) start(t *timer, at instant) {
	w.stop(t)
	at = (at + tickLength - 1) / tickLength * tickLength
	if at <= w.firedUntil {
		at = w.firedUntil + tickLength
	}
	slot := slotOf(at)
	t.at, t.next, t.prev = at, w.slots[slot], nil
	if t.next != nil {
		t.next.prev = t
	}
	w.slots[slot] = t
	w.occupied[slot/64] |= 1 << (slot % 64)
	w.count++
}

// stop takes t off the wheel. A timer that is not running stays as it is.
func (w *wheel) stop(t *timer) {
	if !t.running() {
		return
	}
	slot := slotOf(t.at)
	if t.prev != nil {
		t.prev.next = t.next
	} else if w.slots[slot] = t.next; t.next == nil {
		w.occupied[slot/64] &^= 1 << (slot % 64)
	}
	if t.next != nil {
		t.next.prev = t.prev
	}
	t.at, t.next, t.prev = 0, nil, nil
	w.count--
}

// next returns the tick of the next slot that holds a timer, and false if there is none.
// For a timer more than one turn away the tick may be whole turns too early.
func (w *wheel) next() (instant, bool) {
	if w.count == 0 {
		return 0, false
	}
	first := int(w.firedUntil/tickLength+1) % slotCount
	for i := 0; i <= slotCount/64; i++ {
		word := (first/64 + i) % (slotCount / 64)
		b := w.occupied[word]
		switch i {
		case 0:
			b &= ^uint64(0) << (first % 64)
		case slotCount / 64:
			b &= 1<<(first%64) - 1
		}
		if b != 0 {
			d := (word*64 + bits.TrailingZeros64(b) - first + slotCount) % slotCount
			return w.firedUntil + instant(d+1)*tickLength, true
		}
	}
	return 0, false // unreachable: count is the number of timers in occupied slots
}

// advance fires the timers that are due at now.
func (w *wheel) advance(now instant) {
	for {
		at, ok := w.next()
		if !ok || at > now {
			break
		}
		w.firedUntil = at
		for t := w.slots[slotOf(at)]; t != nil; {
			next := t.next
			if t.at <= at {
				w.stop(t)
				t.owner.handleTimer(at)
				// handleTimer may have changed the list, so start again.
				next = w.slots[slotOf(at)]
			}
			t = next
		}
	}
	if last := now / tickLength * tickLength; last > w.firedUntil {
		w.firedUntil = last
	}
}
