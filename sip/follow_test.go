package sip_test

import (
	"fmt"
	"net/netip"
	"testing"

	"bellhop/sip"
)

// dialer opens a socket or connection of a client: two with the same number have the same
// host.
type dialer func(s *testbed, host, port int) *peer

func overTCP(s *testbed, host, _ int) *peer {
	return s.dialTCPPeer(netip.AddrFrom4([4]byte{192, 0, 2, byte(110 + host)}))
}

func overUDP(s *testbed, host, port int) *peer {
	return s.addUDPPeer(netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(110 + host)}), uint16(5062+port)))
}

// A client registers over a flow and anew over another one. Requests for its binding
// follow, those of a call that is up too, and after a restart of bellhop.
func TestRequestsFollowTheNewestFlowOfTheirBinding(t *testing.T) {
	const aor = "101@pbx.example"
	for _, mode := range []sip.Register{sip.RegisterPath, sip.RegisterContact} {
		for _, transport := range []struct {
			name  string
			open  dialer
			open2 dialer
		}{{"TCP", overTCP, overTCP}, {"UDP", overUDP, overUDP}, {"UDP, then TCP", overUDP, overTCP}, {"TCP, then UDP", overTCP, overUDP}} {
			for _, gone := range []bool{true, false} {
				for _, restart := range []bool{false, true} {
					t.Run(fmt.Sprintf("%s/%s/closed=%v/restarted=%v", mode, transport.name, gone, restart), func(t *testing.T) {
						runScenario(t, func(s *testbed) {
							first := transport.open(s, 1, 0)
							route, uri := first.registerOver(aor, browser("1"))
							out := first.setUpCall(s.pbx, "From: <sip:"+aor+">;tag=a", "Contact: <sip:x@192.0.2.99:9;transport=tcp>")
							s.pbx.send(s.pbx.newRequest("INVITE", uri, append(route, "To: <sip:"+aor+">")...))
							in := first.expect("a call comes in", "INVITE")
							first.respond(in, "200 OK", "Contact: <sip:x@192.0.2.99:9;transport=tcp>")
							ok := s.pbx.expect("the answer", "SIP/2.0 200")
							s.pbx.send(s.pbx.callerRequest(ok, "ACK"))
							first.expect("its ACK", "ACK")
							if gone {
								first.closeAndForget()
							}
							if restart {
								s.stop()
								s.restartProxy()
								first.discardReceived()
							}
							second := transport.open2(s, 2, 1)
							second.registerOver(aor, browser("1"))
							s.sendToPhone(s.pbx.newRequest("MESSAGE", uri, route...), second)
							s.sendToPhone(s.pbx.callerRequest(ok, "INFO"), second)
							s.sendToPhone(s.pbx.callerRequest(ok, "BYE"), second)
							s.sendToPhone(s.pbx.calleeRequest(out.invite, "INFO"), second)
							s.sendToPhone(s.pbx.calleeRequest(out.invite, "BYE"), second)
							s.expectNothing("the other flow is not used")
						}, withRegister(mode))
					})
				}
			}
		}
	}
}

// The PBX has called a client, and asks for a new route in a re-INVITE after the client
// has moved. The Record-Route of the re-INVITE names the newest flow.
func TestReinviteOverTheNewestFlowNamesIt(t *testing.T) {
	runScenario(t, func(s *testbed) {
		first := overTCP(s, 1, 0)
		first.registerOver("101@pbx.example", browser("1"))
		call := first.setUpCall(s.pbx)
		first.closeAndForget()
		second := overTCP(s, 2, 0)
		second.registerOver("101@pbx.example", browser("1"))
		got := s.sendToPhone(s.pbx.calleeRequest(call.invite, "INVITE"), second)
		s.pbx.send(s.pbx.calleeRequest(got, "INFO"))
		second.expect("by the newer Record-Route", "INFO")
	})
}

