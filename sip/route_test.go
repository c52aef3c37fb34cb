package sip_test

import (
	"bytes"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"bellhop/sip"
)

func TestOwnRouteIsRemoved(t *testing.T) { // RFC 3261 §16.4, row 13
	const us, us2, pbx = "<sip:192.0.2.1;lr>", "<sip:192.0.2.1:5060;transport=tcp;lr>", "<sip:192.0.2.2:5060;lr;x=1>"
	own := "<sip:" + sip.Token(key) + "@192.0.2.1:5060;lr>"
	for _, tt := range []struct {
		name   string
		routes []string
		want   []string
	}{
		{"no Route", nil, nil},
		{"one Route", []string{us}, nil},
		{"one with a token", []string{own}, nil},
		{"two lines", []string{own, us2}, nil},
		{"two in one line", []string{us + "," + own}, nil},
		{"two in one line and one more", []string{us + " , " + us2, us}, nil},
		{"with a trailing comma", []string{us + ","}, nil},
		{"then the PBX", []string{us, pbx}, []string{pbx}},
		{"then the PBX in the same line", []string{us + ", " + pbx}, []string{pbx}},
		{"two, then the PBX, in the same line", []string{us + "," + us2 + ",\r\n  " + pbx}, []string{pbx}},
		{"then the PBX, and we again behind it", []string{us + "," + pbx + "," + us}, []string{pbx + "," + us}},
		{"only the PBX", []string{pbx}, []string{pbx}},
		{"the PBX, and others behind it", []string{pbx + ",<sip:198.51.100.1;lr>", "<sip:x.example;lr>"}, []string{pbx + ",<sip:198.51.100.1;lr>", "<sip:x.example;lr>"}},
		{"with a name that has commas", []string{`"a, \"b" ` + us + `;p="x,y" , "c, <d>" ` + pbx}, []string{`"c, <d>" ` + pbx}},
		{"with a comma in the user", []string{us + ", <sip:a,b@192.0.2.2;lr>"}, []string{"<sip:a,b@192.0.2.2;lr>"}},
		{"without angle brackets", []string{"sip:192.0.2.1"}, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			runScenario(t, func(s *testbed) {
				var lines []string
				for _, r := range tt.routes {
					lines = append(lines, "Route: "+r)
				}
				s.phone.send(s.phone.newRequest("MESSAGE", "sip:102@pbx.example", lines...))
				got := s.pbx.expect("sent on", "MESSAGE sip:102@pbx.example SIP/2.0")
				assertEqual(t, "Route", strings.Join(got.fieldValues("Route"), "|"), strings.Join(tt.want, "|"))
				s.pbx.respond(got, "200 OK")
			})
		})
	}
}

