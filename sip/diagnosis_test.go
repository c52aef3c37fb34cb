package sip_test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"bellhop/sip"
)

// Each case is a sequence of registrations and calls; each line is a request of a phone
// and the response of the PBX. degraded is a part of what Degraded then returns; "" is
// nothing.
func TestMisconfiguredPBXIsReported(t *testing.T) {
	const (
		path  = "PATH" // stands for the Path that came
		trunk = "takes bellhop's address for a trunk"
		past  = "ignores Path"
	)
	type line struct {
		who      string // the number of the phone
		request  string // REGISTER, REGISTER with credentials, INVITE, MESSAGE
		answer   string
		fields   []string // of the answer
		degraded string
	}
	auth := "Authorization: Digest username=\"x\""
	asks := line{"101", "REGISTER", "401 Unauthorized", []string{"WWW-Authenticate: Digest realm=\"x\", nonce=\"1\""}, ""}
	for _, tt := range []struct {
		name  string
		lines []line
	}{
		{"Asterisk with support_path", []line{
			asks, {"101", "REGISTER+", "200 OK", []string{"Supported: path", "Path: " + path}, ""},
		}},
		{"an aor without it, until it is mended", []line{
			asks, {"101", "REGISTER+", "200 OK", nil, past},
			{"101", "REGISTER+", "200 OK", []string{"Path: " + path}, ""},
		}},
		{"one of several aors", []line{
			{"102", "REGISTER+", "200 OK", []string{"Path: " + path}, ""},
			{"101", "REGISTER+", "200 OK", nil, "101@pbx.example"},
			{"102", "REGISTER+", "200 OK", []string{"Path: " + path}, past},
			{"101", "REGISTER+", "200 OK", []string{"k: timer,Path"}, ""},
		}},
		{"FreeSWITCH stores Path and does not return it", []line{
			asks, {"101", "REGISTER+", "200 OK", []string{"Supported: timer, path, replaces"}, ""},
		}},
		{"who keeps silent and calls along it", []line{
			{"101", "REGISTER+", "200 OK", []string{"Supported: timer"}, past},
			{"101", "NOTIFY along Path", "", nil, ""},
			{"101", "REGISTER+", "200 OK", nil, ""},
		}},
		{"some call along it, others not", []line{
			{"101", "REGISTER+", "200 OK", []string{"Path: " + path}, ""},
			{"101", "NOTIFY along Path", "", nil, ""},
			{"102", "REGISTER+", "200 OK", nil, past},
			{"101", "NOTIFY along Path", "", nil, past},
		}},
		{"who unregisters, or asks, has no Path to get back", []line{
			{"101", "REGISTER+ Expires: 0", "200 OK", nil, ""},
			{"101", "REGISTER+ Contact: *", "200 OK", nil, ""},
			{"101", "REGISTER+ Contact: <sip:101@192.0.2.101:5062>;Expires=0", "200 OK", nil, ""},
			{"101", "REGISTER+ no Contact", "200 OK", nil, ""},
		}},
		{"a REGISTER that is refused says nothing of Path", []line{
			asks, {"101", "REGISTER+", "403 Forbidden", nil, ""}, {"101", "REGISTER+", "423 Interval Too Brief", nil, ""},
		}},
		{"no phone is asked for its password", []line{
			{"101", "REGISTER", "404 Not Found", nil, trunk},
			{"101", "REGISTER", "404 Not Found", nil, trunk},
			asks,
		}},
		{"one that is known", []line{
			asks, {"103", "REGISTER", "404 Not Found", nil, ""}, {"103", "REGISTER+", "404 Not Found", nil, ""},
		}},
		{"a wrong user with a password", []line{{"103", "REGISTER+", "404 Not Found", nil, ""}}},
		{"phones register, and their calls are the trunk's", []line{
			asks, {"101", "REGISTER+", "200 OK", []string{"Path: " + path}, ""},
			{"101", "INVITE", "404 Not Found", nil, trunk},
			{"101", "INVITE", "401 Unauthorized", nil, ""},
			{"101", "INVITE+", "404 Not Found", nil, ""}, // a wrong number
			{"101", "INVITE", "404 Not Found", nil, trunk},
			{"101", "INVITE", "407 Proxy Authentication Required", nil, ""},
		}},
		{"one that takes calls without a password", []line{
			asks, {"101", "REGISTER+", "200 OK", []string{"Path: " + path}, ""},
			{"101", "INVITE", "200 OK", nil, ""},
			{"101", "INVITE", "404 Not Found", nil, ""},
		}},
		{"a stranger's wrong number", []line{
			{"101", "INVITE", "401 Unauthorized", nil, ""}, {"101", "INVITE", "404 Not Found", nil, ""},
		}},
		{"a stranger's call is taken", []line{
			{"102", "REGISTER elsewhere", "401 Unauthorized", nil, ""},
			{"101", "INVITE", "200 OK", nil, "which is no [[trunk]]"},
			{"101", "INVITE", "200 OK", nil, "which is no [[trunk]]"},
		}},
		{"a stranger's call that is busy", []line{asks, {"101", "INVITE", "486 Busy Here", nil, "which is no [[trunk]]"}}},
		{"a stranger's call that is declined", []line{asks, {"101", "INVITE", "603 Decline", nil, "which is no [[trunk]]"}}},
		{"a stranger's call that leads nowhere", []line{asks, {"101", "INVITE", "480 Temporarily Unavailable", nil, ""}, {"101", "INVITE", "403 Forbidden", nil, ""}}},
		{"of who registers meanwhile", []line{
			asks, {"101", "INVITE", "200 OK", nil, "which is no [[trunk]]"},
			{"101", "REGISTER+", "200 OK", []string{"Path: " + path}, "which is no [[trunk]]"},
			{"101", "INVITE", "200 OK", nil, ""},
			{"101", "INVITE", "200 OK", nil, ""},
		}},
		{"one that asks nobody for a password", []line{
			{"101", "INVITE", "200 OK", nil, ""}, {"101", "REGISTER", "200 OK", []string{"Path: " + path}, ""}, {"101", "INVITE", "200 OK", nil, ""},
		}},
		{"one that asks who calls, too", []line{
			asks, {"101", "INVITE", "401 Unauthorized", nil, ""}, {"101", "INVITE+", "200 OK", nil, ""},
		}},
		{"a MESSAGE to nobody", []line{
			{"101", "REGISTER+", "200 OK", []string{"Path: " + path}, ""}, {"101", "MESSAGE", "404 Not Found", nil, ""},
		}},
	} {
		for _, tcp := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/tcp=%v", tt.name, tcp), func(t *testing.T) {
				runScenario(t, func(s *testbed) {
					var route string
					for i, l := range tt.lines {
						what := fmt.Sprintf("line %d", i)
						request, rest, _ := strings.Cut(l.request, " ")
						method, authorized := strings.CutSuffix(request, "+")
						fields := []string{"To: <sip:" + l.who + "@pbx.example>"}
						if authorized {
							fields = append(fields, auth)
						}
						if strings.Contains(rest, ": ") && method == "REGISTER" {
							fields = append(fields, rest)
						}
						if method == "NOTIFY" {
							s.pbx.send(s.pbx.newRequest("NOTIFY", "sip:101@192.0.2.101:5062", "Route: "+route))
							s.phone.respond(s.phone.expect(what, "NOTIFY"), "200 OK")
							s.pbx.expect(what, "SIP/2.0 200")
						} else {
							sent := s.phone.newRequest(method, "sip:102@pbx.example", fields...)
							if rest == "no Contact" {
								sent = sent.replaced("Contact: "+s.phone.contact()+"\r\n", "")
							}
							s.phone.send(sent)
							got := s.pbx.expect(what, method)
							if got.fieldValue("Path") != "" {
								route = got.fieldValue("Path")
							}
							var answer []string
							for _, f := range l.fields {
								answer = append(answer, strings.Replace(f, path, got.fieldValue("Path"), 1))
							}
							s.pbx.respond(got, l.answer, answer...)
							back := s.phone.expect(what, "SIP/2.0 "+l.answer[:3])
							if method == "INVITE" && l.answer[0] > '2' {
								s.pbx.expect(what, "ACK")
								s.phone.sendACK(sent, back)
							}
						}
						why := s.proxy.Degraded()
						if l.degraded == "" && len(why) > 0 || l.degraded != "" && (len(why) != 1 || !strings.Contains(why[0], l.degraded)) {
							t.Errorf("%s: degraded is %q, want %q", what, why, l.degraded)
						}
					}
				}, func(c *sip.Config) {
					if tcp {
						c.PBX[0].Proto = sip.TCP
					}
				}, oneWorker)
			})
		}
	}
}

