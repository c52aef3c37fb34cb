package notify

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"bellhop/dialog"
	"bellhop/notify/deliverylog"
	"bellhop/notify/send"
	"bellhop/notify/stream"
)

// A roundTripper answers requests in place of a network.
type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// newResponse returns a response.
func newResponse(status int, header http.Header, body string) *http.Response {
	return &http.Response{
		StatusCode: status, Status: fmt.Sprint(status, " ", http.StatusText(status)), Header: header, Body: io.NopCloser(strings.NewReader(body)),
	}
}

// playWithTransport runs f in virtual time with a store of its own and a notifier that
// sends through c.Transport.
func playWithTransport(t *testing.T, c Config, f func(*testing.T, jetstream.JetStream, *Notifier)) {
	t.Helper()
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		js, closeStore := openStore(t, dir)
		defer closeStore()
		n, stop := startNotifier(t, js, c)
		defer stop()
		f(t, js, n)
	})
}

// eventsOf returns one event of each type, of a call of extension 101, observed now.
func eventsOf(call string, types ...dialog.Type) (all []dialog.Event) {
	for i, typ := range types {
		all = append(all, dialog.Event{
			ID: call + string(rune('a'+i)), Call: call, Party: "p", Seq: i + 1, Type: typ, Flow: dialog.Out, At: time.Now(),
			Extension: dialog.Extension{User: "101", Domain: "pbx"}, CallerNum: "101", CalledNumber: "102",
		})
	}
	return all
}

// A testDelivery is a delivery that a test reads.
type testDelivery struct{ Delivery }

func deliveryNow(t *testing.T, n *Notifier, id string) testDelivery {
	t.Helper()
	d, err := n.Delivery(t.Context(), id)
	if err != nil {
		t.Fatalf("delivery %s: %v", id, err)
	}
	return testDelivery{d}
}

// summary returns the state of a delivery and its attempts, one a line.
func (d testDelivery) summary() string {
	s := d.State
	for _, a := range d.Attempts {
		s += fmt.Sprintf("; %d %s", a.Number, a.Outcome)
		if a.Status != 0 {
			s += fmt.Sprint(" ", a.Status)
		}
		if a.ByHand {
			s += " by hand"
		}
	}
	return s
}

// readDeliveries reads all pages of a query.
func readDeliveries(t *testing.T, n *Notifier, q DeliveryQuery) (ids []string, all []testDelivery) {
	t.Helper()
	for range 100 {
		page, next, err := n.Deliveries(t.Context(), q)
		if err != nil {
			t.Fatal(err)
		}
		if q.Limit > 0 && len(page) > q.Limit {
			t.Fatalf("a page has %d deliveries, want %d at most", len(page), q.Limit)
		}
		for _, d := range page {
			ids, all = append(ids, d.Event), append(all, testDelivery{d})
		}
		if next == "" {
			return ids, all
		}
		q.Cursor = next
	}
	t.Fatal("the pages have no end")
	return nil, nil
}

