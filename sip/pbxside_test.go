package sip_test

import (
	"fmt"
	"net/netip"
	"testing"

	"bellhop/sip"
)

// TestAPBXIsKnownByItsAddressOnEachTransport: many send some requests over another
// transport than the one they are reached by. Taken for the edge side's, they would
// go back to the PBX.
func TestAPBXIsKnownByItsAddressOnEachTransport(t *testing.T) { // RFC 3261 §18.1.1
	goesOut := func(t *testing.T, s *scene, from *peer) {
		t.Helper()
		callee := s.udp(otherAt)
		from.sends(from.request("MESSAGE", "sip:101@192.0.2.101:5062"))
		s.phone.replies(s.phone.gets("by the Request-URI", "MESSAGE"), "200 OK")
		from.gets("answer", "SIP/2.0 200")
		from.sends(from.request("SUBSCRIBE", "sip:101@phone.example", "Route: <sip:192.0.2.1;lr>", "Route: <sip:192.0.2.102:5062;lr>"))
		callee.replies(callee.gets("by Route", "SUBSCRIBE"), "200 OK")
		from.gets("answer", "SIP/2.0 200")

		// A call, with what follows within its dialog, from both ends.
		from.sends(from.request("INVITE", "sip:101@192.0.2.101:5062", "Contact: "+s.pbx.contact()))
		invite := s.phone.gets("a call", "INVITE")
		s.phone.replies(invite, "200 OK")
		ok := from.gets("answer", "SIP/2.0 200")
		from.sends(from.within(ok, "ACK"))
		s.phone.gets("its ACK", "ACK")
		s.phone.sends(s.phone.back(invite, "BYE"))
		bye := s.pbx.gets("to the address of the configuration", "BYE")
		s.pbx.replies(bye, "200 OK")
		s.phone.gets("answer", "SIP/2.0 200")

		// A request that came along a Path.
		s.phone.sends(s.phone.request("REGISTER", "sip:pbx.example"))
		path := s.pbx.gets("a REGISTER", "REGISTER").one("Path")
		from.sends(from.request("NOTIFY", "sip:101@10.0.0.5", "Route: "+path))
		s.phone.replies(s.phone.gets("by Path", "NOTIFY"), "200 OK")
		from.gets("answer", "SIP/2.0 200")
		s.quiet("nothing goes back to the PBX")
	}
	for _, port := range []uint16{5060, 5080, 49152} {
		t.Run(fmt.Sprintf("tcp:// and sends over UDP from %d", port), func(t *testing.T) {
			play(t, func(s *scene) { goesOut(t, s, s.udp(netip.AddrPortFrom(pbxAt.Addr(), port))) }, pbxOverTCP, oneWorker)
		})
	}
	t.Run("udp:// and sends over TCP", func(t *testing.T) {
		play(t, func(s *scene) { goesOut(t, s, s.tcp(pbxAt.Addr())) }, oneWorker)
	})
	t.Run("the second of two", func(t *testing.T) {
		play(t, func(s *scene) {
			own := s.tcp(netip.MustParseAddr("192.0.2.12"))
			own.sends(own.request("MESSAGE", "sip:101@192.0.2.101:5062"))
			s.phone.replies(s.phone.gets("by the Request-URI", "MESSAGE"), "200 OK")
			own.gets("answer", "SIP/2.0 200")
		}, func(c *sip.Config) {
			c.PBX = append(c.PBX, sip.Addr{Proto: sip.UDP, AddrPort: netip.MustParseAddrPort("192.0.2.12:5060")})
		})
	})
}

// TestPhonesMayShareThePBXsAddress: behind one NAT, or on one machine.
func TestPhonesMayShareThePBXsAddress(t *testing.T) {
	t.Run("behind one NAT, over TCP", func(t *testing.T) {
		play(t, func(s *scene) {
			phone := s.tcp(pbxAt.Addr())
			phone.sends(phone.request("REGISTER", "sip:pbx.example"))
			got := s.pbx.gets("a phone's REGISTER", "REGISTER")
			s.pbx.replies(got, "200 OK", "Path: "+got.one("Path"))
			phone.gets("answer", "SIP/2.0 200")
			phone.sends(phone.invite())
			s.pbx.replies(s.pbx.gets("and its call", "INVITE"), "486 Busy Here")
			phone.gets("answer", "SIP/2.0 486")
			s.pbx.forgets()
			s.pbx.sends(s.pbx.request("OPTIONS", "sip:101@10.0.0.5", "Route: "+got.one("Path")))
			phone.replies(phone.gets("over its connection", "OPTIONS"), "200 OK")
			s.pbx.gets("answer", "SIP/2.0 200")

			own := s.tcp(pbxAt.Addr()) // another connection is the PBX's
			own.sends(own.request("MESSAGE", "sip:101@192.0.2.101:5062"))
			s.phone.replies(s.phone.gets("from the PBX", "MESSAGE"), "200 OK")
			own.gets("answer", "SIP/2.0 200")
		})
	})
	t.Run("behind one NAT, over UDP", func(t *testing.T) {
		play(t, func(s *scene) {
			phone := s.udp(netip.MustParseAddrPort("192.0.2.2:40123"))
			phone.sends(phone.invite())
			s.pbx.replies(s.pbx.gets("a phone's call", "INVITE"), "486 Busy Here")
			phone.gets("answer", "SIP/2.0 486")
			s.pbx.forgets()
		})
	})
	for _, proto := range []sip.Proto{sip.UDP, sip.TCP} {
		t.Run("on bellhop's own machine, "+proto.String(), func(t *testing.T) {
			play(t, func(s *scene) {
				phone := s.udp(netip.MustParseAddrPort("192.0.2.1:40123"))
				if proto == sip.UDP {
					phone = s.tcp(hopAt.Addr())
				}
				phone.sends(phone.invite())
				s.pbx.replies(s.pbx.gets("a phone's call", "INVITE"), "486 Busy Here")
				phone.gets("answer", "SIP/2.0 486")
				s.pbx.forgets()

				if proto == sip.UDP {
					return
				}
				pbx := s.udp(netip.MustParseAddrPort("192.0.2.1:5070")) // by its port it is known all the same
				pbx.sends(pbx.request("MESSAGE", "sip:101@192.0.2.101:5062"))
				s.phone.replies(s.phone.gets("from the PBX", "MESSAGE"), "200 OK")
				pbx.gets("answer", "SIP/2.0 200")
			}, func(c *sip.Config) {
				c.PBX = []sip.Addr{{Proto: proto, AddrPort: netip.MustParseAddrPort("192.0.2.1:5070")}}
			})
		})
	}
}
