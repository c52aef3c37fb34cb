package dialog

import (
	"strconv"
	"strings"
	"time"

	"bellhop/dialog/body"
	"bellhop/dialog/sdp"
	"bellhop/dialog/siptext"
)

// observeReinvite applies a re-INVITE or UPDATE, or its response, to a leg.
func (t *legTracker) observeReinvite(l *leg, m *Message) {
	if m.Src == PBX && (m.Request() || m.Status/100 == 2) {
		t.noteConnected(l, m)
	}
	switch {
	case l.state != talking && (l.state != ringing || m.Method != "UPDATE"):
	case m.Request():
		l.noteOffer(m)
	case m.Status < 300:
		if m.Status >= 200 && l.state == talking {
			l.refreshSession(m)
		}
		t.observeOfferResponse(l, m)
	}
}

// noteConnected notes the number that the PBX now connects a called extension with (RFC
// 3325, RFC 5876), unless the message asks for privacy.
func (t *legTracker) noteConnected(l *leg, m *Message) {
	p := l.party
	if p == nil || p.over || p.flow != In || !t.config.IgnorePrivacy && asksPrivacy(siptext.Field(m.Head, "Privacy")) {
		return
	}
	_, u := assertedIdentity(m.Head)
	party := siptext.First(siptext.Field(m.Head, "Remote-Party-ID"))
	if !t.config.IgnorePrivacy && partyAsksPrivacy(party) {
		return
	}
	if u == "" {
		u = siptext.ParseNameAddr(party).URI
	}
	switch remote := parseURI(u); {
	case remote.user == p.remoteNumber || remote.user == "" || isAnonymous(remote):
	case remote.user == p.firstLeg.callerNum:
		p.remoteNumber = ""
	default:
		p.remoteNumber = cloneString(remote.user)
	}
}

// sentByPhone reports whether the phone, or the carrier, at the edge end of the leg began
// m's transaction.
func (l *leg) sentByPhone(m *Message) bool {
	tag := l.fromTag
	if l.origin == PBX {
		tag = l.toTag
	}
	return m.Origin() == Edge && m.FromTag == tag
}

// minSession is the shortest session interval (RFC 4028 §4).
const minSession = 90 * time.Second

// refreshSession sets when the session expires, from the 2xx m to an INVITE or UPDATE.
// Without Session-Expires it never expires (RFC 4028 §7.2).
func (l *leg) refreshSession(m *Message) {
	l.expires = time.Time{}
	value, _, _ := strings.Cut(siptext.Field(m.Head, "Session-Expires"), ";")
	if n, err := strconv.ParseUint(strings.TrimSpace(value), 10, 31); err == nil {
		l.expires = m.At.Add(max(minSession, time.Duration(n)*time.Second) + lingerTime)
	}
}

// noteOffer notes the phone's offer in the re-INVITE or UPDATE m. If m is a re-INVITE
// without an offer, it notes that the other end is to make the offer (RFC 3261 §14.1).
func (l *leg) noteOffer(m *Message) {
	way := readDirection(m)
	delayed := way == sdp.Unknown && m.Method == "INVITE"
	if !l.sentByPhone(m) {
		l.phoneOfferCSeq = 0
		if delayed {
			l.phoneOfferCSeq = m.CSeq
		}
		return
	}
	l.offer, l.offerSeq, l.pbxOfferCSeq, l.muted = way, m.CSeq, 0, false
	if delayed {
		l.pbxOfferCSeq = m.CSeq
	}
}

// observeOfferResponse applies a 1xx or 2xx to a re-INVITE or UPDATE. A 2xx accepts the
// offer of the phone. If the re-INVITE has no offer, the response has it. An offer in the
// phone's 2xx counts at once. An offer of the PBX counts when the phone answers it in an
// ACK or PRACK (see observeOfferAnswer).
func (t *legTracker) observeOfferResponse(l *leg, m *Message) {
	switch done := m.Status/100 == 2; {
	case l.sentByPhone(m) && l.pbxOfferCSeq == m.CSeq:
		if way, silent := readMedia(m); way != sdp.Unknown {
			l.muted = silent
		}
		if done && l.offer != sdp.Unknown { // the phone has answered the offer in its PRACK
			l.pbxOfferCSeq = 0
			t.parties.emitHold(l, l.offer, m.At)
			l.offer = sdp.Unknown
		}
	case l.sentByPhone(m) && done && l.offerSeq == m.CSeq:
		t.parties.emitHold(l, l.offer, m.At)
		l.offer = sdp.Unknown
	case done && !l.sentByPhone(m) && m.Src == Edge && l.phoneOfferCSeq == m.CSeq && m.Method == "INVITE":
		l.phoneOfferCSeq = 0
		t.parties.emitHold(l, readDirection(m), m.At)
	}
}

// observeOfferAnswer applies an ACK or PRACK, in which the phone may answer an offer of
// the PBX (RFC 3261 §13.2.1, RFC 3262 §5). If the PBX sends no voice, a phone that asks
// for none has not put anybody on hold.
func (t *legTracker) observeOfferAnswer(l *leg, m *Message) {
	if l.state != talking || l.pbxOfferCSeq == 0 || !l.sentByPhone(m) {
		return
	}
	way := readDirection(m)
	if way == sdp.Held && l.muted {
		way = sdp.Unknown
	}
	switch {
	case m.Method == "ACK" && m.CSeq == l.pbxOfferCSeq:
		l.pbxOfferCSeq = 0
		t.parties.emitHold(l, way, m.At)
	case m.Method == "PRACK" && acknowledgedCSeq(m) == l.pbxOfferCSeq:
		l.offer = way
	}
}

// acknowledgedCSeq returns the CSeq of the INVITE whose provisional response a PRACK
// acknowledges (RFC 3262 §7.2); 0: none.
func acknowledgedCSeq(m *Message) uint32 {
	words := strings.Fields(siptext.Field(m.Head, "RAck"))
	if len(words) != 3 || words[2] != "INVITE" {
		return 0
	}
	n, _ := strconv.ParseUint(words[1], 10, 32)
	return uint32(n)
}

// emitHold emits hold or resume for the extension at a leg's phone, if the new direction
// to changes whether the other end is on hold. Before the answer, and while the PBX calls
// the extension back, emitHold only stores the direction, which is then applied at the
// answer.
func (t *partyTracker) emitHold(l *leg, to sdp.Direction, at time.Time) {
	p := l.party
	if to == sdp.Unknown {
		return
	}
	if l.state == ringing || p != nil && p.answered.IsZero() {
		l.earlyDirection = to
		return
	}
	if p == nil || p.over || l.trunk || p.holding == (to == sdp.Held) {
		return
	}
	p.holding = to == sdp.Held
	typ := Resume
	if p.holding {
		typ = Hold
	}
	t.emitEvent(p, typ, at).Status = Answered
}

// readDirection returns the direction of voice in the session description of m.
func readDirection(m *Message) sdp.Direction {
	way, _ := readMedia(m)
	return way
}

// readMedia returns the direction of voice in the session description of m, and whether
// the sender of m sends no voice.
func readMedia(m *Message) (way sdp.Direction, silent bool) {
	description := m.Body
	if contentType := siptext.Field(m.Head, "Content-Type"); contentType != "" {
		description = body.Part(contentType, description, "application/sdp")
	}
	return sdp.Read(description)
}
