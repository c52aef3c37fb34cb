package sip_test

import (
	"net/netip"
	"strings"
	"testing"

	"bellhop/sip"
)

// publicPhone is a phone outside of the local networks, behind no NAT.
var publicPhone = netip.MustParseAddrPort("198.51.100.7:5062")

// advertised gives all listeners an advertised name. The network of the testbed's peers,
// except publicPhone, is local.
func advertised(c *sip.Config) {
	for i := range c.Listen {
		c.Listen[i].Advertise = sip.HostPort{Host: "sip.example.com", Port: 5066}
	}
	c.LocalNets = parsePrefixes("192.0.2.0/24")
}

// hosts returns the host and port of each Record-Route of m.
func hosts(m text) string {
	var all []string
	for _, v := range splitValues(m.fieldValues("Record-Route")) {
		_, host, _ := strings.Cut(bracketedURI(v), "@")
		host, _, _ = strings.Cut(host, ";lr")
		all = append(all, host)
	}
	return strings.Join(all, " ")
}

// sentBy returns the sent-by of the topmost Via of m.
func sentBy(m text) string {
	v, _, _ := strings.Cut(m.fieldValue("Via"), ";")
	_, v, _ = strings.Cut(v, " ")
	return v
}

func TestAdvertisedNameIsOurs(t *testing.T) {
	runScenario(t, func(s *testbed) {
		for _, uri := range []string{"sip:sip.example.com:5066", "sip:SIP.example.COM:5066", "sip:192.0.2.1"} {
			s.phone.send(s.phone.newRequest("OPTIONS", uri))
			s.phone.expect("it is ours", "SIP/2.0 200")
		}
		s.phone.send(s.phone.newRequest("OPTIONS", "sip:sip.example.com"))
		s.pbx.respond(s.pbx.expect("another port is not", "OPTIONS"), "404 Not Found")
		s.phone.expect("answer", "SIP/2.0 404")
		for _, route := range []string{"sip.example.com:5066", "192.0.2.1", "192.0.2.1:5060;transport=tcp"} {
			s.phone.send(s.phone.newRequest("SUBSCRIBE", "sip:102@pbx.example", "Route: <sip:"+route+";lr>"))
			got := s.pbx.expect("its Route is ours", "SUBSCRIBE")
			assertEqual(t, "Route", got.fieldValue("Route"), "")
			s.pbx.respond(got, "200 OK")
			s.phone.expect("answer", "SIP/2.0 200")
		}
	}, advertised)
}

// Each side of a call knows the proxy by its own name, on one socket (1:1 NAT). Requests
// within the dialog pass from each end.
func TestEachSideKnowsTheProxyByItsOwnName(t *testing.T) { // RFC 5658 §4
	const real, advert = "192.0.2.1:5060", "sip.example.com:5066"
	for _, tt := range []struct {
		name       string
		phone      netip.AddrPort
		phoneKnows string
	}{
		{"outside", publicPhone, advert},
		{"in a local network", otherAt, real},
	} {
		t.Run(tt.name, func(t *testing.T) {
			toPBX, toPhone := real, real
			if tt.phoneKnows != real {
				toPBX, toPhone = real+" "+advert, advert+" "+real
			}
			runScenario(t, func(s *testbed) {
				phone := s.addUDPPeer(tt.phone)
				phone.name = "outside"
				c := phone.setUpCall(s.pbx)
				assertEqual(t, "Via to the PBX", sentBy(c.invite), real)
				assertEqual(t, "Record-Route to the PBX", hosts(c.invite), toPBX)
				assertEqual(t, "Record-Route to the phone", hosts(c.ok), toPBX)
				phone.send(phone.callerRequest(c.ok, "INVITE"))
				again := s.pbx.expect("a re-INVITE of the phone", "INVITE")
				assertEqual(t, "Route", again.fieldValue("Route"), "")
				assertEqual(t, "Record-Route to the PBX", hosts(again), toPBX)
				s.pbx.respond(again, "200 OK")
				phone.send(phone.callerRequest(phone.expect("answer", "SIP/2.0 200"), "ACK"))
				assertEqual(t, "Via", sentBy(s.pbx.expect("its ACK", "ACK")), real)
				reinvite := s.pbx.calleeRequest(c.invite, "INVITE")
				s.pbx.send(reinvite)
				again = phone.expect("a re-INVITE of the PBX", "INVITE")
				assertEqual(t, "Via to the phone", sentBy(again), tt.phoneKnows)
				assertEqual(t, "Route", again.fieldValue("Route"), "")
				assertEqual(t, "Record-Route to the phone", hosts(again), toPhone)
				phone.respond(again, "488 Not Acceptable Here")
				ack := phone.expect("acknowledged", "ACK")
				assertEqual(t, "the ACK has the Via of its INVITE", ack.fieldValue("Via"), again.fieldValue("Via"))
				s.pbx.sendACK(reinvite, s.pbx.expect("refused", "SIP/2.0 488"))
				s.pbx.send(s.pbx.calleeRequest(c.invite, "BYE"))
				bye := phone.expect("the PBX hangs up", "BYE")
				assertEqual(t, "Via to the phone", sentBy(bye), tt.phoneKnows)
				phone.respond(bye, "200 OK")
				s.pbx.expect("answer", "SIP/2.0 200")
			}, advertised)
		})
	}
}

