package sip_test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"bellhop/sip"
)

var (
	strangerAt = netip.MustParseAddrPort("198.51.100.66:5060")
	victimAt   = netip.MustParseAddrPort("203.0.113.66:5060") // no peer of any call
)

// challenged has a stranger send an INVITE without credentials, which the PBX
// refuses with a copy of our Record-Route.
func (s *scene) challenged(stranger *peer) (refusal text) {
	s.t.Helper()
	invite := stranger.invite("Content-Type: application/sdp", "", strings.Repeat("a=candidate\r\n", 20))
	stranger.sends(invite)
	got := s.pbx.gets("the INVITE goes on", "INVITE")
	s.pbx.replies(got, "401 Unauthorized")
	s.pbx.gets("its ACK", "ACK")
	refusal = stranger.gets("the PBX's refusal", "SIP/2.0 401")
	if refusal.one("Record-Route") == "" {
		s.t.Fatal("the refusal has no Record-Route")
	}
	stranger.acks(invite, refusal)
	return refusal
}

func TestARefusedStrangerChoosesNoNextHop(t *testing.T) {
	for _, target := range []string{
		"203.0.113.66:5060", "203.0.113.66:5060;transport=tcp", "203.0.113.66:5060;maddr=203.0.113.66",
		"192.0.2.101:5062", "192.0.2.1:5060", "127.0.0.1:22;transport=tcp", "192.0.2.2:22;transport=tcp", "169.254.169.254:80;transport=tcp", "[::1]:5060",
	} {
		for _, method := range []string{"MESSAGE", "INVITE", "BYE", "NOTIFY", "OPTIONS", "ACK"} {
			for _, routes := range []string{"", ", <sip:" + target + ";lr>", ", <sip:" + target + ">"} {
				t.Run(method+" "+target+" "+fmt.Sprint(len(routes)), func(t *testing.T) {
					play(t, func(s *scene) {
						stranger := s.udp(strangerAt)
						s.udp(victimAt)
						s.tcpListener(netip.MustParseAddrPort("203.0.113.66:5060"))
						s.tcpListener(netip.MustParseAddrPort("192.0.2.2:22"))
						refusal := s.challenged(stranger)
						uri := "sip:x@" + target
						m := stranger.within(refusal.with("Contact:", "Contact: <"+uri+">\r\nX-Contact:"), method, "Route: "+refusal.one("Record-Route")+routes)
						stranger.sends(m)
						if routes != "" && target != "192.0.2.1:5060" { // a Route of ours is taken off
							if method != "ACK" {
								stranger.gets("refused", "SIP/2.0 403 Route Not Allowed")
							}
							s.quiet("and nobody hears of it")
							return
						}
						got := s.pbx.gets("it goes to the PBX", method)
						if method != "ACK" {
							s.pbx.replies(got, "481 Call/Transaction Does Not Exist")
							stranger.gets("the PBX's answer", "SIP/2.0 481")
						}
						if method == "INVITE" {
							s.pbx.gets("its ACK", "ACK")
						}
						s.pbx.forgets()
						s.quiet("and nobody else hears of it")
					})
				})
			}
		}
	}
}

func TestATokenOpensInItsOwnDialogAlone(t *testing.T) {
	play(t, func(s *scene) {
		c := s.phone.calls(s.pbx)
		stranger := s.udp(strangerAt)
		token := "Route: " + c.ok.one("Record-Route")
		for _, m := range []text{
			stranger.request("MESSAGE", "sip:102@pbx.example", token),
			stranger.request("MESSAGE", "sip:102@pbx.example", token, "To: <sip:102@pbx.example>;tag=x"),
			stranger.within(c.ok, "MESSAGE", "Call-ID: another"),
			stranger.within(c.ok, "MESSAGE", "From: <sip:101@pbx.example>;tag=another"),
		} {
			stranger.sends(m)
			stranger.gets("refused", "SIP/2.0 403 Forged Route")
		}
		s.quiet("nothing is sent on")
		stranger.sends(stranger.within(c.ok, "MESSAGE", "To: <sip:102@pbx.example>;tag=another"))
		s.pbx.replies(s.pbx.gets("another branch of a fork is the PBX's to know", "MESSAGE"), "481 No Such Call")
		stranger.gets("answer", "SIP/2.0 481")
	})
}

