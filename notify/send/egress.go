package send

import (
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"syscall"
	"time"

	"code.dny.dev/ssrf"
)

// An egressGuard decides which addresses callbacks may be sent to. It checks the address of
// every connection, so a name that resolves differently the second time gains nothing. In
// this order:
//
//	deny                                             denied
//	bellhop's own listeners                          denied
//	allow                                            allowed
//	metadata services of clouds                      denied
//	private networks: RFC 1918, RFC 6598, ULA        allowed
//	special addresses of IANA (loopback, link-local,
//	multicast, unspecified, reserved, NAT64, 6to4,
//	Teredo …)                                        denied
//	everything else                                  allowed
//
// Any port is allowed. A v4-mapped address is the IPv4 address within it. An IPv6 address
// that a gateway translates into an IPv4 one must be allowed as both.
type egressGuard struct {
	deny, allow []netip.Prefix
	own         []netip.AddrPort
	defaults    *ssrf.Guardian
}

var (
	private4 = []netip.Prefix{
		netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("172.16.0.0/12"),
		netip.MustParsePrefix("192.168.0.0/16"), netip.MustParsePrefix("100.64.0.0/10"),
	}
	private6 = []netip.Prefix{netip.MustParsePrefix("fc00::/7")}

	// addresses at which clouds hand out credentials, beside 169.254.0.0/16
	metadataServices = []netip.Prefix{
		netip.MustParsePrefix("fd00:ec2::/32"),      // AWS
		netip.MustParsePrefix("fd20:ce::254/128"),   // Google
		netip.MustParsePrefix("fd00:42::42/128"),    // Scaleway
		netip.MustParsePrefix("100.100.100.200/32"), // Alibaba
		netip.MustParsePrefix("168.63.129.16/32"),   // Azure
	}

	siit           = netip.MustParsePrefix("::ffff:0:0:0/96") // RFC 7915
	ipv4Compatible = netip.MustParsePrefix("::/96")
	nat64          = netip.MustParsePrefix("64:ff9b::/96")   // RFC 6052
	nat64Local     = netip.MustParsePrefix("64:ff9b:1::/48") // RFC 8215
	sixToFour      = netip.MustParsePrefix("2002::/16")      // RFC 3056
	teredo         = netip.MustParsePrefix("2001::/32")      // RFC 4380
)

// newEgressGuard returns the guard of a configuration.
func newEgressGuard(c Config) *egressGuard {
	return &egressGuard{
		deny: c.Deny, allow: c.Allow, own: c.Own,
		defaults: ssrf.New(ssrf.WithAnyPort(), ssrf.WithAllowedV4Prefixes(private4...), ssrf.WithAllowedV6Prefixes(private6...)),
	}
}

// checkDial is the control function of the dialer. It returns an error if address, which
// is numeric, may not be connected to.
func (g *egressGuard) checkDial(network, address string, _ syscall.RawConn) error {
	to, err := netip.ParseAddrPort(address)
	if err != nil {
		return fmt.Errorf("egress to %s: %w", address, err)
	}
	if network != "tcp4" && network != "tcp6" {
		return fmt.Errorf("egress to %s: network %s is refused", address, network)
	}
	return g.checkAddrPort(to)
}

// checkAddrPort returns an error if to may not be connected to.
func (g *egressGuard) checkAddrPort(to netip.AddrPort) error {
	addr := to.Addr().WithZone("").Unmap()
	if why := g.denyReason(addr, to.Port()); why != "" {
		return fmt.Errorf("egress to %s %s", to, why)
	}
	if within, ok := embeddedIPv4(addr); ok {
		if why := g.denyReason(within, to.Port()); why != "" {
			return fmt.Errorf("egress to %s, which stands for %s, %s", to, within, why)
		}
	}
	return nil
}

