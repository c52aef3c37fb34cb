package dialog

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A leg moves through these states, and back only when it is challenged:
//
//	calling ──1xx──▶ ringing ──2xx──▶ talking ──BYE──▶ over
//	  │  ▲              │                │               ▲
//	  │  │              │                └──481 in the───┤
//	  │  │              │                   dialog       │
//	  ├──│──2xx─────────┼───────▶ talking                │
//	  ├──│──────────────┴──3xx‥6xx───────────────────────┤
//	  401,407,422,…                                      │
//	  ▼  │                                               │
//	challenged ──the INVITE again, as it is asked for    │
//	  └──nothing more──────────────────────────────────▶─┘
//
// Any state but over also falls to over when its limit passes. A CANCEL moves
// nothing: the 487 it asks for ends the leg, and a 2xx may still win the race
// (RFC 3261 §9.1). The same goes for a BYE in an early dialog (§15).
type state uint8

const (
	calling    state = iota // INVITE forwarded, nothing above 100 heard
	ringing                 // 101‥199 heard
	challenged              // 401, 407 or another final heard that asks for another INVITE
	talking                 // answered
	over                    // told; kept for the other legs' sake, and to know stragglers
)

func (s state) String() string {
	return [...]string{"calling", "ringing", "challenged", "talking", "over"}[s]
}

const (
	t1         = 500 * time.Millisecond
	lingerTime = 64 * t1         // no straggler is older: Timer H, RFC 3261 §17.2.1
	timerC     = 3 * time.Minute // the hop gives up a ringing leg no sooner, §16.6

	// limit is how long a leg may ring with nothing heard: the hop's Timer C,
	// the CANCEL that it then sends, and the wait for the 487.
	ringLimit = timerC + lingerTime + 28*time.Second

	// takeUp is how long after a 100 with nothing else an attempt counts as a
	// call: a PBX refuses or challenges faster.
	dialOutDelay = 500 * time.Millisecond

	// hangupGap is how long a PBX that ends a call by itself takes to hang up on the
	// second end: Asterisk waits for the response to its re-INVITE there.
	hangupGap = 5 * time.Second

	// forkGap is how long a PBX takes to ring the phones of an extension, one
	// after the other. Before that the first one's refusal is not the last word.
	forkGap = 20 * time.Millisecond

	// maxLegs is how many legs one call has at a time; INVITEs beyond pass by
	// unfollowed. maxCalls is the same for calls.
	maxLegs  = 256
	maxCalls = 1 << 17
)

// A call is the legs that belong to one conversation.
type call struct {
	id                 string
	seq                int       // of the last event
	began              time.Time // first INVITE
	lastHeard          time.Time // last message: time never runs backwards in a call
	deadline           time.Time // earliest deadline of a leg
	nextCheck          time.Time // when to see whether it is due: then, or earlier
	heapIndex          int       // in the deadlines
	legs               []*leg    // in order of their INVITEs
	parties            []*party  // in order of their dials
	callIDs            []string  // that lead to this call, and so with keys
	keys               []key
	caller             *leg   // the first leg of the edge side; nil if none was seen
	endedCalleesStatus Status // heaviest word of the callees' legs that are over
	callback           *party // that the PBX calls back; nil: this is no callback
	handedOnTo         string // Call-ID of another call's dialog that a phone has sent on to this call; "": none
	leavingParty       *party // it has left, and what became of its REFER is not known yet; nil: none
	correlation        string // how the last leg was found to be the call's; "": none was

	changedAt time.Time // the first change since Changed returned it; zero: none
	stored    bool      // Changed has returned a record of it

	bridgedSince time.Time // since when a callee is up; zero: none is
	wasBridged   bool
	pickedUp     bool          // the caller talks with a phone whose leg is of another call
	bridgedFor   time.Duration // how long callees were up before

	lastTalker   Extension // who talked last of the called parties that are forgotten; without a user: nobody
	shownOutside string    // the caller's number on the first leg to a trunk that is forgotten; "": there was none
}

