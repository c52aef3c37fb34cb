package sip_test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"bellhop/sip"
)

// A play of registrations and calls; each line is what a phone sends, and what the PBX
// answers. degraded is what the hop then says, by a word of it; "" is nothing.
func TestAMisconfiguredPBXIsNoticed(t *testing.T) {
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
				play(t, func(s *scene) {
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
							s.pbx.sends(s.pbx.request("NOTIFY", "sip:101@192.0.2.101:5062", "Route: "+route))
							s.phone.replies(s.phone.gets(what, "NOTIFY"), "200 OK")
							s.pbx.gets(what, "SIP/2.0 200")
						} else {
							sent := s.phone.request(method, "sip:102@pbx.example", fields...)
							if rest == "no Contact" {
								sent = sent.with("Contact: "+s.phone.contact()+"\r\n", "")
							}
							s.phone.sends(sent)
							got := s.pbx.gets(what, method)
							if got.one("Path") != "" {
								route = got.one("Path")
							}
							var answer []string
							for _, f := range l.fields {
								answer = append(answer, strings.Replace(f, path, got.one("Path"), 1))
							}
							s.pbx.replies(got, l.answer, answer...)
							back := s.phone.gets(what, "SIP/2.0 "+l.answer[:3])
							if method == "INVITE" && l.answer[0] > '2' {
								s.pbx.gets(what, "ACK")
								s.phone.acks(sent, back)
							}
						}
						why := s.hop.Degraded()
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

// TestAStrangersCallThatRings: nobody has to answer it.
func TestAStrangersCallThatRings(t *testing.T) {
	play(t, func(s *scene) {
		s.phone.sends(s.phone.request("REGISTER", "sip:pbx.example"))
		s.pbx.replies(s.pbx.gets("sent on", "REGISTER"), "401 Unauthorized")
		s.phone.gets("answer", "SIP/2.0 401")
		invite, got := s.invited()
		s.pbx.replies(got, "100 Trying")
		equal(t, "at 100", strings.Join(s.hop.Degraded(), "|"), "")
		s.pbx.replies(got, "180 Ringing")
		s.phone.gets("ringing", "SIP/2.0 180")
		if why := strings.Join(s.hop.Degraded(), "|"); !strings.Contains(why, "took a call of 192.0.2.101") {
			t.Errorf("degraded is %q", why)
		}
		s.pbx.replies(got, "487 Request Terminated")
		s.pbx.gets("acknowledged", "ACK")
		s.phone.acks(invite, s.phone.gets("the end", "SIP/2.0 487"))
	})
}

// TestOnlyAPathOfOursCanBeIgnored: in other modes a PBX owes none.
func TestOnlyAPathOfOursCanBeIgnored(t *testing.T) {
	for _, mode := range []sip.Register{sip.RegisterContact, sip.RegisterNone} {
		play(t, func(s *scene) {
			s.registered()
			equal(t, string(mode), strings.Join(s.hop.Degraded(), "|"), "")
		}, register(mode))
	}
	play(t, func(s *scene) { // a trunk's 404 is a number that nobody has
		trunk := s.udp(netip.MustParseAddrPort("198.51.100.9:5060"))
		invite := trunk.invite()
		trunk.sends(trunk.request("REGISTER", "sip:pbx.example"))
		s.pbx.replies(s.pbx.gets("sent on", "REGISTER"), "404 Not Found")
		trunk.gets("answer", "SIP/2.0 404")
		trunk.sends(invite)
		s.pbx.replies(s.pbx.gets("sent on", "INVITE"), "404 Not Found")
		trunk.acks(invite, trunk.gets("answer", "SIP/2.0 404"))
		equal(t, "a trunk", strings.Join(s.hop.Degraded(), "|"), "")
	}, func(c *sip.Config) {
		c.Trunks = []sip.Trunk{{Name: "carrier", Sources: prefixes("198.51.100.9/32")}}
	})
}

// TestEachPBXHasItsOwnDiagnosis: of two, one ignores Path.
func TestEachPBXHasItsOwnDiagnosis(t *testing.T) {
	secondAt := netip.MustParseAddrPort("192.0.2.12:5060")
	play(t, func(s *scene) {
		second := s.pbxs[1]
		s.pbx.replies(s.pbx.gets("a probe", "OPTIONS"), "200 OK")
		second.replies(second.gets("a probe", "OPTIONS"), "200 OK")
		s.phone.sends(s.phone.request("REGISTER", "sip:pbx.example"))
		got := s.pbx.gets("to the first", "REGISTER")
		s.pbx.replies(got, "200 OK", "Path: "+got.one("Path"))
		s.phone.gets("answer", "SIP/2.0 200")
		s.after(10 * time.Second)
		second.replies(second.gets("a probe", "OPTIONS"), "200 OK")
		s.pbx.replies(s.pbx.gets("a probe", "OPTIONS"), "503 Service Unavailable")
		s.phone.sends(s.phone.request("REGISTER", "sip:pbx.example"))
		second.replies(second.gets("to the second", "REGISTER"), "200 OK")
		s.phone.gets("answer", "SIP/2.0 200")
		if why := s.hop.Degraded(); len(why) != 1 || !strings.HasPrefix(why[0], "PBX udp://192.0.2.12:5060 ignores Path") {
			t.Errorf("degraded is %q", why)
		}
	}, func(c *sip.Config) {
		c.PBX = append(c.PBX, sip.Addr{Proto: sip.UDP, AddrPort: secondAt})
	})
}

// TestAPBXThatLosesBindings: it has replaced the Contact, and has no Path.
func TestAPBXThatLosesBindings(t *testing.T) {
	for _, mode := range []sip.Register{sip.RegisterPath, sip.RegisterContact, sip.RegisterNone} {
		play(t, func(s *scene) {
			s.pbx.sends(s.pbx.request("MESSAGE", "sip:101@192.0.2.1:5060")) // FreeSWITCH sends back one for nobody
			s.pbx.gets("it names no phone", "SIP/2.0 404")
			equal(t, string(mode), strings.Join(s.hop.Degraded(), "|"), "")
			invite := s.pbx.request("INVITE", "sip:101@192.0.2.1:5060;fs_nat=yes")
			s.pbx.sends(invite)
			s.pbx.acks(invite, s.pbx.gets("it names no phone", "SIP/2.0 404"))
			if why := strings.Join(s.hop.Degraded(), "|"); strings.Contains(why, "calls sip:101@192.0.2.1:5060;fs_nat=yes, which is bellhop itself") != (mode != sip.RegisterNone) {
				t.Errorf("%s: degraded is %q", mode, why)
			}
		}, register(mode))
	}
}

// TestAnotherPortOfThePBXIsNamed: what comes from there counts as a phone's, until the
// configuration says otherwise.
func TestAnotherPortOfThePBXIsNamed(t *testing.T) {
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
			play(t, func(s *scene) {
				own := s.udp(external)
				if tt.phone {
					own.sends(own.request("REGISTER", "sip:pbx.example"))
					got := s.pbx.gets("sent on", "REGISTER")
					s.pbx.replies(got, "200 OK", "Path: "+got.one("Path"))
					own.gets("answer", "SIP/2.0 200")
				}
				invite := own.request("INVITE", "sip:5559999@198.51.100.9", tt.lines...)
				own.sends(invite)
				if tt.status == "" {
					own.gets("refused", "SIP/2.0 403")
				} else {
					s.pbx.replies(s.pbx.gets("as a phone's", "INVITE"), tt.status)
					s.pbx.gets("acknowledged", "ACK")
					own.acks(invite, own.gets("answer", "SIP/2.0 "+tt.status[:3]))
				}
				why := strings.Join(s.hop.Degraded(), "|")
				if got := strings.Contains(why, "192.0.2.2:5080") && strings.Contains(why, `sip.pbx_sources = ["192.0.2.2"]`); got != tt.want || !tt.want && why != "" {
					t.Errorf("degraded is %q", why)
				}
				s.after(24 * time.Hour)
				equal(t, "a day later", strings.Join(s.hop.Degraded(), "|"), "")
			})
		})
	}
	play(t, func(s *scene) { // as told
		own := s.udp(external)
		carrier := s.udp(netip.MustParseAddrPort("198.51.100.9:5060"))
		own.sends(own.request("MESSAGE", "sip:5559999@198.51.100.9", "Route: <sip:198.51.100.9;lr>"))
		carrier.replies(carrier.gets("goes out", "MESSAGE"), "200 OK")
		own.gets("answer", "SIP/2.0 200")
		equal(t, "degraded", strings.Join(s.hop.Degraded(), "|"), "")
	}, func(c *sip.Config) { c.PBXSources = prefixes("192.0.2.2") })
	play(t, func(s *scene) { // on bellhop's own machine anybody may be refused by the PBX
		phone := s.udp(netip.MustParseAddrPort("192.0.2.1:40000"))
		phone.sends(phone.request("MESSAGE", "sip:102@pbx.example"))
		s.pbx.replies(s.pbx.gets("sent on", "MESSAGE"), "403 Forbidden")
		phone.gets("answer", "SIP/2.0 403")
		equal(t, "degraded", strings.Join(s.hop.Degraded(), "|"), "")
		phone.sends(phone.request("MESSAGE", "sip:5559999@198.51.100.9", "Route: <sip:198.51.100.9;lr>"))
		phone.gets("but no phone has such a Route", "SIP/2.0 403")
		if why := s.hop.Degraded(); len(why) != 1 || !strings.Contains(why[0], "192.0.2.1:40000") {
			t.Errorf("degraded is %q", why)
		}
	}, func(c *sip.Config) {
		c.PBX = []sip.Addr{{Proto: sip.UDP, AddrPort: netip.MustParseAddrPort("192.0.2.1:5070")}}
	})
	play(t, func(s *scene) { // a stranger names nobody
		s.phone.sends(s.phone.request("MESSAGE", "sip:5559999@198.51.100.9", "Route: <sip:198.51.100.9;lr>"))
		s.phone.gets("refused", "SIP/2.0 403")
		equal(t, "degraded", strings.Join(s.hop.Degraded(), "|"), "")
	})
}

