package sip_test

import (
	"strings"
	"testing"
	"time"
)

// ms is a millisecond, the unit of time in these tests.
const ms = time.Millisecond

func TestCallIsForwarded(t *testing.T) { // RFC 3261 §16
	runScenario(t, func(s *testbed) {
		invite := s.phone.newInvite()
		s.phone.send(invite)
		got := s.pbx.expect("the INVITE goes on", "INVITE sip:102@pbx.example SIP/2.0")
		assertEqual(t, "Max-Forwards is counted down", got.fieldValue("Max-Forwards"), "69")
		if vias := got.fieldValues("Via"); len(vias) != 2 || !strings.HasPrefix(vias[0], "SIP/2.0/UDP 192.0.2.1:5060;branch=z9hG4bK") {
			t.Errorf("our Via is on top: %q", vias)
		}
		s.pbx.respond(got, "180 Ringing")
		ringing := s.phone.expect("ringing is heard", "SIP/2.0 180 Ringing")
		assertEqual(t, "our Via is off", strings.Join(ringing.fieldValues("Via"), " "), strings.Replace(invite.fieldValue("Via"), "rport", "rport=5062", 1)+";received=192.0.2.101")
		s.pbx.respond(got, "200 OK")
		ok := s.phone.expect("the answer is heard", "SIP/2.0 200 OK")
		assertEqual(t, "the To tag is the PBX's", ok.toTag(), "to-pbx")
		s.phone.send(s.phone.callerRequest(ok, "ACK"))
		ack := s.pbx.expect("the ACK goes end to end", "ACK sip:192.0.2.2:5060 SIP/2.0")
		assertEqual(t, "our Route is off", ack.fieldValue("Route"), "")
		s.phone.send(s.phone.callerRequest(ok, "BYE"))
		bye := s.pbx.expect("the BYE goes on", "BYE sip:192.0.2.2:5060 SIP/2.0")
		s.pbx.respond(bye, "200 OK")
		s.phone.expect("the BYE is answered", "SIP/2.0 200 OK")
		s.expectNothing("that was all")
	})
}

// Towards the next hop: client transactions.

func TestINVITEIsRetransmittedUntilTimerB(t *testing.T) { // RFC 3261 §17.1.1.2: Timers A and B
	runScenario(t, func(s *testbed) {
		invite := s.phone.newInvite()
		s.phone.send(invite)
		first := s.pbx.expect("the INVITE goes on", "INVITE")
		s.advance(150 * ms)
		s.phone.expect("the caller is told to wait", "SIP/2.0 100")
		at := 150 * ms
		for _, next := range []time.Duration{500 * ms, 1500 * ms, 3500 * ms, 7500 * ms, 15500 * ms, 31500 * ms} {
			s.advance(next - at - 10*ms)
			s.expectNothing("one tick early")
			s.advance(10 * ms)
			assertEqual(t, "the same bytes again", string(s.pbx.expect("Timer A", "INVITE")), string(first))
			at = next
		}
		s.advance(490 * ms)
		s.expectNothing("one tick before Timer B")
		s.advance(10 * ms)
		timeout := s.phone.expect("Timer B", "SIP/2.0 408")
		s.phone.sendACK(invite, timeout)
		s.expectNothing("the ACK is for us")
	})
}

func TestA1xxStopsTimersAAndB(t *testing.T) { // RFC 3261 §17.1.1.2
	runScenario(t, func(s *testbed) {
		s.phone.send(s.phone.newInvite())
		got := s.pbx.expect("the INVITE goes on", "INVITE")
		s.pbx.respond(got, "100 Trying")
		s.expectNothing("a 100 goes no further")
		s.advance(150 * ms)
		s.phone.expect("our own", "SIP/2.0 100")
		s.advance(60 * time.Second)
		s.expectNothing("the INVITE is not repeated and does not time out")
		s.pbx.respond(got, "183 Session Progress")
		s.phone.expect("progress", "SIP/2.0 183")
		s.advance(60 * time.Second)
		s.expectNothing("ringing for a minute is fine")
		s.pbx.respond(got, "200 OK")
		s.phone.expect("answer", "SIP/2.0 200")
	})
}

