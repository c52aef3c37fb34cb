package sip

import (
	"bytes"
	"net/netip"
	"slices"

	"bellhop/dialog/siptext"
)

// This file routes requests of the PBX, over a flow (see takeFlow) or to an address that
// a URI names.

// routeFromPBX routes a request of the PBX. It goes over the flow in our token, or a
// newer flow of its binding. Without such a flow, it goes to the address or name in the
// first Route that is not ours, or else in the Request-URI.
//
// If the token says byURI and its flow is not open, the URI decides. Within a dialog, the
// other end has chosen that URI as its Contact. It may lead anywhere only if the PBX has
// called that end. If that end has called the PBX, or if the PBX is a proxy that passes
// on a request of the edge side, the URI must lead to the host or the trunk of the flow:
// see limitTarget. A request within a dialog that was passed on is refused if it has no
// token of ours.
func (rt *router) routeFromPBX(p *packet, r *routeDecision, next *siptext.URI, t *token) *fault {
	r.dst, r.binding = edgeSide, t.binding
	passedOn := !p.msg.initial() && passedBefore(&p.msg)
	switch {
	case t.flow.peer.IsValid() && rt.takeFlow(p, r, t):
		return rt.checkFlow(r)
	case t.flow.peer.IsValid() && !t.byURI:
		return rt.routePastFlow(p, r, next, t.flow)
	case rt.listeners.areNamedBy(next):
		rt.proxy.noteCallToUs(p)
		return noBinding
	case t.byURI && t.use == inRoute && (!t.fromPBX || passedOn):
		return rt.routeWithinLimit(p, r, next, t)
	case passedOn && t.use != inRoute:
		return nextHopNotAllowed
	}
	a, ok := rt.peers.secureTarget(next, t.flow)
	r.flowGone = t.flow.connID != 0
	switch {
	case r.flowGone && (!ok || t.flow.isAt(a)):
		return flowFailed
	case !ok && t.flow.peer.IsValid(): // a name that the other end has chosen: it has sent from this address
		a = t.flow.addr()
	case !ok && rt.chooseTrunkTargets(p, next):
		return rt.routeToTrunk(p, r)
	case !ok:
		return rt.routeToName(p, r, next)
	}
	if t := rt.peers.targetAt(a); t != nil {
		a = t.Addr
	}
	a = rt.peers.trunkTarget(next, a)
	if r.dst = rt.peers.sideAt(a); r.dst == pbxSide {
		return rt.routeToAddr(p, r, a)
	}
	f := rt.routeToEdge(p, r, a)
	if f == nil {
		r.edgeFlow, r.byURI = r.flowOfURI(a), true
	}
	return f
}

// passedBefore reports whether m has passed a bellhop before, because one of its Vias has
// a branch of the form that bellhop makes.
func passedBefore(m *message) bool {
	for i := range m.fields {
		if f := &m.fields[i]; f.name == hVia && bytes.Contains(m.text(f.value), []byte(cookie+"bh")) {
			return true
		}
	}
	return false
}

// routeToEdge routes a request to an edge-side address that a URI names, if checkEdgeAddr
// allows it.
func (rt *router) routeToEdge(p *packet, r *routeDecision, a Addr) *fault {
	if f := rt.checkEdgeAddr(p, a); f != nil {
		return f
	}
	return rt.routeToAddr(p, r, a)
}

// checkEdgeAddr returns why the request of p may not go to an edge-side address, or nil. A
// loopback or link-local address is refused, unless the sender has such an address too or a
// trunk is at it. Unspecified and multicast addresses, and our own listeners, are always
// refused.
func (rt *router) checkEdgeAddr(p *packet, a Addr) *fault {
	if rt.listeners.haveAddr(a.AddrPort) {
		return noBinding
	}
	ip := a.Addr()
	if ip.IsUnspecified() || ip.IsMulticast() || isLocalOnly(ip) && !isLocalOnly(p.peer.Addr()) && rt.peers.trunkAt(ip) == nil {
		return nextHopNotAllowed
	}
	return nil
}

// isLocalOnly reports whether an address cannot be reached from other networks: loopback
// or link-local.
func isLocalOnly(ip netip.Addr) bool { return ip.IsLoopback() || ip.IsLinkLocalUnicast() }

// chooseTrunkTargets sets rt.targets to the targets of the trunk that a URI names, and
// returns false if there are none. A trunk may have several names or addresses. The
// targets of the one in the URI come first.
func (rt *router) chooseTrunkTargets(p *packet, u *siptext.URI) bool {
	rt.targets = rt.targets[:0]
	for _, t := range rt.peers.trunks.Load().all {
		remotes := t.remotes
		named := slices.IndexFunc(remotes, func(r *remote) bool { return r.isNamed(targetHost(u), uriPort(u)) })
		if named < 0 {
			continue
		}
		for i := range remotes {
			rt.targets, rt.resolved = remotes[(named+i)%len(remotes)].appendTargets(rt.targets, rt.resolved, p.msg.text(p.msg.callID))
		}
		rt.targets = oneOfEachServer(rt.targets)
		rt.sortAvoided(p.receivedAt)
		rt.preferCarrierTarget(p, t.Name, remotes)
		break
	}
	return len(rt.targets) > 0
}

// preferCarrierTarget moves the target to which a request of the PBX goes first to the front
// of rt.targets, unless it is avoided: see affinities. If the name of the carrier no longer
// leads there, the target is added, because another one does not know the account. remotes
// are those of the trunk; none: the carrier is a name that is not configured.
func (rt *router) preferCarrierTarget(p *packet, carrier string, remotes []*remote) {
	first := rt.proxy.affinities.carrierTarget(p.receivedAt, &p.msg, carrier)
	if first == nil || first.avoided(p.receivedAt) || len(remotes) > 0 && !slices.Contains(remotes, first.remote) {
		return
	}
	rt.targets = slices.DeleteFunc(rt.targets, first.isServerOf)
	rt.targets = slices.Insert(rt.targets, 0, first)
}

// routeToTrunk routes a request of the PBX to rt.targets. They must be targets of a
// trunk, or of a name that is not configured.
func (rt *router) routeToTrunk(p *packet, r *routeDecision) *fault {
	f := rt.routeToTargets(p, r, rt.targets)
	if f == nil {
		r.edgeFlow, r.byURI = r.flowOfURI(r.target.Addr), true
	}
	return f
}

// flowOfURI returns the flow to an address that a URI leads to.
func (r *routeDecision) flowOfURI(a Addr) flow {
	l := r.nextHop.listener
	return flow{proto: a.Proto, listenerIndex: l.index, listenerPort: l.addr.Port(), peer: a.AddrPort}
}
