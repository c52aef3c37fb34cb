package notify

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"bellhop/dialog"
)

// plays answers everything that is attempted until d has passed, and returns
// when what was attempted.
func (s *stage) plays(d time.Duration, how func(*attempt) outcome) (story []string) {
	for until := s.now.Add(d); ; {
		for as := s.attempts(); len(as) > 0; as = s.attempts() {
			for _, a := range as {
				story = append(story, s.since()+" "+s.label(a.delivery))
				s.answer(a, how(a))
			}
		}
		if s.posts {
			s.post(nil)
		}
		at, ok := s.nextWake(s.now)
		if !ok || at.After(until) {
			s.now = until
			s.runDue(s.now)
			return story
		}
		s.now = at
		s.runDue(s.now)
	}
}

func all(o outcome) func(*attempt) outcome { return func(*attempt) outcome { return o } }

// watched notes every pause and its end.
func (s *stage) watched() *[]string {
	var changes []string
	s.onBreakerChange = func(e *endpoint) {
		word := "resumed"
		if e.open() {
			word = "paused"
		}
		changes = append(changes, fmt.Sprint(s.since(), " ", word, " ", e.key))
	}
	return &changes
}

func TestPauseAfterFailuresInARow(t *testing.T) {
	s := newStage(t, sub("a", "http://a/"))
	changes := s.watched()
	for i := range 5 {
		s.say(fmt.Sprint("c", i), dialog.Hangup)
	}
	as := s.attempts()
	as = append(as, s.attempts()...)
	for _, a := range as {
		s.answer(a, willRetry)
	}
	s.want("four failures", fmt.Sprint(*changes), "[]")
	s.answer(s.attempts()[0], willRetry)
	s.want("the fifth", fmt.Sprint(*changes), "[0s paused http://a]")
	s.say("new", dialog.Hangup)
	s.want("while it is paused", s.labels(s.attempts()), "")

	var probes []string
	for _, p := range s.plays(2*time.Minute, all(willRetry)) {
		probes = append(probes, strings.Fields(p)[0])
	}
	s.want("probes", strings.Join(probes, " "), "1s 3s 7s 15s 31s 1m1s 1m31s")
	s.plays(time.Second, all(delivered))
	s.want("a probe succeeds", fmt.Sprint(*changes), "[0s paused http://a 2m1s resumed http://a]")
	s.want("all is delivered at once", fmt.Sprint(s.pending, len(s.ends)), "0 6")
	if len(s.openEndpoints) != 0 || !s.nextProbe.IsZero() {
		t.Errorf("left: %d paused, probe at %v", len(s.openEndpoints), s.nextProbe)
	}
}

func TestPauseAfterHalfOfTwenty(t *testing.T) {
	a, b := sub("a", "http://x/a"), sub("b", "http://x/b")
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
			s := newStage(t, a, b)
			changes := s.watched()
			for i := range tt.pairs {
				at := s.now
				s.say(fmt.Sprint("m", i), dialog.MessageIn)
				s.answer(s.attempts()[0], delivered)
				d := &delivery{kind: dialog.Hangup, at: s.now, queue: &deliveryQueue{subscriber: s.subscribers["a"]}}
				s.countOutcome(s.now, &attempt{delivery: d, endpoint: s.subscribers["a"].endpoint, sub: s.subscribers["a"].sub})
				s.now = at.Add(tt.apart)
			}
			if (len(*changes) > 0) != tt.pause {
				t.Errorf("changes: %v", *changes)
			}
		})
	}
}

// A pause of three days costs no record, and no live event outlives its minute.
func TestPauseKeepsWhatItsClassKeeps(t *testing.T) {
	s := newStage(t, sub("a", "http://a/"))
	for i := range 5 {
		s.say(fmt.Sprint("c", i), dialog.Hangup)
	}
	s.plays(0, all(willRetry))
	s.say("live", dialog.DialIn, dialog.Hangup)
	s.plays(3*24*time.Hour, all(willRetry))
	if len(s.ends) != 1 || !strings.HasSuffix(s.ends[0], "a live/6 expired") || !strings.HasPrefix(s.ends[0], "1m0") {
		t.Fatalf("ended: %v", s.ends)
	}
	s.plays(time.Minute, all(delivered))
	if s.pending != 0 || len(s.ends) != 7 {
		t.Errorf("%d pending; ended: %v", s.pending, s.ends)
	}
}

