package dialog

import (
	"slices"
	"time"
)

// Most parties are the extension at the leg's phone: the caller on a leg of the edge
// side, the called party on a leg of the PBX. Three kinds differ:
//
//   - A service is a queue, an IVR or a conference. It is called, but has no phone. Its
//     party is on the caller's leg, beside the caller's own party, and ends with that
//     leg.
//   - An extension whose calls are forwarded to a trunk has an outgoing party on the leg
//     from the PBX to the trunk.
//   - An extension that the PBX calls back, showing the extension's own number, is no
//     called party. It is the caller of the number that the PBX calls next.

// addService adds the party of the queue, IVR or conference that the caller on a leg
// dialed, if it dialed one.
func (t *partyTracker) addService(l *leg) {
	if kind := t.directory.declared[l.calledExt.User]; kind.isService() {
		l.service = l.newParty(l.calledExt, In)
		l.service.kind = kind
	}
}

// forwardingExtension returns the extension that forwards or transfers a call to the
// trunk of the INVITE. The first of these counts: the diverting extension (RFC 5806, RFC
// 7044), the extension in Referred-By (RFC 3892), the extension whose phone has
// redirected the call to the called number by a 3xx, and the extension that sent the
// REFER which caused the INVITE (RFC 3515). ok is false if there is none.
func (s *numberMatcher) forwardingExtension(c *call, i *inviteMatch) (ext Extension, ok bool) {
	if i.Src != PBX || i.Trunk == "" {
		return ext, false
	}
	for _, user := range []string{i.diversion, i.links.referredBy} {
		if ext := s.directory.dialedExtension(user, "", i.At); ext.User != "" {
			return s.directory.withHomeDomain(Extension{User: cloneString(ext.User)}, uri{}), true
		}
	}
	if l, _ := s.findRedirect(c, i.target, i.At); l != nil && l.party != nil {
		return l.party.ext, true // its phone has named the target that the PBX now calls
	}
	if r := i.refer; r != nil && r.leg.party != nil {
		return r.leg.party.ext, true
	}
	return ext, false
}

// findDistributor returns the queue or IVR on whose behalf the PBX has called a party; nil:
// none.
func (p *party) findDistributor() *Extension {
	if p.flow != In || p.kind != "" || !p.firstLeg.call.serviceCalls(p.firstLeg) {
		return nil
	}
	for _, host := range slices.Backward(p.firstLeg.call.parties) {
		if (host.kind == Queue || host.kind == IVR) && !host.over {
			return &host.ext
		}
	}
	return nil
}

// startBridge notes that the callee on leg l talks with the caller since the time at. If
// the caller's queue or IVR has not called l, startBridge marks l as no agent instead.
func (c *call) startBridge(l *leg, at time.Time) {
	if l.notAgent = l.notAgent || !c.serviceCalls(l); l.notAgent {
		return
	}
	c.pickedUp = false
	if c.bridgedSince.IsZero() {
		c.bridgedSince = at
	}
}

// bridgeElsewhere notes that the PBX canceled the callee's leg l because another phone
// answered. If no other callee's leg talks, and none was answered since l began, the
// phone that answered is in another call. It has picked up this call, and talks with the
// caller from the CANCEL on.
func (c *call) bridgeElsewhere(l *leg) {
	answered := func(o *leg) bool {
		return o != l && o.origin == PBX && (o.state == talking || !o.answered.Before(l.began))
	}
	if !l.canceled || slices.ContainsFunc(c.legs, answered) {
		return
	}
	c.startBridge(l, l.canceledAt)
	c.pickedUp = !l.notAgent
}

// leavePickup notes that the phone that had picked up the call has transferred it with
// the REFER r. The phone talked with the caller until r was sent.
func (c *call) leavePickup(r *refer) {
	if c.pickedUp {
		c.pickedUp = false
		c.stopBridge(r.sentAt)
	}
}

// stopBridge notes that a callee left at the time at. If no other agent talks with the
// caller, the time since bridgedSince is added to bridgedFor.
func (c *call) stopBridge(at time.Time) {
	agent := func(l *leg) bool { return l.origin == PBX && l.state == talking && !l.notAgent }
	if !c.bridgedSince.IsZero() && !c.pickedUp && !slices.ContainsFunc(c.legs, agent) {
		c.bridgedFor += max(0, at.Sub(c.bridgedSince))
		c.bridgedSince, c.wasBridged = time.Time{}, true
	}
}

// endService ends the party of a queue, IVR or conference, and emits its hangup. o is the
// outcome of the caller's leg. The status of a queue is ANSWER only if an agent has
// talked with the caller.
func (t *partyTracker) endService(p *party, at time.Time, o outcome) {
	c := p.firstLeg.call
	bridged := c.wasBridged || !c.bridgedSince.IsZero()
	p.over = true
	if p.kind == Queue {
		switch {
		case bridged:
			o.status = Answered
		case o.status == Answered && o.by == ByCaller:
			o.status = Canceled
		case o.status == Answered:
			o.status, o.by = NoAnswer, BySystem
		}
	}
	p.outcome = o
	if !p.dialed {
		return
	}
	e := t.emitHangup(p, at)
	*e.Missed = o.status != Answered && o.status != Forwarded
	if p.kind == Conference {
		return
	}
	e.Bridged, e.BridgedFor = &bridged, c.bridgedFor
	if !c.bridgedSince.IsZero() {
		e.BridgedFor += at.Sub(c.bridgedSince)
	}
}

// carries reports whether p is the leg's party or its service.
func (l *leg) carries(p *party) bool { return l.party == p || l.service == p }

// serviceOnOtherLeg reports whether a leg other than l that is not over carries l's
// service.
func (c *call) serviceOnOtherLeg(l *leg) bool {
	return slices.ContainsFunc(c.legs, func(o *leg) bool { return o != l && o.state != over && o.service == l.service })
}

// partyOnOtherLeg reports whether a leg other than l carries a party.
func (c *call) partyOnOtherLeg(l *leg, p *party) bool {
	return slices.ContainsFunc(c.legs, func(o *leg) bool { return o != l && o.carries(p) })
}
