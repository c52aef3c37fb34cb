package sip_test

import (
	"strings"
	"testing"
	"time"

	"bellhop/sip"
)

// bytesFor counts the bytes that a peer has received and not read yet.
func bytesFor(p *peer) (n int) {
	for {
		m, ok := p.nextMessage()
		if !ok {
			return n
		}
		n += len(m)
	}
}

// An INVITE with a forged source brings no more bytes to that address than it had. If
// the PBX accepts the call, two repetitions of its 2xx go beyond that.
func TestForgedSourceGetsNoMoreBytesThanSent(t *testing.T) {
	body := strings.Repeat("a=candidate\r\n", 60)
	for _, tt := range []struct {
		name   string
		status string
		lines  []string
		after  time.Duration // the PBX answers
	}{
		{"a challenge", "401 Unauthorized", []string{`WWW-Authenticate: Digest realm="a", nonce="` + strings.Repeat("n", 64) + `"`}, 0},
		{"challenge behind a 100", "407 Proxy Authentication Required", nil, 200 * ms},
		{"an answered call", "200 OK", nil, 0},
		{"no response", "", nil, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			runUnproven(t, func(s *testbed) {
				invite := s.phone.newInvite("Content-Type: application/sdp", "", body)
				s.phone.send(invite)
				got := s.pbx.expect("the INVITE goes on", "INVITE")
				s.advance(tt.after)
				for range 11 { // the PBX repeats a 2xx
					if tt.status != "" {
						s.pbx.send(s.pbx.newResponse(got, tt.status, tt.lines...))
					}
					s.pbx.discardReceived()
					s.advance(3 * time.Second)
				}
				most := len(invite)
				if tt.status == "200 OK" {
					most += 2 * len(s.pbx.newResponse(got, tt.status))
				}
				if got := bytesFor(s.phone); got > most || got == 0 {
					s.t.Errorf("%d bytes came of an INVITE of %d, want %d at most", got, len(invite), most)
				}
				s.pbx.discardReceived()
			})
		})
	}
}

// A failure that is larger than the INVITE waits for the next retransmission of the
// INVITE. All responses together stay within the bytes received.
func TestALargeFailureWaitsForTheNextInvite(t *testing.T) {
	runUnproven(t, func(s *testbed) {
		invite := s.phone.newInvite()
		s.phone.send(invite)
		s.pbx.respond(s.pbx.expect("the INVITE goes on", "INVITE"), "401 Unauthorized", "X-Long: "+strings.Repeat("x", 200))
		s.pbx.expect("acknowledged", "ACK")
		s.expectNothing("one INVITE is smaller than the failure")
		sent, got := len(invite), 0
		for range 20 {
			sent += len(invite)
			s.phone.send(invite)
			if got += bytesFor(s.phone); got > sent {
				t.Fatalf("%d bytes came of INVITEs of %d", got, sent)
			}
		}
		if got < sent/2 {
			t.Errorf("only %d bytes came of INVITEs of %d", got, sent)
		}
	})
}

// A client that has received a 1xx retransmits its INVITE no more. The failure that
// follows is sent, however large it is.
func TestFailureAfterA1xxIsSent(t *testing.T) {
	for _, tt := range []struct {
		name string
		wait func(s *testbed, got text)
	}{
		{"180 of the PBX", func(s *testbed, got text) {
			s.pbx.respond(got, "180 Ringing")
			s.phone.expect("it rings", "SIP/2.0 180")
		}},
		{"our 100", func(s *testbed, got text) {
			s.advance(200 * ms)
			s.phone.expect("our own", "SIP/2.0 100")
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			runUnproven(t, func(s *testbed) {
				_, got := s.sendInvite()
				tt.wait(s, got)
				s.pbx.respond(got, "486 Busy Here", "X-Long: "+strings.Repeat("x", 400))
				s.pbx.expect("acknowledged", "ACK")
				s.phone.expect("the failure", "SIP/2.0 486")
			})
		})
	}
}

