package sip_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"bellhop/sip"
)

// The BYE of either end is refused, lost, challenged or repeated. Each party hangs up
// exactly once, and no call stays up.
func TestCallEndsOnceWhateverHappensToItsBYE(t *testing.T) { // RFC 3261 §15
	const byPBX, byPhone = "hangup 101 ANSWER by other", "hangup 101 ANSWER by self"
	for _, tt := range []struct {
		name string
		play func(l *phoneCall)
		want string // "": nothing
	}{
		{"the PBX's, to a flow that is gone", func(l *phoneCall) {
			l.closeConn()
			bye := l.request(l.pbx, "BYE")
			l.pbx.sendExpectingStatus(bye, 430)
			l.pbx.sendExpectingStatus(bye, 430)
			l.pbx.sendExpectingStatus(l.request(l.pbx, "BYE"), 430)
		}, byPBX},
		{"the PBX's, behind requests that were refused", func(l *phoneCall) {
			l.closeConn()
			for _, method := range []string{"INVITE", "UPDATE", "INFO", "REFER", "NOTIFY", "MESSAGE", "OPTIONS"} {
				m := l.request(l.pbx, method, "Refer-To: <sip:102@pbx.example>", "Event: refer")
				l.pbx.send(m)
				answer := l.pbx.expect(method, "SIP/2.0 430")
				if method == "INVITE" {
					l.pbx.sendACK(m, answer)
				}
			}
			l.expectEvents("none of them ends it", 1)
			l.pbx.sendExpectingStatus(l.request(l.pbx, "BYE"), 430)
		}, byPBX},
		{"the PBX's, when bellhop has restarted", func(l *phoneCall) {
			l.s.stop()
			l.s.restartProxy()
			l.phone.discardReceived()
			l.pbx.sendExpectingStatus(l.request(l.pbx, "BYE"), 430)
		}, byPBX},
		{"the PBX's, with no hop left", func(l *phoneCall) {
			l.pbx.sendExpectingStatus(l.request(l.pbx, "BYE", "Max-Forwards: 0"), 483)
			l.pbx.sendThrough(l.phone, l.request(l.pbx, "BYE"), "481 No Such Call", 481)
		}, byPBX},
		{"the PBX's, malformed", func(l *phoneCall) {
			l.pbx.sendExpectingStatus(l.request(l.pbx, "BYE", "Max-Forwards: 256"), 400)
		}, byPBX},
		{"the PBX's, while the phone only goes", func(l *phoneCall) {
			l.pbx.send(l.request(l.pbx, "BYE"))
			l.phone.expect("it arrives", "BYE")
			l.closeConn()
			l.s.advance(40 * time.Second)
			l.pbx.discardReceived()
		}, byPBX},
		{"the PBX's, answered 500", func(l *phoneCall) {
			l.pbx.sendThrough(l.phone, l.request(l.pbx, "BYE"), "500 Server Error", 500)
		}, byPBX},
		{"the phone's, with no hop left", func(l *phoneCall) {
			l.phone.sendExpectingStatus(l.request(l.phone, "BYE", "Max-Forwards: 0"), 483)
			l.phone.sendThrough(l.pbx, l.request(l.phone, "BYE"), "200 OK", 200)
		}, byPhone},
		{"the phone's, with no hop left, after two hours", func(l *phoneCall) {
			l.s.advance(30 * time.Minute)
			for range 4 {
				l.phone.sendThrough(l.pbx, l.request(l.phone, "OPTIONS"), "200 OK", 200)
				l.s.advance(30 * time.Minute)
			}
			l.phone.sendExpectingStatus(l.request(l.phone, "BYE", "Max-Forwards: 0"), 483)
		}, byPhone},
		{"the phone's, without a length", func(l *phoneCall) {
			bye := l.request(l.phone, "BYE")
			l.phone.sendExpectingStatus(bye.replaced("Content-Length: 0\r\n", ""), 400)
		}, byPhone},
		{"the phone's, with an extension that nobody knows", func(l *phoneCall) {
			l.phone.sendExpectingStatus(l.request(l.phone, "BYE", "Proxy-Require: x"), 420)
		}, byPhone},
		{"the phone's, challenged", func(l *phoneCall) {
			bye := l.request(l.phone, "BYE")
			l.phone.sendThrough(l.pbx, bye, "407 Proxy Authentication Required", 407)
			l.phone.sendThrough(l.pbx, l.request(l.phone, "BYE", "Proxy-Authorization: Digest x"), "200 OK", 200)
		}, byPhone},
		{"the phone's, answered 503", func(l *phoneCall) {
			l.phone.sendThrough(l.pbx, l.request(l.phone, "BYE"), "503 Service Unavailable", 500)
			l.pbx.sendThrough(l.phone, l.request(l.pbx, "BYE"), "481 No Such Call", 481)
		}, byPhone},
		{"the phone's, not answered", func(l *phoneCall) {
			l.phone.send(l.request(l.phone, "BYE"))
			l.s.advance(40 * time.Second)
			l.pbx.discardReceived()
			l.phone.discardReceived()
		}, byPhone},
		{"the phone's, not answered, and then it goes", func(l *phoneCall) {
			l.phone.send(l.request(l.phone, "BYE"))
			l.closeConn()
			l.s.advance(40 * time.Second)
			l.pbx.discardReceived()
		}, byPhone},
		{"the phone's, on a new connection", func(l *phoneCall) {
			l.closeConn()
			again := l.s.dialTCPPeer(phoneAt.Addr())
			again.sendThrough(l.pbx, l.request(l.phone, "BYE"), "200 OK", 200)
		}, byPhone},
		{"the phone's, with no hop left, on a new connection, after a restart", func(l *phoneCall) {
			l.s.stop()
			l.s.restartProxy()
			l.phone.discardReceived()
			again := l.s.dialTCPPeer(phoneAt.Addr())
			again.sendExpectingStatus(l.request(l.phone, "BYE", "Max-Forwards: 0"), 483)
			l.pbx.sendExpectingStatus(l.request(l.pbx, "BYE"), 430)
		}, ""},
		{"the PBX's, behind a re-INVITE that is not answered", func(l *phoneCall) {
			l.pbx.send(l.request(l.pbx, "INVITE"))
			l.phone.expect("it arrives", "INVITE")
			l.closeConn()
			l.s.advance(5 * time.Second)
			l.pbx.expect("told to wait", "SIP/2.0 100")
			l.pbx.sendExpectingStatus(l.request(l.pbx, "BYE"), 430)
			l.s.advance(40 * time.Second)
			l.pbx.discardReceived()
		}, byPBX},
		{"none, behind a re-INVITE that is not answered", func(l *phoneCall) {
			l.pbx.send(l.request(l.pbx, "INVITE"))
			l.phone.expect("it arrives", "INVITE")
			l.closeConn()
			l.s.advance(80 * time.Second)
			l.pbx.expectLast("told to wait, then 408", "SIP/2.0 100")
		}, "hangup 101 ANSWER by system"},
		{"the PBX's, behind its answer to a re-INVITE", func(l *phoneCall) {
			l.phone.send(l.request(l.phone, "INVITE"))
			got := l.pbx.expect("goes on", "INVITE")
			l.closeConn()
			l.pbx.respond(got, "200 OK")
			l.s.advance(time.Second)
			l.pbx.sendExpectingStatus(l.request(l.pbx, "BYE"), 430)
		}, byPBX},
		{"the PBX's, with an extension that nobody knows", func(l *phoneCall) {
			l.pbx.sendExpectingStatus(l.request(l.pbx, "BYE", "Proxy-Require: x"), 420)
		}, byPBX},
		{"the PBX's, with a Route that is not ours", func(l *phoneCall) {
			l.pbx.sendExpectingStatus(l.request(l.pbx, "BYE", "Route: <sip:xx@192.0.2.1:5060;lr>"), 403)
		}, byPBX},
		{"the PBX's, to what is no URI", func(l *phoneCall) {
			l.pbx.sendExpectingStatus(l.request(l.pbx, "BYE").replaced("BYE sip:", "BYE sip:a<b>"), 400)
		}, byPBX},
		{"the phone's, with a Route to elsewhere", func(l *phoneCall) {
			l.phone.sendExpectingStatus(l.request(l.phone, "BYE").replaced("\r\nFrom: ", "\r\nRoute: <sip:203.0.113.5;lr>\r\nFrom: "), 403)
		}, byPhone},
		{"the phone's, with a Route that cannot be read", func(l *phoneCall) {
			l.phone.sendExpectingStatus(l.request(l.phone, "BYE", "Route: <sip:xx"), 400)
		}, byPhone},
		{"the phone's, with two lengths", func(l *phoneCall) {
			l.phone.sendExpectingStatus(l.request(l.phone, "BYE").replaced("Content-Length: 0", "Content-Length: 0\r\nl: 0"), 400)
		}, byPhone},
		{"the phone's, and it is gone at once", func(l *phoneCall) {
			l.phone.write([]byte(l.request(l.phone, "BYE")))
			l.phone.close()
			l.pbx.respond(l.pbx.expect("goes on", "BYE"), "200 OK")
			l.phone.discardReceived()
		}, byPhone},
		{"the phone's, refused, when it has registered after a restart", func(l *phoneCall) {
			again := l.restartAndRegister()
			again.sendThrough(l.pbx, l.request(l.phone, "BYE"), "503 Service Unavailable", 500)
		}, byPhone},
		{"the phone's, of which the PBX knows nothing, when it has registered after a restart", func(l *phoneCall) {
			again := l.restartAndRegister()
			again.sendThrough(l.pbx, l.request(l.phone, "BYE"), "481 No Such Call", 481)
		}, byPhone},
		{"the phone's, not answered, when it has registered after a restart", func(l *phoneCall) {
			again := l.restartAndRegister()
			again.send(l.request(l.phone, "BYE"))
			l.s.advance(40 * time.Second)
			l.pbx.discardReceived()
		}, byPhone},
		{"a stranger's, with all that is in the phone's, refused", func(l *phoneCall) {
			l.phone.discardReceived()
			stranger := l.s.dialTCPPeer(otherAt.Addr())
			stranger.sendExpectingStatus(l.request(l.phone, "BYE", "Max-Forwards: 0"), 483)
			stranger.sendThrough(l.pbx, l.request(l.phone, "BYE"), "403 Forbidden", 403)
			l.expectEvents("it ends nothing", 1)
			l.pbx.sendThrough(l.phone, l.request(l.pbx, "BYE"), "200 OK", 200)
		}, byPBX},
		{"both at once, over a flow that is gone", func(l *phoneCall) {
			l.phone.send(l.request(l.phone, "BYE"))
			got := l.pbx.expect("goes on", "BYE")
			l.closeConn()
			l.pbx.sendExpectingStatus(l.request(l.pbx, "BYE"), 430)
			l.pbx.respond(got, "481 No Such Call")
		}, byPhone},
	} {
		for _, in := range []bool{false, true} {
			t.Run(tt.name+map[bool]string{false: ", out", true: ", in"}[in], func(t *testing.T) {
				runScenario(t, func(s *testbed) {
					l := s.callOut
					self, other := "caller", "callee"
					if in {
						l = s.callIn
						self, other = other, self
					}
					up := l()
					tt.play(&up)
					want := tt.want
					if want == "" {
						want = byPBX
					}
					want = strings.NewReplacer("self", self, "other", other).Replace(want)
					up.expectEvents("the end", 0, want)
					s.advance(5 * time.Minute)
					s.pbx.discardReceived()
					up.expectEvents("nothing follows", 0)
				})
			})
		}
	}
}

