package dialog

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"
)

// FuzzTracker checks the package comment: whatever messages are observed, a party has at
// most one dial, then at most one answer, and a hangup if and only if it had a dial; no
// event follows the hangup; numbers have no gaps; a registered extension is unregistered
// before it is registered again; and no state is left in the end.
//
// Each message is made of six bytes, with few different values, so that messages meet.
func FuzzTracker(f *testing.F) {
	f.Add([]byte{0, 0, 0, 0, 0, 10, 2, 0, 0, 0, 1, 10, 3, 0, 0, 0, 1, 10, 6, 0, 0, 0, 1, 200})
	f.Add([]byte{1, 1, 0, 0, 0, 10, 1, 1, 1, 0, 0, 10, 3, 1, 1, 0, 1, 10, 5, 1, 0, 0, 0, 10, 4, 1, 0, 0, 1, 250})
	f.Add([]byte(strings.Repeat("\x00\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a\xfb\xfc", 8)))
	f.Add([]byte{ // registrations
		2, 2, 192, 0, 64, 0, 3, 1, 192, 0, 64, 1, 3, 1, 192, 4, 128, 4, 3, 1, 192, 8, 0, 4,
		3, 1, 192, 12, 32, 4, 3, 1, 192, 16, 32, 7,
	})
	f.Add([]byte{ // a stranger's BYE, refused, and then accepted
		0, 0, 0, 32, 0, 0, 3, 1, 0, 32, 12, 1, 0, 0, 16, 97, 15, 3, 3, 1, 16, 97, 15, 1,
		0, 0, 16, 97, 15, 3, 1, 1, 16, 97, 15, 1,
	})
	f.Add([]byte{ // mailboxes
		0, 1, 192, 0, 0, 0, 4, 1, 192, 0, 32, 4, 4, 1, 192, 0, 32, 4, 4, 1, 192, 0, 64, 4,
		0, 1, 192, 1, 0, 4, 0, 1, 192, 1, 32, 7,
	})
	f.Fuzz(func(t *testing.T, data []byte) {
		c := testConfig()
		c.MaxDuration = time.Hour
		tracker := New(c)
		w := eventChecker{t: t, parties: map[string]*checkedParty{}, seq: map[string]int{}, registered: map[Extension]Event{}}
		now := start
		data = data[:min(len(data), 6*250)]
		for ; len(data) >= 6; data = data[6:] {
			now = now.Add(jumps[int(data[5])%len(jumps)])
			if data[5] >= 128 {
				w.checkEvents(tracker.Advance(now))
				if next, ok := tracker.Next(); ok && !next.After(now) {
					t.Fatalf("at %v something is due at %v still", now, next)
				}
			}
			w.checkEvents(tracker.Observe(messageFromBytes(now, data)))
		}
		tracker.Calls()
		for next, ok := tracker.Next(); ok; next, ok = tracker.Next() {
			w.checkEvents(tracker.Advance(next))
		}
		for id, p := range w.parties {
			if !p.over {
				t.Errorf("party %s had a dial and no hangup", id)
			}
		}
		for ext := range w.registered {
			t.Errorf("%s is registered for good", ext)
		}
		wantEmpty(t, tracker)
	})
}

// jumps are how far the clock goes between messages; clocks are set back, too.
var jumps = []time.Duration{0, time.Millisecond, 500 * time.Millisecond, time.Second, 20 * time.Second, lingerTime, ringLimit, time.Hour, -time.Second, -time.Hour}

