package dialog

import (
	"strconv"
	"strings"
	"time"

	"bellhop/dialog/siptext"
)

// A refer is a REFER that an extension's phone has sent within its call to transfer the
// other end to somebody else (RFC 3515).
type refer struct {
	leg        *leg
	sentAt     time.Time
	cseq       uint32
	referredBy string // user of Referred-By; without that, the extension
	target     string // user of Refer-To; if that is a phone's contact, the extension of the phone
	contact    string // user of Refer-To, if that is a phone's contact
	targetExt  Extension
	replaces   string // Call-ID of the dialog that the new call is to replace; "": none
	otherCall  string // id of that dialog's call
	accepted   bool
	emitted    bool // its transfer event was emitted

	// FreeSWITCH sends 200 in its first NOTIFY, before it calls anybody. Therefore a later
	// message decides the outcome.
	progressed  bool // a NOTIFY of 1xx came, or the PBX called somebody
	earlyStatus int  // status in such a first NOTIFY; 0: there was none
	earlyPhrase string
}

// followGap is the longest time after the end of a transferring phone's leg in which a
// PBX calls the REFER's target, or hangs up on the party that was to be connected.
// FreeSWITCH 1.11 took 27 to 49 ms from the REFER (December 2026).
const followGap = 200 * time.Millisecond

// A transferTracker follows REFERs from their acceptance to their outcome.
type transferTracker struct {
	changes   *changes
	directory *directory
	index     *callIndex
	refers    *recentRefers
	parties   *partyTracker
}

// observeRefer applies a REFER or its response to a leg.
func (t *transferTracker) observeRefer(l *leg, m *Message) {
	p := l.party
	if p == nil || p.over || l.state != talking || !l.sentByPhone(m) {
		return
	}
	if !m.Request() {
		if r := l.refers.ofCSeq(m.CSeq); r != nil && !r.emitted {
			if m.Status/100 == 2 && !r.accepted {
				r.accepted = true
				t.referToService(r, m.At)
			}
			if m.Status >= 300 {
				l.refers.drop(r)
				t.refers.remove(r)
			}
		}
		return
	}
	if r := t.readRefer(l, m); r != nil {
		t.addRefer(l, r)
	}
}

// readRefer parses the REFER m. It returns nil if m has no target, asks for a method
// other than INVITE (RFC 3515 §2.1), or was not sent by an extension's phone.
func (t *transferTracker) readRefer(l *leg, m *Message) *refer {
	p := l.party
	if p == nil || !l.sentByPhone(m) {
		return nil
	}
	to := siptext.ParseNameAddr(siptext.Field(m.Head, "Refer-To")).URI
	target := parseURI(to)
	toURI := siptext.ParseURI(to)
	if method, ok := toURI.Param("method"); ok && !strings.EqualFold(method, "INVITE") {
		return nil
	}
	r := &refer{leg: l, sentAt: m.At, cseq: m.CSeq, target: cloneString(target.user), referredBy: p.ext.User}
	if ext, ok := t.directory.boundExtension(to, m.At); ok && ext.User != target.user {
		r.targetExt, r.target, r.contact = ext, ext.User, r.target
	} else if r.target != "" {
		r.targetExt = t.directory.dialedExtension(r.target, cloneString(target.host), m.At)
	}
	if by := siptext.ParseNameAddr(siptext.Field(m.Head, "Referred-By")).URI; by != "" {
		r.referredBy = cloneString(parseURI(by).user)
	}
	if _, headers, ok := strings.Cut(to, "?"); ok {
		var tag, other string
		r.replaces, tag, other = replacesOfURI(headers)
		r.replaces = cloneString(r.replaces)
		if o := t.index.findDialog(r.replaces, tag, other); o != nil {
			if o.call != l.call {
				r.otherCall = o.call.id
			}
			if r.targetExt.User == "" && o.party != nil && o.party.ext.User == p.ext.User {
				r.target, r.targetExt = t.otherEnd(o, m.At)
			}
		}
	}
	if r.target == "" {
		return nil
	}
	return r
}