// The phone's connection closes, or bellhop restarts, before the call is answered.
func TestRingingCallEndsOnceWithoutItsFlow(t *testing.T) {
	for _, tt := range []struct {
		name string
		play func(s *testbed, f *callFollower)
		want string
	}{
		{"called, and canceled when it is gone", func(s *testbed, f *callFollower) {
			phone, invite, got := s.ringPhone()
			phone.respond(got, "180 Ringing")
			s.pbx.expect("it rings", "SIP/2.0 180")
			phone.close()
			s.advance(time.Second)
			s.pbx.sendCancel(invite)
			s.pbx.expect("taken", "SIP/2.0 200")
			s.pbx.sendACK(invite, s.pbx.expect("at once, as nobody answers any more", "SIP/2.0 487"))
		}, "dial-in 101, hangup 101 NOANSWER by system"},
		{"called, and gone before it rings", func(s *testbed, f *callFollower) {
			phone, invite, _ := s.ringPhone()
			phone.close()
			s.advance(40 * time.Second)
			s.pbx.sendACK(invite, s.pbx.expectLast("the end", "SIP/2.0 100"))
		}, "dial-in 101, hangup 101 CHANUNAVAIL by system"},
		{"called, and gone before the INVITE", func(s *testbed, f *callFollower) {
			phone, invite, got := s.ringPhone()
			phone.respond(got, "486 Busy Here")
			s.pbx.sendACK(invite, s.pbx.expect("busy", "SIP/2.0 486"))
			phone.close()
			s.advance(time.Second)
			again := invite.replaced("Call-ID: ", "Call-ID: again-").replaced("branch=", "branch=z9hG4bKagain")
			s.pbx.send(again)
			s.pbx.sendACK(again, s.pbx.expect("refused", "SIP/2.0 430"))
		}, "dial-in 101, hangup 101 BUSY by callee"},
		{"called, and canceled after a restart", func(s *testbed, f *callFollower) {
			phone, invite, got := s.ringPhone()
			phone.respond(got, "180 Ringing")
			s.pbx.expect("it rings", "SIP/2.0 180")
			f.restartAll()
			s.pbx.sendCancel(invite)
			s.pbx.expect("no flow to take it to", "SIP/2.0 430")
		}, "dial-in 101, hangup 101 NOANSWER by system"},
		{"answered, and gone before the ACK", func(s *testbed, f *callFollower) {
			phone, _, got := s.ringPhone()
			phone.respond(got, "200 OK", contactBehindNAT(phone))
			ok := s.pbx.expect("answer", "SIP/2.0 200")
			phone.close()
			s.advance(time.Second)
			s.pbx.send(s.pbx.callerRequest(ok, "ACK"))
			s.pbx.sendExpectingStatus(s.pbx.callerRequest(ok, "BYE"), 430)
		}, "dial-in 101, answer 101, hangup 101 ANSWER by caller"},
		{"calls, and gone before the answer", func(s *testbed, f *callFollower) {
			phone := s.dialTCPPeer(phoneAt.Addr())
			phone.send(phone.newInvite(contactBehindNAT(phone)))
			got := s.pbx.expect("the INVITE goes on", "INVITE")
			s.pbx.respond(got, "180 Ringing")
			phone.close()
			s.advance(time.Second)
			for range 4 { // without an ACK
				s.pbx.respond(got, "200 OK")
				s.advance(4 * time.Second)
			}
			s.pbx.sendExpectingStatus(s.pbx.calleeRequest(got, "BYE"), 430)
		}, "dial-out 101, answer 101, hangup 101 ANSWER by callee"},
		{"calls, and gone before it is refused", func(s *testbed, f *callFollower) {
			phone := s.dialTCPPeer(phoneAt.Addr())
			phone.send(phone.newInvite(contactBehindNAT(phone)))
			got := s.pbx.expect("the INVITE goes on", "INVITE")
			s.pbx.respond(got, "180 Ringing")
			phone.close()
			s.advance(time.Second)
			s.pbx.respond(got, "486 Busy Here")
			s.pbx.expect("acknowledged", "ACK")
		}, "dial-out 101, hangup 101 BUSY by callee"},
		{"calls, gives up on another connection", func(s *testbed, f *callFollower) {
			phone := s.dialTCPPeer(phoneAt.Addr())
			invite := phone.newInvite(contactBehindNAT(phone))
			phone.send(invite)
			got := s.pbx.expect("the INVITE goes on", "INVITE")
			s.pbx.respond(got, "180 Ringing")
			phone.close()
			again := s.dialTCPPeer(phoneAt.Addr())
			again.sendCancel(invite)
			again.expect("taken", "SIP/2.0 200")
			s.pbx.respond(s.pbx.expect("goes on", "CANCEL"), "200 OK")
			s.pbx.respond(got, "487 Request Terminated")
			s.pbx.expect("acknowledged", "ACK")
		}, "dial-out 101, hangup 101 CANCEL by caller"},
		{"calls, gives up after a restart", func(s *testbed, f *callFollower) {
			phone := s.dialTCPPeer(phoneAt.Addr())
			invite := phone.newInvite(contactBehindNAT(phone))
			phone.send(invite)
			got := s.pbx.expect("the INVITE goes on", "INVITE")
			s.pbx.respond(got, "180 Ringing")
			phone.expect("rings", "SIP/2.0 180")
			f.restartAll()
			phone.discardReceived()
			again := s.dialTCPPeer(phoneAt.Addr())
			again.sendCancel(invite)
			s.pbx.respond(s.pbx.expect("goes on", "CANCEL"), "200 OK")
			s.pbx.respond(got, "487 Request Terminated")
		}, "dial-out 101, hangup 101 CANCEL by caller"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			runScenario(t, func(s *testbed) {
				f := s.followCalls()
				tt.play(s, f)
				f.expectEvents("the end", 0, strings.Split(tt.want, ", ")...)
				s.advance(5 * time.Minute)
				s.pbx.discardReceived()
				f.expectEvents("nothing follows", 0)
			})
		})
	}
}

