package sip

import (
	"net/netip"
	"sync/atomic"

	"bellhop/dialog"
	"bellhop/dialog/siptext"
	"bellhop/sip/certs"
)

// peers are the configured elements that the proxy exchanges messages with: the PBXs and
// the trunks. All other senders, phones too, are strangers. Only trunks, pbx.down and
// pbx.diagnosis, which are atomic, change after Listen, so any goroutine may use peers.
type peers struct {
	pbx        []*pbx
	pbxSources []netip.Prefix // further sources on the PBX side
	trunks     atomic.Pointer[trunkSet]
	pbxTLS     *certs.Client // see [Config.PBXTLS]
}

// pbx is one configured PBX.
type pbx struct {
	addr          Addr
	id            pbxID
	sharesOurAddr bool        // the proxy has the same IP address, so phones may send from it too
	down          atomic.Bool // it did not answer OPTIONS, or answered 503; never set for a single PBX

	diagnosis diagnosis
}

// isSource reports whether a message that came from peer over proto comes from this PBX.
//
// The IP address must match. The transport may differ from the configured one, because
// some PBXs send a large request over another (RFC 3261 §18.1.1). The source port must
// match too if other senders may have the same IP address. It must match if both
// transports are UDP. If the proxy has the address too, it must match unless both have
// the same transport with connections.
func (p *pbx) isSource(proto Proto, peer netip.AddrPort) bool {
	switch {
	case p.addr.AddrPort == peer:
		return true
	case p.addr.Addr() != peer.Addr():
		return false
	case p.sharesOurAddr:
		return proto.stream() && proto == p.addr.Proto
	}
	return p.addr.Proto.stream() || proto.stream()
}

// pbxOfAddr returns the configured PBX at an address, or nil. A PBX with the same
// transport is preferred. One with another transport matches too, because a URI seldom
// names it.
func (ps *peers) pbxOfAddr(a Addr) (found *pbx) {
	for _, p := range ps.pbx {
		if p.addr.AddrPort == a.AddrPort {
			if p.addr.Proto == a.Proto {
				return p
			}
			found = p
		}
	}
	return found
}

// firstAlivePBX returns the first PBX that answers.
func (ps *peers) firstAlivePBX() (*pbx, bool) {
	for _, p := range ps.pbx {
		if !p.down.Load() {
			return p, true
		}
	}
	return nil, false
}

// isPBXHost reports whether an IP address is that of a configured PBX, on any port, or is
// in [Config.PBXSources].
func (ps *peers) isPBXHost(ip netip.Addr) bool {
	for _, p := range ps.pbx {
		if p.addr.Addr() == ip {
			return true
		}
	}
	return ps.sourceSide(ip) == pbxSide
}

// sideOf returns the side that the message p came from. A listener of the edge side has
// peers of that side only, whatever their address. No PBX opens a WebSocket.
//
// Phones may share the address of a PBX that is reached over UDP, for example behind one
// NAT. Therefore a connection from that address is on the edge side from its first REGISTER
// on.
func (ps *peers) sideOf(p *packet) dialog.Side {
	if p.listener.proto.webSocket() || !p.listener.serves(pbxSide) {
		return edgeSide
	}
	for _, pbx := range ps.pbx {
		if !pbx.isSource(p.listener.proto, p.peer) {
			continue
		}
		if p.conn != nil && pbx.addr.Proto == UDP {
			if p.msg.isRequest() && p.msg.isMethod("REGISTER") {
				p.conn.hasPhones = true
			}
			if p.conn.hasPhones {
				continue
			}
		}
		return pbxSide
	}
	return ps.sourceSide(p.peer.Addr())
}

// sideAt returns the side of an address that requests are sent to.
func (ps *peers) sideAt(a Addr) dialog.Side {
	for _, p := range ps.pbx {
		if p.addr.Proto == a.Proto && (p.addr.AddrPort == a.AddrPort || a.Proto.stream() && p.addr.Addr() == a.Addr()) {
			return pbxSide
		}
	}
	return ps.sourceSide(a.Addr())
}

// sourceSide returns the PBX side for addresses in Config.PBXSources, else the edge
// side.
func (ps *peers) sourceSide(ip netip.Addr) dialog.Side {
	for _, s := range ps.pbxSources {
		if s.Contains(ip) {
			return pbxSide
		}
	}
	return edgeSide
}

// trunkAt returns the trunk that an address belongs to, or nil.
func (ps *peers) trunkAt(ip netip.Addr) *Trunk {
	for _, t := range ps.trunks.Load().all {
		for _, a := range t.To {
			if a.Addr() == ip {
				return t
			}
		}
		for _, s := range t.Sources {
			if s.Contains(ip) {
				return t
			}
		}
	}
	return nil
}

// trunkOf returns the trunk from which p comes, or nil: the one whose certificate the peer
// has presented, or else the one that its address belongs to.
func (ps *peers) trunkOf(p *packet) *Trunk {
	if t := ps.trunkOfConn(p.conn); t != nil {
		return t
	}
	return ps.trunkAt(p.peer.Addr())
}

