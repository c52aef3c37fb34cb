package notify

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server/ats"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/goleak"

	"bellhop/notify/storetest"
)

func TestMain(m *testing.M) {
	switch os.Getenv("NOTIFY_TEST") {
	case "sink":
		runSink()
		return
	case "victim":
		runVictim()
		return
	case "nats":
		natsServer()
		return
	case "mate":
		runMate()
		return
	}
	ats.Register() // before any synctest bubble: the server's clock would belong to the first
	goleak.VerifyTestMain(m, goleak.IgnoreCurrent())
}

// longWait is how long a test waits for something that takes a moment: much longer than it
// takes on a busy machine.
const longWait = 5 * time.Minute

// openStore starts the store in this process and connects to it.
func openStore(t testing.TB, dir string) (jetstream.JetStream, func()) {
	t.Helper()
	return storetest.Open(t, dir)
}

// eventStream returns the stream of the event log.
func eventStream(t testing.TB, n *Notifier) jetstream.Stream {
	t.Helper()
	s, err := n.js.Stream(t.Context(), "bellhop_events")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// startNotifier runs a notifier until the returned func is called or the test ends.
func startNotifier(t testing.TB, js jetstream.JetStream, c Config) (*Notifier, func()) {
	t.Helper()
	n, err := Open(t.Context(), js, c)
	if err != nil {
		t.Fatal(err)
	}
	stop := runNotifier(n)
	t.Cleanup(stop)
	return n, stop
}

// runNotifier runs a notifier until the returned func is called.
func runNotifier(n *Notifier) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		n.Run(ctx)
		close(ended)
	}()
	return sync.OnceFunc(func() { cancel(); <-ended })
}

// newUnstored returns a notifier without a store, which can only make attempts. The dialect
// must not need extension numbers.
func newUnstored(c Config) *Notifier { return &Notifier{config: c, sender: newSender(c)} }

var loopback = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}

// A receiver is an HTTP server that records its requests.
type receiver struct {
	*httptest.Server
	got    chan request
	answer func(request) int // nil: 200
}

type request struct {
	id   string // webhook-id
	form url.Values
	body string
	*http.Request
}

func newReceiver(t testing.TB, answer func(request) int) *receiver {
	r := &receiver{got: make(chan request, 100_000), answer: answer}
	r.Server = httptest.NewServer(r)
	t.Cleanup(r.Close)
	return r
}

func (r *receiver) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	body, _ := io.ReadAll(req.Body)
	q := request{id: req.Header.Get("Webhook-Id"), body: string(body), Request: req}
	q.form, _ = url.ParseQuery(string(body))
	status := 200
	if r.answer != nil {
		status = r.answer(q)
	}
	w.WriteHeader(status)
	r.got <- q
}

func mustSubscribe(t testing.TB, n *Notifier, s Subscription) Subscription {
	t.Helper()
	s, err := n.Subscribe(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// callOf returns the events of one answered call of extension 101.
var callOf = storetest.Call

func TestDeliversCall(t *testing.T) {
	js, closeStore := openStore(t, t.TempDir())
	defer closeStore()
	n, stop := startNotifier(t, js, Config{Allow: loopback})
	defer stop()
	r := newReceiver(t, nil)
	s := NewSubscription()
	s.Extension, s.Types, s.URL, s.Dialect = "101", []string{"dial-out", "answer", "hangup"}, r.URL, Telphin
	s = mustSubscribe(t, n, s)
	n.EventLog.Append(callOf(1))
	for _, want := range callOf(1) {
		got := <-r.got
		if got.form.Get("EventType") != string(want.Type) || got.id != want.ID+"-"+s.ID {
			t.Fatalf("got %v, want %s", got.body, want.Type)
		}
	}
}

// testSubscription returns a subscription to all types of extension 101.
func testSubscription(id, url string) Subscription {
	s := NewSubscription()
	s.ID, s.Extension, s.URL, s.Types = id, "101", url, []string{"dial-in", "dial-out", "answer", "hangup", "message-in"}
	return s
}
