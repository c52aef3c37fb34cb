package sip_test

import (
	"strings"
	"testing"
	"time"
)

// A provisional response belongs to the request with our branch, whatever Vias follow.
// It stops Timers A and B and releases a waiting CANCEL, whether or not it is forwarded.
func TestProvisionalResponseCountsWithAnyVias(t *testing.T) { // RFC 3261 §16.7 item 1, §17.1.1.2, §9.1
	vias := func(m text, with func(own, phones string) string) text {
		v := m.fieldValues("Via")
		return m.replaced("Via: "+v[1]+"\r\n", "").replaced("Via: "+v[0]+"\r\n", with(v[0], v[1]))
	}
	for _, tt := range []struct {
		name string
		vias func(own, phones string) string
	}{
		{"ours alone", func(own, _ string) string { return "Via: " + own + "\r\n" }},
		{"in one line", func(own, phones string) string { return "Via: " + own + ", " + phones + "\r\n" }},
		{"another's", func(own, _ string) string {
			return "Via: " + own + "\r\nVia: SIP/2.0/UDP 203.0.113.9;branch=z9hG4bK-x\r\n"
		}},
		{"an unreadable Via", func(own, _ string) string { return "v: " + own + "\r\nVia: garbage\r\n" }},
		{"ours twice", func(own, _ string) string { return "Via: " + own + "\r\nVia: " + own + "\r\n" }},
	} {
		for _, status := range []string{"100 Trying", "180 Ringing", "183 Session Progress", "199 Early Dialog Terminated"} {
			for _, over := range []string{"UDP", "TCP"} {
				t.Run(strings.Join([]string{tt.name, status[:3], over}, "/"), func(t *testing.T) {
					script := func(before bool) func(s *testbed) {
						return func(s *testbed) {
							invite, got := s.sendInvite()
							odd := vias(s.pbx.newResponse(got, status), tt.vias)
							if before { // the CANCEL waits for it
								s.phone.sendCancel(invite)
								s.phone.expect("the CANCEL is taken", "SIP/2.0 200")
								s.expectNothing("no CANCEL before a 1xx")
								s.pbx.send(odd)
							} else {
								s.pbx.send(odd)
								s.advance(40 * time.Second)
								s.phone.discardReceived()
								s.expectNothing("the INVITE is not repeated, and does not time out")
								s.phone.sendCancel(invite)
								s.phone.expect("the CANCEL is taken", "SIP/2.0 200")
							}
							cancel := s.pbx.expect("and goes on", "CANCEL")
							s.phone.discardReceived()
							s.pbx.respond(cancel, "200 OK")
							s.pbx.respond(got, "487 Request Terminated")
							s.pbx.expect("acknowledged", "ACK")
							s.phone.sendACK(invite, s.phone.expect("the end", "SIP/2.0 487"))
						}
					}
					if over == "TCP" {
						runScenario(t, script(false), pbxOverTCP)
						runScenario(t, script(true), pbxOverTCP)
						return
					}
					runScenario(t, script(false))
					runScenario(t, script(true))
				})
			}
		}
	}
}

// The PBX calls two devices of a group. The 100 of each leg has our Via alone, and both
// legs are canceled before they ring.
func TestTryingWithOneViaOnEachLeg(t *testing.T) {
	runScenario(t, func(s *testbed) {
		other := s.addUDPPeer(otherAt)
		devices := []*peer{s.phone, other}
		var sent, got []text
		for _, d := range devices {
			sent = append(sent, s.pbx.newRequest("INVITE", "sip:101@"+d.addr.String()))
			s.pbx.send(sent[len(sent)-1])
			got = append(got, d.expect("a leg", "INVITE"))
		}
		for i, d := range devices {
			trying := d.newResponse(got[i], "100 Trying")
			d.send(trying.replaced("Via: "+got[i].fieldValues("Via")[1]+"\r\n", ""))
		}
		s.advance(35 * time.Second)
		s.pbx.discardReceived()
		s.expectNothing("neither is repeated")
		for i, d := range devices {
			s.pbx.sendCancel(sent[i], `Reason: SIP;cause=487;text="ORIGINATOR_CANCEL"`)
			s.pbx.expect("taken", "SIP/2.0 200")
			d.respond(d.expect("goes on", "CANCEL"), "200 OK")
			d.respond(got[i], "487 Request Terminated")
			d.expect("acknowledged", "ACK")
			s.pbx.sendACK(sent[i], s.pbx.expect("the end", "SIP/2.0 487"))
		}
	})
}

