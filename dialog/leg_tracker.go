package dialog

import (
	"container/heap"
	"slices"
	"time"
)

// A legTracker follows the dialogs of legs, from the INVITE to the BYE.
type legTracker struct {
	config    *Config
	deadlines *callHeap
	changes   *changes
	directory *directory
	attempts  *attempts
	index     *callIndex
	refers    *recentRefers
	numbers   *numberMatcher
	parties   *partyTracker
	transfers *transferTracker
	judge     *judge
}

// observeCancel applies a CANCEL to the leg that it cancels.
func (t *legTracker) observeCancel(c *call, m *Message) {
	l := c.legOfInvite(m.Src, m)
	if l == nil || !m.trusted() && !l.matchesHost(m.From) {
		return
	}
	l.observeCancel(m)
	l.pickedUp = l.cancelReason.q850 == causePickedUp && t.judge.pickupAnswered(l)
	if l.transactionLost && l.canceled {
		t.endLeg(l, m.At, t.judge.outcomeOfLostCancel(l))
	}
}

// observeInDialog applies a message of a transaction within a dialog to the legs of the
// call that have that dialog.
func (t *legTracker) observeInDialog(c *call, m *Message) {
	for _, l := range c.legs {
		l.selectFork(m)
		t.followFlow(l, m)
	}
	vouched := c.fromDialogEnd(m)
	for _, l := range c.legs {
		if !l.inDialog(m) {
			continue
		}
		if m.Method == "ACK" { // an ACK has the CSeq of its INVITE
			if vouched {
				t.observeOfferAnswer(l, m)
			}
			continue
		}
		switch {
		case !m.Request() && m.Method == "BYE":
			t.observeByeResponse(l, m)
			continue
		case !m.Request() && l.requestTrusted(m, vouched):
		case m.Request():
			if !vouched || l.staleCSeq(m) {
				t.holdRequest(l, m)
				continue
			}
		default:
			if c.fromAcceptor(m) {
				t.observeAcceptance(l, m)
			}
			continue
		}
		if l.clearDialogLoss(m); t.noteDialogLoss(l, m) {
			continue
		}
		switch m.Method {
		case "PRACK":
			t.observeOfferAnswer(l, m)
		case "BYE":
			t.observeBye(l, m)
		case "INVITE", "UPDATE":
			t.observeReinvite(l, m)
		case "REFER":
			t.transfers.observeRefer(l, m)
		case "NOTIFY":
			if m.Request() {
				t.transfers.observeReferNotify(l, m)
			}
		}
	}
}

// observeInviteResponse applies a response to the leg's INVITE. Retransmissions change
// nothing.
func (t *legTracker) observeInviteResponse(l *leg, m *Message) {
	switch l.state {
	case over, challenged:
		return // m is late
	case talking:
		l.addFork(m) // another fork, or a retransmitted 2xx: the answer was emitted already
		return
	case calling, ringing:
	}
	if m.ToTag != "" && l.toTag != m.ToTag && (l.toTag == "" || m.Status >= 200) {
		if l.toTag != "" {
			l.uacSeq, l.uasSeq = 0, 0 // each dialog has CSeqs of its own (RFC 3261 §12.2.1.1)
		}
		l.toTag = cloneString(m.ToTag)
	}
	switch {
	case m.Status == 100:
		t.observeTrying(l, m)
	case m.Status < 200:
		t.parties.emitPendingDials(l)
		l.state, l.lastHeard = ringing, m.At // each provisional response restarts Timer C
		if m.Status >= 180 && m.Status < 190 && l.rang.IsZero() {
			l.rang = m.At
			t.parties.emitRinging(l, m)
		}
	case m.Status < 300:
		t.parties.emitPendingDials(l)
		t.observeAnswer(l, m)
	case isChallenge(m.Status) || l.credentialsRefused(m):
		t.observeChallenge(l, m)
	case t.attempts.allows(l, m.At):
		if l.asksForRetry(m) {
			l.state, l.ended, l.dialAt = challenged, m.At, time.Time{}
			l.refusal = t.judge.outcomeOfResponse(l, m)
			return
		}
		t.parties.emitPendingDials(l)
		t.endLeg(l, m.At, t.judge.outcomeOfResponse(l, m))
	default:
		t.attempts.suppressed.Add(1)
		if len(l.call.legs) == 1 {
			t.removeLeg(l) // a flood must leave no calls in memory
		} else {
			t.endLeg(l, m.At, t.judge.outcomeOfResponse(l, m))
		}
	}
}