// A call that only rings is reported too: the PBX has accepted it.
func TestRingingCallOfAStrangerIsReported(t *testing.T) {
	runScenario(t, func(s *testbed) {
		s.phone.send(s.phone.newRequest("REGISTER", "sip:pbx.example"))
		s.pbx.respond(s.pbx.expect("sent on", "REGISTER"), "401 Unauthorized")
		s.phone.expect("answer", "SIP/2.0 401")
		invite, got := s.sendInvite()
		s.pbx.respond(got, "100 Trying")
		assertEqual(t, "at 100", strings.Join(s.proxy.Degraded(), "|"), "")
		s.pbx.respond(got, "180 Ringing")
		s.phone.expect("ringing", "SIP/2.0 180")
		if why := strings.Join(s.proxy.Degraded(), "|"); !strings.Contains(why, "took a call of 192.0.2.101") {
			t.Errorf("degraded is %q", why)
		}
		s.pbx.respond(got, "487 Request Terminated")
		s.pbx.expect("acknowledged", "ACK")
		s.phone.sendACK(invite, s.phone.expect("the end", "SIP/2.0 487"))
	})
}

// In the modes without our Path, a PBX that returns no Path is not reported.
func TestOnlyAPathOfOursCanBeIgnored(t *testing.T) {
	for _, mode := range []sip.Register{sip.RegisterContact, sip.RegisterNone} {
		runScenario(t, func(s *testbed) {
			s.registerPhone()
			assertEqual(t, string(mode), strings.Join(s.proxy.Degraded(), "|"), "")
		}, withRegister(mode))
	}
	runScenario(t, func(s *testbed) { // a 404 to a trunk means a wrong number
		trunk := s.addUDPPeer(netip.MustParseAddrPort("198.51.100.9:5060"))
		invite := trunk.newInvite()
		trunk.send(trunk.newRequest("REGISTER", "sip:pbx.example"))
		s.pbx.respond(s.pbx.expect("sent on", "REGISTER"), "404 Not Found")
		trunk.expect("answer", "SIP/2.0 404")
		trunk.send(invite)
		s.pbx.respond(s.pbx.expect("sent on", "INVITE"), "404 Not Found")
		trunk.sendACK(invite, trunk.expect("answer", "SIP/2.0 404"))
		assertEqual(t, "a trunk", strings.Join(s.proxy.Degraded(), "|"), "")
	}, func(c *sip.Config) {
		c.Trunks = []sip.Trunk{{Name: "carrier", Sources: parsePrefixes("198.51.100.9/32")}}
	})
}

