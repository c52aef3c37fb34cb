package sip_test

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/miekg/dns"

	"bellhop/sip"
	"bellhop/sip/resolve/resolvetest"
)

var namedCarrierAt = netip.MustParseAddrPort("198.51.100.1:5060")

// askServer lets the proxy ask a name server, which answers after a time; below 0: never.
func askServer(server *resolvetest.Server, after time.Duration) func(*sip.Config) {
	server.Respond = func(_ string, _ netip.AddrPort, q *dns.Msg) (*dns.Msg, time.Duration) {
		if after < 0 {
			return nil, 0
		}
		return server.Answer(q), after
	}
	return func(c *sip.Config) { c.DialNameServer = server.Dial }
}

// A request of the PBX to a name waits in its transaction while the name is looked up.
func TestRequestWaitsForTheAddressOfAName(t *testing.T) {
	server := resolvetest.NewServer(t, "carrier.example. 60 A 198.51.100.1")
	runScenario(t, func(s *testbed) {
		carrier := s.addUDPPeer(namedCarrierAt)
		invite := s.pbx.newRequest("INVITE", "sip:+1555@carrier.example:5060")
		s.pbx.send(invite)
		s.advance(200 * time.Millisecond)
		s.pbx.expect("while it waits", "SIP/2.0 100")
		s.pbx.send(invite, s.pbx.newRequest("MESSAGE", "sip:+1556@carrier.example:5060"))
		s.pbx.expect("a retransmission", "SIP/2.0 100")
		s.phone.send(s.phone.newRequest("MESSAGE", "sip:102@pbx.example"))
		s.pbx.respond(s.pbx.expect("others do not wait", "MESSAGE"), "200 OK")
		s.phone.expect("answer", "SIP/2.0 200")
		s.advance(350 * time.Millisecond)
		got := carrier.expect("the name is known", "INVITE sip:+1555@carrier.example:5060 SIP/2.0")
		carrier.respond(carrier.expect("the name is known", "MESSAGE sip:+1556@carrier.example:5060 SIP/2.0"), "202 Accepted")
		s.pbx.expect("answer", "SIP/2.0 202")
		carrier.respond(got, "200 OK")
		ok := s.pbx.expect("answer", "SIP/2.0 200")
		s.pbx.send(s.pbx.callerRequest(ok, "ACK"))
		carrier.expect("within the dialog", "ACK")
		carrier.send(carrier.calleeRequest(got, "BYE"))
		s.pbx.respond(s.pbx.expect("within the dialog", "BYE"), "200 OK")
		carrier.expect("answer", "SIP/2.0 200")
		start := time.Now()
		s.pbx.send(s.pbx.newRequest("MESSAGE", "sip:+1557@carrier.example:5060"))
		carrier.respond(carrier.expect("the name is in the cache", "MESSAGE"), "200 OK")
		s.pbx.expect("answer", "SIP/2.0 200")
		if n := server.Questions("A carrier.example"); n != 1 || time.Since(start) > 0 {
			t.Errorf("the name was asked for %d times, want once, and the last request waited for %v", n, time.Since(start))
		}
	}, askServer(server, 500*time.Millisecond), oneWorker)
}

func TestRequestIsCanceledWhileItWaits(t *testing.T) {
	server := resolvetest.NewServer(t, "carrier.example. 60 A 198.51.100.1")
	runScenario(t, func(s *testbed) {
		carrier := s.addUDPPeer(namedCarrierAt)
		invite := s.pbx.newRequest("INVITE", "sip:+1555@carrier.example:5060")
		s.pbx.send(invite)
		s.advance(200 * time.Millisecond)
		s.pbx.expect("while it waits", "SIP/2.0 100")
		s.pbx.sendCancel(invite)
		s.pbx.expect("answer to the CANCEL", "SIP/2.0 200")
		s.pbx.sendACK(invite, s.pbx.expect("answer to the INVITE", "SIP/2.0 487"))
		s.advance(10 * time.Second)
		carrier.expectNone("it was canceled")
		s.expectNothing("it was canceled")
		if n := len(s.observations); n != 0 {
			t.Errorf("%d observations of a request that was sent to nobody", n)
		}
	}, askServer(server, time.Second))
}