// messageFromBytes returns the message that six bytes stand for.
func messageFromBytes(now time.Time, b []byte) Message {
	kinds := []struct {
		method string
		status int
	}{
		{"INVITE", 0}, {"INVITE", 100}, {"INVITE", 180}, {"INVITE", 200}, {"INVITE", 401}, {"INVITE", 486}, {"BYE", 0}, {"CANCEL", 0},
		{"INVITE", 487}, {"INVITE", 407}, {"INVITE", 408}, {"UPDATE", 481}, {"REGISTER", 200}, {"MESSAGE", 0}, {"MESSAGE", 200}, {"ACK", 0},
	}
	k := kinds[int(b[0])%len(kinds)]
	if k.status == 486 && b[0]&16 != 0 {
		k.status = []int{422, 484, 415}[int(b[0]>>5)%3]
	}
	if b[2]&16 != 0 { // in a dialog
		within := []struct {
			method string
			status int
		}{{"BYE", 0}, {"BYE", 200}, {"BYE", 481}, {"BYE", 403}, {"UPDATE", 0}, {"UPDATE", 200}, {"UPDATE", 481}, {"REFER", 0}, {"REFER", 202}, {"INVITE", 0}, {"INVITE", 200},
			{"INFO", 0}, {"INFO", 481}, {"INFO", 408}, {"OPTIONS", 481}, {"ACK", 0}, {"PRACK", 0}}
		k = within[int(b[0])%len(within)]
	}
	if b[2] >= 192 { // a message without relation to the others
		k = kinds[12]
		switch b[0] & 3 {
		case 0, 1:
			k.method, k.status = "NOTIFY", 0
		case 2:
			k.status = 0
		}
	}
	m := Message{
		At:      now,
		Src:     Edge + Side(b[1]&1),
		Dst:     Edge + Side(b[1]>>1&1),
		Own:     b[1]&4 != 0,
		Method:  k.method,
		Status:  k.status,
		CallID:  fmt.Sprint("call", b[2]&3),
		FromTag: fmt.Sprint(b[3] & 3),
		Branch:  fmt.Sprint(b[3] >> 2 & 7),
		CSeq:    uint32(b[4] & 3),
	}
	if b[4]&4 != 0 {
		m.ToTag = fmt.Sprint(b[4] >> 3 & 3)
	}
	if b[2]&4 != 0 {
		m.CID = strings.Repeat(fmt.Sprint(b[2]>>3&1), 32)
	}
	if b[1]&8 != 0 {
		m.Trunk = "carrier"
	}
	peer := []netip.AddrPort{{}, phoneAddr, roamedAddr, strangerAddr}[b[3]>>5&3]
	if m.Src == Edge {
		m.From = peer
	} else {
		m.To = peer
	}
	user := 101 + int(b[1]>>4&3)
	m.Head = fmt.Sprintf("%s sip:%d@192.0.2.12 SIP/2.0\r\nFrom: <sip:%d@h>\r\nTo: <sip:%d@h>\r\nContact: <sip:x@h>\r\nReason: Q.850;cause=%d",
		k.method, user, 101+int(b[1]>>6&3), user, b[5]&31)
	if k.method == "REFER" {
		m.Head += "\r\nRefer-To: <sip:103@h?Replaces=call1%3Bto-tag%3D1%3Bfrom-tag%3D2>"
	}
	if b[2]&16 != 0 {
		m.Body = "m=audio 1 RTP/AVP 0\r\na=sendonly"
		m.Head += "\r\nReplaces: call1;to-tag=1;from-tag=2"
	}
	if b[3]&128 != 0 {
		m.Head += "\r\nAuthorization: Digest username=\"101\""
	}
	switch n := int(b[4] >> 5); {
	case k.method == "NOTIFY":
		m.Head += "\r\nEvent: message-summary"
		m.Body = fmt.Sprintf("Voice-Message: %d/%d", n, b[3]&1)
		if b[0]&4 != 0 {
			m.Body += "\r\n\r\nFrom: <sip:101@h>\r\nContent-Duration: 3\r\n"
		}
	case b[2] < 192:
	case n == 0:
		m.Head = strings.Replace(m.Head, "Contact: <sip:x@h>", "Expires: 0", 1)
	default:
		m.Head += fmt.Sprintf("\r\nExpires: %d\r\nUser-Agent: Phone/%d", 20*n, n)
	}
	return m
}

