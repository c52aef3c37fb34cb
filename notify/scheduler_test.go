package notify

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"bellhop/dialog"
)

// A stage plays lanes in a time of its own.
type stage struct {
	*testing.T
	*scheduler
	start, now time.Time
	seq        uint64
	log        []entry
	ends       []string // how deliveries ended
	posts      bool     // the outbox takes what it is told
}

// handed is what was delivered by hand, to the URL of a subscription.
func (s *stage) handed(now time.Time, subscription, lane string, seq uint64) {
	s.scheduler.applyRedelivery(now, redelivery{Subscription: subscription, Queue: lane, Seq: seq})
}

func newStage(t *testing.T, subs ...Subscription) *stage {
	s := &stage{T: t, start: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), posts: true}
	s.now = s.start
	s.scheduler = newScheduler(func(d *delivery, o outcome) {
		s.ends = append(s.ends, fmt.Sprintf("%s %s %s %s", s.since(), d.queue.subscriber.sub.ID, s.label(d), o))
	})
	for _, sub := range subs {
		s.applySubscription(sub, time.Time{})
	}
	return s
}

func (s *stage) since() string { return s.now.Sub(s.start).Round(time.Millisecond).String() }

func (s *stage) label(d *delivery) string { return fmt.Sprintf("%s/%d", d.queue.name, d.seq) }

// sub is a subscription to all types of extension 101.
func sub(id, url string) Subscription {
	s := NewSubscription()
	s.ID, s.Extension, s.URL, s.Types = id, "101", url, []string{"dial-in", "dial-out", "answer", "hangup", "message-in"}
	return s
}

func (s *stage) say(call string, types ...dialog.Type) {
	for _, typ := range types {
		s.seq++
		e := &dialog.Event{Call: call, Type: typ, Flow: dialog.In, At: s.now, Extension: dialog.Extension{User: "101", Domain: "pbx"}}
		s.log = append(s.log, entry{s.seq, e})
		s.addEvent(s.now, s.seq, e)
	}
}

// attempts takes every attempt that can be made now.
func (s *stage) attempts() (all []*attempt) {
	for a := s.nextAttempt(s.now); a != nil; a = s.nextAttempt(s.now) {
		all = append(all, a)
	}
	return all
}

func (s *stage) labels(as []*attempt) string {
	var all []string
	for _, a := range as {
		all = append(all, s.label(a.delivery))
	}
	return strings.Join(all, " ")
}

func (s *stage) answer(a *attempt, o outcome) {
	a.outcome = o
	s.finishAttempt(s.now, a)
}

// advance goes to the next deadline, and reports whether there is one.
func (s *stage) advance() bool {
	if s.posts {
		s.post(nil)
	}
	at, ok := s.nextWake(s.now)
	if ok {
		s.now = at
		s.runDue(s.now)
	}
	return ok
}

// sleep goes d on.
func (s *stage) sleep(d time.Duration) {
	for until := s.now.Add(d); ; {
		if s.posts {
			s.post(nil)
		}
		if at, ok := s.nextWake(s.now); ok && at.Before(until) {
			s.now = at
			s.runDue(s.now)
			continue
		}
		s.now = until
		s.runDue(s.now)
		return
	}
}

// post tells the outbox what it must be told.
func (s *stage) post(err error) (told []string) {
	for _, u := range s.outboxUpdates(s.now) {
		switch {
		case u.logRead != nil && u.ended:
			told = append(told, "gone "+u.logRead.name)
		case u.logRead != nil:
			told = append(told, fmt.Sprintf("%s after %d", u.logRead.name, u.logRead.after))
		case u.delivery == nil:
			told = append(told, fmt.Sprintf("floor %d", u.cursor))
		case u.ended:
			told = append(told, "gone "+s.label(u.delivery))
		default:
			told = append(told, fmt.Sprintf("%s after %d", s.label(u.delivery), u.delivery.scheduleStep))
		}
		s.finishUpdate(u, err)
	}
	return told
}

