package resolve

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/miekg/dns"
)

// Transport is a transport protocol that a request can be sent over. WebSocket is not
// one of them, because such connections are never opened by us.
type Transport uint8

const (
	UDP Transport = iota + 1
	TCP
	TLS
)

// transports are all transports. Without NAPTR records, a server that has several is
// reached over the first (RFC 3263 §4.1 leaves the choice to the client).
var transports = []Transport{UDP, TCP, TLS}

func (t Transport) String() string {
	switch t {
	case UDP:
		return "udp"
	case TCP:
		return "tcp"
	case TLS:
		return "tls"
	}
	return "unknown"
}

// srvPrefix returns the labels in front of the domain in the name of an SRV record.
func (t Transport) srvPrefix() string {
	switch t {
	case TCP:
		return "_sip._tcp."
	case TLS:
		return "_sips._tcp."
	}
	return "_sip._udp."
}

// defaultPort returns the port if neither the URI nor an SRV record names one.
func (t Transport) defaultPort() uint16 {
	if t == TLS {
		return 5061
	}
	return 5060
}

// Families are address families.
type Families struct{ IPv4, IPv6 bool }

// include reports whether an address is of one of the families.
func (f Families) include(ip netip.Addr) bool {
	if ip.Is4() {
		return f.IPv4
	}
	return f.IPv6
}

// A Target is what a SIP URI or the configuration says about the next hop.
type Target struct {
	Host      string    // a name, or an address; an IPv6 address may be in brackets
	Port      uint16    // 0: not named
	Transport Transport // 0: not named
	Secure    bool      // the URI is a SIPS URI, so that only TLS is used
}

// String returns t in the form of the configuration.
func (t Target) String() string {
	s := t.Host
	if ip, ok := t.numeric(); ok && ip.Is6() {
		s = "[" + ip.String() + "]"
	}
	if t.Port != 0 {
		s = fmt.Sprintf("%s:%d", s, t.Port)
	}
	switch {
	case t.Secure:
		return "sips:" + s
	case t.Transport == 0:
		return "sip:" + s
	}
	return t.Transport.String() + "://" + s
}

// numeric returns the host of t if it is an address.
func (t Target) numeric() (netip.Addr, bool) {
	ip, err := netip.ParseAddr(strings.Trim(t.Host, "[]"))
	return ip.Unmap(), err == nil
}

// transport returns the transport that t names, or the default for its URI. fixed reports
// that no NAPTR record may choose another (RFC 3263 §4.1).
func (t Target) transport() (tr Transport, fixed bool) {
	_, numeric := t.numeric()
	fixed = t.Transport != 0 || t.Port != 0 || numeric
	switch {
	case t.Secure:
		return TLS, fixed
	case t.Transport != 0:
		return t.Transport, true
	}
	return UDP, fixed
}

// A key is what a lookup depends on. Targets that differ only in their port have one key.
type key struct {
	host      string    // in lower case, without the final dot
	transport Transport // 0: chosen by NAPTR or SRV records
	secure    bool
	hasPort   bool // only A and AAAA records are looked up
}

// key returns the key of t. It returns an error if the host cannot be a name in the DNS.
func (t Target) key() (key, error) {
	host := strings.TrimSuffix(strings.ToLower(t.Host), ".")
	if !isName(host) {
		return key{}, fmt.Errorf("lookup %q: not a host name: use letters, digits, - and . only", t.Host)
	}
	k := key{host: host, secure: t.Secure, hasPort: t.Port != 0}
	if tr, fixed := t.transport(); fixed {
		k.transport = tr
	}
	return k, nil
}

// isName reports whether s is a name of at most 253 characters whose labels consist of 1
// to 63 letters, digits, hyphens and underscores. Service names have underscores.
func isName(s string) bool {
	if len(s) > 253 {
		return false
	}
	for label := range strings.SplitSeq(s, ".") {
		if label == "" || len(label) > 63 {
			return false
		}
		for _, c := range []byte(label) {
			switch {
			case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '-', c == '_':
			default:
				return false
			}
		}
	}
	return true
}

// recordName returns a name in a record as lower-case text without the final dot, and
// false if it is the root or no valid name.
func recordName(s string) (string, bool) {
	s = strings.TrimSuffix(strings.ToLower(dns.Fqdn(s)), ".")
	return s, isName(s)
}
