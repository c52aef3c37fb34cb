package sip_test

import (
	"crypto/tls"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"bellhop/sip"
	"bellhop/sip/siptest"
)

// registerOver registers a client of an address-of-record over a connection or socket. It
// returns the header field and the URI by which the PBX then calls it.
func (p *peer) registerOver(aor, contact string, lines ...string) (route []string, uri string) {
	p.s.t.Helper()
	p.send(p.newRequest("REGISTER", "sip:pbx.example", append([]string{"From: <sip:" + aor + ">;tag=1", "To: <sip:" + aor + ">", "Contact: " + contact}, lines...)...))
	got := p.s.pbx.expect("the REGISTER goes on", "REGISTER")
	p.s.pbx.respond(got, "200 OK", "Expires: 600")
	p.expect("it is accepted", "SIP/2.0 200")
	for _, path := range got.fieldValues("Path") {
		route = append(route, "Route: "+path)
	}
	return route, bracketedURI(got.fieldValue("Contact"))
}

// browser is the Contact of a client that is reached over its connection only.
func browser(instance string) string {
	return fmt.Sprintf(`<sip:x@192.0.2.99:9;transport=tcp>;+sip.instance="<urn:uuid:%s>"`, instance)
}

// closeAndForget closes a peer's connection and discards what it has received.
func (p *peer) closeAndForget() {
	p.close()
	p.discardReceived()
}

// sendToPhone sends a request of the PBX, which must reach a phone. It returns the request
// as the phone got it.
func (s *testbed) sendToPhone(request text, to *peer) text {
	s.t.Helper()
	method, _, _ := strings.Cut(request.startLine(), " ")
	s.pbx.send(request)
	got := to.expect("the request arrives", method)
	to.respond(got, "200 OK")
	s.pbx.expect("the answer", "SIP/2.0 200")
	return got
}

// A phone behind a NAT that does not know rport is answered and called where it sends
// from.
func TestPhoneWithoutRportIsReachedAtItsSource(t *testing.T) {
	natAt := netip.MustParseAddrPort("198.51.100.7:31000")
	for _, mode := range []sip.Register{sip.RegisterPath, sip.RegisterContact} {
		t.Run(string(mode), func(t *testing.T) {
			runScenario(t, func(s *testbed) {
				phone := s.addUDPPeer(natAt)
				const contact = "<sip:101@10.0.0.5:5060>"
				serial := 0
				via := func() string {
					serial++
					return fmt.Sprintf("Via: SIP/2.0/UDP 10.0.0.5:5060;branch=z9hG4bK-nat%d", serial)
				}
				route, uri := phone.registerOver("101@pbx.example", contact, via())
				s.sendToPhone(s.pbx.newRequest("MESSAGE", uri, route...), phone)
				invite := phone.newInvite("Contact: "+contact, via())
				phone.send(invite)
				got := s.pbx.expect("the INVITE goes on", "INVITE")
				s.pbx.respond(got, "200 OK")
				phone.send(phone.callerRequest(phone.expect("the answer", "SIP/2.0 200"), "ACK", via()))
				s.pbx.expect("its ACK", "ACK")
				s.sendToPhone(s.pbx.calleeRequest(got, "BYE"), phone)
			}, withRegister(mode))
		})
	}
}

// A trunk without rport is reached by its Contact, as RFC 3261 has it.
func TestTrunkWithoutRportIsReachedByItsContact(t *testing.T) {
	runScenario(t, func(s *testbed) {
		from, at := s.addUDPPeer(netip.MustParseAddrPort("203.0.113.9:40000")), s.addUDPPeer(netip.MustParseAddrPort("203.0.113.9:5060"))
		from.send(from.newInvite("Via: SIP/2.0/UDP 203.0.113.9;branch=z9hG4bK-t", "Contact: <sip:203.0.113.9>"))
		got := s.pbx.expect("the INVITE goes on", "INVITE")
		s.pbx.respond(got, "200 OK")
		at.expect("the answer", "SIP/2.0 200")
		s.sendToPhone(s.pbx.calleeRequest(got, "BYE"), at)
	}, func(c *sip.Config) {
		c.Trunks = []sip.Trunk{{Name: "carrier", Sources: parsePrefixes("203.0.113.9")}}
	})
}

