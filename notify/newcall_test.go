package notify

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"bellhop/dialog"
	"bellhop/notify/deliverylog"
	"bellhop/notify/schedule"
	"bellhop/notify/send"
)

// A ctiReceiver is a receiver of the dialect cti that keeps an entry for each call, as
// Zammad does: it refuses events of a call without a newCall, and a newCall that it has
// already.
type ctiReceiver struct {
	mu    sync.Mutex
	away  bool            // it answers 503
	down  string          // a host to which no connection is made
	slow  bool            // it accepts requests and does not answer
	known map[string]bool // calls
	log   []string        // requests accepted and refused
	twice int             // the status for a repeated newCall
	forms []url.Values    // requests accepted

	answer func(*http.Request, url.Values) (int, string) // replaces the response unless its status is 0; nil: never
	urls   []string                                      // the event, URL and status of each request, if answer is set
}

func (k *ctiReceiver) RoundTrip(req *http.Request) (*http.Response, error) {
	r := request{Request: req}
	b, _ := io.ReadAll(req.Body)
	r.form, _ = url.ParseQuery(string(b))
	call, event := r.form.Get("callId"), r.form.Get("event")
	k.mu.Lock()
	if k.down != "" && req.URL.Host == k.down {
		k.mu.Unlock()
		return nil, &send.ConnectError{Err: errors.New("connection refused")}
	}
	status, body := 200, "{}"
	switch {
	case k.away:
		status, body = 503, "maintenance"
	case event == "newCall" && k.known[call]:
		status, body = k.twice, `{"error":"call_id `+call+` already exists!"}`
	case event == "newCall":
		k.known[call] = true
	case call != "" && !k.known[call]:
		status, body = 422, `{"error":"No such call_id `+call+`"}`
	}
	if k.answer != nil {
		if s, b := k.answer(req, r.form); s != 0 {
			status, body = s, b
		}
		k.urls = append(k.urls, strings.TrimSuffix(fmt.Sprint(event, " ", req.URL, " ", status), " 200"))
	}
	name := call[max(0, len(call)-2):] + " " + event
	if status == 200 {
		k.log = append(k.log, name)
		k.forms = append(k.forms, r.form)
	} else {
		k.log = append(k.log, fmt.Sprint(name, " ", status))
	}
	slow := k.slow
	k.mu.Unlock()
	if slow {
		<-req.Context().Done()
		return nil, req.Context().Err()
	}
	return &http.Response{StatusCode: status, Status: http.StatusText(status), Body: io.NopCloser(strings.NewReader(body))}, nil
}

func (k *ctiReceiver) update(f func()) {
	k.mu.Lock()
	defer k.mu.Unlock()
	f()
}

// summary returns the requests accepted and refused since the last call, but for those
// while it was away.
func (k *ctiReceiver) summary() string {
	k.mu.Lock()
	defer k.mu.Unlock()
	log := slices.DeleteFunc(k.log, func(s string) bool { return strings.HasSuffix(s, " 503") })
	k.log = nil
	return strings.Join(log, ", ")
}

// partyEvents returns dial-out, answer and hangup of a party as the tracker emits them.
func partyEvents(i int) []dialog.Event {
	all := callOf(i)
	for j := range all {
		all[j].Party = fmt.Sprintf("%032d", i)
		all[j].ID = dialog.EventID(all[j].Party, all[j].Type)
	}
	return all
}

// A ctiTest is a ctiReceiver and a notifier that can be stopped and started again.
type ctiTest struct {
	*testing.T
	*Notifier
	keeper  *ctiReceiver
	id      string
	restart func() // restarts the notifier on the same store
}