// denyReason returns why addr is denied, or "" if it is allowed.
func (g *egressGuard) denyReason(addr netip.Addr, port uint16) string {
	switch {
	case containsAddr(g.deny, addr):
		return "is denied by notify.deny"
	case g.isOwn(addr, port):
		return "is refused: bellhop itself listens there"
	case containsAddr(g.allow, addr):
		return ""
	case containsAddr(metadataServices, addr):
		return "is refused: a metadata service; to allow it, add it to notify.allow"
	case g.defaults.SafeAddr(addr) != nil:
		return "is refused: not a public or private network; to allow it, add it to notify.allow"
	}
	return ""
}

// embeddedIPv4 returns the IPv4 address into which a gateway translates an IPv6 address.
// ok is false if there is none.
func embeddedIPv4(addr netip.Addr) (netip.Addr, bool) {
	b := addr.As16()
	v4 := [4]byte(b[12:])
	switch {
	case !addr.Is6() || addr.IsUnspecified() || addr.IsLoopback():
		return addr, false
	case sixToFour.Contains(addr):
		v4 = [4]byte(b[2:6])
	case teredo.Contains(addr):
		for i := range v4 {
			v4[i] ^= 0xff
		}
	case !siit.Contains(addr) && !ipv4Compatible.Contains(addr) && !nat64.Contains(addr) && !nat64Local.Contains(addr):
		return addr, false
	}
	return netip.AddrFrom4(v4), true
}

// containsAddr reports whether one of the prefixes contains addr.
func containsAddr(prefixes []netip.Prefix, addr netip.Addr) bool {
	return slices.ContainsFunc(prefixes, func(p netip.Prefix) bool { return p.Contains(addr) })
}

// isOwn reports whether bellhop listens at an address. A listener on the unspecified
// address listens on every address of the machine, and a connection to the unspecified
// address reaches the machine.
func (g *egressGuard) isOwn(addr netip.Addr, port uint16) bool {
	return slices.ContainsFunc(g.own, func(own netip.AddrPort) bool {
		at := own.Addr().WithZone("").Unmap()
		return own.Port() == port && (at == addr || addr.IsUnspecified() || at.IsUnspecified() && isLocalAddr(addr))
	})
}

// isLocalAddr reports whether addr belongs to this machine. It also reports true if the
// addresses of the machine cannot be read.
func isLocalAddr(addr netip.Addr) bool {
	if addr.IsLoopback() || addr.IsUnspecified() {
		return true
	}
	all, err := net.InterfaceAddrs()
	if err != nil {
		return true // the guard fails closed
	}
	for _, a := range all {
		if p, err := netip.ParsePrefix(a.String()); err == nil && p.Addr().Unmap() == addr {
			return true
		}
	}
	return false
}

// newTransport returns the HTTP client: guarded, without proxy, redirects, cookies or
// decompression, on kept connections. httpConns has the connections of http URLs, and
// httpsConns those of https URLs. Both are nil with Config.Transport. The transport uses
// connections of its own only for hosts whose names are not ASCII.
func newTransport(c Config) (_ http.RoundTripper, httpConns, httpsConns *connPool) {
	if c.Transport != nil {
		return c.Transport, nil, nil
	}
	d := &net.Dialer{Timeout: 5 * time.Second, KeepAlive: 30 * time.Second, Control: newEgressGuard(c).checkDial, Resolver: c.Resolver}
	t := &http.Transport{
		DialContext:            d.DialContext,
		DisableCompression:     true,
		TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12},
		TLSHandshakeTimeout:    handshakeTime,
		MaxIdleConns:           maxIdleConns,
		MaxIdleConnsPerHost:    maxIdlePerHost,
		IdleConnTimeout:        connIdleTimeout,
		MaxResponseHeaderBytes: maxResponseHead,
		WriteBufferSize:        connBufferSize,
		ReadBufferSize:         connBufferSize,
	}
	return t, newConnPool(d.DialContext, nil), newConnPool(d.DialContext, t.TLSClientConfig.Clone())
}
