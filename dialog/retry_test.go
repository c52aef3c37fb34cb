package dialog

import (
	"fmt"
	"testing"
	"time"
)

// TestRepeatedInviteContinuesAttempt has a caller answer a final response with another
// INVITE, and checks whether that is the same call.
func TestRepeatedInviteContinuesAttempt(t *testing.T) {
	const oneOffer, another = "v=0\r\no=- 1 1 IN IP4 192.0.2.11\r\nm=audio 1 RTP/AVP 0\r\n", "v=0\r\nm=audio 1 RTP/AVP 8\r\n"
	const newOrigin = "v=0\r\no=- 2 2 IN IP4 192.0.2.11\r\nm=audio 1 RTP/AVP 0\r\n"
	for _, tt := range []struct {
		status        int
		own           bool
		headers, body string // of the second INVITE
		after         time.Duration
		tag           string
		want          bool
	}{
		{status: 401, body: oneOffer, want: true},
		{status: 407, body: oneOffer, want: true},
		{status: 422, body: oneOffer, want: true},
		{status: 484, body: oneOffer, want: true},
		{status: 494, body: oneOffer, want: true},
		{status: 413, body: another, want: true},
		{status: 415, body: another, want: true},
		{status: 420, body: another, want: true},
		{status: 421, body: another, want: true},
		{status: 420, body: oneOffer, headers: "Supported: timer\r\n", want: true},
		{status: 421, body: oneOffer, headers: "k: 100rel\r\n", want: true},
		{status: 415, body: oneOffer, headers: "e: gzip\r\n", want: true},
		{status: 413, body: "", want: true},
		{status: 413, body: oneOffer, want: false},
		{status: 415, body: newOrigin, want: false},
		{status: 486, body: another, want: false},
		{status: 488, body: another, want: false},
		{status: 422, own: true, body: oneOffer, want: false},
		{status: 422, body: oneOffer, after: retryWithin, want: false},
		{status: 422, body: oneOffer, tag: "f9", want: false},
	} {
		t.Run(fmt.Sprint(tt), func(t *testing.T) {
			tracker := New(testConfig())
			w := eventChecker{t: t, parties: map[string]*checkedParty{}, seq: map[string]int{}}
			l := caller()
			l.peer = phoneAddr
			first := l.invite()
			first.Body = oneOffer
			refused := l.later(time.Millisecond).response(tt.status)
			refused.Own = tt.own
			l.later(max(tt.after, time.Second))
			l.cseq, l.branch = 2, "z9hG4bK-again"
			if tt.tag != "" {
				l.from = tt.tag
			}
			second := l.invite(tt.headers)
			second.Body = tt.body
			var emitted []Event
			for _, m := range []Message{first, refused, second, l.response(180), l.response(486)} {
				emitted = append(emitted, tracker.Observe(m)...)
			}
			for next, ok := tracker.Next(); ok; next, ok = tracker.Next() {
				emitted = append(emitted, tracker.Advance(next)...)
			}
			w.checkEvents(emitted)
			dials := 0
			for _, e := range emitted {
				if e.Type == DialOut {
					dials++
				}
			}
			if one := dials == 1; one != tt.want {
				t.Errorf("%d dial-outs, one call: want %v", dials, tt.want)
			}
			for id, p := range w.parties {
				if !p.over {
					t.Errorf("party %s has no hangup", id)
				}
			}
			wantEmpty(t, tracker)
		})
	}
}

// TestRefusalIsEmittedAfterRetryTime has a caller not call again: its events are emitted
// once that is clear, with the time of the refusal. If the caller's leg is over, the PBX
// calls the callee no more.
func TestRefusalIsEmittedAfterRetryTime(t *testing.T) {
	tracker := New(testConfig())
	l := caller()
	l.uri = "sip:600@pbx.example"
	tracker.config.Extensions = []Declared{{Number: "600", Kind: Queue}}
	tracker.Configure(tracker.config)
	emitted := append(tracker.Observe(l.invite()), tracker.Observe(l.later(time.Second).response(494))...)
	if len(emitted) > 0 {
		t.Errorf("emitted too early: %v", emitted)
	}
	emitted = tracker.Advance(start.Add(time.Second + retryWithin))
	if len(emitted) != 4 {
		t.Fatalf("got %v, want dial and hangup of 101 and 600", emitted)
	}
	for _, e := range emitted[2:] {
		if e.Type != Hangup || !e.At.Equal(start.Add(time.Second)) || e.Status != Congestion {
			t.Errorf("got %s %s at %v", e.Type, e.Status, e.At)
		}
	}

	tracker = New(testConfig())
	a, b := caller(), legToPhone("101", "102", "b@pbx")
	for _, m := range []Message{a.invite(), b.invite(), b.response(422), a.later(time.Second).cancel()} {
		tracker.Observe(m)
	}
	emitted = tracker.Observe(a.response(487))
	ended := map[string]bool{}
	for _, e := range emitted {
		ended[e.Extension.User] = ended[e.Extension.User] || e.Type == Hangup
	}
	if !ended["101"] || !ended["102"] {
		t.Errorf("got %v, want the hangups of both", emitted)
	}
}
