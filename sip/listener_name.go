package sip

import (
	"cmp"
	"maps"
	"net"
	"net/netip"
	"sync/atomic"

	"bellhop/dialog"
)

// listenerNames are the names of a listener.
type listenerNames struct {
	real       ownName                 // the address at which the listener is reached without NAT
	advertised atomic.Pointer[ownName] // nil: none; see Proxy.Advertise

	// The real names of a listener on an unspecified address, by address. The map is
	// replaced when an address is added.
	byAddr atomic.Pointer[map[netip.Addr]*ownName]
}

// maxOwnAddrs limits listenerNames.byAddr. A machine has fewer addresses, except those of
// 127.0.0.0/8, which only its own programs can send to.
const maxOwnAddrs = 1024

// ownName is a name of the proxy, in the two forms in which messages contain it.
type ownName struct {
	sentBy string // host:port in our Via
	uri    string // host:port;transport=… in our URIs
}

// newOwnName returns the name of a listener of transport proto.
func newOwnName(at HostPort, proto Proto) ownName {
	n := ownName{sentBy: at.String(), uri: at.String()}
	if proto.stream() {
		n.uri += ";transport=" + proto.uriName()
	}
	return n
}

// setNames sets the names of a listener and adds them to the names of the proxy.
func (l *listener) setNames(advertise HostPort) {
	at := HostPort{Host: uriHost(l.local.Addr()), Port: l.addr.Port()}
	l.proxy.listeners.addName(at)
	l.names.real = newOwnName(at, l.proto)
	l.advertise(advertise)
	if !l.hasAnyAddr() {
		return
	}
	l.proxy.listeners.anyAddr = true
	l.names.byAddr.Store(&map[netip.Addr]*ownName{})
	for _, ip := range machineAddrs() {
		if ip.Is4() == l.addr.Addr().Is4() {
			l.addAddr(ip)
		}
	}
}

// machineAddrs returns the addresses of the interfaces of this machine.
func machineAddrs() (ips []netip.Addr) {
	all, _ := net.InterfaceAddrs()
	for _, a := range all {
		if p, err := netip.ParsePrefix(a.String()); err == nil {
			ips = append(ips, p.Addr())
		}
	}
	return ips
}

// advertise sets the advertised name of a listener; an empty host means none.
func (l *listener) advertise(at HostPort) {
	if at.Host == "" {
		l.names.advertised.Store(nil)
		return
	}
	at.Port = cmp.Or(at.Port, l.addr.Port())
	l.proxy.listeners.addName(at)
	n := newOwnName(at, l.proto)
	l.names.advertised.Store(&n)
}

// Advertise sets the advertised names of the listeners, in the order of [Config.Listen].
// Their former names lead to the proxy all the same, because the requests of calls that are
// up contain them. Advertise may be called while the proxy runs, but not twice at once.
func (px *Proxy) Advertise(names []HostPort) {
	for i, l := range px.listeners.all {
		l.advertise(names[i])
	}
}

// nameFor returns the name by which a peer on a side knows the listener: the real name or
// the advertised one. ip is the address of the peer. local is the address that the peer
// uses, if the listener has several.
//
// Strangers and trunks know the advertised name. Peers in [Config.LocalNets] know the
// real name, because a NAT in front of the machine may not let them use the advertised
// one. So does the PBX, except at a listener that is for the PBX alone: its advertised
// name can be meant for nobody else.
func (l *listener) nameFor(side dialog.Side, ip, local netip.Addr) *ownName {
	advertised := l.names.advertised.Load()
	switch {
	case advertised != nil && (l.side == PBXListener || side == edgeSide && !l.proxy.isLocalNet(ip)):
		return advertised
	case local.IsValid():
		return l.nameAt(local)
	}
	return &l.names.real
}

// hasAnyAddr reports whether the listener is on an unspecified address, and so has all
// addresses of the machine.
func (l *listener) hasAnyAddr() bool { return l.addr.Addr().IsUnspecified() }

// nameAt returns the real name of a listener with several addresses at one of them.
func (l *listener) nameAt(ip netip.Addr) *ownName {
	if n := (*l.names.byAddr.Load())[ip]; n != nil {
		return n
	}
	return l.newNameAt(ip) // of another node, or of a machine that had the address before
}

// newNameAt returns the real name of a listener at an address, as a new value.
func (l *listener) newNameAt(ip netip.Addr) *ownName {
	n := newOwnName(HostPort{Host: uriHost(ip), Port: l.addr.Port()}, l.proto)
	return &n
}

// addAddr notes an address of a listener with several addresses: one of this machine, or one
// at which the listener has received something. From then on, a URI with this address names
// the proxy.
func (l *listener) addAddr(ip netip.Addr) {
	for m := l.names.byAddr.Load(); (*m)[ip] == nil && len(*m) < maxOwnAddrs; m = l.names.byAddr.Load() {
		next := maps.Clone(*m)
		next[ip] = l.newNameAt(ip)
		if l.names.byAddr.CompareAndSwap(m, &next) {
			return
		}
	}
}

// localAddr returns the address from which the listener sends over a flow. ip is the
// local address in the flow. localAddr returns ip if the listener is on an unspecified
// address of the same family. Otherwise it returns the zero address, because the listener
// has one address only or ip is of an earlier configuration.
func (l *listener) localAddr(ip netip.Addr) netip.Addr {
	if !l.hasAnyAddr() || ip.Is4() != l.addr.Addr().Is4() {
		return netip.Addr{}
	}
	return ip
}

// ownsAddr reports whether ip is one of the addresses of a listener on an unspecified
// address: a loopback address, one that the machine had at the start, or one to which a
// peer has sent.
func (l *listener) ownsAddr(ip netip.Addr) bool {
	if !l.hasAnyAddr() || ip.Is4() != l.addr.Addr().Is4() {
		return false
	}
	if ip.IsLoopback() {
		return true
	}
	return (*l.names.byAddr.Load())[ip] != nil
}

// isLocalNet reports whether an address is in [Config.LocalNets]. It returns false for a
// trunk with [Trunk.OwnContact], which knows the proxy only by its advertised name.
func (px *Proxy) isLocalNet(ip netip.Addr) bool {
	if px.peers.trunks.Load().wantOwnContact {
		if t := px.peers.trunkAt(ip); t != nil && t.OwnContact {
			return false
		}
	}
	for _, n := range px.cfg.LocalNets {
		if n.Contains(ip) {
			return true
		}
	}
	return false
}

// ownName returns the name by which the destination, on a side, knows the proxy.
func (d destination) ownName(side dialog.Side) *ownName {
	return d.listener.nameFor(side, d.peer().Addr(), d.local)
}

// ownName returns the name by which the sender of p knows the proxy.
func (p *packet) ownName() *ownName {
	return p.listener.nameFor(p.side, p.peer.Addr(), p.local)
}
