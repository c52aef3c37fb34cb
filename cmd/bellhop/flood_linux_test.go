package main

import (
	"bytes"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"bellhop/sip"
)

// answering starts a PBX without state at an address: it challenges INVITEs of strangers
// and accepts all other requests, also repeated ones.
func answering(t *testing.T, at netip.AddrPort) {
	c, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(at))
	if err != nil {
		t.Fatal(err)
	}
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	raw.Control(func(fd uintptr) { // as large as permitted: a packet lost here is not lost in bellhop
		syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUFFORCE, 16<<20)
	})
	var run sync.WaitGroup
	t.Cleanup(run.Wait)
	t.Cleanup(func() { c.Close() })
	run.Go(func() {
		buf := make([]byte, 65536)
		for {
			n, from, err := c.ReadFromUDPAddrPort(buf)
			if err != nil {
				return
			}
			switch b := buf[:n]; {
			case bytes.HasPrefix(b, []byte("SIP/2.0 ")), bytes.HasPrefix(b, []byte("ACK ")):
			case bytes.HasPrefix(b, []byte("INVITE ")) && bytes.Contains(b, []byte(stranger)):
				c.WriteToUDPAddrPort(response(b, "401 Unauthorized", "WWW-Authenticate: Digest realm=\"pbx\",nonce=\"0123456789abcdef0123456789abcdef\",algorithm=MD5,qop=\"auth\"\r\n"), from)
			default:
				c.WriteToUDPAddrPort(response(b, "200 OK", fmt.Sprintf("Contact: <sip:%v>\r\n", at)), from)
			}
		}
	})
}

// stranger is the user whose INVITEs the PBX challenges.
const stranger = "sip:stranger@"

// response returns a response to a request.
func response(request []byte, status, more string) []byte {
	out := []byte("SIP/2.0 " + status + "\r\n")
	head, _, _ := bytes.Cut(request, []byte("\r\n\r\n"))
	for line := range bytes.SplitSeq(head, []byte("\r\n")) {
		name, _, _ := bytes.Cut(line, []byte(":"))
		switch string(name) {
		case "To":
			out = append(out, line...)
			if !bytes.Contains(line, []byte(";tag=")) {
				out = append(out, ";tag=pbx"...)
			}
			out = append(out, "\r\n"...)
		case "Via", "From", "Call-ID", "CSeq", "Record-Route":
			out = append(append(out, line...), "\r\n"...)
		}
	}
	return append(out, more+"Content-Length: 0\r\n\r\n"...)
}

// A caller is a registered phone that calls the PBX.
type caller struct {
	*net.UDPConn
	hop    netip.AddrPort
	serial int
}

func newCaller(t *testing.T, hop netip.AddrPort) *caller {
	c, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(freePort(t, "127.0.0.2")))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return &caller{UDPConn: c, hop: hop}
}

// ask sends a request and repeats it until its final response arrives. It returns that,
// or nil after 32 s.
func (c *caller) ask(method, uri, more string) []byte {
	c.serial++
	request := fmt.Appendf(nil, "%[1]s %[2]s SIP/2.0\r\nVia: SIP/2.0/UDP %[3]v;branch=z9hG4bK%[3]v-%[4]d;rport\r\nMax-Forwards: 70\r\nFrom: <sip:101@%[5]v>;tag=x\r\n"+
		"Contact: <sip:101@%[3]v>\r\nCSeq: %[4]d %[1]s\r\n%[6]sContent-Length: 0\r\n\r\n", method, uri, c.LocalAddr(), c.serial, c.hop, more)
	buf := make([]byte, 65536)
	for pause, waited := 500*time.Millisecond, time.Duration(0); waited < 32*time.Second; pause *= 2 {
		c.WriteToUDPAddrPort(request, c.hop)
		waited += pause
		c.SetReadDeadline(time.Now().Add(pause))
		for {
			n, _, err := c.ReadFromUDPAddrPort(buf)
			if err != nil {
				break
			}
			if b := buf[:n]; bytes.HasPrefix(b, []byte("SIP/2.0 2")) && bytes.Contains(b, fmt.Appendf(nil, "CSeq: %d %s\r\n", c.serial, method)) {
				return b
			}
		}
	}
	return nil
}

// call sets up a call and ends it. It returns how long the answer took, and reports
// whether both succeeded.
func (c *caller) call(n int) (took time.Duration, ok bool) {
	dialog := fmt.Sprintf("Call-ID: %v-%d\r\nTo: <sip:600@%v>", c.LocalAddr(), n, c.hop)
	began := time.Now()
	answer := c.ask("INVITE", fmt.Sprintf("sip:600@%v", c.hop), dialog+"\r\n")
	took = time.Since(began)
	if answer == nil {
		return took, false
	}
	head, route, _ := strings.Cut(string(answer), "Record-Route: ")
	route, _, _ = strings.Cut(route, "\r\n")
	_, contact, _ := strings.Cut(head+string(answer), "Contact: <")
	contact, _, _ = strings.Cut(contact, ">")
	more := dialog + ";tag=pbx\r\nRoute: " + route + "\r\n"
	c.WriteToUDPAddrPort(fmt.Appendf(nil, "ACK %[1]s SIP/2.0\r\nVia: SIP/2.0/UDP %[2]v;branch=z9hG4bK%[2]v-ack%[3]d;rport\r\nMax-Forwards: 70\r\nFrom: <sip:101@%[4]v>;tag=x\r\nCSeq: %[3]d ACK\r\n%[5]sContent-Length: 0\r\n\r\n",
		contact, c.LocalAddr(), c.serial, c.hop, more), c.hop)
	return took, c.ask("BYE", contact, more) != nil
}