// observeTrying applies a 100 of the PBX. If the INVITE has credentials, the 100 shows
// that the PBX has accepted them, because a PBX checks credentials before it processes an
// INVITE. The dial events are then emitted at once. Otherwise they are due after
// dialOutDelay. A 100 of bellhop's own is ignored.
func (t *legTracker) observeTrying(l *leg, m *Message) {
	if !m.Own {
		l.triedByPBX = true
	}
	switch {
	case m.Own:
	case l.credentials:
		if t.attempts.allows(l, m.At) {
			t.parties.emitPendingDials(l)
		}
	case l.dialAt.IsZero() && l.state == calling:
		l.dialAt = m.At.Add(dialOutDelay)
	}
}

// observeAnswer applies the first 2xx to a leg's INVITE.
func (t *legTracker) observeAnswer(l *leg, m *Message) {
	l.state, l.answered = talking, m.At
	if l.origin == PBX && m.Src == Edge && !m.Own && m.From.IsValid() {
		l.peer = m.From
	}
	l.refreshSession(m)
	t.judge.notePickup(l)
	c := l.call
	if l.origin == PBX && !c.isCallbackLeg(l) {
		c.startBridge(l, m.At)
	}
	if p := l.party; p != nil && !p.over {
		if v := t.config.recordingID(m); v != "" {
			p.recID = cloneString(v)
		}
		if p.answered.IsZero() && p != c.callback {
			t.parties.emitAnswer(p, l, m)
		}
	}
	if p := c.callback; p != nil && p.dialed && !p.over && !c.isCallbackLeg(l) && p.answered.IsZero() {
		t.parties.emitAnswer(p, l, m)
		if b := c.callbackLeg(); b != nil {
			t.parties.emitHold(b, b.earlyDirection, m.At)
		}
	}
	if p := l.party; p != nil && !p.answered.IsZero() {
		t.parties.emitHold(l, l.earlyDirection, m.At)
	}
	if l.byeTag != "" && l.byeTag == m.ToTag {
		// The 2xx crossed the BYE that the caller had sent in the early
		// dialog: the callee answers that BYE and hangs up (RFC 3261 §15.1.2).
		t.endLeg(l, m.At, outcome{status: Answered, by: ByCaller})
	}
}

// observeChallenge applies a 401, a 407, or a 403 that refuses credentials. A leg of the
// PBX, or one whose party has emitted an event, becomes challenged. Any other leg is
// removed at once, so that scanners use no memory. Only its beginning is kept, for the
// INVITE with credentials.
func (t *legTracker) observeChallenge(l *leg, m *Message) {
	if p := l.party; p != nil && p.dialed || l.origin == PBX {
		l.state, l.ended = challenged, m.At
		l.refusal = t.judge.outcomeOfResponse(l, m)
		return
	}
	if l.origin == Edge {
		t.attempts.addChallenged(l)
	}
	t.removeLeg(l)
}

// observeBye applies a BYE of a trusted sender. An answered leg ends with the BYE and not
// with the response to it, because the sender has left (RFC 3261 §15.1.1). So the leg
// ends even if the BYE is lost, is challenged and repeated, or is never answered.
func (t *legTracker) observeBye(l *leg, m *Message) {
	if m.Src == PBX && l.state == talking {
		t.transfers.failEarlyRefers(l, m)
	}
	t.applyBye(l, m, m.At, readReason(m.Head).q850, t.config.recordingID(m))
}

// applyBye applies a BYE to a leg at the time at. m is the BYE or the 2xx to it, q850 and
// rec are the Q.850 cause and the recording id in the BYE. An answered leg ends. A leg
// that is not answered ends only if a restart has lost its transaction. Otherwise it is
// canceled if the caller sent the BYE (RFC 3261 §15).
func (t *legTracker) applyBye(l *leg, m *Message, at time.Time, q850 int, rec string) {
	switch l.state {
	case calling, ringing:
		if l.transactionLost {
			o := outcome{status: Unknown, by: ByCallee}
			if m.FromTag == l.fromTag {
				o.by = ByCaller
			}
			t.endLeg(l, at, o)
			return
		}
		if m.FromTag == l.fromTag { // only the caller may send a BYE in an early dialog, RFC 3261 §15
			l.observeCancel(m)
			l.byeTag = cloneString(m.ToTag)
		}
	case talking:
		o := outcome{status: Answered, by: l.hangupBy(m), q850: q850}
		if rec != "" && l.party != nil {
			l.party.recID = cloneString(rec)
		}
		t.endDialog(l, at, o)
	case challenged, over: // m is late or repeated
	}
}

// advanceCall processes the deadlines of a call's legs up to now, the earliest first. This
// may remove legs, and removes the call with its last leg.
func (t *legTracker) advanceCall(c *call, now time.Time) {
	talk := t.config.talkLimit()
	for !c.deadline.After(now) && len(c.legs) > 0 {
		var next *leg
		for _, l := range c.legs {
			if next == nil || l.stateDeadline(talk).Before(next.stateDeadline(talk)) {
				next = l
			}
		}
		if c.deadline = next.stateDeadline(talk); c.deadline.After(now) {
			return
		}
		if c.lastHeard.Before(c.deadline) {
			c.lastHeard = c.deadline
		}
		t.changes.mark(c)
		t.expireLeg(next, c.lastHeard)
	}
}

