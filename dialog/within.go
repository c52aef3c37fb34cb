package dialog

import (
	"strconv"
	"strings"
	"time"
)

// byPhone reports whether the transaction of m was begun by the phone, or the
// carrier, that the leg leads to.
func (l *leg) byPhone(m *Message) bool {
	tag := l.fromTag
	if l.origin == PBX {
		tag = l.toTag
	}
	return m.Origin() == Edge && m.FromTag == tag
}

// reinvite shows a leg a re-INVITE or UPDATE, or its response.
func (t *Tracker) reinvite(l *leg, m *Message) {
	if m.Src == PBX && (m.Request() || m.Status/100 == 2) {
		t.connected(l, m)
	}
	switch {
	case l.state != talking && (l.state != ringing || m.Method != "UPDATE"):
	case m.Request():
		l.offered(m)
	case m.Status < 300:
		if m.Status >= 200 && l.state == talking {
			l.refresh(m)
		}
		t.agreed(l, m)
	}
}

// hold says that the extension at a leg's phone put the other on hold, or took
// it back. Before the answer there is no talk to hold, and neither while the PBX
// calls the extension back: the direction at the answer counts then.
func (t *Tracker) hold(l *leg, to media, at time.Time) {
	p := l.party
	if to == unsaid {
		return
	}
	if l.state == ringing || p != nil && p.answered.IsZero() {
		l.early = to
		return
	}
	if p == nil || p.over || l.trunk || p.holds == (to == held) {
		return
	}
	p.holds = to == held
	typ := Resume
	if p.holds {
		typ = Hold
	}
	t.say(p, typ, at).Status = Answered
}

// connected notes whom the PBX now connects a called extension with (RFC 3325,
// RFC 5876).
func (t *Tracker) connected(l *leg, m *Message) {
	p := l.party
	if p == nil || p.over || p.flow != In || !t.config.IgnorePrivacy && private(header(m.Head, "Privacy")) {
		return
	}
	_, u := assertedIdentity(m.Head)
	party := firstOf(header(m.Head, "Remote-Party-ID"))
	if !t.config.IgnorePrivacy && privateParty(party) {
		return
	}
	if u == "" {
		_, u, _ = nameAddr(party)
	}
	switch remote := parseURI(u); {
	case remote.user == p.remote || remote.user == "" || anonymous(remote):
	case remote.user == p.first.num:
		p.remote = ""
	default:
		p.remote = clone(remote.user)
	}
}

// minSession is the shortest session interval there is (RFC 4028 §4).
const minSession = 90 * time.Second

// refresh notes until when a session lasts, as the 2xx to an INVITE or UPDATE
// says: without Session-Expires for ever (RFC 4028 §7.2).
func (l *leg) refresh(m *Message) {
	l.expires = time.Time{}
	value, _, _ := strings.Cut(header(m.Head, "Session-Expires"), ";")
	if n, err := strconv.ParseUint(strings.TrimSpace(value), 10, 31); err == nil {
		l.expires = m.At.Add(max(minSession, time.Duration(n)*time.Second) + linger)
	}
}

// A refer is a REFER that an extension's phone has sent within its call, to
// connect who it talks with to somebody else (RFC 3515).
type refer struct {
	leg      *leg
	at       time.Time
	cseq     uint32
	by       string // who says to refer
	to       string // user of Refer-To; of a phone's contact: whose it is
	contact  string // user of Refer-To, if that is a phone's contact
	ext      Extension
	replaces string // Call-ID of the dialog that the new call is to take over; "": none
	other    string // the call of that dialog
	accepted bool
	told     bool

	// A FreeSWITCH says 200 in its first NOTIFY, before it calls anybody: what it
	// does next shows what becomes of the REFER.
	begun       bool // a NOTIFY of 1xx came, or the PBX called somebody
	taken       int  // the status in that NOTIFY; 0: there was none
	takenPhrase string
}

// followGap is how long a PBX takes, after the leg of who transfers has ended, to
// call the one whom the REFER names, or to hang up on who was to be connected. A
// FreeSWITCH 1.11 took 27 to 49 ms from the REFER (December 2026).
const followGap = 200 * time.Millisecond

