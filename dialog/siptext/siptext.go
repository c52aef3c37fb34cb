// Package siptext is the text grammar of SIP (RFC 3261 §25.1): header fields with compact
// names and folded lines, comma-separated lists, quoted strings, name-addr and addr-spec,
// parameters, Via, CSeq, media types, and the URI schemes sip, sips and tel.
//
// The proxy, the tracker, the traces and the flow tests parse messages with it. The
// proxy's index of a message is a second, faster implementation of the same rules; a fuzz
// test in package sip checks that both give the same results.
//
// Parsers never panic. From malformed text they return what can be read; ParseVia and
// ParseCSeq report false if a required part is malformed. Results are parts of the input
// and share its memory. A copy is made only where the text differs from the input: of
// folded lines, quoted pairs, escapes, and letters put into lower case.
package siptext

// tokenChar marks the characters of a token.
var tokenChar = func() (t [256]bool) {
	for c := range t {
		t[c] = 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9'
	}
	for _, c := range []byte("-.!%*_+`'~") {
		t[c] = true
	}
	return t
}()

// IsTokenChar reports whether c may be part of a token.
func IsTokenChar(c byte) bool { return tokenChar[c] }

// IsToken reports whether s is a token.
func IsToken[T string | []byte](s T) bool {
	for i := range len(s) {
		if !tokenChar[s[i]] {
			return false
		}
	}
	return len(s) > 0
}

// IsSpace reports whether c is linear white space: a blank, a tab, or part of a line end
// within a folded header field.
func IsSpace(c byte) bool { return c == ' ' || c == '\t' || c == '\r' || c == '\n' }

// TrimSpace returns s without linear white space at its ends.
func TrimSpace(s string) string {
	for s != "" && IsSpace(s[0]) {
		s = s[1:]
	}
	for s != "" && IsSpace(s[len(s)-1]) {
		s = s[:len(s)-1]
	}
	return s
}

// EqualFold reports whether a and b are equal, ignoring the case of ASCII letters.
func EqualFold[T string | []byte](a T, b string) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range len(b) {
		c, d := a[i], b[i]
		if c != d && (c|0x20 != d|0x20 || c|0x20 < 'a' || c|0x20 > 'z') {
			return false
		}
	}
	return true
}

// lower returns s with its ASCII letters in lower case.
func lower(s string) string {
	for i := range len(s) {
		if s[i] < 'A' || s[i] > 'Z' {
			continue
		}
		b := []byte(s)
		for ; i < len(b); i++ {
			if 'A' <= b[i] && b[i] <= 'Z' {
				b[i] += 'a' - 'A'
			}
		}
		return string(b)
	}
	return s
}

// closingQuote returns the index of the quote that ends the quoted string at the start of
// s, or -1 if none does.
func closingQuote(s string) int {
	for i := 1; i < len(s); i++ {
		switch s[i] {
		case '\\':
			i++
		case '"':
			return i
		}
	}
	return -1
}

// unescapeQuoted returns the content of a quoted string with its quoted pairs resolved.
func unescapeQuoted(s string) string {
	for i := range len(s) {
		if s[i] != '\\' {
			continue
		}
		b := append(make([]byte, 0, len(s)), s[:i]...)
		for ; i < len(s); i++ {
			if s[i] == '\\' && i+1 < len(s) {
				i++
			}
			b = append(b, s[i])
		}
		return string(b)
	}
	return s
}
