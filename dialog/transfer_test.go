package dialog

import (
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// TestTransfersReportedBeforeTheCall has the callee's phone send a REFER that the PBX
// reports as successful with a NOTIFY of 200 before it calls anybody. Then follow, in any
// order, duplicated, late or not at all: the BYEs of both sides, the new leg, a call that
// ends instead. A party has one hangup, which is its last event; a transfer has failed only
// if the PBX hung up on the caller; times do not decrease; and no hangup waits longer than
// 200 ms.
func TestTransfersReportedBeforeTheCall(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		tracker := New(testConfig())
		w := eventChecker{t: rt, parties: map[string]*checkedParty{}, seq: map[string]int{}}
		last := map[string]time.Time{} // by call
		failed := false
		hear := func(now time.Time, events []Event) {
			w.checkEvents(events)
			for _, e := range events {
				switch e.Type {
				case Transfer:
					if e.Status == ChanUnavail && !failed {
						rt.Fatal("the transfer failed, though the PBX hung up on nobody")
					}
				case Hangup:
					if late := now.Sub(e.Observed); late > followGap {
						rt.Fatalf("the hangup of %s is emitted after %v", e.Extension, late)
					}
				}
				if e.Type != DialOut && e.Observed.Before(last[e.Call]) {
					rt.Fatalf("%s of %s goes back by %v", e.Type, e.Extension, last[e.Call].Sub(e.Observed))
				}
				if e.Type != DialOut {
					last[e.Call] = e.Observed
				}
			}
		}
		for _, m := range disorderMessages(rt, takenTransfer(rt)) {
			failed = failed || m.Method == "BYE" && m.Src == PBX && m.CallID == "a@phone"
			for next, ok := tracker.Next(); ok && !next.After(m.At); next, ok = tracker.Next() {
				hear(next, tracker.Advance(next))
			}
			hear(m.At, tracker.Observe(m))
		}
		for next, ok := tracker.Next(); ok; next, ok = tracker.Next() {
			hear(next, tracker.Advance(next))
		}
		for id, p := range w.parties {
			if !p.over {
				rt.Errorf("party %s had a dial and no hangup", id)
			}
		}
		if n := stateLeft(tracker); n != 0 {
			rt.Errorf("%d entries are left", n)
		}
	})
}

// takenTransfer returns a call, a REFER of its callee, and possible messages of the PBX
// after it.
func takenTransfer(rt *rapid.T) (all []Message) {
	a, b, c := caller(), callee(), callee()
	a.peer, b.peer, c.peer = peerOf("101"), peerOf("102"), peerOf("103")
	c.callID, c.from, c.to, c.branch, c.uri = "c@pbx", "f3", "t3", "z9hG4bK3", "sip:103@192.0.2.14:5060"
	again := callee()
	again.callID, again.from, again.to, again.branch, again.peer = "d@pbx", "f4", "t4", "z9hG4bK4", peerOf("102b")
	show := func(l *line, most int, m func() Message) {
		l.at = l.at.Add(time.Duration(rapid.IntRange(0, most).Draw(rt, "later by")) * time.Millisecond)
		all = append(all, m())
	}
	all = append(all, a.invite(), a.response(100), b.invite(), b.response(180), b.response(200), a.response(200))
	b.later(3 * time.Second)
	all = append(all, takenRefer(b)...)
	if rapid.Bool().Draw(rt, "the REFER is old") {
		b.later(progressWindow + time.Second)
	}
	a.at, c.at, again.at = b.at, b.at, b.at
	for _, what := range rapid.SliceOfN(rapid.SampledFrom([]string{"callee leaves", "PBX ends callee", "new leg", "PBX ends caller", "caller leaves", "hold", "callee rings again"}), 0, 5).Draw(rt, "then") {
		switch what {
		case "callee leaves":
			show(b, 300, func() Message { return hangUp(b, false) })
		case "PBX ends callee":
			show(b, 300, func() Message { return hangUp(b, true) })
		case "new leg":
			show(c, 300, func() Message { return c.invite() })
			all = append(all, c.response(180))
			c.later(forkGap) // one that refuses sooner waits for another phone
			show(c, 300, func() Message { return c.response(rapid.SampledFrom([]int{200, 486}).Draw(rt, "answers")) })
		case "callee rings again":
			show(again, 300, func() Message { return again.invite() })
			all = append(all, again.response(180))
			again.later(forkGap)
			show(again, 300, func() Message { return again.response(rapid.SampledFrom([]int{200, 486}).Draw(rt, "answers again")) })
		case "PBX ends caller":
			show(a, 300, func() Message { return a.bye(false, "Reason: SIP;cause=806\r\n") })
		case "caller leaves":
			show(a, 300, func() Message { return a.bye(true) })
		case "hold":
			m := requestInDialog(a, "INVITE", true, a.peer, 5, "z9hG4bK-h")
			m.Body = "v=0\r\nm=audio 1 RTP/AVP 0\r\na=sendonly\r\n"
			show(a, 300, func() Message { m.At = a.at; return m })
			all = append(all, responseTo(m, 200, 0))
		}
	}
	slices.SortStableFunc(all, func(a, b Message) int { return a.At.Compare(b.At) })
	return all
}

