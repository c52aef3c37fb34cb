package main

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// A store that is opened anew has what it had, and who watched it goes on to.
func TestStoreIsMended(t *testing.T) {
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
	m.hear("Filestore [test] Critical write error: no reason")
	wantError(t, m.ailing(), "the store cannot be written: no reason")
	deadline := time.After(patience)
	for tick := time.Tick(10 * time.Millisecond); m.ailing() != nil; {
		select {
		case <-tick:
		case <-deadline:
			t.Fatal(m.ailing())
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

// What the server says of other things, and what nobody mends, is no ailment.
func TestNothingToMend(t *testing.T) {
	m := newMender(storeConfig(t.TempDir()), quiet())
	m.hear("JetStream failed to store a msg on stream '$G > bellhop_events': maximum bytes exceeded")
	if err := m.ailing(); err != nil {
		t.Error(err)
	}
	if err := (*mender)(nil).ailing(); err != nil {
		t.Error(err)
	}
}

func TestTakes(t *testing.T) {
	dir := t.TempDir()
	if err := takes(dir); err != nil {
		t.Error(err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("it left %v, %v", left, err)
	}
	missing := filepath.Join(dir, "missing")
	wantError(t, takes(missing), missing)
}
