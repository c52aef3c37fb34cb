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

// challengeStranger sends an INVITE without credentials from a stranger. The PBX refuses
// it, with a copy of our Record-Route.
func (s *testbed) challengeStranger(stranger *peer) (refusal text) {
	s.t.Helper()
	invite := stranger.newInvite("Content-Type: application/sdp", "", strings.Repeat("a=candidate\r\n", 20))
	stranger.send(invite)
	got := s.pbx.expect("the INVITE goes on", "INVITE")
	s.pbx.respond(got, "401 Unauthorized")
	s.pbx.expect("its ACK", "ACK")
	refusal = stranger.expect("the PBX's refusal", "SIP/2.0 401")
	if refusal.fieldValue("Record-Route") == "" {
		s.t.Fatal("the refusal has no Record-Route")
	}
	stranger.sendACK(invite, refusal)
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
					runScenario(t, func(s *testbed) {
						stranger := s.addUDPPeer(strangerAt)
						s.addUDPPeer(victimAt)
						s.addTCPListener(netip.MustParseAddrPort("203.0.113.66:5060"))
						s.addTCPListener(netip.MustParseAddrPort("192.0.2.2:22"))
						refusal := s.challengeStranger(stranger)
						uri := "sip:x@" + target
						m := stranger.callerRequest(refusal.replaced("Contact:", "Contact: <"+uri+">\r\nX-Contact:"), method, "Route: "+refusal.fieldValue("Record-Route")+routes)
						stranger.send(m)
						if routes != "" && target != "192.0.2.1:5060" { // a Route of ours is taken off
							if method != "ACK" {
								stranger.expect("refused", "SIP/2.0 403 Route Not Allowed")
							}
							s.expectNothing("and nobody hears of it")
							return
						}
						got := s.pbx.expect("it goes to the PBX", method)
						if method != "ACK" {
							s.pbx.respond(got, "481 Call/Transaction Does Not Exist")
							stranger.expect("the PBX's answer", "SIP/2.0 481")
						}
						if method == "INVITE" {
							s.pbx.expect("its ACK", "ACK")
						}
						s.pbx.discardReceived()
						s.expectNothing("and nobody else hears of it")
					})
				})
			}
		}
	}
}

func TestATokenOpensInItsOwnDialogAlone(t *testing.T) {
	runScenario(t, func(s *testbed) {
		c := s.phone.setUpCall(s.pbx)
		stranger := s.addUDPPeer(strangerAt)
		token := "Route: " + c.ok.fieldValue("Record-Route")
		for _, m := range []text{
			stranger.newRequest("MESSAGE", "sip:102@pbx.example", token),
			stranger.newRequest("MESSAGE", "sip:102@pbx.example", token, "To: <sip:102@pbx.example>;tag=x"),
			stranger.callerRequest(c.ok, "MESSAGE", "Call-ID: another"),
			stranger.callerRequest(c.ok, "MESSAGE", "From: <sip:101@pbx.example>;tag=another"),
		} {
			stranger.send(m)
			stranger.expect("refused", "SIP/2.0 403 Forged Route")
		}
		s.expectNothing("nothing is sent on")
		stranger.send(stranger.callerRequest(c.ok, "MESSAGE", "To: <sip:102@pbx.example>;tag=another"))
		s.pbx.respond(s.pbx.expect("another branch of a fork is the PBX's to know", "MESSAGE"), "481 No Such Call")
		stranger.expect("answer", "SIP/2.0 481")
	})
}

