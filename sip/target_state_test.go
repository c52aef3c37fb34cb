package sip_test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"bellhop/sip"
	"bellhop/sip/resolve/resolvetest"
)

// describeStates returns the addresses, states and last answers to OPTIONS of targets.
func describeStates(targets []sip.TargetStatus) string {
	var all []string
	for _, to := range targets {
		all = append(all, fmt.Sprintf("%v %s %q", to.Addr, to.State, to.Answer))
	}
	return strings.Join(all, ", ")
}

// expectState checks the state of a target, when it began, and its last error. The log must
// have one line about the change, and no other about a state since the last call; line ""
// is none.
func (s *testbed) expectState(to sip.TargetStatus, state sip.TargetState, age time.Duration, err, line string) {
	s.t.Helper()
	if to.State != state || to.Error != err {
		s.t.Errorf("the state is %q with error %q, want %q with %q", to.State, to.Error, state, err)
	}
	if got := time.Since(to.Since); state != sip.TargetUnknown && got.Round(time.Second) != age {
		s.t.Errorf("it has been %s for %v, want %v", state, got, age)
	}
	if n := strings.Count(s.log.String(), "state changed"); n > 1 || (n == 1) != (line != "") || !strings.Contains(s.log.String(), line) {
		s.t.Errorf("the log is %q, want one line with %q", s.log, line)
	}
	s.log.Reset()
}

// answerProbe answers the next OPTIONS of a peer after a time.
func (p *peer) answerProbe(after time.Duration, status string) {
	p.s.t.Helper()
	m := p.expect("a probe", "OPTIONS")
	p.s.advance(after)
	p.respond(m, status)
}

func TestStatesOfSeveralPBXs(t *testing.T) {
	runScenario(t, func(s *testbed) {
		first, second := s.pbx, s.allPBXs[1]
		state := func() sip.TargetStatus { return s.proxy.PBXStates()[0] }
		s.expectState(state(), sip.TargetUnknown, 0, "", "")
		first.answerProbe(30*ms, "200 OK")
		second.answerProbe(0, "200 OK")
		s.advance(0)
		s.expectState(state(), sip.TargetUp, 0, "", "")
		if to := state(); to.RoundTrip != 30*ms || to.Answer != "200 OK" || time.Since(to.AnsweredAt) != 0 || to.Configured != to.Addr || !to.FailedAt.IsZero() {
			t.Errorf("got %+v", to)
		}

		s.phone.send(s.phone.newInvite())
		first.respond(first.expect("the call", "INVITE"), "503 Overloaded", "Retry-After: 60")
		first.expect("its ACK", "ACK")
		second.respond(second.expect("the call", "INVITE"), "486 Busy Here")
		second.expect("its ACK", "ACK")
		s.expectState(state(), sip.TargetResting, 0, "INVITE: 503 Overloaded", `level=WARN msg="PBX state changed" pbx=udp://192.0.2.2:5060 address=udp://192.0.2.2:5060 state=resting was=up err="INVITE: 503 Overloaded"`)
		if state().FailedAt.IsZero() || s.proxy.PBXStates()[1].State != sip.TargetUp {
			t.Errorf("got %+v", s.proxy.PBXStates())
		}
		s.phone.discardReceived()

		s.advance(5 * time.Second)
		first.answerProbe(0, "200 OK")
		second.answerProbe(0, "200 OK")
		s.advance(0)
		s.expectState(state(), sip.TargetUp, 0, "INVITE: 503 Overloaded", "state=up was=resting")

		s.advance(5 * time.Second)
		first.answerProbe(0, "503 Shutting Down")
		second.answerProbe(0, "200 OK")
		s.advance(0)
		s.expectState(state(), sip.TargetDraining, 0, "OPTIONS: 503 Shutting Down", `state=draining was=up err="OPTIONS: 503 Shutting Down"`)
		s.wait(3*time.Second, second)

		s.advance(2 * time.Second) // no answer within 2 s
		s.wait(2*time.Second, second)
		s.expectState(state(), sip.TargetDraining, 7*time.Second, "OPTIONS: no response", "")
		s.wait(5*time.Second, second) // nor to the next
		s.expectState(state(), sip.TargetDown, 0, "OPTIONS: no response", "state=down was=draining")
		s.wait(3*time.Second, s.allPBXs...)
		s.expectState(state(), sip.TargetDown, 3*time.Second, "OPTIONS: no response", "")
		s.wait(5*time.Second, s.allPBXs...)
		s.expectState(state(), sip.TargetUp, 0, "OPTIONS: no response", "state=up was=down")
		s.wait(time.Minute, s.allPBXs...) // the timer of the rest has nothing to log
		s.expectState(state(), sip.TargetUp, time.Minute, "OPTIONS: no response", "")
	}, twoPBXs)
}

