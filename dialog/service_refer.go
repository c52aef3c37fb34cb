package dialog

import (
	"slices"
	"strconv"
	"time"
)

// A REFER can lead to a queue, a menu or a conference. The host's turn is then on the
// leg of who was transferred there. If that leg has a host already, its turn ends.

// hosts reports whether a caller's leg carries a turn of such an extension.
func (k Kind) isService() bool { return k == Queue || k == IVR || k == Conference }

// referHost begins or hands over the turn of the host to which the REFER r leads, when
// the PBX has accepted it.
func (t *Tracker) referToService(r *refer, at time.Time) {
	if r.leg.call.throughProxy(r.leg) {
		return // the PBX is a proxy: the other phone calls the host by itself
	}
	if r.replaces == "" {
		if kind := t.directory.declared[r.ext.User]; kind.isService() {
			t.startService(r, r.leg.partner(), r.ext, kind, r.target, at)
		}
		return
	}
	for _, o := range t.replacedBy(r) {
		t.handOverService(r, o, r.leg, at)
		t.handOverService(r, r.leg, o, at)
	}
}

// replacedBy returns the legs of the dialog that the REFER's Replaces names.
func (t *Tracker) replacedBy(r *refer) (legs []*leg) {
	if c := t.callByCallID[r.replaces]; c != nil && r.replaces != "" {
		for _, l := range c.legs {
			if l.callID == r.replaces && l.state == talking {
				legs = append(legs, l)
			}
		}
	}
	return legs
}

// handOver lets the host of leg l go on when l's phone leaves it to who is behind its
// other leg. Who talks with an agent by then has left the queue: the turn ends with l.
// Else the legs on which agents ring carry the turn from then on; without one, it is
// another turn, on the leg of who takes over.
func (t *Tracker) handOverService(r *refer, l, other *leg, at time.Time) {
	p := l.service
	if p == nil || p.over || l.call.otherLegTalks(l) {
		return
	}
	t.markChanged(l.call)
	if !l.passService() {
		number, _ := p.calledNumber()
		t.startService(r, other.partner(), p.ext, p.kind, number, at)
	}
}

// passHost lets the callees' legs that are not over carry the turn of l's host. It
// reports whether there is one.
func (l *leg) passService() (carried bool) {
	for _, o := range l.call.legs {
		if o != l && o.origin == PBX && o.state != over && o.service == nil {
			o.service, carried = l.service, true
		}
	}
	return carried
}

// partner returns the leg of who talks with the phone at leg l; nil: none is known.
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

// beginHost begins the turn of an extension that is a queue, menu or conference on
// leg l, to which the REFER r has sent it. A REFER begins one turn of it.
func (t *Tracker) startService(r *refer, l *leg, ext Extension, kind Kind, number string, at time.Time) {
	if l == nil {
		return
	}
	c := l.call
	p := l.newParty(ext, In)
	p.id = deriveID(p.id, r.leg.callID, strconv.FormatUint(uint64(r.cseq), 10)) // the leg may come back to a host
	if slices.ContainsFunc(c.parties, func(o *party) bool { return o != p && o.id == p.id }) {
		c.parties = c.parties[:len(c.parties)-1]
		return
	}
	p.kind, p.dialedNumber, p.dialedE164 = kind, number, t.toE164(number, at)
	t.markChanged(c) // it may be another than the REFER's
	if at.Before(c.lastHeard) {
		at = c.lastHeard
	}
	c.lastHeard = at
	if o := l.service; o != nil && !o.over {
		by := ByCaller
		if r.leg.origin == PBX {
			by = ByCallee
		}
		t.endService(o, at, outcome{status: Answered, by: by})
	}
	c.awaitAgent()
	l.service = p
	t.emitDial(p, DialIn, at)
}

// awaitAgent notes that a turn of a host begins: who talks now is none of its agents.
func (c *call) awaitAgent() {
	for _, o := range c.legs {
		o.notAgent = o.notAgent || o.origin == PBX && o.state == talking
	}
	c.bridgedSince, c.wasBridged, c.pickedUp, c.bridgedFor = time.Time{}, false, false, 0
}

// notReferred ends the turn that the REFER r has begun, as the PBX has since reported
// another final status than 2xx.
func (t *Tracker) endReferredService(r *refer, at time.Time, code int, phrase string) {
	for _, l := range r.leg.call.legs {
		if p := l.service; p != nil && !p.over && p.dialedNumber == r.target && r.target != "" {
			t.endService(p, at, outcome{status: statusForCode(code, false), code: code, phrase: phrase, by: BySystem})
			l.service = nil
		}
	}
}

// hostNumber returns the number by which a REFER has sent who is in the call to a
// queue, menu or conference; "": none has.
func (c *call) serviceNumber() string {
	for _, p := range c.parties {
		if p.kind != "" && !p.over {
			return p.dialedNumber
		}
	}
	return ""
}

// hostCalls reports whether the leg l is of whom the call's host, if it has one, calls:
// not of whom a REFER to somebody else names.
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

// leaveHost notes that a phone has left who it talked with by the REFER r. From when it
// was sent an agent no longer counts as talking with the host's caller.
func (t *Tracker) leaveService(r *refer) {
	for _, l := range append(t.replacedBy(r), r.leg) {
		l.hasReferred = true
		if l.origin == PBX {
			l.notAgent = true
			l.call.stopBridge(r.at)
		}
		t.markChanged(l.call) // it may be another than the REFER's
	}
}
