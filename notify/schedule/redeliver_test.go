package schedule

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"bellhop/dialog"
	"bellhop/notify/subscription"
)

// A redelivered delivery ends, wherever it is in its queue; one in flight ends with its
// attempt.
func TestRedeliveryEndsDelivery(t *testing.T) {
	setting := func(t *testing.T) *schedulerTest {
		s := newSchedulerTest(t, testSubscription("s", "http://a/"))
		s.publish("c", dialog.DialIn, dialog.Answer, dialog.Hangup)
		return s
	}
	for _, tt := range []struct {
		name string
		play func(*schedulerTest)
		ends string
		next string // the next attempt
	}{
		{"due delivery", func(s *schedulerTest) { s.redeliver(s.now, "s", "c", 1) }, "0s s c/1 delivered", "c/2"},
		{"queued delivery", func(s *schedulerTest) {
			s.redeliver(s.now, "s", "c", 2)
			s.finish(s.takeDueAttempts()[0], Delivered)
		}, "0s s c/2 delivered, 0s s c/1 delivered", "c/3"},
		{"delivery that backs off", func(s *schedulerTest) {
			s.finish(s.takeDueAttempts()[0], WillRetry)
			s.redeliver(s.now, "s", "c", 1)
		}, "0s s c/1 delivered", "c/2"},
		{"sending, and it fails", func(s *schedulerTest) {
			a := s.takeDueAttempts()[0]
			s.redeliver(s.now, "s", "c", 1)
			s.finish(a, WillRetry)
		}, "0s s c/1 delivered", "c/2"},
		{"sending, and it succeeds", func(s *schedulerTest) {
			a := s.takeDueAttempts()[0]
			s.redeliver(s.now, "s", "c", 1)
			s.finish(a, Delivered)
		}, "0s s c/1 delivered", "c/2"},
		{"sending, and the subscription goes", func(s *schedulerTest) {
			a := s.takeDueAttempts()[0]
			s.redeliver(s.now, "s", "c", 1)
			s.ApplySubscription(subscription.Subscription{ID: "s"}, time.Time{})
			s.finish(a, WillRetry)
		}, "0s s c/2 canceled, 0s s c/3 canceled, 0s s c/1 delivered", ""},
		{"ended delivery", func(s *schedulerTest) {
			s.finish(s.takeDueAttempts()[0], Delivered)
			s.redeliver(s.now, "s", "c", 1)
		}, "0s s c/1 delivered", "c/2"},
		{"of another call", func(s *schedulerTest) { s.redeliver(s.now, "s", "d", 1) }, "", "c/1"},
		{"of nobody", func(s *schedulerTest) { s.redeliver(s.now, "t", "c", 1) }, "", "c/1"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := setting(t)
			tt.play(s)
			s.wantEqual("ends", strings.Join(s.ends, ", "), tt.ends)
			s.wantEqual("next", s.labelsOf(s.takeDueAttempts()), tt.next)
		})
	}
}

// A successful redelivery ends a pause, like any success.
func TestRedeliveryEndsPause(t *testing.T) {
	s := newSchedulerTest(t, testSubscription("s", "http://a/"))
	for i := range maxFailuresInRow {
		s.publish(fmt.Sprint("c", i), dialog.Hangup)
	}
	for {
		as := s.takeDueAttempts()
		if len(as) == 0 {
			break
		}
		for _, a := range as {
			s.finish(a, WillRetry)
		}
	}
	if len(s.breakers.endpoints) != 1 {
		t.Fatal("the endpoint is not paused")
	}
	s.redeliver(s.now, "s", "c2", 3)
	s.wantEqual("ends", strings.Join(s.ends, ", "), "0s s c2/3 delivered")
	s.sleepFor(6 * time.Second) // deliveries that failed before the breaker opened
	if as := s.takeDueAttempts(); len(s.breakers.endpoints) != 0 || len(as) != maxFailuresInRow-1 {
		t.Errorf("after it %d are attempted, want %d", len(as), maxFailuresInRow-1)
	}
}
