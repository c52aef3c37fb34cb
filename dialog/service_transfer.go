package dialog

import (
	"slices"
	"strconv"
	"time"
)

// The target of a REFER may be a service: a queue, an IVR or a conference. The party of
// the service is then on the leg of the person who was transferred. If that leg already
// has the party of another service, that party ends.

// isService reports whether an extension of this kind is a queue, IVR or conference.
func (k Kind) isService() bool { return k == Queue || k == IVR || k == Conference }

// referToService handles the REFER r, which the PBX has accepted, and which may connect a
// caller with a service (queue, IVR or conference). Without Replaces, if the target is a
// declared service, the party of that service starts on the leg of the person who is
// transferred. With Replaces, r's phone has two legs, and the service may be on either of
// them: see handOverService. If the PBX forwards REFERs as a proxy, nothing happens.
func (t *transferTracker) referToService(r *refer, at time.Time) {
	if r.leg.call.throughProxy(r.leg) {
		return // the PBX is a proxy: the other phone calls the service by itself
	}
	if r.replaces == "" {
		if kind := t.directory.declared[r.targetExt.User]; kind.isService() {
			t.startService(r, r.leg.partner(), r.targetExt, kind, r.target, at)
		}
		return
	}
	for _, o := range t.index.replacedBy(r) {
		t.handOverService(r, o, r.leg, at)
		t.handOverService(r, r.leg, o, at)
	}
}

// handOverService keeps the queue, IVR or conference on leg l open for the person whom a
// phone transfers there with the REFER r. The phone has both legs: it has reached the
// service on l and talks with the person on other. If an agent has answered, the person
// talks with the agent and does not wait, so the party of the service ends with l. If the
// service still rings agents, their legs carry its party on (see passService). Otherwise a
// new party starts on the leg of the person.
func (t *transferTracker) handOverService(r *refer, l, other *leg, at time.Time) {
	p := l.service
	if p == nil || p.over || l.call.otherLegTalks(l) {
		return
	}
	t.changes.mark(l.call)
	if !l.passService() {
		number, _ := p.calledNumber()
		t.startService(r, other.partner(), p.ext, p.kind, number, at)
	}
}

// passService assigns l's service to every other leg to a callee that is not over and has
// no service. It reports whether there was such a leg.
func (l *leg) passService() (carried bool) {
	for _, o := range l.call.legs {
		if o != l && o.origin == PBX && o.state != over && o.service == nil {
			o.service, carried = l.service, true
		}
	}
	return carried
}

// partner returns the leg of the person who talks with the phone on leg l. That is the
// caller's leg, if l is a callee's leg and the caller's leg is answered. Otherwise it is
// the other leg that was answered last. nil: no other leg is answered.
func (l *leg) partner() (partner *leg) {
	c := l.call
	if caller := c.caller; l.origin == PBX && caller != nil && caller.state == talking {
		return caller
	}
	for _, o := range c.legs {
		if o != l && o.state == talking && (partner == nil || o.answered.After(partner.answered)) {
			partner = o
		}
	}
	return partner
}

// startService starts the party of the queue, IVR or conference ext on leg l, whose
// person the REFER r transfers there. A party of another service on l ends. Nothing
// happens if r has started this party already, or if l is nil.
func (t *transferTracker) startService(r *refer, l *leg, ext Extension, kind Kind, number string, at time.Time) {
	if l == nil {
		return
	}
	c := l.call
	p := l.newParty(ext, In)
	p.id = deriveID(p.id, r.leg.callID, strconv.FormatUint(uint64(r.cseq), 10)) // the leg may return to the same service
	if slices.ContainsFunc(c.parties, func(o *party) bool { return o != p && o.id == p.id }) {
		c.parties = c.parties[:len(c.parties)-1]
		return
	}
	p.kind, p.dialedNumber, p.dialedE164 = kind, number, t.directory.toE164(number, at)
	t.changes.mark(c) // it may be another call than the REFER's
	if at.Before(c.lastHeard) {
		at = c.lastHeard
	}
	c.lastHeard = at
	if o := l.service; o != nil && !o.over {
		by := ByCaller
		if r.leg.origin == PBX {
			by = ByCallee
		}
		t.parties.endService(o, at, outcome{status: Answered, by: by})
	}
	c.awaitAgent()
	l.service = p
	t.parties.emitDial(p, DialIn, at)
}

// awaitAgent notes that the party of a service starts. Callees that talk already are not
// its agents, so their talk does not count as bridged.
func (c *call) awaitAgent() {
	for _, o := range c.legs {
		o.notAgent = o.notAgent || o.origin == PBX && o.state == talking
	}
	c.bridgedSince, c.wasBridged, c.pickedUp, c.bridgedFor = time.Time{}, false, false, 0
}

// endReferredService ends the party of the service that the REFER r started, because the
// PBX has since reported a final status other than 2xx for r.
func (t *partyTracker) endReferredService(r *refer, at time.Time, code int, phrase string) {
	for _, l := range r.leg.call.legs {
		if p := l.service; p != nil && !p.over && p.dialedNumber == r.target && r.target != "" {
			t.endService(p, at, outcome{status: statusForCode(code, false), code: code, phrase: phrase, by: BySystem})
			l.service = nil
		}
	}
}

// serviceNumber returns the number of the call's service, if a REFER has sent the caller
// to it. "": the call has no open service, or the caller dialed it.
func (c *call) serviceNumber() string {
	for _, p := range c.parties {
		if p.kind != "" && !p.over {
			return p.dialedNumber
		}
	}
	return ""
}

// serviceCalls reports whether the call's queue, IVR or conference may have called leg l.
// It is false only if a REFER caused l, and the call has no open party of a service with
// the number that the REFER named.
func (c *call) serviceCalls(l *leg) bool {
	if l.referredTo == "" {
		return true
	}
	for _, p := range c.parties {
		if p.kind != "" && !p.over && p.dialedNumber == l.referredTo {
			return true
		}
	}
	return false
}
