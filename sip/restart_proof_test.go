package sip_test

import (
	"strings"
	"testing"

	"bellhop/sip"
)

// After a restart the PBX sends OPTIONS to a registered phone, by the Path or Contact of
// the earlier process. From then on the phone's first INVITE gets its large challenge at
// once, whatever the phone answers. A stranger's challenge waits. A phone proves no
// address but its own with its token.
func TestBindingProvesItsAddressAfterARestart(t *testing.T) {
	for _, mode := range []sip.Register{sip.RegisterPath, sip.RegisterContact} {
		t.Run(string(mode), func(t *testing.T) {
			runUnproven(t, func(s *testbed) {
				other := s.addUDPPeer(otherAt)
				s.phone.send(s.phone.newRequest("REGISTER", "sip:pbx.example", "To: <sip:101@pbx.example>"))
				got := s.pbx.expect("the REGISTER goes on", "REGISTER")
				s.pbx.respond(got, "200 OK", "Path: "+got.fieldValue("Path"))
				s.phone.expect("registered", "SIP/2.0 200")
				s.stop()
				s.restartProxy()
				asks := func(from *peer) {
					if mode == sip.RegisterContact {
						from.send(from.newRequest("OPTIONS", bracketedURI(got.fieldValue("Contact"))))
					} else {
						from.send(from.newRequest("OPTIONS", "sip:101@192.0.2.101:5062", "Route: "+got.fieldValue("Path")))
					}
				}
				challenged := func(from *peer) text {
					invite := from.newInvite()
					from.send(invite)
					s.pbx.respond(s.pbx.expect("the INVITE goes on", "INVITE"), "401 Unauthorized", "X-Long: "+strings.Repeat("x", 400))
					s.pbx.expect("acknowledged", "ACK")
					return invite
				}
				asks(other) // leads to the PBX, or is refused
				s.pbx.discardReceived()
				other.discardReceived()
				invite := challenged(s.phone)
				s.expectNothing("nobody has said yet that the phone is there")
				s.phone.send(invite)
				s.advance(0)
				s.phone.discardReceived()

				asks(s.pbx)
				s.phone.expect("the PBX asks", "OPTIONS")
				invite = challenged(s.phone)
				s.phone.sendACK(invite, s.phone.expect("at once", "SIP/2.0 401"))
				challenged(other)
				s.expectNothing("a stranger's waits")
			}, withRegister(mode))
		})
	}
}
