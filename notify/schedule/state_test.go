package schedule

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"bellhop/dialog"
)

func (s entryState) String() string {
	return [...]string{"", "unsaved", "writing", "outdated"}[s]
}

func (s state) String() string {
	return [...]string{"queued", "due", "in flight", "backing off", "ended"}[s]
}

func (r backoffReason) String() string {
	return [...]string{"", "schedule", "Retry-After", "group", "breaker"}[r]
}

// table returns the first delivery of each queue of subscription a: its call and position,
// its state, when it is due and why, and its entry in the outbox.
func (s *schedulerTest) table() string {
	var rows []string
	for _, k := range []queueKey{{"c", false}, {"c", true}} {
		q := s.subscribers["a"].queues[k]
		if q == nil {
			continue
		}
		for _, d := range q.deliveries {
			row := fmt.Sprintf("%s/%d %v", k.storedName(), d.seq, d.state)
			if d.state == backingOff {
				row += fmt.Sprintf(" by %v %v", d.backoff.reason, s.untilEnd(d))
			}
			stored := "absent"
			if d.entry.stored {
				stored = "stored"
			}
			rows = append(rows, strings.TrimSpace(row+" "+stored+" "+d.entry.state.String()))
		}
	}
	return strings.Join(rows, "; ")
}

// untilEnd returns how long the backoff of d lasts; "open end" if only a breaker ends it.
func (s *schedulerTest) untilEnd(d *delivery) string {
	if d.backoffEnd() == farFuture {
		return "open end"
	}
	return d.backoffEnd().Sub(s.now).String()
}

// checkStates checks that the states of all deliveries are legal together.
func (s *schedulerTest) checkStates() {
	s.Helper()
	for _, sr := range s.subscribers {
		for _, q := range sr.queues {
			for i, d := range q.deliveries {
				if why := illegal(d, i == 0); why != "" {
					s.Fatalf("%s: %s is %v by %v, entry %+v: %s", s.elapsed(), s.labelOf(d), d.state, d.backoff.reason, d.entry, why)
				}
			}
		}
	}
}

// illegal returns why the states of a delivery contradict each other, or "". first says
// that d is the first of its queue.
func illegal(d *delivery, first bool) string {
	waits := d.state == backingOff
	switch reason := d.backoff.reason; {
	case d.state == ended:
		return "it has ended, and is in a queue"
	case first == (d.state == queued):
		return "the first of a queue, and only that, is not queued"
	case waits != (reason != noBackoff):
		return "it backs off for no reason, or has a reason and does not"
	case first && waits != (d.queue.heapIndex >= 0):
		return "its queue is in the heap, and it does not wait, or the other way round"
	case reason == byBreaker && !d.blocked():
		return "it is held, and no breaker is open"
	case waits && reason != byBreaker && d.backoff.until.IsZero():
		return "it waits until no time"
	case d.event == nil && !d.entry.stored:
		return "neither memory nor the outbox has it"
	}
	return ""
}

