package sip

import (
	"net/netip"
	"sync/atomic"
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