func (s *stage) want(what, got, want string) {
	s.Helper()
	if got != want {
		s.Fatalf("%s at %s:\n got %s\nwant %s", what, s.since(), got, want)
	}
}

func TestSchedule(t *testing.T) {
	hours := func(h ...float64) (ds []time.Duration) {
		for _, h := range h {
			ds = append(ds, time.Duration(h*float64(time.Hour)))
		}
		return ds
	}
	s, m := time.Second, time.Minute
	for _, tt := range []struct {
		name  string
		event dialog.Type
		took  time.Duration // each attempt
		fails int           // attempts before the one that succeeds; -1: none does
		ttl   time.Duration
		want  []time.Duration // when attempts begin, without jitter
		end   time.Duration
		how   outcome
	}{
		{"first try", dialog.Hangup, 0, 0, 0, []time.Duration{0}, 0, delivered},
		{"live, third try", dialog.DialIn, 0, 2, 0, []time.Duration{0, 2 * s, 6 * s}, 6 * s, delivered},
		{"live, never", dialog.DialIn, 0, -1, 0, []time.Duration{0, 2 * s, 6 * s, 14 * s, 30 * s, 46 * s}, 60 * s, expired},
		{"live, never, each attempt takes 5 s", dialog.Answer, 5 * s, -1, 0, []time.Duration{0, 7 * s, 16 * s, 29 * s, 50 * s}, 60 * s, expired},
		{"live, never, longer worth it", dialog.Answer, 0, -1, 2 * m, []time.Duration{0, 2 * s, 6 * s, 14 * s, 30 * s, 46 * s, 62 * s, 78 * s, 94 * s, 110 * s}, 2 * m, expired},
		{"live, never, soon worthless", dialog.Answer, 0, -1, 3 * s, []time.Duration{0, 2 * s}, 3 * s, expired},
		{"record, never", dialog.Hangup, 0, -1, 0,
			append([]time.Duration{0, 5 * s, 35 * s, 155 * s, 755 * s, 2555 * s}, slices.Concat(hours(2, 7, 17, 31, 51, 75))...),
			hours(75)[0], expired},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a := sub("a", "http://a/")
			a.LiveTTL = Duration(tt.ttl)
			st := newStage(t, a)
			st.say("c", tt.event)
			var got []time.Duration
			for len(st.ends) == 0 {
				for _, a := range st.attempts() {
					got = append(got, st.now.Sub(st.start))
					st.sleep(tt.took)
					if a.outcome = willRetry; tt.fails >= 0 && len(got) > tt.fails {
						a.outcome = delivered
					}
					a.endpoint.breaker = breaker{} // of which another test is
					st.finishAttempt(st.now, a)
				}
				if len(st.ends) == 0 && !st.advance() {
					t.Fatal("nothing is left to do")
				}
			}
			last := st.now.Sub(st.start)
			if len(got) != len(tt.want) {
				t.Fatalf("attempts at %v, want %v", got, tt.want)
			}
			for i, want := range tt.want {
				most := want // hours are given without what was before them
				if tt.event == dialog.Hangup {
					most += want/5 + 2*time.Hour
				}
				if got[i] < want || got[i] > most {
					t.Errorf("attempt %d at %v, want %v to %v", i+1, got[i], want, most)
				}
			}
			if tt.event != dialog.Hangup && last != tt.end {
				t.Errorf("ended at %v, want %v", last, tt.end)
			}
			if !strings.HasSuffix(st.ends[0], tt.how.String()) {
				t.Errorf("ended %q, want %v", st.ends[0], tt.how)
			}
		})
	}
}

func TestJitterIsAFifthAtMost(t *testing.T) {
	for range 1000 {
		if d := jitter(10 * time.Second); d < 10*time.Second || d > 12*time.Second {
			t.Fatal(d)
		}
	}
}

