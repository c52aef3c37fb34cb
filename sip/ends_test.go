package sip_test

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"bellhop/dialog"
	"bellhop/sip"
)

// A follower shows a tracker what the watcher of a scene is shown.
type follower struct {
	s       *scene
	tracker *dialog.Tracker
	kept    map[string]dialog.Change // the calls that are up, as they are stored
	said    []string
}

func (s *scene) follow() *follower {
	f := &follower{s: s, tracker: newTracker(), kept: map[string]dialog.Change{}}
	f.tracker.Changed(time.Now()) // what becomes of calls is kept from now on
	return f
}

func newTracker() *dialog.Tracker {
	return dialog.New(dialog.Config{Pattern: regexp.MustCompile(`^[0-9]{3}$`), Learn: true})
}

func (f *follower) say(events []dialog.Event) {
	for _, e := range events {
		line := fmt.Sprint(e.Type, " ", e.Extension.User)
		if e.Type == dialog.Hangup {
			line += fmt.Sprint(" ", e.Status, " by ", e.HangupBy)
		}
		switch e.Type {
		case dialog.Ringing, dialog.Registered, dialog.Unregistered:
		default:
			f.said = append(f.said, line)
		}
	}
}

// read shows what there is, and lets the tracker know what time it is.
func (f *follower) read() {
	f.s.after(0)
	for len(f.s.watch) > 0 {
		f.say(f.tracker.Observe(<-f.s.watch))
	}
	f.say(f.tracker.Advance(time.Now()))
}

// wants says what was said since it was called last, and which dialogs are up.
func (f *follower) wants(what string, up int, said ...string) {
	f.s.t.Helper()
	f.read()
	equal(f.s.t, what, strings.Join(f.said, ", "), strings.Join(said, ", "))
	if n := len(f.tracker.Dialogs()); n != up {
		f.s.t.Errorf("%s: %d dialogs are up, want %d", what, n, up)
	}
	f.said = nil
}

// A line is a call that is up, between a phone over TCP and the PBX.
type line struct {
	*follower
	phone, pbx *peer
	request    func(from *peer, method string, lines ...string) text // within the dialog
}

// natted has the phone write a Contact that nobody can connect to.
func natted(p *peer) string { return "Contact: <sip:101@10.0.0.5:5060;transport=tcp>" }

// registers has a phone register for a user, and returns the Path of that.
func (s *scene) registers(phone *peer, user string) (path string) {
	s.t.Helper()
	aor := "<sip:" + user + "@pbx.example>"
	phone.sends(phone.request("REGISTER", "sip:pbx.example", "From: "+aor+";tag=r", "To: "+aor, natted(phone)))
	got := s.pbx.gets("the REGISTER goes on", "REGISTER")
	path = got.one("Path")
	s.pbx.replies(got, "200 OK", "Path: "+path, natted(phone))
	phone.gets("registered", "SIP/2.0 200")
	return path
}

// rings has the PBX call a phone over TCP that has registered.
func (s *scene) rings() (phone *peer, invite, got text) {
	s.t.Helper()
	phone = s.tcp(phoneAt.Addr())
	phone.name = "phone"
	path := s.registers(phone, "101")
	invite = s.pbx.request("INVITE", "sip:101@10.0.0.5:5060;transport=tcp", "From: <sip:5551234@pbx.example>;tag=pbx", "To: <sip:101@pbx.example>", "Route: "+path)
	s.pbx.sends(invite)
	return phone, invite, phone.gets("the call comes in", "INVITE")
}

// meets sends a request and gets a response with a status.
func (p *peer) meets(m text, status int) {
	p.s.t.Helper()
	p.sends(m)
	p.gets("the response to "+m.method(), fmt.Sprint("SIP/2.0 ", status))
}