func TestACallersTokensDoNotLeadPastThePBX(t *testing.T) { // the PBX is a proxy that stays in the dialog
	play(t, func(s *scene) {
		other := s.udp(otherAt)
		s.phone.sends(s.phone.invite())
		got := s.pbx.gets("the INVITE goes on", "INVITE")
		s.pbx.sends(got.with("INVITE sip:102@pbx.example", "INVITE sip:102@192.0.2.102:5062").
			with("Via:", "Via: SIP/2.0/UDP 192.0.2.2:5060;branch=z9hG4bK-pbx\r\nVia:").
			with("Record-Route:", "Record-Route: <sip:192.0.2.2;lr>\r\nRecord-Route:"))
		called := other.gets("the PBX sends it to the other phone", "INVITE sip:102@192.0.2.102:5062")
		routes := called.all("Record-Route")
		equal(t, "Record-Routes", fmt.Sprint(len(routes)), "3")
		other.replies(called, "200 OK")
		ok := s.pbx.gets("answer", "SIP/2.0 200")
		s.pbx.sends(ok.with("Via: "+ok.one("Via")+"\r\n", ""))
		answer := s.phone.gets("answer", "SIP/2.0 200")
		for _, route := range []string{
			routes[2] + "," + routes[0], // without the PBX's
			routes[0],
			routes[0] + "," + routes[2],
		} {
			s.phone.sends(s.phone.within(answer, "INFO", "Route: "+route))
			s.pbx.replies(s.pbx.gets("it goes to the PBX", "INFO"), "404 Not Found")
			s.phone.gets("answer", "SIP/2.0 404")
			s.quiet("and not past it")
		}
		s.phone.sends(s.phone.within(answer, "BYE"))
		bye := s.pbx.gets("by the PBX's Route", "BYE")
		equal(t, "Route", strings.Join(bye.all("Route"), "|"), "<sip:192.0.2.2;lr>|"+routes[0])
		s.pbx.sends(bye.with("Route: <sip:192.0.2.2;lr>\r\n", "").
			with("Via:", "Via: SIP/2.0/UDP 192.0.2.2:5060;branch=z9hG4bK-pbx2\r\nVia:"))
		other.replies(other.gets("from the PBX", "BYE"), "200 OK")
		ok = s.pbx.gets("answer", "SIP/2.0 200")
		s.pbx.sends(ok.with("Via: "+ok.one("Via")+"\r\n", ""))
		s.phone.gets("answer", "SIP/2.0 200")
	})
}

func TestADialogThatThePBXHasLeftGoesToItsOtherEnd(t *testing.T) {
	for _, tt := range []struct {
		contact string // of who is called, as it answers
		goesTo  string // the BYE of the caller; "" if to nobody
	}{
		{"sip:102@192.0.2.102:5062", "192.0.2.102:5062"},
		{"sip:102@192.0.2.102:6000", "192.0.2.102:6000"},  // another port of the same host
		{"sip:102@203.0.113.66:5060", "192.0.2.102:5062"}, // a stranger's address
		{"sip:102@phone.example", "192.0.2.102:5062"},
	} {
		t.Run(tt.contact, func(t *testing.T) {
			play(t, func(s *scene) {
				other := s.udp(otherAt)
				s.udp(victimAt)
				port := s.udp(netip.MustParseAddrPort("192.0.2.102:6000"))
				s.phone.sends(s.phone.invite())
				got := s.pbx.gets("the INVITE goes on", "INVITE")
				s.pbx.sends(got.with("INVITE sip:102@pbx.example", "INVITE sip:102@192.0.2.102:5062").
					with("Via:", "Via: SIP/2.0/UDP 192.0.2.2:5060;branch=z9hG4bK-pbx\r\nVia:"))
				called := other.gets("the PBX sends it to the other phone", "INVITE sip:102@192.0.2.102:5062")
				other.replies(called, "200 OK", "Contact: <"+tt.contact+">")
				ok := s.pbx.gets("answer", "SIP/2.0 200")
				s.pbx.sends(ok.with("Via: "+ok.one("Via")+"\r\n", ""))
				answer := s.phone.gets("answer", "SIP/2.0 200")
				s.phone.sends(s.phone.within(answer, "BYE"))
				to := other
				if tt.goesTo == port.addr.String() {
					to = port
				}
				to.replies(to.gets("the caller hangs up", "BYE "+tt.contact), "200 OK")
				s.phone.gets("answer", "SIP/2.0 200")
				other.sends(other.back(called, "BYE"))
				s.phone.replies(s.phone.gets("the one called hangs up", "BYE"), "200 OK")
				other.gets("answer", "SIP/2.0 200")
				s.quiet("that was all")
			})
		})
	}
}