// A PBX that a call cannot reach is down at once.
func TestStateOfUnreachablePBX(t *testing.T) {
	runScenario(t, func(s *testbed) {
		s.wait(time.Second, s.allPBXs...)
		s.log.Reset()
		s.pbx.close()
		s.phone.send(s.phone.newRequest("MESSAGE", "sip:102@pbx.example"))
		second := s.allPBXs[1]
		second.respond(second.get("the request", "MESSAGE"), "200 OK")
		s.phone.expect("answer", "SIP/2.0 200")
		s.expectState(s.proxy.PBXStates()[0], sip.TargetDown, 0, "MESSAGE: unreachable", `state=down was=up err="MESSAGE: unreachable"`)
	}, pbxOverTCP, twoPBXs)
}

// A single PBX gets no OPTIONS. Its state is that of the last request.
func TestStateOfSinglePBX(t *testing.T) {
	runScenario(t, func(s *testbed) {
		state := func() sip.TargetStatus { return s.proxy.PBXStates()[0] }
		s.expectState(state(), sip.TargetUnknown, 0, "", "")
		s.phone.send(s.phone.newInvite())
		invite := s.pbx.expect("a call", "INVITE")
		s.pbx.respond(invite, "503 Service Unavailable")
		s.pbx.expect("its ACK", "ACK")
		s.advance(time.Second)
		s.expectState(state(), sip.TargetUp, time.Second, "INVITE: 503 Service Unavailable", "")

		s.phone.send(s.phone.newRequest("MESSAGE", "sip:102@pbx.example"))
		s.advance(10 * time.Second)
		s.phone.send(s.phone.newRequest("INFO", "sip:102@pbx.example"))
		s.pbx.discardReceived()
		s.advance(time.Minute)
		s.expectState(state(), sip.TargetDown, 38*time.Second, "INFO: no response", `state=down was=up err="MESSAGE: no response"`)
		s.pbx.discardReceived()
		s.phone.discardReceived()
		s.sendMessage(s.pbx, "it is back")
		s.expectState(state(), sip.TargetUp, 0, "INFO: no response", "state=up was=down")

		s.phone.send(s.phone.newRequest("MESSAGE", "sip:102@pbx.example"))
		s.pbx.expect("ignored", "MESSAGE")
		s.advance(20 * time.Second)
		s.pbx.discardReceived()
		s.sendMessage(s.pbx, "but it answers others")
		s.advance(time.Minute)
		s.pbx.discardReceived()
		s.expectState(state(), sip.TargetUp, 80*time.Second, "MESSAGE: no response", "")
	})
}

