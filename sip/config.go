package sip

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"bellhop/dialog"
	"bellhop/sip/certs"
	"bellhop/sip/guard"
)

// Config is the configuration of a [Proxy].
type Config struct {
	Listen     []Listener     // at least one
	LocalNets  []netip.Prefix // peers that know the real addresses of listeners, not the advertised ones
	PBX        []Addr         // at least one; a new request goes to one that is up, by PBXMode
	PBXMode    PBXMode        // "" is FirstPBX
	PBXSources []netip.Prefix // further source addresses on the PBX side
	UDPMax     int            // bytes of a request beyond which PBX and trunks get it over TCP; 0: never
	KeepAlive  time.Duration  // interval of the OPTIONS to UDP phones behind a NAT; 0: none are sent
	Register   Register       // how calls to phones come back through the proxy; "" is RegisterPath
	AddCID     bool           // add X-CID to INVITEs towards the PBX that have none
	Trunks     []Trunk
	TLS        TLSServer     // how TLS listeners treat old clients
	PBXTLS     *certs.Client // how TLS is used towards the PBX; needed if one has a TLS address

	// StripIdentity removes P-Asserted-Identity, Remote-Party-ID, Diversion, any X-CID
	// that is not ours, X-AUTH-IP and X-AUTH-PORT from requests of peers that are
	// neither PBX nor trunk. FreeSWITCH trusts the last two when a proxy sends them.
	StripIdentity bool

	// Key authenticates Record-Route, Path and Contact tokens and X-CID. It is at least
	// 32 bytes long. It must be the same in every node and after every restart, because
	// another key cuts off every live call and binding.
	Key []byte

	// The proxy sends copies of messages to Observations: each message that it forwards,
	// each final response that it makes itself to a forwarded request, and each request
	// within a dialog and CANCEL that it refuses, with its response, if it knows the
	// sender. It never waits: while Observations is full, it only counts the messages as
	// unobserved. nil: it sends no copies.
	Observations chan<- dialog.Message

	Workers   int              // 0: one per CPU
	Log       *slog.Logger     // nil: slog.Default()
	Net       Network          // nil: the operating system's
	WallClock func() time.Time // the wall clock; nil: time.Now. Tests set it

	// FailoverAfter is how long a PBX may take for the first response to a request before
	// the request is sent to the next one; 0: 2 s.
	FailoverAfter time.Duration

	NameServers []netip.AddrPort // for the names in PBX and Trunk.To; empty: those of the machine

	// DialNameServer opens a socket to a name server; nil: the operating system's. Tests set it.
	DialNameServer func(ctx context.Context, network string, server netip.AddrPort) (net.Conn, error)

	// Guard limits and bans sources that are neither PBX nor trunk. The zero value sets no
	// limit. See [Proxy.ConfigureGuard].
	Guard guard.Settings

	Connections    int // limit of connections from one address that is neither PBX nor trunk; 0: no limit
	AllConnections int // limit of all connections; 0: no limit
}

// A Listener is an address that a [Proxy] listens on.
type Listener struct {
	Addr
	Advertise HostPort     // how peers that are neither the PBX nor in [Config.LocalNets] reach it; empty: Addr
	Side      ListenerSide // "" is BothSides

	Origins      []string       // of the pages whose WebSockets are accepted, in the form of [websocket.ParseOrigin]; none: any
	ProxyFrom    []netip.Prefix // reverse proxies, whose connections begin with a PROXY header that names the client
	Certificates *certs.Store   // of a TLS listener
}

// ReachesPBX reports whether requests to a PBX can leave from l. Transport and address
// family must be the same. Either both l and the PBX are on loopback, or neither is,
// unless l is on all addresses. For a PBX with a name, only the transport must be the
// same.
func (l Listener) ReachesPBX(pbx Addr) bool { return l.Side != EdgeListener && l.reaches(pbx) }

// ReachesEdge reports whether requests to a trunk can leave from l, by the same rules.
func (l Listener) ReachesEdge(trunk Addr) bool { return l.Side != PBXListener && l.reaches(trunk) }

