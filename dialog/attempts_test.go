package dialog

import (
	"fmt"
	"net/netip"
	"testing"
	"time"
)

// TestRefusedAttemptsAreLimited has one source call again and again in the name of 101. An
// attempt has a dial-out and its hangup, or neither.
func TestRefusedAttemptsAreLimited(t *testing.T) {
	const n = 10_000 // in 100 s
	most := 2 * (attemptBurst + int(100*time.Second/attemptEvery) + 1)
	credentials := "Proxy-Authorization: Digest username=\"101\"\r\n"
	register := func(l *line) Message {
		m := callee().message(PBX, "REGISTER", 200, "Contact: <sip:101@192.0.2.11>\r\nExpires: 3600\r\n")
		m.To = l.peer
		m.Head = "SIP/2.0 200 OK\r\nTo: <sip:101@pbx.example>\r\nContact: <sip:101@192.0.2.11>\r\nExpires: 3600\r\n"
		return m
	}
	refused := func(status int, headers string) func(l *line) []Message {
		return func(l *line) []Message { return []Message{l.invite(headers), l.response(status)} }
	}
	for _, tt := range []struct {
		name    string
		before  func(l *line) Message // the attempts
		attempt func(l *line) []Message
		change  func(l *line, i int)
		want    int // events; -1: at most as many as one source may cause
	}{
		{name: "404", attempt: refused(404, ""), want: -1},
		{name: "403 to credentials", attempt: refused(403, credentials), want: 0},
		{name: "100, 403 to credentials", want: -1, attempt: func(l *line) []Message {
			return []Message{l.invite(credentials), l.response(100), l.response(403)}
		}},
		{name: "100, a second, 404", want: -1, attempt: func(l *line) []Message {
			m := []Message{l.invite(), l.response(100)}
			return append(m, l.later(time.Second).response(404))
		}},
		{name: "another port each", attempt: refused(404, ""), want: -1,
			change: func(l *line, i int) { l.peer = netip.AddrPortFrom(l.peer.Addr(), uint16(1024+i)) }},
		{name: "another address of the same /64 each", attempt: refused(404, ""), want: -1,
			change: func(l *line, i int) {
				l.peer = netip.MustParseAddrPort(fmt.Sprintf("[2001:db8::%x]:5060", i+1))
			}},
		{name: "registered as somebody else", before: register, attempt: refused(404, ""), want: -1,
			change: func(l *line, _ int) { l.fromURI = "sip:105@pbx.example" }},
		{name: "registered phone", before: register, attempt: refused(404, ""), want: 2 * n},
		{name: "phone rings", want: 2 * n, attempt: func(l *line) []Message {
			return []Message{l.invite(), l.response(180), l.response(404)}
		}},
		{name: "call is answered", want: 3 * n, attempt: func(l *line) []Message {
			return []Message{l.invite(credentials), l.response(100), l.response(200), l.bye(true)}
		}},
		{name: "100, rings late", want: 2 * n, attempt: func(l *line) []Message {
			m := []Message{l.invite(credentials), l.response(100)}
			return append(m, l.later(time.Second).response(183), l.response(404))
		}},
		{name: "the PBX calls somebody", want: 4 * n, attempt: func(l *line) []Message {
			b := legToPhone("101", "102", "pbx-"+l.callID)
			b.at, b.peer = l.at, netip.MustParseAddrPort("192.0.2.12:5060")
			m := []Message{l.invite(), b.invite()}
			b.at = b.at.Add(forkGap)
			l.at = b.at
			return append(m, b.response(486), l.response(486))
		}},
		{name: "trunk to a queue", attempt: refused(404, ""), want: 2 * n, change: func(l *line, _ int) { l.trunk = "carrier" }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := testConfig()
			c.Extensions = []Declared{{Number: "600", Kind: Queue}}
			tracker := New(c)
			w := eventChecker{t: t, parties: map[string]*checkedParty{}, seq: map[string]int{}, registered: map[Extension]Event{}}
			l := caller()
			l.peer = strangerAddr
			events, dials := 0, 0
			see := func(emitted []Event) {
				w.checkEvents(emitted)
				for _, e := range emitted {
					switch e.Type {
					case DialIn, DialOut:
						events, dials = events+1, dials+1
					case Answer, Hangup:
						events++
					}
				}
			}
			if tt.before != nil {
				see(tracker.Observe(tt.before(l)))
			}
			for i := range n {
				l = caller()
				l.at, l.peer, l.callID = start.Add(time.Duration(i)*10*time.Millisecond), strangerAddr, fmt.Sprintf("%d@x", i)
				l.branch, l.from = l.callID, l.callID
				if tt.name == "trunk to a queue" {
					l.uri = "sip:600@pbx.example"
				}
				if tt.change != nil {
					tt.change(l, i)
				}
				for _, m := range tt.attempt(l) {
					see(tracker.Observe(m))
				}
				if tt.want < 0 && i > 1000 && len(tracker.deadlines) > 1000 {
					t.Fatalf("%d calls are left", len(tracker.deadlines))
				}
			}
			for next, ok := tracker.Next(); ok; next, ok = tracker.Next() {
				see(tracker.Advance(next))
			}
			for id, p := range w.parties {
				if !p.over {
					t.Errorf("party %s had a dial and no hangup", id)
				}
			}
			switch suppressed := int(tracker.Suppressed()); {
			case tt.want < 0 && (events > most || events < 2*attemptBurst || dials+suppressed != n):
				t.Errorf("%d events, want %d at most; %d dials and %d suppressed of %d", events, most, dials, suppressed, n)
			case tt.want >= 0 && (events != tt.want || suppressed > 0):
				t.Errorf("%d events and %d suppressed, want %d", events, suppressed, tt.want)
			}
			wantEmpty(t, tracker)
		})
	}
}

