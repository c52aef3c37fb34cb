package notify

import (
	"cmp"
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"bellhop/dialog"
	"bellhop/notify/deliverylog"
	"bellhop/notify/schedule"
	"bellhop/notify/subscription"
)

// readCallURLs reads the URLs of an XML response, and nothing else.
func TestReadCallURLs(t *testing.T) {
	const taken, over = "https://crm.example/taken?c=1&k=2", "http://10.0.0.7:8080/over"
	for _, tt := range []struct {
		name, answer string
		want         string // answer and hangup; "-": none
		wantErr      string // a part of the error
	}{
		{"both", `<?xml version="1.0" encoding="UTF-8"?><Response onAnswer="https://crm.example/taken?c=1&amp;k=2" onHangup="http://10.0.0.7:8080/over"/>`, taken + " " + over, ""},
		{"one", "<Response onHangup='http://10.0.0.7:8080/over' />\n", "- " + over, ""},
		{"beside what only sipgate can do", "\ufeff<?xml version=\"1.0\"?>\n<!-- ours -->\n<Response\n\tonHangup=\"" + over + "\">\n<Play><Url>x</Url></Play></Response>", "- " + over, ""},
		{"an empty one", `<Response onAnswer="" onHangup="` + over + `"></Response>`, "- " + over, ""},
		{"none", `<Response><Reject reason="busy"/></Response>`, "- -", ""},
		{"nothing", "", "- -", ""},
		{"JSON", `{"onAnswer":"http://crm.example/"}`, "- -", ""},
		{"a page", `<!doctype html><p>Thank you for your <b>call`, "- -", ""},
		{"another root", `<r><Response onAnswer="http://crm.example/"/></r>`, "- -", ""},
		{"another attribute", `<Response onanswer="http://crm.example/" x:onHangup="http://crm.example/" onData="http://crm.example/"/>`, "- -", ""},
		{"another name space", `<Response xmlns="urn:x" onAnswer="http://crm.example/"/>`, "- -", ""},
		{"a bare ampersand", `<Response onAnswer="https://crm.example/taken?c=1&k=2"/>`, "- -", "read XML response"},
		{"not ended", `<Response onAnswer="http://crm.example/">`, "- -", "read XML response"},
		{"two roots", `<Response onAnswer="http://crm.example/"/><Response/>`, "- -", "more than one root"},
		{"text after the root", `<Response onAnswer="http://crm.example/"/>ok`, "- -", "text outside"},
		{"a document type", `<!DOCTYPE Response [<!ENTITY a "http://crm.example/">]><Response onAnswer="&a;"/>`, "- -", "document type"},
		{"an entity", `<Response onAnswer="&a;"/>`, "- -", "read XML response"},
		{"twice the same", `<Response onAnswer="http://crm.example/" onAnswer="http://crm.example/2"/>`, "- -", "duplicate attribute onAnswer"},
		{"relative", `<Response onAnswer="/taken" onHangup="` + over + `"/>`, "- " + over, "onAnswer must begin with http:// or https://"},
		{"another scheme", `<Response onAnswer="file:///etc/passwd"/>`, "- -", "must begin with http:// or https://"},
		{"a password", `<Response onAnswer="https://me:secret@crm.example/"/>`, "- -", "has a user or password"},
		{"a template", `<Response onAnswer="https://crm.example/{callId}"/>`, "- -", "has braces"},
		{"a line end", `<Response onAnswer="https://crm.example/&#10;Host: x"/>`, "- -", "has spaces"},
		{"a fragment", `<Response onAnswer="https://crm.example/#x"/>`, "- -", "has a fragment"},
		{"a port", `<Response onAnswer="https://crm.example:70000/"/>`, "- -", "has the port 70000"},
		{"too long", `<Response onAnswer="https://crm.example/` + strings.Repeat("x", 2048) + `"/>`, "- -", "is longer than 2048 bytes"},
		{"cut", "cut<Response onAnswer='http://crm.example/'/>", "- -", "longer than 4096 bytes"},
	} {
		answer, cut := strings.CutPrefix(tt.answer, "cut")
		u, err := readCallURLs([]byte(answer), cut)
		a, h := u.Text()
		if got := cmp.Or(a, "-") + " " + cmp.Or(h, "-"); got != tt.want {
			t.Errorf("%s: %s, want %s", tt.name, got, tt.want)
		}
		if (err == nil) != (tt.wantErr == "") || err != nil && !strings.Contains(err.Error(), tt.wantErr) {
			t.Errorf("%s: %v, want %q", tt.name, err, tt.wantErr)
		}
		if err != nil && strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: the error is not fit for the log: %v", tt.name, err)
		}
	}
}

