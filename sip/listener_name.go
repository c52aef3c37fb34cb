package sip

import (
	"cmp"
	"net/netip"

	"bellhop/dialog"
)

// listenerNames are the two names of a listener. They are equal if the configuration
// advertises none.
type listenerNames struct {
	real       ownName // the address at which the listener is reached without NAT
	advertised ownName
}

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
	if advertise.Host != "" {
		at = HostPort{Host: advertise.Host, Port: cmp.Or(advertise.Port, at.Port)}
		l.proxy.listeners.addName(at)
	}
	l.names.advertised = newOwnName(at, l.proto)
}

// nameFor returns the name by which a peer with the address ip on a side knows the
// listener. The PBX and peers in [Config.LocalNets] know the real name, because a NAT in
// front of the machine may not let them use the advertised one. All others know the
// advertised one, and so does everybody at a listener of the PBX side.
func (l *listener) nameFor(side dialog.Side, ip netip.Addr) *ownName {
	if l.side == PBXListener || side == edgeSide && !l.proxy.isLocalNet(ip) {
		return &l.names.advertised
	}
	return &l.names.real
}

// isLocalNet reports whether an address is in [Config.LocalNets].
func (px *Proxy) isLocalNet(ip netip.Addr) bool {
	for _, n := range px.cfg.LocalNets {
		if n.Contains(ip) {
			return true
		}
	}
	return false
}

// ownName returns the name by which the destination, on a side, knows the proxy.
func (d destination) ownName(side dialog.Side) *ownName {
	return d.listener.nameFor(side, d.peer().Addr())
}

// ownName returns the name by which the sender of p knows the proxy.
func (p *packet) ownName() *ownName { return p.listener.nameFor(p.side, p.peer.Addr()) }