// A client behind another proxy is reached over the connection of that proxy while it is
// open, else by its URI.
func TestConnectionIsUsedBehindSeveralVias(t *testing.T) {
	const inner = "Via: SIP/2.0/UDP 10.0.0.5:5060;branch=z9hG4bK-inner"
	vias := func(p *peer, branch string) []string {
		return []string{fmt.Sprintf("Via: SIP/2.0/TCP %s;branch=z9hG4bK-%s", p.addr, branch), inner}
	}
	t.Run("in a call", func(t *testing.T) {
		for _, tt := range []struct {
			name, contact string
			listens       bool
		}{
			{"it listens", "<sip:101@192.0.2.101:5062;transport=tcp>", true},
			{"it does not", "<sip:101@192.0.2.101:5062;transport=tcp>", false},
			{"its Contact is elsewhere", "<sip:101@10.0.0.5:5060;transport=tcp>", false},
			{"its Contact is a name", "<sip:101@x.invalid;transport=tcp>", false},
		} {
			t.Run(tt.name, func(t *testing.T) {
				runScenario(t, func(s *testbed) {
					proxy := s.dialTCPPeer(phoneAt.Addr())
					proxy.send(proxy.newInvite(append(vias(proxy, "i"), "Contact: "+tt.contact)...))
					got := s.pbx.expect("the INVITE goes on", "INVITE")
					s.pbx.respond(got, "200 OK")
					proxy.expect("the answer", "SIP/2.0 200")
					s.sendToPhone(s.pbx.calleeRequest(got, "INFO"), proxy)
					proxy.closeAndForget()
					s.addTCPListener(proxy.addr)
					if !tt.listens {
						s.pbx.send(s.pbx.calleeRequest(got, "BYE"))
						s.pbx.expect("it is gone", "SIP/2.0 430")
					} else {
						s.sendToPhone(s.pbx.calleeRequest(got, "BYE"), s.addTCPListener(phoneAt))
					}
					s.expectNothing("the port it connected from is not tried")
				})
			})
		}
	})
	for _, mode := range []sip.Register{sip.RegisterPath, sip.RegisterContact} {
		t.Run("registered by "+string(mode), func(t *testing.T) {
			runScenario(t, func(s *testbed) {
				proxy := s.dialTCPPeer(phoneAt.Addr())
				route, uri := proxy.registerOver("101@pbx.example", "<sip:101@192.0.2.102:5062;transport=tcp>", vias(proxy, "r")...)
				s.sendToPhone(s.pbx.newRequest("MESSAGE", uri, route...), proxy)
				proxy.closeAndForget()
				s.pbx.send(s.pbx.newRequest("MESSAGE", uri, route...))
				s.pbx.expect("its URI leads nowhere", "SIP/2.0 430")
				s.sendToPhone(s.pbx.newRequest("MESSAGE", uri, route...), s.addTCPListener(otherAt))
			}, withRegister(mode))
		})
	}
}

// An upstream is a proxy or trunk that connects to the proxy, with clients behind it.
type upstream struct {
	name    string
	proto   sip.Proto
	trunk   sip.Trunk // without a name: it is none
	contact string    // of its client; SOURCE is the address that it connects from
	route   string    // Record-Route of the upstream, if it has one
	dialed  string    // address at which it gets the BYE when the connection is closed; "": nowhere
}

// upstreamAt is the address at which an upstream listens, if it does.
var upstreamAt = netip.MustParseAddrPort("203.0.113.9:5060")