func TestLaneWaitsForItsFirst(t *testing.T) {
	s := newStage(t, sub("a", "http://a/"))
	s.say("c", dialog.DialIn, dialog.Answer, dialog.Hangup)
	s.say("d", dialog.DialIn)
	as := s.attempts()
	s.want("both calls begin", s.labels(as), "c/1 d/4")
	s.answer(as[0], willRetry)
	s.answer(as[1], delivered)
	s.want("the success of another call wakes nothing", s.labels(s.attempts()), "")
	s.sleep(2 * time.Second)
	s.want("it is due after its own two seconds", s.labels(s.attempts()), "c/1")
}

func TestLaneGoesOnWhenItsFirstExpires(t *testing.T) {
	s := newStage(t, sub("a", "http://a/"))
	s.say("c", dialog.DialIn)
	s.sleep(30 * time.Second)
	s.say("c", dialog.Answer, dialog.Hangup)
	s.answer(s.attempts()[0], willRetry) // at 30 s, for it was not taken before
	s.sleep(29 * time.Second)
	for _, a := range s.attempts() {
		s.answer(a, willRetry)
	}
	s.sleep(time.Second)
	s.want("how the dial-in ended", strings.Join(s.ends, ", "), "1m0s a c/1 expired")
	s.want("the answer is next", s.labels(s.attempts()), "c/2")
}

// A delivery's schedule is its own: a receiver that fails at one path is not attempted
// earlier, nor more often, because another path succeeds.
func TestSuccessOfAnotherWakesNothing(t *testing.T) {
	a, b := sub("a", "http://same/a"), sub("b", "http://same/b")
	a.Types, b.Types = []string{"hangup"}, []string{"message-in"}
	s := newStage(t, a, b)
	s.say("c", dialog.Hangup)
	var failed []string
	for i := range 100 {
		s.say(fmt.Sprint("m", i), dialog.MessageIn)
		for _, a := range s.attempts() {
			if a.sub.ID == "a" {
				failed = append(failed, s.since())
				a.fault = badStatus
				s.answer(a, willRetry)
			} else {
				s.answer(a, delivered)
			}
		}
		s.sleep(100 * time.Millisecond)
	}
	if len(failed) != 2 {
		t.Errorf("failed at %v: want at once, and when due after 5 s", failed)
	}
}

func TestRetryAfterIsHonored(t *testing.T) {
	s := newStage(t, sub("a", "http://a/"))
	s.say("c", dialog.Hangup)
	a := s.attempts()[0]
	a.retryAfter = time.Minute
	s.answer(a, willRetry)
	s.say("d", dialog.Hangup)
	s.answer(s.attempts()[0], delivered)
	s.want("a success does not wake it", s.labels(s.attempts()), "")
	s.sleep(time.Minute - 1)
	s.want("a nanosecond before", s.labels(s.attempts()), "")
	s.sleep(1)
	s.want("on the dot", s.labels(s.attempts()), "c/1")
}

func TestRetryAfterBeyondTheEventsLife(t *testing.T) {
	s := newStage(t, sub("a", "http://a/"))
	s.say("c", dialog.DialIn)
	a := s.attempts()[0]
	a.retryAfter = time.Hour
	s.answer(a, willRetry)
	s.sleep(time.Minute)
	s.want("how it ended", strings.Join(s.ends, ", "), "1m0s a c/1 expired")
}

func TestSubscriptionChanges(t *testing.T) {
	s := newStage(t, sub("a", "http://a/"), sub("b", "http://b/"))
	s.say("c", dialog.DialIn, dialog.Hangup)
	as := s.attempts()
	off := sub("a", "http://a/")
	off.Active = false
	s.applySubscription(off, time.Time{})
	s.want("what was not under way is canceled", strings.Join(s.ends, ", "), "0s a c/2 canceled")
	s.answer(as[0], willRetry)
	s.want("what was under way fails: canceled", s.ends[1], "0s a c/1 canceled")
	s.answer(as[1], willRetry)
	s.applySubscription(sub("b", "http://elsewhere/"), time.Time{})
	s.sleep(2 * time.Second)
	as = s.attempts()
	s.want("only b is left", s.labels(as), "c/1")
	s.want("at its new place", as[0].url.Host+" "+as[0].endpoint.key, "elsewhere http://elsewhere")
	s.answer(as[0], delivered)
	s.answer(s.attempts()[0], delivered)
	s.want("endpoints left", fmt.Sprint(len(s.endpoints)), "1")
	s.applySubscription(Subscription{ID: "b"}, time.Time{})
	if len(s.endpoints)+len(s.subscribers)+len(s.byUser)+s.pending+len(s.scheduler.backoffs) != 0 {
		t.Errorf("something is left: %+v", s.scheduler)
	}
}

