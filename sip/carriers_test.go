package sip_test

import (
	"crypto/tls"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"bellhop/sip"
	"bellhop/sip/siptest"
)

// This file has stubs of carriers that enforce the rules of Twilio and Telnyx.

// twilio is a stub of Twilio Elastic SIP Trunking over TLS. It refuses what Twilio refuses:
// calls from addresses that are not in the access list, calls to another domain than that
// of the customer, and more calls in a second than the customer has.
type twilio struct {
	*peer
	domain string
	cps    int
	at     []time.Time // of the last calls
}

const twilioDomain = "customer.pstn.twilio.example"

var twilioAt = netip.MustParseAddrPort("203.0.113.30:5061")

// newTwilio returns a stub at twilioAt.
func newTwilio(s *testbed, b *tlsBed, cps int) *twilio {
	q := &twilio{domain: twilioDomain, cps: cps}
	q.peer, _ = s.addTLSListener(twilioAt, &tls.Config{Certificates: []tls.Certificate{b.ca.IssueTLS(siptest.CertificateRequest{Hosts: []string{"pstn.twilio.example"}})}})
	q.name = "twilio"
	return q
}

// fault returns the answer to an INVITE that is not acceptable, or "".
func (q *twilio) fault(invite text) string {
	now := time.Now()
	q.at = append(q.at, now)
	if n := len(q.at); n > q.cps && now.Sub(q.at[n-1-q.cps]) < time.Second {
		return "503 CPS limit exceeded"
	}
	host, _, _ := strings.Cut(invite.requestURI()[strings.IndexByte(invite.requestURI(), '@')+1:], ";")
	switch {
	case host != q.domain:
		return "404 Domain not found: " + host
	case !strings.HasPrefix(invite.fieldValue("Via"), "SIP/2.0/TLS "+proxyTLSAt.String()+";"):
		return "403 Via: " + invite.fieldValue("Via")
	}
	return ""
}

// twilioConfig is the config of a trunk to Twilio: its signalling addresses are known, and
// it gets no more calls than it accepts.
func twilioConfig(b *tlsBed, cps int) func(*sip.Config) {
	return func(c *sip.Config) {
		b.listen(c)
		c.Trunks = []sip.Trunk{{Name: "twilio", Secret: "0123456789abcdef", Sources: parsePrefixes("203.0.113.24/29"), MaxCPS: cps,
			To: []sip.Addr{{Proto: sip.TLS, AddrPort: twilioAt}}, TLS: b.newClient("pstn.twilio.example", nil)}}
	}
}

// callTwilio sends an INVITE of the PBX to a number behind Twilio.
func (s *testbed) callTwilio() text {
	invite := s.pbx.newInvite(fmt.Sprintf("Route: <sip:%s;lr>, <sip:%s;transport=tls;lr>", proxyAt, twilioAt)).
		replaced("sip:102@pbx.example SIP", "sip:+15551234@"+twilioDomain+" SIP")
	s.pbx.send(invite)
	return invite
}

// The PBX makes 40 calls in a second. Twilio gets as many as it accepts and refuses none.
// The PBX gets 503 for the others.
func TestTwilioGetsNoMoreCallsThanItAccepts(t *testing.T) {
	const cps = 10
	b := &tlsBed{}
	runScenario(t, func(s *testbed) {
		q := newTwilio(s, b, cps)
		passed, refused := 0, 0
		for range 80 {
			s.callTwilio()
			if m, ok := q.nextMessage(); ok {
				passed++
				if why := q.fault(m); why != "" {
					t.Errorf("Twilio refuses: %s\n%s", why, m)
				}
				q.respond(m, "486 Busy Here")
				s.pbx.expect("the answer", "SIP/2.0 486")
				q.expect("its ACK", "ACK")
			} else {
				refused++
				got := s.pbx.expect("refused by bellhop", "SIP/2.0 503")
				assertEqual(t, "Retry-After", got.fieldValue("Retry-After"), "1")
			}
			s.advance(25 * time.Millisecond)
			s.pbx.discardReceived() // repetitions: it sends no ACK
		}
		if passed != 2*cps || refused != 80-2*cps {
			t.Errorf("%d calls passed and %d were refused in 2 s", passed, refused)
		}
	}, twilioConfig(b, cps))
}

