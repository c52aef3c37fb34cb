package sip_test

import (
	"strings"
	"testing"
	"time"
)

// ms is a tick of the hop's clock.
const ms = time.Millisecond

func TestACallGoesThrough(t *testing.T) { // RFC 3261 §16
	play(t, func(s *scene) {
		invite := s.phone.invite()
		s.phone.sends(invite)
		got := s.pbx.gets("the INVITE goes on", "INVITE sip:102@pbx.example SIP/2.0")
		equal(t, "Max-Forwards is counted down", got.one("Max-Forwards"), "69")
		if vias := got.all("Via"); len(vias) != 2 || !strings.HasPrefix(vias[0], "SIP/2.0/UDP 192.0.2.1:5060;branch=z9hG4bK") {
			t.Errorf("our Via is on top: %q", vias)
		}
		s.pbx.replies(got, "180 Ringing")
		ringing := s.phone.gets("ringing is heard", "SIP/2.0 180 Ringing")
		equal(t, "our Via is off", strings.Join(ringing.all("Via"), " "), strings.Replace(invite.one("Via"), "rport", "rport=5062", 1)+";received=192.0.2.101")
		s.pbx.replies(got, "200 OK")
		ok := s.phone.gets("the answer is heard", "SIP/2.0 200 OK")
		equal(t, "the To tag is the PBX's", ok.toTag(), "to-pbx")
		s.phone.sends(s.phone.within(ok, "ACK"))
		ack := s.pbx.gets("the ACK goes end to end", "ACK sip:192.0.2.2:5060 SIP/2.0")
		equal(t, "our Route is off", ack.one("Route"), "")
		s.phone.sends(s.phone.within(ok, "BYE"))
		bye := s.pbx.gets("the BYE goes on", "BYE sip:192.0.2.2:5060 SIP/2.0")
		s.pbx.replies(bye, "200 OK")
		s.phone.gets("the BYE is answered", "SIP/2.0 200 OK")
		s.quiet("that was all")
	})
}

// Towards the next hop: client transactions.

func TestAnINVITEIsRepeatedUntilTimerB(t *testing.T) { // RFC 3261 §17.1.1.2: Timers A and B
	play(t, func(s *scene) {
		invite := s.phone.invite()
		s.phone.sends(invite)
		first := s.pbx.gets("the INVITE goes on", "INVITE")
		s.after(150 * ms)
		s.phone.gets("the caller is told to wait", "SIP/2.0 100")
		at := 150 * ms
		for _, next := range []time.Duration{500 * ms, 1500 * ms, 3500 * ms, 7500 * ms, 15500 * ms, 31500 * ms} {
			s.after(next - at - 10*ms)
			s.quiet("one tick early")
			s.after(10 * ms)
			equal(t, "the same bytes again", string(s.pbx.gets("Timer A", "INVITE")), string(first))
			at = next
		}
		s.after(490 * ms)
		s.quiet("one tick before Timer B")
		s.after(10 * ms)
		timeout := s.phone.gets("Timer B", "SIP/2.0 408")
		s.phone.acks(invite, timeout)
		s.quiet("the ACK is for us")
	})
}

func TestA1xxStopsTimersAAndB(t *testing.T) { // RFC 3261 §17.1.1.2
	play(t, func(s *scene) {
		s.phone.sends(s.phone.invite())
		got := s.pbx.gets("the INVITE goes on", "INVITE")
		s.pbx.replies(got, "100 Trying")
		s.quiet("a 100 goes no further")
		s.after(150 * ms)
		s.phone.gets("our own", "SIP/2.0 100")
		s.after(60 * time.Second)
		s.quiet("the INVITE is not repeated and does not time out")
		s.pbx.replies(got, "183 Session Progress")
		s.phone.gets("progress", "SIP/2.0 183")
		s.after(60 * time.Second)
		s.quiet("ringing for a minute is fine")
		s.pbx.replies(got, "200 OK")
		s.phone.gets("answer", "SIP/2.0 200")
	})
}

func TestTimerCEndsACallThatRingsForEver(t *testing.T) { // RFC 3261 §16.6 item 11, §16.8
	play(t, func(s *scene) {
		invite, got := s.invited()
		s.pbx.replies(got, "180 Ringing")
		s.phone.gets("ringing", "SIP/2.0 180")
		for range 3 { // each 18x gives it another 185 s
			s.after(184 * time.Second)
			s.quiet("Timer C has not passed")
			s.pbx.replies(got, "180 Ringing")
			s.phone.gets("ringing", "SIP/2.0 180")
		}
		s.after(185*time.Second - 10*ms)
		s.quiet("one tick before Timer C")
		s.after(10 * ms)
		cancel := s.pbx.gets("Timer C", "CANCEL sip:102@pbx.example SIP/2.0")
		s.pbx.replies(cancel, "200 OK")
		s.pbx.replies(got, "487 Request Terminated")
		s.pbx.gets("the 487 is acknowledged", "ACK")
		s.phone.acks(invite, s.phone.gets("the end", "SIP/2.0 487"))
		s.quiet("that was all")
	})
}

