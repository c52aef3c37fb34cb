package sip_test

import (
	"crypto/tls"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"bellhop/sip"
	"bellhop/sip/resolve/resolvetest"
	"bellhop/sip/siptest"
)

// namedPBX configures the PBX by name.
func namedPBX(server *resolvetest.Server) func(*sip.Config) {
	return func(c *sip.Config) {
		c.PBX = []sip.Addr{{Proto: sip.UDP, Host: "pbx.example"}}
		c.DialNameServer = server.Dial
	}
}

// sendMessage sends a MESSAGE from the phone, which a PBX gets.
func (s *testbed) sendMessage(to *peer, what string) {
	s.t.Helper()
	s.phone.send(s.phone.newRequest("MESSAGE", "sip:102@pbx.example"))
	to.respond(to.get(what, "MESSAGE sip:102@pbx.example"), "200 OK")
	s.phone.expect(what, "SIP/2.0 200")
}

func TestPBXWithAName(t *testing.T) {
	server := resolvetest.NewServer(t, "")
	runScenario(t, func(s *testbed) {
		s.phone.send(s.phone.newRequest("MESSAGE", "sip:102@pbx.example"))
		s.phone.expect("it has no address", "SIP/2.0 500")
		if s.proxy.PBXReachable() || strings.Join(s.proxy.UnresolvedNames(), " ") != "udp://pbx.example" {
			t.Errorf("the PBX is reachable, or unresolved are only %q", s.proxy.UnresolvedNames())
		}
		server.SetZone(t, "_sip._udp.pbx.example. 60 SRV 0 0 5060 a.pbx.example.\na.pbx.example. 60 A 192.0.2.2")
		s.advance(31 * time.Second)
		s.sendMessage(s.pbx, "it has an address")
		if len(s.proxy.UnresolvedNames()) > 0 || !s.proxy.PBXReachable() {
			t.Error("the PBX is not reachable")
		}
		s.phone.send(s.phone.newRequest("MESSAGE", "sip:102@pbx.example", "Route: <sip:pbx.example;lr>"))
		s.pbx.respond(s.pbx.get("its Route", "MESSAGE"), "200 OK")
		s.phone.expect("answer", "SIP/2.0 200")
		s.pbx.send(s.pbx.newRequest("MESSAGE", "sip:101@192.0.2.101:5062"))
		s.phone.respond(s.phone.expect("it is on the PBX side", "MESSAGE"), "200 OK")
		s.pbx.get("answer", "SIP/2.0 200")
	}, namedPBX(server))
}

// A PBX that moves is followed. Its calls stay at the address that knows them.
func TestPBXThatMoves(t *testing.T) {
	server := resolvetest.NewServer(t, "pbx.example. 60 A 192.0.2.2")
	runScenario(t, func(s *testbed) {
		second := s.addUDPPeer(secondAt)
		s.advance(time.Second)
		call := s.phone.setUpCall(s.pbx)
		server.SetZone(t, "pbx.example. 60 A 192.0.2.12")
		s.advance(time.Minute)
		s.sendMessage(second, "it has moved")
		s.phone.send(s.phone.callerRequest(call.ok, "INFO"))
		s.pbx.respond(s.pbx.get("the call is at the old address", "INFO"), "200 OK")
		s.phone.expect("answer", "SIP/2.0 200")
		for _, p := range []*peer{s.pbx, second} {
			p.send(p.newRequest("MESSAGE", "sip:101@192.0.2.101:5062"))
			s.phone.respond(s.phone.expect("old and new are the PBX", "MESSAGE"), "200 OK")
			p.get("answer", "SIP/2.0 200")
		}
		s.advance(time.Hour)
		s.pbx.send(s.pbx.newRequest("MESSAGE", "sip:101@192.0.2.101:5062"))
		second.respond(second.get("the old address is anybody's", "MESSAGE"), "404 Not Found")
		s.pbx.get("answer", "SIP/2.0 404")
		second.send(second.newRequest("MESSAGE", "sip:101@192.0.2.101:5062"))
		s.phone.respond(s.phone.expect("the new one is the PBX", "MESSAGE"), "200 OK")
		second.get("answer", "SIP/2.0 200")
	}, namedPBX(server))
}

