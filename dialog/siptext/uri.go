package siptext

import (
	"net/netip"
	"net/url"
	"strings"
)

// A URI is the parts of a SIP, SIPS or tel URI as written, without the separators between
// them.
type URI struct {
	Scheme     string // in lower case
	User       string // without password; the number of a tel URI
	UserParams string // after the user's first semicolon; see [Param]
	Host       string // an IPv6 address in brackets; without the final dot of a DNS name
	Port       string
	Params     string // after the first semicolon; see [URI.Param]
	Headers    string // after the question mark
}

// ParseURI splits a SIP, SIPS or tel URI (RFC 3261 §25.1, RFC 3966 §3). Text without a
// scheme yields the zero URI.
//
// A user may contain a question mark and a semicolon, but a host may not. So the user
// ends at the last @ before the first semicolon or question mark that follows the first
// @. Slashes after the scheme, as in sip://101@pbx.example, are not part of the user or
// host.
func ParseURI(s string) (u URI) {
	scheme, rest, ok := strings.Cut(s, ":")
	if !ok {
		return u
	}
	u.Scheme = lower(TrimSpace(scheme))
	if u.Scheme == "tel" {
		rest, u.Headers, _ = strings.Cut(rest, "?")
		u.User, u.Params, _ = strings.Cut(rest, ";")
		return u
	}
	rest = strings.TrimPrefix(rest, "//")
	if at := strings.IndexByte(rest, '@'); at >= 0 {
		end := len(rest)
		if n := strings.IndexAny(rest[at:], ";?"); n >= 0 {
			end = at + n
		}
		at = strings.LastIndexByte(rest[:end], '@')
		user, _, _ := strings.Cut(rest[:at], ":")
		u.User, u.UserParams, _ = strings.Cut(user, ";")
		rest = rest[at+1:]
	}
	rest, u.Headers, _ = strings.Cut(rest, "?")
	u.Host, u.Params, _ = strings.Cut(rest, ";")
	if i := strings.IndexByte(u.Host, ']'); i >= 0 {
		u.Host, u.Port = u.Host[:i+1], strings.TrimPrefix(u.Host[i+1:], ":")
	} else {
		u.Host, u.Port, _ = strings.Cut(u.Host, ":")
	}
	u.Host = strings.TrimSuffix(u.Host, ".")
	return u
}

// Param returns the value of a URI parameter, and whether it is present. Unlike the
// parameters of a header field, those of a URI have no quoted strings, and only a semicolon
// ends one.
func (u *URI) Param(name string) (value string, ok bool) {
	for params := u.Params; params != ""; {
		var param string
		param, params, _ = strings.Cut(params, ";")
		if n, v, _ := strings.Cut(param, "="); SameName(TrimSpace(n), name) {
			return TrimSpace(v), true
		}
	}
	return "", false
}

// IsTel reports whether the user is a telephone number: a telephone-subscriber (RFC 3261
// §19.1.6).
func (u *URI) IsTel() bool {
	if u.Scheme == "tel" {
		return true
	}
	user, _ := u.Param("user")
	return EqualFold(user, "phone")
}

// DefaultPort returns the port that applies if the URI has none (RFC 3261 §19.1.2, RFC
// 7118 §7).
func (u *URI) DefaultPort() string {
	switch u.Transport() {
	case "wss":
		return "443"
	case "ws":
		return "80"
	case "tls":
		return "5061"
	}
	return "5060"
}

// Transport returns the transport of a URI in lower case: udp if the URI names none. For
// a SIPS URI it returns wss if the URI names ws or wss, and otherwise tls.
func (u *URI) Transport() string {
	transport, _ := u.Param("transport")
	transport = lower(transport)
	secure := u.Scheme == "sips"
	switch {
	case secure && transport == "ws":
		return "wss"
	case secure && transport != "wss":
		return "tls"
	case transport == "":
		return "udp"
	}
	return transport
}

// LowerHost returns a host in the form in which hosts are compared: in lower case (RFC
// 3261 §19.1.4), and an IPv6 address in its canonical form (RFC 5952).
func LowerHost(host string) string {
	if len(host) > 2 && host[0] == '[' && host[len(host)-1] == ']' {
		if a, err := netip.ParseAddr(host[1 : len(host)-1]); err == nil {
			var buf [64]byte
			canonical := append(a.AppendTo(append(buf[:0], '[')), ']')
			if string(canonical) == host {
				return host
			}
			return string(canonical)
		}
	}
	return lower(host)
}

// PlainNumber returns a telephone number without visual separators (RFC 3966 §5.1.1). Text
// that is no number is returned unchanged.
func PlainNumber(s string) string {
	const separators = "-.()"
	if !strings.ContainsAny(s, separators) {
		return s
	}
	b := make([]byte, 0, len(s))
	digits := false
	for i := range len(s) {
		switch c := s[i]; {
		case strings.IndexByte(separators, c) >= 0:
			continue
		case c >= '0' && c <= '9':
			digits = true
		case c == '+' && i == 0, c == '*', c == '#', c|0x20 >= 'a' && c|0x20 <= 'f':
		default:
			return s
		}
		b = append(b, s[i])
	}
	if !digits {
		return s
	}
	return string(b)
}

// Unescape decodes the escapes in a part of a URI. Invalid escapes are kept.
func Unescape(s string) string {
	if strings.IndexByte(s, '%') >= 0 {
		if plain, err := url.PathUnescape(s); err == nil {
			return plain
		}
	}
	return s
}
