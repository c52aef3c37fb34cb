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
// that may go wrong: messages are lost, doubled, late, refused, answered by bellhop or by
// nobody; a stranger who knows all ids and tags sends some of its own; bellhop is
// restarted, from what it has kept, from its log or from both; the clock is set.
//
// Whatever comes, a party that had a dial has its one hangup: at the moment when the
// wire shows that its last leg is over, or 200 ms later at most where the tracker waits
// for what becomes of it; not sooner, and not only when a limit passes. By which rules a
// leg is over, [life] says.
func TestOneHangup(t *testing.T) { checkSeeded(t, 3000, oneHangup) }

// FuzzOneHangup is TestOneHangup with what the fuzzer draws.
func FuzzOneHangup(f *testing.F) {
	f.Add([]byte(strings.Repeat("\x00\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a\xfb\xfc", 80)))
	f.Fuzz(rapid.MakeFuzz(oneHangup))
}

func oneHangup(rt *rapid.T) {
	w := newWorld(rt)
	for n := range rapid.IntRange(1, 2).Draw(rt, "calls") {
		w.call(n)
	}
	w.play()
	for _, p := range w.parties {
		if p.dialed && !p.told {
			rt.Errorf("%s of %s had a dial and no hangup", p.flow, p.ext)
		}
	}
	tr := w.tracker
	if n := len(tr.callByCallID) + len(tr.keyHolders) + len(tr.legsByNumber) + len(tr.callersByDialed) + len(tr.recentRefers) + len(tr.deadlines); n != 0 {
		rt.Errorf("%d entries are kept", n)
	}
}

// checkSeeded checks a property for so many cases, the same in every run. With
// -rapid.seed and -rapid.checks it checks others, and more.
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

// A world is a tracker, the messages that it is going to be shown, and what the test
// knows of the calls. Its times are those of a clock that nobody sets and that no
// restart stops.
type world struct {
	rt      *rapid.T
	tracker *Tracker
	config  Config
	witness witness
	pending []Message // in the order of their times
	lines   map[string]*line
	lives   []*life
	parties []*owed // all that ever were
	byID    map[string]*owed

	up     time.Time       // when bellhop was started last
	shift  time.Duration   // of the tracker's clock since the restarts
	ahead  time.Duration   // the wall clock is, of the tracker's
	set    bool            // somebody has set the clock
	lost   map[string]bool // branches of INVITEs whose transaction a restart has cut
	seen   map[string]bool // branches of INVITEs
	bucket map[string]Change
	saved  []life  // as they were when the bucket was written
	log    []Event // since then
}

// An owed is a party whose hangup is owed if it had a dial.
type owed struct {
	ext                    string
	flow                   Flow
	dialed, answered, told bool
	due                    time.Time // since when it is over; zero: it is not
	since                  time.Time // when that may have begun
}

// over reports whether an INVITE to or from the same extension begins another party.
func (p *owed) over() bool { return p.told || !p.due.IsZero() && !p.dialed }

func newWorld(rt *rapid.T) *world {
	c := testConfig()
	c.MaxDuration, c.Correlate = time.Hour, []string{"x-cid"}
	c.Extensions = []Declared{{Number: "610", Kind: Queue}, {Number: "620", Kind: Queue}}
	w := &world{
		rt: rt, config: c, tracker: New(c), up: start,
		lines: map[string]*line{}, byID: map[string]*owed{}, lost: map[string]bool{}, seen: map[string]bool{}, bucket: map[string]Change{},
		witness: witness{t: rt, parties: map[string]*turn{}, seq: map[string]int{}},
	}
	w.tracker.Changed(start)
	return w
}

// pick draws one of several; the first are the likeliest.
func pick[T any](w *world, label string, of ...T) T { return rapid.SampledFrom(of).Draw(w.rt, label) }

func (w *world) often(label string) bool { return pick(w, label, true, true, false) }
func (w *world) rarely(label string) bool {
	return pick(w, label, false, false, false, false, false, false, true)
}