// TestAPBXThatAsksNoCallerForAPassword takes the calls of phones that registered with an
// earlier process, or long ago: they are no strangers.
func TestAPBXThatAsksNoCallerForAPassword(t *testing.T) {
	register := func(s *scene, phone *peer) {
		t.Helper()
		phone.sends(phone.request("REGISTER", "sip:pbx.example"))
		s.pbx.replies(s.pbx.gets("sent on", "REGISTER"), "401 Unauthorized", "WWW-Authenticate: Digest realm=\"x\", nonce=\"1\"")
		phone.gets("challenge", "SIP/2.0 401")
		phone.sends(phone.request("REGISTER", "sip:pbx.example", "Authorization: Digest username=\"x\""))
		got := s.pbx.gets("sent on", "REGISTER")
		s.pbx.replies(got, "200 OK", "Path: "+got.one("Path"))
		phone.gets("answer", "SIP/2.0 200")
	}
	call := func(s *scene, phone *peer) {
		t.Helper()
		phone.sends(phone.invite())
		s.pbx.replies(s.pbx.gets("sent on", "INVITE"), "200 OK")
		phone.gets("answer", "SIP/2.0 200")
	}
	play(t, func(s *scene) {
		other := s.udp(otherAt)
		register(s, s.phone)
		call(s, other) // which registered with an earlier process
		if why := strings.Join(s.hop.Degraded(), "|"); !strings.Contains(why, "took a call of 192.0.2.102") {
			t.Errorf("degraded is %q", why)
		}
		call(s, s.phone)
		equal(t, "a phone is not asked either", strings.Join(s.hop.Degraded(), "|"), "")
		call(s, other)
		equal(t, "nor is the other", strings.Join(s.hop.Degraded(), "|"), "")
	})
	play(t, func(s *scene) {
		register(s, s.phone)
		s.after(23 * time.Hour)
		call(s, s.phone)
		equal(t, "nearly a day later", strings.Join(s.hop.Degraded(), "|"), "")
	})
}