func TestForeignAndForgedRoutesAreRefused(t *testing.T) { // DESIGN §6: no open relay
	for _, tt := range []struct {
		name, method string
		lines        []string
		want         string
	}{
		{"of a stranger", "INVITE", []string{"Route: <sip:203.0.113.66;lr>"}, "403 Route Not Allowed"},
		{"of a stranger behind ours", "INVITE", []string{"Route: <sip:192.0.2.1;lr>, <sip:203.0.113.66;lr>"}, "403 Route Not Allowed"},
		{"of a name", "INVITE", []string{"Route: <sip:proxy.example;lr>"}, "403 Route Not Allowed"},
		{"to a strict router", "INVITE", []string{"Route: <sip:203.0.113.66>"}, "403 Route Not Allowed"},
		{"of the PBX's other port", "INVITE", []string{"Route: <sip:192.0.2.2:22;lr>"}, "403 Route Not Allowed"},
		{"with a forged token", "INVITE", []string{"Route: <sip:AXIAAAAAAAAAAAAAAAAAAAAA@192.0.2.1;lr>"}, "403 Forged Route"},
		{"with a token that is none", "INVITE", []string{"Route: <sip:alice@192.0.2.1;lr>"}, "403 Forged Route"},
		{"with the token of another key", "INVITE", []string{"Route: <sip:" + sip.Token(bytes.Repeat([]byte("x"), 32)) + "@192.0.2.1;lr>"}, "403 Forged Route"},
		{"of a stranger, vouched for by an old call's token", "INVITE", []string{"Route: <sip:" + sip.Token(key) + "@192.0.2.1;lr>, <sip:203.0.113.66;lr>"}, "403 Route Not Allowed"},
		{"the same of a MESSAGE", "MESSAGE", []string{"Route: <sip:" + sip.Token(key) + "@192.0.2.1;lr>, <sip:203.0.113.66;lr>"}, "403 Route Not Allowed"},
		{"that cannot be read", "INVITE", []string{"Route: <sip:192.0.2.1;lr"}, "400"},
		{"of another scheme", "INVITE", []string{"Route: <http:192.0.2.1;lr>"}, "400"},
		{"with a hole", "INVITE", []string{"Route: <sip:192.0.2.1;lr>,,<sip:192.0.2.1;lr>"}, "400"},
		{"with quotes that do not pair", "INVITE", []string{`Route: "a <sip:192.0.2.1;lr>`}, "400"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			runScenario(t, func(s *testbed) {
				s.addUDPPeer(netip.MustParseAddrPort("203.0.113.66:5060"))
				s.phone.send(s.phone.newRequest(tt.method, "sip:102@203.0.113.66", tt.lines...))
				s.phone.expect("refused", "SIP/2.0 "+tt.want)
				s.expectNothing("and not sent on")
			})
		})
	}
}

func TestAnInitialRequestGoesToThePBXWhateverItsURI(t *testing.T) { // no open relay
	runScenario(t, func(s *testbed) {
		s.addUDPPeer(netip.MustParseAddrPort("203.0.113.66:5060"))
		for _, lines := range [][]string{nil, {"Route: <sip:" + sip.Token(key) + "@192.0.2.1;lr>"}} {
			s.phone.send(s.phone.newRequest("MESSAGE", "sip:102@203.0.113.66", lines...))
			got := s.pbx.expect("it is the PBX's to decide", "MESSAGE sip:102@203.0.113.66")
			s.pbx.respond(got, "404 Not Found")
			s.phone.expect("answer", "SIP/2.0 404")
		}
		s.expectNothing("nobody else hears of it")
	})
}

func TestOwnMaddrIsRemoved(t *testing.T) { // RFC 3261 §16.4
	runScenario(t, func(s *testbed) {
		s.phone.send(s.phone.newRequest("MESSAGE", "sip:a;b=c@pbx.example:5060;MADDR=192.0.2.1;transport=udp;x=y"))
		s.pbx.respond(s.pbx.expect("sent on", "MESSAGE sip:a;b=c@pbx.example:5060;x=y SIP/2.0"), "200 OK")
		s.phone.expect("answer", "SIP/2.0 200")
		s.phone.send(s.phone.newRequest("MESSAGE", "sip:102@pbx.example;maddr=192.0.2.1", "Route: <sip:192.0.2.2>"))
		got := s.pbx.expect("a strict router", "MESSAGE sip:192.0.2.2 SIP/2.0")
		assertEqual(t, "Route", got.fieldValue("Route"), "<sip:102@pbx.example>")
		s.pbx.respond(got, "200 OK")
		s.phone.expect("answer", "SIP/2.0 200")
		// From the PBX, the rest of the URI is the next hop, without our port.
		edge := s.addUDPPeer(netip.MustParseAddrPort("192.0.2.103:5060"))
		s.pbx.send(s.pbx.newRequest("MESSAGE", "sip:101@192.0.2.103:5080;maddr=192.0.2.1"))
		edge.respond(edge.expect("sent on", "MESSAGE sip:101@192.0.2.103 SIP/2.0"), "200 OK")
		s.pbx.expect("answer", "SIP/2.0 200")
	}, func(c *sip.Config) {
		c.Listen = append(c.Listen, sip.Listener{Addr: sip.Addr{Proto: sip.UDP, AddrPort: netip.MustParseAddrPort("192.0.2.1:5080")}})
	})
}

