package sip_test

import (
	"bytes"
	"cmp"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing/synctest"
)

// A peer is one socket address that speaks SIP: a phone, a PBX or a trunk.
type peer struct {
	s          *testbed
	name       string
	addr       netip.AddrPort
	proto      string // as in a Via
	proxyAddr  netip.AddrPort
	lastSource netip.AddrPort // source of the last message, over UDP

	nextMessage func() (text, bool) // returns the next message that has arrived, if any
	write       func(b []byte)
	close       func()
	closeConn   func() // closes the connection, not the listener
}

func (s *testbed) addPeer(p *peer) *peer {
	p.s = s
	p.name = p.addr.String()
	s.peers = append(s.peers, p)
	return p
}

// addUDPPeer opens a UDP socket.
func (s *testbed) addUDPPeer(at netip.AddrPort) *peer {
	c, err := s.net.ListenPacketConn(at)
	if err != nil {
		s.t.Fatal(err)
	}
	p := s.addPeer(&peer{addr: at, proto: "UDP", proxyAddr: proxyAt})
	p.nextMessage = func() (text, bool) {
		b, from, ok := c.TryRead()
		p.lastSource = from
		return text(b), ok
	}
	p.write = func(b []byte) { c.WriteToUDPAddrPort(b, p.proxyAddr) }
	p.close = func() { c.Close() }
	return p
}

// dialTCPPeer opens a TCP connection to the proxy.
func (s *testbed) dialTCPPeer(from netip.Addr) *peer { return s.dialTCPPeerAt(from, proxyAt) }

// dialTCPPeerAt opens a TCP connection to an address of the proxy.
func (s *testbed) dialTCPPeerAt(from netip.Addr, to netip.AddrPort) *peer {
	c, err := s.net.Dial(from, to)
	if err != nil {
		s.t.Fatal(err)
	}
	return s.addConnPeer(c, "TCP")
}

// addConnPeer adds a peer with an open connection to the proxy.
func (s *testbed) addConnPeer(c net.Conn, proto string) *peer {
	in := &inbox{}
	go in.readConn(c)
	local, _ := netip.ParseAddrPort(c.LocalAddr().String())
	return s.addPeer(&peer{
		addr: local, proto: proto,
		nextMessage: in.cutMessage,
		write:       func(b []byte) { c.Write(b) },
		close:       func() { c.Close() },
	})
}

// addTCPListener adds a peer that the proxy connects to. It writes on the connection
// that was opened last.
func (s *testbed) addTCPListener(at netip.AddrPort) *peer {
	return s.addStreamListener(at, "TCP", func(c net.Conn) net.Conn { return c })
}

// addStreamListener is addTCPListener for a transport that open puts on the connections.
func (s *testbed) addStreamListener(at netip.AddrPort, proto string, open func(net.Conn) net.Conn) *peer {
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
			c = open(c)
			mu.Lock()
			last = c
			mu.Unlock()
			go in.readConn(c)
		}
	}()
	current := func() net.Conn {
		mu.Lock()
		defer mu.Unlock()
		return last
	}
	return s.addPeer(&peer{
		addr: at, proto: proto,
		nextMessage: in.cutMessage,
		write:       func(b []byte) { current().Write(b) },
		closeConn:   func() { current().Close() },
		close: func() {
			l.Close()
			if c := current(); c != nil {
				c.Close()
			}
		},
	})
}

// An inbox holds the bytes that came over streams.
type inbox struct {
	mu  sync.Mutex
	b   []byte
	eof bool
}

func (in *inbox) readConn(c net.Conn) {
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

// cutMessage removes one message, or the CRLFs in front of it, from the inbox.
func (in *inbox) cutMessage() (text, bool) {
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
		length, _ := strconv.Atoi(cmp.Or(m.fieldValue("Content-Length"), m.fieldValue("l")))
		if n = end + 4 + length; n > len(in.b) {
			return "", false
		}
	}
	m := text(in.b[:n])
	in.b = in.b[n:]
	return m, true
}

// send writes messages to the proxy, one after the other.
func (p *peer) send(messages ...text) {
	for _, m := range messages {
		p.write([]byte(m))
		synctest.Wait()
	}
}

// expect returns the next message that has arrived. Its start line must begin with
// start. what describes the expectation in a failure.
func (p *peer) expect(what, start string) text {
	p.s.t.Helper()
	synctest.Wait()
	m, ok := p.nextMessage()
	if !ok {
		p.s.t.Fatalf("%s: %s got nothing, want %s", what, p.name, start)
	}
	if !strings.HasPrefix(string(m), start) {
		p.s.t.Fatalf("%s: %s got\n%s\nwant %s", what, p.name, m, start)
	}
	return m
}

var serial int

// newRequest returns a request of p in a new dialog. See composeMessage for lines.
func (p *peer) newRequest(method, uri string, lines ...string) text {
	serial++
	return composeMessage(method+" "+uri+" SIP/2.0", []string{
		fmt.Sprintf("Via: SIP/2.0/%s %s;branch=z9hG4bK-%d;rport", p.proto, p.sentBy(), serial),
		"Max-Forwards: 70",
		fmt.Sprintf("From: <sip:101@pbx.example>;tag=from%d", serial),
		"To: <sip:102@pbx.example>",
		fmt.Sprintf("Call-ID: %d@%s", serial, p.addr.Addr()),
		"CSeq: 1 " + method,
		"Contact: " + p.contact(),
	}, lines)
}

// sentBy returns the host and port of p's Via. A browser does not know its address (RFC 7118
// §5.2).
func (p *peer) sentBy() string {
	if p.proto == "WS" || p.proto == "WSS" {
		return "abc.invalid"
	}
	return p.addr.String()
}