// A request waits for 3 seconds at most. A later answer serves the next one.
func TestRequestWaitsForANameInVain(t *testing.T) {
	for _, after := range []time.Duration{-1, 4 * time.Second} {
		t.Run(fmt.Sprint(after), func(t *testing.T) {
			server := resolvetest.NewServer(t, "carrier.example. 60 A 198.51.100.1")
			runScenario(t, func(s *testbed) {
				carrier := s.addUDPPeer(namedCarrierAt)
				invite := s.pbx.newRequest("INVITE", "sip:+1555@carrier.example:5060")
				s.pbx.send(invite, s.pbx.newRequest("MESSAGE", "sip:+1555@carrier.example:5060"))
				s.advance(2900 * time.Millisecond)
				s.pbx.expect("while it waits", "SIP/2.0 100")
				s.expectNothing("it waits")
				s.advance(200 * time.Millisecond)
				s.pbx.sendACK(invite, s.pbx.expect("the time is up", "SIP/2.0 500 Next Hop Not Resolved"))
				s.pbx.expect("the time is up", "SIP/2.0 500 Next Hop Not Resolved")
				s.advance(10 * time.Second)
				carrier.expectNone("the answer is late")
			}, askServer(server, after))
		})
	}
}

// The addresses of a name are held against the same rules as an address in a URI.
func TestAddressesOfANameAreChecked(t *testing.T) {
	for _, tt := range []struct{ name, zone, uri, want string }{
		{"unknown", "", "sip:x@carrier.example", "500 Next Hop Not Resolved"},
		{"ours", "carrier.example. 60 A 192.0.2.1", "sip:x@carrier.example", "482 Loop Detected"},
		{"ours, by SRV", "_sip._udp.carrier.example. 60 SRV 0 0 5060 a.example.\na.example. 60 A 192.0.2.1", "sip:x@carrier.example", "482 Loop Detected"},
		{"loopback", "carrier.example. 60 A 127.0.0.1", "sip:x@carrier.example", "403 Next Hop Not Allowed"},
		{"loopback by SRV", "_sip._udp.carrier.example. 60 SRV 0 0 8080 a.example.\na.example. 60 A 127.0.0.2", "sip:x@carrier.example", "403 Next Hop Not Allowed"},
		{"link-local", "carrier.example. 60 A 169.254.169.254", "sip:x@carrier.example", "403 Next Hop Not Allowed"},
		{"unspecified", "carrier.example. 60 A 0.0.0.0", "sip:x@carrier.example", "500 Next Hop Not Resolved"},  // the resolver leaves it out
		{"multicast", "carrier.example. 60 A 224.0.1.75", "sip:x@carrier.example", "500 Next Hop Not Resolved"}, // the resolver leaves it out
		{"IPv6 without a listener", "carrier.example. 60 AAAA 2001:db8::1", "sip:x@carrier.example", "500 Next Hop Not Resolved"},
		{"over TLS", "carrier.example. 60 A 198.51.100.1", "sip:x@carrier.example;transport=tls", "500 Next Hop Not Resolved"},
		{"not a name", "", "sip:x@not_a_name..example", "500 Next Hop Not Resolved"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			runScenario(t, func(s *testbed) {
				s.pbx.send(s.pbx.newRequest("MESSAGE", tt.uri))
				s.advance(time.Second)
				s.pbx.expect(tt.name, "SIP/2.0 "+tt.want)
			}, askServer(resolvetest.NewServer(t, tt.zone), 0))
		})
	}
}

