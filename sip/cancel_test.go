package sip_test

import (
	"strings"
	"testing"
	"time"
)

func TestCancelWhileItRings(t *testing.T) { // RFC 3261 §9, §16.10
	play(t, func(s *scene) {
		invite := s.phone.invite("Route: <sip:192.0.2.1;lr>", "Route: <sip:192.0.2.2;lr>")
		s.phone.sends(invite)
		got := s.pbx.gets("the INVITE goes on", "INVITE")
		s.pbx.replies(got, "180 Ringing")
		s.phone.gets("ringing", "SIP/2.0 180")
		s.phone.cancels(invite, `Reason: SIP;cause=200;text="Call completed elsewhere"`, "X-Any: 1", "Proxy-Authorization: Digest x")
		s.phone.gets("answered at once, by us", "SIP/2.0 200 OK")
		cancel := s.pbx.gets("it goes on", "CANCEL sip:102@pbx.example SIP/2.0")
		equal(t, "one Via, the INVITE's", strings.Join(cancel.all("Via"), " "), got.one("Via"))
		equal(t, "the Route of the INVITE", strings.Join(cancel.all("Route"), " "), "<sip:192.0.2.2;lr>")
		equal(t, "Reason goes with it (RFC 3326)", cancel.one("Reason"), `SIP;cause=200;text="Call completed elsewhere"`)
		equal(t, "others too", cancel.one("X-Any"), "1")
		equal(t, "and credentials", cancel.one("Proxy-Authorization"), "Digest x")
		equal(t, "CSeq", cancel.one("CSeq"), "1 CANCEL")
		equal(t, "To", cancel.one("To"), got.one("To"))
		s.quiet("the 487 is the PBX's to say")
		s.pbx.replies(cancel, "200 OK")
		s.quiet("the 200 to our CANCEL is for us")
		s.pbx.replies(got, "487 Request Terminated")
		s.pbx.gets("acknowledged", "ACK")
		s.phone.acks(invite, s.phone.gets("the end", "SIP/2.0 487"))
		s.quiet("that was all")
	})
}

func TestCancelBeforeAnythingIsHeard(t *testing.T) { // RFC 3261 §9.1
	play(t, func(s *scene) {
		invite, got := s.invited()
		s.phone.cancels(invite)
		s.phone.gets("answered at once", "SIP/2.0 200 OK")
		s.quiet("no CANCEL before a 1xx")
		s.pbx.replies(got, "100 Trying")
		cancel := s.pbx.gets("now", "CANCEL")
		s.pbx.replies(cancel, "200 OK")
		s.pbx.replies(got, "487 Request Terminated")
		s.pbx.gets("acknowledged", "ACK")
		s.phone.acks(invite, s.phone.gets("the end", "SIP/2.0 487"))
	})
}

func TestCancelTwice(t *testing.T) { // RFC 3261 §17.2.2: CANCEL has a transaction of its own
	play(t, func(s *scene) {
		invite, got := s.invited()
		s.pbx.replies(got, "180 Ringing")
		s.phone.gets("ringing", "SIP/2.0 180")
		s.phone.cancels(invite)
		first := s.phone.gets("answered", "SIP/2.0 200")
		s.phone.cancels(invite)
		equal(t, "the same bytes", string(s.phone.gets("answered", "SIP/2.0 200")), string(first))
		s.pbx.gets("one CANCEL", "CANCEL")
		s.quiet("and no other")
		s.after(500 * ms)
		cancel := s.pbx.gets("but Timer E", "CANCEL")
		s.pbx.replies(cancel, "200 OK")
		s.after(10 * time.Second)
		s.quiet("until it is answered")
		s.pbx.replies(got, "487 Request Terminated")
		s.pbx.gets("acknowledged", "ACK")
		s.phone.acks(invite, s.phone.gets("the end", "SIP/2.0 487"))
	})
}

