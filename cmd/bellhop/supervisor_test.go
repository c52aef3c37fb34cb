package main

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// TestSupervisorReopensStore checks that a reopened store has its data, and that
// watchers continue.
func TestSupervisorReopensStore(t *testing.T) {
	t.Parallel()
	js, m, closeStore, err := openStore(t.Context(), storeConfig(t.TempDir()), quiet())
	if err != nil {
		t.Fatal(err)
	}
	defer closeStore()
	kv, err := js.CreateKeyValue(t.Context(), jetstream.KeyValueConfig{Bucket: "test"})
	if err != nil {
		t.Fatal(err)
	}
	watch, err := kv.WatchAll(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer watch.Stop()
	if e := <-watch.Updates(); e != nil {
		t.Fatalf("an empty bucket has %s", e.Key())
	}
	put := func(key string) {
		t.Helper()
		if _, err := kv.PutString(t.Context(), key, key); err != nil {
			t.Fatal(err)
		}
		select {
		case e := <-watch.Updates():
			if e == nil || e.Key() != key {
				t.Fatalf("the watch says %v, want %s", e, key)
			}
		case <-time.After(patience): // it misses some heartbeats first
			t.Fatalf("the watch does not say %s", key)
		}
	}
	put("before")
	m.observeLog("Filestore [test] Critical write error: no reason")
	wantError(t, m.writeError(), "store not writable: no reason")
	deadline := time.After(patience)
	for tick := time.Tick(10 * time.Millisecond); m.writeError() != nil; {
		select {
		case <-tick:
		case <-deadline:
			t.Fatal(m.writeError())
		}
	}
	for err := error(jetstream.ErrNoStreamResponse); err != nil; { // it is being opened
		_, err = kv.Status(t.Context())
	}
	put("after")
	if e, err := kv.Get(t.Context(), "before"); err != nil || string(e.Value()) != "before" {
		t.Errorf("what was written before is %v, %v", e, err)
	}
}

// TestSupervisorIgnoresOtherErrors checks that other log lines of the server, and a nil
// supervisor, report no write error.
func TestSupervisorIgnoresOtherErrors(t *testing.T) {
	m := newSupervisor(storeConfig(t.TempDir()), quiet())
	m.observeLog("JetStream failed to store a msg on stream '$G > bellhop_events': maximum bytes exceeded")
	if err := m.writeError(); err != nil {
		t.Error(err)
	}
	if err := (*supervisor)(nil).writeError(); err != nil {
		t.Error(err)
	}
}

func TestChecksWritableDisk(t *testing.T) {
	dir := t.TempDir()
	if err := checkWritable(dir); err != nil {
		t.Error(err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("it left %v, %v", left, err)
	}
	missing := filepath.Join(dir, "missing")
	wantError(t, checkWritable(missing), missing)
}
