package sip_test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"bellhop/sip"
)

var secondAt = netip.MustParseAddrPort("192.0.2.12:5060")

func twoPBXs(c *sip.Config) {
	c.PBX = append(c.PBX, sip.Addr{Proto: sip.UDP, AddrPort: secondAt})
}

// get returns the next message that is no OPTIONS of the proxy, which it answers.
func (p *peer) get(what, start string) text {
	p.s.t.Helper()
	for {
		synctest.Wait()
		m, ok := p.nextMessage()
		switch {
		case ok && strings.Contains(string(m), "Call-ID: options-"):
			p.respond(m, "200 OK")
		case !ok || !strings.HasPrefix(string(m), start):
			p.s.t.Fatalf("%s: %s got\n%s\nwant %s", what, p.name, m, start)
		default:
			return m
		}
	}
}

// getNothing checks that a peer has got nothing but OPTIONS, which it answers.
func (p *peer) getNothing(what string) {
	p.s.t.Helper()
	synctest.Wait()
	for m, ok := p.nextMessage(); ok; m, ok = p.nextMessage() {
		if !strings.Contains(string(m), "Call-ID: options-") {
			p.s.t.Fatalf("%s: %s got\n%s", what, p.name, m)
		}
		p.respond(m, "200 OK")
	}
}

// wait lets time pass in which all PBXs answer OPTIONS.
func (s *testbed) wait(d time.Duration, pbxs ...*peer) {
	s.t.Helper()
	for ; d > 0; d -= time.Second {
		s.advance(min(d, time.Second))
		for _, p := range pbxs {
			p.getNothing("only OPTIONS")
		}
	}
}

func TestRefusedRequestGoesToTheNextPBX(t *testing.T) {
	runScenario(t, func(s *testbed) {
		second := s.allPBXs[1]
		invite := s.phone.newInvite()
		s.phone.send(invite)
		first := s.pbx.get("the INVITE", "INVITE")
		s.pbx.respond(first, "100 Trying")
		s.pbx.respond(first, "503 Service Unavailable")
		s.pbx.get("its ACK", "ACK")
		next := second.get("the INVITE again", "INVITE")
		assertEqual(t, "the same", next.fieldValue("Call-ID")+next.fieldValue("CSeq")+next.requestURI(), first.fieldValue("Call-ID")+first.fieldValue("CSeq")+first.requestURI())
		if next.fieldValues("Via")[0] == first.fieldValues("Via")[0] {
			t.Error("both have the same branch")
		}
		assertEqual(t, "one hop", next.fieldValue("Max-Forwards"), first.fieldValue("Max-Forwards"))
		s.pbx.respond(first, "503 Service Unavailable")
		s.pbx.get("repeated", "ACK")
		second.respond(next, "180 Ringing")
		s.phone.expect("rings", "SIP/2.0 180")
		second.respond(next, "200 OK")
		ok := s.phone.expect("answer", "SIP/2.0 200")
		s.phone.send(s.phone.callerRequest(ok, "ACK"))
		second.get("the ACK of the caller", "ACK")
		s.phone.send(s.phone.callerRequest(ok, "BYE"))
		second.respond(second.get("within the dialog", "BYE"), "200 OK")
		s.phone.expect("answer", "SIP/2.0 200")
		if n := s.proxy.Stats().FailedOver; n != 1 {
			t.Errorf("%d failovers are counted", n)
		}
		s.pbx.getNothing("no more")
	}, twoPBXs)
}

