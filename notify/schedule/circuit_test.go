package schedule

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"bellhop/dialog"
	"bellhop/notify/subscription"
)

// A receiverSite maps URL paths of receivers to the Outcome and the duration of an attempt.
type receiverSite map[string]func() (Outcome, Fault, time.Duration)

func answerOK() (Outcome, Fault, time.Duration) { return Delivered, 0, 10 * time.Millisecond }
func answerFailure() (Outcome, Fault, time.Duration) {
	return WillRetry, BadStatus, 10 * time.Millisecond
}
func answerNever() (Outcome, Fault, time.Duration)    { return WillRetry, NoAnswer, 5 * time.Second }
func dropConnection() (Outcome, Fault, time.Duration) { return WillRetry, NoAnswer, time.Millisecond }
func refuseConnection() (Outcome, Fault, time.Duration) {
	return WillRetry, NoConnection, time.Millisecond
}
func answer410() (Outcome, Fault, time.Duration) { return Refused, 0, time.Millisecond }

// serveSite answers attempts as r does for d; each step calls between with the time since
// the start. It returns the attempts as "time label" by subscription.
func (s *schedulerTest) serveSite(d time.Duration, r receiverSite, every time.Duration, between func()) (attempted map[string][]time.Duration) {
	type ending struct {
		at time.Time
		a  *attempt
	}
	attempted = make(map[string][]time.Duration)
	var under []ending
	next := s.now
	for until := s.now.Add(d); ; {
		for _, a := range s.takeDueAttempts() {
			attempted[a.Sub.ID] = append(attempted[a.Sub.ID], s.now.Sub(s.start))
			o, f, took := r[a.URL.Path]()
			a.Outcome, a.Fault, a.Detail = o, f, "it failed"
			under = append(under, ending{s.now.Add(took), a})
		}
		if s.posts {
			s.writeUpdates(nil)
		}
		at := until
		if w, ok := s.NextWake(s.now); ok && w.Before(at) {
			at = w
		}
		slices.SortStableFunc(under, func(a, b ending) int { return a.at.Compare(b.at) })
		if len(under) > 0 && under[0].at.Before(at) {
			at = under[0].at
		}
		if between != nil && next.Before(at) {
			at = next
		}
		if !at.Before(until) {
			s.now = until
			for _, e := range under { // no attempt is left
				s.FinishAttempt(s.now, &e.a.Attempt, &e.a.Result)
			}
			return attempted
		}
		s.now = at
		for len(under) > 0 && !under[0].at.After(s.now) {
			a := under[0].a
			under = under[1:]
			s.FinishAttempt(s.now, &a.Attempt, &a.Result)
		}
		if between != nil && !next.After(s.now) {
			next = next.Add(every)
			between()
		}
		s.runDue(s.now)
	}
}

// publishCall publishes dial-in, answer and hangup of a call at once.
func (s *schedulerTest) publishCall(n int) {
	s.publish(fmt.Sprint("c", n), dialog.DialIn, dialog.Answer, dialog.Hangup)
}

// A URL that fails, in whatever way, delays no other URL of its host.
func TestFailingURLDelaysNoOther(t *testing.T) {
	for _, tt := range []struct {
		name  string
		site  receiverSite
		pause string // subscriptions whose own breaker is open at the end
	}{
		{"404 for good", receiverSite{"/good": answerOK, "/a": answerFailure}, "a"},
		{"410", receiverSite{"/good": answerOK, "/a": answer410}, ""},
		{"hangs", receiverSite{"/good": answerOK, "/a": answerNever}, "a"},
		{"closes without an answer", receiverSite{"/good": answerOK, "/a": dropConnection}, "a"},
		{"one answers 500, one hangs", receiverSite{"/good": answerOK, "/a": answerFailure, "/b": answerNever}, "a b"},
		{"three hang", receiverSite{"/good": answerOK, "/a": answerNever, "/b": answerNever, "/c": answerNever}, "a b c"},
		{"three hang, one crashes", receiverSite{"/good": answerOK, "/a": answerNever, "/b": answerNever, "/c": answerNever, "/d": dropConnection}, "a b c d"},
	} {
		for _, every := range []time.Duration{500 * time.Millisecond, 2 * time.Second, 2 * time.Minute} {
			t.Run(fmt.Sprint(tt.name, ", a call in ", every), func(t *testing.T) {
				s := newSchedulerTest(t)
				for path := range tt.site {
					sub := testSubscription(path[1:], "http://host"+path)
					sub.MaxInFlight = 20
					s.ApplySubscription(sub, time.Time{})
				}
				late := map[string]time.Duration{}
				s.hooks.Ended = func(e End) {
					if e.Subscription == "good" {
						late["good"] = max(late["good"], s.now.Sub(e.At))
						if e.Outcome != Delivered {
							t.Errorf("%s at /good ends as %v", labelOfEnd(e), e.Outcome)
						}
					}
				}
				calls := 0
				attempted := s.serveSite(100*every, tt.site, every, func() { calls++; s.publishCall(calls) })
				if late["good"] > 100*time.Millisecond || len(attempted["good"]) < 3*(calls-1) {
					t.Errorf("%d calls, %d attempts at /good, the last after %v", calls, len(attempted["good"]), late["good"])
				}
				var open []string
				for sr := range s.breakers.subscribers {
					open = append(open, sr.sub.ID)
				}
				slices.Sort(open)
				s.wantEqual("own breakers", strings.Join(open, " "), tt.pause)
				s.wantEqual("endpoints", fmt.Sprint(len(s.breakers.endpoints)), "0")
				for id, at := range attempted {
					// five failures, the attempts in flight then, and probes
					if most := maxFailuresInRow + 20 + 8 + int(100*every/MaxProbeInterval); id != "good" && len(at) > most {
						t.Errorf("%d attempts at /%s, want %d at most", len(at), id, most)
					}
				}
			})
		}
	}
}