// asks sends a request, which another peer gets and answers, and gets a response with a
// status.
func (p *peer) asks(other *peer, m text, answer string, status int) {
	p.s.t.Helper()
	p.sends(m)
	other.replies(other.gets("the request", m.method()), answer)
	p.gets("the response to "+m.method(), fmt.Sprint("SIP/2.0 ", status))
}

// dialsOut sets up a call of a phone over TCP.
func (s *scene) dialsOut() line {
	s.t.Helper()
	f := s.follow()
	phone := s.tcp(phoneAt.Addr())
	phone.name = "phone"
	c := phone.calls(s.pbx, natted(phone))
	f.wants("the call", 1, "dial-out 101", "answer 101")
	return line{f, phone, s.pbx, func(from *peer, method string, lines ...string) text {
		if from == s.pbx {
			return from.back(c.invite, method, lines...)
		}
		return from.within(c.ok, method, lines...)
	}}
}

// dialsIn sets up a call of the PBX to a phone over TCP that has registered.
func (s *scene) dialsIn() line {
	s.t.Helper()
	f := s.follow()
	phone, _, rings := s.rings()
	phone.replies(rings, "200 OK", natted(phone))
	ok := s.pbx.gets("answer", "SIP/2.0 200")
	s.pbx.sends(s.pbx.within(ok, "ACK"))
	phone.gets("its ACK", "ACK")
	f.wants("the call", 1, "dial-in 101", "answer 101")
	return line{f, phone, s.pbx, func(from *peer, method string, lines ...string) text {
		if from == s.pbx {
			return from.within(ok, method, lines...)
		}
		return from.back(rings, method, lines...)
	}}
}

// goes closes the phone's connection.
func (l *line) goes() {
	l.phone.close()
	l.s.after(0)
	l.phone.forgets()
}

// returns restarts bellhop and has the phone connect and register again.
func (l *line) returns() *peer {
	l.s.t.Helper()
	l.restarts()
	l.phone.forgets()
	return l.registersAgain()
}

// registersAgain has the phone connect and register again.
func (l *line) registersAgain() *peer {
	l.s.t.Helper()
	again := l.s.tcp(phoneAt.Addr())
	l.s.registers(again, "101")
	return again
}

