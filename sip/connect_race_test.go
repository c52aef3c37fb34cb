package sip_test

import (
	"net"
	"net/netip"
	"testing"
	"time"

	"bellhop/sip"
	"bellhop/sip/resolve/resolvetest"
)

// runConnectScenario runs a script with a carrier over TCP that has an IPv6 and an IPv4 address. Requests to it try the
// IPv6 address first. A connection to an address without a peer is not accepted for 5 s.
func runConnectScenario(t *testing.T, script func(s *testbed, send func() (invite text))) {
	t.Helper()
	server := resolvetest.NewServer(t, "carrier.example. 600 AAAA 2001:db8::5\ncarrier.example. 600 A 198.51.100.1")
	runScenario(t, func(s *testbed) {
		s.advance(time.Second)
		script(s, func() text {
			invite := s.pbx.newRequest("INVITE", "sip:+1555@carrier.example;transport=tcp")
			s.pbx.send(invite)
			return invite
		})
	}, namedPBX(server), func(c *sip.Config) {
		c.PBX = []sip.Addr{{Proto: sip.UDP, AddrPort: pbxAt}}
		c.Listen = append(c.Listen, sip.Listener{Addr: sip.Addr{Proto: sip.TCP, AddrPort: proxy6At}})
		c.Trunks = []sip.Trunk{{Name: "carrier", To: []sip.Addr{{Proto: sip.TCP, Host: "carrier.example"}}}}
	})
}

var (
	carrier6At = netip.MustParseAddrPort("[2001:db8::5]:5060")
	carrier4At = netip.MustParseAddrPort("198.51.100.1:5060")
)

// openBlackHole opens an address at which connections are not accepted.
func (s *testbed) openBlackHole(at netip.AddrPort) net.Listener {
	s.t.Helper()
	l, err := s.net.Listen(at)
	if err != nil {
		s.t.Fatal(err)
	}
	return l
}

// An address to which no connection can be opened costs a call 250 ms, and the next calls
// nothing while the connection is still being opened.
func TestAddressToNowhereCostsLittle(t *testing.T) {
	runConnectScenario(t, func(s *testbed, send func() text) {
		hole := s.openBlackHole(carrier6At)
		defer hole.Close()
		carrier := s.addTCPListener(carrier4At)
		send()
		s.advance(240 * ms)
		carrier.expectNone("too early")
		s.advance(20 * ms)
		carrier.respond(carrier.expect("after 250 ms", "INVITE"), "486 Busy Here")
		carrier.expect("its ACK", "ACK")
		s.pbx.expect("meanwhile", "SIP/2.0 100")
		s.pbx.expect("the answer", "SIP/2.0 486")
		send()
		s.advance(10 * ms)
		carrier.respond(carrier.expect("at once", "INVITE"), "486 Busy Here")
		carrier.expect("its ACK", "ACK")
		s.pbx.expect("the answer", "SIP/2.0 486")
	})
}

// The first connection that opens gets the request, and no other one does.
func TestFirstOpenConnectionGetsTheRequest(t *testing.T) {
	runConnectScenario(t, func(s *testbed, send func() text) {
		first, second := s.openBlackHole(carrier6At), s.openBlackHole(carrier4At)
		send()
		s.advance(400 * ms)
		accepted, err := first.Accept() // while the request waits for the second connection
		if err != nil {
			t.Fatal(err)
		}
		first.Close()
		carrier := s.addConnPeer(accepted, "TCP")
		s.advance(110 * ms)
		carrier.respond(carrier.expect("over the first connection", "INVITE"), "486 Busy Here")
		carrier.expect("its ACK", "ACK")
		s.pbx.expect("meanwhile", "SIP/2.0 100")
		s.pbx.expect("the answer", "SIP/2.0 486")
		other, err := second.Accept()
		if err != nil {
			t.Fatal(err)
		}
		second.Close()
		late := s.addConnPeer(other, "TCP")
		s.advance(time.Second)
		late.expectNone("the request went elsewhere")
	})
}

// No connection opens. The call fails when each address has failed once, and is not sent
// around for ever.
func TestNoConnectionOpens(t *testing.T) {
	runConnectScenario(t, func(s *testbed, send func() text) {
		first, second := s.openBlackHole(carrier6At), s.openBlackHole(carrier4At)
		defer first.Close()
		defer second.Close()
		invite := send()
		s.advance(11 * time.Second)
		s.pbx.expect("meanwhile", "SIP/2.0 100")
		s.pbx.sendACK(invite, s.pbx.expect("it fails", "SIP/2.0 500"))
	})
}

// A connection that opens late gives its target as much time for the response as any other.
func TestTimeForTheResponseBeginsWithTheConnection(t *testing.T) {
	runConnectScenario(t, func(s *testbed, send func() text) {
		first, second := s.openBlackHole(carrier6At), s.openBlackHole(carrier4At)
		defer first.Close()
		send()
		s.advance(1900 * ms)
		accepted, err := second.Accept()
		if err != nil {
			t.Fatal(err)
		}
		second.Close()
		carrier := s.addConnPeer(accepted, "TCP")
		got := carrier.expect("the call", "INVITE")
		s.advance(1900 * ms)
		carrier.respond(got, "486 Busy Here")
		carrier.expect("its ACK", "ACK")
		s.pbx.expect("meanwhile", "SIP/2.0 100")
		s.pbx.expect("the answer", "SIP/2.0 486")
	})
}
