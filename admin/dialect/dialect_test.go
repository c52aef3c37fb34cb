package dialect

import (
	"slices"
	"testing"
)

func TestRemoveTypeFromTypes(t *testing.T) {
	for _, tt := range []struct {
		types []string
		word  string
		want  []string
	}{
		{[]string{"dial-in"}, "dial-in", nil},
		{[]string{"dial-in", "hangup"}, "dial-in", []string{"hangup"}},
		{[]string{"dial-in", "hangup"}, "answer", []string{"dial-in", "hangup"}},
		{[]string{"dial-in", "answer"}, "answer", []string{"dial-in"}},
		{[]string{"answer", "dial-in"}, "answer-in", []string{"answer-out", "dial-in"}},
		{[]string{"answer-in", "answer-out"}, "answer-in", []string{"answer-out"}},
		{[]string{"answer-in", "answer-out", "hangup"}, "answer", []string{"hangup"}},
		{[]string{"answer-in", "answer-out"}, "hangup", []string{"answer-in", "answer-out"}},
		{[]string{"answer", "answer-in"}, "answer-in", []string{"answer-out"}},
		{[]string{"ringing", "ringing"}, "ringing", nil},
	} {
		if got := RemoveType(tt.types, tt.word); !slices.Equal(got, tt.want) {
			t.Errorf("%v without %s is %v, want %v", tt.types, tt.word, got, tt.want)
		}
	}
}