// A leg is one INVITE dialog, or the attempt at one, on one side of the PBX.
type leg struct {
	call    *call
	party   *party // nil if it is no extension's
	service *party // the queue, menu or conference that the caller dialed; nil: none
	origin  Side
	trunk   bool
	state   state

	callID, fromTag string
	toTag           string // the dialog's, from the first response that has one; after a 2xx: the 2xx's
	branch          string // of the INVITE, as last repeated
	partySeed       string // branch and CSeq of the first INVITE: it names the leg's party
	cseq            uint32

	began     time.Time // the first INVITE
	rang      time.Time // first 18x
	lastHeard time.Time // last INVITE or provisional response
	dialAt    time.Time // when a dial-out is said if nothing else is heard
	answered  time.Time
	ended     time.Time

	expires        time.Time      // when the session is over unless it is refreshed; zero: never
	offer          mediaDirection // of the phone's re-INVITE or UPDATE that awaits its 2xx
	offerSeq       uint32
	earlyDirection mediaDirection // what was made of it before the answer
	lastRefer      *refer         // whose fate is not known yet
	earlierRefers  []*refer       // likewise, with another after them; oldest first
	hasReferred    bool           // its phone has sent the other end on with a REFER

	refersSent int // REFERs that its phone has sent

	pbxOfferCSeq   uint32 // CSeq of the phone's re-INVITE that has the PBX offer; 0: none
	phoneOfferCSeq uint32 // CSeq of the PBX's that has the phone offer
	muted          bool   // in its offer the PBX sends no voice

	forks []fork      // the other dialogs of the INVITE
	loss  *dialogLoss // that the dialog is gone; nil: none

	peer       netip.AddrPort     // of the edge side: its flow; invalid if only a record of an older version tells of the leg
	uacSeq     uint32             // CSeq of the last request in the dialog by who began the leg; 0: the INVITE's
	uasSeq     uint32             // and by the other end, plus one; 0: there was none
	unverified *unverifiedRequest // the last request in the dialog that is not believed before it is accepted

	triedByPBX      bool // the PBX has answered the INVITE, as last repeated, with 100
	transactionLost bool // a restart has lost the transaction: no response to the INVITE will come
	canceled        bool // by CANCEL, or BYE of the early dialog
	canceledAt      time.Time
	cancelReason    reason   // of the CANCEL
	pickedUp        bool     // another phone picked the call up when it was canceled
	byeTag          string   // To tag of the BYE that came before the 2xx
	endedBy         HangupBy // who ended it
	refusal         outcome

	inviteFacts
	calledExt     Extension // that the number dialed is, or leads to
	notAgent      bool      // of a callee: its talk is none with the host's caller
	otherCaller   bool      // another extension calls on it than the call's caller
	referredTo    string    // the number in the REFER that it comes from
	correlation   string    // how it was found to be the call's: method:confidence; "": it began it
	phoneNumber   string    // under which it is in the tracker's byNumber; "": it is not
	otherNumbers  []string  // further numbers, and keys, under which it is there
	ambiguous     bool      // a leg to whom the caller dialed was joined to no call, as it could be of several
	callerGoneAt  time.Time // when the phone hung up that another call handed on to the callee
	redirectUsers string    // users of the Contacts of the 3xx that refused it, one a line; "": none did
}

// A party is one extension's one turn in a call, in one direction.
type party struct {
	id           string
	ext          Extension
	flow         Flow
	firstLeg     *leg   // whose facts it tells
	kind         Kind   // of a host
	dialedNumber string // the number dialed, if it is another than the legs say; and in E.164
	dialedE164   string
	dialed       bool
	rang         time.Time
	answered     time.Time
	answeredWall time.Time // the same by the wall clock of that moment, as its answer tells
	leftAt       time.Time // when its last phone refused, if another may yet be rung
	over         bool
	outcome      outcome
	userAgent    string
	recID        string
	remoteNumber string // the number that the PBX connected it with; "": the caller's
	callAPIID    string // of the leg that answered, if it is not the first; "": the first's
	takenRefer   *refer // its REFER that the PBX has taken, and nobody was called for yet; nil: none

	recovered bool   // its call was up when bellhop was restarted
	template  *Event // what its events tell, if its record was lost; nil: what its legs say

	transferred    bool // it sends a call on
	holding        bool
	repeatedEvents int // events of types that a party may have several of

	distributor *Extension // the queue or ivr that had the extension called; nil: none
}

// deadline is when the leg's state ends by itself, or something is said in it.
func (l *leg) stateDeadline(talk time.Duration) time.Time {
	switch l.state {
	case calling, ringing:
		if d := l.lastHeard.Add(ringLimit); l.dialAt.IsZero() || d.Before(l.dialAt) {
			return d
		}
		return l.dialAt
	case over:
		if p := l.party; p != nil && !p.leftAt.IsZero() && !p.over {
			if p.takenRefer != nil {
				return p.leftAt.Add(followGap)
			}
			return p.firstLeg.began.Add(forkGap)
		}
		return l.ended.Add(lingerTime)
	case challenged:
		return l.ended.Add(retryWithin)
	case talking:
		d := l.answered.Add(talk)
		if l.call.callbackSilent(l) {
			d = l.silentUntil()
		}
		if !l.expires.IsZero() && l.expires.Before(d) {
			d = l.expires
		}
		if l.loss != nil && l.loss.at.Add(lingerTime).Before(d) {
			d = l.loss.at.Add(lingerTime)
		}
		return d
	}
	panic("dialog: leg in no state") // unreachable: these are all
}

