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

// hops measures how long messages are in bellhop: from the system call that sends a
// message until the kernel has it for the receiver.
type hops struct {
	mu   sync.Mutex
	sent map[string]time.Time
	took []time.Duration
}

// A stamped socket records in hops what it sends and receives.
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

// messageKey returns a key that a message of a call has on both sides of bellhop.
// Retransmissions have the same key.
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

// take returns the times measured since the last take, shortest first.
func (h *hops) take() []time.Duration {
	h.mu.Lock()
	defer h.mu.Unlock()
	took := h.took
	h.took = nil
	slices.Sort(took)
	return took
}

// TestReadersDelayNoCall places calls while 200 requests a second read events and 50
// clients follow them: each call is answered and ended. With -soak it measures the delay
// of SIP messages meanwhile and without readers, in alternating intervals that are short
// compared to changes in the machine's load.
func TestReadersDelayNoCall(t *testing.T) {
	rounds, length := 1, 3*time.Second
	if *soak {
		rounds, length = 12, 6*time.Second
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

	var took [2][]time.Duration // without readers, and with
	for range rounds {
		for i, read := range []bool{false, true} {
			if read {
				end := s.startReaders()
				took[i] = append(took[i], s.measured(phones, h, length)...)
				had := end()
				t.Logf("%.0f pages were asked for a second, %.0f read and %.0f refused; %.1f MB of streams were read", had.Asked, had.Pages, had.Refused, had.Followed/1e6)
				if had.Pages == 0 || *soak && had.Followed == 0 || *soak && had.Asked > 190 && had.Refused == 0 && had.Pages < 180 {
					t.Errorf("of %.0f requests a second none was refused, and %.0f were served", had.Asked, had.Pages)
				}
			} else if *soak {
				took[i] = append(took[i], s.measured(phones, h, length)...)
			}
		}
	}
	p.stop()
	if !*soak {
		return
	}
	ms := func(of []time.Duration, share float64) float64 {
		slices.Sort(of)
		return float64(of[int(share*float64(len(of)))].Microseconds()) / 1000
	}
	for _, share := range []float64{0.5, 0.99, 0.999} {
		without, with := ms(took[0], share), ms(took[1], share)
		t.Logf("%v of %d and %d messages took at most %.3f ms without readers, %.3f ms with: %.2f times", share, len(took[0]), len(took[1]), without, with, with/without)
		if share == 0.99 && with > 1.2*without {
			t.Errorf("p99 is %.2f times what it is without readers, want 1.2 at most", with/without)
		}
	}
}

// measured returns the delays of messages of calls that are placed for a duration.
func (s *site) measured(phones []*siptest.Phone, h *hops, length time.Duration) []time.Duration {
	s.t.Helper()
	s.callsFor(phones, 2*time.Second) // what was before is over
	h.take()
	s.callsFor(phones, length)
	return h.take()
}

// callsFor places calls between the phones, 50 a second while two phones are free, and
// checks that each call is answered and ended.
func (s *site) callsFor(phones []*siptest.Phone, length time.Duration) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), length+patience)
	defer cancel()
	free := make(chan int, len(phones)/2) // pairs, by the first of them
	for i := 0; i < len(phones); i += 2 {
		free <- i
	}
	var calls sync.WaitGroup
	var failed atomic.Int32
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(length); time.Now().Before(end); <-tick.C {
		i := <-free
		calls.Go(func() {
			c := phones[i].Dial(fmt.Sprint(101 + i + 1))
			if c.Wait(ctx) != 200 || c.Hangup() != nil {
				failed.Add(1)
			}
			free <- i
		})
	}
	calls.Wait()
	if n := failed.Load(); n > 0 {
		s.t.Errorf("%d calls failed", n)
	}
}
