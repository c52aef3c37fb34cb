package notify

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"bellhop/dialog"
	"bellhop/notify/schedule"
)

// A fakeWire is a receiver in memory that records the requests, and when they came.
type fakeWire struct {
	start  time.Time
	answer func(n int, r request) (int, http.Header) // n counts from 1; status 0 is no response

	mu    sync.Mutex
	got   []request
	taken []request // requests answered 200
	log   []string  // time and event
}

func (w *fakeWire) RoundTrip(req *http.Request) (*http.Response, error) {
	var body []byte
	if req.Body != nil {
		body, _ = io.ReadAll(req.Body)
		req.Body.Close()
	}
	r := request{id: req.Header.Get("Webhook-Id"), body: string(body), Request: req}
	r.form, _ = url.ParseQuery(r.body + "&" + req.URL.RawQuery)
	w.mu.Lock()
	w.got = append(w.got, r)
	n := len(w.got)
	w.log = append(w.log, fmt.Sprintf("%s %s", time.Since(w.start).Round(time.Second), r.form.Get("EventType")))
	w.mu.Unlock()
	status, header := 200, http.Header(nil)
	if w.answer != nil {
		status, header = w.answer(n, r)
	}
	if status == 200 {
		w.mu.Lock()
		w.taken = append(w.taken, r)
		w.mu.Unlock()
	}
	if status == 0 {
		<-req.Context().Done()
		return nil, req.Context().Err()
	}
	return &http.Response{StatusCode: status, Status: http.StatusText(status), Header: header, Body: io.NopCloser(bytes.NewReader(nil))}, nil
}

// summary returns the requests received, one a line.
func (w *fakeWire) summary() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return strings.Join(w.log, ", ")
}

// runInVirtualTime runs f in virtual time with a store of its own, and a subscription to
// all events of extension 101.
func runInVirtualTime(t *testing.T, answer func(int, request) (int, http.Header), f func(*testing.T, *Notifier, *fakeWire, Subscription)) {
	t.Helper()
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		js, closeStore := openStore(t, dir)
		defer closeStore()
		w := &fakeWire{start: time.Now(), answer: answer}
		n, stop := startNotifier(t, js, Config{Transport: w})
		defer stop()
		s := testSubscription("", "http://crm/hook?myid=175")
		s.Dialect = Telphin
		f(t, n, w, mustSubscribe(t, n, s))
	})
}

// keepForever is the retention where a test opens a store again: the store then dates its
// events by another clock.
const keepForever = 100 * 365 * 24 * time.Hour

// upOrDown answers 200 while up is true, and 500 otherwise.
func upOrDown(up *atomic.Bool) func(int, request) (int, http.Header) {
	return func(int, request) (int, http.Header) {
		if up.Load() {
			return 200, nil
		}
		return 500, nil
	}
}

// answerStatuses answers with one status after another; the last repeats.
func answerStatuses(status ...int) func(int, request) (int, http.Header) {
	return func(n int, _ request) (int, http.Header) { return status[min(n, len(status))-1], nil }
}