func (p *peer) contact() string {
	if p.proto == "WS" || p.proto == "WSS" {
		return "<sip:x@abc.invalid;transport=ws>"
	}
	if p.proto != "UDP" {
		return fmt.Sprintf("<sip:%s;transport=%s>", p.addr, strings.ToLower(p.proto))
	}
	return fmt.Sprintf("<sip:%s>", p.addr)
}

func (p *peer) newInvite(lines ...string) text {
	return p.newRequest("INVITE", "sip:102@pbx.example", lines...)
}

// newResponse returns a response of p to a request.
func (p *peer) newResponse(request text, status string, lines ...string) text {
	fields := []string{}
	for _, l := range request.headerLines() {
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
	return composeMessage("SIP/2.0 "+status, append(fields, "Contact: "+p.contact()), lines)
}

// respond sends a response to a request.
func (p *peer) respond(request text, status string, lines ...string) {
	p.send(p.newResponse(request, status, lines...))
}

// inTransaction returns another request of a request's transaction: the ACK of a
// failure, or a CANCEL.
func inTransaction(request text, method, to string, lines ...string) text {
	fields := []string{"Via: " + request.fieldValue("Via"), "Max-Forwards: 70"}
	for _, r := range request.fieldValues("Route") {
		fields = append(fields, "Route: "+r)
	}
	return composeMessage(method+" "+request.requestURI()+" SIP/2.0", append(fields,
		"From: "+request.fieldValue("From"),
		"To: "+cmp.Or(to, request.fieldValue("To")),
		"Call-ID: "+request.fieldValue("Call-ID"),
		"CSeq: "+strings.Fields(request.fieldValue("CSeq"))[0]+" "+method,
	), lines)
}

// sendCancel cancels an INVITE.
func (p *peer) sendCancel(invite text, lines ...string) {
	p.send(inTransaction(invite, "CANCEL", "", lines...))
}

// sendACK acknowledges a failure.
func (p *peer) sendACK(invite, failure text) {
	p.send(inTransaction(invite, "ACK", failure.fieldValue("To")))
}

// callerRequest returns a request of the caller in the dialog that the 2xx ok opened.
func (p *peer) callerRequest(ok text, method string, lines ...string) text {
	serial++
	fields := []string{
		fmt.Sprintf("Via: SIP/2.0/%s %s;branch=z9hG4bK-%d;rport", p.proto, p.sentBy(), serial),
		"Max-Forwards: 70",
	}
	rr := splitValues(ok.fieldValues("Record-Route"))
	slices.Reverse(rr)
	for _, r := range rr {
		fields = append(fields, "Route: "+r)
	}
	n := 1
	if method != "ACK" {
		n = serial + 1
	}
	return composeMessage(method+" "+bracketedURI(ok.fieldValue("Contact"))+" SIP/2.0", append(fields,
		"From: "+ok.fieldValue("From"),
		"To: "+ok.fieldValue("To"),
		"Call-ID: "+ok.fieldValue("Call-ID"),
		fmt.Sprintf("CSeq: %d %s", n, method),
		"Contact: "+p.contact(),
	), lines)
}

// calleeRequest returns a request of the callee in the dialog that its 2xx to invite
// opened.
func (p *peer) calleeRequest(invite text, method string, lines ...string) text {
	serial++
	fields := []string{
		fmt.Sprintf("Via: SIP/2.0/%s %s;branch=z9hG4bK-%d;rport", p.proto, p.sentBy(), serial),
		"Max-Forwards: 70",
	}
	for _, r := range splitValues(invite.fieldValues("Record-Route")) {
		fields = append(fields, "Route: "+r)
	}
	return composeMessage(method+" "+bracketedURI(invite.fieldValue("Contact"))+" SIP/2.0", append(fields,
		"From: "+invite.fieldValue("To")+";tag=to-"+p.name,
		"To: "+invite.fieldValue("From"),
		"Call-ID: "+invite.fieldValue("Call-ID"),
		fmt.Sprintf("CSeq: %d %s", serial+1, method),
		"Contact: "+p.contact(),
	), lines)
}

// splitValues splits lines of comma-separated values.
func splitValues(lines []string) (vs []string) {
	for _, l := range lines {
		for v := range strings.SplitSeq(l, ",") {
			vs = append(vs, strings.TrimSpace(v))
		}
	}
	return vs
}

// A call is an answered call.
type call struct {
	sent   text // INVITE as the caller sent it
	invite text // INVITE as the callee received it
	ok     text // 200 as the caller received it
}

// setUpCall sets up a call from p to callee and acknowledges it.
func (p *peer) setUpCall(callee *peer, lines ...string) call {
	p.s.t.Helper()
	c := call{sent: p.newInvite(lines...)}
	p.send(c.sent)
	c.invite = callee.expect("the INVITE goes on", "INVITE ")
	callee.respond(c.invite, "200 OK")
	c.ok = p.expect("the answer comes back", "SIP/2.0 200")
	p.send(p.callerRequest(c.ok, "ACK"))
	callee.expect("the ACK goes end to end", "ACK ")
	return c
}

// Changes of the proxy's configuration.

// discardReceived discards the messages that p has received so far.
func (p *peer) discardReceived() {
	synctest.Wait()
	for {
		if _, ok := p.nextMessage(); !ok {
			return
		}
	}
}

// expectLast returns the latest message that p has received, and discards those before
// it.
func (p *peer) expectLast(what, start string) text {
	p.s.t.Helper()
	m := p.expect(what, start)
	for {
		next, ok := p.nextMessage()
		if !ok {
			return m
		}
		m = next
	}
}
