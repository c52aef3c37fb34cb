package sip_test

import (
	"crypto/tls"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"bellhop/sip"
	"bellhop/sip/guard"
	"bellhop/sip/siptest"
)

// guarded configures the default limits of sources.
func guarded(c *sip.Config) {
	c.Guard = guard.Settings{
		UserAgents: []string{"friendly-scanner"},
		Rate:       guard.Rate{Count: 30, Per: 10 * time.Second},
		PerBinding: 10,
		BanAfter:   10,
		BanTime:    5 * time.Minute,
	}
	c.Trunks = []sip.Trunk{{Name: "carrier", Sources: parsePrefixes("192.0.2.200")}}
}

var trunkAt = netip.MustParseAddrPort("192.0.2.200:5060")

// register sends a REGISTER of an extension with credentials for a nonce, or without any
// if the nonce is "", and the PBX answers it.
func (p *peer) register(user, nonce, status string, lines ...string) {
	p.s.t.Helper()
	fields := []string{"From: <sip:" + user + "@pbx.example>;tag=r" + user, "To: <sip:" + user + "@pbx.example>"}
	if nonce != "" {
		fields = append(fields, fmt.Sprintf(`Authorization: Digest username="%s", realm="pbx, the", cnonce="x", nonce="%s", response="0"`, user, nonce))
	}
	p.send(p.newRequest("REGISTER", "sip:pbx.example", fields...))
	p.s.pbx.respond(p.s.pbx.expect("the REGISTER goes on", "REGISTER"), status, lines...)
	p.expect("the response comes back", "SIP/2.0 "+status[:3])
}

// challenge returns the field of a challenge with a nonce.
func challenge(nonce string) string {
	return `WWW-Authenticate: Digest realm="pbx, the", qop="auth", nonce="` + nonce + `"`
}

// guess sends n REGISTERs with a wrong password. Each uses the nonce of the response to the
// one before.
func (p *peer) guess(n int) {
	p.s.t.Helper()
	p.register("101", "", "401 Unauthorized", challenge("n0"))
	for i := range n {
		p.register("101", fmt.Sprint("n", i), "401 Unauthorized", challenge(fmt.Sprint("n", i+1)))
		p.s.advance(time.Second)
	}
}

// expectBanned checks that nothing of p is forwarded or answered.
func (p *peer) expectBanned() {
	p.s.t.Helper()
	p.send(p.newInvite(), p.newRequest("OPTIONS", "sip:192.0.2.1"))
	p.s.expectNothing("the source is banned")
}

// expectServed checks that a request of p is forwarded.
func (p *peer) expectServed() {
	p.s.t.Helper()
	p.send(p.newRequest("MESSAGE", "sip:102@pbx.example"))
	p.s.pbx.respond(p.s.pbx.expect("the source is not banned", "MESSAGE"), "200 OK")
	p.expect("the response comes back", "SIP/2.0 200")
}

// bans returns the lines of the log about bans.
func (s *testbed) bans() (lines []string) {
	for line := range strings.Lines(s.log.String()) {
		if strings.Contains(line, "source banned") {
			lines = append(lines, line)
		}
	}
	return lines
}

// A scanner is not answered, and the observer does not learn of it.
func TestScannersAreDroppedSilently(t *testing.T) {
	runUnproven(t, func(s *testbed) {
		over := s.dialTCPPeer(otherAt.Addr())
		for _, p := range []*peer{s.phone, over} {
			for _, method := range []string{"OPTIONS", "REGISTER", "INVITE"} {
				p.send(p.newRequest(method, "sip:100@192.0.2.1", "User-Agent: Friendly-Scanner"))
			}
		}
		s.expectNothing("a scanner")
		if n := len(s.observations); n != 0 {
			s.t.Errorf("%d messages are observed", n)
		}
		s.phone.send(s.phone.newRequest("MESSAGE", "sip:102@pbx.example", "User-Agent: Linphone"))
		s.pbx.respond(s.pbx.expect("another User-Agent", "MESSAGE"), "200 OK")
		s.phone.expect("answered", "SIP/2.0 200")
		carrier := s.addUDPPeer(trunkAt)
		carrier.send(carrier.newRequest("MESSAGE", "sip:102@pbx.example", "User-Agent: friendly-scanner"))
		s.pbx.respond(s.pbx.expect("a trunk may be called anything", "MESSAGE"), "200 OK")
		carrier.expect("answered", "SIP/2.0 200")
	}, guarded)
}