// A call and its end arrive, from either side, with the customer's domain in the
// Request-URI. Twilio calls from any of its addresses; an address next to them is a
// stranger's.
func TestTwilioIsKnownByItsAddresses(t *testing.T) {
	b := &tlsBed{}
	runScenario(t, func(s *testbed) {
		q := newTwilio(s, b, 10)
		s.callTwilio()
		invite := q.expect("a call goes out", "INVITE ")
		if why := q.fault(invite); why != "" {
			t.Fatalf("Twilio refuses: %s\n%s", why, invite)
		}
		q.respond(invite, "200 OK")
		ok := s.pbx.expectLast("answered", "SIP/2.0 200")
		s.pbx.send(s.pbx.callerRequest(ok, "ACK"))
		q.expect("the ACK", "ACK")
		q.send(q.calleeRequest(invite, "BYE"))
		s.pbx.respond(s.pbx.expect("Twilio hangs up", "BYE"), "200 OK")
		q.expect("the answer", "SIP/2.0 200")

		for _, tt := range []struct {
			from  string
			trunk bool
		}{{"203.0.113.24", true}, {"203.0.113.31", true}, {"203.0.113.32", false}, {"203.0.113.23", false}} {
			p := s.dialTLSPeer(netip.MustParseAddr(tt.from), b)
			call := p.newInvite("X-Twilio-CallToken: " + strings.Repeat("%7B%22", 200))
			p.send(call)
			got := s.pbx.expect("a call comes in from "+tt.from, "INVITE ")
			if trunk := got.fieldValue("X-Bellhop-Trunk") != ""; trunk != tt.trunk {
				t.Errorf("%s is taken for the trunk: %v", tt.from, trunk)
			}
			assertEqual(t, "the token", got.fieldValue("X-Twilio-CallToken"), call.fieldValue("X-Twilio-CallToken"))
			s.pbx.respond(got, "486 Busy Here")
			p.sendACK(call, p.expectLast("the answer", "SIP/2.0 486"))
			s.pbx.expect("its ACK", "ACK")
		}
	}, twilioConfig(b, 10))
}

// telnyx is a stub of Telnyx over TLS. While a connection of a peer is open, it refuses
// another one of that peer.
type telnyx struct {
	*peer
	b        *tlsBed
	accepted int
	refused  int
}

var telnyxAt = netip.MustParseAddrPort("203.0.113.40:5061")

// newTelnyx returns a stub at telnyxAt.
func newTelnyx(s *testbed, b *tlsBed) *telnyx {
	q := &telnyx{b: b}
	config := &tls.Config{Certificates: []tls.Certificate{b.ca.IssueTLS(siptest.CertificateRequest{Hosts: []string{"sip.telnyx.example"}})}}
	var open *countedConn
	q.peer = s.addStreamListener(telnyxAt, "TLS", func(c net.Conn) net.Conn {
		if open != nil && !open.ended() {
			q.refused++
			c.Close()
			return open.tls
		}
		q.accepted++
		open = &countedConn{Conn: c}
		open.tls = tls.Server(open, config)
		return open.tls
	})
	q.name = "telnyx"
	return q
}

// countedConn is a connection of the stub.
type countedConn struct {
	net.Conn
	tls *tls.Conn

	mu   sync.Mutex
	over bool // either end has closed the connection
}

func (c *countedConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if err != nil {
		c.end()
	}
	return n, err
}

func (c *countedConn) Close() error {
	c.end()
	return c.Conn.Close()
}

func (c *countedConn) end() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.over = true
}

func (c *countedConn) ended() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.over
}

// runTelnyx runs a script with the stub. OPTIONS and calls have to share one connection.
func runTelnyx(t *testing.T, script func(s *testbed, q *telnyx)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		b := &tlsBed{}
		s := newTestbed(t, b.listen, func(c *sip.Config) {
			c.Trunks = []sip.Trunk{{Name: "telnyx", Sources: parsePrefixes("203.0.113.40/32"), Probe: time.Minute,
				To: []sip.Addr{{Proto: sip.TLS, AddrPort: telnyxAt}}, TLS: b.newClient("sip.telnyx.example", nil)}}
		})
		defer s.closeAll()
		q := newTelnyx(s, b)
		script(s, q)
		s.stop()
		if q.refused > 0 {
			t.Errorf("%d connections were refused", q.refused)
		}
		if n := s.proxy.Stats().Panics; n != 0 {
			t.Errorf("%d panics: %s", n, s.log)
		}
	})
}

// callTelnyx sends an INVITE of the PBX to a number behind Telnyx.
func (s *testbed) callTelnyx() {
	s.pbx.send(s.pbx.newInvite().replaced("sip:102@pbx.example SIP", fmt.Sprintf("sip:+15551234@%s;transport=tls SIP", telnyxAt)))
}