// A PBX that forks itself sends a 100 with our Via alone, then responses with several To
// tags. One CANCEL ends them all.
func TestTryingWithOneViaBeforeSeveralRing(t *testing.T) { // RFC 3261 §9.1, §16.7
	for _, tcp := range []bool{false, true} {
		script := func(s *testbed) {
			invite, got := s.sendInvite()
			s.pbx.send(s.pbx.newResponse(got, "100 Trying").replaced("Via: "+got.fieldValues("Via")[1]+"\r\n", ""))
			for _, tag := range []string{"one", "two", "three"} {
				s.pbx.send(s.pbx.newResponse(got, "180 Ringing").replaced("tag=to-"+s.pbx.name, "tag="+tag))
				ringing := s.phone.expect("each rings", "SIP/2.0 180")
				if !strings.HasSuffix(ringing.fieldValue("To"), "tag="+tag) {
					t.Errorf("To: %s, want tag=%s", ringing.fieldValue("To"), tag)
				}
			}
			s.phone.sendCancel(invite)
			s.phone.expect("taken", "SIP/2.0 200")
			s.pbx.respond(s.pbx.expect("one CANCEL", "CANCEL"), "200 OK")
			s.expectNothing("and no other")
			s.pbx.respond(got, "487 Request Terminated")
			s.pbx.expect("acknowledged", "ACK")
			s.phone.sendACK(invite, s.phone.expect("the end", "SIP/2.0 487"))
		}
		if tcp {
			runScenario(t, script, pbxOverTCP)
		} else {
			runScenario(t, script)
		}
	}
}

// A 100 with our Via alone slows the retransmissions of a non-INVITE request. Its final
// response still comes back.
func TestTryingWithOneViaToAnotherRequest(t *testing.T) { // RFC 3261 §17.1.2.2
	runScenario(t, func(s *testbed) {
		s.phone.send(s.phone.newRequest("MESSAGE", "sip:102@pbx.example"))
		got := s.pbx.expect("goes on", "MESSAGE")
		s.pbx.send(s.pbx.newResponse(got, "100 Trying").replaced("Via: "+got.fieldValues("Via")[1]+"\r\n", ""))
		s.advance(500 * ms)
		s.pbx.expect("Timer E", "MESSAGE")
		s.advance(4*time.Second - 10*ms)
		s.expectNothing("T2 later")
		s.pbx.respond(got, "200 OK")
		s.phone.expect("answer", "SIP/2.0 200")
	})
}

// A final response with our Via alone ends its transaction. The sender gets it with the
// Vias of its request.
func TestFinalResponseGetsTheViasBack(t *testing.T) {
	strip := func(m, request text) text {
		for _, v := range request.fieldValues("Via")[1:] {
			m = m.replaced("Via: "+v+"\r\n", "")
		}
		return m
	}
	script := func(s *testbed) {
		for _, status := range []string{"486 Busy Here", "200 OK", "302 Moved", "603 Decline"} {
			invite := s.phone.newInvite().replaced("Max-Forwards", "Via: SIP/2.0/UDP 10.0.0.5:5060;branch=z9hG4bK-second\r\nMax-Forwards")
			s.phone.send(invite)
			got := s.pbx.expect("the INVITE goes on", "INVITE")
			if s.pbx.proto == "UDP" {
				s.advance(500 * ms)
				s.pbx.expect("Timer A", "INVITE")
				s.phone.expect("told to wait", "SIP/2.0 100")
			}
			s.pbx.send(strip(s.pbx.newResponse(got, status), got))
			back := s.phone.expect("the answer", "SIP/2.0 "+status)
			assertEqual(t, "Via", strings.Join(back.fieldValues("Via"), "|"), strings.Join(got.fieldValues("Via")[1:], "|"))
			if status[0] == '2' {
				s.phone.send(s.phone.callerRequest(back, "ACK"))
				s.pbx.expect("end to end", "ACK")
				s.phone.send(s.phone.callerRequest(back, "BYE"))
				bye := s.pbx.expect("the caller hangs up", "BYE")
				s.pbx.send(strip(s.pbx.newResponse(bye, "200 OK"), bye))
				s.phone.expect("and is answered", "SIP/2.0 200")
			} else {
				s.pbx.expect("acknowledged", "ACK")
				s.phone.sendACK(invite, back)
			}
			s.advance(time.Minute)
			s.expectNothing("nothing is repeated")
		}
	}
	runScenario(t, script)
	runScenario(t, script, pbxOverTCP)
}