// reaches reports whether requests to an address can leave from l.
func (l Listener) reaches(to Addr) bool {
	own, ip := l.Addr.Addr(), to.Addr()
	return l.Proto == to.Proto && (to.Host != "" || own.Is4() == ip.Is4() && (own.IsUnspecified() || own.IsLoopback() == ip.IsLoopback()))
}

// Receives reports whether requests to an address come to l itself. If l is on all
// addresses of a family, these are loopback and the addresses that this machine has now.
func (l Listener) Receives(to Addr) bool {
	own, ip := l.Addr.Addr().Unmap(), to.Addr().Unmap()
	return l.Proto.sharesPorts(to.Proto) && l.Port() == to.Port() && ip.IsValid() &&
		(own == ip || own.IsUnspecified() && own.Is4() == ip.Is4() && (ip.IsLoopback() || slices.Contains(machineAddrs(), ip)))
}

// ListenerSide is the side whose peers send to a listener, and get requests from it.
type ListenerSide string

const (
	EdgeListener ListenerSide = "edge" // phones and trunks
	PBXListener  ListenerSide = "pbx"  // the PBX, which knows the advertised name, if there is one
	BothSides    ListenerSide = "both"
)

// UnmarshalText accepts the three values of ListenerSide.
func (s *ListenerSide) UnmarshalText(b []byte) error {
	switch v := ListenerSide(b); v {
	case EdgeListener, PBXListener, BothSides:
		*s = v
		return nil
	}
	return fmt.Errorf(`side is "edge", "pbx" or "both", not %q`, b)
}

// PBXMode is how the PBX for a new request is chosen if there are several.
type PBXMode string

const (
	FirstPBX  PBXMode = "first"  // the first that is up
	SpreadPBX PBXMode = "spread" // one that depends on the address-of-record of the sender
)

// UnmarshalText accepts the two values of PBXMode.
func (m *PBXMode) UnmarshalText(b []byte) error {
	switch v := PBXMode(b); v {
	case FirstPBX, SpreadPBX:
		*m = v
		return nil
	}
	return fmt.Errorf(`pbx_mode is "first" or "spread", not %q`, b)
}

// A Trunk is a carrier: edge-side addresses that are never extensions. It is known by the
// addresses of To, by Sources, or by its certificate.
type Trunk struct {
	Name    string
	Sources []netip.Prefix
	To      []Addr // where the PBX's requests to it go, if their URI names one of them
	Secret  string // value of X-Bellhop-Trunk in its requests to the PBX; "": no such field

	TLSNames []string      // names in its certificate by which it is known when it connects
	TLS      *certs.Client // how TLS is used towards it, and the authorities of its certificate; nil: no TLS

	Probe      time.Duration // interval of OPTIONS to its addresses; 0: none are sent
	OwnContact bool          // the proxy replaces the PBX's Contact by its advertised name
	MaxCPS     int           // calls that it gets in any second, at most; 0: no limit

	remotes []*remote      // of To
	rate    *callRate      // of MaxCPS
	refused *atomic.Uint64 // calls of the PBX refused because of MaxCPS
}

// Register is how calls to phones come back through the proxy.
type Register string

const (
	RegisterPath    Register = "path"    // add Path to REGISTER (RFC 3327)
	RegisterContact Register = "contact" // rewrite Contact, for PBXs without Path
	RegisterNone    Register = "none"    // change nothing: the PBX is configured to send calls to the proxy
)

// UnmarshalText accepts the three values of Register.
func (r *Register) UnmarshalText(b []byte) error {
	switch v := Register(b); v {
	case RegisterPath, RegisterContact, RegisterNone:
		*r = v
		return nil
	}
	return fmt.Errorf(`register is "path", "contact" or "none", not %q`, b)
}

// Proto is a transport protocol. Tokens contain its number.
type Proto uint8

const (
	UDP Proto = iota + 1
	TCP
	TLS
	WS
	WSS
)