func testKeeping(t *testing.T, twice int, f func(*testing.T, *ctiTest)) {
	t.Helper()
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		k := &ctiReceiver{known: make(map[string]bool), twice: twice}
		c := Config{Transport: k, KeepEvents: keepForever}
		js, closeStore := openStore(t, dir)
		n, stop := startNotifier(t, js, c)
		s := &ctiTest{T: t, Notifier: n, keeper: k}
		s.restart = func() {
			stop()
			closeStore()
			js, closeStore = openStore(t, dir)
			s.Notifier, stop = startNotifier(t, js, c)
		}
		sub := testSubscription("", "http://crm/hook")
		sub.Dialect, sub.Types = CTI, []string{"dial-in", "dial-out", "answer", "hangup"}
		sub.LiveTTL = Duration(10 * time.Second)
		s.id = mustSubscribe(t, n, sub).ID
		f(t, s)
		stop()
		closeStore()
	})
}

// publishParty publishes the i-th event of a party now.
func (s *ctiTest) publishParty(party, i int) {
	e := partyEvents(party)[i]
	e.At = time.Now()
	s.EventLog.Append([]dialog.Event{e})
	time.Sleep(time.Second)
}

func (s *ctiTest) wantSummary(what, want string) {
	s.Helper()
	if got := s.keeper.summary(); got != want {
		s.Errorf("%s: %s; want %s", what, got, want)
	}
}

// wantEnded checks how the delivery of the i-th event of a party ended, and why.
func (s *ctiTest) wantEnded(party, i int, state, why string) {
	s.Helper()
	time.Sleep(time.Second)
	d, err := s.Delivery(s.Context(), deliverylog.ID(partyEvents(party)[i].ID, s.id))
	if err != nil {
		s.Errorf("event %d of party %d: %v", i, party, err)
		return
	}
	last := d.Attempts[len(d.Attempts)-1]
	if d.State != state || !strings.Contains(last.Error, why) {
		s.Errorf("event %d of party %d: %s, %q; want %s, %q", i, party, d.State, last.Error, state, why)
	}
}