func TestUnansweredRequestGoesToTheNextPBX(t *testing.T) {
	for _, method := range []string{"INVITE", "MESSAGE", "REGISTER"} {
		t.Run(method, func(t *testing.T) {
			runScenario(t, func(s *testbed) {
				second := s.allPBXs[1]
				request := s.phone.newRequest(method, "sip:102@pbx.example")
				s.phone.send(request)
				first := s.pbx.get("the request", method)
				s.advance(500 * ms)
				s.pbx.get("Timer A or E", method)
				s.advance(1000 * ms)
				s.pbx.get("Timer A or E", method)
				s.advance(490 * ms)
				second.getNothing("too early")
				s.advance(10 * ms)
				next := second.get("after 2 s", method)
				if method == "INVITE" {
					s.phone.expect("meanwhile", "SIP/2.0 100")
				}
				second.respond(next, "200 OK")
				s.phone.expect("answer", "SIP/2.0 200")
				s.advance(10 * time.Second)
				s.pbx.discardRequests("no retransmission to the first")
				s.pbx.respond(first, "404 Not Found")
				if method == "INVITE" {
					s.pbx.get("its ACK", "ACK")
				}
				s.phone.expectNone("a late refusal is not forwarded")
			}, twoPBXs)
		})
	}
}

func (p *peer) expectNone(what string) {
	p.s.t.Helper()
	synctest.Wait()
	if m, ok := p.nextMessage(); ok {
		p.s.t.Fatalf("%s: %s got\n%s", what, p.name, m)
	}
}

// A PBX that was too slow to answer has the INVITE nevertheless.
func TestSlowPBXIsCanceledWhenItRings(t *testing.T) {
	runScenario(t, func(s *testbed) {
		second := s.allPBXs[1]
		invite := s.phone.newInvite()
		s.phone.send(invite)
		first := s.pbx.get("the INVITE", "INVITE")
		s.advance(2 * time.Second)
		next := second.get("after 2 s", "INVITE")
		s.phone.expect("meanwhile", "SIP/2.0 100")
		s.pbx.discardRequests("INVITE")
		s.pbx.respond(first, "180 Ringing")
		cancel := s.pbx.get("rings too late", "CANCEL")
		assertEqual(t, "branch", cancel.fieldValue("Via"), first.fieldValues("Via")[0])
		s.pbx.respond(cancel, "200 OK")
		s.pbx.respond(first, "487 Request Terminated")
		s.pbx.get("its ACK", "ACK")
		s.phone.expectNone("nothing of it")
		second.respond(next, "486 Busy Here")
		second.get("its ACK", "ACK")
		s.phone.sendACK(invite, s.phone.expect("the answer of the second", "SIP/2.0 486"))
	}, twoPBXs)
}

// discardRequests discards OPTIONS and requests with a method.
func (p *peer) discardRequests(method string) {
	synctest.Wait()
	for m, ok := p.nextMessage(); ok; m, ok = p.nextMessage() {
		if !strings.Contains(string(m), "Call-ID: options-") && !strings.HasPrefix(string(m), method) {
			p.s.t.Fatalf("%s got\n%s", p.name, m)
		}
	}
}

// A 2xx is always forwarded (RFC 3261 §16.7). The other PBX stops ringing.
func TestSlowPBXThatAnswersHasTheCall(t *testing.T) {
	runScenario(t, func(s *testbed) {
		second := s.allPBXs[1]
		s.phone.send(s.phone.newInvite())
		first := s.pbx.get("the INVITE", "INVITE")
		s.advance(2 * time.Second)
		next := second.get("after 2 s", "INVITE")
		s.phone.expect("meanwhile", "SIP/2.0 100")
		second.respond(next, "180 Ringing")
		s.phone.expect("rings", "SIP/2.0 180")
		s.pbx.discardRequests("INVITE")
		s.pbx.respond(first, "200 OK")
		ok := s.phone.expect("answer", "SIP/2.0 200")
		cancel := second.get("stops ringing", "CANCEL")
		second.respond(cancel, "200 OK")
		second.respond(next, "487 Request Terminated")
		second.get("its ACK", "ACK")
		s.phone.send(s.phone.callerRequest(ok, "ACK"))
		s.pbx.get("the ACK", "ACK")
		s.phone.send(s.phone.callerRequest(ok, "BYE"))
		s.pbx.respond(s.pbx.get("the dialog is there", "BYE"), "200 OK")
		s.phone.expect("answer", "SIP/2.0 200")
	}, twoPBXs)
}

