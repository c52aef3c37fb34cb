package dialog

import (
	"iter"
	"net/netip"
	"net/url"
	"strings"
)

// headerFields ranges over the header fields of a message in order, with compact names
// expanded (RFC 3261 §7.3.3) and folded lines joined (§7.3.1). Names keep their case. A
// line without a colon is skipped.
func headerFields(head string) iter.Seq2[string, string] {
	return func(yield func(name, value string) bool) {
		_, rest, _ := strings.Cut(head, "\n") // the start line
		for rest != "" {
			line, next, _ := strings.Cut(rest, "\n")
			folded := false
			for next != "" && (next[0] == ' ' || next[0] == '\t') {
				folded = true
				more, after, _ := strings.Cut(next, "\n")
				line, next = rest[:len(line)+1+len(more)], after
			}
			rest = next
			name, value, ok := strings.Cut(line, ":")
			if !ok {
				continue
			}
			name = strings.TrimRight(name, " \t")
			if len(name) == 1 {
				name = expandName(name)
			}
			if folded {
				value = strings.Join(strings.Fields(value), " ")
			}
			if !yield(name, strings.TrimSpace(value)) {
				return
			}
		}
	}
}

// expandName returns the long form of a compact header name.
func expandName(name string) string {
	switch name[0] | 0x20 {
	case 'c':
		return "Content-Type"
	case 'e':
		return "Content-Encoding"
	case 'k':
		return "Supported"
	case 'f':
		return "From"
	case 'i':
		return "Call-ID"
	case 'm':
		return "Contact"
	case 'o':
		return "Event"
	case 'r':
		return "Refer-To"
	case 'b':
		return "Referred-By"
	case 's':
		return "Subject"
	case 't':
		return "To"
	case 'v':
		return "Via"
	case 'x':
		return "Session-Expires"
	}
	return name
}

// headerValue returns the first value of the header field called name, or "".
func headerValue(head, name string) string {
	for n, v := range headerFields(head) {
		if sameHeader(n, name) {
			return v
		}
	}
	return ""
}

// sameHeader reports whether two header names are equal, ignoring case.
func sameHeader(a, b string) bool { return len(a) == len(b) && strings.EqualFold(a, b) }

// listValues ranges over the elements of a comma-separated value. Commas in quoted strings
// and in angle brackets do not separate.
func listValues(value string) iter.Seq[string] {
	return func(yield func(string) bool) {
		for value != "" {
			n := spanUntil(value, ",")
			if e := strings.TrimSpace(value[:n]); e != "" && !yield(e) {
				return
			}
			value = value[min(n+1, len(value)):]
		}
	}
}

// firstOf returns the first element of a comma-separated value, "" if it has none.
func firstOf(value string) string {
	for v := range listValues(value) {
		return v
	}
	return ""
}

// spanUntil returns the length of s up to the first of the stop bytes outside of quoted
// strings and angle brackets.
func spanUntil(s, stop string) int {
	quoted, angled := false, false
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case quoted && c == '\\':
			i++
		case c == '"' && !angled:
			quoted = !quoted
		case quoted:
		case c == '<':
			angled = true
		case c == '>':
			angled = false
		case !angled && strings.IndexByte(stop, c) >= 0:
			return i
		}
	}
	return len(s)
}

// parseNameAddr splits a name-addr or addr-spec (RFC 3261 §20.10). The parameters are
// those of the header field, each with its leading semicolon; without angle brackets every
// parameter belongs to the header field.
func parseNameAddr(value string) (display, uri, params string) {
	value = strings.TrimSpace(value)
	if strings.HasPrefix(value, `"`) {
		n := closingQuote(value)
		display, value = unquoteString(value[1:n]), value[min(n+1, len(value)):]
	}
	lt, n := strings.IndexByte(value, '<'), strings.IndexByte(value, ';')
	if n < 0 {
		n = len(value)
	}
	if lt < 0 || lt > n { // a bracket after the semicolon belongs to a parameter, as in +sip.instance="<urn:…>"
		return display, strings.TrimSpace(value[:n]), value[n:]
	}
	if display == "" {
		display = strings.TrimSpace(value[:lt])
	}
	uri, params, _ = strings.Cut(value[lt+1:], ">")
	return display, strings.TrimSpace(uri), strings.TrimSpace(params)
}

// closingQuote returns the index of the quote that ends the quoted string at the start of
// s.
func closingQuote(s string) int {
	for i := 1; i < len(s); i++ {
		switch s[i] {
		case '\\':
			i++
		case '"':
			return i
		}
	}
	return len(s)
}

