package sip_test

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"bellhop/sip"
	"bellhop/sip/resolve/resolvetest"
)

// twoServers configures one PBX by a name that leads to two servers, as twoPBXs configures two.
func twoServers(t *testing.T) func(*sip.Config) {
	return namedPBX(resolvetest.NewServer(t, `_sip._udp.pbx.example. 600 SRV 10 0 5060 a.pbx.example.
		_sip._udp.pbx.example. 600 SRV 20 0 5060 b.pbx.example.
		a.pbx.example. 600 A 192.0.2.2
		b.pbx.example. 600 A 192.0.2.12`))
}

// secondPBX returns the second of two PBXs or of two servers.
func (s *testbed) secondPBX() *peer {
	if len(s.allPBXs) == 1 {
		s.allPBXs = append(s.allPBXs, s.addUDPPeer(secondAt))
	}
	return s.allPBXs[1]
}

// waitWith lets time pass in which one PBX answers OPTIONS with a status, or not at all if it
// is "". The others accept OPTIONS.
func (s *testbed) waitWith(d time.Duration, one *peer, status string) {
	s.t.Helper()
	for ; d > 0; d -= time.Second {
		s.advance(min(d, time.Second))
		for _, p := range s.allPBXs {
			if p != one {
				p.getNothing("only OPTIONS")
			}
		}
		for m, ok := one.nextMessage(); ok; m, ok = one.nextMessage() {
			if !strings.HasPrefix(string(m), "OPTIONS") {
				s.t.Fatalf("%s got\n%s", one.name, m)
			}
			if status != "" {
				one.respond(m, status)
			}
		}
	}
}

// callPhone sets up a call from p, a PBX, to the phone.
func (p *peer) callPhone(lines ...string) call {
	p.s.t.Helper()
	c := call{sent: p.newRequest("INVITE", "sip:101@192.0.2.101:5062", lines...)}
	p.send(c.sent)
	c.invite = p.s.phone.expect("a call", "INVITE")
	p.s.phone.respond(c.invite, "200 OK")
	c.ok = p.get("the answer", "SIP/2.0 200")
	p.send(p.callerRequest(c.ok, "ACK"))
	p.s.phone.expect("its ACK", "ACK")
	return c
}

// exchange sends a request from p to another peer, which accepts it. An INVITE gets its ACK,
// which compose makes too.
func (p *peer) exchange(to *peer, method string, compose func(method string) text) {
	p.s.t.Helper()
	p.send(compose(method))
	to.respond(to.get("the "+method, method), "200 OK")
	p.get("the answer to the "+method, "SIP/2.0 200")
	if method == "INVITE" {
		p.send(compose("ACK"))
		to.get("the ACK", "ACK")
	}
}

// A PBX takes no new calls, or does not answer OPTIONS. New calls go to another PBX, and the
// calls that are up stay where they are.
func TestCallsStayAtAPBXThatIsNotUp(t *testing.T) {
	for _, set := range []struct {
		name      string
		configure func(*sip.Config)
	}{{"two PBXs", twoPBXs}, {"servers of a name", twoServers(t)}} {
		for _, tt := range []struct {
			answer string // to OPTIONS
			state  sip.TargetState
		}{{"503 Shutting Down", sip.TargetDraining}, {"", sip.TargetDown}} {
			t.Run(fmt.Sprintf("%s, %s", set.name, tt.state), func(t *testing.T) {
				runScenario(t, func(s *testbed) {
					first, second := s.pbx, s.secondPBX()
					s.wait(3*time.Second, s.allPBXs...)
					placed, answered := s.phone.setUpCall(first), s.phone.setUpCall(first)
					called, calledToo := first.callPhone(), first.callPhone()
					unanswered := s.phone.setUpCall(first)
					s.waitWith(15*time.Second, first, tt.answer)
					if to := s.proxy.PBXStates()[0]; to.State != tt.state {
						t.Errorf("the first PBX is %s, want %s", to.State, tt.state)
					}

					invite := s.phone.newInvite()
					s.phone.send(invite)
					second.respond(second.get("a new call", "INVITE"), "486 Busy Here")
					second.get("its ACK", "ACK")
					s.phone.sendACK(invite, s.phone.expect("answer", "SIP/2.0 486"))

					for _, end := range []struct {
						from, to *peer
						compose  func(method string) text
					}{
						{s.phone, first, func(m string) text {
							request := s.phone.callerRequest(placed.ok, m)
							return request.replaced(" "+request.requestURI(), " sip:pbx@lan.example") // a Contact that only the PBX can resolve
						}},
						{first, s.phone, func(m string) text { return first.calleeRequest(answered.invite, m) }},
						{first, s.phone, func(m string) text { return first.callerRequest(called.ok, m) }},
						{s.phone, first, func(m string) text { return s.phone.calleeRequest(calledToo.invite, m) }},
					} {
						for _, method := range []string{"INVITE", "INFO", "BYE"} {
							end.from.exchange(end.to, method, end.compose)
						}
					}

					s.phone.send(s.phone.callerRequest(unanswered.ok, "BYE"))
					for range 40 {
						s.advance(time.Second)
						second.getNothing("it does not know the call")
						first.discardRequests("BYE")
					}
				}, set.configure)
			})
		}
	}
}

