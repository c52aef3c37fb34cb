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

// reliable reports whether the transport is a stream, so that nothing is retransmitted.
func (d destination) reliable() bool { return d.conn != nil }

// peer returns the address of the peer that receives the message. On a stream it may
// differ from addr, because a new stream to addr is opened when conn is closed.
func (d destination) peer() netip.AddrPort {
	if d.conn != nil {
		return d.conn.peer
	}
	return d.addr
}

// destinationAt returns the destination of messages to an address, if a listener can reach
// it. It prefers came, the listener on which the message was received; came may be nil.
// For TCP it opens a stream to the address if there is none.
func (px *Proxy) destinationAt(a Addr, came *listener) (to destination, ok bool) {
	l := px.listeners.find(a.Proto, a.Addr(), came)
	if l == nil {
		return destination{}, false
	}
	to = destination{listener: l, addr: a.AddrPort}
	if a.Proto == TCP {
		to.conn = px.streams.openTo(a.AddrPort, l)
	}
	return to, true
}

// responseDestination returns where responses to p go: to its connection, or to its
// source IP address. The port is the source port if the request has rport, else that of
// sent-by (RFC 3261 §18.2.2, RFC 3581 §4).
func (p *packet) responseDestination() destination {
	v := &p.msg.via
	to := p.peer
	if !v.hasRport || p.conn != nil {
		to = netip.AddrPortFrom(p.peer.Addr(), uint16(cmp.Or(v.port, defaultPort)))
	}
	return destination{listener: p.listener, addr: to, conn: p.conn}
}

// sendMessage sends b and reports whether the transport accepted it. tx is the id of the
// client transaction that gets a later transport error, or 0.
//
// If to.conn is closed, another stream is opened to to.addr. For a response, to.addr is
// the source IP address of the request with the port of sent-by (RFC 3261 §18.2.2).
func (w *worker) sendMessage(to destination, b []byte, tx uint64) bool {
	if to.conn == nil {
		return to.listener.writeDatagram(b, to.addr) == nil
	}
	return to.conn.queueMessage(b, tx) || w.proxy.streams.openTo(to.addr, to.listener).queueMessage(b, tx)
}

// flow returns the flow on which p was received. byURI reports that requests to the
// client cannot be sent over this flow, because the peer is a proxy in front of the
// client or does not receive at the address from which it sends.
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