// A 2xx to INVITE is forwarded even after another final response (RFC 3261 §16.7), because
// nobody else can end the call that it begins.
func TestSlowPBXThatAnswersAfterARefusalHasTheCall(t *testing.T) {
	for _, late := range []time.Duration{0, 20 * time.Second} { // 20 s: the server transaction has ended
		t.Run(late.String(), func(t *testing.T) {
			runScenario(t, func(s *testbed) {
				second, calls := s.allPBXs[1], s.followCalls()
				invite := s.phone.newInvite()
				s.phone.send(invite)
				first := s.pbx.get("the INVITE", "INVITE")
				s.advance(2 * time.Second)
				next := second.get("after 2 s", "INVITE")
				s.phone.expect("meanwhile", "SIP/2.0 100")
				second.respond(next, "486 Busy Here")
				second.get("its ACK", "ACK")
				s.phone.sendACK(invite, s.phone.expect("answer", "SIP/2.0 486"))
				s.advance(late)
				calls.readObservations()
				calls.said = nil
				s.pbx.discardRequests("INVITE")
				second.discardRequests("OPTIONS")
				s.pbx.respond(first, "200 OK")
				ok := s.phone.expect("answer after all", "SIP/2.0 200")
				s.pbx.respond(first, "200 OK")
				s.phone.expect("repeated", "SIP/2.0 200")
				s.phone.send(s.phone.callerRequest(ok, "ACK"))
				s.pbx.get("the ACK", "ACK")
				s.phone.send(s.phone.callerRequest(ok, "BYE"))
				s.pbx.respond(s.pbx.get("the call ends", "BYE"), "200 OK")
				s.phone.expect("answer", "SIP/2.0 200")
				calls.expectEvents("the caller was refused once", 0)
			}, twoPBXs)
		})
	}
}

// Two PBXs have the same request. The sender gets the first final response alone, unless it
// is an INVITE, and so does the tracker. Only an INVITE can be canceled.
func TestSlowPBXThatAcceptsAMessage(t *testing.T) {
	runScenario(t, func(s *testbed) {
		second := s.allPBXs[1]
		s.phone.send(s.phone.newRequest("MESSAGE", "sip:102@pbx.example"))
		first := s.pbx.get("the MESSAGE", "MESSAGE")
		s.advance(2 * time.Second)
		next := second.get("after 2 s", "MESSAGE")
		second.respond(next, "100 Trying")
		s.pbx.discardRequests("MESSAGE")
		s.pbx.respond(first, "200 OK")
		s.phone.expect("answer", "SIP/2.0 200")
		second.getNothing("no CANCEL")
		for len(s.observations) > 0 {
			<-s.observations
		}
		second.respond(next, "404 Not Found")
		s.phone.expectNone("the second response")
		if n := len(s.observations); n > 0 {
			t.Errorf("%d observations of a response that is not forwarded", n)
		}
	}, twoPBXs)
}

// One PBX answers late, the other one never. Only the latter rests, and its timeout is no
// second answer to the call.
func TestSilentPBXRestsAndNotTheSlowOne(t *testing.T) {
	runScenario(t, func(s *testbed) {
		second := s.allPBXs[1]
		s.phone.send(s.phone.newInvite())
		first := s.pbx.get("the INVITE", "INVITE")
		s.advance(2 * time.Second)
		second.get("after 2 s", "INVITE")
		s.phone.expect("meanwhile", "SIP/2.0 100")
		s.pbx.discardRequests("INVITE")
		s.pbx.respond(first, "200 OK")
		s.phone.expect("answer", "SIP/2.0 200")
		for len(s.observations) > 0 {
			<-s.observations
		}
		for range 32 {
			s.advance(time.Second)
			s.pbx.getNothing("only OPTIONS")
			for m, ok := second.nextMessage(); ok; m, ok = second.nextMessage() {
				if strings.HasPrefix(string(m), "OPTIONS") {
					second.respond(m, "200 OK")
				}
			}
		}
		if n := len(s.observations); n > 0 {
			t.Errorf("the tracker gets %d messages of a call that was answered: %+v", n, <-s.observations)
		}
		s.phone.expectNone("it has its answer")
		s.sendMessage(s.pbx, "the first does not rest")
	}, twoPBXs)
}