// response shows a leg a response to its INVITE. Retransmissions mean nothing
// new.
func (t *Tracker) observeInviteResponse(l *leg, m *Message) {
	switch l.state {
	case over, challenged:
		return // a straggler
	case talking:
		l.addFork(m) // of a second fork, or a retransmitted 2xx: the first one counted
		return
	case calling, ringing:
	}
	if m.ToTag != "" && l.toTag != m.ToTag && (l.toTag == "" || m.Status >= 200) {
		if l.toTag != "" {
			l.uacSeq, l.uasSeq = 0, 0 // each dialog counts for itself (RFC 3261 §12.2.1.1)
		}
		l.toTag = cloneString(m.ToTag)
	}
	switch {
	case m.Status == 100:
		t.observeTrying(l, m)
	case m.Status < 200:
		t.emitPendingDials(l)
		l.state, l.lastHeard = ringing, m.At // each starts Timer C anew
		if m.Status >= 180 && m.Status < 190 && l.rang.IsZero() {
			l.rang = m.At
			t.emitRinging(l, m)
		}
	case m.Status < 300:
		t.emitPendingDials(l)
		t.observeAnswer(l, m)
	case m.Status == 401 || m.Status == 407 || l.credentialsRefused(m):
		t.observeChallenge(l, m)
	case t.allowsAttempt(l, m.At):
		if l.asksForRetry(m) {
			l.state, l.ended, l.dialAt = challenged, m.At, time.Time{}
			l.refusal = t.judgeResponse(l, m)
			return
		}
		t.emitPendingDials(l)
		t.endLeg(l, m.At, t.judgeResponse(l, m))
	default:
		t.suppressed.Add(1)
		if len(l.call.legs) == 1 {
			t.removeLeg(l) // a flood leaves no calls behind
		} else {
			t.endLeg(l, m.At, t.judgeResponse(l, m))
		}
	}
}

// trying notes a 100. Of the PBX's own it is word that credentials were
// accepted, as a PBX does not try before it has checked them; of the hop's it
// says nothing.
func (t *Tracker) observeTrying(l *leg, m *Message) {
	if !m.Own {
		l.triedByPBX = true
	}
	switch {
	case m.Own:
	case l.credentials:
		if t.allowsAttempt(l, m.At) {
			t.emitPendingDials(l)
		}
	case l.dialAt.IsZero() && l.state == calling:
		l.dialAt = m.At.Add(dialOutDelay)
	}
}

// takenUp says once that the extension of a leg calls, and that a queue, menu
// or conference is called.
func (t *Tracker) emitPendingDials(l *leg) {
	l.dialAt = time.Time{}
	if p := l.party; p != nil && p.flow == Out && !p.dialed && !p.over && p != l.call.callback {
		t.emitDial(p, DialOut, l.began)
	}
	if p := l.service; p != nil && !p.dialed && !p.over {
		t.emitDial(p, DialIn, l.began)
	}
}

func (t *Tracker) emitDial(p *party, typ Type, at time.Time) {
	p.dialed = true
	p.distributor = p.findDistributor()
	e := t.emitEvent(p, typ, at)
	e.Status, e.Leg = Calling, t.legID(p.firstLeg)
}

// idOf names a leg's dialog.
func (t *Tracker) legID(l *leg) LegID {
	id := LegID{Node: t.node, Origin: l.origin, CallID: l.callID, FromTag: l.fromTag, ToTag: l.toTag}
	if l.peer.IsValid() {
		id.Peer = l.peer.String()
	}
	return id
}

// ring says once per party that a phone rings.
func (t *Tracker) emitRinging(l *leg, m *Message) {
	p := l.party
	if p == nil || !p.dialed || p.over || !p.rang.IsZero() || !p.answered.IsZero() {
		return
	}
	p.rang = m.At
	p.setPhoneAgent(l, m)
	e := t.emitEvent(p, Ringing, m.At)
	e.Status = Calling
	e.SetupTime = m.At.Sub(p.firstLeg.began)
}