func TestIPv6AddressesOfANameAreChecked(t *testing.T) {
	for ip, want := range map[string]string{
		"2001:db8::1":      "482 Loop Detected",
		"::1":              "403 Next Hop Not Allowed",
		"fe80::1":          "403 Next Hop Not Allowed",
		"::ffff:127.0.0.1": "500 Next Hop Not Resolved", // the resolver leaves it out
		"::":               "500 Next Hop Not Resolved",
		"ff02::1":          "500 Next Hop Not Resolved",
	} {
		t.Run(ip, func(t *testing.T) {
			runScenario(t, func(s *testbed) {
				s.pbx.send(s.pbx.newRequest("MESSAGE", "sip:x@carrier.example"))
				s.advance(time.Second)
				s.pbx.expect("refused", "SIP/2.0 "+want)
			}, askServer(resolvetest.NewServer(t, "carrier.example. 60 AAAA "+ip), 0), dualStack)
		})
	}
}

// A server of a name that refuses or does not answer is followed by the next.
func TestServersOfAnUnconfiguredNameFailOver(t *testing.T) {
	server := resolvetest.NewServer(t, `_sip._udp.carrier.example. 60 SRV 10 0 5060 a.carrier.example.
		_sip._udp.carrier.example. 60 SRV 20 0 5060 b.carrier.example.
		a.carrier.example. 60 A 198.51.100.1
		b.carrier.example. 60 A 198.51.100.2`)
	runScenario(t, func(s *testbed) {
		a, b := s.addUDPPeer(namedCarrierAt), s.addUDPPeer(netip.MustParseAddrPort("198.51.100.2:5060"))
		s.pbx.send(s.pbx.newRequest("INVITE", "sip:+1555@carrier.example"))
		a.respond(a.expect("the first", "INVITE"), "503 Service Unavailable")
		a.expect("its ACK", "ACK")
		got := b.expect("the second", "INVITE sip:+1555@carrier.example SIP/2.0")
		b.respond(got, "486 Busy Here")
		b.expect("its ACK", "ACK")
		s.pbx.sendACK(s.pbx.newInvite(), s.pbx.expect("answer", "SIP/2.0 486"))
	}, askServer(server, 0))
}

// A request of the PBX does not fail over from a server on the edge side to the PBX.
func TestNameOfACarrierAndThePBX(t *testing.T) {
	server := resolvetest.NewServer(t, `_sip._udp.carrier.example. 60 SRV 10 0 5060 a.carrier.example.
		_sip._udp.carrier.example. 60 SRV 20 0 5060 b.carrier.example.
		a.carrier.example. 60 A 198.51.100.1
		b.carrier.example. 60 A 192.0.2.2`)
	runScenario(t, func(s *testbed) {
		carrier := s.addUDPPeer(namedCarrierAt)
		invite := s.pbx.newRequest("INVITE", "sip:+1555@carrier.example")
		s.pbx.send(invite)
		carrier.respond(carrier.expect("the first", "INVITE"), "503 Service Unavailable")
		carrier.expect("its ACK", "ACK")
		s.pbx.sendACK(invite, s.pbx.expect("the only one", "SIP/2.0 500"))
	}, askServer(server, 0))
}

// No name that the edge side has written is looked up.
func TestNamesOfTheEdgeSideAreNotLookedUp(t *testing.T) {
	server := resolvetest.NewServer(t, "rebound.example. 1 A 192.168.0.1")
	runScenario(t, func(s *testbed) {
		at := "sip:101@rebound.example"
		for _, lines := range [][]string{nil, {"Route: <sip:rebound.example;lr>"}} {
			s.phone.send(s.phone.newRequest("MESSAGE", at, lines...))
			if got, ok := s.pbx.nextMessage(); ok {
				s.pbx.respond(got, "200 OK")
			}
			s.phone.discardReceived()
		}
		m := s.phone.newRequest("MESSAGE", "sip:102@pbx.example")
		s.phone.send(m.replaced("192.0.2.101:5062", "rebound.example:5062"))
		s.pbx.respond(s.pbx.expect("a name in Via", "MESSAGE"), "200 OK")
		s.phone.expect("answer to its source", "SIP/2.0 200")

		invite := s.phone.newInvite("Contact: <" + at + ">")
		s.phone.send(invite)
		got := s.pbx.expect("a name in Contact", "INVITE")
		s.pbx.respond(got, "200 OK")
		ok := s.phone.expect("answer", "SIP/2.0 200")
		s.phone.send(s.phone.callerRequest(ok, "ACK"))
		s.pbx.expect("the ACK", "ACK")
		s.pbx.send(s.pbx.calleeRequest(got, "BYE"))
		s.phone.respond(s.phone.expect("it goes where the phone was", "BYE"), "200 OK")
		s.pbx.expect("answer", "SIP/2.0 200")
		if n := server.Questions("A rebound.example") + server.Questions("SRV _sip._udp.rebound.example") + server.Questions("NAPTR rebound.example"); n != 0 {
			t.Errorf("the name server was asked %d times", n)
		}
	}, askServer(server, 0))
}