// TestACallEndsOnceHoweverItsBYEFares: the BYE of either end is refused, lost,
// challenged, or repeated. Each party hangs up once, and nobody is left on the phone.
func TestACallEndsOnceHoweverItsBYEFares(t *testing.T) { // RFC 3261 §15
	const byPBX, byPhone = "hangup 101 ANSWER by other", "hangup 101 ANSWER by self"
	for _, tt := range []struct {
		name string
		play func(l *line)
		want string // "": nothing
	}{
		{"the PBX's, to a flow that is gone", func(l *line) {
			l.goes()
			bye := l.request(l.pbx, "BYE")
			l.pbx.meets(bye, 430)
			l.pbx.meets(bye, 430)
			l.pbx.meets(l.request(l.pbx, "BYE"), 430)
		}, byPBX},
		{"the PBX's, behind requests that were refused", func(l *line) {
			l.goes()
			for _, method := range []string{"INVITE", "UPDATE", "INFO", "REFER", "NOTIFY", "MESSAGE", "OPTIONS"} {
				m := l.request(l.pbx, method, "Refer-To: <sip:102@pbx.example>", "Event: refer")
				l.pbx.sends(m)
				answer := l.pbx.gets(method, "SIP/2.0 430")
				if method == "INVITE" {
					l.pbx.acks(m, answer)
				}
			}
			l.wants("none of them ends it", 1)
			l.pbx.meets(l.request(l.pbx, "BYE"), 430)
		}, byPBX},
		{"the PBX's, when bellhop has restarted", func(l *line) {
			l.s.stop()
			l.s.again()
			l.phone.forgets()
			l.pbx.meets(l.request(l.pbx, "BYE"), 430)
		}, byPBX},
		{"the PBX's, with no hop left", func(l *line) {
			l.pbx.meets(l.request(l.pbx, "BYE", "Max-Forwards: 0"), 483)
			l.pbx.asks(l.phone, l.request(l.pbx, "BYE"), "481 No Such Call", 481)
		}, byPBX},
		{"the PBX's, malformed", func(l *line) {
			l.pbx.meets(l.request(l.pbx, "BYE", "Max-Forwards: 256"), 400)
		}, byPBX},
		{"the PBX's, while the phone only goes", func(l *line) {
			l.pbx.sends(l.request(l.pbx, "BYE"))
			l.phone.gets("it arrives", "BYE")
			l.goes()
			l.s.after(40 * time.Second)
			l.pbx.forgets()
		}, byPBX},
		{"the PBX's, answered 500", func(l *line) {
			l.pbx.asks(l.phone, l.request(l.pbx, "BYE"), "500 Server Error", 500)
		}, byPBX},
		{"the phone's, with no hop left", func(l *line) {
			l.phone.meets(l.request(l.phone, "BYE", "Max-Forwards: 0"), 483)
			l.phone.asks(l.pbx, l.request(l.phone, "BYE"), "200 OK", 200)
		}, byPhone},
		{"the phone's, with no hop left, after two hours", func(l *line) {
			l.s.after(30 * time.Minute)
			for range 4 {
				l.phone.asks(l.pbx, l.request(l.phone, "OPTIONS"), "200 OK", 200)
				l.s.after(30 * time.Minute)
			}
			l.phone.meets(l.request(l.phone, "BYE", "Max-Forwards: 0"), 483)
		}, byPhone},
		{"the phone's, without a length", func(l *line) {
			bye := l.request(l.phone, "BYE")
			l.phone.meets(bye.with("Content-Length: 0\r\n", ""), 400)
		}, byPhone},
		{"the phone's, with an extension that nobody knows", func(l *line) {
			l.phone.meets(l.request(l.phone, "BYE", "Proxy-Require: x"), 420)
		}, byPhone},
		{"the phone's, challenged", func(l *line) {
			bye := l.request(l.phone, "BYE")
			l.phone.asks(l.pbx, bye, "407 Proxy Authentication Required", 407)
			l.phone.asks(l.pbx, l.request(l.phone, "BYE", "Proxy-Authorization: Digest x"), "200 OK", 200)
		}, byPhone},
		{"the phone's, answered 503", func(l *line) {
			l.phone.asks(l.pbx, l.request(l.phone, "BYE"), "503 Service Unavailable", 500)
			l.pbx.asks(l.phone, l.request(l.pbx, "BYE"), "481 No Such Call", 481)
		}, byPhone},
		{"the phone's, not answered", func(l *line) {
			l.phone.sends(l.request(l.phone, "BYE"))
			l.s.after(40 * time.Second)
			l.pbx.forgets()
			l.phone.forgets()
		}, byPhone},
		{"the phone's, not answered, and then it goes", func(l *line) {
			l.phone.sends(l.request(l.phone, "BYE"))
			l.goes()
			l.s.after(40 * time.Second)
			l.pbx.forgets()
		}, byPhone},
		{"the phone's, on a new connection", func(l *line) {
			l.goes()
			again := l.s.tcp(phoneAt.Addr())
			again.asks(l.pbx, l.request(l.phone, "BYE"), "200 OK", 200)
		}, byPhone},
		{"the phone's, with no hop left, on a new connection, after a restart", func(l *line) {
			l.s.stop()
			l.s.again()
			l.phone.forgets()
			again := l.s.tcp(phoneAt.Addr())
			again.meets(l.request(l.phone, "BYE", "Max-Forwards: 0"), 483)
			l.pbx.meets(l.request(l.pbx, "BYE"), 430)
		}, ""},
		{"the PBX's, behind a re-INVITE that is not answered", func(l *line) {
			l.pbx.sends(l.request(l.pbx, "INVITE"))
			l.phone.gets("it arrives", "INVITE")
			l.goes()
			l.s.after(5 * time.Second)
			l.pbx.gets("told to wait", "SIP/2.0 100")
			l.pbx.meets(l.request(l.pbx, "BYE"), 430)
			l.s.after(40 * time.Second)
			l.pbx.forgets()
		}, byPBX},
		{"none, behind a re-INVITE that is not answered", func(l *line) {
			l.pbx.sends(l.request(l.pbx, "INVITE"))
			l.phone.gets("it arrives", "INVITE")
			l.goes()
			l.s.after(80 * time.Second)
			l.pbx.last("told to wait, then 408", "SIP/2.0 100")
		}, "hangup 101 ANSWER by system"},
		{"the PBX's, behind its answer to a re-INVITE", func(l *line) {
			l.phone.sends(l.request(l.phone, "INVITE"))
			got := l.pbx.gets("goes on", "INVITE")
			l.goes()
			l.pbx.replies(got, "200 OK")
			l.s.after(time.Second)
			l.pbx.meets(l.request(l.pbx, "BYE"), 430)
		}, byPBX},
		{"the PBX's, with an extension that nobody knows", func(l *line) {
			l.pbx.meets(l.request(l.pbx, "BYE", "Proxy-Require: x"), 420)
		}, byPBX},
		{"the PBX's, with a Route that is not ours", func(l *line) {
			l.pbx.meets(l.request(l.pbx, "BYE", "Route: <sip:xx@192.0.2.1:5060;lr>"), 403)
		}, byPBX},
		{"the PBX's, to what is no URI", func(l *line) {
			l.pbx.meets(l.request(l.pbx, "BYE").with("BYE sip:", "BYE sip:a<b>"), 400)
		}, byPBX},
		{"the phone's, with a Route to elsewhere", func(l *line) {
			l.phone.meets(l.request(l.phone, "BYE").with("\r\nFrom: ", "\r\nRoute: <sip:203.0.113.5;lr>\r\nFrom: "), 403)
		}, byPhone},
		{"the phone's, with a Route that cannot be read", func(l *line) {
			l.phone.meets(l.request(l.phone, "BYE", "Route: <sip:xx"), 400)
		}, byPhone},
		{"the phone's, with two lengths", func(l *line) {
			l.phone.meets(l.request(l.phone, "BYE").with("Content-Length: 0", "Content-Length: 0\r\nl: 0"), 400)
		}, byPhone},
		{"the phone's, and it is gone at once", func(l *line) {
			l.phone.write([]byte(l.request(l.phone, "BYE")))
			l.phone.close()
			l.pbx.replies(l.pbx.gets("goes on", "BYE"), "200 OK")
			l.phone.forgets()
		}, byPhone},
		{"the phone's, refused, when it has registered after a restart", func(l *line) {
			again := l.returns()
			again.asks(l.pbx, l.request(l.phone, "BYE"), "503 Service Unavailable", 500)
		}, byPhone},
		{"the phone's, of which the PBX knows nothing, when it has registered after a restart", func(l *line) {
			again := l.returns()
			again.asks(l.pbx, l.request(l.phone, "BYE"), "481 No Such Call", 481)
		}, byPhone},
		{"the phone's, not answered, when it has registered after a restart", func(l *line) {
			again := l.returns()
			again.sends(l.request(l.phone, "BYE"))
			l.s.after(40 * time.Second)
			l.pbx.forgets()
		}, byPhone},
		{"a stranger's, with all that is in the phone's, refused", func(l *line) {
			l.phone.forgets()
			stranger := l.s.tcp(otherAt.Addr())
			stranger.meets(l.request(l.phone, "BYE", "Max-Forwards: 0"), 483)
			stranger.asks(l.pbx, l.request(l.phone, "BYE"), "403 Forbidden", 403)
			l.wants("it ends nothing", 1)
			l.pbx.asks(l.phone, l.request(l.pbx, "BYE"), "200 OK", 200)
		}, byPBX},
		{"both at once, over a flow that is gone", func(l *line) {
			l.phone.sends(l.request(l.phone, "BYE"))
			got := l.pbx.gets("goes on", "BYE")
			l.goes()
			l.pbx.meets(l.request(l.pbx, "BYE"), 430)
			l.pbx.replies(got, "481 No Such Call")
		}, byPhone},
	} {
		for _, in := range []bool{false, true} {
			t.Run(tt.name+map[bool]string{false: ", out", true: ", in"}[in], func(t *testing.T) {
				play(t, func(s *scene) {
					l := s.dialsOut
					self, other := "caller", "callee"
					if in {
						l = s.dialsIn
						self, other = other, self
					}
					up := l()
					tt.play(&up)
					want := tt.want
					if want == "" {
						want = byPBX
					}
					want = strings.NewReplacer("self", self, "other", other).Replace(want)
					up.wants("the end", 0, want)
					s.after(5 * time.Minute)
					s.pbx.forgets()
					up.wants("nothing follows", 0)
				})
			})
		}
	}
}

