package sip_test

import (
	"net/netip"
	"strings"
	"testing"

	"bellhop/sip"
)

var (
	proxy6At = netip.MustParseAddrPort("[2001:db8::1]:5060")
	phone6At = netip.MustParseAddrPort("[2001:db8::101]:5062")
)

// dualStack adds listeners on an IPv6 address. The PBX stays on IPv4.
func dualStack(c *sip.Config) {
	for _, proto := range []sip.Proto{sip.UDP, sip.TCP} {
		c.Listen = append(c.Listen, sip.Listener{Addr: sip.Addr{Proto: proto, AddrPort: proxy6At}})
	}
}

// A phone over IPv6 registers at a PBX over IPv4, is called, and calls. Each side gets the
// address of its own family.
func TestIPv6PhoneAtIPv4PBX(t *testing.T) { // RFC 6157 §4.2, RFC 5658
	for _, register := range []sip.Register{sip.RegisterPath, sip.RegisterContact} {
		t.Run(string(register), func(t *testing.T) {
			runScenario(t, func(s *testbed) {
				phone := s.addUDPPeer(phone6At)
				phone.proxyAddr, phone.name = proxy6At, "phone6"
				phone.send(phone.newRequest("REGISTER", "sip:pbx.example", "To: <sip:101@pbx.example>"))
				got := s.pbx.expect("sent on", "REGISTER")
				assertEqual(t, "Via to the PBX", sentBy(got), "192.0.2.1:5060")
				s.pbx.respond(got, "200 OK")
				phone.expect("registered", "SIP/2.0 200")
				ours, invite := got.fieldValue("Path"), s.pbx.newInvite("Route: "+got.fieldValue("Path"))
				if register == sip.RegisterContact {
					ours = got.fieldValue("Contact")
					invite = s.pbx.newRequest("INVITE", bracketedURI(ours))
				}
				if !strings.Contains(ours, "192.0.2.1:5060;") {
					t.Errorf("the PBX is to call %s", ours)
				}

				s.pbx.send(invite)
				called := phone.expect("a call", "INVITE")
				assertEqual(t, "Via to the phone", sentBy(called), "[2001:db8::1]:5060")
				assertEqual(t, "Record-Route", hosts(called), "[2001:db8::1]:5060 192.0.2.1:5060")
				phone.respond(called, "200 OK")
				ok := s.pbx.expect("answered", "SIP/2.0 200")
				s.pbx.send(s.pbx.callerRequest(ok, "ACK"))
				phone.expect("acknowledged", "ACK")
				phone.send(phone.calleeRequest(called, "BYE"))
				bye := s.pbx.expect("the phone hangs up", "BYE")
				assertEqual(t, "Route", bye.fieldValue("Route"), "")
				s.pbx.respond(bye, "200 OK")
				phone.expect("answer", "SIP/2.0 200")

				c := phone.setUpCall(s.pbx)
				assertEqual(t, "Record-Route", hosts(c.invite), "192.0.2.1:5060 [2001:db8::1]:5060")
				s.pbx.send(s.pbx.calleeRequest(c.invite, "BYE"))
				bye = phone.expect("the PBX hangs up", "BYE")
				assertEqual(t, "Route", bye.fieldValue("Route"), "")
				assertEqual(t, "it leaves from", phone.lastSource.String(), proxy6At.String())
				phone.respond(bye, "200 OK")
				s.pbx.expect("answer", "SIP/2.0 200")
			}, dualStack, withRegister(register))
		})
	}
}

func TestIPv6StreamReachesIPv4PBX(t *testing.T) {
	runScenario(t, func(s *testbed) {
		phone := s.dialTCPPeerAt(phone6At.Addr(), proxy6At)
		c := phone.setUpCall(s.pbx)
		assertEqual(t, "Record-Route", hosts(c.invite), "192.0.2.1:5060 [2001:db8::1]:5060;transport=tcp")
		s.pbx.send(s.pbx.calleeRequest(c.invite, "BYE"))
		phone.respond(phone.expect("the PBX hangs up", "BYE"), "200 OK")
		s.pbx.expect("answer", "SIP/2.0 200")
	}, dualStack)
}