// All of a call with a client behind an upstream takes the connection that the upstream has
// opened. If that is closed, the URI decides, within the limits that TLS and trunks have. The
// port that the upstream had connected from is never tried.
func TestCallStaysOnTheConnectionOfItsUpstream(t *testing.T) {
	overTCP := sip.Trunk{Name: "carrier", Sources: parsePrefixes("203.0.113.0/28")}
	overTLS := sip.Trunk{Name: "carrier", TLSNames: []string{"sip.carrier.example"}, To: []sip.Addr{{Proto: sip.TLS, AddrPort: upstreamAt}}}
	for _, tt := range []upstream{
		{name: "a proxy over TLS", proto: sip.TLS, contact: "<sip:101@10.0.0.5:5060;transport=tls>"},
		{name: "a proxy over TLS that listens", proto: sip.TLS, contact: "<sip:101@203.0.113.9:5060;transport=tls>"},
		{name: "a proxy over TLS that names its source", proto: sip.TLS, contact: "<sip:101@SOURCE;transport=tls>"},
		{name: "a proxy over TLS with a Record-Route", proto: sip.TLS, contact: "<sip:101@10.0.0.5>", route: "<sip:203.0.113.9:5060;transport=tls;lr>"},
		{name: "a proxy over TCP with a Record-Route", proto: sip.TCP, contact: "<sip:101@10.0.0.5>", route: "<sip:203.0.113.9:5060;transport=tcp;lr>", dialed: "203.0.113.9:5060"},
		{name: "a trunk over TCP", proto: sip.TCP, trunk: overTCP, contact: "<sip:5551234@203.0.113.9:5060;transport=tcp>", dialed: "203.0.113.9:5060"},
		{name: "a trunk over TCP with another server", proto: sip.TCP, trunk: overTCP, contact: "<sip:5551234@203.0.113.10:5070;transport=tcp>", dialed: "203.0.113.10:5070"},
		{name: "a trunk over TCP with a Record-Route", proto: sip.TCP, trunk: overTCP, contact: "<sip:5551234@10.0.0.5>", route: "<sip:203.0.113.10:5070;transport=tcp;lr>", dialed: "203.0.113.10:5070"},
		{name: "a trunk over TCP that names its source", proto: sip.TCP, trunk: overTCP, contact: "<sip:5551234@SOURCE;transport=tcp>"},
		{name: "a trunk over TCP with a client elsewhere", proto: sip.TCP, trunk: overTCP, contact: "<sip:5551234@10.0.0.5;transport=tcp>"},
		{name: "a trunk over TLS", proto: sip.TLS, trunk: overTLS, contact: "<sip:5551234@203.0.113.9:5060;transport=tls>", dialed: "203.0.113.9:5060"},
		{name: "a trunk over TLS without a transport", proto: sip.TLS, trunk: overTLS, contact: "<sip:5551234@203.0.113.9>", dialed: "203.0.113.9:5060"},
		{name: "a trunk over TLS with a Record-Route", proto: sip.TLS, trunk: overTLS, contact: "<sip:5551234@10.0.0.5>", route: "<sip:203.0.113.9:5060;transport=tls;lr>", dialed: "203.0.113.9:5060"},
		{name: "a trunk over TLS that names its source", proto: sip.TLS, trunk: overTLS, contact: "<sip:5551234@SOURCE;transport=tls>"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := &tlsBed{}
			runScenario(t, func(s *testbed) { tt.call(s, b) }, b.listen, func(c *sip.Config) {
				if tt.trunk.Name != "" {
					trunk := tt.trunk
					trunk.TLS = b.newClient("sip.carrier.example", nil)
					c.Trunks = []sip.Trunk{trunk}
				}
			})
		})
	}
}

// call lets the upstream call the PBX, and close its connection during the call.
func (u upstream) call(s *testbed, b *tlsBed) {
	s.t.Helper()
	certificate := b.ca.IssueTLS(siptest.CertificateRequest{Hosts: []string{"sip.carrier.example"}})
	var p *peer
	if u.proto == sip.TLS {
		p = s.dialTLSPeer(upstreamAt.Addr(), b, certificate)
	} else {
		p = s.dialTCPPeer(upstreamAt.Addr())
	}
	vias := func(branch string) []string {
		return []string{
			fmt.Sprintf("Via: SIP/2.0/%s %s;branch=z9hG4bK-%s", p.proto, upstreamAt, branch),
			"Via: SIP/2.0/UDP 10.0.0.5:5060;branch=z9hG4bK-inner" + branch,
			"Contact: " + strings.ReplaceAll(u.contact, "SOURCE", p.addr.String()),
		}
	}
	lines, route := vias("invite"), ""
	if u.route != "" {
		lines = append(lines, "Record-Route: "+u.route)
		route = "Route: " + u.route + "\r\n"
	}
	forward := func(request text) { p.send(request.replaced(route, "")) }
	p.send(p.newInvite(lines...))
	got := s.pbx.expect("the INVITE goes on", "INVITE")
	s.pbx.respond(got, "180 Ringing")
	p.expect("ringing", "SIP/2.0 180")
	s.pbx.respond(got, "200 OK")
	ok := p.expect("the answer", "SIP/2.0 200")
	assertEqual(s.t, "Vias of the answer", fmt.Sprint(len(ok.fieldValues("Via"))), "2")
	forward(p.callerRequest(ok, "ACK", vias("ack")...))
	s.pbx.expect("the ACK", "ACK")

	forward(p.callerRequest(ok, "INVITE", vias("hold")...))
	hold := s.pbx.expect("the upstream holds the call", "INVITE")
	s.pbx.respond(hold, "200 OK")
	p.expect("the answer", "SIP/2.0 200")
	forward(p.callerRequest(ok, "ACK", vias("hold-ack")...))
	s.pbx.expect("the ACK", "ACK")
	s.pbx.send(s.pbx.calleeRequest(got, "INVITE"))
	p.respond(p.expect("the PBX holds the call", "INVITE"), "200 OK")
	s.pbx.expect("the answer", "SIP/2.0 200")
	s.pbx.send(s.pbx.calleeRequest(got, "ACK"))
	p.expect("the ACK", "ACK")
	s.sendToPhone(s.pbx.calleeRequest(got, "INFO"), p)

	p.closeAndForget()
	_, opened := s.addTLSListener(p.addr, &tls.Config{Certificates: []tls.Certificate{certificate}})
	if u.dialed == "" {
		s.pbx.send(s.pbx.calleeRequest(got, "BYE"))
		s.pbx.expect("the upstream is gone", "SIP/2.0 430")
	} else {
		at := netip.MustParseAddrPort(u.dialed)
		l := s.addTCPListener(at)
		if u.proto == sip.TLS {
			l.close()
			l, _ = s.addTLSListener(at, &tls.Config{Certificates: []tls.Certificate{certificate}})
		}
		s.sendToPhone(s.pbx.calleeRequest(got, "BYE"), l)
	}
	s.expectNothing("nobody else gets it")
	assertEqual(s.t, "connections to the port that it had connected from", fmt.Sprint(opened.Load()), "0")
}

