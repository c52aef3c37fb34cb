package sip_test

import (
	"cmp"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"bellhop/sip"
	"bellhop/sip/siptest"
)

// TestLimitsCallsToTrunk sends calls to a trunk with max_cps. Those beyond get 503, and the
// trunk never gets more in a second. Requests within calls and other methods are free, and
// so are calls to others.
func TestLimitsCallsToTrunk(t *testing.T) {
	runScenario(t, func(s *testbed) {
		trunk := s.addUDPPeer(carrierAt)
		other := s.addUDPPeer(netip.MustParseAddrPort("198.51.100.1:5060"))
		send := func(to string) text {
			invite := s.pbx.newInvite().replaced("sip:102@pbx.example SIP", "sip:5551234@"+to+" SIP")
			s.pbx.send(invite)
			return invite
		}
		passed := 0
		for i := range 60 {
			invite := send(carrierAt.String())
			if m, ok := trunk.nextMessage(); ok {
				passed++
				trunk.respond(m, "486 Busy Here")
				s.pbx.sendACK(invite, s.pbx.expect("the answer", "SIP/2.0 486"))
				trunk.expect("the ACK", "ACK")
			} else if got := s.pbx.expect("too many calls", "SIP/2.0 503"); got.fieldValue("Retry-After") != "1" {
				t.Errorf("no Retry-After:\n%s", got)
			}
			if i == 29 && passed != 3 {
				t.Errorf("%d calls in the first three quarters of a second", passed)
			}
			s.advance(25 * time.Millisecond)
		}
		if passed != 6 {
			t.Errorf("%d calls in 1.5 s", passed)
		}
		invite := send("198.51.100.1:5060")
		other.respond(other.expect("another trunk", "INVITE"), "486 Busy Here")
		s.pbx.sendACK(invite, s.pbx.expect("the answer", "SIP/2.0 486"))
		other.expect("the ACK", "ACK")
		for range 9 {
			s.pbx.send(s.pbx.newRequest("MESSAGE", "sip:5551234@"+carrierAt.String()))
			trunk.respond(trunk.expect("no call", "MESSAGE"), "200 OK")
			s.pbx.expect("the answer", "SIP/2.0 200")
		}
		if states := s.proxy.TrunkStates(); len(states) != 1 || states[0].Name != "carrier" || states[0].Refused != 54 {
			t.Errorf("the states are %+v", states)
		}
		if n := strings.Count(s.log.String(), "calls to trunk refused"); n != 1 {
			t.Errorf("%d log lines: %s", n, s.log)
		}
	}, withTrunk(sip.Trunk{MaxCPS: 3}))
}

// A trunk that is known by its certificate alone has its limit too, for calls that go over
// its own connection.
func TestLimitsCallsToTrunkOfCertificate(t *testing.T) {
	b := &tlsBed{}
	runScenario(t, func(s *testbed) {
		at := netip.MustParseAddrPort("198.51.100.20:5061")
		p := s.dialTLSPeer(at.Addr(), b, b.ca.IssueTLS(siptest.CertificateRequest{Hosts: []string{"sip.carrier.example"}}))
		p.send(p.newRequest("MESSAGE", "sip:102@pbx.example", fmt.Sprintf("Via: SIP/2.0/TLS %s;branch=z9hG4bK-alias;alias", at)))
		s.pbx.respond(s.pbx.expect("its request goes on", "MESSAGE"), "200 OK")
		p.expect("the answer", "SIP/2.0 200")
		call := func() text {
			invite := s.pbx.newInvite().replaced("sip:102@pbx.example SIP", fmt.Sprintf("sip:5551234@%s;transport=tls SIP", at))
			s.pbx.send(invite)
			return invite
		}
		invite := call()
		p.respond(p.expect("the first call", "INVITE"), "486 Busy Here")
		s.pbx.sendACK(invite, s.pbx.expect("the answer", "SIP/2.0 486"))
		p.expect("its ACK", "ACK")
		invite = call()
		s.pbx.sendACK(invite, s.pbx.expect("the second call within a second", "SIP/2.0 503 Trunk Busy"))
	}, b.listen, func(c *sip.Config) {
		c.Trunks = []sip.Trunk{{Name: "carrier", TLSNames: []string{"sip.carrier.example"}, TLS: b.newClient("sip.carrier.example", nil), MaxCPS: 1}}
	})
}

