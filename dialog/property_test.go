package dialog

import (
	"cmp"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// TestConversationsAreToldApart has a PBX connect several conversations at once. Their legs
// have Call-IDs of their own, and only numbers and times show which belong together. The
// tracker observes them in disorder: messages are lost, duplicated and reordered; requests
// within a dialog are refused, not answered or not delivered; a 2xx is forked; callees
// transfer by REFER. In all cases a party has one dial and one hangup, which is its last
// event; the numbers of a call have no gaps; a Duration is hangup less answer; and no leg
// is ever joined to another conversation.
//
// The first INVITE of a caller is never lost, nor is a message of a leg that sends a REFER,
// and the PBX's INVITEs come while the caller calls: a caller that was not observed cannot
// be distinguished from another with the same number. Two calls within a millisecond that
// no number distinguishes may still be joined, in one of some thousand cases: so the cases
// are the same in every run.
func TestConversationsAreToldApart(t *testing.T) {
	checkSeeded(t, 100, func(rt *rapid.T) {
		c := testConfig()
		c.Extensions = []Declared{{Number: "600", Kind: Queue}, {Number: "700", Kind: IVR}}
		tracker := New(c)
		w := eventChecker{t: rt, parties: map[string]*checkedParty{}, seq: map[string]int{}, registered: map[Extension]Event{}}
		registerSome(tracker, w.checkEvents)
		strangers := map[string]string{} // name of the conversation by call id
		hear := func(events []Event) {
			w.checkEvents(events)
			for _, e := range events {
				conversation, _, _ := strings.Cut(e.CallAPIID, "/")
				if known, ok := strangers[e.Call]; ok && known != conversation {
					rt.Fatalf("a leg of %s, %s of %s, was joined to %s by %s", conversation, e.Type, e.Extension, known, e.Correlation)
				}
				strangers[e.Call] = conversation
			}
		}
		for _, m := range disorderMessages(rt, drawConversations(rt)) {
			hear(tracker.Advance(m.At))
			hear(tracker.Observe(m))
		}
		for next, ok := tracker.Next(); ok; next, ok = tracker.Next() {
			hear(tracker.Advance(next))
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

// drawConversations returns the messages of the PBX in the order in which it sends them.
func drawConversations(rt *rapid.T) (all []Message) {
	callers := []string{"101", "102", "103", "+441632960123", "01632960123", "49301632960123", "5550001", "anonymous", "alice", "dave"}
	dialed := []string{"102", "103", "104", "710", "600", "700", "5559999"}
	for n := range rapid.IntRange(1, 5).Draw(rt, "conversations") {
		number := rapid.SampledFrom(callers).Draw(rt, "caller")
		called := rapid.SampledFrom(dialed).Draw(rt, "dialed")
		at := start.Add(time.Duration(rapid.IntRange(0, 4000).Draw(rt, "begins")) * time.Millisecond)
		name := fmt.Sprintf("c%d", n)
		if rapid.IntRange(0, 5).Draw(rt, "begun by the PBX") == 0 {
			all = append(all, drawCallback(rt, name, fmt.Sprintf("14%d", n), at)...)
			continue
		}
		all = append(all, drawConversation(rt, name, number, called, at)...)
	}
	slices.SortStableFunc(all, func(a, b Message) int { return a.At.Compare(b.At) })
	return all
}

// drawConversation returns the messages of one caller and of the phones that the PBX rings.
func drawConversation(rt *rapid.T, name, number, called string, at time.Time) (all []Message) {
	a := legFromPhone(number, called, name+"/a")
	a.peer = peerOf(number)
	if len(number) > 5 {
		a.trunk = "carrier"
	}
	a.at = at
	number = cmp.Or(shownAs[number], number)
	show := func(m Message) { all = append(all, m) }
	pause := func(l *line, label string, most int) {
		l.later(time.Duration(rapid.IntRange(1, most).Draw(rt, label)) * time.Millisecond)
	}
	show(a.invite())
	if called == "600" || called == "700" {
		pause(a, "picked up by the PBX", 20)
		show(a.response(200))
	}
	var rung []*line
	switch called {
	case "710", "600", "700":
		for _, ext := range []string{"102", "103", "104"}[:rapid.IntRange(0, 3).Draw(rt, "members")] {
			if ext != number {
				rung = append(rung, legToPhone(number, ext, name+"/"+ext))
			}
		}
	case "5559999":
		rung = append(rung, legToTrunk(rapid.SampledFrom([]string{number, "5551000"}).Draw(rt, "shown outside"), called, name+"/out"))
	default:
		if called != number {
			rung = append(rung, legToPhone(number, called, name+"/"+called))
		}
	}
	for _, b := range rung {
		b.at, b.peer = a.at, peerOf(b.callID)
		pause(b, "to the callee", 9)
		show(b.invite())
		if rapid.Bool().Draw(rt, "rings") {
			pause(b, "ringing", 50)
			show(b.response(180))
		}
	}
	for _, b := range rung {
		if b.at.After(a.at) {
			a.at = b.at
		}
	}
	pause(a, "rings for", 8000)
	winner := rapid.IntRange(-1, len(rung)-1).Draw(rt, "answers")
	for i, b := range rung {
		b.at = a.at
		switch {
		case i == winner:
			show(b.response(200))
			show(a.later(time.Millisecond).response(200)) // again, if the PBX picked up
			if rapid.IntRange(0, 5).Draw(rt, "forked") == 0 {
				f := *b
				f.to += "-fork"
				show(f.response(200))
				f.cseq += 10
				all = append(all, drawBye(rt, f.later(20*time.Millisecond), true)...)
			}
		case rapid.Bool().Draw(rt, "refuses"):
			show(b.response(486))
		default:
			pause(b, "given up", 5)
			show(b.cancel("Reason: Q.850;cause=0\r\n"))
			show(b.response(487))
		}
	}
	pause(a, "talks for", 30_000)
	if winner >= 0 {
		w := rung[winner]
		w.at = a.at
		switch rapid.IntRange(0, 5).Draw(rt, "meanwhile") {
		case 0: // a hold that may be refused
			all = append(all, drawRequest(rt, w, "INVITE", rapid.Bool().Draw(rt, "by the caller"), "")...)
		case 1: // the callee transfers the caller
			if w.trunk != "" {
				break // a transfer is an extension's
			}
			refer := drawRequest(rt, w, "REFER", false, "Refer-To: <sip:105@pbx.example>\r\n")
			if all = append(all, refer...); len(refer) != 2 || refer[1].Status != 200 {
				break
			}
			all = append(all, drawBye(rt, w.later(20*time.Millisecond), false)...)
			c := legToPhone(number, "105", name+"/105")
			c.at, c.peer = refer[1].At, peerOf(c.callID)
			pause(c, "to whom it is transferred", 9)
			show(c.invite())
			pause(c, "until it answers", 3000)
			show(c.response(rapid.SampledFrom([]int{200, 200, 486, 480}).Draw(rt, "the transfer ends")))
			pause(c, "talk after the transfer", 9000)
			*w = *c
		}
		a.at = w.at
	}
	switch {
	case winner < 0 && rapid.Bool().Draw(rt, "gives up"):
		show(a.cancel())
		show(a.response(487))
	case winner < 0:
		show(a.response(603, "Reason: Q.850;cause=16\r\n"))
		show(a.bye(true)) // if the PBX picked up
	default:
		rung[winner].at = a.at.Add(time.Millisecond)
		all = append(all, drawBye(rt, a, rapid.Bool().Draw(rt, "the caller hangs up"))...)
		all = append(all, drawBye(rt, rung[winner], rapid.Bool().Draw(rt, "as the callee hears"))...)
	}
	return all
}

// shownAs are the numbers that the PBX shows for extensions with names.
var shownAs = map[string]string{"alice": "121", "dave": "124"}

// registerSome registers the extensions with names, those that the PBX calls back, and
// those that they want to call.
func registerSome(tracker *Tracker, hear func([]Event)) {
	for _, name := range append(slices.Sorted(maps.Keys(shownAs)), "140", "141", "142", "143", "144", "150", "151", "152", "153", "154") {
		hear(tracker.Observe(registerResponse(start, "sip:"+name+"@pbx.example", "Contact: <sip:"+name+"@10.1.0.1:5060>;expires=3600\r\n")))
	}
}

// drawCallback returns a call that the PBX begins: it rings a phone, in any name, and then
// calls the number that its owner wanted.
func drawCallback(rt *rapid.T, name, ext string, at time.Time) (all []Message) {
	called := rapid.SampledFrom([]string{"15" + ext[2:], "5559" + ext}).Draw(rt, "wanted")
	shown := rapid.SampledFrom([]string{ext, called, "55577" + ext}).Draw(rt, "shown to who is called back")
	first := legToPhone(shown, ext, name+"/first")
	first.at, first.peer = at, peerOf(ext)
	all = append(all, first.invite(), first.later(time.Duration(rapid.IntRange(1, 900).Draw(rt, "answers the callback"))*time.Millisecond).response(200))
	second := legToPhone(shown, called, name+"/second")
	if len(called) > 3 {
		second = legToTrunk(rapid.SampledFrom([]string{shown, "5551000"}).Draw(rt, "shown outside"), called, name+"/second")
	}
	second.at, second.peer = first.at, peerOf(called)
	second.later(time.Duration(rapid.IntRange(1, 80).Draw(rt, "to the number wanted")) * time.Millisecond)
	all = append(all, second.invite(), second.later(50*time.Millisecond).response(180), second.later(time.Second).response(200))
	second.later(time.Duration(rapid.IntRange(1, 9000).Draw(rt, "talks for")) * time.Millisecond)
	first.at = second.at.Add(time.Millisecond)
	return append(all, second.bye(false), first.bye(true))
}

// drawBye returns a BYE of a leg with its responses.
func drawBye(rt *rapid.T, l *line, byCaller bool) []Message {
	return drawResponses(rt, l.bye(byCaller))
}

// drawRequest returns a request within a leg's dialog with its responses.
func drawRequest(rt *rapid.T, l *line, method string, byCaller bool, headers string) []Message {
	m := l.bye(byCaller)
	m.Method, m.Branch = method, "z9hG4bK-"+method
	m.Head = strings.Replace(m.Head, "BYE", method, 1) + headers
	if method == "INVITE" {
		m.Head += "Content-Type: application/sdp\r\n"
		m.Body = "v=0\r\nm=audio 1 RTP/AVP 0\r\na=sendonly\r\n"
	}
	l.cseq++ // the next request has another
	return drawResponses(rt, m)
}

// drawResponses returns a request with its response, if it has one: of the other side, or
// of bellhop itself.
func drawResponses(rt *rapid.T, m Message) []Message {
	status := rapid.SampledFrom([]int{200, 200, 200, 0, 403, 408, 430, 481, 491, 500}).Draw(rt, m.Method+" is answered")
	if status == 0 {
		return []Message{m}
	}
	r := responseTo(m, status, time.Millisecond)
	r.Own = status == 430 || status == 408
	return []Message{m, r}
}

// peerOf returns an address that only name has.
func peerOf(name string) netip.AddrPort {
	h := fnv.New32a()
	h.Write([]byte(name))
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, byte(h.Sum32() >> 8), byte(h.Sum32())}), 5060)
}

// TestForgedMessagesChangeNothing plays conversations with two trackers. One of them also
// observes messages of a stranger that has all Call-IDs, tags and branches. The PBX refuses
// these, or nobody answers. Both trackers emit the same events.
func TestForgedMessagesChangeNothing(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		play := func(all []Message) (lines []string) {
			c := testConfig()
			c.Extensions = []Declared{{Number: "600", Kind: Queue}, {Number: "700", Kind: IVR}}
			tracker := New(c)
			w := eventChecker{t: rt, parties: map[string]*checkedParty{}, seq: map[string]int{}, registered: map[Extension]Event{}}
			registerSome(tracker, w.checkEvents)
			hear := func(events []Event) {
				w.checkEvents(events)
				for _, e := range events {
					line, err := json.Marshal(e)
					if err != nil {
						rt.Fatal(err)
					}
					lines = append(lines, string(line))
				}
			}
			for _, m := range all {
				hear(tracker.Advance(m.At))
				hear(tracker.Observe(m))
			}
			for next, ok := tracker.Next(); ok; next, ok = tracker.Next() {
				hear(tracker.Advance(next))
			}
			for id, p := range w.parties {
				if !p.over {
					rt.Errorf("party %s had a dial and no hangup", id)
				}
			}
			return lines
		}
		all := disorderMessages(rt, drawConversations(rt))
		want, got := play(all), play(addForged(rt, all))
		for i := range max(len(want), len(got)) {
			if i >= len(want) || i >= len(got) || want[i] != got[i] {
				rt.Fatalf("with a stranger's messages it emits\n%s\nand without\n%s", strings.Join(got[min(i, len(got)):], "\n"), strings.Join(want[min(i, len(want)):], "\n"))
			}
		}
	})
}

