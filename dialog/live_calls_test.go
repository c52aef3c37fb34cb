package dialog

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A life is one attempt at a dialog: what TestOneHangup knows of a leg. It is the rules
// by which a leg begins and ends, and nothing else:
//
//   - It begins with its INVITE, and ends with a final response (RFC 3261 §13.2.2).
//     After 401, 407 or 422 it has 30 s to come again.
//   - A CANCEL ends nothing (§9.1), unless a restart has lost the transaction.
//   - A 2xx begins a dialog, and each other To tag another (§13.2.2.4). A BYE ends its
//     dialog, whatever becomes of it (§15.1.1); the last one ends the leg. One that was
//     sent before the 2xx, in the same dialog, counts with the 2xx.
//   - A request in a dialog counts if the PBX sends it, or the address of the leg, with
//     a new CSeq (§12.2.2); any other once the PBX has accepted it.
//   - 481 to INVITE, UPDATE, INFO or BYE ends a dialog (RFC 5057 §5.1). 481 to another
//     request, and 408 to any, end it 32 s later, unless that end was heard of by then.
//   - Else it ends when a limit passes: of ringing, of the session (RFC 4028), of a call.
type life struct {
	line    *line
	parties []*owed // on this leg: of the extension, and of the queue that it calls
	state   state
	branch  string
	cseq    uint32
	cut     bool // a restart has lost the transaction of the INVITE
	cancels bool
	byeTag  string            // of the BYE that came before the 2xx
	open    []string          // To tags of its dialogs
	closed  []string          // of those that are over
	last    map[string]uint32 // CSeq of the requests in a dialog, by its tags, and by who sends

	heard, answered, refused, expires, doubted time.Time

	doubts  Side                 // whose end is doubted
	peer    netip.AddrPort       // of the edge side
	claimed map[string]time.Time // when a BYE came that did not count, by its branch
}

// of reports whether an INVITE, its CANCEL or its response is of the caller of l.
func (l *life) of(m *Message) bool {
	return m.CallID == l.line.callID && m.FromTag == l.line.from && m.Origin() == l.line.origin
}

// within returns the To tag of the dialog of l that m is of.
func (l *life) within(m *Message) (tag string, ok bool) {
	if m.CallID != l.line.callID {
		return "", false
	}
	tag = m.ToTag
	if m.FromTag != l.line.from {
		tag = m.FromTag
	}
	if l.cut && l.state < talking { // it may have been answered since, with any tag
		return tag, m.FromTag == l.line.from || m.ToTag == l.line.from
	}
	byCaller := m.FromTag == l.line.from && (m.Origin() == l.line.origin || m.Src == m.Dst)
	byCallee := m.ToTag == l.line.from && (m.Origin() != l.line.origin || m.Src == m.Dst)
	return tag, (byCaller || byCallee) && slices.Contains(l.open, tag)
}

// pass ends the lives whose limits have passed.
func (w *world) pass(now time.Time) {
	for _, l := range w.lives {
		for {
			at, since := l.limit()
			if at.IsZero() || at.After(now) {
				break
			}
			if l.state == talking && l.doubted.Add(lingerTime).Equal(at) {
				w.closes(l, l.open[0], at, since)
				continue
			}
			w.ends(l, at, since)
		}
	}
}

// limit is when a leg is over by itself, zero: it is already, and since when it then was.
func (l *life) limit() (at, since time.Time) {
	switch l.state {
	case calling, ringing:
		at = l.heard.Add(ringLimit)
	case challenged:
		return l.refused.Add(retryWithin), l.refused
	case talking:
		at = l.answered.Add(time.Hour)
		if !l.expires.IsZero() && l.expires.Before(at) {
			at = l.expires
		}
		if d := l.doubted.Add(lingerTime); !l.doubted.IsZero() && d.Before(at) {
			return d, l.doubted
		}
	}
	return at, at
}

// ends has a leg be over, and its parties if it was their last one.
func (w *world) ends(l *life, at, since time.Time) {
	l.state = over
	for _, p := range l.parties {
		if p.due.IsZero() && !w.holds(p) {
			p.due, p.since = at, since
		}
	}
}

// holds reports whether a leg keeps a party from being over: one that is up, or, if none
// was answered, one that may yet be.
func (w *world) holds(p *owed) bool {
	return slices.ContainsFunc(w.lives, func(l *life) bool {
		return slices.Contains(l.parties, p) && (l.state == talking || l.state != over && !p.answered)
	})
}

// closes ends a dialog, and its leg if it was the last one.
func (w *world) closes(l *life, tag string, at, since time.Time) {
	l.open = slices.DeleteFunc(l.open, func(o string) bool { return o == tag })
	l.closed, l.doubted = append(l.closed, tag), time.Time{}
	if len(l.open) == 0 || l.state < talking {
		w.ends(l, at, since)
	}
}

