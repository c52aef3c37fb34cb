package notify

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"bellhop/notify/payload"
	"bellhop/notify/stream"
)

var measured = []Dialect{JSON, Telphin, Unified}

// benchRequests is how many requests are in flight at once, in both benchmarks.
const benchRequests = 16

// BenchmarkCallback publishes events and delivers them by real HTTP to a receiver in
// another process. It measures the CPU time of one event from Append to the response of the
// receiver, the store included. BenchmarkBarePost is the lower limit. "paced" runs at 600
// events a second; the others run as fast as they can with at most 1000 deliveries in
// flight.
func BenchmarkCallback(b *testing.B) {
	for _, dialect := range measured {
		b.Run(string(dialect), func(b *testing.B) { deliverCallbacks(b, dialect, 0) })
	}
	b.Run("paced", func(b *testing.B) { deliverCallbacks(b, JSON, 200) })
}

// deliverCallbacks delivers b.N events or a few more, of rate calls a second; 0: as fast as
// possible.
func deliverCallbacks(b *testing.B, dialect Dialect, rate int) {
	js, closeStore := openStore(b, b.TempDir())
	defer closeStore()
	n, stop := startNotifier(b, js, Config{Allow: loopback})
	defer stop()
	sink := startSink(b)
	s := NewSubscription()
	s.Extension, s.Types, s.URL, s.Dialect, s.MaxInFlight = "101", []string{"dial-out", "answer", "hangup"}, sink+"hook", dialect, benchRequests
	mustSubscribe(b, n, s)
	like := callOf(0)
	published := uint64(0)
	b.ReportAllocs()
	b.ResetTimer()
	before, begin := cpuTime(), time.Now()
	for i := 0; published < uint64(b.N); i++ {
		events, now := slices.Clone(like), time.Now()
		call := fmt.Sprintf("%032x", 16*i)
		for k := range events {
			e := &events[k]
			e.Call, e.Party, e.ID, e.At = call, call, call[:31]+strconv.Itoa(k+2), now
		}
		n.EventLog.Append(events)
		published += 3
		if rate > 0 {
			stream.Sleep(b.Context(), time.Until(begin.Add(time.Duration(i+1)*time.Second/time.Duration(rate))))
		}
		for rate == 0 && published-n.Stats().Delivered > 1000 {
			stream.Sleep(b.Context(), time.Millisecond)
		}
	}
	for n.Stats().Delivered < published {
		stream.Sleep(b.Context(), time.Millisecond)
	}
	reportCost(b, before, begin, int(published))
	if dialect == Unified { // the dialect has no time
		return
	}
	late := askLateness(b, sink)
	b.ReportMetric(late.P50, "late-p50-ms")
	b.ReportMetric(late.P99, "late-p99-ms")
}

// BenchmarkBarePost posts the same requests as BenchmarkCallback, with the same header
// fields, from a bare loop.
func BenchmarkBarePost(b *testing.B) {
	for _, dialect := range measured {
		b.Run(string(dialect), func(b *testing.B) { barePost(b, dialect) })
	}
}

func barePost(b *testing.B, dialect Dialect) {
	e := callOf(1)[2]
	v := payload.New(&e, payload.Format{Dialect: dialect, Method: "POST"})
	body := v.Append(nil)
	header := http.Header{
		"User-Agent": {"bellhop/devel"},
		"Webhook-Id": {e.ID + "-" + rand.Text()}, "Webhook-Timestamp": {strconv.FormatInt(time.Now().Unix(), 10)},
		"Webhook-Signature": {"v1,K5oZfzN95Z9UVu1EsfQmfVNQhnkZ2pj9o9NDN/H/pI4="},
	}
	v.SetHeader(header)
	sink := startSink(b)
	transport := &http.Transport{MaxIdleConnsPerHost: benchRequests}
	defer transport.CloseIdleConnections()
	b.ReportAllocs()
	b.ResetTimer()
	before, begin := cpuTime(), time.Now()
	var posters sync.WaitGroup
	turns := make(chan struct{}, b.N)
	for range b.N {
		turns <- struct{}{}
	}
	close(turns)
	for range benchRequests {
		posters.Go(func() {
			for range turns {
				req, _ := http.NewRequest("POST", sink+"hook", bytes.NewReader(body))
				req.Header = header
				res, err := transport.RoundTrip(req)
				if err != nil {
					b.Error(err)
					return
				}
				io.Copy(io.Discard, res.Body)
				res.Body.Close()
			}
		})
	}
	posters.Wait()
	reportCost(b, before, begin, b.N)
}

