package sip_test

import (
	"net/netip"
	"strings"
	"testing"

	"bellhop/sip"
)

func TestResponsesFollowViaAndSource(t *testing.T) { // RFC 3261 §18.2.1–18.2.2, RFC 3581 §4
	natAt := netip.MustParseAddrPort("198.51.100.7:31000")
	trunkAt := netip.MustParseAddrPort("203.0.113.9:40000")
	for _, tt := range []struct {
		name string
		from netip.AddrPort
		via  string
		seen string // the Via as the PBX gets it
		to   netip.AddrPort
	}{
		{
			"all is as it says", phoneAt,
			"SIP/2.0/UDP 192.0.2.101:5062;branch=z9hG4bK1",
			"SIP/2.0/UDP 192.0.2.101:5062;branch=z9hG4bK1", phoneAt,
		}, {
			"rport", phoneAt,
			"SIP/2.0/UDP 192.0.2.101:5062;branch=z9hG4bK1;rport",
			"SIP/2.0/UDP 192.0.2.101:5062;branch=z9hG4bK1;rport=5062;received=192.0.2.101", phoneAt,
		}, {
			"rport in the middle", phoneAt,
			"SIP/2.0/UDP 192.0.2.101:5062;rport;branch=z9hG4bK1",
			"SIP/2.0/UDP 192.0.2.101:5062;rport=5062;branch=z9hG4bK1;received=192.0.2.101", phoneAt,
		}, {
			"rport of another case and with space", phoneAt,
			"SIP / 2.0 / UDP 192.0.2.101:5062 ;RPort ; Branch = z9hG4bK1",
			"SIP / 2.0 / UDP 192.0.2.101:5062 ;RPort=5062 ; Branch = z9hG4bK1;received=192.0.2.101", phoneAt,
		}, {
			"rport behind a NAT", natAt,
			"SIP/2.0/UDP 10.0.0.5:5060;branch=z9hG4bK1;rport",
			"SIP/2.0/UDP 10.0.0.5:5060;branch=z9hG4bK1;rport=31000;received=198.51.100.7", natAt,
		}, {
			"a lying rport", phoneAt,
			"SIP/2.0/UDP 192.0.2.101:5062;rport=9;branch=z9hG4bK1",
			"SIP/2.0/UDP 192.0.2.101:5062;rport=5062;branch=z9hG4bK1;received=192.0.2.101", phoneAt,
		}, {
			"a lying received", phoneAt,
			"SIP/2.0/UDP 192.0.2.101:5062;received=203.0.113.66;branch=z9hG4bK1",
			"SIP/2.0/UDP 192.0.2.101:5062;received=192.0.2.101;branch=z9hG4bK1", phoneAt,
		}, {
			"another port and no rport", natAt,
			"SIP/2.0/UDP 198.51.100.7:5062;branch=z9hG4bK1",
			"SIP/2.0/UDP 198.51.100.7:5062;branch=z9hG4bK1", natAt,
		}, {
			"no port and no rport", natAt,
			"SIP/2.0/UDP 198.51.100.7;branch=z9hG4bK1",
			"SIP/2.0/UDP 198.51.100.7;branch=z9hG4bK1", natAt,
		}, {
			"behind a NAT and no rport", natAt,
			"SIP/2.0/UDP 10.0.0.5:5060;branch=z9hG4bK1",
			"SIP/2.0/UDP 10.0.0.5:5060;branch=z9hG4bK1;received=198.51.100.7", natAt,
		}, {
			"a trunk's other port and no rport", trunkAt,
			"SIP/2.0/UDP 203.0.113.9:5062;branch=z9hG4bK1",
			"SIP/2.0/UDP 203.0.113.9:5062;branch=z9hG4bK1", netip.MustParseAddrPort("203.0.113.9:5062"),
		}, {
			"a trunk without port and rport", trunkAt,
			"SIP/2.0/UDP 203.0.113.9;branch=z9hG4bK1",
			"SIP/2.0/UDP 203.0.113.9;branch=z9hG4bK1", netip.MustParseAddrPort("203.0.113.9:5060"),
		}, {
			"a trunk's rport", trunkAt,
			"SIP/2.0/UDP 203.0.113.9:5062;branch=z9hG4bK1;rport",
			"SIP/2.0/UDP 203.0.113.9:5062;branch=z9hG4bK1;rport=40000;received=203.0.113.9", trunkAt,
		}, {
			"a name", phoneAt,
			"SIP/2.0/UDP phone.example.com:5062;branch=z9hG4bK1",
			"SIP/2.0/UDP phone.example.com:5062;branch=z9hG4bK1;received=192.0.2.101", phoneAt,
		}, {
			"another address", phoneAt,
			"SIP/2.0/UDP 203.0.113.66:5062;branch=z9hG4bK1",
			"SIP/2.0/UDP 203.0.113.66:5062;branch=z9hG4bK1;received=192.0.2.101", phoneAt,
		}, {
			"several in one line", phoneAt,
			"SIP/2.0/UDP 192.0.2.101:5062;branch=z9hG4bK1;rport , SIP/2.0/TCP a;x=\"a,b\";branch=z9hG4bK2, SIP/2.0/UDP c",
			"SIP/2.0/UDP 192.0.2.101:5062;branch=z9hG4bK1;rport=5062;received=192.0.2.101 , SIP/2.0/TCP a;x=\"a,b\";branch=z9hG4bK2, SIP/2.0/UDP c", phoneAt,
		}, {
			"a parameter that is quoted", phoneAt,
			"SIP/2.0/UDP 192.0.2.101:5062;x=\"a;rport, b;branch=z9hG4bK0\";branch=z9hG4bK1;rport",
			"SIP/2.0/UDP 192.0.2.101:5062;x=\"a;rport, b;branch=z9hG4bK0\";branch=z9hG4bK1;rport=5062;received=192.0.2.101", phoneAt,
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			runScenario(t, func(s *testbed) {
				from := s.phone
				if tt.from != phoneAt {
					from = s.addUDPPeer(tt.from)
				}
				to := from
				if tt.to != tt.from {
					to = s.addUDPPeer(tt.to)
				}
				sent := from.newRequest("MESSAGE", "sip:102@pbx.example", "Via: "+tt.via)
				from.send(sent)
				got := s.pbx.expect("sent on", "MESSAGE")
				assertEqual(t, "the Via of the sender", strings.Join(got.fieldValues("Via")[1:], "|"), tt.seen)
				s.pbx.respond(got, "200 OK")
				answer := to.expect("answer", "SIP/2.0 200")
				assertEqual(t, "the Via comes back", strings.Join(answer.fieldValues("Via"), "|"), tt.seen)
				// Our own responses go to the same address.
				from.send(from.newRequest("MESSAGE", "sip:102@pbx.example", "Via: "+strings.ReplaceAll(tt.via, "z9hG4bK1", "z9hG4bK3"), "Max-Forwards: 0"))
				refused := to.expect("refused", "SIP/2.0 483")
				assertEqual(t, "the Via comes back", strings.Join(refused.fieldValues("Via"), "|"), strings.ReplaceAll(tt.seen, "z9hG4bK1", "z9hG4bK3"))
			}, func(c *sip.Config) { c.Trunks = []sip.Trunk{{Name: "carrier", Sources: parsePrefixes("203.0.113.9")}} })
		})
	}
}

