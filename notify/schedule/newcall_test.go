package schedule

import (
	"fmt"
	"testing"
	"time"

	"bellhop/dialog"
	"bellhop/notify/payload"
)

// An open circuit breaker holds deliveries to named URLs only if it covers those URLs.
func TestBreakerHoldsNamedURLs(t *testing.T) {
	for _, tt := range []struct {
		named              string
		endpoint, own      bool // the breaker that is open
		allowed, want, due bool // allowed: not held; due: may be a probe
	}{
		{"http://crm/over", false, false, true, false, false},
		{"http://crm/over", true, false, true, true, true},
		{"http://crm/over", false, true, true, false, false},
		{"http://crm/over", true, true, true, true, true},
		{"http://other/over", true, false, true, false, false},
		{"https://crm/over", true, true, true, false, false},
		{"http://other/over", false, true, true, false, false},
		{"http://other/over", true, false, false, true, true},
		{"http://other/over", false, true, false, true, true},
		{"", false, true, true, true, true},
	} {
		one := testSubscription("s", "http://crm/hook")
		one.Dialect, one.FollowURLs = payload.CTI, tt.allowed
		s := newSchedulerTest(t, one)
		to := s.subscribers["s"]
		d := &delivery{kind: dialog.Hangup, dependency: dependency{party: "p"}, state: backingOff}
		d.queue = &queue{queueKey: queueKey{order: "c"}, subscriber: to, deliveries: []*delivery{d}}
		to.queues[d.queue.queueKey] = d.queue
		to.noteURLs(d, &Result{LoggedURLs: ParseCallURLs("", tt.named)})
		if tt.endpoint {
			to.endpoint.trip(s.now, "down", 0)
		}
		if tt.own {
			to.breaker.trip(s.now, "500", 0)
		}
		if got := d.blocked(); got != tt.want {
			t.Errorf("%+v: held: %v", tt, got)
		}
		if got := pickProbe(func(yield func(*subscriber) bool) { yield(to) }) != nil; (tt.endpoint || tt.own) && got != tt.due {
			t.Errorf("%+v: may be a probe: %v", tt, got)
		}
	}
}

// When a lagging subscription reads the log again, the events that depend on an expired
// newCall expire with it, page after page.
func TestNewCallOfLaggingSubscription(t *testing.T) {
	for _, outage := range []time.Duration{10 * time.Second, 2 * time.Minute} {
		t.Run(outage.String(), func(t *testing.T) {
			k := testSubscription("a", "http://crm/")
			k.Dialect, k.Types = payload.CTI, []string{"dial-out", "answer", "hangup"}
			s := newSchedulerTest(t, k)
			s.maxPending = 4
			how := map[string]string{}
			s.hooks.Ended = func(e End) {
				if _, twice := how[labelOfEnd(e)]; twice {
					t.Errorf("%s ends twice", labelOfEnd(e))
				}
				how[labelOfEnd(e)] = e.Outcome.String() + " " + e.Reason
			}
			emit := func(party int, i int) {
				s.seq++
				e := partyEvents(party)[i]
				e.At, e.Call = s.now, fmt.Sprint("c", party)
				s.log = append(s.log, entry{Seq: s.seq, Event: &e})
				s.addEvent(s.now, s.seq, &e)
			}
			for party := range 50 {
				emit(party, 0)
			}
			s.serveSite(outage, receiverSite{"/": answerFailure}, 0, nil)
			for party := range 50 {
				emit(party, 1)
				emit(party, 2)
			}
			for range 100 {
				s.serveSite(10*time.Second, receiverSite{"/": answerOK}, 0, nil)
				s.readPages()
			}
			s.wantEqual("left", fmt.Sprint(s.pending, s.catchUp.lagging), "0 0")
			for party := range 50 {
				first, last := how[fmt.Sprintf("c%d/%d", party, party+1)], how[fmt.Sprintf("c%d/%d", party, 52+2*party)]
				if want := "delivered "; first == want && last != want {
					t.Errorf("party %d: newCall %s, hangup %s", party, first, last)
				}
				if want := "expired " + ReasonUndelivered; first == "expired " && last != want || outage > liveTTL && last != want {
					t.Errorf("party %d: newCall %s, hangup %s", party, first, last)
				}
			}
			if n := len(s.subscribers["a"].newCalls); n != 0 {
				t.Errorf("%d calls are remembered that are over", n)
			}
		})
	}
}

// partyEvents returns dial-out, answer and hangup of a party.
func partyEvents(i int) (all []dialog.Event) {
	for _, t := range []dialog.Type{dialog.DialOut, dialog.Answer, dialog.Hangup} {
		all = append(all, dialog.Event{Type: t, Flow: dialog.Out, Party: fmt.Sprint("p", i), Extension: dialog.Extension{User: "101"}})
	}
	return all
}