// A phone is registered at a PBX that goes down. Its calls, and the calls to it, pass the other
// PBX, until its own is back.
func TestPhoneOfAPBXThatIsDownUsesTheOther(t *testing.T) {
	for home := range 2 {
		t.Run(fmt.Sprintf("registered at PBX %d", home+1), func(t *testing.T) {
			runScenario(t, func(s *testbed) {
				own, other := s.allPBXs[home], s.allPBXs[1-home]
				s.wait(time.Second, s.allPBXs...)
				s.phone.send(s.phone.newRequest("REGISTER", "sip:pbx.example", "To: <sip:101@pbx.example>"))
				if own != s.pbx {
					s.pbx.respond(s.pbx.get("the first", "REGISTER"), "503 Service Unavailable")
				}
				register := own.get("the REGISTER", "REGISTER")
				own.respond(register, "200 OK")
				s.phone.expect("registered", "SIP/2.0 200")
				route := "Route: " + register.fieldValue("Path")
				s.wait(5*time.Second, s.allPBXs...) // OPTIONS ends the rest of the PBX that has refused
				failedOver := s.proxy.Stats().FailedOver

				callBoth := func(pbx *peer) {
					t.Helper()
					out := s.phone.setUpCall(pbx)
					in := pbx.callPhone(route)
					s.phone.exchange(pbx, "BYE", func(m string) text { return s.phone.callerRequest(out.ok, m) })
					s.phone.exchange(pbx, "BYE", func(m string) text { return s.phone.calleeRequest(in.invite, m) })
					out, in = s.phone.setUpCall(pbx), pbx.callPhone(route)
					pbx.exchange(s.phone, "BYE", func(m string) text { return pbx.calleeRequest(out.invite, m) })
					pbx.exchange(s.phone, "BYE", func(m string) text { return pbx.callerRequest(in.ok, m) })
				}
				callBoth(own)
				s.waitWith(15*time.Second, own, "")
				if to := s.proxy.PBXStates()[home]; to.State != sip.TargetDown {
					t.Errorf("the PBX of the phone is %s", to.State)
				}
				callBoth(other)
				own.getNothing("it is down")
				s.wait(15*time.Second, s.allPBXs...)
				callBoth(own)
				other.getNothing("it does not know the phone")
				if n := s.proxy.Stats().FailedOver - failedOver; n != 0 {
					t.Errorf("%d requests were sent to a PBX that was known to be down", n)
				}
			}, twoPBXs)
		})
	}
}

// A phone registers again while its PBX is down. Its calls go to the PBX that has accepted it
// then, also when its own is back, until it registers there.
func TestPhoneStaysWhereItHasRegisteredLast(t *testing.T) {
	runScenario(t, func(s *testbed) {
		first, second := s.pbx, s.allPBXs[1]
		register := func(at *peer) {
			t.Helper()
			s.phone.send(s.phone.newRequest("REGISTER", "sip:pbx.example", "To: <sip:101@pbx.example>"))
			at.respond(at.get("the REGISTER", "REGISTER"), "200 OK")
			s.phone.expect("registered", "SIP/2.0 200")
		}
		s.wait(time.Second, s.allPBXs...)
		register(first)
		s.sendMessage(first, "registered there")
		s.waitWith(15*time.Second, first, "")
		register(second)
		s.wait(15*time.Second, s.allPBXs...)
		s.sendMessage(second, "the first is back, but the phone is registered at the second")
		register(first)
		s.sendMessage(first, "registered there again")
	}, twoPBXs)
}

// takeRequest returns the next request with a method that a PBX has got, and that PBX. It
// answers OPTIONS.
func (s *testbed) takeRequest(method string) (got text, at *peer) {
	s.t.Helper()
	synctest.Wait()
	for _, p := range s.allPBXs {
		for m, ok := p.nextMessage(); ok; m, ok = p.nextMessage() {
			if strings.HasPrefix(string(m), method) {
				return m, p
			}
			p.respond(m, "200 OK")
		}
	}
	s.t.Fatalf("no PBX got %s", method)
	return "", nil
}