// TestProbesTrunks checks the OPTIONS to a trunk: the first at once, then one in each
// interval, over UDP at least as often as to a phone behind a NAT.
func TestProbesTrunks(t *testing.T) {
	for _, tt := range []struct {
		proto            sip.Proto
		probe, keepAlive time.Duration
		want             time.Duration
	}{
		{sip.UDP, time.Minute, 25 * time.Second, 25 * time.Second},
		{sip.UDP, time.Minute, 0, time.Minute},
		{sip.UDP, 10 * time.Second, 25 * time.Second, 10 * time.Second},
		{sip.TCP, time.Minute, 25 * time.Second, time.Minute},
		{sip.UDP, 0, 25 * time.Second, 0},
	} {
		t.Run(fmt.Sprintf("%v, probe %v, keepalive %v", tt.proto, tt.probe, tt.keepAlive), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				to := sip.Addr{Proto: tt.proto, AddrPort: carrierAt}
				s := newTestbed(t, withTrunk(sip.Trunk{To: []sip.Addr{to}, Probe: tt.probe}), keepAlive(tt.keepAlive), func(c *sip.Config) {
					c.Listen[1].Advertise = sip.HostPort{Host: "sbc.example.com", Port: 5070}
				})
				defer s.closeAll()
				if tt.want == 0 {
					s.addUDPPeer(carrierAt)
					s.advance(time.Hour)
					s.expectNothing("no OPTIONS")
					return
				}
				var trunk *peer
				uri, contact := "sip:203.0.113.9:5060", "<sip:192.0.2.1:5060>"
				if tt.proto == sip.UDP {
					trunk = s.addUDPPeer(carrierAt)
				} else {
					trunk = s.addTCPListener(carrierAt)
					uri, contact = uri+";transport=tcp", "<sip:sbc.example.com:5070;transport=tcp>"
				}
				synctest.Wait()
				if first, ok := trunk.nextMessage(); ok { // it may have come before the socket was open
					trunk.respond(first, "200 OK")
				}
				for range 5 {
					s.advance(tt.want)
					got := trunk.expect("an OPTIONS comes", "OPTIONS "+uri+" SIP/2.0")
					assertEqual(t, "its Contact", got.fieldValue("Contact"), contact)
					if !strings.Contains(got.fieldValue("Allow"), "INVITE, ACK") {
						t.Errorf("Allow:\n%s", got)
					}
					trunk.respond(got, "200 OK")
					s.expectNothing("one OPTIONS")
				}
				if n := len(s.observations); n > 0 {
					t.Errorf("%d messages observed", n)
				}
			})
		})
	}
}

// TestProbeSendsOptionsFirst checks that a trunk that is up when bellhop starts gets an
// OPTIONS at once, and that its state is logged when it changes.
func TestProbeSendsOptionsFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newTestbed(t, withTrunk(sip.Trunk{To: []sip.Addr{{Proto: sip.UDP, AddrPort: otherAt}}, Probe: time.Minute}), func(c *sip.Config) {
			c.Trunks[0].Sources = parsePrefixes(otherAt.Addr().String())
		})
		defer s.closeAll()
		synctest.Wait() // refused
		trunk := s.addUDPPeer(otherAt)
		s.stop()
		s.restartProxy()
		first := trunk.expect("at once", "OPTIONS")
		for _, tt := range []struct {
			status string
			state  sip.TargetState
			log    string
		}{
			{"200 OK", sip.TargetUp, ""},
			{"403 Forbidden", sip.TargetDown, `state=down was=up err="OPTIONS: 403 Forbidden"`},
			{"403 Forbidden", sip.TargetDown, ""},
			{"404 Not Found", sip.TargetUp, `state=up was=down`},
			{"503 Service Unavailable", sip.TargetDraining, `state=draining was=up err="OPTIONS: 503 Service Unavailable"`},
			{"503 Still", sip.TargetDraining, ""},
			{"403 Forbidden", sip.TargetDown, `state=down was=draining err="OPTIONS: 403 Forbidden"`},
			{"405 Method Not Allowed", sip.TargetUp, `state=up was=down`},
			{"", sip.TargetDown, `state=down was=up err="OPTIONS: no response"`},
			{"200 OK", sip.TargetUp, `state=up was=down`},
		} {
			s.log.Reset()
			before, began := s.proxy.TrunkStates()[0].Targets[0], time.Now()
			if tt.status != "" {
				s.advance(20 * ms)
				trunk.respond(first, "100 Trying")
				trunk.respond(first, tt.status)
			}
			s.advance(time.Minute - time.Second - time.Since(began))
			if n := strings.Count(s.log.String(), "trunk state changed"); (n == 1) != (tt.log != "") || n > 1 || !strings.Contains(s.log.String(), tt.log) {
				t.Errorf("after %q: log %q, want %q", tt.status, s.log, tt.log)
			}
			after := s.proxy.TrunkStates()[0].Targets[0]
			if after.State != tt.state || after.Answer != cmp.Or(tt.status, before.Answer) {
				t.Errorf("after %q: %+v", tt.status, after)
			}
			if tt.state != sip.TargetUp && after.Error != "OPTIONS: "+cmp.Or(tt.status, "no response") {
				t.Errorf("after %q: error %q", tt.status, after.Error)
			}
			if tt.status != "" && (after.RoundTrip != 20*ms || !after.AnsweredAt.Equal(began.Add(20*ms))) {
				t.Errorf("after %q: round trip %v, answered at %v", tt.status, after.RoundTrip, after.AnsweredAt)
			}
			if changed := after.State != before.State; changed != (!after.Since.Before(began)) {
				t.Errorf("after %q: %+v", tt.status, after)
			}
			trunk.discardReceived()
			s.advance(time.Second)
			first = trunk.expect("the next", "OPTIONS")
		}
	})
}

