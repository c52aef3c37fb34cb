package dialog

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// MaxText is the largest number of characters of a text from a SIP message in webhooks
// and records.
const MaxText = 256

// Clean returns at most limit characters of a text from a SIP message, as valid UTF-8
// without control characters.
func Clean(s string, limit int) string {
	return cleanText(s, limit, unicode.IsControl)
}

// CleanMessage is Clean for the text of a MESSAGE: it keeps newlines and tabs, and its
// limit is 2000 characters.
func CleanMessage(s string) string {
	return cleanText(s, 2000, func(r rune) bool { return unicode.IsControl(r) && r != '\n' && r != '\t' })
}

// cleanText removes invalid UTF-8 and the characters for which drop returns true, and
// cuts s after limit characters.
func cleanText(s string, limit int, drop func(rune) bool) string {
	if IsPrintableASCII(s) && len(s) <= limit {
		return s
	}
	var b strings.Builder
	for i, r := range s {
		_, size := utf8.DecodeRuneInString(s[i:])
		if r == utf8.RuneError && size == 1 || drop(r) {
			continue
		}
		if limit == 0 {
			break
		}
		b.WriteRune(r)
		limit--
	}
	return b.String()
}

// IsPrintableASCII reports whether all bytes of s are printable ASCII or spaces.
func IsPrintableASCII(s string) bool {
	for i := range len(s) {
		if s[i] < ' ' || s[i] > '~' {
			return false
		}
	}
	return true
}