// answerWithURLs answers each newCall with XML that names two URLs below base, ending in
// the end of its callId.
func answerWithURLs(base string) func(*http.Request, url.Values) (int, string) {
	return func(_ *http.Request, form url.Values) (int, string) {
		if form.Get("event") != "newCall" {
			return 0, ""
		}
		call := form.Get("callId")
		call = call[len(call)-2:]
		return 200, `<Response onAnswer="` + base + `taken?c=` + call + `" onHangup="` + base + `over?c=` + call + `&amp;key=hidden"/>`
	}
}

// wantTargets checks the URLs of the requests since the last call.
func (s *ctiTest) wantTargets(want ...string) {
	s.Helper()
	time.Sleep(5 * time.Second)
	var got []string
	s.keeper.update(func() { got, s.keeper.urls = s.keeper.urls, nil })
	if all := strings.Join(got, "\n"); all != strings.Join(want, "\n") {
		s.Errorf("sent\n%s\nwant\n%s", all, strings.Join(want, "\n"))
	}
}

const (
	newCallAtHook = "newCall http://crm/hook"
	answerAtHook  = "answer http://crm/hook"
	hangupAtHook  = "hangup http://crm/hook"
	answerAtTaken = "answer http://crm/taken?c=01"
	hangupAtOver  = "hangup http://crm/over?c=01&key=hidden"
)

