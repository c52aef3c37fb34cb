package dialog

import (
	"cmp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// emitEvent appends the next event of a party, with the fields that all events of the
// party have, and returns it. The event may be completed until the next one is emitted.
func (t *partyTracker) emitEvent(p *party, typ Type, at time.Time) *Event {
	c, l := p.firstLeg.call, p.firstLeg
	t.settleLeavingParty(c, p, typ, at)
	c.seq++
	e := t.emitter.emit(at, &Event{
		ID:           p.eventID(typ),
		Call:         c.id,
		Seq:          c.seq,
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
		Recovered:    p.recovered,
		Distributor:  p.distributor,
	})
	e.CalledNumber, e.CalledE164 = p.calledNumber()
	e.CalledNumberRaw = p.calledNumberRaw()
	switch p.flow {
	case Out:
		e.fillOutgoing(p)
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

// settleLeavingParty ends the call's leaving party before another party p emits an event
// of type typ. The leaving party has sent a REFER whose outcome is not known yet. If p
// emits its hangup, p may not have been transferred, so the transfer of the leaving party
// has no status. Otherwise the transfer has the status that the PBX has reported.
func (t *partyTracker) settleLeavingParty(c *call, p *party, typ Type, at time.Time) {
	switch w := c.leavingParty; {
	case w == nil || w == p:
	case typ == Hangup:
		t.emitTransfer(w.takenRefer, at, 0, "", "")
	default:
		t.endParty(w)
	}
}

// fillOutgoing fills in the two ends of a calling party's event.
func (e *Event) fillOutgoing(p *party) {
	c, l := p.firstLeg.call, p.firstLeg
	e.CallerExtension = &p.ext
	e.CalledExtension = c.calledExtension(p)
	e.ANI = c.numberShownOutside()
	caller := c.caller
	if caller != nil && caller.trunk {
		e.CalledDID = cmp.Or(caller.calledDID, caller.calledUser)
	}
	if p.transferred {
		e.Diversion = "" // the diverting number is the extension itself
		if caller != nil && !l.hidden {
			e.CallerNum, e.CallerName, e.CallerE164 = caller.callerNum, caller.callerName, caller.callerE164
			e.CallerNumRaw, e.Privacy = caller.callerNumRaw, caller.private
		}
	}
}

// eventID returns the id of the party's next event of a type. Events of types that may
// repeat are numbered.
func (p *party) eventID(typ Type) string {
	switch typ {
	case Hold, Resume, Transfer:
		p.repeatedEvents++
		return deriveID(p.id, string(typ), strconv.Itoa(p.repeatedEvents))
	}
	return EventID(p.id, typ)
}

// emitDial emits the dial-in or dial-out of a party.
func (t *partyTracker) emitDial(p *party, typ Type, at time.Time) {
	p.dialed = true
	p.distributor = p.findDistributor()
	e := t.emitEvent(p, typ, at)
	e.Status, e.Leg = Calling, t.legID(p.firstLeg)
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

// emitHangup emits the hangup of a party with its outcome.
func (t *partyTracker) emitHangup(p *party, at time.Time) *Event {
	e := t.emitEvent(p, Hangup, at)
	o := &p.outcome
	e.Status, e.SipCode, e.SipReason, e.Q850 = o.status, o.code, o.phrase, o.q850
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

// legID returns the id of a leg's dialog.
func (t *partyTracker) legID(l *leg) LegID {
	id := LegID{Node: t.node, Origin: l.origin, CallID: l.callID, FromTag: l.fromTag, ToTag: l.toTag}
	if l.peer.IsValid() {
		id.Peer = l.peer.String()
	}
	return id
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

// calledNumber returns the number that a calling party dialed, or the number that was
// dialed to reach a called party. e164 is that number in E.164; "": not known.
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

// calledNumberRaw returns the number of calledNumber as written in the message. "": it is
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

// fillCaller fills in the caller of a called party, whose leg is l, from the caller's
// leg. If the PBX shows another caller, or the caller's leg is not known, the caller is
// the party that the PBX has called for l's extension (see partyCalledFor), or else the
// extension that the number shown on l belongs to.
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

// partyCalledFor returns the first party that the PBX called in a call that the PBX began
// for the extension of leg l, or nil. Such a call begins with the other person. The PBX
// then calls the extension on l, and shows the extension's own number there.
func (t *partyTracker) partyCalledFor(l *leg) *party {
	if l.party == nil || !t.directory.isShownAs(l.party.ext.User, l.callerNum) {
		return nil
	}
	for _, o := range l.call.legs {
		if o.origin == PBX && o.party != nil && o.party != l.party && o.party.flow == In {
			return o.party
		}
	}
	return nil
}

// fillCallee sets the caller in an event of a queue, IVR or conference on a callee's leg
// l. The caller of the service is the callee of l, because the PBX called it first and
// then transferred it to the service.
func (e *Event) fillCallee(l *leg) {
	e.CallerNum, e.CallerName, e.CallerE164 = l.calledUser, "", l.calledE164
	if p := l.party; p != nil && p.flow == In {
		e.CallerNum, e.CallerE164, e.CallerExtension = p.ext.User, "", &p.ext
	}
}

// calledExtension returns the extension that the leg of a calling party p leads to: the
// queue, IVR or conference that was dialed; else the one that p has transferred; else the
// one that talks, or talked last; else the one that was dialed; else the only one that is
// called. nil: none, or the leg leads to a trunk.
func (c *call) calledExtension(p *party) *Extension {
	l := p.firstLeg
	switch {
	case l.service != nil && l.origin == Edge:
		return &l.service.ext
	case l.origin == PBX && l.trunk, c.dialedOutside(l):
		return nil
	case p.transferee != nil:
		return p.transferee
	}
	if talks := c.talkingParty(); talks != nil {
		return &talks.ext
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

// talkingParty returns the called party that talks. Of several it is the first that was
// answered. If all that were answered have ended, it is the one that was answered last.
// nil: none was answered.
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

// dialedOutside reports whether the PBX has called the number dialed on leg l over a
// trunk.
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

// copyFrom copies the fields that all events of a party share from another of its events.
func (e *Event) copyFrom(o *Event) {
	e.CallerNum, e.CallerName, e.CallerExtension, e.CallerE164 = o.CallerNum, o.CallerName, o.CallerExtension, o.CallerE164
	e.CalledNumber, e.CalledExtension, e.CalledDID, e.CalledE164 = o.CalledNumber, o.CalledExtension, o.CalledDID, o.CalledE164
	e.CallAPIID, e.ClientAPIID, e.CallBackID, e.Tag = o.CallAPIID, o.ClientAPIID, o.CallBackID, o.Tag
	e.Diversion, e.Verstat, e.Headers, e.ANI = o.Diversion, o.Verstat, o.Headers, o.ANI
	e.Correlation, e.Transferred = o.Correlation, o.Transferred
	e.CallerNumRaw, e.CalledNumberRaw, e.Privacy = o.CallerNumRaw, o.CalledNumberRaw, o.Privacy
	e.Distributor = o.Distributor
}
