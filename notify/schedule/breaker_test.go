package schedule

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"bellhop/dialog"
	"bellhop/notify/subscription"
)

// runAttempts gives every attempt the Outcome that how returns, until d has passed. It
// returns the time and label of each attempt.
func (s *schedulerTest) runAttempts(d time.Duration, how func(*attempt) Outcome) (log []string) {
	for until := s.now.Add(d); ; {
		for as := s.takeDueAttempts(); len(as) > 0; as = s.takeDueAttempts() {
			for _, a := range as {
				log = append(log, s.elapsed()+" "+s.labelOf(a.delivery))
				s.finish(a, how(a))
			}
		}
		if s.posts {
			s.writeUpdates(nil)
		}
		at, ok := s.NextWake(s.now)
		if !ok || at.After(until) {
			s.now = until
			s.runDue(s.now)
			return log
		}
		s.now = at
		s.runDue(s.now)
	}
}

func always(o Outcome) func(*attempt) Outcome { return func(*attempt) Outcome { return o } }

// recordPauses records when endpoints are paused and resumed.
func (s *schedulerTest) recordPauses() *[]string {
	var changes []string
	s.hooks.EndpointChanged = func(endpoint string, open bool, _ string) {
		state := "resumed"
		if open {
			state = "paused"
		}
		changes = append(changes, fmt.Sprint(s.elapsed(), " ", state, " ", endpoint))
	}
	return &changes
}

func TestPauseAfterFailuresInARow(t *testing.T) {
	s := newSchedulerTest(t, testSubscription("a", "http://a/"))
	changes := s.recordPauses()
	for i := range 5 {
		s.publish(fmt.Sprint("c", i), dialog.Hangup)
	}
	as := s.takeDueAttempts()
	as = append(as, s.takeDueAttempts()...)
	for _, a := range as {
		s.finish(a, WillRetry)
	}
	s.wantEqual("four failures", fmt.Sprint(*changes), "[]")
	s.finish(s.takeDueAttempts()[0], WillRetry)
	s.wantEqual("the fifth", fmt.Sprint(*changes), "[0s paused http://a]")
	s.publish("new", dialog.Hangup)
	s.wantEqual("while it is paused", s.labelsOf(s.takeDueAttempts()), "")

	var probes []string
	for _, p := range s.runAttempts(2*time.Minute, always(WillRetry)) {
		probes = append(probes, strings.Fields(p)[0])
	}
	s.wantEqual("probes", strings.Join(probes, " "), "1s 3s 7s 15s 31s 1m1s 1m31s")
	s.runAttempts(time.Second, always(Delivered))
	s.wantEqual("a probe succeeds", fmt.Sprint(*changes), "[0s paused http://a 2m1s resumed http://a]")
	s.wantEqual("all is delivered at once", fmt.Sprint(s.pending, len(s.ends)), "0 6")
	if len(s.breakers.endpoints) != 0 || !s.dispatch.nextProbe.IsZero() {
		t.Errorf("left: %d paused, probe at %v", len(s.breakers.endpoints), s.dispatch.nextProbe)
	}
}

func TestPauseAfterHalfOfTwenty(t *testing.T) {
	a, b := testSubscription("a", "http://x/a"), testSubscription("b", "http://x/b")
	a.Types, b.Types = []string{"hangup"}, []string{"message-in"}
	for _, tt := range []struct {
		name  string
		pairs int
		apart time.Duration
		pause bool
	}{
		{"nine of eighteen", 9, time.Second, false},
		{"ten of twenty", 10, time.Second, true},
		{"ten of twenty, in ten minutes", 10, time.Minute, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newSchedulerTest(t, a, b)
			changes := s.recordPauses()
			for i := range tt.pairs {
				at := s.now
				s.publish(fmt.Sprint("m", i), dialog.MessageIn)
				s.finish(s.takeDueAttempts()[0], Delivered)
				d := &delivery{kind: dialog.Hangup, at: s.now, queue: &queue{subscriber: s.subscribers["a"]}}
				s.breakers.countOutcome(s.now, &Attempt{delivery: d, endpoint: s.subscribers["a"].endpoint, Sub: s.subscribers["a"].sub}, &Result{})
				s.now = at.Add(tt.apart)
			}
			if (len(*changes) > 0) != tt.pause {
				t.Errorf("changes: %v", *changes)
			}
		})
	}
}

