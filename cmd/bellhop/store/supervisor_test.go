package store

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"bellhop/cmd/bellhop/store/storetest"
)

// TestSupervisorReopensStore checks that a reopened store has its data, and that
// watchers continue.
func TestSupervisorReopensStore(t *testing.T) {
	t.Parallel()
	st, err := Open(t.Context(), storetest.Config(t.TempDir()), quiet())
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	kv, err := st.CreateKeyValue(t.Context(), jetstream.KeyValueConfig{Bucket: "test"})
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
	st.supervisor.observeLog("Filestore [test] Critical write error: no reason")
	wantError(t, st.supervisor.writeError(), "store not writable: no reason")
	deadline := time.After(patience)
	for tick := time.Tick(10 * time.Millisecond); st.supervisor.writeError() != nil; {
		select {
		case <-tick:
		case <-deadline:
			t.Fatal(st.supervisor.writeError())
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

// TestSupervisorIgnoresOtherErrors checks that other log lines of the server, and a store
// without a supervisor, report no write error.
func TestSupervisorIgnoresOtherErrors(t *testing.T) {
	m := newSupervisor(storetest.Config(t.TempDir()), quiet())
	m.observeLog("JetStream failed to store a msg on stream '$G > bellhop_events': maximum bytes exceeded")
	if err := m.writeError(); err != nil {
		t.Error(err)
	}
	if err := new(Store).WriteError(); err != nil {
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
