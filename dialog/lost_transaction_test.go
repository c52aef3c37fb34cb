package dialog

import (
	"slices"
	"testing"
	"time"
)

// rungBeforeRestart returns a Tracker that has restored a ringing leg from the event log
// alone.
func rungBeforeRestart(t *testing.T, l *line) *Tracker {
	t.Helper()
	l.peer = phoneAddr
	old, tracker := New(testConfig()), New(testConfig())
	log := append(old.Observe(l.invite()), old.Observe(l.response(180))...)
	if err := tracker.Restore("", nil, slices.Values(log)); err != nil {
		t.Fatal(err)
	}
	return tracker
}

// TestRefusedReINVITEAfterRestart restores a ringing leg from the event log alone; its 2xx
// is not observed. A refused re-INVITE in its dialog is no response to its INVITE: the call
// goes on until its BYE.
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
			m := requestInDialog(l.later(time.Minute), "INVITE", true, phoneAddr, 12, "z9hG4bK-x")
			emitted := append(tracker.Observe(m), tracker.Observe(responseTo(m, tt.status, 0))...)
			if len(emitted) > 0 {
				t.Errorf("the re-INVITE emits %+v", emitted)
			}
			emitted = tracker.Observe(requestInDialog(l.later(time.Minute), "BYE", true, phoneAddr, 13, "z9hG4bK-y"))
			if len(emitted) != 1 || emitted[0].Type != Hangup {
				t.Errorf("the BYE emits %+v, want a hangup", emitted)
			}
		})
	}
}

// TestForgedCANCELAfterRestart restores a ringing leg from the event log alone. A stranger's
// CANCEL does not keep the caller's own CANCEL from ending it.
func TestForgedCANCELAfterRestart(t *testing.T) {
	l := caller()
	tracker := rungBeforeRestart(t, l)
	forged := l.later(time.Second).cancel()
	forged.From, forged.Branch = strangerAddr, "z9hG4bK-forged"
	if emitted := tracker.Observe(forged); len(emitted) > 0 {
		t.Errorf("the stranger's CANCEL emits %+v", emitted)
	}
	emitted := tracker.Observe(l.later(time.Second).cancel())
	if len(emitted) != 1 || emitted[0].Type != Hangup || emitted[0].Status != Canceled {
		t.Errorf("the caller's CANCEL emits %+v, want a hangup", emitted)
	}
}

// TestPhoneRangAfterSnapshot restores an extension: one of its phones had refused when the
// snapshot was written, and the event log has the ringing of another phone after that. The
// hangup has no negative times.
func TestPhoneRangAfterSnapshot(t *testing.T) {
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
	if err := fresh.Restore("", records, slices.Values(log)); err != nil {
		t.Fatal(err)
	}
	emitted := fresh.Advance(start.Add(time.Second))
	if len(emitted) != 1 || emitted[0].Type != Hangup || emitted[0].RingDuration < 0 {
		t.Errorf("got %+v, want one hangup", emitted)
	}
}
