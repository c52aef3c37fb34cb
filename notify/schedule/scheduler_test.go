package schedule

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"bellhop/dialog"
	"bellhop/notify/subscription"
)

// A schedulerTest runs a scheduler in a time of its own.
type schedulerTest struct {
	*testing.T
	*Scheduler
	start, now time.Time
	seq        uint64
	log        []entry
	ends       []string // how deliveries ended
	posts      bool     // updates are written to the outbox
}

// errUnanswered is the result of a write that was not acknowledged.
var errUnanswered = errors.New("no acknowledgement")

// An entry is an event of the log and its position.
type entry struct {
	Seq   uint64
	Event *dialog.Event
}

// An attempt is an attempt and its result.
type attempt struct {
	Attempt
	Result
}

// silentHooks returns hooks of which only that for ends does something.
func silentHooks(ended func(End)) Hooks {
	return Hooks{
		Start: func(Attempt) {}, Ended: ended, EndpointChanged: func(string, bool, string) {}, HealthChanged: func(Health) {},
		LagChanged: func(string, bool, int) {}, RecoverPanic: func(string) {},
	}
}

// redeliver applies a redelivery to the URL of a subscription.
func (s *schedulerTest) redeliver(now time.Time, subscription, queue string, seq uint64) {
	s.ApplyRedelivery(now, Redelivery{Subscription: subscription, Queue: queue, Seq: seq})
}

// testStart is when the time of each schedulerTest begins.
var testStart = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func newSchedulerTest(t *testing.T, subs ...subscription.Subscription) *schedulerTest {
	s := &schedulerTest{T: t, start: testStart, posts: true}
	s.now = s.start
	s.Scheduler = New(MaxPending, silentHooks(func(e End) {
		s.ends = append(s.ends, fmt.Sprintf("%s %s %s %s", s.elapsed(), e.Subscription, labelOfEnd(e), e.Outcome))
	}))
	for _, sub := range subs {
		s.ApplySubscription(sub, time.Time{})
	}
	return s
}

func (s *schedulerTest) elapsed() string { return s.now.Sub(s.start).Round(time.Millisecond).String() }

func (s *schedulerTest) labelOf(d *delivery) string {
	return fmt.Sprintf("%s/%d", d.queue.storedName(), d.seq)
}

func labelOfEnd(e End) string { return fmt.Sprintf("%s/%d", e.Queue, e.Seq) }

// testSubscription returns a subscription to all types of extension 101.
func testSubscription(id, url string) subscription.Subscription {
	s := subscription.New()
	s.ID, s.Extension, s.URL, s.Types = id, "101", url, []string{"dial-in", "dial-out", "answer", "hangup", "message-in"}
	return s
}

func (s *schedulerTest) publish(call string, types ...dialog.Type) {
	for _, typ := range types {
		s.seq++
		e := &dialog.Event{Call: call, Type: typ, Flow: dialog.In, At: s.now, Extension: dialog.Extension{User: "101", Domain: "pbx"}}
		s.log = append(s.log, entry{Seq: s.seq, Event: e})
		s.addEvent(s.now, s.seq, e)
	}
}

// takeDueAttempts returns every attempt that can be made now.
func (s *schedulerTest) takeDueAttempts() (all []*attempt) {
	for p, ok := s.nextAttempt(s.now); ok; p, ok = s.nextAttempt(s.now) {
		all = append(all, &attempt{Attempt: p})
	}
	return all
}

func (s *schedulerTest) labelsOf(as []*attempt) string {
	var all []string
	for _, a := range as {
		all = append(all, s.labelOf(a.delivery))
	}
	return strings.Join(all, " ")
}

func (s *schedulerTest) finish(a *attempt, o Outcome) {
	a.Outcome = o
	s.FinishAttempt(s.now, &a.Attempt, &a.Result)
}

// advanceToDeadline moves the time to the next deadline, and reports whether there is one.
func (s *schedulerTest) advanceToDeadline() bool {
	if s.posts {
		s.writeUpdates(nil)
	}
	at, ok := s.NextWake(s.now)
	if ok {
		s.now = at
		s.runDue(s.now)
	}
	return ok
}

// sleepFor moves the time by d, deadline by deadline.
func (s *schedulerTest) sleepFor(d time.Duration) {
	for until := s.now.Add(d); ; {
		if s.posts {
			s.writeUpdates(nil)
		}
		if at, ok := s.NextWake(s.now); ok && at.Before(until) {
			s.now = at
			s.runDue(s.now)
			continue
		}
		s.now = until
		s.runDue(s.now)
		return
	}
}

