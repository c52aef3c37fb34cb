package notify

import (
	"context"
	"errors"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"bellhop/dialog"
	"bellhop/notify/deliverylog"
	"bellhop/notify/stream"
	"bellhop/notify/subscription"
)

// A switchableReceiver answers with a status that can be changed.
type switchableReceiver struct {
	mu     sync.Mutex
	status int // 0: no response
	got    []string
}

func (l *switchableReceiver) setStatus(status int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.status = status
}

func (l *switchableReceiver) RoundTrip(r *http.Request) (*http.Response, error) {
	l.mu.Lock()
	status := l.status
	l.got = append(l.got, r.Header.Get("Webhook-Id"))
	l.mu.Unlock()
	if status == 0 {
		<-r.Context().Done()
		return nil, r.Context().Err()
	}
	return newResponse(status, nil, "hello"), nil
}

func (l *switchableReceiver) countOf(id string) (n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, got := range l.got {
		if got == id {
			n++
		}
	}
	return n
}

// countOutbox returns how many deliveries the outbox has.
func countOutbox(t *testing.T, n *Notifier) (pending int) {
	t.Helper()
	err := stream.Read(t.Context(), n.outbox, jetstream.OrderedConsumerConfig{FilterSubjects: []string{"bellhop.delivery.*.*"}}, func(m jetstream.Msg) error {
		if len(m.Data()) > 0 {
			pending++
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return pending
}

func TestRedeliverOnce(t *testing.T) {
	for _, tt := range []struct {
		name          string
		status        int // before
		typ           dialog.Type
		wait          time.Duration
		change        func(*Subscription) error // before it is redelivered; nil: none
		before, after string
		ended         Stats
	}{
		{"waiting", 500, dialog.Hangup, time.Second, nil,
			"waiting; 1 waiting 500", "delivered; 1 waiting 500; 0 delivered 200 by hand", Stats{Published: 1, Failed: 1, Delivered: 1}},
		{"delivered", 200, dialog.Hangup, time.Second, nil,
			"delivered; 1 delivered 200", "delivered; 1 delivered 200; 0 delivered 200 by hand", Stats{Published: 1, Delivered: 1}},
		{"expired", 500, dialog.DialIn, 2 * time.Minute, nil,
			"expired; 1 waiting 500; 2 waiting 500; 0 expired", "delivered; 1 waiting 500; 2 waiting 500; 0 expired; 0 delivered 200 by hand", Stats{Published: 1, Failed: 2, Expired: 1}},
		{"refused", 410, dialog.Hangup, time.Second, nil,
			"refused; 1 refused 410", "delivered; 1 refused 410; 0 delivered 200 by hand", Stats{Published: 1, Refused: 1, Disabled: 1}},
		{"canceled", 500, dialog.Hangup, time.Second, func(s *Subscription) error { s.Active = false; return nil },
			"canceled; 1 waiting 500; 0 canceled", "delivered; 1 waiting 500; 0 canceled; 0 delivered 200 by hand", Stats{Published: 1, Failed: 1, Canceled: 1}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l := &switchableReceiver{status: tt.status}
			playWithTransport(t, Config{Transport: l}, func(t *testing.T, _ jetstream.JetStream, n *Notifier) {
				s := testSubscription("", "http://crm/hook")
				s.LiveTTL = Duration(3 * time.Second)
				s = mustSubscribe(t, n, s)
				n.EventLog.Append(eventsOf("c", tt.typ))
				time.Sleep(tt.wait)
				id := "ca-" + s.ID
				if tt.change != nil {
					if _, err := n.Edit(t.Context(), s.ID, 0, tt.change); err != nil {
						t.Fatal(err)
					}
					time.Sleep(time.Second)
				}
				if got := deliveryNow(t, n, id).summary(); got != tt.before {
					t.Errorf("before: %s, want %s", got, tt.before)
				}
				tries := l.countOf(id)

				l.setStatus(503)
				a, err := n.Redeliver(t.Context(), id)
				if err != nil || a.Outcome != Failed || a.Status != 503 || !a.ByHand || a.Error != "503 Service Unavailable" || !a.Next.IsZero() {
					t.Errorf("a receiver that is down: %+v, %v", a, err)
				}
				time.Sleep(time.Second)
				d := deliveryNow(t, n, id)
				if got, want := d.summary(), tt.before+"; 0 failed 503 by hand"; got != want {
					t.Errorf("after a failure: %s, want %s", got, want)
				}

				l.setStatus(200)
				a, err = n.Redeliver(t.Context(), id)
				if err != nil || a.Outcome != Delivered || a.Status != 200 || a.Error != "" || a.Answer.Body != "hello" || a.Request.Header["Webhook-Id"] != id {
					t.Errorf("a receiver that is up: %+v, %v", a, err)
				}
				time.Sleep(20 * time.Second)
				want := strings.Replace(tt.after, "; 0 delivered 200 by hand", "; 0 failed 503 by hand; 0 delivered 200 by hand", 1)
				if got := deliveryNow(t, n, id).summary(); got != want {
					t.Errorf("after a success: %s, want %s", got, want)
				}
				if got := l.countOf(id); got != tries+2 {
					t.Errorf("it was sent %d times, want %d and twice by hand", got, tries)
				}
				if got := n.Stats(); got != tt.ended {
					t.Errorf("got %+v, want %+v", got, tt.ended)
				}
				if got := countOutbox(t, n); got != 0 {
					t.Errorf("the outbox has %d deliveries", got)
				}
				ids, all := readDeliveries(t, n, DeliveryQuery{})
				if !slices.Equal(ids, []string{"ca"}) || all[0].summary() != want {
					t.Errorf("listed are %v", ids)
				}
			})
		})
	}
}

func TestRedeliverErrors(t *testing.T) {
	l := &switchableReceiver{status: 200}
	playWithTransport(t, Config{Transport: l}, func(t *testing.T, js jetstream.JetStream, n *Notifier) {
		s := mustSubscribe(t, n, testSubscription("", "http://crm/hook"))
		other := mustSubscribe(t, n, testSubscription("", "http://other/hook"))
		n.EventLog.Append(eventsOf("c", dialog.Hangup))
		time.Sleep(time.Second)
		if err := n.Unsubscribe(t.Context(), other.ID, 0); err != nil {
			t.Fatal(err)
		}
		for id, want := range map[string]error{"cb-" + s.ID: ErrNoDelivery, "x": ErrNoDelivery, "ca-" + other.ID: ErrNotFound} {
			if a, err := n.Redeliver(t.Context(), id); !errors.Is(err, want) {
				t.Errorf("%s: %+v, %v, want %v", id, a, err, want)
			}
		}
		if err := eventStream(t, n).Purge(t.Context()); err != nil {
			t.Fatal(err)
		}
		if a, err := n.Redeliver(t.Context(), "ca-"+s.ID); !errors.Is(err, ErrEventGone) {
			t.Errorf("without the event: %+v, %v", a, err)
		}
		if got := len(l.got); got != 2 {
			t.Errorf("%d requests were made, want the first two", got)
		}
	})
}

// The attempt is made and recorded even if the caller leaves.
func TestRedeliverOutlivesItsCaller(t *testing.T) {
	l := &switchableReceiver{status: 200}
	playWithTransport(t, Config{Transport: l}, func(t *testing.T, _ jetstream.JetStream, n *Notifier) {
		s := testSubscription("", "http://crm/hook")
		s.Timeout = Duration(time.Minute)
		s = mustSubscribe(t, n, s)
		n.EventLog.Append(eventsOf("c", dialog.Hangup))
		time.Sleep(time.Second)
		l.setStatus(0)
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, cancel)
		begin := time.Now()
		a, err := n.Redeliver(ctx, "ca-"+s.ID)
		if took := time.Since(begin); err != nil || took != manualTimeout || a.Error != "no response within 15s" {
			t.Errorf("after %v: %+v, %v", took, a, err)
		}
		time.Sleep(time.Second)
		if got, want := deliveryNow(t, n, "ca-"+s.ID).summary(), "delivered; 1 delivered 200; 0 failed by hand"; got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	})
}

// Any node can redeliver: the delivering node is notified.
func TestRedeliverByAnotherNode(t *testing.T) {
	l := &switchableReceiver{status: 500}
	c := Config{Transport: l, Node: "a", KeepEvents: keepForever}
	playWithTransport(t, c, func(t *testing.T, js jetstream.JetStream, n *Notifier) {
		c.Node = "b"
		other, stop := startNotifier(t, js, c)
		defer stop()
		s := mustSubscribe(t, n, testSubscription("", "http://crm/hook"))
		n.EventLog.Append(eventsOf("c", dialog.DialIn, dialog.Hangup))
		time.Sleep(1500 * time.Millisecond)
		l.setStatus(200)
		id := "ca-" + s.ID
		if a, err := other.Redeliver(t.Context(), id); err != nil || a.Outcome != Delivered {
			t.Errorf("got %+v, %v", a, err)
		}
		time.Sleep(100 * time.Millisecond)
		if a, b := l.countOf(id), l.countOf("cb-"+s.ID); a != 2 || b != 1 {
			t.Errorf("the dial was sent %d times, want 2; the hangup behind it %d times, want 1", a, b)
		}
		time.Sleep(time.Minute)
		if n.Stats().Delivered != 2 || n.Stats().Pending != 0 || other.Stats().Delivered != 0 || l.countOf(id) != 2 {
			t.Errorf("got %+v and %+v", n.Stats(), other.Stats())
		}
		for _, node := range []*Notifier{n, other} {
			if got, want := deliveryNow(t, node, id).summary(), "delivered; 1 waiting 500; 0 delivered 200 by hand"; got != want {
				t.Errorf("got %s, want %s", got, want)
			}
		}
	})
}

// An attempt in flight when a redelivery succeeds is finished, and makes no difference.
func TestRedeliverWhileBeingDelivered(t *testing.T) {
	l := &switchableReceiver{}
	playWithTransport(t, Config{Transport: l}, func(t *testing.T, _ jetstream.JetStream, n *Notifier) {
		s := mustSubscribe(t, n, testSubscription("", "http://crm/hook"))
		n.EventLog.Append(eventsOf("c", dialog.Hangup))
		time.Sleep(5 * time.Second)
		id := "ca-" + s.ID
		if got := deliveryNow(t, n, id).summary(); got != "waiting" {
			t.Errorf("while it is attempted it is %s", got)
		}
		l.setStatus(200)
		if a, err := n.Redeliver(t.Context(), id); err != nil || a.Outcome != Delivered {
			t.Errorf("got %+v, %v", a, err)
		}
		time.Sleep(time.Minute)
		if got, want := deliveryNow(t, n, id).summary(), "delivered; 1 failed; 0 delivered 200 by hand"; got != want {
			t.Errorf("got %s, want %s", got, want)
		}
		if got := countOutbox(t, n); got != 0 || l.countOf(id) != 2 {
			t.Errorf("the outbox has %d deliveries, and it was sent %d times", got, l.countOf(id))
		}
	})
}

func TestTestSendsSamples(t *testing.T) {
	type sent struct {
		request
		begin time.Time
	}
	for _, dialect := range []Dialect{Unified, Telphin, CTI, JSON, CloudEvents} {
		t.Run(string(dialect), func(t *testing.T) {
			var mu sync.Mutex
			var got []sent
			receiver := roundTripper(func(r *http.Request) (*http.Response, error) {
				body, _ := io.ReadAll(r.Body)
				mu.Lock()
				got = append(got, sent{request{r.Header.Get("Webhook-Id"), nil, string(body), r}, time.Now()})
				mu.Unlock()
				time.Sleep(time.Second)
				return newResponse(202, nil, "thank you"), nil
			})
			playWithTransport(t, Config{Transport: receiver}, func(t *testing.T, _ jetstream.JetStream, n *Notifier) {
				s := NewSubscription()
				s.Extension, s.URL, s.Dialect, s.Types = "0003*210@pbx.example", "http://crm/hook", dialect, slices.Clone(subscription.Words())
				s.Active, s.Headers = false, map[string]string{"X-Key": "hush"}
				switch dialect {
				case CTI:
					s.Types = []string{"hangup", "answer", "dial-in"}
				case Unified:
					s.Types = slices.DeleteFunc(s.Types, func(t string) bool { return t == "subscription-state" })
				}
				s = mustSubscribe(t, n, s)
				begin := time.Now()
				trials, err := n.Test(t.Context(), s.ID)
				if err != nil {
					t.Fatal(err)
				}
				if len(trials) != len(s.Types) || len(got) != len(s.Types) {
					t.Errorf("%d were sent and %d are told, want %d", len(got), len(trials), len(s.Types))
				}
				for _, trial := range trials {
					a := trial.Attempt
					if !slices.Contains(s.Types, trial.Type) || a.Outcome != Delivered || a.Status != 202 || a.Answer.Body != "thank you" || a.Took != time.Second ||
						a.Request.Header["Webhook-Id"] != trial.ID || a.Request.Header["X-Key"] != deliverylog.Redacted {
						t.Errorf("told %+v", trial)
					}
				}
				for _, r := range got {
					if !strings.HasPrefix(r.id, "test-") || !strings.HasSuffix(r.id, "-"+s.ID) || r.Header.Get("X-Key") != "hush" {
						t.Errorf("sent %v", r.Header)
					}
					if err := verifyRequest(s.Secret, r.request); err != nil {
						t.Errorf("%s: %v", r.id, err)
					}
					if at := r.begin.Sub(begin); strings.Contains(r.body, "dial") != (at == 0) && dialect != Unified && dialect != CTI {
						t.Errorf("after %v: %s", at, r.body)
					}
				}
				time.Sleep(time.Second)
				if ids, _ := readDeliveries(t, n, DeliveryQuery{}); len(ids) != 0 {
					t.Errorf("the delivery log has %v", ids)
				}
				if events, _, err := n.Events(t.Context(), Query{}); len(events) != 0 || err != nil {
					t.Errorf("the event log has %v, %v", events, err)
				}
			})
		})
	}
}

// Test sends four samples at a time, and takes 15 seconds for all.
func TestTestIsLimited(t *testing.T) {
	var mu sync.Mutex
	under, most, all := 0, 0, 0
	receiver := roundTripper(func(r *http.Request) (*http.Response, error) {
		mu.Lock()
		under, all = under+1, all+1
		most = max(most, under)
		mu.Unlock()
		defer func() { mu.Lock(); under--; mu.Unlock() }()
		<-r.Context().Done()
		return nil, r.Context().Err()
	})
	playWithTransport(t, Config{Transport: receiver}, func(t *testing.T, _ jetstream.JetStream, n *Notifier) {
		s := testSubscription("", "http://crm/hook")
		s.Types, s.Timeout = []string{"ringing", "answer", "hold", "resume", "transfer", "hangup", "hangup"}, Duration(10*time.Second)
		s = mustSubscribe(t, n, s)
		begin := time.Now()
		trials, err := n.Test(t.Context(), s.ID)
		if took := time.Since(begin); err != nil || took != manualTimeout {
			t.Errorf("took %v: %v", took, err)
		}
		if most != maxSamples || all != 6 || len(trials) != 6 {
			t.Errorf("%d were sent, %d at most at a time, and %d told", all, most, len(trials))
		}
		for i, trial := range trials {
			want := "no response within 10s"
			if i >= maxSamples {
				want = "no response within 5s"
			}
			if trial.Attempt.Error != want || trial.Attempt.Outcome != Failed {
				t.Errorf("%s: %q, want %q", trial.Type, trial.Attempt.Error, want)
			}
		}
		if _, err := n.Edit(t.Context(), s.ID, 0, func(s *Subscription) error { s.Timeout = Duration(time.Minute); return nil }); err != nil {
			t.Fatal(err)
		}
		if trials, err = n.Test(t.Context(), s.ID); err != nil || !strings.HasPrefix(trials[5].Attempt.Error, "not sent") || trials[5].Attempt.Request != nil {
			t.Errorf("the last of those for which there is no time: %+v, %v", trials[5], err)
		}
		if _, err := n.Test(t.Context(), "x"); !errors.Is(err, ErrNotFound) {
			t.Errorf("nobody: %v", err)
		}
	})
}
