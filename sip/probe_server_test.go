package sip_test

import (
	"fmt"
	"testing"
	"time"

	"bellhop/sip"
	"bellhop/sip/resolve/resolvetest"
)

// Two names of PBXs, or of a trunk, lead to one server. It gets each OPTIONS and each request
// once.
func TestServerWithTwoNamesIsOne(t *testing.T) {
	names := []sip.Addr{{Proto: sip.UDP, Host: "a.example"}, {Proto: sip.UDP, Host: "b.example"}}
	for _, trunk := range []bool{false, true} {
		t.Run(fmt.Sprintf("trunk=%t", trunk), func(t *testing.T) {
			ip, states := "192.0.2.2", func(px *sip.Proxy) []sip.TargetStatus { return px.PBXStates() }
			if trunk {
				ip, states = "203.0.113.9", func(px *sip.Proxy) []sip.TargetStatus { return px.TrunkStates()[0].Targets }
			}
			server := resolvetest.NewServer(t, fmt.Sprintf("a.example. 600 A %s\nb.example. 600 A %[1]s", ip))
			runScenario(t, func(s *testbed) {
				s.probes = true
				sender, one, uri := s.phone, s.pbx, "sip:102@pbx.example"
				if trunk {
					sender, one, uri = s.pbx, s.addUDPPeer(carrierAt), "sip:102@a.example"
				}
				check := func(want sip.TargetState) {
					t.Helper()
					for _, to := range states(s.proxy) {
						if to.State != want {
							t.Errorf("%v is %s, want %s", to.Configured, to.State, want)
						}
					}
				}
				if !trunk {
					s.setPBXs(names...)
				}
				s.advance(time.Second)
				one.answerProbe(0, "200 OK")
				one.expectNone("one probe is enough")
				check(sip.TargetUp)
				sender.send(sender.newRequest("MESSAGE", uri))
				one.respond(one.expect("the request", "MESSAGE"), "503 Service Unavailable")
				one.expectNone("there is no other server")
				sender.expect("it fails", "SIP/2.0 500")
				s.advance(23 * time.Second)
				one.discardReceived()
				check(sip.TargetDown)
				probes := 0
				for range 150 {
					s.advance(100 * ms)
					if m, ok := one.nextMessage(); ok {
						one.respond(m, "200 OK")
						probes++
					}
				}
				one.expectNone("no other probe")
				check(sip.TargetUp)
				if probes != 3 {
					t.Errorf("%d probes in 15 s, want 3", probes)
				}
			}, namedPBX(server), func(c *sip.Config) {
				c.PBX = names[:1]
				if trunk {
					c.PBX = []sip.Addr{{Proto: sip.UDP, AddrPort: pbxAt}}
					c.Trunks = []sip.Trunk{{Name: "carrier", Probe: 5 * time.Second, To: names}}
				}
			})
		})
	}
}