// next returns the next request of Telnyx with a method, and answers OPTIONS before it.
func (q *telnyx) next(what, method string) text {
	q.s.t.Helper()
	for {
		synctest.Wait()
		m, ok := q.nextMessage()
		switch {
		case !ok:
			q.s.t.Fatalf("%s: Telnyx got nothing, want %s", what, method)
		case m.method() == "OPTIONS" && method != "OPTIONS":
			q.respond(m, "200 OK")
		case !strings.HasPrefix(string(m), method+" "):
			q.s.t.Fatalf("%s: Telnyx got\n%s\nwant %s", what, m, method)
		default:
			return m
		}
	}
}

// Calls that begin at once, on different workers, share one connection that is still to be
// opened. ACK, BYE and OPTIONS take it too.
func TestTelnyxGetsOneConnection(t *testing.T) {
	runTelnyx(t, func(s *testbed, q *telnyx) {
		for range 8 { // their Call-IDs lead to both workers
			s.pbx.write([]byte(s.pbx.newInvite().replaced("sip:102@pbx.example SIP", fmt.Sprintf("sip:+15551234@%s;transport=tls SIP", telnyxAt))))
		}
		synctest.Wait()
		var invites, answers []text
		for range 8 {
			invites = append(invites, q.next("all calls go out", "INVITE"))
		}
		for _, invite := range invites {
			q.respond(invite, "200 OK")
		}
		for m, ok := s.pbx.nextMessage(); ok; m, ok = s.pbx.nextMessage() {
			if strings.HasPrefix(string(m), "SIP/2.0 200") {
				answers = append(answers, m)
			}
		}
		for i, ok := range answers {
			s.pbx.send(s.pbx.callerRequest(ok, "ACK"))
			q.next("the ACK", "ACK")
			if i%2 == 0 {
				s.pbx.send(s.pbx.callerRequest(ok, "BYE"))
				q.respond(q.next("the PBX hangs up", "BYE"), "200 OK")
				s.pbx.expect("the answer", "SIP/2.0 200")
			}
		}
		if len(answers) != 8 {
			t.Errorf("%d calls were answered", len(answers))
		}
		q.send(q.calleeRequest(invites[1], "BYE"))
		s.pbx.respond(s.pbx.expectLast("Telnyx hangs up", "BYE"), "200 OK")
		q.expect("the answer", "SIP/2.0 200")
		s.advance(time.Minute)
		q.respond(q.next("OPTIONS", "OPTIONS"), "200 OK")
		assertEqual(t, "connections", fmt.Sprint(q.accepted), "1")
	})
}

// Telnyx closes the connection in the middle of a call. Bellhop opens a new one for the BYE.
func TestTelnyxClosesConnectionInCall(t *testing.T) {
	runTelnyx(t, func(s *testbed, q *telnyx) {
		s.advance(time.Minute) // OPTIONS open the connection
		s.callTelnyx()
		q.respond(q.next("a call goes out", "INVITE"), "200 OK")
		ok := s.pbx.expectLast("answered", "SIP/2.0 200")
		s.pbx.send(s.pbx.callerRequest(ok, "ACK"))
		q.next("the ACK", "ACK")
		q.closeConn()
		s.advance(0)
		q.discardReceived()
		s.pbx.send(s.pbx.callerRequest(ok, "BYE"))
		q.respond(q.next("the BYE", "BYE"), "200 OK")
		s.pbx.expect("the answer", "SIP/2.0 200")
		assertEqual(t, "connections", fmt.Sprint(q.accepted), "2")
	})
}

// Telnyx has opened the connection. The PBX's BYE takes it, and bellhop opens none.
func TestTelnyxCallsOverItsOwnConnection(t *testing.T) {
	runTelnyx(t, func(s *testbed, q *telnyx) {
		s.advance(time.Minute)
		own := s.dialTLSPeer(telnyxAt.Addr(), q.b)
		call := own.newInvite()
		own.send(call)
		got := s.pbx.expect("a call comes in", "INVITE ")
		s.pbx.respond(got, "200 OK")
		own.send(own.callerRequest(own.expectLast("answered", "SIP/2.0 200"), "ACK"))
		s.pbx.expect("the ACK", "ACK")
		s.pbx.send(s.pbx.calleeRequest(got, "BYE"))
		own.respond(own.expect("over the connection of the INVITE", "BYE"), "200 OK")
		s.pbx.expect("the answer", "SIP/2.0 200")
		assertEqual(t, "connections that bellhop has opened", fmt.Sprint(q.accepted), "1")
	})
}