func TestACallersTokensDoNotLeadPastThePBX(t *testing.T) { // the PBX is a proxy that stays in the dialog
	runScenario(t, func(s *testbed) {
		other := s.addUDPPeer(otherAt)
		s.phone.send(s.phone.newInvite())
		got := s.pbx.expect("the INVITE goes on", "INVITE")
		s.pbx.send(got.replaced("INVITE sip:102@pbx.example", "INVITE sip:102@192.0.2.102:5062").
			replaced("Via:", "Via: SIP/2.0/UDP 192.0.2.2:5060;branch=z9hG4bK-pbx\r\nVia:").
			replaced("Record-Route:", "Record-Route: <sip:192.0.2.2;lr>\r\nRecord-Route:"))
		called := other.expect("the PBX sends it to the other phone", "INVITE sip:102@192.0.2.102:5062")
		routes := called.fieldValues("Record-Route")
		assertEqual(t, "Record-Routes", fmt.Sprint(len(routes)), "3")
		other.respond(called, "200 OK")
		ok := s.pbx.expect("answer", "SIP/2.0 200")
		s.pbx.send(ok.replaced("Via: "+ok.fieldValue("Via")+"\r\n", ""))
		answer := s.phone.expect("answer", "SIP/2.0 200")
		for _, route := range []string{
			routes[2] + "," + routes[0], // without the PBX's
			routes[0],
			routes[0] + "," + routes[2],
		} {
			s.phone.send(s.phone.callerRequest(answer, "INFO", "Route: "+route))
			s.pbx.respond(s.pbx.expect("it goes to the PBX", "INFO"), "404 Not Found")
			s.phone.expect("answer", "SIP/2.0 404")
			s.expectNothing("and not past it")
		}
		s.phone.send(s.phone.callerRequest(answer, "BYE"))
		bye := s.pbx.expect("by the PBX's Route", "BYE")
		assertEqual(t, "Route", strings.Join(bye.fieldValues("Route"), "|"), "<sip:192.0.2.2;lr>|"+routes[0])
		s.pbx.send(bye.replaced("Route: <sip:192.0.2.2;lr>\r\n", "").
			replaced("Via:", "Via: SIP/2.0/UDP 192.0.2.2:5060;branch=z9hG4bK-pbx2\r\nVia:"))
		other.respond(other.expect("from the PBX", "BYE"), "200 OK")
		ok = s.pbx.expect("answer", "SIP/2.0 200")
		s.pbx.send(ok.replaced("Via: "+ok.fieldValue("Via")+"\r\n", ""))
		s.phone.expect("answer", "SIP/2.0 200")
	})
}

func TestDialogThePBXHasLeftReachesItsOtherEnd(t *testing.T) {
	for _, tt := range []struct {
		contact string // Contact in the 2xx of the called phone
		goesTo  string // receiver of the caller's BYE; "": none
	}{
		{"sip:102@192.0.2.102:5062", "192.0.2.102:5062"},
		{"sip:102@192.0.2.102:6000", "192.0.2.102:6000"},  // another port of the same host
		{"sip:102@203.0.113.66:5060", "192.0.2.102:5062"}, // a stranger's address
		{"sip:102@phone.example", "192.0.2.102:5062"},
	} {
		t.Run(tt.contact, func(t *testing.T) {
			runScenario(t, func(s *testbed) {
				other := s.addUDPPeer(otherAt)
				s.addUDPPeer(victimAt)
				port := s.addUDPPeer(netip.MustParseAddrPort("192.0.2.102:6000"))
				s.phone.send(s.phone.newInvite())
				got := s.pbx.expect("the INVITE goes on", "INVITE")
				s.pbx.send(got.replaced("INVITE sip:102@pbx.example", "INVITE sip:102@192.0.2.102:5062").
					replaced("Via:", "Via: SIP/2.0/UDP 192.0.2.2:5060;branch=z9hG4bK-pbx\r\nVia:"))
				called := other.expect("the PBX sends it to the other phone", "INVITE sip:102@192.0.2.102:5062")
				other.respond(called, "200 OK", "Contact: <"+tt.contact+">")
				ok := s.pbx.expect("answer", "SIP/2.0 200")
				s.pbx.send(ok.replaced("Via: "+ok.fieldValue("Via")+"\r\n", ""))
				answer := s.phone.expect("answer", "SIP/2.0 200")
				s.phone.send(s.phone.callerRequest(answer, "BYE"))
				to := other
				if tt.goesTo == port.addr.String() {
					to = port
				}
				to.respond(to.expect("the caller hangs up", "BYE "+tt.contact), "200 OK")
				s.phone.expect("answer", "SIP/2.0 200")
				other.send(other.calleeRequest(called, "BYE"))
				s.phone.respond(s.phone.expect("the one called hangs up", "BYE"), "200 OK")
				other.expect("answer", "SIP/2.0 200")
				s.expectNothing("that was all")
			})
		})
	}
}

