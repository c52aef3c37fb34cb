package config

import (
	"net/netip"
	"slices"
	"strings"

	"bellhop/sip"
)

// placedListener is a listener and the place of its address in the config.
type placedListener struct {
	sip.Listener
	path         string
	advertiseKey string // key of its advertised name, for remedies
	tlsCert      []PEM
}

// Listeners returns the listeners of the proxy: the lines of sip.listen, then the
// [[listener]] tables.
func (c *Config) Listeners() (ls []sip.Listener) {
	for _, l := range c.placedListeners() {
		ls = append(ls, l.Listener)
	}
	return ls
}

// placedListeners returns the listeners in the order of [Config.Listeners]. A listener
// without an advertised name gets that of [sip], unless it is the PBX's alone, or unless
// that name is an address of the other family.
func (c *Config) placedListeners() (ls []placedListener) {
	for i, a := range c.SIP.Listen {
		ls = append(ls, placedListener{sip.Listener{Addr: a}, indexPath("sip.listen", i), "sip.advertise", c.SIP.TLSCert})
	}
	for i, l := range c.Listener {
		var origins []string
		for _, o := range l.Origins {
			origins = append(origins, string(o))
		}
		ls = append(ls, placedListener{sip.Listener{Addr: l.Listen, Advertise: l.Advertise, Side: l.Side, Origins: origins, ProxyFrom: Prefixes(l.ProxyFrom)},
			indexPath("listener", i) + ".listen", "advertise", l.TLSCert})
	}
	for i := range ls {
		l := &ls[i]
		if len(l.tlsCert) == 0 {
			l.tlsCert = c.SIP.TLSCert
		}
		if l.Advertise.Host == "" && l.Side != sip.PBXListener && suitsFamily(c.SIP.Advertise, l.Addr) {
			l.Advertise = c.SIP.Advertise
		}
	}
	return ls
}

// suitsFamily reports whether an advertised name is a host name, or an address of the
// family of a listener.
func suitsFamily(name sip.HostPort, l sip.Addr) bool {
	ip, ok := name.Addr()
	return !ok || ip.Is4() == l.Addr().Is4()
}

// validateListeners reports listeners that are invalid or conflict, and sides without a
// listener.
func (c *Config) validateListeners(report func(path, format string, args ...any)) {
	all := c.placedListeners()
	if len(all) == 0 {
		report("sip.listen", `no address to listen on: set at least one, like ["udp://127.0.0.1:5060"]`)
	}
	c.validateListenNames(report)
	edge := false
	for i, l := range all {
		edge = edge || l.Side != sip.PBXListener
		switch {
		case l.Host != "":
		case !l.IsValid():
			report(l.path, `no address to listen on: set listen = "udp://192.0.2.1:5060"`)
		case l.Addr.Addr().IsMulticast():
			report(l.path, "%v is a multicast address: use a unicast address", l.Addr)
		}
		for _, other := range all[:i] {
			reportConflict(l, other, report)
		}
		validateTransport(l, report)
	}
	if len(all) > 0 && !edge {
		report(all[0].path, `no listener for phones: set side = "both", or add a listener with side = "edge"`)
	}
	c.validateAdvertise(report)
}

// reportConflict reports that two listeners cannot both be opened. Transports that the
// first bytes of a connection tell apart may share an address.
func reportConflict(l, other placedListener, report func(path, format string, args ...any)) {
	switch {
	case !socketsConflict(l.Addr, other.Addr):
	case l.Proto == other.Proto:
		report(l.path, "%v is taken by %v: remove one of them", l.Addr, other.Addr)
	case l.AddrPort != other.AddrPort || !l.Proto.PairsWith(other.Proto):
		report(l.path, "%v is taken by %v: use another port. Only tcp:// and ws://, or tls:// and wss://, may share an address", l.Addr, other.Addr)
	case !slices.Equal(l.ProxyFrom, other.ProxyFrom):
		report(l.path, "%v shares its address with %v: give both the same proxy_from", l.Addr, other.Addr)
	case isSecure(l.Addr) && !slices.Equal(l.tlsCert, other.tlsCert):
		report(l.path, "%v shares its address with %v: give both the same tls_cert", l.Addr, other.Addr)
	}
}

// validateTransport reports settings that the transport of a listener does not have.
func validateTransport(l placedListener, report func(path, format string, args ...any)) {
	ws := l.Proto == sip.WS || l.Proto == sip.WSS
	at := strings.TrimSuffix(l.path, "listen")
	switch {
	case len(l.Origins) > 0 && !ws:
		report(at+"origins", "%v has no pages: set origins at a ws:// or wss:// listener", l.Addr)
	case ws && l.Side == sip.PBXListener:
		report(at+"side", "%v is for browsers, and the PBX does not use it: remove side, or set side = \"edge\"", l.Addr)
	}
	if len(l.ProxyFrom) > 0 && l.Proto == sip.UDP {
		report(at+"proxy_from", "%v has no connections: set proxy_from at a listener of another transport", l.Addr)
	}
}

// validateAdvertise reports advertised names that nobody can send to.
func (c *Config) validateAdvertise(report func(path, format string, args ...any)) {
	check := func(path string, name sip.HostPort) {
		if ip, ok := name.Addr(); ok && (ip.IsUnspecified() || ip.IsMulticast()) {
			report(path, "%v is not an address to send to: use the address or name at which phones reach bellhop", name)
		}
	}
	check("sip.advertise", c.SIP.Advertise)
	for i, l := range c.Listener {
		check(indexPath("listener", i)+".advertise", l.Advertise)
	}
}

// warnListeners reports listeners of phones on all addresses without an advertised name.
func (c *Config) warnListeners(report func(path, format string, args ...any)) {
	for _, l := range c.placedListeners() {
		if l.Addr.Addr().IsUnspecified() && l.Side != sip.PBXListener && l.Advertise.Host == "" {
			report(l.path, "%v has no advertised name: each phone is given the address of this machine to which it sends. If phones come through a NAT in front of bellhop, set %s", l.Addr, l.advertiseKey)
		}
	}
}

// socketsConflict reports whether two sockets cannot both be opened, because they are
// the same or one is on all addresses and has the port of the other.
func socketsConflict(a, b sip.Addr) bool {
	if (a.Proto == sip.UDP) != (b.Proto == sip.UDP) || a.Port() != b.Port() || a.Port() == 0 {
		return false
	}
	x, y := a.Addr().Unmap(), b.Addr().Unmap()
	return x == y || coversAddress(x, y) || coversAddress(y, x)
}

// coversAddress reports whether all is an unspecified address (0.0.0.0 or [::]) and a
// socket on it also receives packets to ip.
func coversAddress(all, ip netip.Addr) bool { return all.IsUnspecified() && all.Is4() == ip.Is4() }

// adminConflicts reports whether the socket of the admin API and a listener cannot both
// be opened. Unlike a listener, the admin API on [::] receives IPv4 too.
func adminConflicts(admin Socket, l sip.Addr) bool {
	a := sip.Addr{Proto: sip.TCP, AddrPort: admin.AddrPort}
	if socketsConflict(a, l) {
		return true
	}
	a.AddrPort = netip.AddrPortFrom(netip.IPv4Unspecified(), a.Port())
	return admin.Addr() == netip.IPv6Unspecified() && socketsConflict(a, l)
}
