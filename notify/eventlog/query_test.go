package eventlog

import (
	"slices"
	"testing"
	"time"

	"bellhop/dialog"
)

func TestEventsQueries(t *testing.T) {
	js, closeStore := openStore(t, t.TempDir())
	defer closeStore()
	n, stop := startLog(t, js, Config{})
	begin := time.Now()
	for i := range 100 {
		n.Append(callOf(i))
	}
	e := callOf(100)[2]
	e.ID, e.Call, e.Extension = "another", "", dialog.Extension{User: "0003*210", Domain: "pbx"}
	n.Append([]dialog.Event{e})
	stop()
	ctx := t.Context()
	for _, tt := range []struct {
		name string
		q    Query
		want int
		more bool
	}{
		{"all", Query{Limit: 1000}, 301, false},
		{"the first", Query{}, 100, true},
		{"exactly", Query{Limit: 301}, 301, false},
		{"one call", Query{Call: callOf(7)[0].Call}, 3, false},
		{"an extension", Query{Extension: "0003*210"}, 1, false},
		{"an extension with its domain", Query{Extension: "101@pbx.example", Limit: 1000}, 300, false},
		{"with another", Query{Extension: "101@elsewhere", Limit: 1000}, 0, false},
		{"unknown extension", Query{Extension: "999"}, 0, false},
		{"among some", Query{Extensions: []string{"101", "0003*210@pbx", "999"}, Limit: 1000}, 301, false},
		{"among one twice", Query{Extensions: []string{"0003*210@pbx", "0003*210@elsewhere", "0003*210"}}, 1, false},
		{"among one with another domain", Query{Extensions: []string{"0003*210@elsewhere"}}, 0, false},
		{"among others", Query{Extension: "101", Extensions: []string{"0003*210"}}, 0, false},
		{"among with its domain", Query{Extension: "0003*210", Extensions: []string{"0003*210@pbx"}}, 1, false},
		{"among nobody", Query{Extensions: []string{}}, 0, false},
		{"a type", Query{Type: "hangup", Limit: 1000}, 101, false},
		{"answers of one flow", Query{Type: "answer-in"}, 0, false},
		{"answers of the other", Query{Type: "answer-out", Limit: 1000}, 100, false},
		{"since", Query{Since: begin.Add(-time.Second), Limit: 1000}, 301, false},
		{"in the future", Query{Since: begin.Add(time.Hour)}, 0, false},
	} {
		got, more, err := n.Find(ctx, tt.q)
		if err != nil || len(got) != tt.want || more != tt.more {
			t.Errorf("%s: %d events, more %v, %v; want %d, %v", tt.name, len(got), more, err, tt.want, tt.more)
		}
	}
	if _, _, err := n.Find(ctx, Query{After: "nothing"}); err != ErrNoEvent {
		t.Errorf("after nothing: %v", err)
	}
	if _, _, err := n.Find(ctx, Query{After: "another", Extensions: []string{"101"}}); err != ErrNoEvent {
		t.Errorf("after what is among others: %v", err)
	}
	if _, _, err := n.Find(ctx, Query{After: "another", Extensions: []string{"0003*210"}}); err != nil {
		t.Errorf("after what is among them: %v", err)
	}

	var all []Entry // page by page
	for q := (Query{Limit: 40}); ; {
		page, more, err := n.Find(ctx, q)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, page...)
		if !more {
			break
		}
		q.After = page[len(page)-1].Event.ID
	}
	seqs := map[string]int{}
	for _, e := range all {
		if seqs[e.Event.Call]++; e.Event.Call != "" && e.Event.Seq != seqs[e.Event.Call] {
			t.Fatalf("event %d of call %s comes as %d", e.Event.Seq, e.Event.Call, seqs[e.Event.Call])
		}
	}
	if len(all) != 301 {
		t.Fatalf("%d events in pages", len(all))
	}
	for i, after := range []int{300, 299, 0} {
		got, more, err := n.Find(ctx, Query{After: all[after].Event.ID, Limit: 1000})
		if want := []int{0, 1, 300}[i]; err != nil || len(got) != want || more {
			t.Errorf("after event %d: %d events, more %v, %v; want %d", after, len(got), more, err, want)
		}
	}
	if want := callOf(7)[2]; !slices.ContainsFunc(all, func(e Entry) bool { return e.Event.ID == want.ID && e.Event.At.Sub(want.At) < time.Minute }) {
		t.Error("an event is not read as it was published")
	}
}

// Scan calls f once for every event from a position on, in order, and stops when f returns
// false. It does so with a consumer, and with requests for a short rest of the log.
func TestScanYieldsEachEventOnce(t *testing.T) {
	js, closeStore := openStore(t, t.TempDir())
	defer closeStore()
	n, stop := startLog(t, js, Config{})
	const calls = 2000 // of three events
	for i := range calls {
		n.Append(callOf(i))
	}
	for n.End() < 3*calls { // a stop would leave events unpublished on a busy machine
		time.Sleep(time.Millisecond)
	}
	stop()
	for _, tt := range []struct {
		name       string
		from, stop uint64 // stop: the position at which f returns false; 0: it never does
		last       uint64
	}{
		{"all, by a consumer", 1, 0, 3 * calls},
		{"the second half, by requests", 3*calls/2 + 1, 0, 3 * calls},
		{"until a consumer is stopped", 1, 700, 700},
		{"until requests are stopped", 3*calls - 100, 3*calls - 50, 3*calls - 50},
		{"beyond the end", 3*calls + 1, 0, 3 * calls},
	} {
		next := tt.from
		err := n.Scan(t.Context(), tt.from, func(e Entry) bool {
			if e.Seq != next || e.Event == nil {
				t.Errorf("%s: position %d, want %d", tt.name, e.Seq, next)
			}
			next = e.Seq + 1
			return e.Seq != tt.stop
		})
		if err != nil || next != tt.last+1 {
			t.Errorf("%s: ended before %d with %v, want %d", tt.name, next, err, tt.last+1)
		}
	}
}