func TestStrictRouterAsNextHop(t *testing.T) { // RFC 3261 §16.6 item 6
	for _, tt := range []struct {
		name   string
		routes []string
		want   []string
	}{
		{"one Route", []string{"<sip:strict@192.0.2.2>"}, []string{"<sip:102@pbx.example>"}},
		{"ours before it", []string{"<sip:192.0.2.1;lr>", "<sip:strict@192.0.2.2>"}, []string{"<sip:102@pbx.example>"}},
		{"ours before it in one line", []string{"<sip:192.0.2.1;lr>,<sip:strict@192.0.2.2>"}, []string{"<sip:102@pbx.example>"}},
		{"more behind it", []string{"<sip:strict@192.0.2.2>", "<sip:b.example;lr>"}, []string{"<sip:b.example;lr>", "<sip:102@pbx.example>"}},
		{"more behind it in one line", []string{"<sip:192.0.2.1;lr>, <sip:strict@192.0.2.2> ,\r\n <sip:b.example;lr>"}, []string{"<sip:b.example;lr>", "<sip:102@pbx.example>"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			runScenario(t, func(s *testbed) {
				var lines []string
				for _, r := range tt.routes {
					lines = append(lines, "Route: "+r)
				}
				s.phone.send(s.phone.newRequest("MESSAGE", "sip:102@pbx.example", lines...))
				got := s.pbx.expect("the Route is the Request-URI now", "MESSAGE sip:strict@192.0.2.2 SIP/2.0")
				assertEqual(t, "Route", strings.Join(got.fieldValues("Route"), "|"), strings.Join(tt.want, "|"))
				s.pbx.respond(got, "200 OK")
			})
		})
	}
}

func TestStrictRouterAsSender(t *testing.T) { // RFC 3261 §16.4
	runScenario(t, func(s *testbed) {
		c := s.phone.setUpCall(s.pbx)
		ours := bracketedURI(c.ok.fieldValue("Record-Route"))
		for _, tt := range []struct {
			routes []string
			want   string
		}{
			{[]string{"<sip:192.0.2.2:5060>"}, ""},
			{[]string{"<sip:192.0.2.2;lr>", "<sip:192.0.2.2:5060>"}, "<sip:192.0.2.2;lr>"},
			{[]string{"<sip:192.0.2.2;lr> , <sip:192.0.2.2:5060>"}, "<sip:192.0.2.2;lr>"},
			{[]string{"<sip:192.0.2.1;lr>, <sip:192.0.2.2;lr>,<sip:192.0.2.2:5060>"}, "<sip:192.0.2.2;lr>"},
			{[]string{"<sip:192.0.2.1;lr>,<sip:192.0.2.2:5060>"}, ""},
		} {
			bye := s.phone.callerRequest(c.ok, "INFO", "Route:")
			for _, r := range tt.routes {
				bye = bye.replaced("From:", "Route: "+r+"\r\nFrom:")
			}
			s.phone.send(bye.replaced("INFO sip:192.0.2.2:5060 ", "INFO "+ours+" "))
			got := s.pbx.expect("the last Route is the Request-URI again", "INFO sip:192.0.2.2:5060 SIP/2.0")
			assertEqual(t, "Route", strings.Join(got.fieldValues("Route"), "|"), tt.want)
			s.pbx.respond(got, "200 OK")
			s.phone.expect("answer", "SIP/2.0 200")
		}
		s.phone.send(s.phone.callerRequest(c.ok, "BYE", "Route:").replaced("BYE sip:192.0.2.2:5060 ", "BYE "+ours+" "))
		s.phone.expect("nothing to put in its place", "SIP/2.0 400")
	})
}

// In-dialog requests.