func TestNoFailover(t *testing.T) {
	for _, tt := range []struct {
		name      string
		responses []string
		want      []string
	}{
		{"after ringing", []string{"180 Ringing", "503 Service Unavailable"}, []string{"180", "500"}},
		{"after progress", []string{"183 Session Progress", "503 Service Unavailable"}, []string{"183", "500"}},
		{"server error", []string{"500 Server Internal Error"}, []string{"500"}},
		{"timeout", []string{"408 Request Timeout"}, []string{"408"}},
		{"busy everywhere", []string{"600 Busy Everywhere"}, []string{"600"}},
		{"not found", []string{"404 Not Found"}, []string{"404"}},
		{"challenge", []string{"401 Unauthorized"}, []string{"401"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			runScenario(t, func(s *testbed) {
				invite := s.phone.newInvite()
				s.phone.send(invite)
				got := s.pbx.get("the INVITE", "INVITE")
				for i, status := range tt.responses {
					s.pbx.respond(got, status)
					if answer := s.phone.expect("answer", "SIP/2.0 "+tt.want[i]); tt.want[i] >= "300" {
						s.phone.sendACK(invite, answer)
					}
				}
				s.pbx.get("its ACK", "ACK")
				s.wait(3*time.Second, s.allPBXs...)
			}, twoPBXs)
		})
	}
	t.Run("within a dialog", func(t *testing.T) {
		runScenario(t, func(s *testbed) {
			s.phone.send(s.phone.newInvite())
			s.pbx.respond(s.pbx.get("the INVITE", "INVITE"), "200 OK")
			ok := s.phone.expect("answer", "SIP/2.0 200")
			s.phone.send(s.phone.callerRequest(ok, "ACK"))
			s.pbx.get("its ACK", "ACK")
			s.phone.send(s.phone.callerRequest(ok, "INFO"))
			s.pbx.respond(s.pbx.get("the INFO", "INFO"), "503 Service Unavailable")
			s.phone.expect("answer", "SIP/2.0 500")
			s.allPBXs[1].getNothing("a dialog stays with its PBX")
		}, twoPBXs)
	})
	t.Run("canceled", func(t *testing.T) {
		runScenario(t, func(s *testbed) {
			invite := s.phone.newInvite()
			s.phone.send(invite)
			got := s.pbx.get("the INVITE", "INVITE")
			s.phone.sendCancel(invite)
			s.phone.expect("the CANCEL is answered", "SIP/2.0 200")
			s.pbx.respond(got, "100 Trying")
			cancel := s.pbx.get("the CANCEL goes on", "CANCEL")
			s.pbx.respond(cancel, "200 OK")
			s.pbx.respond(got, "503 Service Unavailable")
			s.pbx.get("its ACK", "ACK")
			s.phone.sendACK(invite, s.phone.expect("answer", "SIP/2.0 500"))
			s.wait(3*time.Second, s.allPBXs...)
		}, twoPBXs)
	})
}