// Answer and hangup of a call go to the URLs that the response to its newCall names, if the
// subscription allows it.
func TestFollowURLs(t *testing.T) {
	const elsewhere = "hangup http://other:81/over?c=01&key=hidden"
	for _, tt := range []struct {
		name string
		play func(*ctiTest)
	}{
		{"both are named", func(s *ctiTest) {
			s.publishParty(1, 0)
			s.publishParty(1, 1)
			s.publishParty(1, 2)
			s.wantTargets(newCallAtHook, answerAtTaken, hangupAtOver)
		}},
		{"all wait for the newCall", func(s *ctiTest) {
			s.publishEvents(partyEvents(1)...)
			s.wantTargets(newCallAtHook, answerAtTaken, hangupAtOver)
		}},
		{"each call has its own", func(s *ctiTest) {
			s.publishParty(1, 0)
			s.publishParty(2, 0)
			s.publishParty(2, 2)
			s.publishParty(1, 2)
			s.wantTargets(newCallAtHook, newCallAtHook, "hangup http://crm/over?c=02&key=hidden", hangupAtOver)
		}},
		{"one is named", func(s *ctiTest) {
			s.keeper.answer = func(*http.Request, url.Values) (int, string) {
				return 200, `<Response onHangup="https://crm:8443/over"/>`
			}
			s.publishParty(1, 0)
			s.publishParty(1, 1)
			s.publishParty(1, 2)
			s.wantTargets(newCallAtHook, answerAtHook, "hangup https://crm:8443/over")
		}},
		{"what is named is of no use", func(s *ctiTest) {
			s.keeper.answer = answerWithURLs("ftp://crm/")
			s.publishParty(1, 0)
			s.publishParty(1, 1)
			s.wantTargets(newCallAtHook, answerAtHook)
		}},
		{"not allowed", func(s *ctiTest) {
			s.editSubscription(func(s *Subscription) { s.FollowURLs = false })
			s.publishParty(1, 0)
			s.publishParty(1, 2)
			s.wantTargets(newCallAtHook, hangupAtHook)
		}},
		{"switched off and on meanwhile", func(s *ctiTest) {
			s.publishParty(1, 0)
			s.editSubscription(func(s *Subscription) { s.FollowURLs = false })
			s.publishParty(1, 1)
			s.editSubscription(func(s *Subscription) { s.FollowURLs = true })
			s.publishParty(1, 2)
			s.wantTargets(newCallAtHook, answerAtHook, hangupAtOver)
		}},
		{"another URL meanwhile", func(s *ctiTest) {
			s.publishParty(1, 0)
			s.publishParty(2, 0)
			s.editSubscription(func(s *Subscription) { s.URL = "http://crm/new" })
			s.publishParty(1, 2)
			s.restart()
			s.publishParty(2, 2)
			s.wantTargets(newCallAtHook, newCallAtHook, "hangup http://crm/new", "hangup http://crm/new")
		}},
		{"deleted meanwhile", func(s *ctiTest) {
			s.publishParty(1, 0)
			if err := s.Unsubscribe(s.Context(), s.id, 0); err != nil {
				s.Error(err)
			}
			s.publishParty(1, 2)
			s.wantTargets(newCallAtHook)
		}},
		{"the attempt that delivered it counts", func(s *ctiTest) {
			n := 0
			s.keeper.answer = func(req *http.Request, form url.Values) (int, string) {
				if n++; n == 1 {
					_, body := answerWithURLs("http://crm/first/")(req, form)
					return 503, body
				}
				return answerWithURLs("http://crm/second/")(req, form)
			}
			s.publishParty(1, 0)
			time.Sleep(5 * time.Second)
			s.publishParty(1, 1)
			s.restart()
			s.publishParty(1, 2)
			s.wantTargets(newCallAtHook+" 503", newCallAtHook, "answer http://crm/second/taken?c=01", "hangup http://crm/second/over?c=01&key=hidden")
		}},
		{"the last attempt that delivered it counts", func(s *ctiTest) {
			s.publishParty(1, 0)
			time.Sleep(time.Second)
			s.keeper.update(func() { s.keeper.answer = answerWithURLs("http://crm/by-hand/") })
			if a, err := s.Redeliver(s.Context(), deliverylog.ID(partyEvents(1)[0].ID, s.id)); a.Outcome != Delivered || err != nil {
				s.Error(a.Outcome, err)
			}
			s.publishParty(1, 1)
			s.restart()
			s.publishParty(1, 2)
			s.wantTargets(newCallAtHook, newCallAtHook, "answer http://crm/by-hand/taken?c=01", "hangup http://crm/by-hand/over?c=01&key=hidden")
		}},
		{"it is delivered by hand", func(s *ctiTest) {
			s.keeper.update(func() { s.keeper.away = true })
			s.keeper.answer = func(req *http.Request, form url.Values) (int, string) {
				if s.keeper.away {
					return 0, ""
				}
				return answerWithURLs("http://crm/")(req, form)
			}
			s.publishParty(1, 0)
			s.keeper.update(func() { s.keeper.away = false })
			if a, err := s.Redeliver(s.Context(), deliverylog.ID(partyEvents(1)[0].ID, s.id)); a.Outcome != Delivered || err != nil {
				s.Error(a.Outcome, err)
			}
			s.publishParty(1, 1)
			s.wantTargets(newCallAtHook+" 503", newCallAtHook, answerAtTaken)
		}},
		{"a restart between", func(s *ctiTest) {
			s.publishParty(1, 0)
			s.restart()
			s.publishParty(1, 1)
			s.restart()
			s.publishParty(1, 2)
			s.wantTargets(newCallAtHook, answerAtTaken, hangupAtOver)
		}},
		{"the log has it before anything follows", func(s *ctiTest) {
			s.keeper.answer = func(req *http.Request, form url.Values) (int, string) {
				if form.Get("event") == "answer" { // at once: no other record is written before
					sub, err := s.registry.get(s.id)
					u, err2 := s.lastURLs(context.Background(), &sub, partyEvents(1)[0].ID)
					if err := errors.Join(err, err2); err != nil || u.For(dialog.Hangup) == nil {
						s.Error("the log has no URLs", err)
					}
				}
				return answerWithURLs("http://crm/")(req, form)
			}
			s.publishEvents(partyEvents(1)...)
			s.wantTargets(newCallAtHook, answerAtTaken, hangupAtOver)
			s.wantEnded(1, 0, Delivered, "")
			subject := deliverylog.Subject(s.id, partyEvents(1)[0].ID)
			if info, err := s.deliveryLog.Info(s.Context(), jetstream.WithSubjectFilter(subject)); err != nil || info.State.Subjects[subject] != 1 {
				s.Errorf("%+v, %v; want one record", info, err)
			}
		}},
		{"they are replayed", func(s *ctiTest) {
			from := time.Now()
			s.publishParty(1, 0)
			s.publishParty(1, 1)
			s.publishParty(1, 2)
			s.wantTargets(newCallAtHook, answerAtTaken, hangupAtOver)
			s.restart()
			for types, want := range map[string][]string{"": {newCallAtHook, answerAtTaken, hangupAtOver}, "hangup": {hangupAtOver}} {
				if _, err := s.Replay(s.Context(), s.id, from, time.Time{}, strings.Fields(types)); err != nil {
					s.Error(err)
				}
				s.wantTargets(want...)
			}
		}},
		{"the hangup is sent again by hand", func(s *ctiTest) {
			s.publishParty(1, 0)
			s.publishParty(1, 2)
			s.wantTargets(newCallAtHook, hangupAtOver)
			if a, err := s.Redeliver(s.Context(), deliverylog.ID(partyEvents(1)[2].ID, s.id)); a.Outcome != Delivered || err != nil {
				s.Error(a.Outcome, err)
			}
			s.wantTargets(hangupAtOver)
		}},
		{"a URL fails", func(s *ctiTest) {
			s.failPath("/over", 404)
			for i := range 12 {
				s.publishParty(i, 0)
				s.publishParty(i, 2)
			}
			time.Sleep(time.Minute)
			s.keeper.update(func() {
				for _, u := range s.keeper.urls {
					if strings.HasPrefix(u, "hangup") && !strings.Contains(u, "/over") {
						s.Errorf("%s: no other URL is tried", u)
					}
				}
				s.keeper.urls, s.keeper.answer = nil, answerWithURLs("http://crm/")
			})
			if sub, err := s.Subscription(s.id); sub.State != StateActive || err != nil {
				s.Errorf("the subscription is %s, %v", sub.State, err)
			}
			s.publishParty(50, 0)
			s.wantTargets(newCallAtHook)
			time.Sleep(5 * time.Minute)
			for i := range 12 {
				s.wantEnded(i, 2, Delivered, "")
			}
		}},
		{"a URL is gone", func(s *ctiTest) {
			s.failPath("/over", 410)
			s.publishParty(1, 0)
			s.publishParty(1, 2)
			s.wantEnded(1, 2, Refused, "")
			s.publishParty(2, 0)
			s.wantTargets(newCallAtHook, hangupAtOver+" 410", newCallAtHook)
		}},
		{"the subscription fails meanwhile", func(s *ctiTest) {
			s.publishParty(1, 0)
			s.failPath("/hook", 500)
			s.pauseSubscription()
			s.publishParty(1, 1)
			s.restart()
			s.publishParty(1, 2)
			time.Sleep(2 * schedule.MaxProbeInterval)
			s.keeper.update(func() { s.keeper.answer = nil })
			s.wantEnded(1, 1, Delivered, "")
			s.wantEnded(1, 2, Delivered, "")
		}},
		{"another endpoint is down", func(s *ctiTest) {
			s.keeper.answer = answerWithURLs("http://other:81/")
			s.refuseHost("other:81")
			for i := range 10 {
				s.publishParty(i, 0)
				s.publishParty(i, 2)
			}
			s.keeper.update(func() { s.keeper.urls = nil })
			s.publishParty(20, 0)
			s.publishParty(20, 2)
			s.keeper.update(func() {
				if len(s.keeper.urls) == 0 || s.keeper.urls[0] != newCallAtHook {
					s.Errorf("%v, want a newCall at once", s.keeper.urls)
				}
			})
		}},
		{"the endpoint is down, and another is not", func(s *ctiTest) {
			s.keeper.answer = answerWithURLs("http://other:81/")
			s.publishParty(1, 0)
			s.publishParty(2, 0)
			s.wantTargets(newCallAtHook, newCallAtHook)
			s.refuseHost("crm")
			s.pauseSubscription()
			s.publishParty(1, 2)
			s.wantTargets(elsewhere)
			s.restart()
			s.publishParty(2, 2)
			time.Sleep(2 * schedule.MaxProbeInterval)
			s.wantEnded(2, 2, Delivered, "")
			if a, err := s.Redeliver(s.Context(), deliverylog.ID(partyEvents(2)[2].ID, s.id)); a.Outcome != Delivered || err != nil {
				s.Error(a.Outcome, err)
			}
			time.Sleep(time.Second)
			if sub, err := s.Subscription(s.id); sub.State != StatePaused || err != nil {
				s.Errorf("what went elsewhere by hand has made the subscription %s, %v", sub.State, err)
			}
			s.refuseHost("")
			s.publishParty(30, 0)
			time.Sleep(schedule.MaxProbeInterval)
			s.wantEnded(30, 0, Delivered, "")
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			testKeeping(t, 422, func(t *testing.T, s *ctiTest) {
				s.keeper.answer = answerWithURLs("http://crm/")
				s.editSubscription(func(s *Subscription) { s.FollowURLs = true })
				time.Sleep(time.Second)
				tt.play(s)
			})
		})
	}
}

