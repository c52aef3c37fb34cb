package sip_test

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"bellhop/dialog"
	"bellhop/sip"
	"bellhop/sip/siptest"
)

// Who stands where. The hop listens on UDP and TCP.
var (
	hopAt   = netip.MustParseAddrPort("192.0.2.1:5060")
	pbxAt   = netip.MustParseAddrPort("192.0.2.2:5060")
	phoneAt = netip.MustParseAddrPort("192.0.2.101:5062")
	otherAt = netip.MustParseAddrPort("192.0.2.102:5062") // another phone
)

var key = bytes.Repeat([]byte("k"), 32)

// A scene is a hop in virtual time between a phone and a PBX, on a network in
// memory. Messages arrive at once.
type scene struct {
	t     *testing.T
	net   *siptest.Network
	hop   *sip.Proxy
	log   *bytes.Buffer
	watch chan dialog.Message
	peers []*peer
	stop  func()

	phone, pbx *peer
	pbxs       []*peer // all of them; several are asked with OPTIONS all the time

	again func() // starts a new hop of the same configuration
}

// play runs a script. After it everything must come to rest: five minutes
// later no transaction and no timer is left, and nothing has panicked. The phone has
// proved to be there, as one that registers has.
func play(t *testing.T, script func(s *scene), changes ...func(*sip.Config)) {
	t.Helper()
	playUnproved(t, func(s *scene) {
		s.hop.Prove(phoneAt.Addr())
		script(s)
	}, changes...)
}

// playUnproved is play, but nobody has proved to be there.
func playUnproved(t *testing.T, script func(s *scene), changes ...func(*sip.Config)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		s := begin(t, changes...)
		defer s.leave()
		script(s)
		s.rests()
	})
}

// begin makes the scene within a bubble.
func begin(t *testing.T, changes ...func(*sip.Config)) *scene {
	s := &scene{t: t, net: siptest.NewNetwork(), log: &bytes.Buffer{}, watch: make(chan dialog.Message, 1<<14)}
	cfg := sip.Config{
		Listen:       []sip.Addr{{Proto: sip.UDP, AddrPort: hopAt}, {Proto: sip.TCP, AddrPort: hopAt}},
		PBX:          []sip.Addr{{Proto: sip.UDP, AddrPort: pbxAt}},
		Key:          key,
		Observations: s.watch,
		Workers:      2,
		Log:          slog.New(slog.NewTextHandler(s.log, nil)),
		Net:          s.net,
	}
	for _, change := range changes {
		change(&cfg)
	}
	s.phone = s.udp(phoneAt)
	s.phone.name = "phone"
	for _, p := range cfg.PBX {
		open := s.udp
		if p.Proto == sip.TCP {
			open = s.tcpListener
		}
		s.pbxs = append(s.pbxs, open(p.AddrPort))
	}
	s.pbx = s.pbxs[0]
	s.pbx.name = "pbx"
	s.raise(cfg)
	return s
}