// Peers of the edge side write a name into Contact and Record-Route. It leads to private
// addresses, to this machine and to bellhop. Requests within the dialog go to the address that
// the peer had before, and nobody looks up the name.
func TestNamesWithinADialogAreNotLookedUp(t *testing.T) {
	const name = "sip:x@rebound.example"
	contact := "Contact: <" + name + ">"
	// exchange sends a request that must arrive with the name, and its response.
	exchange := func(from, to *peer, request text) {
		from.s.t.Helper()
		if request.requestURI() != name {
			from.s.t.Fatalf("the Request-URI is %s", request.requestURI())
		}
		from.send(request)
		to.respond(to.expect("it goes to the peer of the dialog", request.method()+" "+name), "200 OK")
		from.expect("answer", "SIP/2.0 200")
	}
	for _, tt := range []struct {
		name string
		play func(s *testbed, other *peer)
	}{
		{"phone that calls", func(s *testbed, _ *peer) {
			c := s.phone.setUpCall(s.pbx, contact)
			exchange(s.pbx, s.phone, s.pbx.calleeRequest(c.invite, "INFO"))
			exchange(s.pbx, s.phone, s.pbx.calleeRequest(c.invite, "BYE"))
		}},
		{"phone behind a proxy of the edge", func(s *testbed, _ *peer) {
			invite := s.phone.newInvite(contact, "Record-Route: <sip:rebound.example;lr>").replaced("Via:", "Via: SIP/2.0/UDP 192.0.2.101:5062;branch=z9hG4bK-edge\r\nVia:")
			s.phone.send(invite)
			got := s.pbx.expect("the INVITE goes on", "INVITE")
			s.pbx.respond(got, "200 OK")
			s.phone.expect("answer", "SIP/2.0 200")
			exchange(s.pbx, s.phone, s.pbx.calleeRequest(got, "BYE"))
		}},
		{"phone that moves its Contact", func(s *testbed, _ *peer) {
			c := s.phone.setUpCall(s.pbx)
			s.phone.send(s.phone.callerRequest(c.ok, "INVITE", contact))
			again := s.pbx.expect("a re-INVITE", "INVITE")
			s.pbx.respond(again, "200 OK")
			s.phone.expect("answer", "SIP/2.0 200")
			s.phone.send(s.phone.callerRequest(c.ok, "ACK"))
			s.pbx.expect("its ACK", "ACK")
			bye := s.pbx.calleeRequest(c.invite, "BYE")
			exchange(s.pbx, s.phone, bye.replaced("BYE "+bye.requestURI(), "BYE "+name))
		}},
		{"carrier that is called", func(s *testbed, other *peer) {
			s.pbx.send(s.pbx.newRequest("INVITE", "sip:5551234@192.0.2.102:5062"))
			got := other.expect("the call", "INVITE")
			other.send(other.newResponse(got, "200 OK", contact).replaced("Record-Route: ", "Record-Route: <sip:rebound.example;lr>, "))
			ok := s.pbx.expect("answer", "SIP/2.0 200")
			s.pbx.send(s.pbx.callerRequest(ok, "ACK"))
			ack := other.expect("the ACK", "ACK "+name)
			assertEqual(t, "Route", ack.fieldValue("Route"), "<sip:rebound.example;lr>")
			exchange(s.pbx, other, s.pbx.callerRequest(ok, "BYE"))
		}},
		{"PBX that is a proxy and stays", func(s *testbed, other *peer) {
			// pass lets the PBX send a request on, and the response back.
			pass := func(got text, record bool) {
				on := got.replaced("Via:", "Via: SIP/2.0/UDP 192.0.2.2:5060;branch=z9hG4bK-pbx"+got.method()+"\r\nVia:")
				if record {
					on = on.replaced("INVITE sip:102@pbx.example", "INVITE sip:102@192.0.2.102:5062").replaced("Record-Route:", "Record-Route: <sip:192.0.2.2;lr>\r\nRecord-Route:")
				} else {
					on = on.replaced("Route: <sip:192.0.2.2;lr>\r\n", "")
				}
				s.pbx.send(on)
				other.respond(other.expect("from the PBX", got.method()), "200 OK", contact)
				ok := s.pbx.expect("answer", "SIP/2.0 200")
				s.pbx.send(ok.replaced("Via: "+ok.fieldValue("Via")+"\r\n", ""))
			}
			s.phone.send(s.phone.newInvite())
			pass(s.pbx.expect("the INVITE goes on", "INVITE"), true)
			ok := s.phone.expect("answer", "SIP/2.0 200")
			s.phone.send(s.phone.callerRequest(ok, "BYE"))
			pass(s.pbx.expect("the caller hangs up", "BYE "+name), false)
			s.phone.expect("answer", "SIP/2.0 200")
		}},
		{"PBX that has left the dialog", func(s *testbed, other *peer) {
			s.phone.send(s.phone.newInvite())
			got := s.pbx.expect("the INVITE goes on", "INVITE")
			s.pbx.send(got.replaced("INVITE sip:102@pbx.example", "INVITE sip:102@192.0.2.102:5062").
				replaced("Via:", "Via: SIP/2.0/UDP 192.0.2.2:5060;branch=z9hG4bK-pbx\r\nVia:"))
			other.respond(other.expect("from the PBX", "INVITE"), "200 OK", contact)
			ok := s.pbx.expect("answer", "SIP/2.0 200")
			s.pbx.send(ok.replaced("Via: "+ok.fieldValue("Via")+"\r\n", ""))
			answer := s.phone.expect("answer", "SIP/2.0 200")
			exchange(s.phone, other, s.phone.callerRequest(answer, "INFO"))
			exchange(s.phone, other, s.phone.callerRequest(answer, "BYE"))
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			targets := []string{"10.0.0.1", "172.16.0.1", "192.168.0.1", "169.254.0.1", "127.0.0.1", "192.0.2.1", "203.0.113.66"}
			server := resolvetest.NewServer(t, "")
			server.Respond = func(_ string, _ netip.AddrPort, q *dns.Msg) (*dns.Msg, time.Duration) {
				t.Errorf("the name server was asked for %s", q.Question[0].Name)
				m := new(dns.Msg).SetReply(q)
				for _, ip := range targets {
					m.Answer = append(m.Answer, &dns.A{Hdr: dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 1}, A: net.ParseIP(ip)})
				}
				return m, 0
			}
			runScenario(t, func(s *testbed) {
				for _, ip := range targets {
					if at := netip.AddrPortFrom(netip.MustParseAddr(ip), 5060); at != proxyAt {
						s.addUDPPeer(at)
					}
				}
				tt.play(s, s.addUDPPeer(otherAt))
				s.expectNothing("nobody else gets anything")
			}, func(c *sip.Config) { c.DialNameServer = server.Dial })
		})
	}
}