// The addresses of a PBX change while phones and PBXs call. No request waits, no call fails, and
// each call ends where it has begun.
func TestPBXMovesUnderCalls(t *testing.T) {
	const (
		toA = "_sip._udp.pbx.example. 60 SRV 10 0 5060 a.pbx.example.\na.pbx.example. 60 A 192.0.2.2\n"
		toB = "_sip._udp.pbx.example. 60 SRV 20 0 5060 b.pbx.example.\nb.pbx.example. 60 A 192.0.2.12\n"
	)
	for _, tt := range []struct{ name, before, after string }{
		{"address", "pbx.example. 60 A 192.0.2.2", "pbx.example. 60 A 192.0.2.12"},
		{"server", toA, toB},
		{"address of the server", toA, strings.Replace(toA, "192.0.2.2", "192.0.2.12", 1)},
		{"server that is left out", toA + toB, toB},
	} {
		t.Run(tt.name, func(t *testing.T) {
			server := resolvetest.NewServer(t, tt.before)
			server.Respond = func(_ string, _ netip.AddrPort, q *dns.Msg) (*dns.Msg, time.Duration) {
				return server.Answer(q), 700 * ms
			}
			runScenario(t, func(s *testbed) {
				s.allPBXs = append(s.allPBXs, s.addUDPPeer(secondAt))
				s.wait(4*time.Second, s.allPBXs...)
				var up []func() // end the calls that are up, in the order in which they have begun
				callers, changed := s.allPBXs[:1], time.Time{}
				for second := range 240 {
					if second == 60 {
						server.SetZone(t, tt.after)
						changed = time.Now()
					}
					s.wait(time.Second, s.allPBXs...)
					start := time.Now()
					invite := s.phone.newInvite()
					s.phone.send(invite)
					got, pbx := s.takeRequest("INVITE")
					pbx.respond(got, "200 OK")
					ok := s.phone.expect("answer", "SIP/2.0 200")
					s.phone.send(s.phone.callerRequest(ok, "ACK"))
					pbx.get("its ACK", "ACK")
					if d := time.Since(start); d > 0 {
						t.Errorf("a call has waited for %v", d)
					}
					if moved := pbx == s.allPBXs[1]; moved && changed.IsZero() || !moved && !changed.IsZero() && time.Since(changed) > 62*time.Second {
						t.Errorf("%d s after the start, a call went to %s", second, pbx.addr)
					} else if moved {
						callers = s.allPBXs
					}
					if second%2 == 0 {
						up = append(up, func() { s.phone.exchange(pbx, "BYE", func(m string) text { return s.phone.callerRequest(ok, m) }) })
					} else {
						up = append(up, func() { pbx.exchange(s.phone, "BYE", func(m string) text { return pbx.calleeRequest(got, m) }) })
					}
					for _, pbx := range callers {
						c := pbx.callPhone()
						if second%2 == 0 {
							up = append(up, func() {
								s.phone.exchange(pbx, "BYE", func(m string) text { return s.phone.calleeRequest(c.invite, m) })
							})
						} else {
							up = append(up, func() { pbx.exchange(s.phone, "BYE", func(m string) text { return pbx.callerRequest(c.ok, m) }) })
						}
					}
					for ; len(up) > 90; up = up[1:] {
						up[0]()
					}
				}
				for _, end := range up {
					end()
				}
				if len(callers) != 2 {
					t.Error("no call went to the new address")
				}
			}, namedPBX(server))
		})
	}
}

// A name leads to a single server from now on. That server has been down or took no calls. As
// the only one it gets them at once, because it may be back.
func TestOnlyServerThatIsLeftGetsCalls(t *testing.T) {
	const second = "_sip._udp.pbx.example. 60 SRV 20 0 5060 b.pbx.example.\nb.pbx.example. 60 A 192.0.2.12\n"
	for _, answer := range []string{"", "503 Shutting Down"} {
		t.Run(answer, func(t *testing.T) {
			server := resolvetest.NewServer(t, second+"_sip._udp.pbx.example. 60 SRV 10 0 5060 a.pbx.example.\na.pbx.example. 60 A 192.0.2.2")
			runScenario(t, func(s *testbed) {
				s.allPBXs = append(s.allPBXs, s.addUDPPeer(secondAt))
				s.waitWith(20*time.Second, s.allPBXs[1], answer)
				server.SetZone(t, second)
				for len(s.proxy.PBXStates()) > 1 {
					s.waitWith(100*ms, s.allPBXs[1], answer)
				}
				if to := s.proxy.PBXStates()[0]; to.State != sip.TargetDown && to.State != sip.TargetDraining {
					t.Errorf("the server is %s", to.State)
				}
				s.sendMessage(s.allPBXs[1], "the only server")
				if !s.proxy.PBXReachable() {
					t.Error("the PBX is not reachable")
				}
			}, namedPBX(server))
		})
	}
}