// raise starts a hop.
func (s *scene) raise(cfg sip.Config) {
	hop, err := sip.Listen(cfg)
	if err != nil {
		s.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var run sync.WaitGroup
	run.Go(func() { hop.Run(ctx) })
	s.hop = hop
	s.again = func() { s.raise(cfg) }
	s.stop = sync.OnceFunc(func() {
		cancel()
		run.Wait()
	})
}

// rests ends the scene.
func (s *scene) rests() {
	s.t.Helper()
	s.after(5 * time.Minute)
	if n := s.hop.Stats().Transactions; n != 0 && len(s.pbxs) == 1 {
		s.t.Errorf("%d transactions are counted as under way at the end", n)
	}
	s.stop()
	if n := s.hop.Held(); n != 0 && len(s.pbxs) == 1 {
		s.t.Errorf("%d transactions and timers are left at the end", n)
	}
	if n := s.hop.Stats().Panics; n != 0 {
		s.t.Errorf("%d panics: %s", n, s.log)
	}
}

// leave stops the hop and closes every peer.
func (s *scene) leave() {
	s.stop()
	for _, p := range s.peers {
		p.close()
	}
}

// after lets time pass.
func (s *scene) after(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// invited has the phone send an INVITE that reaches the PBX: as it left, and as
// it came.
func (s *scene) invited() (invite, got text) {
	s.t.Helper()
	invite = s.phone.invite()
	s.phone.sends(invite)
	return invite, s.pbx.gets("the INVITE goes on", "INVITE")
}

// registered has the phone register: from then on it has proved to be there.
func (s *scene) registered() {
	s.t.Helper()
	s.phone.sends(s.phone.request("REGISTER", "sip:pbx.example"))
	s.pbx.replies(s.pbx.gets("the REGISTER goes on", "REGISTER"), "200 OK")
	s.phone.gets("the answer comes back", "SIP/2.0 200")
}

// quiet says that nobody gets anything.
func (s *scene) quiet(why string) {
	s.t.Helper()
	synctest.Wait()
	for _, p := range s.peers {
		if m, ok := p.next(); ok {
			s.t.Fatalf("%s: %s got\n%s", why, p.name, m)
		}
	}
}

// A peer is one socket address that speaks SIP: a phone, a PBX, a trunk.
type peer struct {
	s     *scene
	name  string
	addr  netip.AddrPort
	proto string // as in a Via
	hop   netip.AddrPort
	from  netip.AddrPort // where the last message came from, over UDP

	next  func() (text, bool) // what has arrived, if anything
	write func(b []byte)
	close func()
	hangs func() // closes the connection, not the listener
}

func (s *scene) add(p *peer) *peer {
	p.s = s
	p.name = p.addr.String()
	s.peers = append(s.peers, p)
	return p
}

// udp opens a socket.
func (s *scene) udp(at netip.AddrPort) *peer {
	c, err := s.net.Packet(at)
	if err != nil {
		s.t.Fatal(err)
	}
	p := s.add(&peer{addr: at, proto: "UDP", hop: hopAt})
	p.next = func() (text, bool) {
		b, from, ok := c.TryRead()
		p.from = from
		return text(b), ok
	}
	p.write = func(b []byte) { c.WriteToUDPAddrPort(b, p.hop) }
	p.close = func() { c.Close() }
	return p
}

// tcp opens a connection to the hop.
func (s *scene) tcp(from netip.Addr) *peer {
	c, err := s.net.Dial(from, hopAt)
	if err != nil {
		s.t.Fatal(err)
	}
	in := &inbox{}
	go in.read(c)
	local, _ := netip.ParseAddrPort(c.LocalAddr().String())
	return s.add(&peer{
		addr: local, proto: "TCP",
		next:  in.next,
		write: func(b []byte) { c.Write(b) },
		close: func() { c.Close() },
	})
}

// tcpListener is a peer that is connected to. It writes on the connection that
// was opened last.
func (s *scene) tcpListener(at netip.AddrPort) *peer {
	l, err := s.net.Listen(at)
	if err != nil {
		s.t.Fatal(err)
	}
	in := &inbox{}
	var mu sync.Mutex
	var last net.Conn
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			last = c
			mu.Unlock()
			go in.read(c)
		}
	}()
	current := func() net.Conn {
		mu.Lock()
		defer mu.Unlock()
		return last
	}
	return s.add(&peer{
		addr: at, proto: "TCP",
		next:  in.next,
		write: func(b []byte) { current().Write(b) },
		hangs: func() { current().Close() },
		close: func() {
			l.Close()
			if c := current(); c != nil {
				c.Close()
			}
		},
	})
}

// An inbox is what came over streams.
type inbox struct {
	mu  sync.Mutex
	b   []byte
	eof bool
}