// addForged returns all messages with a stranger's messages in between, and their
// responses.
func addForged(rt *rapid.T, all []Message) (mixed []Message) {
	type seen struct {
		invite Message
		toTag  string
		over   bool // or may be soon: its INVITE again may be an attempt of the stranger's own
	}
	legs := map[string]*seen{}
	for _, m := range all {
		mixed = append(mixed, m)
		l := legs[m.CallID]
		switch {
		case l == nil && m.Method == "INVITE" && m.Request() && m.ToTag == "":
			l = &seen{invite: m}
			legs[m.CallID] = l
		case l == nil:
			continue
		case m.Method == "INVITE" && m.ToTag != "":
			l.toTag = m.ToTag
		}
		l.over = l.over || m.Method == "BYE" || m.Method == "CANCEL" || m.Status >= 300
		if !rapid.Bool().Draw(rt, "forges") {
			continue
		}
		methods := []string{"BYE", "UPDATE", "INVITE", "REFER", "CANCEL", "new INVITE"}
		if l.over {
			methods = methods[:5]
		}
		x := Message{
			At: m.At, Src: Edge, Dst: PBX, From: strangerAddr,
			Method:  rapid.SampledFrom(methods).Draw(rt, "method"),
			CallID:  m.CallID,
			CSeq:    uint32(rapid.IntRange(0, 9).Draw(rt, "cseq")),
			FromTag: l.invite.FromTag, ToTag: l.toTag, Branch: "z9hG4bK-forged",
			Body: "v=0\r\nm=audio 1 RTP/AVP 0\r\na=sendonly\r\n",
		}
		if l.invite.Src == PBX {
			x.FromTag, x.ToTag = x.ToTag, x.FromTag
		}
		switch x.Method {
		case "CANCEL":
			x.FromTag, x.ToTag, x.Branch, x.CSeq = l.invite.FromTag, "", l.invite.Branch, l.invite.CSeq
		case "new INVITE":
			x.Method, x.ToTag = "INVITE", ""
		case "INVITE":
			if x.ToTag == "" {
				x.ToTag = "none"
			}
		}
		x.Head = x.Method + " sip:105@pbx.example SIP/2.0\r\nFrom: <sip:104@pbx.example>\r\nTo: <sip:105@pbx.example>\r\n" +
			"Refer-To: <sip:103@pbx.example>\r\nReason: Q.850;cause=16\r\n"
		mixed = append(mixed, x)
		status := rapid.SampledFrom([]int{0, 401, 403, 500, 408, 487}).Draw(rt, "answered")
		if status == 0 || x.Method == "CANCEL" {
			continue
		}
		r := responseTo(x, status, 0)
		r.Own = status == 408
		mixed = append(mixed, r)
	}
	return mixed
}

// disorderMessages loses, duplicates and shifts messages.
func disorderMessages(rt *rapid.T, all []Message) (seen []Message) {
	transfers := map[string]bool{} // Call-IDs whose leg sends a REFER
	for _, m := range all {
		transfers[m.CallID] = transfers[m.CallID] || m.Method == "REFER"
	}
	for _, m := range all {
		fates := []int{0, 0, 0, 0, 0, 0, 1, 2, 3}
		switch first := m.Method == "INVITE" && m.Request(); {
		case first && m.Src == Edge || transfers[m.CallID]:
			fates = []int{0, 0, 2}
		case first:
			fates = []int{0, 0, 0, 1, 2}
		}
		fate := rapid.SampledFrom(fates).Draw(rt, "fate")
		switch fate {
		case 1: // lost
			continue
		case 2:
			seen = append(seen, m)
		case 3:
			m.At = m.At.Add(time.Duration(rapid.IntRange(0, 300).Draw(rt, "late by")) * time.Millisecond)
		}
		seen = append(seen, m)
	}
	slices.SortStableFunc(seen, func(a, b Message) int { return cmp.Compare(a.At.UnixNano(), b.At.UnixNano()) })
	return seen
}
