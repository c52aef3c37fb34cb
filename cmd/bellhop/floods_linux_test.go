package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"bellhop/sip"
	"bellhop/sip/siptest"
)

// Bounds of TestFloodsDisturbNoCall.
const (
	floodCallShare  = 0.99             // of the legal calls, at least, are answered and ended
	floodSetupP99   = time.Second      // from the INVITE to its 200, through bellhop and the PBX
	floodMaxRSS     = 512 << 20        // of bellhop, at any time
	floodBackFactor = 2                // RSS after the flood, in multiples of that before it
	floodBackWithin = 60 * time.Second // of the end of the flood
)

// The calls of legal phones during a flood.
const (
	floodPhones   = 20
	floodCallRate = 20 // a second
	floodLength   = 10 * time.Second
)

// A flood is a kind of attack. Its sender runs in another process.
type flood struct {
	name  string
	check func(f *floodRun) // beside the bounds that all have; may be nil
}

// TestFloodsDisturbNoCall has phones call each other while strangers flood bellhop in several ways.
// Calls work, memory is bounded, and it is released afterwards.
func TestFloodsDisturbNoCall(t *testing.T) {
	if !*soak {
		t.Skip("measures for minutes: make soak")
	}
	for _, f := range []flood{
		{"streams that do not read", nil},
		{"large INVITEs that only meet 401", nil},
		{"streams byte by byte", (*floodRun).logCPU},
		{"phones behind one address", (*floodRun).checkPhones},
		{"connections beyond the bound", nil},
		{"refused calls from one source", (*floodRun).checkEvents},
		{"5,000 INVITE a second", nil},
		{"INVITEs from forged sources", (*floodRun).checkReflection},
		{"20,000 packets a second from 65,000 sources", nil},
		{"forged responses", nil},
		{"REGISTERs with new Call-IDs", nil},
		{"SUBSCRIBEs with new Call-IDs", nil},
	} {
		t.Run(f.name, func(t *testing.T) { runFlood(t, f) })
	}
}

// A floodRun is the run of one flood with its results.
type floodRun struct {
	t       *testing.T
	site    *site
	bellhop *process
	pbx     *floodPBX
	phones  []*siptest.Phone

	sent  floodTally
	mu    sync.Mutex
	took  []time.Duration // from INVITE to 200
	calls int             // placed
	bad   int             // not answered with 200, or not ended
}

// prefer sets the nice value of all threads of a process, if permitted. The preferred
// process then runs as on a machine of its own, whatever else runs there.
func prefer(pid, nice int) {
	tasks, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	if err != nil {
		return
	}
	for _, task := range tasks {
		if tid, err := strconv.Atoi(task.Name()); err == nil {
			syscall.Setpriority(syscall.PRIO_PROCESS, tid, nice)
		}
	}
}