func TestAttemptsAreRecorded(t *testing.T) {
	tries := 0
	receiver := roundTripper(func(r *http.Request) (*http.Response, error) {
		time.Sleep(300 * time.Millisecond)
		switch tries++; tries {
		case 1:
			return nil, errors.New("connection refused")
		case 2:
			return newResponse(503, http.Header{"Retry-After": {"9"}, "Set-Cookie": {"a=b"}, "Server": {"crm"}}, strings.Repeat("x", 5000)), nil
		}
		return newResponse(200, nil, "thanks\x00\xff"), nil
	})
	playWithTransport(t, Config{Transport: receiver, Version: "1.2"}, func(t *testing.T, _ jetstream.JetStream, n *Notifier) {
		s := testSubscription("", "http://crm/hook?myid=175")
		s.Dialect = Telphin
		s = mustSubscribe(t, n, s)
		begin := time.Now()
		n.EventLog.Append(eventsOf("c", dialog.DialOut))
		time.Sleep(5 * time.Second)
		id := "ca-" + s.ID
		if got := deliveryNow(t, n, id); got.State != Waiting || !got.Next.Equal(got.Attempts[1].Next) || time.Until(got.Next) > 7*time.Second {
			t.Errorf("before the last attempt it is %s, next %v", got.summary(), got.Next)
		}
		time.Sleep(time.Minute)
		d := deliveryNow(t, n, id)
		if got, want := d.summary(), "delivered; 1 waiting; 2 waiting 503; 3 delivered 200"; got != want {
			t.Fatalf("got %s, want %s", got, want)
		}
		if d.ID != id || d.Subscription != s.ID || d.Event != "ca" || d.Call != "c" || d.Type != dialog.DialOut || d.Extension != "101@pbx" || !d.EventTime.Equal(begin.Truncate(time.Microsecond)) || !d.Next.IsZero() {
			t.Errorf("got %+v", d)
		}
		for i, want := range []struct {
			at, next      time.Duration
			reason        string
			answer        string
			cut           bool
			answerHeaders string
		}{
			{0, 2300 * time.Millisecond, "connection refused", "", false, ""},
			{2300 * time.Millisecond, 11600 * time.Millisecond, "503 Service Unavailable", strings.Repeat("x", 4096), true, "map[Retry-After:9 Server:crm]"},
			{11600 * time.Millisecond, 0, "", "thanks\x00\ufffd", false, "map[]"},
		} {
			a := d.Attempts[i]
			if got := a.At.Sub(begin).Round(10 * time.Millisecond); got != want.at {
				t.Errorf("attempt %d began after %v, want %v", i+1, got, want.at)
			}
			if a.Took != 300*time.Millisecond || a.Error != want.reason || a.ByHand {
				t.Errorf("attempt %d took %v and failed by %q, want 300ms, %q", i+1, a.Took, a.Error, want.reason)
			}
			if want.next == 0 && !a.Next.IsZero() || want.next > 0 && a.Next.Sub(begin).Round(10*time.Millisecond) != want.next {
				t.Errorf("after attempt %d the next is %v, want %v", i+1, a.Next.Sub(begin), want.next)
			}
			if (a.Answer == nil) != (a.Status == 0) {
				t.Fatalf("attempt %d has the answer %+v", i+1, a.Answer)
			}
			if a.Answer != nil && (a.Answer.Body != want.answer || a.Answer.Cut != want.cut || fmt.Sprint(a.Answer.Header) != want.answerHeaders) {
				t.Errorf("attempt %d was answered %+v, want %v", i+1, a.Answer, want)
			}
			r := a.Request
			if r == nil || r.Method != "POST" || r.URL != "http://crm/hook?myid=175" || !strings.HasPrefix(r.Body, "CallID=c&") ||
				r.Header["Webhook-Id"] != id || r.Header["User-Agent"] != "bellhop/1.2" || r.Header["Content-Type"] != "application/x-www-form-urlencoded" {
				t.Errorf("attempt %d sent %+v", i+1, r)
			}
		}
	})
}

// An endlessBody is a body that never ends.
type endlessBody struct {
	read bool
	ctx  context.Context
}

func (d *endlessBody) Read(b []byte) (int, error) {
	if d.read {
		<-d.ctx.Done()
		return 0, d.ctx.Err()
	}
	d.read = true
	return copy(b, "a"), nil
}

func (d *endlessBody) Close() error { return nil }

// A body that arrives too slowly is cut off: what has arrived is recorded.
func TestDrippingResponseIsCut(t *testing.T) {
	receiver := roundTripper(func(r *http.Request) (*http.Response, error) {
		res := newResponse(200, nil, "")
		res.Body = &endlessBody{ctx: r.Context()}
		return res, nil
	})
	playWithTransport(t, Config{Transport: receiver}, func(t *testing.T, _ jetstream.JetStream, n *Notifier) {
		s := mustSubscribe(t, n, testSubscription("", "http://crm/hook"))
		n.EventLog.Append(eventsOf("c", dialog.DialOut, dialog.Hangup))
		time.Sleep(2*send.BodyTimeout + time.Second)
		for _, event := range []string{"ca", "cb"} {
			d := deliveryNow(t, n, event+"-"+s.ID)
			if d.summary() != "delivered; 1 delivered 200" || d.Attempts[0].Took != send.BodyTimeout || d.Attempts[0].Answer.Body != "a" || !d.Attempts[0].Answer.Cut {
				t.Errorf("%s: %s, %+v", event, d.summary(), d.Attempts)
			}
		}
	})
}

