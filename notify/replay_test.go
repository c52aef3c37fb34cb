package notify

import (
	"errors"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func TestReplayRange(t *testing.T) {
	var up atomic.Bool
	up.Store(true)
	runInVirtualTime(t, upOrDown(&up), func(t *testing.T, n *Notifier, w *fakeWire, s Subscription) {
		other := testSubscription("", "http://other/hook")
		other.ExtensionRegex, other.Extension = "10.", ""
		other = mustSubscribe(t, n, other)
		begin := time.Now()
		for i := range 10 {
			n.EventLog.Append(callOf(i))
			time.Sleep(10 * time.Second)
		}
		took := func() (got []string) {
			time.Sleep(time.Second)
			w.mu.Lock()
			defer w.mu.Unlock()
			for _, r := range w.taken {
				if r.URL.Host == "crm" {
					got = append(got, r.form.Get("EventType")+" "+r.id)
				}
			}
			w.taken = nil
			return got
		}
		all := took()
		if len(all) != 30 {
			t.Fatalf("%d were delivered at first, want 30", len(all))
		}
		for _, tt := range []struct {
			name     string
			from, to time.Time
			types    []string
			want     []string // events of calls
		}{
			{"all", begin.Add(-time.Hour), time.Time{}, nil, all},
			{"to now, and beyond", begin, time.Now().Add(time.Hour), nil, all},
			{"from a time on", begin.Add(85 * time.Second), time.Time{}, nil, all[27:]},
			{"up to a time", begin, begin.Add(15 * time.Second), nil, all[:6]},
			{"a type", begin, begin.Add(15 * time.Second), []string{"hangup"}, []string{all[2], all[5]}},
			{"nothing of that time", begin.Add(-time.Hour), begin, nil, nil},
			{"a type that was not said", begin, time.Time{}, []string{"voicemail"}, nil},
		} {
			count, err := n.Replay(t.Context(), s.ID, tt.from, tt.to, tt.types)
			got := took()
			slices.Sort(got)
			want := slices.Sorted(slices.Values(tt.want))
			if err != nil || count != len(want) || !slices.Equal(got, want) {
				t.Errorf("%s: %d, %v, came\n%v, want\n%v", tt.name, count, err, got, want)
			}
		}
		if count, err := n.Replay(t.Context(), other.ID, begin, time.Time{}, nil); count != 30 || err != nil {
			t.Errorf("of an expression: %d, %v", count, err)
		}
		if got := took(); len(got) > 0 {
			t.Errorf("for another came %v", got)
		}

		// A pending event arrives once, and so does one that is replayed twice.
		up.Store(false)
		n.EventLog.Append(callOf(10))
		time.Sleep(time.Second)
		for range 2 {
			if count, err := n.Replay(t.Context(), s.ID, begin, time.Time{}, []string{"hangup"}); count != 11 || err != nil {
				t.Errorf("while the receiver is down: %d, %v", count, err)
			}
		}
		time.Sleep(time.Second)
		up.Store(true)
		time.Sleep(time.Minute)
		if got := took(); len(got) != 13 {
			t.Errorf("%d came, want 3 new ones and 10 again:\n%s", len(got), strings.Join(got, "\n"))
		}
		if s := n.Stats(); s.Pending != 0 || s.Lost != 0 {
			t.Errorf("%+v", s)
		}
		time.Sleep(time.Minute)
		if info, err := n.outbox.Info(t.Context()); err != nil || info.State.Msgs != 1 {
			t.Errorf("the outbox keeps %d messages, want the cursor alone: %v", info.State.Msgs, err)
		}
	})
}

func TestReplayRefused(t *testing.T) {
	runInVirtualTime(t, answerStatuses(200), func(t *testing.T, n *Notifier, w *fakeWire, s Subscription) {
		n.maxReplay = 3
		begin := time.Now()
		n.EventLog.Append(callOf(1))
		n.EventLog.Append(callOf(2)[:1])
		time.Sleep(time.Second)
		off := testSubscription("", "http://crm/off")
		off.Active = false
		off = mustSubscribe(t, n, off)
		for _, tt := range []struct {
			name, id string
			from, to time.Time
			types    []string
			want     string
		}{
			{"one too many", s.ID, begin, time.Time{}, nil, "subscription: from and to have more than 3 events between them: narrow the range, or name types"},
			{"unknown", "nobody", begin, time.Time{}, nil, ErrNotFound.Error()},
			{"switched off", off.ID, begin, time.Time{}, nil, ErrInactive.Error()},
			{"no from", s.ID, time.Time{}, time.Time{}, nil, "subscription: from is missing"},
			{"backwards", s.ID, begin.Add(time.Second), begin, nil, "subscription: from is not before to, or is in the future"},
			{"in the future", s.ID, begin.Add(time.Hour), time.Time{}, nil, "subscription: from is not before to, or is in the future"},
			{"no type", s.ID, begin, time.Time{}, []string{"ring"}, `subscription: types has "ring", which is not an event type`},
		} {
			count, err := n.Replay(t.Context(), tt.id, tt.from, tt.to, tt.types)
			if err == nil || !strings.HasPrefix(err.Error(), tt.want) && !strings.HasSuffix(err.Error(), tt.want) || count != 0 {
				t.Errorf("%s: %d, %v; want %s", tt.name, count, err, tt.want)
			}
			var invalid *Invalid
			if strings.HasPrefix(tt.want, "subscription:") && !errors.As(err, &invalid) {
				t.Errorf("%s: %v is no *Invalid", tt.name, err)
			}
		}
		if count, err := n.Replay(t.Context(), s.ID, begin, time.Time{}, []string{"dial-out", "hangup"}); count != 3 || err != nil {
			t.Errorf("as many as may be: %d, %v", count, err)
		}
		time.Sleep(time.Second)
		w.mu.Lock()
		if len(w.got) != 7 {
			t.Errorf("%d came, want 7", len(w.got))
		}
		w.mu.Unlock()
		if err := n.js.DeleteStream(t.Context(), "bellhop_outbox"); err != nil {
			t.Fatal(err)
		}
		if count, err := n.Replay(t.Context(), s.ID, begin, time.Time{}, []string{"hangup"}); count != 0 || err == nil {
			t.Errorf("without an outbox: %d, %v", count, err)
		}
	})
}

// A replay survives a crash at any time after it was requested.
func TestReplayAndCrash(t *testing.T) {
	dir, crashed := t.TempDir(), []string{t.TempDir(), t.TempDir(), t.TempDir()}
	synctest.Test(t, func(t *testing.T) {
		js, closeStore := openStore(t, dir)
		defer closeStore()
		var up atomic.Bool
		up.Store(true)
		w := &fakeWire{start: time.Now(), answer: upOrDown(&up)}
		c := Config{Transport: w, KeepEvents: keepForever}
		n, stop := startSmall(t, js, c, 20)
		s := testSubscription("", "http://crm/hook")
		s.Dialect = Telphin
		s = mustSubscribe(t, n, s)
		begin := time.Now()
		for i := range 20 {
			n.EventLog.Append(callOf(i))
			time.Sleep(time.Second)
		}
		up.Store(false)
		stop()
		asked, err := Open(t.Context(), js, c) // the node that is asked delivers nothing
		if err != nil {
			t.Fatal(err)
		}
		if count, err := asked.Replay(t.Context(), s.ID, begin, time.Time{}, nil); count != 60 || err != nil {
			t.Fatalf("%d, %v", count, err)
		}
		crash := func(i int) {
			if err := os.CopyFS(crashed[i], os.DirFS(dir)); err != nil {
				t.Fatal(err)
			}
		}
		crash(0)
		n, stop = startSmall(t, js, c, 20)
		time.Sleep(10 * time.Millisecond)
		crash(1)
		time.Sleep(time.Minute)
		crash(2)
		if s := n.Stats(); s.Pending == 0 || s.Pending > 20 || s.Lagging != 0 {
			t.Errorf("%+v", s)
		}
		stop()
		up.Store(true)
		for i, dir := range append(crashed, dir) {
			w.mu.Lock()
			w.taken = nil
			w.mu.Unlock()
			jsOf, closeCrashed := js, func() {}
			if i < len(crashed) { // the last was not killed
				jsOf, closeCrashed = openStore(t, dir)
			}
			n, stop := startSmall(t, jsOf, c, 20)
			time.Sleep(2 * time.Minute)
			w.mu.Lock()
			if err := checkCalls(w.taken, 0, 20); err != nil || len(w.taken) != 60 {
				t.Errorf("after crash %d: %d came, want 60: %v", i, len(w.taken), err)
			}
			w.mu.Unlock()
			if s := n.Stats(); s.Pending != 0 || s.Expired != 0 {
				t.Errorf("after crash %d: %+v", i, s)
			}
			stop()
			closeCrashed()
		}
	})
}

// Any node accepts a replay; the delivering node carries it out.
func TestReplayOfAnotherNode(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		js, closeStore := openStore(t, dir)
		defer closeStore()
		w := &fakeWire{start: time.Now(), answer: answerStatuses(200)}
		n, stop := startNotifier(t, js, Config{Transport: w, Node: "one"})
		defer stop()
		time.Sleep(time.Second)
		other, stopOther := startNotifier(t, js, Config{Transport: w, Node: "two"})
		defer stopOther()
		begin := time.Now()
		n.EventLog.Append(callOf(1)) // no subscription wants these
		time.Sleep(10 * time.Second)
		s := testSubscription("", "http://crm/hook")
		s.Dialect = Telphin
		s = mustSubscribe(t, other, s)
		if count, err := other.Replay(t.Context(), s.ID, begin, time.Time{}, nil); count != 3 || err != nil {
			t.Errorf("%d, %v", count, err)
		}
		time.Sleep(time.Second)
		w.mu.Lock()
		defer w.mu.Unlock()
		if err := checkCalls(w.taken, 1, 2); err != nil || n.Stats().Delivered != 3 {
			t.Errorf("%d came, %d by the one that delivers: %v", len(w.taken), n.Stats().Delivered, err)
		}
	})
}
