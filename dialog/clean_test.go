package dialog

import (
	"strings"
	"testing"
)

func TestCleanText(t *testing.T) {
	for _, tt := range []struct{ in, want string }{
		{"Alice", "Alice"},
		{"a\r\nb\x00c\x7fd\u0085e", "abcde"},
		{"\xffa\xc3b", "ab"},
		{"\uFFFD stays", "\uFFFD stays"},
		{strings.Repeat("é", 300), strings.Repeat("é", 256)},
		{strings.Repeat("a", 257), strings.Repeat("a", 256)},
		{"<script>&'\"", "<script>&'\""},
	} {
		if got := Clean(tt.in, MaxText); got != tt.want {
			t.Errorf("Clean(%q) = %q", tt.in, got)
		}
	}
	if got := CleanMessage("one\r\n\ttwo\x07"); got != "one\n\ttwo" {
		t.Errorf("got %q", got)
	}
}
