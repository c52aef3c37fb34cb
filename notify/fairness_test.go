package notify

import (
	"fmt"
	"net"
	"net/http"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"bellhop/dialog"
	"bellhop/notify/stream"
)

// A receiver that never answers, with more pending deliveries than could ever be sent,
// takes no slot from others: their callbacks leave at once.
func TestDeadReceiverDelaysNoOther(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		js, closeStore := openStore(t, dir)
		defer closeStore()
		var mu sync.Mutex
		late, received, asked := time.Duration(0), 0, 0
		w := &fakeWire{start: time.Now(), answer: func(_ int, r request) (int, http.Header) {
			mu.Lock()
			defer mu.Unlock()
			if r.URL.Host == "dead" {
				asked++
				return 0, nil
			}
			at, _ := eventTime([]byte(r.body))
			late = max(late, time.Since(at))
			received++
			return 200, nil
		}}
		n, stop := startNotifier(t, js, Config{Transport: w, PublishAtOnce: true})
		defer stop()
		for i := range 10 {
			s := testSubscription("", "http://dead/")
			s.Note, s.MaxInFlight = fmt.Sprint(i), 64 // more in total than there are senders
			mustSubscribe(t, n, s)
		}
		s := testSubscription("", "http://well/")
		s.Dialect = Telphin
		mustSubscribe(t, n, s)
		const calls = 1000
		for i := range calls {
			n.EventLog.Append(callOf(i)[2:])
			time.Sleep(20 * time.Millisecond)
		}
		synctest.Wait()
		mu.Lock()
		defer mu.Unlock()
		if received != calls || late > time.Millisecond {
			t.Errorf("%d of %d callbacks came, %v late at most", received, calls, late)
		}
		if s := n.Stats(); s.Pending != 10*calls || asked == 0 {
			t.Errorf("the dead one was asked %d times and %d deliveries wait, want %d", asked, s.Pending, 10*calls)
		}
	})
}

// TestReceiversAreServedFairly measures the lateness of the callbacks to 98 receivers, with and without a dead
// and a slow receiver beside them, which have a tenth of all calls each.
func TestReceiversAreServedFairly(t *testing.T) {
	if !*soak {
		t.Skip("takes three minutes: make soak")
	}
	const rounds = 3
	var p50, p99 [2][]float64
	for range rounds {
		for i, bad := range []bool{false, true} {
			l := measureFairness(t, bad)
			t.Logf("bad ones: %v; %d callbacks to the 98, late by %.1f ms in the middle, p99 %.1f ms, %.1f ms at most", bad, l.N, l.P50, l.P99, l.Max)
			p50[i], p99[i] = append(p50[i], l.P50), append(p99[i], l.P99)
		}
	}
	for name, p := range map[string][2][]float64{"p50": p50, "p99": p99} {
		without, with := median(p[0]), median(p[1])
		t.Logf("%s: %.1f ms without, %.1f ms with the bad ones: %.2f times", name, without, with, with/without)
		if with > 1.2*without {
			t.Errorf("%s is %.2f times what it is without the bad ones, want 1.2 at most", name, with/without)
		}
	}
}

func median(xs []float64) float64 {
	xs = slices.Sorted(slices.Values(xs))
	return xs[len(xs)/2]
}

// measureFairness delivers 200 calls a second for 25 s to 100 receivers at ports of their
// own. It returns the lateness of the first 98, measured after the two others may have
// failed for 10 s. The three events of a call are a second apart.
func measureFairness(t *testing.T, bad bool) sinkLateness {
	js, closeStore := openStore(t, t.TempDir())
	defer closeStore()
	n, stop := startNotifier(t, js, Config{Allow: loopback})
	defer stop()
	urls := startSinks(t, 100)
	extension := func(i int) string { return fmt.Sprint(100 + i) }
	for i, url := range urls {
		s := NewSubscription()
		s.Extension, s.Types, s.URL = extension(i), []string{"dial-out", "answer", "hangup"}, url+"hook"
		switch {
		case i >= 98 && !bad:
			s.URL = url + "other"
		case i == 98:
			s.URL = url + "slow"
		case i == 99:
			l, err := net.Listen("tcp", "127.0.0.1:0") // accepts connections and never answers
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			s.URL = "http://" + l.Addr().String()
		}
		mustSubscribe(t, n, s)
	}
	const rate, seconds = 200, 25
	say := func(call, event int) {
		if call < 0 {
			return
		}
		e := callOf(call)[event : event+1]
		who := call % 98
		if call%10 < 2 {
			who = 98 + call%2
		}
		e[0].Extension = dialog.Extension{User: extension(who), Domain: "pbx.example"}
		n.EventLog.Append(e)
	}
	begin := time.Now()
	for i := range rate * seconds {
		say(i, 0)
		say(i-rate, 1)
		say(i-2*rate, 2)
		if i == 10*rate {
			askLateness(t, urls[0]) // discard the callbacks so far
		}
		stream.Sleep(t.Context(), time.Until(begin.Add(time.Duration(i+1)*time.Second/rate)))
	}
	l := askLateness(t, urls[0])
	if l.N < 15*rate*3*8/10*9/10 {
		t.Errorf("%d callbacks came in 15 s, want some %d", l.N, 15*rate*3*8/10)
	}
	return l
}