func TestCancelLosesTheRace(t *testing.T) { // RFC 3261 §16.7 item 5, row 23
	play(t, func(s *scene) {
		invite, got := s.invited()
		s.pbx.replies(got, "180 Ringing")
		s.phone.gets("ringing", "SIP/2.0 180")
		s.phone.cancels(invite)
		s.phone.gets("answered", "SIP/2.0 200 OK")
		cancel := s.pbx.gets("it goes on", "CANCEL")
		s.pbx.replies(got, "200 OK")
		ok := s.phone.gets("the call was answered all the same", "SIP/2.0 200")
		equal(t, "it is the answer", ok.method(), "INVITE")
		s.pbx.replies(cancel, "481 Call/Transaction Does Not Exist")
		s.phone.sends(s.phone.within(ok, "ACK"), s.phone.within(ok, "BYE"))
		s.pbx.gets("the caller acknowledges", "ACK")
		s.pbx.replies(s.pbx.gets("and hangs up", "BYE"), "200 OK")
		s.phone.gets("answered", "SIP/2.0 200")
		s.quiet("that was all")
	})
}

func TestCancelAfterTheAnswerChangesNothing(t *testing.T) { // RFC 3261 §9.2
	play(t, func(s *scene) {
		invite, got := s.invited()
		s.pbx.replies(got, "200 OK")
		s.phone.gets("answer", "SIP/2.0 200")
		s.phone.cancels(invite)
		s.phone.gets("the CANCEL is answered", "SIP/2.0 200")
		s.quiet("and has no effect")
	})
}

func TestACancelForNothingGoesOn(t *testing.T) { // RFC 3261 §16.10
	play(t, func(s *scene) {
		s.phone.cancels(s.phone.invite(), "Reason: Q.850;cause=16")
		cancel := s.pbx.gets("without state", "CANCEL sip:102@pbx.example")
		equal(t, "two Vias", strings.Join(cancel.all("Max-Forwards"), " "), "69")
		s.after(time.Minute)
		s.quiet("and is not repeated")
		s.phone.cancels(s.phone.invite(), "Max-Forwards: 0")
		s.phone.forgets()
		if m, ok := s.pbx.next(); ok {
			t.Errorf("a CANCEL that has come too far went on:\n%s", m)
		}
	})
}

func TestASilentPBXAfterCancelIs487(t *testing.T) { // RFC 3261 §9.1: 64*T1 after the CANCEL
	play(t, func(s *scene) {
		invite, got := s.invited()
		s.pbx.replies(got, "180 Ringing")
		s.phone.gets("ringing", "SIP/2.0 180")
		s.after(10 * time.Second)
		s.phone.cancels(invite)
		s.phone.gets("answered", "SIP/2.0 200 OK")
		s.pbx.gets("it goes on", "CANCEL")
		s.after(32*time.Second - 10*ms)
		s.pbx.forgets() // Timer E
		s.quiet("one tick early")
		s.after(10 * ms)
		s.phone.acks(invite, s.phone.gets("64*T1", "SIP/2.0 487"))
	})
}

func TestA18xAfterCancelDoesNotHoldTheCallUp(t *testing.T) { // RFC 3261 §9.1
	play(t, func(s *scene) {
		invite, got := s.invited()
		s.pbx.replies(got, "180 Ringing")
		s.phone.gets("ringing", "SIP/2.0 180")
		s.phone.cancels(invite)
		s.phone.gets("answered", "SIP/2.0 200 OK")
		s.pbx.replies(s.pbx.gets("it goes on", "CANCEL"), "200 OK")
		s.after(20 * time.Second)
		s.pbx.replies(got, "180 Ringing")
		s.phone.gets("ringing", "SIP/2.0 180")
		s.after(12 * time.Second)
		s.phone.acks(invite, s.phone.gets("64*T1 after the CANCEL all the same", "SIP/2.0 487"))
	})
}

func TestCancelOverTCP(t *testing.T) { // RFC 3261 §9
	play(t, func(s *scene) {
		phone := s.tcp(phoneAt.Addr())
		invite := phone.invite()
		phone.sends(invite)
		got := s.pbx.gets("the INVITE goes on", "INVITE")
		s.pbx.replies(got, "180 Ringing")
		phone.gets("ringing", "SIP/2.0 180")
		phone.cancels(invite)
		phone.gets("answered", "SIP/2.0 200")
		s.pbx.replies(s.pbx.gets("it goes on", "CANCEL"), "200 OK")
		s.pbx.replies(got, "487 Request Terminated")
		s.pbx.gets("acknowledged", "ACK")
		phone.acks(invite, phone.gets("the end", "SIP/2.0 487"))
		s.quiet("that was all")
	}, pbxOverTCP)
}
