package sip_test

import (
	"strings"
	"testing"

	"bellhop/sip"
)

// TestABindingProvesAfterARestart: the PBX asks a registered phone whether it is there,
// along the Path or by the Contact that it got from the process before. From then on the
// phone's first INVITE gets its large challenge at once, whatever the phone answers. A
// stranger's waits, and a phone proves nothing for others with a token of its own.
func TestABindingProvesAfterARestart(t *testing.T) {
	for _, mode := range []sip.Register{sip.RegisterPath, sip.RegisterContact} {
		t.Run(string(mode), func(t *testing.T) {
			playUnproved(t, func(s *scene) {
				other := s.udp(otherAt)
				s.phone.sends(s.phone.request("REGISTER", "sip:pbx.example", "To: <sip:101@pbx.example>"))
				got := s.pbx.gets("the REGISTER goes on", "REGISTER")
				s.pbx.replies(got, "200 OK", "Path: "+got.one("Path"))
				s.phone.gets("registered", "SIP/2.0 200")
				s.stop()
				s.again()
				asks := func(from *peer) {
					if mode == sip.RegisterContact {
						from.sends(from.request("OPTIONS", bracketed(got.one("Contact"))))
					} else {
						from.sends(from.request("OPTIONS", "sip:101@192.0.2.101:5062", "Route: "+got.one("Path")))
					}
				}
				challenged := func(from *peer) text {
					invite := from.invite()
					from.sends(invite)
					s.pbx.replies(s.pbx.gets("the INVITE goes on", "INVITE"), "401 Unauthorized", "X-Long: "+strings.Repeat("x", 400))
					s.pbx.gets("acknowledged", "ACK")
					return invite
				}
				asks(other) // leads to the PBX, or is refused
				s.pbx.forgets()
				other.forgets()
				invite := challenged(s.phone)
				s.quiet("nobody has said yet that the phone is there")
				s.phone.sends(invite)
				s.after(0)
				s.phone.forgets()

				asks(s.pbx)
				s.phone.gets("the PBX asks", "OPTIONS")
				invite = challenged(s.phone)
				s.phone.acks(invite, s.phone.gets("at once", "SIP/2.0 401"))
				challenged(other)
				s.quiet("a stranger's waits")
			}, register(mode))
		})
	}
}
