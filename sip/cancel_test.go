package sip_test

import (
	"strings"
	"testing"
	"time"

	"bellhop/sip"
)

func TestCancelWhileItRings(t *testing.T) { // RFC 3261 §9, §16.10
	runScenario(t, func(s *testbed) {
		invite := s.phone.newInvite("Route: <sip:192.0.2.1;lr>", "Route: <sip:192.0.2.2;lr>")
		s.phone.send(invite)
		got := s.pbx.expect("the INVITE goes on", "INVITE")
		s.pbx.respond(got, "180 Ringing")
		s.phone.expect("ringing", "SIP/2.0 180")
		s.phone.sendCancel(invite, `Reason: SIP;cause=200;text="Call completed elsewhere"`, "X-Any: 1", "Proxy-Authorization: Digest x")
		s.phone.expect("answered at once, by us", "SIP/2.0 200 OK")
		cancel := s.pbx.expect("it goes on", "CANCEL sip:102@pbx.example SIP/2.0")
		assertEqual(t, "one Via, the INVITE's", strings.Join(cancel.fieldValues("Via"), " "), got.fieldValue("Via"))
		assertEqual(t, "the Route of the INVITE", strings.Join(cancel.fieldValues("Route"), " "), "<sip:192.0.2.2;lr>")
		assertEqual(t, "Reason goes with it (RFC 3326)", cancel.fieldValue("Reason"), `SIP;cause=200;text="Call completed elsewhere"`)
		assertEqual(t, "others too", cancel.fieldValue("X-Any"), "1")
		assertEqual(t, "and credentials", cancel.fieldValue("Proxy-Authorization"), "Digest x")
		assertEqual(t, "CSeq", cancel.fieldValue("CSeq"), "1 CANCEL")
		assertEqual(t, "To", cancel.fieldValue("To"), got.fieldValue("To"))
		s.expectNothing("the 487 is the PBX's to say")
		s.pbx.respond(cancel, "200 OK")
		s.expectNothing("the 200 to our CANCEL is for us")
		s.pbx.respond(got, "487 Request Terminated")
		s.pbx.expect("acknowledged", "ACK")
		s.phone.sendACK(invite, s.phone.expect("the end", "SIP/2.0 487"))
		s.expectNothing("that was all")
	})
}

func TestCancelBeforeTheFirstResponse(t *testing.T) { // RFC 3261 §9.1
	runScenario(t, func(s *testbed) {
		invite, got := s.sendInvite()
		s.phone.sendCancel(invite)
		s.phone.expect("answered at once", "SIP/2.0 200 OK")
		s.expectNothing("no CANCEL before a 1xx")
		s.pbx.respond(got, "100 Trying")
		cancel := s.pbx.expect("now", "CANCEL")
		s.pbx.respond(cancel, "200 OK")
		s.pbx.respond(got, "487 Request Terminated")
		s.pbx.expect("acknowledged", "ACK")
		s.phone.sendACK(invite, s.phone.expect("the end", "SIP/2.0 487"))
	})
}

func TestCancelTwice(t *testing.T) { // RFC 3261 §17.2.2: CANCEL has a transaction of its own
	runScenario(t, func(s *testbed) {
		invite, got := s.sendInvite()
		s.pbx.respond(got, "180 Ringing")
		s.phone.expect("ringing", "SIP/2.0 180")
		s.phone.sendCancel(invite)
		first := s.phone.expect("answered", "SIP/2.0 200")
		s.phone.sendCancel(invite)
		assertEqual(t, "the same bytes", string(s.phone.expect("answered", "SIP/2.0 200")), string(first))
		s.pbx.expect("one CANCEL", "CANCEL")
		s.expectNothing("and no other")
		s.advance(500 * ms)
		cancel := s.pbx.expect("but Timer E", "CANCEL")
		s.pbx.respond(cancel, "200 OK")
		s.advance(10 * time.Second)
		s.expectNothing("until it is answered")
		s.pbx.respond(got, "487 Request Terminated")
		s.pbx.expect("acknowledged", "ACK")
		s.phone.sendACK(invite, s.phone.expect("the end", "SIP/2.0 487"))
	})
}

func TestCancelLosesToARacing2xx(t *testing.T) { // RFC 3261 §16.7 item 5, row 23
	runScenario(t, func(s *testbed) {
		invite, got := s.sendInvite()
		s.pbx.respond(got, "180 Ringing")
		s.phone.expect("ringing", "SIP/2.0 180")
		s.phone.sendCancel(invite)
		s.phone.expect("answered", "SIP/2.0 200 OK")
		cancel := s.pbx.expect("it goes on", "CANCEL")
		s.pbx.respond(got, "200 OK")
		ok := s.phone.expect("the call was answered all the same", "SIP/2.0 200")
		assertEqual(t, "it is the answer", ok.method(), "INVITE")
		s.pbx.respond(cancel, "481 Call/Transaction Does Not Exist")
		s.phone.send(s.phone.callerRequest(ok, "ACK"), s.phone.callerRequest(ok, "BYE"))
		s.pbx.expect("the caller acknowledges", "ACK")
		s.pbx.respond(s.pbx.expect("and hangs up", "BYE"), "200 OK")
		s.phone.expect("answered", "SIP/2.0 200")
		s.expectNothing("that was all")
	})
}

