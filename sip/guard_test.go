package sip_test

import (
	"strings"
	"testing"
	"time"

	"bellhop/sip"
)

// bytesFor counts the bytes that a peer has got and not looked at yet.
func bytesFor(p *peer) (n int) {
	for {
		m, ok := p.next()
		if !ok {
			return n
		}
		n += len(m)
	}
}

// An INVITE with a forged source brings no more bytes to that address than it
// had. Of a PBX that takes the call of a stranger two repetitions of its 2xx are
// passed on beyond that.
func TestNoReflection(t *testing.T) {
	body := strings.Repeat("a=candidate\r\n", 60)
	for _, tt := range []struct {
		name   string
		status string
		lines  []string
		after  time.Duration // the PBX answers
	}{
		{"challenge", "401 Unauthorized", []string{`WWW-Authenticate: Digest realm="a", nonce="` + strings.Repeat("n", 64) + `"`}, 0},
		{"challenge behind a 100", "407 Proxy Authentication Required", nil, 200 * ms},
		{"answer", "200 OK", nil, 0},
		{"silence", "", nil, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			playUnproved(t, func(s *scene) {
				invite := s.phone.invite("Content-Type: application/sdp", "", body)
				s.phone.sends(invite)
				got := s.pbx.gets("the INVITE goes on", "INVITE")
				s.after(tt.after)
				for range 11 { // the PBX repeats a 2xx
					if tt.status != "" {
						s.pbx.sends(s.pbx.answer(got, tt.status, tt.lines...))
					}
					s.pbx.forgets()
					s.after(3 * time.Second)
				}
				most := len(invite)
				if tt.status == "200 OK" {
					most += 2 * len(s.pbx.answer(got, tt.status))
				}
				if got := bytesFor(s.phone); got > most || got == 0 {
					s.t.Errorf("%d bytes came of an INVITE of %d, want %d at most", got, len(invite), most)
				}
				s.pbx.forgets()
			})
		})
	}
}

// A failure that is larger than the INVITE waits for the next repetition of the
// INVITE. All responses together stay within the bytes that came.
func TestALargeFailureWaitsForTheNextInvite(t *testing.T) {
	playUnproved(t, func(s *scene) {
		invite := s.phone.invite()
		s.phone.sends(invite)
		s.pbx.replies(s.pbx.gets("the INVITE goes on", "INVITE"), "401 Unauthorized", "X-Long: "+strings.Repeat("x", 200))
		s.pbx.gets("acknowledged", "ACK")
		s.quiet("one INVITE is smaller than the failure")
		sent, got := len(invite), 0
		for range 20 {
			sent += len(invite)
			s.phone.sends(invite)
			if got += bytesFor(s.phone); got > sent {
				t.Fatalf("%d bytes came of INVITEs of %d", got, sent)
			}
		}
		if got < sent/2 {
			t.Errorf("only %d bytes came of INVITEs of %d", got, sent)
		}
	})
}

// A client that has a 1xx repeats its INVITE no more: the failure that follows is not
// withheld, however large it is.
func TestAFailureBehindA1xxIsSent(t *testing.T) {
	for _, tt := range []struct {
		name string
		wait func(s *scene, got text)
	}{
		{"180 of the PBX", func(s *scene, got text) {
			s.pbx.replies(got, "180 Ringing")
			s.phone.gets("it rings", "SIP/2.0 180")
		}},
		{"our 100", func(s *scene, got text) {
			s.after(200 * ms)
			s.phone.gets("our own", "SIP/2.0 100")
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			playUnproved(t, func(s *scene) {
				_, got := s.invited()
				tt.wait(s, got)
				s.pbx.replies(got, "486 Busy Here", "X-Long: "+strings.Repeat("x", 400))
				s.pbx.gets("acknowledged", "ACK")
				s.phone.gets("the failure", "SIP/2.0 486")
			})
		})
	}
}

