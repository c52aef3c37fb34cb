package notify

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"bellhop/dialog"
)

// makeHangups returns n hangups, each of a call of its own.
func makeHangups(from, n int) (all []dialog.Event) {
	for i := range n {
		all = append(all, callOf(from + i)[2])
	}
	return all
}

// Each pause and resumption is published for the subscriptions to subscription-state, shown
// in the subscription, and counted.
func TestPauseIsPublished(t *testing.T) {
	var down atomic.Bool
	down.Store(true)
	answer := func(_ int, r request) (int, http.Header) {
		if r.URL.Host == "crm" && down.Load() {
			return 503, nil
		}
		return 200, nil
	}
	runInVirtualTime(t, answer, func(t *testing.T, n *Notifier, w *fakeWire, s Subscription) {
		operator := testSubscription("", "http://operator/")
		operator.Extension, operator.ExtensionRegex = "", ".*"
		operator.Types, operator.Dialect = []string{"subscription-state"}, Telphin
		mustSubscribe(t, n, operator)
		reported := func() (states []string) {
			w.mu.Lock()
			defer w.mu.Unlock()
			for _, r := range w.got {
				if r.URL.Host == "operator" {
					if r.form.Get("SubscriptionID") != s.ID || r.form.Get("Extension") != "101" {
						t.Errorf("unexpected callback %v", r.form)
					}
					states = append(states, strings.TrimSpace(r.form.Get("SubscriptionState")+" "+r.form.Get("Why")))
				}
			}
			return states
		}
		n.EventLog.Append(makeHangups(1, 5))
		time.Sleep(500 * time.Millisecond)
		got, _ := n.Subscription(s.ID)
		if got.State != StatePaused || !got.Active || !strings.Contains(got.Why, "Service Unavailable") {
			t.Errorf("while it is paused: %s, %q", got.State, got.Why)
		}
		for _, listed := range n.Subscriptions() {
			if (listed.State == StatePaused) != (listed.ID == s.ID) {
				t.Errorf("%s is listed as %s", listed.URL, listed.State)
			}
		}
		down.Store(false)
		time.Sleep(7 * time.Second) // the four that failed before are due after 5 s to 6 s
		if got, _ = n.Subscription(s.ID); got.State != StateActive || got.Why != "" {
			t.Errorf("after it: %s, %q", got.State, got.Why)
		}
		if want := []string{"paused the URL of the subscription fails: Service Unavailable", "resumed"}; !slices.Equal(reported(), want) {
			t.Errorf("reported %q, want %q", reported(), want)
		}
		if got := n.Stats(); got.SubscriptionPauses != 1 || got.EndpointPauses != 0 || got.Delivered != 7 || got.Pending != 0 {
			t.Errorf("%+v", got)
		}
		if st, ok := n.health.get(s.ID); ok {
			t.Errorf("its health is still stored: %+v", st)
		}
	})
}

// A subscription that fails for five days is disabled, also across restarts. One that is
// activated again has another five days.
func TestDisabledAfterFiveDays(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		js, closeStore := openStore(t, dir)
		w := &fakeWire{start: time.Now(), answer: answerStatuses(500)}
		c := Config{Transport: w, KeepEvents: keepForever}
		n, stop := startNotifier(t, js, c)
		id := mustSubscribe(t, n, testSubscription("", "http://crm/hook")).ID
		n.EventLog.Append(makeHangups(1, 1))
		time.Sleep(4 * time.Minute)
		st, ok := n.health.get(id)
		if !ok || st.Failing.Sub(w.start) > time.Second {
			t.Errorf("after four minutes of failures: %+v", st)
		}
		st.Failing = time.Now().Add(30*time.Second - disableAfter)
		n.health.set(id, &st)
		time.Sleep(time.Second)
		stop()
		closeStore()

		js, closeStore = openStore(t, dir)
		defer closeStore()
		n, stop = startNotifier(t, js, c)
		defer stop()
		n.EventLog.Append(makeHangups(2, 1))
		time.Sleep(20 * time.Second)
		if s, _ := n.Subscription(id); !s.Active {
			t.Errorf("disabled too early: %s", s.Why)
		}
		time.Sleep(3 * time.Minute)
		s, _ := n.Subscription(id)
		if s.Active || s.State != StateDisabled || !strings.HasPrefix(s.Why, "all attempts failed since 1999-12-") {
			t.Errorf("%s: %s", s.State, s.Why)
		}
		if got := n.Stats(); got.Disabled != 1 || got.Pending != 0 {
			t.Errorf("%+v", got)
		}
		if _, err := n.Edit(t.Context(), id, 0, func(s *Subscription) error { s.Active = true; return nil }); err != nil {
			t.Error(err)
		}
		n.EventLog.Append(makeHangups(3, 1))
		time.Sleep(3 * time.Minute)
		if s, _ := n.Subscription(id); !s.Active {
			t.Errorf("switched on again, it is disabled at once: %s", s.Why)
		}
	})
}

