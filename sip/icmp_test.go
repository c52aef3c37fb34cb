package sip_test

import (
	"net/netip"
	"testing"
	"time"

	"bellhop/sip"
)

// The network in memory fails a datagram to a closed port at once, as ICMP does.

// A peer that is away for a moment gets the next retransmission. Only Timers B and F end
// the request.
func TestClosedPortCountsAsLostDatagram(t *testing.T) { // RFC 3261 §17.1.1.2, §17.1.2.2; RFC 4320 §4.1
	t.Run("an INVITE until Timer B", func(t *testing.T) {
		runScenario(t, func(s *testbed) {
			s.pbx.close()
			invite := s.phone.newInvite()
			s.phone.send(invite)
			s.advance(150 * ms)
			s.phone.expect("the caller is told to wait", "SIP/2.0 100")
			s.advance(32*time.Second - 160*ms)
			s.expectNothing("one tick before Timer B")
			s.advance(10 * ms)
			s.phone.sendACK(invite, s.phone.expect("Timer B", "SIP/2.0 408"))
			s.expectNothing("that is all")
		})
	})
	t.Run("a PBX that restarts", func(t *testing.T) {
		runScenario(t, func(s *testbed) {
			s.pbx.close()
			invite := s.phone.newInvite()
			s.phone.send(invite)
			s.advance(time.Second)
			s.phone.send(s.phone.newRequest("REGISTER", "sip:pbx.example"))
			s.advance(2 * time.Second)
			s.phone.expect("told to wait", "SIP/2.0 100")
			pbx := s.addUDPPeer(pbxAt)
			s.advance(500 * ms)
			got := pbx.expect("Timer A", "INVITE")
			pbx.respond(got, "486 Busy Here")
			pbx.expect("acknowledged", "ACK")
			s.phone.sendACK(invite, s.phone.expect("the end", "SIP/2.0 486"))
			s.advance(time.Second)
			pbx.respond(pbx.expect("Timer E", "REGISTER"), "200 OK")
			s.phone.expect("registered", "SIP/2.0 200")
		})
	})
	t.Run("a phone that restarts", func(t *testing.T) {
		runScenario(t, func(s *testbed) {
			s.phone.close()
			s.pbx.send(s.pbx.newRequest("INVITE", "sip:101@192.0.2.101:5062"))
			s.advance(time.Second)
			s.pbx.expect("told to wait", "SIP/2.0 100")
			phone := s.addUDPPeer(phoneAt)
			s.advance(500 * ms)
			phone.respond(phone.expect("Timer A", "INVITE"), "200 OK")
			ok := s.pbx.expect("answer", "SIP/2.0 200")
			s.pbx.send(s.pbx.callerRequest(ok, "ACK"))
			phone.expect("its ACK", "ACK")
		})
	})
	t.Run("while it rings", func(t *testing.T) { // a CANCEL that does not arrive does not end the INVITE
		runScenario(t, func(s *testbed) {
			invite, got := s.sendInvite()
			s.pbx.respond(got, "180 Ringing")
			s.phone.expect("ringing", "SIP/2.0 180")
			s.pbx.close()
			s.phone.sendCancel(invite)
			s.phone.expect("the CANCEL is taken", "SIP/2.0 200")
			s.advance(time.Second)
			s.expectNothing("and is lost")
			pbx := s.addUDPPeer(pbxAt)
			s.advance(500 * ms)
			pbx.respond(pbx.expect("Timer E", "CANCEL"), "200 OK")
			pbx.send(s.pbx.newResponse(got, "487 Request Terminated"))
			pbx.expect("acknowledged", "ACK")
			s.phone.sendACK(invite, s.phone.expect("the end", "SIP/2.0 487"))
		})
	})
	t.Run("a BYE", func(t *testing.T) {
		runScenario(t, func(s *testbed) {
			c := s.phone.setUpCall(s.pbx)
			s.pbx.close()
			s.phone.send(s.phone.callerRequest(c.ok, "BYE"))
			s.advance(time.Second)
			s.expectNothing("it is lost")
			pbx := s.addUDPPeer(pbxAt)
			s.advance(500 * ms)
			pbx.respond(pbx.expect("Timer E", "BYE"), "200 OK")
			s.phone.expect("answer", "SIP/2.0 200")
		})
	})
}

// With another PBX up, a new request goes to it at once.
func TestClosedPortFailsOverToAnotherPBX(t *testing.T) {
	secondAt := netip.MustParseAddrPort("192.0.2.12:5060")
	runScenario(t, func(s *testbed) {
		second := s.allPBXs[1]
		s.pbx.respond(s.pbx.expect("a probe", "OPTIONS"), "200 OK")
		second.respond(second.expect("a probe", "OPTIONS"), "200 OK")
		c := s.phone.setUpCall(s.pbx)
		s.pbx.close()
		invite := s.phone.newInvite()
		s.phone.send(invite)
		second.respond(second.expect("at once", "INVITE"), "486 Busy Here")
		second.expect("its ACK", "ACK")
		s.phone.sendACK(invite, s.phone.expect("answer", "SIP/2.0 486"))
		s.phone.send(s.phone.callerRequest(c.ok, "BYE"))
		s.expectNothing("a dialog stays with its PBX")
		s.advance(5 * time.Second) // a probe finds the port closed
		second.respond(second.expect("a probe", "OPTIONS"), "200 OK")
		s.phone.send(s.phone.newRequest("MESSAGE", "sip:102@pbx.example"))
		second.respond(second.expect("goes to the other", "MESSAGE"), "200 OK")
		s.phone.expect("answer", "SIP/2.0 200")
	}, func(c *sip.Config) {
		c.PBX = append(c.PBX, sip.Addr{Proto: sip.UDP, AddrPort: secondAt})
	})
}