// Of two PBXs, only the one that ignores Path is reported.
func TestEachPBXHasItsOwnDiagnosis(t *testing.T) {
	secondAt := netip.MustParseAddrPort("192.0.2.12:5060")
	runScenario(t, func(s *testbed) {
		second := s.allPBXs[1]
		s.pbx.respond(s.pbx.expect("a probe", "OPTIONS"), "200 OK")
		second.respond(second.expect("a probe", "OPTIONS"), "200 OK")
		s.phone.send(s.phone.newRequest("REGISTER", "sip:pbx.example"))
		got := s.pbx.expect("to the first", "REGISTER")
		s.pbx.respond(got, "200 OK", "Path: "+got.fieldValue("Path"))
		s.phone.expect("answer", "SIP/2.0 200")
		s.advance(5 * time.Second)
		second.respond(second.expect("a probe", "OPTIONS"), "200 OK")
		s.pbx.respond(s.pbx.expect("a probe", "OPTIONS"), "503 Service Unavailable")
		s.phone.send(s.phone.newRequest("REGISTER", "sip:pbx.example"))
		second.respond(second.expect("to the second", "REGISTER"), "200 OK")
		s.phone.expect("answer", "SIP/2.0 200")
		if why := s.proxy.Degraded(); len(why) != 1 || !strings.HasPrefix(why[0], "PBX udp://192.0.2.12:5060 ignores Path") {
			t.Errorf("degraded is %q", why)
		}
	}, func(c *sip.Config) {
		c.PBX = append(c.PBX, sip.Addr{Proto: sip.UDP, AddrPort: secondAt})
	})
}