func TestADialogStaysWithItsPBX(t *testing.T) {
	secondAt := netip.MustParseAddrPort("192.0.2.12:5060")
	profileAt := netip.MustParseAddrPort("192.0.2.2:5080") // another SIP port of the first
	runScenario(t, func(s *testbed) {
		second, profile := s.allPBXs[1], s.addUDPPeer(profileAt)
		for _, p := range s.allPBXs {
			p.respond(p.expect("a probe", "OPTIONS"), "200 OK")
		}
		for _, pbx := range []*peer{second, profile} {
			c := pbx.newRequest("INVITE", "sip:101@192.0.2.101:5062")
			pbx.send(c)
			invite := s.phone.expect("the PBX calls", "INVITE")
			s.phone.respond(invite, "200 OK")
			ok := pbx.expect("answer", "SIP/2.0 200")
			pbx.send(pbx.callerRequest(ok, "ACK"))
			s.phone.expect("its ACK", "ACK")
			bye := s.phone.calleeRequest(invite, "BYE")
			for _, uri := range []string{bye.requestURI(), "sip:pbx@pbx.example", "sips:pbx@192.0.2.2", "sip:pbx@192.0.2.2:22;transport=tcp"} {
				s.phone.send(s.phone.calleeRequest(invite, "INFO").replaced("INFO "+bye.requestURI(), "INFO "+uri))
				pbx.respond(pbx.expect("whatever the Request-URI says", "INFO "+uri), "200 OK")
				s.phone.expect("answer", "SIP/2.0 200")
			}
			s.expectNothing("no other PBX hears of it")
		}
	}, func(c *sip.Config) {
		c.PBX = append(c.PBX, sip.Addr{Proto: sip.UDP, AddrPort: secondAt})
		c.PBXSources = parsePrefixes("192.0.2.2/32")
	})
}

// A PBX that is a proxy follows Route and Request-URI anywhere. Without our checks it
// would send a stranger's request to any address, or back to bellhop.
func TestPBXProxyOpensNoOtherNextHop(t *testing.T) {
	const pbx = "<sip:192.0.2.2;lr>"
	runScenario(t, func(s *testbed) {
		stranger := s.addUDPPeer(strangerAt)
		s.addUDPPeer(victimAt)
		for _, routes := range []string{
			"<sip:192.0.2.1;lr>, " + pbx + ", <sip:192.0.2.1;lr>",
			"<sip:192.0.2.1;lr>, " + pbx,
			pbx,
			pbx + ", <sip:203.0.113.66;lr>",
		} {
			stranger.send(stranger.newRequest("MESSAGE", "sip:x@203.0.113.66", "Route: "+routes, "To: <sip:x@x>;tag=any"))
			stranger.expect("refused", "SIP/2.0 403")
		}
		// The PBX accepts any caller and forwards its requests.
		invite := stranger.newInvite()
		stranger.send(invite)
		got := s.pbx.expect("the INVITE goes on", "INVITE")
		ok := s.pbx.newResponse(got, "200 OK")
		ok = ok.replaced("Record-Route:", "Record-Route: "+pbx+"\r\nRecord-Route:")
		s.pbx.send(ok)
		answer := stranger.expect("answer", "SIP/2.0 200")
		token := answer.fieldValues("Record-Route")[1]
		for _, routes := range []string{token + ", " + pbx + ", <sip:192.0.2.1;lr>", token + ", <sip:203.0.113.66;lr>"} {
			stranger.send(stranger.callerRequest(answer, "INFO", "Route: "+routes))
			stranger.expect("refused", "SIP/2.0 403")
		}
		s.expectNothing("nothing was sent on")
		bounced := stranger.callerRequest(answer, "INFO", "Route: "+token+", "+pbx).replaced("INFO sip:192.0.2.2:5060", "INFO sip:x@203.0.113.66:5060")
		stranger.send(bounced)
		back := s.pbx.expect("by the PBX's Route", "INFO")
		s.pbx.send(back.replaced("Route: "+pbx+"\r\n", "").replaced("Via:", "Via: SIP/2.0/UDP 192.0.2.2:5060;branch=z9hG4bK-pbx\r\nVia:"))
		s.pbx.expect("the PBX sends it back", "SIP/2.0 403")
		refused := s.pbx.newResponse(back, "403 Forbidden")
		s.pbx.send(refused)
		stranger.expect("refused", "SIP/2.0 403")
		s.expectNothing("nobody else hears of it")
	})
}