func TestDeliversInOrder(t *testing.T) {
	for _, tt := range []struct {
		name   string
		answer func(int, request) (int, http.Header)
		say    []dialog.Type
		wait   time.Duration
		want   string
		stats  Stats
	}{
		{"all is well", answerStatuses(200), []dialog.Type{dialog.DialOut, dialog.Answer, dialog.Hangup}, time.Minute,
			"0s dial-out, 0s answer, 0s hangup", Stats{Published: 3, Delivered: 3}},
		{"the answer waits for the dial-out", answerStatuses(500, 500, 204), []dialog.Type{dialog.DialOut, dialog.Answer}, time.Minute,
			"0s dial-out, 2s dial-out, 6s dial-out, 6s answer", Stats{Published: 2, Delivered: 2, Failed: 2}},
		{"no answer", answerStatuses(0, 200), []dialog.Type{dialog.DialOut}, time.Minute,
			"0s dial-out, 7s dial-out", Stats{Published: 1, Delivered: 1, Failed: 1}},
		{"never", answerStatuses(404), []dialog.Type{dialog.DialOut}, 2 * time.Minute,
			"0s dial-out, 2s dial-out, 6s dial-out, 14s dial-out, 30s dial-out, 31s dial-out, 33s dial-out, 37s dial-out, 45s dial-out", Stats{Published: 1, Expired: 1, Failed: 9, SubscriptionPauses: 1}},
		{"a redirect is not followed", answerStatuses(302, 200), []dialog.Type{dialog.DialOut}, time.Minute,
			"0s dial-out, 2s dial-out", Stats{Published: 1, Delivered: 1, Failed: 1}},
		{"gone", answerStatuses(410), []dialog.Type{dialog.DialOut}, time.Minute,
			"0s dial-out", Stats{Published: 1, Refused: 1, Disabled: 1}},
		{"come back in 20 s", func(n int, _ request) (int, http.Header) {
			if n == 1 {
				return 429, http.Header{"Retry-After": {"20"}}
			}
			return 200, nil
		}, []dialog.Type{dialog.DialOut}, time.Minute,
			"0s dial-out, 20s dial-out", Stats{Published: 1, Delivered: 1, Failed: 1}},
		{"Retry-After of other answers means nothing", func(n int, _ request) (int, http.Header) {
			if n == 1 {
				return 500, http.Header{"Retry-After": {"20"}}
			}
			return 200, nil
		}, []dialog.Type{dialog.DialOut}, time.Minute,
			"0s dial-out, 2s dial-out", Stats{Published: 1, Delivered: 1, Failed: 1}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			runInVirtualTime(t, tt.answer, func(t *testing.T, n *Notifier, w *fakeWire, s Subscription) {
				var events []dialog.Event
				for i, typ := range tt.say {
					events = append(events, dialog.Event{ID: fmt.Sprint("e", i), Call: "c", Party: "p", Seq: i + 1, Type: typ, Flow: dialog.Out,
						At: time.Now(), Extension: dialog.Extension{User: "101", Domain: "pbx"}})
				}
				n.EventLog.Append(events)
				time.Sleep(tt.wait)
				if got := w.summary(); got != tt.want {
					t.Errorf("sent\n %s, want\n %s", got, tt.want)
				}
				if got := n.Stats(); got != tt.stats {
					t.Errorf("got %+v, want %+v", got, tt.stats)
				}
				ids := map[string]string{}
				for _, r := range w.got {
					if r.form.Get("myid") != "175" || r.Header.Get("User-Agent") != "bellhop" {
						t.Errorf("sent %v %v", r.form, r.Header)
					}
					if id := ids[r.form.Get("EventType")]; id != "" && id != r.id {
						t.Errorf("%s was sent as %s and as %s", r.form.Get("EventType"), id, r.id)
					}
					ids[r.form.Get("EventType")] = r.id
				}
				if got, _ := n.Subscription(s.ID); (got.State == StateDisabled) != (tt.stats.Refused > 0) {
					t.Errorf("the subscription is %s: %s", got.State, got.Why)
				}
			})
		})
	}
}

// checkCalls returns an error unless each call has its hangup, its events came in order,
// and repeated ones have the same id.
func checkCalls(got []request, from, to int) error {
	order := map[string][]string{} // by call: events in the order of first arrival
	ids := map[string]string{}
	for _, r := range got {
		call, event := r.form.Get("CallID"), r.form.Get("EventType")
		if id, again := ids[call+event]; again {
			if id != r.id {
				return fmt.Errorf("%s of call %s came as %s and as %s", event, call, id, r.id)
			}
			continue
		}
		ids[call+event] = r.id
		order[call] = append(order[call], event)
	}
	for i := from; i < to; i++ {
		call := callOf(i)[0].Call
		got := strings.Join(order[call], " ")
		if !slices.Contains([]string{"dial-out answer hangup", "dial-out hangup", "answer hangup", "hangup"}, got) {
			return fmt.Errorf("call %d: %q", i, got)
		}
	}
	return nil
}

