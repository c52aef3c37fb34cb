package dialog

import (
	"cmp"
	"maps"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// TestTransfersToQueuesAndIVRs has phones refer each other to queues and IVRs and back, and
// leave others there in their place, while agents ring and answer. Messages are lost,
// duplicated and late, and the tracker is restarted in between. In all cases a party has
// one dial and one hangup, and no state is left.
func TestTransfersToQueuesAndIVRs(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		c := testConfig()
		c.Extensions = []Declared{{Number: "600", Kind: Queue}, {Number: "601", Kind: Queue}, {Number: "700", Kind: IVR}}
		tracker := New(c)
		w := eventChecker{t: rt, parties: map[string]*checkedParty{}, seq: map[string]int{}}
		records := map[string]Change{}
		restartAt := rapid.IntRange(0, 60).Draw(rt, "restarted before")
		for n, m := range disorderMessages(rt, drawReferrals(rt)) {
			w.checkEvents(tracker.Advance(m.At))
			for _, change := range tracker.Changed(m.At) {
				records[change.Call] = change
				if change.Record == nil {
					delete(records, change.Call)
				}
			}
			if n == restartAt && len(records) > 0 {
				fresh := New(c)
				fresh.SetClock(m.At, 0)
				if err := fresh.Restore("", slices.Collect(maps.Values(records)), nil); err != nil {
					rt.Fatal(err)
				}
				tracker = fresh
			}
			w.checkEvents(tracker.Observe(m))
		}
		for next, ok := tracker.Next(); ok; next, ok = tracker.Next() {
			w.checkEvents(tracker.Advance(next))
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

// drawReferrals returns the messages of two calls whose phones refer each other to
// services.
func drawReferrals(rt *rapid.T) (all []Message) {
	at := start
	pause := func() time.Time {
		at = at.Add(time.Duration(rapid.IntRange(1, 3000).Draw(rt, "pause")) * time.Millisecond)
		return at
	}
	var lines []*line
	show := func(l *line, m func() Message) {
		l.at = at
		l.peer = peerOf(l.callID)
		all = append(all, m())
	}
	begin := func(l *line) {
		lines = append(lines, l)
		show(l, func() Message { return l.invite() })
		pause()
		show(l, func() Message { return l.response(200) })
	}
	dialed := []string{"600", "700", "102"}
	a := legFromPhone("101", rapid.SampledFrom(dialed).Draw(rt, "dialed"), "a/1")
	begin(a)
	begin(legToPhone("101", "102", "b/1"))
	begin(legFromPhone("102", rapid.SampledFrom(dialed).Draw(rt, "asked"), "a/2"))
	for n := range rapid.IntRange(1, 8).Draw(rt, "steps") {
		pause()
		l := lines[rapid.IntRange(0, len(lines)-1).Draw(rt, "line")]
		switch rapid.SampledFrom([]string{"refer", "replace", "agent", "bye"}).Draw(rt, "step") {
		case "refer":
			drawRefer(rt, &all, l, at, "<sip:"+rapid.SampledFrom([]string{"600", "601", "700", "103"}).Draw(rt, "to")+"@pbx.example>", uint32(20+rapid.IntRange(0, n).Draw(rt, "cseq")))
		case "replace":
			o := lines[rapid.IntRange(0, len(lines)-1).Draw(rt, "replaced")]
			drawRefer(rt, &all, l, at, "<sip:x@pbx.example?Replaces="+o.callID+"%3Bto-tag%3D"+o.to+"%3Bfrom-tag%3D"+o.from+">", uint32(20+rapid.IntRange(0, n).Draw(rt, "cseq")))
		case "agent":
			b := legToPhone(rapid.SampledFrom([]string{"101", "102"}).Draw(rt, "for"), "103", "b/agent"+string(rune('0'+n)))
			lines = append(lines, b)
			show(b, func() Message { return b.invite() })
			pause()
			if rapid.Bool().Draw(rt, "answers") {
				show(b, func() Message { return b.response(200) })
				break
			}
			show(b, func() Message {
				return b.cancel(rapid.SampledFrom([]string{"", "Reason: Q.850;cause=16\r\n", "Reason: Q.850;cause=26\r\n"}).Draw(rt, "reason"))
			})
			show(b, func() Message { return b.response(487) })
		case "bye":
			show(l, func() Message {
				m := l.bye(rapid.Bool().Draw(rt, "by who called"))
				m.CSeq = 50 // above those of the REFERs
				return m
			})
		}
	}
	slices.SortStableFunc(all, func(a, b Message) int { return cmp.Compare(a.At.UnixNano(), b.At.UnixNano()) })
	return all
}

// drawRefer adds a REFER of the phone at line l, and the PBX's messages because of it.
func drawRefer(rt *rapid.T, all *[]Message, l *line, at time.Time, to string, cseq uint32) {
	l.at = at
	m := requestInDialog(l, "REFER", l.origin == Edge, peerOf(l.callID), cseq, "z9hG4bK-refer")
	m.Head = "REFER sip:x SIP/2.0\r\nRefer-To: " + to + "\r\n"
	*all = append(*all, m)
	*all = append(*all, responseTo(m, rapid.SampledFrom([]int{202, 202, 202, 403}).Draw(rt, "accepted"), time.Millisecond))
	if line := rapid.SampledFrom([]string{"", "SIP/2.0 200 OK", "SIP/2.0 404 Not Found"}).Draw(rt, "report"); line != "" {
		n := requestInDialog(l, "NOTIFY", l.origin != Edge, peerOf(l.callID), cseq, "z9hG4bK-notify")
		n.At, n.Src, n.Dst = at.Add(2*time.Millisecond), PBX, Edge
		n.Head, n.Body = "NOTIFY sip:x SIP/2.0\r\nEvent: refer\r\n"+rapid.SampledFrom([]string{"", "User-Agent: FreeSWITCH\r\n"}).Draw(rt, "reported by"), line
		*all = append(*all, n)
	}
}