// trunkTo returns the trunk to which messages to a destination go, or nil: see trunkOf.
func (ps *peers) trunkTo(to destination) *Trunk {
	if t := ps.trunkOfConn(to.conn); t != nil {
		return t
	}
	return ps.trunkAt(to.peer().Addr())
}

// trunkTarget returns the address of a trunk that a URI with the address a leads to: one of
// its To with that address, or with that IP address if the URI names no port. It returns a
// if there is none.
func (ps *peers) trunkTarget(u *siptext.URI, a Addr) Addr {
	t := ps.trunkAt(a.Addr())
	if t == nil {
		return a
	}
	found := a
	for _, to := range t.To {
		switch {
		case to == a:
			return a
		case to.AddrPort == a.AddrPort, to.Addr() == a.Addr() && u.Port == "" && found == a:
			found = to
		}
	}
	return found
}

// pbxOfURI returns the configured PBX whose IP address and port a SIP URI names,
// preferably with the same transport. It returns nil for a host name and an unknown
// transport.
func (ps *peers) pbxOfURI(u *siptext.URI) *pbx {
	a, ok := uriAddr(u)
	if !ok {
		return nil
	}
	return ps.pbxOfAddr(a)
}

// pbxAt returns the PBX at an address, or nil. Of several at one IP address, the one at
// that port is preferred. A single PBX matches any address.
func (ps *peers) pbxAt(a netip.AddrPort) (found *pbx) {
	if len(ps.pbx) == 1 {
		return ps.pbx[0] // it may send from another address of its own
	}
	for _, p := range ps.pbx {
		if p.addr.AddrPort == a {
			return p
		}
		if found == nil && p.addr.Addr() == a.Addr() {
			found = p
		}
	}
	return found
}

// isConfigured reports whether a peer of listener l has an address that is configured as
// the PBX's or a trunk's. The PBX is no peer of a listener of the edge side.
func (ps *peers) isConfigured(l *listener, ip netip.Addr) bool {
	return l.serves(pbxSide) && ps.isPBXHost(ip) || ps.trunkAt(ip) != nil
}

// trunkName returns the name of the trunk that a request comes from or goes to, or "".
func (ps *peers) trunkName(p *packet, r *routeDecision) string {
	t := r.trunk
	if r.dst == edgeSide {
		t = ps.trunkTo(r.nextHop)
	} else if p.side == pbxSide {
		t = ps.trunkAt(p.peer.Addr())
	}
	if t == nil {
		return ""
	}
	return t.Name
}

// limitTarget returns the address that a URI names if it is at the flow's host or at the
// flow's trunk, else the peer of the flow. It is for URIs that somebody other than the
// PBX has chosen. ok is false if this leads to the port from which the peer had connected:
// nobody listens there.
func (ps *peers) limitTarget(u *siptext.URI, fl flow) (to Addr, ok bool) {
	to = Addr{fl.proto, fl.peer}
	if a, ok := ps.secureTarget(u, fl); ok {
		trunk := ps.trunkAt(a.Addr())
		if a.Addr() == fl.peer.Addr() || trunk != nil && trunk == ps.trunkAt(fl.peer.Addr()) {
			to = a
		}
	}
	return to, fl.connID == 0 || to != Addr{fl.proto, fl.peer}
}

// secureTarget returns the address that a URI in the dialog of a flow names. A dialog over
// TLS stays there: if the URI names another transport or no address, the target is the
// peer of the flow, if it listens there, or else the first address of its trunk with TLS.
func (ps *peers) secureTarget(u *siptext.URI, fl flow) (a Addr, ok bool) {
	a, ok = uriAddr(u)
	if !fl.proto.secure() || ok && a.Proto.secure() {
		return a, ok
	}
	if fl.connID == 0 {
		return Addr{fl.proto, fl.peer}, true
	}
	if t := ps.trunkAt(fl.peer.Addr()); t != nil {
		for _, to := range t.To {
			if to.Proto.secure() {
				return to, true
			}
		}
	}
	return Addr{fl.proto, fl.peer}, true // nobody listens there
}

// dialogPBX returns the PBX to which later requests in the dialog of p are sent. p comes
// from a PBX. The result is the id of a configured PBX, or else an address.
//
// The Contact of p decides if it has the address of a PBX and p has only one Via. With
// more Vias, the PBX is a proxy that forwards the caller's Contact. So the source of p
// decides.
func (ps *peers) dialogPBX(p *packet) (id pbxID, target Addr) {
	contact, known := p.msg.contactAddr()
	known = known && !p.msg.hasNextVia()
	if pbx := ps.pbxOfAddr(contact); known && pbx != nil {
		return pbx.id, Addr{}
	}
	if known && ps.isPBXHost(contact.Addr()) {
		return id, contact
	}
	for _, pbx := range ps.pbx {
		if pbx.isSource(p.listener.proto, p.peer) {
			return pbx.id, Addr{}
		}
	}
	return id, Addr{p.listener.proto, p.peer}
}