// restarts takes down bellhop and what follows its calls, and sets both up again.
func (f *follower) restarts() {
	f.s.t.Helper()
	f.read()
	f.s.stop()
	for _, c := range f.tracker.Changed(time.Now()) {
		f.kept[c.Call] = c
		if c.Record == nil {
			delete(f.kept, c.Call)
		}
	}
	f.s.again()
	f.tracker = newTracker()
	if err := f.tracker.Restore("", slices.Collect(maps.Values(f.kept)), nil); err != nil {
		f.s.t.Fatal(err)
	}
}

// TestACallThatRingsEndsOnceWithoutItsFlow: the connection of the phone goes, or bellhop
// restarts, before the call is answered.
func TestACallThatRingsEndsOnceWithoutItsFlow(t *testing.T) {
	for _, tt := range []struct {
		name string
		play func(s *scene, f *follower)
		want string
	}{
		{"called, and canceled when it is gone", func(s *scene, f *follower) {
			phone, invite, got := s.rings()
			phone.replies(got, "180 Ringing")
			s.pbx.gets("it rings", "SIP/2.0 180")
			phone.close()
			s.after(time.Second)
			s.pbx.cancels(invite)
			s.pbx.gets("taken", "SIP/2.0 200")
			s.pbx.acks(invite, s.pbx.gets("at once, as nobody answers any more", "SIP/2.0 487"))
		}, "dial-in 101, hangup 101 NOANSWER by system"},
		{"called, and gone before it rings", func(s *scene, f *follower) {
			phone, invite, _ := s.rings()
			phone.close()
			s.after(40 * time.Second)
			s.pbx.acks(invite, s.pbx.last("the end", "SIP/2.0 100"))
		}, "dial-in 101, hangup 101 CHANUNAVAIL by system"},
		{"called, and gone before the INVITE", func(s *scene, f *follower) {
			phone, invite, got := s.rings()
			phone.replies(got, "486 Busy Here")
			s.pbx.acks(invite, s.pbx.gets("busy", "SIP/2.0 486"))
			phone.close()
			s.after(time.Second)
			again := invite.with("Call-ID: ", "Call-ID: again-").with("branch=", "branch=z9hG4bKagain")
			s.pbx.sends(again)
			s.pbx.acks(again, s.pbx.gets("refused", "SIP/2.0 430"))
		}, "dial-in 101, hangup 101 BUSY by callee"},
		{"called, and canceled after a restart", func(s *scene, f *follower) {
			phone, invite, got := s.rings()
			phone.replies(got, "180 Ringing")
			s.pbx.gets("it rings", "SIP/2.0 180")
			f.restarts()
			s.pbx.cancels(invite)
			s.pbx.gets("no flow to take it to", "SIP/2.0 430")
		}, "dial-in 101, hangup 101 NOANSWER by system"},
		{"answered, and gone before the ACK", func(s *scene, f *follower) {
			phone, _, got := s.rings()
			phone.replies(got, "200 OK", natted(phone))
			ok := s.pbx.gets("answer", "SIP/2.0 200")
			phone.close()
			s.after(time.Second)
			s.pbx.sends(s.pbx.within(ok, "ACK"))
			s.pbx.meets(s.pbx.within(ok, "BYE"), 430)
		}, "dial-in 101, answer 101, hangup 101 ANSWER by caller"},
		{"calls, and gone before the answer", func(s *scene, f *follower) {
			phone := s.tcp(phoneAt.Addr())
			phone.sends(phone.invite(natted(phone)))
			got := s.pbx.gets("the INVITE goes on", "INVITE")
			s.pbx.replies(got, "180 Ringing")
			phone.close()
			s.after(time.Second)
			for range 4 { // nobody acknowledges it
				s.pbx.replies(got, "200 OK")
				s.after(4 * time.Second)
			}
			s.pbx.meets(s.pbx.back(got, "BYE"), 430)
		}, "dial-out 101, answer 101, hangup 101 ANSWER by callee"},
		{"calls, and gone before it is refused", func(s *scene, f *follower) {
			phone := s.tcp(phoneAt.Addr())
			phone.sends(phone.invite(natted(phone)))
			got := s.pbx.gets("the INVITE goes on", "INVITE")
			s.pbx.replies(got, "180 Ringing")
			phone.close()
			s.after(time.Second)
			s.pbx.replies(got, "486 Busy Here")
			s.pbx.gets("acknowledged", "ACK")
		}, "dial-out 101, hangup 101 BUSY by callee"},
		{"calls, gives up on another connection", func(s *scene, f *follower) {
			phone := s.tcp(phoneAt.Addr())
			invite := phone.invite(natted(phone))
			phone.sends(invite)
			got := s.pbx.gets("the INVITE goes on", "INVITE")
			s.pbx.replies(got, "180 Ringing")
			phone.close()
			again := s.tcp(phoneAt.Addr())
			again.cancels(invite)
			again.gets("taken", "SIP/2.0 200")
			s.pbx.replies(s.pbx.gets("goes on", "CANCEL"), "200 OK")
			s.pbx.replies(got, "487 Request Terminated")
			s.pbx.gets("acknowledged", "ACK")
		}, "dial-out 101, hangup 101 CANCEL by caller"},
		{"calls, gives up after a restart", func(s *scene, f *follower) {
			phone := s.tcp(phoneAt.Addr())
			invite := phone.invite(natted(phone))
			phone.sends(invite)
			got := s.pbx.gets("the INVITE goes on", "INVITE")
			s.pbx.replies(got, "180 Ringing")
			phone.gets("rings", "SIP/2.0 180")
			f.restarts()
			phone.forgets()
			again := s.tcp(phoneAt.Addr())
			again.cancels(invite)
			s.pbx.replies(s.pbx.gets("goes on", "CANCEL"), "200 OK")
			s.pbx.replies(got, "487 Request Terminated")
		}, "dial-out 101, hangup 101 CANCEL by caller"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			play(t, func(s *scene) {
				f := s.follow()
				tt.play(s, f)
				f.wants("the end", 0, strings.Split(tt.want, ", ")...)
				s.after(5 * time.Minute)
				s.pbx.forgets()
				f.wants("nothing follows", 0)
			})
		})
	}
}

