package sip

import "math/bits"

// instant is a time in nanoseconds since the hop began.
type instant int64

const (
	tick  = instant(10e6) // 10 ms: no SIP timer is finer
	slots = 4096          // 41 s: all timers but C are reached in one turn
)

// A timer is one deadline of whoever owns it, on one wheel at most.
type timer struct {
	at         instant
	owner      interface{ due(now instant) }
	next, prev *timer
	slot       int32
	set        bool
}

// A wheel holds the timers of one worker. A timer fires at the first tick at
// or behind its deadline. Setting and stopping one costs the same however many
// there are.
type wheel struct {
	slot [slots]*timer
	busy [slots / 64]uint64 // which slots hold a timer
	done instant            // all ticks up to and including it have fired
	n    int
}

// start sets t to fire at the deadline, whatever it was set to before.
func (w *wheel) start(t *timer, at instant) {
	w.stop(t)
	at = (at + tick - 1) / tick * tick
	if at <= w.done {
		at = w.done + tick
	}
	t.at = at
	t.slot = int32(at / tick % slots)
	t.next, t.prev = w.slot[t.slot], nil
	if t.next != nil {
		t.next.prev = t
	}
	w.slot[t.slot] = t
	w.busy[t.slot/64] |= 1 << (t.slot % 64)
	t.set = true
	w.n++
}

// stop makes t not fire.
func (w *wheel) stop(t *timer) {
	if !t.set {
		return
	}
	if t.prev != nil {
		t.prev.next = t.next
	} else if w.slot[t.slot] = t.next; t.next == nil {
		w.busy[t.slot/64] &^= 1 << (t.slot % 64)
	}
	if t.next != nil {
		t.next.prev = t.prev
	}
	t.next, t.prev, t.set = nil, nil, false
	w.n--
}

// next returns the tick of the next slot that holds a timer. It may be a turn
// early for a timer further than a turn away.
func (w *wheel) next() (instant, bool) {
	if w.n == 0 {
		return 0, false
	}
	first := int(w.done/tick+1) % slots
	for i := 0; i <= slots/64; i++ {
		word := (first/64 + i) % (slots / 64)
		b := w.busy[word]
		switch i {
		case 0:
			b &= ^uint64(0) << (first % 64)
		case slots / 64:
			b &= 1<<(first%64) - 1
		}
		if b != 0 {
			d := (word*64 + bits.TrailingZeros64(b) - first + slots) % slots
			return w.done + instant(d+1)*tick, true
		}
	}
	return 0, false // unreachable: n counts what busy shows
}

// advance fires what is due at now.
func (w *wheel) advance(now instant) {
	for {
		at, ok := w.next()
		if !ok || at > now {
			break
		}
		w.done = at
		for t := w.slot[at/tick%slots]; t != nil; {
			next := t.next
			if t.at <= at {
				w.stop(t)
				t.owner.due(at)
				// What fired may have changed the list: begin again.
				next = w.slot[at/tick%slots]
			}
			t = next
		}
	}
	if last := now / tick * tick; last > w.done {
		w.done = last
	}
}