// A CANCEL that goes on has the User-Agent of the CANCEL that came.
func TestCancelKeepsItsUserAgent(t *testing.T) {
	runScenario(t, func(s *testbed) {
		invite, got := s.sendInvite()
		s.pbx.respond(got, "180 Ringing")
		s.phone.expect("rings", "SIP/2.0 180")
		s.phone.sendCancel(invite, "User-Agent: phone/1")
		s.phone.expect("answered", "SIP/2.0 200")
		cancel := s.pbx.expect("goes on", "CANCEL")
		assertEqual(t, "User-Agent", cancel.fieldValue("User-Agent"), "phone/1")
		s.pbx.respond(cancel, "200 OK")
		s.pbx.respond(got, "487 Request Terminated")
		s.pbx.expect("acknowledged", "ACK")
		s.phone.sendACK(invite, s.phone.expect("ends", "SIP/2.0 487"))
	})
}

// New requests beyond the rate of a source are dropped, and on a connection refused. The
// PBX, trunks and requests within a dialog are not limited.
func TestRequestsOfASourceAreLimited(t *testing.T) {
	runScenario(t, func(s *testbed) {
		call := s.phone.setUpCall(s.pbx)
		forwarded := func(p *peer, n int) (got int) {
			for range n {
				p.send(p.newRequest("MESSAGE", "sip:102@pbx.example"))
				if m, ok := s.pbx.nextMessage(); ok {
					got++
					s.pbx.respond(m, "200 OK")
					p.expect("answered", "SIP/2.0 200")
				}
			}
			return got
		}
		if got := forwarded(s.phone, 60); got != 29 {
			s.t.Errorf("%d of 60 requests after an INVITE are forwarded, want 29", got)
		}
		s.expectNothing("the others are not answered")
		s.phone.send(s.phone.callerRequest(call.ok, "INFO"))
		s.pbx.respond(s.pbx.expect("within the dialog", "INFO"), "200 OK")
		s.phone.expect("answered", "SIP/2.0 200")

		over := s.dialTCPPeer(phoneAt.Addr())
		if got := forwarded(over, 30); got != 30 {
			s.t.Errorf("%d of 30 requests on a connection are forwarded", got)
		}
		over.send(over.newRequest("REGISTER", "sip:pbx.example"))
		if refused := over.expect("beyond the rate", "SIP/2.0 503"); refused.fieldValue("Retry-After") == "" {
			s.t.Errorf("no Retry-After in\n%s", refused)
		}
		if n := s.proxy.Stats().Shed; n != 0 {
			s.t.Errorf("%d requests are counted as shed for memory", n)
		}
		if got := forwarded(s.addUDPPeer(trunkAt), 60); got != 60 {
			s.t.Errorf("%d of 60 requests of a trunk are forwarded", got)
		}
		if got := forwarded(s.addUDPPeer(netip.MustParseAddrPort("127.0.0.2:5062")), 60); got != 60 {
			s.t.Errorf("%d of 60 requests of this machine are forwarded", got)
		}
		s.advance(time.Second)
		if got := forwarded(s.phone, 60); got != 3 {
			s.t.Errorf("%d requests are forwarded a second later, want 3", got)
		}
		s.phone.send(s.phone.callerRequest(call.ok, "BYE"))
		s.pbx.respond(s.pbx.expect("hangs up", "BYE"), "200 OK")
		s.phone.expect("answered", "SIP/2.0 200")
	}, guarded)
}