func TestFoldedViaIsRead(t *testing.T) { // RFC 3261 §7.3.1
	runScenario(t, func(s *testbed) {
		sent := s.phone.newRequest("MESSAGE", "sip:102@pbx.example").replaced(";branch=", "\r\n ;branch\r\n\t=")
		s.phone.send(sent)
		got := s.pbx.expect("sent on", "MESSAGE")
		if !strings.Contains(string(got), "Via: SIP/2.0/UDP 192.0.2.101:5062\r\n ;branch\r\n\t=z9hG4bK") {
			t.Errorf("what went on is\n%s", got)
		}
		s.phone.send(sent)
		s.expectNothing("the branch is known")
		// The response has the folded Via too.
		s.pbx.send(text("SIP/2.0 200 OK\r\n" + strings.Join(got.headerLines(), "\r\n") + "\r\n\r\n"))
		s.phone.expect("answer", "SIP/2.0 200")
	})
}

func TestResponseWithSeveralViasInOneLine(t *testing.T) { // RFC 3261 §7.3.1, §16.7 item 3
	runScenario(t, func(s *testbed) {
		for _, sep := range []string{",", ", ", " ,\r\n  ", ",\r\n\t"} {
			s.phone.send(s.phone.newRequest("MESSAGE", "sip:102@pbx.example"))
			got := s.pbx.expect("sent on", "MESSAGE")
			vias := got.fieldValues("Via")
			answer := s.pbx.newResponse(got, "200 OK")
			answer = text(strings.Replace(string(answer), vias[0]+"\r\nVia: "+vias[1], vias[0]+sep+vias[1], 1))
			s.pbx.send(answer)
			back := s.phone.expect("answer", "SIP/2.0 200")
			assertEqual(t, "the Via that is left", strings.Join(back.fieldValues("Via"), "|"), vias[1])
		}
	})
}