func TestNameWithoutNameServer(t *testing.T) {
	server := resolvetest.NewServer(t, "pbx.example. 60 A 192.0.2.2")
	runScenario(t, func(s *testbed) {
		s.advance(time.Second)
		s.sendMessage(s.pbx, "resolved")
		server.Lock()
		server.Respond = func(string, netip.AddrPort, *dns.Msg) (*dns.Msg, time.Duration) { return nil, 0 }
		server.Unlock()
		for range 23 {
			s.advance(time.Hour)
			start := time.Now()
			s.sendMessage(s.pbx, "by the last answer")
			if d := time.Since(start); d > 0 {
				t.Fatalf("the DNS delays a request by %v", d)
			}
		}
	}, namedPBX(server))
}

// The servers of one name are several targets.
func TestServersOfANameFailOver(t *testing.T) {
	server := resolvetest.NewServer(t, `_sip._udp.pbx.example. 60 SRV 10 0 5060 a.pbx.example.
		_sip._udp.pbx.example. 60 SRV 20 0 5060 b.pbx.example.
		a.pbx.example. 60 A 192.0.2.2
		b.pbx.example. 60 A 192.0.2.12`)
	runScenario(t, func(s *testbed) {
		s.allPBXs = append(s.allPBXs, s.addUDPPeer(secondAt))
		second := s.allPBXs[1]
		s.wait(time.Second, s.allPBXs...)
		s.phone.send(s.phone.newInvite())
		s.pbx.respond(s.pbx.get("the first", "INVITE"), "503 Service Unavailable")
		s.pbx.get("its ACK", "ACK")
		second.respond(second.get("the second", "INVITE"), "200 OK")
		ok := s.phone.expect("answer", "SIP/2.0 200")
		s.phone.send(s.phone.callerRequest(ok, "ACK"))
		second.get("the ACK", "ACK")
		s.wait(10*time.Second, s.allPBXs...) // the first accepts new calls again
		bye := s.phone.callerRequest(ok, "BYE")
		s.phone.send(bye.replaced("BYE "+bye.requestURI(), "BYE sip:x@pbx.example"))
		second.respond(second.get("within the dialog", "BYE"), "200 OK")
		s.phone.expect("answer", "SIP/2.0 200")
		s.pbx.getNothing("no dialog there")
	}, namedPBX(server))
}

func TestNameThatLeadsToTheProxyIsIgnored(t *testing.T) {
	server := resolvetest.NewServer(t, "pbx.example. 60 A 192.0.2.1\npbx.example. 60 A 192.0.2.2")
	runScenario(t, func(s *testbed) {
		s.advance(time.Second)
		for range 4 {
			s.sendMessage(s.pbx, "never to itself")
		}
		if !strings.Contains(s.log.String(), "address of a name ignored") {
			t.Errorf("the log lacks a warning:\n%s", s.log)
		}
	}, namedPBX(server))
}