// failPath has requests at a path answered with a status.
func (s *ctiTest) failPath(path string, status int) {
	s.keeper.update(func() {
		s.keeper.answer = func(req *http.Request, form url.Values) (int, string) {
			if req.URL.Path == path {
				return status, "no"
			}
			return answerWithURLs("http://crm/")(req, form)
		}
	})
}

// pauseSubscription publishes newCalls until the failing subscription is paused.
func (s *ctiTest) pauseSubscription() {
	for i := range 10 {
		s.publishParty(i+10, 0)
	}
	time.Sleep(10 * time.Second)
	if sub, err := s.Subscription(s.id); sub.State != StatePaused || err != nil {
		s.Errorf("the subscription is %s, %v", sub.State, err)
	}
}

// refuseHost has connections to a host refused.
func (s *ctiTest) refuseHost(host string) { s.keeper.update(func() { s.keeper.down = host }) }

// A call that rings at several extensions has one newCall, and the URLs of its response
// apply to all of them.
func TestFollowURLsHoldForGroup(t *testing.T) {
	const over = "hangup http://crm/over?c=11&key=hidden"
	for _, tt := range []struct {
		name string
		play func(*ctiTest)
	}{
		{"one takes it", func(s *ctiTest) {
			s.publishEvents(dialIns("111", "112", "113")...)
			time.Sleep(3 * time.Second)
			s.publishEvents(answerOf("112", "111", "113")...)
			s.publishEvents(hangupOf("112"))
			s.wantTargets(newCallAtHook, "answer http://crm/taken?c=11", over)
		}},
		{"a restart between", func(s *ctiTest) {
			s.publishEvents(dialIns("111", "112")...)
			time.Sleep(3 * time.Second)
			s.restart()
			s.publishEvents(answerOf("112", "111")...)
			s.restart()
			s.publishEvents(hangupOf("112"))
			s.wantTargets(newCallAtHook, "answer http://crm/taken?c=11", over)
		}},
		{"nobody does, and then another call", func(s *ctiTest) {
			s.publishEvents(dialIns("111", "112")...)
			time.Sleep(3 * time.Second)
			s.publishEvents(hangupsOf(dialog.NoAnswer, "111", "112")...)
			time.Sleep(3 * time.Second)
			s.publishEvents(ringEvent("113", 0, dialog.DialIn, dialog.Calling))
			time.Sleep(3 * time.Second)
			s.publishEvents(hangupsOf(dialog.NoAnswer, "113")...)
			s.wantTargets(newCallAtHook, over, newCallAtHook, "hangup http://crm/over?c=13&key=hidden")
		}},
		{"it is sent on, and then the first hangs up", func(s *ctiTest) {
			s.publishEvents(dialIns("111")...)
			time.Sleep(3 * time.Second)
			s.publishEvents(answerOf("111")...)
			s.publishEvents(dialIns("112")...)
			time.Sleep(3 * time.Second)
			s.publishEvents(hangupOf("111"))
			s.publishEvents(answerOf("112")...)
			s.publishEvents(hangupOf("112"))
			s.wantTargets(newCallAtHook, "answer http://crm/taken?c=11", newCallAtHook, over, "answer http://crm/taken?c=12", "hangup http://crm/over?c=12&key=hidden")
		}},
		{"each is a call", func(s *ctiTest) {
			s.editSubscription(func(s *Subscription) { s.Group = subscription.GroupEach })
			s.publishEvents(dialIns("111", "112")...)
			time.Sleep(3 * time.Second)
			s.publishEvents(hangupsOf(dialog.NoAnswer, "112")...)
			time.Sleep(3 * time.Second)
			s.publishEvents(hangupsOf(dialog.NoAnswer, "111")...)
			s.wantTargets(newCallAtHook, newCallAtHook, "hangup http://crm/over?c=12&key=hidden", over)
		}},
		{"one calls out", func(s *ctiTest) {
			s.publishParty(1, 0)
			s.publishParty(1, 1)
			s.restart()
			s.publishParty(1, 2)
			s.wantTargets(newCallAtHook, answerAtTaken, hangupAtOver)
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			testGrouping(t, func(s *ctiTest) {
				s.keeper.answer = answerWithURLs("http://crm/")
				s.editSubscription(func(s *Subscription) { s.FollowURLs = true })
				time.Sleep(time.Second)
				tt.play(s)
			})
		})
	}
}

