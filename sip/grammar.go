package sip

import (
	"bytes"

	"bellhop/dialog/siptext"
)

// This file implements the grammar of package siptext on the bytes of a message. Its
// functions return places in the message and copy nothing. FuzzGrammar checks that both
// packages read the same.

// valueEnd returns the index after the first of several comma-separated values, or -1
// if a quote is not closed.
func valueEnd(b []byte, v span) int32 {
	for i := v.from; i < v.to; i++ {
		switch b[i] {
		case '"':
			if i = closingQuote(b, i, v.to); i < 0 {
				return -1
			}
		case '<':
			for i < v.to && b[i] != '>' {
				i++
			}
		case ',':
			return i
		}
	}
	return v.to
}

// cutValue cuts the first of several comma-separated values off v. ok is false if v is
// empty, or if a quote is not closed; then v stays and is not empty.
func cutValue(b []byte, v *span) (value span, ok bool) {
	if v.from >= v.to {
		return span{}, false
	}
	end := valueEnd(b, *v)
	if end < 0 {
		return span{}, false
	}
	value = trimSpan(b, span{v.from, end})
	v.from = skipSpace(b, min(end+1, v.to), v.to)
	return value, true
}

// valueList walks the comma-separated values of all header fields with one name. It skips
// the rest of a field in which a quote is not closed.
type valueList struct {
	m        *message
	name     fieldName
	nextAt   int  // index in m.fields after the current one
	rest     span // of the current field, after value
	value    span
	unclosed bool // a quote was not closed
}

// listValues returns the list of the values of the fields with that name. Call next on
// the list to get the first value.
func (m *message) listValues(name fieldName) valueList { return valueList{m: m, name: name} }

// next moves to the next value, and reports whether there is one.
func (l *valueList) next() (ok bool) {
	for {
		if l.value, ok = cutValue(l.m.b, &l.rest); ok {
			return true
		}
		l.unclosed = l.unclosed || !l.rest.empty()
		for l.nextAt < len(l.m.fields) && l.m.fields[l.nextAt].name != l.name {
			l.nextAt++
		}
		if l.nextAt == len(l.m.fields) {
			return false
		}
		l.rest = l.m.fields[l.nextAt].value
		l.nextAt++
	}
}

// field returns the index in m.fields of the current value's field.
func (l *valueList) field() int { return l.nextAt - 1 }

// trimSpan returns v without white space at its ends.
func trimSpan(b []byte, v span) span {
	for v.from < v.to && siptext.IsSpace(b[v.from]) {
		v.from++
	}
	for v.to > v.from && siptext.IsSpace(b[v.to-1]) {
		v.to--
	}
	return v
}

// splitNameAddr returns the URI of a name-addr or addr-spec, and the parameters after it
// without the first semicolon, like siptext.ParseNameAddr. ok is false if v is empty or
// if a quote or bracket is not closed.
func splitNameAddr(b []byte, v span) (uri, params span, ok bool) {
	start := v.from // of an addr-spec: after a quoted string
	for i := v.from; i < v.to; i++ {
		switch b[i] {
		case '"':
			first := i == v.from
			if i = closingQuote(b, i, v.to); i < 0 {
				return span{}, span{}, false
			}
			if first {
				start = i + 1
			}
		case '<':
			n := bytes.IndexByte(b[i:v.to], '>')
			if n < 0 {
				return span{}, span{}, false
			}
			end := i + int32(n)
			params = span{v.to, v.to}
			if n = bytes.IndexByte(b[end:v.to], ';'); n >= 0 {
				params.from = end + int32(n) + 1
			}
			return trimSpan(b, span{i + 1, end}), params, true
		case ';':
			return trimSpan(b, span{start, i}), span{i + 1, v.to}, true
		}
	}
	return trimSpan(b, span{start, v.to}), span{v.to, v.to}, v.from < v.to
}

// closingQuote returns the index of the quote that closes the one at b[i], or -1.
func closingQuote(b []byte, i, end int32) int32 {
	for i++; i < end; i++ {
		switch b[i] {
		case '\\':
			i++
		case '"':
			return i
		}
	}
	return -1
}