// TestLimiterAllowsAfterClockSetBack checks that a clock which is set back does not block a
// source.
func TestLimiterAllowsAfterClockSetBack(t *testing.T) {
	g := newAttempts()
	source := strangerAddr.Addr()
	for range attemptBurst {
		if !g.takeToken(source, start) {
			t.Fatal("refused within the burst")
		}
	}
	if g.takeToken(source, start) || g.takeToken(source, start.Add(attemptEvery-time.Microsecond)) {
		t.Error("an attempt beyond the burst is allowed")
	}
	if !g.takeToken(source, start.Add(attemptEvery)) {
		t.Error("no further attempt is allowed")
	}
	if !g.takeToken(source, start.Add(-time.Hour)) {
		t.Error("no attempt is allowed for an hour")
	}
}

// TestEmittedQueueAttemptsAreComplete checks that each dial-in and dial-out in a flood at a
// queue has its hangup.
func TestEmittedQueueAttemptsAreComplete(t *testing.T) {
	c := testConfig()
	c.Extensions = []Declared{{Number: "600", Kind: Queue}}
	tracker := New(c)
	open := map[string]bool{}
	told := 0
	for i := range 2 * attemptBurst {
		l := caller()
		l.at, l.peer, l.callID = start.Add(time.Duration(i)*time.Millisecond), strangerAddr, fmt.Sprintf("%d@x", i)
		l.branch, l.from = l.callID, l.callID
		if i > 0 { // the first calls a phone
			l.uri = "sip:600@pbx.example"
		}
		for _, m := range []Message{l.invite("Proxy-Authorization: Digest username=\"101\"\r\n"), l.response(100), l.response(404)} {
			for _, e := range tracker.Observe(m) {
				switch e.Type {
				case DialIn, DialOut:
					open[e.Party] = true
					told++
				case Hangup:
					delete(open, e.Party)
				}
			}
		}
	}
	if want := 2*attemptBurst - 1; told != want || len(open) > 0 {
		t.Errorf("%d parties had a dial, want %d; %d of them no hangup", told, want, len(open))
	}
}