// 200 phones behind one address restart at the same time. Each sends a REGISTER without
// credentials and one with them, and repeats what is not answered.
func TestAnOfficeRestarts(t *testing.T) {
	runUnproven(t, func(s *testbed) {
		const phones = 200
		missing := map[int]string{}
		for i := range phones {
			missing[i] = ""
		}
		started := time.Now()
		for round := 0; len(missing) > 0 && round < 64; round++ {
			for i := range phones {
				nonce, ok := missing[i]
				if !ok {
					continue
				}
				user := fmt.Sprint(1000 + i)
				fields := []string{"From: <sip:" + user + "@pbx.example>;tag=r" + user, "To: <sip:" + user + "@pbx.example>", "Contact: <sip:" + user + "@192.168.0.9:5060>"}
				if nonce != "" {
					fields = append(fields, `Authorization: Digest nonce="`+nonce+`"`)
				}
				s.phone.send(s.phone.newRequest("REGISTER", "sip:pbx.example", fields...))
				got, ok := s.pbx.nextMessage()
				switch {
				case !ok:
				case nonce == "":
					missing[i] = "n" + user
					s.pbx.respond(got, "401 Unauthorized", challenge(missing[i]))
				default:
					delete(missing, i)
					s.pbx.respond(got, "200 OK", "Contact: "+got.fieldValue("Contact")+";expires=3600")
				}
				s.phone.discardReceived()
			}
			s.advance(500 * ms)
		}
		if took := time.Since(started); len(missing) > 0 || took > 10*time.Second {
			s.t.Errorf("after %v, %d of %d phones are not registered", took, len(missing), phones)
		}
		if lines := s.bans(); len(lines) > 0 {
			s.t.Errorf("banned: %s", lines)
		}
	}, guarded)
}

// Ten wrong passwords ban a source that receives the nonces it uses.
func TestWrongPasswordsBan(t *testing.T) {
	runUnproven(t, func(s *testbed) {
		s.phone.guess(9)
		s.phone.expectServed()
		s.phone.register("101", "n9", "403 Forbidden")
		s.phone.expectBanned()
		lines := s.bans()
		if len(lines) != 1 || !strings.Contains(lines[0], `level=WARN msg="source banned" source=192.0.2.101 reason=credentials for=5m0s times=1`+"\n") {
			s.t.Errorf("log %q", lines)
		}
		other := s.addUDPPeer(otherAt)
		other.expectServed()
		s.advance(5 * time.Minute)
		s.phone.expectServed()
		s.advance(10 * time.Second)
		s.phone.guess(10)
		s.phone.expectBanned()
		s.advance(5 * time.Minute)
		s.phone.expectBanned()
		s.advance(5 * time.Minute)
		s.phone.expectServed()
	}, guarded)
}

// None of these is a fault of the source, and none leads to a ban.
func TestHarmlessRefusalsDoNotBan(t *testing.T) {
	for name, refuse := range map[string]func(p *peer, i int){
		"a challenge": func(p *peer, i int) {
			p.register("101", "", "401 Unauthorized", challenge(fmt.Sprint(i)))
		},
		"a stale nonce": func(p *peer, i int) {
			p.register("101", "n", "401 Unauthorized", challenge("n")+", stale=TRUE")
		},
		"a nonce that was not sent to the source": func(p *peer, i int) {
			p.register("101", fmt.Sprint("forged", i), "401 Unauthorized", challenge("n"))
		},
		"a nonce that was sent to others too": func(p *peer, i int) {
			p.register("101", "m", "401 Unauthorized", challenge("n"))
		},
		"a refusal without credentials": func(p *peer, i int) { p.register("101", "", "403 Forbidden") },
		"the right password now and then": func(p *peer, i int) {
			status, lines := "401 Unauthorized", []string{challenge("n")}
			if i%9 == 8 {
				status, lines = "200 OK", nil
			}
			p.register("101", "n", status, lines...)
		},
	} {
		t.Run(name, func(t *testing.T) {
			runUnproven(t, func(s *testbed) {
				s.phone.register("101", "", "401 Unauthorized", challenge("n"))
				s.phone.register("101", "", "401 Unauthorized", challenge("m"))
				s.dialTCPPeer(otherAt.Addr()).register("101", "", "401 Unauthorized", challenge("m"))
				for i := range 30 {
					refuse(s.phone, i)
					s.advance(time.Second)
				}
				s.phone.expectServed()
				if lines := s.bans(); len(lines) > 0 {
					s.t.Errorf("banned: %s", lines)
				}
			}, guarded)
		})
	}
}

