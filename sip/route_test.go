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

func TestRouteOfOurs(t *testing.T) { // RFC 3261 §16.4, row 13
	const us, us2, pbx = "<sip:192.0.2.1;lr>", "<sip:192.0.2.1:5060;transport=tcp;lr>", "<sip:192.0.2.2:5060;lr;x=1>"
	own := "<sip:" + sip.Token(key) + "@192.0.2.1:5060;lr>"
	for _, tt := range []struct {
		name   string
		routes []string
		want   []string
	}{
		{"none", nil, nil},
		{"one", []string{us}, nil},
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
			play(t, func(s *scene) {
				var lines []string
				for _, r := range tt.routes {
					lines = append(lines, "Route: "+r)
				}
				s.phone.sends(s.phone.request("MESSAGE", "sip:102@pbx.example", lines...))
				got := s.pbx.gets("sent on", "MESSAGE sip:102@pbx.example SIP/2.0")
				equal(t, "Route", strings.Join(got.all("Route"), "|"), strings.Join(tt.want, "|"))
				s.pbx.replies(got, "200 OK")
			})
		})
	}
}

func TestWhatRouteIsRefused(t *testing.T) { // DESIGN §6: no open relay
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
			play(t, func(s *scene) {
				s.udp(netip.MustParseAddrPort("203.0.113.66:5060"))
				s.phone.sends(s.phone.request(tt.method, "sip:102@203.0.113.66", tt.lines...))
				s.phone.gets("refused", "SIP/2.0 "+tt.want)
				s.quiet("and not sent on")
			})
		})
	}
}

func TestAnInitialRequestGoesToThePBXWhateverItsURI(t *testing.T) { // no open relay
	play(t, func(s *scene) {
		s.udp(netip.MustParseAddrPort("203.0.113.66:5060"))
		for _, lines := range [][]string{nil, {"Route: <sip:" + sip.Token(key) + "@192.0.2.1;lr>"}} {
			s.phone.sends(s.phone.request("MESSAGE", "sip:102@203.0.113.66", lines...))
			got := s.pbx.gets("it is the PBX's to decide", "MESSAGE sip:102@203.0.113.66")
			s.pbx.replies(got, "404 Not Found")
			s.phone.gets("answer", "SIP/2.0 404")
		}
		s.quiet("nobody else hears of it")
	})
}

func TestTheMaddrThatIsOursIsTakenOff(t *testing.T) { // RFC 3261 §16.4
	play(t, func(s *scene) {
		s.phone.sends(s.phone.request("MESSAGE", "sip:a;b=c@pbx.example:5060;MADDR=192.0.2.1;transport=udp;x=y"))
		s.pbx.replies(s.pbx.gets("sent on", "MESSAGE sip:a;b=c@pbx.example:5060;x=y SIP/2.0"), "200 OK")
		s.phone.gets("answer", "SIP/2.0 200")
		s.phone.sends(s.phone.request("MESSAGE", "sip:102@pbx.example;maddr=192.0.2.1", "Route: <sip:192.0.2.2>"))
		got := s.pbx.gets("a strict router", "MESSAGE sip:192.0.2.2 SIP/2.0")
		equal(t, "Route", got.one("Route"), "<sip:102@pbx.example>")
		s.pbx.replies(got, "200 OK")
		s.phone.gets("answer", "SIP/2.0 200")
		// From the PBX, what is left says where to: not to our port.
		edge := s.udp(netip.MustParseAddrPort("192.0.2.103:5060"))
		s.pbx.sends(s.pbx.request("MESSAGE", "sip:101@192.0.2.103:5080;maddr=192.0.2.1"))
		edge.replies(edge.gets("sent on", "MESSAGE sip:101@192.0.2.103 SIP/2.0"), "200 OK")
		s.pbx.gets("answer", "SIP/2.0 200")
	}, func(c *sip.Config) {
		c.Listen = append(c.Listen, sip.Addr{Proto: sip.UDP, AddrPort: netip.MustParseAddrPort("192.0.2.1:5080")})
	})
}