// expireLeg processes the deadline of a leg, which passed at the time at.
func (t *legTracker) expireLeg(l *leg, at time.Time) {
	switch l.state {
	case calling, ringing:
		if !l.dialAt.IsZero() && !l.dialAt.After(at) {
			l.dialAt = time.Time{}
			if t.attempts.allows(l, at) {
				t.parties.emitPendingDials(l)
			}
			return
		}
		t.endLeg(l, at, outcome{status: Unknown, by: BySystem})
	case challenged:
		if len(l.call.legs) == 1 && !isChallenge(l.refusal.code) {
			at = l.ended // the call had no message since
		}
		t.endRefused(l, at)
	case talking:
		if d := l.loss; d != nil && !d.at.Add(lingerTime).After(at) {
			t.endLostDialog(l, at)
			return
		}
		if l.call.callbackSilent(l) && !l.silentUntil().After(at) {
			t.parties.giveUpCallback(l)
			return
		}
		t.endLeg(l, at, outcome{status: Unknown, by: BySystem})
	case over:
		p := l.party
		if p != nil && !p.over && !p.leftAt.IsZero() {
			t.parties.endParty(p)
			return
		}
		if p != nil && p.firstLeg == l && !p.over && l.call.partyOnOtherLeg(l, p) {
			l.ended = at // the ids of a party derive from its first leg, which stays as long as the party
			return
		}
		t.removeLeg(l)
	}
}

// endLeg moves a leg to the state over, and ends each of its parties whose last leg it was.
func (t *legTracker) endLeg(l *leg, at time.Time, o outcome) {
	switch r := l.refers.last; {
	case r == nil || !r.accepted:
	case r.earlyStatus != 0 && l.party != nil && !l.party.over:
		l.party.takenRefer = r
	default:
		t.parties.emitTransfer(r, at, 0, "", "")
	}
	if l.call.callbackSilent(l) && !l.answered.IsZero() {
		t.parties.giveUpCallback(l)
	}
	l.state, l.ended, l.endedBy = over, at, o.by
	l.refers.dropAll()
	t.numbers.unindexLeg(l)
	t.noteCallerGone(l)
	c := l.call
	if l.origin == PBX && !c.isCallbackLeg(l) {
		if calleeWeight(o.status) > calleeWeight(c.endedCalleesStatus) {
			c.endedCalleesStatus = o.status
		}
		if o.elsewhere {
			c.bridgeElsewhere(l)
		}
		c.stopBridge(at)
	}
	if l == c.caller {
		for _, o := range c.legs { // the caller's leg will not retry these INVITEs
			if o.state == challenged && o.origin == PBX {
				t.endRefused(o, at)
			}
		}
		for _, p := range c.parties { // the PBX rings no further phone
			switch {
			case p.over || p.leftAt.IsZero():
			case p.takenRefer != nil: // nor does it complete the transfer
				t.parties.emitTransfer(p.takenRefer, at, 0, "", "")
			default:
				t.parties.endParty(p)
			}
		}
	}
	if p := l.party; p != nil && !p.over {
		t.parties.endPartyLeg(p, l, at, o)
	}
	if p := l.service; p != nil && !p.over && !c.serviceOnOtherLeg(l) {
		if l == p.firstLeg && l.origin == PBX { // the callee of its leg is the service's caller
			o.by = o.by.reversed()
		}
		t.parties.endService(p, at, o)
	}
}

// removeLeg removes a leg, with its party if no other leg carries it, and with its call if
// no leg is left.
func (t *legTracker) removeLeg(l *leg) {
	c := l.call
	if p := c.talkingParty(); p != nil && p.over {
		c.lastTalker = p.ext
	}
	if l.origin == PBX && l.trunk && c.shownOutside == "" {
		c.shownOutside = cloneString(l.callerNum)
	}
	c.legs = slices.DeleteFunc(c.legs, func(o *leg) bool { return o == l })
	c.parties = slices.DeleteFunc(c.parties, func(p *party) bool {
		return !slices.ContainsFunc(c.legs, func(o *leg) bool { return o.carries(p) })
	})
	t.numbers.unindexLeg(l)
	if !slices.ContainsFunc(c.legs, func(o *leg) bool { return o.callID == l.callID }) {
		t.index.removeCallID(c, l.callID)
	}
	if l == c.caller && l.state != over {
		c.caller = nil // an attempt that was only challenged
	}
	if len(c.legs) > 0 {
		return
	}
	heap.Remove(t.deadlines, c.heapIndex)
	t.index.unindexCall(c)
	t.refers.removeCall(c)
}
