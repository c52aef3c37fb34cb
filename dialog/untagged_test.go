package dialog

import (
	"fmt"
	"slices"
	"testing"
	"time"
)

// TestReinviteWithoutTags checks dialogs whose ends use no tags, as RFC 2543 allowed. A
// re-INVITE has then no To tag either, and is no other call.
func TestReinviteWithoutTags(t *testing.T) {
	for _, tt := range []struct{ from, to string }{{"", ""}, {"f1", ""}, {"", "t1"}, {"f1", "t1"}} {
		for _, byPhone := range []bool{true, false} {
			t.Run(fmt.Sprintf("%q %q bye of phone %v", tt.from, tt.to, byPhone), func(t *testing.T) {
				tracker := New(testConfig())
				l := caller()
				l.from, l.to, l.peer = tt.from, tt.to, phoneAddr
				emitted := tracker.Observe(l.invite())
				emitted = append(emitted, tracker.Observe(l.response(180))...)
				emitted = append(emitted, tracker.Observe(l.response(200))...)
				m := requestInDialog(l.later(time.Second), "INVITE", true, phoneAddr, 2, "z9hG4bK-hold")
				m.Body = "v=0\r\nc=IN IP4 192.0.2.11\r\nm=audio 4000 RTP/AVP 0\r\na=sendonly\r\n"
				emitted = append(emitted, tracker.Observe(m)...)
				emitted = append(emitted, tracker.Observe(responseTo(m, 200, 0))...)
				emitted = append(emitted, tracker.Observe(requestInDialog(l.later(2*time.Second), "BYE", byPhone, phoneAddr, 3, "z9hG4bK-bye"))...)
				var got []Type
				for _, e := range emitted {
					got = append(got, e.Type)
				}
				if want := []Type{DialOut, Ringing, Answer, Hold, Hangup}; !slices.Equal(got, want) {
					t.Errorf("got %v, want %v", got, want)
				}
				if calls := tracker.Calls(); len(calls) > 0 {
					t.Errorf("still live: %+v", calls)
				}
			})
		}
	}
}

// TestRepeatedInviteWithoutTags repeats the INVITE of a call without tags after the answer,
// late or from another sender: it changes nothing.
func TestRepeatedInviteWithoutTags(t *testing.T) {
	tracker := New(testConfig())
	l := caller()
	l.from, l.to, l.peer = "", "", phoneAddr
	tracker.Observe(l.invite())
	tracker.Observe(l.response(200))
	if emitted := tracker.Observe(l.later(time.Second).invite()); len(emitted) > 0 {
		t.Errorf("the same INVITE emits %+v", emitted)
	}
	stranger := *l.later(2 * time.Second)
	stranger.peer, stranger.branch, stranger.cseq = strangerAddr, "z9hG4bK-other", 2
	if emitted := tracker.Observe(stranger.invite()); len(emitted) > 0 {
		t.Errorf("a stranger's INVITE emits %+v", emitted)
	}
}
