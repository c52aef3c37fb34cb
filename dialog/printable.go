package dialog

import (
	"strings"
	"unicode"
)

// Steers reports whether a character is an order and not text: to a terminal (C0,
// DEL and C1), to what breaks lines (U+2028, U+2029), or to what arranges text from
// right to left (UAX #9). What comes off the wire, or over the API, must not reach
// a terminal, a log or a page with one.
func Steers(r rune) bool {
	switch {
	case r < 0x20, 0x7f <= r && r < 0xa0:
	case r == 0x061c, r == 0x200e, r == 0x200f, 0x2028 <= r && r <= 0x202e, 0x2066 <= r && r <= 0x2069:
	default:
		return false
	}
	return true
}

// Printable returns s with instead in place of each character that cannot be seen,
// as are all with [Steers], and of what is not UTF-8; if instead is negative,
// without them.
func Printable(s string, instead rune) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return instead
		}
		return r
	}, strings.ToValidUTF8(s, "\x00"))
}

// Harmless returns s with U+FFFD in place of each character with [Steers], but for
// line feeds and tabs.
func Harmless(s string) string {
	return strings.Map(func(r rune) rune {
		if Steers(r) && r != '\n' && r != '\t' {
			return '\uFFFD'
		}
		return r
	}, s)
}
