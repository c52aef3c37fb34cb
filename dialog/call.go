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

	"bellhop/dialog/siptext"
)

// A leg moves through these states. It goes back to calling only if it is challenged:
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
//	  └──30 s pass────────────────────────────────────▶──┘
//
// Every state but over also changes to over when its limit passes. A CANCEL changes no
// state: the 487 that it asks for ends the leg, and a 2xx may still win the race (RFC 3261
// §9.1). The same holds for a BYE in an early dialog (§15).
type state uint8

const (
	calling    state = iota // INVITE forwarded, no response above 100 yet
	ringing                 // 101‥199 received
	challenged              // 401, 407 or another final response received that asks for another INVITE
	talking                 // answered
	over                    // ended; stays in memory for the other legs of its party, and to recognize stragglers
)

func (s state) String() string {
	return [...]string{"calling", "ringing", "challenged", "talking", "over"}[s]
}

const (
	t1         = 500 * time.Millisecond
	lingerTime = 64 * t1         // no straggler is older: Timer H, RFC 3261 §17.2.1
	timerC     = 3 * time.Minute // bellhop cancels a ringing leg no sooner, RFC 3261 §16.6

	// ringLimit is how long a leg may ring without another message: bellhop's Timer C, the
	// CANCEL that bellhop then sends, and the wait for the 487.
	ringLimit = timerC + lingerTime + 28*time.Second

	// dialOutDelay is the time after a 100 without another response at which an attempt
	// counts as a call: a PBX refuses or challenges an INVITE faster.
	dialOutDelay = 500 * time.Millisecond

	// hangupGap is the time that a PBX which ends a call by itself takes between its BYEs
	// to the two ends: Asterisk waits for the response to its re-INVITE in between.
	hangupGap = 5 * time.Second

	// forkGap is the time that a PBX takes to send INVITEs to all phones of an extension,
	// one after the other. Until then the refusal of one phone does not end the party.
	forkGap = 20 * time.Millisecond

	// maxLegs is the number of legs that one call has at a time, maxCalls the number of
	// calls. INVITEs beyond that are forwarded, but not followed.
	maxLegs  = 256
	maxCalls = 1 << 17
)

// A call is the legs that belong to one conversation.
type call struct {
	id                 string
	seq                int       // Seq of the last event
	began              time.Time // time of the first INVITE
	lastHeard          time.Time // time of the last message; it never decreases
	deadline           time.Time // earliest deadline of a leg
	nextCheck          time.Time // when the heap checks the deadline: then, or earlier
	heapIndex          int       // index in Tracker.deadlines
	legs               []*leg    // in order of their INVITEs
	parties            []*party  // in order of their dials
	callIDs            []string  // Call-IDs of its legs, under which it is in callByCallID
	keys               []key     // under which it is in keyHolders
	caller             *leg      // first leg of the edge side; nil: there was none
	endedCalleesStatus Status    // heaviest status of the callees' legs that are over
	callback           *party    // party of an extension that the PBX calls back; nil: the call is no callback
	handedOnTo         string    // Call-ID of the call to whose callee a transfer connects the other end of this one; "": none
	leavingParty       *party    // its legs have ended, and the outcome of its REFER is not known yet; nil: none
	correlation        string    // method:confidence by which the last leg was joined; "": none was

	changedAt time.Time // first change since Changed returned it; zero: none
	stored    bool      // Changed has returned a snapshot of it

	bridgedSince time.Time     // since when a callee talks with the caller; zero: none does
	wasBridged   bool          // a callee has talked with the caller before
	pickedUp     bool          // the caller talks with a phone whose leg is in another call
	bridgedFor   time.Duration // total time that callees talked with the caller before bridgedSince

	lastTalker   Extension // extension of the last called party that talked, and whose legs are removed; no user: none
	shownOutside string    // the caller's number on the first leg to a trunk, kept when that leg is removed; "": none
}

