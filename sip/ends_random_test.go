package sip_test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// A randomCall is a call with random events: messages are refused, lost, forged or
// answered in any way, connections open and close, and bellhop restarts.
type randomCall struct {
	*callFollower
	r      *rand.Rand
	tcp    bool
	phone  *peer
	open   bool   // the phone's flow is open
	came   int    // number of the phone's connections
	own    bool   // the flow is that of the call, or has registered since then and since the start of bellhop
	left   string // party whose BYE must have ended the call; "": none
	path   string
	steps  []string
	within func(from *peer, method string, lines ...string) text // nil: the call is not answered
	asked  []text                                                // requests that the phone has received and not answered
	phoned []text                                                // requests that the PBX has received and not answered
}

// logStep notes an event for the report of a failure.
func (w *randomCall) logStep(format string, args ...any) {
	w.steps = append(w.steps, fmt.Sprintf(format, args...))
}

// pickWord returns one of the words at random.
func (w *randomCall) pickWord(words ...string) string { return words[w.r.IntN(len(words))] }

// connectPhone gives the phone a new address and, if register is true, registers it.
func (w *randomCall) connectPhone(register bool) {
	w.logStep("the phone comes, registers %v", register)
	w.open, w.own = true, register
	w.came++
	if w.phone != nil {
		w.phone.close()
	}
	if w.tcp {
		w.phone = w.s.dialTCPPeer(phoneAt.Addr())
	} else {
		w.phone = w.s.addUDPPeer(netip.AddrPortFrom(phoneAt.Addr(), uint16(20000+len(w.steps))))
	}
	w.phone.name = "phone"
	if !register {
		return
	}
	w.phone.send(w.phone.newRequest("REGISTER", "sip:pbx.example", "To: <sip:101@pbx.example>"))
	w.readObservations()
	w.drainPeers()
	for _, m := range w.phoned {
		if m.method() == "REGISTER" {
			w.path = m.fieldValue("Path")
			w.s.pbx.respond(m, "200 OK", "Path: "+w.path)
		}
	}
	w.phoned = nil
	w.drainPeers()
}

// closeFlow closes the phone's flow.
func (w *randomCall) closeFlow() {
	w.logStep("the phone goes")
	w.phone.close()
	w.open = false
}

// drainPeers collects the messages that have arrived at both ends.
func (w *randomCall) drainPeers() {
	synctest.Wait()
	take := func(p *peer, into *[]text) {
		for m, ok := p.nextMessage(); ok; m, ok = p.nextMessage() {
			if !strings.HasPrefix(string(m), "SIP/2.0 ") && strings.Contains(string(m), "SIP/2.0\r\n") && m.method() != "ACK" {
				*into = append(*into, m)
			}
		}
	}
	take(w.phone, &w.asked)
	take(w.s.pbx, &w.phoned)
}

// answerOrNot lets an end answer the requests it has received, or leave them unanswered.
func (w *randomCall) answerOrNot(p *peer, asked *[]text) {
	for _, m := range *asked {
		status := w.pickWord("200 OK", "200 OK", "481 x", "401 x", "407 x", "500 x", "503 x", "408 x", "")
		w.logStep("%s answers %s %s", p.name, m.method(), status)
		if status != "" {
			p.send(p.newResponse(m, status))
		}
	}
	*asked = nil
}

// alteredRequest returns a request in the dialog, with or without one error.
func (w *randomCall) alteredRequest(from *peer) text {
	method := w.pickWord("BYE", "BYE", "INVITE", "UPDATE", "INFO", "OPTIONS", "REFER", "NOTIFY")
	twist := w.pickWord("", "", "", "Max-Forwards: 0", "Max-Forwards: 256", "Proxy-Require: x", "Route: <sip:x@192.0.2.1:5060;lr>", "Route:", "no length", "Max-Forwards: x")
	w.logStep("%s asks %s %s", from.name, method, twist)
	if method == "BYE" && (from == w.s.pbx || w.own && w.open && !strings.HasPrefix(twist, "Route: ")) {
		w.left = from.name
	}
	if twist == "no length" {
		return w.within(from, method, "Refer-To: <sip:103@pbx.example>", "Event: refer").replaced("Content-Length: 0\r\n", "")
	}
	if twist == "" {
		twist = "X-Twist: none"
	}
	return w.within(from, method, "Refer-To: <sip:103@pbx.example>", "Event: refer", twist)
}