// The receiver is down for 30 s in the middle of 500 calls.
func TestReceiverDown(t *testing.T) {
	var down bool
	var mu sync.Mutex
	answer := func(int, request) (int, http.Header) {
		mu.Lock()
		defer mu.Unlock()
		if down {
			return 503, nil
		}
		return 200, nil
	}
	runInVirtualTime(t, answer, func(t *testing.T, n *Notifier, w *fakeWire, _ Subscription) {
		for i := range 500 {
			mu.Lock()
			down = i >= 100 && i < 400
			mu.Unlock()
			n.EventLog.Append(callOf(i))
			time.Sleep(100 * time.Millisecond)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if err := checkCalls(w.taken, 0, 500); err != nil {
			t.Error(err)
		}
		if s := n.Stats(); s.Delivered+s.Expired != 1500 || s.Pending != 0 || s.Delivered < 1300 {
			t.Errorf("%+v", s)
		}
	})
}

// A restart keeps attempts, due times and order of pending deliveries.
func TestDeliveriesSurviveRestart(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		js, closeStore := openStore(t, dir)
		w := &fakeWire{start: time.Now(), answer: answerStatuses(500)}
		c := Config{Transport: w, KeepEvents: keepForever}
		n, stop := startNotifier(t, js, c)
		s := testSubscription("", "http://crm/hook")
		s.Dialect = Telphin
		mustSubscribe(t, n, s)
		n.EventLog.Append(callOf(1))
		time.Sleep(3 * time.Second)
		n.EventLog.Append(callOf(2)[2:])
		time.Sleep(100 * time.Millisecond)
		stop()
		closeStore()

		time.Sleep(2 * time.Second)
		js, closeStore = openStore(t, dir)
		defer closeStore()
		w.answer = nil
		n, stop = startNotifier(t, js, c)
		defer stop()
		time.Sleep(5 * time.Second)
		// the dial-out when it is due, and the other call's hangup when that is
		want := []string{"0s dial-out", "2s dial-out", "3s hangup", "6s answer", "6s dial-out", "6s hangup"}
		stop()
		slices.Sort(w.log)                                                                    // the two calls are independent
		if last := len(w.log) - 1; w.log[last] == "8s hangup" || w.log[last] == "9s hangup" { // because of jitter
			w.log = w.log[:last]
		}
		if !slices.Equal(w.log, want) {
			t.Errorf("sent\n %s, want\n %s", w.log, want)
		}
		if err := checkCalls(w.taken, 1, 3); err != nil {
			t.Error(err)
		}
		if s := n.Stats(); s.Delivered != 4 || s.Pending != 0 {
			t.Errorf("%+v", s)
		}
		time.Sleep(time.Minute)
		if info, err := n.outbox.Info(t.Context()); err != nil || info.State.Msgs != 1 {
			t.Errorf("the outbox keeps %d messages, want the cursor alone: %v", info.State.Msgs, err)
		}
	})
}

// Opt-in types are not published before a subscription names them.
func TestOptInTypesNeedSubscription(t *testing.T) {
	runInVirtualTime(t, answerStatuses(200), func(t *testing.T, n *Notifier, w *fakeWire, _ Subscription) {
		published := func() uint64 {
			ringing := callOf(0)[0]
			ringing.Type, ringing.ID = dialog.Ringing, fmt.Sprint("ringing ", time.Now().UnixNano())
			n.EventLog.Append([]dialog.Event{ringing})
			time.Sleep(time.Second)
			return n.Stats().Published
		}
		if got := published(); got != 0 {
			t.Errorf("%d events published without a subscription, want 0", got)
		}
		s := testSubscription("", "http://crm/ringing")
		s.Types = []string{"ringing"}
		mustSubscribe(t, n, s)
		if got := published(); got != 1 {
			t.Errorf("%d events published after a subscription has named the type, want 1", got)
		}
	})
}