func (t *Tracker) observeAnswer(l *leg, m *Message) {
	l.state, l.answered = talking, m.At
	if l.origin == PBX && m.Src == Edge && !m.Own && m.From.IsValid() {
		l.peer = m.From
	}
	l.refreshSession(m)
	t.notePickup(l)
	c := l.call
	if l.origin == PBX && !c.isCallbackLeg(l) {
		c.startBridge(l, m.At)
	}
	if p := l.party; p != nil && !p.over {
		if v := t.recordingID(m); v != "" {
			p.recID = cloneString(v)
		}
		if p.answered.IsZero() && p != c.callback {
			t.emitAnswer(p, l, m)
		}
	}
	if p := c.callback; p != nil && p.dialed && !p.over && !c.isCallbackLeg(l) && p.answered.IsZero() {
		t.emitAnswer(p, l, m)
		if b := c.callbackLeg(); b != nil {
			t.emitHold(b, b.earlyDirection, m.At)
		}
	}
	if p := l.party; p != nil && !p.answered.IsZero() {
		t.emitHold(l, l.earlyDirection, m.At)
	}
	if l.byeTag != "" && l.byeTag == m.ToTag {
		// The 2xx crossed the BYE that its caller had sent for the early
		// dialog: the callee answers that BYE and has hung up (RFC 3261 §15.1.2).
		t.endLeg(l, m.At, outcome{status: Answered, by: ByCaller})
	}
}

// answered says that a party talks, since the 2xx m on a leg.
func (t *Tracker) emitAnswer(p *party, l *leg, m *Message) {
	p.answered, p.answeredWall = m.At, t.clock.wallTime(m.At)
	if l.carries(p) && l != p.firstLeg {
		p.callAPIID = l.callAPIID
	}
	p.setPhoneAgent(l, m)
	e := t.emitEvent(p, Answer, m.At)
	e.Status, e.Leg = Answered, t.legID(p.firstLeg)
	if l.carries(p) {
		e.Leg = t.legID(l)
	}
	e.SetupTime, e.RingDuration = p.ringTimes(m.At)
}

// badCredentials reports whether m refuses the credentials of an INVITE: a 403 from
// the PBX that did not try it first, as FreeSWITCH answers a wrong password.
func (l *leg) credentialsRefused(m *Message) bool {
	return m.Status == 403 && !m.Own && l.origin == Edge && l.credentials && l.state == calling && !l.triedByPBX
}

// challenge notes a 401 or 407. An attempt that nobody heard of yet is no call
// and is forgotten at once, so that scanners cost nothing; only when it began
// is remembered, for the INVITE with credentials.
func (t *Tracker) observeChallenge(l *leg, m *Message) {
	if p := l.party; p != nil && p.dialed || l.origin == PBX {
		l.state, l.ended = challenged, m.At
		l.refusal = t.judgeResponse(l, m)
		return
	}
	if l.origin == Edge {
		t.challengedAttempts.Add(newAttemptKey(l.callID, l.fromTag), attempt{l.began, cloneString(l.partySeed)})
	}
	t.removeLeg(l)
}

// cancel notes that the origin gave the leg up.
func (l *leg) observeCancel(m *Message) {
	if l.canceled || l.state != calling && l.state != ringing {
		return
	}
	l.canceled, l.canceledAt = true, m.At
	l.cancelReason = readReason(m.Head)
}

// inDialog reports whether m, of whichever side, belongs to the leg's dialog:
// tags and side either way round. A request that goes from one edge peer to
// another, as a PBX that does not record-route lets them, belongs to the legs
// of both.
func (l *leg) inDialog(m *Message) bool {
	near, far := l.fromTag, l.toTag
	if l.transactionLost && l.state < talking { // it may have been answered with any tag
		return m.FromTag == near || m.ToTag == near
	}
	side := m.Origin()
	direct := m.Src == m.Dst
	if m.FromTag == near && m.ToTag == far && (side == l.origin || direct) {
		return true
	}
	return m.FromTag == far && m.ToTag == near && (side != l.origin || direct)
}

// bye ends an answered leg. The request does, not its response: with it the
// sender has left (RFC 3261 §15.1.1), whether it is lost, challenged and
// repeated, or never answered.
func (t *Tracker) observeBye(l *leg, m *Message) {
	if m.Src == PBX && l.state == talking {
		t.failEarlyRefers(l, m)
	}
	t.applyBye(l, m, m.At, readReason(m.Head).q850, t.recordingID(m))
}

// byeBelieved ends an answered leg at a time, because of the BYE m or the 2xx m
// to a BYE, which had that cause and that id of a recording.
func (t *Tracker) applyBye(l *leg, m *Message, at time.Time, q850 int, rec string) {
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
		if m.FromTag == l.fromTag { // only the caller may, §15
			l.observeCancel(m)
			l.byeTag = cloneString(m.ToTag)
		}
	case talking:
		o := outcome{status: Answered, by: l.hangupBy(m), q850: q850}
		if rec != "" && l.party != nil {
			l.party.recID = cloneString(rec)
		}
		t.endDialog(l, at, o)
	case challenged, over: // a stray, or the repeated BYE
	}
}