// A trunk is known by all addresses of its names, and the PBX's requests to a name go to
// them.
func TestTrunkWithNames(t *testing.T) {
	server := resolvetest.NewServer(t, `_sip._udp.carrier.example. 60 SRV 10 0 5070 a.carrier.example.
		_sip._udp.carrier.example. 60 SRV 20 0 5070 b.carrier.example.
		a.carrier.example. 60 A 198.51.100.1
		b.carrier.example. 60 A 198.51.100.2`)
	runScenario(t, func(s *testbed) {
		s.advance(time.Second)
		a, b := s.addUDPPeer(netip.MustParseAddrPort("198.51.100.1:5070")), s.addUDPPeer(netip.MustParseAddrPort("198.51.100.2:5070"))
		for _, p := range []*peer{a, b} {
			p.send(p.newRequest("MESSAGE", "sip:5551234@pbx.example"))
			got := s.pbx.expect("a trunk's", "MESSAGE")
			assertEqual(t, "mark of the trunk", got.fieldValue("X-Bellhop-Trunk"), "0123456789abcdef")
			s.pbx.respond(got, "200 OK")
			p.expect("answer", "SIP/2.0 200")
		}
		s.pbx.send(s.pbx.newRequest("INVITE", "sip:+1555@carrier.example"))
		a.respond(a.expect("the name stays", "INVITE sip:+1555@carrier.example SIP/2.0"), "503 Service Unavailable")
		a.expect("its ACK", "ACK")
		got := b.expect("the next server", "INVITE sip:+1555@carrier.example SIP/2.0")
		b.respond(got, "200 OK")
		ok := s.pbx.expect("answer", "SIP/2.0 200")
		s.pbx.send(s.pbx.callerRequest(ok, "ACK"))
		b.expect("the ACK", "ACK")
		b.send(b.calleeRequest(got, "BYE"))
		s.pbx.respond(s.pbx.expect("the carrier hangs up", "BYE"), "200 OK")
		b.expect("answer", "SIP/2.0 200")
		s.pbx.send(s.pbx.newRequest("MESSAGE", "sip:+1555@Carrier.example.:5060")) // many PBXs write the default port
		b.respond(b.expect("the same name, while the first rests", "MESSAGE"), "200 OK")
		s.pbx.expect("answer", "SIP/2.0 200")
		s.pbx.send(s.pbx.newRequest("MESSAGE", "sip:+1555@carrier.example:5062"))
		s.pbx.expect("another port", "SIP/2.0 500")
		s.pbx.send(s.pbx.newRequest("INVITE", "sip:+1555@other.example"))
		s.pbx.sendACK(s.pbx.newInvite(), s.pbx.expect("no trunk's name", "SIP/2.0 500"))
	}, func(c *sip.Config) {
		namedPBX(server)(c)
		c.PBX = []sip.Addr{{Proto: sip.UDP, AddrPort: pbxAt}}
		c.Trunks = []sip.Trunk{{Name: "carrier", Secret: "0123456789abcdef", To: []sip.Addr{{Proto: sip.UDP, Host: "carrier.example"}}}}
	})
}

// A PBX that is reached over TLS by its name is verified by that name, which the DNS cannot
// change. Its port comes from the SRV records of sips.
func TestPBXOverTLSIsVerifiedByItsName(t *testing.T) {
	for _, tt := range []struct {
		host, want string
	}{
		{"pbx.example", ""},
		{"host.example", "SIP/2.0 500"}, // the name in the SRV record proves nothing
	} {
		t.Run(tt.host, func(t *testing.T) {
			server := resolvetest.NewServer(t, "_sips._tcp.pbx.example. 60 SRV 0 0 5071 host.example.\nhost.example. 60 A 192.0.2.3")
			b := &tlsBed{}
			var asked string
			runScenario(t, func(s *testbed) {
				certificate := b.ca.IssueTLS(siptest.CertificateRequest{Hosts: []string{tt.host}})
				pbx, _ := s.addTLSListener(netip.MustParseAddrPort("192.0.2.3:5071"), &tls.Config{GetCertificate: func(h *tls.ClientHelloInfo) (*tls.Certificate, error) {
					asked = h.ServerName
					return &certificate, nil
				}})
				s.advance(time.Second)
				phone := s.dialTLSPeer(phoneAt.Addr(), b)
				phone.send(phone.newInvite())
				if tt.want == "" {
					pbx.respond(pbx.expectLast("a call", "INVITE"), "486 Busy Here")
					phone.expectLast("the answer", "SIP/2.0 486")
				} else {
					s.advance(11 * time.Second) // both ends may wait for each other until the handshake times out, and the phone then gets 100 too
					if got := phone.expectLast("the call fails", "SIP/2.0 "); !strings.HasPrefix(string(got), tt.want) {
						t.Errorf("the call ends with %s, want %s", got, tt.want)
					}
				}
				assertEqual(t, "server name that the proxy sends", asked, "pbx.example")
			}, b.listen, namedPBX(server), func(c *sip.Config) {
				c.PBX = []sip.Addr{{Proto: sip.TLS, Host: "pbx.example"}}
				c.PBXTLS = b.newClient("", nil)
			})
		})
	}
}