func TestCancelAfterTheAnswerChangesNothing(t *testing.T) { // RFC 3261 §9.2
	runScenario(t, func(s *testbed) {
		invite, got := s.sendInvite()
		s.pbx.respond(got, "200 OK")
		s.phone.expect("answer", "SIP/2.0 200")
		s.phone.sendCancel(invite)
		s.phone.expect("the CANCEL is answered", "SIP/2.0 200")
		s.expectNothing("and has no effect")
	})
}

func TestCancelWithoutAnInviteIsForwarded(t *testing.T) { // RFC 3261 §16.10
	runScenario(t, func(s *testbed) {
		s.phone.sendCancel(s.phone.newInvite(), "Reason: Q.850;cause=16")
		cancel := s.pbx.expect("without state", "CANCEL sip:102@pbx.example")
		assertEqual(t, "two Vias", strings.Join(cancel.fieldValues("Max-Forwards"), " "), "69")
		s.advance(time.Minute)
		s.expectNothing("and is not repeated")
		s.phone.sendCancel(s.phone.newInvite(), "Max-Forwards: 0")
		s.phone.discardReceived()
		if m, ok := s.pbx.nextMessage(); ok {
			t.Errorf("a CANCEL that has come too far went on:\n%s", m)
		}
	})
}

func TestASilentPBXAfterCancelIs487(t *testing.T) { // RFC 3261 §9.1: 64*T1 after the CANCEL
	runScenario(t, func(s *testbed) {
		invite, got := s.sendInvite()
		s.pbx.respond(got, "180 Ringing")
		s.phone.expect("ringing", "SIP/2.0 180")
		s.advance(10 * time.Second)
		s.phone.sendCancel(invite)
		s.phone.expect("answered", "SIP/2.0 200 OK")
		s.pbx.expect("it goes on", "CANCEL")
		s.advance(32*time.Second - 10*ms)
		s.pbx.discardReceived() // Timer E
		s.expectNothing("one tick early")
		s.advance(10 * ms)
		s.phone.sendACK(invite, s.phone.expect("64*T1", "SIP/2.0 487"))
	})
}

func Test18xAfterCancelDoesNotExtendTheCall(t *testing.T) { // RFC 3261 §9.1
	runScenario(t, func(s *testbed) {
		invite, got := s.sendInvite()
		s.pbx.respond(got, "180 Ringing")
		s.phone.expect("ringing", "SIP/2.0 180")
		s.phone.sendCancel(invite)
		s.phone.expect("answered", "SIP/2.0 200 OK")
		s.pbx.respond(s.pbx.expect("it goes on", "CANCEL"), "200 OK")
		s.advance(20 * time.Second)
		s.pbx.respond(got, "180 Ringing")
		s.phone.expect("ringing", "SIP/2.0 180")
		s.advance(12 * time.Second)
		s.phone.sendACK(invite, s.phone.expect("64*T1 after the CANCEL all the same", "SIP/2.0 487"))
	})
}

func TestCancelOverTCP(t *testing.T) { // RFC 3261 §9
	runScenario(t, func(s *testbed) {
		phone := s.dialTCPPeer(phoneAt.Addr())
		invite := phone.newInvite()
		phone.send(invite)
		got := s.pbx.expect("the INVITE goes on", "INVITE")
		s.pbx.respond(got, "180 Ringing")
		phone.expect("ringing", "SIP/2.0 180")
		phone.sendCancel(invite)
		phone.expect("answered", "SIP/2.0 200")
		s.pbx.respond(s.pbx.expect("it goes on", "CANCEL"), "200 OK")
		s.pbx.respond(got, "487 Request Terminated")
		s.pbx.expect("acknowledged", "ACK")
		phone.sendACK(invite, phone.expect("the end", "SIP/2.0 487"))
		s.expectNothing("that was all")
	}, pbxOverTCP)
}

// The connection to the called phone is closed, and the limit of connections allows no
// other.
func TestCancelThatCannotBeSentEndsTheInvite(t *testing.T) {
	runScenario(t, func(s *testbed) {
		phone, invite, got := s.ringPhone()
		phone.respond(got, "180 Ringing")
		s.pbx.expect("ringing", "SIP/2.0 180")
		phone.close()
		s.advance(0)
		s.dialTCPPeer(otherAt.Addr())
		s.pbx.sendCancel(invite)
		s.pbx.expect("answered", "SIP/2.0 200")
		s.pbx.sendACK(invite, s.pbx.expect("at once", "SIP/2.0 487"))
	}, func(c *sip.Config) { c.AllConnections = 1 })
}
