package sip

import (
	"cmp"
	"net/netip"
	"strings"

	"bellhop/dialog"
)

const (
	edgeSide = dialog.Edge
	pbxSide  = dialog.PBX
)

// defaultPort is the port of a URI or Via that names none (RFC 3261 §18.2.2, §19.1.2).
const defaultPort = 5060

// destination is where a message is sent: from one of our listeners, to an address, and
// over a stream if the transport has connections.
type destination struct {
	listener *listener
	addr     netip.AddrPort
	conn     *stream // nil over UDP
}

// reliable reports whether the transport is a stream: nothing is retransmitted.
func (d destination) reliable() bool { return d.conn != nil }

// peer returns the address of the peer that receives the message. On a stream it may
// differ from addr, to which a new stream is opened when the old one has ended.
func (d destination) peer() netip.AddrPort {
	if d.conn != nil {
		return d.conn.peer
	}
	return d.addr
}

// responseDestination returns where responses to p go: to its connection, or to its
// source address, at the port that rport or sent-by names (RFC 3261 §18.2.2, RFC 3581
// §4).
func (p *packet) responseDestination() destination {
	v := &p.msg.via
	to := p.peer
	if !v.hasRport || p.conn != nil {
		to = netip.AddrPortFrom(p.peer.Addr(), uint16(cmp.Or(v.port, defaultPort)))
	}
	return destination{listener: p.listener, addr: to, conn: p.conn}
}

// sendMessage sends b and reports whether the transport accepted it. tx is the id of the
// client transaction that gets a later transport error; 0 is none.
//
// If the stream is closed, another one is opened to the same address. For a response
// that is the source address of its request, at the port of sent-by, and no other (RFC
// 3261 §18.2.2).
func (w *worker) sendMessage(to destination, b []byte, tx uint64) bool {
	if to.conn == nil {
		return to.listener.writeDatagram(b, to.addr) == nil
	}
	return to.conn.queueMessage(b, tx) || w.proxy.streams.openTo(to.addr, to.listener).queueMessage(b, tx)
}

// flow returns the flow on which p was received. byURI reports that requests cannot go
// back over it: the peer is a proxy in front of the client, or does not receive at the
// address it sends from.
func (p *packet) flow() (fl flow, byURI bool) {
	m := &p.msg
	fl = flow{proto: p.listener.proto, listenerIndex: p.listener.index, listenerPort: p.listener.addr.Port(), peer: p.peer}
	if p.conn != nil {
		fl.connID = p.conn.id
	}
	symmetric := p.conn != nil || m.via.hasRport || sentByAddr(m) == p.peer
	return fl, m.hasNextVia() || !symmetric
}

// sentByAddr returns the address in the topmost Via; it is invalid if sent-by is a name.
func sentByAddr(m *message) netip.AddrPort {
	ip, err := netip.ParseAddr(strings.Trim(string(m.text(m.via.host)), "[]"))
	if err != nil {
		return netip.AddrPort{}
	}
	return netip.AddrPortFrom(ip, uint16(cmp.Or(m.via.port, defaultPort)))
}
