package notify

import (
	"os"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// A delivery that has ended is not owed again after a crash, however long ago it ended.
func TestEndedDeliveryStaysEndedAfterCrash(t *testing.T) {
	dir, crashed := t.TempDir(), t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		js, closeStore := openStore(t, dir)
		defer closeStore()
		var up atomic.Bool
		w := &fakeWire{start: time.Now(), answer: upOrDown(&up)}
		c := Config{Transport: w, KeepEvents: keepForever}
		n, stop := startNotifier(t, js, c)
		s := testSubscription("", "http://crm/hook")
		s.Dialect, s.LiveTTL = Telphin, Duration(time.Hour)
		mustSubscribe(t, n, s)
		for i := range 5 {
			n.EventLog.Append(callOf(i))
			time.Sleep(10 * time.Second) // some attempts
		}
		up.Store(true)
		time.Sleep(time.Minute)
		if s := n.Stats(); s.Delivered != 15 || s.Pending != 0 {
			t.Fatalf("%+v", s)
		}

		// A killed process leaves its files as they are now.
		if err := os.CopyFS(crashed, os.DirFS(dir)); err != nil {
			t.Fatal(err)
		}
		stop()
		w.mu.Lock()
		w.got = nil
		w.mu.Unlock()
		js, closeCrashed := openStore(t, crashed)
		defer closeCrashed()
		n, stop = startNotifier(t, js, c)
		defer stop()
		time.Sleep(time.Minute)
		w.mu.Lock()
		defer w.mu.Unlock()
		if len(w.got) > 0 {
			t.Errorf("after a crash %d callbacks that were delivered came again", len(w.got))
		}
		if s := n.Stats(); s.Delivered != 0 || s.Pending != 0 {
			t.Errorf("%+v", s)
		}
	})
}