func TestGone(t *testing.T) {
	s := newStage(t, sub("a", "http://a/"))
	s.say("c", dialog.DialIn, dialog.Hangup)
	s.say("d", dialog.DialIn)
	as := s.attempts()
	s.answer(as[0], refused)
	s.want("the rest is canceled", strings.Join(s.ends, ", "), "0s a c/1 refused, 0s a c/2 canceled")
	s.answer(as[1], delivered)
	s.say("e", dialog.DialIn)
	s.want("nothing more is sent", s.labels(s.attempts()), "")
}

func TestGoneIsNotForAnotherURL(t *testing.T) {
	s := newStage(t, sub("a", "http://a/"))
	s.say("c", dialog.DialIn, dialog.Hangup)
	as := s.attempts()
	s.applySubscription(sub("a", "http://b/"), time.Time{})
	s.answer(as[0], refused)
	s.want("the rest is sent", s.labels(s.attempts()), "c/2")
}

func TestMatching(t *testing.T) {
	for _, tt := range []struct {
		extension, regex string
		of               dialog.Extension
		want             bool
	}{
		{"101", "", dialog.Extension{User: "101", Domain: "pbx"}, true},
		{"101", "", dialog.Extension{User: "101"}, true},
		{"101", "", dialog.Extension{User: "1010"}, false},
		{"101@pbx", "", dialog.Extension{User: "101", Domain: "pbx"}, true},
		{"101@pbx", "", dialog.Extension{User: "101", Domain: "other"}, false},
		{"101@pbx", "", dialog.Extension{User: "101"}, false},
		{"0003*210", "", dialog.Extension{User: "0003*210"}, true},
		{"0003*210", "", dialog.Extension{User: "000333210"}, false},
		{"", ".*", dialog.Extension{User: "101"}, true},
		{"", "1..", dialog.Extension{User: "101", Domain: "pbx"}, true},
		{"", "1.", dialog.Extension{User: "101", Domain: "pbx"}, false},
		{"", `10[0-9]@pbx`, dialog.Extension{User: "101", Domain: "pbx"}, true},
		{"", `x|101`, dialog.Extension{User: "101"}, true},
		{"", `x|101`, dialog.Extension{User: "1011"}, false},
	} {
		a := sub("a", "http://a/")
		a.Extension, a.ExtensionRegex = tt.extension, tt.regex
		q := newStage(t, a)
		for range 2 { // the second time from memory
			if got := len(q.matchSubscribers(tt.of)) == 1; got != tt.want {
				t.Errorf("%s%s matches %v: %v", tt.extension, tt.regex, tt.of, got)
			}
		}
	}
}

func TestTypes(t *testing.T) {
	for _, tt := range []struct{ types, want string }{
		{"answer", "3 4"},
		{"answer-in", "3"},
		{"answer-out", "4"},
		{"dial-in hangup", "1 5"},
		{"ringing", "2"},
		{"message-in voicemail hold resume transfer registered unregistered", ""},
	} {
		a := sub("a", "http://a/")
		a.Types, a.MaxInFlight = strings.Fields(tt.types), 10
		s := newStage(t, a)
		for i, e := range []dialog.Event{
			{Type: dialog.DialIn, Flow: dialog.In}, {Type: dialog.Ringing, Flow: dialog.In},
			{Type: dialog.Answer, Flow: dialog.In}, {Type: dialog.Answer, Flow: dialog.Out}, {Type: dialog.Hangup, Flow: dialog.In},
		} {
			e.At, e.Extension, e.Call = s.now, dialog.Extension{User: "101"}, fmt.Sprint(i)
			s.addEvent(s.now, uint64(i+1), &e)
		}
		var got []string
		for _, a := range s.attempts() {
			got = append(got, fmt.Sprint(a.seq))
		}
		s.want(tt.types, strings.Join(got, " "), tt.want)
	}
}