// A leg is one INVITE dialog, or the attempt at one, on one side of the PBX.
type leg struct {
	call    *call
	party   *party // of the extension at its phone; nil: it has none
	service *party // party of the queue, IVR or conference that the caller reached; nil: none
	origin  Side   // side that sent the INVITE
	trunk   bool
	state   state

	callID, fromTag string
	toTag           string // To tag of the dialog, from the first response that has one; after a 2xx: that of the 2xx
	branch          string // of the INVITE, as last repeated
	partySeed       string // branch and CSeq of the first INVITE, from which the id of the leg's party is derived
	cseq            uint32

	began     time.Time // first INVITE
	rang      time.Time // first 18x
	lastHeard time.Time // last INVITE or provisional response
	dialAt    time.Time // when the dial-out is emitted if no other response comes; zero: not scheduled
	answered  time.Time
	ended     time.Time

	expires        time.Time      // when the session expires unless it is refreshed (RFC 4028); zero: never
	offer          mediaDirection // direction in the phone's re-INVITE or UPDATE that awaits its 2xx
	offerSeq       uint32         // CSeq of that request
	earlyDirection mediaDirection // direction that was agreed before the answer
	lastRefer      *refer         // last REFER whose outcome is not known yet; nil: none
	earlierRefers  []*refer       // earlier REFERs without a known outcome, oldest first
	hasReferred    bool           // its phone has transferred the other end with a REFER

	refersSent int // number of REFERs that its phone has sent

	pbxOfferCSeq   uint32 // CSeq of the phone's re-INVITE that leaves the offer to the PBX; 0: none
	phoneOfferCSeq uint32 // CSeq of the PBX's re-INVITE that leaves the offer to the phone; 0: none
	muted          bool   // the PBX sends no voice in its offer

	forks []fork      // further dialogs that its INVITE has created
	loss  *dialogLoss // suspected end of its dialog; nil: none

	peer       netip.AddrPort     // address of the edge side's flow; invalid: restored from a snapshot of an older version
	uacSeq     uint32             // CSeq of the last request in the dialog by the sender of the INVITE; 0: the INVITE's
	uasSeq     uint32             // CSeq of the last request by the other end, plus one; 0: there was none
	unverified *unverifiedRequest // last request in the dialog that counts only once it is accepted; nil: none

	triedByPBX      bool // the PBX has answered the INVITE, as last repeated, with 100
	transactionLost bool // by a restart: no response to the INVITE will come
	canceled        bool // by a CANCEL, or a BYE of the early dialog
	canceledAt      time.Time
	cancelReason    reason   // Reason of the CANCEL
	pickedUp        bool     // another phone picked the call up when the leg was canceled
	byeTag          string   // To tag of the BYE that came before the 2xx
	endedBy         HangupBy // who ended the leg
	refusal         outcome  // outcome of the attempt, while challenged

	inviteFacts
	calledExt     Extension // extension that the dialed number is, or leads to
	notAgent      bool      // the callee on this leg was not called by the caller's queue or IVR: its talk does not count as bridged
	otherCaller   bool      // the PBX shows another extension as the caller than the call's caller
	referredTo    string    // number in the REFER that caused the leg; "": none did
	correlation   string    // method:confidence by which it was joined; "": it began the call
	phoneNumber   string    // number under which it is in legsByNumber; "": it is not
	otherNumbers  []string  // further numbers, and index keys, under which it is there
	ambiguous     bool      // a leg to its dialed target was joined to no call, because several callers fit
	callerGoneAt  time.Time // when the phone hung up that had been handed on to this callee; zero: it has not
	redirectUsers string    // users of the Contacts in the 3xx that refused it, one per line; "": none
}