func runFlood(t *testing.T, f flood) {
	prefer(os.Getpid(), -10) // bellhop inherits it
	t.Cleanup(func() { prefer(os.Getpid(), 0) })
	s := newSite(t, sip.UDP, sip.UDP)
	s.configure("level = \"error\"")
	r := &floodRun{t: t, site: s, pbx: newFloodPBX(t, s.pbx.AddrPort)}
	pbx := siptest.NewPBX(newRepeating(r.pbx))
	t.Cleanup(pbx.Close)
	r.bellhop = s.serve()
	var sub struct{ ID string }
	s.api("POST", "/v1/subscriptions", map[string]any{
		"extension_regex": "^700[0-9]{2}$", "types": []string{"dial-in", "dial-out", "hangup"},
		"url": "http://" + s.receiver.addr + "/json", "method": "POST", "dialect": "json",
	}, &sub)
	for i := range floodPhones {
		c, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(freePort(t, "127.0.0.2")))
		if err != nil {
			t.Fatal(err)
		}
		p := siptest.NewPhone(newRepeating(c), s.hop, floodNumber(i), "")
		t.Cleanup(p.Close)
		if err := p.Register(); err != nil {
			t.Fatal(err)
		}
		p.Behave(siptest.Behavior{Answer: time.Millisecond})
		r.phones = append(r.phones, p)
	}
	r.placeCalls(2 * time.Second) // warm
	before, warm := r.rss("VmRSS"), r.calls
	r.took, r.bad = nil, 0

	cpu, dropped := r.cpu(), r.metric("bellhop_sip_messages_dropped_total")
	stop := r.startSender(f.name, r.site.hop)
	r.placeCalls(floodLength)
	r.sent = stop()
	flooded := time.Now()
	peak := r.rss("VmHWM")
	used := r.cpu() - cpu

	slices.Sort(r.took)
	p50, p99 := time.Duration(0), time.Duration(0)
	if n := len(r.took); n > 0 {
		p50, p99 = r.took[n/2], r.took[min(n-1, n*99/100)]
	}
	calls := r.calls - warm
	t.Logf("%d messages and %.1f MB sent to bellhop in %v, %d of them strangers' requests at the PBX; %.1f s of processor; %.0f messages dropped",
		r.sent.Sent, float64(r.sent.Bytes)/1e6, floodLength, r.pbx.strangers.Load(), used.Seconds(), r.metric("bellhop_sip_messages_dropped_total")-dropped)
	t.Logf("%d of %d legal calls failed; INVITE to 200: p50 %v, p99 %v; RSS %d MB before, %d MB at most", r.bad, calls, p50.Round(time.Millisecond), p99.Round(time.Millisecond), before>>20, peak>>20)
	if float64(calls-r.bad) < floodCallShare*float64(calls) {
		t.Errorf("%d of %d legal calls failed, want %.0f %% to succeed", r.bad, calls, 100*floodCallShare)
	}
	if p99 > floodSetupP99 {
		t.Errorf("p99 of INVITE to 200 is %v, want %v at most", p99, floodSetupP99)
	}
	if peak > floodMaxRSS {
		t.Errorf("RSS was %d MB, want %d MB at most", peak>>20, floodMaxRSS>>20)
	}
	if f.check != nil {
		f.check(r)
	}
	r.checkHangups()
	// It was idle before, but for two seconds: 32 s of calls would need memory of
	// their own.
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for r.rss("VmRSS") > floodBackFactor*before && time.Since(flooded) < floodBackWithin {
		<-tick.C
	}
	after := r.rss("VmRSS")
	t.Logf("RSS %d MB %v after the flood", after>>20, time.Since(flooded).Round(time.Second))
	if after > floodBackFactor*before {
		t.Errorf("RSS is %d MB %v after the flood, and was %d MB before: want %d times at most", after>>20, floodBackWithin, before>>20, floodBackFactor)
	}
	if n := r.metric("bellhop_sip_panics_total"); n != 0 {
		t.Errorf("%.0f panics", n)
	}
	r.bellhop.stop()
}

// legalUsers occur in every message of the legal phones, and in no other.
var legalUsers = []byte("sip:700")

func floodNumber(i int) string { return strconv.Itoa(70000 + i%floodPhones) }

// placeCalls places calls between the phones at the legal rate, and waits for their
// ends.
func (r *floodRun) placeCalls(length time.Duration) {
	ctx, cancel := context.WithTimeout(r.t.Context(), length+patience)
	defer cancel()
	var all sync.WaitGroup
	tick := time.NewTicker(time.Second / floodCallRate)
	defer tick.Stop()
	for end := time.Now().Add(length); time.Now().Before(end); <-tick.C {
		i := r.calls
		r.calls++
		all.Go(func() {
			began := time.Now()
			c := r.phones[i%floodPhones].Dial(floodNumber(i + 1))
			status := c.Wait(ctx)
			took := time.Since(began)
			failed := status != 200 || c.Hangup() != nil
			r.mu.Lock()
			defer r.mu.Unlock()
			r.took = append(r.took, took)
			if failed {
				r.bad++
			}
		})
	}
	all.Wait()
}

// rss reads a size from /proc/PID/status, in bytes.
func (r *floodRun) rss(name string) int {
	r.t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", r.bellhop.cmd.Process.Pid))
	if err != nil {
		r.t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(b), "\n"+name+":")
	line, _, _ := strings.Cut(rest, "\n")
	var kb int
	if _, err := fmt.Sscan(line, &kb); err != nil {
		r.t.Fatalf("/proc/PID/status has no %s: %v", name, err)
	}
	return kb << 10
}

// cpu returns the processor time that bellhop has used.
func (r *floodRun) cpu() time.Duration {
	r.t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", r.bellhop.cmd.Process.Pid))
	if err != nil {
		r.t.Fatal(err)
	}
	f := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	user, _ := strconv.Atoi(f[11])
	system, _ := strconv.Atoi(f[12])
	return time.Duration(user+system) * time.Second / 100 // USER_HZ
}

// metric returns the sum of the metrics with these names.
func (r *floodRun) metric(names ...string) (sum float64) {
	r.t.Helper()
	status, b := r.site.request(http.MethodGet, "/metrics", nil)
	if status != http.StatusOK {
		r.t.Fatalf("/metrics: %d", status)
	}
	for line := range strings.Lines(string(b)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		name, _, _ = strings.Cut(name, "{")
		if slices.Contains(names, name) {
			v, err := strconv.ParseFloat(value, 64)
			if err != nil {
				r.t.Fatalf("metric %s: %v", line, err)
			}
			sum += v
		}
	}
	return sum
}