// An eventChecker checks each event against the events before it.
type eventChecker struct {
	t interface { // a *testing.T or *rapid.T
		Helper()
		Fatalf(format string, args ...any)
	}
	parties map[string]*checkedParty
	seq     map[string]int

	registered map[Extension]Event // events of registrations that have not ended
}

// A checkedParty is the state of a party according to its events.
type checkedParty struct {
	call           string
	answered, over bool
	at             time.Time // time of the answer, then of the hangup
}

func (w *eventChecker) checkEvents(events []Event) {
	w.t.Helper()
	for _, e := range events {
		if e.Type == MessageIn || e.Type == MessageOut || e.Type == Voicemail {
			continue // calls of their own
		}
		if e.Type == Registered || e.Type == Unregistered {
			w.checkRegistration(e)
			continue
		}
		p := w.parties[e.Party]
		if e.Seq == 1 && w.seq[e.Call] > 0 {
			for id, p := range w.parties {
				if p.call != e.Call {
					continue
				}
				if !p.over {
					w.t.Fatalf("call %s begins anew with a party that is not over", e.Call)
				}
				delete(w.parties, id) // removed with its call; the clock may have been set back since
			}
			w.seq[e.Call] = 0
		}
		if w.seq[e.Call]++; e.Seq != w.seq[e.Call] {
			w.t.Fatalf("%s of %s has number %d, want %d", e.Type, e.Extension, e.Seq, w.seq[e.Call])
		}
		switch {
		case e.Type == DialIn || e.Type == DialOut:
			if p != nil && !p.over {
				w.t.Fatalf("second dial of %s", e.Extension)
			}
			if p != nil && w.seq[e.Call] > 1 && e.At.Sub(p.at) < lingerTime && e.Type == DialIn {
				w.t.Fatalf("second dial of %s, %v after its hangup", e.Extension, e.At.Sub(p.at))
			}
			// An INVITE that is repeated after its leg was removed begins the leg anew.
			w.parties[e.Party] = &checkedParty{call: e.Call}
		case p == nil || p.over:
			w.t.Fatalf("%s of %s, which is not in the call", e.Type, e.Extension)
		case e.Type == Answer:
			if p.answered {
				w.t.Fatalf("second answer of %s", e.Extension)
			}
			p.answered, p.at = true, e.At
		case e.Type == Hangup:
			if want := e.At.Sub(p.at); p.answered && e.Duration != want || !p.answered && e.Duration != 0 {
				w.t.Fatalf("duration %v, want %v (answered: %v)", e.Duration, want, p.answered)
			}
			if e.Duration < 0 || e.RingDuration < 0 || e.SetupTime < 0 {
				w.t.Fatalf("negative time: %v %v %v", e.Duration, e.RingDuration, e.SetupTime)
			}
			if e.Status == "" || e.Status == Calling || e.HangupBy == "" {
				w.t.Fatalf("hangup has status %q by %q", e.Status, e.HangupBy)
			}
			if e.Status == Answered && !p.answered && e.Flow == In && e.Bridged == nil {
				w.t.Fatalf("hangup of a callee other than a queue or IVR has ANSWER without an answer")
			}
			p.over, p.at = true, e.At
		}
	}
}

// checkRegistration checks that a registration of an extension begins or ends. The clock
// may have been set back in between.
func (w *eventChecker) checkRegistration(e Event) {
	w.t.Helper()
	began, registered := w.registered[e.Extension]
	switch {
	case registered == (e.Type == Registered):
		w.t.Fatalf("%s is %s twice", e.Extension, e.Type)
	case e.Type == Registered && e.Seq == 1:
		w.registered[e.Extension] = e
	case e.Type == Unregistered && e.Seq == 2 && e.Call == began.Call && e.Party == began.Party && e.ID != began.ID:
		delete(w.registered, e.Extension)
	default:
		w.t.Fatalf("got %+v after %+v", e, began)
	}
}