// A host that refuses connections pauses all its subscriptions. When it is back, all
// pending events are delivered, and no probe has used up an attempt.
func TestHostReturns(t *testing.T) {
	for _, out := range []time.Duration{20 * time.Second, 10 * time.Minute, 2 * time.Hour, 4 * 24 * time.Hour} {
		for name, how := range map[string]func() (Outcome, Fault, time.Duration){"refuses": refuseConnection, "hangs": answerNever} {
			t.Run(fmt.Sprint(name, " for ", out), func(t *testing.T) {
				s := newSchedulerTest(t, testSubscription("a", "http://host/a"), testSubscription("b", "http://host/b"), testSubscription("other", "http://other/"))
				r := receiverSite{"/": answerOK, "/a": how, "/b": how}
				calls := 0
				attempted := s.serveSite(out, r, out/10, func() { calls++; s.publishCall(calls) })
				if n := len(attempted["a"]) + len(attempted["b"]); n > 2*60+int(out/MaxProbeInterval)*2 {
					t.Errorf("%d attempts while it was away", n)
				}
				for id, sr := range s.subscribers {
					if b, _ := sr.openBreaker(); (b != nil) != (id != "other") {
						s.Errorf("%s is paused: %v", id, b != nil)
					}
				}
				s.serveSite(MaxProbeInterval+10*time.Second, receiverSite{"/": answerOK, "/a": answerOK, "/b": answerOK}, 0, nil)
				s.wantEqual("pending", fmt.Sprint(s.pending), "0")
				s.wantEqual("open breakers", fmt.Sprint(len(s.breakers.endpoints)+len(s.breakers.subscribers)), "0")
				for _, end := range s.ends {
					var at, id, label, how string
					fmt.Sscan(end, &at, &id, &label, &how)
					_, seq, _ := strings.Cut(label, "/")
					if n, _ := strconv.Atoi(seq); how != "delivered" && n%3 == 0 {
						t.Errorf("a hangup is not delivered: %s", end)
					}
				}
			})
		}
	}
}

// A response of any status closes the breaker of an endpoint; only a delivery accepted by
// the subscription's URL closes the breaker of the subscription.
func TestEachBreakerNeedsOwnSuccess(t *testing.T) {
	for _, tt := range []struct {
		name string
		back receiverSite
		want string // subscriptions paused a minute later, and by which breaker
	}{
		{"all is well", receiverSite{"/a": answerOK, "/b": answerOK}, "a:- b:-"},
		{"one path answers 500", receiverSite{"/a": answerFailure, "/b": answerOK}, "a:subscription b:-"},
		{"one path is gone", receiverSite{"/a": answer410, "/b": answerOK}, "b:-"},
		{"one path hangs", receiverSite{"/a": answerNever, "/b": answerOK}, "a:subscription b:-"},
		{"both hang", receiverSite{"/a": answerNever, "/b": answerNever}, "a:endpoint b:endpoint"},
		{"it stays away", receiverSite{"/a": refuseConnection, "/b": refuseConnection}, "a:endpoint b:endpoint"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newSchedulerTest(t, testSubscription("a", "http://host/a"), testSubscription("b", "http://host/b"))
			for i := range 10 {
				s.publish(fmt.Sprint("c", i), dialog.Hangup)
			}
			s.serveSite(20*time.Second, receiverSite{"/a": refuseConnection, "/b": refuseConnection}, 0, nil)
			s.wantEqual("the endpoint", fmt.Sprint(len(s.breakers.endpoints)), "1")
			s.serveSite(4*time.Minute, tt.back, 0, nil)
			var got []string
			for id, sr := range s.subscribers {
				_, of := sr.openBreaker()
				got = append(got, id+":"+cmp.Or(of, "-"))
			}
			slices.Sort(got)
			s.wantEqual("paused", strings.Join(got, " "), tt.want)
		})
	}
}