func TestAStrictRouterBehindUs(t *testing.T) { // RFC 3261 §16.6 item 6
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
			play(t, func(s *scene) {
				var lines []string
				for _, r := range tt.routes {
					lines = append(lines, "Route: "+r)
				}
				s.phone.sends(s.phone.request("MESSAGE", "sip:102@pbx.example", lines...))
				got := s.pbx.gets("the Route is the Request-URI now", "MESSAGE sip:strict@192.0.2.2 SIP/2.0")
				equal(t, "Route", strings.Join(got.all("Route"), "|"), strings.Join(tt.want, "|"))
				s.pbx.replies(got, "200 OK")
			})
		})
	}
}

func TestAStrictRouterBeforeUs(t *testing.T) { // RFC 3261 §16.4
	play(t, func(s *scene) {
		c := s.phone.calls(s.pbx)
		ours := bracketed(c.ok.one("Record-Route"))
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
			bye := s.phone.within(c.ok, "INFO", "Route:")
			for _, r := range tt.routes {
				bye = bye.with("From:", "Route: "+r+"\r\nFrom:")
			}
			s.phone.sends(bye.with("INFO sip:192.0.2.2:5060 ", "INFO "+ours+" "))
			got := s.pbx.gets("the last Route is the Request-URI again", "INFO sip:192.0.2.2:5060 SIP/2.0")
			equal(t, "Route", strings.Join(got.all("Route"), "|"), tt.want)
			s.pbx.replies(got, "200 OK")
			s.phone.gets("answer", "SIP/2.0 200")
		}
		s.phone.sends(s.phone.within(c.ok, "BYE", "Route:").with("BYE sip:192.0.2.2:5060 ", "BYE "+ours+" "))
		s.phone.gets("nothing to put in its place", "SIP/2.0 400")
	})
}

// In-dialog requests.

func TestACallBothWays(t *testing.T) { // rows 13, 16, 37; RFC 5658
	phoneOn := func(tcp bool) func(s *scene) *peer {
		return func(s *scene) *peer {
			if tcp {
				return s.tcp(otherAt.Addr())
			}
			return s.udp(otherAt)
		}
	}
	for _, tt := range []struct {
		name    string
		phone   func(s *scene) *peer
		change  func(*sip.Config)
		records int
	}{
		{"UDP to UDP", phoneOn(false), nil, 1},
		{"UDP to TCP", phoneOn(false), pbxOverTCP, 2},
		{"TCP to UDP", phoneOn(true), nil, 2},
		{"TCP to TCP", phoneOn(true), pbxOverTCP, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			play(t, func(s *scene) {
				phone := tt.phone(s)
				c := phone.calls(s.pbx)
				if rr := c.invite.all("Record-Route"); len(rr) != tt.records {
					s.t.Fatalf("Record-Route: %q", rr)
				}
				equal(t, "the caller sees the same", strings.Join(c.ok.all("Record-Route"), "|"), strings.Join(c.invite.all("Record-Route"), "|"))
				if tt.records == 2 {
					// The one on top is towards the PBX, RFC 5658 §5.
					top := strings.Contains(c.invite.one("Record-Route"), "transport=tcp")
					if top != (s.pbx.proto == "TCP") {
						t.Errorf("Record-Route: %q", c.invite.all("Record-Route"))
					}
				}
				for _, method := range []string{"INVITE", "INFO", "UPDATE"} {
					s.pbx.sends(s.pbx.back(c.invite, method))
					got := phone.gets("from the PBX", method+" ")
					equal(t, "our Routes are off", strings.Join(got.all("Route"), ""), "")
					phone.replies(got, "200 OK")
					ok := s.pbx.gets("answer", "SIP/2.0 200")
					if method == "INVITE" {
						s.pbx.sends(s.pbx.within(ok, "ACK"))
						phone.gets("its ACK", "ACK")
					}
					phone.sends(phone.within(c.ok, method))
					got = s.pbx.gets("from the phone", method+" ")
					equal(t, "our Routes are off", strings.Join(got.all("Route"), ""), "")
					s.pbx.replies(got, "200 OK")
					ok = phone.gets("answer", "SIP/2.0 200")
					if method == "INVITE" {
						phone.sends(phone.within(ok, "ACK"))
						s.pbx.gets("its ACK", "ACK")
					}
				}
				s.pbx.sends(s.pbx.back(c.invite, "BYE"))
				phone.replies(phone.gets("the PBX hangs up", "BYE"), "200 OK")
				s.pbx.gets("answer", "SIP/2.0 200")
				s.quiet("that was all")
			}, func(c *sip.Config) {
				if tt.change != nil {
					tt.change(c)
				}
			})
		})
	}
}

