package dialog

import (
	"slices"
	"time"
)

const (
	// minStep is the least change of the wall clock that counts as a step. Time
	// daemons slew what is less, which moves the monotonic clock as well; and
	// between the readings of two clocks a busy machine may pause for a while.
	minStep = 100 * time.Millisecond

	// maxSteps is how many steps are remembered. What was before them is told as
	// before the oldest of them.
	maxSteps = 64
)

// A clock translates between the two clocks that there are: the steady one of
// [Message.At], by which the tracker orders, measures and limits everything, and
// the wall clock, which events tell, and which somebody may set. The zero clock
// takes them for the same.
type clock struct {
	lastReading time.Time     // the latest reading; zero: none yet
	firstOffset time.Duration // the offset before all steps
	steps       []step        // oldest first
}

// A step is a change of the wall clock.
type step struct {
	after  time.Time     // the last reading of the steady clock before it
	offset time.Duration // of the wall clock from the steady one, since then
}

// set takes a reading: at the time now the wall clock was ahead by offset. It
// reports whether that is a step. Readings may come a little out of order.
func (c *clock) addReading(now time.Time, offset time.Duration) bool {
	n := len(c.steps)
	if now.Before(c.lastReading) {
		if n > 0 && now.After(c.steps[n-1].after) && (offset-c.offsetBefore(n-1)).Abs() < minStep {
			c.steps[n-1].after = now // then it was not set yet
		}
		return false
	}
	stepped := (offset - c.offset()).Abs() >= minStep
	if stepped {
		if n == maxSteps {
			c.firstOffset = c.steps[0].offset
			c.steps = slices.Delete(c.steps, 0, 1)
		}
		after := c.lastReading
		if !now.After(after) {
			after = now.Add(-1)
		}
		c.steps = append(c.steps, step{after, offset})
	}
	c.lastReading = now
	return stepped
}

// before is the offset before step i.
func (c *clock) offsetBefore(i int) time.Duration {
	if i == 0 {
		return c.firstOffset
	}
	return c.steps[i-1].offset
}

// offset is how far the wall clock is ahead now.
func (c *clock) offset() time.Duration { return c.offsetBefore(len(c.steps)) }

// wall is what the wall clock showed at a time of the steady one. Of the zero time
// it is zero.
func (c *clock) wallTime(at time.Time) time.Time {
	if at.IsZero() {
		return at
	}
	n := len(c.steps)
	for n > 0 && !at.After(c.steps[n-1].after) {
		n--
	}
	return at.Add(c.offsetBefore(n))
}

// asSet is a time of the steady clock by the wall clock as it is set now. What is
// between it and the wall clock's present is how long ago it was.
func (c *clock) wallAsSet(at time.Time) time.Time {
	if at.IsZero() {
		return at
	}
	return at.Add(c.offset())
}

// steady is the time of the steady clock at which the wall clock, as it is set
// now, showed at. What would be in the future is now: the clock was set back since.
func (c *clock) steadyTime(at time.Time) time.Time {
	at = at.Add(-c.offset())
	if !c.lastReading.IsZero() && at.After(c.lastReading) {
		return c.lastReading
	}
	return at
}

// SetClock tells the tracker that at the time now, of the clock of [Message.At],
// the wall clock is ahead by offset. Messages tell it too: it is for when none
// come, and for before Restore.
func (t *Tracker) SetClock(now time.Time, offset time.Duration) {
	t.updateClock(now.Truncate(time.Microsecond), offset)
}

// readClock takes a reading of both clocks; now is of whole microseconds.
func (t *Tracker) updateClock(now time.Time, offset time.Duration) {
	if !t.clock.addReading(now, offset.Truncate(time.Microsecond)) {
		return
	}
	for _, c := range t.deadlines { // records have times by the wall clock as it is set
		t.markChanged(c)
	}
}

// Wall returns what the wall clock showed at a time of the clock of [Message.At].
func (t *Tracker) Wall(at time.Time) time.Time { return t.clock.wallTime(at) }