// Each server of a trunk gets OPTIONS with the name of the trunk. Calls avoid a server that
// does not answer them.
func TestServersOfATrunkAreProbed(t *testing.T) {
	server := resolvetest.NewServer(t, `_sip._udp.carrier.example. 60 SRV 10 0 5070 a.carrier.example.
		_sip._udp.carrier.example. 60 SRV 20 0 5070 b.carrier.example.
		a.carrier.example. 60 A 198.51.100.1
		b.carrier.example. 60 A 198.51.100.2`)
	runScenario(t, func(s *testbed) {
		s.probes = true
		a, b := s.addUDPPeer(netip.MustParseAddrPort("198.51.100.1:5070")), s.addUDPPeer(netip.MustParseAddrPort("198.51.100.2:5070"))
		s.advance(time.Second)
		a.expect("a probe", "OPTIONS sip:carrier.example SIP/2.0")
		b.respond(b.expect("a probe", "OPTIONS sip:carrier.example SIP/2.0"), "200 OK")
		s.advance(20 * time.Second)
		a.discardReceived()
		states := s.proxy.TrunkStates()[0].Targets
		assertEqual(t, "states", fmt.Sprintf("%v %s %q, %v %s %q", states[0].Addr, states[0].State, states[0].Error, states[1].Addr, states[1].State, states[1].Answer),
			`udp://198.51.100.1:5070 down "OPTIONS: no response", udp://198.51.100.2:5070 up "200 OK"`)
		s.pbx.send(s.pbx.newRequest("INVITE", "sip:+1555@carrier.example"))
		b.respond(b.expect("the call", "INVITE"), "486 Busy Here")
		a.expectNone("the server that is down")
	}, namedPBX(server), func(c *sip.Config) {
		c.PBX = []sip.Addr{{Proto: sip.UDP, AddrPort: pbxAt}}
		c.Trunks = []sip.Trunk{{Name: "carrier", Probe: time.Minute, To: []sip.Addr{{Proto: sip.UDP, Host: "carrier.example"}}}}
	})
}

// A listener of the other side reaches no PBX and no trunk, whether they have a name or an
// address.
func TestListenRefusesARemoteThatNoListenerOfItsSideReaches(t *testing.T) {
	carrier := netip.MustParseAddrPort("198.51.100.1:5060")
	for _, tt := range []struct {
		name, want string
		change     func(*sip.Config)
	}{
		{"PBX with an address", "PBX tcp://192.0.2.2:5060", func(c *sip.Config) { c.PBX[0] = sip.Addr{Proto: sip.TCP, AddrPort: pbxAt} }},
		{"PBX with a name", "PBX tcp://pbx.example", func(c *sip.Config) { c.PBX[0] = sip.Addr{Proto: sip.TCP, Host: "pbx.example"} }},
		{"trunk with an address", "trunk udp://198.51.100.1:5060", func(c *sip.Config) {
			c.Trunks = []sip.Trunk{{Name: "carrier", To: []sip.Addr{{Proto: sip.UDP, AddrPort: carrier}}}}
		}},
		{"trunk with a name", "trunk udp://carrier.example", func(c *sip.Config) {
			c.Trunks = []sip.Trunk{{Name: "carrier", To: []sip.Addr{{Proto: sip.UDP, Host: "carrier.example"}}}}
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cfg := sip.Config{
				Listen: []sip.Listener{
					{Addr: sip.Addr{Proto: sip.UDP, AddrPort: proxyAt}, Side: sip.PBXListener},
					{Addr: sip.Addr{Proto: sip.TCP, AddrPort: proxyAt}, Side: sip.EdgeListener},
				},
				PBX: []sip.Addr{{Proto: sip.UDP, AddrPort: pbxAt}},
				Key: key,
				Net: siptest.NewNetwork(),
			}
			tt.change(&cfg)
			if _, err := sip.Listen(cfg); err == nil || !strings.Contains(err.Error(), "no listener can reach "+tt.want+": ") {
				t.Errorf("the error is %v, want one about %s", err, tt.want)
			}
		})
	}
}