func TestAHopWithTwoAddresses(t *testing.T) { // rows 16, 32, 37; RFC 5658
	for _, tt := range []struct{ name, outside, phone string }{
		{"another port", "192.0.2.1:5080", "192.0.2.102:5062"},
		{"the same port", "203.0.113.1:5060", "203.0.113.102:5062"},
		{"IPv6 outside", "[2001:db8::1]:5060", "[2001:db8::102]:5062"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			outside := netip.MustParseAddrPort(tt.outside)
			play(t, func(s *scene) {
				phone := s.udp(netip.MustParseAddrPort(tt.phone))
				phone.hop = outside
				c := phone.calls(s.pbx)
				s.pbx.sends(s.pbx.back(c.invite, "INFO"))
				phone.replies(phone.gets("from the PBX", "INFO"), "200 OK")
				equal(t, "by the address the phone knows", phone.from.String(), tt.outside)
				s.pbx.gets("answer", "SIP/2.0 200")
				phone.sends(phone.within(c.ok, "BYE"))
				s.pbx.replies(s.pbx.gets("the phone hangs up", "BYE"), "200 OK")
				phone.gets("answer", "SIP/2.0 200")

				phone.sends(phone.request("REGISTER", "sip:pbx.example"))
				register := s.pbx.gets("sent on", "REGISTER")
				s.pbx.replies(register, "200 OK")
				phone.gets("answer", "SIP/2.0 200")
				s.pbx.sends(s.pbx.request("MESSAGE", bracketed(phone.contact()), "Route: "+register.one("Path")))
				phone.replies(phone.gets("by Path", "MESSAGE"), "200 OK")
				equal(t, "by the address the phone knows", phone.from.String(), tt.outside)
				s.pbx.gets("answer", "SIP/2.0 200")
			}, func(c *sip.Config) {
				c.Listen = append(c.Listen, sip.Addr{Proto: sip.UDP, AddrPort: outside})
			})
		})
	}
}

func TestAPhoneBehindANATIsReachedWhereItSendsFrom(t *testing.T) { // RFC 5626 §5.3, row 37
	play(t, func(s *scene) {
		nat := s.udp(netip.MustParseAddrPort("198.51.100.7:31000"))
		invite := nat.invite("Via: SIP/2.0/UDP 10.0.0.5:5060;branch=z9hG4bKnat;rport", "Contact: <sip:101@10.0.0.5:5060>")
		nat.sends(invite)
		got := s.pbx.gets("the INVITE goes on", "INVITE")
		s.pbx.replies(got, "200 OK")
		ok := nat.gets("answer", "SIP/2.0 200")
		nat.sends(nat.within(ok, "ACK", "Via: SIP/2.0/UDP 10.0.0.5:5060;branch=z9hG4bKnat2;rport"))
		s.pbx.gets("its ACK", "ACK")
		s.pbx.sends(s.pbx.back(got, "BYE"))
		bye := nat.gets("through the NAT", "BYE sip:101@10.0.0.5:5060 SIP/2.0")
		nat.replies(bye, "200 OK")
		s.pbx.gets("answer", "SIP/2.0 200")
	})
}

