package sip_test

import (
	"fmt"
	"net/netip"
	"testing"

	"bellhop/sip"
)

// Many PBXs send some requests over another transport than the one they are reached by.
// Taken for the edge side's, such a request would go back to the PBX.
func TestPBXIsRecognizedByAddressOnEachTransport(t *testing.T) { // RFC 3261 §18.1.1
	goesOut := func(t *testing.T, s *testbed, from *peer) {
		t.Helper()
		callee := s.addUDPPeer(otherAt)
		from.send(from.newRequest("MESSAGE", "sip:101@192.0.2.101:5062"))
		s.phone.respond(s.phone.expect("by the Request-URI", "MESSAGE"), "200 OK")
		from.expect("answer", "SIP/2.0 200")
		from.send(from.newRequest("SUBSCRIBE", "sip:101@phone.example", "Route: <sip:192.0.2.1;lr>", "Route: <sip:192.0.2.102:5062;lr>"))
		callee.respond(callee.expect("by Route", "SUBSCRIBE"), "200 OK")
		from.expect("answer", "SIP/2.0 200")

		// A call, with what follows within its dialog, from both ends.
		from.send(from.newRequest("INVITE", "sip:101@192.0.2.101:5062", "Contact: "+s.pbx.contact()))
		invite := s.phone.expect("a call", "INVITE")
		s.phone.respond(invite, "200 OK")
		ok := from.expect("answer", "SIP/2.0 200")
		from.send(from.callerRequest(ok, "ACK"))
		s.phone.expect("its ACK", "ACK")
		s.phone.send(s.phone.calleeRequest(invite, "BYE"))
		bye := s.pbx.expect("to the address of the configuration", "BYE")
		s.pbx.respond(bye, "200 OK")
		s.phone.expect("answer", "SIP/2.0 200")

		// A request that came along a Path.
		s.phone.send(s.phone.newRequest("REGISTER", "sip:pbx.example"))
		path := s.pbx.expect("a REGISTER", "REGISTER").fieldValue("Path")
		from.send(from.newRequest("NOTIFY", "sip:101@10.0.0.5", "Route: "+path))
		s.phone.respond(s.phone.expect("by Path", "NOTIFY"), "200 OK")
		from.expect("answer", "SIP/2.0 200")
		s.expectNothing("nothing goes back to the PBX")
	}
	for _, port := range []uint16{5060, 5080, 49152} {
		t.Run(fmt.Sprintf("tcp:// and sends over UDP from %d", port), func(t *testing.T) {
			runScenario(t, func(s *testbed) { goesOut(t, s, s.addUDPPeer(netip.AddrPortFrom(pbxAt.Addr(), port))) }, pbxOverTCP, oneWorker)
		})
	}
	t.Run("udp:// and sends over TCP", func(t *testing.T) {
		runScenario(t, func(s *testbed) { goesOut(t, s, s.dialTCPPeer(pbxAt.Addr())) }, oneWorker)
	})
	t.Run("the second of two", func(t *testing.T) {
		runScenario(t, func(s *testbed) {
			own := s.dialTCPPeer(netip.MustParseAddr("192.0.2.12"))
			own.send(own.newRequest("MESSAGE", "sip:101@192.0.2.101:5062"))
			s.phone.respond(s.phone.expect("by the Request-URI", "MESSAGE"), "200 OK")
			own.expect("answer", "SIP/2.0 200")
		}, func(c *sip.Config) {
			c.PBX = append(c.PBX, sip.Addr{Proto: sip.UDP, AddrPort: netip.MustParseAddrPort("192.0.2.12:5060")})
		})
	})
}

// Phones may have the PBX's address, behind one NAT or on one machine.
func TestPhonesMayHaveThePBXsAddress(t *testing.T) {
	t.Run("behind one NAT, over TCP", func(t *testing.T) {
		runScenario(t, func(s *testbed) {
			phone := s.dialTCPPeer(pbxAt.Addr())
			phone.send(phone.newRequest("REGISTER", "sip:pbx.example"))
			got := s.pbx.expect("a phone's REGISTER", "REGISTER")
			s.pbx.respond(got, "200 OK", "Path: "+got.fieldValue("Path"))
			phone.expect("answer", "SIP/2.0 200")
			phone.send(phone.newInvite())
			s.pbx.respond(s.pbx.expect("and its call", "INVITE"), "486 Busy Here")
			phone.expect("answer", "SIP/2.0 486")
			s.pbx.discardReceived()
			s.pbx.send(s.pbx.newRequest("OPTIONS", "sip:101@10.0.0.5", "Route: "+got.fieldValue("Path")))
			phone.respond(phone.expect("over its connection", "OPTIONS"), "200 OK")
			s.pbx.expect("answer", "SIP/2.0 200")

			own := s.dialTCPPeer(pbxAt.Addr()) // another connection is the PBX's
			own.send(own.newRequest("MESSAGE", "sip:101@192.0.2.101:5062"))
			s.phone.respond(s.phone.expect("from the PBX", "MESSAGE"), "200 OK")
			own.expect("answer", "SIP/2.0 200")
		})
	})
	t.Run("behind one NAT, over UDP", func(t *testing.T) {
		runScenario(t, func(s *testbed) {
			phone := s.addUDPPeer(netip.MustParseAddrPort("192.0.2.2:40123"))
			phone.send(phone.newInvite())
			s.pbx.respond(s.pbx.expect("a phone's call", "INVITE"), "486 Busy Here")
			phone.expect("answer", "SIP/2.0 486")
			s.pbx.discardReceived()
		})
	})
	for _, proto := range []sip.Proto{sip.UDP, sip.TCP} {
		t.Run("on bellhop's own machine, "+proto.String(), func(t *testing.T) {
			runScenario(t, func(s *testbed) {
				phone := s.addUDPPeer(netip.MustParseAddrPort("192.0.2.1:40123"))
				if proto == sip.UDP {
					phone = s.dialTCPPeer(proxyAt.Addr())
				}
				phone.send(phone.newInvite())
				s.pbx.respond(s.pbx.expect("a phone's call", "INVITE"), "486 Busy Here")
				phone.expect("answer", "SIP/2.0 486")
				s.pbx.discardReceived()

				if proto == sip.UDP {
					return
				}
				pbx := s.addUDPPeer(netip.MustParseAddrPort("192.0.2.1:5070")) // by its port it is known all the same
				pbx.send(pbx.newRequest("MESSAGE", "sip:101@192.0.2.101:5062"))
				s.phone.respond(s.phone.expect("from the PBX", "MESSAGE"), "200 OK")
				pbx.expect("answer", "SIP/2.0 200")
			}, func(c *sip.Config) {
				c.PBX = []sip.Addr{{Proto: proto, AddrPort: netip.MustParseAddrPort("192.0.2.1:5070")}}
			})
		})
	}
}
