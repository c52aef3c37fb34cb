package jsontext

import (
	"encoding/json"
	"strings"
	"testing"
)

// Any text is written as JSON that decodes to the same text.
func TestTextIsJSON(t *testing.T) {
	for _, s := range []string{"", "plain", `"\/`, "\x00\x1f\x7f", "<&>", "ü€😀\u2028", "\xff", "a\xc3", "\xe2\x82", "\xed\xa0\x80", "ok\xf0\x9f\x98"} {
		w := Object{[]byte{'{'}}
		WriteText(&w, "s", s)
		WriteText(&w, "b", []byte(s))
		w.WriteKey("h")
		w.B = AppendHTML(w.B, s)
		var got struct{ S, B, H string }
		if err := json.Unmarshal(append(w.B, '}'), &got); err != nil {
			t.Errorf("%q: %v in %s", s, err, w.B)
		}
		if want := string([]rune(s)); got.S != want || got.B != want || got.H != want {
			t.Errorf("%q is read as %q, %q and %q", s, got.S, got.B, got.H)
		}
		if html := string(AppendHTML(nil, s)); strings.ContainsAny(html, "<>&\u2028\u2029\x7f") {
			t.Errorf("%q is not safe within HTML: %s", s, html)
		}
	}
}