// A party is one extension's participation in a call, in one direction, over one or more
// legs.
type party struct {
	id           string
	ext          Extension
	flow         Flow
	firstLeg     *leg   // its events carry the facts of this leg
	kind         Kind   // of a queue, IVR or conference; "": a phone
	dialedNumber string // dialed number, if it differs from the one that the legs show
	dialedE164   string // dialedNumber in E.164
	dialed       bool   // its dial-in or dial-out was emitted
	rang         time.Time
	answered     time.Time
	answeredWall time.Time // answered, by the wall clock of that moment, as in its answer event
	leftAt       time.Time // when its last leg ended, if the party may yet go on; zero: it has legs
	over         bool      // it has ended; if it was dialed, its hangup was emitted
	outcome      outcome
	userAgent    string
	recID        string
	remoteNumber string // number that the PBX connected it with; "": the caller's
	callAPIID    string // of the leg that answered, if it is not the first; "": the first's
	takenRefer   *refer // its REFER that the PBX has reported as successful before it called anybody; nil: none

	recovered bool   // the process was restarted during its call
	template  *Event // event whose fields its events repeat, as its snapshot was lost; nil: the legs supply them

	transferred    bool // it is of an extension that forwards or transfers the call to a trunk
	holding        bool // the extension has put the other end on hold
	repeatedEvents int  // number of its events of types that may repeat

	distributor *Extension // queue or IVR on whose behalf the extension was called; nil: none
}

// A partyTracker emits the events of parties, and ends them.
type partyTracker struct {
	node string // name of this node in the event log

	config    *Config
	emitter   *emitter
	changes   *changes
	directory *directory
	index     *callIndex
}

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

// stateDeadline returns when the leg's state ends by itself, or an event is due in it. talk
// is the limit of an answered leg.
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
	panic("dialog: invalid leg state") // unreachable: all states are above
}

// observeInviteResponse applies a response to the leg's INVITE. Retransmissions change
// nothing.
func (t *legTracker) observeInviteResponse(l *leg, m *Message) {
	switch l.state {
	case over, challenged:
		return // a straggler
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
	case m.Status == 401 || m.Status == 407 || l.credentialsRefused(m):
		t.observeChallenge(l, m)
	case t.attempts.allowsAttempt(l, m.At):
		if l.asksForRetry(m) {
			l.state, l.ended, l.dialAt = challenged, m.At, time.Time{}
			l.refusal = t.judge.judgeResponse(l, m)
			return
		}
		t.parties.emitPendingDials(l)
		t.endLeg(l, m.At, t.judge.judgeResponse(l, m))
	default:
		t.attempts.suppressed.Add(1)
		if len(l.call.legs) == 1 {
			t.removeLeg(l) // a flood must leave no calls in memory
		} else {
			t.endLeg(l, m.At, t.judge.judgeResponse(l, m))
		}
	}
}

// observeTrying applies a 100. If the PBX sent it, credentials were accepted, as a PBX does
// not process an INVITE before it has checked them. A 100 of bellhop's own shows nothing.
func (t *legTracker) observeTrying(l *leg, m *Message) {
	if !m.Own {
		l.triedByPBX = true
	}
	switch {
	case m.Own:
	case l.credentials:
		if t.attempts.allowsAttempt(l, m.At) {
			t.parties.emitPendingDials(l)
		}
	case l.dialAt.IsZero() && l.state == calling:
		l.dialAt = m.At.Add(dialOutDelay)
	}
}

// emitPendingDials emits the dial-out of the leg's extension, and the dial-in of the queue,
// IVR or conference that it reached, unless they were emitted before.
func (t *partyTracker) emitPendingDials(l *leg) {
	l.dialAt = time.Time{}
	if p := l.party; p != nil && p.flow == Out && !p.dialed && !p.over && p != l.call.callback {
		t.emitDial(p, DialOut, l.began)
	}
	if p := l.service; p != nil && !p.dialed && !p.over {
		t.emitDial(p, DialIn, l.began)
	}
}

// emitDial emits the dial-in or dial-out of a party.
func (t *partyTracker) emitDial(p *party, typ Type, at time.Time) {
	p.dialed = true
	p.distributor = p.findDistributor()
	e := t.emitEvent(p, typ, at)
	e.Status, e.Leg = Calling, t.legID(p.firstLeg)
}

