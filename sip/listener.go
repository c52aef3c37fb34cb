package sip

import (
	"cmp"
	"crypto/tls"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"

	"bellhop/dialog"
	"bellhop/dialog/siptext"
)

// listener is one address that the proxy listens on.
type listener struct {
	proxy  *Proxy
	index  uint8 // position in the configuration
	proto  Proto
	addr   netip.AddrPort // as bound
	local  netip.AddrPort // as the PBX reaches it
	side   ListenerSide
	names  listenerNames
	packet PacketConn   // UDP
	stream net.Listener // all other transports; nil: the twin has it
	twin   *listener    // of the other transport at the same address, or nil
	tls    *tls.Config  // nil: without TLS

	connections atomic.Int64 // on which messages are exchanged

	origins   []string       // see Listener.Origins
	proxyFrom []netip.Prefix // see Listener.ProxyFrom
}

// openListener opens the socket of one configured listener.
func (px *Proxy) openListener(cfg Listener) (*listener, error) {
	a := cfg.Addr
	if a.Proto.secure() && cfg.Certificates == nil {
		return nil, fmt.Errorf("cannot listen on %s: no certificate", a)
	}
	l := &listener{proxy: px, index: uint8(len(px.listeners.all)), proto: a.Proto, side: cmp.Or(cfg.Side, BothSides), origins: cfg.Origins, proxyFrom: cfg.ProxyFrom}
	l.twin = px.listeners.findTwin(a)
	switch {
	case l.twin != nil:
		l.twin.twin = l
		l.addr = l.twin.addr
	case a.Proto == UDP:
		c, err := px.cfg.Net.ListenPacket(a.AddrPort)
		if err != nil {
			return nil, listenError(a, err)
		}
		l.packet = c
		l.addr = addrPortOf(c.LocalAddr())
	default:
		c, err := px.cfg.Net.Listen(a.AddrPort)
		if err != nil {
			return nil, listenError(a, err)
		}
		l.stream = c
		l.addr = addrPortOf(c.Addr())
	}
	if a.Proto.secure() {
		// A browser that is asked for a certificate may ask its user. No trunk opens a WebSocket.
		l.tls = px.cfg.TLS.newConfig(cfg.Certificates, a.Proto == TLS && px.peers.asksForCertificate())
		if l.twin != nil && a.Proto == TLS {
			l.twin.tls = l.tls
		}
	}
	l.local = netip.AddrPortFrom(reachableAddr(l.addr.Addr(), px.cfg.PBX), l.addr.Port())
	l.setNames(cfg.Advertise)
	return l, nil
}

// listenError returns the error for a socket that cannot be opened.
func listenError(a Addr, err error) error {
	if isInUse(err) {
		return fmt.Errorf("cannot listen on %s: the port is in use by another process", a)
	}
	return fmt.Errorf("cannot listen on %s: %w", a, err)
}

// reachableAddr returns the address at which others reach a listener on ip. For an
// unspecified address such as 0.0.0.0 it is the one that this machine uses towards the first
// PBX of the address family, or else towards other networks.
func reachableAddr(ip netip.Addr, pbxs []Addr) netip.Addr {
	if !ip.IsUnspecified() {
		return ip
	}
	to := netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, 1}), defaultPort) // RFC 5737: an address of no host
	if ip.Is6() {
		to = netip.AddrPortFrom(netip.AddrFrom16([16]byte{0x20, 0x01, 0x0d, 0xb8, 15: 1}), defaultPort) // RFC 3849
	}
	for _, pbx := range pbxs {
		if pbx.Host == "" && pbx.Addr().Is4() == ip.Is4() {
			to = pbx.AddrPort
			break
		}
	}
	if source, ok := SourceAddr(to); ok {
		return source
	}
	return ip
}

// SourceAddr returns the address from which this machine sends to an address. It sends
// nothing. ok is false if there is no route.
func SourceAddr(to netip.AddrPort) (ip netip.Addr, ok bool) {
	c, err := net.Dial("udp", to.String())
	if err != nil {
		return ip, false
	}
	defer c.Close()
	return addrPortOf(c.LocalAddr()).Addr(), true
}

// serves reports whether requests to a side may leave from l.
func (l *listener) serves(side dialog.Side) bool {
	switch l.side {
	case EdgeListener:
		return side == edgeSide
	case PBXListener:
		return side == pbxSide
	}
	return true
}

// canReach reports whether packets from l can reach ip. The address families must be the
// same. If either address is a loopback address, both must be, unless l listens on an
// unspecified address.
func (l *listener) canReach(ip netip.Addr) bool {
	own := l.addr.Addr()
	return own.Is4() == ip.Is4() && (own.IsUnspecified() || own.IsLoopback() == ip.IsLoopback())
}

// listeners are the addresses that the proxy listens on, and the hosts and ports that name
// the proxy in a URI. Any goroutine may use them. After Listen only their names change: see
// [Proxy.Advertise] and listener.addAddr.
type listeners struct {
	all     []*listener
	names   atomic.Pointer[map[hostPort]bool] // the map is replaced when a name is added
	anyAddr bool                              // a listener is on an unspecified address
}

// hostPort is a host and port as a URI names them, in lower case and without brackets.
type hostPort struct {
	host string
	port int
}

