package dialog

import (
	"net/netip"
	"time"

	"bellhop/dialog/sdp"
)

// The tags of a dialog are not secret. Every server in the path of the dialog knows them,
// and so does a phone that was called and has hung up. Therefore a request in a dialog
// counts at once only if its CSeq is higher than the last one of its sender (RFC 3261
// §12.2.2) and its source is trusted. Trusted sources are the PBX, a trunk in a dialog of
// a trunk, the flow of a leg in the dialog, and a flow over which the leg's extension has
// registered since. Any other request counts only once a 2xx from the other end shows
// that it was accepted. Such a request may be genuine, because a phone behind a NAT may
// have got another port or another connection.

// An unverifiedRequest is a request in a dialog that counts only once it is accepted.
type unverifiedRequest struct {
	branch   string
	sentAt   time.Time
	eventSeq int // Seq of the call's last event at that time
	q850     int // of a BYE
	rec      string
	offer    sdp.Direction // of a re-INVITE or UPDATE
	refer    *refer        // of a REFER
}

// matchesPeer reports whether peer is the leg's edge peer, or one of the two is not known.
func (l *leg) matchesPeer(peer netip.AddrPort) bool {
	return !peer.IsValid() || !l.peer.IsValid() || peer == l.peer
}

// followFlow replaces the leg's flow with the one over which the request m came, if the
// leg's phone sent m in the dialog and the leg's extension has registered over that flow.
// A phone over TCP has another connection after each restart of bellhop.
func (t *legTracker) followFlow(l *leg, m *Message) {
	if p := l.party; m.Request() && m.Src == Edge && p != nil && !l.matchesPeer(m.From) && l.inDialog(m) && l.sentByPhone(m) && t.attempts.registeredOver(m.From, p.ext.User, m.At) {
		l.peer = m.From
	}
}

// matchesHost is matchesPeer without the port.
func (l *leg) matchesHost(peer netip.AddrPort) bool {
	return !peer.IsValid() || !l.peer.IsValid() || peer.Addr() == l.peer.Addr()
}

// fromDialogEnd reports whether an end of m's dialog began m's transaction: the PBX, a
// peer on the flow of a leg that has the dialog, or a trunk if such a leg is to a trunk.
// The flow of any such leg counts, because phones can send requests directly to each
// other.
func (c *call) fromDialogEnd(m *Message) bool {
	if m.Origin() != Edge {
		return true
	}
	peer := m.Originator()
	for _, l := range c.legs {
		if l.inDialog(m) && (l.matchesPeer(peer) || l.trunk && m.Trunk != "") {
			return true
		}
	}
	return false
}

// fromAcceptor reports whether the response m comes from the PBX, or from the phone or
// trunk of a leg that has m's dialog. Only such a response can show that a request in the
// dialog was accepted. A response that bellhop generates never shows it.
func (c *call) fromAcceptor(m *Message) bool {
	switch {
	case m.Own:
		return false
	case m.Src == PBX:
		return true
	}
	for _, l := range c.legs {
		if l.inDialog(m) && (l.matchesHost(m.From) || l.trunk && m.Trunk != "") {
			return true
		}
	}
	return false
}

// staleCSeq reports whether the CSeq of the request m is not higher than the last CSeq of
// its sender. A higher CSeq becomes the sender's last one.
func (l *leg) staleCSeq(m *Message) bool {
	if m.FromTag == l.fromTag {
		if m.CSeq <= max(l.cseq, l.uacSeq) {
			return true
		}
		l.uacSeq = m.CSeq
		return false
	}
	if m.CSeq < l.uasSeq {
		return true
	}
	l.uasSeq = m.CSeq + 1
	return false
}

// requestTrusted reports whether the request that m answers has counted at once, without
// waiting for its response. vouched is the result of fromDialogEnd for m.
//
// If m is not a 2xx, the result is vouched. For a 2xx it is false if l still holds the
// request as unverified. Otherwise it is true if vouched is true or if the request has
// the last CSeq of its sender. Only a trusted request sets the last CSeq, and a phone may
// have sent it from another port than the one to which responses go.
func (l *leg) requestTrusted(m *Message, vouched bool) bool {
	switch {
	case m.Status/100 != 2:
		return vouched
	case l.unverified != nil && l.unverified.branch == m.Branch:
		return false
	case m.FromTag == l.fromTag:
		return vouched || l.uacSeq == m.CSeq
	}
	return vouched || l.uasSeq == m.CSeq+1
}