func TestTimerCEndsARingingCall(t *testing.T) { // RFC 3261 §16.6 item 11, §16.8
	runScenario(t, func(s *testbed) {
		invite, got := s.sendInvite()
		s.pbx.respond(got, "180 Ringing")
		s.phone.expect("ringing", "SIP/2.0 180")
		for range 3 { // each 18x gives it another 185 s
			s.advance(184 * time.Second)
			s.expectNothing("Timer C has not passed")
			s.pbx.respond(got, "180 Ringing")
			s.phone.expect("ringing", "SIP/2.0 180")
		}
		s.advance(185*time.Second - 10*ms)
		s.expectNothing("one tick before Timer C")
		s.advance(10 * ms)
		cancel := s.pbx.expect("Timer C", "CANCEL sip:102@pbx.example SIP/2.0")
		s.pbx.respond(cancel, "200 OK")
		s.pbx.respond(got, "487 Request Terminated")
		s.pbx.expect("the 487 is acknowledged", "ACK")
		s.phone.sendACK(invite, s.phone.expect("the end", "SIP/2.0 487"))
		s.expectNothing("that was all")
	})
}

func TestTimerCIsNotResetBy100(t *testing.T) { // RFC 3261 §16.7 item 2
	runScenario(t, func(s *testbed) {
		s.phone.send(s.phone.newInvite())
		got := s.pbx.expect("the INVITE goes on", "INVITE")
		s.pbx.respond(got, "100 Trying")
		s.advance(150 * ms)
		s.phone.expect("our own", "SIP/2.0 100")
		s.advance(100 * time.Second)
		s.pbx.respond(got, "100 Trying")
		s.advance(85*time.Second - 150*ms - 10*ms)
		s.expectNothing("one tick before Timer C")
		s.advance(10 * ms)
		s.pbx.respond(s.pbx.expect("Timer C", "CANCEL"), "200 OK")
		s.advance(32*time.Second - 10*ms)
		s.expectNothing("the PBX has 64*T1 to say 487")
		s.advance(10 * ms)
		s.phone.expect("the sender never gave up: that is a timeout", "SIP/2.0 408")
	})
}

func TestAFailureIsAcknowledgedHopByHop(t *testing.T) { // RFC 3261 §17.1.1.3
	runScenario(t, func(s *testbed) {
		invite := s.phone.newInvite("Route: <sip:192.0.2.1;lr>", "Route: <sip:192.0.2.2;lr>")
		s.phone.send(invite)
		got := s.pbx.expect("the INVITE goes on", "INVITE")
		s.pbx.respond(got, "486 Busy Here")
		ack := s.pbx.expect("we acknowledge", "ACK sip:102@pbx.example SIP/2.0")
		assertEqual(t, "one Via, the INVITE's", strings.Join(ack.fieldValues("Via"), " "), got.fieldValue("Via"))
		assertEqual(t, "the Route of the INVITE", strings.Join(ack.fieldValues("Route"), " "), "<sip:192.0.2.2;lr>")
		assertEqual(t, "the To of the response", ack.fieldValue("To"), "<sip:102@pbx.example>;tag=to-pbx")
		assertEqual(t, "From", ack.fieldValue("From"), got.fieldValue("From"))
		assertEqual(t, "Call-ID", ack.fieldValue("Call-ID"), got.fieldValue("Call-ID"))
		assertEqual(t, "CSeq", ack.fieldValue("CSeq"), "1 ACK")
		busy := s.phone.expect("the caller hears it", "SIP/2.0 486")

		for range 3 {
			s.advance(100 * ms)
			s.pbx.respond(got, "486 Busy Here")
			assertEqual(t, "the ACK again", string(s.pbx.expect("at once", "ACK")), string(ack))
			s.expectNothing("it is told once")
		}
		s.phone.sendACK(invite, busy)
		s.advance(32*time.Second - 310*ms)
		s.pbx.respond(got, "486 Busy Here")
		s.pbx.expect("one tick before Timer D", "ACK")
		s.advance(10 * ms)
		s.pbx.respond(got, "486 Busy Here")
		s.expectNothing("after Timer D nobody knows it")
	})
}