// The PBX is reached over TCP. Its connection closes, or the PBX is gone.
func TestCallEndsOnceWithoutItsPBX(t *testing.T) {
	for _, tt := range []struct {
		name string
		play func(s *testbed, c call)
		want string
	}{
		{"the connection, and the phone hangs up", func(s *testbed, c call) {
			s.pbx.closeConn()
			s.advance(0)
			s.pbx.discardReceived()
			s.phone.sendThrough(s.pbx, s.phone.callerRequest(c.ok, "BYE"), "200 OK", 200)
		}, "hangup 101 ANSWER by caller"},
		{"all of it, and the phone hangs up", func(s *testbed, c call) {
			s.pbx.close()
			s.advance(0)
			s.pbx.discardReceived()
			s.phone.sendExpectingStatus(s.phone.callerRequest(c.ok, "BYE"), 500)
			s.phone.sendExpectingStatus(s.phone.callerRequest(c.ok, "BYE"), 500)
		}, "hangup 101 ANSWER by caller"},
		{"all of it, and the phone asks first", func(s *testbed, c call) {
			s.pbx.close()
			s.advance(0)
			s.pbx.discardReceived()
			for _, method := range []string{"INFO", "UPDATE", "OPTIONS"} {
				s.phone.sendExpectingStatus(s.phone.callerRequest(c.ok, method), 500)
			}
			s.phone.sendExpectingStatus(s.phone.callerRequest(c.ok, "BYE"), 500)
		}, "hangup 101 ANSWER by caller"},
		{"the connection, behind the BYE", func(s *testbed, c call) {
			s.phone.send(s.phone.callerRequest(c.ok, "BYE"))
			s.pbx.expect("it arrives", "BYE")
			s.pbx.closeConn()
			s.advance(40 * time.Second)
			s.pbx.discardReceived()
			s.phone.discardReceived()
		}, "hangup 101 ANSWER by caller"},
		{"all of it, and the phone too", func(s *testbed, c call) {
			s.pbx.close()
			s.phone.close()
			s.advance(4*time.Hour - time.Minute)
			s.pbx.discardReceived()
			s.advance(time.Minute)
		}, "hangup 101 UNKNOWN by system"},
		{"the connection, and bellhop restarts", func(s *testbed, c call) {
			s.stop()
			s.restartProxy()
			s.pbx.discardReceived()
			s.phone.sendThrough(s.pbx, s.phone.callerRequest(c.ok, "BYE"), "200 OK", 200)
		}, "hangup 101 ANSWER by caller"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			runScenario(t, func(s *testbed) {
				f := s.followCalls()
				c := s.phone.setUpCall(s.pbx)
				f.expectEvents("the call", 1, "dial-out 101", "answer 101")
				tt.play(s, c)
				f.expectEvents("the end", 0, tt.want)
				s.advance(5 * time.Minute)
				f.expectEvents("nothing follows", 0)
			}, pbxOverTCP)
		})
	}
}

