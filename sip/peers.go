package sip

import (
	"net/netip"
	"slices"
	"sync/atomic"

	"bellhop/dialog"
	"bellhop/dialog/siptext"
)

// peers are the configured elements that the proxy exchanges messages with: the PBXs and
// the trunks. All other senders, phones too, are strangers. Only pbxs, trunks, the views and
// targets of remotes, and pbx.diagnosis, which are atomic, change after Listen, so any
// goroutine may use peers. Only the first worker uses expiry.
type peers struct {
	pbxs       atomic.Pointer[pbxSet]
	expiry     pbxExpiry
	pbxSources []netip.Prefix // further sources on the PBX side
	trunks     atomic.Pointer[trunkSet]
}

// pbx is one configured PBX.
type pbx struct {
	remote
	id        pbxID
	diagnosis diagnosis
}

// configure sets the configured elements of cfg. The remotes have no targets yet.
func (ps *peers) configure(cfg *Config) {
	ps.pbxSources = cfg.PBXSources
	ps.pbxs.Store(newPBXSet(cfg.PBX, cfg.PBXTLS, &pbxSet{}, 0))
	ps.trunks.Store(newTrunkSet(cfg, cfg.Trunks, &trunkSet{}))
}

// configured returns the configured PBXs.
func (ps *peers) configured() []*pbx { return ps.pbxs.Load().all }

// known returns the configured PBXs and the former ones.
func (ps *peers) known() []*pbx { return ps.pbxs.Load().known }

// remotes returns all configured elements that requests are sent to.
func (ps *peers) remotes() (all []*remote) {
	for _, p := range ps.configured() {
		all = append(all, &p.remote)
	}
	return append(all, ps.trunks.Load().remotes()...)
}

// sameServer returns the targets that are the server of t, in the order of the configuration:
// those of all PBXs, or those of one trunk.
func (ps *peers) sameServer(t *target) (same []*target) {
	for _, r := range ps.remotes() {
		if r.carrier != t.remote.carrier {
			continue
		}
		for _, o := range r.view.Load().targets {
			if o.isServerOf(t) {
				same = append(same, o)
			}
		}
	}
	return same
}

// isSource reports whether a message that came from peer over proto comes from this PBX.
func (p *pbx) isSource(proto Proto, peer netip.AddrPort) bool {
	v := p.view.Load()
	for _, t := range v.targets {
		if t.isSource(proto, peer) {
			return true
		}
	}
	for _, t := range v.former {
		if t.isSource(proto, peer) {
			return true
		}
	}
	return false
}

// sharesOurAddr reports whether the proxy has an IP address of the PBX.
func (p *pbx) sharesOurAddr() bool {
	for _, t := range p.view.Load().targets {
		if t.sharesOurAddr {
			return true
		}
	}
	return false
}

// dialogTarget returns the address of this PBX that the token of a dialog contains. a is
// the address that the PBX uses in the dialog. The result is the target at a, or else one
// with the same IP address. An address that the name of the PBX had within the last hour
// counts too. If the PBX is configured by address, the result is the zero address,
// because the id of the PBX is then enough.
func (p *pbx) dialogTarget(a Addr) (to Addr) {
	if p.config.Host == "" {
		return to
	}
	v := p.view.Load()
	for _, targets := range [...][]*target{v.targets, v.former} {
		for _, t := range targets {
			if t.AddrPort == a.AddrPort {
				return t.Addr
			}
			if t.Addr.Addr() == a.Addr() && !to.IsValid() {
				to = t.Addr
			}
		}
	}
	return to
}

// pbxOfAddr returns the PBX at an address, or nil. A PBX with the same transport is
// preferred.
func (ps *peers) pbxOfAddr(a Addr) (found *pbx) {
	if t := ps.targetAt(a); t != nil {
		return t.remote.pbx
	}
	return nil
}

// targetAt returns the target of a PBX at an address, or nil. One with the same transport
// is preferred.
func (ps *peers) targetAt(a Addr) (found *target) {
	for _, p := range ps.known() {
		if t := p.targetAt(a); t != nil && (found == nil || t.Proto == a.Proto) {
			found = t
		}
	}
	return found
}

// anyPBXUp reports whether new requests may go to a PBX. A single target counts as up. Its
// prober may not have noticed yet that there were several until a name changed.
func (ps *peers) anyPBXUp() bool {
	set := ps.pbxs.Load()
	return set.countTargets() == 1 || slices.ContainsFunc(set.all, (*pbx).up)
}

// up reports whether new requests may go to a target of the PBX.
func (p *pbx) up() bool { return slices.ContainsFunc(p.view.Load().targets, (*target).up) }

