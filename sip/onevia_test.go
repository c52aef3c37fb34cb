package sip_test

import (
	"strings"
	"testing"
	"time"
)

// TestAProvisionalResponseCountsWhateverViasFollow: our branch tells whose it is. It
// stops Timers A and B and lets a CANCEL go, whether it is sent on or not.
func TestAProvisionalResponseCountsWhateverViasFollow(t *testing.T) { // RFC 3261 §16.7 item 1, §17.1.1.2, §9.1
	vias := func(m text, with func(own, phones string) string) text {
		v := m.all("Via")
		return m.with("Via: "+v[1]+"\r\n", "").with("Via: "+v[0]+"\r\n", with(v[0], v[1]))
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
		{"garbage", func(own, _ string) string { return "v: " + own + "\r\nVia: garbage\r\n" }},
		{"ours twice", func(own, _ string) string { return "Via: " + own + "\r\nVia: " + own + "\r\n" }},
	} {
		for _, status := range []string{"100 Trying", "180 Ringing", "183 Session Progress", "199 Early Dialog Terminated"} {
			for _, over := range []string{"UDP", "TCP"} {
				t.Run(strings.Join([]string{tt.name, status[:3], over}, "/"), func(t *testing.T) {
					script := func(before bool) func(s *scene) {
						return func(s *scene) {
							invite, got := s.invited()
							odd := vias(s.pbx.answer(got, status), tt.vias)
							if before { // the CANCEL waits for it
								s.phone.cancels(invite)
								s.phone.gets("the CANCEL is taken", "SIP/2.0 200")
								s.quiet("no CANCEL before a 1xx")
								s.pbx.sends(odd)
							} else {
								s.pbx.sends(odd)
								s.after(40 * time.Second)
								s.phone.forgets()
								s.quiet("the INVITE is not repeated, and does not time out")
								s.phone.cancels(invite)
								s.phone.gets("the CANCEL is taken", "SIP/2.0 200")
							}
							cancel := s.pbx.gets("and goes on", "CANCEL")
							s.phone.forgets()
							s.pbx.replies(cancel, "200 OK")
							s.pbx.replies(got, "487 Request Terminated")
							s.pbx.gets("acknowledged", "ACK")
							s.phone.acks(invite, s.phone.gets("the end", "SIP/2.0 487"))
						}
					}
					if over == "TCP" {
						play(t, script(false), pbxOverTCP)
						play(t, script(true), pbxOverTCP)
						return
					}
					play(t, script(false))
					play(t, script(true))
				})
			}
		}
	}
}

// TestATryingOfEachLeg: the PBX calls two devices of a group; each leg's 100 has our Via
// alone, and both are given up before anybody rings.
func TestATryingOfEachLeg(t *testing.T) {
	play(t, func(s *scene) {
		other := s.udp(otherAt)
		devices := []*peer{s.phone, other}
		var sent, got []text
		for _, d := range devices {
			sent = append(sent, s.pbx.request("INVITE", "sip:101@"+d.addr.String()))
			s.pbx.sends(sent[len(sent)-1])
			got = append(got, d.gets("a leg", "INVITE"))
		}
		for i, d := range devices {
			trying := d.answer(got[i], "100 Trying")
			d.sends(trying.with("Via: "+got[i].all("Via")[1]+"\r\n", ""))
		}
		s.after(35 * time.Second)
		s.pbx.forgets()
		s.quiet("neither is repeated")
		for i, d := range devices {
			s.pbx.cancels(sent[i], `Reason: SIP;cause=487;text="ORIGINATOR_CANCEL"`)
			s.pbx.gets("taken", "SIP/2.0 200")
			d.replies(d.gets("goes on", "CANCEL"), "200 OK")
			d.replies(got[i], "487 Request Terminated")
			d.gets("acknowledged", "ACK")
			s.pbx.acks(sent[i], s.pbx.gets("the end", "SIP/2.0 487"))
		}
	})
}