// defaultTLSPort is the port of a TLS address or SIPS URI that names none (RFC 3261
// §19.1.2).
const defaultTLSPort = 5061

// protoNames are the names of the transports in addresses.
var protoNames = [...]string{UDP: "udp", TCP: "tcp", TLS: "tls", WS: "ws", WSS: "wss"}

func (p Proto) String() string {
	if p < UDP || p > WSS {
		return "unknown"
	}
	return protoNames[p]
}

// stream reports whether the transport has connections.
func (p Proto) stream() bool { return p != UDP }

// webSocket reports whether messages are carried in WebSocket frames.
func (p Proto) webSocket() bool { return p == WS || p == WSS }

// PairsWith reports whether two transports may share an address, because the first bytes of
// a connection tell them apart.
func (p Proto) PairsWith(other Proto) bool {
	a, b := min(p, other), max(p, other)
	return a == TCP && b == WS || a == TLS && b == WSS
}

// sharesPorts reports whether two transports have the same ports: those of UDP, or those of
// TCP.
func (p Proto) sharesPorts(other Proto) bool { return p.stream() == other.stream() }

// secure reports whether the transport is encrypted by TLS.
func (p Proto) secure() bool { return p == TLS || p == WSS }

// defaultPort returns the port of an address that names none.
func (p Proto) defaultPort() uint16 {
	switch p {
	case TLS:
		return defaultTLSPort
	case WS:
		return 80
	case WSS:
		return 443
	}
	return defaultPort
}

// viaName returns the transport's name in a Via header field.
func (p Proto) viaName() string {
	return [...]string{UDP: "UDP", TCP: "TCP", TLS: "TLS", WS: "WS", WSS: "WSS"}[p]
}

// uriName returns the value of the transport parameter of a URI. WebSocket has one for
// both, with and without TLS (RFC 7118 §4.2).
func (p Proto) uriName() string {
	if p == WSS {
		return "ws"
	}
	return p.String()
}

// An Addr is a transport and a socket address, written udp://192.0.2.1:5060. The address
// of a PBX or trunk may have a host name, in Host, instead of an IP address. In such an
// Addr of the configuration, AddrPort has no IP address, and its port is 0 if the DNS
// gives the port. Addrs that were found in the DNS have Host and a whole AddrPort.
type Addr struct {
	Proto Proto
	netip.AddrPort
	Host string // in lower case
}

// String returns the form that UnmarshalText reads.
func (a Addr) String() string {
	switch {
	case a.Host == "" || a.Addr().IsValid():
		return a.Proto.String() + "://" + a.AddrPort.String()
	case a.Port() == 0:
		return a.Proto.String() + "://" + a.Host
	}
	return a.Proto.String() + "://" + a.Host + ":" + strconv.Itoa(int(a.Port()))
}

// UnmarshalText reads proto://address:port or proto://name:port. The port may be left out.
// For an address it is then 5060, 5061 of tls, 80 of ws, or 443 of wss.
func (a *Addr) UnmarshalText(b []byte) error {
	s := string(b)
	*a = Addr{}
	scheme, rest, ok := strings.Cut(s, "://")
	if !ok {
		return fmt.Errorf("address %q has no transport: write udp://%s, tcp://%s or tls://%s", s, s, s, s)
	}
	switch scheme {
	case "udp":
		a.Proto = UDP
	case "tcp":
		a.Proto = TCP
	case "tls":
		a.Proto = TLS
	case "ws":
		a.Proto = WS
	case "wss":
		a.Proto = WSS
	default:
		return fmt.Errorf("address %q: unknown transport %q: use udp://, tcp://, tls://, ws:// or wss://", s, scheme)
	}
	if ap, err := netip.ParseAddrPort(rest); err == nil {
		a.AddrPort = ap
		return nil
	}
	if ip, err := netip.ParseAddr(strings.Trim(rest, "[]")); err == nil {
		a.AddrPort = netip.AddrPortFrom(ip, a.Proto.defaultPort())
		return nil
	}
	return a.readName(s, rest)
}