// maxRefers is how many REFERs may be waiting for the calls they cause.
const maxRefers = 1 << 10

// refer shows a leg a REFER or its response.
func (t *Tracker) refer(l *leg, m *Message) {
	p := l.party
	if p == nil || p.over || l.state != talking || !l.byPhone(m) {
		return
	}
	if !m.Request() {
		if r := l.referOf(m.CSeq); r != nil && !r.told {
			if m.Status/100 == 2 && !r.accepted {
				r.accepted = true
				t.referHost(r, m.At)
			}
			if m.Status >= 300 {
				l.drop(r)
				t.forget(r)
			}
		}
		return
	}
	if r := t.readRefer(l, m); r != nil {
		t.await(l, r)
	}
}

// readRefer reads a REFER; nil: it names nobody, asks for another request than an INVITE
// (RFC 3515 §2.1), or who sends it is no extension.
func (t *Tracker) readRefer(l *leg, m *Message) *refer {
	p := l.party
	_, to, _ := nameAddr(header(m.Head, "Refer-To"))
	target := parseURI(to)
	if target.user == "" || p == nil || !l.byPhone(m) {
		return nil
	}
	if method, ok := param(splitURI(to).params, "method"); ok && !strings.EqualFold(method, "INVITE") {
		return nil
	}
	r := &refer{leg: l, at: m.At, cseq: m.CSeq, to: clone(target.user), by: p.ext.User}
	if ext, ok := t.names.bound(to, m.At); ok && ext.User != target.user {
		r.ext, r.to, r.contact = ext, ext.User, r.to
	} else {
		r.ext = t.names.dialed(r.to, clone(target.host), m.At)
	}
	if _, by, _ := nameAddr(header(m.Head, "Referred-By")); by != "" {
		r.by = clone(parseURI(by).user)
	}
	if _, headers, ok := strings.Cut(to, "?"); ok {
		var tag, other string
		r.replaces, tag, other = replaced(headers)
		r.replaces = clone(r.replaces)
		if o := t.dialogWith(r.replaces, tag, other); o != nil && o.call != l.call {
			r.other = o.call.id
		}
	}
	return r
}

// await notes a REFER of a leg, whose fate is not known yet and which a new leg
// may follow.
func (t *Tracker) await(l *leg, r *refer) {
	if l.refer != nil {
		l.earlier = append(l.earlier, l.refer)
	}
	if len(l.earlier) > maxOpenRefers {
		t.forget(l.earlier[0])
		l.earlier = l.earlier[1:]
	}
	l.refer = r
	l.refersSent++
	for len(t.refers) > 0 && (len(t.refers) >= maxRefers || r.at.Sub(t.refers[0].at) > progressed) {
		t.refers = t.refers[1:]
	}
	t.refers = append(t.refers, r)
}

// replaced returns the dialog in the Replaces header of a URI (RFC 3891 §3).
func replaced(headers string) (callID, toTag, fromTag string) {
	for h := range strings.SplitSeq(headers, "&") {
		if name, value, _ := strings.Cut(h, "="); is(name, "Replaces") {
			return readReplaces(unescape(value))
		}
	}
	return "", "", ""
}

// readReplaces takes a Replaces header field apart (RFC 3891 §6.1).
func readReplaces(value string) (callID, toTag, fromTag string) {
	callID, params, _ := strings.Cut(value, ";")
	params = ";" + params
	toTag, _ = param(params, "to-tag")
	fromTag, _ = param(params, "from-tag")
	return strings.TrimSpace(callID), toTag, fromTag
}

// forget takes a REFER from those that a new leg may follow.
func (t *Tracker) forget(r *refer) {
	for i, o := range t.refers {
		if o == r {
			t.refers = append(t.refers[:i:i], t.refers[i+1:]...)
			return
		}
	}
}