// isPBXHost reports whether an IP address is that of a PBX, on any port, or is in
// [Config.PBXSources].
func (ps *peers) isPBXHost(ip netip.Addr) bool {
	for _, p := range ps.known() {
		if p.hasIP(ip) {
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
	for _, pbx := range ps.known() {
		if !pbx.isSource(p.listener.proto, p.peer) {
			continue
		}
		if p.conn != nil && pbx.config.Proto == UDP {
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
	for _, p := range ps.known() {
		for _, t := range p.view.Load().targets {
			if t.Proto == a.Proto && (t.AddrPort == a.AddrPort || a.Proto.stream() && t.Addr.Addr() == a.Addr()) {
				return pbxSide
			}
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
		for _, r := range t.remotes {
			if r.hasIP(ip) {
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

// trunkTarget replaces the address a that a URI names by the matching target of a trunk.
// A target matches if it has the same IP address and port, or only the same IP address if
// the URI names no port. trunkTarget returns a if no target matches.
func (ps *peers) trunkTarget(u *siptext.URI, a Addr) Addr {
	found := a
	for _, r := range remotesOf(ps.trunkAt(a.Addr())) {
		for _, t := range r.view.Load().targets {
			switch {
			case t.Proto == a.Proto && t.AddrPort == a.AddrPort:
				return t.Addr
			case t.AddrPort == a.AddrPort, t.Addr.Addr() == a.Addr() && u.Port == "" && found == a:
				found = t.Addr
			}
		}
	}
	return found
}

// remotesOf returns the addresses that a trunk is configured with; t may be nil.
func remotesOf(t *Trunk) []*remote {
	if t == nil {
		return nil
	}
	return t.remotes
}

// pbxOfURI returns the known PBX that a SIP URI names by the PBX's configured name,
// or by its IP address and port. Of several at one address, one with the transport of the
// URI is preferred. pbxOfURI returns nil for any other host name, and for an unknown
// transport.
func (ps *peers) pbxOfURI(u *siptext.URI) *pbx {
	for _, p := range ps.known() {
		if p.isNamed(targetHost(u), uriPort(u)) {
			return p
		}
	}
	a, ok := uriAddr(u)
	if !ok {
		return nil
	}
	return ps.pbxOfAddr(a)
}

// pbxAt returns the configured PBX at an address, or nil. Of several at one IP address, the
// one at that port is preferred. A single PBX matches any address.
func (ps *peers) pbxAt(a netip.AddrPort) (found *pbx) {
	pbxs := ps.configured()
	if len(pbxs) == 1 {
		return pbxs[0] // it may send from another address of its own
	}
	for _, p := range pbxs {
		for _, t := range p.view.Load().targets {
			if t.AddrPort == a {
				return p
			}
			if found == nil && t.Addr.Addr() == a.Addr() {
				found = p
			}
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

// limitTarget limits where a URI leads that somebody other than the PBX has chosen. fl is
// the flow to the other end of the dialog. The result is the address in the URI if it is
// at the host of the flow's peer, or at the same trunk as that peer. For any other URI,
// the result is the address of the peer.
//
// ok is false if the result is the port from which the peer had connected, because nobody
// listens there.
func (ps *peers) limitTarget(u *siptext.URI, fl flow) (to Addr, ok bool) {
	to = fl.addr()
	if a, ok := ps.secureTarget(u, fl); ok {
		trunk := ps.trunkAt(a.Addr())
		if a.Addr() == fl.peer.Addr() || trunk != nil && trunk == ps.trunkAt(fl.peer.Addr()) {
			to = a
		}
	}
	return to, fl.connID == 0 || !fl.isAt(to)
}

// secureTarget returns the address that a URI names in the dialog of a flow. ok is false
// if the URI names no address. A request never leaves a dialog over TLS for another
// transport: if the URI of such a dialog names no TLS address, the result is the peer of
// the flow if it listens, or else the first TLS address of its trunk.
func (ps *peers) secureTarget(u *siptext.URI, fl flow) (a Addr, ok bool) {
	a, ok = uriAddr(u)
	if !fl.proto.secure() || ok && a.Proto.secure() {
		return a, ok
	}
	if fl.connID == 0 {
		return fl.addr(), true
	}
	for _, r := range remotesOf(ps.trunkAt(fl.peer.Addr())) {
		if targets := r.view.Load().targets; r.config.Proto.secure() && len(targets) > 0 {
			return targets[0].Addr, true
		}
	}
	return fl.addr(), true // nobody listens there
}

// dialogPBX returns the PBX to which later requests in the dialog of p are sent. p comes
// from a PBX. The result is the id of a known PBX, with its address if the PBX is
// configured by name, or else an address alone.
//
// The Contact of p decides if it has the address of a PBX and p has only one Via. With
// more Vias, the PBX is a proxy that forwards the caller's Contact. So the source of p
// decides.
func (ps *peers) dialogPBX(p *packet) (id pbxID, target Addr) {
	contact, known := p.msg.contactAddr()
	known = known && !p.msg.hasNextVia()
	if pbx := ps.pbxOfAddr(contact); known && pbx != nil {
		return pbx.id, pbx.dialogTarget(contact)
	}
	if known && ps.isPBXHost(contact.Addr()) {
		return id, contact
	}
	for _, pbx := range ps.known() {
		if pbx.isSource(p.listener.proto, p.peer) {
			return pbx.id, pbx.dialogTarget(Addr{Proto: p.listener.proto, AddrPort: p.peer})
		}
	}
	return id, Addr{Proto: p.listener.proto, AddrPort: p.peer}
}
