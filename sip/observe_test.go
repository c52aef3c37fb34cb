package sip_test

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"bellhop/dialog"
	"bellhop/sip"
)

// takeObservations returns the waiting observations, one line for each message.
func (s *testbed) takeObservations() (lines []string) {
	s.advance(0)
	for len(s.observations) > 0 {
		m := <-s.observations
		what := m.Method
		if !m.Request() {
			what = fmt.Sprintf("%d %s", m.Status, m.Method)
		}
		if m.Own {
			what += " of our own"
		}
		lines = append(lines, fmt.Sprintf("%s: %s to %s, peer %s, tags %s %s, body %d", what, m.Src, m.Dst, farEnd(m), m.FromTag, m.ToTag, len(m.Body)))
	}
	return lines
}

// farEnd returns the peer of a message that is not the PBX; if neither is, the one that
// answers.
func farEnd(m dialog.Message) netip.AddrPort {
	if m.Request() && m.Dst == dialog.Edge || !m.Request() && m.Src != dialog.Edge {
		return m.To
	}
	return m.From
}

func (s *testbed) expectObservations(want ...string) {
	s.t.Helper()
	got := s.takeObservations()
	for i := range max(len(got), len(want)) {
		g, w := "nothing", "nothing"
		if i < len(got) {
			g = got[i]
		}
		if i < len(want) {
			w = want[i]
		}
		assertEqual(s.t, fmt.Sprintf("message %d", i), g, w)
	}
}

func TestObservesEachMessageOfACallOnce(t *testing.T) {
	runScenario(t, func(s *testbed) {
		invite := s.phone.newInvite("From: <sip:101@pbx.example>;tag=a", "", "v=0")
		s.phone.send(invite, invite)
		got := s.pbx.expect("the INVITE goes on", "INVITE")
		s.pbx.respond(got, "100 Trying")
		s.pbx.respond(got, "180 Ringing")
		s.phone.sendCancel(invite)
		s.phone.sendCancel(invite)
		s.pbx.respond(got, "487 Request Terminated")
		s.pbx.respond(got, "487 Request Terminated")
		s.phone.sendACK(invite, s.phone.expectLast("the end", "SIP/2.0 180"))
		s.expectObservations(
			"INVITE: edge to pbx, peer 192.0.2.101:5062, tags a , body 3",
			"100 INVITE: pbx to edge, peer 192.0.2.101:5062, tags a , body 0",
			"180 INVITE: pbx to edge, peer 192.0.2.101:5062, tags a to-pbx, body 0",
			"CANCEL: edge to pbx, peer 192.0.2.101:5062, tags a , body 0",
			"487 INVITE: pbx to edge, peer 192.0.2.101:5062, tags a to-pbx, body 0",
			"ACK: edge to pbx, peer 192.0.2.101:5062, tags a to-pbx, body 0",
		)
		s.pbx.discardReceived()
	})
}

func TestObservesRequestsOfThePBX(t *testing.T) {
	runScenario(t, func(s *testbed) {
		invite := s.pbx.newRequest("INVITE", "sip:101@192.0.2.101:5062", "From: <sip:5551234@pbx.example>;tag=b")
		s.pbx.send(invite)
		got := s.phone.expect("a call comes in", "INVITE")
		s.phone.respond(got, "486 Busy Here")
		s.pbx.sendACK(invite, s.pbx.expect("busy", "SIP/2.0 486"))
		s.expectObservations(
			"INVITE: pbx to edge, peer 192.0.2.101:5062, tags b , body 0",
			"486 INVITE: edge to pbx, peer 192.0.2.101:5062, tags b to-phone, body 0",
			"ACK: pbx to edge, peer 192.0.2.101:5062, tags b to-phone, body 0",
		)
	})
}

func TestObservesOwnResponses(t *testing.T) {
	runScenario(t, func(s *testbed) {
		s.phone.send(s.phone.newInvite("From: <sip:101@pbx.example>;tag=a"))
		s.advance(33 * time.Second)
		saw := s.takeObservations()
		if len(saw) != 2 {
			t.Fatalf("saw %q", saw)
		}
		var tag string
		s.phone.expectLast("timeout", "SIP/2.0 100")
		fmt.Sscanf(saw[1], "408 INVITE of our own: pbx to edge, peer 192.0.2.101:5062, tags a %s body 0", &tag)
		if tag == "" {
			t.Errorf("saw %q", saw[1])
		}
		s.pbx.discardReceived()
	})
}

