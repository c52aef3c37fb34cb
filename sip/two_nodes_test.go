package sip_test

import (
	"bytes"
	"net/netip"
	"testing"

	"bellhop/sip"
)

// Two nodes with one key share a virtual address, which the second takes over. It knows the
// tokens of the first: the PBX reaches phones that have registered at the first, and both
// ends of a call of the first go on, all from the virtual address.
func TestSecondNodeTakesOver(t *testing.T) {
	var second sip.Config
	node := func(own string) func(c *sip.Config) {
		return func(c *sip.Config) {
			virtual := c.Listen[0].AddrPort
			c.Listen = listenOn(sip.Addr{Proto: sip.UDP, AddrPort: netip.MustParseAddrPort(own)}, sip.Addr{Proto: sip.UDP, AddrPort: virtual})
		}
	}
	runScenario(t, func(s *testbed) {
		s.phone.send(s.phone.newRequest("REGISTER", "sip:pbx.example", "To: <sip:101@pbx.example>"))
		register := s.pbx.expect("sent on", "REGISTER")
		s.pbx.respond(register, "200 OK")
		s.phone.expect("registered", "SIP/2.0 200")
		c := s.phone.setUpCall(s.pbx)
		s.stop()
		s.startProxy(second)
		for _, request := range []text{
			s.pbx.newRequest("MESSAGE", "sip:101@192.0.2.101:5062", "Route: "+register.fieldValue("Path")),
			s.pbx.calleeRequest(c.invite, "INFO"),
		} {
			s.pbx.send(request)
			got := s.phone.expect("from the second node", request.method())
			assertEqual(t, "it leaves from", s.phone.lastSource.String(), proxyAt.String())
			assertEqual(t, "Route", got.fieldValue("Route"), "")
			s.phone.respond(got, "200 OK")
			s.pbx.expect("answer", "SIP/2.0 200")
		}
		s.phone.send(s.phone.callerRequest(c.ok, "BYE"))
		s.pbx.respond(s.pbx.expect("the phone hangs up", "BYE"), "200 OK")
		assertEqual(t, "it leaves from", s.pbx.lastSource.String(), proxyAt.String())
		s.phone.expect("answer", "SIP/2.0 200")

		second.Key = bytes.Repeat([]byte("x"), 32)
		s.stop()
		s.startProxy(second)
		s.pbx.send(s.pbx.calleeRequest(c.invite, "INFO"))
		s.pbx.expect("a node with another key", "SIP/2.0 403 Forged Route")
	}, func(c *sip.Config) {
		second = *c
		node("192.0.2.12:5060")(&second)
		node("192.0.2.11:5060")(c)
	})
}
