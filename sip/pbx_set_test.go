package sip_test

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"bellhop/sip"
	"bellhop/sip/resolve/resolvetest"
)

// udpAddrs returns the configured form of addresses over UDP.
func udpAddrs(list ...netip.AddrPort) (as []sip.Addr) {
	for _, a := range list {
		as = append(as, sip.Addr{Proto: sip.UDP, AddrPort: a})
	}
	return as
}

// setPBXs replaces the PBXs.
func (s *testbed) setPBXs(configured ...sip.Addr) {
	s.t.Helper()
	s.probes = true
	if err := s.proxy.SetPBXs(configured, nil); err != nil {
		s.t.Fatal(err)
	}
}

// The only PBX is replaced. New calls go to the new PBX. The calls and bindings of the former
// one go on for an hour.
func TestPBXIsReplaced(t *testing.T) {
	runScenario(t, func(s *testbed) {
		second := s.addUDPPeer(secondAt)
		s.phone.send(s.phone.newRequest("REGISTER", "sip:pbx.example", "To: <sip:101@pbx.example>"))
		register := s.pbx.expect("the REGISTER", "REGISTER")
		path := register.fieldValue("Path")
		s.pbx.respond(register, "200 OK")
		s.phone.expect("answer", "SIP/2.0 200")
		first, other := s.phone.setUpCall(s.pbx), s.phone.setUpCall(s.pbx)

		s.setPBXs(udpAddrs(secondAt)...)
		s.sendMessage(second, "a new request")
		s.phone.send(s.phone.callerRequest(first.ok, "BYE"))
		s.pbx.respond(s.pbx.expect("within the dialog", "BYE"), "200 OK")
		s.phone.expect("answer", "SIP/2.0 200")
		s.pbx.send(s.pbx.calleeRequest(other.invite, "BYE"))
		s.phone.respond(s.phone.expect("the former PBX hangs up", "BYE"), "200 OK")
		s.pbx.expect("answer", "SIP/2.0 200")
		s.pbx.send(s.pbx.newRequest("INVITE", "sip:101@192.0.2.101:5062", "Route: "+path))
		invite := s.phone.expect("a call to the binding", "INVITE")
		s.phone.respond(invite, "200 OK")
		s.pbx.send(s.pbx.callerRequest(s.pbx.expect("answer", "SIP/2.0 200"), "ACK"))
		s.phone.expect("the ACK", "ACK")
		s.phone.send(s.phone.calleeRequest(invite, "BYE"))
		s.pbx.respond(s.pbx.expect("the phone hangs up", "BYE"), "200 OK")
		s.phone.expect("answer", "SIP/2.0 200")
		s.phone.send(s.phone.newRequest("MESSAGE", "sip:102@pbx.example", "Route: <sip:192.0.2.2:5060;lr>"))
		s.phone.expect("no new request goes to the former PBX", "SIP/2.0 403")

		s.advance(time.Hour)
		s.pbx.send(s.pbx.newRequest("MESSAGE", "sip:101@192.0.2.101:5062"))
		second.respond(second.expect("the former PBX is a stranger", "MESSAGE"), "404 Not Found")
		s.pbx.expect("answer", "SIP/2.0 404")
	})
}