// The states of a delivery, and what leads from one to the next.
func TestStates(t *testing.T) {
	fail := func(r Result) func(*schedulerTest) {
		return func(s *schedulerTest) {
			a := s.takeDueAttempts()[0]
			a.Result = r
			s.FinishAttempt(s.now, &a.Attempt, &a.Result)
		}
	}
	take := func(s *schedulerTest) { s.takeDueAttempts() }
	wait := func(d time.Duration) func(*schedulerTest) { return func(s *schedulerTest) { s.sleepFor(d) } }
	save := func(err error) func(*schedulerTest) { return func(s *schedulerTest) { s.writeUpdates(err) } }
	trip := func(s *schedulerTest) {
		e := s.subscribers["a"].endpoint
		e.trip(s.now, "down", 0)
		s.breakers.openEndpoint(e)
	}
	start := func(s *schedulerTest) { s.Updates(s.now, 256) }
	for _, tt := range []struct {
		name  string
		event dialog.Type
		steps []func(*schedulerTest)
		want  string // call, state, due, stored
	}{
		{"published", dialog.Hangup, nil, "c/1 due absent"},
		{"attempted", dialog.Hangup, []func(*schedulerTest){take}, "c/1 in flight absent"},
		{"failed, live", dialog.DialIn, []func(*schedulerTest){fail(Result{})}, "c/1 backing off by schedule 2s absent unsaved"},
		{"failed, being written", dialog.DialIn, []func(*schedulerTest){fail(Result{}), start}, "c/1 backing off by schedule 2s absent writing"},
		{"failed again while being written", dialog.DialIn, []func(*schedulerTest){fail(Result{}), start, wait(2 * time.Second), fail(Result{})}, "c/1 backing off by schedule 4s absent outdated"},
		{"failed, written", dialog.DialIn, []func(*schedulerTest){fail(Result{}), save(nil)}, "c/1 backing off by schedule 2s stored"},
		{"failed, not acknowledged", dialog.DialIn, []func(*schedulerTest){fail(Result{}), save(errUnanswered)}, "c/1 backing off by schedule 2s stored unsaved"},
		{"due again", dialog.DialIn, []func(*schedulerTest){fail(Result{}), save(nil), wait(2 * time.Second)}, "c/1 due stored"},
		{"Retry-After", dialog.Hangup, []func(*schedulerTest){fail(Result{RetryAfter: time.Minute}), save(nil)}, "c/1 backing off by Retry-After 1m0s stored"},
		{"Retry-After beyond its time to live", dialog.DialIn, []func(*schedulerTest){fail(Result{RetryAfter: time.Hour}), save(nil)}, "c/1 backing off by Retry-After 1m0s stored"},
		{"Retry-After has passed", dialog.Hangup, []func(*schedulerTest){fail(Result{RetryAfter: time.Minute}), save(nil), wait(time.Minute)}, "c/1 due stored"},
		{"postponed for its group", dialog.Hangup, []func(*schedulerTest){fail(Result{LocalFault: true, NotBefore: testStart.Add(time.Second)})}, "c/1 backing off by group 1s absent"},
		{"held, durable", dialog.Hangup, []func(*schedulerTest){trip, save(nil)}, "c/1 backing off by breaker open end stored"},
		{"held, live", dialog.DialIn, []func(*schedulerTest){trip, save(nil)}, "c/1 backing off by breaker 1m0s stored"},
		{"probe", dialog.Hangup, []func(*schedulerTest){trip, save(nil), wait(time.Second)}, "c/1 due stored"},
		{"probe failed", dialog.Hangup, []func(*schedulerTest){trip, save(nil), wait(time.Second), fail(Result{}), save(nil)}, "c/1 backing off by breaker open end stored"},
		{"in flight for a second", dialog.Hangup, []func(*schedulerTest){take, wait(outboxDelay)}, "c/1 in flight absent unsaved"},
		{"replayed", dialog.DialIn, []func(*schedulerTest){
			func(s *schedulerTest) { s.takeAttempts("a") }, wait(time.Hour),
			func(s *schedulerTest) { s.replayRange("a", 1, 1, "dial-in"); s.readPages() }, save(nil),
		}, "replay c/1 due stored"},
		{"delivered", dialog.Hangup, []func(*schedulerTest){fail(Result{Outcome: Delivered})}, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newSchedulerTest(t, testSubscription("a", "http://a/"))
			s.posts = false
			s.publish("c", tt.event)
			for _, step := range tt.steps {
				step(s)
				s.checkStates()
			}
			s.wantEqual("call, state, due, stored", s.table(), tt.want)
		})
	}
}

// A replay is attempted when no other delivery of its subscription is due.
func TestReplayGivesWay(t *testing.T) {
	a := testSubscription("a", "http://a/")
	a.MaxInFlight = 1
	s := newSchedulerTest(t, a)
	s.publish("c", dialog.Hangup)
	s.takeAttempts("a")
	s.replayRange("a", 1, 1, "hangup")
	s.readPages()
	s.publish("d", dialog.DialIn)
	s.publish("e", dialog.DialIn)
	s.wantEqual("order", s.takeAttempts("a"), "d/2 e/3 replay c/1")
}