// holdRequest keeps the request m until a response shows whether it was accepted. A leg
// keeps only the last such request. Methods other than BYE, INVITE, UPDATE and REFER are
// not kept.
func (t *legTracker) holdRequest(l *leg, m *Message) {
	k := &unverifiedRequest{branch: cloneString(m.Branch), sentAt: m.At, eventSeq: l.call.seq}
	switch m.Method {
	case "BYE":
		k.q850, k.rec = readReason(m.Head).q850, cloneString(t.config.recordingID(m))
	case "INVITE", "UPDATE":
		if l.sentByPhone(m) {
			k.offer = readDirection(m)
		}
	case "REFER":
		k.refer = t.transfers.readRefer(l, m)
	default:
		return
	}
	l.unverified = k
}

// observeAcceptance applies the response m to a request that did not count at once. m
// comes from a peer that can accept the request (see fromAcceptor). A 2xx makes the
// request count. If a phone sent that request to the PBX, the phone's address becomes the
// leg's peer. A 481 to a BYE, or to another request of the session (see endsUsage), ends
// the dialog, unless the PBX is a proxy. Other responses have no effect. Methods that a
// PBX also accepts outside of a dialog are ignored.
func (t *legTracker) observeAcceptance(l *leg, m *Message) {
	switch m.Method {
	case "MESSAGE", "OPTIONS", "SUBSCRIBE", "NOTIFY":
		return
	}
	k := l.unverified
	if k == nil || k.branch != m.Branch {
		k = &unverifiedRequest{}
	} else if m.Status >= 200 {
		l.unverified = nil
	}
	switch {
	case m.Status/100 == 2:
	case m.Status == 481 && l.state == talking && (m.Method == "BYE" || endsUsage(m.Method)) && !l.call.throughProxy(l):
		t.endDialog(l, m.At, outcome{status: Answered, code: m.Status, phrase: m.Phrase(), by: BySystem})
		return
	default:
		return
	}
	if peer := m.Originator(); m.Origin() == Edge && m.Src == PBX && peer.IsValid() && l.sentByPhone(m) {
		l.peer = peer
	}
	l.loss = nil // both ends responded: one sent the request, the other accepted it
	switch m.Method {
	case "INVITE", "UPDATE":
		if m.Src == PBX {
			t.noteConnected(l, m)
		}
		if l.state == talking {
			l.refreshSession(m)
			t.parties.emitHold(l, k.offer, m.At)
		}
	case "REFER":
		if r := k.refer; r != nil && l.state == talking && l.party != nil && !l.party.over {
			r.sentAt, r.accepted = m.At, true
			t.transfers.addRefer(l, r)
			t.transfers.referToService(r, m.At)
		}
	}
}

// observeByeResponse applies the response m to a BYE. It ignores a response that does not
// pass fromAcceptor, and leaves any response but a 2xx to observeAcceptance.
//
// A 2xx ends the leg if the BYE itself has not. That is so if the sender of the BYE was
// not trusted, or if the BYE was not observed. The leg ends at the time of the BYE. It
// ends at m.At instead if the BYE was not observed, or if the call has gone on since the
// BYE: it has emitted an event, was answered or was bridged.
func (t *legTracker) observeByeResponse(l *leg, m *Message) {
	if !l.call.fromAcceptor(m) {
		return
	}
	if m.Status/100 != 2 {
		t.observeAcceptance(l, m)
		return
	}
	switch k := l.unverified; {
	case k == nil || k.branch != m.Branch:
		t.applyBye(l, m, m.At, 0, "")
	case k.eventSeq != l.call.seq || k.sentAt.Before(l.answered) || k.sentAt.Before(l.call.bridgedSince):
		t.applyBye(l, m, m.At, k.q850, k.rec)
	default:
		t.applyBye(l, m, k.sentAt, k.q850, k.rec)
	}
}

// throughProxy reports whether the PBX is a proxy in the leg's dialog. It is one if a leg
// on the other side of the PBX has the same Call-ID and is not over.
func (c *call) throughProxy(l *leg) bool {
	for _, o := range c.legs {
		if o.origin != l.origin && o.callID == l.callID && o.state != over {
			return true
		}
	}
	return false
}

// admitsInvite reports whether the INVITE m, which has a Call-ID of the call, may belong
// to the call. It may if its sender is trusted, or has the address of the peer of a leg
// with that Call-ID. Any other sender may have overheard or guessed the Call-ID.
func (c *call) admitsInvite(m *Message) bool {
	if m.trusted() {
		return true
	}
	for _, l := range c.legs {
		if l.callID == m.CallID && l.matchesHost(m.From) {
			return true
		}
	}
	return false
}
