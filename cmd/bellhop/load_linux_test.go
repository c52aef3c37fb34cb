package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"bellhop/sip"
	"bellhop/sip/siptest"
)

// hops are how long messages are in bellhop: from the call by which one end
// sends one until the kernel has it for the other.
type hops struct {
	mu   sync.Mutex
	sent map[string]time.Time
	took []time.Duration
}

// A stamped socket tells hops of what is sent and what comes.
type stamped struct {
	*net.UDPConn
	hops *hops
}

func (h *hops) socket(t *testing.T, at netip.AddrPort) stamped {
	t.Helper()
	c, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(at))
	if err != nil {
		t.Fatal(err)
	}
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	raw.Control(func(fd uintptr) { err = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_TIMESTAMPNS, 1) })
	if err != nil {
		t.Fatal(err)
	}
	return stamped{c, h}
}

func (s stamped) WriteToUDPAddrPort(b []byte, to netip.AddrPort) (int, error) {
	s.hops.begin(b)
	return s.UDPConn.WriteToUDPAddrPort(b, to)
}

func (s stamped) ReadFromUDPAddrPort(b []byte) (int, netip.AddrPort, error) {
	var control [64]byte
	n, size, _, from, err := s.ReadMsgUDPAddrPort(b, control[:])
	if err != nil {
		return n, from, err
	}
	messages, err := syscall.ParseSocketControlMessage(control[:size])
	if err != nil || len(messages) != 1 || len(messages[0].Data) != 16 {
		return n, from, fmt.Errorf("the kernel does not say when a datagram came: %v", err)
	}
	when := messages[0].Data
	s.hops.end(b[:n], time.Unix(int64(binary.NativeEndian.Uint64(when)), int64(binary.NativeEndian.Uint64(when[8:]))))
	return n, from, nil
}

// messageKey names a message of a call at both sides of bellhop; its repetitions
// have the same.
func messageKey(b []byte) string {
	start, _, _ := bytes.Cut(b, []byte("\r\n"))
	key := string(start[:min(len(start), len("SIP/2.0 200"))])
	for _, name := range []string{"\r\nCall-ID: ", "\r\nCSeq: "} {
		_, value, _ := bytes.Cut(b, []byte(name))
		value, _, _ = bytes.Cut(value, []byte("\r\n"))
		key += " " + string(value)
	}
	return key
}

func (h *hops) begin(b []byte) {
	key := messageKey(b)
	h.mu.Lock()
	defer h.mu.Unlock()
	if _, again := h.sent[key]; !again {
		h.sent[key] = time.Now().Round(0) // by the clock of the kernel
	}
}

func (h *hops) end(b []byte, at time.Time) {
	key := messageKey(b)
	h.mu.Lock()
	defer h.mu.Unlock()
	if begin, ok := h.sent[key]; ok {
		delete(h.sent, key)
		h.took = append(h.took, at.Sub(begin))
	}
}

// take returns, and forgets, how long the messages took, the shortest first.
func (h *hops) take() []time.Duration {
	h.mu.Lock()
	defer h.mu.Unlock()
	took := h.took
	h.took = nil
	slices.Sort(took)
	return took
}