// An address of a trunk that gets no OPTIONS rests for 30 s after a failure, and longer if
// it fails again.
func TestRestOfTrunkEnds(t *testing.T) {
	const refused = "INVITE: 503 Service Unavailable"
	server := resolvetest.NewServer(t, `_sip._udp.carrier.example. 3600 SRV 10 0 5060 a.carrier.example.
		_sip._udp.carrier.example. 3600 SRV 20 0 5060 b.carrier.example.
		a.carrier.example. 3600 A 203.0.113.9
		b.carrier.example. 3600 A 203.0.113.10`)
	runScenario(t, func(s *testbed) {
		a, b := s.addUDPPeer(netip.MustParseAddrPort("203.0.113.9:5060")), s.addUDPPeer(netip.MustParseAddrPort("203.0.113.10:5060"))
		state := func() sip.TargetStatus { return s.proxy.TrunkStates()[0].Targets[0] }
		// call sends a call that some addresses refuse with 503, before the last refuses it
		// with another status.
		call := func(status string, path ...*peer) {
			t.Helper()
			invite := s.pbx.newInvite().replaced("sip:102@pbx.example SIP", "sip:5551234@carrier.example SIP")
			s.pbx.send(invite)
			for i, to := range path {
				got := to.expect("the call", "INVITE")
				if i < len(path)-1 {
					to.respond(got, "503 Service Unavailable")
				} else {
					to.respond(got, status)
				}
				to.expect("its ACK", "ACK")
			}
			s.pbx.sendACK(invite, s.pbx.expect("the answer", "SIP/2.0 "))
		}
		s.advance(time.Second)
		s.log.Reset()
		s.expectState(state(), sip.TargetUnknown, 0, "", "")
		call("486 Busy Here", a, b)
		s.expectState(state(), sip.TargetResting, 0, refused, `msg="trunk state changed" trunk=carrier address=udp://203.0.113.9:5060 state=resting was=up err="INVITE: 503 Service Unavailable"`)
		s.advance(30*time.Second - 20*ms)
		s.expectState(state(), sip.TargetResting, 30*time.Second, refused, "")
		s.advance(40 * ms)
		s.expectState(state(), sip.TargetUp, 0, refused, "state=up was=resting")

		call("486 Busy Here", a, b)
		s.expectState(state(), sip.TargetResting, 0, refused, "state=resting was=up")
		s.advance(20 * time.Second)
		call("503 Service Unavailable", b, a)
		s.log.Reset() // the other rests
		s.advance(29 * time.Second)
		s.expectState(state(), sip.TargetResting, 49*time.Second, refused, "")
		s.advance(2 * time.Second)
		if s.expectLines("state=up was=resting", 2); state().State != sip.TargetUp {
			t.Errorf("got %+v", state())
		}
	}, func(c *sip.Config) {
		c.Trunks = []sip.Trunk{{Name: "carrier", To: []sip.Addr{{Proto: sip.UDP, Host: "carrier.example"}}}}
		c.DialNameServer = server.Dial
	})
}

// A target rests for as long as its 503 asks for, but for a minute at most.
func TestRestLastsAMinuteAtMost(t *testing.T) {
	for _, tt := range []struct {
		retryAfter string
		want       time.Duration
	}{
		{"", 30 * time.Second},
		{"Retry-After: 5", 5 * time.Second},
		{"Retry-After: 59", 59 * time.Second},
		{"Retry-After: 61", time.Minute},
		{"Retry-After: 3600", time.Minute},
		{"Retry-After: 3600;duration=7200", time.Minute},
		{"Retry-After: tomorrow", 30 * time.Second},
	} {
		t.Run(tt.retryAfter, func(t *testing.T) {
			server := resolvetest.NewServer(t, `_sip._udp.carrier.example. 3600 SRV 10 0 5060 a.carrier.example.
				_sip._udp.carrier.example. 3600 SRV 20 0 5060 b.carrier.example.
				a.carrier.example. 3600 A 203.0.113.9
				b.carrier.example. 3600 A 203.0.113.10`)
			runScenario(t, func(s *testbed) {
				a, b := s.addUDPPeer(netip.MustParseAddrPort("203.0.113.9:5060")), s.addUDPPeer(netip.MustParseAddrPort("203.0.113.10:5060"))
				send := func(to *peer, what string) {
					t.Helper()
					s.pbx.send(s.pbx.newRequest("MESSAGE", "sip:5551234@carrier.example"))
					if what == "" {
						var lines []string
						if tt.retryAfter != "" {
							lines = append(lines, tt.retryAfter)
						}
						a.respond(a.expect("the first", "MESSAGE"), "503 Service Unavailable", lines...)
					}
					to.respond(to.expect(what, "MESSAGE"), "200 OK")
					s.pbx.expect("answer", "SIP/2.0 200")
				}
				s.advance(time.Second)
				send(b, "")
				send(b, "the first rests")
				s.advance(tt.want - 10*ms)
				send(b, "the first rests still")
				a.expectNone("it rests")
				s.advance(10 * ms)
				send(a, "it has rested")
			}, func(c *sip.Config) {
				c.Trunks = []sip.Trunk{{Name: "carrier", To: []sip.Addr{{Proto: sip.UDP, Host: "carrier.example"}}}}
				c.DialNameServer = server.Dial
			})
		})
	}
}