// TestAPBXOnBellhopsMachineSendsFromAnotherPort: what has a Path of a registration is no
// phone's, unless it is that of its own.
func TestAPBXOnBellhopsMachineSendsFromAnotherPort(t *testing.T) {
	for _, own := range []bool{false, true} {
		play(t, func(s *scene) {
			phone := s.udp(netip.MustParseAddrPort("192.0.2.1:40000"))
			phone.sends(phone.request("REGISTER", "sip:pbx.example"))
			got := s.pbx.gets("sent on", "REGISTER")
			s.pbx.replies(got, "200 OK", "Path: "+got.one("Path"))
			phone.gets("answer", "SIP/2.0 200")
			from := phone
			if !own {
				from = s.udp(netip.MustParseAddrPort("192.0.2.1:5080"))
			}
			from.sends(from.request("NOTIFY", "sip:101@192.0.2.1:40000", "Route: "+got.one("Path")))
			s.pbx.replies(s.pbx.gets("as a phone's", "NOTIFY"), "481 Subscription Does Not Exist")
			from.gets("answer", "SIP/2.0 481")
			why := strings.Join(s.hop.Degraded(), "|")
			if named := strings.Contains(why, "from 192.0.2.1:5080 are taken for a phone's") && strings.Contains(why, "127.0.0.2"); named == own || own && why != "" {
				t.Errorf("along the sender's own Path %v: degraded is %q", own, why)
			}
		}, func(c *sip.Config) {
			c.PBX = []sip.Addr{{Proto: sip.UDP, AddrPort: netip.MustParseAddrPort("192.0.2.1:5070")}}
		})
	}
}

// TestAPhoneIsTakenForAPBX on bellhop's own machine, where the PBX is known by its address
// alone over TCP.
func TestAPhoneIsTakenForAPBX(t *testing.T) {
	for _, at := range []string{"192.0.2.1", "192.0.2.2"} {
		for _, uri := range []string{"sip:pbx.example", "sip:192.0.2.1"} {
			play(t, func(s *scene) {
				phone := s.tcp(netip.MustParseAddr(at))
				phone.sends(phone.request("REGISTER", uri))
				got := phone.gets("leads nowhere", "SIP/2.0 ")
				why := strings.Join(s.hop.Degraded(), "|")
				want := at == hopAt.Addr().String()
				if strings.Contains(why, "a REGISTER from 192.0.2.1 is refused") != want || !want && why != "" || strings.HasPrefix(string(got), "SIP/2.0 200") {
					t.Errorf("PBX at %s, REGISTER %s: %.30q, degraded is %q", at, uri, got, why)
				}
			}, func(c *sip.Config) {
				c.PBX = []sip.Addr{{Proto: sip.TCP, AddrPort: netip.AddrPortFrom(netip.MustParseAddr(at), 5070)}}
			}, oneWorker)
		}
	}
}