// A phone registers with a name in its Contact, behind a proxy with a name in its Path or not.
// Calls to it go to the address from which the REGISTER came.
func TestNameInABindingIsNotLookedUp(t *testing.T) {
	for _, mode := range []sip.Register{sip.RegisterPath, sip.RegisterContact} {
		for _, behindProxy := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, behind a proxy: %t", mode, behindProxy), func(t *testing.T) {
				server := resolvetest.NewServer(t, "")
				server.Respond = func(_ string, _ netip.AddrPort, q *dns.Msg) (*dns.Msg, time.Duration) {
					t.Errorf("the name server was asked for %s", q.Question[0].Name)
					return nil, 0
				}
				runScenario(t, func(s *testbed) {
					register := s.phone.newRequest("REGISTER", "sip:pbx.example", "From: <sip:101@pbx.example>;tag=1", "To: <sip:101@pbx.example>", "Contact: <sip:101@rebound.example>")
					if behindProxy {
						register = register.replaced("Via:", "Via: SIP/2.0/UDP 192.0.2.101:5062;branch=z9hG4bK-edge\r\nVia:")
						if mode == sip.RegisterPath {
							register = register.replaced("Contact:", "Path: <sip:rebound.example;lr>\r\nContact:")
						}
					}
					s.phone.send(register)
					got := s.pbx.expect("the REGISTER", "REGISTER")
					s.pbx.respond(got, "200 OK", "Contact: "+got.fieldValue("Contact"))
					s.phone.expect("registered", "SIP/2.0 200")
					var route []string
					for _, path := range got.fieldValues("Path") {
						route = append(route, "Route: "+path)
					}
					s.pbx.send(s.pbx.newRequest("MESSAGE", bracketedURI(got.fieldValue("Contact")), route...))
					s.phone.respond(s.phone.expect("a request to the binding", "MESSAGE sip:101@rebound.example SIP/2.0"), "200 OK")
					s.pbx.expect("answer", "SIP/2.0 200")
				}, withRegister(mode), func(c *sip.Config) { c.DialNameServer = server.Dial })
			})
		}
	}
}

