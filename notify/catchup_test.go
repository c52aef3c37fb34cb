package notify

import (
	"net/http"
	"os"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"bellhop/notify/eventlog"
	"bellhop/notify/schedule"
	"bellhop/notify/stream"
)

// startSmall starts a notifier whose subscriptions lag beyond limit pending deliveries.
func startSmall(t *testing.T, js jetstream.JetStream, c Config, limit int) (*Notifier, func()) {
	t.Helper()
	n, err := Open(t.Context(), js, c)
	if err != nil {
		t.Fatal(err)
	}
	n.maxPending = limit
	stop := runNotifier(n)
	t.Cleanup(stop)
	return n, stop
}

// A receiver is down and its subscription lags, while another one is delivered to at once.
// When the receiver returns it gets all events in order, even if the store was killed
// meanwhile at any time.
func TestCatchesUpAfterKill(t *testing.T) {
	const limit, calls = 50, 400
	dir, crashed := t.TempDir(), []string{t.TempDir(), t.TempDir(), t.TempDir(), t.TempDir()}
	synctest.Test(t, func(t *testing.T) {
		js, closeStore := openStore(t, dir)
		defer closeStore()
		var up, slow atomic.Bool
		var mu sync.Mutex
		late := time.Duration(0)
		w := &fakeWire{start: time.Now(), answer: func(_ int, r request) (int, http.Header) {
			switch at, _ := eventTime([]byte(r.body)); {
			case r.URL.Host == "well":
				mu.Lock()
				late = max(late, time.Since(at))
				mu.Unlock()
			case !up.Load():
				return 500, nil
			case slow.Load():
				time.Sleep(time.Second)
			}
			return 200, nil
		}}
		c := Config{Transport: w, PublishAtOnce: true, KeepEvents: keepForever}
		n, stop := startSmall(t, js, c, limit)
		for _, host := range []string{"dead", "well"} {
			s := testSubscription("", "http://"+host+"/")
			s.Dialect = Telphin
			mustSubscribe(t, n, s)
		}
		taken := func(host string) (got []request) {
			w.mu.Lock()
			defer w.mu.Unlock()
			return slices.DeleteFunc(slices.Clone(w.taken), func(r request) bool { return r.URL.Host != host })
		}
		var before []int // what the receiver that was down had received at each crash
		crash := func() {
			if err := os.CopyFS(crashed[len(before)], os.DirFS(dir)); err != nil {
				t.Fatal(err)
			}
			before = append(before, len(taken("dead")))
		}
		for i := range calls {
			if i == 100 {
				crash()
			}
			n.EventLog.Append(callOf(i))
			time.Sleep(50 * time.Millisecond)
		}
		time.Sleep(2 * time.Minute) // live events are too old
		if s := n.Stats(); s.Lagging != 1 || s.Pending > limit || len(taken("well")) != 3*calls || late > 10*time.Millisecond {
			t.Errorf("%+v; the one that is well took %d, %v late at most", s, len(taken("well")), late)
		}
		if page, _, err := n.Deliveries(t.Context(), DeliveryQuery{State: Waiting}); err != nil || len(page) == 0 {
			t.Errorf("%d deliveries are shown: %v", len(page), err)
		}
		crash()
		up.Store(true)
		slow.Store(true)
		time.Sleep(35 * time.Second) // a probe, and some pending deliveries
		if s := n.Stats(); s.Lagging != 1 || s.Pending == 0 || s.Pending > limit {
			t.Errorf("while it catches up: %+v", s)
		}
		crash()
		slow.Store(false)
		time.Sleep(time.Minute)
		crash()
		if s := n.Stats(); s.Lagging != 0 || s.Pending != 0 || s.Lost != 0 || s.Delivered+s.Expired != 6*calls {
			t.Errorf("in the end: %+v", s)
		}
		if err := checkCalls(taken("dead"), 0, calls); err != nil {
			t.Error(err)
		}
		time.Sleep(time.Minute)
		if info, err := n.outbox.Info(t.Context()); err != nil || info.State.Msgs != 1 {
			t.Errorf("the outbox keeps %d messages, want the cursor alone: %v", info.State.Msgs, err)
		}
		stop()
		all := taken("dead")
		for i, dir := range crashed {
			w.mu.Lock()
			w.taken = slices.Clone(all[:before[i]])
			w.mu.Unlock()
			js, closeCrashed := openStore(t, dir)
			n, stop := startSmall(t, js, c, limit)
			time.Sleep(2 * time.Minute)
			published := calls
			if i == 0 {
				published = 100
			}
			if err := checkCalls(taken("dead"), 0, published); err != nil {
				t.Errorf("after crash %d: %v", i, err)
			}
			if s := n.Stats(); s.Lagging != 0 || s.Pending != 0 || s.Lost != 0 {
				t.Errorf("after crash %d: %+v", i, s)
			}
			if again := len(taken("dead")) - before[i]; i == 3 && again > 0 {
				t.Errorf("%d that were delivered came again", again)
			}
			stop()
			closeCrashed()
		}
	})
}