// observe takes note of a message.
func (w *world) observe(m *Message) {
	switch {
	case m.Method == "INVITE" && m.Request() && m.ToTag == "":
		w.invite(m)
		return
	case m.Method == "CANCEL":
		if l := w.transaction(m); l != nil && l.state < challenged && (m.Src == PBX || m.Trunk != "" || m.From.Addr() == l.peer.Addr()) {
			if l.cancels = true; l.cut {
				w.ends(l, m.At, m.At)
			}
		}
		return
	case m.Method == "INVITE" && !m.Request():
		if l := w.transaction(m); l != nil {
			w.response(l, m)
			return
		}
	}
	for _, l := range w.lives {
		if tag, ok := l.within(m); ok {
			w.dialog(l, tag, m)
		}
	}
}

// transaction returns the leg whose INVITE m cancels or answers.
func (w *world) transaction(m *Message) *life {
	for _, l := range slices.Backward(w.lives) {
		if l.of(m) && l.branch == "" && l.cut && m.Status < 300 && (m.Src == PBX || !m.Request() || m.From.Addr() == l.peer.Addr()) {
			l.branch, l.cseq = m.Branch, m.CSeq // only the log knew it
		}
		if l.of(m) && l.branch == m.Branch {
			return l
		}
	}
	return nil
}

func (w *world) invite(m *Message) {
	if m.From == strangerAddr {
		return // it has the Call-ID of another's call
	}
	var again *life // that was refused so that it may come again
	for _, l := range w.lives {
		switch {
		case !l.of(m):
		case l.branch == "", l.cseq > m.CSeq, l.cseq == m.CSeq && l.branch == m.Branch: // it was there already
			if l.branch == "" {
				l.branch, l.cseq = m.Branch, m.CSeq
			}
			l.cut = l.cut && l.cseq > m.CSeq
			return
		case l.state == challenged:
			again = l
		}
	}
	if l := again; l != nil {
		l.state, l.heard, l.branch, l.cseq, l.open, l.peer = calling, m.At, m.Branch, m.CSeq, nil, m.From
		return
	}
	l := &life{line: w.lines[m.CallID], branch: m.Branch, cseq: m.CSeq, heard: m.At, peer: m.phone(), last: map[string]uint32{}, claimed: map[string]time.Time{}}
	user := func(uri string) string { return parseURI(uri).user }
	switch {
	case m.Src == PBX:
		w.join(l, user(l.line.uri), In)
	default:
		if m.Trunk == "" {
			w.join(l, user(l.line.fromURI), Out)
		}
		if to := user(l.line.uri); strings.HasPrefix(to, "6") {
			w.join(l, to, In)
		}
	}
	w.lives = append(w.lives, l)
}

// join gives a leg the party of an extension, or another if that is over.
func (w *world) join(l *life, ext string, flow Flow) {
	p := w.last(ext, flow)
	if p == nil || p.over() {
		p = &owed{ext: ext, flow: flow}
		w.parties = append(w.parties, p)
	}
	p.due = time.Time{} // also if its other phone refused a moment ago
	l.parties = append(l.parties, p)
}

// response is a response to the INVITE of l.
func (w *world) response(l *life, m *Message) {
	if l.state == talking && m.Status/100 == 2 && !slices.Contains(l.open, m.ToTag) && !slices.Contains(l.closed, m.ToTag) {
		l.open = append(l.open, m.ToTag) // the INVITE was forked
	}
	if l.state > ringing {
		return
	}
	if m.ToTag != "" && (len(l.open) == 0 || m.Status >= 200) {
		l.open = []string{m.ToTag}
	}
	dialed := slices.ContainsFunc(l.parties, func(p *owed) bool { return p.dialed })
	switch {
	case m.Status == 100:
	case m.Status < 200:
		l.state, l.heard = ringing, m.At
	case m.Status < 300:
		l.state, l.answered = talking, m.At
		if l.line.origin == PBX && m.Src == Edge && !m.Own {
			l.peer = m.From
		}
		for _, p := range l.parties {
			p.answered = true
		}
		l.session(m)
		if l.byeTag == m.ToTag {
			w.ends(l, m.At, m.At)
		}
	case (m.Status == 401 || m.Status == 407) && !dialed && l.line.origin == Edge:
		w.lives = slices.DeleteFunc(w.lives, func(o *life) bool { return o == l })
	case m.Status == 401, m.Status == 407, m.Status == 422 && !l.cancels:
		l.state, l.refused = challenged, m.At
	default:
		w.ends(l, m.At, m.At)
	}
}

// session notes how long the session of l lasts, as the 2xx m says.
func (l *life) session(m *Message) {
	l.expires = time.Time{}
	if n, err := strconv.Atoi(headerValue(m.Head, "Session-Expires")); err == nil {
		l.expires = m.At.Add(time.Duration(n)*time.Second + lingerTime)
	}
}