// TestATryingThenRingingOfSeveral: a PBX that forks itself answers with several To tags
// behind its bare 100; one CANCEL ends them all.
func TestATryingThenRingingOfSeveral(t *testing.T) { // RFC 3261 §9.1, §16.7
	for _, tcp := range []bool{false, true} {
		script := func(s *scene) {
			invite, got := s.invited()
			s.pbx.sends(s.pbx.answer(got, "100 Trying").with("Via: "+got.all("Via")[1]+"\r\n", ""))
			for _, tag := range []string{"one", "two", "three"} {
				s.pbx.sends(s.pbx.answer(got, "180 Ringing").with("tag=to-"+s.pbx.name, "tag="+tag))
				ringing := s.phone.gets("each rings", "SIP/2.0 180")
				if !strings.HasSuffix(ringing.one("To"), "tag="+tag) {
					t.Errorf("To: %s, want tag=%s", ringing.one("To"), tag)
				}
			}
			s.phone.cancels(invite)
			s.phone.gets("taken", "SIP/2.0 200")
			s.pbx.replies(s.pbx.gets("one CANCEL", "CANCEL"), "200 OK")
			s.quiet("and no other")
			s.pbx.replies(got, "487 Request Terminated")
			s.pbx.gets("acknowledged", "ACK")
			s.phone.acks(invite, s.phone.gets("the end", "SIP/2.0 487"))
		}
		if tcp {
			play(t, script, pbxOverTCP)
		} else {
			play(t, script)
		}
	}
}

// TestATryingOfAnotherRequest: the bare 100 of a request that is no INVITE slows its
// repetitions down, and its final response still comes back.
func TestATryingOfAnotherRequest(t *testing.T) { // RFC 3261 §17.1.2.2
	play(t, func(s *scene) {
		s.phone.sends(s.phone.request("MESSAGE", "sip:102@pbx.example"))
		got := s.pbx.gets("goes on", "MESSAGE")
		s.pbx.sends(s.pbx.answer(got, "100 Trying").with("Via: "+got.all("Via")[1]+"\r\n", ""))
		s.after(500 * ms)
		s.pbx.gets("Timer E", "MESSAGE")
		s.after(4*time.Second - 10*ms)
		s.quiet("T2 later")
		s.pbx.replies(got, "200 OK")
		s.phone.gets("answer", "SIP/2.0 200")
	})
}

// TestAFinalResponseWithoutAnotherVia: it ends its transaction, and the sender gets it
// with the Vias of its request.
func TestAFinalResponseWithoutAnotherVia(t *testing.T) {
	strip := func(m, request text) text {
		for _, v := range request.all("Via")[1:] {
			m = m.with("Via: "+v+"\r\n", "")
		}
		return m
	}
	script := func(s *scene) {
		for _, status := range []string{"486 Busy Here", "200 OK", "302 Moved", "603 Decline"} {
			invite := s.phone.invite().with("Max-Forwards", "Via: SIP/2.0/UDP 10.0.0.5:5060;branch=z9hG4bK-second\r\nMax-Forwards")
			s.phone.sends(invite)
			got := s.pbx.gets("the INVITE goes on", "INVITE")
			if s.pbx.proto == "UDP" {
				s.after(500 * ms)
				s.pbx.gets("Timer A", "INVITE")
				s.phone.gets("told to wait", "SIP/2.0 100")
			}
			s.pbx.sends(strip(s.pbx.answer(got, status), got))
			back := s.phone.gets("the answer", "SIP/2.0 "+status)
			equal(t, "Via", strings.Join(back.all("Via"), "|"), strings.Join(got.all("Via")[1:], "|"))
			if status[0] == '2' {
				s.phone.sends(s.phone.within(back, "ACK"))
				s.pbx.gets("end to end", "ACK")
				s.phone.sends(s.phone.within(back, "BYE"))
				bye := s.pbx.gets("the caller hangs up", "BYE")
				s.pbx.sends(strip(s.pbx.answer(bye, "200 OK"), bye))
				s.phone.gets("and is answered", "SIP/2.0 200")
			} else {
				s.pbx.gets("acknowledged", "ACK")
				s.phone.acks(invite, back)
			}
			s.after(time.Minute)
			s.quiet("nothing is repeated")
		}
	}
	play(t, script)
	play(t, script, pbxOverTCP)
}