// readName reads name:port or name. text is the whole address.
func (a *Addr) readName(text, rest string) error {
	name, port, hasPort := strings.Cut(rest, ":")
	n, err := uint64(0), error(nil)
	if hasPort {
		if h, p, splitErr := net.SplitHostPort(rest); splitErr == nil {
			name, port = h, p
		}
		n, err = strconv.ParseUint(port, 10, 16)
	}
	_, notName := netip.ParseAddr(name)
	name = strings.ToLower(strings.TrimSuffix(name, "."))
	numeric := name != "" && strings.Trim(name, "0123456789.") == ""
	switch {
	case notName == nil && hasPort, isHostName(name) && !numeric && hasPort && (err != nil || n == 0):
		return fmt.Errorf("address %q: %q is not a port: write 1 to 65535", text, port)
	case !isHostName(name) || numeric:
		return fmt.Errorf("address %q: %q is neither an IP address nor a host name: write %s://192.0.2.1:5060 or %s://pbx.example.com", text, rest, a.Proto, a.Proto)
	}
	a.Host, a.AddrPort = name, netip.AddrPortFrom(netip.Addr{}, uint16(n))
	return nil
}

// A HostPort is a host name or an IP address, with an optional port.
type HostPort struct {
	Host string
	Port uint16 // 0: the listener's own
}

// Addr returns the IP address that h names; ok is false if h is a host name or empty.
func (h HostPort) Addr() (ip netip.Addr, ok bool) {
	ip, err := netip.ParseAddr(strings.Trim(h.Host, "[]"))
	return ip, err == nil
}

// String returns the form that UnmarshalText reads.
func (h HostPort) String() string {
	if h.Port == 0 {
		return h.Host
	}
	return net.JoinHostPort(strings.Trim(h.Host, "[]"), strconv.Itoa(int(h.Port)))
}

// UnmarshalText reads host[:port]. An IPv6 address with a port is bracketed.
func (h *HostPort) UnmarshalText(b []byte) error {
	s := string(b)
	if s == "" {
		*h = HostPort{}
		return nil
	}
	if ip, err := netip.ParseAddr(strings.Trim(s, "[]")); err == nil {
		*h = HostPort{Host: uriHost(ip)}
		return nil
	}
	name, port, found := strings.Cut(s, ":")
	if ap, err := netip.ParseAddrPort(s); err == nil {
		*h = HostPort{Host: uriHost(ap.Addr()), Port: ap.Port()}
		return nil
	}
	if !isHostName(name) {
		return fmt.Errorf("advertise %q is not host[:port]", s)
	}
	h.Host, h.Port = name, 0
	if found {
		n, err := strconv.ParseUint(port, 10, 16)
		if err != nil || n == 0 {
			return fmt.Errorf("advertise %q: %q is not a port: write 1 to 65535", s, port)
		}
		h.Port = uint16(n)
	}
	return nil
}

// uriHost returns an address as the host part of a URI: IPv6 in brackets.
func uriHost(ip netip.Addr) string {
	if ip.Is4() {
		return ip.String()
	}
	return "[" + ip.String() + "]"
}

// isHostName reports whether s can be a host name: letters, digits, "-" and ".".
func isHostName(s string) bool {
	if s == "" || len(s) > 253 {
		return false
	}
	for _, c := range []byte(s) {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '-', c == '.':
		default:
			return false
		}
	}
	return true
}

// Network opens sockets. Tests use an implementation in memory.
type Network interface {
	ListenPacket(addr netip.AddrPort) (PacketConn, error)
	Listen(addr netip.AddrPort) (net.Listener, error)
	Dial(local netip.Addr, addr netip.AddrPort) (net.Conn, error)
}

// PacketConn is the part of *net.UDPConn that the proxy uses.
type PacketConn interface {
	ReadFromUDPAddrPort(b []byte) (int, netip.AddrPort, error)
	WriteToUDPAddrPort(b []byte, to netip.AddrPort) (int, error)
	LocalAddr() net.Addr
	Close() error
}