func TestADialogStaysWithItsPBX(t *testing.T) {
	secondAt := netip.MustParseAddrPort("192.0.2.12:5060")
	profileAt := netip.MustParseAddrPort("192.0.2.2:5080") // another SIP port of the first
	play(t, func(s *scene) {
		second, profile := s.pbxs[1], s.udp(profileAt)
		for _, p := range s.pbxs {
			p.replies(p.gets("a probe", "OPTIONS"), "200 OK")
		}
		for _, pbx := range []*peer{second, profile} {
			c := pbx.request("INVITE", "sip:101@192.0.2.101:5062")
			pbx.sends(c)
			invite := s.phone.gets("the PBX calls", "INVITE")
			s.phone.replies(invite, "200 OK")
			ok := pbx.gets("answer", "SIP/2.0 200")
			pbx.sends(pbx.within(ok, "ACK"))
			s.phone.gets("its ACK", "ACK")
			bye := s.phone.back(invite, "BYE")
			for _, uri := range []string{bye.uri(), "sip:pbx@pbx.example", "sips:pbx@192.0.2.2", "sip:pbx@192.0.2.2:22;transport=tcp"} {
				s.phone.sends(s.phone.back(invite, "INFO").with("INFO "+bye.uri(), "INFO "+uri))
				pbx.replies(pbx.gets("whatever the Request-URI says", "INFO "+uri), "200 OK")
				s.phone.gets("answer", "SIP/2.0 200")
			}
			s.quiet("no other PBX hears of it")
		}
	}, func(c *sip.Config) {
		c.PBX = append(c.PBX, sip.Addr{Proto: sip.UDP, AddrPort: secondAt})
		c.PBXSources = prefixes("192.0.2.2/32")
	})
}

// TestAPBXThatIsAProxyIsNoWayAround: it follows Route and Request-URI wherever they
// lead, and so would send a stranger's request where he likes, or back to bellhop.
func TestAPBXThatIsAProxyIsNoWayAround(t *testing.T) {
	const pbx = "<sip:192.0.2.2;lr>"
	play(t, func(s *scene) {
		stranger := s.udp(strangerAt)
		s.udp(victimAt)
		for _, routes := range []string{
			"<sip:192.0.2.1;lr>, " + pbx + ", <sip:192.0.2.1;lr>",
			"<sip:192.0.2.1;lr>, " + pbx,
			pbx,
			pbx + ", <sip:203.0.113.66;lr>",
		} {
			stranger.sends(stranger.request("MESSAGE", "sip:x@203.0.113.66", "Route: "+routes, "To: <sip:x@x>;tag=any"))
			stranger.gets("refused", "SIP/2.0 403")
		}
		// The PBX lets anybody call, and passes on what it gets.
		invite := stranger.invite()
		stranger.sends(invite)
		got := s.pbx.gets("the INVITE goes on", "INVITE")
		ok := s.pbx.answer(got, "200 OK")
		ok = ok.with("Record-Route:", "Record-Route: "+pbx+"\r\nRecord-Route:")
		s.pbx.sends(ok)
		answer := stranger.gets("answer", "SIP/2.0 200")
		token := answer.all("Record-Route")[1]
		for _, routes := range []string{token + ", " + pbx + ", <sip:192.0.2.1;lr>", token + ", <sip:203.0.113.66;lr>"} {
			stranger.sends(stranger.within(answer, "INFO", "Route: "+routes))
			stranger.gets("refused", "SIP/2.0 403")
		}
		s.quiet("nothing was sent on")
		bounced := stranger.within(answer, "INFO", "Route: "+token+", "+pbx).with("INFO sip:192.0.2.2:5060", "INFO sip:x@203.0.113.66:5060")
		stranger.sends(bounced)
		back := s.pbx.gets("by the PBX's Route", "INFO")
		s.pbx.sends(back.with("Route: "+pbx+"\r\n", "").with("Via:", "Via: SIP/2.0/UDP 192.0.2.2:5060;branch=z9hG4bK-pbx\r\nVia:"))
		s.pbx.gets("the PBX sends it back", "SIP/2.0 403")
		refused := s.pbx.answer(back, "403 Forbidden")
		s.pbx.sends(refused)
		stranger.gets("refused", "SIP/2.0 403")
		s.quiet("nobody else hears of it")
	})
}