func TestRequestsFromBothEndsOfACall(t *testing.T) { // rows 13, 16, 37; RFC 5658
	phoneOn := func(tcp bool) func(s *testbed) *peer {
		return func(s *testbed) *peer {
			if tcp {
				return s.dialTCPPeer(otherAt.Addr())
			}
			return s.addUDPPeer(otherAt)
		}
	}
	for _, tt := range []struct {
		name    string
		phone   func(s *testbed) *peer
		change  func(*sip.Config)
		records int
	}{
		{"UDP to UDP", phoneOn(false), nil, 1},
		{"UDP to TCP", phoneOn(false), pbxOverTCP, 2},
		{"TCP to UDP", phoneOn(true), nil, 2},
		{"TCP to TCP", phoneOn(true), pbxOverTCP, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			runScenario(t, func(s *testbed) {
				phone := tt.phone(s)
				c := phone.setUpCall(s.pbx)
				if rr := c.invite.fieldValues("Record-Route"); len(rr) != tt.records {
					s.t.Fatalf("Record-Route: %q", rr)
				}
				assertEqual(t, "the caller sees the same", strings.Join(c.ok.fieldValues("Record-Route"), "|"), strings.Join(c.invite.fieldValues("Record-Route"), "|"))
				if tt.records == 2 {
					// The one on top is towards the PBX, RFC 5658 §5.
					top := strings.Contains(c.invite.fieldValue("Record-Route"), "transport=tcp")
					if top != (s.pbx.proto == "TCP") {
						t.Errorf("Record-Route: %q", c.invite.fieldValues("Record-Route"))
					}
				}
				for _, method := range []string{"INVITE", "INFO", "UPDATE"} {
					s.pbx.send(s.pbx.calleeRequest(c.invite, method))
					got := phone.expect("from the PBX", method+" ")
					assertEqual(t, "our Routes are off", strings.Join(got.fieldValues("Route"), ""), "")
					phone.respond(got, "200 OK")
					ok := s.pbx.expect("answer", "SIP/2.0 200")
					if method == "INVITE" {
						s.pbx.send(s.pbx.callerRequest(ok, "ACK"))
						phone.expect("its ACK", "ACK")
					}
					phone.send(phone.callerRequest(c.ok, method))
					got = s.pbx.expect("from the phone", method+" ")
					assertEqual(t, "our Routes are off", strings.Join(got.fieldValues("Route"), ""), "")
					s.pbx.respond(got, "200 OK")
					ok = phone.expect("answer", "SIP/2.0 200")
					if method == "INVITE" {
						phone.send(phone.callerRequest(ok, "ACK"))
						s.pbx.expect("its ACK", "ACK")
					}
				}
				s.pbx.send(s.pbx.calleeRequest(c.invite, "BYE"))
				phone.respond(phone.expect("the PBX hangs up", "BYE"), "200 OK")
				s.pbx.expect("answer", "SIP/2.0 200")
				s.expectNothing("that was all")
			}, func(c *sip.Config) {
				if tt.change != nil {
					tt.change(c)
				}
			})
		})
	}
}

func TestTwoListenersAddTwoRecordRoutes(t *testing.T) { // rows 16, 32, 37; RFC 5658
	for _, tt := range []struct{ name, outside, phone string }{
		{"another port", "192.0.2.1:5080", "192.0.2.102:5062"},
		{"the same port", "203.0.113.1:5060", "203.0.113.102:5062"},
		{"IPv6 outside", "[2001:db8::1]:5060", "[2001:db8::102]:5062"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			outside := netip.MustParseAddrPort(tt.outside)
			runScenario(t, func(s *testbed) {
				phone := s.addUDPPeer(netip.MustParseAddrPort(tt.phone))
				phone.proxyAddr = outside
				c := phone.setUpCall(s.pbx)
				s.pbx.send(s.pbx.calleeRequest(c.invite, "INFO"))
				phone.respond(phone.expect("from the PBX", "INFO"), "200 OK")
				assertEqual(t, "by the address the phone knows", phone.lastSource.String(), tt.outside)
				s.pbx.expect("answer", "SIP/2.0 200")
				phone.send(phone.callerRequest(c.ok, "BYE"))
				s.pbx.respond(s.pbx.expect("the phone hangs up", "BYE"), "200 OK")
				phone.expect("answer", "SIP/2.0 200")

				phone.send(phone.newRequest("REGISTER", "sip:pbx.example"))
				register := s.pbx.expect("sent on", "REGISTER")
				s.pbx.respond(register, "200 OK")
				phone.expect("answer", "SIP/2.0 200")
				s.pbx.send(s.pbx.newRequest("MESSAGE", bracketedURI(phone.contact()), "Route: "+register.fieldValue("Path")))
				phone.respond(phone.expect("by Path", "MESSAGE"), "200 OK")
				assertEqual(t, "by the address the phone knows", phone.lastSource.String(), tt.outside)
				s.pbx.expect("answer", "SIP/2.0 200")
			}, func(c *sip.Config) {
				c.Listen = append(c.Listen, sip.Listener{Addr: sip.Addr{Proto: sip.UDP, AddrPort: outside}})
			})
		})
	}
}