func TestA2xxIsForwardedEachTime(t *testing.T) { // RFC 6026 §7–8: Timers L and M; RFC 3261 §16.7 item 5
	runScenario(t, func(s *testbed) {
		s.registerPhone()
		invite, got := s.sendInvite()
		ok := s.pbx.newResponse(got, "200 OK")
		for range 3 {
			s.pbx.send(ok)
			s.phone.expect("each 200", "SIP/2.0 200")
			s.advance(500 * ms)
		}
		s.phone.send(invite)
		s.expectNothing("the INVITE again is absorbed: the PBX repeats its 200")
		forked := ok.replaced("tag=to-pbx", "tag=voicemail")
		s.pbx.send(forked)
		second := s.phone.expect("another 200 of a forked INVITE", "SIP/2.0 200")
		assertEqual(t, "To tag", second.toTag(), "voicemail")
		s.phone.send(s.phone.callerRequest(second, "ACK"))
		s.pbx.expect("its ACK", "ACK")
		s.phone.send(s.phone.callerRequest(second, "BYE"))
		bye := s.pbx.expect("its BYE", "BYE")
		assertEqual(t, "To tag", bye.toTag(), "voicemail")
		s.pbx.respond(got, "486 Busy Here")
		s.expectNothing("a failure after a 200 is a mistake")

		s.advance(32*time.Second - 1500*ms - 10*ms)
		s.pbx.send(ok)
		s.phone.expect("one tick before Timer M", "SIP/2.0 200")
		s.pbx.discardReceived() // the BYE that was not answered
		s.advance(10 * ms)
		s.pbx.send(ok)
		if m, ok := s.phone.nextMessage(); ok {
			t.Errorf("after Timer M the phone got\n%s", m)
		}
	})
}

func TestNonINVITEIsRetransmittedUntilTimerF(t *testing.T) { // RFC 3261 §17.1.2.2: Timers E and F; RFC 4320 §4.1
	runScenario(t, func(s *testbed) {
		s.phone.send(s.phone.newRequest("MESSAGE", "sip:102@pbx.example"))
		first := s.pbx.expect("it goes on", "MESSAGE")
		at := time.Duration(0)
		for _, next := range []time.Duration{500 * ms, 1500 * ms, 3500 * ms, 7500 * ms, 11500 * ms, 15500 * ms, 19500 * ms, 23500 * ms, 27500 * ms, 31500 * ms} {
			s.advance(next - at - 10*ms)
			s.expectNothing("one tick early")
			s.advance(10 * ms)
			assertEqual(t, "the same bytes again", string(s.pbx.expect("Timer E", "MESSAGE")), string(first))
			at = next
		}
		s.advance(time.Minute)
		s.expectNothing("no 100, no 408: the sender has timed out too")
		s.pbx.respond(first, "200 OK")
		s.expectNothing("an answer after Timer F is late")
	})
}

func TestNonINVITEIsRetransmittedSlowlyAfter1xx(t *testing.T) { // RFC 3261 §17.1.2.2
	runScenario(t, func(s *testbed) {
		s.phone.send(s.phone.newRequest("SUBSCRIBE", "sip:102@pbx.example"))
		got := s.pbx.expect("it goes on", "SUBSCRIBE")
		s.pbx.respond(got, "100 Trying")
		s.advance(500 * ms)
		s.pbx.expect("Timer E was set", "SUBSCRIBE")
		s.advance(4*time.Second - 10*ms)
		s.expectNothing("now it is T2")
		s.advance(10 * ms)
		s.pbx.expect("T2", "SUBSCRIBE")
		s.pbx.respond(got, "200 OK")
		s.phone.expect("answer", "SIP/2.0 200")
		s.expectNothing("and no 100")
	})
}