// The record of a GET has the expanded URL.
func TestRequestsAreRecordedAsSent(t *testing.T) {
	for _, tt := range []struct{ method, url, sent, body string }{
		{"GET", "http://crm/pop?a=b", "http://crm/pop?a=b&call_id=c&", ""},
		{"GET", "http://crm/pop{?call_id}", "http://crm/pop?call_id=c", ""},
		{"PUT", "http://crm/{call_id}", "http://crm/c", `{"type":"call.hangup",`},
	} {
		playWithTransport(t, Config{Transport: roundTripper(func(*http.Request) (*http.Response, error) { return newResponse(200, nil, ""), nil })},
			func(t *testing.T, _ jetstream.JetStream, n *Notifier) {
				s := testSubscription("", tt.url)
				s.Method = tt.method
				s = mustSubscribe(t, n, s)
				n.EventLog.Append(eventsOf("c", dialog.Hangup))
				time.Sleep(time.Second)
				r := deliveryNow(t, n, "ca-"+s.ID).Attempts[0].Request
				if r.Method != tt.method || !strings.HasPrefix(r.URL, tt.sent) || !strings.HasPrefix(r.Body, tt.body) || (r.Body == "") != (tt.body == "") {
					t.Errorf("%s %s: recorded %+v", tt.method, tt.url, r)
				}
			})
	}
}

func TestEndsWithoutAttemptAreRecorded(t *testing.T) {
	runInVirtualTime(t, answerStatuses(500), func(t *testing.T, n *Notifier, w *fakeWire, s Subscription) {
		n.EventLog.Append(eventsOf("c", dialog.DialOut, dialog.Answer)) // the answer waits for the dial, and is equally old
		time.Sleep(2 * time.Minute)
		d := deliveryNow(t, n, "cb-"+s.ID)
		if got, want := d.summary(), "expired; 0 expired"; got != want {
			t.Fatalf("the answer: %s, want %s", got, want)
		}
		if a := d.Attempts[0]; a.Request != nil || a.Answer != nil || time.Since(a.At).Round(time.Second) != time.Minute {
			t.Errorf("it expired by %+v", a)
		}
		if d.Call != "c" || d.Extension != "101@pbx" || d.Type != dialog.Answer {
			t.Errorf("got %+v", d)
		}
		n.EventLog.Append(eventsOf("d", dialog.Hangup))
		time.Sleep(time.Second)
		if got := deliveryNow(t, n, "da-"+s.ID).State; got != Waiting {
			t.Errorf("the hangup is %s", got)
		}
		if err := n.Unsubscribe(t.Context(), s.ID, 0); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		d = deliveryNow(t, n, "da-"+s.ID)
		if last := d.Attempts[len(d.Attempts)-1]; d.State != Canceled || last.Number != 0 || last.Outcome != Canceled || last.Request != nil {
			t.Errorf("the hangup: %s", d.summary())
		}
	})
}

func TestRefusedIsRecorded(t *testing.T) {
	runInVirtualTime(t, answerStatuses(410), func(t *testing.T, n *Notifier, w *fakeWire, s Subscription) {
		n.EventLog.Append(eventsOf("c", dialog.Hangup))
		time.Sleep(time.Second)
		if got, want := deliveryNow(t, n, "ca-"+s.ID).summary(), "refused; 1 refused 410"; got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	})
}