// Whoever acknowledges with a To tag that only the response told is there:
// failures are repeated to him from then on. A To tag he made up proves nothing,
// nor does an ACK from another address.
func TestWhatProvesASource(t *testing.T) {
	repeated := func(s *scene, phone *peer) (n int) {
		phone.sends(phone.invite("X-Longer: " + strings.Repeat("x", 600)))
		s.pbx.replies(s.pbx.gets("the INVITE goes on", "INVITE"), "404 Not Found", "X-Long: "+strings.Repeat("x", 400))
		phone.gets("the failure", "SIP/2.0 404")
		s.after(30 * time.Second)
		for {
			if _, ok := phone.next(); !ok {
				break
			}
			n++
		}
		s.pbx.forgets()
		return n
	}
	failure := func(s *scene) (invite, failure text) {
		invite = s.phone.invite("X-Longer: " + strings.Repeat("x", 300))
		s.phone.sends(invite)
		s.pbx.replies(s.pbx.gets("the INVITE goes on", "INVITE"), "401 Unauthorized")
		s.pbx.gets("acknowledged", "ACK")
		return invite, s.phone.gets("the challenge", "SIP/2.0 401")
	}
	for _, tt := range []struct {
		name   string
		first  func(s *scene)
		proves bool
	}{
		{"nothing", func(s *scene) {}, false},
		{"ACK of a failure", func(s *scene) { s.phone.acks(failure(s)) }, true},
		{"ACK with another tag", func(s *scene) {
			invite, f := failure(s)
			s.phone.acks(invite, f.with("tag=to-pbx", "tag=to-guess"))
		}, false},
		{"ACK without a tag", func(s *scene) {
			invite, f := failure(s)
			s.phone.acks(invite, f.with(";tag=to-pbx", ""))
		}, false},
		{"REGISTER accepted", func(s *scene) { s.registered() }, true},
		{"ACK of a 2xx", func(s *scene) {
			c := s.phone.calls(s.pbx)
			s.phone.sends(s.phone.within(c.ok, "BYE"))
			s.pbx.replies(s.pbx.gets("BYE", "BYE"), "200 OK")
			s.phone.gets("answer", "SIP/2.0 200")
		}, true},
		{"long ago", func(s *scene) {
			s.registered()
			s.after(time.Hour + time.Minute)
		}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			playUnproved(t, func(s *scene) {
				tt.first(s)
				if n := repeated(s, s.phone); n != 0 != tt.proves {
					s.t.Errorf("the failure is repeated %d times", n)
				}
			}, oneWorker)
		})
	}
	// Who gets responses elsewhere cannot prove it for another address.
	t.Run("ACK with a forged source", func(t *testing.T) {
		playUnproved(t, func(s *scene) {
			victim := s.udp(otherAt)
			victim.acks(failure(s))
			s.phone.forgets()
			if n := repeated(s, victim); n != 0 {
				s.t.Errorf("the failure is repeated %d times", n)
			}
		}, oneWorker)
	})
	t.Run("ACK of a 2xx with a forged source", func(t *testing.T) {
		playUnproved(t, func(s *scene) {
			c := s.phone.calls(s.pbx)
			victim := s.udp(otherAt)
			victim.sends(s.phone.within(c.ok, "ACK"))
			s.pbx.forgets()
			if n := repeated(s, victim); n != 0 {
				s.t.Errorf("the failure is repeated %d times", n)
			}
		}, oneWorker)
	})
	t.Run("trunk", func(t *testing.T) {
		playUnproved(t, func(s *scene) {
			if n := repeated(s, s.phone); n == 0 {
				s.t.Error("the failure is not repeated to a trunk")
			}
		}, func(c *sip.Config) {
			c.Trunks = []sip.Trunk{{Name: "carrier", Sources: prefixes("192.0.2.101")}}
		})
	})
}

// Our own refusals of an INVITE are no larger than it.
func TestARefusalIsNoReflection(t *testing.T) {
	playUnproved(t, func(s *scene) {
		invite := s.phone.invite("Proxy-Require: "+strings.Repeat("a,", 400)+"a").with("Max-Forwards: 70\r\n", "")
		s.phone.sends(invite)
		if n := bytesFor(s.phone); n > len(invite) {
			s.t.Errorf("%d bytes came of an INVITE of %d", n, len(invite))
		}
		if n := s.hop.Stats().Withheld; n != 1 {
			s.t.Errorf("%d responses are counted as withheld, want 1", n)
		}
		s.registered()
		s.phone.sends(invite)
		s.phone.gets("who is there is answered", "SIP/2.0 420")
	})
}