// The PBX has replaced the Contact by our address and lost our Path.
func TestPBXThatLosesBindingsIsReported(t *testing.T) {
	for _, mode := range []sip.Register{sip.RegisterPath, sip.RegisterContact, sip.RegisterNone} {
		runScenario(t, func(s *testbed) {
			s.pbx.send(s.pbx.newRequest("MESSAGE", "sip:101@192.0.2.1:5060")) // FreeSWITCH sends back a MESSAGE to an unknown user
			s.pbx.expect("it names no phone", "SIP/2.0 404")
			assertEqual(t, string(mode), strings.Join(s.proxy.Degraded(), "|"), "")
			invite := s.pbx.newRequest("INVITE", "sip:101@192.0.2.1:5060;fs_nat=yes")
			s.pbx.send(invite)
			s.pbx.sendACK(invite, s.pbx.expect("it names no phone", "SIP/2.0 404"))
			if why := strings.Join(s.proxy.Degraded(), "|"); strings.Contains(why, "calls sip:101@192.0.2.1:5060;fs_nat=yes, which is bellhop itself") != (mode != sip.RegisterNone) {
				t.Errorf("%s: degraded is %q", mode, why)
			}
		}, withRegister(mode))
	}
}

// A request from another port of the PBX counts as a phone's, unless pbx_sources names
// the address.
func TestRequestsFromAnotherPBXPortAreReported(t *testing.T) {
	external := netip.MustParseAddrPort("192.0.2.2:5080")
	for _, tt := range []struct {
		name   string
		status string // that the PBX answers its own request with; "": we refuse it
		lines  []string
		phone  bool // a phone has registered from that address
		want   bool
	}{
		{"a Route to a carrier", "", []string{"Route: <sip:198.51.100.9;lr>"}, false, true},
		{"sent back to the PBX: 403", "403 Forbidden", nil, false, true},
		{"sent back to the PBX: 404", "404 Not Found", nil, false, true},
		{"sent back to the PBX: 482", "482 Request Merged", nil, false, true},
		{"a phone's wrong number", "404 Not Found", nil, true, false},
		{"a phone's wrong password", "403 Forbidden", nil, true, false},
		{"a phone's busy", "486 Busy Here", nil, true, false},
		{"a phone's challenge", "401 Unauthorized", nil, false, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			runScenario(t, func(s *testbed) {
				own := s.addUDPPeer(external)
				if tt.phone {
					own.send(own.newRequest("REGISTER", "sip:pbx.example"))
					got := s.pbx.expect("sent on", "REGISTER")
					s.pbx.respond(got, "200 OK", "Path: "+got.fieldValue("Path"))
					own.expect("answer", "SIP/2.0 200")
				}
				invite := own.newRequest("INVITE", "sip:5559999@198.51.100.9", tt.lines...)
				own.send(invite)
				if tt.status == "" {
					own.expect("refused", "SIP/2.0 403")
				} else {
					s.pbx.respond(s.pbx.expect("as a phone's", "INVITE"), tt.status)
					s.pbx.expect("acknowledged", "ACK")
					own.sendACK(invite, own.expect("answer", "SIP/2.0 "+tt.status[:3]))
				}
				why := strings.Join(s.proxy.Degraded(), "|")
				if got := strings.Contains(why, "192.0.2.2:5080") && strings.Contains(why, `sip.pbx_sources = ["192.0.2.2"]`); got != tt.want || !tt.want && why != "" {
					t.Errorf("degraded is %q", why)
				}
				s.advance(24 * time.Hour)
				assertEqual(t, "a day later", strings.Join(s.proxy.Degraded(), "|"), "")
			})
		})
	}
	runScenario(t, func(s *testbed) { // with the remedy in place
		own := s.addUDPPeer(external)
		carrier := s.addUDPPeer(netip.MustParseAddrPort("198.51.100.9:5060"))
		own.send(own.newRequest("MESSAGE", "sip:5559999@198.51.100.9", "Route: <sip:198.51.100.9;lr>"))
		carrier.respond(carrier.expect("goes out", "MESSAGE"), "200 OK")
		own.expect("answer", "SIP/2.0 200")
		assertEqual(t, "degraded", strings.Join(s.proxy.Degraded(), "|"), "")
	}, func(c *sip.Config) { c.PBXSources = parsePrefixes("192.0.2.2") })
	runScenario(t, func(s *testbed) { // on bellhop's own machine, a 403 of the PBX is no sign
		phone := s.addUDPPeer(netip.MustParseAddrPort("192.0.2.1:40000"))
		phone.send(phone.newRequest("MESSAGE", "sip:102@pbx.example"))
		s.pbx.respond(s.pbx.expect("sent on", "MESSAGE"), "403 Forbidden")
		phone.expect("answer", "SIP/2.0 403")
		assertEqual(t, "degraded", strings.Join(s.proxy.Degraded(), "|"), "")
		phone.send(phone.newRequest("MESSAGE", "sip:5559999@198.51.100.9", "Route: <sip:198.51.100.9;lr>"))
		phone.expect("but no phone has such a Route", "SIP/2.0 403")
		if why := s.proxy.Degraded(); len(why) != 1 || !strings.Contains(why[0], "192.0.2.1:40000") {
			t.Errorf("degraded is %q", why)
		}
	}, func(c *sip.Config) {
		c.PBX = []sip.Addr{{Proto: sip.UDP, AddrPort: netip.MustParseAddrPort("192.0.2.1:5070")}}
	})
	runScenario(t, func(s *testbed) { // a stranger causes no finding
		s.phone.send(s.phone.newRequest("MESSAGE", "sip:5559999@198.51.100.9", "Route: <sip:198.51.100.9;lr>"))
		s.phone.expect("refused", "SIP/2.0 403")
		assertEqual(t, "degraded", strings.Join(s.proxy.Degraded(), "|"), "")
	})
}