// findParam finds a parameter in "a=b;c" as siptext.Param does. It returns its value, and
// whether the parameter is there. White space, and the quotes around a value, are left out;
// quoted pairs stay.
func findParam(b []byte, v span, want string) (value span, found bool) {
	for i := v.from; i <= v.to; i++ {
		start := i
		for i < v.to && b[i] != ';' && b[i] != ',' && b[i] != '=' {
			i++
		}
		name := trimSpan(b, span{start, i})
		value = span{name.to, name.to}
		if i < v.to && b[i] == '=' {
			i = skipSpace(b, i+1, v.to)
			if value = (span{i, i}); i < v.to && b[i] == '"' {
				q := closingQuote(b, i, v.to)
				if q < 0 {
					return span{}, false
				}
				value = span{i + 1, q}
				i = q + 1
			} else {
				for i < v.to && b[i] != ';' && b[i] != ',' && !siptext.IsSpace(b[i]) {
					i++
				}
				value.to = i
			}
		}
		if !name.empty() && siptext.EqualFold(name.of(b), want) {
			return value, true
		}
		for i < v.to && b[i] != ';' {
			if b[i] == ',' {
				return span{}, false
			}
			i++
		}
	}
	return span{}, false
}

// skipSpace returns the index of the first byte that is not white space, at most end.
func skipSpace(b []byte, i, end int32) int32 {
	for i < end && siptext.IsSpace(b[i]) {
		i++
	}
	return i
}

// parseNumber reads decimal digits. It returns false for anything else, and for a number
// above max.
func parseNumber(b []byte, max int) (int, bool) {
	if len(b) == 0 {
		return 0, false
	}
	n := 0
	for _, c := range b {
		if c < '0' || c > '9' {
			return 0, false
		}
		if n = n*10 + int(c-'0'); n > max {
			return 0, false
		}
	}
	return n, true
}

// lookUpFieldName returns the header field with this long or compact name (RFC 3261
// §7.3.3), or otherField.
func lookUpFieldName(n []byte) fieldName {
	switch len(n) {
	case 1:
		switch n[0] | 0x20 {
		case 'v':
			return hVia
		case 'f':
			return hFrom
		case 't':
			return hTo
		case 'i':
			return hCallID
		case 'm':
			return hContact
		case 'l':
			return hContentLength
		case 'k':
			return hSupported
		}
		return otherField
	case 2:
		return matchName(n, "to", hTo)
	case 3:
		return matchName(n, "via", hVia)
	case 4:
		return matchName(n, "from", hFrom) + matchName(n, "cseq", hCSeq) + matchName(n, "path", hPath)
	case 5:
		return matchName(n, "route", hRoute) + matchName(n, "x-cid", hXCID)
	case 7:
		return matchName(n, "call-id", hCallID) + matchName(n, "contact", hContact) + matchName(n, "expires", hExpires)
	case 9:
		return matchName(n, "supported", hSupported) + matchName(n, "diversion", hDiversion) + matchName(n, "x-auth-ip", hAuthSource)
	case 10:
		return matchName(n, "user-agent", hUserAgent)
	case 11:
		return matchName(n, "x-auth-port", hAuthSource)
	case 12:
		return matchName(n, "max-forwards", hMaxForwards) + matchName(n, "record-route", hRecordRoute)
	case 13:
		return matchName(n, "proxy-require", hProxyRequire) + matchName(n, "authorization", hAuthorization)
	case 14:
		return matchName(n, "content-length", hContentLength)
	case 15:
		return matchName(n, "x-bellhop-trunk", hTrunkMark) + matchName(n, "remote-party-id", hRemotePartyID)
	case 16:
		return matchName(n, "www-authenticate", hAuthenticate)
	case 18:
		return matchName(n, "proxy-authenticate", hAuthenticate)
	case 19:
		return matchName(n, "p-asserted-identity", hAssertedIdentity) + matchName(n, "proxy-authorization", hAuthorization)
	}
	return otherField
}

// matchName returns k if n is the name lower, ignoring case, else otherField.
func matchName(n []byte, lower string, k fieldName) fieldName {
	if siptext.EqualFold(n, lower) {
		return k
	}
	return otherField
}