// A PBX that acts as a proxy refuses credentials with 407.
func TestRefusalWith407IsAFault(t *testing.T) {
	runUnproven(t, func(s *testbed) {
		for i := range 11 { // the first response is a challenge
			lines := []string{fmt.Sprintf(`Proxy-Authorization: Digest username="101", nonce="n%d", response="0"`, i)}
			if i == 0 {
				lines = nil
			}
			s.phone.send(s.phone.newRequest("MESSAGE", "sip:102@pbx.example", lines...))
			s.pbx.respond(s.pbx.expect("the MESSAGE goes on", "MESSAGE"), "407 Proxy Authentication Required",
				fmt.Sprintf(`Proxy-Authenticate: Digest realm="pbx", nonce="n%d"`, i+1))
			s.phone.expect("the response comes back", "SIP/2.0 407")
			s.advance(time.Second)
		}
		s.phone.expectBanned()
	}, guarded)
}

// A source in Allow has no limit.
func TestAllowedSourceHasNoRate(t *testing.T) {
	runUnproven(t, func(s *testbed) {
		for range 60 {
			s.phone.expectServed()
		}
	}, guarded, func(c *sip.Config) { c.Guard.Allow = parsePrefixes("192.0.2.101") })
}

// Nobody can have a trunk banned by forging its address, or by its own mistakes.
func TestTrunksAreNeverBanned(t *testing.T) {
	runUnproven(t, func(s *testbed) {
		carrier := s.addUDPPeer(trunkAt)
		carrier.guess(30)
		carrier.expectServed()
	}, guarded)
}

// 200 phones are behind one address. One has a wrong password and never stops trying. The
// others register all the time. Nobody is banned.
func TestOneWrongPasswordAmongManyPhones(t *testing.T) {
	runUnproven(t, func(s *testbed) {
		for i := range 199 {
			s.phone.register(fmt.Sprint(1000+i), "n", "200 OK", fmt.Sprintf("Contact: <sip:%d@192.0.2.101:5062>;expires=3600", 1000+i))
			if i%25 == 24 {
				s.advance(time.Second)
			}
		}
		s.phone.guess(120)
		s.phone.expectServed()
		if lines := s.bans(); len(lines) > 0 {
			s.t.Errorf("banned: %s", lines)
		}
	}, guarded, func(c *sip.Config) { c.Guard.Rate = guard.Rate{} })
}

// A source whose connections carry something else than SIP is banned: its connections are
// closed, and new ones are refused. Connections without a byte, and broken ones, are no
// fault.
func TestConnectionsWithoutSIPBan(t *testing.T) {
	for name, tt := range map[string]struct {
		bytes string
		bans  bool
	}{
		"HTTP":                  {"GET / HTTP/1.1\r\nHost: x\r\n\r\n", true},
		"TLS":                   {"\x16\x03\x01\x00\x05hello", true},
		"no line end":           {strings.Repeat("x", 70000), true},
		"nothing":               {"", false},
		"half a message":        {"OPTIONS sip:192.0.2.1 SIP/2.0\r\nVia: SIP", false},
		"half a start line":     {"OPTIONS sip:192.0", false},
		"keep-alives":           {"\r\n\r\n\r\n\r\n", false},
		"a message without end": {"INVITE sip:102@pbx.example SIP/2.0\r\nContent-Length: x\r\n\r\n", false},
	} {
		t.Run(name, func(t *testing.T) {
			runUnproven(t, func(s *testbed) {
				good := s.dialTCPPeer(otherAt.Addr())
				good.expectServed()
				for range 12 {
					c, err := s.net.Dial(otherAt.Addr(), proxyAt)
					if err != nil {
						s.t.Fatal(err)
					}
					c.Write([]byte(tt.bytes))
					s.advance(10 * ms)
					c.Close()
					s.advance(10 * ms)
				}
				if !tt.bans {
					good.expectServed()
					return
				}
				if lines := s.bans(); len(lines) != 1 || !strings.Contains(lines[0], "source=192.0.2.102 reason=not_sip") {
					s.t.Errorf("log %q", lines)
				}
				good.expect("its other connections are closed", "<closed>")
				s.dialTCPPeer(otherAt.Addr()).expect("a new connection", "<closed>")
				s.addUDPPeer(otherAt).expectBanned()
				s.phone.expectServed()
			}, guarded)
		})
	}
}

