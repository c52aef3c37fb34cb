package sip_test

import (
	"testing"

	"bellhop/sip"
)

// TestAPortThatNoAddressHas: it is refused where it is read, and nothing is sent to
// what is left of it.
func TestAPortThatNoAddressHas(t *testing.T) { // RFC 6335 §6
	for _, port := range []string{"0", "00", "65536", "70000", "131125", "4294972356", "18446744073709556676", "-1"} {
		t.Run(port, func(t *testing.T) {
			play(t, func(s *scene) {
				at5060 := s.udp(otherAt)
				for _, uri := range []string{"sip:101@192.0.2.101:" + port, "sip:101@192.0.2.101:" + port + ";transport=udp", "sip:192.0.2.101:" + port} {
					s.pbx.sends(s.pbx.request("MESSAGE", uri))
					s.pbx.gets("a Request-URI of the PBX", "SIP/2.0 400")
					s.phone.sends(s.phone.request("MESSAGE", uri))
					s.phone.gets("a phone's", "SIP/2.0 400")
				}
				s.pbx.sends(s.pbx.request("MESSAGE", "sip:101@192.0.2.101:5062", "Route: <sip:192.0.2.102:"+port+";lr>"))
				s.pbx.gets("a Route", "SIP/2.0 400")
				s.phone.sends(s.phone.request("MESSAGE", "sip:102@pbx.example", "Via: SIP/2.0/UDP 192.0.2.102:"+port+";branch=z9hG4bK-port"))
				s.quiet("a Via that cannot be answered")

				invite := s.phone.invite("Contact: <sip:101@192.0.2.102:" + port + ">")
				s.phone.sends(invite)
				got := s.pbx.gets("a Contact is the PBX's to judge", "INVITE")
				s.pbx.replies(got, "200 OK")
				s.phone.gets("answer", "SIP/2.0 200")
				s.pbx.sends(s.pbx.back(got, "BYE"))
				s.pbx.gets("but no way leads there", "SIP/2.0 400")
				if m, ok := at5060.next(); ok {
					t.Errorf("got\n%s", m)
				}
			})
		})
	}
	for _, uri := range []string{"sip:101:secret@192.0.2.101:5062", "sip:1:0@192.0.2.101:5062;x=a:b"} { // other colons are no port
		play(t, func(s *scene) {
			s.pbx.sends(s.pbx.request("MESSAGE", uri))
			s.phone.replies(s.phone.gets(uri, "MESSAGE"), "200 OK")
		})
	}
	play(t, func(s *scene) {
		s.phone.sends(s.phone.request("REGISTER", "sip:pbx.example", "Contact: <sip:101@192.0.2.101:99999>"))
		got := s.pbx.gets("sent on as it is", "REGISTER")
		equal(t, "Contact", got.one("Contact"), "<sip:101@192.0.2.101:99999>")
		s.pbx.replies(got, "400 Bad Request")
	}, register(sip.RegisterContact))
}