func TestFailoverEndsWithTheLastPBX(t *testing.T) {
	runScenario(t, func(s *testbed) {
		second := s.allPBXs[1]
		for range 20 { // all PBXs refuse for a while; each new call is tried at both
			invite := s.phone.newInvite()
			s.phone.send(invite)
			for _, p := range s.allPBXs {
				p.respond(p.get("the INVITE", "INVITE"), "503 Service Unavailable", "Retry-After: 3600")
				p.get("its ACK", "ACK")
			}
			s.phone.sendACK(invite, s.phone.expect("answer", "SIP/2.0 500"))
			s.wait(500*ms, s.allPBXs...)
		}
		s.phone.send(s.phone.newRequest("MESSAGE", "sip:102@pbx.example"))
		s.pbx.respond(s.pbx.get("at the first", "MESSAGE"), "200 OK")
		s.phone.expect("it accepts again", "SIP/2.0 200")
		second.getNothing("not needed")
	}, twoPBXs)
}

func TestFailedPBXRests(t *testing.T) {
	runScenario(t, func(s *testbed) {
		second := s.allPBXs[1]
		s.wait(time.Second, s.allPBXs...)
		s.phone.send(s.phone.newRequest("MESSAGE", "sip:102@pbx.example"))
		s.pbx.respond(s.pbx.get("the first", "MESSAGE"), "503 Service Unavailable", "Retry-After: 3 (soon);duration=9")
		second.respond(second.get("the second", "MESSAGE"), "200 OK")
		s.phone.expect("answer", "SIP/2.0 200")
		message := func(to *peer, what string) {
			t.Helper()
			s.phone.send(s.phone.newRequest("MESSAGE", "sip:102@pbx.example"))
			to.respond(to.get(what, "MESSAGE"), "200 OK")
			s.phone.expect(what, "SIP/2.0 200")
		}
		message(second, "the first rests")
		s.advance(3*time.Second - 10*ms)
		message(second, "the first rests still")
		s.advance(10 * ms)
		message(s.pbx, "it has rested")
	}, twoPBXs)
}

func TestOPTIONSWakesAPBXThatRests(t *testing.T) {
	runScenario(t, func(s *testbed) {
		second := s.allPBXs[1]
		s.phone.send(s.phone.newRequest("MESSAGE", "sip:102@pbx.example"))
		s.pbx.respond(s.pbx.get("the first", "MESSAGE"), "503 Service Unavailable")
		second.respond(second.get("the second", "MESSAGE"), "200 OK")
		s.phone.expect("answer", "SIP/2.0 200")
		s.wait(5*time.Second, s.allPBXs...)
		s.phone.send(s.phone.newRequest("MESSAGE", "sip:102@pbx.example"))
		s.pbx.respond(s.pbx.get("it has answered OPTIONS", "MESSAGE"), "200 OK")
		s.phone.expect("answer", "SIP/2.0 200")
	}, twoPBXs)
}

func TestClosedTCPPortFailsOver(t *testing.T) {
	runScenario(t, func(s *testbed) {
		second := s.allPBXs[1]
		s.wait(time.Second, s.allPBXs...)
		s.pbx.close()
		start := time.Now()
		s.phone.send(s.phone.newInvite())
		second.respond(second.get("at once", "INVITE"), "200 OK")
		s.phone.expect("answer", "SIP/2.0 200")
		if d := time.Since(start); d > 50*ms {
			t.Errorf("failover took %v", d)
		}
		s.phone.send(s.phone.newRequest("MESSAGE", "sip:102@pbx.example"))
		second.respond(second.get("the first is down", "MESSAGE"), "200 OK")
		s.phone.expect("answer", "SIP/2.0 200")
		if n := s.proxy.Stats().FailedOver; n != 1 {
			t.Errorf("%d failovers, want 1: the second request knows that the first PBX is down", n)
		}
	}, func(c *sip.Config) {
		twoPBXs(c)
		c.PBX[0].Proto, c.PBX[1].Proto = sip.TCP, sip.TCP
	})
}