// A PBX challenges a call. The call with credentials goes to that PBX, even if it would go to
// another one without them.
func TestCallWithCredentialsGoesToThePBXThatChallenged(t *testing.T) {
	for _, mode := range []sip.PBXMode{sip.FirstPBX, sip.SpreadPBX} {
		for _, tt := range []struct{ challenge, credentials string }{
			{"401 Unauthorized", "Authorization"},
			{"407 Proxy Authentication Required", "Proxy-Authorization"},
		} {
			t.Run(fmt.Sprintf("%s, %s", mode, tt.challenge), func(t *testing.T) {
				runScenario(t, func(s *testbed) {
					s.wait(time.Second, s.allPBXs...)
					chosen := map[*peer]bool{}
					for i := range 6 {
						from := fmt.Sprintf("From: <sip:%d@pbx.example>;tag=%d", 200+i, i)
						challenged := s.phone.newInvite(from)
						s.phone.send(challenged)
						got, usual := s.takeRequest("INVITE")
						other := s.allPBXs[0]
						if usual == other {
							other = s.allPBXs[1]
						}
						chosen[usual] = true
						usual.respond(got, "503 Service Unavailable")
						usual.get("its ACK", "ACK")
						other.respond(other.get("the call", "INVITE"), tt.challenge)
						other.get("its ACK", "ACK")
						s.phone.sendACK(challenged, s.phone.expect("the challenge", "SIP/2.0 "+tt.challenge[:3]))
						s.wait(5*time.Second, s.allPBXs...) // OPTIONS ends the rest

						again := s.phone.newInvite(from, tt.credentials+`: Digest username="200", nonce="x"`)
						again = again.replaced("Call-ID: "+again.fieldValue("Call-ID"), "Call-ID: "+challenged.fieldValue("Call-ID"))
						s.phone.send(again)
						other.respond(other.get("with credentials", "INVITE"), "486 Busy Here")
						other.get("its ACK", "ACK")
						s.phone.sendACK(again, s.phone.expect("answer", "SIP/2.0 486"))
						usual.getNothing("it has not challenged")

						next := s.phone.newInvite(from)
						s.phone.send(next)
						usual.respond(usual.get("another call", "INVITE"), "486 Busy Here")
						usual.get("its ACK", "ACK")
						s.phone.sendACK(next, s.phone.expect("answer", "SIP/2.0 486"))
					}
					if spread := mode == sip.SpreadPBX; len(chosen) == 2 != spread {
						t.Errorf("calls without credentials went to %d PBXs", len(chosen))
					}
				}, twoPBXs, func(c *sip.Config) { c.PBXMode = mode })
			})
		}
	}
}

// The sender of a request may have no address-of-record. The requests with one Call-ID then go
// to one PBX, and others may go to another.
func TestRequestsWithoutASenderAreSpreadByCallID(t *testing.T) {
	for _, from := range []string{"<tel:+15551234>", "<sip:pbx.example>", "<sip:192.0.2.101:5062>", "<urn:service:sos>"} {
		t.Run(from, func(t *testing.T) {
			runScenario(t, func(s *testbed) {
				s.wait(time.Second, s.allPBXs...)
				count := map[*peer]int{}
				for call := range 20 {
					var pbx *peer
					for range 3 {
						m := s.phone.newRequest("MESSAGE", "sip:102@pbx.example", "From: "+from+";tag=1")
						m = m.replaced("Call-ID: "+m.fieldValue("Call-ID"), fmt.Sprintf("Call-ID: call-%d", call))
						s.phone.send(m)
						got, at := s.takeRequest("MESSAGE")
						at.respond(got, "200 OK")
						s.phone.expect("answer", "SIP/2.0 200")
						if pbx != nil && at != pbx {
							t.Errorf("requests with Call-ID %d go to several PBXs", call)
						}
						pbx = at
					}
					count[pbx]++
				}
				if count[s.allPBXs[0]] < 4 || count[s.allPBXs[1]] < 4 {
					t.Errorf("of 20 calls, the PBXs have %v", count)
				}
			}, twoPBXs, func(c *sip.Config) { c.PBXMode = sip.SpreadPBX })
		})
	}
}

// The PBX of a sender is the same after a restart and in every node. If a PBX is added, a sender
// stays at its own or changes to the added one.
func TestSpreadChangesLittle(t *testing.T) {
	runScenario(t, func(s *testbed) {
		third := s.addUDPPeer(netip.MustParseAddrPort("192.0.2.22:5060"))
		choose := func() (chosen []*peer) {
			t.Helper()
			for i := range 40 {
				s.phone.send(s.phone.newRequest("MESSAGE", "sip:102@pbx.example", fmt.Sprintf("From: <sip:%d@pbx.example>;tag=1", 100+i)))
				got, at := s.takeRequest("MESSAGE")
				at.respond(got, "200 OK")
				s.phone.expect("answer", "SIP/2.0 200")
				chosen = append(chosen, at)
			}
			return chosen
		}
		before := choose()
		s.stop()
		s.restartProxy()
		s.proxy.Prove(phoneAt.Addr())
		if !slices.Equal(choose(), before) {
			t.Error("senders have another PBX after a restart")
		}
		s.setPBXs(udpAddrs(pbxAt, secondAt, third.addr)...)
		s.allPBXs = append(s.allPBXs, third)
		s.wait(time.Second, s.allPBXs...)
		moved := 0
		for i, at := range choose() {
			switch at {
			case before[i]:
			case third:
				moved++
			default:
				t.Errorf("sender %d has changed to a PBX that was there before", 100+i)
			}
		}
		if moved < 5 || moved > 25 {
			t.Errorf("%d of 40 senders have changed to the third PBX", moved)
		}
	}, twoPBXs, func(c *sip.Config) { c.PBXMode = sip.SpreadPBX })
}