func TestFinalResponseIsForwardedOnce(t *testing.T) { // RFC 3261 §17.1.2.2: Timer K; §17.2.2: Timer J
	runScenario(t, func(s *testbed) {
		message := s.phone.newRequest("MESSAGE", "sip:102@pbx.example")
		s.phone.send(message)
		got := s.pbx.expect("it goes on", "MESSAGE")
		s.pbx.respond(got, "202 Accepted")
		answer := s.phone.expect("the answer", "SIP/2.0 202")
		s.pbx.respond(got, "202 Accepted")
		s.expectNothing("absorbed")
		s.phone.send(message)
		assertEqual(t, "the same bytes", string(s.phone.expect("a repeated request gets its answer again", "SIP/2.0 202")), string(answer))
		s.expectNothing("and is not forwarded again")
		s.advance(32*time.Second - 10*ms)
		s.phone.send(message)
		s.phone.expect("one tick before Timer J", "SIP/2.0 202")
		s.advance(10 * ms)
		s.phone.send(message)
		s.pbx.expect("after Timer J it is a new one", "MESSAGE")
	})
}

// A sender that cancels after our own CANCEL leaves nothing behind: runScenario checks
// that.
func TestCancelAfterTimerCLeavesNothing(t *testing.T) {
	runScenario(t, func(s *testbed) {
		invite, got := s.sendInvite()
		s.pbx.respond(got, "180 Ringing")
		s.phone.expect("ringing", "SIP/2.0 180")
		s.advance(185 * time.Second)
		s.pbx.respond(s.pbx.expect("Timer C", "CANCEL"), "200 OK")
		s.phone.sendCancel(invite, "Reason: SIP;cause=487")
		s.phone.expect("the CANCEL is answered", "SIP/2.0 200")
		s.advance(33 * time.Second)
		s.phone.expect("the PBX is silent", "SIP/2.0 487")
	})
}

// Towards the sender: server transactions.

func TestTryingIsSentWhenThePBXIsSlow(t *testing.T) { // RFC 3261 §16.2, §17.2.1
	runScenario(t, func(s *testbed) {
		s.registerPhone()
		invite, got := s.sendInvite()
		s.advance(140 * ms)
		s.phone.send(invite)
		s.expectNothing("nothing to say yet; the INVITE again is absorbed")
		s.advance(10 * ms)
		trying := s.phone.expect("150 ms", "SIP/2.0 100 Trying")
		assertEqual(t, "no To tag", trying.toTag(), "")
		assertEqual(t, "one Via", strings.Join(trying.fieldValues("Via"), " "), got.fieldValues("Via")[1])
		s.phone.send(invite)
		assertEqual(t, "the same", string(s.phone.expect("the INVITE again gets it again", "SIP/2.0 100")), string(trying))
		s.pbx.respond(got, "180 Ringing")
		s.phone.expect("ringing", "SIP/2.0 180")
		s.phone.send(invite)
		s.phone.expect("now the INVITE again gets the ringing", "SIP/2.0 180")
		s.expectNothing("the PBX is not troubled")
		s.pbx.respond(got, "200 OK")
		s.phone.expect("answer", "SIP/2.0 200")
	})
}

func TestTryingIsNotSentWhenThePBXIsQuick(t *testing.T) { // RFC 3261 §17.2.1
	runScenario(t, func(s *testbed) {
		s.phone.send(s.phone.newInvite())
		got := s.pbx.expect("the INVITE goes on", "INVITE")
		s.advance(100 * ms)
		s.pbx.respond(got, "180 Ringing")
		s.phone.expect("ringing", "SIP/2.0 180")
		s.advance(time.Second)
		s.expectNothing("no 100 behind a 180")
		s.pbx.respond(got, "200 OK")
		s.phone.expect("answer", "SIP/2.0 200")
	})
}