// A flow that closes after another one has opened leaves the other one in use. If the
// newest has closed, an older one that is open is used.
func TestOpenFlowIsUsedIfTheNewestIsClosed(t *testing.T) {
	runScenario(t, func(s *testbed) {
		first, second := overTCP(s, 1, 0), overTCP(s, 1, 0)
		route, uri := first.registerOver("101@pbx.example", browser("1"))
		second.registerOver("101@pbx.example", browser("1"))
		s.sendToPhone(s.pbx.newRequest("MESSAGE", uri, route...), second)
		second.closeAndForget()
		s.sendToPhone(s.pbx.newRequest("MESSAGE", uri, route...), first)
		first.closeAndForget()
		s.pbx.send(s.pbx.newRequest("MESSAGE", uri, route...))
		s.pbx.expect("none is open", "SIP/2.0 430")
	})
}

// Several lines share a connection. A call belongs to the line that is in From, else to
// the first line. Each line may move by itself.
func TestCallBelongsToTheLineInItsFrom(t *testing.T) {
	runScenario(t, func(s *testbed) {
		desk := overTCP(s, 1, 0)
		for line := range 3 {
			desk.registerOver(fmt.Sprintf("10%d@pbx.example", line+1), browser("desk"))
		}
		calls := map[string]call{}
		for _, from := range []string{"101@pbx.example", "102@PBX.example", "103@pbx.example", "anonymous@anonymous.invalid"} {
			calls[from] = desk.setUpCall(s.pbx, "From: <sip:"+from+">;tag=a", "Contact: <sip:x@192.0.2.99:9;transport=tcp>")
		}
		desk.closeAndForget()
		first, second := overTCP(s, 2, 0), overTCP(s, 3, 0)
		first.registerOver("101@pbx.example", browser("desk"))
		second.registerOver("102@pbx.example", browser("desk"))
		for from, to := range map[string]*peer{"101@pbx.example": first, "102@PBX.example": second, "anonymous@anonymous.invalid": first} {
			s.sendToPhone(s.pbx.calleeRequest(calls[from].invite, "BYE"), to)
		}
		s.pbx.send(s.pbx.calleeRequest(calls["103@pbx.example"].invite, "BYE"))
		s.pbx.expect("the third line has not registered", "SIP/2.0 430")
	})
}