func TestARouteOfThePBXsOwnIsFollowed(t *testing.T) { // also one that names it otherwise than the configuration
	for _, own := range []string{"<sip:192.0.2.2;lr>", "<sip:sip.pbx.example;lr;did=1>", "<sip:198.51.100.77:5080;lr>"} {
		t.Run(own, func(t *testing.T) {
			runScenario(t, func(s *testbed) {
				invite := s.phone.newInvite()
				s.phone.send(invite)
				got := s.pbx.expect("the INVITE goes on", "INVITE")
				s.pbx.send(s.pbx.newResponse(got, "200 OK").replaced("Record-Route:", "Record-Route: "+own+"\r\nRecord-Route:"))
				ok := s.phone.expect("answer", "SIP/2.0 200")
				s.phone.send(s.phone.callerRequest(ok, "ACK"))
				ack := s.pbx.expect("its ACK", "ACK")
				assertEqual(t, "Route", ack.fieldValue("Route"), own)
				s.phone.send(s.phone.callerRequest(ok, "INFO").replaced("Route: "+own, "Route: <sip:203.0.113.66;lr>"))
				s.phone.expect("no other Route", "SIP/2.0 403")
				s.pbx.send(s.pbx.calleeRequest(got, "BYE"))
				s.phone.respond(s.phone.expect("from the PBX", "BYE"), "200 OK")
				s.pbx.expect("answer", "SIP/2.0 200")

				s.pbx.send(s.pbx.newRequest("INVITE", "sip:101@192.0.2.101:5062", "Record-Route: "+own).
					replaced("Via:", "Via: SIP/2.0/UDP 192.0.2.2:5060;branch=z9hG4bK-pbx\r\nVia:"))
				called := s.phone.expect("the PBX calls", "INVITE")
				s.phone.respond(called, "200 OK")
				s.pbx.expect("answer", "SIP/2.0 200")
				s.phone.send(s.phone.calleeRequest(called, "BYE"))
				bye := s.pbx.expect("the phone hangs up", "BYE")
				assertEqual(t, "Route", bye.fieldValue("Route"), own)
				s.pbx.respond(bye, "200 OK")
				s.phone.expect("answer", "SIP/2.0 200")
				s.phone.send(s.phone.calleeRequest(called, "INFO").replaced("Route: "+own, "Route: <sip:203.0.113.66;lr>"))
				s.phone.expect("no other Route", "SIP/2.0 403")
				s.expectNothing("that was all")
			})
		})
	}
}

func TestACallersContactLeadsNoFartherThanItsHost(t *testing.T) {
	trunks := func(c *sip.Config) {
		c.Trunks = []sip.Trunk{{Name: "carrier", Sources: parsePrefixes("198.51.100.0/28")}}
	}
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
			runScenario(t, func(s *testbed) {
				peers := map[netip.AddrPort]*peer{}
				for _, at := range []netip.AddrPort{strangerAt, netip.MustParseAddrPort("198.51.100.66:6000"), victimAt, trunkAt, gateway} {
					peers[at] = s.addUDPPeer(at)
				}
				from := peers[tt.from]
				invite := from.newInvite("Contact: <"+tt.contact+">").
					replaced("Via:", "Via: SIP/2.0/UDP "+tt.from.String()+";branch=z9hG4bK-edge\r\nVia:") // behind a proxy
				from.send(invite)
				got := s.pbx.expect("the INVITE goes on", "INVITE")
				s.pbx.respond(got, "200 OK")
				from.expect("answer", "SIP/2.0 200")
				s.pbx.send(s.pbx.calleeRequest(got, "BYE"))
				to := peers[tt.want]
				to.respond(to.expect("the BYE", "BYE "+tt.contact), "200 OK")
				s.pbx.expect("answer", "SIP/2.0 200")
				s.expectNothing("nobody else hears of it")
			}, trunks)
		})
	}
}