func TestAPhoneBehindANATIsReachedWhereItSendsFrom(t *testing.T) { // RFC 5626 §5.3, row 37
	runScenario(t, func(s *testbed) {
		nat := s.addUDPPeer(netip.MustParseAddrPort("198.51.100.7:31000"))
		invite := nat.newInvite("Via: SIP/2.0/UDP 10.0.0.5:5060;branch=z9hG4bKnat;rport", "Contact: <sip:101@10.0.0.5:5060>")
		nat.send(invite)
		got := s.pbx.expect("the INVITE goes on", "INVITE")
		s.pbx.respond(got, "200 OK")
		ok := nat.expect("answer", "SIP/2.0 200")
		nat.send(nat.callerRequest(ok, "ACK", "Via: SIP/2.0/UDP 10.0.0.5:5060;branch=z9hG4bKnat2;rport"))
		s.pbx.expect("its ACK", "ACK")
		s.pbx.send(s.pbx.calleeRequest(got, "BYE"))
		bye := nat.expect("through the NAT", "BYE sip:101@10.0.0.5:5060 SIP/2.0")
		nat.respond(bye, "200 OK")
		s.pbx.expect("answer", "SIP/2.0 200")
	})
}

func TestProxyOnTheEdgeSideIsReachedByItsRoute(t *testing.T) { // RFC 3261 §16.12: the Contact is not ours to keep
	runScenario(t, func(s *testbed) {
		edge := s.addUDPPeer(otherAt)
		invite := s.phone.newInvite("Record-Route: <sip:192.0.2.102:5062;lr>").
			replaced("Via:", "Via: SIP/2.0/UDP 192.0.2.102:5062;branch=z9hG4bK-edge\r\nVia:")
		edge.send(invite)
		got := s.pbx.expect("the INVITE goes on", "INVITE")
		assertEqual(t, "ours is on top", got.fieldValues("Record-Route")[1], "<sip:192.0.2.102:5062;lr>")
		s.pbx.respond(got, "200 OK")
		edge.expect("answer", "SIP/2.0 200")
		s.pbx.send(s.pbx.calleeRequest(got, "BYE"))
		bye := edge.expect("by the Route behind ours", "BYE sip:192.0.2.101:5062 SIP/2.0")
		assertEqual(t, "Route", strings.Join(bye.fieldValues("Route"), "|"), "<sip:192.0.2.102:5062;lr>")
		edge.respond(bye, "200 OK")
		s.pbx.expect("answer", "SIP/2.0 200")
	})
}

func TestPBXWithItsOwnRecordRoute(t *testing.T) { // DESIGN §6
	runScenario(t, func(s *testbed) {
		inner := netip.MustParseAddrPort("198.51.100.20:5080") // a media server behind it
		_, got := s.sendInvite()
		ok := s.pbx.newResponse(got, "200 OK", "Contact: <sip:ivr@"+inner.String()+">")
		ok = ok.replaced("Record-Route:", "Record-Route: <sip:192.0.2.2;lr;ftag=x>\r\nRecord-Route:")
		s.pbx.send(ok)
		answer := s.phone.expect("answer", "SIP/2.0 200")
		s.phone.send(s.phone.callerRequest(answer, "ACK"))
		ack := s.pbx.expect("by the PBX's Route", "ACK sip:ivr@198.51.100.20:5080")
		assertEqual(t, "Route", strings.Join(ack.fieldValues("Route"), "|"), "<sip:192.0.2.2;lr;ftag=x>")
	})
}