// A response whose connection is closed goes where the topmost Via says: over a new
// connection to a trunk, and to nobody else over TLS.
func TestResponseGoesToThePortOfAnUpstream(t *testing.T) { // RFC 3261 §18.2.2
	for _, proto := range []sip.Proto{sip.TCP, sip.TLS} {
		for _, trunk := range []bool{true, false} {
			t.Run(fmt.Sprint(proto, ", trunk ", trunk), func(t *testing.T) {
				b := &tlsBed{}
				runScenario(t, func(s *testbed) {
					certificate := b.ca.IssueTLS(siptest.CertificateRequest{Hosts: []string{"sip.carrier.example"}})
					p := s.dialTCPPeer(upstreamAt.Addr())
					if proto == sip.TLS {
						p = s.dialTLSPeer(upstreamAt.Addr(), b, certificate)
					}
					invite := p.newInvite(fmt.Sprintf("Via: SIP/2.0/%s %s;branch=z9hG4bK-i", p.proto, upstreamAt), "Via: SIP/2.0/UDP 10.0.0.5:5060;branch=z9hG4bK-inner")
					p.send(invite)
					got := s.pbx.expect("the INVITE goes on", "INVITE")
					p.closeAndForget()
					config := &tls.Config{Certificates: []tls.Certificate{certificate}}
					_, opened := s.addTLSListener(p.addr, config)
					l := s.addTCPListener(upstreamAt)
					if proto == sip.TLS {
						l.close()
						l, _ = s.addTLSListener(upstreamAt, config)
					}
					s.pbx.respond(got, "486 Busy Here")
					s.pbx.expect("it is acknowledged", "ACK")
					if trunk || proto == sip.TCP {
						answer := l.expect("the response", "SIP/2.0 486")
						assertEqual(t, "its Vias", fmt.Sprint(len(answer.fieldValues("Via"))), "2")
						l.sendACK(invite, answer)
					}
					s.expectNothing("nobody else gets it")
					assertEqual(t, "connections to the port that it had connected from", fmt.Sprint(opened.Load()), "0")
				}, b.listen, func(c *sip.Config) {
					if trunk {
						c.Trunks = []sip.Trunk{{Name: "carrier", TLSNames: []string{"sip.carrier.example"}, To: []sip.Addr{{Proto: proto, AddrPort: upstreamAt}}, TLS: b.newClient("sip.carrier.example", nil)}}
					}
				})
			})
		}
	}
}

// The Contact of a client behind another proxy names the port from which that proxy had
// connected.
func TestPortOfAClosedConnectionIsNotTriedForAContact(t *testing.T) {
	runScenario(t, func(s *testbed) {
		proxy := s.dialTCPPeer(phoneAt.Addr())
		via := fmt.Sprintf("Via: SIP/2.0/TCP %s;branch=z9hG4bK-r", proxy.addr)
		route, uri := proxy.registerOver("101@pbx.example", proxy.contact(), via, "Via: SIP/2.0/UDP 10.0.0.5:5060;branch=z9hG4bK-inner")
		proxy.closeAndForget()
		s.addTCPListener(proxy.addr)
		s.pbx.send(s.pbx.newRequest("MESSAGE", uri, route...))
		s.pbx.expect("it is closed", "SIP/2.0 430")
		s.expectNothing("nobody else gets it")
	})
}