func (w *world) millis(label string, least, most int) time.Duration {
	return time.Duration(rapid.IntRange(least, most).Draw(w.rt, label)) * time.Millisecond
}

// call is a caller who dials a colleague or a queue, and the phones that the PBX rings
// then. What happens on a leg has nothing to do with the other legs.
func (w *world) call(n int) {
	number := func(digit int) string { return fmt.Sprint(100 + 10*(n+1) + digit) }
	at := start.Add(w.millis("call begins", 0, 3000))
	a := from(number(1), pick(w, "dialed", number(2), fmt.Sprint(600+10*(n+1))), fmt.Sprintf("c%d/a", n))
	if w.rarely("from outside") {
		a = fromTrunk("5550001", number(2), a.callID)
	}
	lines := []*line{a}
	for i, ext := range []string{number(2), number(2), number(3)}[:rapid.IntRange(0, 3).Draw(w.rt, "phones")] {
		lines = append(lines, to("5550001", ext, fmt.Sprintf("c%d/b%d", n, i)))
	}
	for i, l := range lines {
		l.at, l.to, l.peer = at.Add(time.Duration(i)*3*time.Millisecond), "to-"+l.callID, peerOf(l.callID)
		w.lines[l.callID] = l
		w.script(l, fmt.Sprintf("%032d", n+1), &at)
	}
	slices.SortStableFunc(w.pending, func(a, b Message) int { return a.At.Compare(b.At) })
}

// script is what the two ends of a leg send, from its INVITE to its end.
// The PBX rings phones when the caller has logged in.
func (w *world) script(l *line, cid string, begins *time.Time) {
	show := func(m Message) {
		m.CID = cid
		w.pending = append(w.pending, m)
	}
	wait := func(most int) { l.later(w.millis("wait", 1, most)) }
	show(l.invite())
	wait(100)
	if l.origin == Edge && !strings.HasPrefix(l.uri, "sip:6") && w.rarely("is asked for more") {
		show(l.response(pick(w, "with", 407, 401, 422)))
		wait(10_000)
		l.cseq, l.branch = l.cseq+1, l.branch+"-again"
		show(l.invite())
		wait(100)
		*begins = l.at.Add(300 * time.Millisecond)
	}
	own := func(m Message) Message { m.Own = true; return m }
	for range rapid.IntRange(0, 3).Draw(w.rt, "provisional responses") {
		show(l.response(pick(w, "provisional", 180, 100, 183)))
		wait(pick(w, "up to", 600, 60_000))
	}
	switch pick(w, "then", "answer", "refusal", "CANCEL", "BYE", "silence", "bellhop refuses") {
	case "refusal":
		if w.rarely("another tag") {
			l.to += "-x"
		}
		show(l.response(pick(w, "final", 486, 603, 480, 404, 500, 302)))
		return
	case "bellhop refuses":
		show(own(l.response(pick(w, "final", 408, 503))))
		return
	case "CANCEL":
		show(l.cancel())
		wait(300)
		if pick(w, "after CANCEL", 487, 200, 0) == 487 {
			show(l.response(487))
			return
		}
	case "BYE":
		show(during(l, "BYE", l.origin == Edge, l.peer, l.cseq+1, "z9hG4bK-early"+l.callID))
		wait(300)
		if w.often("487") {
			show(l.response(487))
			return
		}
	case "silence":
		return
	}
	session := func() string {
		return pick(w, "session", "", "", "", "Session-Expires: 120\r\n", "Session-Expires: 1800\r\n")
	}
	if w.rarely("another tag") {
		l.to += "-x"
	}
	show(l.response(200, session()))
	forked := w.rarely("is forked")
	if forked {
		wait(100)
		f := *l
		f.to += "-fork"
		show(f.response(200))
		f.later(w.millis("other dialog", 500, 60_000))
		w.hangup(&f, 7, show)
	}
	cseq := l.cseq + 10
	for range rapid.IntRange(0, 4).Draw(w.rt, "requests") {
		wait(pick(w, "up to", 10_000, 60_000))
		l.later(500 * time.Millisecond)
		cseq++
		w.request(l, cseq, forked, session, show)
	}
	wait(30_000)
	l.later(500 * time.Millisecond)
	w.hangup(l, cseq+1, show)
}

