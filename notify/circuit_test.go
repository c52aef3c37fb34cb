package notify

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"bellhop/dialog"
)

// A receiverSite maps URL paths of receivers to the outcome and the duration of an attempt.
type receiverSite map[string]func() (outcome, fault, time.Duration)

func answerOK() (outcome, fault, time.Duration) { return delivered, 0, 10 * time.Millisecond }
func answerFailure() (outcome, fault, time.Duration) {
	return willRetry, badStatus, 10 * time.Millisecond
}
func answerNever() (outcome, fault, time.Duration)    { return willRetry, noAnswer, 5 * time.Second }
func dropConnection() (outcome, fault, time.Duration) { return willRetry, noAnswer, time.Millisecond }
func refuseConnection() (outcome, fault, time.Duration) {
	return willRetry, noConnection, time.Millisecond
}
func answer410() (outcome, fault, time.Duration) { return refused, 0, time.Millisecond }

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
			attempted[a.sub.ID] = append(attempted[a.sub.ID], s.now.Sub(s.start))
			o, f, took := r[a.url.Path]()
			a.outcome, a.fault, a.detail = o, f, "it failed"
			under = append(under, ending{s.now.Add(took), a})
		}
		if s.posts {
			s.writeUpdates(nil)
		}
		at := until
		if w, ok := s.nextWake(s.now); ok && w.Before(at) {
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
				s.finishAttempt(s.now, &e.a.plannedAttempt, &e.a.attemptResult)
			}
			return attempted
		}
		s.now = at
		for len(under) > 0 && !under[0].at.After(s.now) {
			a := under[0].a
			under = under[1:]
			s.finishAttempt(s.now, &a.plannedAttempt, &a.attemptResult)
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
					s.applySubscription(sub, time.Time{})
				}
				late := map[string]time.Duration{}
				s.onEnd = func(d *delivery, o outcome) {
					if id := d.queue.subscriber.sub.ID; id == "good" {
						late["good"] = max(late["good"], s.now.Sub(d.at))
						if o != delivered {
							t.Errorf("%s at /good ends as %v", s.labelOf(d), o)
						}
					}
				}
				calls := 0
				attempted := s.serveSite(100*every, tt.site, every, func() { calls++; s.publishCall(calls) })
				if late["good"] > 100*time.Millisecond || len(attempted["good"]) < 3*(calls-1) {
					t.Errorf("%d calls, %d attempts at /good, the last after %v", calls, len(attempted["good"]), late["good"])
				}
				var open []string
				for sr := range s.openSubscribers {
					open = append(open, sr.sub.ID)
				}
				slices.Sort(open)
				s.wantEqual("own breakers", strings.Join(open, " "), tt.pause)
				s.wantEqual("endpoints", fmt.Sprint(len(s.openEndpoints)), "0")
				for id, at := range attempted {
					// five failures, the attempts in flight then, and probes
					if most := maxFailuresInRow + 20 + 8 + int(100*every/maxProbeInterval); id != "good" && len(at) > most {
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
		for name, how := range map[string]func() (outcome, fault, time.Duration){"refuses": refuseConnection, "hangs": answerNever} {
			t.Run(fmt.Sprint(name, " for ", out), func(t *testing.T) {
				s := newSchedulerTest(t, testSubscription("a", "http://host/a"), testSubscription("b", "http://host/b"), testSubscription("other", "http://other/"))
				r := receiverSite{"/": answerOK, "/a": how, "/b": how}
				calls := 0
				attempted := s.serveSite(out, r, out/10, func() { calls++; s.publishCall(calls) })
				if n := len(attempted["a"]) + len(attempted["b"]); n > 2*60+int(out/maxProbeInterval)*2 {
					t.Errorf("%d attempts while it was away", n)
				}
				for id, sr := range s.subscribers {
					if b, _ := sr.openBreaker(); (b != nil) != (id != "other") {
						s.Errorf("%s is paused: %v", id, b != nil)
					}
				}
				s.serveSite(maxProbeInterval+10*time.Second, receiverSite{"/": answerOK, "/a": answerOK, "/b": answerOK}, 0, nil)
				s.wantEqual("pending", fmt.Sprint(s.pending), "0")
				s.wantEqual("open breakers", fmt.Sprint(len(s.openEndpoints)+len(s.openSubscribers)), "0")
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
			s.wantEqual("the endpoint", fmt.Sprint(len(s.openEndpoints)), "1")
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
			if a.fault = badStatus; a.sub.ID == "b" {
				s.finish(a, delivered)
				continue
			}
			a.retryAfter = time.Minute
			s.finish(a, willRetry)
		}
	}
	s.wantEqual("own breakers", fmt.Sprint(len(s.openSubscribers), len(s.openEndpoints)), "1 0")
	attempted := s.serveSite(59*time.Second, receiverSite{"/a": answerOK, "/b": answerOK}, 10*time.Second, func() { s.publish("new", dialog.Hangup) })
	if len(attempted["a"]) != 0 || len(attempted["b"]) != 6 {
		t.Errorf("attempted %v", attempted)
	}
	s.serveSite(2*time.Second, receiverSite{"/a": answerOK, "/b": answerOK}, 0, nil)
	s.wantEqual("then all comes", fmt.Sprint(s.pending, len(s.openSubscribers)), "0 0")
}

// A delivery that its receiver never accepts does not block other calls: the next probe is
// the delivery with the fewest attempts.
func TestProbePrefersFewestAttempts(t *testing.T) {
	s := newSchedulerTest(t, testSubscription("a", "http://host/a"))
	poison := func(a *attempt) outcome {
		if a.fault = badStatus; a.delivery.queue.name == "poison" {
			return willRetry
		}
		return delivered
	}
	s.publish("poison", dialog.Hangup)
	s.runAttempts(20*time.Minute, poison)
	s.wantEqual("own breakers", fmt.Sprint(len(s.openSubscribers)), "1")
	s.publish("c", dialog.Hangup)
	attempts := s.runAttempts(maxProbeInterval, poison)
	if len(s.openSubscribers) != 0 || s.pending != 1 || len(s.ends) != 1 {
		t.Errorf("%d open, %d pending: %v", len(s.openSubscribers), s.pending, attempts)
	}
	d := s.subscribers["a"].queues["poison"].deliveries[0]
	if d.scheduleStep > 7 {
		t.Errorf("%d attempts are used up", d.scheduleStep)
	}
}

// An edited subscription is attempted at once: its fault may be repaired.
func TestEditClosesOwnBreaker(t *testing.T) {
	for _, tt := range []struct {
		name string
		edit func(*Subscription)
		how  func() (outcome, fault, time.Duration)
		want string // attempts within half a second, breakers open
	}{
		{"other header", func(s *Subscription) { s.Revision++; s.Headers = map[string]string{"X": "y"} }, answerFailure, "1 0"},
		{"other path", func(s *Subscription) { s.URL = "http://host/b" }, answerFailure, "1 0"},
		{"the host is down", func(s *Subscription) { s.Revision++ }, refuseConnection, "0 1"},
		{"other host", func(s *Subscription) { s.URL = "http://other/b" }, refuseConnection, "1 0"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newSchedulerTest(t, testSubscription("a", "http://host/a"))
			for i := range maxFailuresInRow {
				s.publish(fmt.Sprint("c", i), dialog.Hangup)
			}
			s.serveSite(10*time.Minute+500*time.Millisecond, receiverSite{"/a": tt.how}, 0, nil)
			s.publish("new", dialog.Hangup)
			s.wantEqual("before", fmt.Sprint(len(s.takeDueAttempts()), len(s.openSubscribers)+len(s.openEndpoints)), "0 1")
			edited := testSubscription("a", "http://host/a")
			tt.edit(&edited)
			s.applySubscription(edited, time.Time{})
			n := 0
			for _, a := range s.takeDueAttempts() {
				n = 1
				s.finish(a, delivered)
			}
			s.wantEqual("after", fmt.Sprint(n, len(s.openSubscribers)+len(s.openEndpoints)), tt.want)
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
			ways := []func() (outcome, fault, time.Duration){answerOK, answerFailure, answerNever, dropConnection}
			answers := receiverSite{"/good": answerOK}
			all := receiverSite{"/good": answerOK}
			s := newSchedulerTest(t, testSubscription("good", "http://host/good"))
			for i := range 6 {
				path := fmt.Sprint("/", i)
				answers[path], all[path] = ways[r.IntN(len(ways))], answerOK
				s.applySubscription(testSubscription(path[1:], fmt.Sprint("http://host", path)), time.Time{})
			}
			reported := map[string]bool{} // paused, by subscription
			s.onHealthChange = func(sr *subscriber) {
				b, _ := sr.openBreaker()
				reported[sr.sub.ID] = b != nil
			}
			s.onEnd = func(d *delivery, o outcome) {
				if d.queue.subscriber.sub.ID == "good" && (o != delivered || s.now.Sub(d.at) > time.Second) {
					t.Errorf("%s: %s at /good after %v: %v", s.elapsed(), s.labelOf(d), s.now.Sub(d.at), o)
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
					s.applySubscription(edited, time.Time{})
				case 2:
					s.applySubscription(Subscription{ID: path[1:]}, time.Time{})
					delete(reported, path[1:])
				case 3:
					s.applySubscription(testSubscription(path[1:], fmt.Sprint("http://host", path)), time.Time{})
				case 4:
					s.redeliver(s.now, path[1:], fmt.Sprint("c", r.IntN(1000)), s.seq)
				}
				for id, sr := range s.subscribers {
					if b, _ := sr.openBreaker(); reported[id] != (b != nil) {
						s.Errorf("%s: %s is paused: %v, reported %v", s.elapsed(), id, b != nil, reported[id])
					}
				}
			})
			s.serveSite(30*24*time.Hour, all, 0, nil)
			if s.pending+len(s.openEndpoints)+len(s.openSubscribers)+len(s.scheduler.backoffs) != 0 {
				t.Errorf("%d pending, %d and %d breakers open, %d rest", s.pending, len(s.openEndpoints), len(s.openSubscribers), len(s.scheduler.backoffs))
			}
		})
	}
}

