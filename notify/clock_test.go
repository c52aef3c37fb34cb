package notify

import (
	"testing"
	"testing/synctest"
	"time"

	"bellhop/notify/schedule"
)

// Stored times are as old as the wall clock says, and never in the future. A delivery is
// due at its stored time, but no later than after a whole backoff.
func TestStoredTimes(t *testing.T) {
	const s, h = time.Second, time.Hour
	for _, tt := range []struct {
		ahead     time.Duration // the wall clock is
		at, age   time.Duration // before the time at which it was not
		due, wait time.Duration
		isDue     time.Duration // from then
	}{
		{ahead: 0, at: -40 * s, age: 40 * s, due: 25 * s, wait: 30 * s, isDue: 25 * s},
		{ahead: 30 * s, at: -40 * s, age: 70 * s, due: 25 * s, wait: 30 * s, isDue: -5 * s},
		{ahead: -30 * s, at: -40 * s, age: 10 * s, due: 25 * s, wait: 30 * s, isDue: 30 * s},
		{ahead: 5 * h, at: -40 * s, age: 5*h + 40*s, due: 25 * s, wait: 30 * s, isDue: 25*s - 5*h},
		{ahead: -5 * h, at: -40 * s, age: 0, due: 25 * s, wait: 30 * s, isDue: 30 * s},
		{ahead: 0, at: 0, age: 0, due: 20 * h, isDue: 20 * h},                      // stored by an older version
		{ahead: -48 * h, at: 0, age: 0, due: 20 * h, isDue: 28*h + 48*time.Minute}, // the longest backoff
		{ahead: -5 * h, at: -s, age: 0, due: 3 * h, wait: 3 * h, isDue: 3 * h},     // Retry-After
	} {
		synctest.Test(t, func(t *testing.T) {
			began := time.Now()
			n := &Notifier{config: Config{WallClock: func() time.Time { return time.Now().Add(tt.ahead) }}}
			stored := began.Round(0)
			if got := began.Sub(n.monotonicTime(stored.Add(tt.at))); got != tt.age {
				t.Errorf("set by %v: it is %v old, want %v", tt.ahead, got, tt.age)
			}
			if got := n.restoreDue(&schedule.StoredDelivery{Due: stored.Add(tt.due), Backoff: tt.wait}).Sub(began); got != tt.isDue {
				t.Errorf("set by %v: it is due in %v, want %v", tt.ahead, got, tt.isDue)
			}
			if !n.monotonicTime(time.Time{}).IsZero() || !n.restoreDue(&schedule.StoredDelivery{}).IsZero() {
				t.Error("no time has become one")
			}
		})
	}
}