// legID returns the id of a leg's dialog.
func (t *partyTracker) legID(l *leg) LegID {
	id := LegID{Node: t.node, Origin: l.origin, CallID: l.callID, FromTag: l.fromTag, ToTag: l.toTag}
	if l.peer.IsValid() {
		id.Peer = l.peer.String()
	}
	return id
}

// emitRinging emits the ringing event of a leg's party, once per party.
func (t *partyTracker) emitRinging(l *leg, m *Message) {
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

// emitAnswer emits the answer of a party for the 2xx m on a leg.
func (t *partyTracker) emitAnswer(p *party, l *leg, m *Message) {
	p.answered, p.answeredWall = m.At, t.emitter.wallTime(m.At)
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

// credentialsRefused reports whether m refuses the credentials of an INVITE: a 403 from the
// PBX without a 100 before it, which is FreeSWITCH's answer to a wrong password.
func (l *leg) credentialsRefused(m *Message) bool {
	return m.Status == 403 && !m.Own && l.origin == Edge && l.credentials && l.state == calling && !l.triedByPBX
}

// observeChallenge applies a 401 or 407. An attempt without events is no call, and its leg
// is removed at once, so that scanners cost nothing. Only its beginning is kept, for the
// INVITE with credentials.
func (t *legTracker) observeChallenge(l *leg, m *Message) {
	if p := l.party; p != nil && p.dialed || l.origin == PBX {
		l.state, l.ended = challenged, m.At
		l.refusal = t.judge.judgeResponse(l, m)
		return
	}
	if l.origin == Edge {
		t.attempts.addChallenged(l)
	}
	t.removeLeg(l)
}

// observeCancel notes that the sender of the INVITE canceled the leg.
func (l *leg) observeCancel(m *Message) {
	if l.canceled || l.state != calling && l.state != ringing {
		return
	}
	l.canceled, l.canceledAt = true, m.At
	l.cancelReason = readReason(m.Head)
}

// inDialog reports whether m belongs to the leg's dialog: its tags and side match in one of
// the two directions. A request that goes directly from one edge peer to another, as with a
// PBX that does not record-route, belongs to the legs of both.
func (l *leg) inDialog(m *Message) bool {
	near, far := l.fromTag, l.toTag
	if l.transactionLost && l.state < talking { // the To tag of the answer is not known
		return m.FromTag == near || m.ToTag == near
	}
	side := m.Origin()
	direct := m.Src == m.Dst
	if m.FromTag == near && m.ToTag == far && (side == l.origin || direct) {
		return true
	}
	return m.FromTag == far && m.ToTag == near && (side != l.origin || direct)
}

// observeBye ends an answered leg. The request ends it, not its response: the sender has
// left with it (RFC 3261 §15.1.1), even if it is lost, challenged and repeated, or never
// answered.
func (t *legTracker) observeBye(l *leg, m *Message) {
	if m.Src == PBX && l.state == talking {
		t.transfers.failEarlyRefers(l, m)
	}
	t.applyBye(l, m, m.At, readReason(m.Head).q850, t.config.recordingID(m))
}

// applyBye ends an answered leg at a time because of m: a BYE, or the 2xx to a BYE. q850
// and rec are the Q.850 cause and the recording id in the BYE.
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
	case challenged, over: // a straggler, or the repeated BYE
	}
}