// bellhop is upgraded during a call whose Routes have tokens of version 1. The
// connection that they name is closed.
func TestCallOfAnOlderVersionEndsOnce(t *testing.T) {
	for _, tt := range []struct {
		name string
		play func(l *phoneCall, old func(bye text) text)
		want string
	}{
		{"the PBX hangs up", func(l *phoneCall, old func(text) text) {
			bye := old(l.request(l.pbx, "BYE"))
			l.pbx.sendExpectingStatus(bye, 430)
			l.pbx.sendExpectingStatus(bye, 430)
		}, "hangup 101 ANSWER by callee"},
		{"the PBX asks and hangs up", func(l *phoneCall, old func(text) text) {
			l.pbx.sendExpectingStatus(old(l.request(l.pbx, "UPDATE")), 430)
			l.pbx.sendExpectingStatus(old(l.request(l.pbx, "BYE")), 430)
		}, "hangup 101 ANSWER by callee"},
		{"the phone hangs up on a new connection", func(l *phoneCall, old func(text) text) {
			again := l.s.dialTCPPeer(phoneAt.Addr())
			again.sendThrough(l.pbx, old(l.request(l.phone, "BYE")), "200 OK", 200)
		}, "hangup 101 ANSWER by caller"},
		{"the phone registers, and its BYE has no hop left", func(l *phoneCall, old func(text) text) {
			again := l.registersAgain()
			again.sendExpectingStatus(old(l.request(l.phone, "BYE", "Max-Forwards: 0")), 483)
		}, "hangup 101 ANSWER by caller"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			runScenario(t, func(s *testbed) {
				l := s.callOut()
				token := "Route: <sip:" + sip.OldToken(key, 1, proxyAt.Port(), l.phone.addr, 1) + "@192.0.2.1:5060;lr>"
				l.restartAll()
				l.phone.discardReceived()
				var up []sip.Dialog
				for _, d := range l.tracker.Dialogs() {
					up = append(up, sip.Dialog{CallID: d.CallID, Tag: d.FromTag})
				}
				s.proxy.RestoreDialogs(up)
				tt.play(&l, func(m text) text {
					for _, r := range m.fieldValues("Route") {
						m = m.replaced("Route: "+r+"\r\n", "")
					}
					return m.replaced("\r\nFrom: ", "\r\n"+token+"\r\nFrom: ")
				})
				l.expectEvents("the end", 0, tt.want)
				s.advance(5 * time.Minute)
				l.expectEvents("nothing follows", 0)
			})
		})
	}
}