func TestTimerCIsNotResetBy100(t *testing.T) { // RFC 3261 §16.7 item 2
	play(t, func(s *scene) {
		s.phone.sends(s.phone.invite())
		got := s.pbx.gets("the INVITE goes on", "INVITE")
		s.pbx.replies(got, "100 Trying")
		s.after(150 * ms)
		s.phone.gets("our own", "SIP/2.0 100")
		s.after(100 * time.Second)
		s.pbx.replies(got, "100 Trying")
		s.after(85*time.Second - 150*ms - 10*ms)
		s.quiet("one tick before Timer C")
		s.after(10 * ms)
		s.pbx.replies(s.pbx.gets("Timer C", "CANCEL"), "200 OK")
		s.after(32*time.Second - 10*ms)
		s.quiet("the PBX has 64*T1 to say 487")
		s.after(10 * ms)
		s.phone.gets("the sender never gave up: that is a timeout", "SIP/2.0 408")
	})
}

func TestAFailureIsAcknowledgedHopByHop(t *testing.T) { // RFC 3261 §17.1.1.3
	play(t, func(s *scene) {
		invite := s.phone.invite("Route: <sip:192.0.2.1;lr>", "Route: <sip:192.0.2.2;lr>")
		s.phone.sends(invite)
		got := s.pbx.gets("the INVITE goes on", "INVITE")
		s.pbx.replies(got, "486 Busy Here")
		ack := s.pbx.gets("we acknowledge", "ACK sip:102@pbx.example SIP/2.0")
		equal(t, "one Via, the INVITE's", strings.Join(ack.all("Via"), " "), got.one("Via"))
		equal(t, "the Route of the INVITE", strings.Join(ack.all("Route"), " "), "<sip:192.0.2.2;lr>")
		equal(t, "the To of the response", ack.one("To"), "<sip:102@pbx.example>;tag=to-pbx")
		equal(t, "From", ack.one("From"), got.one("From"))
		equal(t, "Call-ID", ack.one("Call-ID"), got.one("Call-ID"))
		equal(t, "CSeq", ack.one("CSeq"), "1 ACK")
		busy := s.phone.gets("the caller hears it", "SIP/2.0 486")

		for range 3 {
			s.after(100 * ms)
			s.pbx.replies(got, "486 Busy Here")
			equal(t, "the ACK again", string(s.pbx.gets("at once", "ACK")), string(ack))
			s.quiet("it is told once")
		}
		s.phone.acks(invite, busy)
		s.after(32*time.Second - 310*ms)
		s.pbx.replies(got, "486 Busy Here")
		s.pbx.gets("one tick before Timer D", "ACK")
		s.after(10 * ms)
		s.pbx.replies(got, "486 Busy Here")
		s.quiet("after Timer D nobody knows it")
	})
}

func TestA2xxIsForwardedEachTime(t *testing.T) { // RFC 6026 §7–8: Timers L and M; RFC 3261 §16.7 item 5
	play(t, func(s *scene) {
		s.registered()
		invite, got := s.invited()
		ok := s.pbx.answer(got, "200 OK")
		for range 3 {
			s.pbx.sends(ok)
			s.phone.gets("each 200", "SIP/2.0 200")
			s.after(500 * ms)
		}
		s.phone.sends(invite)
		s.quiet("the INVITE again is absorbed: the PBX repeats its 200")
		forked := ok.with("tag=to-pbx", "tag=voicemail")
		s.pbx.sends(forked)
		second := s.phone.gets("another 200 of a forked INVITE", "SIP/2.0 200")
		equal(t, "To tag", second.toTag(), "voicemail")
		s.phone.sends(s.phone.within(second, "ACK"))
		s.pbx.gets("its ACK", "ACK")
		s.phone.sends(s.phone.within(second, "BYE"))
		bye := s.pbx.gets("its BYE", "BYE")
		equal(t, "To tag", bye.toTag(), "voicemail")
		s.pbx.replies(got, "486 Busy Here")
		s.quiet("a failure after a 200 is a mistake")

		s.after(32*time.Second - 1500*ms - 10*ms)
		s.pbx.sends(ok)
		s.phone.gets("one tick before Timer M", "SIP/2.0 200")
		s.pbx.forgets() // the BYE that was not answered
		s.after(10 * ms)
		s.pbx.sends(ok)
		if m, ok := s.phone.next(); ok {
			t.Errorf("after Timer M the phone got\n%s", m)
		}
	})
}