// bellhop has connected to a phone, and the phone calls over that connection. When it is
// closed, bellhop connects again, because the phone listens at its port.
func TestPhoneThatWasConnectedToIsConnectedToAgain(t *testing.T) {
	runScenario(t, func(s *testbed) {
		phone := s.addTCPListener(phoneAt)
		s.sendToPhone(s.pbx.newRequest("MESSAGE", "sip:101@192.0.2.101:5062;transport=tcp"), phone)
		call := phone.setUpCall(s.pbx)
		s.sendToPhone(s.pbx.calleeRequest(call.invite, "INFO"), phone)
		phone.closeConn()
		phone.discardReceived()
		s.sendToPhone(s.pbx.calleeRequest(call.invite, "BYE"), phone)
	}, withRegister(sip.RegisterNone))
}

// A request over a closed connection is answered 430 at once. The port from which the
// phone had connected is never tried.
func TestClosedConnectionIsAnswered430(t *testing.T) {
	for _, tt := range []struct {
		name, contact string
		listener      string // "": nobody listens
		want          string
	}{
		{"a Contact that leads nowhere", "<sip:101@10.0.0.5:5060;transport=tcp>", "", "SIP/2.0 430"},
		{"a name", "<sip:101@df7jal23ls0d.invalid;transport=ws>", "", "SIP/2.0 430"},
		{"another host", "<sip:101@192.0.2.102:5062;transport=tcp>", "192.0.2.102:5062", "SIP/2.0 430"},
		{"another transport", "<sip:101@192.0.2.101:5062>", "", "SIP/2.0 430"},
		{"the port it connected from", "<sip:101@SOURCE;transport=tcp>", "SOURCE", "SIP/2.0 430"},
		{"a port at which nobody listens", "<sip:101@192.0.2.101:5070;transport=tcp>", "", "SIP/2.0 430"},
		{"a port at which it listens", "<sip:101@192.0.2.101:5070;transport=tcp>", "192.0.2.101:5070", "SIP/2.0 200"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			runScenario(t, func(s *testbed) {
				phone := s.dialTCPPeer(phoneAt.Addr())
				contact := strings.ReplaceAll(tt.contact, "SOURCE", phone.addr.String())
				route, uri := phone.registerOver("101@pbx.example", contact)
				call := phone.setUpCall(s.pbx, "Contact: "+contact)
				phone.closeAndForget()
				var l *peer
				if tt.listener != "" {
					l = s.addTCPListener(netip.MustParseAddrPort(strings.ReplaceAll(tt.listener, "SOURCE", phone.addr.String())))
				}
				for _, request := range []text{s.pbx.newRequest("MESSAGE", uri, route...), s.pbx.calleeRequest(call.invite, "BYE")} {
					s.pbx.send(request)
					if tt.want == "SIP/2.0 200" {
						l.respond(l.expect("the phone listens", request.startLine()[:3]), "200 OK")
					}
					s.pbx.expect("at once", tt.want)
				}
				s.expectNothing("nobody else gets it")
			})
		})
	}
}

// The response to a request whose connection is closed goes to the port of sent-by, never
// to the port from which the peer had connected. Its transaction ends, whatever happens to
// it.
func TestResponseToAClosedConnectionEndsItsTransaction(t *testing.T) {
	runScenario(t, func(s *testbed) {
		for _, method := range []string{"BYE", "INVITE", "MESSAGE"} {
			for _, status := range []string{"200 OK", "486 Busy Here", "503 Service Unavailable"} {
				phone := s.dialTCPPeer(phoneAt.Addr())
				phone.send(phone.newRequest(method, "sip:102@pbx.example"))
				got := s.pbx.expect("it goes on", method)
				phone.closeAndForget()
				ephemeral := s.addTCPListener(phone.addr)
				s.pbx.respond(got, status)
				if method == "INVITE" && status != "200 OK" {
					s.pbx.expect("it is acknowledged", "ACK")
				}
				s.expectNothing("nobody gets the response")
				ephemeral.close()
			}
		}
	})
}