// fate shows a leg a NOTIFY, which may say what became of its REFER: the status
// line of the new call's response (RFC 3515 §2.4.5).
func (t *Tracker) fate(l *leg, m *Message) {
	r := l.referOfEvent(header(m.Head, "Event"))
	if r == nil || m.Src != PBX {
		return
	}
	n, phrase := readStatusLine(m.Body)
	switch {
	case n == 0:
	case n < 200:
		r.begun = true
	case n < 300 && !r.begun && r.replaces == "" && freeSWITCH(m) && t.names.phone(r.ext): // only a phone is called
		r.taken, r.takenPhrase = n, clone(phrase)
	default:
		t.settle(r, m.At, n, clone(phrase))
	}
}

// readStatusLine reads the status line that a message/sipfrag begins with: its version
// has no case (RFC 3261 §7.1), and there may be spaces too many. The code is 0 if there
// is none.
func readStatusLine(sipfrag string) (code int, phrase string) {
	line, _, _ := strings.Cut(strings.TrimLeft(sipfrag, " \t\r\n"), "\n")
	version, rest, _ := strings.Cut(strings.TrimRight(line, " \t\r"), " ")
	if !strings.EqualFold(version, "SIP/2.0") {
		return 0, ""
	}
	text, phrase, _ := strings.Cut(strings.TrimLeft(rest, " "), " ")
	n, err := strconv.Atoi(text)
	if err != nil || n < 100 || n > 699 {
		return 0, ""
	}
	return n, strings.TrimLeft(phrase, " ")
}

// freeSWITCH reports whether a message comes from a FreeSWITCH, by its User-Agent or by
// the user of its Contact, which no setting changes.
func freeSWITCH(m *Message) bool {
	_, contact, _ := nameAddr(header(m.Head, "Contact"))
	return strings.HasPrefix(header(m.Head, "User-Agent"), "FreeSWITCH") || parseURI(contact).user == "mod_sofia"
}

// pending reports whether the party that sent the REFER waits for what becomes of it.
func (r *refer) pending() bool { return r.leg.party != nil && r.leg.party.sends == r }

// followed notes that the PBX calls somebody because of a REFER.
func (t *Tracker) followed(r *refer, at time.Time) {
	r.begun = true
	if r.taken != 0 && !r.told {
		t.transferred(r, at, r.taken, r.takenPhrase, "")
	}
}

// notFollowed shows the other legs that the PBX hangs up on leg l with the BYE m:
// if it has taken a REFER of one of them and called nobody since, it could not.
func (t *Tracker) notFollowed(l *leg, m *Message) {
	for _, o := range l.call.legs {
		if o == l || o.party == nil || o.party == l.party {
			continue
		}
		open := o.openRefers()
		if len(open) == 0 && o.party.sends != nil {
			open = []*refer{o.party.sends}
		}
		for _, r := range open {
			if r.taken == 0 || r.told {
				continue
			}
			s := readReason(m.Head).word()
			if s == "" {
				s = ChanUnavail
			}
			t.transferred(r, m.At, 0, "", s)
		}
	}
}

// transferred says once what became of a REFER; a code of 0 is unknown, and then
// status is what is known of it. If its sender has left since, that is told too.
func (t *Tracker) transferred(r *refer, at time.Time, code int, phrase string, status Status) {
	l := r.leg
	p := l.party
	l.drop(r)
	if p.sends == r {
		p.sends = nil
		if l.call.leaving == p {
			l.call.leaving = nil
			at = p.left
			defer t.leave(p)
		}
	}
	if p.over {
		return
	}
	r.told, l.refers = true, true
	switch {
	case code/100 == 2:
		t.leaveHost(r)
		t.handOn(r)
	case code != 0:
		defer t.notReferred(r, at, code, phrase)
	}
	e := t.say(p, Transfer, at)
	e.CallerExtension = &p.ext // who transfers, and to whom
	e.CalledNumber, e.CalledE164 = r.to, t.e164(r.to, at)
	e.CalledExtension, e.OtherCall = nil, r.other
	if r.ext.User != "" {
		e.CalledExtension = &r.ext
	}
	e.SipCode, e.SipReason = code, phrase
	switch {
	case code/100 == 2:
		e.Status = Answered
	case code != 0:
		e.Status = word(code, true)
	default:
		e.Status = status
	}
}