// checkHangups checks that each party of the legal calls that succeeded has one dial and
// one hangup.
func (r *floodRun) checkHangups() {
	r.t.Helper()
	want := 2 * (r.calls - r.bad)
	r.site.receiver.wait("a hangup for every party", patience, func(came []received) bool {
		n := 0
		for _, c := range came {
			if c.get("EventType") == "hangup" {
				n++
			}
		}
		return n >= want
	})
	type count struct{ dials, hangups int }
	parties := map[string]*count{}
	seen := map[string]bool{}
	for _, c := range r.site.receiver.take() {
		if seen[c.id] {
			continue
		}
		seen[c.id] = true
		id := c.get("SubCallID")
		if parties[id] == nil {
			parties[id] = &count{}
		}
		if c.get("EventType") == "hangup" {
			parties[id].hangups++
		} else {
			parties[id].dials++
		}
	}
	if len(parties) < want {
		r.t.Errorf("callbacks of %d parties, want %d", len(parties), want)
	}
	open := 0
	for id, n := range parties {
		if n.dials == 1 && n.hangups == 0 {
			open++
		} else if n.dials != 1 || n.hangups != 1 {
			r.t.Errorf("party %s has %d dials and %d hangups", id, n.dials, n.hangups)
		}
	}
	if open > 2*r.bad { // parties of calls that failed may still be live
		r.t.Errorf("%d parties have no hangup, and %d calls failed", open, r.bad)
	}
}

// Bounds of single floods.
const (
	phonesBehindOne     = 200 // phones of an office behind one address, over TCP
	refusedEventsShare  = 0.1 // events of a refused attempt, on average, all from one source
	reflectionFactor    = 1.0 // bytes to a source that never answers, for each byte that it sent
	maxConnectionsTried = 12_000
)

func (r *floodRun) checkPhones() {
	if r.sent.Registered != phonesBehindOne {
		r.t.Errorf("%d phones behind one address are registered, want %d", r.sent.Registered, phonesBehindOne)
	}
}

// logCPU logs the processor time per byte.
func (r *floodRun) logCPU() {
	r.t.Logf("%.2f µs of processor a byte", r.cpu().Seconds()*1e6/float64(r.sent.Bytes))
}

func (r *floodRun) checkEvents() {
	events := r.metric("bellhop_events_published_total")
	own := float64(6 * (r.calls + 1)) // 3 of each party
	r.t.Logf("%.0f events published, %.0f at most of them of legal calls; %d attempts refused", events, own, r.pbx.strangers.Load())
	if events-own > refusedEventsShare*float64(r.pbx.strangers.Load()) {
		r.t.Errorf("%.0f events of %d refused attempts of one source", events-own, r.pbx.strangers.Load())
	}
}

func (r *floodRun) checkReflection() {
	factor := float64(r.sent.Got) / float64(r.sent.Bytes)
	r.t.Logf("%d bytes sent, %d came back: factor %.2f", r.sent.Bytes, r.sent.Got, factor)
	if factor > reflectionFactor {
		r.t.Errorf("a source that never answers gets %.2f times what it sent, want %.1f at most", factor, reflectionFactor)
	}
}

// A floodPBX is the socket of a PBX. Legal phones reach a PBX behind it. The socket
// itself rejects strangers, because the PBX is not part of the measurement.
type floodPBX struct {
	*net.UDPConn
	legal     chan pbxDatagram
	strangers atomic.Int64 // requests of strangers, ACKs excepted
}

type pbxDatagram struct {
	b    []byte
	from netip.AddrPort
}

func newFloodPBX(t *testing.T, at netip.AddrPort) *floodPBX {
	t.Helper()
	c, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(at))
	if err != nil {
		t.Fatal(err)
	}
	bigBuffer(c)
	p := &floodPBX{UDPConn: c, legal: make(chan pbxDatagram, 1024)}
	go p.sort()
	return p
}

// sort reads the socket until it is closed, and passes on the messages of legal phones.
func (p *floodPBX) sort() {
	defer close(p.legal)
	b := make([]byte, 64<<10)
	for {
		n, from, err := p.UDPConn.ReadFromUDPAddrPort(b)
		switch {
		case err != nil:
			return
		case bytes.Contains(b[:n], legalUsers):
			p.legal <- pbxDatagram{bytes.Clone(b[:n]), from}
		default:
			p.refuse(b[:n], from)
		}
	}
}

func (p *floodPBX) ReadFromUDPAddrPort(b []byte) (int, netip.AddrPort, error) {
	d, ok := <-p.legal
	if !ok {
		return 0, netip.AddrPort{}, net.ErrClosed
	}
	return copy(b, d.b), d.from, nil
}

// A repeating socket repeats a 2xx to an INVITE until its ACK arrives (RFC 3261
// §13.3.1.4): the peers of siptest expect a network without loss, which a flood is not.
type repeating struct {
	sip.PacketConn
	closed chan struct{}
	mu     sync.Mutex
	acked  map[string]chan struct{} // by Call-ID; closed by the ACK
}

