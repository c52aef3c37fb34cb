package dialog

import (
	"testing"
	"time"
)

// rungBeforeRestart returns a Tracker that knows from the log alone that a leg has rung.
func rungBeforeRestart(t *testing.T, l *line) *Tracker {
	t.Helper()
	l.peer = phoneAddr
	old, tracker := New(testConfig()), New(testConfig())
	log := append(old.Observe(l.invite()), old.Observe(l.response(180))...)
	if err := tracker.Restore("", nil, log); err != nil {
		t.Fatal(err)
	}
	return tracker
}

// TestRefusedReINVITEAfterRestart: a leg that only the log knows has rung when bellhop was
// restarted, and was answered since. A refused re-INVITE in its dialog is no response to
// its INVITE: the call goes on until its BYE.
func TestRefusedReINVITEAfterRestart(t *testing.T) {
	for _, tt := range []struct {
		name   string
		l      *line
		status int
	}{
		{"the callee is busy with an offer", callee(), 491},
		{"the callee does not take the offer", callee(), 488},
		{"the PBX fails", caller(), 500},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l := tt.l
			tracker := rungBeforeRestart(t, l)
			m := during(l.later(time.Minute), "INVITE", true, phoneAddr, 12, "z9hG4bK-x")
			said := append(tracker.Observe(m), tracker.Observe(answer(m, tt.status, 0))...)
			if len(said) > 0 {
				t.Errorf("the re-INVITE says %+v", said)
			}
			said = tracker.Observe(during(l.later(time.Minute), "BYE", true, phoneAddr, 13, "z9hG4bK-y"))
			if len(said) != 1 || said[0].Type != Hangup {
				t.Errorf("the BYE says %+v, want a hangup", said)
			}
		})
	}
}

// TestForgedCANCELAfterRestart: a stranger's CANCEL does not keep the caller's own CANCEL
// from ending such a leg.
func TestForgedCANCELAfterRestart(t *testing.T) {
	l := caller()
	tracker := rungBeforeRestart(t, l)
	forged := l.later(time.Second).cancel()
	forged.From, forged.Branch = strangerAddr, "z9hG4bK-forged"
	if said := tracker.Observe(forged); len(said) > 0 {
		t.Errorf("the stranger's CANCEL says %+v", said)
	}
	said := tracker.Observe(l.later(time.Second).cancel())
	if len(said) != 1 || said[0].Type != Hangup || said[0].Status != Canceled {
		t.Errorf("the caller's CANCEL says %+v, want a hangup", said)
	}
}

// TestRungAfterTheRecord: one phone of an extension has refused when the record was
// written, and the log tells that another rang since. The hangup has no negative times.
func TestRungAfterTheRecord(t *testing.T) {
	tracker := New(testConfig())
	tracker.Changed(start)
	a, b, c := caller(), callee(), callee()
	c.callID, c.from, c.branch = "c@pbx", "f3", "z9hG4bK3"
	tracker.Observe(a.invite())
	tracker.Observe(a.response(180))
	tracker.Observe(b.invite())
	tracker.Observe(b.later(5 * time.Millisecond).response(486))
	records := tracker.Changed(start.Add(time.Hour))
	log := tracker.Observe(c.later(8 * time.Millisecond).invite())
	log = append(log, tracker.Observe(c.later(40*time.Millisecond).response(180))...)
	fresh := New(testConfig())
	if err := fresh.Restore("", records, log); err != nil {
		t.Fatal(err)
	}
	said := fresh.Advance(start.Add(time.Second))
	if len(said) != 1 || said[0].Type != Hangup || said[0].RingDuration < 0 {
		t.Errorf("got %+v, want one hangup", said)
	}
}