func TestObservationHasTheSendersBranch(t *testing.T) {
	runScenario(t, func(s *testbed) {
		for _, via := range []string{"branch=z9hG4bKx", "branch=1", "rport"} {
			s.phone.send(s.phone.newRequest("MESSAGE", "sip:102@pbx.example", "Via: SIP/2.0/UDP 192.0.2.101:5062;"+via))
			s.pbx.respond(s.pbx.expect("sent on", "MESSAGE"), "200 OK")
			s.advance(0)
			want := map[string]string{"branch=z9hG4bKx": "z9hG4bKx", "branch=1": "1", "rport": ""}[via]
			assertEqual(t, "request", (<-s.observations).Branch, want)
			assertEqual(t, "response", (<-s.observations).Branch, want)
		}
	})
}

func TestCorrelationIDIsAddedOnceAndRecognized(t *testing.T) { // DESIGN §3.2
	runScenario(t, func(s *testbed) {
		s.phone.send(s.phone.newInvite())
		got := s.pbx.expect("the INVITE goes on", "INVITE")
		cid := got.fieldValue("X-CID")
		if len(cid) != 48 {
			t.Fatalf("X-CID: %q", cid)
		}
		s.pbx.respond(got, "200 OK")
		s.pbx.send(s.pbx.newRequest("INVITE", "sip:102@192.0.2.101:5062", "X-CID: "+cid))
		called := s.phone.expectLast("passed on by the PBX", "SIP/2.0 200")
		assertEqual(t, "it stays as it is", called.fieldValue("X-CID"), cid)
		s.phone.respond(called, "200 OK")
		s.pbx.send(s.pbx.newRequest("INVITE", "sip:102@192.0.2.101:5062", "X-CID: "+cid[:40]+"00000000"))
		forged := s.phone.expect("a forged one", "INVITE")
		s.phone.respond(forged, "200 OK")
		s.advance(0)
		var cids []string
		for len(s.observations) > 0 {
			if m := <-s.observations; m.Request() {
				cids = append(cids, m.CID)
			}
		}
		assertEqual(t, "ids", fmt.Sprintf("%q", cids), fmt.Sprintf("%q", []string{cid[:32], cid[:32], ""}))
		s.pbx.discardReceived()
		c := s.phone.setUpCall(s.pbx)
		s.phone.send(s.phone.callerRequest(c.ok, "INVITE"))
		again := s.pbx.expect("a re-INVITE", "INVITE")
		assertEqual(t, "has none", again.fieldValue("X-CID"), "")
		s.pbx.respond(again, "200 OK")
	}, func(c *sip.Config) { c.AddCID = true }, withRegister(sip.RegisterNone))
}

func TestFullObservationChannelDelaysNothing(t *testing.T) { // DESIGN §3.4: observations never block
	blind := make(chan dialog.Message)
	runScenario(t, func(s *testbed) {
		for range 10 {
			s.phone.send(s.phone.newRequest("MESSAGE", "sip:102@pbx.example"))
			s.pbx.respond(s.pbx.expect("sent on", "MESSAGE"), "200 OK")
			s.phone.expect("answer", "SIP/2.0 200")
		}
		assertEqual(t, "unobserved", fmt.Sprint(s.proxy.Stats().Unobserved), "20")
	}, func(c *sip.Config) { c.Observations = blind })
}