// The delivery log masks the queries of named URLs, the header fields of the subscription
// go only to its own endpoint, and each request is signed.
func TestFollowURLsAreMasked(t *testing.T) {
	testKeeping(t, 422, func(t *testing.T, s *ctiTest) {
		keys, signed := map[string]string{}, map[string]bool{}
		s.keeper.answer = func(req *http.Request, form url.Values) (int, string) {
			keys[form.Get("event")] = req.Header.Get("X-Key")
			signed[form.Get("event")] = strings.HasPrefix(req.Header.Get("Webhook-Signature"), "v1,") && req.Header.Get("Webhook-Id") != ""
			if form.Get("event") == "newCall" {
				return 200, `<Response onAnswer = 'http://crm:80/taken?key=hidden&amp;c=1' onHangup="https://crm/over?key=hidden"><!-- onAnswer="http://me:hidden@crm/" --></Response>`
			}
			return 0, ""
		}
		s.editSubscription(func(s *Subscription) {
			s.FollowURLs, s.Headers, s.Secret = true, map[string]string{"X-Key": "of the subscription"}, subscription.NewSecret()
		})
		time.Sleep(time.Second)
		for i := range partyEvents(1) {
			s.publishParty(1, i)
		}
		time.Sleep(time.Second)
		s.keeper.update(func() {
			for event, want := range map[string]string{"newCall": "of the subscription", "answer": "of the subscription", "hangup": ""} {
				if keys[event] != want || !signed[event] {
					t.Errorf("%s has the header %q, want %q; signed: %v", event, keys[event], want, signed[event])
				}
			}
		})
		for i, want := range []string{"http://crm/hook", "http://crm:80/taken?[redacted]", "https://crm/over?[redacted]"} {
			d, err := s.Delivery(s.Context(), deliverylog.ID(partyEvents(1)[i].ID, s.id))
			if err != nil || len(d.Attempts) != 1 {
				t.Fatal(d.Attempts, err)
			}
			a := d.Attempts[0]
			if a.Request.URL != want {
				t.Errorf("event %d went to %s, want %s", i, a.Request.URL, want)
			}
			if i == 0 && (strings.Contains(a.Answer.Body, "hidden") || !strings.Contains(a.Answer.Body, `onAnswer = "http://crm:80/taken?[redacted]" onHangup="https://crm/over?[redacted]"`)) {
				t.Errorf("the answer is shown as %s", a.Answer.Body)
			}
		}
	})
}

