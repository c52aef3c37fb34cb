package notify

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"bellhop/dialog"
)

// runAttempts gives every attempt the outcome that how returns, until d has passed. It
// returns the time and label of each attempt.
func (s *schedulerTest) runAttempts(d time.Duration, how func(*attempt) outcome) (log []string) {
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
		at, ok := s.nextWake(s.now)
		if !ok || at.After(until) {
			s.now = until
			s.runDue(s.now)
			return log
		}
		s.now = at
		s.runDue(s.now)
	}
}

func always(o outcome) func(*attempt) outcome { return func(*attempt) outcome { return o } }

// recordPauses records when endpoints are paused and resumed.
func (s *schedulerTest) recordPauses() *[]string {
	var changes []string
	s.onBreakerChange = func(e *endpoint) {
		state := "resumed"
		if e.open() {
			state = "paused"
		}
		changes = append(changes, fmt.Sprint(s.elapsed(), " ", state, " ", e.key))
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
		s.finish(a, willRetry)
	}
	s.wantEqual("four failures", fmt.Sprint(*changes), "[]")
	s.finish(s.takeDueAttempts()[0], willRetry)
	s.wantEqual("the fifth", fmt.Sprint(*changes), "[0s paused http://a]")
	s.publish("new", dialog.Hangup)
	s.wantEqual("while it is paused", s.labelsOf(s.takeDueAttempts()), "")

	var probes []string
	for _, p := range s.runAttempts(2*time.Minute, always(willRetry)) {
		probes = append(probes, strings.Fields(p)[0])
	}
	s.wantEqual("probes", strings.Join(probes, " "), "1s 3s 7s 15s 31s 1m1s 1m31s")
	s.runAttempts(time.Second, always(delivered))
	s.wantEqual("a probe succeeds", fmt.Sprint(*changes), "[0s paused http://a 2m1s resumed http://a]")
	s.wantEqual("all is delivered at once", fmt.Sprint(s.pending, len(s.ends)), "0 6")
	if len(s.openEndpoints) != 0 || !s.nextProbe.IsZero() {
		t.Errorf("left: %d paused, probe at %v", len(s.openEndpoints), s.nextProbe)
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
				s.finish(s.takeDueAttempts()[0], delivered)
				d := &delivery{kind: dialog.Hangup, at: s.now, queue: &deliveryQueue{subscriber: s.subscribers["a"]}}
				s.countOutcome(s.now, &plannedAttempt{delivery: d, endpoint: s.subscribers["a"].endpoint, sub: s.subscribers["a"].sub}, &attemptResult{})
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
	s.runAttempts(0, always(willRetry))
	s.publish("live", dialog.DialIn, dialog.Hangup)
	s.runAttempts(3*24*time.Hour, always(willRetry))
	if len(s.ends) != 1 || !strings.HasSuffix(s.ends[0], "a live/6 expired") || !strings.HasPrefix(s.ends[0], "1m0") {
		t.Fatalf("ended: %v", s.ends)
	}
	s.runAttempts(time.Minute, always(delivered))
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
		d := &delivery{kind: dialog.Hangup, at: s.now, queue: &deliveryQueue{subscriber: s.subscribers["a"]}}
		s.countOutcome(s.now, &plannedAttempt{delivery: d, endpoint: first.endpoint, sub: first.sub}, &attemptResult{})
	}
	first.retryAfter = time.Minute
	s.finish(first, willRetry)
	s.wantEqual("what must wait is no probe", strings.Join(s.runAttempts(90*time.Second, always(willRetry)), ", "), "1m0s c/1, 1m2s c/1, 1m6s c/1, 1m14s c/1, 1m30s c/1")

	s.publish("d", dialog.Hangup)
	s.applySubscription(Subscription{ID: "a"}, time.Time{})
	s.wantEqual("no probe of who is gone", s.labelsOf(s.takeDueAttempts()), "")
	if s.pending+len(s.openEndpoints)+len(s.endpoints) != 0 {
		t.Errorf("left: %d pending, %d paused, %d endpoints", s.pending, len(s.openEndpoints), len(s.endpoints))
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
	s.runAttempts(0, always(willRetry))
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
	s.runAttempts(0, always(willRetry))
	s.publish("d", dialog.Hangup)
	s.sleepFor(time.Second)
	s.wantEqual("the probe", fmt.Sprint(len(s.takeDueAttempts())), "1")
	s.applySubscription(testSubscription("a", "http://well/"), time.Time{})
	for _, a := range s.takeDueAttempts() {
		s.wantEqual("sent to", a.endpoint.key, "http://well")
		s.finish(a, delivered)
	}
	if e := s.endpoints["http://dead"]; len(e.subscribers) != 1 || !s.openEndpoints[e] {
		t.Errorf("the other is no longer at its endpoint, or that is not paused")
	}
}

// However a probe ends, its endpoint gets another one.
func TestProbeIsFollowedByAnother(t *testing.T) {
	for _, tt := range []struct {
		name string
		end  func(*schedulerTest, *attempt)
	}{
		{"failed", func(s *schedulerTest, a *attempt) { s.finish(a, willRetry) }},
		{"the store failed", func(s *schedulerTest, a *attempt) { a.localFault = true; s.finish(a, willRetry) }},
		{"switched off", func(s *schedulerTest, a *attempt) {
			s.applySubscription(Subscription{ID: a.sub.ID}, time.Time{})
			s.finish(a, willRetry)
		}},
		{"moved", func(s *schedulerTest, a *attempt) {
			s.applySubscription(testSubscription(a.sub.ID, "http://well/"), time.Time{})
			s.finish(a, willRetry)
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newSchedulerTest(t, testSubscription("a", "http://dead/"), testSubscription("b", "http://dead/"), testSubscription("c", "http://dead/"))
			s.publish("x", dialog.Hangup)
			s.publish("y", dialog.Hangup)
			s.runAttempts(0, always(willRetry))
			s.sleepFor(time.Second)
			probe := s.takeDueAttempts()
			if len(probe) != 1 {
				t.Fatalf("%d probes", len(probe))
			}
			tt.end(s, probe[0])
			s.runAttempts(0, func(a *attempt) outcome {
				if a.endpoint.key == "http://well" {
					return delivered
				}
				t.Errorf("attempted at once: %s of %s", s.labelOf(a.delivery), a.sub.ID)
				return willRetry
			})
			next := s.runAttempts(2*time.Second, always(willRetry))
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
	s.runAttempts(0, always(willRetry))
	s.sleepFor(time.Second)
	for range 9 {
		s.sleepFor(0)
		probe := s.takeDueAttempts()
		if len(probe) != 1 {
			t.Fatalf("%d probes, want one", len(probe))
		}
		s.finish(probe[0], expired)
	}
	s.runAttempts(0, always(delivered))
	if e := s.endpoints["http://dead"]; s.pending != 0 || e != nil && e.open() {
		t.Errorf("%d wait, and it is paused", s.pending)
	}
}