// A name of the dial plan may lead to a private address: a gateway in the network of the PBX. Of
// several addresses, those of this machine are left out.
func TestNameOfAPrivateGateway(t *testing.T) {
	for _, at := range []string{"10.0.0.9", "172.16.0.9", "192.168.0.9", "fd00::9"} {
		t.Run(at, func(t *testing.T) {
			gateway, record := netip.MustParseAddr(at), "A"
			if gateway.Is6() {
				record = "AAAA"
			}
			server := resolvetest.NewServer(t, fmt.Sprintf(`_sip._udp.gateway.example. 60 SRV 10 0 5060 local.example.
				_sip._udp.gateway.example. 60 SRV 20 0 5060 gateway.lan.example.
				_sip._udp.gateway.example. 60 SRV 30 0 5060 local.example.
				local.example. 60 A 127.0.0.1
				local.example. 60 A 169.254.0.1
				local.example. 60 AAAA ::1
				local.example. 60 AAAA fe80::1
				gateway.lan.example. 60 %s %s`, record, at))
			runScenario(t, func(s *testbed) {
				for _, ip := range []string{"127.0.0.1", "169.254.0.1", "::1", "fe80::1"} {
					s.addUDPPeer(netip.AddrPortFrom(netip.MustParseAddr(ip), 5060))
				}
				gateway := s.addUDPPeer(netip.AddrPortFrom(gateway, 5060))
				gateway.proxyAddr = s.proxyAddrFor(gateway)
				invite := s.pbx.newRequest("INVITE", "sip:5551234@gateway.example")
				s.pbx.send(invite)
				gateway.respond(gateway.expect("the call", "INVITE"), "503 Service Unavailable")
				gateway.expect("its ACK", "ACK")
				s.pbx.sendACK(invite, s.pbx.expect("there is no other address", "SIP/2.0 500"))
				s.expectNothing("this machine gets nothing")
			}, askServer(server, 0), dualStack)
		})
	}
}