func TestCallersContactIsNotTakenForThePBX(t *testing.T) { // the PBX is a proxy, and the caller is on its host
	runScenario(t, func(s *testbed) {
		caller := s.addUDPPeer(netip.MustParseAddrPort("192.0.2.2:5099"))
		c := s.pbx.newRequest("INVITE", "sip:101@192.0.2.101:5062", "Contact: <sip:102@192.0.2.2:5099>", "Record-Route: <sip:192.0.2.2;lr>").
			replaced("Via:", "Via: SIP/2.0/UDP 192.0.2.2:5060;branch=z9hG4bK-pbx\r\nVia:")
		s.pbx.send(c)
		invite := s.phone.expect("the PBX calls", "INVITE")
		s.phone.respond(invite, "200 OK")
		s.pbx.expect("answer", "SIP/2.0 200")
		s.phone.send(s.phone.calleeRequest(invite, "BYE"))
		s.pbx.respond(s.pbx.expect("by the PBX's Route", "BYE sip:102@192.0.2.2:5099"), "200 OK")
		s.phone.expect("answer", "SIP/2.0 200")
		if m, ok := caller.nextMessage(); ok {
			t.Errorf("past the PBX, the caller got %s", m)
		}
	})
}

func TestNoURIOfThePBXLeadsIntoThisMachine(t *testing.T) {
	runScenario(t, func(s *testbed) {
		for uri, want := range map[string]string{
			"sip:x@127.0.0.1:5062":                   "403 Next Hop Not Allowed",
			"sip:x@127.0.0.1:6379;transport=tcp":     "403 Next Hop Not Allowed",
			"sip:x@169.254.169.254:80;transport=tcp": "403 Next Hop Not Allowed",
			"sip:x@224.0.1.75":                       "403 Next Hop Not Allowed",
			"sip:x@0.0.0.0:5062":                     "403 Next Hop Not Allowed",
			"sip:x@192.0.2.1:5060":                   "404 Not Found",
		} {
			s.pbx.send(s.pbx.newRequest("MESSAGE", uri))
			s.pbx.expect(uri, "SIP/2.0 "+want)
		}
		s.expectNothing("nothing is sent")
	})
}

// Tokens of version 1, made by an earlier build with the key of these tests.
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
	runScenario(t, func(s *testbed) {
		other := s.addUDPPeer(otherAt)
		s.proxy.RestoreDialogs([]sip.Dialog{{CallID: "old", Tag: "up"}, {CallID: "old", Tag: "up2"}})
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
			// Dialogs other than calls, a subscription's for example, are not restored.
			{s.phone, s.pbx, "sip:102@192.0.2.2:5060", []string{"To: <sip:102@pbx.example>;tag=x", "Route: <sip:" + oldPhone + ours}},
			{s.pbx, s.phone, "sip:101@10.0.0.7", []string{"To: <sip:102@pbx.example>;tag=x", "Route: <sip:" + oldPhone + ours}},
		} {
			tt.from.send(tt.from.newRequest("INFO", tt.uri, tt.lines...))
			tt.to.respond(tt.to.expect(fmt.Sprint(tt.lines), "INFO"), "200 OK")
			tt.from.expect("answer", "SIP/2.0 200")
		}
		past := append(within, "Route: <sip:"+oldPhone+ours+", <sip:"+oldOther+ours)
		bye := s.phone.newRequest("BYE", "sip:102@192.0.2.102:5062", past...)
		s.phone.send(bye)
		other.respond(other.expect("the call ends", "BYE"), "200 OK")
		s.phone.expect("answer", "SIP/2.0 200")
		for _, m := range []text{
			s.phone.newRequest("INFO", "sip:102@192.0.2.102:5062", past...),
			s.phone.newRequest("INFO", "sip:102@192.0.2.102:5062", past...).replaced("Call-ID: old", "Call-ID: new"),
		} {
			s.phone.send(m)
			s.pbx.respond(s.pbx.expect("the tokens of a call that is over open nothing", "INFO"), "481 No Such Call")
			s.phone.expect("answer", "SIP/2.0 481")
		}
		s.phone.send(s.phone.newRequest("INFO", "sip:102@192.0.2.102:5062", append(within, "Route: <sip:"+oldPhone+ours+",<sip:203.0.113.66;lr>")...))
		s.phone.expect("refused", "SIP/2.0 403 Route Not Allowed")
	}, func(c *sip.Config) { c.Register = sip.RegisterContact })
}