// rss returns the resident memory of a process in MiB.
func (p *process) rss() int {
	p.t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		p.t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(b), "VmRSS:")
	kb, err := strconv.Atoi(strings.Fields(rest)[0])
	if err != nil {
		p.t.Fatal(err)
	}
	return kb >> 10
}

// TestAFloodOfStrangers sends INVITEs of strangers that are challenged and never
// acknowledged. Meanwhile the calls of registered phones work, memory is bounded, and
// within a minute after the flood it is released (with -soak).
func TestAFloodOfStrangers(t *testing.T) {
	rate, length := 1000, 2*time.Second
	if *soak {
		rate, length = 20000, 10*time.Second
	} else {
		t.Parallel()
	}
	s := newSite(t, sip.UDP, sip.UDP)
	answering(t, s.pbx.AddrPort)
	p := s.serve()
	var phones []*caller
	for range 10 {
		c := newCaller(t, s.hop)
		if c.ask("REGISTER", fmt.Sprintf("sip:%v", s.hop), fmt.Sprintf("Call-ID: %v\r\nTo: <sip:101@%v>\r\n", c.LocalAddr(), s.hop)) == nil {
			t.Fatal("a phone is not registered")
		}
		phones = append(phones, c)
	}

	before, peak := p.rss(), 0
	flood := newStrangers(t, s.hop)
	began := time.Now()
	var calls sync.WaitGroup
	var mu sync.Mutex
	var took []time.Duration
	failed := 0
	for _, c := range phones {
		calls.Go(func() {
			pace := time.NewTicker(10 * time.Millisecond)
			defer pace.Stop()
			for n := 0; time.Since(began) < length; n++ {
				<-pace.C
				d, ok := c.call(n)
				mu.Lock()
				if took = append(took, d); !ok {
					failed++
				}
				mu.Unlock()
			}
		})
	}
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for time.Since(began) < length {
		flood.send(int(time.Since(began).Seconds() * float64(rate)))
		peak = max(peak, p.rss())
		<-tick.C
	}
	over := time.Now()
	calls.Wait()
	peak = max(peak, p.rss())
	slices.Sort(took)
	p99 := took[len(took)*99/100]
	t.Logf("%d INVITEs of strangers in %v: %.0f messages came, %.0f were shed, %.0f dropped, %.0f responses withheld; of %d calls %d failed, p50 %v, p99 %v; %d MiB before, %d at most", flood.sent, length,
		s.metric("bellhop_sip_messages_received_total"), s.metric("bellhop_sip_requests_shed_total"), s.metric("bellhop_sip_messages_dropped_total"),
		s.metric("bellhop_sip_responses_withheld_total"), len(took), failed, took[len(took)/2], p99, before, peak)
	if failed*100 > len(took) {
		t.Errorf("of %d calls %d failed", len(took), failed)
	}
	if *soak && p99 > time.Second {
		t.Errorf("a call in a hundred is answered after %v", p99)
	}
	if peak > 512 {
		t.Errorf("%d MiB were in use, want 512 at most", peak)
	}
	if *soak { // the race detector, which make test runs with, gives no memory back
		s.within(time.Minute-time.Since(over), fmt.Sprintf("memory is down to %d MiB, twice what it was", 2*before), func() bool { return p.rss() <= 2*before })
		t.Logf("%v later %d MiB", time.Since(over).Round(time.Second), p.rss())
	}
	p.stop()
}

// strangers are 100 sources that send INVITEs of 1 to 8 KB.
type strangers struct {
	t       *testing.T
	hop     netip.AddrPort
	sockets []*net.UDPConn
	sent    int
	buf     []byte
	body    []byte
}

func newStrangers(t *testing.T, hop netip.AddrPort) *strangers {
	f := &strangers{t: t, hop: hop, body: bytes.Repeat([]byte("x"), 8<<10)}
	for range 100 {
		c, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(freePort(t, "127.0.0.6")))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		f.sockets = append(f.sockets, c)
	}
	return f
}

// send sends INVITEs until upTo are sent. Those that the kernel rejects are lost.
func (f *strangers) send(upTo int) {
	for ; f.sent < upTo; f.sent++ {
		c, n := f.sockets[f.sent%len(f.sockets)], f.sent
		body := f.body[:500+n*7919%7000]
		f.buf = fmt.Appendf(f.buf[:0], "INVITE sip:101@%[1]v SIP/2.0\r\nVia: SIP/2.0/UDP %[2]v;branch=z9hG4bKf%[3]d;rport\r\nMax-Forwards: 70\r\nFrom: <%[4]s%[1]v>;tag=%[3]d\r\n"+
			"To: <sip:101@%[1]v>\r\nCall-ID: flood-%[3]d\r\nCSeq: 1 INVITE\r\nContact: <sip:stranger@%[2]v>\r\nContent-Length: %[5]d\r\n\r\n", f.hop, c.LocalAddr(), n, stranger, len(body))
		c.WriteToUDPAddrPort(append(f.buf, body...), f.hop)
	}
}