// request is a request in a leg's dialog, and what becomes of it.
func (w *world) request(l *line, cseq uint32, forked bool, session func() string, show func(Message)) {
	byCaller := w.often("by the caller")
	method := pick(w, "request", "INVITE", "UPDATE", "INFO", "OPTIONS", "REFER", "BYE again")
	m := during(l, method, byCaller, l.peer, cseq, fmt.Sprint("z9hG4bK-", l.callID, cseq))
	switch {
	case method == "BYE again" && forked:
		return
	case method == "BYE again": // with a CSeq that is old, which the PBX refuses (RFC 3261 §12.2.2)
		m = during(l, "BYE", l.origin == Edge, l.peer, l.cseq, m.Branch)
		show(m)
		show(answer(m, 500, time.Millisecond))
		return
	case method == "REFER":
		if m.Src != Edge || forked {
			return
		}
		m.Head += "Refer-To: <sip:105@pbx.example>\r\n"
		show(m)
		show(answer(m, 202, time.Millisecond))
		n := during(l, "NOTIFY", l.origin == PBX, l.peer, cseq, m.Branch+"n")
		n.Head += "Event: refer\r\nUser-Agent: FreeSWITCH\r\n"
		n.Body = "SIP/2.0 200 OK\r\n"
		n.At = n.At.Add(2 * time.Millisecond)
		show(n)
		return
	}
	if m.Src == Edge && l.trunk == "" && w.rarely("from another port") {
		m.From = netip.AddrPortFrom(l.peer.Addr(), 40000+uint16(cseq))
		defer func() { l.peer = m.From }() // to which the PBX sends from now on
	}
	show(m)
	fates := []string{"200", "481", "408 own", "408", "481 own", "491", "403", "nothing"}
	if forked { // of a request that fails so it is known which dialog has failed
		fates = []string{"200", "491", "nothing"}
	}
	fate := pick(w, method+" gets", fates...)
	status := 0
	if _, err := fmt.Sscan(fate, &status); err != nil {
		return
	}
	r := answer(m, status, w.millis("answers", 1, 100))
	r.Own = strings.HasSuffix(fate, "own")
	if status == 200 && method != "INFO" && method != "OPTIONS" {
		r.Head += session()
	}
	show(r)
}

// hangup is how a leg's dialog ends: with a BYE of one end or both, and what becomes
// of it, or with nothing.
func (w *world) hangup(l *line, cseq uint32, show func(Message)) {
	ends := pick(w, "hung up by", []bool{true}, []bool{false}, []bool{true, false}, nil)
	for _, byCaller := range ends {
		m := during(l, "BYE", byCaller, l.peer, cseq, fmt.Sprint("z9hG4bK-bye", l.to, byCaller))
		m.At = m.At.Add(w.millis("crossing", 0, 20))
		if m.Src == Edge && l.trunk == "" && w.rarely("from another port") {
			m.From = netip.AddrPortFrom(l.peer.Addr(), 50000)
		}
		show(m)
		fate := pick(w, "BYE gets", "200", "nothing", "481", "430 own", "408 own", "403", "500", "491")
		status := 0
		if _, err := fmt.Sscan(fate, &status); err != nil {
			continue
		}
		r := answer(m, status, w.millis("answers", 1, 100))
		r.Own = strings.HasSuffix(fate, "own")
		show(r)
	}
}