func TestTrunkSecretMarksOnlyItsRequests(t *testing.T) {
	const mark = "X-Bellhop-Trunk"
	trunkAt := netip.MustParseAddrPort("198.51.100.9:5060")
	runScenario(t, func(s *testbed) {
		trunk := s.addUDPPeer(trunkAt)
		for _, forged := range [][]string{nil, {mark + ": the secret of the carrier"}, {"x-bellhop-TRUNK : a\r\n b", mark + ": guess"}} {
			for _, method := range []string{"INVITE", "MESSAGE", "BYE"} {
				for _, tt := range []struct {
					from *peer
					want string
				}{{trunk, "the-secret-of-the-carrier"}, {s.phone, ""}} {
					m := tt.from.newRequest(method, "sip:102@pbx.example", forged...)
					tt.from.send(m)
					got := s.pbx.expect("sent on", method)
					assertEqual(t, mark+" of "+tt.from.name, strings.Join(got.fieldValues(mark), "|"), tt.want)
					s.pbx.respond(got, "404 Not Found")
					s.pbx.discardReceived()
					answer := tt.from.expect("answer", "SIP/2.0 404")
					if method == "INVITE" {
						tt.from.sendACK(m, answer)
					}
				}
			}
		}
		s.pbx.send(s.pbx.newRequest("MESSAGE", "sip:101@192.0.2.101:5062", mark+": the-secret-of-the-carrier"))
		got := s.phone.expect("from the PBX", "MESSAGE")
		assertEqual(t, "what a phone sees of the secret", got.fieldValue(mark), "")
		s.phone.respond(got, "200 OK")
	}, func(c *sip.Config) {
		c.Trunks = []sip.Trunk{{Name: "carrier", Sources: parsePrefixes("198.51.100.9/32"), Secret: "the-secret-of-the-carrier"}}
	})
}

func TestIdentityFieldsOfStrangersAreRemoved(t *testing.T) {
	trunkAt := netip.MustParseAddrPort("198.51.100.9:5060")
	identity := []string{
		"P-Asserted-Identity: \"Boss\" <sip:100@pbx.example>,\r\n\t<tel:100>", "p-asserted-identity: <sip:1@x>", "Remote-Party-ID: <sip:100@x>;screen=yes",
		"Diversion: <sip:100@x>", "X-CID: made-up", "P-Preferred-Identity: <sip:101@pbx.example>",
		"X-AUTH-IP: 127.0.0.1", "x-auth-port : 5060", "X-Auth-Ip:\r\n 10.0.0.1", "X-AUTH-IPX: other",
	}
	for _, strip := range []bool{true, false} {
		t.Run(fmt.Sprint(strip), func(t *testing.T) {
			runScenario(t, func(s *testbed) {
				trunk := s.addUDPPeer(trunkAt)
				for _, from := range []*peer{trunk, s.phone} {
					invite := from.newInvite(identity...)
					from.send(invite)
					got := s.pbx.expect("sent on", "INVITE")
					kept := from == trunk || !strip
					assertEqual(t, "X-AUTH-IPX", got.fieldValue("X-AUTH-IPX"), "other")
					for _, name := range []string{"P-Asserted-Identity", "Remote-Party-ID", "Diversion", "X-AUTH-IP", "X-AUTH-PORT"} {
						if has := got.fieldValue(name) != ""; has != kept {
							t.Errorf("%s of %s is there: %v", name, from.name, has)
						}
					}
					if cid := got.fieldValues("X-CID"); len(cid) != 1 || (cid[0] == "made-up") != kept {
						t.Errorf("X-CID of %s: %q", from.name, cid)
					}
					assertEqual(t, "P-Preferred-Identity, which the PBX checks", got.fieldValue("P-Preferred-Identity"), "<sip:101@pbx.example>")
					s.pbx.respond(got, "404 Not Found")
					s.pbx.discardReceived()
					from.sendACK(invite, from.expect("answer", "SIP/2.0 404"))
				}
			}, func(c *sip.Config) {
				c.AddCID, c.StripIdentity = true, strip
				c.Trunks = []sip.Trunk{{Name: "carrier", Sources: parsePrefixes("198.51.100.9/32")}}
			})
		})
	}
}