func TestARouteOfThePBXsOwnIsFollowed(t *testing.T) { // also one that names it otherwise than the configuration
	for _, own := range []string{"<sip:192.0.2.2;lr>", "<sip:sip.pbx.example;lr;did=1>", "<sip:198.51.100.77:5080;lr>"} {
		t.Run(own, func(t *testing.T) {
			play(t, func(s *scene) {
				invite := s.phone.invite()
				s.phone.sends(invite)
				got := s.pbx.gets("the INVITE goes on", "INVITE")
				s.pbx.sends(s.pbx.answer(got, "200 OK").with("Record-Route:", "Record-Route: "+own+"\r\nRecord-Route:"))
				ok := s.phone.gets("answer", "SIP/2.0 200")
				s.phone.sends(s.phone.within(ok, "ACK"))
				ack := s.pbx.gets("its ACK", "ACK")
				equal(t, "Route", ack.one("Route"), own)
				s.phone.sends(s.phone.within(ok, "INFO").with("Route: "+own, "Route: <sip:203.0.113.66;lr>"))
				s.phone.gets("no other Route", "SIP/2.0 403")
				s.pbx.sends(s.pbx.back(got, "BYE"))
				s.phone.replies(s.phone.gets("from the PBX", "BYE"), "200 OK")
				s.pbx.gets("answer", "SIP/2.0 200")

				s.pbx.sends(s.pbx.request("INVITE", "sip:101@192.0.2.101:5062", "Record-Route: "+own).
					with("Via:", "Via: SIP/2.0/UDP 192.0.2.2:5060;branch=z9hG4bK-pbx\r\nVia:"))
				called := s.phone.gets("the PBX calls", "INVITE")
				s.phone.replies(called, "200 OK")
				s.pbx.gets("answer", "SIP/2.0 200")
				s.phone.sends(s.phone.back(called, "BYE"))
				bye := s.pbx.gets("the phone hangs up", "BYE")
				equal(t, "Route", bye.one("Route"), own)
				s.pbx.replies(bye, "200 OK")
				s.phone.gets("answer", "SIP/2.0 200")
				s.phone.sends(s.phone.back(called, "INFO").with("Route: "+own, "Route: <sip:203.0.113.66;lr>"))
				s.phone.gets("no other Route", "SIP/2.0 403")
				s.quiet("that was all")
			})
		})
	}
}

