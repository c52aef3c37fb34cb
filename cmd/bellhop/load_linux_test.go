package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"net"
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
			end := func() (pages, bytes float64) { return }
			if read {
				end = s.startReaders()
			}
			s.callsFor(phones, 2*time.Second) // what was before is over
			h.take()
			s.callsFor(phones, length)
			took := h.take()
			pages, bytes := end()
			if read && (bytes == 0 || *soak && pages < 180) {
				t.Errorf("%.0f pages and %.0f bytes of streams were read a second, want 200, and many", pages, bytes)
			}
			ms := func(share float64) float64 {
				return float64(took[int(share*float64(len(took)))].Microseconds()) / 1000
			}
			t.Logf("%.0f pages and %.1f MB of streams are read a second: %d messages took %.3f ms in the middle, p99 %.3f ms, %.3f ms at most", pages, bytes/1e6, len(took), ms(0.5), ms(0.99), ms(0.9999))
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