func TestDeliveriesPaged(t *testing.T) {
	status := func(r *http.Request) int {
		switch body, _ := io.ReadAll(r.Body); {
		case strings.Contains(string(body), "CallID=down"):
			return 500
		case strings.Contains(string(body), "CallID=slow") && r.Header.Get("X-Again") == "":
			return 502
		}
		return 200
	}
	failed := map[string]bool{}
	var mu sync.Mutex
	receiver := roundTripper(func(r *http.Request) (*http.Response, error) {
		mu.Lock()
		defer mu.Unlock()
		if id := r.Header.Get("Webhook-Id"); failed[id] {
			r.Header.Set("X-Again", "yes")
		} else {
			failed[id] = true
		}
		return newResponse(status(r), nil, ""), nil
	})
	playWithTransport(t, Config{Transport: receiver}, func(t *testing.T, _ jetstream.JetStream, n *Notifier) {
		s := testSubscription("", "http://crm/hook")
		s.Dialect = Telphin
		s = mustSubscribe(t, n, s)
		other := testSubscription("", "http://other/hook")
		other.Dialect, other.Types = Telphin, []string{"answer"}
		other = mustSubscribe(t, n, other)

		var ended, waiting []string // newest first
		for i := range 7 {
			call := fmt.Sprint("well", i)
			n.EventLog.Append(eventsOf(call, dialog.Hangup))
			time.Sleep(time.Second)
			ended = append([]string{call + "a"}, ended...)
		}
		for i := range 3 {
			call := fmt.Sprint("slow", i)
			n.EventLog.Append(eventsOf(call, dialog.DialOut))
			time.Sleep(10 * time.Second)
			ended = append([]string{call + "a"}, ended...)
		}
		for i := range 3 {
			call := fmt.Sprint("down", i)
			n.EventLog.Append(eventsOf(call, dialog.Hangup))
			time.Sleep(time.Second)
			waiting = append([]string{call + "a"}, waiting...)
		}
		all := slices.Concat(waiting, ended)
		for _, limit := range []int{1, 2, 3, 4, 5, 50} {
			for _, tt := range []struct {
				q    DeliveryQuery
				want []string
			}{
				{DeliveryQuery{}, all},
				{DeliveryQuery{Subscriptions: []string{s.ID}}, all},
				{DeliveryQuery{Subscriptions: []string{other.ID}}, nil},
				{DeliveryQuery{Subscriptions: []string{other.ID, s.ID}}, all},
				{DeliveryQuery{Subscriptions: []string{}}, nil},
				{DeliveryQuery{State: Waiting}, waiting},
				{DeliveryQuery{State: Delivered}, ended},
				{DeliveryQuery{State: Delivered, Subscriptions: []string{s.ID}}, ended},
				{DeliveryQuery{State: Expired}, nil},
			} {
				tt.q.Limit = limit
				ids, page := readDeliveries(t, n, tt.q)
				if !slices.Equal(ids, tt.want) {
					t.Errorf("%+v: got %v, want %v", tt.q, ids, tt.want)
				}
				for _, d := range page {
					whole := deliveryNow(t, n, d.ID)
					if d.summary() != whole.summary() || d.Call+"a" != d.Event || d.Extension != "101@pbx" || d.EventTime.IsZero() {
						t.Errorf("listed %+v, read alone %+v", d, whole)
					}
				}
			}
		}
		for _, cursor := range []string{"x", "w", "e", "w0", "e1", "w1.2", "e1.-1", "e1.2.3", "e99999999999999999999.1", "ü"} {
			if _, _, err := n.Deliveries(t.Context(), DeliveryQuery{Cursor: cursor}); !errors.Is(err, ErrCursor) {
				t.Errorf("cursor %s: %v", cursor, err)
			}
		}
		for _, id := range []string{"", "x", "ca-" + s.ID, "well0a-", "well0a-" + other.ID, "*-" + s.ID, "well0a-" + strings.Repeat(">", 30)} {
			if d, err := n.Delivery(t.Context(), id); !errors.Is(err, ErrNoDelivery) {
				t.Errorf("delivery %q: %+v, %v", id, d, err)
			}
		}
	})
}

