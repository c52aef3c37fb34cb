package notify

import (
	"encoding/json"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"bellhop/dialog"
)

// The age of a live event is the time that has passed since it was observed, whatever the
// wall clock shows.
func TestSetClockExpiresNothing(t *testing.T) {
	for _, by := range []time.Duration{30 * time.Second, -30 * time.Second, time.Hour, -time.Hour, 5 * time.Hour, -5 * time.Hour} {
		s := newSchedulerTest(t, testSubscription("a", "http://a/"))
		s.seq++
		s.addEvent(s.now, s.seq, &dialog.Event{Call: "c", Type: dialog.DialIn, At: s.now.Add(-by), Observed: s.now.Add(-time.Second), Extension: dialog.Extension{User: "101"}})
		story := s.runAttempts(24*time.Hour, always(willRetry))
		s.wantEqual(fmt.Sprintf("the first attempt after the clock was set by %v", by), story[0], "0s c/1")
		s.wantEqual("its end", fmt.Sprint(s.ends), "[59s a c/1 expired]")
	}
}

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
			if got := n.restoreDue(&storedDelivery{Due: stored.Add(tt.due), Backoff: tt.wait}).Sub(began); got != tt.isDue {
				t.Errorf("set by %v: it is due in %v, want %v", tt.ahead, got, tt.isDue)
			}
			if !n.monotonicTime(time.Time{}).IsZero() || !n.restoreDue(&storedDelivery{}).IsZero() {
				t.Error("no time has become one")
			}
		})
	}
}

// The outbox stores the backoff of a delivery, so that a restart after the clock was set
// back waits no longer than that.
func TestOutboxStoresBackoff(t *testing.T) {
	s := newSchedulerTest(t, testSubscription("a", "http://a/"))
	s.posts = false
	s.publish("c", dialog.DialIn)
	a := s.takeDueAttempts()[0]
	a.retryAfter = 20 * time.Second
	s.finish(a, willRetry)
	for _, u := range s.outboxUpdates(s.now) {
		if u.delivery == nil {
			continue
		}
		var r storedDelivery
		if err := json.Unmarshal(u.outboxMessage().Data, &r); err != nil {
			t.Fatal(err)
		}
		if r.Backoff != 20*time.Second || !r.Due.Equal(s.now.Add(r.Backoff)) {
			t.Errorf("the outbox has %+v, want that it waits 20 s", r)
		}
		return
	}
	t.Error("no update of the outbox")
}

// Failures of an hour ago do not count as those of the last minute, even if the clock was
// set back by an hour.
func TestBreakerWhenTheClockIsSet(t *testing.T) {
	var b breaker
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for i := range 2 * minTrippingAttempts {
		b.countAttempt(now, i%2 == 0)
	}
	if !b.mustOpen(now) {
		t.Fatal("half of forty pause nothing")
	}
	if back := now.Add(-time.Hour + 7*time.Second); b.mustOpen(back) {
		t.Error("what was counted before the clock was set back pauses an endpoint")
	}
}