// leftBy says who hung up, of the BYE m or its response: the end of the leg that
// sends the BYE; but where the PBX sends it while the other end still talks, has just
// hung up on that one too, or gives a cause of its own, the PBX itself.
func (l *leg) hangupBy(m *Message) HangupBy {
	if m.Origin() == PBX {
		r := readReason(m.Head)
		if r.endedByPBX() || r.failed() && !l.otherEndLeftBefore(m.At) {
			return BySystem
		}
		var last *leg // that was answered, and has not sent the other end on
		for _, o := range l.oppositeLegs() {
			switch {
			case o.state == talking:
				return BySystem
			case !o.answered.IsZero() && !o.hasReferred && (last == nil || o.ended.After(last.ended)):
				last = o
			}
		}
		if last != nil && last.endedBy == BySystem && m.At.Sub(last.ended) <= hangupGap {
			return BySystem
		}
	}
	if m.FromTag == l.fromTag {
		return ByCaller
	}
	return ByCallee
}

// leftBefore reports whether the other end of the leg hung up, or refused, just before:
// the PBX then passes its cause on. Who left after a REFER gave no cause.
func (l *leg) otherEndLeftBefore(at time.Time) bool {
	return slices.ContainsFunc(l.oppositeLegs(), func(o *leg) bool {
		return o.state == over && o.endedBy != BySystem && !o.hasReferred && at.Sub(o.ended) <= t1
	})
}

// opposite returns the legs on the other side of the PBX: those with the same
// Call-ID, if there are any; else the callees', or the call's caller's.
func (l *leg) oppositeLegs() (legs []*leg) {
	c := l.call
	alike := false
	for _, o := range c.legs {
		same := o.callID == l.callID
		if o.origin == l.origin || alike && !same || !same && o.origin == Edge && o != c.caller {
			continue
		}
		if same && !alike {
			legs, alike = nil, true
		}
		legs = append(legs, o)
	}
	return legs
}

// expire does what is due for a leg whose deadline passed at the time at.
func (t *Tracker) expireLeg(l *leg, at time.Time) {
	switch l.state {
	case calling, ringing:
		if !l.dialAt.IsZero() && !l.dialAt.After(at) {
			l.dialAt = time.Time{}
			if t.allowsAttempt(l, at) {
				t.emitPendingDials(l)
			}
			return
		}
		t.endLeg(l, at, outcome{status: Unknown, by: BySystem})
	case challenged:
		if len(l.call.legs) == 1 && !isChallenge(l.refusal.code) {
			at = l.ended // nothing was heard of the call since
		}
		t.endRefused(l, at)
	case talking:
		if d := l.loss; d != nil && !d.at.Add(lingerTime).After(at) {
			t.endLostDialog(l, at)
			return
		}
		if l.call.callbackSilent(l) && !l.silentUntil().After(at) {
			t.giveUpCallback(l)
			return
		}
		t.endLeg(l, at, outcome{status: Unknown, by: BySystem})
	case over:
		p := l.party
		if p != nil && !p.over && !p.leftAt.IsZero() {
			t.endParty(p)
			return
		}
		if p != nil && p.firstLeg == l && !p.over && l.call.partyOnOtherLeg(l, p) {
			l.ended = at // what names a party is remembered as long as it is
			return
		}
		t.removeLeg(l)
	}
}

// end takes a leg to over, and its parties with it when that was their last one.
func (t *Tracker) endLeg(l *leg, at time.Time, o outcome) {
	switch r := l.lastRefer; {
	case r == nil || !r.accepted:
	case r.earlyStatus != 0 && l.party != nil && !l.party.over:
		l.party.takenRefer = r
	default:
		t.emitTransfer(r, at, 0, "", "")
	}
	if l.call.callbackSilent(l) && !l.answered.IsZero() {
		t.giveUpCallback(l)
	}
	l.state, l.ended, l.endedBy, l.lastRefer, l.earlierRefers = over, at, o.by, nil, nil
	t.unindexLeg(l)
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
		for _, o := range c.legs { // nor does it call again
			if o.state == challenged && o.origin == PBX {
				t.endRefused(o, at)
			}
		}
		for _, p := range c.parties { // the PBX rings nobody any more
			switch {
			case p.over || p.leftAt.IsZero():
			case p.takenRefer != nil: // nor connects anybody
				t.emitTransfer(p.takenRefer, at, 0, "", "")
			default:
				t.endParty(p)
			}
		}
	}
	if p := l.party; p != nil && !p.over {
		t.endPartyLeg(p, l, at, o)
	}
	if p := l.service; p != nil && !p.over && !c.serviceOnOtherLeg(l) {
		if l == p.firstLeg && l.origin == PBX { // who is called on its leg is the host's caller
			o.by = o.by.reversed()
		}
		t.endService(p, at, o)
	}
}

