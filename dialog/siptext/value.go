package siptext

import (
	"iter"
	"strconv"
	"strings"
)

// List ranges over the elements of a comma-separated value, without empty ones. Commas in
// quoted strings and in angle brackets do not separate.
func List(value string) iter.Seq[string] {
	return func(yield func(string) bool) {
		for value != "" {
			n := elementLength(value, true)
			if e := TrimSpace(value[:n]); e != "" && !yield(e) {
				return
			}
			value = value[min(n+1, len(value)):]
		}
	}
}

// First returns the first element of a comma-separated value, or "".
func First(value string) string {
	for v := range List(value) {
		return v
	}
	return ""
}

// elementLength returns the length of s up to the first comma outside of quoted strings and,
// with brackets, outside of angle brackets. A quoted string or bracket that is not closed
// extends to the end.
func elementLength(s string, brackets bool) int {
	for i := 0; i < len(s); i++ {
		n := 0
		switch c := s[i]; {
		case c == ',':
			return i
		case c == '"':
			n = closingQuote(s[i:])
		case c == '<' && brackets:
			n = strings.IndexByte(s[i:], '>')
		}
		if n < 0 {
			return len(s)
		}
		i += n
	}
	return len(s)
}

// A NameAddr is a name-addr or addr-spec with its parameters (RFC 3261 §20.10).
type NameAddr struct {
	Display   string // without quotes
	URI       string // as written
	Params    string // of the header field, after the first semicolon; see [Param]
	Malformed bool   // a quote or bracket is not closed, or the value is empty
}

// ParseNameAddr splits one name-addr or addr-spec. Without angle brackets all parameters
// belong to the header field. The brackets of a parameter, as in +sip.instance="<urn:…>",
// are not those of the URI.
func ParseNameAddr(value string) (a NameAddr) {
	value = TrimSpace(value)
	start := 0 // of an addr-spec: after a quoted string
	for i := 0; i < len(value); i++ {
		switch value[i] {
		case '"':
			n := closingQuote(value[i:])
			if n < 0 {
				if i == 0 {
					a.Display = unescapeQuoted(value[1:])
				}
				a.Malformed = true
				return a
			}
			if i == 0 {
				a.Display, start = unescapeQuoted(value[1:n]), n+1
			}
			i += n
		case '<':
			if start == 0 {
				a.Display = TrimSpace(value[:i])
			}
			uri, params, closed := strings.Cut(value[i+1:], ">")
			a.URI, a.Malformed = TrimSpace(uri), !closed
			_, a.Params, _ = strings.Cut(params, ";")
			return a
		case ';':
			a.URI, a.Params = TrimSpace(value[start:i]), value[i+1:]
			return a
		}
	}
	a.URI = TrimSpace(value[start:])
	a.Malformed = value == ""
	return a
}

// Param returns the value of the first parameter called name in "a=b;c", and whether it
// is present. White space around names and values is ignored, and names are compared
// without case. A quoted string is returned without quotes; any other value ends at white
// space, a comma or a semicolon. The parameters end at a comma, and at a quote that is
// not closed.
func Param(params, name string) (value string, ok bool) {
	for {
		n := 0
		for n < len(params) && params[n] != ';' && params[n] != ',' && params[n] != '=' {
			n++
		}
		got := TrimSpace(params[:n])
		value, params = "", params[n:]
		quoted := false
		if params != "" && params[0] == '=' {
			params = params[1:]
			for params != "" && IsSpace(params[0]) {
				params = params[1:]
			}
			if n, quoted = 0, params != "" && params[0] == '"'; quoted {
				if n = closingQuote(params); n < 0 {
					return "", false
				}
				value, params = params[1:n], params[n+1:]
			} else {
				for n < len(params) && params[n] != ';' && params[n] != ',' && !IsSpace(params[n]) {
					n++
				}
				value, params = params[:n], params[n:]
			}
		}
		if got != "" && SameName(got, name) {
			if quoted {
				value = unescapeQuoted(value)
			}
			return value, true
		}
		n = 0
		for n < len(params) && params[n] != ';' && params[n] != ',' {
			n++
		}
		if n == len(params) || params[n] == ',' {
			return "", false
		}
		params = params[n+1:]
	}
}

// A Via is one value of a Via header field (RFC 3261 §20.42).
type Via struct {
	Transport string // as written
	Host      string // an IPv6 address in brackets
	Port      int    // 0: absent
	Params    string // after the first semicolon; see [Param]
}

// ParseVia parses the first value of a Via header field. It reports false if the protocol
// or the sent-by is malformed: then no response can be sent to it.
func ParseVia(value string) (v Via, ok bool) {
	value = value[:elementLength(value, false)]
	for i := range 3 { // SIP / 2.0 / UDP
		value = TrimSpace(value)
		n := 0
		for n < len(value) && tokenChar[value[n]] {
			n++
		}
		word := value[:n]
		value = value[n:]
		if n == 0 || i == 0 && !EqualFold(word, "SIP") {
			return Via{}, false
		}
		if i == 2 {
			v.Transport, ok = word, value != "" && IsSpace(value[0])
			break
		}
		if value = TrimSpace(value); value == "" || value[0] != '/' {
			return Via{}, false
		}
		value = value[1:]
	}
	sentBy, params, _ := strings.Cut(value, ";")
	v.Params = params
	if v.Host, sentBy = splitHost(TrimSpace(sentBy)); v.Host == "" || !ok {
		return Via{}, false
	}
	if sentBy = TrimSpace(sentBy); sentBy != "" && sentBy[0] == ':' {
		sentBy = TrimSpace(sentBy[1:])
		n := 0
		for n < len(sentBy) && '0' <= sentBy[n] && sentBy[n] <= '9' {
			n++
		}
		port, err := strconv.ParseUint(sentBy[:n], 10, 16)
		if err != nil || port == 0 {
			return Via{}, false
		}
		v.Port = int(port)
	}
	return v, true
}

// splitHost splits s after the host at its start. The host is "" if s does not begin with
// one.
func splitHost(s string) (host, rest string) {
	n := 0
	if s != "" && s[0] == '[' {
		n = strings.IndexByte(s, ']') + 1
	} else {
		for n < len(s) && tokenChar[s[n]] {
			n++
		}
	}
	return s[:n], s[n:]
}

// ParseCSeq parses a CSeq value (RFC 3261 §20.16). It reports false if the value is
// malformed.
func ParseCSeq(value string) (number uint32, method string, ok bool) {
	value = TrimSpace(value)
	n := strings.IndexFunc(value, func(r rune) bool { return r < '0' || r > '9' })
	if n < 0 || !IsSpace(value[n]) {
		return 0, "", false
	}
	u, err := strconv.ParseUint(value[:n], 10, 32)
	method = TrimSpace(value[n:])
	return uint32(u), method, err == nil && IsToken(method)
}

// MediaType splits a Content-Type at the first semicolon into the media type and the
// parameters. The media type is in lower case and has no blanks around the slash.
func MediaType(contentType string) (kind, params string) {
	kind, params, _ = strings.Cut(contentType, ";")
	kind = TrimSpace(kind)
	if first, second, ok := strings.Cut(kind, "/"); ok {
		if a, b := TrimSpace(first), TrimSpace(second); len(a)+len(b) < len(first)+len(second) {
			kind = a + "/" + b
		}
	}
	return lower(kind), params
}