// The store goes away and comes back: SIP is not delayed, and the events of that time are
// delivered in order.
func TestStoreGone(t *testing.T) {
	runInVirtualTime(t, answerStatuses(200), func(t *testing.T, n *Notifier, w *fakeWire, _ Subscription) {
		if err := n.js.DeleteStream(t.Context(), "bellhop_events"); err != nil { // the store accepts no events
			t.Fatal(err)
		}
		for i := range 10 {
			n.EventLog.Append(callOf(i))
		}
		time.Sleep(time.Second)
		if n.EventLog.Health() == nil || n.Stats().Unpublished != 30 {
			t.Errorf("health: %v, %+v", n.EventLog.Health(), n.Stats())
		}
		if _, err := Open(t.Context(), n.js, Config{}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if err := checkCalls(w.taken, 0, 10); err != nil {
			t.Error(err)
		}
		if err := n.EventLog.Health(); err != nil {
			t.Errorf("health: %v", err)
		}
	})
}

func TestEventIsPublishedOnce(t *testing.T) {
	js, closeStore := openStore(t, t.TempDir())
	defer closeStore()
	n, stop := startNotifier(t, js, Config{})
	other, stopOther := startNotifier(t, js, Config{})
	for i := range 100 {
		n.EventLog.Append(callOf(i))
		other.EventLog.Append(callOf(i))
	}
	stop()
	stopOther()
	info, err := eventStream(t, n).Info(t.Context())
	if err != nil || info.State.Msgs != 300 {
		t.Fatalf("%d events in the log, want 300: %v", info.State.Msgs, err)
	}
	if published := n.Stats().Published + other.Stats().Published; published != 300 {
		t.Errorf("%d events published, want 300", published)
	}
}

// A receiver that answers with too much, or without end, costs one connection and no
// memory.
func TestHostileResponses(t *testing.T) {
	for _, tt := range []struct {
		name   string
		answer http.HandlerFunc
		want   schedule.Outcome
		detail string
	}{
		{"a body without end", func(w http.ResponseWriter, r *http.Request) {
			for r.Context().Err() == nil {
				w.Write(make([]byte, 64<<10))
			}
		}, schedule.Delivered, "200"},
		{"headers without end", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("X", strings.Repeat("x", 32<<10))
		}, schedule.Delivered, "200"}, // by its status line
		{"a body that drips", func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(500)
			w.(http.Flusher).Flush()
			<-r.Context().Done()
		}, schedule.WillRetry, "500"},
		{"no answer", func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, schedule.WillRetry, "no response within 200ms"},
		{"closed", func(w http.ResponseWriter, r *http.Request) { panic(http.ErrAbortHandler) }, schedule.WillRetry, "EOF"},
		{"elsewhere", func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "/other", http.StatusTemporaryRedirect)
		}, schedule.WillRetry, "307"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newReceiver(t, nil)
			r.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				io.Copy(io.Discard, r.Body) // else the server does not notice that the client leaves
				tt.answer(w, r)
			})
			n := newUnstored(Config{Allow: loopback, Version: "1"})
			defer n.sender.Close()
			s := testSubscription("a", r.URL)
			s.Dialect, s.Timeout = Unified, Duration(200*time.Millisecond)
			u, _ := url.Parse(r.URL)
			a := &attempt{Attempt: schedule.Attempt{Type: dialog.Hangup, Sub: &s, URL: u, Event: &callOf(1)[2]}}
			n.makeAttempt(context.Background(), a)
			if a.Outcome != tt.want || !strings.Contains(a.Detail, tt.detail) {
				t.Errorf("%v, %q; want %v, %q", a.Outcome, a.Detail, tt.want, tt.detail)
			}
		})
	}
}

// The request on the wire has exactly the expected header fields and body.
func TestRequestOnTheWire(t *testing.T) {
	r := newReceiver(t, nil)
	n := newUnstored(Config{Allow: loopback, Version: "1.2"})
	defer n.sender.Close()
	for _, tt := range []struct {
		method, path, want string
	}{
		{"GET", "/a%2Fb/?myid=175&x=a+b%20c", "GET /a%2Fb/?myid=175&x=a+b%20c&CallID="},
		{"GET", "", "GET /?CallID="},
		{"POST", "/a?b", "POST /a?b CallID="},
	} {
		s := testSubscription("s", r.URL+tt.path)
		s.Dialect, s.Method, s.Headers = Unified, tt.method, map[string]string{"X-Key": "k", "User-Agent": "mine"}
		u, _ := url.Parse(s.URL)
		a := &attempt{Attempt: schedule.Attempt{Type: dialog.Hangup, Sub: &s, URL: u, Event: &callOf(1)[2]}}
		n.makeAttempt(context.Background(), a)
		got := <-r.got
		sent := got.Method + " " + got.RequestURI
		if got.Method == "POST" {
			sent += " " + got.body
		}
		if a.Outcome != schedule.Delivered || !strings.HasPrefix(sent, tt.want) {
			t.Errorf("sent %s, want %s (%s)", sent, tt.want, a.Detail)
		}
		h := got.Header
		if h.Get("X-Key") != "k" || h.Get("User-Agent") != "mine" || got.id != callOf(1)[2].ID+"-s" || h.Get("Idempotency-Key") != "" || h.Get("Accept-Encoding") != "" {
			t.Errorf("headers %v", h)
		}
	}
}

func TestMissingEventExpires(t *testing.T) {
	js, closeStore := openStore(t, t.TempDir())
	defer closeStore()
	n, err := Open(t.Context(), js, Config{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := n.EventLog.Event(t.Context(), 17); !errors.Is(err, ErrEventGone) {
		t.Errorf("got %v", err)
	}
}
