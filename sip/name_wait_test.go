package sip_test

import (
	"context"
	"fmt"
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