// hangupBy returns who hung up, for the BYE m or its response: the end of the leg that sent
// the BYE. If the PBX sent it, the PBX itself hung up if the other end still talks, if the
// PBX has just hung up on that end too, or if it gives a cause of its own.
func (l *leg) hangupBy(m *Message) HangupBy {
	if m.Origin() == PBX {
		r := readReason(m.Head)
		if r.endedByPBX() || r.failed() && !l.otherEndLeftBefore(m.At) {
			return BySystem
		}
		var last *leg // last answered leg that has not transferred the other end
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

// otherEndLeftBefore reports whether the other end of the leg hung up, or refused, within
// T1 before: the PBX then passes on that end's cause. An end that left after a REFER gave
// no cause.
func (l *leg) otherEndLeftBefore(at time.Time) bool {
	return slices.ContainsFunc(l.oppositeLegs(), func(o *leg) bool {
		return o.state == over && o.endedBy != BySystem && !o.hasReferred && at.Sub(o.ended) <= t1
	})
}

// oppositeLegs returns the legs on the other side of the PBX: those with the same Call-ID,
// if there are any; else the callees' legs, or the leg of the call's caller.
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

// expireLeg processes the deadline of a leg, which passed at the time at.
func (t *legTracker) expireLeg(l *leg, at time.Time) {
	switch l.state {
	case calling, ringing:
		if !l.dialAt.IsZero() && !l.dialAt.After(at) {
			l.dialAt = time.Time{}
			if t.attempts.allowsAttempt(l, at) {
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
	switch r := l.lastRefer; {
	case r == nil || !r.accepted:
	case r.earlyStatus != 0 && l.party != nil && !l.party.over:
		l.party.takenRefer = r
	default:
		t.parties.emitTransfer(r, at, 0, "", "")
	}
	if l.call.callbackSilent(l) && !l.answered.IsZero() {
		t.parties.giveUpCallback(l)
	}
	l.state, l.ended, l.endedBy, l.lastRefer, l.earlierRefers = over, at, o.by, nil, nil
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

// endPartyLeg merges the outcome of a party's leg into the party's, and ends the party with
// its last leg.
func (t *partyTracker) endPartyLeg(p *party, l *leg, at time.Time, o outcome) {
	if p == l.call.callback { // the callee of its leg is the caller
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

// endParty ends a party at the time its last leg was over, and emits its hangup.
func (t *partyTracker) endParty(p *party) {
	if r := p.takenRefer; r != nil { // and no message has shown that the transfer failed
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

// partyGoesOn reports whether a leg prevents p from ending: one that is answered, or, if p
// was not answered, one that may yet be. A dead phone beside the answered one would
// otherwise prolong a short call.
func (c *call) partyGoesOn(p *party) bool {
	for _, l := range c.legs {
		if l.party == p && (l.state == talking || l.state != over && p.answered.IsZero()) {
			return true
		}
	}
	return false
}

// emitHangup emits the hangup of a party with its outcome.
func (t *partyTracker) emitHangup(p *party, at time.Time) *Event {
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

// ringTimes returns the time from the INVITE to the first 18x, and from there to end, which
// is the answer or the end of the party.
func (p *party) ringTimes(end time.Time) (setup, ring time.Duration) {
	if p.rang.IsZero() {
		if p.answered.IsZero() {
			return 0, 0
		}
		return end.Sub(p.firstLeg.began), 0
	}
	return p.rang.Sub(p.firstLeg.began), end.Sub(p.rang)
}

// setPhoneAgent sets the User-Agent of a called party from its phone's response m.
func (p *party) setPhoneAgent(l *leg, m *Message) {
	if p.flow != In {
		return
	}
	agent := siptext.Field(m.Head, "User-Agent")
	if agent == "" {
		agent = siptext.Field(m.Head, "Server")
	}
	if agent != "" && agent != p.userAgent {
		p.userAgent = cloneString(agent)
	}
}

// emitEvent appends the next event of a party, filled with the fields that all of its
// events have. The caller may complete the event until the next one is emitted.
func (t *partyTracker) emitEvent(p *party, typ Type, at time.Time) *Event {
	c, l := p.firstLeg.call, p.firstLeg
	switch w := c.leavingParty; { // events that end the leaving party come first
	case w == nil || w == p:
	case typ == Hangup: // this may be the hangup of the transferred party
		t.emitTransfer(w.takenRefer, at, 0, "", "")
	default:
		t.endParty(w)
	}
	c.seq++
	t.emitter.events = append(t.emitter.events, Event{
		ID:           p.eventID(typ),
		Call:         c.id,
		Seq:          c.seq,
		At:           t.emitter.wallTime(at),
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
	e := &t.emitter.events[len(t.emitter.events)-1]
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
			e.Diversion = "" // the diverting number is the extension itself
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

// eventID returns the id of the party's event of a type. Types that may repeat are
// numbered.
func (p *party) eventID(typ Type) string {
	switch typ {
	case Hold, Resume, Transfer:
		p.repeatedEvents++
		return deriveID(p.id, string(typ), strconv.Itoa(p.repeatedEvents))
	}
	return deriveID(p.id, string(typ))
}

// correlationOf returns how a leg was joined to the call. For the leg that began the call
// it returns how the last of the other legs was joined.
func (c *call) correlationOf(l *leg) string {
	if l.correlation != "" {
		return l.correlation
	}
	if c.correlation != "" {
		return c.correlation
	}
	for _, o := range slices.Backward(c.legs) { // a snapshot of an older version lacks it
		if o.correlation != "" && !strings.HasSuffix(o.correlation, ambiguous) {
			return o.correlation
		}
	}
	return ""
}

// calledNumber returns the number that was dialed to reach a party, or by it.
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

// calledNumberRaw returns the number of calledNumber as written in the message; "": it is
// written the same, or is not known.
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

// fillCaller fills in the caller of a called party from the caller's leg. If the PBX shows
// another caller, or the caller's leg is not known, the caller is the party that the PBX has
// called on behalf of l's extension, else the extension that the number on leg l belongs to.
func (t *partyTracker) fillCaller(e *Event, caller, l *leg) {
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
	if caller.withheld && !l.withheld && caller.hasNumber(l.callerNum) { // the PBX has not forwarded the request for privacy
		e.CallerNum, e.CallerName, e.CallerE164, e.CallerNumRaw, e.Privacy = anonymousUser, anonymousName, "", "", true
	}
	if e.Diversion == "" {
		e.Diversion = caller.diversion
	}
	if e.Verstat == "" {
		e.Verstat = caller.verstat
	}
}

// fillCallee fills in, for the event of a queue, IVR or conference, the callee of leg l as
// its caller: it was called first and then transferred there.
func (e *Event) fillCallee(l *leg) {
	e.CallerNum, e.CallerName, e.CallerE164 = l.calledUser, "", l.calledE164
	if p := l.party; p != nil && p.flow == In {
		e.CallerNum, e.CallerE164, e.CallerExtension = p.ext.User, "", &p.ext
	}
}

// calledExtension returns the extension that a caller's leg leads to: the queue, IVR or
// conference that was dialed; else the one that talks, or talked last; else the one that
// was dialed; else the only one that is called. nil: none.
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

// talkingParty returns the called party that talks: of several the first that was answered;
// if all of them have ended, the last one. nil: none was answered.
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

// dialedOutside reports whether the number dialed on a caller's leg was called on a trunk.
func (c *call) dialedOutside(l *leg) bool {
	return slices.ContainsFunc(c.legs, func(o *leg) bool { return o.origin == PBX && o.trunk && o.calledUser == l.calledUser })
}

// numberShownOutside returns the caller's number on the first leg to a trunk, or "".
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

// otherLegAnswered reports whether another leg was answered while l rang. An answer before
// or after that is no reason to cancel l. With cause 16 the caller's leg is ignored,
// because the PBX itself may have answered it.
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

// calleesStatus returns the heaviest status of the callees' legs, "" if none is known. An
// answered leg counts as answered, and a leg that still rings as given up.
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
		return ChanUnavail // forwarded, but nobody was called
	}
	return s
}

// deriveID derives an id of 32 hex digits from parts that are the same on every node.
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
