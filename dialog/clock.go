package dialog

import (
	"slices"
	"time"
)

const (
	// minStep is the smallest change of the wall clock that counts as a step. Time
	// daemons slew smaller differences, which moves the monotonic clock as well. A busy
	// machine may also pause between the readings of the two clocks.
	minStep = 100 * time.Millisecond

	// maxSteps is the largest number of steps in memory. Times before the oldest step use
	// the offset before it.
	maxSteps = 64
)

// A clock translates between the steady clock of [Message.At] and the wall clock. The
// tracker orders and measures by the steady clock. Events show the wall clock, which may
// be set. In the zero clock both are equal.
type clock struct {
	lastReading time.Time     // steady time of the latest reading; zero: none yet
	firstOffset time.Duration // offset before all steps
	steps       []step        // oldest first
}

// A step is a change of the wall clock.
type step struct {
	after  time.Time     // last reading of the steady clock before it
	offset time.Duration // offset of the wall clock from the steady one, since then
}

// addReading adds a reading of both clocks: at the steady time now, the wall clock was
// ahead by offset. It reports whether the wall clock was set since the last reading.
// Readings may be slightly out of order.
func (c *clock) addReading(now time.Time, offset time.Duration) bool {
	n := len(c.steps)
	if now.Before(c.lastReading) {
		if n > 0 && now.After(c.steps[n-1].after) && (offset-c.offsetBefore(n-1)).Abs() < minStep {
			c.steps[n-1].after = now // so the step came later
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

// offsetBefore returns the offset before step i.
func (c *clock) offsetBefore(i int) time.Duration {
	if i == 0 {
		return c.firstOffset
	}
	return c.steps[i-1].offset
}

// offset returns how far the wall clock is ahead of the steady clock at present.
func (c *clock) offset() time.Duration { return c.offsetBefore(len(c.steps)) }

// wallTime returns what the wall clock showed at a time of the steady clock. It returns
// zero for the zero time.
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

// wallAsSet converts a time of the steady clock with the present offset of the wall
// clock, not with the offset at that time. The present reading of the wall clock minus
// the result is therefore the age of that time.
func (c *clock) wallAsSet(at time.Time) time.Time {
	if at.IsZero() {
		return at
	}
	return at.Add(c.offset())
}

// steadyTime translates a time of the wall clock to the steady clock, by the present
// offset. It returns the last reading instead of a later time, which occurs if the wall
// clock was set back.
func (c *clock) steadyTime(at time.Time) time.Time {
	at = at.Add(-c.offset())
	if !c.lastReading.IsZero() && at.After(c.lastReading) {
		return c.lastReading
	}
	return at
}

// SetClock sets how far the wall clock is ahead of the steady clock of [Message.At], at
// the steady time now. Each message sets it too. Call SetClock while no messages come,
// and before Restore.
func (t *Tracker) SetClock(now time.Time, offset time.Duration) {
	t.updateClock(now.Truncate(time.Microsecond), offset)
}

// updateClock adds a reading of both clocks; now is in whole microseconds. If the wall
// clock was set, all calls need new snapshots.
func (t *Tracker) updateClock(now time.Time, offset time.Duration) {
	if !t.clock.addReading(now, offset.Truncate(time.Microsecond)) {
		return
	}
	for _, c := range t.deadlines { // snapshots have times by the wall clock as it is set
		t.changes.mark(c)
	}
}

// Wall returns what the wall clock showed at a time of the clock of [Message.At].
func (t *Tracker) Wall(at time.Time) time.Time { return t.clock.wallTime(at) }