// TestACallEndsOnceWhenThePBXIsGone: the PBX is reached over TCP, and its connection is
// gone, or it is.
func TestACallEndsOnceWhenThePBXIsGone(t *testing.T) {
	for _, tt := range []struct {
		name string
		play func(s *scene, c call)
		want string
	}{
		{"the connection, and the phone hangs up", func(s *scene, c call) {
			s.pbx.hangs()
			s.after(0)
			s.pbx.forgets()
			s.phone.asks(s.pbx, s.phone.within(c.ok, "BYE"), "200 OK", 200)
		}, "hangup 101 ANSWER by caller"},
		{"all of it, and the phone hangs up", func(s *scene, c call) {
			s.pbx.close()
			s.after(0)
			s.pbx.forgets()
			s.phone.meets(s.phone.within(c.ok, "BYE"), 500)
			s.phone.meets(s.phone.within(c.ok, "BYE"), 500)
		}, "hangup 101 ANSWER by caller"},
		{"all of it, and the phone asks first", func(s *scene, c call) {
			s.pbx.close()
			s.after(0)
			s.pbx.forgets()
			for _, method := range []string{"INFO", "UPDATE", "OPTIONS"} {
				s.phone.meets(s.phone.within(c.ok, method), 500)
			}
			s.phone.meets(s.phone.within(c.ok, "BYE"), 500)
		}, "hangup 101 ANSWER by caller"},
		{"the connection, behind the BYE", func(s *scene, c call) {
			s.phone.sends(s.phone.within(c.ok, "BYE"))
			s.pbx.gets("it arrives", "BYE")
			s.pbx.hangs()
			s.after(40 * time.Second)
			s.pbx.forgets()
			s.phone.forgets()
		}, "hangup 101 ANSWER by caller"},
		{"all of it, and the phone too", func(s *scene, c call) {
			s.pbx.close()
			s.phone.close()
			s.after(4*time.Hour - time.Minute)
			s.pbx.forgets()
			s.after(time.Minute)
		}, "hangup 101 UNKNOWN by system"},
		{"the connection, and bellhop restarts", func(s *scene, c call) {
			s.stop()
			s.again()
			s.pbx.forgets()
			s.phone.asks(s.pbx, s.phone.within(c.ok, "BYE"), "200 OK", 200)
		}, "hangup 101 ANSWER by caller"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			play(t, func(s *scene) {
				f := s.follow()
				c := s.phone.calls(s.pbx)
				f.wants("the call", 1, "dial-out 101", "answer 101")
				tt.play(s, c)
				f.wants("the end", 0, tt.want)
				s.after(5 * time.Minute)
				f.wants("nothing follows", 0)
			}, pbxOverTCP)
		})
	}
}