// newHostPort returns the hostPort of a host and a port. Port 0 is 5060.
func newHostPort(host string, port int) hostPort {
	return hostPort{strings.ToLower(strings.Trim(host, "[]")), cmp.Or(port, defaultPort)}
}

// addName adds a host and port to the names of the proxy.
func (ls *listeners) addName(n HostPort) {
	names := map[hostPort]bool{newHostPort(n.Host, int(n.Port)): true}
	if old := ls.names.Load(); old != nil {
		maps.Copy(names, *old)
	}
	ls.names.Store(&names)
}

// findTwin returns the listener on the same address as a that shares its port with a
// listener of a's transport, or nil. SIP and WebSocket share a port in this way.
func (ls *listeners) findTwin(a Addr) *listener {
	for _, l := range ls.all {
		if l.addr == a.AddrPort && l.twin == nil && l.proto.PairsWith(a.Proto) {
			return l
		}
	}
	return nil
}

// isName reports whether a URI with this host and port names the proxy.
func (ls *listeners) isName(host string, port int) bool {
	n := newHostPort(host, port)
	if named := (*ls.names.Load())[n]; named || !ls.anyAddr {
		return named
	}
	ip, err := netip.ParseAddr(n.host)
	return err == nil && ls.haveAddr(netip.AddrPortFrom(ip.Unmap(), uint16(n.port)))
}

// haveHost reports whether the proxy listens on an IP address, on any port.
func (ls *listeners) haveHost(ip netip.Addr) bool {
	for _, l := range ls.all {
		own := l.addr.Addr()
		if own == ip || l.local.Addr() == ip || l.ownsAddr(ip) {
			return true
		}
	}
	return false
}

// haveAddr reports whether a message to an address would come back to the proxy. The
// transport does not matter, because a URI seldom names it.
func (ls *listeners) haveAddr(a netip.AddrPort) bool {
	for _, l := range ls.all {
		if l.isAt(a) {
			return true
		}
	}
	return false
}

// receiverOf returns the listener to which messages to an address would come, or nil.
func (ls *listeners) receiverOf(a Addr) *listener {
	for _, l := range ls.all {
		if l.proto.sharesPorts(a.Proto) && l.isAt(a.AddrPort) {
			return l
		}
	}
	return nil
}

// isAt reports whether the listener has an address.
func (l *listener) isAt(a netip.AddrPort) bool {
	return l.addr.Port() == a.Port() && (l.addr.Addr() == a.Addr() || l.local.Addr() == a.Addr() || l.ownsAddr(a.Addr()))
}

// find returns a listener of transport proto that serves a side and from which the address
// ip can be reached. It prefers came, the listener on which the message was received; came
// may be nil. It returns nil if there is no such listener.
func (ls *listeners) find(proto Proto, side dialog.Side, ip netip.Addr, came *listener) *listener {
	if came != nil && came.proto == proto && came.serves(side) && came.canReach(ip) {
		return came
	}
	for _, l := range ls.all {
		if l.proto == proto && l.serves(side) && l.canReach(ip) {
			return l
		}
	}
	return nil
}

// have reports whether a listener of transport proto serves a side.
func (ls *listeners) have(proto Proto, side dialog.Side) bool {
	return slices.ContainsFunc(ls.all, func(l *listener) bool { return l.proto == proto && l.serves(side) })
}

// findForFlow returns the UDP listener of the edge side that a flow names. If the
// configuration has changed and no listener has the flow's index and port, it returns one
// with the port, or else the result of find.
func (ls *listeners) findForFlow(fl flow, came *listener) *listener {
	ip := fl.peer.Addr()
	var found *listener
	for _, l := range ls.all {
		if l.proto != UDP || l.addr.Port() != fl.listenerPort || !l.serves(edgeSide) || !l.canReach(ip) {
			continue
		}
		if l.index == fl.listenerIndex {
			return l
		}
		if found == nil {
			found = l
		}
	}
	if found != nil {
		return found
	}
	return ls.find(UDP, edgeSide, ip, came)
}

// areNamedBy reports whether a URI names one of our listeners, by host or by maddr.
func (ls *listeners) areNamedBy(u *siptext.URI) bool {
	return (u.Scheme == "sip" || u.Scheme == "sips") && ls.isName(targetHost(u), cmp.Or(uriPort(u), int(uriProto(u).defaultPort())))
}

// areAskedBy reports whether an OPTIONS is addressed to the proxy itself. An OPTIONS to a
// Contact that the proxy has rewritten is addressed to a phone, even if the Contact has
// no user.
func (ls *listeners) areAskedBy(m *message) bool {
	var u siptext.URI
	return parseURI(string(m.text(m.uri)), &u) == nil && u.User == "" && ls.areNamedBy(&u) && !hasParam(&u, contactParam) && !m.hasField(hRoute)
}

// addrPortOf returns the address in a net.Addr; an IPv4-mapped address becomes IPv4.
func addrPortOf(a net.Addr) netip.AddrPort {
	ap, err := netip.ParseAddrPort(a.String())
	if err != nil {
		return netip.AddrPort{}
	}
	return unmapAddr(ap)
}

// unmapAddr turns an IPv4-mapped IPv6 address into IPv4.
func unmapAddr(ap netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}