// Answers of the proxy to unknown sources are no larger than their requests, and few.
func TestForgedOptionsAreNotAmplified(t *testing.T) {
	runUnproven(t, func(s *testbed) {
		sent, got := 0, 0
		for range 20 {
			m := s.phone.newRequest("OPTIONS", "sip:192.0.2.1")
			sent += len(m)
			s.phone.send(m)
			if answer, ok := s.phone.nextMessage(); ok {
				got++
				if len(answer) > len(m) {
					s.t.Errorf("%d bytes for %d:\n%s", len(answer), len(m), answer)
				}
			}
		}
		if got != 5 {
			s.t.Errorf("%d answers at once, want 5", got)
		}
		s.advance(time.Second)
		large := s.phone.newRequest("OPTIONS", "sip:192.0.2.1", "User-Agent: "+strings.Repeat("x", 200))
		s.phone.send(large)
		if answer := s.phone.expect("a large one", "SIP/2.0 200"); answer.fieldValue("Allow") == "" {
			s.t.Errorf("no Allow in\n%s", answer)
		}
		if got := s.proxy.Stats().Withheld; got != 15 {
			s.t.Errorf("%d answers are counted as withheld, want 15", got)
		}
		s.proxy.Prove(phoneAt.Addr())
		for range 20 {
			s.phone.send(s.phone.newRequest("OPTIONS", "sip:192.0.2.1"))
			s.phone.expect("a source that receives the answers", "SIP/2.0 200")
		}
	}, func(c *sip.Config) {})
}

// New limits apply at once, and bans stay.
func TestGuardIsReconfigured(t *testing.T) {
	runUnproven(t, func(s *testbed) {
		s.phone.guess(10)
		s.phone.expectBanned()
		var c sip.Config
		guarded(&c)
		c.Guard.UserAgents = []string{"Linphone"}
		s.proxy.ConfigureGuard(c.Guard, 1, 10)
		s.phone.expectBanned()
		other := s.addUDPPeer(otherAt)
		other.send(other.newRequest("MESSAGE", "sip:102@pbx.example", "User-Agent: linphone"))
		s.expectNothing("a new scanner")
		s.dialTCPPeer(otherAt.Addr()).expectServed()
		s.dialTCPPeer(otherAt.Addr()).expect("the second connection", "<closed>")
		c.Guard.Allow = parsePrefixes("192.0.2.101")
		s.proxy.ConfigureGuard(c.Guard, 1, 10)
		s.phone.expectServed()
	}, guarded)
}

// aheadConn is a connection that delivers what is read from a pipe, so that the peer may
// write before it is read, as into the buffer of a socket.
type aheadConn struct {
	net.Conn
	r *io.PipeReader
}

func (c aheadConn) Read(b []byte) (int, error) { return c.r.Read(b) }

// readAhead returns a connection that reads all of c at once.
func readAhead(c net.Conn) aheadConn {
	chunks := make(chan []byte, 64)
	r, w := io.Pipe()
	go func() {
		defer close(chunks)
		for {
			b := make([]byte, 4096)
			n, err := c.Read(b)
			if n > 0 {
				chunks <- b[:n]
			}
			if err != nil {
				return
			}
		}
	}()
	go func() {
		for b := range chunks {
			w.Write(b)
		}
		w.Close()
	}()
	return aheadConn{c, r}
}