func TestBranchesOfRFC2543AreMatched(t *testing.T) { // RFC 3261 §17.2.3, §8.1.1.7; row 33
	for _, branch := range []string{"", ";branch=1", ";branch=z9hG4bK", ";branch="} {
		t.Run(branch, func(t *testing.T) {
			runScenario(t, func(s *testbed) {
				invite := s.phone.newInvite("Via: SIP/2.0/UDP 192.0.2.101:5062"+branch, "From: <sip:101@pbx.example>")
				s.phone.send(invite, invite)
				got := s.pbx.expect("the INVITE goes on", "INVITE")
				s.expectNothing("once")
				another := invite.replaced("CSeq: 1 ", "CSeq: 2 ")
				s.phone.send(another)
				s.pbx.respond(s.pbx.expect("another CSeq is another request", "INVITE"), "500 Server Internal Error")
				s.pbx.expect("acknowledged", "ACK")
				s.phone.sendACK(another, s.phone.expect("refused", "SIP/2.0 500"))
				s.pbx.respond(got, "180 Ringing")
				s.phone.expect("ringing", "SIP/2.0 180")
				s.phone.sendCancel(invite)
				s.phone.expect("CANCEL finds it", "SIP/2.0 200")
				s.pbx.respond(s.pbx.expect("it goes on", "CANCEL"), "200 OK")
				s.pbx.respond(got, "487 Request Terminated")
				s.pbx.expect("acknowledged", "ACK")
				s.phone.sendACK(invite, s.phone.expect("the end", "SIP/2.0 487"))
				s.expectNothing("the ACK finds it too")
			})
		})
	}
}

func TestResponseLeavesFromTheSocketAsked(t *testing.T) { // RFC 3581 §4, row 32
	second := netip.MustParseAddrPort("192.0.2.3:5080")
	runScenario(t, func(s *testbed) {
		c, _ := s.net.ListenPacketConn(otherAt)
		defer c.Close()
		for i, at := range []netip.AddrPort{proxyAt, second, proxyAt, second} {
			sent := s.phone.newRequest("MESSAGE", "sip:102@pbx.example", "Via: SIP/2.0/UDP 192.0.2.102:5062;branch=z9hG4bK-x"+string(rune('a'+i)))
			c.WriteToUDPAddrPort([]byte(sent), at)
			s.pbx.respond(s.pbx.expect("sent on", "MESSAGE"), "200 OK")
			if _, from, ok := c.TryRead(); !ok || from != at {
				t.Errorf("asked %s, answered from %s", at, from)
			}
		}
	}, func(c *sip.Config) {
		c.Listen = append(c.Listen, sip.Listener{Addr: sip.Addr{Proto: sip.UDP, AddrPort: second}})
	})
}

func TestIPv6CallIsForwarded(t *testing.T) { // RFC 3261 §18.2.1, RFC 5118 §4.5
	proxy6, pbx6 := netip.MustParseAddrPort("[2001:db8::1]:5060"), netip.MustParseAddrPort("[2001:db8::2]:5060")
	phone6 := netip.MustParseAddrPort("[2001:db8::101]:5062")
	runScenario(t, func(s *testbed) {
		phone := s.addUDPPeer(phone6)
		s.pbx.proxyAddr, phone.proxyAddr = proxy6, proxy6
		for _, tt := range []struct{ via, seen string }{
			{"[2001:db8::101]:5062;branch=z9hG4bK1", ""},
			{"[2001:DB8:0::101]:5062;branch=z9hG4bK2", ""},
			{"[2001:db8::101]:5062;branch=z9hG4bK3;rport", "[2001:db8::101]:5062;branch=z9hG4bK3;rport=5062;received=2001:db8::101"},
			{"[2001:db8::9]:5062;branch=z9hG4bK4", "[2001:db8::9]:5062;branch=z9hG4bK4;received=2001:db8::101"},
			{"[2001:db8::9]:5062;branch=z9hG4bK5;received=[2001:db8::101]", ""},
			{"[2001:db8::9]:5062;branch=z9hG4bK6;received=2001:db8::101", ""},
			{"[2001:db8::9]:5062;branch=z9hG4bK7;received=[2001:db8::7]", "[2001:db8::9]:5062;branch=z9hG4bK7;received=2001:db8::101"},
		} {
			if tt.seen == "" {
				tt.seen = tt.via
			}
			phone.send(phone.newRequest("MESSAGE", "sip:102@pbx.example", "Via: SIP/2.0/UDP "+tt.via))
			got := s.pbx.expect("sent on", "MESSAGE")
			assertEqual(t, "Via", got.fieldValues("Via")[1], "SIP/2.0/UDP "+tt.seen)
			s.pbx.respond(got, "200 OK")
			phone.expect("answer", "SIP/2.0 200")
		}
		c := phone.setUpCall(s.pbx)
		s.pbx.send(s.pbx.calleeRequest(c.invite, "BYE"))
		phone.respond(phone.expect("a BYE comes back", "BYE sip:[2001:db8::101]:5062"), "200 OK")
		s.pbx.expect("answer", "SIP/2.0 200")
	}, func(c *sip.Config) {
		c.Listen = listenOn(sip.Addr{Proto: sip.UDP, AddrPort: proxy6})
		c.PBX = []sip.Addr{{Proto: sip.UDP, AddrPort: pbx6}}
	})
}
