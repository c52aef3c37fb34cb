package subscription

import (
	"slices"
	"testing"

	"bellhop/dialog"
)

// Every type has a word and a bit of its own; an answer can be named by its flow.
func TestWordsNameTypes(t *testing.T) {
	var all Mask
	for _, typ := range dialog.Types {
		word := string(typ.Type)
		m := MaskOf(word)
		if m == 0 || m&all != 0 || !slices.Contains(Words(), word) {
			t.Errorf("%s has the mask %b", word, m)
		}
		all |= m
		if (m&OptIn() != 0) != typ.OptIn {
			t.Errorf("%s: opt-in is %b", word, OptIn())
		}
		for flow, word := range map[dialog.Flow]string{"": word, dialog.In: word + "-in", dialog.Out: word + "-out"} {
			want := m
			if typ.ByFlow {
				want = MaskOf(word)
			}
			if got := EventMask(&dialog.Event{Type: typ.Type, Flow: flow}); got != want || got == 0 {
				t.Errorf("%s, flow %q: mask %b, want %b", typ.Type, flow, got, want)
			}
		}
	}
	if MaskOf("answer-in", "answer-out") != MaskOf("answer") || MaskOf("answer-in") == MaskOf("answer-out") || MaskOf("hangdown") != 0 {
		t.Error("answer is not answer-in and answer-out")
	}
}
