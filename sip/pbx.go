package sip

import (
	"net/netip"
	"sync/atomic"

	"bellhop/dialog"
)

// pbx is one configured PBX.
type pbx struct {
	addr          Addr
	id            pbxID
	sharesOurAddr bool        // the proxy has the same IP address, so phones may send from it too
	down          atomic.Bool // it did not answer OPTIONS, or answered 503; never set for a single PBX

	diagnosis diagnosis
}

// isSource reports whether a message from peer comes from this PBX.
//
// The IP address decides, whatever transport the PBX is configured with: some PBXs
// choose another one, for a large request for example (RFC 3261 §18.1.1). The source
// port must match as well where other senders may have the same address: over UDP unless
// the PBX is reached over TCP, and where the proxy has the address too.
func (p *pbx) isSource(proto Proto, peer netip.AddrPort) bool {
	switch {
	case p.addr.AddrPort == peer:
		return true
	case p.addr.Addr() != peer.Addr():
		return false
	case p.sharesOurAddr:
		return p.addr.Proto == TCP && proto == TCP
	}
	return p.addr.Proto == TCP || proto == TCP
}

// pbxOfAddr returns the configured PBX at an address, or nil. One with the same
// transport is preferred: a URI seldom names the transport, the configuration does.
func (px *Proxy) pbxOfAddr(a Addr) (found *pbx) {
	for _, p := range px.pbx {
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
func (px *Proxy) firstAlivePBX() (*pbx, bool) {
	for _, p := range px.pbx {
		if !p.down.Load() {
			return p, true
		}
	}
	return nil, false
}

// isPBXHost reports whether a PBX is configured at an IP address, on any port.
func (px *Proxy) isPBXHost(ip netip.Addr) bool {
	for _, p := range px.pbx {
		if p.addr.Addr() == ip {
			return true
		}
	}
	for _, s := range px.cfg.PBXSources {
		if s.Contains(ip) {
			return true
		}
	}
	return false
}

// sideOf returns the side that the message p came from. Phones may share the address of
// a PBX that is reached over UDP, for example behind one NAT: a connection from that
// address on which a phone registers is on the edge side.
func (px *Proxy) sideOf(p *packet) dialog.Side {
	for _, pbx := range px.pbx {
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
	return px.sourceSide(p.peer)
}

// sideAt returns the side of an address that requests are sent to.
func (px *Proxy) sideAt(a Addr) dialog.Side {
	for _, p := range px.pbx {
		if p.addr.Proto == a.Proto && (p.addr.AddrPort == a.AddrPort || a.Proto == TCP && p.addr.Addr() == a.Addr()) {
			return pbxSide
		}
	}
	return px.sourceSide(a.AddrPort)
}

// sourceSide returns the PBX side for addresses in Config.PBXSources, else the edge
// side.
func (px *Proxy) sourceSide(peer netip.AddrPort) dialog.Side {
	for _, s := range px.cfg.PBXSources {
		if s.Contains(peer.Addr()) {
			return pbxSide
		}
	}
	return edgeSide
}

// trunkAt returns the trunk that an address belongs to, or nil.
func (px *Proxy) trunkAt(ip netip.Addr) *Trunk {
	for i := range px.cfg.Trunks {
		for _, s := range px.cfg.Trunks[i].Sources {
			if s.Contains(ip) {
				return &px.cfg.Trunks[i]
			}
		}
	}
	return nil
}