func TestFailureIsRetransmittedUntilACK(t *testing.T) { // RFC 3261 §17.2.1: Timers G and H
	runScenario(t, func(s *testbed) {
		s.registerPhone()
		invite := s.phone.newInvite()
		s.phone.send(invite)
		s.pbx.respond(s.pbx.expect("the INVITE goes on", "INVITE"), "404 Not Found")
		s.pbx.expect("acknowledged", "ACK")
		first := s.phone.expect("the failure", "SIP/2.0 404")
		at := time.Duration(0)
		for _, next := range []time.Duration{500 * ms, 1500 * ms, 3500 * ms, 7500 * ms, 11500 * ms, 15500 * ms, 19500 * ms, 23500 * ms, 27500 * ms, 31500 * ms} {
			s.advance(next - at - 10*ms)
			s.expectNothing("one tick early")
			s.advance(10 * ms)
			assertEqual(t, "the same bytes", string(s.phone.expect("Timer G", "SIP/2.0 404")), string(first))
			at = next
		}
		s.phone.send(invite)
		s.phone.expect("the INVITE again gets it at once", "SIP/2.0 404")
		s.advance(10 * time.Second)
		s.expectNothing("Timer H ends it")
	})
}

func TestAcknowledgedFailureIsNotRetransmitted(t *testing.T) { // RFC 3261 §17.2.1: Timer I
	runScenario(t, func(s *testbed) {
		invite := s.phone.newInvite()
		s.phone.send(invite)
		s.pbx.respond(s.pbx.expect("the INVITE goes on", "INVITE"), "404 Not Found")
		s.pbx.expect("acknowledged", "ACK")
		failure := s.phone.expect("the failure", "SIP/2.0 404")
		s.phone.sendACK(invite, failure)
		s.phone.sendACK(invite, failure)
		s.phone.send(invite)
		s.advance(5*time.Second - 10*ms)
		s.phone.sendACK(invite, failure)
		s.expectNothing("ACKs and INVITEs are absorbed until Timer I, and nothing is repeated")
	})
}

func TestLateACKIsForwarded(t *testing.T) { // RFC 3261 §13.2.2.4, row 28
	runScenario(t, func(s *testbed) {
		_, got := s.sendInvite()
		s.pbx.respond(got, "200 OK")
		ok := s.phone.expect("answer", "SIP/2.0 200")
		s.advance(40 * time.Second)
		s.phone.send(s.phone.callerRequest(ok, "ACK"))
		s.pbx.expect("long after Timer L", "ACK")
	})
}

func TestACKWithTheBranchOfItsINVITEIsForwarded(t *testing.T) { // RFC 3261 §17.1.1.3, row 28
	runScenario(t, func(s *testbed) {
		invite, got := s.sendInvite()
		s.pbx.respond(got, "200 OK")
		ok := s.phone.expect("answer", "SIP/2.0 200")
		ack := s.phone.callerRequest(ok, "ACK", "Via: "+invite.fieldValue("Via"))
		s.phone.send(ack, ack)
		first := s.pbx.expect("forwarded", "ACK sip:192.0.2.2:5060")
		second := s.pbx.expect("and again", "ACK")
		assertEqual(t, "a repeated ACK has the same branch", second.viaBranch(), first.viaBranch())
		if first.viaBranch() == got.viaBranch() {
			t.Error("the ACK of a 2xx is a request of its own: it has a branch of its own")
		}
		s.expectNothing("an ACK is never answered")
	})
}

func TestAnACKIsNeverAnswered(t *testing.T) { // RFC 3261 §17.1
	runScenario(t, func(s *testbed) {
		for _, lines := range [][]string{
			{"Max-Forwards: 0"},
			{"Max-Forwards: 300"},
			{"Route: <sip:192.0.2.66;lr>"},
			{"Route: <sip:forged@192.0.2.1;lr>"},
			{"CSeq: 1 INVITE"},
			{"From:"},
		} {
			s.phone.send(s.phone.newRequest("ACK", "sip:102@pbx.example", lines...))
		}
		s.expectNothing("bad ones are dropped")
	})
}

// Failures of the next hop.