func (in *inbox) read(c net.Conn) {
	buf := make([]byte, 4096)
	for {
		n, err := c.Read(buf)
		in.mu.Lock()
		in.b = append(in.b, buf[:n]...)
		in.eof = err != nil
		in.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// next cuts off one message, or the CRLFs in front of it.
func (in *inbox) next() (text, bool) {
	in.mu.Lock()
	defer in.mu.Unlock()
	n := len(in.b) - len(bytes.TrimLeft(in.b, "\r\n"))
	if n == 0 {
		end := bytes.Index(in.b, []byte("\r\n\r\n"))
		if end < 0 {
			if in.eof {
				in.eof = false
				return text(string(in.b) + "<closed>"), true
			}
			return "", false
		}
		m := text(in.b[:end+4])
		length, _ := strconv.Atoi(cmp.Or(m.one("Content-Length"), m.one("l")))
		if n = end + 4 + length; n > len(in.b) {
			return "", false
		}
	}
	m := text(in.b[:n])
	in.b = in.b[n:]
	return m, true
}

// sends writes messages to the hop, each on its own.
func (p *peer) sends(messages ...text) {
	for _, m := range messages {
		p.write([]byte(m))
		synctest.Wait()
	}
}

// gets takes the next message that arrived. Its start line must begin with
// start; what says what must be true.
func (p *peer) gets(what, start string) text {
	p.s.t.Helper()
	synctest.Wait()
	m, ok := p.next()
	if !ok {
		p.s.t.Fatalf("%s: %s got nothing, want %s", what, p.name, start)
	}
	if !strings.HasPrefix(string(m), start) {
		p.s.t.Fatalf("%s: %s got\n%s\nwant %s", what, p.name, m, start)
	}
	return m
}

var serial int

// request writes a request of a new dialog by p. See compose for lines.
func (p *peer) request(method, uri string, lines ...string) text {
	serial++
	return compose(method+" "+uri+" SIP/2.0", []string{
		fmt.Sprintf("Via: SIP/2.0/%s %s;branch=z9hG4bK-%d;rport", p.proto, p.addr, serial),
		"Max-Forwards: 70",
		fmt.Sprintf("From: <sip:101@pbx.example>;tag=from%d", serial),
		"To: <sip:102@pbx.example>",
		fmt.Sprintf("Call-ID: %d@%s", serial, p.addr.Addr()),
		"CSeq: 1 " + method,
		"Contact: " + p.contact(),
	}, lines)
}

func (p *peer) contact() string {
	if p.proto == "TCP" {
		return fmt.Sprintf("<sip:%s;transport=tcp>", p.addr)
	}
	return fmt.Sprintf("<sip:%s>", p.addr)
}

func (p *peer) invite(lines ...string) text {
	return p.request("INVITE", "sip:102@pbx.example", lines...)
}

// answer writes a response of p to a request.
func (p *peer) answer(request text, status string, lines ...string) text {
	fields := []string{}
	for _, l := range request.lines() {
		n, _, _ := strings.Cut(l, ":")
		switch strings.ToLower(n) {
		case "via", "v", "record-route", "from", "f", "call-id", "i", "cseq":
			fields = append(fields, l)
		case "to", "t":
			if !strings.Contains(l, "tag=") && !strings.HasPrefix(status, "100") {
				l += ";tag=to-" + p.name
			}
			fields = append(fields, l)
		}
	}
	return compose("SIP/2.0 "+status, append(fields, "Contact: "+p.contact()), lines)
}

// replies answers a request.
func (p *peer) replies(request text, status string, lines ...string) {
	p.sends(p.answer(request, status, lines...))
}

// again is a request of the transaction that request opened: its ACK of a
// failure, or its CANCEL.
func again(request text, method, to string, lines ...string) text {
	fields := []string{"Via: " + request.one("Via"), "Max-Forwards: 70"}
	for _, r := range request.all("Route") {
		fields = append(fields, "Route: "+r)
	}
	return compose(method+" "+request.uri()+" SIP/2.0", append(fields,
		"From: "+request.one("From"),
		"To: "+cmp.Or(to, request.one("To")),
		"Call-ID: "+request.one("Call-ID"),
		"CSeq: "+strings.Fields(request.one("CSeq"))[0]+" "+method,
	), lines)
}

// cancels gives an INVITE up.
func (p *peer) cancels(invite text, lines ...string) {
	p.sends(again(invite, "CANCEL", "", lines...))
}

// acks acknowledges a failure.
func (p *peer) acks(invite, failure text) {
	p.sends(again(invite, "ACK", failure.one("To")))
}

// within is a request of the caller in the dialog that a 2xx opened.
func (p *peer) within(ok text, method string, lines ...string) text {
	serial++
	fields := []string{
		fmt.Sprintf("Via: SIP/2.0/%s %s;branch=z9hG4bK-%d;rport", p.proto, p.addr, serial),
		"Max-Forwards: 70",
	}
	rr := values(ok.all("Record-Route"))
	slices.Reverse(rr)
	for _, r := range rr {
		fields = append(fields, "Route: "+r)
	}
	n := 1
	if method != "ACK" {
		n = serial + 1
	}
	return compose(method+" "+bracketed(ok.one("Contact"))+" SIP/2.0", append(fields,
		"From: "+ok.one("From"),
		"To: "+ok.one("To"),
		"Call-ID: "+ok.one("Call-ID"),
		fmt.Sprintf("CSeq: %d %s", n, method),
		"Contact: "+p.contact(),
	), lines)
}

// back is a request of the called end in the dialog that its 2xx to invite
// opened.
func (p *peer) back(invite text, method string, lines ...string) text {
	serial++
	fields := []string{
		fmt.Sprintf("Via: SIP/2.0/%s %s;branch=z9hG4bK-%d;rport", p.proto, p.addr, serial),
		"Max-Forwards: 70",
	}
	for _, r := range values(invite.all("Record-Route")) {
		fields = append(fields, "Route: "+r)
	}
	return compose(method+" "+bracketed(invite.one("Contact"))+" SIP/2.0", append(fields,
		"From: "+invite.one("To")+";tag=to-"+p.name,
		"To: "+invite.one("From"),
		"Call-ID: "+invite.one("Call-ID"),
		fmt.Sprintf("CSeq: %d %s", serial+1, method),
		"Contact: "+p.contact(),
	), lines)
}

// values takes apart the values that share a line.
func values(lines []string) (vs []string) {
	for _, l := range lines {
		for v := range strings.SplitSeq(l, ",") {
			vs = append(vs, strings.TrimSpace(v))
		}
	}
	return vs
}

// A call is one that was answered.
type call struct {
	sent   text // the INVITE as the caller wrote it
	invite text // as it arrived
	ok     text // the 200 as the caller got it
}

// calls sets up a call from p to callee and acknowledges it.
func (p *peer) calls(callee *peer, lines ...string) call {
	p.s.t.Helper()
	c := call{sent: p.invite(lines...)}
	p.sends(c.sent)
	c.invite = callee.gets("the INVITE goes on", "INVITE ")
	callee.replies(c.invite, "200 OK")
	c.ok = p.gets("the answer comes back", "SIP/2.0 200")
	p.sends(p.within(c.ok, "ACK"))
	callee.gets("the ACK goes end to end", "ACK ")
	return c
}

// Changes of the hop's configuration.

// oneWorker keeps the order of different calls too.
func oneWorker(c *sip.Config) { c.Workers = 1 }

func pbxOverTCP(c *sip.Config) { c.PBX[0].Proto = sip.TCP }

func register(r sip.Register) func(*sip.Config) {
	return func(c *sip.Config) { c.Register = r }
}

func equal(t *testing.T, what, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("%s:\n got %q\nwant %q", what, got, want)
	}
}

// forgets throws away what p has got so far.
func (p *peer) forgets() {
	synctest.Wait()
	for {
		if _, ok := p.next(); !ok {
			return
		}
	}
}

func prefixes(list ...string) (ps []netip.Prefix) {
	for _, p := range list {
		if !strings.Contains(p, "/") {
			p += "/32"
		}
		ps = append(ps, netip.MustParsePrefix(p))
	}
	return ps
}

// last is the latest message p has got; those before it are forgotten.
func (p *peer) last(what, start string) text {
	p.s.t.Helper()
	m := p.gets(what, start)
	for {
		next, ok := p.next()
		if !ok {
			return m
		}
		m = next
	}
}
