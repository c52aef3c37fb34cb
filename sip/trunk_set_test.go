package sip_test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"bellhop/sip"
	"bellhop/sip/siptest"
)

// The trunks change while the proxy runs: other sources, another secret, other addresses.
// OPTIONS go to the addresses that there are now, and the count of refused calls stays.
func TestTrunksChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		first, second := carrierAt, netip.MustParseAddrPort("203.0.113.10:5060")
		trunk := func(name, secret string, maxCPS int, to ...netip.AddrPort) (tr sip.Trunk) {
			tr = sip.Trunk{Name: name, Secret: secret, MaxCPS: maxCPS, Probe: time.Minute}
			for _, a := range to {
				tr.To = append(tr.To, sip.Addr{Proto: sip.UDP, AddrPort: a})
			}
			return tr
		}
		s := newTestbed(t, func(c *sip.Config) { c.Trunks = []sip.Trunk{trunk("carrier", "first-secret-0123", 1, first)} })
		defer s.closeAll()
		a, b := s.addUDPPeer(first), s.addUDPPeer(second)
		s.proxy.Prove(first.Addr())
		s.proxy.Prove(second.Addr())
		s.advance(time.Minute)
		a.respond(a.expectLast("OPTIONS", "OPTIONS"), "200 OK")
		secretOf := func(p *peer) string {
			t.Helper()
			invite := p.newInvite()
			p.send(invite)
			got := s.pbx.expect("a call of "+p.name, "INVITE")
			s.pbx.respond(got, "486 Busy Here")
			p.sendACK(invite, p.expect("the answer", "SIP/2.0 486"))
			s.pbx.expect("its ACK", "ACK")
			return got.fieldValue("X-Bellhop-Trunk")
		}
		for range 2 { // the second call is refused
			invite := s.pbx.newInvite().replaced("sip:102@pbx.example SIP", "sip:5551234@"+first.String()+" SIP")
			s.pbx.send(invite)
			if m, ok := a.nextMessage(); ok {
				a.respond(m, "486 Busy Here")
				a.expect("its ACK", "ACK")
			}
			s.pbx.sendACK(invite, s.pbx.expect("the answer", "SIP/2.0 "))
		}
		assertEqual(t, "secret of the first", secretOf(a), "first-secret-0123")
		assertEqual(t, "secret of the second", secretOf(b), "")

		s.proxy.SetTrunks([]sip.Trunk{trunk("carrier", "other-secret-0123", 1, first, second)})
		b.respond(b.expect("OPTIONS at once", "OPTIONS"), "200 OK")
		s.expectNothing("the probe of the first goes on as it was")
		assertEqual(t, "secret of the first", secretOf(a), "other-secret-0123")
		assertEqual(t, "secret of the second", secretOf(b), "other-secret-0123")
		state := s.proxy.TrunkStates()[0]
		assertEqual(t, "trunk", fmt.Sprint(state.Name, " ", state.Refused), "carrier 1")
		assertEqual(t, "states", describeStates(state.Targets), `udp://203.0.113.9:5060 up "200 OK", udp://203.0.113.10:5060 up "200 OK"`)
		s.advance(time.Minute)
		for _, p := range []*peer{a, b} {
			p.respond(p.expect("OPTIONS", "OPTIONS"), "200 OK")
		}

		s.proxy.SetTrunks([]sip.Trunk{trunk("carrier", "other-secret-0123", 0, second), trunk("new", "", 0)})
		s.expectNothing("no OPTIONS")
		assertEqual(t, "secret of the first", secretOf(a), "")
		assertEqual(t, "secret of the second", secretOf(b), "other-secret-0123")
		s.advance(time.Minute)
		b.respond(b.expect("OPTIONS", "OPTIONS"), "200 OK")
		s.expectNothing("the first is no trunk")

		s.proxy.SetTrunks(nil)
		assertEqual(t, "secret of the second", secretOf(b), "")
		s.advance(10 * time.Minute)
		s.expectNothing("no trunks, no OPTIONS")
		assertEqual(t, "states", fmt.Sprint(s.proxy.TrunkStates()), "[]")
		s.stop()
		if n := s.proxy.Held(); n != 0 {
			t.Errorf("%d transactions and timers are left", n)
		}
	})
}

// A call is up over a connection that its certificate has made a trunk's. The settings of
// the trunk change, then the trunk goes. The connection and the call live on.
func TestTrunkOfOpenConnectionChanges(t *testing.T) {
	b := &tlsBed{}
	runScenario(t, func(s *testbed) {
		trunk := sip.Trunk{Name: "carrier", Secret: "first-secret-0123", TLSNames: []string{"sip.carrier.example"}, TLS: b.newClient("sip.carrier.example", nil)}
		s.proxy.SetTrunks([]sip.Trunk{trunk})
		p := s.dialTLSPeer(tlsCarrierAt.Addr(), b, b.ca.IssueTLS(siptest.CertificateRequest{Hosts: []string{"sip.carrier.example"}}))
		invite := p.newInvite()
		p.send(invite)
		got := s.pbx.expect("a call", "INVITE")
		assertEqual(t, "secret", got.fieldValue("X-Bellhop-Trunk"), "first-secret-0123")
		s.pbx.respond(got, "200 OK")
		ok := p.expect("answered", "SIP/2.0 200")
		p.send(p.callerRequest(ok, "ACK"))
		s.pbx.expect("the ACK", "ACK")
		for _, secret := range []string{"other-secret-0123", ""} {
			trunk.Secret = secret
			s.proxy.SetTrunks([]sip.Trunk{trunk})
			if secret == "" {
				s.proxy.SetTrunks(nil)
			}
			p.send(p.callerRequest(ok, "INFO"))
			info := s.pbx.expect("a request in the call", "INFO")
			assertEqual(t, "secret", info.fieldValue("X-Bellhop-Trunk"), secret)
			s.pbx.respond(info, "200 OK")
			p.expect("the answer", "SIP/2.0 200")
		}
		s.pbx.send(s.pbx.calleeRequest(got, "BYE"))
		p.respond(p.expect("over the same connection", "BYE"), "200 OK")
		s.pbx.expect("the answer", "SIP/2.0 200")
	}, b.listen, func(c *sip.Config) {
		c.Trunks = []sip.Trunk{{Name: "other", TLSNames: []string{"sip.other.example"}, TLS: b.newClient("sip.other.example", nil)}}
	})
}

// A trunk at the address of a listener gets no requests: calls would loop.
func TestTrunkAtListenerGetsNothing(t *testing.T) {
	runScenario(t, func(s *testbed) {
		s.proxy.SetTrunks([]sip.Trunk{{Name: "carrier", To: []sip.Addr{{Proto: sip.UDP, AddrPort: proxyAt}}, Probe: time.Minute}})
		if !strings.Contains(s.log.String(), "calls would loop") {
			t.Errorf("log: %s", s.log)
		}
		s.advance(time.Minute)
		to := s.proxy.TrunkStates()[0].Targets
		if len(to) != 1 || to[0].State != sip.TargetDown || to[0].Addr.IsValid() || !strings.Contains(to[0].Error, "is the listener udp://192.0.2.1:5060 of bellhop: calls would loop") {
			t.Errorf("states: %+v", to)
		}
		s.proxy.SetTrunks(nil)
	})
}