// endParty notes how a leg of a party ended, and ends the party with its last
// leg.
func (t *Tracker) endPartyLeg(p *party, l *leg, at time.Time, o outcome) {
	if p == l.call.callback { // who is called on its leg is the caller
		o.by = o.by.reversed()
		if p.answered.IsZero() {
			o.status = l.call.calleesStatus()
		}
	}
	switch {
	case !l.answered.IsZero():
		p.outcome = o
	case p.answered.IsZero() && statusWeight[o.status] >= statusWeight[p.outcome.status]:
		p.outcome = o
	}
	if l.call.partyGoesOn(p) {
		return
	}
	p.leftAt = at
	if p.takenRefer != nil {
		if w := l.call.leavingParty; w != nil && w != p {
			t.endParty(w)
		}
		l.call.leavingParty = p
		return
	}
	caller := l.call.caller
	refused := p.flow == In && p.answered.IsZero() && !l.canceled && o.code/100 != 3
	if !refused || caller == nil || caller.state == over || at.Sub(p.firstLeg.began) >= forkGap {
		t.endParty(p)
	}
}

// leave ends a party at the time its last leg was over.
func (t *Tracker) endParty(p *party) {
	if r := p.takenRefer; r != nil { // and nothing has shown that the PBX could not
		t.emitTransfer(r, p.leftAt, r.earlyStatus, r.earlyPhrase, "")
	}
	if p.over {
		return
	}
	p.over = true
	if p.firstLeg.state == over {
		p.firstLeg.ended = p.leftAt
	}
	if p.dialed {
		t.emitHangup(p, p.leftAt)
	}
}

// holds reports whether a leg keeps p from being over: one that is up, or, if
// none was answered, one that may yet be. A dead phone beside the one that was
// answered would otherwise prolong a short call.
func (c *call) partyGoesOn(p *party) bool {
	for _, l := range c.legs {
		if l.party == p && (l.state == talking || l.state != over && p.answered.IsZero()) {
			return true
		}
	}
	return false
}

func (t *Tracker) emitHangup(p *party, at time.Time) *Event {
	e := t.emitEvent(p, Hangup, at)
	o := &p.outcome
	e.Status, e.SipCode, e.SipReason, e.Q850 = o.status, o.code, cloneString(o.phrase), o.q850
	e.HangupBy, e.Elsewhere, e.RecID = o.by, o.elsewhere, p.recID
	if p.answered.IsZero() {
		e.SetupTime, e.RingDuration = p.ringTimes(at)
	} else {
		e.AnsweredAt = p.answeredWall
		e.Duration = at.Sub(p.answered)
		e.SetupTime, e.RingDuration = p.ringTimes(p.answered)
	}
	if p.flow == In {
		missed := p.answered.IsZero() && !o.elsewhere && o.status != Forwarded
		e.Missed = &missed
	}
	return e
}

// times returns how long it took until a phone rang, and how long it rang
// until end, which is the answer or the end.
func (p *party) ringTimes(end time.Time) (setup, ring time.Duration) {
	if p.rang.IsZero() {
		if p.answered.IsZero() {
			return 0, 0
		}
		return end.Sub(p.firstLeg.began), 0
	}
	return p.rang.Sub(p.firstLeg.began), end.Sub(p.rang)
}

// heardPhone keeps the name of the phone that responds.
func (p *party) setPhoneAgent(l *leg, m *Message) {
	if p.flow != In {
		return
	}
	agent := headerValue(m.Head, "User-Agent")
	if agent == "" {
		agent = headerValue(m.Head, "Server")
	}
	if agent != "" && agent != p.userAgent {
		p.userAgent = cloneString(agent)
	}
}

