package sip

import (
	"fmt"
	"net"
	"net/netip"
)

// listener is one address that the proxy listens on.
type listener struct {
	proxy  *Proxy
	index  uint8 // position in the configuration
	proto  Proto
	addr   netip.AddrPort // as bound
	local  netip.AddrPort // as the PBX reaches it
	sentBy string         // host:port in our Via
	uri    string         // host:port;transport=… in our URIs
	packet PacketConn     // UDP
	stream net.Listener   // TCP
}

// openListener opens the socket of one configured address.
func (px *Proxy) openListener(a Addr) (*listener, error) {
	l := &listener{proxy: px, index: uint8(len(px.listeners.all)), proto: a.Proto}
	switch a.Proto {
	case UDP:
		c, err := px.cfg.Net.ListenPacket(a.AddrPort)
		if err != nil {
			return nil, listenError(a, err)
		}
		l.packet = c
		l.addr = addrPortOf(c.LocalAddr())
	case TCP:
		c, err := px.cfg.Net.Listen(a.AddrPort)
		if err != nil {
			return nil, listenError(a, err)
		}
		l.stream = c
		l.addr = addrPortOf(c.Addr())
	}
	l.local = netip.AddrPortFrom(px.reachableAddr(l.addr.Addr()), l.addr.Port())
	name := HostPort{Host: uriHost(l.local.Addr()), Port: l.addr.Port()}
	px.listeners.addName(name)
	if ad := px.cfg.Advertise; ad.Host != "" {
		name.Host = ad.Host
		if ad.Port != 0 {
			name.Port = ad.Port
		}
		px.listeners.addName(name)
	}
	l.sentBy = name.String()
	l.uri = l.sentBy
	if l.proto == TCP {
		l.uri += ";transport=tcp"
	}
	return l, nil
}

// listenError returns the error for a socket that cannot be opened.
func listenError(a Addr, err error) error {
	if isInUse(err) {
		return fmt.Errorf("cannot listen on %s: the port is in use by another process", a)
	}
	return fmt.Errorf("cannot listen on %s: %w", a, err)
}

// reachableAddr returns the address at which others reach a listener. For an unspecified
// address such as 0.0.0.0 it is the one that this machine uses towards the PBX.
func (px *Proxy) reachableAddr(ip netip.Addr) netip.Addr {
	if !ip.IsUnspecified() {
		return ip
	}
	c, err := net.Dial("udp", px.cfg.PBX[0].AddrPort.String()) // sends nothing
	if err != nil {
		return ip
	}
	defer c.Close()
	return addrPortOf(c.LocalAddr()).Addr()
}

// canReach reports whether packets from l can reach ip: the address families are the
// same, and a loopback address reaches loopback only.
func (l *listener) canReach(ip netip.Addr) bool {
	own := l.addr.Addr()
	return own.Is4() == ip.Is4() && (own.IsUnspecified() || own.IsLoopback() == ip.IsLoopback())
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