// A pause of three days loses no durable event, and no live event is delivered after its 60
// s.
func TestPauseKeepsTimeToLive(t *testing.T) {
	s := newSchedulerTest(t, testSubscription("a", "http://a/"))
	for i := range 5 {
		s.publish(fmt.Sprint("c", i), dialog.Hangup)
	}
	s.runAttempts(0, always(WillRetry))
	s.publish("live", dialog.DialIn, dialog.Hangup)
	s.runAttempts(3*24*time.Hour, always(WillRetry))
	if len(s.ends) != 1 || !strings.HasSuffix(s.ends[0], "a live/6 expired") || !strings.HasPrefix(s.ends[0], "1m0") {
		t.Fatalf("ended: %v", s.ends)
	}
	s.runAttempts(time.Minute, always(Delivered))
	if s.pending != 0 || len(s.ends) != 7 {
		t.Errorf("%d pending; ended: %v", s.pending, s.ends)
	}
}

// Any delivery that waits for a paused endpoint may be its probe, also a former probe, but
// not one whose receiver sent Retry-After.
func TestProbePicksWaitingDelivery(t *testing.T) {
	s := newSchedulerTest(t, testSubscription("a", "http://a/"))
	s.publish("c", dialog.Hangup)
	first := s.takeDueAttempts()[0]
	for range 5 { // other calls, which have ended
		d := &delivery{kind: dialog.Hangup, at: s.now, queue: &queue{subscriber: s.subscribers["a"]}}
		s.breakers.countOutcome(s.now, &Attempt{delivery: d, endpoint: first.endpoint, Sub: first.Sub}, &Result{})
	}
	first.RetryAfter = time.Minute
	s.finish(first, WillRetry)
	s.wantEqual("what must wait is no probe", strings.Join(s.runAttempts(90*time.Second, always(WillRetry)), ", "), "1m0s c/1, 1m2s c/1, 1m6s c/1, 1m14s c/1, 1m30s c/1")

	s.publish("d", dialog.Hangup)
	s.ApplySubscription(subscription.Subscription{ID: "a"}, time.Time{})
	s.wantEqual("no probe of who is gone", s.labelsOf(s.takeDueAttempts()), "")
	if s.pending+len(s.breakers.endpoints)+len(s.endpoints) != 0 {
		t.Errorf("left: %d pending, %d paused, %d endpoints", s.pending, len(s.breakers.endpoints), len(s.endpoints))
	}
	s.sleepFor(time.Hour)
}

// The outbox gets the deliveries of a paused endpoint in the order of their queue.
func TestPauseIsStoredInOrder(t *testing.T) {
	s := newSchedulerTest(t, testSubscription("a", "http://a/"))
	s.posts = false
	for i := range 5 {
		s.publish(fmt.Sprint("c", i), dialog.Hangup)
	}
	s.runAttempts(0, always(WillRetry))
	s.writeUpdates(nil)
	s.publish("d", dialog.DialIn)
	s.publish("d", dialog.Hangup)
	s.wantEqual("updates", strings.Join(s.writeUpdates(nil), ", "), "d/6 after 0, d/7 after 0, cursor 5")
}

