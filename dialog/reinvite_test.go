package dialog

import (
	"testing"
	"time"
)

// TestEachHoldIsAnEvent holds and resumes twice: each change is an event of its own, and a
// request that changes nothing emits none.
func TestEachHoldIsAnEvent(t *testing.T) {
	tracker := New(testConfig())
	l := caller()
	tracker.Observe(l.invite())
	tracker.Observe(l.response(200))
	seq := l.cseq
	ids := map[string]bool{}
	for i, way := range []struct {
		direction string
		status    int
		want      Type
	}{
		{"sendrecv", 200, ""}, {"sendonly", 488, ""}, {"sendonly", 200, Hold}, {"inactive", 200, ""}, {"sendrecv", 200, Resume},
		{"inactive", 200, Hold}, {"sendrecv", 200, Resume},
	} {
		seq++
		request := l.later(time.Second).message(Edge, "UPDATE", 0, "")
		request.ToTag, request.CSeq, request.Branch = l.to, seq, "z9hG4bK-u"+way.direction
		request.Body = "v=0\r\nm=audio 1 RTP/AVP 0\r\na=" + way.direction + "\r\n"
		response := l.later(time.Second).message(PBX, "UPDATE", way.status, "")
		response.ToTag, response.CSeq = request.ToTag, request.CSeq
		emitted := append(tracker.Observe(request), tracker.Observe(response)...)
		switch {
		case way.want == "" && len(emitted) > 0:
			t.Errorf("%d: got %v, want nothing", i, emitted)
		case way.want != "" && (len(emitted) != 1 || emitted[0].Type != way.want || emitted[0].At != response.At || ids[emitted[0].ID]):
			t.Errorf("%d: got %v, want a new %s at the response", i, emitted, way.want)
		case way.want != "":
			ids[emitted[0].ID] = true
		}
	}
}

// TestLegEndsWithItsSession refreshes a session, and then does not: the leg ends 32 s after
// the session has expired, and not before.
func TestLegEndsWithItsSession(t *testing.T) {
	for _, tt := range []struct {
		name     string
		answer   string // headers of the 2xx to the INVITE
		refresh  string // headers of a 2xx to an UPDATE 1000 s later; "": none comes
		deadline time.Duration
	}{
		{"no session timer", "", "", 4 * time.Hour},
		{"not refreshed", "Session-Expires: 1800;refresher=uac\r\n", "", 1800*time.Second + lingerTime},
		{"compact session timer", "x: 1800\r\n", "", 1800*time.Second + lingerTime},
		{"too short for one", "Session-Expires: 1\r\n", "", minSession + lingerTime},
		{"none that can be read", "Session-Expires: soon\r\n", "", 4 * time.Hour},
		{"refreshed session", "Session-Expires: 1800\r\n", "Session-Expires: 600\r\n", 1600*time.Second + lingerTime},
		{"given up", "Session-Expires: 1800\r\n", "Supported: timer\r\n", 4 * time.Hour},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tracker := New(testConfig())
			l := caller()
			tracker.Observe(l.invite())
			tracker.Observe(l.response(200, tt.answer))
			if tt.refresh != "" {
				m := l.later(1000*time.Second).message(PBX, "UPDATE", 200, tt.refresh)
				m.ToTag, m.CSeq = l.to, 2
				tracker.Observe(m)
			}
			if emitted := tracker.Advance(start.Add(tt.deadline - time.Microsecond)); len(emitted) > 0 {
				t.Fatalf("too early: %v", emitted)
			}
			emitted := tracker.Advance(start.Add(tt.deadline))
			if len(emitted) != 1 || emitted[0].Status != Unknown || emitted[0].HangupBy != BySystem || emitted[0].Duration != tt.deadline {
				t.Errorf("got %v, want one hangup UNKNOWN after %v", emitted, tt.deadline)
			}
		})
	}
}

// TestTransferNamesCallerAndTarget has a callee send a REFER: it is the transferring party.
func TestTransferNamesCallerAndTarget(t *testing.T) {
	tracker := New(testConfig())
	l := callee()
	tracker.Observe(l.invite())
	tracker.Observe(l.response(200))
	request := l.bye(false)
	request.Method, request.Head = "REFER", "REFER sip:x SIP/2.0\r\nRefer-To: <sip:103@pbx.example>\r\n"
	accepted := request
	accepted.Src, accepted.Dst, accepted.Status = PBX, Edge, 202
	notify := l.bye(true)
	notify.Method, notify.Head, notify.Body = "NOTIFY", "NOTIFY sip:x SIP/2.0\r\nEvent: refer\r\n", "SIP/2.0 486 Busy Here\r\n"
	var emitted []Event
	for _, m := range []Message{request, accepted, notify, notify} {
		emitted = append(emitted, tracker.Observe(m)...)
	}
	if len(emitted) != 1 {
		t.Fatalf("got %v, want one transfer", emitted)
	}
	e := emitted[0]
	if e.Type != Transfer || e.Extension.User != "102" || e.CallerExtension.User != "102" || e.CalledExtension.User != "103" ||
		e.CalledNumber != "103" || e.Status != Busy || e.SipCode != 486 {
		t.Errorf("got %s of %s: %s to %s (%s) %s %d", e.Type, e.Extension, e.CallerExtension, e.CalledExtension, e.CalledNumber, e.Status, e.SipCode)
	}
}