func TestUnreachablePBXOverTCPFailsAtOnce(t *testing.T) { // RFC 3261 §16.9, row 25
	runScenario(t, func(s *testbed) {
		s.pbx.close()
		invite := s.phone.newInvite()
		s.phone.send(invite)
		s.phone.sendACK(invite, s.phone.expect("at once", "SIP/2.0 500"))
		s.phone.send(s.phone.newRequest("REGISTER", "sip:pbx.example"))
		s.phone.expect("at once", "SIP/2.0 500")
		s.expectNothing("that is all")
	}, pbxOverTCP)
}

func TestA503LeavesAs500(t *testing.T) { // RFC 3261 §16.7 item 6
	runScenario(t, func(s *testbed) {
		invite := s.phone.newInvite()
		s.phone.send(invite)
		s.pbx.respond(s.pbx.expect("the INVITE goes on", "INVITE"), "503 Service Unavailable", "Retry-After: 10")
		s.pbx.expect("acknowledged", "ACK")
		s.phone.sendACK(invite, s.phone.expect("not 503", "SIP/2.0 500 "))
		s.phone.send(s.phone.newRequest("MESSAGE", "sip:102@pbx.example"))
		s.pbx.respond(s.pbx.expect("it goes on", "MESSAGE"), "503 Service Unavailable")
		s.phone.expect("not 503", "SIP/2.0 500 ")
	})
}

func TestStrayResponsesAreDropped(t *testing.T) { // RFC 3261 §18.1.2, RFC 6026 §8.9
	runScenario(t, func(s *testbed) {
		s.phone.send(s.phone.newInvite())
		got := s.pbx.expect("the INVITE goes on", "INVITE")
		ok := s.pbx.newResponse(got, "200 OK")
		branch := got.viaBranch()
		end := "0"
		if strings.HasSuffix(branch, end) {
			end = "1"
		}
		for _, stray := range []text{
			ok.replaced(branch, "z9hG4bKsomething"),
			ok.replaced(branch, branch[:len(branch)-1]+end),
			ok.replaced("CSeq: 1 INVITE", "CSeq: 1 CANCEL"),
			ok.replaced("CSeq: 1 INVITE", "CSeq: 1 BYE"),
		} {
			s.pbx.send(stray)
		}
		s.expectNothing("none of these is the answer")
		s.phone.send(ok)
		s.phone.expect("the branch is what tells", "SIP/2.0 200")
	})
}

// Over TCP nothing is repeated.

func TestNothingIsRetransmittedOverTCP(t *testing.T) { // RFC 3261 §17: A, D, E, G, I, J, K are 0 or off
	runScenario(t, func(s *testbed) {
		phone := s.dialTCPPeer(phoneAt.Addr())
		invite := phone.newInvite()
		phone.send(invite)
		got := s.pbx.expect("the INVITE goes on", "INVITE")
		s.advance(31 * time.Second)
		phone.expect("trying", "SIP/2.0 100")
		s.expectNothing("no Timer A")
		s.pbx.respond(got, "486 Busy Here")
		s.pbx.expect("acknowledged", "ACK")
		busy := phone.expect("busy", "SIP/2.0 486")
		s.advance(20 * time.Second)
		s.expectNothing("no Timer G")
		phone.sendACK(invite, busy)
		s.expectNothing("absorbed")

		phone.send(phone.newRequest("MESSAGE", "sip:102@pbx.example"))
		message := s.pbx.expect("it goes on", "MESSAGE")
		s.advance(20 * time.Second)
		s.expectNothing("no Timer E")
		s.pbx.respond(message, "200 OK")
		phone.expect("the answer", "SIP/2.0 200")
	}, pbxOverTCP)
}

func TestTimerBRunsOverTCP(t *testing.T) { // RFC 3261 §17.1.1.2
	runScenario(t, func(s *testbed) {
		invite := s.phone.newInvite()
		s.phone.send(invite)
		s.pbx.expect("the INVITE goes on", "INVITE")
		s.advance(32*time.Second - 10*ms)
		s.phone.expect("trying", "SIP/2.0 100")
		s.expectNothing("one tick before Timer B")
		s.advance(10 * ms)
		s.phone.sendACK(invite, s.phone.expect("Timer B", "SIP/2.0 408"))
	}, pbxOverTCP)
}
