package sip

import (
	"cmp"
	"net/netip"
	"slices"

	"bellhop/dialog/siptext"
)

// This file routes requests to an address: to a target of a PBX or trunk, or to an
// edge-side address that a URI names.

// routeToTargets routes a request to the first of its targets that a listener reaches. The
// others are for failover.
func (rt *router) routeToTargets(p *packet, r *routeDecision, targets []*target) *fault {
	if rt.onlyTarget != nil {
		targets = append(targets[:0], rt.onlyTarget)
	}
	f := noPBX
	for i, t := range targets {
		if f = rt.routeToAddr(p, r, t.Addr); f == nil {
			r.target, r.left = t, targets[i+1:]
			if t.remote.pbx != nil {
				r.pbx = t.remote.pbx.id
			}
			return nil
		}
	}
	return f
}

// routeToAnyPBX routes a new request to a PBX that is up.
func (rt *router) routeToAnyPBX(p *packet, r *routeDecision) *fault {
	rt.choosePBXTargets(p)
	return rt.routeToTargets(p, r, rt.targets)
}

// routeToPBX routes a request to a configured PBX, whether it is up or not. Targets to be
// avoided come last.
func (rt *router) routeToPBX(p *packet, r *routeDecision, pbx *pbx) *fault {
	rt.targets, rt.resolved = pbx.appendTargets(rt.targets[:0], rt.resolved, p.msg.text(p.msg.callID))
	rt.sortAvoided(p.receivedAt)
	return rt.routeToTargets(p, r, rt.targets)
}

// routeWithinDialog routes a request within a dialog to the PBX of the dialog, whether it
// is up or not. at is the address of the PBX in the dialog, if the PBX has a name. Only
// that address knows the dialog. If the name no longer leads there, the PBX may have moved
// with its dialogs. The other addresses are then for failover.
func (rt *router) routeWithinDialog(p *packet, r *routeDecision, pbx *pbx, at Addr) *fault {
	if !at.IsValid() {
		f := rt.routeToPBX(p, r, pbx)
		r.left = nil
		return f
	}
	if t := pbx.targetAt(at); t != nil {
		rt.targets = append(rt.targets[:0], t)
		return rt.routeToTargets(p, r, rt.targets)
	}
	at.Host = pbx.config.Host
	rt.targets, rt.resolved = pbx.appendTargets(append(rt.targets[:0], rt.proxy.newTarget(&pbx.remote, at)), rt.resolved, p.msg.text(p.msg.callID))
	return rt.routeToTargets(p, r, rt.targets)
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

// routeToAddr makes an address the next hop of a request.
func (rt *router) routeToAddr(p *packet, r *routeDecision, a Addr) *fault {
	if a.Proto.secure() && !rt.peers.canDial(a) && rt.proxy.streams.findStream(a, 0) == nil {
		return flowFailed // a phone, which does not listen
	}
	to, ok := rt.proxy.destinationAt(a, r.dst, p.listener)
	if !ok {
		return noTransport
	}
	r.nextHop = to
	return nil
}

// choosePBXTargets sets rt.targets to the targets for a new request of the edge side. It
// takes the targets that are up, in the order of Config.PBXMode, and makes two changes:
// targets that rest move to the end, and the PBX that has challenged the request, or
// where the sender is registered, moves to the front.
func (rt *router) choosePBXTargets(p *packet) {
	ps, m, now := rt.peers, &p.msg, p.receivedAt
	rt.targets = rt.targets[:0]
	if !ps.several() {
		rt.targets = append(rt.targets, ps.pbx[0].view.Load().targets...)
		return
	}
	var buf [128]byte
	aor := m.appendAOR(buf[:0], m.from)
	key := aor
	if len(key) == 0 {
		key = m.text(m.callID)
	}
	rt.rankPBXs(key)
	for _, pbx := range rt.ranked {
		rt.targets, rt.resolved = pbx.appendTargets(rt.targets, rt.resolved, key)
	}
	rt.targets = slices.DeleteFunc(rt.targets, func(t *target) bool { return !t.up() })
	rt.sortAvoided(now)
	var first *target
	if m.hasField(hAuthorization) {
		first = rt.proxy.affinities.get(now, ofChallenger, m.text(m.callID))
	}
	if first == nil && !m.isMethod("REGISTER") {
		first = rt.proxy.affinities.get(now, ofRegistrar, aor)
	}
	if i := slices.Index(rt.targets, first); i > 0 && !first.resting(now) {
		copy(rt.targets[1:], rt.targets[:i])
		rt.targets[0] = first
	}
}

// rankPBXs sets rt.ranked to the PBXs in the order of Config.PBXMode. The order for
// SpreadPBX depends on the key. If a PBX is added or removed, few keys change their order
// (rendezvous hashing).
func (rt *router) rankPBXs(key []byte) {
	rt.ranked = append(rt.ranked[:0], rt.peers.pbx...)
	if rt.proxy.cfg.PBXMode == SpreadPBX {
		slices.SortFunc(rt.ranked, func(a, b *pbx) int {
			return cmp.Compare(stableHash(key, string(a.id[:])), stableHash(key, string(b.id[:])))
		})
	}
}

// sortAvoided moves the targets to be avoided to the end of rt.targets.
func (rt *router) sortAvoided(now instant) {
	slices.SortStableFunc(rt.targets, func(a, b *target) int {
		switch x, y := a.avoided(now), b.avoided(now); {
		case x && !y:
			return 1
		case y && !x:
			return -1
		}
		return 0
	})
}

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
		rt.sortAvoided(p.receivedAt)
		break
	}
	return len(rt.targets) > 0
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
