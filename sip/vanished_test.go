package sip_test

import (
	"crypto/tls"
	"net"
	"net/netip"
	"testing"
	"time"

	"bellhop/sip"
	"bellhop/sip/siptest"
)

// dialOver opens a connection to the proxy over a transport. It returns the connection below
// that transport too.
func (s *testbed) dialOver(proto sip.Proto, b *tlsBed) (p *peer, raw net.Conn) {
	s.t.Helper()
	at := map[sip.Proto]netip.AddrPort{sip.TCP: proxyAt, sip.TLS: proxyTLSAt, sip.WS: wsAt}[proto]
	raw, err := s.net.Dial(phoneAt.Addr(), at)
	if err != nil {
		s.t.Fatal(err)
	}
	switch proto {
	case sip.WS:
		return s.shakeHands(raw).peer, raw
	case sip.TLS:
		return s.addConnPeer(tls.Client(raw, &tls.Config{ServerName: "sip.example.com", RootCAs: b.ca.Pool()}), "TLS"), raw
	}
	return s.addConnPeer(raw, "TCP"), raw
}

// A phone vanishes in a call, without closing its connection, and does not come back. What
// the PBX sends to it is answered 430 while the PBX still waits, and at once from then on.
func TestVanishedPhoneIsAnswered430(t *testing.T) { // RFC 5626 §5.3.1
	for _, proto := range []sip.Proto{sip.TCP, sip.TLS, sip.WS} {
		t.Run(proto.String(), func(t *testing.T) {
			b := &tlsBed{}
			runScenario(t, func(s *testbed) {
				phone, raw := s.dialOver(proto, b)
				route, uri := phone.registerOver("101@pbx.example", browser("1"))
				call := phone.setUpCall(s.pbx)
				siptest.Vanish(raw)
				invite := s.pbx.newRequest("INVITE", uri, route...)
				s.pbx.send(s.pbx.calleeRequest(call.invite, "BYE"), invite)
				s.advance(time.Second)
				s.pbx.expect("the INVITE is on its way", "SIP/2.0 100")
				s.advance(30500*ms - ms)
				phone.discardReceived() // the end of its connection
				s.expectNothing("the phone may come back")
				s.advance(ms)
				assertEqual(t, "what the PBX still waits for", s.pbx.expect("Timer F has not fired", "SIP/2.0 430").method(), "BYE")
				s.advance(500 * ms)
				s.pbx.sendACK(invite, s.pbx.expect("the call fails", "SIP/2.0 430"))
				for _, request := range []text{s.pbx.calleeRequest(call.invite, "BYE"), s.pbx.newRequest("MESSAGE", uri, route...)} {
					s.pbx.send(request)
					s.pbx.expect("at once", "SIP/2.0 430")
				}
				s.expectNothing("nobody else gets it")
			}, b.listen, withWebSocket)
		})
	}
}

// A phone that gets a request, and whose connection is closed, may respond over another one:
// to an INVITE that rings at any time, and to others while the PBX waits.
func TestPhoneRespondsOverAnotherConnection(t *testing.T) {
	runScenario(t, func(s *testbed) {
		phone := s.dialTCPPeer(phoneAt.Addr())
		route, uri := phone.registerOver("101@pbx.example", browser("1"))
		s.pbx.send(s.pbx.newRequest("INVITE", uri, route...), s.pbx.newRequest("MESSAGE", uri, route...))
		invite, message := phone.expect("a call", "INVITE"), phone.expect("a message", "MESSAGE")
		phone.respond(invite, "180 Ringing")
		s.pbx.expect("it rings", "SIP/2.0 180")
		phone.closeAndForget()
		s.advance(30 * time.Second)
		phone = s.dialTCPPeer(phoneAt.Addr())
		phone.respond(message, "200 OK")
		assertEqual(t, "answered", s.pbx.expect("the answer", "SIP/2.0 200").method(), "MESSAGE")
		s.advance(30 * time.Second)
		phone.respond(invite, "200 OK")
		assertEqual(t, "answered", s.pbx.expect("the answer", "SIP/2.0 200").method(), "INVITE")
	}, oneWorker)
}