// Handshakes that fail are faults, unless the client does not accept our certificate, or
// sends nothing.
func TestFailedHandshakesBan(t *testing.T) {
	for name, tt := range map[string]struct {
		connect func(c net.Conn)
		bans    bool
	}{
		"no TLS":  {func(c net.Conn) { c.Write([]byte("GET / HTTP/1.1\r\n\r\n")) }, true},
		"nothing": {func(c net.Conn) {}, false},
		"unknown certificate": {func(c net.Conn) {
			ahead := readAhead(c)
			defer ahead.r.Close()
			tls.Client(ahead, &tls.Config{ServerName: "sip.example.com"}).Handshake()
		}, false},
		"a TLS version too old": {func(c net.Conn) {
			tls.Client(c, &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS10}).Handshake()
		}, true},
	} {
		t.Run(name, func(t *testing.T) {
			b := &tlsBed{}
			runUnproven(t, func(s *testbed) {
				for range 12 {
					c, err := s.net.Dial(otherAt.Addr(), proxyTLSAt)
					if err != nil {
						s.t.Fatal(err)
					}
					tt.connect(c)
					s.advance(10 * ms)
					c.Close()
					s.advance(10 * ms)
				}
				lines := s.bans()
				if !tt.bans && len(lines) > 0 || tt.bans && (len(lines) != 1 || !strings.Contains(lines[0], "source=192.0.2.102 reason=handshake")) {
					s.t.Errorf("log %q", lines)
				}
			}, guarded, b.listen)
		})
	}
}

// A request with a made-up To tag is limited as one outside a dialog is, with a rate of its
// own. A Route to elsewhere does not change that.
func TestMadeUpDialogsAreLimited(t *testing.T) {
	for name, tt := range map[string]struct {
		lines []string
		want  int
	}{
		"no Route":           {nil, 30},
		"a Route of another": {[]string{"Route: <sip:203.0.113.9;lr>"}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			runUnproven(t, func(s *testbed) {
				got := 0
				for range 60 {
					s.phone.send(s.phone.newRequest("BYE", "sip:102@pbx.example", append(tt.lines, "To: <sip:102@pbx.example>;tag=made-up")...))
					if m, ok := s.pbx.nextMessage(); ok {
						got++
						s.pbx.respond(m, "481 No Such Dialog")
					}
					s.phone.discardReceived()
				}
				if got != tt.want {
					s.t.Errorf("%d of 60 reach the PBX, want %d", got, tt.want)
				}
			}, guarded)
		})
	}
}

// A connection that had sent nothing when its source was banned ends with its first
// message.
func TestBanEndsSilentConnections(t *testing.T) {
	runUnproven(t, func(s *testbed) {
		guesser := s.dialTCPPeer(otherAt.Addr())
		guesser.guess(9)
		c, err := s.net.Dial(otherAt.Addr(), proxyAt)
		if err != nil {
			s.t.Fatal(err)
		}
		silent := s.addConnPeer(c, "TCP")
		guesser.register("101", "n9", "403 Forbidden")
		if lines := s.bans(); len(lines) != 1 {
			s.t.Fatalf("log %q", lines)
		}
		silent.send(silent.newRequest("MESSAGE", "sip:102@pbx.example"))
		silent.expect("the banned source", "<closed>")
		if m, ok := s.pbx.nextMessage(); ok {
			s.t.Errorf("a banned source reaches the PBX:\n%s", m)
		}
	}, guarded)
}

// An ACK has no answer, so that one without a dialog is dropped beyond the rate, on
// connections too.
func TestACKsOutsideDialogsAreLimited(t *testing.T) {
	runUnproven(t, func(s *testbed) {
		over := s.dialTCPPeer(otherAt.Addr())
		got := 0
		for range 60 {
			over.send(over.newRequest("ACK", "sip:102@pbx.example"))
			if _, ok := s.pbx.nextMessage(); ok {
				got++
			}
		}
		if got > 30 {
			s.t.Errorf("%d of 60 reach the PBX, want 30 at most", got)
		}
	}, guarded)
}