func TestAddressesRoundTripAsText(t *testing.T) {
	for _, tt := range []struct{ in, want string }{
		{"udp://192.0.2.1:5070", "udp://192.0.2.1:5070"},
		{"tcp://192.0.2.1", "tcp://192.0.2.1:5060"},
		{"udp://[2001:db8::1]:5070", "udp://[2001:db8::1]:5070"},
		{"udp://[::]", "udp://[::]:5060"},
		{"192.0.2.1", `address "192.0.2.1" has no transport: write udp://192.0.2.1, tcp://192.0.2.1 or tls://192.0.2.1`},
		{"tls://192.0.2.1", "tls://192.0.2.1:5061"},
		{"tls://[2001:db8::1]:5071", "tls://[2001:db8::1]:5071"},
		{"ws://192.0.2.1", "ws://192.0.2.1:80"},
		{"wss://192.0.2.1", "wss://192.0.2.1:443"},
		{"sctp://192.0.2.1", `address "sctp://192.0.2.1": unknown transport "sctp": use udp://, tcp://, tls://, ws:// or wss://`},
		{"udp://pbx.example", "udp://pbx.example"},
		{"tcp://PBX.Example.:5070", "tcp://pbx.example:5070"},
		{"udp://pbx.example:0", `address "udp://pbx.example:0": "0" is not a port: write 1 to 65535`},
		{"udp://pbx example", `address "udp://pbx example": "pbx example" is neither an IP address nor a host name: write udp://192.0.2.1:5060 or udp://pbx.example.com`},
		{"udp://192.0.2.300", `address "udp://192.0.2.300": "192.0.2.300" is neither an IP address nor a host name: write udp://192.0.2.1:5060 or udp://pbx.example.com`},
		{"udp://", `address "udp://": "" is neither an IP address nor a host name: write udp://192.0.2.1:5060 or udp://pbx.example.com`},
		{"udp://192.0.2.1:99999", `address "udp://192.0.2.1:99999": "99999" is not a port: write 1 to 65535`},
		{"tcp://[2001:db8::1]:sip", `address "tcp://[2001:db8::1]:sip": "sip" is not a port: write 1 to 65535`},
	} {
		a := sip.Addr{Host: "before"}
		got := ""
		if err := a.UnmarshalText([]byte(tt.in)); err != nil {
			got = err.Error()
		} else {
			got = a.String()
		}
		assertEqual(t, tt.in, got, tt.want)
	}
	for _, tt := range []struct{ in, want string }{
		{"", ""},
		{"sip.example.com", "sip.example.com"},
		{"sip.example.com:5070", "sip.example.com:5070"},
		{"192.0.2.1:5070", "192.0.2.1:5070"},
		{"2001:db8::1", "[2001:db8::1]"},
		{"[2001:db8::1]:5070", "[2001:db8::1]:5070"},
		{"sip example", `advertise "sip example" is not host[:port]`},
		{"sip.example:x", `advertise "sip.example:x": "x" is not a port: write 1 to 65535`},
	} {
		var h sip.HostPort
		got := ""
		if err := h.UnmarshalText([]byte(tt.in)); err != nil {
			got = err.Error()
		} else {
			got = h.String()
		}
		assertEqual(t, tt.in, got, tt.want)
	}
	var r sip.Register
	if err := r.UnmarshalText([]byte("contacts")); err == nil || err.Error() != `register is "path", "contact" or "none", not "contacts"` {
		t.Errorf("got %v", err)
	}
}

func TestUnspecifiedListenerNamesOneAddress(t *testing.T) {
	pbx, at := openSocket(t)
	proxy, _ := startOnLoopbackAt(t, netip.MustParseAddrPort("0.0.0.0:0"), sip.Addr{Proto: sip.UDP, AddrPort: at})
	c, own := openSocket(t)
	c.WriteToUDPAddrPort([]byte((&peer{proto: "UDP", addr: own}).newRequest("MESSAGE", "sip:102@pbx.example")), netip.AddrPortFrom(loopback.Addr(), proxy.Port()))
	got, _ := expectDatagram(t, pbx, "sent on", "MESSAGE")
	want := fmt.Sprintf("SIP/2.0/UDP 127.0.0.1:%d;", proxy.Port())
	assertEqual(t, "Via", got.fieldValue("Via")[:len(want)], want)
}

// countingNetwork notes how many observations were waiting when each packet was sent.
type countingNetwork struct {
	sip.Network
	observations chan<- dialog.Message
	left         *[]string
}

func (n countingNetwork) ListenPacket(a netip.AddrPort) (sip.PacketConn, error) {
	c, err := n.Network.ListenPacket(a)
	return countingConn{c, n}, err
}

type countingConn struct {
	sip.PacketConn
	countingNetwork
}

func (c countingConn) WriteToUDPAddrPort(b []byte, to netip.AddrPort) (int, error) {
	line, _, _ := strings.Cut(string(b), "\r\n")
	*c.left = append(*c.left, fmt.Sprintf("%d seen, %s", len(c.observations), line))
	return c.PacketConn.WriteToUDPAddrPort(b, to)
}