// The name of a trunk that is added, or that has another name in the configuration, may be
// in the cache. Then nothing changes in the DNS that would tell the trunk its addresses.
func TestTrunkIsAddedWhoseNameIsKnown(t *testing.T) {
	server := resolvetest.NewServer(t, "carrier.example. 3600 A 198.51.100.1")
	to := []sip.Addr{{Proto: sip.UDP, Host: "carrier.example"}}
	runScenario(t, func(s *testbed) {
		carrier := s.addUDPPeer(netip.MustParseAddrPort("198.51.100.1:5060"))
		s.advance(time.Second)
		for _, name := range []string{"first", "second", "", "third"} {
			trunks := []sip.Trunk{{Name: name, To: to}}
			if name == "" {
				trunks = nil
			}
			if s.proxy.SetTrunks(trunks); name == "" {
				continue
			}
			s.pbx.send(s.pbx.newRequest("MESSAGE", "sip:+1555@carrier.example"))
			carrier.respond(carrier.expect("trunk "+name, "MESSAGE"), "200 OK")
			s.pbx.expect("answer", "SIP/2.0 200")
		}
		if n := server.Questions("A carrier.example"); n != 1 {
			t.Errorf("%d questions, want 1", n)
		}
	}, namedPBX(server), func(c *sip.Config) {
		c.PBX = []sip.Addr{{Proto: sip.UDP, AddrPort: pbxAt}}
		c.Trunks = []sip.Trunk{{Name: "first", To: to}}
	})
}

// The AAAA record of a PBX leads to an address that only a listener of the edge side
// reaches. The PBX has no address until it has an A record.
func TestAddressThatNoListenerOfItsSideReachesIsIgnored(t *testing.T) {
	server := resolvetest.NewServer(t, "pbx.example. 60 AAAA 2001:db8::2")
	runScenario(t, func(s *testbed) {
		s.advance(time.Second)
		if s.proxy.PBXReachable() || strings.Join(s.proxy.UnresolvedNames(), " ") != "udp://pbx.example" {
			t.Errorf("the PBX is reachable, or unresolved are only %q", s.proxy.UnresolvedNames())
		}
		if !strings.Contains(s.log.String(), "no listener reaches it") {
			t.Errorf("the log lacks a warning:\n%s", s.log)
		}
		server.SetZone(t, "pbx.example. 60 AAAA 2001:db8::2\npbx.example. 60 A 192.0.2.2")
		s.advance(time.Minute)
		s.sendMessage(s.pbx, "at its A record")
	}, namedPBX(server), func(c *sip.Config) {
		c.Listen = append(c.Listen, sip.Listener{Addr: sip.Addr{Proto: sip.UDP, AddrPort: proxy6At}, Side: sip.EdgeListener})
	})
}

// A Route names the PBX, not one of its servers. The server that is down is not tried first.
func TestRouteToANameAvoidsTheServerThatIsDown(t *testing.T) {
	server := resolvetest.NewServer(t, `_sip._udp.pbx.example. 600 SRV 10 0 5060 a.pbx.example.
		_sip._udp.pbx.example. 600 SRV 20 0 5060 b.pbx.example.
		a.pbx.example. 600 A 192.0.2.2
		b.pbx.example. 600 A 192.0.2.12`)
	runScenario(t, func(s *testbed) {
		second := s.addUDPPeer(secondAt)
		for range 20 { // the first answers no OPTIONS
			s.advance(time.Second)
			second.getNothing("only OPTIONS")
		}
		s.phone.send(s.phone.newRequest("MESSAGE", "sip:102@pbx.example", "Route: <sip:pbx.example;lr>"))
		second.respond(second.get("at once", "MESSAGE"), "200 OK")
		s.phone.expect("answer", "SIP/2.0 200")
		s.pbx.discardRequests("OPTIONS")
	}, namedPBX(server))
}

// A PBX has moved, and begins calls at its old address still. The phone's BYE goes there,
// even if the Contact of the PBX is a name that bellhop does not know.
func TestCallFromTheOldAddressStaysThere(t *testing.T) {
	for _, contact := range []string{"<sip:192.0.2.2:5060>", "<sip:pbx@lan.example>"} {
		t.Run(contact, func(t *testing.T) {
			server := resolvetest.NewServer(t, "pbx.example. 60 A 192.0.2.2")
			runScenario(t, func(s *testbed) {
				second := s.addUDPPeer(secondAt)
				s.advance(time.Second)
				server.SetZone(t, "pbx.example. 60 A 192.0.2.12")
				s.advance(time.Minute)
				s.pbx.send(s.pbx.newRequest("INVITE", "sip:101@192.0.2.101:5062", "Contact: "+contact))
				invite := s.phone.expect("a call from the old address", "INVITE")
				s.phone.respond(invite, "200 OK")
				s.pbx.send(s.pbx.callerRequest(s.pbx.get("answer", "SIP/2.0 200"), "ACK"))
				s.phone.expect("the ACK", "ACK")
				s.phone.send(s.phone.calleeRequest(invite, "BYE"))
				s.pbx.respond(s.pbx.get("the phone hangs up", "BYE"), "200 OK")
				s.phone.expect("answer", "SIP/2.0 200")
				second.getNothing("it does not know the call")
			}, namedPBX(server))
		})
	}
}

