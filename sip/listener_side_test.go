package sip_test

import (
	"context"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"bellhop/sip"
)

// insideAt is the proxy's address in the network of the PBX.
var insideAt = netip.MustParseAddrPort("192.0.2.3:5060")

// twoNetworks gives the proxy one listener for phones, at proxyAt, and one for the PBX, at
// insideAt.
func twoNetworks(c *sip.Config) {
	for i := range c.Listen {
		c.Listen[i].Side = sip.EdgeListener
	}
	for _, proto := range []sip.Proto{sip.UDP, sip.TCP} {
		c.Listen = append(c.Listen, sip.Listener{Addr: sip.Addr{Proto: proto, AddrPort: insideAt}, Side: sip.PBXListener})
	}
	c.StripIdentity = true
}

// A message with the source address of the PBX that comes to a listener of phones may be
// forged. It is a stranger's: it reaches no phone, and what only a trusted peer may say is
// removed.
func TestThePBXsAddressIsAStrangersAtAnEdgeListener(t *testing.T) {
	runScenario(t, func(s *testbed) {
		s.pbx.proxyAddr = insideAt
		s.phone.send(s.phone.newRequest("REGISTER", "sip:pbx.example", "To: <sip:101@pbx.example>"))
		register := s.pbx.expect("sent on", "REGISTER")
		s.pbx.respond(register, "200 OK")
		s.phone.expect("registered", "SIP/2.0 200")
		c := s.phone.setUpCall(s.pbx)

		s.pbx.proxyAddr = proxyAt
		s.pbx.send(s.pbx.newRequest("MESSAGE", "sip:101@192.0.2.101:5062", "P-Asserted-Identity: <sip:1@pbx.example>"))
		got := s.pbx.expect("it goes to the PBX, as a phone's", "MESSAGE")
		assertEqual(t, "it leaves from", s.pbx.lastSource.String(), insideAt.String())
		assertEqual(t, "P-Asserted-Identity", got.fieldValue("P-Asserted-Identity"), "")
		s.pbx.proxyAddr = insideAt
		s.pbx.respond(got, "404 Not Found")
		s.pbx.expect("answer", "SIP/2.0 404")
		s.pbx.proxyAddr = proxyAt
		s.pbx.send(s.pbx.newRequest("MESSAGE", "sip:101@192.0.2.101:5062", "Route: "+register.fieldValue("Path")))
		s.pbx.discardReceived()
		s.expectNothing("its Path leads to no phone")
		if why := strings.Join(s.proxy.Degraded(), "|"); !strings.Contains(why, `192.0.2.2:5060 came to a listener with side = "edge"`) {
			t.Errorf("degraded: %q", why)
		}

		s.pbx.proxyAddr = insideAt
		s.pbx.send(s.pbx.calleeRequest(c.invite, "BYE"))
		s.phone.respond(s.phone.expect("the PBX hangs up where it may", "BYE"), "200 OK")
		assertEqual(t, "it leaves from", s.phone.lastSource.String(), proxyAt.String())
		s.pbx.expect("answer", "SIP/2.0 200")
	}, twoNetworks)
}

func TestOnlyThePBXMaySendToItsListener(t *testing.T) {
	runScenario(t, func(s *testbed) {
		s.phone.proxyAddr = insideAt
		for _, method := range []string{"INVITE", "REGISTER", "MESSAGE", "FOO"} {
			s.phone.send(s.phone.newRequest(method, "sip:102@pbx.example"))
			s.phone.expect(method, "SIP/2.0 403 Only The PBX May Send Here")
		}
		s.phone.send(s.phone.newRequest("OPTIONS", "sip:192.0.2.3"))
		s.phone.expect("OPTIONS", "SIP/2.0 403")
		s.phone.send(s.phone.newRequest("ACK", "sip:102@pbx.example"))
		s.expectNothing("an ACK is not answered")
		s.pbx.proxyAddr = insideAt
		s.pbx.send(s.pbx.newRequest("OPTIONS", "sip:192.0.2.3"))
		s.pbx.expect("the PBX may", "SIP/2.0 200")
		trunk := s.addUDPPeer(otherAt)
		trunk.proxyAddr = insideAt
		trunk.send(trunk.newInvite())
		trunk.expect("a trunk may not", "SIP/2.0 403")
	}, twoNetworks, func(c *sip.Config) {
		c.Trunks = []sip.Trunk{{Name: "carrier", Sources: parsePrefixes(otherAt.Addr().String())}}
	})
}

func TestEachSideHasItsOwnStreams(t *testing.T) {
	runScenario(t, func(s *testbed) {
		phone := s.dialTCPPeer(phoneAt.Addr())
		c := phone.setUpCall(s.pbx)
		assertEqual(t, "Record-Route", hosts(c.invite), "192.0.2.3:5060;transport=tcp 192.0.2.1:5060;transport=tcp")
		s.pbx.send(s.pbx.calleeRequest(c.invite, "BYE"))
		phone.respond(phone.expect("the PBX hangs up", "BYE"), "200 OK")
		s.pbx.expect("answer", "SIP/2.0 200")
	}, twoNetworks, pbxOverTCP)
}

// An upstream that probes the proxy moves on to another one while this one drains, or
// while no PBX is up.
func TestOptionsShowsWhetherCallsAreTaken(t *testing.T) {
	runScenario(t, func(s *testbed) {
		ask := func(want, retry string) {
			t.Helper()
			s.phone.send(s.phone.newRequest("OPTIONS", "sip:192.0.2.1"))
			got := s.phone.expect("our answer", want)
			assertEqual(t, "Retry-After", got.fieldValue("Retry-After"), retry)
		}
		ask("SIP/2.0 200 OK", "")
		_, got := s.sendInvite()
		s.pbx.respond(got, "180 Ringing")
		s.phone.expect("ringing", "SIP/2.0 180")
		ctx, cancel := context.WithCancel(context.Background())
		go s.proxy.Drain(ctx)
		synctest.Wait()
		ask("SIP/2.0 503 Going Down", "5")
		cancel()
		s.pbx.respond(got, "200 OK")
		s.phone.expect("the call goes on", "SIP/2.0 200")
	})
	second := netip.MustParseAddrPort("192.0.2.4:5060")
	runScenario(t, func(s *testbed) {
		for _, pbx := range s.allPBXs {
			pbx.respond(pbx.expect("probe", "OPTIONS"), "503 Service Unavailable")
		}
		s.phone.send(s.phone.newRequest("OPTIONS", "sip:192.0.2.1"))
		assertEqual(t, "Retry-After", s.phone.expect("no PBX is up", "SIP/2.0 503 No PBX Answers").fieldValue("Retry-After"), "5")
		s.advance(5 * time.Second)
		s.pbx.respond(s.pbx.expect("probe", "OPTIONS"), "200 OK")
		s.phone.send(s.phone.newRequest("OPTIONS", "sip:192.0.2.1"))
		s.phone.expect("one is up", "SIP/2.0 200")
	}, func(c *sip.Config) { c.PBX = append(c.PBX, sip.Addr{Proto: sip.UDP, AddrPort: second}) })
}