// Deliveries that succeed at once share messages: a page may end within a message.
func TestDeliveriesOfManyCalls(t *testing.T) {
	runInVirtualTime(t, nil, func(t *testing.T, n *Notifier, w *fakeWire, s Subscription) {
		var want []string
		for i := range 600 {
			n.EventLog.Append(callOf(i))
			for _, e := range callOf(i) {
				want = append(want, e.ID)
			}
			if i%100 == 99 {
				time.Sleep(time.Second)
			}
		}
		if info, err := n.deliveryLog.Info(t.Context()); err != nil || info.State.Msgs > 60 {
			t.Errorf("the log has %d messages, want some for each hundred calls: %v", info.State.Msgs, err)
		}
		ids, _ := readDeliveries(t, n, DeliveryQuery{Limit: 70})
		slices.Sort(ids)
		slices.Sort(want)
		if !slices.Equal(ids, want) {
			t.Errorf("got %d, want %d", len(ids), len(want))
		}
		if d := deliveryNow(t, n, deliverylog.ID(callOf(0)[0].ID, s.ID)); d.summary() != "delivered; 1 delivered 200" {
			t.Errorf("the first is %s", d.summary())
		}
	})
}

// A reading looks at a limited number of messages: a page may be empty and yet have a next
// page.
func TestDeliveriesOfALongLog(t *testing.T) {
	js, closeStore := openStore(t, t.TempDir())
	defer closeStore()
	n, err := Open(t.Context(), js, Config{})
	if err != nil {
		t.Fatal(err)
	}
	id := newID()
	write := func(event, outcome string) {
		r := &deliverylog.Record{Subscription: id, Event: event, Seq: 1, Type: dialog.Hangup, EventTime: time.Now(), At: time.Now(), Number: 2, Outcome: outcome}
		if err := n.deliveryLog.Write(t.Context(), r); err != nil {
			t.Fatal(err)
		}
	}
	for _, event := range []string{"first", "second"} {
		write(event, Delivered)
	}
	for i := range stream.MaxScanned + 5000 {
		write(fmt.Sprint("e", i), Waiting)
	}
	page, next, err := n.Deliveries(t.Context(), DeliveryQuery{})
	if err != nil || len(page) != 0 || next == "" {
		t.Errorf("the first page has %d and the next %q: %v", len(page), next, err)
	}
	if ids, _ := readDeliveries(t, n, DeliveryQuery{}); !slices.Equal(ids, []string{"second", "first"}) {
		t.Errorf("got %v", ids)
	}
}

func TestDeliveriesAreKeptAsLongAsEvents(t *testing.T) {
	receiver := roundTripper(func(*http.Request) (*http.Response, error) { return newResponse(200, nil, ""), nil })
	playWithTransport(t, Config{Transport: receiver, KeepEvents: time.Minute}, func(t *testing.T, _ jetstream.JetStream, n *Notifier) {
		s := mustSubscribe(t, n, testSubscription("", "http://crm/hook"))
		n.EventLog.Append(eventsOf("c", dialog.Hangup))
		time.Sleep(50 * time.Second)
		if ids, _ := readDeliveries(t, n, DeliveryQuery{}); len(ids) != 1 {
			t.Errorf("after 50 s there are %v", ids)
		}
		time.Sleep(20 * time.Second)
		if ids, _ := readDeliveries(t, n, DeliveryQuery{}); len(ids) != 0 {
			t.Errorf("after 70 s there are %v", ids)
		}
		if _, err := n.Delivery(t.Context(), "ca-"+s.ID); !errors.Is(err, ErrNoDelivery) {
			t.Errorf("after 70 s: %v", err)
		}
	})
}