// TestACallOfAnOlderVersionEndsOnce: bellhop is upgraded in a call whose Routes have
// tokens of version 1. The connection that they name is gone.
func TestACallOfAnOlderVersionEndsOnce(t *testing.T) {
	for _, tt := range []struct {
		name string
		play func(l *line, old func(bye text) text)
		want string
	}{
		{"the PBX hangs up", func(l *line, old func(text) text) {
			bye := old(l.request(l.pbx, "BYE"))
			l.pbx.meets(bye, 430)
			l.pbx.meets(bye, 430)
		}, "hangup 101 ANSWER by callee"},
		{"the PBX asks and hangs up", func(l *line, old func(text) text) {
			l.pbx.meets(old(l.request(l.pbx, "UPDATE")), 430)
			l.pbx.meets(old(l.request(l.pbx, "BYE")), 430)
		}, "hangup 101 ANSWER by callee"},
		{"the phone hangs up on a new connection", func(l *line, old func(text) text) {
			again := l.s.tcp(phoneAt.Addr())
			again.asks(l.pbx, old(l.request(l.phone, "BYE")), "200 OK", 200)
		}, "hangup 101 ANSWER by caller"},
		{"the phone registers, and its BYE has no hop left", func(l *line, old func(text) text) {
			again := l.registersAgain()
			again.meets(old(l.request(l.phone, "BYE", "Max-Forwards: 0")), 483)
		}, "hangup 101 ANSWER by caller"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			play(t, func(s *scene) {
				l := s.dialsOut()
				token := "Route: <sip:" + sip.OldToken(key, 1, hopAt.Port(), l.phone.addr, 1) + "@192.0.2.1:5060;lr>"
				l.restarts()
				l.phone.forgets()
				var up []sip.Dialog
				for _, d := range l.tracker.Dialogs() {
					up = append(up, sip.Dialog{CallID: d.CallID, Tag: d.FromTag})
				}
				s.hop.RestoreDialogs(up)
				tt.play(&l, func(m text) text {
					for _, r := range m.all("Route") {
						m = m.with("Route: "+r+"\r\n", "")
					}
					return m.with("\r\nFrom: ", "\r\n"+token+"\r\nFrom: ")
				})
				l.wants("the end", 0, tt.want)
				s.after(5 * time.Minute)
				l.wants("nothing follows", 0)
			})
		})
	}
}