// say hands out the next event of a party, with what all of its events tell.
// It is the caller's to complete until the next one is said.
func (t *Tracker) emitEvent(p *party, typ Type, at time.Time) *Event {
	c, l := p.firstLeg.call, p.firstLeg
	switch w := c.leavingParty; { // what ends it is told first
	case w == nil || w == p:
	case typ == Hangup: // perhaps of who was to be connected
		t.emitTransfer(w.takenRefer, at, 0, "", "")
	default:
		t.endParty(w)
	}
	c.seq++
	t.events = append(t.events, Event{
		ID:           p.eventID(typ),
		Call:         c.id,
		Seq:          c.seq,
		At:           t.clock.wallTime(at),
		Observed:     at,
		Type:         typ,
		Party:        p.id,
		Extension:    p.ext,
		Flow:         p.flow,
		CallerNum:    l.callerNum,
		CallerName:   l.callerName,
		CallAPIID:    cmp.Or(p.callAPIID, l.callAPIID),
		ClientAPIID:  l.clientAPIID,
		CallBackID:   l.callBackID,
		Tag:          l.tag,
		Diversion:    l.diversion,
		Verstat:      l.verstat,
		UserAgent:    p.userAgent,
		CallerE164:   l.callerE164,
		RemoteNumber: p.remoteNumber,
		Transferred:  p.transferred,
		Correlation:  c.correlationOf(l),
		Headers:      l.headers,
		CallerNumRaw: l.callerNumRaw,
		Privacy:      l.private,
	})
	e := &t.events[len(t.events)-1]
	e.Recovered, e.Distributor = p.recovered, p.distributor
	e.CalledNumber, e.CalledE164 = p.calledNumber()
	e.CalledNumberRaw = p.calledNumberRaw()
	switch p.flow {
	case Out:
		e.CallerExtension = &p.ext
		e.CalledExtension = c.calledExtension(l)
		e.ANI = c.numberShownOutside()
		if c.caller != nil && c.caller.trunk {
			e.CalledDID = cmp.Or(c.caller.calledDID, c.caller.calledUser)
		}
		if p.transferred {
			e.Diversion = "" // that is the extension itself
			if caller := c.caller; caller != nil && !l.hidden {
				e.CallerNum, e.CallerName, e.CallerE164 = caller.callerNum, caller.callerName, caller.callerE164
				e.CallerNumRaw, e.Privacy = caller.callerNumRaw, caller.private
			}
		}
	case In:
		e.CalledExtension = &p.ext
		switch {
		case p.kind == "":
			t.fillCaller(e, c.caller, l)
		case l.origin == Edge:
			t.fillCaller(e, l, l)
		default:
			e.fillCallee(l)
		}
	}
	if p.template != nil {
		talks := e.CalledExtension
		e.copyFrom(p.template)
		if p.flow == Out && !e.Transferred && (l.service != nil || c.talkingParty() != nil) {
			e.CalledExtension = talks
		}
	}
	return e
}

// eventID names an event of a party. Of most types it has one.
func (p *party) eventID(typ Type) string {
	switch typ {
	case Hold, Resume, Transfer:
		p.repeatedEvents++
		return deriveID(p.id, string(typ), strconv.Itoa(p.repeatedEvents))
	}
	return deriveID(p.id, string(typ))
}

// correlation is how a leg was found to be the call's. The leg that began a call
// tells how the last of the others was.
func (c *call) correlationOf(l *leg) string {
	if l.correlation != "" {
		return l.correlation
	}
	if c.correlation != "" {
		return c.correlation
	}
	for _, o := range slices.Backward(c.legs) { // a record of an older version has none
		if o.correlation != "" && !strings.HasSuffix(o.correlation, ambiguous) {
			return o.correlation
		}
	}
	return ""
}

// number is what was dialed to reach a party, or by it.
func (p *party) calledNumber() (raw, e164 string) {
	switch caller := p.firstLeg.call.caller; {
	case p.dialedNumber != "":
		return p.dialedNumber, p.dialedE164
	case p.flow == Out:
		return p.firstLeg.calledUser, p.firstLeg.calledE164
	case caller != nil && !p.firstLeg.otherCaller:
		return caller.calledUser, caller.calledE164
	}
	return p.ext.User, ""
}

// rawNumber is what number returns as it stands in the message; "": just so, or it
// is not known.
func (p *party) calledNumberRaw() string {
	switch caller := p.firstLeg.call.caller; {
	case p.dialedNumber != "":
	case p.flow == Out:
		return p.firstLeg.calledRaw
	case caller != nil && !p.firstLeg.otherCaller:
		return caller.calledRaw
	}
	return ""
}

// fromCaller fills in what the caller's leg says of a party that is called; if
// the PBX has hidden that leg behind another Call-ID, what the number says.
func (t *Tracker) fillCaller(e *Event, caller, l *leg) {
	if caller == nil || l.otherCaller {
		switch own, o := t.directory.extensionShownAs(l.callerNum), t.partyCalledFor(l); {
		case o != nil:
			e.CallerExtension = &o.ext
		case own.User != "":
			e.CallerExtension = &own
		case t.directory.kindOf(l.callerNum, e.Observed) != "":
			e.CallerExtension = &Extension{User: l.callerNum}
		}
		return
	}
	if caller.party != nil && !caller.hidden && !l.hidden {
		e.CallerExtension = &caller.party.ext
	}
	if caller.trunk {
		e.CalledDID = cmp.Or(caller.calledDID, caller.calledUser)
	}
	if caller.withheld && !l.withheld && caller.hasNumber(l.callerNum) { // the PBX has not passed the wish on
		e.CallerNum, e.CallerName, e.CallerE164, e.CallerNumRaw, e.Privacy = anonymousUser, anonymousName, "", "", true
	}
	if e.Diversion == "" {
		e.Diversion = caller.diversion
	}
	if e.Verstat == "" {
		e.Verstat = caller.verstat
	}
}