// TestReadersDelayNoCall measures how long SIP messages take while 200 requests a
// second read the events and 50 clients follow them, and while nobody does.
func TestReadersDelayNoCall(t *testing.T) {
	rounds, length := 1, 3*time.Second
	if *soak {
		rounds, length = 5, 15*time.Second
	} else {
		t.Parallel()
	}
	s := newSite(t, sip.UDP, sip.UDP)
	h := &hops{sent: make(map[string]time.Time)}
	pbx := siptest.NewPBX(h.socket(t, s.pbx.AddrPort))
	t.Cleanup(pbx.Close)
	p := s.serve()
	s.subscribe("json", "POST", "dial-in", "dial-out", "answer", "hangup")
	var phones []*siptest.Phone // each rings for one call at a time
	for i := range 20 {
		phone := siptest.NewPhone(h.socket(t, freePort(t, "127.0.0.2")), s.hop, fmt.Sprint(101+i), "")
		t.Cleanup(phone.Close)
		if err := phone.Register(); err != nil {
			t.Fatal(err)
		}
		phone.Behave(siptest.Behavior{Answer: 100 * time.Millisecond})
		phones = append(phones, phone)
	}

	var p50, p99 [2][]float64
	for range rounds {
		for i, read := range []bool{false, true} {
			s.callsFor(phones, time.Second) // what was before is over
			h.take()
			end := func() string { return "nobody reads" }
			if read {
				end = s.readers()
			}
			s.callsFor(phones, length)
			took := h.take()
			who := end()
			ms := func(share float64) float64 {
				return float64(took[int(share*float64(len(took)))].Microseconds()) / 1000
			}
			t.Logf("%s: %d messages took %.3f ms in the middle, p99 %.3f ms, %.3f ms at most", who, len(took), ms(0.5), ms(0.99), ms(0.9999))
			p50[i], p99[i] = append(p50[i], ms(0.5)), append(p99[i], ms(0.99))
		}
	}
	p.stop()
	for name, of := range map[string][2][]float64{"p50": p50, "p99": p99} {
		without, with := median(of[0]), median(of[1])
		t.Logf("%s: %.3f ms without readers, %.3f ms with: %.2f times", name, without, with, with/without)
		if *soak && name == "p99" && with > 1.2*without {
			t.Errorf("%s is %.2f times what it is without readers, want 1.2 at most", name, with/without)
		}
	}
}

func median(xs []float64) float64 { return slices.Sorted(slices.Values(xs))[len(xs)/2] }

// callsFor has phones call one another, 50 times a second, and wants that each
// call is answered and ended.
func (s *site) callsFor(phones []*siptest.Phone, length time.Duration) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), length+patience)
	defer cancel()
	var calls sync.WaitGroup
	var failed atomic.Int32
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	end := time.Now().Add(length)
	for i := 0; time.Now().Before(end); i++ {
		calls.Go(func() {
			c := phones[i%len(phones)].Dial(fmt.Sprint(101 + (i+1)%len(phones)))
			if c.Wait(ctx) != 200 || c.Hangup() != nil {
				failed.Add(1)
			}
		})
		<-tick.C
	}
	calls.Wait()
	if n := failed.Load(); n > 0 {
		s.t.Errorf("%d calls failed", n)
	}
}

// readers has 50 clients follow the events, and 200 requests a second made for
// them, until end is called, which says what they had.
func (s *site) readers() (end func() string) {
	s.t.Helper()
	ctx, cancel := context.WithCancel(s.t.Context())
	transport := &http.Transport{MaxIdleConnsPerHost: 100}
	ask := func(accept string) (*http.Response, error) {
		req, err := http.NewRequestWithContext(ctx, "GET", "http://"+s.admin.String()+"/v1/events", nil)
		if err != nil {
			return nil, err
		}
		req.Header.Set("Authorization", "Bearer "+testToken)
		req.Header.Set("Accept", accept)
		res, err := transport.RoundTrip(req)
		if err == nil && res.StatusCode != http.StatusOK {
			res.Body.Close()
			return nil, fmt.Errorf("events: %s", res.Status)
		}
		return res, err
	}
	var all sync.WaitGroup
	var followed, pages, failed atomic.Int64
	for range 50 {
		res, err := ask("text/event-stream")
		if err != nil {
			s.t.Fatal(err)
		}
		all.Go(func() {
			defer res.Body.Close()
			n, _ := io.Copy(io.Discard, res.Body) // until ctx ends
			followed.Add(n)
		})
	}
	begin := time.Now()
	all.Go(func() {
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		for ctx.Err() == nil {
			<-tick.C
			all.Go(func() {
				res, err := ask("application/json")
				if err == nil {
					_, err = io.Copy(io.Discard, res.Body)
					res.Body.Close()
				}
				switch {
				case err == nil:
					pages.Add(1)
				case ctx.Err() == nil:
					failed.Add(1)
				}
			})
		}
	})
	return func() string {
		s.t.Helper()
		took := time.Since(begin)
		cancel()
		all.Wait()
		transport.CloseIdleConnections()
		rate := float64(pages.Load()) / took.Seconds()
		if failed.Load() > 0 || followed.Load() == 0 || rate < 100 {
			s.t.Errorf("%d requests failed, %.0f a second were answered, and streams had %d bytes", failed.Load(), rate, followed.Load())
		}
		return fmt.Sprintf("%.0f pages a second and %.1f MB/s of streams are read", rate, float64(followed.Load())/took.Seconds()/1e6)
	}
}