// While the delivery log cannot be written, deliveries go on, and their records wait.
// Records that still wait at the end are lost and counted.
func TestAttemptsWaitForTheStore(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		js, closeStore := openStore(t, dir)
		defer closeStore()
		c := Config{Transport: &fakeWire{}}
		n, stop := startNotifier(t, js, c)
		defer stop()
		s := mustSubscribe(t, n, testSubscription("", "http://crm/hook"))
		gone := func() {
			if err := js.DeleteStream(t.Context(), "bellhop_attempts"); err != nil {
				t.Fatal(err)
			}
		}
		gone()
		n.EventLog.Append(eventsOf("c", dialog.DialOut, dialog.Hangup))
		time.Sleep(10 * time.Second)
		if got := n.Stats(); got.Delivered != 2 || got.RecordsDropped != 0 {
			t.Errorf("without the log: %+v", got)
		}
		if _, err := deliverylog.Open(t.Context(), js, deliverylog.Config{Replicas: 1}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		if ids, _ := readDeliveries(t, n, DeliveryQuery{Subscriptions: []string{s.ID}}); !slices.Equal(ids, []string{"cb", "ca"}) {
			t.Errorf("with it, there are %v", ids)
		}
		gone()
		n.EventLog.Append(eventsOf("d", dialog.DialOut, dialog.Hangup))
		time.Sleep(time.Second)
		begin := time.Now()
		stop()
		if took := time.Since(begin); took > 3*time.Second || n.Stats().RecordsDropped != 2 {
			t.Errorf("it ended after %v with %+v", took, n.Stats())
		}
	})
}

// Records that wait at the end of Run are still written.
func TestAttemptsAreWrittenAtTheEnd(t *testing.T) {
	js, closeStore := openStore(t, t.TempDir())
	defer closeStore()
	n, stop := startNotifier(t, js, Config{Transport: &fakeWire{}})
	s := mustSubscribe(t, n, testSubscription("", "http://crm/hook"))
	n.EventLog.Append(eventsOf("c", dialog.DialOut, dialog.Hangup))
	for n.Stats().Delivered < 2 {
		stream.Sleep(t.Context(), time.Millisecond)
	}
	stop()
	if ids, _ := readDeliveries(t, n, DeliveryQuery{Subscriptions: []string{s.ID}}); !slices.Equal(ids, []string{"cb", "ca"}) {
		t.Errorf("there are %v", ids)
	}
}