// proxyAddrFor returns the address of the proxy in the family of a peer.
func (s *testbed) proxyAddrFor(p *peer) netip.AddrPort {
	if p.addr.Addr().Is6() {
		return proxy6At
	}
	return proxyAt
}

// A CANCEL may cross the refusal of a request that has waited, or come twice.
func TestCANCELComesAfterTheWait(t *testing.T) {
	for _, tt := range []struct {
		name string
		wait time.Duration // before the first CANCEL
		want string
	}{{"refused", 3 * time.Second, "SIP/2.0 500"}, {"canceled", time.Second, "SIP/2.0 487"}} {
		t.Run(tt.name, func(t *testing.T) {
			server := resolvetest.NewServer(t, "")
			runScenario(t, func(s *testbed) {
				pbx := s.dialTCPPeer(pbxAt.Addr())
				invite := pbx.newRequest("INVITE", "sip:+1555@carrier.example:5060")
				pbx.send(invite)
				s.advance(tt.wait)
				pbx.expect("while it waits", "SIP/2.0 100")
				for range 2 {
					pbx.sendCancel(invite)
					s.advance(time.Second)
				}
				s.advance(time.Second)
				pbx.discardReceived()
				if n := len(s.observations); n != 0 {
					t.Errorf("%d observations of a request that was sent to nobody: %+v", n, <-s.observations)
				}
			}, askServer(server, -1), pbxOverTCP)
		})
	}
}

// A request that waits for a name is under way.
func TestDrainWaitsForNames(t *testing.T) {
	server := resolvetest.NewServer(t, "carrier.example. 60 A 198.51.100.1")
	runScenario(t, func(s *testbed) {
		carrier := s.addUDPPeer(namedCarrierAt)
		s.pbx.send(s.pbx.newRequest("INVITE", "sip:+1555@carrier.example:5060"))
		s.advance(100 * time.Millisecond)
		drained := make(chan struct{})
		go func() {
			s.proxy.Drain(context.Background())
			close(drained)
		}()
		s.advance(900 * time.Millisecond)
		s.pbx.expect("while it waits", "SIP/2.0 100")
		select {
		case <-drained:
			t.Error("drained while a request waits")
		default:
		}
		got := carrier.expect("the name is known", "INVITE")
		carrier.respond(got, "486 Busy Here")
		carrier.expect("its ACK", "ACK")
		s.pbx.discardReceived()
		s.advance(100 * time.Millisecond)
		select {
		case <-drained:
		default:
			t.Error("Drain has not returned")
		}
	}, askServer(server, time.Second))
}

// The connection of a request that waits may be closed meanwhile.
func TestConnectionClosesWhileARequestWaits(t *testing.T) {
	server := resolvetest.NewServer(t, "carrier.example. 60 A 198.51.100.1")
	runScenario(t, func(s *testbed) {
		carrier := s.addUDPPeer(namedCarrierAt)
		pbx := s.dialTCPPeer(pbxAt.Addr())
		pbx.send(pbx.newRequest("INVITE", "sip:+1555@carrier.example:5060"))
		s.advance(500 * time.Millisecond)
		pbx.close()
		s.advance(600 * time.Millisecond)
		got := carrier.expect("the name is known", "INVITE")
		carrier.respond(got, "486 Busy Here")
		carrier.expect("its ACK", "ACK")
		s.advance(time.Second)
		s.pbx.discardReceived()
	}, askServer(server, time.Second), pbxOverTCP)
}

// The proxy may be stopped while requests wait.
func TestProxyStopsWhileARequestWaits(t *testing.T) {
	server := resolvetest.NewServer(t, "carrier.example. 60 A 198.51.100.1")
	runScenario(t, func(s *testbed) {
		s.addUDPPeer(namedCarrierAt)
		s.pbx.send(s.pbx.newRequest("INVITE", "sip:+1555@carrier.example:5060"))
		s.advance(500 * time.Millisecond)
		s.stop()
		s.restartProxy()
		s.pbx.discardReceived()
	}, askServer(server, time.Second))
}
