package notify

import (
	"net/http"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// When nothing is owed any more the outbox has nothing but the cursor, however
// often there was something to say of a delivery.
func TestSwept(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		js, closeStore := openStore(t, dir)
		defer closeStore()
		var up atomic.Bool
		w := &wire{start: time.Now(), answer: func(int, request) (int, http.Header) {
			if up.Load() {
				return 200, nil
			}
			return 500, nil
		}}
		n, stop := start(t, js, Config{Transport: w, KeepEvents: 100 * 365 * 24 * time.Hour}) // the store dates by another clock when it opens
		defer stop()
		s := sub("", "http://crm/hook")
		s.Dialect, s.LiveTTL = Telphin, Duration(time.Hour)
		subscribe(t, n, s)
		for i := range 20 {
			n.Say(callOf(i))
			time.Sleep(time.Second)
		}
		time.Sleep(time.Minute)
		info, err := n.outbox.Info(t.Context())
		if err != nil || info.State.Msgs != 61 {
			t.Errorf("while 60 are owed the outbox has %d words, want as many and the cursor: %v", info.State.Msgs, err)
		}
		up.Store(true)
		time.Sleep(5 * time.Minute)
		if s := n.Stats(); s.Delivered != 60 || s.Pending != 0 {
			t.Fatalf("%+v", s)
		}
		info, err = n.outbox.Info(t.Context())
		if err != nil || info.State.Msgs != 1 {
			t.Errorf("when nothing is owed the outbox has %d words, want the cursor: %v", info.State.Msgs, err)
		}
	})
}