// A subscription that moves to another endpoint is paused no longer.
func TestMovedSubscriptionLeavesPause(t *testing.T) {
	s := newSchedulerTest(t, testSubscription("a", "http://dead/"), testSubscription("b", "http://dead/"))
	for i := range 3 {
		s.publish(fmt.Sprint("c", i), dialog.Hangup)
	}
	s.runAttempts(0, always(WillRetry))
	s.publish("d", dialog.Hangup)
	s.sleepFor(time.Second)
	s.wantEqual("the probe", fmt.Sprint(len(s.takeDueAttempts())), "1")
	s.ApplySubscription(testSubscription("a", "http://well/"), time.Time{})
	for _, a := range s.takeDueAttempts() {
		s.wantEqual("sent to", a.endpoint.key, "http://well")
		s.finish(a, Delivered)
	}
	if e := s.endpoints["http://dead"]; len(e.subscribers) != 1 || !s.breakers.endpoints[e] {
		t.Errorf("the other is no longer at its endpoint, or that is not paused")
	}
}

// However a probe ends, its endpoint gets another one.
func TestProbeIsFollowedByAnother(t *testing.T) {
	for _, tt := range []struct {
		name string
		end  func(*schedulerTest, *attempt)
	}{
		{"failed", func(s *schedulerTest, a *attempt) { s.finish(a, WillRetry) }},
		{"the store failed", func(s *schedulerTest, a *attempt) { a.LocalFault = true; s.finish(a, WillRetry) }},
		{"switched off", func(s *schedulerTest, a *attempt) {
			s.ApplySubscription(subscription.Subscription{ID: a.Sub.ID}, time.Time{})
			s.finish(a, WillRetry)
		}},
		{"moved", func(s *schedulerTest, a *attempt) {
			s.ApplySubscription(testSubscription(a.Sub.ID, "http://well/"), time.Time{})
			s.finish(a, WillRetry)
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newSchedulerTest(t, testSubscription("a", "http://dead/"), testSubscription("b", "http://dead/"), testSubscription("c", "http://dead/"))
			s.publish("x", dialog.Hangup)
			s.publish("y", dialog.Hangup)
			s.runAttempts(0, always(WillRetry))
			s.sleepFor(time.Second)
			probe := s.takeDueAttempts()
			if len(probe) != 1 {
				t.Fatalf("%d probes", len(probe))
			}
			tt.end(s, probe[0])
			s.runAttempts(0, func(a *attempt) Outcome {
				if a.endpoint.key == "http://well" {
					return Delivered
				}
				t.Errorf("attempted at once: %s of %s", s.labelOf(a.delivery), a.Sub.ID)
				return WillRetry
			})
			next := s.runAttempts(2*time.Second, always(WillRetry))
			if len(next) == 0 {
				t.Error("nothing is probed in the two seconds that follow")
			}
		})
	}
}

// A picked delivery that expires before its attempt is replaced by the next one.
func TestExpiredDeliveryIsNoProbe(t *testing.T) {
	s := newSchedulerTest(t, testSubscription("a", "http://dead/"), testSubscription("b", "http://dead/"))
	for i := range 5 {
		s.publish(fmt.Sprint("c", i), dialog.Hangup)
	}
	s.runAttempts(0, always(WillRetry))
	s.sleepFor(time.Second)
	for range 9 {
		s.sleepFor(0)
		probe := s.takeDueAttempts()
		if len(probe) != 1 {
			t.Fatalf("%d probes, want one", len(probe))
		}
		s.finish(probe[0], Expired)
	}
	s.runAttempts(0, always(Delivered))
	if e := s.endpoints["http://dead"]; s.pending != 0 || e != nil && e.open() {
		t.Errorf("%d wait, and it is paused", s.pending)
	}
}

// A success now and then keeps a subscription active forever.
func TestSuccessEndsFailing(t *testing.T) {
	s := newSchedulerTest(t, testSubscription("a", "http://a/"))
	for range 8 {
		s.publish(fmt.Sprint("c", s.seq), dialog.Hangup)
		s.runAttempts(24*time.Hour, always(WillRetry))
		if since := s.subscribers["a"].failing; s.now.Sub(since) > 25*time.Hour {
			t.Errorf("failing since %v", since)
		}
		s.runAttempts(time.Minute, always(Delivered))
		if since := s.subscribers["a"].failing; !since.IsZero() {
			t.Errorf("after a success it is failing since %v", since)
		}
	}
}
