package dialog

import (
	"net/netip"
	"slices"
	"time"

	"bellhop/dialog/sdp"
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
// state. The leg ends with the 487 that follows, or it is answered if a 2xx comes first
// (RFC 3261 §9.1). The same holds for a BYE in an early dialog (§15).
type state uint8

const (
	calling    state = iota // INVITE forwarded, no response above 100 yet
	ringing                 // 101‥199 received
	challenged              // 401, 407 or another final response received that asks for another INVITE
	talking                 // answered
	over                    // ended; stays in memory for the other legs of its party, and to recognize late messages
)

func (s state) String() string {
	return [...]string{"calling", "ringing", "challenged", "talking", "over"}[s]
}

const (
	t1         = 500 * time.Millisecond
	lingerTime = 64 * t1         // no retransmission comes later: Timer H, RFC 3261 §17.2.1
	timerC     = 3 * time.Minute // bellhop cancels a ringing leg no sooner, RFC 3261 §16.6

	// ringLimit is how long a leg may ring without another message. It covers bellhop's
	// Timer C, the CANCEL that bellhop then sends, and the wait for the 487.
	ringLimit = timerC + lingerTime + 28*time.Second

	// dialOutDelay is how long after a 100 an attempt counts as a call, if no other response
	// comes. A PBX refuses or challenges an INVITE sooner.
	dialOutDelay = 500 * time.Millisecond

	// hangupGap is the longest time between the BYEs to the two ends, if the PBX ends a call
	// by itself. Asterisk waits for the response to a re-INVITE between them.
	hangupGap = 5 * time.Second

	// forkGap is the time that a PBX takes to send INVITEs to all phones of an extension,
	// one after the other. Until then the refusal of one phone does not end the party.
	forkGap = 20 * time.Millisecond

	// maxLegs is the number of legs that one call has at a time, maxCalls the number of
	// calls. INVITEs beyond that are forwarded, but not followed.
	maxLegs  = 256
	maxCalls = 1 << 17
)

// A leg is one INVITE dialog, or the attempt at one, on one side of the PBX.
type leg struct {
	call    *call
	party   *party // party of the extension at its phone; nil: it has none
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

	expires        time.Time     // when the session expires unless it is refreshed (RFC 4028); zero: never
	offer          sdp.Direction // direction in the phone's re-INVITE or UPDATE that awaits its 2xx
	offerSeq       uint32        // CSeq of that request
	earlyDirection sdp.Direction // direction that was agreed before the answer
	refers         openRefers
	hasReferred    bool // its phone has transferred the other end with a REFER

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
	transactionLost bool // a restart has lost the INVITE transaction: no response to the INVITE will come
	canceled        bool // by a CANCEL, or a BYE of the early dialog
	canceledAt      time.Time
	cancelReason    reason   // Reason of the CANCEL
	pickedUp        bool     // another phone picked the call up when the leg was canceled
	byeTag          string   // To tag of the BYE that came before the 2xx
	endedBy         HangupBy // who ended the leg
	refusal         outcome  // outcome of the attempt, while challenged

	inviteFacts
	calledExt     Extension // extension that the dialed number is, or leads to
	notAgent      bool      // the caller's queue or IVR has not called the callee on this leg: its talk does not count as bridged
	otherCaller   bool      // the PBX shows another extension as the caller than the call's caller
	referredTo    string    // number in the REFER that caused the leg, or that sent the caller to the service that caused it; "": none did
	correlation   string    // method:confidence by which it was joined; "": it began the call
	phoneNumber   string    // number under which it is in legsByNumber; "": it is not
	otherNumbers  []string  // further numbers, and keys such as indexHidden, under which it is in legsByNumber
	ambiguous     bool      // a leg to its dialed target was joined to no call, because several callers fit
	callerGoneAt  time.Time // when the phone that a transfer was to connect with this callee hung up; zero: it has not
	redirectUsers string    // users of the Contacts in the 3xx that refused it, one per line; "": none
}

// stateDeadline returns when the leg leaves its state if no message comes, or when an
// event of the leg is due. talk is the longest duration of an answered leg.
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

// credentialsRefused reports whether m refuses the credentials of an INVITE: a 403 from the
// PBX without a 100 before it, which is FreeSWITCH's answer to a wrong password.
func (l *leg) credentialsRefused(m *Message) bool {
	return m.Status == 403 && !m.Own && l.origin == Edge && l.credentials && l.state == calling && !l.triedByPBX
}

// observeCancel notes that the sender of the INVITE canceled the leg.
func (l *leg) observeCancel(m *Message) {
	if l.canceled || l.state != calling && l.state != ringing {
		return
	}
	l.canceled, l.canceledAt = true, m.At
	l.cancelReason = readReason(m.Head)
}

// inDialog reports whether m belongs to the leg's dialog. The tags of m must be those of
// the dialog, and m's transaction must begin on the side that has the From tag. The side
// does not matter if m goes directly from one edge peer to another, as with a PBX that
// does not record-route: m then belongs to the legs of both peers. One matching tag is
// enough while the leg's To tag is unknown after a restart.
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

// learnTransaction sets the INVITE transaction of a leg that was restored from the event
// log alone. m is the leg's INVITE or CANCEL, or a response to an INVITE. A request
// counts only if its sender is trusted or has the address of the leg's peer. A response
// from 300 on is ignored, because it answers a re-INVITE.
func (l *leg) learnTransaction(m *Message) {
	if l.branch == "" && l.transactionLost && l.state < talking && m.Status < 300 && (!m.Request() || m.trusted() || l.matchesHost(m.From)) {
		l.branch, l.cseq = cloneString(m.Branch), m.CSeq
	}
}

// hangupBy returns who hung up; m is the BYE or the response to it. Usually that is the
// end of the leg that sent the BYE. It is the system if the PBX sent the BYE and one of
// these applies: the other end still talks; the PBX has hung up on the other end within
// hangupGap before; the BYE has a cause that is not the other end's.
//
// A phone that has connected the other end with a third phone by REFER may still have a
// leg. It does not count as talking if the third phone has just hung up.
func (l *leg) hangupBy(m *Message) HangupBy {
	if m.Origin() == PBX {
		r := readReason(m.Head)
		if r.endedByPBX() || r.failed() && !l.otherEndLeftBefore(m.At) {
			return BySystem
		}
		var last *leg // last answered leg that has not transferred the other end
		for _, o := range l.oppositeLegs() {
			switch {
			case o.state == talking && o.hasReferred && l.transferredEndLeft(o, m.At):
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

// transferredEndLeft reports whether the phone with which transferor has connected the
// leg hung up at most hangupGap before at. That is any answered phone of the call other
// than those of the leg and of transferor.
func (l *leg) transferredEndLeft(transferor *leg, at time.Time) bool {
	return slices.ContainsFunc(l.call.legs, func(o *leg) bool {
		return o != l && o != transferor && o.state == over && !o.answered.IsZero() && o.endedBy != BySystem && !o.hasReferred && at.Sub(o.ended) <= hangupGap
	})
}

// otherEndLeftBefore reports whether the other end of the leg hung up, or refused, at
// most T1 before at. If it did, the PBX passes on that end's cause. An end that left
// after a REFER does not count, because it gave no cause.
func (l *leg) otherEndLeftBefore(at time.Time) bool {
	return slices.ContainsFunc(l.oppositeLegs(), func(o *leg) bool {
		return o.state == over && o.endedBy != BySystem && !o.hasReferred && at.Sub(o.ended) <= t1
	})
}

// oppositeLegs returns the legs of the call on the other side of the PBX. If some of them
// have the same Call-ID as l, it returns only those. Otherwise it returns all callees'
// legs for a leg of the edge side, and the leg of the call's caller for a callee's leg.
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