// An ACK with the To tag of our response proves its source's address: failures are
// retransmitted to it from then on. An invented To tag proves nothing, nor does an ACK
// from another address.
func TestACKProvesItsSourceAddress(t *testing.T) {
	repeated := func(s *testbed, phone *peer) (n int) {
		phone.send(phone.newInvite("X-Longer: " + strings.Repeat("x", 600)))
		s.pbx.respond(s.pbx.expect("the INVITE goes on", "INVITE"), "404 Not Found", "X-Long: "+strings.Repeat("x", 400))
		phone.expect("the failure", "SIP/2.0 404")
		s.advance(30 * time.Second)
		for {
			if _, ok := phone.nextMessage(); !ok {
				break
			}
			n++
		}
		s.pbx.discardReceived()
		return n
	}
	failure := func(s *testbed) (invite, failure text) {
		invite = s.phone.newInvite("X-Longer: " + strings.Repeat("x", 300))
		s.phone.send(invite)
		s.pbx.respond(s.pbx.expect("the INVITE goes on", "INVITE"), "401 Unauthorized")
		s.pbx.expect("acknowledged", "ACK")
		return invite, s.phone.expect("the challenge", "SIP/2.0 401")
	}
	for _, tt := range []struct {
		name   string
		first  func(s *testbed)
		proves bool
	}{
		{"no proof", func(s *testbed) {}, false},
		{"ACK of a failure", func(s *testbed) { s.phone.sendACK(failure(s)) }, true},
		{"ACK with another tag", func(s *testbed) {
			invite, f := failure(s)
			s.phone.sendACK(invite, f.replaced("tag=to-pbx", "tag=to-guess"))
		}, false},
		{"ACK without a tag", func(s *testbed) {
			invite, f := failure(s)
			s.phone.sendACK(invite, f.replaced(";tag=to-pbx", ""))
		}, false},
		{"REGISTER accepted", func(s *testbed) { s.registerPhone() }, true},
		{"ACK of a 2xx", func(s *testbed) {
			c := s.phone.setUpCall(s.pbx)
			s.phone.send(s.phone.callerRequest(c.ok, "BYE"))
			s.pbx.respond(s.pbx.expect("BYE", "BYE"), "200 OK")
			s.phone.expect("answer", "SIP/2.0 200")
		}, true},
		{"long ago", func(s *testbed) {
			s.registerPhone()
			s.advance(time.Hour + time.Minute)
		}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			runUnproven(t, func(s *testbed) {
				tt.first(s)
				if n := repeated(s, s.phone); n != 0 != tt.proves {
					s.t.Errorf("the failure is repeated %d times", n)
				}
			}, oneWorker)
		})
	}
	// A source that gets its responses elsewhere cannot prove another address.
	t.Run("ACK with a forged source", func(t *testing.T) {
		runUnproven(t, func(s *testbed) {
			victim := s.addUDPPeer(otherAt)
			victim.sendACK(failure(s))
			s.phone.discardReceived()
			if n := repeated(s, victim); n != 0 {
				s.t.Errorf("the failure is repeated %d times", n)
			}
		}, oneWorker)
	})
	t.Run("ACK of a 2xx with a forged source", func(t *testing.T) {
		runUnproven(t, func(s *testbed) {
			c := s.phone.setUpCall(s.pbx)
			victim := s.addUDPPeer(otherAt)
			victim.send(s.phone.callerRequest(c.ok, "ACK"))
			s.pbx.discardReceived()
			if n := repeated(s, victim); n != 0 {
				s.t.Errorf("the failure is repeated %d times", n)
			}
		}, oneWorker)
	})
	t.Run("a trunk needs no proof", func(t *testing.T) {
		runUnproven(t, func(s *testbed) {
			if n := repeated(s, s.phone); n == 0 {
				s.t.Error("the failure is not repeated to a trunk")
			}
		}, func(c *sip.Config) {
			c.Trunks = []sip.Trunk{{Name: "carrier", Sources: parsePrefixes("192.0.2.101")}}
		})
	})
}

// Our own refusal of an INVITE is no larger than the INVITE.
func TestRefusalIsNoLargerThanItsInvite(t *testing.T) {
	runUnproven(t, func(s *testbed) {
		invite := s.phone.newInvite("Proxy-Require: "+strings.Repeat("a,", 400)+"a").replaced("Max-Forwards: 70\r\n", "")
		s.phone.send(invite)
		if n := bytesFor(s.phone); n > len(invite) {
			s.t.Errorf("%d bytes came of an INVITE of %d", n, len(invite))
		}
		if n := s.proxy.Stats().Withheld; n != 1 {
			s.t.Errorf("%d responses are counted as withheld, want 1", n)
		}
		s.registerPhone()
		s.phone.send(invite)
		s.phone.expect("who is there is answered", "SIP/2.0 420")
	})
}
