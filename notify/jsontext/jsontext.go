// Package jsontext appends JSON to a buffer, without a copy of the text.
package jsontext

import (
	"encoding/json"
	"strconv"
	"strings"
	"unicode/utf8"
)

// An Object appends the members of a JSON object to B. B must begin with the opening
// brace. The caller appends the closing brace.
type Object struct{ B []byte }

// WriteKey writes the key of a member and the separator before it.
func (w *Object) WriteKey(k string) {
	if w.B[len(w.B)-1] != '{' {
		w.B = append(w.B, ',')
	}
	w.B = append(w.B, '"')
	w.B = append(w.B, k...)
	w.B = append(w.B, '"', ':')
}

// WriteText writes a string member without escapes for HTML. Invalid UTF-8 becomes U+FFFD.
func WriteText[T string | []byte](w *Object, k string, v T) {
	w.WriteKey(k)
	w.B = appendEscaped(w.B, v, &plain)
}

// WriteNumber writes an integer member.
func (w *Object) WriteNumber(k string, v int64) {
	w.WriteKey(k)
	w.B = strconv.AppendInt(w.B, v, 10)
}

// WriteNonZero writes an integer member, unless it is 0.
func (w *Object) WriteNonZero(k string, v int64) {
	if v != 0 {
		w.WriteNumber(k, v)
	}
}

// WriteTrue writes a member true if v is true, and nothing otherwise.
func (w *Object) WriteTrue(k string, v bool) {
	if v {
		w.WriteKey(k)
		w.B = append(w.B, "true"...)
	}
}

// appendString appends s as [json.Marshal] does.
func appendString(dst []byte, s string) []byte {
	for i := range len(s) {
		if !plainInHTML[s[i]] {
			quoted, _ := json.Marshal(s) // strings always marshal
			return append(dst, quoted...)
		}
	}
	return append(append(append(dst, '"'), s...), '"')
}

// AppendHTML appends s as a JSON string that is also safe within HTML. Invalid UTF-8 becomes
// U+FFFD.
func AppendHTML(dst []byte, s string) []byte { return appendEscaped(dst, s, &plainInHTML) }

// plain marks the bytes that need no escape in a JSON string, and plainInHTML those that
// need none within HTML either.
var plain, plainInHTML = func() (plain, inHTML [256]bool) {
	for c := ' '; c < utf8.RuneSelf; c++ {
		plain[c] = c != '"' && c != '\\'
		inHTML[c] = plain[c] && c != 0x7f && !strings.ContainsRune("<>&", c)
	}
	return plain, inHTML
}()

// appendEscaped appends s as a JSON string. It escapes the ASCII characters that isPlain
// does not mark, and for plainInHTML also U+2028 and U+2029. Invalid UTF-8 becomes
// U+FFFD.
func appendEscaped[T string | []byte](dst []byte, s T, isPlain *[256]bool) []byte {
	const hex = "0123456789abcdef"
	dst = append(dst, '"')
	from := 0 // s is written up to here
	for i := 0; i < len(s); {
		c, size := s[i], 1
		switch {
		case isPlain[c]:
			i++
			continue
		case c >= utf8.RuneSelf:
			var r rune
			r, size = utf8.DecodeRuneInString(string(s[i:min(i+utf8.UTFMax, len(s))]))
			separator := isPlain == &plainInHTML && (r == '\u2028' || r == '\u2029') // they end a line of a script
			switch {
			case separator:
				dst = append(append(dst, s[from:i]...), '\\', 'u', '2', '0', '2', hex[r&0xf])
			case r == utf8.RuneError && size == 1:
				dst = append(append(dst, s[from:i]...), "\ufffd"...)
			default:
				i += size
				continue
			}
		case c == '"' || c == '\\':
			dst = append(append(dst, s[from:i]...), '\\', c)
		default:
			dst = append(append(dst, s[from:i]...), '\\', 'u', '0', '0', hex[c>>4], hex[c&0xf])
		}
		i += size
		from = i
	}
	return append(append(dst, s[from:]...), '"')
}