// The ban of an IPv6 network does not apply to the PBX, a trunk and an allowed source in it,
// and closes no connection of theirs.
func TestBannedNetworkOfThePBX(t *testing.T) {
	at := func(host string) netip.AddrPort { return netip.MustParseAddrPort("[2001:db8::" + host + "]:5060") }
	runUnproven(t, func(s *testbed) {
		s.pbx.proxyAddr = proxy6At
		addUDP := func(host string) *peer {
			p := s.addUDPPeer(at(host))
			p.proxyAddr = proxy6At
			return p
		}
		var free []*peer
		for _, host := range []string{"200", "77"} {
			free = append(free, addUDP(host), s.dialTCPPeerAt(at(host).Addr(), proxy6At))
			free[len(free)-1].expectServed()
		}
		stranger, over := addUDP("101"), s.dialTCPPeerAt(at("102").Addr(), proxy6At)
		over.expectServed()
		stranger.guess(10)
		if lines := s.bans(); len(lines) != 1 || !strings.Contains(lines[0], "source=2001:db8::/64 ") {
			s.t.Fatalf("log %q", lines)
		}
		over.expect("another address of the network", "<closed>")
		addUDP("103").expectBanned()
		for _, p := range free {
			p.expectServed()
		}
		for _, host := range []string{"200", "77"} {
			s.dialTCPPeerAt(at(host).Addr(), proxy6At).expectServed()
		}
		s.pbx.send(s.pbx.newRequest("OPTIONS", "sip:[2001:db8::1]"))
		s.pbx.expect("a request of the PBX is answered", "SIP/2.0 200")
	}, guarded, dualStack, func(c *sip.Config) {
		c.PBX = []sip.Addr{{Proto: sip.UDP, AddrPort: at("2")}}
		c.Trunks = []sip.Trunk{{Name: "carrier", Sources: parsePrefixes("2001:db8::200/128")}}
		c.Guard.Allow = parsePrefixes("2001:db8::77/128")
	})
}

// Connections are counted for the whole /64 of an IPv6 address.
func TestConnectionsOfOneNetworkAreLimited(t *testing.T) {
	runUnproven(t, func(s *testbed) {
		dial := func(ip string) *peer { return s.dialTCPPeerAt(netip.MustParseAddr(ip), proxy6At) }
		first := dial("2001:db8:1:2::1")
		first.expectServed()
		dial("2001:db8:1:2::2").expectServed()
		dial("2001:db8:1:2::3").expect("the third of the network", "<closed>")
		dial("2001:db8:1:3::3").expectServed()
		if log := s.log.String(); !strings.Contains(log, "source=2001:db8:1:2::/64 limit=guard.connections connections=2") {
			s.t.Errorf("log %s", log)
		}
		first.closeAndForget()
		s.advance(0)
		dial("2001:db8:1:2::3").expectServed()
	}, dualStack, func(c *sip.Config) { c.Connections = 2 })
}

// A trunk that is known by its certificate is neither limited nor banned on its connection,
// whatever comes from its address otherwise.
func TestTrunkWithCertificateIsFree(t *testing.T) {
	b := &tlsBed{}
	runUnproven(t, func(s *testbed) {
		carrier := s.dialTLSPeer(otherAt.Addr(), b, b.ca.IssueTLS(siptest.CertificateRequest{Hosts: []string{"sip.carrier.example"}}))
		for range 60 {
			carrier.expectServed()
		}
		carrier.send(carrier.newRequest("MESSAGE", "sip:102@pbx.example", "User-Agent: friendly-scanner"))
		s.pbx.respond(s.pbx.expect("it may be called anything", "MESSAGE"), "200 OK")
		carrier.expect("answered", "SIP/2.0 200")
		carrier.guess(30)
		if lines := s.bans(); len(lines) > 0 {
			s.t.Errorf("banned: %s", lines)
		}
		neighbour := s.dialTCPPeer(otherAt.Addr())
		neighbour.guess(10)
		neighbour.expect("another client at its address is banned", "<closed>")
		carrier.expectServed()
	}, b.listen, guarded, func(c *sip.Config) {
		c.Trunks = []sip.Trunk{{Name: "carrier", TLSNames: []string{"sip.carrier.example"}, TLS: b.newClient("sip.carrier.example", nil)}}
	})
}