// The egress guard checks a URL that a receiver names, and its redirects are not followed.
func TestFollowURLsAreGuarded(t *testing.T) {
	inside := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, req *http.Request) { t.Error("it was reached at", req.URL) }))
	defer inside.Close()
	outside := httptest.NewServer(http.RedirectHandler(inside.URL, http.StatusTemporaryRedirect))
	defer outside.Close()
	at, _ := url.Parse(inside.URL)
	n := newUnstored(Config{Allow: loopback, Own: []netip.AddrPort{netip.MustParseAddrPort(at.Host)}})
	defer n.sender.Close()
	for named, want := range map[string]string{
		inside.URL: "bellhop itself listens there", "http://localhost:" + at.Port(): "bellhop itself listens there",
		"http://169.254.169.254/latest": "not a public or private network", outside.URL: "307 Temporary Redirect",
	} {
		s, e := testSubscription("", "http://crm.example/hook"), partyEvents(1)[2]
		s.Dialect, s.FollowURLs = CTI, true
		u, _ := url.Parse(s.URL)
		a := &attempt{Attempt: schedule.Attempt{Type: dialog.Hangup, Seq: 1, Sub: &s, URL: u, Event: &e,
			PartyNewCall: schedule.NewCall{State: schedule.NewCallDelivered, URLs: schedule.ParseCallURLs("", named)}}}
		n.makeAttempt(t.Context(), a)
		if a.Outcome != schedule.WillRetry || !strings.Contains(a.Detail, want) {
			t.Errorf("%s: %v, %s; want %s", named, a.Outcome, a.Detail, want)
		}
	}
}

// FuzzReadCallURLs: whatever the response, a named URL is valid for a subscription, and is
// shown without its query.
func FuzzReadCallURLs(f *testing.F) {
	f.Add([]byte(`<Response onAnswer="http://crm.example/taken?c=1&amp;k=2" onHangup='https://crm.example/over'/>`))
	f.Add([]byte("<?xml version='1.0'?><Response xmlns:a='b' a:onAnswer='c'><x/></Response>"))
	f.Fuzz(func(t *testing.T, answer []byte) {
		u, _ := readCallURLs(answer, false)
		deliverylog.MaskResponse(answer)
		for _, u := range []*url.URL{u.For(dialog.Answer), u.For(dialog.Hangup)} {
			if u == nil {
				continue
			}
			if again, err := subscription.ParseURL(u.String()); err != nil || again.Host != u.Host || u.Scheme != "http" && u.Scheme != "https" || u.User != nil {
				t.Errorf("%s: %v", u, err)
			}
			if u.RawQuery != "" && !strings.HasSuffix(deliverylog.MaskURL(u), "?"+deliverylog.Redacted) {
				t.Errorf("shown as %s", deliverylog.MaskURL(u))
			}
		}
	})
}
