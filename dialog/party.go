package dialog

import (
	"slices"
	"time"

	"bellhop/dialog/siptext"
)

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
	takenRefer   *refer // REFER of the party that the PBX has reported as successful before it called anybody; nil: none

	recovered bool   // the process was restarted during its call
	template  *Event // event whose fields its events repeat, because no snapshot has the party; nil: the legs supply them

	transferee     *Extension // called extension that it talked with, and has transferred; nil: none
	transferred    bool       // it is of an extension that forwards or transfers the call to a trunk
	holding        bool       // the extension has put the other end on hold
	repeatedEvents int        // number of its events of types that may repeat

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

// joinParty assigns a leg to the open party of the same extension and direction, or to a
// new party. The leaving party gets no further leg, because its extension has hung up.
func (t *partyTracker) joinParty(l *leg, ext Extension, flow Flow) {
	for _, p := range l.call.parties {
		if !p.over && p != l.call.leavingParty && p.flow == flow && p.ext == ext && p.kind == "" {
			l.party, p.leftAt = p, time.Time{}
			return
		}
	}
	l.party = l.newParty(ext, flow)
	if flow == In {
		t.emitDial(l.party, DialIn, l.began)
	}
}

// newParty adds a party of an extension to the leg's call, with the leg as its first one.
func (l *leg) newParty(ext Extension, flow Flow) *party {
	c := l.call
	p := &party{
		id:        deriveID(c.id, string(flow), l.origin.String(), ext.User, ext.Domain, l.callID, l.fromTag, l.partySeed),
		ext:       ext,
		flow:      flow,
		firstLeg:  l,
		userAgent: l.userAgent,
		recID:     l.recID,
	}
	if flow == In {
		p.dialedNumber = l.referredTo
	}
	c.parties = append(c.parties, p)
	return p
}

// removeParty removes a party without events from its call.
func (c *call) removeParty(p *party) {
	c.parties = slices.DeleteFunc(c.parties, func(o *party) bool { return o == p })
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

// endPartyLeg applies the end of leg l, with the outcome o, to its party p. If l was the
// last leg, the party ends too, unless it stays open for the outcome of its REFER, or for
// INVITEs to further phones of the extension (see forkGap).
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

// endParty ends a party at the time when its last leg ended, and emits its hangup.
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

// partyGoesOn reports whether a leg prevents p from ending: an answered leg, or any leg
// that is not over if p was never answered. After an answer a ringing leg does not count,
// because a dead phone would otherwise prolong a short call.
func (c *call) partyGoesOn(p *party) bool {
	for _, l := range c.legs {
		if l.party == p && (l.state == talking || l.state != over && p.answered.IsZero()) {
			return true
		}
	}
	return false
}

// ringTimes returns the time from the INVITE to the first 18x, and from the first 18x to
// end. end is when the party was answered, or ended without an answer. If there was no
// 18x, ring is 0, and setup is the time to the answer, or 0 if there was none.
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