// otherEnd returns the number that the phone of a leg has called or was called by, and
// the extension that the number leads to, if any. SIP.js sends the Contact of the other
// end as the target of an attended transfer (RFC 5589 §7.3). That is the PBX's, without a
// number.
func (t *transferTracker) otherEnd(l *leg, now time.Time) (number string, ext Extension) {
	if l.origin == Edge {
		return l.calledUser, l.calledExt
	}
	if l.callerNum != "" {
		ext = t.directory.dialedExtension(l.callerNum, "", now)
	}
	return l.callerNum, ext
}

// addRefer adds a REFER to the open REFERs of its leg, and to the recent REFERs that a
// new leg may follow.
func (t *transferTracker) addRefer(l *leg, r *refer) {
	if evicted := l.refers.add(r); evicted != nil {
		t.refers.remove(evicted)
	}
	t.refers.add(r)
}

// observeReferNotify applies a NOTIFY of the PBX to the REFER that it reports on. The
// body is the status line of a response to the INVITE that the REFER caused (RFC 3515
// §2.4.5).
func (t *transferTracker) observeReferNotify(l *leg, m *Message) {
	r := l.refers.ofEvent(siptext.Field(m.Head, "Event"))
	if r == nil || m.Src != PBX {
		return
	}
	n, phrase := readStatusLine(m.Body)
	switch {
	case n == 0:
	case n < 200:
		r.progressed = true
	case n < 300 && !r.progressed && r.replaces == "" && isFreeSWITCH(m) && t.directory.isPhone(r.targetExt): // only for a phone: a REFER to another target causes no INVITE
		r.earlyStatus, r.earlyPhrase = n, cloneString(phrase)
	default:
		t.settleRefer(r, m.At, n, cloneString(phrase))
	}
}

// readStatusLine parses the status line at the start of a message/sipfrag. The version is
// compared without case (RFC 3261 §7.1), and extra spaces are allowed. The code is 0 if
// there is no status line.
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

// isFreeSWITCH reports whether a message comes from a FreeSWITCH, by its User-Agent or by
// the user of its Contact, which no setting changes.
func isFreeSWITCH(m *Message) bool {
	contact := siptext.ParseNameAddr(siptext.Field(m.Head, "Contact")).URI
	return strings.HasPrefix(siptext.Field(m.Head, "User-Agent"), "FreeSWITCH") || parseURI(contact).user == "mod_sofia"
}

// awaitedByParty reports whether the party that sent the REFER stays open for its outcome.
func (r *refer) awaitedByParty() bool { return r.leg.party != nil && r.leg.party.takenRefer == r }

// noteReferFollowed notes that the PBX calls somebody because of the REFER r. If the PBX
// had reported r as successful before that, the transfer event is emitted now.
func (t *transferTracker) noteReferFollowed(r *refer, at time.Time) {
	r.progressed = true
	if r.earlyStatus != 0 && !r.emitted {
		t.parties.emitTransfer(r, at, r.earlyStatus, r.earlyPhrase, "")
	}
}

// failEarlyRefers is called when the PBX hangs up on leg l with the BYE m. If the PBX had
// reported a REFER on another leg of the call as successful, but has called nobody since,
// that REFER has failed, and failEarlyRefers emits its transfer event. The event has the
// status of m's Reason, or CHANUNAVAIL if the Reason gives none.
func (t *transferTracker) failEarlyRefers(l *leg, m *Message) {
	for _, o := range l.call.legs {
		if o == l || o.party == nil || o.party == l.party {
			continue
		}
		open := o.refers.all()
		if len(open) == 0 && o.party.takenRefer != nil {
			open = []*refer{o.party.takenRefer}
		}
		for _, r := range open {
			if r.earlyStatus == 0 || r.emitted {
				continue
			}
			s := readReason(m.Head).status()
			if s == "" {
				s = ChanUnavail
			}
			t.parties.emitTransfer(r, m.At, 0, "", s)
		}
	}
}