// Addresses in messages are read as RFC 5118 says, whatever family carries the message.
func TestIPv6InMessages(t *testing.T) {
	const sdp = "v=0\r\no=- 1 1 IN IP6 2001:db8::101\r\ns=-\r\nc=IN IP6 ::ffff:192.0.2.101\r\nt=0 0\r\nm=audio 6000 RTP/AVP 0\r\nc=IN IP4 192.0.2.101\r\n"
	for _, tt := range []struct {
		name  string // and the section of RFC 5118
		uri   string
		lines []string
		want  string // answer; "": the request reaches the PBX
	}{
		{"4.1 brackets", "sip:102@[2001:db8::10]", nil, ""},
		{"4.2 no brackets", "sip:102@2001:db8::10", nil, "SIP/2.0 400"},
		{"4.2 one bracket", "sip:102@[2001:db8::10", nil, "SIP/2.0 400"},
		{"4.2 an address that is none", "sip:102@[2001:db8::g]", nil, ""}, // only the PBX reads it
		{"4.3 the port is in the brackets", "sip:102@[2001:db8::1:5060]", nil, ""},
		{"4.4 the port is after the brackets", "sip:102@[2001:db8::10]:5070;transport=udp", nil, ""},
		{"4.5 Via in another form", "sip:102@pbx.example", []string{"Via: SIP/2.0/UDP [2001:DB8:0:0::101]:5062;branch=z9hG4bK45"}, ""},
		{"4.5 received with brackets", "sip:102@pbx.example", []string{"Via: SIP/2.0/UDP [2001:db8::9]:5062;received=[2001:db8::101];branch=z9hG4bK45a"}, ""},
		{"4.5 received without", "sip:102@pbx.example", []string{"Via: SIP/2.0/UDP [2001:db8::9]:5062;received=2001:db8::101;branch=z9hG4bK45b"}, ""},
		{"4.6, 4.7, 4.9 bodies", "sip:102@pbx.example", []string{"Content-Type: application/sdp", "", sdp}, ""},
		{"4.8 both families in fields", "sip:102@pbx.example", []string{
			"Contact: <sip:101@[2001:db8::101]:5062>, <sip:101@192.0.2.101>",
			"X-Note: \"::\" <sip:[::ffff:192.0.2.101]:5060;maddr=[2001:db8::5]>",
		}, ""},
		{"4.10 two colons", "sip:102@[2001:db8::192.0.2.1]", nil, ""},
		{"4.10 three colons", "sip:102@[2001:db8:::192.0.2.1]", nil, ""}, // from an older grammar
		{"a zone", "sip:102@[fe80::1%25eth0]", nil, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			runScenario(t, func(s *testbed) {
				phone := s.addUDPPeer(phone6At)
				phone.proxyAddr = proxy6At
				s.proxy.Prove(phone6At.Addr())
				sent := phone.newRequest("INVITE", tt.uri, tt.lines...)
				phone.send(sent)
				if tt.want != "" {
					phone.sendACK(sent, phone.expect("refused", tt.want))
					return
				}
				got := s.pbx.expect("sent on", "INVITE "+tt.uri+" SIP/2.0")
				for _, name := range []string{"Contact", "X-Note", "From", "Content-Length"} {
					assertEqual(t, name, strings.Join(got.fieldValues(name), "|"), strings.Join(sent.fieldValues(name), "|"))
				}
				assertEqual(t, "body", got.body(), sent.body())
				s.pbx.respond(got, "486 Busy Here")
				s.pbx.expect("acknowledged", "ACK")
				phone.sendACK(sent, phone.expect("refused", "SIP/2.0 486"))
			}, dualStack)
		})
	}
}