// A message is observed before it is forwarded, and so before the messages it causes,
// such as the PBX's INVITE to the callee.
func TestObservesCausesBeforeEffects(t *testing.T) {
	var left []string
	runScenario(t, func(s *testbed) {
		invite := s.phone.newInvite()
		s.phone.send(invite)
		got := s.pbx.expect("the INVITE goes on", "INVITE")
		s.pbx.respond(got, "180 Ringing")
		s.phone.expect("it rings", "SIP/2.0 180")
		s.pbx.respond(got, "486 Busy Here")
		s.phone.sendACK(invite, s.phone.expect("busy", "SIP/2.0 486"))
		s.pbx.expect("our ACK", "ACK")
		want := []string{
			"1 seen, INVITE sip:102@pbx.example SIP/2.0",
			"2 seen, SIP/2.0 180 Ringing",
			"2 seen, ACK sip:102@pbx.example SIP/2.0", // ours, to the PBX
			"3 seen, SIP/2.0 486 Busy Here",
		}
		if !slices.Equal(left, want) {
			t.Errorf("got  %q\nwant %q", left, want)
		}
	}, func(c *sip.Config) { c.Net = countingNetwork{c.Net, c.Observations, &left} })
}

func TestObservationHasTheAddresses(t *testing.T) {
	runScenario(t, func(s *testbed) {
		see := func(m dialog.Message) string {
			return fmt.Sprintf("%s %d: %s to %s at %s %v", m.Method, m.Status, m.From, m.To, m.Local, m.Stream)
		}
		phone := s.dialTCPPeer(phoneAt.Addr())
		phone.send(phone.newRequest("INVITE", "sip:102@pbx.example").replaced(phone.addr.String(), netip.AddrPortFrom(phone.addr.Addr(), 5060).String()))
		s.pbx.respond(s.pbx.expect("the INVITE goes on", "INVITE"), "486 Busy Here")
		s.advance(0)
		m := <-s.observations
		assertEqual(t, "request over TCP", see(m), fmt.Sprintf("INVITE 0: %s to %s at %s true", m.From, pbxAt, proxyAt))
		assertEqual(t, "its response", see(<-s.observations), fmt.Sprintf("INVITE 486: %s to %s at %s false", pbxAt, m.From, proxyAt))

		s.phone.send(s.phone.newInvite())
		s.advance(33 * time.Second)
		m = <-s.observations
		assertEqual(t, "over UDP", see(m), fmt.Sprintf("INVITE 0: %s to %s at %s false", phoneAt, pbxAt, proxyAt))
		m = <-s.observations
		assertEqual(t, "our own", see(m), fmt.Sprintf("INVITE 408: %s to %s at %s false", pbxAt, phoneAt, proxyAt))
		s.pbx.discardReceived()
		s.phone.discardReceived()
	}, oneWorker)
}

// Messages are stamped by a clock that is never adjusted, with the offset of the wall
// clock. Clock returns the same.
func TestObservationHasTheWallClockOffset(t *testing.T) {
	var ahead time.Duration
	wall := func() time.Time { return time.Now().Add(ahead) }
	runScenario(t, func(s *testbed) {
		began := time.Now()
		want := func(what string, at, offset time.Duration) {
			t.Helper()
			s.advance(0)
			for len(s.observations) > 0 {
				if m := <-s.observations; m.At.Sub(began) != at || m.WallOffset != offset {
					t.Errorf("%s: %s %d was at %v, and the wall clock ahead by %v; want %v, %v", what, m.Method, m.Status, m.At.Sub(began), m.WallOffset, at, offset)
				}
			}
			now, got := s.proxy.Clock()
			if !now.Equal(time.Now()) || got != offset {
				t.Errorf("%s: it is %v, and the wall clock ahead by %v; want %v, %v", what, now, got, time.Now(), offset)
			}
		}
		invite, got := s.sendInvite()
		want("never set", 0, 0)
		s.advance(100 * time.Millisecond)
		ahead = 5 * time.Hour
		s.pbx.respond(got, "180 Ringing")
		want("set forward", 100*time.Millisecond, ahead)
		s.advance(100 * time.Millisecond)
		ahead = -time.Hour
		s.pbx.respond(got, "486 Busy Here")
		want("set back", 200*time.Millisecond, ahead)
		s.phone.sendACK(invite, s.phone.expectLast("the end", "SIP/2.0 180"))
		s.pbx.discardReceived()
	}, func(c *sip.Config) { c.WallClock = wall })
}
