package sip_test

import (
	"net/netip"
	"testing"
	"time"

	"bellhop/sip"
)

// The network in memory fails a datagram to a closed port at once, as ICMP does.

// TestAClosedPortIsALostDatagram: whoever is away for a moment is there at the next
// repetition; only Timers B and F end it.
func TestAClosedPortIsALostDatagram(t *testing.T) { // RFC 3261 §17.1.1.2, §17.1.2.2; RFC 4320 §4.1
	t.Run("an INVITE until Timer B", func(t *testing.T) {
		play(t, func(s *scene) {
			s.pbx.close()
			invite := s.phone.invite()
			s.phone.sends(invite)
			s.after(150 * ms)
			s.phone.gets("the caller is told to wait", "SIP/2.0 100")
			s.after(32*time.Second - 160*ms)
			s.quiet("one tick before Timer B")
			s.after(10 * ms)
			s.phone.acks(invite, s.phone.gets("Timer B", "SIP/2.0 408"))
			s.quiet("that is all")
		})
	})
	t.Run("a PBX that restarts", func(t *testing.T) {
		play(t, func(s *scene) {
			s.pbx.close()
			invite := s.phone.invite()
			s.phone.sends(invite)
			s.after(time.Second)
			s.phone.sends(s.phone.request("REGISTER", "sip:pbx.example"))
			s.after(2 * time.Second)
			s.phone.gets("told to wait", "SIP/2.0 100")
			pbx := s.udp(pbxAt)
			s.after(500 * ms)
			got := pbx.gets("Timer A", "INVITE")
			pbx.replies(got, "486 Busy Here")
			pbx.gets("acknowledged", "ACK")
			s.phone.acks(invite, s.phone.gets("the end", "SIP/2.0 486"))
			s.after(time.Second)
			pbx.replies(pbx.gets("Timer E", "REGISTER"), "200 OK")
			s.phone.gets("registered", "SIP/2.0 200")
		})
	})
	t.Run("a phone that restarts", func(t *testing.T) {
		play(t, func(s *scene) {
			s.phone.close()
			s.pbx.sends(s.pbx.request("INVITE", "sip:101@192.0.2.101:5062"))
			s.after(time.Second)
			s.pbx.gets("told to wait", "SIP/2.0 100")
			phone := s.udp(phoneAt)
			s.after(500 * ms)
			phone.replies(phone.gets("Timer A", "INVITE"), "200 OK")
			ok := s.pbx.gets("answer", "SIP/2.0 200")
			s.pbx.sends(s.pbx.within(ok, "ACK"))
			phone.gets("its ACK", "ACK")
		})
	})
	t.Run("while it rings", func(t *testing.T) { // a CANCEL that does not arrive is no end of the INVITE
		play(t, func(s *scene) {
			invite, got := s.invited()
			s.pbx.replies(got, "180 Ringing")
			s.phone.gets("ringing", "SIP/2.0 180")
			s.pbx.close()
			s.phone.cancels(invite)
			s.phone.gets("the CANCEL is taken", "SIP/2.0 200")
			s.after(time.Second)
			s.quiet("and is lost")
			pbx := s.udp(pbxAt)
			s.after(500 * ms)
			pbx.replies(pbx.gets("Timer E", "CANCEL"), "200 OK")
			pbx.sends(s.pbx.answer(got, "487 Request Terminated"))
			pbx.gets("acknowledged", "ACK")
			s.phone.acks(invite, s.phone.gets("the end", "SIP/2.0 487"))
		})
	})
	t.Run("a BYE", func(t *testing.T) {
		play(t, func(s *scene) {
			c := s.phone.calls(s.pbx)
			s.pbx.close()
			s.phone.sends(s.phone.within(c.ok, "BYE"))
			s.after(time.Second)
			s.quiet("it is lost")
			pbx := s.udp(pbxAt)
			s.after(500 * ms)
			pbx.replies(pbx.gets("Timer E", "BYE"), "200 OK")
			s.phone.gets("answer", "SIP/2.0 200")
		})
	})
}

// TestAClosedPortWithAnotherPBX: the sender of a new request may try again at once.
func TestAClosedPortWithAnotherPBX(t *testing.T) {
	secondAt := netip.MustParseAddrPort("192.0.2.12:5060")
	play(t, func(s *scene) {
		second := s.pbxs[1]
		s.pbx.replies(s.pbx.gets("a probe", "OPTIONS"), "200 OK")
		second.replies(second.gets("a probe", "OPTIONS"), "200 OK")
		c := s.phone.calls(s.pbx)
		s.pbx.close()
		invite := s.phone.invite()
		s.phone.sends(invite)
		s.phone.acks(invite, s.phone.gets("at once", "SIP/2.0 500"))
		s.phone.sends(s.phone.within(c.ok, "BYE"))
		s.quiet("a dialog stays with its PBX")
		s.after(10 * time.Second) // a probe finds the port closed
		second.replies(second.gets("a probe", "OPTIONS"), "200 OK")
		s.phone.sends(s.phone.request("MESSAGE", "sip:102@pbx.example"))
		second.replies(second.gets("goes to the other", "MESSAGE"), "200 OK")
		s.phone.gets("answer", "SIP/2.0 200")
	}, func(c *sip.Config) {
		c.PBX = append(c.PBX, sip.Addr{Proto: sip.UDP, AddrPort: secondAt})
	})
}