// A receiver that keeps entries gets no answer and no hangup without their newCall.
func TestNothingIsSentWithoutNewCall(t *testing.T) {
	for _, tt := range []struct {
		name string
		play func(*ctiTest)
	}{
		{"all is well", func(s *ctiTest) {
			s.publishParty(1, 0)
			s.publishParty(1, 1)
			s.publishParty(1, 2)
			s.wantSummary("sent", "01 newCall, 01 answer, 01 hangup")
			s.wantEnded(1, 2, Delivered, "")
		}},
		{"the newCall expires", func(s *ctiTest) {
			s.keeper.update(func() { s.keeper.away = true })
			s.publishParty(1, 0)
			time.Sleep(20 * time.Second)
			s.keeper.update(func() { s.keeper.away = false })
			s.publishParty(1, 1)
			s.publishParty(1, 2)
			s.wantEnded(1, 0, Expired, "")
			s.wantEnded(1, 1, Expired, schedule.ReasonUndelivered)
			s.wantEnded(1, 2, Expired, schedule.ReasonUndelivered)
			s.publishParty(2, 0)
			time.Sleep(schedule.MaxProbeInterval)
			s.publishParty(2, 2)
			s.wantSummary("sent", "02 newCall, 02 hangup")
		}},
		{"answer and hangup wait for the newCall", func(s *ctiTest) {
			s.keeper.update(func() { s.keeper.away = true })
			s.publishParty(1, 0)
			s.publishParty(1, 1)
			s.publishParty(1, 2)
			time.Sleep(20 * time.Second)
			s.wantEnded(1, 2, Expired, schedule.ReasonUndelivered)
			s.keeper.update(func() { s.keeper.away = false })
			time.Sleep(20 * time.Second)
			s.wantSummary("sent", "")
		}},
		{"it comes in time", func(s *ctiTest) {
			s.keeper.update(func() { s.keeper.away = true })
			s.publishParty(1, 0)
			s.publishParty(1, 2)
			time.Sleep(3 * time.Second)
			s.keeper.update(func() { s.keeper.away = false })
			time.Sleep(20 * time.Second)
			s.wantSummary("sent", "01 newCall, 01 hangup")
		}},
		{"a restart between", func(s *ctiTest) {
			s.keeper.update(func() { s.keeper.away = true })
			s.publishParty(1, 0)
			time.Sleep(20 * time.Second)
			s.keeper.update(func() { s.keeper.away = false })
			s.publishParty(2, 0)
			time.Sleep(schedule.MaxProbeInterval)
			s.restart()
			s.publishParty(1, 2)
			s.publishParty(2, 2)
			s.wantSummary("sent", "02 newCall, 02 hangup")
			s.wantEnded(1, 2, Expired, schedule.ReasonUndelivered)
			s.wantEnded(2, 2, Delivered, "")
		}},
		{"a restart while it waits", func(s *ctiTest) {
			s.keeper.update(func() { s.keeper.away = true })
			s.publishParty(1, 0)
			s.publishParty(1, 2)
			s.restart()
			time.Sleep(20 * time.Second)
			s.keeper.update(func() { s.keeper.away = false })
			time.Sleep(20 * time.Second)
			s.wantEnded(1, 2, Expired, schedule.ReasonUndelivered)
			s.wantSummary("sent", "")
		}},
		{"the subscription is younger", func(s *ctiTest) {
			late := testSubscription("", "http://crm/late")
			late.Dialect, late.Types = CTI, []string{"dial-out", "answer", "hangup"}
			s.publishParty(1, 0)
			time.Sleep(time.Second)
			s.keeper.update(func() { clear(s.keeper.known) }) // another receiver
			s.id = mustSubscribe(s.T, s.Notifier, late).ID
			s.publishParty(1, 2)
			s.wantEnded(1, 2, Expired, reasonTooEarly)
			s.publishParty(2, 0)
			s.restart()
			s.publishParty(2, 2)
			s.wantEnded(2, 2, Delivered, "")
		}},
		{"switched off and on again", func(s *ctiTest) {
			for _, active := range []bool{false, true} {
				if _, err := s.Edit(s.Context(), s.id, 0, func(s *Subscription) error { s.Active = active; return nil }); err != nil {
					s.Error(err)
				}
				if !active {
					s.publishParty(1, 0)
				}
			}
			s.publishParty(1, 2)
			s.wantSummary("sent", "")
			s.wantEnded(1, 2, Expired, reasonTooEarly)
		}},
		{"a note is edited", func(s *ctiTest) {
			s.publishParty(1, 0)
			if _, err := s.Edit(s.Context(), s.id, 0, func(s *Subscription) error { s.Note = "x"; return nil }); err != nil {
				s.Error(err)
			}
			s.restart()
			s.publishParty(1, 2)
			s.wantSummary("sent", "01 newCall, 01 hangup")
		}},
		{"it asks for no newCall", func(s *ctiTest) {
			if _, err := s.Edit(s.Context(), s.id, 0, func(s *Subscription) error { s.Types = []string{"dial-in", "hangup"}; return nil }); err != nil {
				s.Error(err)
			}
			s.keeper.update(func() { s.keeper.known[partyEvents(1)[0].Party] = true })
			s.publishParty(1, 0)
			s.publishParty(1, 2)
			s.wantSummary("sent", "01 hangup")
		}},
		{"all is replayed", func(s *ctiTest) {
			from := time.Now()
			s.keeper.update(func() { s.keeper.away = true })
			s.publishParty(1, 0)
			s.publishParty(1, 1)
			s.publishParty(1, 2)
			time.Sleep(20 * time.Second)
			s.keeper.update(func() { s.keeper.away = false })
			if n, err := s.Replay(s.Context(), s.id, from, time.Time{}, nil); n != 3 || err != nil {
				s.Error(n, err)
			}
			time.Sleep(20 * time.Second)
			s.wantSummary("sent", "01 newCall, 01 answer, 01 hangup")
		}},
		{"hangups are replayed", func(s *ctiTest) {
			from := time.Now()
			s.keeper.update(func() { s.keeper.away = true })
			s.publishParty(1, 0)
			time.Sleep(20 * time.Second)
			s.keeper.update(func() { s.keeper.away = false })
			s.publishParty(1, 2)
			s.publishParty(2, 0)
			time.Sleep(schedule.MaxProbeInterval)
			s.publishParty(2, 2)
			s.wantSummary("sent", "02 newCall, 02 hangup")
			if n, err := s.Replay(s.Context(), s.id, from, time.Time{}, []string{"hangup"}); n != 2 || err != nil {
				s.Error(n, err)
			}
			time.Sleep(20 * time.Second)
			s.wantSummary("sent again", "02 hangup")
		}},
		{"the newCall is sent by hand", func(s *ctiTest) {
			s.keeper.update(func() { s.keeper.away = true })
			s.publishParty(1, 0)
			time.Sleep(20 * time.Second)
			s.keeper.update(func() { s.keeper.away = false })
			if a, err := s.Redeliver(s.Context(), deliverylog.ID(partyEvents(1)[0].ID, s.id)); a.Outcome != Delivered || err != nil {
				s.Error(a.Outcome, err)
			}
			s.publishParty(1, 1)
			s.restart()
			s.publishParty(1, 2)
			s.wantSummary("sent", "01 newCall, 01 answer, 01 hangup")
		}},
		{"another dialect keeps nothing", func(s *ctiTest) {
			if _, err := s.Edit(s.Context(), s.id, 0, func(s *Subscription) error { s.Dialect = Telphin; return nil }); err != nil {
				s.Error(err)
			}
			s.keeper.update(func() { s.keeper.away = true })
			s.publishParty(1, 0)
			time.Sleep(20 * time.Second)
			s.publishParty(1, 2)
			time.Sleep(3 * time.Second)
			if d, err := s.Delivery(s.Context(), deliverylog.ID(partyEvents(1)[2].ID, s.id)); err != nil || d.State != Waiting {
				s.Error(d.State, err)
			}
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			testKeeping(t, 422, func(t *testing.T, s *ctiTest) { tt.play(s) })
		})
	}
}