// The calls of a PBX over TLS stay at its old address. The old server is verified by the name
// of the PBX, also when the name has not led to it for more than an hour.
func TestCallStaysAtTheOldAddressOverTLS(t *testing.T) {
	oldAt, newAt := netip.MustParseAddrPort("192.0.2.3:5061"), netip.MustParseAddrPort("192.0.2.12:5061")
	server := resolvetest.NewServer(t, "pbx.example. 60 A 192.0.2.3")
	b := &tlsBed{}
	runScenario(t, func(s *testbed) {
		certificate := b.ca.IssueTLS(siptest.CertificateRequest{Hosts: []string{"pbx.example"}})
		var asked []string
		config := &tls.Config{GetCertificate: func(h *tls.ClientHelloInfo) (*tls.Certificate, error) {
			asked = append(asked, h.ServerName)
			return &certificate, nil
		}}
		old, _ := s.addTLSListener(oldAt, config)
		moved, _ := s.addTLSListener(newAt, config)
		s.advance(time.Second)
		s.phone.send(s.phone.newInvite())
		old.respond(old.get("a call", "INVITE"), "200 OK")
		ok := s.phone.expect("answer", "SIP/2.0 200")
		s.phone.send(s.phone.callerRequest(ok, "ACK"))
		old.get("the ACK", "ACK")
		server.SetZone(t, "pbx.example. 60 A 192.0.2.12")
		s.advance(2 * time.Hour)
		s.sendMessage(moved, "it has moved")
		s.phone.send(s.phone.callerRequest(ok, "BYE"))
		old.respond(old.get("the call is at the old address", "BYE"), "200 OK")
		s.phone.expect("answer", "SIP/2.0 200")
		moved.getNothing("it does not know the call")
		for _, name := range asked {
			assertEqual(t, "server name that the proxy sends", name, "pbx.example")
		}
	}, b.listen, namedPBX(server), func(c *sip.Config) {
		c.PBX = []sip.Addr{{Proto: sip.TLS, Host: "pbx.example"}}
		c.PBXTLS = b.newClient("", nil)
	})
}

// OPTIONS wakes a server of a trunk that rests, as it does with a PBX.
func TestOPTIONSWakesAServerOfATrunk(t *testing.T) {
	first, next := netip.MustParseAddrPort("198.51.100.1:5070"), netip.MustParseAddrPort("198.51.100.2:5070")
	server := resolvetest.NewServer(t, `_sip._udp.carrier.example. 600 SRV 10 0 5070 a.carrier.example.
		_sip._udp.carrier.example. 600 SRV 20 0 5070 b.carrier.example.
		a.carrier.example. 600 A 198.51.100.1
		b.carrier.example. 600 A 198.51.100.2`)
	runScenario(t, func(s *testbed) {
		s.probes = true
		a, b := s.addUDPPeer(first), s.addUDPPeer(next)
		s.wait(time.Second, a, b)
		call := func(to *peer, what string) {
			t.Helper()
			s.pbx.send(s.pbx.newRequest("MESSAGE", "sip:+1555@carrier.example"))
			to.respond(to.get(what, "MESSAGE"), "200 OK")
			s.pbx.expect("answer", "SIP/2.0 200")
		}
		s.pbx.send(s.pbx.newRequest("MESSAGE", "sip:+1555@carrier.example"))
		a.respond(a.get("the first", "MESSAGE"), "503 Service Unavailable")
		b.respond(b.get("the second", "MESSAGE"), "200 OK")
		s.pbx.expect("answer", "SIP/2.0 200")
		call(b, "the first rests")
		s.wait(10*time.Second, a, b)
		call(a, "it has answered OPTIONS")
	}, namedPBX(server), func(c *sip.Config) {
		c.PBX = []sip.Addr{{Proto: sip.UDP, AddrPort: pbxAt}}
		c.Trunks = []sip.Trunk{{Name: "carrier", Probe: 10 * time.Second, To: []sip.Addr{{Proto: sip.UDP, Host: "carrier.example"}}}}
	})
}
