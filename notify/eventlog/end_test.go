package eventlog

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats.go"

	"bellhop/dialog"
)

// OldestUnpublished measures the age of events on the monotonic clock. Events that do not
// come from the tracker do not count.
func TestOldestUnpublished(t *testing.T) {
	js, closeStore := openStore(t, t.TempDir())
	defer closeStore()
	n := openLog(t, js, Config{})
	now := time.Now()
	if _, ok := n.OldestUnpublished(); ok {
		t.Error("something is unsaid from the start")
	}
	event := func(id string, at, observed time.Time) dialog.Event {
		return dialog.Event{ID: id, Call: id, Type: dialog.Hangup, At: at, Observed: observed, Extension: dialog.Extension{User: "101\xff"}}
	}
	n.Append([]dialog.Event{event("a", now.Add(-time.Hour), time.Time{})})
	if _, ok := n.OldestUnpublished(); ok {
		t.Error("an event that is not the tracker's counts")
	}
	n.Append([]dialog.Event{event("b", now.Add(5*time.Hour), now.Add(time.Second)), event("c", now, now.Add(2*time.Second))})
	for range 2 { // also of events being written
		if oldest, ok := n.OldestUnpublished(); !ok || !oldest.Equal(now.Add(time.Second)) {
			t.Errorf("the oldest unsaid is of %v, %v; want %v", oldest, ok, now.Add(time.Second))
		}
		n.encodeBatch([]*nats.Msg{{}, {}, {}}, n.publisher.fillBatch())
	}
}

// The end of the log is known after Open and after each publish; the log can be read from a
// position on.
func TestLogEnd(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		js, closeStore := openStore(t, dir)
		defer closeStore()
		n, stop := startLog(t, js, Config{})
		if got := n.End(); got != 0 {
			t.Errorf("a new log ends at %d, want 0", got)
		}
		n.Append(callOf(1))
		time.Sleep(time.Second)
		if got := n.End(); got != 3 {
			t.Errorf("three events were said, and the log ends at %d", got)
		}
		stop()
		n = openLog(t, js, Config{})
		if got := n.End(); got != 3 {
			t.Errorf("when it is opened again it ends at %d, want 3", got)
		}
		for position, want := range map[uint64]int{0: 3, 1: 3, 3: 1, 4: 0} {
			events, _, err := n.Find(t.Context(), Query{Position: position})
			if err != nil || len(events) != want {
				t.Errorf("from %d on there are %d events, want %d; %v", position, len(events), want, err)
			}
		}
	})
}
