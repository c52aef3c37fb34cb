package dialog

import (
	"slices"
	"strconv"
	"time"
)

// The target of a REFER may be a service: a queue, an IVR or a conference. Its party is
// then on the leg of the transferred person. If that leg has a service already, that
// party ends.

// isService reports whether an extension of this kind is a queue, IVR or conference.
func (k Kind) isService() bool { return k == Queue || k == IVR || k == Conference }

// referToService starts or hands over the party of the service that is the target of the
// REFER r, when the PBX has accepted r.
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

// handOverService hands over the service of leg l when the phone with the legs l and other
// transfers it to the other end of other. A caller that talks with an agent by then has left
// the queue: the party ends with l. Else the legs on which agents ring carry the party from
// then on; if there are none, a new party starts on the leg of the new caller.
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

// passService lets the callees' legs that are not over carry l's service. It reports
// whether there is such a leg.
func (l *leg) passService() (carried bool) {
	for _, o := range l.call.legs {
		if o != l && o.origin == PBX && o.state != over && o.service == nil {
			o.service, carried = l.service, true
		}
	}
	return carried
}

// partner returns the leg of the person that talks with the phone at leg l; nil: none is
// known.
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

// startService starts the party of a queue, IVR or conference on leg l, which the REFER r
// has sent there. A REFER starts one party at most.
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

// awaitAgent notes that the party of a service starts: phones that talk now are not its
// agents.
func (c *call) awaitAgent() {
	for _, o := range c.legs {
		o.notAgent = o.notAgent || o.origin == PBX && o.state == talking
	}
	c.bridgedSince, c.wasBridged, c.pickedUp, c.bridgedFor = time.Time{}, false, false, 0
}

// endReferredService ends the party that the REFER r has started, as the PBX has since
// reported a final status other than 2xx.
func (t *partyTracker) endReferredService(r *refer, at time.Time, code int, phrase string) {
	for _, l := range r.leg.call.legs {
		if p := l.service; p != nil && !p.over && p.dialedNumber == r.target && r.target != "" {
			t.endService(p, at, outcome{status: statusForCode(code, false), code: code, phrase: phrase, by: BySystem})
			l.service = nil
		}
	}
}

// serviceNumber returns the number of the service that a REFER has sent the call's caller
// to; "": none has.
func (c *call) serviceNumber() string {
	for _, p := range c.parties {
		if p.kind != "" && !p.over {
			return p.dialedNumber
		}
	}
	return ""
}

// serviceCalls reports whether the call's service, if it has one, may have called leg l. It
// has not if a REFER to another number has caused l.
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
