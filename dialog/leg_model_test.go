package dialog

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"bellhop/dialog/siptext"
)

// A modelLeg is TestOneHangup's model of one attempt at a dialog. It has the rules by which
// a leg begins and ends, and nothing else:
//
//   - It begins with its INVITE, and ends with a final response (RFC 3261 §13.2.2).
//
// After 401, 407 or 422 its INVITE may be repeated within 30 s.
//   - A CANCEL ends nothing (§9.1), unless a restart has lost the transaction.
//   - A 2xx begins a dialog, and each other To tag another (§13.2.2.4). A BYE ends its
//
// dialog, whatever its response (§15.1.1); the last BYE ends the leg. A BYE that was sent
// before the 2xx, in the same dialog, counts with the 2xx.
//   - A request in a dialog counts if the PBX sends it, or the address of the leg, with
//
// a new CSeq (§12.2.2); any other once the PBX has accepted it.
//   - 481 to INVITE, UPDATE, INFO or BYE ends a dialog (RFC 5057 §5.1). 481 to another
//
// request, and 408 to any, end it 32 s later, unless that end sends a message by then.
//   - Else it ends when a limit passes: of ringing, of the session (RFC 4028), of a call.
type modelLeg struct {
	line            *line
	parties         []*expectedParty // on this leg: of the extension, and of the queue that it calls
	state           state
	branch          string
	cseq            uint32
	transactionLost bool // a restart has lost the transaction of the INVITE
	cancels         bool
	byeTag          string            // To tag of the BYE that came before the 2xx
	open            []string          // To tags of its dialogs
	closed          []string          // To tags of its ended dialogs
	last            map[string]uint32 // last CSeq in a dialog, by its tags and the sender

	heard, answered, refused, expires, doubted time.Time

	doubts  Side                 // side whose end may be gone
	peer    netip.AddrPort       // of the edge side
	claimed map[string]time.Time // time of a BYE that did not count, by its branch
}

// ownsInvite reports whether an INVITE, its CANCEL or its response belongs to the caller of
// l.
func (l *modelLeg) ownsInvite(m *Message) bool {
	return m.CallID == l.line.callID && m.FromTag == l.line.from && m.Origin() == l.line.origin
}

// dialogTag returns the To tag of the dialog of l that m belongs to.
func (l *modelLeg) dialogTag(m *Message) (tag string, ok bool) {
	if m.CallID != l.line.callID {
		return "", false
	}
	tag = m.ToTag
	if m.FromTag != l.line.from {
		tag = m.FromTag
	}
	if l.transactionLost && l.state < talking { // the To tag of an answer since then is not known
		return tag, m.FromTag == l.line.from || m.ToTag == l.line.from
	}
	byCaller := m.FromTag == l.line.from && (m.Origin() == l.line.origin || m.Src == m.Dst)
	byCallee := m.ToTag == l.line.from && (m.Origin() != l.line.origin || m.Src == m.Dst)
	return tag, (byCaller || byCallee) && slices.Contains(l.open, tag)
}

// endExpired ends the legs whose limits have passed.
func (w *simulation) endExpired(now time.Time) {
	for _, l := range w.legs {
		for {
			at, since := l.ownLimit()
			if at.IsZero() || at.After(now) {
				break
			}
			if l.state == talking && l.doubted.Add(lingerTime).Equal(at) {
				w.closeDialog(l, l.open[0], at, since)
				continue
			}
			w.endLeg(l, at, since)
		}
	}
}

