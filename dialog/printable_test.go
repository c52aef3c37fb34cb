package dialog

import (
	"testing"
	"unicode"
)

func TestReplacesUnprintableCharacters(t *testing.T) {
	for _, tt := range []struct{ text, replaced, removed, harmless string }{
		{"Zoë 日本 👍", "Zoë 日本 👍", "Zoë 日本 👍", "Zoë 日本 👍"},
		{"a\x1b[31mb", "a\uFFFD[31mb", "a[31mb", "a\uFFFD[31mb"},
		{"a\u009b31mb\x7f", "a\uFFFD31mb\uFFFD", "a31mb", "a\uFFFD31mb\uFFFD"},
		{"a\r\n\tb", "a\uFFFD\uFFFD\uFFFDb", "ab", "a\uFFFD\n\tb"},
		{"\u202e\u2066\u200f\u061c\u2028", "\uFFFD\uFFFD\uFFFD\uFFFD\uFFFD", "", "\uFFFD\uFFFD\uFFFD\uFFFD\uFFFD"},
		{"a\xffb", "a\uFFFDb", "ab", "a\uFFFDb"},
		{"", "", "", ""},
	} {
		if got := ReplaceUnprintable(tt.text, '\uFFFD'); got != tt.replaced {
			t.Errorf("%q replaced is %q, want %q", tt.text, got, tt.replaced)
		}
		if got := ReplaceUnprintable(tt.text, -1); got != tt.removed {
			t.Errorf("%q removed is %q, want %q", tt.text, got, tt.removed)
		}
		if got := ReplaceControls(tt.text); got != tt.harmless {
			t.Errorf("%q harmless is %q, want %q", tt.text, got, tt.harmless)
		}
	}
	steers := 0
	for r := range rune(unicode.MaxRune) {
		if IsControl(r) {
			if steers++; unicode.IsPrint(r) {
				t.Errorf("%U is a control, and printable", r)
			}
		}
	}
	if want := 32 + 33 + 3 + 7 + 4; steers != want {
		t.Errorf("%d characters are controls, want %d", steers, want)
	}
}