// settleRefer applies the final status of an open REFER. If r failed and the phone has
// sent another REFER since, no event is emitted, because the phone itself has given r up.
func (t *transferTracker) settleRefer(r *refer, at time.Time, code int, phrase string) {
	if r != r.leg.refers.last && code >= 300 {
		r.leg.refers.drop(r)
		t.refers.remove(r)
		return
	}
	t.parties.emitTransfer(r, at, code, phrase, "")
}

// emitTransfer emits the transfer event of the REFER r, which is then no longer open.
// code and phrase are those of the final response to the INVITE that r caused. If code is
// 0, that response is not known, and the event gets the given status. If r's party stayed
// open for the outcome, the event has the time at which the party's last leg ended, and
// emitTransfer ends the party. If the party is over, no event is emitted.
func (t *partyTracker) emitTransfer(r *refer, at time.Time, code int, phrase string, status Status) {
	l := r.leg
	p := l.party
	l.refers.drop(r)
	if p.takenRefer == r {
		p.takenRefer = nil
		if l.call.leavingParty == p {
			l.call.leavingParty = nil
			at = p.leftAt
			defer t.endParty(p)
		}
	}
	if p.over {
		return
	}
	r.emitted, l.hasReferred = true, true
	switch {
	case code/100 == 2:
		t.leaveService(r)
		t.noteHandedOn(r)
	case code != 0:
		defer t.endReferredService(r, at, code, phrase)
	}
	e := t.emitEvent(p, Transfer, at)
	e.CallerExtension = &p.ext // extension that transfers; the target follows
	e.CalledNumber, e.CalledE164 = r.target, t.directory.toE164(r.target, at)
	e.CalledExtension, e.OtherCall = nil, r.otherCall
	if r.targetExt.User != "" {
		e.CalledExtension = &r.targetExt
	}
	e.SipCode, e.SipReason = code, phrase
	switch {
	case code/100 == 2:
		e.Status = Answered
	case code != 0:
		e.Status = statusForCode(code, true)
	default:
		e.Status = status
	}
}

// replacesOfURI returns the dialog in the Replaces header of a URI (RFC 3891 §3).
func replacesOfURI(headers string) (callID, toTag, fromTag string) {
	for h := range strings.SplitSeq(headers, "&") {
		if name, value, _ := strings.Cut(h, "="); siptext.SameName(name, "Replaces") {
			return readReplaces(siptext.Unescape(value))
		}
	}
	return "", "", ""
}

// readReplaces parses a Replaces header field (RFC 3891 §6.1).
func readReplaces(value string) (callID, toTag, fromTag string) {
	callID, params, _ := strings.Cut(value, ";")
	toTag, _ = siptext.Param(params, "to-tag")
	fromTag, _ = siptext.Param(params, "from-tag")
	return strings.TrimSpace(callID), toTag, fromTag
}

// leaveService notes that a phone has left its calls with the REFER r. If the phone was
// an agent, its talk with the caller of the queue or IVR counts until r was sent. If it
// was the caller, its events go on naming the extension that it talked with.
func (t *partyTracker) leaveService(r *refer) {
	for _, l := range append(t.index.replacedBy(r), r.leg) {
		l.hasReferred = true
		if l.origin == PBX {
			l.notAgent = true
			l.call.stopBridge(r.sentAt)
		}
		t.changes.mark(l.call) // it may be another call than the REFER's
	}
	if p := r.leg.party; p.flow == Out {
		p.noteTransferee(r.leg.call.talkingParty())
	}
}

// noteTransferee notes that the calling party p has transferred the called party talked,
// which is nil if p talked with none.
func (p *party) noteTransferee(talked *party) {
	if talked != nil {
		ext := talked.ext // talked may be removed first
		p.transferee = &ext
	}
}

// noteHandedOn notes, if the REFER r has Replaces, that r connects the other end of its
// call with the callee of the call that Replaces names.
func (t *partyTracker) noteHandedOn(r *refer) {
	c := t.index.callByCallID[r.replaces]
	if c == nil || r.replaces == "" || c == r.leg.call {
		return
	}
	r.leg.call.handedOnTo = r.replaces
}