func TestSlots(t *testing.T) {
	s := newStage(t, sub("a", "http://a/"))
	for i := range 10 {
		s.say(fmt.Sprint("c", i), dialog.Hangup)
	}
	as := s.attempts()
	s.want("four at once", s.labels(as), "c0/1 c1/2 c2/3 c3/4")
	s.answer(as[1], delivered)
	s.want("one more for the one that is done", s.labels(s.attempts()), "c4/5")
}

// A receiver that does not answer holds its endpoint's slots and no more.
func TestDeadEndpointDelaysNoOther(t *testing.T) {
	var subs []Subscription
	for i := range 100 {
		subs = append(subs, sub(fmt.Sprint("dead", i), "http://dead/"))
	}
	s := newStage(t, append(subs, sub("well", "http://well/"))...)
	s.say("c", dialog.Hangup)
	as := s.attempts()
	if len(as) != maxEndpointAttempts+1 {
		t.Fatalf("%d attempts, want %d at the dead one and 1", len(as), maxEndpointAttempts)
	}
	for _, a := range as {
		if a.sub.ID == "well" {
			s.answer(a, delivered)
		} else {
			s.answer(a, willRetry)
		}
	}
	s.say("d", dialog.Hangup)
	s.want("while the dead one is paused", s.labels(s.attempts()), "d/2")
}

// Subscriptions of one endpoint take turns.
func TestTurns(t *testing.T) {
	a, b := sub("a", "http://x/"), sub("b", "http://x/")
	a.Types = []string{"hangup"}
	b.Types = []string{"message-in"}
	s := newStage(t, a, b)
	for i := range 6 {
		s.say(fmt.Sprint("a", i), dialog.Hangup)
	}
	for i := range 2 {
		s.say(fmt.Sprint("b", i), dialog.MessageIn)
	}
	s.want("turns", s.labels(s.attempts()), "a0/1 b0/7 a1/2 b1/8 a2/3 a3/4")
}

func TestFloorRisesOverWhatIsSettledOrMoved(t *testing.T) {
	s := newStage(t, sub("a", "http://a/"))
	s.posts = false
	s.say("c", dialog.DialIn, dialog.Hangup)
	s.say("d", dialog.DialIn)
	as := s.attempts()
	s.answer(as[1], delivered)
	s.want("the first is open", fmt.Sprint(s.cursor), "0")
	s.want("nothing to tell", fmt.Sprint(s.post(nil)), "[]")
	s.sleep(outboxDelay)
	s.want("after a moment they move, also the one under way", fmt.Sprint(s.post(nil)), "[c/1 after 0 c/2 after 0]")
	s.want("all are settled or moved", fmt.Sprint(s.cursor), "3")
	s.want("the floor is told", fmt.Sprint(s.post(nil)), "[floor 3]")
	s.answer(as[0], willRetry)
	s.want("a failure is told", fmt.Sprint(s.post(nil)), "[c/1 after 1]")
	s.sleep(2 * time.Second)
	s.answer(s.attempts()[0], delivered)
	s.want("the end is told", fmt.Sprint(s.post(nil)), "[gone c/1]")
	a := s.attempts()[0]
	s.want("moved: to be read from the log", fmt.Sprint(a.seq, a.loadedEvent), "2 <nil>")
	s.answer(a, delivered)
	s.want("the end is told", fmt.Sprint(s.post(nil)), "[gone c/2]")
	s.say("e", dialog.Hangup)
	s.answer(s.attempts()[0], delivered)
	s.want("the floor rises at once", fmt.Sprint(s.cursor), "4")
	s.sleep(cursorSaveInterval)
	s.want("and is told", fmt.Sprint(s.post(nil)), "[floor 4]")
}