func TestAnotherRequestIsRepeatedUntilTimerF(t *testing.T) { // RFC 3261 §17.1.2.2: Timers E and F; RFC 4320 §4.1
	play(t, func(s *scene) {
		s.phone.sends(s.phone.request("MESSAGE", "sip:102@pbx.example"))
		first := s.pbx.gets("it goes on", "MESSAGE")
		at := time.Duration(0)
		for _, next := range []time.Duration{500 * ms, 1500 * ms, 3500 * ms, 7500 * ms, 11500 * ms, 15500 * ms, 19500 * ms, 23500 * ms, 27500 * ms, 31500 * ms} {
			s.after(next - at - 10*ms)
			s.quiet("one tick early")
			s.after(10 * ms)
			equal(t, "the same bytes again", string(s.pbx.gets("Timer E", "MESSAGE")), string(first))
			at = next
		}
		s.after(time.Minute)
		s.quiet("no 100, no 408: the sender has timed out too")
		s.pbx.replies(first, "200 OK")
		s.quiet("an answer after Timer F is late")
	})
}

func TestAfterA1xxAnotherRequestIsRepeatedSlowly(t *testing.T) { // RFC 3261 §17.1.2.2
	play(t, func(s *scene) {
		s.phone.sends(s.phone.request("SUBSCRIBE", "sip:102@pbx.example"))
		got := s.pbx.gets("it goes on", "SUBSCRIBE")
		s.pbx.replies(got, "100 Trying")
		s.after(500 * ms)
		s.pbx.gets("Timer E was set", "SUBSCRIBE")
		s.after(4*time.Second - 10*ms)
		s.quiet("now it is T2")
		s.after(10 * ms)
		s.pbx.gets("T2", "SUBSCRIBE")
		s.pbx.replies(got, "200 OK")
		s.phone.gets("answer", "SIP/2.0 200")
		s.quiet("and no 100")
	})
}

func TestAFinalResponseIsToldOnce(t *testing.T) { // RFC 3261 §17.1.2.2: Timer K; §17.2.2: Timer J
	play(t, func(s *scene) {
		message := s.phone.request("MESSAGE", "sip:102@pbx.example")
		s.phone.sends(message)
		got := s.pbx.gets("it goes on", "MESSAGE")
		s.pbx.replies(got, "202 Accepted")
		answer := s.phone.gets("the answer", "SIP/2.0 202")
		s.pbx.replies(got, "202 Accepted")
		s.quiet("absorbed")
		s.phone.sends(message)
		equal(t, "the same bytes", string(s.phone.gets("a repeated request gets its answer again", "SIP/2.0 202")), string(answer))
		s.quiet("and is not forwarded again")
		s.after(32*time.Second - 10*ms)
		s.phone.sends(message)
		s.phone.gets("one tick before Timer J", "SIP/2.0 202")
		s.after(10 * ms)
		s.phone.sends(message)
		s.pbx.gets("after Timer J it is a new one", "MESSAGE")
	})
}

// A sender that gives up behind our own CANCEL leaves nothing: play looks for it.
func TestACancelBehindTimerC(t *testing.T) {
	play(t, func(s *scene) {
		invite, got := s.invited()
		s.pbx.replies(got, "180 Ringing")
		s.phone.gets("ringing", "SIP/2.0 180")
		s.after(185 * time.Second)
		s.pbx.replies(s.pbx.gets("Timer C", "CANCEL"), "200 OK")
		s.phone.cancels(invite, "Reason: SIP;cause=487")
		s.phone.gets("the CANCEL is answered", "SIP/2.0 200")
		s.after(33 * time.Second)
		s.phone.gets("the PBX is silent", "SIP/2.0 487")
	})
}

// Towards the sender: server transactions.

