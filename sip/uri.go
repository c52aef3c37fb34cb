package sip

import (
	"cmp"
	"net/netip"
	"strconv"
	"strings"

	"bellhop/dialog/siptext"
)

// parseURI reads a URI of the schemes sip, sips and tel. It refuses what the next element
// could read differently: header fields in a URI, of which it could make a Route (RFC 3261
// §19.1.5), a second @ before the host, characters that have no place in a user or host,
// and a colon without a valid port. Port 0 is not valid, because it is reserved (RFC 6335
// §6).
func parseURI(s string, u *siptext.URI) *fault {
	scheme, rest, found := strings.Cut(s, ":")
	if !found || !siptext.IsToken(scheme) || strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r == '\x7f' || r == '<' || r == '>' || r == '"' }) {
		return badURI // such a character would end a Request-URI or a URI in brackets
	}
	switch *u = siptext.ParseURI(s); u.Scheme {
	case "tel":
		return nil
	case "sip", "sips":
	default:
		return badScheme
	}
	user, host, found := strings.Cut(rest, "@")
	if !found {
		user, host = "", rest
	}
	if end := strings.IndexAny(host, ";?"); end >= 0 {
		host = host[:end]
	}
	_, port, hasPort := strings.Cut(host[strings.LastIndexByte(host, ']')+1:], ":")
	if u.Headers != "" || strings.ContainsAny(user, "[]") || strings.Contains(host, "@") || !isURIHost(u.Host) || port != u.Port || hasPort && uriPort(u) == 0 {
		return badURI
	}
	return nil
}

// isURIHost reports whether h has no characters that separate a host from other parts of a
// URI.
func isURIHost(h string) bool {
	if strings.HasPrefix(h, "[") && strings.HasSuffix(h, "]") {
		h = h[1 : len(h)-1]
	}
	return h != "" && !strings.ContainsAny(h, "[]?&=@")
}

// uriPort returns the port of a URI, or 0 if the URI names no valid port.
func uriPort(u *siptext.URI) int {
	if u.Port == "" { // ParseUint would allocate its error
		return 0
	}
	port, err := strconv.ParseUint(u.Port, 10, 16)
	if err != nil {
		return 0
	}
	return int(port)
}

// uriAddr returns the address that a URI names by maddr or host, port and transport. It
// returns false for host names and unknown transports.
func uriAddr(u *siptext.URI) (Addr, bool) {
	ip, err := netip.ParseAddr(strings.Trim(targetHost(u), "[]"))
	proto := uriProto(u)
	if err != nil || proto == 0 {
		return Addr{}, false
	}
	port := cmp.Or(uint16(uriPort(u)), proto.defaultPort())
	return Addr{Proto: proto, AddrPort: netip.AddrPortFrom(ip.Unmap(), port)}, true // ::ffff:0.0.0.0 is the host 0.0.0.0
}

// uriProto returns the transport that a SIP or SIPS URI names, or 0 if it is unknown. SIPS
// is TLS whatever the transport parameter says.
func uriProto(u *siptext.URI) Proto {
	t, _ := u.Param("transport")
	switch {
	case u.Scheme == "sips", u.Scheme == "sip" && strings.EqualFold(t, "tls"):
		return TLS
	case u.Scheme != "sip":
		return 0
	case strings.EqualFold(t, "tcp"):
		return TCP
	case t == "" || strings.EqualFold(t, "udp"):
		return UDP
	}
	return 0
}

// targetHost returns the host to which a URI leads: its maddr, or else its host.
func targetHost(u *siptext.URI) string {
	maddr, _ := u.Param("maddr")
	return cmp.Or(maddr, u.Host)
}

// hasParam reports whether a URI has a parameter.
func hasParam(u *siptext.URI, name string) bool {
	_, ok := u.Param(name)
	return ok
}

// stripMaddr returns uri without its maddr, its transport and, unless it is 5060, its
// port (RFC 3261 §16.4). The maddr of uri must name us. port is the port of uri.
func stripMaddr(uri string, port int) string {
	at := strings.LastIndexByte(uri, '@') + 1 // the user part may contain semicolons
	parts := strings.Split(uri[at:], ";")
	keep := parts[:1]
	if port != defaultPort {
		keep[0] = strings.TrimSuffix(keep[0], ":"+strconv.Itoa(port))
	}
	for _, p := range parts[1:] {
		name, _, _ := strings.Cut(p, "=")
		if !strings.EqualFold(name, "maddr") && !strings.EqualFold(name, "transport") {
			keep = append(keep, p)
		}
	}
	return uri[:at] + strings.Join(keep, ";")
}

// readURI parses the URI of the name-addr at the start of v into u, and reports whether
// it is valid.
func (m *message) readURI(v span, u *siptext.URI) bool {
	uri, _, ok := splitNameAddr(m.b, v)
	return ok && parseURI(string(m.text(uri)), u) == nil
}

// contactAddr returns the address in the first Contact of m.
func (m *message) contactAddr() (a Addr, ok bool) {
	f := m.firstField(hContact)
	if f == nil {
		return a, false
	}
	var u siptext.URI
	if !m.readURI(f.value, &u) {
		return a, false
	}
	return uriAddr(&u)
}