func TestStoreIsToldUntilItHears(t *testing.T) {
	s := newStage(t, sub("a", "http://a/"))
	s.posts = false
	s.say("c", dialog.Hangup)
	a := s.attempts()[0]
	s.sleep(outboxDelay)
	s.want("told", fmt.Sprint(s.post(errUnanswered)), "[c/1 after 0]")
	s.want("nothing has moved", fmt.Sprint(s.cursor), "0")
	s.answer(a, delivered)
	s.want("its end is told, for it may have heard", fmt.Sprint(s.post(errUnanswered)), "[gone c/1 floor 1]")
	s.sleep(cursorSaveInterval)
	s.want("again", fmt.Sprint(s.post(nil)), "[gone c/1 floor 1]")
	s.want("done", fmt.Sprint(s.post(nil)), "[]")
}

func TestRestored(t *testing.T) {
	s := newStage(t, sub("a", "http://a/"))
	s.startFrom(2)
	old := func(seq uint64, typ dialog.Type, due time.Duration) *delivery {
		d := &delivery{seq: seq, kind: typ, at: s.now}
		if due != 0 {
			d.dueAt, d.scheduleStep = s.now.Add(due), 1
		}
		return d
	}
	s.restoreDelivery("a", "c", old(1, dialog.Hangup, 5*time.Second), false)
	s.restoreDelivery("a", "c", old(3, dialog.Hangup, 0), false)
	s.restoreDelivery("a", "past", old(4, dialog.Hangup, -time.Second), false)
	s.restoreDelivery("gone", "d", old(5, dialog.Hangup, 0), false)
	s.restoreDelivery("a", "d", old(900, dialog.Hangup, 0), true)
	s.want("what nobody wants, and what is lost", strings.Join(s.ends, ", "), "0s gone d/5 canceled, 0s a d/900 canceled")
	s.want("is forgotten", fmt.Sprint(s.post(nil)), "[gone d/5 gone d/900]")
	s.seq = 2
	s.say("c", dialog.Hangup, dialog.Hangup, dialog.Hangup) // 3 and 4 are known
	s.runDue(s.now)
	as := s.attempts()
	s.want("what was due", s.labels(as), "past/4")
	s.answer(as[0], expired)
	s.sleep(5 * time.Second)
	for _, want := range []string{"c/1", "c/3", "c/5"} {
		as := s.attempts()
		s.want("in order", s.labels(as[:1]), want)
		s.answer(as[0], delivered)
	}
}

func TestNothingIsLeft(t *testing.T) {
	s := newStage(t, sub("a", "http://a/"), sub("b", "http://b/"))
	for i := range 1000 {
		s.say(fmt.Sprint("c", i), dialog.DialIn, dialog.Hangup)
		for _, a := range s.attempts() {
			s.answer(a, []outcome{willRetry, delivered, delivered}[(i+int(a.seq))%3])
		}
		s.sleep(50 * time.Millisecond)
	}
	for s.pending > 0 {
		for _, a := range s.attempts() {
			s.answer(a, delivered)
		}
		s.sleep(time.Second)
	}
	s.sleep(time.Second)
	if len(s.ends) != 4000 {
		t.Errorf("%d ended, want 4000", len(s.ends))
	}
	for _, target := range s.subscribers {
		if len(target.queues)+target.due.len()+target.inFlight != 0 {
			t.Errorf("%d lanes, %d ready, %d under way are left", len(target.queues), target.due.len(), target.inFlight)
		}
	}
	if s.recent.len()+s.unsaved.len()+len(s.scheduler.backoffs)+len(s.inOutbox) != 0 || s.cursor != 2000 || s.savedCursor != 2000 || s.moving != 0 {
		t.Errorf("left: %d young, %d dirty, %d resting; floor %d, cursor %d", s.recent.len(), s.unsaved.len(), len(s.scheduler.backoffs), s.cursor, s.savedCursor)
	}
}