// While the proxy drains, it sends no OPTIONS to trunks, so that Drain returns.
func TestDrainEndsProbesOfTrunks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newTestbed(t, withTrunk(sip.Trunk{To: []sip.Addr{{Proto: sip.UDP, AddrPort: carrierAt}}, Probe: time.Minute}))
		defer s.closeAll()
		trunk := s.addUDPPeer(carrierAt)
		s.advance(time.Minute)
		trunk.discardReceived()
		s.advance(10 * time.Second) // the OPTIONS has no response
		trunk.discardReceived()
		if s.proxy.Drain(t.Context()); s.proxy.Stats().Transactions != 0 {
			t.Error("Drain returns with a transaction under way")
		}
		s.advance(10 * time.Minute)
		s.expectNothing("no OPTIONS")
	})
}

// TestAnswersOptionsOfTrunk checks that a trunk gets Contact and Allow, and a stranger no
// Contact.
func TestAnswersOptionsOfTrunk(t *testing.T) {
	runScenario(t, func(s *testbed) {
		trunk := s.addUDPPeer(carrierAt)
		for _, p := range []*peer{trunk, s.phone} {
			p.send(p.newRequest("OPTIONS", "sip:192.0.2.1:5060"))
			got := p.expect("the answer", "SIP/2.0 200")
			if !strings.Contains(got.fieldValue("Allow"), "INVITE") {
				t.Errorf("Allow:\n%s", got)
			}
			want := ""
			if p == trunk {
				want = "<sip:192.0.2.1:5060>"
			}
			assertEqual(t, p.name+": Contact", got.fieldValue("Contact"), want)
		}
	}, withTrunk(sip.Trunk{}))
}

// TestLargeFieldsStay sends an INVITE with six Identity fields of 1.5 KB and a token of
// 1.2 KB in both directions. They arrive byte for byte (RFC 8224, X-Twilio-CallToken).
func TestLargeFieldsStay(t *testing.T) {
	var lines []string
	for i := range 6 {
		lines = append(lines, fmt.Sprintf("Identity: %d%s;info=<https://cert.example/%d.pem>;alg=ES256;ppt=shaken", i, strings.Repeat("eyJhbGci", 186), i))
	}
	lines = append(lines, "X-Twilio-CallToken: "+strings.Repeat("%7B%22t", 175))
	check := func(t *testing.T, got text) {
		t.Helper()
		for _, name := range []string{"Identity", "X-Twilio-CallToken"} {
			var want []string
			for _, l := range lines {
				if v, ok := strings.CutPrefix(l, name+": "); ok {
					want = append(want, v)
				}
			}
			assertEqual(t, name, strings.Join(got.fieldValues(name), "\n"), strings.Join(want, "\n"))
		}
	}
	for _, proto := range []string{"UDP", "TCP"} {
		t.Run(proto, func(t *testing.T) {
			runScenario(t, func(s *testbed) {
				trunk, to := s.addUDPPeer(carrierAt), carrierAt.String()
				if proto == "TCP" {
					trunk, to = s.addTCPListener(netip.AddrPortFrom(carrierAt.Addr(), 5070)), "203.0.113.9:5070;transport=tcp"
				}
				s.pbx.send(s.pbx.newInvite(lines...).replaced("sip:102@pbx.example SIP", "sip:5551234@"+to+" SIP"))
				got := trunk.expect("to the trunk", "INVITE")
				check(t, got)
				trunk.respond(got, "486 Busy Here")
				s.pbx.expect("the answer", "SIP/2.0 486")
				trunk.expect("the ACK", "ACK")
				invite := trunk.newInvite(lines...)
				trunk.send(invite)
				got = s.pbx.expect("to the PBX", "INVITE")
				check(t, got)
				s.pbx.respond(got, "486 Busy Here")
				trunk.sendACK(invite, trunk.expect("the answer", "SIP/2.0 486"))
				s.pbx.discardReceived()
			}, withTrunk(sip.Trunk{}))
		})
	}
}