// expectLines checks that the log has lines with a text.
func (s *testbed) expectLines(text string, want int) {
	s.t.Helper()
	if n := strings.Count(s.log.String(), text); n != want {
		s.t.Errorf("%d log lines have %q, want %d: %s", n, text, want, s.log)
	}
}

// A name without an address has a state too.
func TestStateOfUnresolvedName(t *testing.T) {
	server := resolvetest.NewServer(t, "")
	runScenario(t, func(s *testbed) {
		s.advance(10 * time.Second)
		to := s.proxy.PBXStates()
		if len(to) != 1 || to[0].State != sip.TargetUnresolved || to[0].Addr.IsValid() || to[0].Configured.String() != "udp://pbx.example" || to[0].Error == "" {
			t.Errorf("got %+v", to)
		}
		if got := time.Since(to[0].Since); got.Round(time.Second) != 10*time.Second {
			t.Errorf("unresolved for %v", got)
		}
		server.SetZone(t, "_sip._udp.pbx.example. 60 SRV 0 0 5060 a.pbx.example.\na.pbx.example. 60 A 192.0.2.2")
		s.advance(31 * time.Second)
		s.sendMessage(s.pbx, "it has an address")
		to = s.proxy.PBXStates()
		if len(to) != 1 || to[0].State != sip.TargetUp || to[0].Addr.AddrPort != pbxAt || to[0].Configured.String() != "udp://pbx.example" {
			t.Errorf("got %+v", to)
		}
		server.SetZone(t, "pbx.example. 60 A 192.0.2.1") // the proxy itself
		s.advance(2 * time.Minute)
		to = s.proxy.PBXStates()
		if len(to) != 1 || to[0].State != sip.TargetUnresolved || !strings.Contains(to[0].Error, "192.0.2.1:5060: it is a listener of bellhop") {
			t.Errorf("got %+v", to)
		}
		if got := time.Since(to[0].Since); got > 2*time.Minute {
			t.Errorf("unresolved for %v", got)
		}
	}, namedPBX(server))
}

// Nothing shows the state of a trunk that gets no OPTIONS any more.
func TestStateOfTrunkWithoutProbes(t *testing.T) {
	trunk := sip.Trunk{Name: "carrier", To: []sip.Addr{{Proto: sip.UDP, AddrPort: carrierAt}}, Probe: time.Minute}
	runScenario(t, func(s *testbed) {
		s.advance(2 * time.Minute)
		s.expectState(s.proxy.TrunkStates()[0].Targets[0], sip.TargetDown, 2*time.Minute, "OPTIONS: unreachable", "state=down was=unknown")
		trunk.Probe = 0
		s.proxy.SetTrunks([]sip.Trunk{trunk})
		s.expectState(s.proxy.TrunkStates()[0].Targets[0], sip.TargetUnknown, 0, "OPTIONS: unreachable", "state=unknown was=down")
	}, func(c *sip.Config) { c.Trunks = []sip.Trunk{trunk} })
}