func TestACallToAPhoneOutsideHasTheAdvertisedName(t *testing.T) {
	for _, register := range []sip.Register{sip.RegisterPath, sip.RegisterContact} {
		t.Run(string(register), func(t *testing.T) {
			runScenario(t, func(s *testbed) {
				phone := s.addUDPPeer(publicPhone)
				phone.send(phone.newRequest("REGISTER", "sip:pbx.example", "To: <sip:101@pbx.example>"))
				got := s.pbx.expect("sent on", "REGISTER")
				assertEqual(t, "Via to the PBX", sentBy(got), "192.0.2.1:5060")
				invite := s.pbx.newInvite("Route: " + got.fieldValue("Path"))
				ours := got.fieldValue("Path")
				if register == sip.RegisterContact {
					ours = got.fieldValue("Contact")
					invite = s.pbx.newRequest("INVITE", bracketedURI(ours))
				}
				if !strings.Contains(ours, "192.0.2.1:5060;") || strings.Contains(ours, "sip.example.com") {
					t.Errorf("the PBX is to call %s", ours)
				}
				s.pbx.respond(got, "200 OK")
				phone.expect("registered", "SIP/2.0 200")
				s.pbx.send(invite)
				called := phone.expect("the call", "INVITE")
				assertEqual(t, "Via to the phone", sentBy(called), "sip.example.com:5066")
				assertEqual(t, "Record-Route to the phone", hosts(called), "sip.example.com:5066 192.0.2.1:5060")
				phone.respond(called, "180 Ringing")
				s.pbx.expect("ringing", "SIP/2.0 180")
				s.pbx.sendCancel(invite)
				s.pbx.expect("answered at once", "SIP/2.0 200")
				cancel := phone.expect("canceled", "CANCEL")
				assertEqual(t, "the CANCEL has the Via of its INVITE", cancel.fieldValue("Via"), called.fieldValue("Via"))
				phone.respond(cancel, "200 OK")
				phone.respond(called, "487 Request Terminated")
				assertEqual(t, "and so has the ACK", phone.expect("acknowledged", "ACK").fieldValue("Via"), called.fieldValue("Via"))
				s.pbx.sendACK(invite, s.pbx.expect("the end", "SIP/2.0 487"))
			}, advertised, withRegister(register))
		})
	}
}

// A PBX in another network knows a listener of its own by the name that is advertised
// there. Without one, it knows the address.
func TestListenerOfThePBXHasItsOwnName(t *testing.T) {
	inside := netip.MustParseAddrPort("192.0.2.3:5060")
	for _, tt := range []struct {
		advertise sip.HostPort
		want      string
	}{
		{sip.HostPort{}, "192.0.2.3:5060"},
		{sip.HostPort{Host: "inside.example"}, "inside.example:5060"},
		{sip.HostPort{Host: "inside.example", Port: 5080}, "inside.example:5080"},
	} {
		t.Run(tt.want, func(t *testing.T) {
			runScenario(t, func(s *testbed) {
				s.pbx.proxyAddr = inside
				phone := s.addUDPPeer(publicPhone)
				c := phone.setUpCall(s.pbx)
				assertEqual(t, "Via to the PBX", sentBy(c.invite), tt.want)
				assertEqual(t, "Record-Route", hosts(c.invite), tt.want+" sip.example.com:5066")
				assertEqual(t, "by its own listener", s.pbx.lastSource.String(), inside.String())
				s.pbx.send(s.pbx.calleeRequest(c.invite, "BYE"))
				phone.respond(phone.expect("the PBX hangs up", "BYE"), "200 OK")
				assertEqual(t, "by the listener that the phone knows", phone.lastSource.String(), proxyAt.String())
				s.pbx.expect("answer", "SIP/2.0 200")
			}, advertised, func(c *sip.Config) {
				c.Listen[0].Side = sip.EdgeListener
				c.Listen = append(c.Listen, sip.Listener{Addr: sip.Addr{Proto: sip.UDP, AddrPort: inside}, Advertise: tt.advertise, Side: sip.PBXListener})
			})
		})
	}
}

// The advertised name changes while a call is up. New messages have the new name. Requests
// of the call arrive, from both ends, under the old name and under the new one.
func TestAdvertisedNameChanges(t *testing.T) {
	runScenario(t, func(s *testbed) {
		phone := s.addUDPPeer(publicPhone)
		c := phone.setUpCall(s.pbx)
		assertEqual(t, "Record-Route to the phone", hosts(c.ok), "192.0.2.1:5060 sip.example.com:5066")
		for _, tt := range []struct{ host, want string }{{"new.example.com", "new.example.com:5060"}, {"", "192.0.2.1:5060"}} {
			name := sip.HostPort{Host: tt.host}
			s.proxy.Advertise([]sip.HostPort{name, name})
			s.pbx.send(s.pbx.calleeRequest(c.invite, "INFO"))
			info := phone.expect("a request of the PBX", "INFO")
			assertEqual(t, "Via", sentBy(info), tt.want)
			assertEqual(t, "URI", s.proxy.Listeners()[1].URI, "sip:"+tt.want+";transport=tcp")
			assertEqual(t, "Route", info.fieldValue("Route"), "")
			phone.respond(info, "200 OK")
			s.pbx.expect("answer", "SIP/2.0 200")
			phone.send(phone.callerRequest(c.ok, "INFO"))
			got := s.pbx.expect("a request under the old name", "INFO")
			assertEqual(t, "Route", got.fieldValue("Route"), "")
			s.pbx.respond(got, "200 OK")
			phone.expect("answer", "SIP/2.0 200")
			next := phone.setUpCall(s.pbx)
			s.pbx.send(s.pbx.calleeRequest(next.invite, "BYE"))
			phone.respond(phone.expect("a call under the new name", "BYE"), "200 OK")
			s.pbx.expect("answer", "SIP/2.0 200")
		}
		phone.send(phone.callerRequest(c.ok, "BYE"))
		s.pbx.respond(s.pbx.expect("the phone hangs up", "BYE"), "200 OK")
		phone.expect("answer", "SIP/2.0 200")
	}, advertised)
}