// takeStep makes one random event happen.
func (w *randomCall) takeStep() {
	switch n := w.r.IntN(12); {
	case n < 3:
		m := w.alteredRequest(w.phone)
		w.phone.send(m)
		if w.tcp && m.fieldValue("Content-Length") == "" {
			w.open = false // bellhop cannot read further
		}
	case n < 6:
		w.s.pbx.send(w.alteredRequest(w.s.pbx))
	case n == 6:
		w.closeFlow()
	case n == 7:
		w.connectPhone(w.r.IntN(2) == 0)
	case n == 8:
		w.logStep("bellhop restarts")
		w.restartAll()
		w.open, w.own = w.open && !w.tcp, w.came == 1
	case n == 9:
		left := w.left
		stranger := w.s.addUDPPeer(netip.AddrPortFrom(otherAt.Addr(), uint16(30000+len(w.steps))))
		m := w.alteredRequest(w.phone)
		w.logStep("a stranger sends it")
		stranger.send(m)
		w.left = left
	default:
		d := []time.Duration{time.Millisecond, time.Second, 40 * time.Second}[w.r.IntN(3)]
		w.logStep("after %v", d)
		w.s.advance(d)
	}
	w.drainPeers()
	if w.r.IntN(4) > 0 {
		w.answerOrNot(w.phone, &w.asked)
	}
	if w.r.IntN(4) > 0 {
		w.answerOrNot(w.s.pbx, &w.phoned)
	}
	w.drainPeers()
	w.readObservations()
	if up := len(w.tracker.Dialogs()); w.left != "" && up != 0 {
		w.s.t.Errorf("%s has left, and %d dialogs are up", w.left, up)
	}
}

// setUp sets the call up, as far as it gets. end ends it from the PBX.
func (w *randomCall) setUp(out bool) (end func()) {
	pbx := w.s.pbx
	if out {
		invite := w.phone.newInvite()
		w.phone.send(invite)
		got := pbx.expect("the INVITE goes on", "INVITE")
		pbx.respond(got, "180 Ringing")
		if w.r.IntN(3) == 0 {
			w.closeFlow()
		}
		switch w.r.IntN(4) {
		case 0:
			w.logStep("the phone cancels")
			w.phone.sendCancel(invite)
			return func() { pbx.respond(got, "487 Request Terminated") }
		case 1:
			return func() { pbx.respond(got, w.pickWord("486 Busy Here", "503 x", "401 x")) }
		}
		ok := pbx.newResponse(got, "200 OK")
		pbx.send(ok)
		w.within = func(from *peer, method string, lines ...string) text {
			if from == pbx {
				return from.calleeRequest(got, method, lines...)
			}
			return from.callerRequest(ok, method, lines...)
		}
	} else {
		invite := pbx.newRequest("INVITE", "sip:101@10.0.0.5:5060;transport=tcp", "From: <sip:5551234@pbx.example>;tag=pbx", "To: <sip:101@pbx.example>", "Route: "+w.path)
		pbx.send(invite)
		got := w.phone.expect("the call comes in", "INVITE")
		w.phone.respond(got, "180 Ringing")
		switch w.r.IntN(3) {
		case 0:
			w.logStep("it only rings")
			if w.r.IntN(2) == 0 {
				w.closeFlow()
			}
			if w.r.IntN(2) == 0 {
				w.restartAll()
				w.logStep("bellhop restarts")
			}
			return func() { pbx.sendCancel(invite) }
		}
		answer := w.phone.newResponse(got, "200 OK")
		w.phone.send(answer)
		if w.r.IntN(3) == 0 {
			w.closeFlow()
		}
		w.within = func(from *peer, method string, lines ...string) text {
			if from == pbx {
				return from.callerRequest(answer, method, lines...)
			}
			return from.calleeRequest(got, method, lines...)
		}
	}
	return func() { pbx.send(w.within(pbx, "BYE")) }
}

// Each party of a random call hangs up exactly once. The PBX ends every call at last.
func TestRandomCallsEndOncePerParty(t *testing.T) {
	n := 100
	if testing.Short() {
		n = 20
	}
	for seed := range n {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newTestbed(t)
				defer s.closeAll()
				w := &randomCall{callFollower: s.followCalls(), r: rand.New(rand.NewPCG(uint64(seed), 1))}
				w.tcp = w.r.IntN(3) > 0
				w.connectPhone(true)
				end := w.setUp(w.r.IntN(2) == 0)
				w.drainPeers()
				w.readObservations()
				if w.within != nil {
					for range 1 + w.r.IntN(8) {
						w.takeStep()
					}
				}
				w.logStep("the PBX ends it")
				end()
				s.advance(10 * time.Minute)
				w.drainPeers()
				w.readObservations()
				dials, hangups := map[string]int{}, map[string]int{}
				for _, e := range w.said {
					switch words := strings.Fields(e); words[0] {
					case "dial-in", "dial-out":
						dials[words[1]]++
					case "hangup":
						hangups[words[1]]++
						if words[2] == "UNKNOWN" {
							t.Errorf("nobody knows how it ended")
						}
					}
				}
				if up := len(w.tracker.Dialogs()); dials["101"] != 1 || hangups["101"] != 1 || up != 0 {
					t.Errorf("said %q, and %d dialogs are up", w.said, up)
				}
				if t.Failed() {
					t.Logf("seed %d:\n%s\nsaid %q", seed, strings.Join(w.steps, "\n"), w.said)
				}
			})
		})
	}
}
