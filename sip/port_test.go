package sip_test

import (
	"testing"

	"bellhop/sip"
)

// A port that is 0, negative or above 65535 is refused. Nothing is sent to a truncated port.
func TestPortOutOfRangeIsRefused(t *testing.T) { // RFC 6335 §6
	for _, port := range []string{"0", "00", "65536", "70000", "131125", "4294972356", "18446744073709556676", "-1"} {
		t.Run(port, func(t *testing.T) {
			runScenario(t, func(s *testbed) {
				at5060 := s.addUDPPeer(otherAt)
				for _, uri := range []string{"sip:101@192.0.2.101:" + port, "sip:101@192.0.2.101:" + port + ";transport=udp", "sip:192.0.2.101:" + port} {
					s.pbx.send(s.pbx.newRequest("MESSAGE", uri))
					s.pbx.expect("a Request-URI of the PBX", "SIP/2.0 400")
					s.phone.send(s.phone.newRequest("MESSAGE", uri))
					s.phone.expect("a phone's", "SIP/2.0 400")
				}
				s.pbx.send(s.pbx.newRequest("MESSAGE", "sip:101@192.0.2.101:5062", "Route: <sip:192.0.2.102:"+port+";lr>"))
				s.pbx.expect("a Route", "SIP/2.0 400")
				s.phone.send(s.phone.newRequest("MESSAGE", "sip:102@pbx.example", "Via: SIP/2.0/UDP 192.0.2.102:"+port+";branch=z9hG4bK-port"))
				s.expectNothing("a Via that cannot be answered")

				invite := s.phone.newInvite("Contact: <sip:101@192.0.2.102:" + port + ">")
				s.phone.send(invite)
				got := s.pbx.expect("a Contact is the PBX's to judge", "INVITE")
				s.pbx.respond(got, "200 OK")
				s.phone.expect("answer", "SIP/2.0 200")
				s.pbx.send(s.pbx.calleeRequest(got, "BYE"))
				s.pbx.expect("but no way leads there", "SIP/2.0 400")
				if m, ok := at5060.nextMessage(); ok {
					t.Errorf("got\n%s", m)
				}
			})
		})
	}
	for _, uri := range []string{"sip:101:secret@192.0.2.101:5062", "sip:1:0@192.0.2.101:5062;x=a:b"} { // other colons are no port
		runScenario(t, func(s *testbed) {
			s.pbx.send(s.pbx.newRequest("MESSAGE", uri))
			s.phone.respond(s.phone.expect(uri, "MESSAGE"), "200 OK")
		})
	}
	runScenario(t, func(s *testbed) {
		s.phone.send(s.phone.newRequest("REGISTER", "sip:pbx.example", "Contact: <sip:101@192.0.2.101:99999>"))
		got := s.pbx.expect("sent on as it is", "REGISTER")
		assertEqual(t, "Contact", got.fieldValue("Contact"), "<sip:101@192.0.2.101:99999>")
		s.pbx.respond(got, "400 Bad Request")
	}, withRegister(sip.RegisterContact))
}