// A newCall that is repeated because its response was lost, and is refused because the
// receiver has it, counts as delivered.
func TestNewCallExistsAlready(t *testing.T) {
	for _, tt := range []struct {
		status int
		body   string
		want   string
	}{
		{422, `{"error":"call_id x already exists!"}`, Delivered},
		{500, "PG::UniqueViolation: ERROR: duplicate key value", Delivered},
		{409, "", Delivered},
		{400, "callId has Already Been Taken", Delivered},
		{422, "callId is missing", Waiting},
		{500, "", Waiting},
		{410, "already exists", Refused},
	} {
		t.Run(fmt.Sprint(tt.status, tt.body), func(t *testing.T) {
			n := newUnstored(Config{Transport: respondFunc(func(req *http.Request) *http.Response {
				return &http.Response{StatusCode: tt.status, Status: http.StatusText(tt.status), Body: io.NopCloser(strings.NewReader(tt.body))}
			})})
			for kind, want := range map[dialog.Type]string{dialog.DialIn: tt.want, dialog.Hangup: Waiting} {
				if tt.status == 410 {
					want = Refused
				}
				s := testSubscription("", "http://crm/hook")
				s.Dialect = CTI
				e := partyEvents(1)[0]
				e.Type = kind
				a := n.attemptNow(t.Context(), &s, &e, 1)
				if a.Outcome.String() != want {
					t.Errorf("%s: %v, want %s", kind, a.Outcome, want)
				}
			}
		})
	}
	for _, twice := range []int{422, 500} {
		testKeeping(t, twice, func(t *testing.T, s *ctiTest) {
			s.keeper.update(func() { s.keeper.slow = true })
			s.publishParty(1, 0)
			s.keeper.update(func() { s.keeper.slow = false })
			s.publishParty(1, 1)
			s.publishParty(1, 2)
			time.Sleep(time.Minute)
			s.wantSummary("sent", fmt.Sprint("01 newCall, 01 newCall ", twice, ", 01 answer, 01 hangup"))
			s.wantEnded(1, 0, Delivered, "")
		})
	}
}

// A respondFunc is a transport that answers by a function.
type respondFunc func(*http.Request) *http.Response

func (f respondFunc) RoundTrip(req *http.Request) (*http.Response, error) { return f(req), nil }