// TestBothEndsHangUpWhenOneIsGone: the PBX is a proxy, which stays in the dialog or
// leaves it to its ends. The flow of the caller is gone when the called phone hangs up,
// or the other way round.
func TestBothEndsHangUpWhenOneIsGone(t *testing.T) {
	const mine = "Record-Route: <sip:192.0.2.2:5060;lr>\r\n"
	for _, stays := range []bool{true, false} {
		for _, caller := range []bool{true, false} {
			t.Run(fmt.Sprintf("stays=%v, the caller is gone=%v", stays, caller), func(t *testing.T) {
				play(t, func(s *scene) {
					f := s.follow()
					a, b := s.tcp(phoneAt.Addr()), s.tcp(otherAt.Addr())
					a.name, b.name = "caller", "called"
					pass := func(m text, from, to, via string) {
						if stays && via != "" && m.method() == "INVITE" {
							via = mine + via
						}
						m = m.with("\r\nVia: ", "\r\n"+via+"Via: ").with(from, to)
						s.pbx.sends(m)
					}
					path := s.registers(b, "102")
					a.sends(a.invite(natted(a)))
					got := s.pbx.gets("the INVITE goes on", "INVITE")
					pass(got, "INVITE sip:102@pbx.example", "INVITE sip:102@10.0.0.5:5060;transport=tcp", "Via: SIP/2.0/UDP 192.0.2.2:5060;branch=z9hG4bK-pass\r\nRoute: "+path+"\r\n")
					invite := b.gets("and on", "INVITE")
					b.replies(invite, "200 OK", natted(b))
					ok := s.pbx.gets("answer", "SIP/2.0 200")
					s.pbx.sends(ok.with("Via: "+ok.one("Via")+"\r\n", ""))
					answer := a.gets("answer", "SIP/2.0 200")
					f.wants("the call", 2, "dial-in 102", "answer 102", "dial-out 101", "answer 101")

					leaves, gone, by := b, a, "callee"
					bye := b.back(invite, "BYE")
					if !caller {
						leaves, gone, by = a, b, "caller"
						bye = a.within(answer, "BYE")
					}
					gone.close()
					s.after(time.Second)
					leaves.sends(bye)
					if stays {
						got := s.pbx.gets("the BYE goes on", "BYE")
						s.pbx.sends(got.with("\r\nVia: ", "\r\nVia: SIP/2.0/UDP 192.0.2.2:5060;branch=z9hG4bK-bye\r\nVia: ").with("Route: <sip:192.0.2.2:5060;lr>\r\n", ""))
						refusal := s.pbx.gets("refused", "SIP/2.0 430")
						s.pbx.sends(refusal.with("Via: "+refusal.one("Via")+"\r\n", ""))
					}
					leaves.gets("refused", "SIP/2.0 430")
					f.read()
					slices.Sort(f.said)
					f.wants("the end", 0, "hangup 101 ANSWER by "+by, "hangup 102 ANSWER by "+by)
					s.after(5 * time.Minute)
					f.wants("nothing follows", 0)
				})
			})
		}
	}
}