// The PBX accepts calls of phones that registered with an earlier process, or long ago:
// they are no strangers.
func TestPBXThatChallengesNoCallerIsNotReported(t *testing.T) {
	register := func(s *testbed, phone *peer) {
		t.Helper()
		phone.send(phone.newRequest("REGISTER", "sip:pbx.example"))
		s.pbx.respond(s.pbx.expect("sent on", "REGISTER"), "401 Unauthorized", "WWW-Authenticate: Digest realm=\"x\", nonce=\"1\"")
		phone.expect("challenge", "SIP/2.0 401")
		phone.send(phone.newRequest("REGISTER", "sip:pbx.example", "Authorization: Digest username=\"x\""))
		got := s.pbx.expect("sent on", "REGISTER")
		s.pbx.respond(got, "200 OK", "Path: "+got.fieldValue("Path"))
		phone.expect("answer", "SIP/2.0 200")
	}
	call := func(s *testbed, phone *peer) {
		t.Helper()
		phone.send(phone.newInvite())
		s.pbx.respond(s.pbx.expect("sent on", "INVITE"), "200 OK")
		phone.expect("answer", "SIP/2.0 200")
	}
	runScenario(t, func(s *testbed) {
		other := s.addUDPPeer(otherAt)
		register(s, s.phone)
		call(s, other) // which registered with an earlier process
		if why := strings.Join(s.proxy.Degraded(), "|"); !strings.Contains(why, "took a call of 192.0.2.102") {
			t.Errorf("degraded is %q", why)
		}
		call(s, s.phone)
		assertEqual(t, "a phone is not asked either", strings.Join(s.proxy.Degraded(), "|"), "")
		call(s, other)
		assertEqual(t, "nor is the other", strings.Join(s.proxy.Degraded(), "|"), "")
	})
	runScenario(t, func(s *testbed) {
		register(s, s.phone)
		s.advance(23 * time.Hour)
		call(s, s.phone)
		assertEqual(t, "nearly a day later", strings.Join(s.proxy.Degraded(), "|"), "")
	})
}