// Calls go to the PBX that took the REGISTER, credentials to the one that challenged.
func TestRequestsGoWhereThePhoneIsRegistered(t *testing.T) {
	runScenario(t, func(s *testbed) {
		second := s.allPBXs[1]
		const aor = "<sip:101@pbx.example>"
		register := s.phone.newRequest("REGISTER", "sip:pbx.example", "From: "+aor+";tag=1", "To: "+aor)
		s.phone.send(register)
		s.pbx.respond(s.pbx.get("the first", "REGISTER"), "503 Service Unavailable")
		second.respond(second.get("the second", "REGISTER"), "401 Unauthorized")
		s.phone.expect("challenge", "SIP/2.0 401")
		s.wait(5*time.Second, s.allPBXs...) // the first is back
		again := s.phone.newRequest("REGISTER", "sip:pbx.example", "From: "+aor+";tag=1", "To: "+aor, "Authorization: Digest nonce=x")
		again = again.replaced("Call-ID: "+again.fieldValue("Call-ID"), "Call-ID: "+register.fieldValue("Call-ID"))
		s.phone.send(again)
		second.respond(second.get("with credentials", "REGISTER"), "200 OK")
		s.phone.expect("answer", "SIP/2.0 200")
		s.phone.send(s.phone.newRequest("MESSAGE", "sip:102@pbx.example", "From: "+aor+";tag=2"))
		second.respond(second.get("where it is registered", "MESSAGE"), "200 OK")
		s.phone.expect("answer", "SIP/2.0 200")
		s.phone.send(s.phone.newRequest("MESSAGE", "sip:102@pbx.example", "From: <sip:999@pbx.example>;tag=1"))
		s.pbx.respond(s.pbx.get("another address-of-record", "MESSAGE"), "200 OK")
		s.phone.expect("answer", "SIP/2.0 200")
	}, twoPBXs)
}

func TestSpread(t *testing.T) {
	runScenario(t, func(s *testbed) {
		got := map[string]map[*peer]int{}
		for i := range 60 {
			aor := fmt.Sprintf("%d@pbx.example", 100+i%20)
			s.phone.send(s.phone.newRequest("MESSAGE", "sip:102@pbx.example", "From: <sip:"+aor+">;tag=1"))
			synctest.Wait()
			for _, p := range s.allPBXs {
				for m, ok := p.nextMessage(); ok; m, ok = p.nextMessage() {
					p.respond(m, "200 OK")
					if strings.HasPrefix(string(m), "MESSAGE") {
						if got[aor] == nil {
							got[aor] = map[*peer]int{}
						}
						got[aor][p]++
					}
				}
			}
			s.phone.expect("answer", "SIP/2.0 200")
		}
		each := map[*peer]int{}
		for aor, pbxs := range got {
			if len(pbxs) != 1 {
				t.Errorf("%s was sent to several PBXs", aor)
			}
			for p := range pbxs {
				each[p]++
			}
		}
		if each[s.allPBXs[0]] < 4 || each[s.allPBXs[1]] < 4 {
			t.Errorf("of 20 addresses-of-record, the PBXs have %v", each)
		}
	}, twoPBXs, func(c *sip.Config) { c.PBXMode = sip.SpreadPBX })
}

// A message in a WebSocket frame needs no Content-Length. Its body goes to each PBX.
func TestBodyWithoutContentLengthFailsOver(t *testing.T) {
	runScenario(t, func(s *testbed) {
		second := s.allPBXs[1]
		page := s.openWebSocket(pageAt, wsAt)
		m := page.newRequest("MESSAGE", "sip:102@pbx.example", "Content-Type: text/plain")
		head, _, _ := strings.Cut(string(m), "Content-Length:")
		page.send(text(head + "\r\nhello"))
		first := s.pbx.get("the MESSAGE", "MESSAGE")
		s.pbx.respond(first, "503 Service Unavailable")
		next := second.get("the MESSAGE again", "MESSAGE")
		second.respond(next, "200 OK")
		page.expect("answer", "SIP/2.0 200")
		for _, got := range []text{first, next} {
			if _, body, _ := strings.Cut(string(got), "\r\n\r\n"); body != "hello" {
				t.Errorf("the body is %q", body)
			}
		}
	}, twoPBXs, withWebSocket)
}