// takenRefer returns a REFER of the callee of a leg, and the 202 and NOTIFY with which
// FreeSWITCH reports it as successful at once.
func takenRefer(l *line) []Message {
	refer := requestInDialog(l, "REFER", false, l.peer, 2, "z9hG4bK-r")
	refer.Head += "Refer-To: <sip:103@pbx.example>\r\n"
	notify := requestInDialog(l, "NOTIFY", true, l.peer, 2, "z9hG4bK-n")
	notify.Head += "Event: refer\r\nUser-Agent: FreeSWITCH\r\n"
	notify.Body = "SIP/2.0 200 OK\r\n"
	return []Message{refer, responseTo(refer, 202, 0), notify}
}

// hangUp returns the BYE of a leg after a REFER and its NOTIFY, which have CSeq 2.
func hangUp(l *line, byCaller bool) Message {
	m := l.bye(byCaller)
	m.CSeq = 3
	return m
}

// showTakenTransfer shows a call of 101 and 102, and after 3 s a REFER of 102 that
// FreeSWITCH reports as successful at once. 102 hangs up 11 s after that. It returns the leg
// of 101.
func showTakenTransfer(show func(...Message)) *line {
	a, b := caller(), callee()
	a.peer, b.peer = peerOf("101"), peerOf("102")
	show(a.invite(), a.response(100), b.invite(), b.response(180), b.response(200), a.response(200))
	b.later(3 * time.Second)
	show(takenRefer(b)...)
	b.later(progressWindow + time.Second)
	show(hangUp(b, false))
	a.at = b.at
	return a
}

// TestPhoneRungAgainAfterItsTransfer has the PBX ring the phone that has just left the call
// with a REFER: this is another party, and the first one ends before it.
func TestPhoneRungAgainAfterItsTransfer(t *testing.T) {
	tracker := New(testConfig())
	var got []string
	show := func(messages ...Message) {
		for _, m := range messages {
			for _, e := range tracker.Observe(m) {
				got = append(got, string(e.Type)+" "+e.Extension.User+" "+e.At.Sub(start).String())
			}
		}
	}
	a := showTakenTransfer(show)
	got = nil
	again := callee()
	again.callID, again.from, again.branch, again.peer = "c@pbx", "f3", "z9hG4bK3", peerOf("102b")
	again.at = a.later(50 * time.Millisecond).at
	show(again.invite())
	a.later(50 * time.Millisecond)
	show(a.bye(true))
	want := []string{"transfer 102 14s", "hangup 102 14s", "dial-in 102 14.05s", "hangup 101 14.1s"}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}