func TestAProxyBeforeUsIsReachedByItsRoute(t *testing.T) { // RFC 3261 §16.12: the Contact is not ours to keep
	play(t, func(s *scene) {
		edge := s.udp(otherAt)
		invite := s.phone.invite("Record-Route: <sip:192.0.2.102:5062;lr>").
			with("Via:", "Via: SIP/2.0/UDP 192.0.2.102:5062;branch=z9hG4bK-edge\r\nVia:")
		edge.sends(invite)
		got := s.pbx.gets("the INVITE goes on", "INVITE")
		equal(t, "ours is on top", got.all("Record-Route")[1], "<sip:192.0.2.102:5062;lr>")
		s.pbx.replies(got, "200 OK")
		edge.gets("answer", "SIP/2.0 200")
		s.pbx.sends(s.pbx.back(got, "BYE"))
		bye := edge.gets("by the Route behind ours", "BYE sip:192.0.2.101:5062 SIP/2.0")
		equal(t, "Route", strings.Join(bye.all("Route"), "|"), "<sip:192.0.2.102:5062;lr>")
		edge.replies(bye, "200 OK")
		s.pbx.gets("answer", "SIP/2.0 200")
	})
}

func TestAPBXThatRecordRoutes(t *testing.T) { // DESIGN §6
	play(t, func(s *scene) {
		inner := netip.MustParseAddrPort("198.51.100.20:5080") // a media server behind it
		_, got := s.invited()
		ok := s.pbx.answer(got, "200 OK", "Contact: <sip:ivr@"+inner.String()+">")
		ok = ok.with("Record-Route:", "Record-Route: <sip:192.0.2.2;lr;ftag=x>\r\nRecord-Route:")
		s.pbx.sends(ok)
		answer := s.phone.gets("answer", "SIP/2.0 200")
		s.phone.sends(s.phone.within(answer, "ACK"))
		ack := s.pbx.gets("by the PBX's Route", "ACK sip:ivr@198.51.100.20:5080")
		equal(t, "Route", strings.Join(ack.all("Route"), "|"), "<sip:192.0.2.2;lr;ftag=x>")
	})
}

func TestAPBXThatOnlyRedirectsTheDialog(t *testing.T) { // a PBX that is a proxy and does not stay
	play(t, func(s *scene) {
		other := s.udp(otherAt)
		s.phone.sends(s.phone.invite())
		got := s.pbx.gets("the INVITE goes on", "INVITE")
		s.pbx.sends(got.with("INVITE sip:102@pbx.example", "INVITE sip:102@192.0.2.102:5062").
			with("Via:", "Via: SIP/2.0/UDP 192.0.2.2:5060;branch=z9hG4bK-pbx\r\nVia:"))
		called := other.gets("the PBX sends it to the other phone", "INVITE sip:102@192.0.2.102:5062")
		equal(t, "we are in it twice", fmt.Sprint(len(called.all("Record-Route"))), "2")
		other.replies(called, "200 OK")
		ok := s.pbx.gets("answer", "SIP/2.0 200")
		s.pbx.sends(ok.with("Via: "+ok.one("Via")+"\r\n", ""))
		answer := s.phone.gets("answer", "SIP/2.0 200")
		s.phone.sends(s.phone.within(answer, "ACK"))
		ack := other.gets("its ACK", "ACK sip:192.0.2.102:5062")
		equal(t, "Route", ack.one("Route"), "")
		s.phone.sends(s.phone.within(answer, "BYE"))
		other.replies(other.gets("the caller hangs up", "BYE"), "200 OK")
		s.phone.gets("answer", "SIP/2.0 200")
	})
}

func TestANewProcessRoutesTheBYE(t *testing.T) { // DESIGN §3.5: in-dialog routing needs no memory
	play(t, func(s *scene) {
		c := s.phone.calls(s.pbx)
		s.stop()
		s.again()
		s.pbx.sends(s.pbx.back(c.invite, "BYE"))
		s.phone.replies(s.phone.gets("the PBX hangs up", "BYE"), "200 OK")
		s.pbx.gets("answer", "SIP/2.0 200")
		s.phone.sends(s.phone.within(c.ok, "BYE"))
		s.pbx.replies(s.pbx.gets("the phone hangs up", "BYE"), "481 Call/Transaction Does Not Exist")
		s.phone.gets("answer", "SIP/2.0 481")
	})
}

// What the PBX sends.

