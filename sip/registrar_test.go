package sip_test

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"bellhop/sip"
	"bellhop/sip/resolve/resolvetest"
)

// A carrier has two registrars with one name. Each knows only the accounts that have
// registered there, and its own nonces. So a PBX that registers through bellhop reaches one
// of them with all its requests, whether the name is that of a trunk or of no trunk.
func TestRequestsGoToTheRegistrarOfTheirAccount(t *testing.T) {
	const both = "carrier.example. 60 A 198.51.100.1\ncarrier.example. 60 A 198.51.100.2"
	for _, trunk := range []bool{true, false} {
		t.Run(fmt.Sprintf("trunk=%t", trunk), func(t *testing.T) {
			server := resolvetest.NewServer(t, both)
			runScenario(t, func(s *testbed) {
				registrars := map[string]*peer{}
				for _, a := range []string{"198.51.100.1:5060", "198.51.100.2:5060"} {
					registrars[a] = s.addUDPPeer(netip.MustParseAddrPort(a))
				}
				s.advance(time.Second)
				next := func() (*peer, text) {
					t.Helper()
					s.advance(0)
					for _, p := range registrars {
						if m, ok := p.nextMessage(); ok {
							return p, m
						}
					}
					t.Fatal("no registrar got anything")
					return nil, ""
				}
				account := func(user string) []string {
					return []string{fmt.Sprintf("From: <sip:%s@carrier.example>;tag=1", user), fmt.Sprintf("To: <sip:%s@carrier.example>", user)}
				}
				register := func(user string) *peer {
					t.Helper()
					first := s.pbx.newRequest("REGISTER", "sip:carrier.example", account(user)...)
					s.pbx.send(first)
					challenger, m := next()
					challenger.respond(m, "401 Unauthorized")
					s.pbx.expect("a challenge", "SIP/2.0 401")
					again := s.pbx.newRequest("REGISTER", "sip:carrier.example", append(account(user), "Call-ID: "+first.fieldValue("Call-ID"), "Authorization: Digest nonce=1")...)
					s.pbx.send(again)
					p, m := next()
					if p != challenger {
						t.Error("the credentials go to the other registrar")
					}
					p.respond(m, "200 OK", "Contact: <sip:192.0.2.2:5060>;expires=600")
					s.pbx.expect("registered", "SIP/2.0 200")
					return p
				}
				call := func(to *peer, what, from string) {
					t.Helper()
					for range 8 { // each with a Call-ID of its own
						s.pbx.send(s.pbx.newRequest("MESSAGE", "sip:+1555@carrier.example", "From: <sip:"+from+">;tag=1"))
						p, m := next()
						if p != to {
							t.Fatalf("%s: a request goes to %v, want %v", what, p.addr, to.addr)
						}
						p.respond(m, "200 OK")
						s.pbx.expect("answer", "SIP/2.0 200")
					}
				}
				at := map[string]string{} // the users that are registered at each registrar
				for n := 0; len(at) < 2; n++ {
					user := fmt.Sprint("user", n)
					at[register(user).addr.String()] = user
					if n > 30 {
						t.Fatal("all accounts register at one registrar")
					}
				}
				last := register("last")
				for a, user := range at {
					call(registrars[a], "the registrar of the account", user+"@carrier.example")
					call(registrars[a], "of the account, with the host of the PBX", user+"@192.0.2.2")
				}
				call(last, "another sender: the last registrar", "5551234@192.0.2.2")

				other := registrars["198.51.100.1:5060"]
				if other == last {
					other = registrars["198.51.100.2:5060"]
				}
				server.SetZone(t, "carrier.example. 60 A "+other.addr.Addr().String())
				s.advance(2 * time.Minute)
				call(last, "the name leads to the other registrar now", "last@carrier.example")
				s.advance(10 * time.Minute)
				call(other, "the registration has expired", "last@carrier.example")
			}, namedPBX(server), func(c *sip.Config) {
				c.PBX = []sip.Addr{{Proto: sip.UDP, AddrPort: pbxAt}}
				if trunk {
					c.Trunks = []sip.Trunk{{Name: "carrier", To: []sip.Addr{{Proto: sip.UDP, Host: "carrier.example"}}}}
				}
			})
		})
	}
}

// The registrar of an account is down. Calls go to the other one, and back when it answers
// again.
func TestRegistrarThatIsDownIsAvoided(t *testing.T) {
	server := resolvetest.NewServer(t, `_sip._udp.carrier.example. 600 SRV 10 0 5060 a.carrier.example.
		_sip._udp.carrier.example. 600 SRV 20 0 5060 b.carrier.example.
		a.carrier.example. 600 A 198.51.100.1
		b.carrier.example. 600 A 198.51.100.2`)
	runScenario(t, func(s *testbed) {
		a, b := s.addUDPPeer(netip.MustParseAddrPort("198.51.100.1:5060")), s.addUDPPeer(netip.MustParseAddrPort("198.51.100.2:5060"))
		s.advance(time.Second)
		s.pbx.send(s.pbx.newRequest("REGISTER", "sip:carrier.example"))
		a.respond(a.expect("the first", "REGISTER"), "503 Service Unavailable")
		b.respond(b.expect("the second", "REGISTER"), "200 OK")
		s.pbx.expect("registered", "SIP/2.0 200")
		s.advance(time.Minute) // the first no longer rests
		s.pbx.send(s.pbx.newRequest("MESSAGE", "sip:+1555@carrier.example"))
		b.respond(b.expect("the registrar", "MESSAGE"), "503 Service Unavailable")
		a.respond(a.expect("the other one", "MESSAGE"), "200 OK")
		s.pbx.expect("answer", "SIP/2.0 200")
		s.pbx.send(s.pbx.newRequest("MESSAGE", "sip:+1555@carrier.example"))
		a.respond(a.expect("the registrar rests", "MESSAGE"), "200 OK")
		s.pbx.expect("answer", "SIP/2.0 200")
		s.advance(time.Minute)
		s.pbx.send(s.pbx.newRequest("MESSAGE", "sip:+1555@carrier.example"))
		b.respond(b.expect("the registrar again", "MESSAGE"), "200 OK")
		s.pbx.expect("answer", "SIP/2.0 200")
	}, namedPBX(server), func(c *sip.Config) {
		c.PBX = []sip.Addr{{Proto: sip.UDP, AddrPort: pbxAt}}
		c.Trunks = []sip.Trunk{{Name: "carrier", To: []sip.Addr{{Proto: sip.UDP, Host: "carrier.example"}}}}
	})
}