// play shows the tracker all messages, or does with them what else befalls messages.
func (w *world) play() {
	for len(w.pending) > 0 {
		m := w.pending[0]
		w.pending = w.pending[1:]
		w.wait(m.At)
		switch pick(w, "fate", "shown", "shown", "shown", "shown", "shown", "shown", "shown", "lost", "doubled", "late", "doubled later", "forged after it", "saved before it", "restarted before it", "the clock is set") {
		case "lost":
			continue
		case "doubled":
			w.show(m)
			if m.ToTag != "" && m.Request() && m.Method != "BYE" {
				continue // the hop absorbs it
			}
		case "doubled later":
			if m.ToTag == "" || m.Method == "BYE" {
				w.later(m, w.millis("doubled after", 1, 10_000))
			}
		case "late":
			w.later(m, w.millis("late by", 1, 300))
			continue
		case "forged after it":
			w.show(m)
			w.forge(m)
			continue
		case "saved before it":
			w.save()
		case "restarted before it":
			w.restart(m.At)
			continue // meanwhile it has come, and is lost
		case "the clock is set":
			w.set, w.ahead = true, pick(w, "ahead by", 30*time.Second, -30*time.Second, 5*time.Hour, -5*time.Hour)
			w.tracker.SetClock(m.At.Add(w.shift), w.ahead)
		}
		w.show(m)
	}
	for next, ok := w.tracker.Next(); ok; next, ok = w.tracker.Next() {
		w.advance(next.Add(-w.shift))
	}
	w.pass(start.Add(1000 * time.Hour))
}

// later puts a message back into those that are to be shown.
func (w *world) later(m Message, by time.Duration) {
	m.At = m.At.Add(by)
	i := 0
	for i < len(w.pending) && !w.pending[i].At.After(m.At) {
		i++
	}
	w.pending = slices.Insert(w.pending, i, m)
}

// wait lets time pass.
func (w *world) wait(until time.Time) {
	for next, ok := w.tracker.Next(); ok && !next.Add(-w.shift).After(until); next, ok = w.tracker.Next() {
		w.advance(next.Add(-w.shift))
	}
}

func (w *world) advance(at time.Time) {
	w.pass(at)
	w.hear(at, w.tracker.Advance(at.Add(w.shift)))
}

func (w *world) show(m Message) {
	if m.Method == "INVITE" && m.ToTag == "" && m.Request() {
		if w.lost[m.Branch] && !slices.ContainsFunc(w.lives, func(l *life) bool { return l.of(&m) && l.cut && l.state < talking }) {
			return // of what is over; it would begin anew
		}
		w.seen[m.Branch], w.lost[m.Branch] = true, false
	}
	if m.Method == "INVITE" && w.lost[m.Branch] {
		return // bellhop does not know the transaction
	}
	w.pass(m.At)
	w.observe(&m)
	shown := m
	shown.At, shown.WallOffset = m.At.Add(w.shift), w.ahead
	w.rt.Logf("%v %v %s %d cseq %d %s %v own=%v", m.At.Sub(start), m.Src, m.Method, m.Status, m.CSeq, m.CallID, m.FromTag+"/"+m.ToTag+"/"+m.Branch, m.Own)
	w.hear(m.At, w.tracker.Observe(shown))
	for _, l := range w.lives {
		for _, p := range l.parties {
			if (l.state == ringing || l.state == talking) && !p.dialed && !p.over() {
				w.rt.Fatalf("%s of %s has no dial, and is %v", p.flow, p.ext, l.state)
			}
		}
	}
}