func newRepeating(c sip.PacketConn) *repeating {
	return &repeating{PacketConn: c, closed: make(chan struct{}), acked: map[string]chan struct{}{}}
}

func (r *repeating) Close() error {
	close(r.closed)
	return r.PacketConn.Close()
}

func (r *repeating) WriteToUDPAddrPort(b []byte, to netip.AddrPort) (int, error) {
	if hasAnyPrefix(b, "SIP/2.0 200 ") && bytes.HasSuffix(fieldValue(b, "CSeq"), []byte("INVITE")) {
		id := string(fieldValue(b, "Call-ID"))
		r.mu.Lock()
		if r.acked[id] == nil {
			r.acked[id] = make(chan struct{})
			go r.repeat(bytes.Clone(b), to, r.acked[id])
		}
		r.mu.Unlock()
	}
	return r.PacketConn.WriteToUDPAddrPort(b, to)
}

// repeat returns after the ACK, at the close of the socket, or after 16 s.
func (r *repeating) repeat(b []byte, to netip.AddrPort, acked chan struct{}) {
	for pause := 500 * time.Millisecond; pause <= 8*time.Second; pause *= 2 {
		select {
		case <-acked:
			return
		case <-r.closed:
			return
		case <-time.After(pause):
		}
		if _, err := r.PacketConn.WriteToUDPAddrPort(b, to); err != nil {
			return
		}
	}
}

func (r *repeating) ReadFromUDPAddrPort(b []byte) (int, netip.AddrPort, error) {
	n, from, err := r.PacketConn.ReadFromUDPAddrPort(b)
	if err == nil && hasAnyPrefix(b[:n], "ACK ") {
		r.mu.Lock()
		if acked := r.acked[string(fieldValue(b[:n], "Call-ID"))]; acked != nil {
			select {
			case <-acked:
			default:
				close(acked)
			}
		}
		r.mu.Unlock()
	}
	return n, from, err
}

// refuse answers a stranger's request with the status that its Request-URI names, or
// with a challenge.
func (p *floodPBX) refuse(b []byte, from netip.AddrPort) {
	if bytes.HasPrefix(b, []byte("SIP/2.0 ")) || bytes.HasPrefix(b, []byte("ACK ")) {
		return
	}
	p.strangers.Add(1)
	status := "401 Unauthorized\r\nWWW-Authenticate: Digest realm=\"pbx\",nonce=\"0123456789abcdef\""
	for _, s := range []string{"403", "404"} {
		if start, _, _ := bytes.Cut(b, []byte("\r\n")); bytes.Contains(start, []byte(" sip:"+s+"@")) {
			status = s + " Refused"
		}
	}
	out := append(make([]byte, 0, 1024), "SIP/2.0 "+status+"\r\n"...)
	for line := range headLines(b) {
		switch {
		case hasAnyPrefix(line, "Via:", "From:", "Call-ID:", "CSeq:", "Record-Route:"):
			out = append(append(out, line...), "\r\n"...)
		case hasAnyPrefix(line, "To:"):
			out = append(append(out, line...), ";tag=refused\r\n"...)
		}
	}
	p.WriteToUDPAddrPort(append(out, "Content-Length: 0\r\n\r\n"...), from)
}

func hasAnyPrefix(b []byte, prefixes ...string) bool {
	for _, p := range prefixes {
		if len(b) >= len(p) && string(b[:len(p)]) == p {
			return true
		}
	}
	return false
}

// startSender starts the sender of a flood. stop waits for its end and returns its
// tally.
func (r *floodRun) startSender(name string, to netip.AddrPort) (stop func() floodTally) {
	r.t.Helper()
	self, err := os.Executable()
	if err != nil {
		r.t.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), floodSender+"="+strings.Join([]string{name, to.String(), floodLength.String()}, "|"))
	p := launch(r.t, "sender", cmd)
	prefer(cmd.Process.Pid, 0)
	return func() (sent floodTally) {
		r.t.Helper()
		p.exits(0, floodLength+patience)
		if err := json.Unmarshal([]byte(p.out.String()), &sent); err != nil {
			r.t.Fatalf("the sender wrote %s", p.out.String())
		}
		return sent
	}
}

// bigBuffer enlarges the buffer of a socket, to hold the packets that arrive while its
// reader waits for a processor.
func bigBuffer(c *net.UDPConn) {
	raw, err := c.SyscallConn()
	if err != nil {
		return
	}
	raw.Control(func(fd uintptr) {
		const size, force = 8 << 20, 33 // SO_RCVBUFFORCE
		if syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, force, size) != nil {
			syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, size)
		}
	})
}
