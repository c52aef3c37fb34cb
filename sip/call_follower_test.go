package sip_test

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"

	"bellhop/dialog"
)

// A callFollower passes the observations of a testbed to a tracker.
type callFollower struct {
	s       *testbed
	tracker *dialog.Tracker
	kept    map[string]dialog.Change // the calls that are up, as they are stored
	said    []string
}

func (s *testbed) followCalls() *callFollower {
	f := &callFollower{s: s, tracker: newTracker(), kept: map[string]dialog.Change{}}
	f.tracker.Changed(time.Now()) // changes of calls are recorded from now on
	return f
}

func newTracker() *dialog.Tracker {
	return dialog.New(dialog.Config{Pattern: regexp.MustCompile(`^[0-9]{3}$`), Learn: true})
}

func (f *callFollower) noteEvents(events []dialog.Event) {
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

// readObservations passes the waiting observations to the tracker and advances its time.
func (f *callFollower) readObservations() {
	f.s.advance(0)
	for len(f.s.observations) > 0 {
		f.noteEvents(f.tracker.Observe(<-f.s.observations))
	}
	f.noteEvents(f.tracker.Advance(time.Now()))
}

// expectEvents checks the events since its last call, and the number of dialogs that are
// up.
func (f *callFollower) expectEvents(what string, up int, said ...string) {
	f.s.t.Helper()
	f.readObservations()
	assertEqual(f.s.t, what, strings.Join(f.said, ", "), strings.Join(said, ", "))
	if n := len(f.tracker.Dialogs()); n != up {
		f.s.t.Errorf("%s: %d dialogs are up, want %d", what, n, up)
	}
	f.said = nil
}

// A phoneCall is a call between a phone over TCP and the PBX.
type phoneCall struct {
	*callFollower
	phone, pbx *peer
	request    func(from *peer, method string, lines ...string) text // within the dialog
}

// contactBehindNAT returns a Contact of the phone to which nobody can connect.
func contactBehindNAT(p *peer) string { return "Contact: <sip:101@10.0.0.5:5060;transport=tcp>" }

// registerUser registers a phone for a user and returns the Path of the binding.
func (s *testbed) registerUser(phone *peer, user string) (path string) {
	s.t.Helper()
	aor := "<sip:" + user + "@pbx.example>"
	phone.send(phone.newRequest("REGISTER", "sip:pbx.example", "From: "+aor+";tag=r", "To: "+aor, contactBehindNAT(phone)))
	got := s.pbx.expect("the REGISTER goes on", "REGISTER")
	path = got.fieldValue("Path")
	s.pbx.respond(got, "200 OK", "Path: "+path, contactBehindNAT(phone))
	phone.expect("registered", "SIP/2.0 200")
	return path
}

// ringPhone calls a registered phone over TCP from the PBX, until it rings.
func (s *testbed) ringPhone() (phone *peer, invite, got text) {
	s.t.Helper()
	phone = s.dialTCPPeer(phoneAt.Addr())
	phone.name = "phone"
	path := s.registerUser(phone, "101")
	invite = s.pbx.newRequest("INVITE", "sip:101@10.0.0.5:5060;transport=tcp", "From: <sip:5551234@pbx.example>;tag=pbx", "To: <sip:101@pbx.example>", "Route: "+path)
	s.pbx.send(invite)
	return phone, invite, phone.expect("the call comes in", "INVITE")
}

// sendExpectingStatus sends a request and checks the status of the response.
func (p *peer) sendExpectingStatus(m text, status int) {
	p.s.t.Helper()
	p.send(m)
	p.expect("the response to "+m.method(), fmt.Sprint("SIP/2.0 ", status))
}

// sendThrough sends a request that another peer receives and answers, and checks the
// status of the response.
func (p *peer) sendThrough(other *peer, m text, answer string, status int) {
	p.s.t.Helper()
	p.send(m)
	other.respond(other.expect("the request", m.method()), answer)
	p.expect("the response to "+m.method(), fmt.Sprint("SIP/2.0 ", status))
}

// callOut sets up a call from a phone over TCP.
func (s *testbed) callOut() phoneCall {
	s.t.Helper()
	f := s.followCalls()
	phone := s.dialTCPPeer(phoneAt.Addr())
	phone.name = "phone"
	c := phone.setUpCall(s.pbx, contactBehindNAT(phone))
	f.expectEvents("the call", 1, "dial-out 101", "answer 101")
	return phoneCall{f, phone, s.pbx, func(from *peer, method string, lines ...string) text {
		if from == s.pbx {
			return from.calleeRequest(c.invite, method, lines...)
		}
		return from.callerRequest(c.ok, method, lines...)
	}}
}

// callIn sets up a call from the PBX to a registered phone over TCP.
func (s *testbed) callIn() phoneCall {
	s.t.Helper()
	f := s.followCalls()
	phone, _, rings := s.ringPhone()
	phone.respond(rings, "200 OK", contactBehindNAT(phone))
	ok := s.pbx.expect("answer", "SIP/2.0 200")
	s.pbx.send(s.pbx.callerRequest(ok, "ACK"))
	phone.expect("its ACK", "ACK")
	f.expectEvents("the call", 1, "dial-in 101", "answer 101")
	return phoneCall{f, phone, s.pbx, func(from *peer, method string, lines ...string) text {
		if from == s.pbx {
			return from.callerRequest(ok, method, lines...)
		}
		return from.calleeRequest(rings, method, lines...)
	}}
}

// closeConn closes the phone's connection.
func (l *phoneCall) closeConn() {
	l.phone.close()
	l.s.advance(0)
	l.phone.discardReceived()
}

// restartAndRegister restarts bellhop. The phone then connects and registers again.
func (l *phoneCall) restartAndRegister() *peer {
	l.s.t.Helper()
	l.restartAll()
	l.phone.discardReceived()
	return l.registersAgain()
}

// registersAgain lets the phone connect and register again.
func (l *phoneCall) registersAgain() *peer {
	l.s.t.Helper()
	again := l.s.dialTCPPeer(phoneAt.Addr())
	l.s.registerUser(again, "101")
	return again
}

// restartAll stops bellhop and the tracker, and starts both again.
func (f *callFollower) restartAll() {
	f.s.t.Helper()
	f.readObservations()
	f.s.stop()
	for _, c := range f.tracker.Changed(time.Now()) {
		f.kept[c.Call] = c
		if c.Record == nil {
			delete(f.kept, c.Call)
		}
	}
	f.s.restartProxy()
	f.tracker = newTracker()
	if err := f.tracker.Restore("", slices.Collect(maps.Values(f.kept)), nil); err != nil {
		f.s.t.Fatal(err)
	}
}