// A PBX is added in front of the only one. The phones stay at the PBX that has accepted their
// REGISTER, and both PBXs are probed. Then the added one is taken away again.
func TestPBXIsAdded(t *testing.T) {
	runScenario(t, func(s *testbed) {
		second := s.addUDPPeer(secondAt)
		s.phone.send(s.phone.newRequest("REGISTER", "sip:pbx.example", "To: <sip:101@pbx.example>"))
		s.pbx.respond(s.pbx.expect("the REGISTER", "REGISTER"), "200 OK")
		s.phone.expect("answer", "SIP/2.0 200")

		s.setPBXs(udpAddrs(secondAt, pbxAt)...)
		second.respond(second.expect("a probe at once", "OPTIONS"), "200 OK")
		s.pbx.respond(s.pbx.expect("a probe at once", "OPTIONS"), "200 OK")
		s.sendMessage(s.pbx, "of a phone that is registered there")
		other := s.addUDPPeer(otherAt)
		other.send(other.newRequest("MESSAGE", "sip:102@pbx.example", "From: <sip:103@pbx.example>;tag=1"))
		second.respond(second.expect("of another phone", "MESSAGE"), "200 OK")
		other.expect("answer", "SIP/2.0 200")
		s.advance(20 * time.Second) // no PBX answers OPTIONS
		if s.proxy.PBXReachable() {
			t.Error("a PBX is up")
		}
		s.pbx.discardReceived()
		second.discardReceived()

		s.setPBXs(udpAddrs(pbxAt)...)
		if !s.proxy.PBXReachable() {
			t.Error("the only PBX is down")
		}
		s.sendMessage(s.pbx, "to the only PBX")
		s.advance(10 * time.Second)
		s.expectNothing("no probe")
		s.advance(time.Hour)
		s.probes = false
	})
}

// A PBX gets a name instead of its address while the name server is slow. No request is
// refused meanwhile, and calls of the address go on under the name.
func TestPBXGetsAName(t *testing.T) {
	server := resolvetest.NewServer(t, "pbx.example. 60 A 192.0.2.2")
	server.Respond = func(_ string, _ netip.AddrPort, q *dns.Msg) (*dns.Msg, time.Duration) {
		return server.Answer(q), time.Second
	}
	runScenario(t, func(s *testbed) {
		call := s.phone.setUpCall(s.pbx)
		done := make(chan bool)
		go func() {
			s.setPBXs(sip.Addr{Proto: sip.UDP, Host: "pbx.example"})
			close(done)
		}()
		s.advance(500 * ms)
		s.sendMessage(s.pbx, "during the lookup")
		<-done
		s.sendMessage(s.pbx, "after it")
		s.phone.send(s.phone.callerRequest(call.ok, "INFO"))
		s.pbx.respond(s.pbx.get("within the dialog", "INFO"), "200 OK")
		s.phone.expect("answer", "SIP/2.0 200")
		s.advance(2 * time.Hour)
		s.phone.send(s.phone.callerRequest(call.ok, "BYE"))
		s.pbx.respond(s.pbx.get("an hour after the address was removed", "BYE"), "200 OK")
		s.phone.expect("answer", "SIP/2.0 200")
	}, func(c *sip.Config) { c.DialNameServer = server.Dial })
}

// A name without an address delays the change, but does not prevent it.
func TestPBXGetsANameThatIsNotResolved(t *testing.T) {
	server := resolvetest.NewServer(t, "")
	server.Respond = func(string, netip.AddrPort, *dns.Msg) (*dns.Msg, time.Duration) { return nil, 0 }
	runScenario(t, func(s *testbed) {
		start := time.Now()
		s.setPBXs(sip.Addr{Proto: sip.UDP, Host: "pbx.example"})
		if d := time.Since(start); d != 3*time.Second {
			t.Errorf("the change took %v, want 3 s", d)
		}
		s.phone.send(s.phone.newRequest("MESSAGE", "sip:102@pbx.example"))
		s.phone.expect("there is no PBX", "SIP/2.0 500")
		s.setPBXs(udpAddrs(pbxAt)...)
		s.sendMessage(s.pbx, "the address again")
	}, func(c *sip.Config) { c.DialNameServer = server.Dial })
}

// A PBX that cannot be used changes nothing.
func TestPBXThatNoListenerReachesIsRefused(t *testing.T) {
	runScenario(t, func(s *testbed) {
		for _, a := range []sip.Addr{
			{Proto: sip.TLS, AddrPort: secondAt},
			{Proto: sip.UDP, AddrPort: proxyAt},
			{Proto: sip.TLS, Host: "pbx.example"},
		} {
			if err := s.proxy.SetPBXs([]sip.Addr{{Proto: sip.UDP, Host: "other.example"}, a}, nil); err == nil || !strings.Contains(err.Error(), a.String()) {
				t.Errorf("%v: error %v", a, err)
			}
		}
		s.sendMessage(s.pbx, "as before")
	})
}