// writeUpdates writes all updates to the outbox with the result err, and returns them as
// text.
func (s *schedulerTest) writeUpdates(err error) (written []string) {
	for _, u := range s.Updates(s.now, 256) {
		switch item := u.item.(type) {
		case nil:
			written = append(written, fmt.Sprintf("cursor %d", u.cursor))
		case *logRead:
			if len(u.Data) == 0 {
				written = append(written, "gone "+item.name)
			} else {
				written = append(written, fmt.Sprintf("%s after %d", item.name, item.after))
			}
		case *delivery:
			if len(u.Data) == 0 {
				written = append(written, "gone "+s.labelOf(item))
			} else {
				written = append(written, fmt.Sprintf("%s after %d", s.labelOf(item), item.failures))
			}
		}
		s.FinishUpdate(u, err)
	}
	return written
}

func (s *schedulerTest) wantEqual(what, got, want string) {
	s.Helper()
	if got != want {
		s.Fatalf("%s at %s:\n got %s\nwant %s", what, s.elapsed(), got, want)
	}
}

func TestRetrySchedule(t *testing.T) {
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
		how   Outcome
	}{
		{"first try", dialog.Hangup, 0, 0, 0, []time.Duration{0}, 0, Delivered},
		{"live, third try", dialog.DialIn, 0, 2, 0, []time.Duration{0, 2 * s, 6 * s}, 6 * s, Delivered},
		{"live, never", dialog.DialIn, 0, -1, 0, []time.Duration{0, 2 * s, 6 * s, 14 * s, 30 * s, 46 * s}, 60 * s, Expired},
		{"live, never, each attempt takes 5 s", dialog.Answer, 5 * s, -1, 0, []time.Duration{0, 7 * s, 16 * s, 29 * s, 50 * s}, 60 * s, Expired},
		{"live, never, longer worth it", dialog.Answer, 0, -1, 2 * m, []time.Duration{0, 2 * s, 6 * s, 14 * s, 30 * s, 46 * s, 62 * s, 78 * s, 94 * s, 110 * s}, 2 * m, Expired},
		{"live, never, soon worthless", dialog.Answer, 0, -1, 3 * s, []time.Duration{0, 2 * s}, 3 * s, Expired},
		{"record, never", dialog.Hangup, 0, -1, 0,
			append([]time.Duration{0, 5 * s, 35 * s, 155 * s, 755 * s, 2555 * s}, slices.Concat(hours(2, 7, 17, 31, 51, 75))...),
			hours(75)[0], Expired},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a := testSubscription("a", "http://a/")
			a.LiveTTL = subscription.Duration(tt.ttl)
			st := newSchedulerTest(t, a)
			st.publish("c", tt.event)
			var got []time.Duration
			for len(st.ends) == 0 {
				for _, a := range st.takeDueAttempts() {
					got = append(got, st.now.Sub(st.start))
					st.sleepFor(tt.took)
					if a.Outcome = WillRetry; tt.fails >= 0 && len(got) > tt.fails {
						a.Outcome = Delivered
					}
					a.endpoint.breaker = breaker{} // another test covers the breaker
					st.FinishAttempt(st.now, &a.Attempt, &a.Result)
				}
				if len(st.ends) == 0 && !st.advanceToDeadline() {
					t.Fatal("nothing is left to do")
				}
			}
			last := st.now.Sub(st.start)
			if len(got) != len(tt.want) {
				t.Fatalf("attempts at %v, want %v", got, tt.want)
			}
			for i, want := range tt.want {
				most := want // later times are given without the earlier ones
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

func TestQueueWaitsForItsFirst(t *testing.T) {
	s := newSchedulerTest(t, testSubscription("a", "http://a/"))
	s.publish("c", dialog.DialIn, dialog.Answer, dialog.Hangup)
	s.publish("d", dialog.DialIn)
	as := s.takeDueAttempts()
	s.wantEqual("both calls begin", s.labelsOf(as), "c/1 d/4")
	s.finish(as[0], WillRetry)
	s.finish(as[1], Delivered)
	s.wantEqual("the success of another call wakes nothing", s.labelsOf(s.takeDueAttempts()), "")
	s.sleepFor(2 * time.Second)
	s.wantEqual("it is due after its own two seconds", s.labelsOf(s.takeDueAttempts()), "c/1")
}

func TestQueueContinuesWhenFirstExpires(t *testing.T) {
	s := newSchedulerTest(t, testSubscription("a", "http://a/"))
	s.publish("c", dialog.DialIn)
	s.sleepFor(30 * time.Second)
	s.publish("c", dialog.Answer, dialog.Hangup)
	s.finish(s.takeDueAttempts()[0], WillRetry) // at 30 s, as it was not taken earlier
	s.sleepFor(29 * time.Second)
	for _, a := range s.takeDueAttempts() {
		s.finish(a, WillRetry)
	}
	s.sleepFor(time.Second)
	s.wantEqual("how the dial-in ended", strings.Join(s.ends, ", "), "1m0s a c/1 expired")
	s.wantEqual("the answer is next", s.labelsOf(s.takeDueAttempts()), "c/2")
}

// Run adds events and starts at most as many attempts as are free. If adding an event
// panics, the others are added all the same.
func TestRunStartsAttempts(t *testing.T) {
	s := newSchedulerTest(t, testSubscription("a", "http://crm/"))
	var started []string
	s.hooks.Start = func(a Attempt) { started = append(started, s.labelOf(a.delivery)) }
	s.hooks.RecoverPanic = func(string) { recover() }
	events := func(yield func(uint64, *dialog.Event) bool) {
		for seq, call := range []string{"zero", "one", "", "three", "four"} {
			e := &dialog.Event{Call: call, Type: dialog.Hangup, Flow: dialog.In, At: s.now, Extension: dialog.Extension{User: "101"}}
			if call == "" {
				e = nil // adding it panics
			}
			if !yield(uint64(seq), e) {
				return
			}
		}
	}
	s.Scheduler.Run(s.now, events, 2)
	if got := strings.Join(started, " "); got != "one/1 three/3" {
		t.Errorf("started %s", got)
	}
	s.Scheduler.Run(s.now, nil, 0)
	s.Scheduler.Run(s.now, nil, 2)
	if got := strings.Join(started, " "); got != "one/1 three/3 four/4" {
		t.Errorf("started %s", got)
	}
}

// The retry schedule of a delivery is its own: a path that fails is not attempted earlier,
// nor more often, because another path succeeds.
func TestSuccessOfAnotherKeepsBackoff(t *testing.T) {
	a, b := testSubscription("a", "http://same/a"), testSubscription("b", "http://same/b")
	a.Types, b.Types = []string{"hangup"}, []string{"message-in"}
	s := newSchedulerTest(t, a, b)
	s.publish("c", dialog.Hangup)
	var failed []string
	for i := range 100 {
		s.publish(fmt.Sprint("m", i), dialog.MessageIn)
		for _, a := range s.takeDueAttempts() {
			if a.Sub.ID == "a" {
				failed = append(failed, s.elapsed())
				a.Fault = BadStatus
				s.finish(a, WillRetry)
			} else {
				s.finish(a, Delivered)
			}
		}
		s.sleepFor(100 * time.Millisecond)
	}
	if len(failed) != 2 {
		t.Errorf("failed at %v: want at once, and when due after 5 s", failed)
	}
}

func TestRetryAfterIsHonored(t *testing.T) {
	s := newSchedulerTest(t, testSubscription("a", "http://a/"))
	s.publish("c", dialog.Hangup)
	a := s.takeDueAttempts()[0]
	a.RetryAfter = time.Minute
	s.finish(a, WillRetry)
	s.publish("d", dialog.Hangup)
	s.finish(s.takeDueAttempts()[0], Delivered)
	s.wantEqual("a success does not wake it", s.labelsOf(s.takeDueAttempts()), "")
	s.sleepFor(time.Minute - 1)
	s.wantEqual("a nanosecond before", s.labelsOf(s.takeDueAttempts()), "")
	s.sleepFor(1)
	s.wantEqual("on the dot", s.labelsOf(s.takeDueAttempts()), "c/1")
}

func TestRetryAfterBeyondTimeToLive(t *testing.T) {
	s := newSchedulerTest(t, testSubscription("a", "http://a/"))
	s.publish("c", dialog.DialIn)
	a := s.takeDueAttempts()[0]
	a.RetryAfter = time.Hour
	s.finish(a, WillRetry)
	s.sleepFor(time.Minute)
	s.wantEqual("how it ended", strings.Join(s.ends, ", "), "1m0s a c/1 expired")
}

func TestSubscriptionChanges(t *testing.T) {
	s := newSchedulerTest(t, testSubscription("a", "http://a/"), testSubscription("b", "http://b/"))
	s.publish("c", dialog.DialIn, dialog.Hangup)
	as := s.takeDueAttempts()
	off := testSubscription("a", "http://a/")
	off.Active = false
	s.ApplySubscription(off, time.Time{})
	s.wantEqual("what was not under way is canceled", strings.Join(s.ends, ", "), "0s a c/2 canceled")
	s.finish(as[0], WillRetry)
	s.wantEqual("what was under way fails: canceled", s.ends[1], "0s a c/1 canceled")
	s.finish(as[1], WillRetry)
	s.ApplySubscription(testSubscription("b", "http://elsewhere/"), time.Time{})
	s.sleepFor(2 * time.Second)
	as = s.takeDueAttempts()
	s.wantEqual("only b is left", s.labelsOf(as), "c/1")
	s.wantEqual("at its new place", as[0].URL.Host+" "+as[0].endpoint.key, "elsewhere http://elsewhere")
	s.finish(as[0], Delivered)
	s.finish(s.takeDueAttempts()[0], Delivered)
	s.wantEqual("endpoints left", fmt.Sprint(len(s.endpoints)), "1")
	s.ApplySubscription(subscription.Subscription{ID: "b"}, time.Time{})
	if len(s.endpoints)+len(s.subscribers)+len(s.extensions.byUser)+s.pending+len(s.dispatch.backoffs) != 0 {
		t.Errorf("something is left: %+v", s.Scheduler)
	}
}

func Test410EndsSubscription(t *testing.T) {
	s := newSchedulerTest(t, testSubscription("a", "http://a/"))
	s.publish("c", dialog.DialIn, dialog.Hangup)
	s.publish("d", dialog.DialIn)
	as := s.takeDueAttempts()
	s.finish(as[0], Refused)
	s.wantEqual("the rest is canceled", strings.Join(s.ends, ", "), "0s a c/1 refused, 0s a c/2 canceled")
	s.finish(as[1], Delivered)
	s.publish("e", dialog.DialIn)
	s.wantEqual("nothing more is sent", s.labelsOf(s.takeDueAttempts()), "")
}

func Test410SparesAnotherURL(t *testing.T) {
	s := newSchedulerTest(t, testSubscription("a", "http://a/"))
	s.publish("c", dialog.DialIn, dialog.Hangup)
	as := s.takeDueAttempts()
	s.ApplySubscription(testSubscription("a", "http://b/"), time.Time{})
	s.finish(as[0], Refused)
	s.wantEqual("the rest is sent", s.labelsOf(s.takeDueAttempts()), "c/2")
}

func TestMatchesExtensions(t *testing.T) {
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
		a := testSubscription("a", "http://a/")
		a.Extension, a.ExtensionRegex = tt.extension, tt.regex
		q := newSchedulerTest(t, a)
		for range 2 { // the second time from memory
			if got := len(q.extensions.match(tt.of)) == 1; got != tt.want {
				t.Errorf("%s%s matches %v: %v", tt.extension, tt.regex, tt.of, got)
			}
		}
	}
}

func TestMatchesTypes(t *testing.T) {
	for _, tt := range []struct{ types, want string }{
		{"answer", "3 4"},
		{"answer-in", "3"},
		{"answer-out", "4"},
		{"dial-in hangup", "1 5"},
		{"ringing", "2"},
		{"message-in voicemail hold resume transfer registered unregistered", ""},
	} {
		a := testSubscription("a", "http://a/")
		a.Types, a.MaxInFlight = strings.Fields(tt.types), 10
		s := newSchedulerTest(t, a)
		for i, e := range []dialog.Event{
			{Type: dialog.DialIn, Flow: dialog.In}, {Type: dialog.Ringing, Flow: dialog.In},
			{Type: dialog.Answer, Flow: dialog.In}, {Type: dialog.Answer, Flow: dialog.Out}, {Type: dialog.Hangup, Flow: dialog.In},
		} {
			e.At, e.Extension, e.Call = s.now, dialog.Extension{User: "101"}, fmt.Sprint(i)
			s.addEvent(s.now, uint64(i+1), &e)
		}
		var got []string
		for _, a := range s.takeDueAttempts() {
			got = append(got, fmt.Sprint(a.Seq))
		}
		s.wantEqual(tt.types, strings.Join(got, " "), tt.want)
	}
}

func TestMaxInFlight(t *testing.T) {
	s := newSchedulerTest(t, testSubscription("a", "http://a/"))
	for i := range 10 {
		s.publish(fmt.Sprint("c", i), dialog.Hangup)
	}
	as := s.takeDueAttempts()
	s.wantEqual("four at once", s.labelsOf(as), "c0/1 c1/2 c2/3 c3/4")
	s.finish(as[1], Delivered)
	s.wantEqual("one more for the one that is done", s.labelsOf(s.takeDueAttempts()), "c4/5")
}

// A receiver that does not answer occupies the slots of its own endpoint only.
func TestDeadEndpointDelaysNoOther(t *testing.T) {
	var subs []subscription.Subscription
	for i := range 100 {
		subs = append(subs, testSubscription(fmt.Sprint("dead", i), "http://dead/"))
	}
	s := newSchedulerTest(t, append(subs, testSubscription("well", "http://well/"))...)
	s.publish("c", dialog.Hangup)
	as := s.takeDueAttempts()
	if len(as) != maxEndpointAttempts+1 {
		t.Fatalf("%d attempts, want %d at the dead one and 1", len(as), maxEndpointAttempts)
	}
	for _, a := range as {
		if a.Sub.ID == "well" {
			s.finish(a, Delivered)
		} else {
			s.finish(a, WillRetry)
		}
	}
	s.publish("d", dialog.Hangup)
	s.wantEqual("while the dead one is paused", s.labelsOf(s.takeDueAttempts()), "d/2")
}

// Subscriptions of one endpoint take turns.
func TestSubscriptionsTakeTurns(t *testing.T) {
	a, b := testSubscription("a", "http://x/"), testSubscription("b", "http://x/")
	a.Types = []string{"hangup"}
	b.Types = []string{"message-in"}
	s := newSchedulerTest(t, a, b)
	for i := range 6 {
		s.publish(fmt.Sprint("a", i), dialog.Hangup)
	}
	for i := range 2 {
		s.publish(fmt.Sprint("b", i), dialog.MessageIn)
	}
	s.wantEqual("turns", s.labelsOf(s.takeDueAttempts()), "a0/1 b0/7 a1/2 b1/8 a2/3 a3/4")
}

func TestCursorAdvancesOverSettledEvents(t *testing.T) {
	s := newSchedulerTest(t, testSubscription("a", "http://a/"))
	s.posts = false
	s.publish("c", dialog.DialIn, dialog.Hangup)
	s.publish("d", dialog.DialIn)
	as := s.takeDueAttempts()
	s.finish(as[1], Delivered)
	s.wantEqual("the first is open", fmt.Sprint(s.outbox.cursor), "0")
	s.wantEqual("nothing to tell", fmt.Sprint(s.writeUpdates(nil)), "[]")
	s.sleepFor(outboxDelay)
	s.wantEqual("after a moment they move, also the one under way", fmt.Sprint(s.writeUpdates(nil)), "[c/1 after 0 c/2 after 0]")
	s.wantEqual("all are settled or moved", fmt.Sprint(s.outbox.cursor), "3")
	s.wantEqual("the cursor is saved", fmt.Sprint(s.writeUpdates(nil)), "[cursor 3]")
	s.finish(as[0], WillRetry)
	s.wantEqual("a failure is told", fmt.Sprint(s.writeUpdates(nil)), "[c/1 after 1]")
	s.sleepFor(2 * time.Second)
	s.finish(s.takeDueAttempts()[0], Delivered)
	s.wantEqual("the end is told", fmt.Sprint(s.writeUpdates(nil)), "[gone c/1]")
	a := s.takeDueAttempts()[0]
	s.wantEqual("moved: to be read from the log", fmt.Sprint(a.Seq, a.Event), "2 <nil>")
	s.finish(a, Delivered)
	s.wantEqual("the end is told", fmt.Sprint(s.writeUpdates(nil)), "[gone c/2]")
	s.publish("e", dialog.Hangup)
	s.finish(s.takeDueAttempts()[0], Delivered)
	s.wantEqual("the cursor advances at once", fmt.Sprint(s.outbox.cursor), "4")
	s.sleepFor(cursorSaveInterval)
	s.wantEqual("and is told", fmt.Sprint(s.writeUpdates(nil)), "[cursor 4]")
}

func TestOutboxUpdatesAreRepeated(t *testing.T) {
	s := newSchedulerTest(t, testSubscription("a", "http://a/"))
	s.posts = false
	s.publish("c", dialog.Hangup)
	a := s.takeDueAttempts()[0]
	s.sleepFor(outboxDelay)
	s.wantEqual("updates", fmt.Sprint(s.writeUpdates(errUnanswered)), "[c/1 after 0]")
	s.wantEqual("nothing has moved", fmt.Sprint(s.outbox.cursor), "0")
	s.finish(a, Delivered)
	s.wantEqual("its end is told, for it may have heard", fmt.Sprint(s.writeUpdates(errUnanswered)), "[gone c/1 cursor 1]")
	s.sleepFor(cursorSaveInterval)
	s.wantEqual("again", fmt.Sprint(s.writeUpdates(nil)), "[gone c/1 cursor 1]")
	s.wantEqual("done", fmt.Sprint(s.writeUpdates(nil)), "[]")
}

func TestRestoresDeliveries(t *testing.T) {
	s := newSchedulerTest(t, testSubscription("a", "http://a/"))
	s.Start(2)
	restore := func(subscription, queue string, seq uint64, due time.Duration, lost bool) {
		d := StoredDelivery{Queue: queue, Type: dialog.Hangup, At: s.now}
		if due != 0 {
			d.Due, d.Failures = s.now.Add(due), 1
		}
		s.RestoreDelivery(subscription, seq, d, time.Time{}, lost)
	}
	restore("a", "c", 1, 5*time.Second, false)
	restore("a", "c", 3, 0, false)
	restore("a", "past", 4, -time.Second, false)
	restore("gone", "d", 5, 0, false)
	restore("a", "d", 900, 0, true)
	s.wantEqual("what nobody wants, and what is lost", strings.Join(s.ends, ", "), "0s gone d/5 canceled, 0s a d/900 canceled")
	s.wantEqual("is forgotten", fmt.Sprint(s.writeUpdates(nil)), "[gone d/5 gone d/900]")
	s.seq = 2
	s.publish("c", dialog.Hangup, dialog.Hangup, dialog.Hangup) // 3 and 4 are known
	s.runDue(s.now)
	as := s.takeDueAttempts()
	s.wantEqual("what was due", s.labelsOf(as), "past/4")
	s.finish(as[0], Expired)
	s.sleepFor(5 * time.Second)
	for _, want := range []string{"c/1", "c/3", "c/5"} {
		as := s.takeDueAttempts()
		s.wantEqual("in order", s.labelsOf(as[:1]), want)
		s.finish(as[0], Delivered)
	}
}

func TestNoStateIsLeft(t *testing.T) {
	s := newSchedulerTest(t, testSubscription("a", "http://a/"), testSubscription("b", "http://b/"))
	for i := range 1000 {
		s.publish(fmt.Sprint("c", i), dialog.DialIn, dialog.Hangup)
		for _, a := range s.takeDueAttempts() {
			s.finish(a, []Outcome{WillRetry, Delivered, Delivered}[(i+int(a.Seq))%3])
		}
		s.sleepFor(50 * time.Millisecond)
	}
	for s.pending > 0 {
		for _, a := range s.takeDueAttempts() {
			s.finish(a, Delivered)
		}
		s.sleepFor(time.Second)
	}
	s.sleepFor(time.Second)
	if len(s.ends) != 4000 {
		t.Errorf("%d ended, want 4000", len(s.ends))
	}
	for _, subscriber := range s.subscribers {
		if len(subscriber.queues)+subscriber.due.len()+subscriber.inFlight != 0 {
			t.Errorf("%d lanes, %d ready, %d under way are left", len(subscriber.queues), subscriber.due.len(), subscriber.inFlight)
		}
	}
	if s.outbox.recent.len()+s.outbox.unsavedDeliveries.len()+len(s.dispatch.backoffs)+len(s.outbox.restored) != 0 || s.outbox.cursor != 2000 || s.outbox.savedCursor != 2000 || s.outbox.handled != 0 {
		t.Errorf("left: %d recent, %d unsaved, %d backing off; cursor %d, saved %d", s.outbox.recent.len(), s.outbox.unsavedDeliveries.len(), len(s.dispatch.backoffs), s.outbox.cursor, s.outbox.savedCursor)
	}
}
