package dialog

import (
	"flag"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// TestOneHangup has phones, a carrier and a PBX that is a B2BUA place calls, with all
// possible failures: messages are lost, duplicated, late, refused, answered by bellhop or
// not at all; a stranger that has all ids and tags sends messages; bellhop is restarted,
// from its snapshots, from its event log or from both; the clock is set.
//
// In all cases a party that had a dial has exactly one hangup: at the moment when the
// messages show that its last leg is over, or at most 200 ms later if the tracker waits for
// the outcome of a transfer; not sooner, and not only when a limit passes. A [modelLeg]
// defines when a leg is over.
func TestOneHangup(t *testing.T) { checkSeeded(t, 3000, checkOneHangup) }

// FuzzOneHangup is TestOneHangup with the draws of the fuzzer.
func FuzzOneHangup(f *testing.F) {
	f.Add([]byte(strings.Repeat("\x00\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a\xfb\xfc", 80)))
	f.Fuzz(rapid.MakeFuzz(checkOneHangup))
}

func checkOneHangup(rt *rapid.T) {
	w := newSimulation(rt)
	for n := range rapid.IntRange(1, 2).Draw(rt, "calls") {
		w.addCall(n)
	}
	w.playMessages()
	for _, p := range w.parties {
		if p.dialed && !p.told {
			rt.Errorf("%s of %s had a dial and no hangup", p.flow, p.ext)
		}
	}
	tr := w.tracker
	if n := stateLeft(tr); n != 0 {
		rt.Errorf("%d entries are left", n)
	}
}

// checkSeeded checks a property for a number of cases, the same in every run. The flags
// -rapid.seed and -rapid.checks select other cases, and more.
func checkSeeded(t *testing.T, checks int, property func(*rapid.T)) {
	for name, value := range map[string]string{"rapid.seed": "15", "rapid.checks": fmt.Sprint(checks)} {
		if f := flag.Lookup(name); f.Value.String() == f.DefValue {
			if err := f.Value.Set(value); err != nil {
				t.Fatal(err)
			}
			defer f.Value.Set(f.DefValue)
		}
	}
	rapid.Check(t, property)
}

// A simulation is a tracker, the messages that it will observe, and the test's model of the
// calls. Its times are those of a clock that is never set and that no restart stops.
type simulation struct {
	rt      *rapid.T
	tracker *Tracker
	config  Config
	checker eventChecker
	pending []Message // in the order of their times
	lines   map[string]*line
	legs    []*modelLeg
	parties []*expectedParty // all parties so far
	byID    map[string]*expectedParty

	up     time.Time       // time of the last start of bellhop
	shift  time.Duration   // difference of the tracker's clock after the restarts
	ahead  time.Duration   // how far the wall clock is ahead of the tracker's
	set    bool            // the clock was set
	lost   map[string]bool // branches of INVITEs whose transaction a restart has lost
	seen   map[string]bool // branches of INVITEs
	bucket map[string]Change
	saved  []modelLeg // legs at the time when the bucket was written
	log    []Event    // events since then
}

// An expectedParty is a party that must have a hangup if it had a dial.
type expectedParty struct {
	ext                    string
	flow                   Flow
	dialed, answered, told bool
	due                    time.Time // when it ended; zero: it has not
	since                  time.Time // earliest time of that end
}

// over reports whether an INVITE to or from the same extension begins another party.
func (p *expectedParty) over() bool { return p.told || !p.due.IsZero() && !p.dialed }

func newSimulation(rt *rapid.T) *simulation {
	c := testConfig()
	c.MaxDuration, c.Correlate = time.Hour, []string{"x-cid"}
	c.Extensions = []Declared{{Number: "610", Kind: Queue}, {Number: "620", Kind: Queue}}
	w := &simulation{
		rt: rt, config: c, tracker: New(c), up: start,
		lines: map[string]*line{}, byID: map[string]*expectedParty{}, lost: map[string]bool{}, seen: map[string]bool{}, bucket: map[string]Change{},
		checker: eventChecker{t: rt, parties: map[string]*checkedParty{}, seq: map[string]int{}},
	}
	w.tracker.Changed(start)
	return w
}

// drawOne draws one of several values; the first are the likeliest.
func drawOne[T any](w *simulation, label string, of ...T) T {
	return rapid.SampledFrom(of).Draw(w.rt, label)
}

func (w *simulation) drawOften(label string) bool { return drawOne(w, label, true, true, false) }
func (w *simulation) drawRarely(label string) bool {
	return drawOne(w, label, false, false, false, false, false, false, true)
}

func (w *simulation) drawMillis(label string, least, most int) time.Duration {
	return time.Duration(rapid.IntRange(least, most).Draw(w.rt, label)) * time.Millisecond
}

// addCall adds a call: a caller dials a colleague or a queue, and the PBX rings phones. The
// messages of a leg are independent of the other legs.
func (w *simulation) addCall(n int) {
	number := func(digit int) string { return fmt.Sprint(100 + 10*(n+1) + digit) }
	at := start.Add(w.drawMillis("call begins", 0, 3000))
	a := legFromPhone(number(1), drawOne(w, "dialed", number(2), fmt.Sprint(600+10*(n+1))), fmt.Sprintf("c%d/a", n))
	if w.drawRarely("from outside") {
		a = legFromTrunk("5550001", number(2), a.callID)
	}
	lines := []*line{a}
	for i, ext := range []string{number(2), number(2), number(3)}[:rapid.IntRange(0, 3).Draw(w.rt, "phones")] {
		lines = append(lines, legToPhone("5550001", ext, fmt.Sprintf("c%d/b%d", n, i)))
	}
	for i, l := range lines {
		l.at, l.to, l.peer = at.Add(time.Duration(i)*3*time.Millisecond), "to-"+l.callID, peerOf(l.callID)
		w.lines[l.callID] = l
		w.scriptLeg(l, fmt.Sprintf("%032d", n+1), &at)
	}
	slices.SortStableFunc(w.pending, func(a, b Message) int { return a.At.Compare(b.At) })
}

// scriptLeg adds the messages of both ends of a leg, from its INVITE to its end. The PBX
// rings phones once the caller has authenticated.
func (w *simulation) scriptLeg(l *line, cid string, begins *time.Time) {
	show := func(m Message) {
		m.CID = cid
		w.pending = append(w.pending, m)
	}
	wait := func(most int) { l.later(w.drawMillis("wait", 1, most)) }
	show(l.invite())
	wait(100)
	if l.origin == Edge && !strings.HasPrefix(l.uri, "sip:6") && w.drawRarely("is asked for more") {
		show(l.response(drawOne(w, "with", 407, 401, 422)))
		wait(10_000)
		l.cseq, l.branch = l.cseq+1, l.branch+"-again"
		show(l.invite())
		wait(100)
		*begins = l.at.Add(300 * time.Millisecond)
	}
	own := func(m Message) Message { m.Own = true; return m }
	for range rapid.IntRange(0, 3).Draw(w.rt, "provisional responses") {
		show(l.response(drawOne(w, "provisional", 180, 100, 183)))
		wait(drawOne(w, "up to", 600, 60_000))
	}
	switch drawOne(w, "then", "answer", "refusal", "CANCEL", "BYE", "silence", "bellhop refuses") {
	case "refusal":
		if w.drawRarely("another tag") {
			l.to += "-x"
		}
		show(l.response(drawOne(w, "final", 486, 603, 480, 404, 500, 302)))
		return
	case "bellhop refuses":
		show(own(l.response(drawOne(w, "final", 408, 503))))
		return
	case "CANCEL":
		show(l.cancel())
		wait(300)
		if drawOne(w, "after CANCEL", 487, 200, 0) == 487 {
			show(l.response(487))
			return
		}
	case "BYE":
		show(requestInDialog(l, "BYE", l.origin == Edge, l.peer, l.cseq+1, "z9hG4bK-early"+l.callID))
		wait(300)
		if w.drawOften("487") {
			show(l.response(487))
			return
		}
	case "silence":
		return
	}
	session := func() string {
		return drawOne(w, "session", "", "", "", "Session-Expires: 120\r\n", "Session-Expires: 1800\r\n")
	}
	if w.drawRarely("another tag") {
		l.to += "-x"
	}
	show(l.response(200, session()))
	forked := w.drawRarely("is forked")
	if forked {
		wait(100)
		f := *l
		f.to += "-fork"
		show(f.response(200))
		f.later(w.drawMillis("other dialog", 500, 60_000))
		w.scriptHangup(&f, 7, show)
	}
	cseq := l.cseq + 10
	for range rapid.IntRange(0, 4).Draw(w.rt, "requests") {
		wait(drawOne(w, "up to", 10_000, 60_000))
		l.later(500 * time.Millisecond)
		cseq++
		w.scriptRequest(l, cseq, forked, session, show)
	}
	wait(30_000)
	l.later(500 * time.Millisecond)
	w.scriptHangup(l, cseq+1, show)
}

// scriptRequest adds a request in a leg's dialog and its responses.
func (w *simulation) scriptRequest(l *line, cseq uint32, forked bool, session func() string, show func(Message)) {
	byCaller := w.drawOften("by the caller")
	method := drawOne(w, "request", "INVITE", "UPDATE", "INFO", "OPTIONS", "REFER", "BYE again")
	m := requestInDialog(l, method, byCaller, l.peer, cseq, fmt.Sprint("z9hG4bK-", l.callID, cseq))
	switch {
	case method == "BYE again" && forked:
		return
	case method == "BYE again": // with a CSeq that is old, which the PBX refuses (RFC 3261 §12.2.2)
		m = requestInDialog(l, "BYE", l.origin == Edge, l.peer, l.cseq, m.Branch)
		show(m)
		show(responseTo(m, 500, time.Millisecond))
		return
	case method == "REFER":
		if m.Src != Edge || forked {
			return
		}
		m.Head += "Refer-To: <sip:105@pbx.example>\r\n"
		show(m)
		show(responseTo(m, 202, time.Millisecond))
		n := requestInDialog(l, "NOTIFY", l.origin == PBX, l.peer, cseq, m.Branch+"n")
		n.Head += "Event: refer\r\nUser-Agent: FreeSWITCH\r\n"
		n.Body = "SIP/2.0 200 OK\r\n"
		n.At = n.At.Add(2 * time.Millisecond)
		show(n)
		return
	}
	if m.Src == Edge && l.trunk == "" && w.drawRarely("from another port") {
		m.From = netip.AddrPortFrom(l.peer.Addr(), 40000+uint16(cseq))
		defer func() { l.peer = m.From }() // to which the PBX sends from now on
	}
	show(m)
	fates := []string{"200", "481", "408 own", "408", "481 own", "491", "403", "nothing"}
	if forked { // a failed request shows which dialog has failed
		fates = []string{"200", "491", "nothing"}
	}
	fate := drawOne(w, method+" gets", fates...)
	status := 0
	if _, err := fmt.Sscan(fate, &status); err != nil {
		return
	}
	r := responseTo(m, status, w.drawMillis("answers", 1, 100))
	r.Own = strings.HasSuffix(fate, "own")
	if status == 200 && method != "INFO" && method != "OPTIONS" {
		r.Head += session()
	}
	show(r)
}

// scriptHangup adds the end of a leg's dialog: a BYE of one end or both with its responses,
// or no message.
func (w *simulation) scriptHangup(l *line, cseq uint32, show func(Message)) {
	ends := drawOne(w, "hung up by", []bool{true}, []bool{false}, []bool{true, false}, nil)
	for _, byCaller := range ends {
		m := requestInDialog(l, "BYE", byCaller, l.peer, cseq, fmt.Sprint("z9hG4bK-bye", l.to, byCaller))
		m.At = m.At.Add(w.drawMillis("crossing", 0, 20))
		if m.Src == Edge && l.trunk == "" && w.drawRarely("from another port") {
			m.From = netip.AddrPortFrom(l.peer.Addr(), 50000)
		}
		show(m)
		fate := drawOne(w, "BYE gets", "200", "nothing", "481", "430 own", "408 own", "403", "500", "491")
		status := 0
		if _, err := fmt.Sscan(fate, &status); err != nil {
			continue
		}
		r := responseTo(m, status, w.drawMillis("answers", 1, 100))
		r.Own = strings.HasSuffix(fate, "own")
		show(r)
	}
}

// playMessages observes all messages, or loses, delays or repeats them.
func (w *simulation) playMessages() {
	for len(w.pending) > 0 {
		m := w.pending[0]
		w.pending = w.pending[1:]
		w.waitUntil(m.At)
		switch drawOne(w, "fate", "shown", "shown", "shown", "shown", "shown", "shown", "shown", "lost", "doubled", "late", "doubled later", "forged after it", "saved before it", "restarted before it", "the clock is set") {
		case "lost":
			continue
		case "doubled":
			w.showMessage(m)
			if m.ToTag != "" && m.Request() && m.Method != "BYE" {
				continue // bellhop absorbs the retransmission
			}
		case "doubled later":
			if m.ToTag == "" || m.Method == "BYE" {
				w.insertPending(m, w.drawMillis("doubled after", 1, 10_000))
			}
		case "late":
			w.insertPending(m, w.drawMillis("late by", 1, 300))
			continue
		case "forged after it":
			w.showMessage(m)
			w.showForged(m)
			continue
		case "saved before it":
			w.saveChanges()
		case "restarted before it":
			w.restartTracker(m.At)
			continue // the message came while bellhop was down, and is lost
		case "the clock is set":
			w.set, w.ahead = true, drawOne(w, "ahead by", 30*time.Second, -30*time.Second, 5*time.Hour, -5*time.Hour)
			w.tracker.SetClock(m.At.Add(w.shift), w.ahead)
		}
		w.showMessage(m)
	}
	for next, ok := w.tracker.Next(); ok; next, ok = w.tracker.Next() {
		w.advanceTracker(next.Add(-w.shift))
	}
	w.endExpired(start.Add(1000 * time.Hour))
}

// insertPending inserts a message, delayed by a time, into the pending ones.
func (w *simulation) insertPending(m Message, by time.Duration) {
	m.At = m.At.Add(by)
	i := 0
	for i < len(w.pending) && !w.pending[i].At.After(m.At) {
		i++
	}
	w.pending = slices.Insert(w.pending, i, m)
}

// waitUntil lets time pass.
func (w *simulation) waitUntil(until time.Time) {
	for next, ok := w.tracker.Next(); ok && !next.Add(-w.shift).After(until); next, ok = w.tracker.Next() {
		w.advanceTracker(next.Add(-w.shift))
	}
}

func (w *simulation) advanceTracker(at time.Time) {
	w.endExpired(at)
	w.checkHangups(at, w.tracker.Advance(at.Add(w.shift)))
}

func (w *simulation) showMessage(m Message) {
	if m.Method == "INVITE" && m.ToTag == "" && m.Request() {
		if w.lost[m.Branch] && !slices.ContainsFunc(w.legs, func(l *modelLeg) bool { return l.ownsInvite(&m) && l.transactionLost && l.state < talking }) {
			return // the leg is over; the message would begin it anew
		}
		w.seen[m.Branch], w.lost[m.Branch] = true, false
	}
	if m.Method == "INVITE" && w.lost[m.Branch] {
		return // bellhop does not know the transaction
	}
	w.endExpired(m.At)
	w.observeMessage(&m)
	shown := m
	shown.At, shown.WallOffset = m.At.Add(w.shift), w.ahead
	w.rt.Logf("%v %v %s %d cseq %d %s %v own=%v", m.At.Sub(start), m.Src, m.Method, m.Status, m.CSeq, m.CallID, m.FromTag+"/"+m.ToTag+"/"+m.Branch, m.Own)
	w.checkHangups(m.At, w.tracker.Observe(shown))
	for _, l := range w.legs {
		for _, p := range l.parties {
			if (l.state == ringing || l.state == talking) && !p.dialed && !p.over() {
				w.rt.Fatalf("%s of %s has no dial, and is %v", p.flow, p.ext, l.state)
			}
		}
	}
}

// checkHangups checks that each hangup comes when its party is over.
func (w *simulation) checkHangups(now time.Time, events []Event) {
	for _, e := range events {
		w.rt.Logf("  at %v: %s %s %s %d", now.Sub(start), e.Type, e.Extension, e.Status, e.SipCode)
	}
	for _, e := range events {
		e.Observed = e.Observed.Add(-w.shift)
		w.log = append(w.log, e)
		e.At = e.Observed // whatever the wall clock shows
		w.checker.checkEvents([]Event{e})
		switch e.Type {
		case DialIn, DialOut:
			p := w.lastParty(e.Extension.User, e.Flow)
			if p == nil || p.dialed {
				w.rt.Fatalf("%s of %s, which nobody calls or which had one", e.Type, e.Extension)
			}
			p.dialed, w.byID[e.Party] = true, p
		case Hangup:
			p := w.byID[e.Party]
			if p.due.IsZero() {
				w.rt.Fatalf("at %v: %s of %s has its hangup too soon: %s %d", now.Sub(start), p.flow, p.ext, e.Status, e.SipCode)
			}
			if e.Observed.Before(p.since) || e.Observed.After(now) {
				w.rt.Fatalf("the hangup of %s is of %v, want between %v and %v", p.ext, e.Observed.Sub(start), p.since.Sub(start), now.Sub(start))
			}
			p.told = true
		}
	}
	for _, p := range w.parties {
		if last := p.due.Add(followGap); p.dialed && !p.told && !p.due.IsZero() && now.After(last) && now.After(w.up) {
			w.rt.Fatalf("at %v: %s of %s is over since %v and has no hangup", now.Sub(start), p.flow, p.ext, p.due.Sub(start))
		}
	}
}

// lastParty returns the last party of an extension; nil: none.
func (w *simulation) lastParty(ext string, flow Flow) *expectedParty {
	for _, p := range slices.Backward(w.parties) {
		if p.ext == ext && p.flow == flow {
			return p
		}
	}
	return nil
}

// showForged observes messages of a stranger that has the Call-ID, the tags and the
// branches of m's leg, with the PBX's responses; or a message from the phone's address that
// belongs to no dialog.
func (w *simulation) showForged(m Message) {
	i := slices.IndexFunc(w.legs, func(l *modelLeg) bool { return l.line.callID == m.CallID && l.state != over })
	if i < 0 {
		return
	}
	l := w.legs[i]
	x := requestInDialog(l.line, drawOne(w, "forged", "BYE", "CANCEL", "new INVITE", "INVITE", "UPDATE", "INFO", "REFER"), l.line.origin == Edge, strangerAddr, uint32(90+len(w.log)), "z9hG4bK-forged")
	x.At, x.Trunk = m.At, ""
	if len(l.open) > 0 {
		tag := &x.ToTag
		if l.line.origin == PBX {
			tag = &x.FromTag
		}
		*tag = l.open[0]
	}
	x.Head += "Refer-To: <sip:105@pbx.example>\r\nSession-Expires: 90\r\n"
	r := responseTo(x, drawOne(w, "answered", 0, 403, 500, 408), 0)
	r.Own = r.Status == 408
	switch x.Method {
	case "CANCEL":
		x.FromTag, x.ToTag = l.line.from, ""
		x.Branch = drawOne(w, "branch", l.branch, "z9hG4bK-forged")
		r.Status = 0
	case "new INVITE":
		x.Method, x.ToTag, x.FromTag, r.Status = "INVITE", "", l.line.from, 0
		x.CSeq = drawOne(w, "cseq", l.cseq+1, l.cseq)
	case "BYE":
		switch drawOne(w, "how", "refused", "wrong tags", "among strangers") {
		case "wrong tags":
			x.From, x.FromTag, x.ToTag = l.peer, "x", "y"
			r = responseTo(x, 481, 0)
		case "among strangers":
			x.Dst, x.To = Edge, netip.AddrPortFrom(strangerAddr.Addr(), 5070)
			r = responseTo(x, 200, 0)
		}
	}
	w.showMessage(x)
	if r.Status != 0 {
		w.showMessage(r)
	}
}

// saveChanges writes the changes to the bucket.
func (w *simulation) saveChanges() {
	for _, c := range w.tracker.Changed(start.Add(1000 * time.Hour)) {
		if w.bucket[c.Call] = c; c.Record == nil {
			delete(w.bucket, c.Call)
		}
	}
	w.saved, w.log = nil, nil
	for _, l := range w.legs {
		c := *l
		c.open, c.closed, c.last = slices.Clone(l.open), slices.Clone(l.closed), maps.Clone(l.last)
		w.saved = append(w.saved, c)
	}
}

// restartTracker replaces the tracker by one that is restored from the bucket and the log.
// Messages sent meanwhile are lost.
func (w *simulation) restartTracker(at time.Time) {
	if w.set || w.drawOften("all is saved") {
		w.saveChanges() // the log alone does not have the time at which the clock was set
	}
	w.shift += w.ahead // a steady clock begins as the wall clock
	w.ahead = 0
	w.up = at.Add(w.drawMillis("down for", 0, 20_000))
	for len(w.pending) > 0 && !w.pending[0].At.After(w.up) {
		w.pending = w.pending[1:]
	}
	w.rt.Logf("%v restart", w.up.Sub(start))
	w.tracker = New(w.config)
	w.tracker.SetClock(w.up.Add(w.shift), 0)
	if err := w.tracker.Restore("", slices.Collect(maps.Values(w.bucket)), slices.Values(w.log)); err != nil {
		w.rt.Fatal(err)
	}
	maps.Copy(w.lost, w.seen)
	w.restoreLegs()
	w.saveChanges()
	w.advanceTracker(w.up)
}
