package send

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"testing"
	"time"
)

// runSink answers every request with 200 until it is killed.
func runSink() {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	fmt.Printf("http://%s/hook\n", l.Addr())
	http.Serve(l, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { io.Copy(io.Discard, r.Body) }))
}

// BenchmarkTransport sends a body of 700 bytes to a receiver in another process, 16 requests
// at a time, through connPool and through net/http. It measures the CPU time of a request in
// this process.
func BenchmarkTransport(b *testing.B) {
	c := exec.Command(os.Args[0])
	c.Env = append(os.Environ(), "SEND_TEST=sink")
	out, err := c.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := c.Start(); err != nil {
		b.Fatal(err)
	}
	defer func() { c.Process.Kill(); c.Wait() }()
	lines := bufio.NewScanner(out)
	if !lines.Scan() {
		b.Fatal("the receiver does not start")
	}
	to, err := url.Parse(lines.Text())
	if err != nil {
		b.Fatal(err)
	}
	for _, name := range []string{"connPool", "net/http"} {
		b.Run(name, func(b *testing.B) {
			s := New(Config{Allow: loopback})
			defer s.Close()
			if name == "net/http" { // the same settings, without the pools
				s.transport = &http.Transport{
					DialContext: s.transport.(*http.Transport).DialContext, DisableCompression: true, MaxIdleConnsPerHost: maxIdlePerHost,
					MaxResponseHeaderBytes: maxResponseHead, WriteBufferSize: connBufferSize, ReadBufferSize: connBufferSize,
				}
			}
			benchSender(b, s, to)
		})
	}
}

func benchSender(b *testing.B, s *Sender, to *url.URL) {
	body := make([]byte, 700)
	turns := make(chan struct{}, b.N)
	for range b.N {
		turns <- struct{}{}
	}
	close(turns)
	b.ReportAllocs()
	b.ResetTimer()
	before := cpuTime()
	var senders sync.WaitGroup
	for range 16 {
		senders.Go(func() {
			for range turns {
				ctx, cancel := context.WithTimeout(context.Background(), 15*time.Second)
				res := s.Send(ctx, cancel, &Request{Method: "POST", URL: to, Header: http.Header{"Webhook-Id": {"e-s"}}, Body: body})
				cancel()
				if res.StatusCode != 200 {
					b.Error(textOf(res))
					return
				}
			}
		})
	}
	senders.Wait()
	b.ReportMetric(float64((cpuTime()-before).Nanoseconds())/1000/float64(b.N), "cpu-µs/op")
}

// cpuTime returns the CPU time of this process so far, in the kernel too.
func cpuTime() time.Duration {
	var r syscall.Rusage
	syscall.Getrusage(syscall.RUSAGE_SELF, &r)
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}