func TestACallersContactLeadsNoFartherThanItsHost(t *testing.T) {
	trunks := func(c *sip.Config) { c.Trunks = []sip.Trunk{{Name: "carrier", Sources: prefixes("198.51.100.0/28")}} }
	trunkAt, gateway := netip.MustParseAddrPort("198.51.100.9:5060"), netip.MustParseAddrPort("198.51.100.10:5070")
	for _, tt := range []struct {
		name    string
		from    netip.AddrPort
		contact string
		want    netip.AddrPort // of the PBX's BYE
	}{
		{"a stranger's other port", strangerAt, "sip:x@198.51.100.66:6000", netip.MustParseAddrPort("198.51.100.66:6000")},
		{"another host", strangerAt, "sip:x@203.0.113.66:5060", strangerAt},
		{"this machine", strangerAt, "sip:x@127.0.0.1:8080;transport=tcp", strangerAt},
		{"a name", strangerAt, "sip:x@phone.example", strangerAt},
		{"another host of the same trunk", trunkAt, "sip:x@198.51.100.10:5070", gateway},
		{"another host than the trunk's", trunkAt, "sip:x@203.0.113.66:5060", trunkAt},
	} {
		t.Run(tt.name, func(t *testing.T) {
			play(t, func(s *scene) {
				peers := map[netip.AddrPort]*peer{}
				for _, at := range []netip.AddrPort{strangerAt, netip.MustParseAddrPort("198.51.100.66:6000"), victimAt, trunkAt, gateway} {
					peers[at] = s.udp(at)
				}
				from := peers[tt.from]
				invite := from.invite("Contact: <"+tt.contact+">").
					with("Via:", "Via: SIP/2.0/UDP "+tt.from.String()+";branch=z9hG4bK-edge\r\nVia:") // behind a proxy
				from.sends(invite)
				got := s.pbx.gets("the INVITE goes on", "INVITE")
				s.pbx.replies(got, "200 OK")
				from.gets("answer", "SIP/2.0 200")
				s.pbx.sends(s.pbx.back(got, "BYE"))
				to := peers[tt.want]
				to.replies(to.gets("the BYE", "BYE "+tt.contact), "200 OK")
				s.pbx.gets("answer", "SIP/2.0 200")
				s.quiet("nobody else hears of it")
			}, trunks)
		})
	}
}

func TestACallersContactIsNotThePBXs(t *testing.T) { // of a PBX that is a proxy, and on whose host a caller is
	play(t, func(s *scene) {
		caller := s.udp(netip.MustParseAddrPort("192.0.2.2:5099"))
		c := s.pbx.request("INVITE", "sip:101@192.0.2.101:5062", "Contact: <sip:102@192.0.2.2:5099>", "Record-Route: <sip:192.0.2.2;lr>").
			with("Via:", "Via: SIP/2.0/UDP 192.0.2.2:5060;branch=z9hG4bK-pbx\r\nVia:")
		s.pbx.sends(c)
		invite := s.phone.gets("the PBX calls", "INVITE")
		s.phone.replies(invite, "200 OK")
		s.pbx.gets("answer", "SIP/2.0 200")
		s.phone.sends(s.phone.back(invite, "BYE"))
		s.pbx.replies(s.pbx.gets("by the PBX's Route", "BYE sip:102@192.0.2.2:5099"), "200 OK")
		s.phone.gets("answer", "SIP/2.0 200")
		if m, ok := caller.next(); ok {
			t.Errorf("past the PBX, the caller got %s", m)
		}
	})
}

func TestNoURIOfThePBXLeadsIntoThisMachine(t *testing.T) {
	play(t, func(s *scene) {
		for uri, want := range map[string]string{
			"sip:x@127.0.0.1:5062":                   "403 Next Hop Not Allowed",
			"sip:x@127.0.0.1:6379;transport=tcp":     "403 Next Hop Not Allowed",
			"sip:x@169.254.169.254:80;transport=tcp": "403 Next Hop Not Allowed",
			"sip:x@224.0.1.75":                       "403 Next Hop Not Allowed",
			"sip:x@0.0.0.0:5062":                     "403 Next Hop Not Allowed",
			"sip:x@192.0.2.1:5060":                   "404 Not Found",
		} {
			s.pbx.sends(s.pbx.request("MESSAGE", uri))
			s.pbx.gets(uri, "SIP/2.0 "+want)
		}
		s.quiet("nothing is sent")
	})
}