// The probe of a paused endpoint may be any of what waits there, also what was
// woken before, but not what its receiver asked to wait with.
func TestProbe(t *testing.T) {
	s := newStage(t, sub("a", "http://a/"))
	s.say("c", dialog.Hangup)
	first := s.attempts()[0]
	for range 5 { // others, that have ended
		d := &delivery{kind: dialog.Hangup, at: s.now, queue: &deliveryQueue{subscriber: s.subscribers["a"]}}
		s.countOutcome(s.now, &attempt{delivery: d, endpoint: first.endpoint, sub: first.sub})
	}
	first.retryAfter = time.Minute
	s.answer(first, willRetry)
	s.want("what must wait is no probe", strings.Join(s.plays(90*time.Second, all(willRetry)), ", "), "1m0s c/1, 1m2s c/1, 1m6s c/1, 1m14s c/1, 1m30s c/1")

	s.say("d", dialog.Hangup)
	s.applySubscription(Subscription{ID: "a"}, time.Time{})
	s.want("no probe of who is gone", s.labels(s.attempts()), "")
	if s.pending+len(s.openEndpoints)+len(s.endpoints) != 0 {
		t.Errorf("left: %d pending, %d paused, %d endpoints", s.pending, len(s.openEndpoints), len(s.endpoints))
	}
	s.sleep(time.Hour)
}

// What waits at a paused endpoint is known to the outbox in the order of its lane.
func TestPauseIsRememberedInOrder(t *testing.T) {
	s := newStage(t, sub("a", "http://a/"))
	s.posts = false
	for i := range 5 {
		s.say(fmt.Sprint("c", i), dialog.Hangup)
	}
	s.plays(0, all(willRetry))
	s.post(nil)
	s.say("d", dialog.DialIn)
	s.say("d", dialog.Hangup)
	s.want("told", strings.Join(s.post(nil), ", "), "d/6 after 0, d/7 after 0, floor 5")
}

// A subscription that moves to another endpoint leaves the pause behind.
func TestPauseIsLeftBehind(t *testing.T) {
	s := newStage(t, sub("a", "http://dead/"), sub("b", "http://dead/"))
	for i := range 3 {
		s.say(fmt.Sprint("c", i), dialog.Hangup)
	}
	s.plays(0, all(willRetry))
	s.say("d", dialog.Hangup)
	s.sleep(time.Second)
	s.want("the probe", fmt.Sprint(len(s.attempts())), "1")
	s.applySubscription(sub("a", "http://well/"), time.Time{})
	for _, a := range s.attempts() {
		s.want("sent to", a.endpoint.key, "http://well")
		s.answer(a, delivered)
	}
	if e := s.endpoints["http://dead"]; len(e.subscribers) != 1 || !s.openEndpoints[e] {
		t.Errorf("the other is no longer at its endpoint, or that is not paused")
	}
}

// However it ends, no probe leaves its endpoint without the next.
func TestProbeIsFollowed(t *testing.T) {
	for _, tt := range []struct {
		name string
		end  func(*stage, *attempt)
	}{
		{"failed", func(s *stage, a *attempt) { s.answer(a, willRetry) }},
		{"the store failed", func(s *stage, a *attempt) { a.localFault = true; s.answer(a, willRetry) }},
		{"switched off", func(s *stage, a *attempt) {
			s.applySubscription(Subscription{ID: a.sub.ID}, time.Time{})
			s.answer(a, willRetry)
		}},
		{"moved", func(s *stage, a *attempt) {
			s.applySubscription(sub(a.sub.ID, "http://well/"), time.Time{})
			s.answer(a, willRetry)
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newStage(t, sub("a", "http://dead/"), sub("b", "http://dead/"), sub("c", "http://dead/"))
			s.say("x", dialog.Hangup)
			s.say("y", dialog.Hangup)
			s.plays(0, all(willRetry))
			s.sleep(time.Second)
			probe := s.attempts()
			if len(probe) != 1 {
				t.Fatalf("%d probes", len(probe))
			}
			tt.end(s, probe[0])
			s.plays(0, func(a *attempt) outcome {
				if a.endpoint.key == "http://well" {
					return delivered
				}
				t.Errorf("attempted at once: %s of %s", s.label(a.delivery), a.sub.ID)
				return willRetry
			})
			next := s.plays(2*time.Second, all(willRetry))
			if len(next) == 0 {
				t.Error("nothing is probed in the two seconds that follow")
			}
		})
	}
}

// A delivery that was not worth an attempt any more is no probe: the next is.
func TestProbeIsAnAttempt(t *testing.T) {
	s := newStage(t, sub("a", "http://dead/"), sub("b", "http://dead/"))
	for i := range 5 {
		s.say(fmt.Sprint("c", i), dialog.Hangup)
	}
	s.plays(0, all(willRetry))
	s.sleep(time.Second)
	for range 9 {
		s.sleep(0)
		probe := s.attempts()
		if len(probe) != 1 {
			t.Fatalf("%d probes, want one", len(probe))
		}
		s.answer(probe[0], expired)
	}
	s.plays(0, all(delivered))
	if e := s.endpoints["http://dead"]; s.pending != 0 || e != nil && e.open() {
		t.Errorf("%d wait, and it is paused", s.pending)
	}
}
