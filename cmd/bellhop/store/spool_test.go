package store

import (
	"os"
	"path/filepath"
	"reflect"
	"testing"
	"time"

	"bellhop/cmd/bellhop/store/storetest"
	"bellhop/dialog"
)

func TestSpoolStoresEvents(t *testing.T) {
	c := storetest.Config(t.TempDir())
	path := filepath.Join(c.Store.Dir, "unpublished")
	s := (&Store{config: c}).Spool()
	if got, err := s.Load(); err != nil || got != nil {
		t.Errorf("without a file: %v, %v", got, err)
	}
	if err := s.Save(nil); err != nil {
		t.Errorf("nothing to remove: %v", err)
	}
	missed := true
	events := []dialog.Event{
		{ID: "1", Call: "c", Seq: 1, At: time.Date(2026, 1, 2, 3, 4, 5, 6000, time.UTC), Type: dialog.DialIn, Extension: dialog.Extension{User: "101"}, CallerName: "a\nb\"\u2028"},
		{ID: "2", Call: "c", Seq: 2, At: time.Date(2026, 1, 2, 3, 4, 6, 0, time.UTC), Type: dialog.Hangup, Duration: time.Microsecond, Missed: &missed, Headers: [][2]string{{"A", "b"}}},
	}
	if err := s.Save(events); err != nil {
		t.Fatal(err)
	}
	wantMode(t, path, 0o600)
	if got, err := s.Load(); err != nil || !reflect.DeepEqual(got, events) {
		t.Errorf("got %+v, %v; want %+v", got, err, events)
	}

	// A line that is cut off costs only its own event.
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, b[:len(b)-3], 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := s.Load()
	wantError(t, err, path+":2")
	if !reflect.DeepEqual(got, events[:1]) {
		t.Errorf("of a damaged file: %+v", got)
	}

	if err := s.Save(nil); err != nil {
		t.Fatal(err)
	}
	if left, err := os.ReadDir(c.Store.Dir); err != nil || len(left) > 0 {
		t.Errorf("left are %v, %v", left, err)
	}
}