func TestPBXThatRedirectsTheDialog(t *testing.T) { // a PBX that is a proxy and does not stay
	runScenario(t, func(s *testbed) {
		other := s.addUDPPeer(otherAt)
		s.phone.send(s.phone.newInvite())
		got := s.pbx.expect("the INVITE goes on", "INVITE")
		s.pbx.send(got.replaced("INVITE sip:102@pbx.example", "INVITE sip:102@192.0.2.102:5062").
			replaced("Via:", "Via: SIP/2.0/UDP 192.0.2.2:5060;branch=z9hG4bK-pbx\r\nVia:"))
		called := other.expect("the PBX sends it to the other phone", "INVITE sip:102@192.0.2.102:5062")
		assertEqual(t, "we are in it twice", fmt.Sprint(len(called.fieldValues("Record-Route"))), "2")
		other.respond(called, "200 OK")
		ok := s.pbx.expect("answer", "SIP/2.0 200")
		s.pbx.send(ok.replaced("Via: "+ok.fieldValue("Via")+"\r\n", ""))
		answer := s.phone.expect("answer", "SIP/2.0 200")
		s.phone.send(s.phone.callerRequest(answer, "ACK"))
		ack := other.expect("its ACK", "ACK sip:192.0.2.102:5062")
		assertEqual(t, "Route", ack.fieldValue("Route"), "")
		s.phone.send(s.phone.callerRequest(answer, "BYE"))
		other.respond(other.expect("the caller hangs up", "BYE"), "200 OK")
		s.phone.expect("answer", "SIP/2.0 200")
	})
}

func TestANewProcessRoutesTheBYE(t *testing.T) { // DESIGN §3.5: in-dialog routing needs no memory
	runScenario(t, func(s *testbed) {
		c := s.phone.setUpCall(s.pbx)
		s.stop()
		s.restartProxy()
		s.pbx.send(s.pbx.calleeRequest(c.invite, "BYE"))
		s.phone.respond(s.phone.expect("the PBX hangs up", "BYE"), "200 OK")
		s.pbx.expect("answer", "SIP/2.0 200")
		s.phone.send(s.phone.callerRequest(c.ok, "BYE"))
		s.pbx.respond(s.pbx.expect("the phone hangs up", "BYE"), "481 Call/Transaction Does Not Exist")
		s.phone.expect("answer", "SIP/2.0 481")
	})
}

// Requests of the PBX.

func TestRequestsOfThePBXFollowRouteAndURI(t *testing.T) { // rows 13, 41
	runScenario(t, func(s *testbed) {
		for _, tt := range []struct {
			uri   string
			lines []string
			want  string // "" if it arrives
		}{
			{"sip:101@192.0.2.101:5062", nil, ""},
			{"sip:101@phone.example;maddr=192.0.2.101;x", []string{"Route: <sip:192.0.2.101:5062;lr>"}, ""},
			{"sip:101@phone.example:5062;maddr=192.0.2.101", nil, ""},
			{"sip:101@phone.example", []string{"Route: <sip:192.0.2.1;lr>,<sip:192.0.2.101:5062;lr>"}, ""},
			{"sip:101@phone.example", nil, "500"},
			{"sip:101@192.0.2.1", nil, "404"},
			{"tel:5551234", nil, "500"},
			{"sips:101@192.0.2.101:5062", nil, "430"},
			{"sip:101@192.0.2.101:5062;transport=sctp", nil, "500"},
			{"sip:101@[2001:db8::1]", nil, "500"},
		} {
			s.pbx.send(s.pbx.newRequest("MESSAGE", tt.uri, tt.lines...))
			if tt.want != "" {
				s.pbx.expect(tt.uri, "SIP/2.0 "+tt.want)
				s.expectNothing(tt.uri)
				continue
			}
			s.phone.respond(s.phone.expect(tt.uri, "MESSAGE"), "200 OK")
			s.pbx.expect(tt.uri, "SIP/2.0 200")
		}
	})
}

