package sip_test

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"
)

// Phones and a PBX send any message at any time. At the end nothing is left, and nothing
// has panicked.
func TestRandomMessagesLeaveNothingBehind(t *testing.T) {
	for seed := range uint64(12) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			if seed%2 == 0 {
				runScenario(t, func(s *testbed) { runStorm(s, seed) })
			} else {
				runScenario(t, func(s *testbed) { runStorm(s, seed) }, pbxOverTCP)
			}
		})
	}
}

func runStorm(s *testbed, seed uint64) {
	r := rand.New(rand.NewPCG(seed, 1))
	pick := func(n int) int { return r.IntN(n) }
	methods := []string{"INVITE", "INVITE", "INVITE", "MESSAGE", "REGISTER", "BYE", "SUBSCRIBE", "OPTIONS"}
	answers := []string{"100 Trying", "180 Ringing", "183 Progress", "200 OK", "200 OK", "404 Not Found", "486 Busy Here", "487 Request Terminated", "503 Overloaded", "302 Moved"}
	// The PBX is connected to before it writes.
	s.phone.send(s.phone.newRequest("MESSAGE", "sip:102@pbx.example"))
	type side struct {
		*peer
		sent, requests, responses []text
	}
	phones := []*side{{peer: s.phone}, {peer: s.addUDPPeer(otherAt)}, {peer: s.dialTCPPeer(otherAt.Addr())}}
	all := append(phones, &side{peer: s.pbx})
	read := func(p *side) {
		for {
			m, ok := p.nextMessage()
			switch {
			case !ok:
				return
			case len(m) > 8 && m[:8] == "SIP/2.0 ":
				p.responses = append(p.responses, m)
			case m.fieldValue("Via") != "":
				p.requests = append(p.requests, m)
			}
		}
	}
	say := func(p *side, m text) {
		p.sent = append(p.sent, m)
		p.send(m)
	}
	for range 1000 {
		p := all[pick(len(all))]
		switch pick(9) {
		case 0:
			uri := "sip:102@pbx.example"
			if p.peer == s.pbx {
				uri = bracketedURI(phones[pick(2)].contact())
			}
			say(p, p.newRequest(methods[pick(len(methods))], uri))
		case 1:
			if len(p.sent) > 0 {
				p.send(p.sent[pick(len(p.sent))])
			}
		case 2:
			if len(p.sent) > 0 {
				if m := p.sent[pick(len(p.sent))]; m.method() == "INVITE" {
					p.sendCancel(m)
				}
			}
		case 3:
			if len(p.sent) > 0 && len(p.responses) > 0 {
				p.sendACK(p.sent[pick(len(p.sent))], p.responses[pick(len(p.responses))])
			}
		case 4:
			if len(p.responses) > 0 {
				if m := p.responses[pick(len(p.responses))]; m.fieldValue("Contact") != "" {
					say(p, p.callerRequest(m, []string{"ACK", "BYE", "INVITE", "INFO"}[pick(4)]))
				}
			}
		case 5:
			if len(p.requests) > 0 {
				if m := p.requests[pick(len(p.requests))]; m.fieldValue("Contact") != "" && m.fieldValue("Record-Route") != "" {
					say(p, p.calleeRequest(m, []string{"BYE", "INVITE", "INFO"}[pick(3)]))
				}
			}
		default:
			if len(p.requests) > 0 && pick(20) > 0 {
				p.respond(p.requests[pick(len(p.requests))], answers[pick(len(answers))])
			}
		}
		if pick(4) == 0 {
			s.advance(time.Duration(r.ExpFloat64() * float64(2*time.Second)))
		}
		if pick(50) == 0 {
			phones[2].close()
			phones[2].peer = s.dialTCPPeer(otherAt.Addr())
		}
		for _, p := range all {
			read(p)
		}
	}
}