func unquoteString(s string) string {
	if strings.IndexByte(s, '\\') < 0 {
		return s
	}
	b := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+1 < len(s) {
			i++
		}
		b = append(b, s[i])
	}
	return string(b)
}

// paramValue returns the value of a parameter in ";a=b;c", and whether it is present. Names
// are compared without case; a quoted value is unquoted.
func paramValue(params, name string) (string, bool) {
	for params != "" {
		n := spanUntil(params, ";")
		k, v, _ := strings.Cut(params[:n], "=")
		if strings.EqualFold(strings.TrimSpace(k), name) {
			v = strings.TrimSpace(v)
			if strings.HasPrefix(v, `"`) {
				v = unquoteString(v[1:closingQuote(v)])
			}
			return v, true
		}
		params = params[min(n+1, len(params)):]
	}
	return "", false
}

// A uri is the part of a SIP, SIPS or tel URI that the tracker uses. Two URIs of the same
// user at the same host have equal user and host (RFC 3261 §19.1.4).
type uri struct {
	user   string // without escapes, password and telephone-subscriber parameters; a number without visual separators
	host   string // in lower case, without port; "" in a tel URI
	params string // without the leading semicolon
}

func parseURI(s string) uri {
	p := splitURI(s)
	u := uri{user: unescapeURI(p.user), host: lowerHost(p.host), params: p.params}
	if p.params == "" {
		u.params = p.userParams
	}
	if p.isTel() {
		u.user = plainNumber(u.user)
	}
	return u
}

// rawUser returns the user of a URI as written, "" if parseURI returns the same.
func rawUser(s string) string {
	if p := splitURI(s); strings.IndexByte(p.user, '%') >= 0 || p.isTel() {
		if p.user != parseURI(s).user {
			return p.user
		}
	}
	return ""
}

// uriParts are the parts of a URI as written, without the separators between them.
type uriParts struct {
	scheme     string
	user       string // without password; the number of a tel URI
	userParams string // after the user's first semicolon
	host       string // an IPv6 address in brackets; without the trailing dot of a DNS name
	port       string
	params     string
	headers    string
}

// splitURI splits a SIP, SIPS or tel URI (RFC 3261 §25.1, RFC 3966 §3). A user may
// contain a question mark and a semicolon, a host may not: so the user ends at the last @
// before the parameters and headers.
func splitURI(s string) (p uriParts) {
	scheme, rest, ok := strings.Cut(s, ":")
	if !ok {
		return p
	}
	p.scheme = strings.TrimSpace(scheme)
	if strings.EqualFold(p.scheme, "tel") {
		rest, p.headers, _ = strings.Cut(rest, "?")
		p.user, p.params, _ = strings.Cut(rest, ";")
		return p
	}
	if at := strings.IndexByte(rest, '@'); at >= 0 {
		end := len(rest)
		if n := strings.IndexAny(rest[at:], ";?"); n >= 0 {
			end = at + n
		}
		at = strings.LastIndexByte(rest[:end], '@')
		p.user, p.userParams, _ = strings.Cut(rest[:at], ";")
		p.user, _, _ = strings.Cut(p.user, ":")
		rest = rest[at+1:]
	}
	rest, p.headers, _ = strings.Cut(rest, "?")
	p.host, p.params, _ = strings.Cut(rest, ";")
	if i := strings.IndexByte(p.host, ']'); i >= 0 {
		p.host, p.port = p.host[:i+1], strings.TrimPrefix(p.host[i+1:], ":")
	} else {
		p.host, p.port, _ = strings.Cut(p.host, ":")
	}
	p.host = strings.TrimSuffix(p.host, ".")
	return p
}

// isTel reports whether the user is a telephone-subscriber (RFC 3261 §19.1.6).
func (p *uriParts) isTel() bool {
	if strings.EqualFold(p.scheme, "tel") {
		return true
	}
	user, _ := paramValue(p.params, "user")
	return strings.EqualFold(user, "phone")
}

// lowerHost returns a host in lower case, for comparison (RFC 3261 §19.1.4), and an IPv6
// address in its canonical form (RFC 5952).
func lowerHost(host string) string {
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
	for i := range len(host) {
		if c := host[i]; c >= 'A' && c <= 'Z' {
			return strings.ToLower(host)
		}
	}
	return host
}

// plainNumber returns a telephone number without visual separators (RFC 3966 §5.1.1). Text
// that is no number is returned unchanged.
func plainNumber(s string) string {
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

// unescapeURI decodes the escapes in a part of a URI. Invalid escapes are kept.
func unescapeURI(s string) string {
	if strings.IndexByte(s, '%') >= 0 {
		if plain, err := url.PathUnescape(s); err == nil {
			return plain
		}
	}
	return s
}
