package notify

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

// BenchmarkCallback says events and has them delivered by real HTTP to a
// receiver in another process. Its figure is the CPU that one event costs from
// Say to the receiver's answer. The floor beside it is a loop that only posts.
func BenchmarkCallback(b *testing.B) {
	for _, dialect := range []Dialect{Unified, Telphin, JSON} {
		b.Run(string(dialect), func(b *testing.B) {
			js, closeStore := openStore(b, b.TempDir())
			defer closeStore()
			n, stop := start(b, js, Config{Allow: loopback})
			defer stop()
			s := NewSubscription()
			s.Extension, s.Types, s.URL, s.Dialect, s.MaxInFlight = "101", []string{"dial-out", "answer", "hangup"}, startSink(b), dialect, 16
			subscribe(b, n, s)
			said := uint64(0)
			b.ResetTimer()
			before := cpu()
			for i := 0; said < uint64(b.N); i++ {
				n.Say(callOf(i))
				said += 3
				for said-n.Stats().Delivered > 300 {
					pause(b.Context(), time.Millisecond)
				}
			}
			for n.Stats().Delivered < said {
				pause(b.Context(), time.Millisecond)
			}
			b.ReportMetric(float64((cpu()-before).Microseconds())/float64(said), "µs-cpu/event")
		})
	}
	b.Run("floor", func(b *testing.B) {
		url := startSink(b)
		transport := &http.Transport{MaxIdleConnsPerHost: 16}
		defer transport.CloseIdleConnections()
		b.ResetTimer()
		before := cpu()
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				req, _ := http.NewRequest("POST", url, strings.NewReader("CallID=1&CallStatus=CALLING"))
				res, err := transport.RoundTrip(req)
				if err != nil {
					b.Error(err)
					return
				}
				io.Copy(io.Discard, res.Body)
				res.Body.Close()
			}
		})
		b.ReportMetric(float64((cpu()-before).Microseconds())/float64(b.N), "µs-cpu/event")
	})
}

// BenchmarkPayload writes the payloads of an answered call's hangup.
func BenchmarkPayload(b *testing.B) {
	e := samples()[8]
	for _, dialect := range []Dialect{Unified, Telphin, CTI, JSON, CloudEvents} {
		b.Run(string(dialect), func(b *testing.B) {
			s := Subscription{Dialect: dialect, Method: "POST"}
			buf := make([]byte, 0, 4096)
			b.ReportAllocs()
			for b.Loop() {
				v := newView(&e, &s)
				buf = v.append(buf[:0])
			}
		})
	}
	b.Run("template", func(b *testing.B) {
		s := Subscription{Dialect: JSON, Method: "GET", URL: "http://crm.example/pop{?event_type,caller_id_num,caller_id_name}"}
		at, _ := url.Parse(address(s.URL))
		b.ReportAllocs()
		for b.Loop() {
			v := newView(&e, &s)
			if _, err := v.expand(at); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// cpu is what this process has used so far.
func cpu() time.Duration {
	var r syscall.Rusage
	syscall.Getrusage(syscall.RUSAGE_SELF, &r)
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}

// startSink starts a receiver in a process of its own and returns its URL.
func startSink(b *testing.B) string {
	c := exec.Command(os.Args[0])
	c.Env = append(os.Environ(), "NOTIFY_TEST=sink")
	out, err := c.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := c.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { c.Process.Kill(); c.Wait() })
	url, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		b.Fatal(err)
	}
	return strings.TrimSpace(url)
}

// sink answers every request with 200, until it is killed.
func sink() {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	fmt.Printf("http://%s/hook\n", l.Addr())
	http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {}))
}