// Tokens that the build before version 2 has made with the key of these tests.
const (
	oldPhone   = "AXIBABPEE8YEwAACZQAAAAAknV9vvpLYxQ" // Record-Route, by 192.0.2.101:5062
	oldOther   = "AXIBABPEE8YEwAACZgAAAADLbYGqFw9jRg" // Record-Route, by 192.0.2.102:5062
	oldNone    = "AXIAAAAAAAAAAAAAAMAItuqpFzdY"       // Record-Route, by the URI
	oldPath    = "AXABABPEE8YEwAACZQAAAAAxMDFAcGJ4LmV4YW1wbGUUmWskK8bhxg"
	oldContact = "AWMBABPEE8YEwAACZQAAAAAxMDFAcGJ4LmV4YW1wbGUgc2lwOjEwMUAxOTIuMC4yLjEwMTo1MDYyB9c9VHzMA94"
)

func TestCallsAndBindingsOutliveTheUpgrade(t *testing.T) {
	const ours = "@192.0.2.1:5060;lr>"
	within := []string{"Call-ID: old", "From: <sip:101@pbx.example>;tag=up", "To: <sip:102@pbx.example>;tag=x"}
	play(t, func(s *scene) {
		other := s.udp(otherAt)
		s.hop.RestoreDialogs([]sip.Dialog{{CallID: "old", Tag: "up"}, {CallID: "old", Tag: "up2"}})
		for _, tt := range []struct {
			from, to *peer
			uri      string
			lines    []string
		}{
			{s.phone, s.pbx, "sip:102@192.0.2.2:5060", append(within, "Route: <sip:"+oldPhone+ours)},
			{s.phone, other, "sip:102@192.0.2.102:5062", append(within, "Route: <sip:"+oldPhone+ours+", <sip:"+oldOther+ours)},
			{s.phone, other, "sip:102@192.0.2.102:5062", append(within, "Route: <sip:"+oldPhone+ours+", <sip:"+oldNone+ours)},
			{s.pbx, s.phone, "sip:101@10.0.0.7", append(within, "Route: <sip:"+oldPhone+ours)},
			{s.pbx, s.phone, "sip:101@10.0.0.7", []string{"Route: <sip:" + oldPath + ours}},
			{s.pbx, s.phone, "sip:101@192.0.2.1;bellhop=" + oldContact, nil},
			// Dialogs other than calls, a subscription's for example, nobody has kept.
			{s.phone, s.pbx, "sip:102@192.0.2.2:5060", []string{"To: <sip:102@pbx.example>;tag=x", "Route: <sip:" + oldPhone + ours}},
			{s.pbx, s.phone, "sip:101@10.0.0.7", []string{"To: <sip:102@pbx.example>;tag=x", "Route: <sip:" + oldPhone + ours}},
		} {
			tt.from.sends(tt.from.request("INFO", tt.uri, tt.lines...))
			tt.to.replies(tt.to.gets(fmt.Sprint(tt.lines), "INFO"), "200 OK")
			tt.from.gets("answer", "SIP/2.0 200")
		}
		past := append(within, "Route: <sip:"+oldPhone+ours+", <sip:"+oldOther+ours)
		bye := s.phone.request("BYE", "sip:102@192.0.2.102:5062", past...)
		s.phone.sends(bye)
		other.replies(other.gets("the call ends", "BYE"), "200 OK")
		s.phone.gets("answer", "SIP/2.0 200")
		for _, m := range []text{
			s.phone.request("INFO", "sip:102@192.0.2.102:5062", past...),
			s.phone.request("INFO", "sip:102@192.0.2.102:5062", past...).with("Call-ID: old", "Call-ID: new"),
		} {
			s.phone.sends(m)
			s.pbx.replies(s.pbx.gets("the tokens of a call that is over open nothing", "INFO"), "481 No Such Call")
			s.phone.gets("answer", "SIP/2.0 481")
		}
		s.phone.sends(s.phone.request("INFO", "sip:102@192.0.2.102:5062", append(within, "Route: <sip:"+oldPhone+ours+",<sip:203.0.113.66;lr>")...))
		s.phone.gets("refused", "SIP/2.0 403 Route Not Allowed")
	}, func(c *sip.Config) { c.Register = sip.RegisterContact })
}