// Events that leave the log before a lagging subscription has read them are lost and
// counted.
func TestLostEventsAreCounted(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		js, closeStore := openStore(t, dir)
		defer closeStore()
		var up atomic.Bool
		w := &fakeWire{start: time.Now(), answer: upOrDown(&up)}
		n, stop := startSmall(t, js, Config{Transport: w, PublishAtOnce: true}, 10)
		defer stop()
		mustSubscribe(t, n, testSubscription("", "http://dead/"))
		for i := range 5000 {
			n.EventLog.Append(callOf(i)[2:])
			if i%100 == 0 {
				time.Sleep(100 * time.Millisecond)
			}
		}
		time.Sleep(10 * time.Second)
		if err := eventStream(t, n).Purge(t.Context(), jetstream.WithPurgeSequence(4001)); err != nil {
			t.Fatal(err)
		}
		up.Store(true)
		time.Sleep(time.Minute)
		// the events of ten pending deliveries are lost: they expire
		if s := n.Stats(); s.Lost != 3990 || s.Expired+s.Delivered != 1010 || s.Delivered < 1000 || s.Lagging+s.Pending != 0 {
			t.Errorf("%+v", s)
		}
	})
}

// BenchmarkLag measures the memory of a dead receiver, with far more events than may be
// pending, and per pending delivery.
func BenchmarkLag(b *testing.B) {
	const maxPending = schedule.MaxPending
	for b.Loop() {
		var ended int
		sweeper, messages := newSweeper(), uint64(0)
		var started []schedule.Attempt
		s := schedule.New(maxPending, schedule.Hooks{
			Start:           func(a schedule.Attempt) { started = append(started, a) },
			Ended:           func(schedule.End) { ended++ },
			EndpointChanged: func(string, bool, string) {}, HealthChanged: func(schedule.Health) {}, LagChanged: func(string, bool, int) {},
			RecoverPanic: func(string) {},
		})
		s.ApplySubscription(testSubscription("dead", "http://dead/"), time.Time{})
		s.ApplySubscription(testSubscription("well", "http://well/"), time.Time{})
		heap := func() uint64 {
			runtime.GC()
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			return m.HeapAlloc
		}
		before, now := heap(), time.Now()
		report := func(name string) {
			b.ReportMetric(float64(heap()-before)/(1<<20), name)
		}
		for i := range 10 * maxPending {
			e := callOf(i)[2]
			s.Run(now, eachEvent([]eventlog.Entry{{Seq: uint64(i + 1), Event: &e}}), maxSenders)
			for len(started) > 0 {
				for _, p := range started {
					r := schedule.Result{Outcome: schedule.WillRetry}
					if p.Sub.ID == "well" {
						r.Outcome = schedule.Delivered
					}
					s.FinishAttempt(now, &p, &r)
				}
				started = started[:0]
				s.Run(now, nil, maxSenders)
			}
			now = now.Add(time.Millisecond)
			for _, u := range s.Updates(now, stream.BatchSize) {
				messages++
				sweeper.noteResult(outboxMessage(u), stream.Result{Seq: messages})
				s.FinishUpdate(u, nil)
			}
			sweeper.superseded, sweeper.ended, sweeper.purge = nil, nil, nil // all were removed
			if i == maxPending-1 {
				report("MB-at-the-limit")
				b.ReportMetric(float64(heap()-before)/float64(s.Pending()), "B/pending")
			}
		}
		report("MB-at-ten-times-that")
		if s.Pending() != maxPending || ended != 10*maxPending {
			b.Fatalf("%d wait, %d ended", s.Pending(), ended)
		}
		runtime.KeepAlive(sweeper)
	}
}