func TestWhatThePBXSendsGoesWhereItSays(t *testing.T) { // rows 13, 41
	play(t, func(s *scene) {
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
			{"sips:101@192.0.2.101:5062", nil, "500"},
			{"sip:101@192.0.2.101:5062;transport=sctp", nil, "500"},
			{"sip:101@[2001:db8::1]", nil, "500"},
		} {
			s.pbx.sends(s.pbx.request("MESSAGE", tt.uri, tt.lines...))
			if tt.want != "" {
				s.pbx.gets(tt.uri, "SIP/2.0 "+tt.want)
				s.quiet(tt.uri)
				continue
			}
			s.phone.replies(s.phone.gets(tt.uri, "MESSAGE"), "200 OK")
			s.pbx.gets(tt.uri, "SIP/2.0 200")
		}
	})
}

func TestWhoIsThePBXSide(t *testing.T) { // DESIGN §4.2: sip.pbx and sip.pbx_sources
	play(t, func(s *scene) {
		node := s.udp(netip.MustParseAddrPort("198.51.100.20:5080"))
		node.sends(node.request("MESSAGE", "sip:101@192.0.2.101:5062"))
		s.phone.replies(s.phone.gets("from a further source", "MESSAGE"), "200 OK")
		node.gets("answer", "SIP/2.0 200")
		stranger := s.udp(netip.MustParseAddrPort("192.0.2.2:9999")) // behind the PBX's address, over UDP
		stranger.sends(stranger.request("MESSAGE", "sip:101@192.0.2.101:5062"))
		s.pbx.replies(s.pbx.gets("the edge side goes to the PBX", "MESSAGE"), "404 Not Found")
		stranger.gets("answer", "SIP/2.0 404")
		s.quiet("and not to the phone")
	}, func(c *sip.Config) { c.PBXSources = prefixes("198.51.100.0/24") })
}

// Several PBXs.

func TestTheFirstPBXThatAnswers(t *testing.T) { // a PBX that does not answer OPTIONS gets no calls
	secondAt := netip.MustParseAddrPort("192.0.2.12:5060")
	play(t, func(s *scene) {
		second := s.pbxs[1]
		probed := func(p *peer, status string) {
			t.Helper()
			options := p.gets("a probe", "OPTIONS sip:"+p.addr.String())
			if status != "" {
				p.replies(options, status)
			}
		}
		goesTo := func(p *peer) {
			t.Helper()
			s.phone.sends(s.phone.request("MESSAGE", "sip:102@pbx.example"))
			p.replies(p.gets("the message", "MESSAGE"), "200 OK")
			s.phone.gets("answer", "SIP/2.0 200")
		}
		probed(s.pbx, "200 OK")
		probed(second, "404 Not Found") // it is there
		goesTo(s.pbx)
		s.after(10 * time.Second)
		probed(second, "200 OK")
		s.pbx.last("a probe", "OPTIONS") // and says nothing
		s.after(4*time.Second - 10*ms)
		s.pbx.forgets() // Timer E
		goesTo(s.pbx)
		s.after(10 * ms)
		goesTo(second)
		s.after(5 * time.Second)
		if n := s.hop.Stats().Transactions; n != 0 {
			t.Errorf("%d transactions are under way: a drain would wait for them", n)
		}
		s.quiet("a probe that was given up is not repeated")
		s.after(time.Second)
		s.pbx.forgets()
		probed(second, "503 Service Unavailable")
		s.after(4 * time.Second)
		s.phone.sends(s.phone.request("MESSAGE", "sip:102@pbx.example"))
		s.phone.gets("neither", "SIP/2.0 500")
		if s.hop.PBXReachable() {
			t.Error("no PBX is reachable")
		}
		s.after(6 * time.Second)
		s.pbx.forgets() // still nothing
		probed(second, "200 OK")
		goesTo(second)
		s.pbx.forgets()
		s.after(10 * time.Second)
		s.pbx.replies(s.pbx.last("a probe", "OPTIONS"), "200 OK")
		goesTo(s.pbx)
	}, func(c *sip.Config) {
		c.PBX = append(c.PBX, sip.Addr{Proto: sip.UDP, AddrPort: secondAt})
	})
}