func TestTheSecretOfATrunkMarksItsRequestsAlone(t *testing.T) {
	const mark = "X-Bellhop-Trunk"
	trunkAt := netip.MustParseAddrPort("198.51.100.9:5060")
	play(t, func(s *scene) {
		trunk := s.udp(trunkAt)
		for _, forged := range [][]string{nil, {mark + ": the secret of the carrier"}, {"x-bellhop-TRUNK : a\r\n b", mark + ": guess"}} {
			for _, method := range []string{"INVITE", "MESSAGE", "BYE"} {
				for _, tt := range []struct {
					from *peer
					want string
				}{{trunk, "the-secret-of-the-carrier"}, {s.phone, ""}} {
					m := tt.from.request(method, "sip:102@pbx.example", forged...)
					tt.from.sends(m)
					got := s.pbx.gets("sent on", method)
					equal(t, mark+" of "+tt.from.name, strings.Join(got.all(mark), "|"), tt.want)
					s.pbx.replies(got, "404 Not Found")
					s.pbx.forgets()
					answer := tt.from.gets("answer", "SIP/2.0 404")
					if method == "INVITE" {
						tt.from.acks(m, answer)
					}
				}
			}
		}
		s.pbx.sends(s.pbx.request("MESSAGE", "sip:101@192.0.2.101:5062", mark+": the-secret-of-the-carrier"))
		got := s.phone.gets("from the PBX", "MESSAGE")
		equal(t, "what a phone sees of the secret", got.one(mark), "")
		s.phone.replies(got, "200 OK")
	}, func(c *sip.Config) {
		c.Trunks = []sip.Trunk{{Name: "carrier", Sources: prefixes("198.51.100.9/32"), Secret: "the-secret-of-the-carrier"}}
	})
}

func TestAStrangersIdentityIsNotSentOn(t *testing.T) {
	trunkAt := netip.MustParseAddrPort("198.51.100.9:5060")
	identity := []string{
		"P-Asserted-Identity: \"Boss\" <sip:100@pbx.example>,\r\n\t<tel:100>", "p-asserted-identity: <sip:1@x>", "Remote-Party-ID: <sip:100@x>;screen=yes",
		"Diversion: <sip:100@x>", "X-CID: made-up", "P-Preferred-Identity: <sip:101@pbx.example>",
		"X-AUTH-IP: 127.0.0.1", "x-auth-port : 5060", "X-Auth-Ip:\r\n 10.0.0.1", "X-AUTH-IPX: other",
	}
	for _, strip := range []bool{true, false} {
		t.Run(fmt.Sprint(strip), func(t *testing.T) {
			play(t, func(s *scene) {
				trunk := s.udp(trunkAt)
				for _, from := range []*peer{trunk, s.phone} {
					invite := from.invite(identity...)
					from.sends(invite)
					got := s.pbx.gets("sent on", "INVITE")
					kept := from == trunk || !strip
					equal(t, "X-AUTH-IPX", got.one("X-AUTH-IPX"), "other")
					for _, name := range []string{"P-Asserted-Identity", "Remote-Party-ID", "Diversion", "X-AUTH-IP", "X-AUTH-PORT"} {
						if has := got.one(name) != ""; has != kept {
							t.Errorf("%s of %s is there: %v", name, from.name, has)
						}
					}
					if cid := got.all("X-CID"); len(cid) != 1 || (cid[0] == "made-up") != kept {
						t.Errorf("X-CID of %s: %q", from.name, cid)
					}
					equal(t, "P-Preferred-Identity, which the PBX checks", got.one("P-Preferred-Identity"), "<sip:101@pbx.example>")
					s.pbx.replies(got, "404 Not Found")
					s.pbx.forgets()
					from.acks(invite, from.gets("answer", "SIP/2.0 404"))
				}
			}, func(c *sip.Config) {
				c.AddCID, c.StripIdentity = true, strip
				c.Trunks = []sip.Trunk{{Name: "carrier", Sources: prefixes("198.51.100.9/32")}}
			})
		})
	}
}
