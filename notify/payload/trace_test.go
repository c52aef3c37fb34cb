package payload

import (
	"strings"
	"testing"

	"bellhop/dialog"
)

func TestTraceparentPerAttempt(t *testing.T) {
	const id, received = "5f1d0c7e9a3b48d2a6c4e8f013579bdf", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"
	for _, tt := range []struct {
		name    string
		id      string
		headers [][2]string
		want    string // "": none
	}{
		{"its own", id, nil, "00-" + id + "-*-01"},
		{"came with the INVITE", id, [][2]string{{"X-Queue", "sales"}, {"Traceparent", received}}, received},
		{"a later version", id, [][2]string{{"traceparent", "01" + received[2:]}}, "00-" + id + "-*-01"},
		{"upper case", id, [][2]string{{"traceparent", strings.ToUpper(received)}}, "00-" + id + "-*-01"},
		{"too long", id, [][2]string{{"traceparent", received + "-x"}}, "00-" + id + "-*-01"},
		{"no trace", id, [][2]string{{"traceparent", "00-" + strings.Repeat("0", 32) + received[35:]}}, "00-" + id + "-*-01"},
		{"no span", id, [][2]string{{"traceparent", received[:36] + strings.Repeat("0", 16) + "-01"}}, "00-" + id + "-*-01"},
		{"a line break", id, [][2]string{{"traceparent", received[:53] + "\r\n"}}, "00-" + id + "-*-01"},
		{"no hex in the id", "e1", nil, ""},
	} {
		got := traceparent(&dialog.Event{ID: tt.id, Headers: tt.headers})
		before, after, star := strings.Cut(tt.want, "*")
		if got != tt.want && (!star || !validTrace(got) || !strings.HasPrefix(got, before) || !strings.HasSuffix(got, after)) {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
	}
}