// ownLimit returns when a leg ends by itself, zero if it has ended, and since when it then
// counts as ended.
func (l *modelLeg) ownLimit() (at, since time.Time) {
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

// endLeg ends a leg, and its parties if it was their last one.
func (w *simulation) endLeg(l *modelLeg, at, since time.Time) {
	l.state = over
	for _, p := range l.parties {
		if p.due.IsZero() && !w.partyGoesOn(p) {
			p.due, p.since = at, since
		}
	}
}

// partyGoesOn reports whether a leg prevents a party from ending: one that is answered, or,
// if none was answered, one that may yet be.
func (w *simulation) partyGoesOn(p *expectedParty) bool {
	return slices.ContainsFunc(w.legs, func(l *modelLeg) bool {
		return slices.Contains(l.parties, p) && (l.state == talking || l.state != over && !p.answered)
	})
}

// closeDialog ends a dialog, and its leg if it was the last one.
func (w *simulation) closeDialog(l *modelLeg, tag string, at, since time.Time) {
	l.open = slices.DeleteFunc(l.open, func(o string) bool { return o == tag })
	l.closed, l.doubted = append(l.closed, tag), time.Time{}
	if len(l.open) == 0 || l.state < talking {
		w.endLeg(l, at, since)
	}
}

// observeMessage updates the model with a message.
func (w *simulation) observeMessage(m *Message) {
	switch {
	case m.Method == "INVITE" && m.Request() && m.ToTag == "":
		w.observeInvite(m)
		return
	case m.Method == "CANCEL":
		if l := w.legOfTransaction(m); l != nil && l.state < challenged && (m.Src == PBX || m.Trunk != "" || m.From.Addr() == l.peer.Addr()) {
			if l.cancels = true; l.transactionLost {
				w.endLeg(l, m.At, m.At)
			}
		}
		return
	case m.Method == "INVITE" && !m.Request():
		if l := w.legOfTransaction(m); l != nil {
			w.observeResponse(l, m)
			return
		}
	}
	for _, l := range w.legs {
		if tag, ok := l.dialogTag(m); ok {
			w.observeInDialog(l, tag, m)
		}
	}
}

// legOfTransaction returns the leg whose INVITE m cancels or answers.
func (w *simulation) legOfTransaction(m *Message) *modelLeg {
	for _, l := range slices.Backward(w.legs) {
		if l.ownsInvite(m) && l.branch == "" && l.transactionLost && m.Status < 300 && (m.Src == PBX || !m.Request() || m.From.Addr() == l.peer.Addr()) {
			l.branch, l.cseq = m.Branch, m.CSeq // the leg was restored from the log alone
		}
		if l.ownsInvite(m) && l.branch == m.Branch {
			return l
		}
	}
	return nil
}

func (w *simulation) observeInvite(m *Message) {
	if m.From == strangerAddr {
		return // the INVITE has the Call-ID of another caller's call
	}
	var again *modelLeg // leg whose refusal asks for another INVITE
	for _, l := range w.legs {
		switch {
		case !l.ownsInvite(m):
		case l.branch == "", l.cseq > m.CSeq, l.cseq == m.CSeq && l.branch == m.Branch: // the INVITE is a straggler
			if l.branch == "" {
				l.branch, l.cseq = m.Branch, m.CSeq
			}
			l.transactionLost = l.transactionLost && l.cseq > m.CSeq
			return
		case l.state == challenged:
			again = l
		}
	}
	if l := again; l != nil {
		l.state, l.heard, l.branch, l.cseq, l.open, l.peer = calling, m.At, m.Branch, m.CSeq, nil, m.From
		return
	}
	l := &modelLeg{line: w.lines[m.CallID], branch: m.Branch, cseq: m.CSeq, heard: m.At, peer: m.phone(), last: map[string]uint32{}, claimed: map[string]time.Time{}}
	user := func(uri string) string { return parseURI(uri).user }
	switch {
	case m.Src == PBX:
		w.joinParty(l, user(l.line.uri), In)
	default:
		if m.Trunk == "" {
			w.joinParty(l, user(l.line.fromURI), Out)
		}
		if to := user(l.line.uri); strings.HasPrefix(to, "6") {
			w.joinParty(l, to, In)
		}
	}
	w.legs = append(w.legs, l)
}

// joinParty assigns a leg to the last party of an extension, or to a new one if that is over.
func (w *simulation) joinParty(l *modelLeg, ext string, flow Flow) {
	p := w.lastParty(ext, flow)
	if p == nil || p.over() {
		p = &expectedParty{ext: ext, flow: flow}
		w.parties = append(w.parties, p)
	}
	p.due = time.Time{} // also if its other phone has just refused
	l.parties = append(l.parties, p)
}

// observeResponse applies a response to the INVITE of l.
func (w *simulation) observeResponse(l *modelLeg, m *Message) {
	if l.state == talking && m.Status/100 == 2 && !slices.Contains(l.open, m.ToTag) && !slices.Contains(l.closed, m.ToTag) {
		l.open = append(l.open, m.ToTag) // the INVITE was forked
	}
	if l.state > ringing {
		return
	}
	if m.ToTag != "" && (len(l.open) == 0 || m.Status >= 200) {
		l.open = []string{m.ToTag}
	}
	dialed := slices.ContainsFunc(l.parties, func(p *expectedParty) bool { return p.dialed })
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
		l.noteSession(m)
		if l.byeTag == m.ToTag {
			w.endLeg(l, m.At, m.At)
		}
	case (m.Status == 401 || m.Status == 407) && !dialed && l.line.origin == Edge:
		w.legs = slices.DeleteFunc(w.legs, func(o *modelLeg) bool { return o == l })
	case m.Status == 401, m.Status == 407, m.Status == 422 && !l.cancels:
		l.state, l.refused = challenged, m.At
	default:
		w.endLeg(l, m.At, m.At)
	}
}