// The PBX is a proxy that stays in the dialog or leaves it. The caller's flow is closed
// when the called phone hangs up, or the other way round.
func TestBothEndsHangUpWhenOneIsUnreachable(t *testing.T) {
	const mine = "Record-Route: <sip:192.0.2.2:5060;lr>\r\n"
	for _, stays := range []bool{true, false} {
		for _, caller := range []bool{true, false} {
			t.Run(fmt.Sprintf("stays=%v, the caller is gone=%v", stays, caller), func(t *testing.T) {
				runScenario(t, func(s *testbed) {
					f := s.followCalls()
					a, b := s.dialTCPPeer(phoneAt.Addr()), s.dialTCPPeer(otherAt.Addr())
					a.name, b.name = "caller", "called"
					pass := func(m text, from, to, via string) {
						if stays && via != "" && m.method() == "INVITE" {
							via = mine + via
						}
						m = m.replaced("\r\nVia: ", "\r\n"+via+"Via: ").replaced(from, to)
						s.pbx.send(m)
					}
					path := s.registerUser(b, "102")
					a.send(a.newInvite(contactBehindNAT(a)))
					got := s.pbx.expect("the INVITE goes on", "INVITE")
					pass(got, "INVITE sip:102@pbx.example", "INVITE sip:102@10.0.0.5:5060;transport=tcp", "Via: SIP/2.0/UDP 192.0.2.2:5060;branch=z9hG4bK-pass\r\nRoute: "+path+"\r\n")
					invite := b.expect("and on", "INVITE")
					b.respond(invite, "200 OK", contactBehindNAT(b))
					ok := s.pbx.expect("answer", "SIP/2.0 200")
					s.pbx.send(ok.replaced("Via: "+ok.fieldValue("Via")+"\r\n", ""))
					answer := a.expect("answer", "SIP/2.0 200")
					f.expectEvents("the call", 2, "dial-in 102", "answer 102", "dial-out 101", "answer 101")

					leaves, gone, by := b, a, "callee"
					bye := b.calleeRequest(invite, "BYE")
					if !caller {
						leaves, gone, by = a, b, "caller"
						bye = a.callerRequest(answer, "BYE")
					}
					gone.close()
					s.advance(time.Second)
					leaves.send(bye)
					if stays {
						got := s.pbx.expect("the BYE goes on", "BYE")
						s.pbx.send(got.replaced("\r\nVia: ", "\r\nVia: SIP/2.0/UDP 192.0.2.2:5060;branch=z9hG4bK-bye\r\nVia: ").replaced("Route: <sip:192.0.2.2:5060;lr>\r\n", ""))
						refusal := s.pbx.expect("refused", "SIP/2.0 430")
						s.pbx.send(refusal.replaced("Via: "+refusal.fieldValue("Via")+"\r\n", ""))
					}
					leaves.expect("refused", "SIP/2.0 430")
					f.readObservations()
					slices.Sort(f.said)
					f.expectEvents("the end", 0, "hangup 101 ANSWER by "+by, "hangup 102 ANSWER by "+by)
					s.advance(5 * time.Minute)
					f.expectEvents("nothing follows", 0)
				})
			})
		}
	}
}
