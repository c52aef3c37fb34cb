package sip

import (
	"cmp"
	"net/netip"
)

// noteAlias reads the Via of the first request on a connection that a trunk has opened. If
// it has alias, requests to the port in that Via go over this connection (RFC 5923 §5). It
// is called by the goroutine that reads the connection.
//
// Over TLS the certificate of the peer must be that of a trunk, because the calls to a
// trunk would otherwise leave over a connection whose peer nobody has verified. Over TCP
// the address must be that of a trunk. Nobody else may set an alias. Otherwise a stranger
// who shares the address of a carrier could take the calls to that carrier.
func (px *Proxy) noteAlias(p *packet) {
	s, m := p.conn, &p.msg
	if s.dialed || s.aliasRead || !m.isRequest() || m.fault != nil {
		return
	}
	s.aliasRead = true
	if !m.via.hasAlias(m.b) || !px.peers.maySetAlias(s) {
		return
	}
	at := s.key()
	at.peer = netip.AddrPortFrom(at.peer.Addr(), uint16(cmp.Or(m.via.port, int(at.proto.defaultPort()))))
	px.streams.addAlias(s, at)
}

// maySetAlias reports whether the peer of a stream is a trunk and no other trunk has its
// address.
func (ps *peers) maySetAlias(s *stream) bool {
	listed := ps.trunkAt(s.peer.Addr())
	switch s.listener.proto {
	case TCP:
		return listed != nil
	case TLS:
		t := ps.trunkOfConn(s)
		return t != nil && (listed == nil || listed == t)
	}
	return false
}

// addAlias makes the peer of a stream reachable at another port too, unless there is a
// stream to that port.
func (ss *streamTable) addAlias(s *stream, at streamKey) {
	if _, taken := ss.byPeer.LoadOrStore(at, s); taken {
		return
	}
	s.alias.Store(&at)
	if s.closed() {
		s.removeAlias() // close has not seen the alias
	}
}

// removeAlias undoes addAlias.
func (s *stream) removeAlias() {
	if at := s.alias.Load(); at != nil {
		s.table.byPeer.CompareAndDelete(*at, s)
	}
}
