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
	conn     *stream    // nil over UDP
	local    netip.Addr // our address to send from and to name, if the listener has several; zero: any
}

// reliable reports whether the transport is a stream, so that nothing is retransmitted.
func (d destination) reliable() bool { return d.conn != nil }

// isFlow reports whether messages can go over one connection only, which the peer has
// opened. When it is closed, only the peer can open another one.
func (d destination) isFlow() bool {
	return d.conn != nil && !d.conn.dialed && d.addr == d.conn.peer
}

// flowClosed reports whether messages can go over one connection only, and it is closed.
func (d destination) flowClosed() bool { return d.isFlow() && d.conn.closed() }

// peer returns the address of the peer that receives the message. On a stream it may
// differ from addr, because a new stream to addr is opened when conn is closed.
func (d destination) peer() netip.AddrPort {
	if d.conn != nil {
		return d.conn.peer
	}
	return d.addr
}

// destinationAt returns the destination of messages to an address on a side, if a listener
// of that side can reach it. It prefers came, the listener on which the message was
// received; came may be nil. It opens a stream to the address if the transport
// has connections and there is none.
func (px *Proxy) destinationAt(a Addr, side dialog.Side, came *listener) (to destination, ok bool) {
	l := px.listeners.find(a.Proto, side, a.Addr(), came)
	if l == nil {
		return destination{}, false
	}
	to = destination{listener: l, addr: a.AddrPort}
	if a.Proto.stream() {
		to.conn = px.streams.openTo(a, l)
	}
	return to, true
}

// responseDestination returns where responses to p go: to its connection, or to its
// source IP address. The port is the source port if p takes responses there, else that of
// sent-by (RFC 3261 §18.2.2, RFC 3581 §4).
func (p *packet) responseDestination() destination {
	to := p.peer
	if !p.receivesAtSource() {
		to = netip.AddrPortFrom(p.peer.Addr(), cmp.Or(uint16(p.msg.via.port), p.listener.proto.defaultPort()))
	}
	return destination{listener: p.listener, addr: to, conn: p.conn, local: p.local}
}

// receivesAtSource reports whether the sender of a datagram receives at the port from
// which it sends: if it says so by rport, or if it is neither PBX nor trunk. A phone
// behind a NAT may not know rport, and its sent-by is an address that only its own network
// knows.
func (p *packet) receivesAtSource() bool {
	return p.conn == nil && (p.msg.via.hasRport || p.side == edgeSide && p.listener.proxy.peers.trunkOf(p) == nil)
}

// flow returns the flow on which p was received. Requests to the client go over that flow
// while it is an open stream. For a datagram or a closed stream, byURI decides: if it is
// true, a request goes to the address in the URI of that request.
//
// byURI is true if the peer is a proxy in front of the client, if the peer does not
// receive at the port from which it sends, or if the proxy has opened the stream.
func (p *packet) flow() (fl flow, byURI bool) {
	m := &p.msg
	fl = flow{proto: p.listener.proto, listenerIndex: p.listener.index, listenerPort: p.listener.addr.Port(), peer: p.peer}
	switch {
	case p.conn == nil:
		fl.local = p.local
		byURI = !p.receivesAtSource() && sentByAddr(m) != p.peer
	case p.conn.dialed:
		byURI = true // and connID 0: another connection is as good
	default:
		fl.connID = p.conn.id
	}
	return fl, byURI || m.hasNextVia()
}

// sentByAddr returns the address in the topmost Via; it is invalid if sent-by is a name.
func sentByAddr(m *message) netip.AddrPort {
	ip, err := netip.ParseAddr(strings.Trim(string(m.text(m.via.host)), "[]"))
	if err != nil {
		return netip.AddrPort{}
	}
	return netip.AddrPortFrom(ip, uint16(cmp.Or(m.via.port, defaultPort)))
}