// fromCallee fills in, of a host, who was called on leg l and then sent to it.
func (e *Event) fillCallee(l *leg) {
	e.CallerNum, e.CallerName, e.CallerE164 = l.calledUser, "", l.calledE164
	if p := l.party; p != nil && p.flow == In {
		e.CallerNum, e.CallerE164, e.CallerExtension = p.ext.User, "", &p.ext
	}
}

// called returns the extension that a caller's leg leads to: the queue, menu or
// conference that was dialed; else the one that talks, or talked last; else the one
// dialed; else the only one that is called. nil: none.
func (c *call) calledExtension(l *leg) *Extension {
	switch {
	case l.service != nil && l.origin == Edge:
		return &l.service.ext
	case l.origin == PBX && l.trunk, c.dialedOutside(l):
		return nil
	}
	if p := c.talkingParty(); p != nil {
		return &p.ext
	}
	if c.lastTalker.User != "" {
		talked := c.lastTalker
		return &talked
	}
	var one *party
	several := false
	for _, p := range c.parties {
		switch {
		case p.flow != In || p.kind != "":
		case one == nil:
			one = p
		case one.ext != p.ext:
			several = true
		}
	}
	switch {
	case l.calledExt.User != "":
		return &l.calledExt
	case one != nil && !several:
		return &one.ext
	}
	return nil
}

// talker returns the called party that talks: of several the first that was answered;
// if all of them are over, the last. nil: none was answered.
func (c *call) talkingParty() (talks *party) {
	for _, p := range c.parties {
		switch {
		case p.flow != In || p.kind != "" || p.answered.IsZero():
		case talks == nil || talks.over && (!p.over || !p.answered.Before(talks.answered)):
			talks = p
		}
	}
	return talks
}

// outside reports whether the number dialed on a caller's leg was that of
// somebody behind a trunk.
func (c *call) dialedOutside(l *leg) bool {
	return slices.ContainsFunc(c.legs, func(o *leg) bool { return o.origin == PBX && o.trunk && o.calledUser == l.calledUser })
}

// shownOutside returns the caller's number on the leg to a trunk.
func (c *call) numberShownOutside() string {
	if c.shownOutside != "" {
		return c.shownOutside
	}
	for _, l := range c.legs {
		if l.origin == PBX && l.trunk {
			return l.callerNum
		}
	}
	return ""
}

// live reports whether a leg of the call is not over.
func (c *call) live() bool {
	return slices.ContainsFunc(c.legs, func(l *leg) bool { return l.state != over })
}

// answeredBeside reports whether another leg was answered while l rang. An answer
// before or after that is no reason to cancel l. The caller's leg says little: the PBX
// itself may have answered it.
func (c *call) otherLegAnswered(l *leg) bool {
	for _, o := range c.legs {
		if o == l || o == c.caller && l.cancelReason.q850 == causePickedUp {
			continue
		}
		if !o.answered.Before(l.began) && !o.answered.After(l.canceledAt) {
			return true
		}
	}
	return false
}

// calleesSay returns the heaviest word of the callees' legs, and "" when none
// is known. A leg that is up says it was answered; one that still rings is
// given up.
func (c *call) calleesStatus() Status {
	s := c.endedCalleesStatus
	for _, l := range c.legs {
		w := Status("")
		switch {
		case l.origin != PBX || l.state == over:
		case l.state == talking:
			w = Answered
		case l.state == challenged:
			w = l.refusal.status
		default:
			w = l.unansweredStatus()
		}
		if calleeWeight(w) > calleeWeight(s) {
			s = w
		}
	}
	if s == Forwarded {
		return ChanUnavail // and to nobody
	}
	return s
}

// hash derives an id from parts that are the same on every node.
func deriveID(parts ...string) string {
	var buf [256]byte
	b := buf[:0]
	for _, p := range parts {
		b = append(b, p...)
		b = append(b, 0)
	}
	sum := sha256.Sum256(b)
	var text [32]byte
	hex.Encode(text[:], sum[:16])
	return string(text[:])
}