// Retry-After of a receiver delays only deliveries of its own subscription, and all of
// these while its breaker is open.
func TestRetryAfterConcernsOneSubscription(t *testing.T) {
	s := newSchedulerTest(t, testSubscription("a", "http://host/a"), testSubscription("b", "http://host/b"))
	for i := range maxFailuresInRow {
		s.publish(fmt.Sprint("c", i), dialog.Hangup)
	}
	for as := s.takeDueAttempts(); len(as) > 0; as = s.takeDueAttempts() {
		for _, a := range as {
			if a.Fault = BadStatus; a.Sub.ID == "b" {
				s.finish(a, Delivered)
				continue
			}
			a.RetryAfter = time.Minute
			s.finish(a, WillRetry)
		}
	}
	s.wantEqual("own breakers", fmt.Sprint(len(s.breakers.subscribers), len(s.breakers.endpoints)), "1 0")
	attempted := s.serveSite(59*time.Second, receiverSite{"/a": answerOK, "/b": answerOK}, 10*time.Second, func() { s.publish("new", dialog.Hangup) })
	if len(attempted["a"]) != 0 || len(attempted["b"]) != 6 {
		t.Errorf("attempted %v", attempted)
	}
	s.serveSite(2*time.Second, receiverSite{"/a": answerOK, "/b": answerOK}, 0, nil)
	s.wantEqual("then all comes", fmt.Sprint(s.pending, len(s.breakers.subscribers)), "0 0")
}

// A delivery that its receiver never accepts does not block other calls: the next probe is
// the delivery with the fewest attempts.
func TestProbePrefersFewestAttempts(t *testing.T) {
	s := newSchedulerTest(t, testSubscription("a", "http://host/a"))
	poison := func(a *attempt) Outcome {
		if a.Fault = BadStatus; a.delivery.queue.order == "poison" {
			return WillRetry
		}
		return Delivered
	}
	s.publish("poison", dialog.Hangup)
	s.runAttempts(20*time.Minute, poison)
	s.wantEqual("own breakers", fmt.Sprint(len(s.breakers.subscribers)), "1")
	s.publish("c", dialog.Hangup)
	attempts := s.runAttempts(MaxProbeInterval, poison)
	if len(s.breakers.subscribers) != 0 || s.pending != 1 || len(s.ends) != 1 {
		t.Errorf("%d open, %d pending: %v", len(s.breakers.subscribers), s.pending, attempts)
	}
	d := s.subscribers["a"].queues[queueKey{order: "poison"}].deliveries[0]
	if d.failures > 7 {
		t.Errorf("%d attempts are used up", d.failures)
	}
}

// An edited subscription is attempted at once: its fault may be repaired.
func TestEditClosesOwnBreaker(t *testing.T) {
	for _, tt := range []struct {
		name string
		edit func(*subscription.Subscription)
		how  func() (Outcome, Fault, time.Duration)
		want string // attempts within half a second, breakers open
	}{
		{"other header", func(s *subscription.Subscription) { s.Revision++; s.Headers = map[string]string{"X": "y"} }, answerFailure, "1 0"},
		{"other path", func(s *subscription.Subscription) { s.URL = "http://host/b" }, answerFailure, "1 0"},
		{"the host is down", func(s *subscription.Subscription) { s.Revision++ }, refuseConnection, "0 1"},
		{"other host", func(s *subscription.Subscription) { s.URL = "http://other/b" }, refuseConnection, "1 0"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newSchedulerTest(t, testSubscription("a", "http://host/a"))
			for i := range maxFailuresInRow {
				s.publish(fmt.Sprint("c", i), dialog.Hangup)
			}
			s.serveSite(10*time.Minute+500*time.Millisecond, receiverSite{"/a": tt.how}, 0, nil)
			s.publish("new", dialog.Hangup)
			s.wantEqual("before", fmt.Sprint(len(s.takeDueAttempts()), len(s.breakers.subscribers)+len(s.breakers.endpoints)), "0 1")
			edited := testSubscription("a", "http://host/a")
			tt.edit(&edited)
			s.ApplySubscription(edited, time.Time{})
			n := 0
			for _, a := range s.takeDueAttempts() {
				n = 1
				s.finish(a, Delivered)
			}
			s.wantEqual("after", fmt.Sprint(n, len(s.breakers.subscribers)+len(s.breakers.endpoints)), tt.want)
		})
	}
}

