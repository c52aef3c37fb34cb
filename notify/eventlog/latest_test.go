package eventlog

import (
	"slices"
	"strings"
	"testing"

	"bellhop/dialog"
	"bellhop/notify/stream"
)

func TestLatestReadsNewestFirst(t *testing.T) {
	js, closeStore := openStore(t, t.TempDir())
	defer closeStore()
	n := openLog(t, js, Config{})
	const calls = 100 // more events than one chunk
	for i := range calls {
		n.Append(callOf(i))
	}
	stop := runLog(n)
	for n.Stats().Published < 3*calls {
		stream.Sleep(t.Context(), batchPace.Quiet)
	}
	stop()
	for _, tt := range []struct {
		name string
		q    Query
		want []dialog.Type // the order between calls is not defined
		n    int
	}{
		{"one type", Query{Type: "hangup", Limit: 40}, []dialog.Type{dialog.Hangup}, 40},
		{"all of one type", Query{Type: "hangup", Limit: 1000}, []dialog.Type{dialog.Hangup}, calls},
		{"all", Query{Limit: 1000}, []dialog.Type{dialog.Answer, dialog.DialOut, dialog.Hangup}, 3 * calls},
		{"of one call", Query{Call: callOf(7)[0].Call, Limit: 2}, []dialog.Type{dialog.Answer, dialog.Hangup}, 2},
		{"of another extension", Query{Extension: "102", Limit: 10}, nil, 0},
		{"of a call with a long name", Query{Call: strings.Repeat("x", 10_000), Limit: 10}, nil, 0},
		{"of an extension with a long name", Query{Extension: strings.Repeat("x", 10_000), Limit: 10}, nil, 0},
		{"among others", Query{Extensions: []string{"102"}, Limit: 10}, nil, 0},
	} {
		got, err := n.Latest(t.Context(), tt.q)
		if err != nil || len(got) != tt.n {
			t.Errorf("%s: %d events, %v; want %d", tt.name, len(got), err, tt.n)
		}
		var types []dialog.Type
		seen := make(map[string]int)
		for _, e := range got {
			types = append(types, e.Type)
			if last, ok := seen[e.Call]; ok && last <= e.Seq {
				t.Errorf("%s: %d of a call comes after %d", tt.name, e.Seq, last)
			}
			seen[e.Call] = e.Seq
		}
		slices.Sort(types)
		if types = slices.Compact(types); !slices.Equal(types, tt.want) {
			t.Errorf("%s: there are %v", tt.name, types)
		}
	}
}