// A request with the Path of a registration is not a phone's, unless the Path is of the
// phone's own registration.
func TestAnotherPortOnBellhopsMachineIsReported(t *testing.T) {
	for _, own := range []bool{false, true} {
		runScenario(t, func(s *testbed) {
			phone := s.addUDPPeer(netip.MustParseAddrPort("192.0.2.1:40000"))
			phone.send(phone.newRequest("REGISTER", "sip:pbx.example"))
			got := s.pbx.expect("sent on", "REGISTER")
			s.pbx.respond(got, "200 OK", "Path: "+got.fieldValue("Path"))
			phone.expect("answer", "SIP/2.0 200")
			from := phone
			if !own {
				from = s.addUDPPeer(netip.MustParseAddrPort("192.0.2.1:5080"))
			}
			from.send(from.newRequest("NOTIFY", "sip:101@192.0.2.1:40000", "Route: "+got.fieldValue("Path")))
			s.pbx.respond(s.pbx.expect("as a phone's", "NOTIFY"), "481 Subscription Does Not Exist")
			from.expect("answer", "SIP/2.0 481")
			why := strings.Join(s.proxy.Degraded(), "|")
			if named := strings.Contains(why, "from 192.0.2.1:5080 are taken for a phone's") && strings.Contains(why, "127.0.0.2"); named == own || own && why != "" {
				t.Errorf("along the sender's own Path %v: degraded is %q", own, why)
			}
		}, func(c *sip.Config) {
			c.PBX = []sip.Addr{{Proto: sip.UDP, AddrPort: netip.MustParseAddrPort("192.0.2.1:5070")}}
		})
	}
}

// Over TCP the PBX is recognized by its address alone. A phone on bellhop's own machine
// has the same address.
func TestPhoneTakenForAPBXIsReported(t *testing.T) {
	for _, at := range []string{"192.0.2.1", "192.0.2.2"} {
		for _, uri := range []string{"sip:pbx.example", "sip:192.0.2.1"} {
			runScenario(t, func(s *testbed) {
				phone := s.dialTCPPeer(netip.MustParseAddr(at))
				phone.send(phone.newRequest("REGISTER", uri))
				s.advance(time.Second)
				got := phone.expect("leads nowhere", "SIP/2.0 ")
				why := strings.Join(s.proxy.Degraded(), "|")
				want := at == proxyAt.Addr().String()
				if strings.Contains(why, "a REGISTER from 192.0.2.1 is refused") != want || !want && why != "" || strings.HasPrefix(string(got), "SIP/2.0 200") {
					t.Errorf("PBX at %s, REGISTER %s: %.30q, degraded is %q", at, uri, got, why)
				}
			}, func(c *sip.Config) {
				c.PBX = []sip.Addr{{Proto: sip.TCP, AddrPort: netip.AddrPortFrom(netip.MustParseAddr(at), 5070)}}
			}, oneWorker)
		}
	}
}
