package dialog

import (
	"strings"
	"unicode"
)

// IsControl reports whether a character controls a terminal (C0, DEL and C1), breaks a
// line (U+2028, U+2029) or changes the direction of text (UAX #9). Such a character in
// text from the wire or the API must not reach a terminal, a log or a page.
func IsControl(r rune) bool {
	switch {
	case r < 0x20, 0x7f <= r && r < 0xa0:
	case r == 0x061c, r == 0x200e, r == 0x200f, 0x2028 <= r && r <= 0x202e, 0x2066 <= r && r <= 0x2069:
	default:
		return false
	}
	return true
}

// ReplaceUnprintable returns s with instead in place of each character that cannot be
// displayed, which includes all controls, and in place of invalid UTF-8. If instead is
// negative, they are removed.
func ReplaceUnprintable(s string, instead rune) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return instead
		}
		return r
	}, strings.ToValidUTF8(s, "\x00"))
}

// ReplaceControls returns s with U+FFFD in place of each control except line feeds and
// tabs.
func ReplaceControls(s string) string {
	return strings.Map(func(r rune) rune {
		if IsControl(r) && r != '\n' && r != '\t' {
			return '\uFFFD'
		}
		return r
	}, s)
}
