package dialog

import (
	"iter"
	"net/url"
	"strings"
)

// fields ranges over the header fields of a message in order, compact names
// written out (RFC 3261 §7.3.3) and folded lines joined (§7.3.1). Names keep
// the case they came in. A line without a colon is passed over.
func fields(head string) iter.Seq2[string, string] {
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
				name = expand(name)
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

// expand writes a compact header name out.
func expand(name string) string {
	switch name[0] | 0x20 {
	case 'c':
		return "Content-Type"
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

// header returns the first value of the field called name, or "".
func header(head, name string) string {
	for n, v := range fields(head) {
		if is(n, name) {
			return v
		}
	}
	return ""
}

// is compares header names, which have no case.
func is(a, b string) bool { return len(a) == len(b) && strings.EqualFold(a, b) }

// list ranges over the elements of a comma-separated value. Commas in quoted
// strings and in angle brackets do not separate.
func list(value string) iter.Seq[string] {
	return func(yield func(string) bool) {
		for value != "" {
			n := span(value, ",")
			if e := strings.TrimSpace(value[:n]); e != "" && !yield(e) {
				return
			}
			value = value[min(n+1, len(value)):]
		}
	}
}

// span returns the length of s up to the first of the stop bytes outside of
// quoted strings and angle brackets.
func span(s, stop string) int {
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

// nameAddr takes a name-addr or addr-spec apart (RFC 3261 §20.10). The
// parameters are the header field's, each with its leading semicolon; without
// angle brackets every parameter is the header field's.
func nameAddr(value string) (display, uri, params string) {
	value = strings.TrimSpace(value)
	if strings.HasPrefix(value, `"`) {
		n := closing(value)
		display, value = unquote(value[1:n]), value[min(n+1, len(value)):]
	}
	lt := strings.IndexByte(value, '<')
	if lt < 0 {
		n := strings.IndexByte(value, ';')
		if n < 0 {
			n = len(value)
		}
		return display, strings.TrimSpace(value[:n]), value[n:]
	}
	if display == "" {
		display = strings.TrimSpace(value[:lt])
	}
	uri, params, _ = strings.Cut(value[lt+1:], ">")
	return display, strings.TrimSpace(uri), strings.TrimSpace(params)
}

// closing returns where the quoted string that s begins with ends.
func closing(s string) int {
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

func unquote(s string) string {
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

// param returns the value of a parameter in ";a=b;c", and whether it is there.
// Names have no case; a quoted value is unquoted.
func param(params, name string) (string, bool) {
	for params != "" {
		n := span(params, ";")
		k, v, _ := strings.Cut(params[:n], "=")
		if strings.EqualFold(strings.TrimSpace(k), name) {
			v = strings.TrimSpace(v)
			if strings.HasPrefix(v, `"`) {
				v = unquote(v[1:closing(v)])
			}
			return v, true
		}
		params = params[min(n+1, len(params)):]
	}
	return "", false
}

// A uri is what the tracker reads of a SIP, SIPS or tel URI.
type uri struct {
	user   string // without escapes (RFC 3261 §19.1.4), password and telephone-subscriber parameters
	host   string // without port; "" in a tel URI
	params string // each with its leading semicolon
}

func parseURI(s string) uri {
	scheme, rest, ok := strings.Cut(s, ":")
	if !ok {
		return uri{}
	}
	if strings.EqualFold(scheme, "tel") {
		user, params, _ := strings.Cut(rest, ";")
		return uri{user: unescape(user), params: params}
	}
	rest, _, _ = strings.Cut(rest, "?")
	var u uri
	if i := strings.LastIndexByte(rest, '@'); i >= 0 {
		u.user, rest = rest[:i], rest[i+1:]
		if user, params, ok := strings.Cut(u.user, ";"); ok {
			u.user, u.params = user, params
		}
		u.user, _, _ = strings.Cut(u.user, ":")
		u.user = unescape(u.user)
	}
	host, params, ok := strings.Cut(rest, ";")
	if ok {
		u.params = params
	}
	if i := strings.IndexByte(host, ']'); i >= 0 {
		host = host[:i+1]
	} else if i := strings.IndexByte(host, ':'); i >= 0 {
		host = host[:i]
	}
	u.host = host
	return u
}

// unescape takes the escapes out of a part of a URI; what is none stays.
func unescape(s string) string {
	if strings.IndexByte(s, '%') >= 0 {
		if plain, err := url.PathUnescape(s); err == nil {
			return plain
		}
	}
	return s
}
