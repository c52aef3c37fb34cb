package dialog

import (
	"fmt"
	"testing"
	"time"
)

// TestDialogEndsAfterFailedRequest answers a request in an answered call with 481 or 408,
// perhaps sends another message, and checks when the call is over.
func TestDialogEndsAfterFailedRequest(t *testing.T) {
	const (
		atOnce    = 2 * time.Second
		goesOn    = 4 * time.Hour
		responded = 2 * time.Second
	)
	for _, tt := range []struct {
		method string
		status int
		own    bool
		then   string // a request of the PBX 10 s later; "phone": of the phone
		want   time.Duration
		told   time.Duration // when the hangup is emitted
	}{
		{"INVITE", 481, false, "", atOnce, responded},
		{"UPDATE", 481, false, "", atOnce, responded},
		{"INFO", 481, false, "", atOnce, responded},
		{"INFO", 481, true, "", responded, responded + lingerTime},
		{"OPTIONS", 481, false, "", responded, responded + lingerTime},
		{"REFER", 481, false, "", responded, responded + lingerTime},
		{"INVITE", 408, false, "", responded, responded + lingerTime},
		{"UPDATE", 408, true, "", responded, responded + lingerTime},
		{"INFO", 408, true, "", responded, responded + lingerTime},
		{"INFO", 408, true, "UPDATE", goesOn, goesOn},
		{"INFO", 408, true, "INFO", goesOn, goesOn},
		{"OPTIONS", 481, false, "INFO", goesOn, goesOn},
		{"INFO", 408, true, "phone", responded, responded + lingerTime},
		{"INFO", 200, false, "", goesOn, goesOn},
		{"INFO", 500, false, "", goesOn, goesOn},
	} {
		t.Run(fmt.Sprint(tt.method, tt.status, tt.own, tt.then), func(t *testing.T) {
			tracker := New(testConfig())
			l := caller()
			l.peer = phoneAddr
			tracker.Observe(l.invite())
			tracker.Observe(l.response(200))
			m := requestInDialog(l.later(time.Second), tt.method, true, phoneAddr, 2, "z9hG4bK-x")
			m.Head += "Refer-To: <sip:103@pbx.example>\r\n"
			emitted := tracker.Observe(m)
			r := responseTo(m, tt.status, time.Second)
			r.Own = tt.own
			emitted = append(emitted, tracker.Observe(r)...)
			if tt.then != "" {
				method, byPhone := tt.then, tt.then == "phone"
				if byPhone {
					method = "INFO"
				}
				emitted = append(emitted, tracker.Observe(requestInDialog(l.later(10*time.Second), method, byPhone, phoneAddr, 3, "z9hG4bK-y"))...)
			}
			at := start.Add(responded)
			for next, ok := tracker.Next(); ok && len(emitted) == 0; next, ok = tracker.Next() {
				at = next
				emitted = append(emitted, tracker.Advance(next)...)
			}
			if len(emitted) != 1 || emitted[0].Type != Hangup || emitted[0].Duration != tt.want || at.Sub(start) != tt.told {
				t.Errorf("got %+v after %v, want one hangup of %v after %v", emitted, at.Sub(start), tt.want, tt.told)
			}
		})
	}
}

// TestForkedDialogsAreBounded answers an INVITE many times. The leg is up as long as one
// dialog, and keeps at most maxForks of them.
func TestForkedDialogsAreBounded(t *testing.T) {
	tracker := New(testConfig())
	l := caller()
	l.peer = phoneAddr
	tracker.Observe(l.invite())
	for i := range 2 * maxForks {
		l.to = fmt.Sprint("t", i)
		tracker.Observe(l.response(200))
		tracker.Observe(l.response(200))
	}
	leg := tracker.index.callByCallID[l.callID].legs[0]
	if len(leg.forks) != maxForks {
		t.Fatalf("%d forks, want %d", len(leg.forks), maxForks)
	}
	if tracker.index.findDialog(l.callID, "t7", l.from) != leg || tracker.index.findDialog(l.callID, l.from, "t0") != leg || tracker.index.findDialog(l.callID, "none", l.from) != nil {
		t.Error("a dialog is not found by its tags")
	}
	for i := range maxForks + 1 {
		l.to = fmt.Sprint("t", i)
		emitted := tracker.Observe(requestInDialog(l.later(time.Second), "BYE", true, phoneAddr, 2, fmt.Sprint("z9hG4bK-", i)))
		if last := i == maxForks; last != (len(emitted) == 1) {
			t.Errorf("BYE of dialog %d: %v", i, emitted)
		}
		if again := tracker.Observe(l.response(200)); len(again) > 0 {
			t.Errorf("a straggler of dialog %d: %v", i, again)
		}
	}
}

// TestOpenRefersAreRestored checks that the open REFERs of a leg are present after a
// restart.
func TestOpenRefersAreRestored(t *testing.T) {
	c := smallCall()
	l := c.legs[0]
	l.refers.dropAll()
	for i := range 3 {
		l.refers.add(&refer{leg: l, sentAt: start.Add(time.Duration(i) * time.Second), cseq: uint32(i + 1), target: fmt.Sprint(i)})
	}
	read, _, err := New(Config{}).decodeSnapshot(c.encodeSnapshot([]*refer{l.refers.earlier[1]}, 0))
	if err != nil {
		t.Fatal(err)
	}
	got := read.legs[0].refers
	if got.last == nil || got.last.cseq != 3 || len(got.earlier) != 2 || got.earlier[0].cseq != 1 || got.earlier[1].cseq != 2 {
		t.Errorf("got %+v and %+v", got.earlier, got.last)
	}
}