// hear checks that each hangup comes when its party is over.
func (w *world) hear(now time.Time, events []Event) {
	for _, e := range events {
		w.rt.Logf("  at %v: %s %s %s %d", now.Sub(start), e.Type, e.Extension, e.Status, e.SipCode)
	}
	for _, e := range events {
		e.Observed = e.Observed.Add(-w.shift)
		w.log = append(w.log, e)
		e.At = e.Observed // whatever the wall clock shows
		w.witness.hear([]Event{e})
		switch e.Type {
		case DialIn, DialOut:
			p := w.last(e.Extension.User, e.Flow)
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

// last returns the last party of an extension; nil: it had none.
func (w *world) last(ext string, flow Flow) *owed {
	for _, p := range slices.Backward(w.parties) {
		if p.ext == ext && p.flow == flow {
			return p
		}
	}
	return nil
}

// forge shows messages of a stranger who knows the Call-ID, the tags and the branches of
// m's leg, and what the PBX answers to them; or a message of the phone's address that is
// of no dialog.
func (w *world) forge(m Message) {
	i := slices.IndexFunc(w.lives, func(l *life) bool { return l.line.callID == m.CallID && l.state != over })
	if i < 0 {
		return
	}
	l := w.lives[i]
	x := during(l.line, pick(w, "forged", "BYE", "CANCEL", "new INVITE", "INVITE", "UPDATE", "INFO", "REFER"), l.line.origin == Edge, strangerAddr, uint32(90+len(w.log)), "z9hG4bK-forged")
	x.At, x.Trunk = m.At, ""
	if len(l.open) > 0 {
		tag := &x.ToTag
		if l.line.origin == PBX {
			tag = &x.FromTag
		}
		*tag = l.open[0]
	}
	x.Head += "Refer-To: <sip:105@pbx.example>\r\nSession-Expires: 90\r\n"
	r := answer(x, pick(w, "answered", 0, 403, 500, 408), 0)
	r.Own = r.Status == 408
	switch x.Method {
	case "CANCEL":
		x.FromTag, x.ToTag = l.line.from, ""
		x.Branch = pick(w, "branch", l.branch, "z9hG4bK-forged")
		r.Status = 0
	case "new INVITE":
		x.Method, x.ToTag, x.FromTag, r.Status = "INVITE", "", l.line.from, 0
		x.CSeq = pick(w, "cseq", l.cseq+1, l.cseq)
	case "BYE":
		switch pick(w, "how", "refused", "wrong tags", "among strangers") {
		case "wrong tags":
			x.From, x.FromTag, x.ToTag = l.peer, "x", "y"
			r = answer(x, 481, 0)
		case "among strangers":
			x.Dst, x.To = Edge, netip.AddrPortFrom(strangerAddr.Addr(), 5070)
			r = answer(x, 200, 0)
		}
	}
	w.show(x)
	if r.Status != 0 {
		w.show(r)
	}
}

// save writes what has changed to the bucket.
func (w *world) save() {
	for _, c := range w.tracker.Changed(start.Add(1000 * time.Hour)) {
		if w.bucket[c.Call] = c; c.Record == nil {
			delete(w.bucket, c.Call)
		}
	}
	w.saved, w.log = nil, nil
	for _, l := range w.lives {
		c := *l
		c.open, c.closed, c.last = slices.Clone(l.open), slices.Clone(l.closed), maps.Clone(l.last)
		w.saved = append(w.saved, c)
	}
}

// restart puts another tracker in the place of the first, which knows what is in the
// bucket and in the log. What was sent meanwhile is lost.
func (w *world) restart(at time.Time) {
	if w.set || w.often("all is saved") {
		w.save() // the log alone does not tell when the clock was set
	}
	w.shift += w.ahead // a steady clock begins as the wall clock
	w.ahead = 0
	w.up = at.Add(w.millis("down for", 0, 20_000))
	for len(w.pending) > 0 && !w.pending[0].At.After(w.up) {
		w.pending = w.pending[1:]
	}
	w.rt.Logf("%v restart", w.up.Sub(start))
	w.tracker = New(w.config)
	w.tracker.SetClock(w.up.Add(w.shift), 0)
	if err := w.tracker.Restore("", slices.Collect(maps.Values(w.bucket)), w.log); err != nil {
		w.rt.Fatal(err)
	}
	maps.Copy(w.lost, w.seen)
	w.restore()
	w.save()
	w.advance(w.up)
}