func TestTryingIsSaidWhenThePBXIsSlow(t *testing.T) { // RFC 3261 §16.2, §17.2.1
	play(t, func(s *scene) {
		s.registered()
		invite, got := s.invited()
		s.after(140 * ms)
		s.phone.sends(invite)
		s.quiet("nothing to say yet; the INVITE again is absorbed")
		s.after(10 * ms)
		trying := s.phone.gets("150 ms", "SIP/2.0 100 Trying")
		equal(t, "no To tag", trying.toTag(), "")
		equal(t, "one Via", strings.Join(trying.all("Via"), " "), got.all("Via")[1])
		s.phone.sends(invite)
		equal(t, "the same", string(s.phone.gets("the INVITE again gets it again", "SIP/2.0 100")), string(trying))
		s.pbx.replies(got, "180 Ringing")
		s.phone.gets("ringing", "SIP/2.0 180")
		s.phone.sends(invite)
		s.phone.gets("now the INVITE again gets the ringing", "SIP/2.0 180")
		s.quiet("the PBX is not troubled")
		s.pbx.replies(got, "200 OK")
		s.phone.gets("answer", "SIP/2.0 200")
	})
}

func TestTryingIsNotSaidWhenThePBXIsQuick(t *testing.T) { // RFC 3261 §17.2.1
	play(t, func(s *scene) {
		s.phone.sends(s.phone.invite())
		got := s.pbx.gets("the INVITE goes on", "INVITE")
		s.after(100 * ms)
		s.pbx.replies(got, "180 Ringing")
		s.phone.gets("ringing", "SIP/2.0 180")
		s.after(time.Second)
		s.quiet("no 100 behind a 180")
		s.pbx.replies(got, "200 OK")
		s.phone.gets("answer", "SIP/2.0 200")
	})
}

func TestAFailureIsRepeatedUntilItIsAcknowledged(t *testing.T) { // RFC 3261 §17.2.1: Timers G and H
	play(t, func(s *scene) {
		s.registered()
		invite := s.phone.invite()
		s.phone.sends(invite)
		s.pbx.replies(s.pbx.gets("the INVITE goes on", "INVITE"), "404 Not Found")
		s.pbx.gets("acknowledged", "ACK")
		first := s.phone.gets("the failure", "SIP/2.0 404")
		at := time.Duration(0)
		for _, next := range []time.Duration{500 * ms, 1500 * ms, 3500 * ms, 7500 * ms, 11500 * ms, 15500 * ms, 19500 * ms, 23500 * ms, 27500 * ms, 31500 * ms} {
			s.after(next - at - 10*ms)
			s.quiet("one tick early")
			s.after(10 * ms)
			equal(t, "the same bytes", string(s.phone.gets("Timer G", "SIP/2.0 404")), string(first))
			at = next
		}
		s.phone.sends(invite)
		s.phone.gets("the INVITE again gets it at once", "SIP/2.0 404")
		s.after(10 * time.Second)
		s.quiet("Timer H ends it")
	})
}

func TestAnAcknowledgedFailureIsOver(t *testing.T) { // RFC 3261 §17.2.1: Timer I
	play(t, func(s *scene) {
		invite := s.phone.invite()
		s.phone.sends(invite)
		s.pbx.replies(s.pbx.gets("the INVITE goes on", "INVITE"), "404 Not Found")
		s.pbx.gets("acknowledged", "ACK")
		failure := s.phone.gets("the failure", "SIP/2.0 404")
		s.phone.acks(invite, failure)
		s.phone.acks(invite, failure)
		s.phone.sends(invite)
		s.after(5*time.Second - 10*ms)
		s.phone.acks(invite, failure)
		s.quiet("ACKs and INVITEs are absorbed until Timer I, and nothing is repeated")
	})
}

func TestALateACKGoesOn(t *testing.T) { // RFC 3261 §13.2.2.4, row 28
	play(t, func(s *scene) {
		_, got := s.invited()
		s.pbx.replies(got, "200 OK")
		ok := s.phone.gets("answer", "SIP/2.0 200")
		s.after(40 * time.Second)
		s.phone.sends(s.phone.within(ok, "ACK"))
		s.pbx.gets("long after Timer L", "ACK")
	})
}

func TestAnACKWithTheBranchOfItsINVITEGoesOn(t *testing.T) { // RFC 3261 §17.1.1.3, row 28
	play(t, func(s *scene) {
		invite, got := s.invited()
		s.pbx.replies(got, "200 OK")
		ok := s.phone.gets("answer", "SIP/2.0 200")
		ack := s.phone.within(ok, "ACK", "Via: "+invite.one("Via"))
		s.phone.sends(ack, ack)
		first := s.pbx.gets("forwarded", "ACK sip:192.0.2.2:5060")
		second := s.pbx.gets("and again", "ACK")
		equal(t, "a repeated ACK has the same branch", second.branch(), first.branch())
		if first.branch() == got.branch() {
			t.Error("the ACK of a 2xx is a request of its own: it has a branch of its own")
		}
		s.quiet("an ACK is never answered")
	})
}

