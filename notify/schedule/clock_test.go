package schedule

import (
	"encoding/json"
	"fmt"
	"testing"
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
		story := s.runAttempts(24*time.Hour, always(WillRetry))
		s.wantEqual(fmt.Sprintf("the first attempt after the clock was set by %v", by), story[0], "0s c/1")
		s.wantEqual("its end", fmt.Sprint(s.ends), "[59s a c/1 expired]")
	}
}

// The outbox stores the backoff of a delivery, so that a restart after the clock was set
// back waits no longer than that.
func TestOutboxStoresBackoff(t *testing.T) {
	s := newSchedulerTest(t, testSubscription("a", "http://a/"))
	s.posts = false
	s.publish("c", dialog.DialIn)
	a := s.takeDueAttempts()[0]
	a.RetryAfter = 20 * time.Second
	s.finish(a, WillRetry)
	for _, u := range s.Updates(s.now, 256) {
		if u.item == nil {
			continue
		}
		var r StoredDelivery
		if err := json.Unmarshal(u.Data, &r); err != nil {
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