// The last health that was set is written, even if an entry of another node arrives in
// between.
func TestHealthIsSaved(t *testing.T) {
	runInVirtualTime(t, answerStatuses(200), func(t *testing.T, n *Notifier, w *fakeWire, s Subscription) {
		other, err := Open(t.Context(), n.js, Config{Transport: w})
		if err != nil {
			t.Fatal(err)
		}
		at := time.Now()
		for i := range 100 {
			n.health.set("x", &healthState{Failing: at, Why: fmt.Sprint(i)})
		}
		n.health.set("y", nil)
		time.Sleep(time.Second)
		if st, _ := n.health.get("x"); st.Why != "99" {
			t.Errorf("%+v", st)
		}
		if err := other.health.watch(t.Context(), false); err != nil {
			t.Fatal(err)
		}
		if st, _ := other.health.get("x"); st.Why != "99" || !st.Failing.Equal(at) {
			t.Errorf("another node knows %+v", st)
		}
		n.health.set("x", nil)
		time.Sleep(time.Minute)
		if err := other.health.watch(t.Context(), false); err != nil {
			t.Fatal(err)
		}
		if _, ok := n.health.get("x"); ok || len(n.health.unsaved) != 0 {
			t.Errorf("left: %v, unsaved %d", ok, len(n.health.unsaved))
		}
		if info, err := n.js.Stream(t.Context(), "KV_bellhop_standings"); err != nil || info.CachedInfo().State.Msgs != 1 { // the marker
			t.Errorf("the bucket keeps %v", info.CachedInfo().State)
		}
	})
}

// A subscription that has recovered stays healthy after a kill, however long ago it
// recovered.
func TestDeletedHealthStaysDeleted(t *testing.T) {
	for _, after := range []time.Duration{time.Second, time.Minute, time.Hour} {
		t.Run(after.String(), func(t *testing.T) {
			dir := t.TempDir()
			synctest.Test(t, func(t *testing.T) {
				js, closeStore := openStore(t, dir)
				n, stop := startNotifier(t, js, Config{Transport: &fakeWire{start: time.Now(), answer: answerStatuses(200)}, KeepEvents: keepForever})
				for _, id := range []string{"well", "failing"} {
					n.health.set(id, &healthState{Failing: time.Now(), Why: "500"})
				}
				time.Sleep(time.Second)
				n.health.set("well", nil)
				time.Sleep(after)
				for range 2 {
					synctest.Wait()
					killed := filepath.Join(t.TempDir(), "store")
					if err := os.CopyFS(killed, os.DirFS(dir)); err != nil {
						t.Fatal(err)
					}
					stop()
					closeStore()
					dir = killed
					js, closeStore = openStore(t, dir)
					n, stop = startNotifier(t, js, Config{Transport: &fakeWire{start: time.Now(), answer: answerStatuses(200)}, KeepEvents: keepForever})
					if st, failing := n.health.get("well"); failing {
						t.Errorf("it fails again: %+v", st)
					}
					if _, failing := n.health.get("failing"); !failing {
						t.Error("the other one is well")
					}
					time.Sleep(after)
				}
				stop()
				closeStore()
			})
		})
	}
}

// A pause outlives a restart: only probes are sent until one succeeds. The health stored by
// an older version is read too.
func TestPauseOutlivesARestart(t *testing.T) {
	for _, tt := range []struct {
		name   string
		status int
		stored func(*healthState) // changes the stored health before the restart
		want   string
	}{
		{"of the subscription", 500, func(*healthState) {}, "the URL of the subscription fails: "},
		{"of the endpoint", 0, func(*healthState) {}, "endpoint http://crm is down: "},
		{"of an older version", 500, func(st *healthState) { st.Breaker = "" }, "the URL of the subscription fails: "},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			synctest.Test(t, func(t *testing.T) {
				js, closeStore := openStore(t, dir)
				var up atomic.Bool
				w := &fakeWire{start: time.Now(), answer: func(_ int, r request) (int, http.Header) {
					if up.Load() || r.URL.Host == "operator" {
						return 200, nil
					}
					return tt.status, nil
				}}
				c := Config{Transport: w, KeepEvents: keepForever}
				n, stop := startNotifier(t, js, c)
				id := mustSubscribe(t, n, testSubscription("", "http://crm/hook")).ID
				operator := testSubscription("", "http://operator/")
				operator.Extension, operator.ExtensionRegex, operator.Types = "", ".*", []string{"subscription-state"}
				operator.Dialect = Telphin
				mustSubscribe(t, n, operator)
				n.EventLog.Append(makeHangups(1, 6))
				time.Sleep(time.Minute)
				st, _ := n.health.get(id)
				if st.Paused.IsZero() {
					t.Fatal("it is not paused")
				}
				tt.stored(&st)
				n.health.set(id, &st)
				time.Sleep(time.Second)
				stop()
				closeStore()

				js, closeStore = openStore(t, dir)
				defer closeStore()
				n, stop = startNotifier(t, js, c)
				defer stop()
				n.EventLog.Append(makeHangups(10, 20))
				w.mu.Lock()
				before := len(w.got)
				w.mu.Unlock()
				time.Sleep(500 * time.Millisecond)
				synctest.Wait()
				w.mu.Lock()
				if sent := len(w.got) - before; sent > 1 {
					t.Errorf("%d were sent after the restart, want a probe", sent)
				}
				w.mu.Unlock()
				if s, _ := n.Subscription(id); s.State != StatePaused || !strings.Contains(s.Why, tt.want) {
					t.Errorf("after the restart: %s, %s", s.State, s.Why)
				}
				up.Store(true)
				time.Sleep(time.Minute)
				if s, _ := n.Subscription(id); s.State != StateActive {
					t.Errorf("when it is back: %s, %s", s.State, s.Why)
				}
				if got := n.Stats(); got.Pending != 0 {
					t.Errorf("%+v", got)
				}
				var reported []string
				for _, r := range w.got {
					if r.URL.Host == "operator" {
						reported = append(reported, r.form.Get("SubscriptionState"))
					}
				}
				if want := []string{"paused", "resumed"}; !slices.Equal(reported, want) {
					t.Errorf("reported %v, want %v", reported, want)
				}
			})
		})
	}
}