// A PBX may answer OPTIONS without looking at its credentials. So a 2xx to it does not set
// the faults to 0.
func TestAcceptedOptionsClearNoFaults(t *testing.T) {
	runUnproven(t, func(s *testbed) {
		s.phone.guess(9)
		s.phone.send(s.phone.newRequest("OPTIONS", "sip:102@pbx.example", `Authorization: Digest nonce="n9"`))
		s.pbx.respond(s.pbx.expect("goes on", "OPTIONS"), "200 OK")
		s.phone.expect("answered", "SIP/2.0 200")
		s.phone.register("101", "n9", "403 Forbidden")
		s.phone.expectBanned()
	}, guarded)
}

// STUN requests of a banned source are not answered.
func TestBannedSourceGetsNoSTUN(t *testing.T) {
	request, _ := hex.DecodeString("000100002112a442b7e7a701bc34d686fa87dfae")
	runUnproven(t, func(s *testbed) {
		s.phone.write(request)
		s.phone.expect("before the ban", "\x01\x01")
		s.phone.guess(10)
		s.phone.write(request)
		s.expectNothing("the source is banned")
	}, guarded)
}

// What is no WebSocket handshake on a WebSocket port is a fault, unless a web page may have
// made the browser of its visitor send it.
func TestFailedWebSocketHandshakesBan(t *testing.T) {
	for name, tt := range map[string]struct {
		send   text
		reason string // of the ban, or ""
	}{
		"no subprotocol": {handshakeLines + "\r\n", "handshake"},
		"HTTP":           {"GET /.env HTTP/1.1\r\nHost: x\r\n\r\n", "handshake"},
		"TLS":            {"\x16\x03\x01\x00\x05hello", "not_sip"},
		"another page":   {handshakeLines + "Origin: https://other.example\r\nSec-WebSocket-Protocol: sip\r\n\r\n", ""},
		"opened as page": {"GET / HTTP/1.1\r\nHost: x\r\nSec-Fetch-Site: none\r\n\r\n", ""},
		"nothing":        {"", ""},
	} {
		t.Run(name, func(t *testing.T) {
			runUnproven(t, func(s *testbed) {
				for range 12 {
					p := s.dialTCPPeerAt(otherAt.Addr(), wsAt)
					p.send(tt.send)
					s.advance(10 * ms)
					p.closeAndForget()
				}
				s.advance(10 * ms)
				lines := s.bans()
				if tt.reason == "" && len(lines) > 0 || tt.reason != "" && (len(lines) != 1 || !strings.Contains(lines[0], "source=192.0.2.102 reason="+tt.reason+" ")) {
					s.t.Errorf("log %q", lines)
				}
			}, guarded, withWebSocket, func(c *sip.Config) {
				for i := range c.Listen {
					c.Listen[i].Origins = []string{"https://phone.example"}
				}
			})
		})
	}
}

// Behind a reverse proxy, faults are those of the client that it names, and the ban closes
// that client's connections only. Faults of the reverse proxy's own health checks are none.
func TestBansBehindAReverseProxy(t *testing.T) {
	runUnproven(t, func(s *testbed) {
		open := func(header text) *peer {
			p := s.dialTCPPeer(balancerAt)
			p.send("PROXY " + header + "\r\n")
			s.advance(10 * ms)
			return p
		}
		const banned, other, check = "TCP4 198.51.100.7 192.0.2.1 5555 5060", "TCP4 198.51.100.8 192.0.2.1 5555 5060", "UNKNOWN"
		for range 12 {
			for _, header := range []text{check, banned} {
				p := open(header)
				p.send("BREW /pot\r\n\r\n")
				s.advance(10 * ms)
				p.closeAndForget()
			}
		}
		s.advance(10 * ms)
		if lines := s.bans(); len(lines) != 1 || !strings.Contains(lines[0], "source=198.51.100.7 reason=not_sip") {
			s.t.Fatalf("log %q", lines)
		}
		open(banned).expect("the banned client", "<closed>")
		open(other).expectServed()
	}, guarded, behindProxy)
}
