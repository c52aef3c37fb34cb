package sip_test

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"bellhop/sip"
)

// balancerAt is the address of a reverse proxy.
var balancerAt = netip.MustParseAddr("192.0.2.50")

// behindProxy makes both addresses of WebSocket take PROXY headers.
func behindProxy(c *sip.Config) {
	withWebSocket(c)
	for i := range c.Listen {
		c.Listen[i].ProxyFrom = parsePrefixes("192.0.2.50")
	}
}

// proxyHeaderV2 is a PROXY header of version 2 for a TCP connection from 198.51.100.7:5555.
const proxyHeaderV2 text = "\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c\xc6\x33\x64\x07\xc0\x00\x02\x01\x15\xb3\x13\xc4"

const proxyHeaderV1 text = "PROXY TCP4 198.51.100.7 192.0.2.1 5555 5060\r\n"

// A reverse proxy names the phone: its address is in received, in the flow, and in the
// limits.
func TestReverseProxyNamesThePhone(t *testing.T) {
	for _, header := range []text{proxyHeaderV1, proxyHeaderV2} {
		runScenario(t, func(s *testbed) {
			for _, ready := range []bool{false, true} { // whether the first message comes with the header
				phone := s.dialTCPPeer(balancerAt)
				request := phone.newRequest("OPTIONS", "sip:192.0.2.1")
				if ready {
					phone.send(header + request)
				} else {
					phone.send(header)
					phone.send(request)
				}
				got := phone.expect("an answer", "SIP/2.0 200")
				if via := got.fieldValue("Via"); via != fmt.Sprintf("SIP/2.0/TCP %s;branch=z9hG4bK-%d;rport=5555;received=198.51.100.7", phone.addr, serial) {
					t.Errorf("Via: %s", via)
				}
				route, uri := phone.registerOver("101@pbx.example", browser("1"))
				s.sendToPhone(s.pbx.newRequest("MESSAGE", uri, route...), phone)
				phone.close()
				phone.discardReceived()
			}
		}, behindProxy, oneWorker)
	}
}

func TestReverseProxyBeforeWebSocket(t *testing.T) {
	runScenario(t, func(s *testbed) {
		for _, at := range []netip.AddrPort{wsAt, proxyAt} {
			c, err := s.net.Dial(balancerAt, at)
			if err != nil {
				s.t.Fatal(err)
			}
			c.Write([]byte(proxyHeaderV2))
			page := s.shakeHands(c)
			page.send(page.newRequest("OPTIONS", "sip:192.0.2.1"))
			if via := page.expect("an answer", "SIP/2.0 200").fieldValue("Via"); via != fmt.Sprintf("SIP/2.0/WS abc.invalid;branch=z9hG4bK-%d;rport=5555;received=198.51.100.7", serial) {
				t.Errorf("Via: %s", via)
			}
			page.close()
			page.discardReceived()
		}
	}, behindProxy)
}

// A health check names no client.
func TestReverseProxyChecksHealth(t *testing.T) {
	for _, header := range []text{"PROXY UNKNOWN\r\n", "\r\n\r\n\x00\r\nQUIT\n\x20\x00\x00\x00"} {
		runScenario(t, func(s *testbed) {
			check := s.dialTCPPeer(balancerAt)
			check.send(header + check.newRequest("OPTIONS", "sip:192.0.2.1"))
			check.expect("an answer", "SIP/2.0 200")
		}, behindProxy)
	}
}

func TestPROXYHeaderIsRefused(t *testing.T) {
	for _, tt := range []struct {
		name string
		from netip.Addr
		send text
	}{
		{"forged", phoneAt.Addr(), proxyHeaderV1},
		{"forged, version 2", phoneAt.Addr(), proxyHeaderV2[4:]},
		{"missing", balancerAt, "OPTIONS sip:192.0.2.1 SIP/2.0\r\n"},
		{"no address", balancerAt, "PROXY TCP4\r\n"},
		{"port 0", balancerAt, "PROXY TCP4 198.51.100.7 192.0.2.1 0 5060\r\n"},
		{"no TCP", balancerAt, "\r\n\r\n\x00\r\nQUIT\n\x21\x12\x00\x0c\xc6\x33\x64\x07\xc0\x00\x02\x01\x15\xb3\x13\xc4"},
		{"too long", balancerAt, "PROXY TCP4 111111111111111111111111111111111111111111111111111111111111111111111111111111111111111111111111111111111111111111111"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			runScenario(t, func(s *testbed) {
				p := s.dialTCPPeer(tt.from)
				p.send(tt.send + p.newRequest("OPTIONS", "sip:192.0.2.1"))
				p.expect("closed", "<closed>")
				s.advance(0)
				assertEqual(t, "connections", fmt.Sprint(s.proxy.Stats().Streams), "0")
			}, behindProxy)
		})
	}
}

func TestReverseProxyThatSendsNothingIsClosed(t *testing.T) {
	runScenario(t, func(s *testbed) {
		silent, half := s.dialTCPPeer(balancerAt), s.dialTCPPeer(balancerAt)
		half.send(proxyHeaderV2[:14])
		s.advance(10*time.Second - ms)
		s.expectNothing("not yet")
		s.advance(ms)
		silent.expect("10 s without a header", "<closed>")
		half.expect("10 s for a header", "<closed>")
		named := s.dialTCPPeer(balancerAt)
		named.send(proxyHeaderV1)
		s.advance(10 * time.Second)
		named.expect("10 s without a message", "<closed>")
		s.advance(0)
		assertEqual(t, "connections", fmt.Sprint(s.proxy.Stats().Streams), "0")
	}, behindProxy)
}

// A health check that only connects is no fault.
func TestReverseProxyConnectsOnly(t *testing.T) {
	runScenario(t, func(s *testbed) {
		s.dialTCPPeer(balancerAt).close()
		s.advance(0)
		assertEqual(t, "malformed", fmt.Sprint(s.proxy.Stats().Malformed), "0")
		if s.log.String() != "" {
			t.Errorf("logged: %s", s.log)
		}
	}, behindProxy)
}

// The limit of connections holds for each phone behind a reverse proxy, and not for the
// proxy.
func TestPhonesBehindAReverseProxyAreLimited(t *testing.T) {
	runScenario(t, func(s *testbed) {
		for i := range 6 {
			p := s.dialTCPPeer(balancerAt)
			p.send(text(fmt.Sprintf("PROXY TCP4 198.51.100.%d 192.0.2.1 %d 5060\r\n", i%2, 5000+i)) + p.newRequest("OPTIONS", "sip:192.0.2.1"))
			if i < 4 {
				p.expect("two of each phone", "SIP/2.0 200")
			} else {
				p.expect("and no more", "<closed>")
			}
		}
		s.advance(0)
		assertEqual(t, "connections", fmt.Sprint(s.proxy.Stats().Streams), "4")
		assertEqual(t, "refused", fmt.Sprint(s.proxy.Stats().Refused), "2")
	}, behindProxy, func(c *sip.Config) { c.Connections = 2 })
}

// The proxy stops at once, also if a reverse proxy names a phone for a second connection
// before it has closed the first.
func TestStopClosesBothConnectionsOfOnePhone(t *testing.T) {
	runScenario(t, func(s *testbed) {
		for range 2 {
			p := s.dialTCPPeer(balancerAt)
			p.send(proxyHeaderV1 + p.newRequest("OPTIONS", "sip:192.0.2.1"))
			p.expect("an answer", "SIP/2.0 200")
		}
		before := time.Now()
		s.stop()
		assertEqual(t, "time to stop", time.Since(before).String(), "0s")
	}, behindProxy)
}