func TestPBXSideIsRecognizedByAddress(t *testing.T) { // DESIGN §4.2: sip.pbx and sip.pbx_sources
	runScenario(t, func(s *testbed) {
		node := s.addUDPPeer(netip.MustParseAddrPort("198.51.100.20:5080"))
		node.send(node.newRequest("MESSAGE", "sip:101@192.0.2.101:5062"))
		s.phone.respond(s.phone.expect("from a further source", "MESSAGE"), "200 OK")
		node.expect("answer", "SIP/2.0 200")
		stranger := s.addUDPPeer(netip.MustParseAddrPort("192.0.2.2:9999")) // behind the PBX's address, over UDP
		stranger.send(stranger.newRequest("MESSAGE", "sip:101@192.0.2.101:5062"))
		s.pbx.respond(s.pbx.expect("the edge side goes to the PBX", "MESSAGE"), "404 Not Found")
		stranger.expect("answer", "SIP/2.0 404")
		s.expectNothing("and not to the phone")
	}, func(c *sip.Config) { c.PBXSources = parsePrefixes("198.51.100.0/24") })
}

// Several PBXs.

func TestCallsGoToTheFirstPBXThatAnswers(t *testing.T) { // a PBX that does not answer OPTIONS gets no calls
	secondAt := netip.MustParseAddrPort("192.0.2.12:5060")
	runScenario(t, func(s *testbed) {
		second := s.allPBXs[1]
		probed := func(p *peer, status string) {
			t.Helper()
			options := p.expect("a probe", "OPTIONS sip:"+p.addr.String())
			if status != "" {
				p.respond(options, status)
			}
		}
		goesTo := func(p *peer) {
			t.Helper()
			s.phone.send(s.phone.newRequest("MESSAGE", "sip:102@pbx.example"))
			p.respond(p.expect("the message", "MESSAGE"), "200 OK")
			s.phone.expect("answer", "SIP/2.0 200")
		}
		probed(s.pbx, "200 OK")
		probed(second, "404 Not Found") // it is there
		goesTo(s.pbx)
		s.advance(5 * time.Second)
		probed(second, "200 OK")
		s.pbx.discardReceived() // a probe that it does not answer
		s.advance(5 * time.Second)
		probed(second, "200 OK")
		s.advance(2*time.Second - 10*ms)
		s.pbx.discardReceived() // another one
		goesTo(s.pbx)
		s.advance(10 * ms)
		goesTo(second)
		s.advance(2 * time.Second)
		if n := s.proxy.Stats().Transactions; n != 0 {
			t.Errorf("%d transactions are under way: a drain would wait for them", n)
		}
		s.expectNothing("a probe that was given up is not repeated")
		s.advance(time.Second)
		s.pbx.discardReceived()
		probed(second, "503 Service Unavailable")
		s.phone.send(s.phone.newRequest("MESSAGE", "sip:102@pbx.example"))
		s.phone.expect("neither", "SIP/2.0 500")
		if s.proxy.PBXReachable() {
			t.Error("no PBX is reachable")
		}
		s.advance(5 * time.Second)
		s.pbx.discardReceived() // still nothing
		probed(second, "200 OK")
		goesTo(second)
		s.pbx.discardReceived()
		for range 2 {
			goesTo(second)
			s.advance(5 * time.Second)
			probed(second, "200 OK")
			s.pbx.respond(s.pbx.expectLast("a probe", "OPTIONS"), "200 OK")
		}
		goesTo(s.pbx)
	}, func(c *sip.Config) {
		c.PBX = append(c.PBX, sip.Addr{Proto: sip.UDP, AddrPort: secondAt})
	})
}