// dialog is a message in a dialog of l.
func (w *world) dialog(l *life, tag string, m *Message) {
	by := m.originator()
	counts := m.Origin() == PBX || by == l.peer || m.Trunk != ""
	usage := m.Method == "INVITE" || m.Method == "UPDATE" || m.Method == "INFO" || m.Method == "BYE"
	gone := m.Status == 481 && !m.Own && usage
	accepted := m.Status/100 == 2 && !m.Own && m.Method != "OPTIONS" && (m.Src == PBX || m.From.Addr() == l.peer.Addr())
	switch {
	case m.Request():
		end, sender := "caller", m.FromTag+" "+m.ToTag
		if m.FromTag != l.line.from {
			end = "callee"
		}
		if l.cut && l.state < talking { // whichever dialog it is
			sender = end
		}
		last, any := l.last[sender]
		if m.FromTag == l.line.from {
			last, any = max(last, l.cseq), true
		}
		if !counts || any && m.CSeq <= last {
			if _, ok := l.claimed[m.Branch]; !ok && m.Method == "BYE" {
				l.claimed[m.Branch] = m.At
			}
			return
		}
		l.last[end], l.last[m.FromTag+" "+m.ToTag] = m.CSeq, m.CSeq
	case !counts && !accepted && !(gone && m.Src == PBX):
		return
	case accepted && m.Method != "BYE" && m.Src == PBX && m.Dst == Edge && (l.line.origin == Edge || slices.Contains(l.open, tag)):
		l.peer = by // it is there now
	}
	switch {
	case m.Method == "BYE" && (m.Request() || accepted):
		since, ok := l.claimed[m.Branch]
		if !ok {
			since = m.At
		}
		w.bye(l, tag, m, since)
		return
	case l.state != talking:
		return
	case gone:
		w.closes(l, tag, m.At, m.At)
		return
	case m.Method == "BYE":
		return
	case m.Status == 481, m.Status == 408:
		if l.doubted.IsZero() {
			l.doubted, l.doubts = m.At, m.Src
		}
		return
	case accepted && (m.Method == "INVITE" || m.Method == "UPDATE"):
		l.session(m)
	}
	if !m.Own && (l.doubts == m.Src || accepted && !counts) {
		l.doubted = time.Time{}
	}
}

// bye is a BYE, or the 2xx to one that was not seen.
func (w *world) bye(l *life, tag string, m *Message, since time.Time) {
	switch {
	case l.state == talking:
		w.closes(l, tag, m.At, since)
	case l.state < challenged && l.cut:
		w.ends(l, m.At, since)
	case l.state < challenged && m.FromTag == l.line.from:
		l.cancels, l.byeTag = true, m.ToTag
	}
}

// restore is what is known after a restart: what was saved, and what the log tells.
func (w *world) restore() {
	w.lives = nil
	for i := range w.saved {
		w.lives = append(w.lives, &w.saved[i])
	}
	for i := range w.log {
		e := &w.log[i]
		p := w.byID[e.Party]
		if p == nil {
			continue
		}
		l := w.logged(e, p)
		switch e.Type {
		case DialIn, DialOut, Answer:
			if l == nil {
				l = &life{line: w.lines[e.Leg.CallID], parties: []*owed{p}, heard: e.Observed, last: map[string]uint32{}, claimed: map[string]time.Time{}}
				l.peer, _ = netip.ParseAddrPort(e.Leg.Peer)
				w.lives = append(w.lives, l)
			}
			if e.Type == Answer && l.state < talking {
				l.state, l.answered, l.open = talking, e.Observed, []string{e.Leg.ToTag}
			}
		case Hangup:
			for _, l := range w.lives {
				if slices.Contains(l.parties, p) {
					l.state = over
				}
			}
		}
	}
	w.saved = nil
	for _, l := range w.lives {
		l.cut = l.state < challenged
	}
	for _, p := range w.parties {
		switch {
		case w.holds(p):
			p.due = time.Time{}
		case p.dialed && p.due.IsZero(): // the leg that held it is not known any more
			p.due, p.since = w.up, start
		}
	}
}

// logged returns the leg of a party that an event names; nil: none is known.
func (w *world) logged(e *Event, p *owed) *life {
	for _, l := range slices.Backward(w.lives) {
		if l.line.callID != e.Leg.CallID || l.line.from != e.Leg.FromTag || l.state == over {
			continue
		}
		if slices.Contains(l.parties, p) {
			return l
		}
		if e.Type != Answer && strings.HasPrefix(p.ext, "6") { // a queue, on its caller's leg
			l.parties = append(l.parties, p)
			return l
		}
	}
	return nil
}