// reportCost reports the CPU and wall clock time of n events since before and begin.
func reportCost(b *testing.B, before time.Duration, begin time.Time, n int) {
	used, took := cpuTime()-before, time.Since(begin)
	b.ReportMetric(float64(used.Nanoseconds())/1000/float64(n), "cpu-µs/op")
	b.ReportMetric(float64(n)/took.Seconds(), "callbacks/s")
}

// cpuTime returns the CPU time of this process so far, in the kernel too.
func cpuTime() time.Duration {
	var r syscall.Rusage
	syscall.Getrusage(syscall.RUSAGE_SELF, &r)
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}

// startSink starts a receiver in a process of its own and returns its root URL.
func startSink(b testing.TB) string { return startSinks(b, 1)[0] }

// startSinks starts a process that receives at n ports, and returns their root URLs.
func startSinks(b testing.TB, n int) (urls []string) {
	c := exec.Command(os.Args[0])
	c.Env = append(os.Environ(), "NOTIFY_TEST=sink", fmt.Sprint("NOTIFY_PORTS=", n))
	out, err := c.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := c.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { c.Process.Kill(); c.Wait() })
	for lines := bufio.NewScanner(out); len(urls) < n && lines.Scan(); {
		urls = append(urls, lines.Text())
	}
	if len(urls) < n {
		b.Fatalf("the receiver listens at %d ports, want %d", len(urls), n)
	}
	return urls
}

// sinkLateness is how long after their events callbacks reached a sink, in ms.
type sinkLateness struct {
	N             int
	P50, P99, Max float64
}

// askLateness returns the lateness of the callbacks that a sink has received since the last
// call.
func askLateness(b testing.TB, sink string) (l sinkLateness) {
	b.Helper()
	res, err := http.Get(sink + "late")
	if err != nil {
		b.Fatal(err)
	}
	defer http.DefaultClient.CloseIdleConnections()
	defer res.Body.Close()
	if err := json.NewDecoder(res.Body).Decode(&l); err != nil {
		b.Fatal(err)
	}
	return l
}

// runSink answers every request with 200 until it is killed. Requests to /hook are
// measured; /slow delays its response.
func runSink() {
	must := func(err error) {
		if err != nil {
			panic(err)
		}
	}
	ports, err := strconv.Atoi(os.Getenv("NOTIFY_PORTS"))
	must(err)
	var mu sync.Mutex
	var lates []float64 // ms
	mux := http.NewServeMux()
	mux.HandleFunc("POST /hook", func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		if at, ok := eventTime(body); ok {
			mu.Lock()
			lates = append(lates, float64(time.Since(at).Microseconds())/1000)
			mu.Unlock()
		}
	})
	mux.HandleFunc("POST /other", func(http.ResponseWriter, *http.Request) {})
	mux.HandleFunc("POST /slow", func(http.ResponseWriter, *http.Request) { <-time.After(500 * time.Millisecond) })
	mux.HandleFunc("GET /late", func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		l := sinkLateness{N: len(lates)}
		if slices.Sort(lates); l.N > 0 {
			l.P50, l.P99, l.Max = lates[l.N/2], lates[l.N*99/100], lates[l.N-1]
		}
		lates = nil
		json.NewEncoder(w).Encode(l)
	})
	for range ports {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		must(err)
		fmt.Printf("http://%s/\n", l.Addr())
		go http.Serve(l, mux)
	}
	select {}
}

// eventTime returns when the event of a payload happened; the dialects json and telphin
// contain it.
func eventTime(body []byte) (time.Time, bool) {
	for _, name := range []string{`"event_time":`, "EventTime="} {
		_, rest, found := bytes.Cut(body, []byte(name))
		if !found {
			continue
		}
		µs := int64(0)
		for _, c := range rest {
			if c < '0' || c > '9' {
				break
			}
			µs = 10*µs + int64(c-'0')
		}
		return time.UnixMicro(µs), true
	}
	return time.Time{}, false
}