// A slow URL with a high max_in_flight leaves slots for other URLs of its endpoint.
func TestSlowURLLeavesSlots(t *testing.T) {
	slow, other := testSubscription("slow", "http://host/slow"), testSubscription("other", "http://host/other")
	slow.MaxInFlight = 100
	slow.Types, other.Types = []string{"hangup"}, []string{"message-in"}
	s := newSchedulerTest(t, slow, other)
	for i := range 200 {
		s.publish(fmt.Sprint("c", i), dialog.Hangup)
	}
	if n := len(s.takeDueAttempts()); n != maxEndpointAttempts/2 {
		t.Errorf("%d attempts of one at once", n)
	}
	s.publish("m", dialog.MessageIn)
	s.wantEqual("the other is attempted", s.labelsOf(s.takeDueAttempts()), "m/201")
}

// Receivers and subscriptions change at random: a healthy one is never late, and once all
// are healthy nothing is pending and no breaker is open.
func TestBreakersWithManyReceivers(t *testing.T) {
	for seed := range uint64(30) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			r := rand.New(rand.NewPCG(seed, 1))
			ways := []func() (Outcome, Fault, time.Duration){answerOK, answerFailure, answerNever, dropConnection}
			answers := receiverSite{"/good": answerOK}
			all := receiverSite{"/good": answerOK}
			s := newSchedulerTest(t, testSubscription("good", "http://host/good"))
			for i := range 6 {
				path := fmt.Sprint("/", i)
				answers[path], all[path] = ways[r.IntN(len(ways))], answerOK
				s.ApplySubscription(testSubscription(path[1:], fmt.Sprint("http://host", path)), time.Time{})
			}
			reported := map[string]bool{} // paused, by subscription
			s.hooks.HealthChanged = func(h Health) { reported[h.Subscription.ID] = !h.Paused.IsZero() }
			s.hooks.Ended = func(e End) {
				if e.Subscription == "good" && (e.Outcome != Delivered || s.now.Sub(e.At) > time.Second) {
					t.Errorf("%s: %s at /good after %v: %v", s.elapsed(), labelOfEnd(e), s.now.Sub(e.At), e.Outcome)
				}
			}
			s.serveSite(30*time.Minute, answers, 3*time.Second, func() {
				s.publishCall(r.IntN(1000))
				path := fmt.Sprint("/", r.IntN(6))
				switch r.IntN(20) {
				case 0:
					answers[path] = ways[r.IntN(len(ways))]
				case 1:
					edited := testSubscription(path[1:], fmt.Sprint("http://host", path))
					edited.Revision = s.seq
					s.ApplySubscription(edited, time.Time{})
				case 2:
					s.ApplySubscription(subscription.Subscription{ID: path[1:]}, time.Time{})
					delete(reported, path[1:])
				case 3:
					s.ApplySubscription(testSubscription(path[1:], fmt.Sprint("http://host", path)), time.Time{})
				case 4:
					s.redeliver(s.now, path[1:], fmt.Sprint("c", r.IntN(1000)), s.seq)
				}
				s.checkStates()
				for id, sr := range s.subscribers {
					if b, _ := sr.openBreaker(); reported[id] != (b != nil) {
						s.Errorf("%s: %s is paused: %v, reported %v", s.elapsed(), id, b != nil, reported[id])
					}
				}
			})
			s.serveSite(30*24*time.Hour, all, 0, nil)
			if s.pending+len(s.breakers.endpoints)+len(s.breakers.subscribers)+len(s.dispatch.backoffs) != 0 {
				t.Errorf("%d pending, %d and %d breakers open, %d rest", s.pending, len(s.breakers.endpoints), len(s.breakers.subscribers), len(s.dispatch.backoffs))
			}
		})
	}
}
