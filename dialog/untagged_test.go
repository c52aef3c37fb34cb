package dialog

import (
	"fmt"
	"slices"
	"testing"
	"time"
)

// TestUntagged has ends of a dialog that give themselves no tag, as RFC 2543 allowed. A
// re-INVITE has then no To tag either, and is no other call.
func TestUntagged(t *testing.T) {
	for _, tt := range []struct{ from, to string }{{"", ""}, {"f1", ""}, {"", "t1"}, {"f1", "t1"}} {
		for _, byPhone := range []bool{true, false} {
			t.Run(fmt.Sprintf("%q %q bye of phone %v", tt.from, tt.to, byPhone), func(t *testing.T) {
				tracker := New(testConfig())
				l := caller()
				l.from, l.to, l.peer = tt.from, tt.to, phoneAddr
				said := tracker.Observe(l.invite())
				said = append(said, tracker.Observe(l.response(180))...)
				said = append(said, tracker.Observe(l.response(200))...)
				m := during(l.later(time.Second), "INVITE", true, phoneAddr, 2, "z9hG4bK-hold")
				m.Body = "v=0\r\nc=IN IP4 192.0.2.11\r\nm=audio 4000 RTP/AVP 0\r\na=sendonly\r\n"
				said = append(said, tracker.Observe(m)...)
				said = append(said, tracker.Observe(answer(m, 200, 0))...)
				said = append(said, tracker.Observe(during(l.later(2*time.Second), "BYE", byPhone, phoneAddr, 3, "z9hG4bK-bye"))...)
				var got []Type
				for _, e := range said {
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

// TestUntaggedRepeats has the INVITE of a call without tags come again after the answer,
// late or from another sender: it changes nothing.
func TestUntaggedRepeats(t *testing.T) {
	tracker := New(testConfig())
	l := caller()
	l.from, l.to, l.peer = "", "", phoneAddr
	tracker.Observe(l.invite())
	tracker.Observe(l.response(200))
	if said := tracker.Observe(l.later(time.Second).invite()); len(said) > 0 {
		t.Errorf("the same INVITE says %+v", said)
	}
	stranger := *l.later(2 * time.Second)
	stranger.peer, stranger.branch, stranger.cseq = strangerAddr, "z9hG4bK-other", 2
	if said := tracker.Observe(stranger.invite()); len(said) > 0 {
		t.Errorf("a stranger's INVITE says %+v", said)
	}
}
