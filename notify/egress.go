package notify

import (
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"syscall"
	"time"

	"code.dny.dev/ssrf"
)

// A guard decides which addresses callbacks may be sent to. It is asked for
// every connection with the address that is being connected to, so a name that
// resolves differently the second time gains nothing. In this order:
//
//	deny                                             refused
//	bellhop's own listeners                          refused
//	allow                                            permitted
//	private networks: RFC 1918, RFC 6598, ULA        permitted
//	what IANA calls special (loopback, link-local
//	with cloud metadata, multicast, unspecified,
//	reserved, v4-mapped, NAT64, 6to4 …)              refused
//	everything else                                  permitted
//
// Any port is permitted. A prefix of IPv4 also stands for the IPv4 address
// within a v4-mapped one.
type guard struct {
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

	// metadata services that stand inside what is private
	metadata = []netip.Prefix{netip.MustParsePrefix("fd00:ec2::254/128"), netip.MustParsePrefix("100.100.100.200/32")}
)

func newGuard(c Config) *guard {
	return &guard{
		deny: c.Deny, allow: c.Allow, own: c.Own,
		defaults: ssrf.New(ssrf.WithAnyPort(), ssrf.WithAllowedV4Prefixes(private4...), ssrf.WithAllowedV6Prefixes(private6...)),
	}
}

// control is the dialer's hook: address is numeric.
func (g *guard) control(network, address string, _ syscall.RawConn) error {
	to, err := netip.ParseAddrPort(address)
	if err != nil {
		return fmt.Errorf("egress to %s: %w", address, err)
	}
	if network != "tcp4" && network != "tcp6" {
		return fmt.Errorf("egress to %s: %s is not permitted", address, network)
	}
	return g.check(to)
}

// check says why to may not be connected to.
func (g *guard) check(to netip.AddrPort) error {
	addr := to.Addr().WithZone("")
	switch {
	case contains(g.deny, addr):
		return fmt.Errorf("egress to %s is denied by notify.deny", to)
	case g.isOwn(addr.Unmap(), to.Port()):
		return fmt.Errorf("egress to %s is refused: bellhop itself listens there", to)
	case contains(g.allow, addr):
		return nil
	case contains(metadata, addr):
		return fmt.Errorf("egress to %s is refused: a metadata service; notify.allow permits it", to)
	}
	if err := g.defaults.SafeAddr(addr); err != nil {
		return fmt.Errorf("egress to %s is refused: not a public or private network; notify.allow permits it", to)
	}
	return nil
}

func contains(prefixes []netip.Prefix, addr netip.Addr) bool {
	for _, p := range prefixes {
		if p.Contains(addr) || p.Contains(addr.Unmap()) {
			return true
		}
	}
	return false
}

// isOwn reports whether bellhop listens there: a listener on the unspecified
// address listens on every address of the machine.
func (g *guard) isOwn(addr netip.Addr, port uint16) bool {
	for _, own := range g.own {
		if own.Port() == port && (own.Addr().Unmap() == addr || own.Addr().IsUnspecified() && ofThisMachine(addr)) {
			return true
		}
	}
	return false
}

func ofThisMachine(addr netip.Addr) bool {
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

// newTransport makes the HTTP client: guarded, without proxy, redirects,
// cookies or decompression, on connections that are kept.
func newTransport(c Config) http.RoundTripper {
	if c.Transport != nil {
		return c.Transport
	}
	d := &net.Dialer{Timeout: 5 * time.Second, KeepAlive: 30 * time.Second, Control: newGuard(c).control}
	return &http.Transport{
		DialContext:            d.DialContext,
		DisableCompression:     true,
		TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12},
		TLSHandshakeTimeout:    5 * time.Second,
		MaxIdleConns:           1000,
		MaxIdleConnsPerHost:    endpointSlots,
		IdleConnTimeout:        90 * time.Second,
		MaxResponseHeaderBytes: 16 << 10,
		WriteBufferSize:        4 << 10,
		ReadBufferSize:         4 << 10,
	}
}
