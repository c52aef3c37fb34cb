package notify

import (
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// A panickingTransport panics at one kind of callback.
type panickingTransport struct{ *fakeWire }

func (b panickingTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	if strings.HasPrefix(req.URL.Host, "bomb") {
		panic("boom")
	}
	return b.fakeWire.RoundTrip(req)
}

// A panic costs only the event or the delivery in which it happens.
func TestPanicCostsOneEvent(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		js, closeStore := openStore(t, dir)
		defer closeStore()
		w := &fakeWire{start: time.Now()}
		n, stop := startNotifier(t, js, Config{Transport: panickingTransport{w}, KeepEvents: keepForever})
		defer stop()
		mustSubscribe(t, n, testSubscription("", "http://crm/hook"))
		bombed := mustSubscribe(t, n, testSubscription("", "http://bomb/hook"))

		bad := callOf(1)[:1]
		bad[0].CallerName = "\xff" // so that it is decoded again
		bad[0].At = time.Date(12_000, 1, 1, 0, 0, 0, 0, time.UTC)
		n.EventLog.Append(slices.Concat(bad, callOf(2)))
		time.Sleep(time.Minute)
		if s := n.Stats(); s.Published != 3 || s.Dropped != 1 || s.Unpublished != 0 || s.Delivered != 3 || s.Expired != 3 || s.Pending != 0 || s.Panics != 4 {
			t.Errorf("%+v: want 3 published, 1 dropped, 3 delivered, 3 expired and 4 panics", s)
		}
		if len(w.taken) != 3 {
			t.Errorf("%d callbacks came, want 3", len(w.taken))
		}
		trials, err := n.Test(t.Context(), bombed.ID)
		if err != nil || len(trials) == 0 || trials[0].Attempt.Outcome != Failed || !strings.Contains(trials[0].Attempt.Error, "boom") {
			t.Errorf("samples: %+v, %v", trials, err)
		}
	})
}