func TestAnACKIsNeverAnswered(t *testing.T) { // RFC 3261 §17.1
	play(t, func(s *scene) {
		for _, lines := range [][]string{
			{"Max-Forwards: 0"},
			{"Max-Forwards: 300"},
			{"Route: <sip:192.0.2.66;lr>"},
			{"Route: <sip:forged@192.0.2.1;lr>"},
			{"CSeq: 1 INVITE"},
			{"From:"},
		} {
			s.phone.sends(s.phone.request("ACK", "sip:102@pbx.example", lines...))
		}
		s.quiet("bad ones are dropped")
	})
}

// Failures of the next hop.

func TestADeadPBXOverTCPIsToldAtOnce(t *testing.T) { // RFC 3261 §16.9, row 25
	play(t, func(s *scene) {
		s.pbx.close()
		invite := s.phone.invite()
		s.phone.sends(invite)
		s.phone.acks(invite, s.phone.gets("at once", "SIP/2.0 500"))
		s.phone.sends(s.phone.request("REGISTER", "sip:pbx.example"))
		s.phone.gets("at once", "SIP/2.0 500")
		s.quiet("that is all")
	}, pbxOverTCP)
}

func TestA503LeavesAs500(t *testing.T) { // RFC 3261 §16.7 item 6
	play(t, func(s *scene) {
		invite := s.phone.invite()
		s.phone.sends(invite)
		s.pbx.replies(s.pbx.gets("the INVITE goes on", "INVITE"), "503 Service Unavailable", "Retry-After: 10")
		s.pbx.gets("acknowledged", "ACK")
		s.phone.acks(invite, s.phone.gets("not 503", "SIP/2.0 500 "))
		s.phone.sends(s.phone.request("MESSAGE", "sip:102@pbx.example"))
		s.pbx.replies(s.pbx.gets("it goes on", "MESSAGE"), "503 Service Unavailable")
		s.phone.gets("not 503", "SIP/2.0 500 ")
	})
}

func TestStrayResponsesAreDropped(t *testing.T) { // RFC 3261 §18.1.2, RFC 6026 §8.9
	play(t, func(s *scene) {
		s.phone.sends(s.phone.invite())
		got := s.pbx.gets("the INVITE goes on", "INVITE")
		ok := s.pbx.answer(got, "200 OK")
		branch := got.branch()
		end := "0"
		if strings.HasSuffix(branch, end) {
			end = "1"
		}
		for _, stray := range []text{
			ok.with(branch, "z9hG4bKsomething"),
			ok.with(branch, branch[:len(branch)-1]+end),
			ok.with("CSeq: 1 INVITE", "CSeq: 1 CANCEL"),
			ok.with("CSeq: 1 INVITE", "CSeq: 1 BYE"),
		} {
			s.pbx.sends(stray)
		}
		s.quiet("none of these is the answer")
		s.phone.sends(ok)
		s.phone.gets("the branch is what tells", "SIP/2.0 200")
	})
}

// Over TCP nothing is repeated.

func TestOverTCPNothingIsRepeated(t *testing.T) { // RFC 3261 §17: A, D, E, G, I, J, K are 0 or off
	play(t, func(s *scene) {
		phone := s.tcp(phoneAt.Addr())
		invite := phone.invite()
		phone.sends(invite)
		got := s.pbx.gets("the INVITE goes on", "INVITE")
		s.after(31 * time.Second)
		phone.gets("trying", "SIP/2.0 100")
		s.quiet("no Timer A")
		s.pbx.replies(got, "486 Busy Here")
		s.pbx.gets("acknowledged", "ACK")
		busy := phone.gets("busy", "SIP/2.0 486")
		s.after(20 * time.Second)
		s.quiet("no Timer G")
		phone.acks(invite, busy)
		s.quiet("absorbed")

		phone.sends(phone.request("MESSAGE", "sip:102@pbx.example"))
		message := s.pbx.gets("it goes on", "MESSAGE")
		s.after(20 * time.Second)
		s.quiet("no Timer E")
		s.pbx.replies(message, "200 OK")
		phone.gets("the answer", "SIP/2.0 200")
	}, pbxOverTCP)
}

func TestOverTCPTimerBStillRuns(t *testing.T) { // RFC 3261 §17.1.1.2
	play(t, func(s *scene) {
		invite := s.phone.invite()
		s.phone.sends(invite)
		s.pbx.gets("the INVITE goes on", "INVITE")
		s.after(32*time.Second - 10*ms)
		s.phone.gets("trying", "SIP/2.0 100")
		s.quiet("one tick before Timer B")
		s.after(10 * ms)
		s.phone.acks(invite, s.phone.gets("Timer B", "SIP/2.0 408"))
	}, pbxOverTCP)
}