// noteSession sets how long the session of l lasts, from the 2xx m.
func (l *modelLeg) noteSession(m *Message) {
	l.expires = time.Time{}
	if n, err := strconv.Atoi(siptext.Field(m.Head, "Session-Expires")); err == nil {
		l.expires = m.At.Add(time.Duration(n)*time.Second + lingerTime)
	}
}

// observeInDialog applies a message in a dialog of l.
func (w *simulation) observeInDialog(l *modelLeg, tag string, m *Message) {
	by := m.Originator()
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
		if l.transactionLost && l.state < talking { // the dialog is not known
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
		l.peer = by // the phone has this address now
	}
	switch {
	case m.Method == "BYE" && (m.Request() || accepted):
		since, ok := l.claimed[m.Branch]
		if !ok {
			since = m.At
		}
		w.observeBye(l, tag, m, since)
		return
	case l.state != talking:
		return
	case gone:
		w.closeDialog(l, tag, m.At, m.At)
		return
	case m.Method == "BYE":
		return
	case m.Status == 481, m.Status == 408:
		if l.doubted.IsZero() {
			l.doubted, l.doubts = m.At, m.Src
		}
		return
	case accepted && (m.Method == "INVITE" || m.Method == "UPDATE"):
		l.noteSession(m)
	}
	if !m.Own && (l.doubts == m.Src || accepted && !counts) {
		l.doubted = time.Time{}
	}
}

// observeBye applies a BYE, or the 2xx to one that was not observed.
func (w *simulation) observeBye(l *modelLeg, tag string, m *Message, since time.Time) {
	switch {
	case l.state == talking:
		w.closeDialog(l, tag, m.At, since)
	case l.state < challenged && l.transactionLost:
		w.endLeg(l, m.At, since)
	case l.state < challenged && m.FromTag == l.line.from:
		l.cancels, l.byeTag = true, m.ToTag
	}
}

// restoreLegs resets the model to the state after a restart: the saved legs and the log.
func (w *simulation) restoreLegs() {
	w.legs = nil
	for i := range w.saved {
		w.legs = append(w.legs, &w.saved[i])
	}
	for i := range w.log {
		e := &w.log[i]
		p := w.byID[e.Party]
		if p == nil {
			continue
		}
		l := w.legOfEvent(e, p)
		switch e.Type {
		case DialIn, DialOut, Answer:
			if l == nil {
				l = &modelLeg{line: w.lines[e.Leg.CallID], parties: []*expectedParty{p}, heard: e.Observed, last: map[string]uint32{}, claimed: map[string]time.Time{}}
				l.peer, _ = netip.ParseAddrPort(e.Leg.Peer)
				w.legs = append(w.legs, l)
			}
			if e.Type == Answer && l.state < talking {
				l.state, l.answered, l.open = talking, e.Observed, []string{e.Leg.ToTag}
			}
		case Hangup:
			for _, l := range w.legs {
				if slices.Contains(l.parties, p) {
					l.state = over
				}
			}
		}
	}
	w.saved = nil
	for _, l := range w.legs {
		l.transactionLost = l.state < challenged
	}
	for _, p := range w.parties {
		switch {
		case w.partyGoesOn(p):
			p.due = time.Time{}
		case p.dialed && p.due.IsZero(): // its leg was lost in the restart
			p.due, p.since = w.up, start
		}
	}
}

// legOfEvent returns the leg of a party that an event names; nil: none is known.
func (w *simulation) legOfEvent(e *Event, p *expectedParty) *modelLeg {
	for _, l := range slices.Backward(w.legs) {
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