// Nobody but a client of the address-of-record that the PBX has accepted can take over a
// binding.
func TestStrangerCannotRedirectABinding(t *testing.T) {
	const aor = "101@pbx.example"
	for _, mode := range []sip.Register{sip.RegisterPath, sip.RegisterContact} {
		for _, tt := range []struct {
			name string
			try  func(s *testbed, stranger *peer)
		}{
			{"its REGISTER is refused", func(s *testbed, stranger *peer) {
				stranger.send(stranger.newRequest("REGISTER", "sip:pbx.example", "To: <sip:"+aor+">", "Contact: "+browser("1")))
				s.pbx.respond(s.pbx.expect("it goes on", "REGISTER"), "403 Forbidden")
				stranger.expect("refused", "SIP/2.0 403")
			}},
			{"its REGISTER is not answered yet", func(s *testbed, stranger *peer) {
				stranger.send(stranger.newRequest("REGISTER", "sip:pbx.example", "To: <sip:"+aor+">", "Contact: "+browser("1")))
				s.pbx.respond(s.pbx.expect("it goes on", "REGISTER"), "100 Trying")
			}},
			{"it answers its REGISTER itself", func(s *testbed, stranger *peer) {
				register := stranger.newRequest("REGISTER", "sip:pbx.example", "To: <sip:"+aor+">", "Contact: "+browser("1"))
				stranger.send(register)
				stranger.respond(s.pbx.expect("it goes on", "REGISTER").replaced("z9hG4bKbh", "z9hG4bKbi"), "200 OK")
				stranger.respond(register, "200 OK")
			}},
			{"it registers itself with the same client", func(s *testbed, stranger *peer) {
				stranger.registerOver("666@pbx.example", browser("1"))
			}},
			{"it has the line in From", func(s *testbed, stranger *peer) {
				stranger.send(stranger.newRequest("REGISTER", "sip:pbx.example", "From: <sip:"+aor+">;tag=1", "To: <sip:666@pbx.example>", "Contact: "+browser("1")))
				s.pbx.respond(s.pbx.expect("it goes on", "REGISTER"), "200 OK")
				stranger.expect("it is accepted", "SIP/2.0 200")
			}},
			{"another PBX of its own answers", func(s *testbed, stranger *peer) {
				other := s.addUDPPeer(otherAt)
				stranger.send(stranger.newRequest("REGISTER", "sip:192.0.2.102:5062", "Route: <sip:192.0.2.102:5062;lr>", "To: <sip:"+aor+">", "Contact: "+browser("1")))
				stranger.expect("no route leads there", "SIP/2.0 403")
				if m, ok := other.nextMessage(); ok {
					s.t.Errorf("it got\n%s", m)
				}
			}},
			{"it only calls", func(s *testbed, stranger *peer) {
				stranger.setUpCall(s.pbx, "From: <sip:"+aor+">;tag=z", "Contact: "+browser("1"))
			}},
		} {
			t.Run(string(mode)+"/"+tt.name, func(t *testing.T) {
				runScenario(t, func(s *testbed) {
					phone := overTCP(s, 1, 0)
					route, uri := phone.registerOver(aor, browser("1"))
					call := phone.setUpCall(s.pbx, "From: <sip:"+aor+">;tag=a")
					stranger := overTCP(s, 2, 0)
					tt.try(s, stranger)
					s.pbx.discardReceived()
					s.sendToPhone(s.pbx.newRequest("MESSAGE", uri, route...), phone)
					phone.closeAndForget()
					s.pbx.send(s.pbx.calleeRequest(call.invite, "BYE"))
					s.pbx.expect("it has no newer flow", "SIP/2.0 430")
					s.expectNothing("the stranger gets nothing")
				}, withRegister(mode))
			})
		}
	}
}

// Two phones of one address-of-record behind two NATs have the same Contact and no
// +sip.instance. While the flow of one is usable its requests stay there. From the same
// host, the newer flow is that of the same phone.
func TestPhonesWithTheSameContactKeepTheirFlows(t *testing.T) {
	const aor, contact = "101@pbx.example", "<sip:101@10.0.0.5:5060>"
	for _, open := range []dialer{overTCP, overUDP} {
		runScenario(t, func(s *testbed) {
			home, office := open(s, 1, 0), open(s, 2, 0)
			route, uri := home.registerOver(aor, contact)
			office.registerOver(aor, contact)
			s.sendToPhone(s.pbx.newRequest("MESSAGE", uri, route...), home)
			again := open(s, 1, 1)
			again.registerOver(aor, contact)
			s.sendToPhone(s.pbx.newRequest("MESSAGE", uri, route...), again)
		}, withRegister(sip.RegisterContact))
	}
	runScenario(t, func(s *testbed) {
		first := overTCP(s, 1, 0)
		route, uri := first.registerOver(aor, contact)
		first.closeAndForget()
		second := overTCP(s, 2, 0)
		second.registerOver(aor, contact)
		s.sendToPhone(s.pbx.newRequest("MESSAGE", uri, route...), second)
	})
}

// A binding that has ended is not followed.
func TestEndedBindingIsNotFollowed(t *testing.T) {
	runScenario(t, func(s *testbed) {
		first := overTCP(s, 1, 0)
		route, uri := first.registerOver("101@pbx.example", browser("1"))
		first.closeAndForget()
		second := overTCP(s, 2, 0)
		second.registerOver("101@pbx.example", browser("1"))
		second.registerOver("101@pbx.example", browser("1"), "Expires: 0")
		s.pbx.send(s.pbx.newRequest("MESSAGE", uri, route...))
		s.pbx.expect("it has ended", "SIP/2.0 430")
	})
}