// A pause outlives a restart: only probes are sent until one succeeds. The health stored by
// an older version is read too.
func TestPauseOutlivesARestart(t *testing.T) {
	for _, tt := range []struct {
		name   string
		status int
		stored func(*healthState) // changes the stored health before the restart
		want   string
	}{
		{"of the subscription", 500, func(*healthState) {}, "the URL of the subscription fails: "},
		{"of the endpoint", 0, func(*healthState) {}, "endpoint http://crm is down: "},
		{"of an older version", 500, func(st *healthState) { st.Breaker = "" }, "the URL of the subscription fails: "},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			synctest.Test(t, func(t *testing.T) {
				js, closeStore := openStore(t, dir)
				var up atomic.Bool
				w := &fakeWire{start: time.Now(), answer: func(_ int, r request) (int, http.Header) {
					if up.Load() || r.URL.Host == "operator" {
						return 200, nil
					}
					return tt.status, nil
				}}
				c := Config{Transport: w, KeepEvents: keepForever}
				n, stop := startNotifier(t, js, c)
				id := mustSubscribe(t, n, testSubscription("", "http://crm/hook")).ID
				operator := testSubscription("", "http://operator/")
				operator.Extension, operator.ExtensionRegex, operator.Types = "", ".*", []string{"subscription-state"}
				operator.Dialect = Telphin
				mustSubscribe(t, n, operator)
				n.Publish(makeHangups(1, 6))
				time.Sleep(time.Minute)
				st, _ := n.health.get(id)
				if st.Paused.IsZero() {
					t.Fatal("it is not paused")
				}
				tt.stored(&st)
				n.health.set(id, &st)
				time.Sleep(time.Second)
				stop()
				closeStore()

				js, closeStore = openStore(t, dir)
				defer closeStore()
				n, stop = startNotifier(t, js, c)
				defer stop()
				n.Publish(makeHangups(10, 20))
				w.mu.Lock()
				before := len(w.got)
				w.mu.Unlock()
				time.Sleep(500 * time.Millisecond)
				synctest.Wait()
				w.mu.Lock()
				if sent := len(w.got) - before; sent > 1 {
					t.Errorf("%d were sent after the restart, want a probe", sent)
				}
				w.mu.Unlock()
				if s, _ := n.Subscription(id); s.State != StatePaused || !strings.Contains(s.Why, tt.want) {
					t.Errorf("after the restart: %s, %s", s.State, s.Why)
				}
				up.Store(true)
				time.Sleep(time.Minute)
				if s, _ := n.Subscription(id); s.State != StateActive {
					t.Errorf("when it is back: %s, %s", s.State, s.Why)
				}
				if got := n.Stats(); got.Pending != 0 {
					t.Errorf("%+v", got)
				}
				var reported []string
				for _, r := range w.got {
					if r.URL.Host == "operator" {
						reported = append(reported, r.form.Get("SubscriptionState"))
					}
				}
				if want := []string{"paused", "resumed"}; !slices.Equal(reported, want) {
					t.Errorf("reported %v, want %v", reported, want)
				}
			})
		})
	}
}