// The delivery log contains no secret, in no form.
func TestSecretsAreNotRecorded(t *testing.T) {
	receiver := roundTripper(func(r *http.Request) (*http.Response, error) {
		return newResponse(500, http.Header{"Set-Cookie": {"hush-cookie"}, "Authorization": {"hush-echo"}}, "no"), nil
	})
	playWithTransport(t, Config{Transport: receiver}, func(t *testing.T, js jetstream.JetStream, n *Notifier) {
		s := testSubscription("", "http://crm/hook")
		s.Headers = map[string]string{"X-Key": "hush-key", "Authorization": "Bearer hush-bearer", "cookie": "hush-jar", "proxy-authorization": "hush-proxy"}
		s = mustSubscribe(t, n, s)
		n.EventLog.Append(eventsOf("c", dialog.Hangup))
		time.Sleep(time.Second)
		if _, err := n.Redeliver(t.Context(), "ca-"+s.ID); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		attempts := deliveryNow(t, n, "ca-"+s.ID).Attempts
		if len(attempts) != 2 {
			t.Fatalf("there are %d attempts, want 2", len(attempts))
		}
		for _, a := range attempts {
			for _, name := range []string{"X-Key", "Authorization", "Cookie", "Proxy-Authorization", "Webhook-Signature"} {
				if got := a.Request.Header[name]; got != deliverylog.Redacted {
					t.Errorf("%s is recorded as %q", name, got)
				}
			}
		}
		err := stream.Read(t.Context(), n.deliveryLog, jetstream.OrderedConsumerConfig{}, func(m jetstream.Msg) error {
			all, err := deliverylog.Decode(m.Data())
			text, _ := json.Marshal(all)
			if strings.Contains(string(text), "hush") || strings.Contains(string(text), "v1,") {
				t.Errorf("recorded %s", text)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	})
}

// An interruptedStream calls a function as soon as a reading of it has begun.
type interruptedStream struct {
	jetstream.Stream
	onBegin func()
}

func (s interruptedStream) OrderedConsumer(ctx context.Context, c jetstream.OrderedConsumerConfig) (jetstream.Consumer, error) {
	consumer, err := s.Stream.OrderedConsumer(ctx, c)
	s.onBegin()
	return consumer, err
}

// A reading does not wait for messages that are removed while it runs.
func TestReadsWhileMessagesAreRemoved(t *testing.T) {
	playWithTransport(t, Config{Transport: &switchableReceiver{status: 200}}, func(t *testing.T, js jetstream.JetStream, n *Notifier) {
		ack, err := js.Publish(t.Context(), "bellhop.delivery.s.1", []byte("{}"))
		if err != nil {
			t.Fatal(err)
		}
		removed := interruptedStream{n.outbox, func() {
			if err := n.outbox.DeleteMsg(t.Context(), ack.Sequence); err != nil {
				t.Error(err)
			}
		}}
		err = stream.Read(t.Context(), removed, jetstream.OrderedConsumerConfig{FilterSubjects: []string{"bellhop.delivery.s.*"}}, func(m jetstream.Msg) error {
			return fmt.Errorf("was not removed")
		})
		if err != nil {
			t.Error(err)
		}
	})
}

// A page contains a delivery once, even if it ends once more meanwhile.
func TestDeliveriesChangeWhilePaged(t *testing.T) {
	playWithTransport(t, Config{Transport: &switchableReceiver{status: 200}}, func(t *testing.T, js jetstream.JetStream, n *Notifier) {
		s := mustSubscribe(t, n, testSubscription("", "http://crm/hook"))
		n.EventLog.Append(eventsOf("c", dialog.Hangup))
		time.Sleep(time.Second)
		attempts := n.deliveryLog.Stream
		n.deliveryLog.Stream = interruptedStream{attempts, func() {
			n.deliveryLog.Stream = attempts
			if _, err := n.Redeliver(t.Context(), "ca-"+s.ID); err != nil {
				t.Error(err)
			}
			time.Sleep(time.Second)
		}}
		ids, _ := readDeliveries(t, n, DeliveryQuery{})
		if !slices.Equal(ids, []string{"ca"}) {
			t.Errorf("while it is delivered again there are %v", ids)
		}

		for _, message := range []string{`{"event":"a","type":"hangup"}`, "", `{"event":"b","type":"hangup"}`, `{"event":"b","type":"hangup"}`} {
			subject := outboxSubject(s.ID, 1000)
			if strings.Contains(message, "b") {
				subject = outboxSubject(s.ID, 1001)
			}
			if _, err := js.Publish(t.Context(), subject, []byte(message)); err != nil {
				t.Fatal(err)
			}
		}
		if ids, _ := readDeliveries(t, n, DeliveryQuery{State: Waiting}); !slices.Equal(ids, []string{"b"}) {
			t.Errorf("deliveries of b, which ended twice, and a, which has ended: %v", ids)
		}
	})
}

// A reading leaves no consumer in the store.
func TestReadingLeavesNoConsumer(t *testing.T) {
	js, closeStore := openStore(t, t.TempDir())
	defer closeStore()
	n, stop := startNotifier(t, js, Config{Allow: loopback})
	defer stop()
	r := newReceiver(t, nil)
	s := NewSubscription()
	s.Extension, s.Types, s.URL = "101", []string{"dial-out", "answer", "hangup"}, r.URL
	s = mustSubscribe(t, n, s)
	n.EventLog.Append(callOf(1))
	for range callOf(1) {
		<-r.got
	}
	readers := func() (all int) {
		for _, stream := range []jetstream.Stream{eventStream(t, n), n.outbox, n.deliveryLog} {
			info, err := stream.Info(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			all += info.State.Consumers
		}
		return all
	}
	before := readers()
	id := callOf(1)[0].ID + "-" + s.ID
	for range 10 {
		events, more, err := n.Events(t.Context(), Query{Limit: 1})
		if err != nil || len(events) != 1 || !more {
			t.Fatalf("read %v, %v, %v", events, more, err)
		}
		if _, _, err := n.Events(t.Context(), Query{Extension: "102"}); err != nil {
			t.Fatal(err)
		}
		if _, _, err := n.Deliveries(t.Context(), DeliveryQuery{}); err != nil {
			t.Fatal(err)
		}
		if _, err := n.Delivery(t.Context(), id); err != nil && err != ErrNoDelivery { // not yet
			t.Fatal(err)
		}
	}
	if after := readers(); after > before {
		t.Errorf("there are %d consumers after readings, and were %d before", after, before)
	}
}
