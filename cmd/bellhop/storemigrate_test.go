package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"bellhop/cmd/bellhop/config"
)

// olderStores are stores of older builds, with all kinds of data.
var olderStores = []string{"d9dd3e8", "378cfc6-all"}

// olderStore returns a copy of an older store's directory.
func olderStore(t *testing.T, name string) (dir string) {
	t.Helper()
	dir = t.TempDir()
	unpack(t, "../../testdata/stores/"+name+".tgz", dir)
	return filepath.Join(dir, "data")
}

// copyStore copies the directory of a running store, as a kill leaves it. It starts
// again if the server, which deletes files of a deleted stream in the background,
// removes a file meanwhile.
func copyStore(to, from string) error {
	err := fs.ErrNotExist
	for tries := 0; errors.Is(err, fs.ErrNotExist) && tries < 1000; tries++ {
		if err = os.RemoveAll(to); err == nil {
			err = os.CopyFS(to, os.DirFS(from))
		}
	}
	if err != nil {
		return err
	}
	return filepath.WalkDir(to, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		return os.Chmod(path, 0o600) // CopyFS opens files to all
	})
}

// startNATS starts a NATS server in another process: creating streams from several nodes
// at once is a data race in it.
func startNATS(t *testing.T, dir string) (url string, js jetstream.JetStream) {
	t.Helper()
	at := freePort(t, "127.0.0.1")
	url = "nats://" + at.String()
	p := launch(t, "nats-server", exec.Command(natsServer(t), "-js", "-sd", dir, "-a", at.Addr().String(), "-p", fmt.Sprint(at.Port())))
	for began := time.Now(); ; <-time.After(10 * time.Millisecond) {
		nc, err := nats.Connect(url)
		if err == nil {
			t.Cleanup(nc.Close)
			return url, must[jetstream.JetStream](t)(jetstream.New(nc, jetstream.WithDefaultTimeout(patience)))
		}
		select {
		case <-p.done:
			t.Fatalf("the server ended: %v", p.err)
		default:
		}
		if time.Since(began) > patience {
			t.Fatalf("the server does not start: %v", err)
		}
	}
}

// sharedStore starts a NATS server with an older store, and returns the config of a
// bellhop that used it.
func sharedStore(t *testing.T, name string) (config.Config, jetstream.JetStream) {
	t.Helper()
	dir := olderStore(t, name)
	c := storeConfig(t.TempDir())
	for _, file := range []string{"key", "node"} {
		b := must[[]byte](t)(os.ReadFile(filepath.Join(dir, file)))
		if err := os.WriteFile(filepath.Join(c.Store.Dir, file), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	url, js := startNATS(t, dir)
	c.Store.NATS = []config.NATSURL{config.NATSURL(url)}
	return c, js
}

// dump returns all messages of a stream, or nil if it does not exist.
func dump(t *testing.T, js jetstream.JetStream, stream string) (all []string) {
	t.Helper()
	s, err := js.Stream(t.Context(), stream)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return nil
	}
	if err != nil {
		t.Fatal(err)
	}
	state := s.CachedInfo().State
	for seq := state.FirstSeq; seq <= state.LastSeq; seq++ {
		m, err := s.GetMsg(t.Context(), seq)
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		for name := range m.Header { // of how it was read, and of how it was published
			switch name {
			case "Nats-Sequence", "Nats-Stream", "Nats-Subject", "Nats-Time-Stamp", "Nats-Expected-Last-Subject-Sequence":
				delete(m.Header, name)
			}
		}
		all = append(all, fmt.Sprintf("%d %v %s %v %q", m.Sequence, m.Time.UTC(), m.Subject, m.Header, m.Data))
	}
	return all
}

// dumpOlder returns all messages of an older store, by the new names of its streams and
// the old subjects.
func dumpOlder(t *testing.T, js jetstream.JetStream) map[string][]string {
	t.Helper()
	all := make(map[string][]string)
	for _, f := range olderStreams {
		prefix, nowPrefix := strings.TrimSuffix(f.subject, ">"), strings.TrimSuffix(f.newSubject, ">")
		for _, m := range dump(t, js, f.name) {
			all[f.newName] = append(all[f.newName], strings.Replace(m, " "+prefix, " "+nowPrefix, 1))
		}
	}
	return all
}

// wantMigrated fails the test if a store lacks a message of an older store, or still has
// an older stream.
func wantMigrated(t *testing.T, js jetstream.JetStream, want map[string][]string) {
	t.Helper()
	for _, f := range olderStreams {
		got := dump(t, js, f.newName)
		if !slices.Equal(got, want[f.newName]) {
			t.Errorf("%s has\n%s\nwant\n%s", f.newName, strings.Join(got, "\n"), strings.Join(want[f.newName], "\n"))
		}
		if old, err := js.Stream(t.Context(), f.name); err == nil && f.name != keyStream {
			t.Errorf("%s is there, with %d messages", f.name, old.CachedInfo().State.Msgs)
		}
		if s, err := js.Stream(t.Context(), f.newName); err == nil && (s.CachedInfo().Config.Mirror != nil || s.CachedInfo().Config.Metadata[migratingMark] != "") {
			t.Errorf("%s is %+v", f.newName, s.CachedInfo().Config)
		}
	}
	if _, err := js.CreateOrUpdateKeyValue(t.Context(), jetstream.KeyValueConfig{Bucket: "keys", History: 1}); err == nil {
		t.Error("an older build could start")
	}
}

// readOlder returns the messages of an older store.
func readOlder(t *testing.T, name string) map[string][]string {
	t.Helper()
	_, js := startNATS(t, olderStore(t, name))
	return dumpOlder(t, js)
}

// TestMigrationKeepsEveryMessage checks that each message of an older store has its
// sequence number, time, header and data after the migration.
func TestMigrationKeepsEveryMessage(t *testing.T) {
	for _, name := range olderStores {
		t.Run(name, func(t *testing.T) {
			want := readOlder(t, name)
			if len(want["bellhop_events"]) < 10 || len(want["bellhop_outbox"]) < 4 || len(want["KV_bellhop_calls"]) < 2 {
				t.Fatalf("the older store has %v", want)
			}
			t.Run("embedded", func(t *testing.T) {
				c := storeConfig(olderStore(t, name))
				js, closeStore := opened(t, c)
				wantMigrated(t, js, want)
				if _, err := sharedKey(t.Context(), js, c); err != nil {
					t.Error(err)
				}
				closeStore()
				js, _ = opened(t, c) // once more there is nothing to do
				wantMigrated(t, js, want)
			})
			t.Run("shared", func(t *testing.T) {
				c, theirs := sharedStore(t, name)
				js, _ := opened(t, c)
				wantMigrated(t, js, want)
				if _, err := sharedKey(t.Context(), js, c); err != nil {
					t.Error(err)
				}
				// Another node comes, which has no key yet.
				other := storeConfig(t.TempDir())
				other.Store.NATS = c.Store.NATS
				js, _ = opened(t, other)
				if _, err := sharedKey(t.Context(), js, other); err != nil {
					t.Error(err)
				}
				wantMigrated(t, theirs, want)
			})
		})
	}
}

// embedded starts the server of an older embedded store, and returns its migration.
func embedded(t *testing.T, dir string) (*migration, func()) {
	t.Helper()
	c := storeConfig(dir)
	m := newSupervisor(c, quiet())
	m.checker = openStoreChecker(c, quiet())
	if err := m.startEmbedded(); err != nil {
		t.Fatal(err)
	}
	nc := must[*nats.Conn](t)(connectStore(c, m, quiet()))
	js := must[jetstream.JetStream](t)(jetstream.New(nc, jetstream.WithDefaultTimeout(patience)))
	return &migration{js: js, config: c, embedded: true, checker: m.checker, log: quiet(), stalled: patience}, func() {
		nc.Close()
		m.stopEmbedded()
	}
}

// TestKilledMigrationContinues kills a migration before each of its steps: the next
// start continues it, without losing a message or reporting a loss.
func TestKilledMigrationContinues(t *testing.T) {
	for _, name := range olderStores {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			want := readOlder(t, name)
			g, stop := embedded(t, olderStore(t, name))
			defer stop()
			g.checker.recordStates(t.Context(), g.js) // the ledger has the older names
			killed := make(map[string]string)         // by step
			copied := t.TempDir()
			g.between = func(step string) {
				killed[step] = filepath.Join(copied, fmt.Sprint(len(killed)))
				if err := copyStore(killed[step], g.config.Store.Dir); err != nil {
					t.Error(err)
				}
			}
			if err := g.run(t.Context()); err != nil {
				t.Fatal(err)
			}
			wantMigrated(t, g.js, want)
			if len(killed) < 3*len(want) {
				t.Errorf("steps are %v", slices.Sorted(maps.Keys(killed)))
			}
			for step, dir := range killed {
				t.Run(step, func(t *testing.T) {
					js, m, closeStore, err := openStore(t.Context(), storeConfig(dir), quiet())
					if err != nil {
						t.Fatal(err)
					}
					defer closeStore()
					wantMigrated(t, js, want)
					if lost := m.checker.allLosses(); len(lost) > 0 {
						t.Errorf("lost: %+v", lost)
					}
					for stream := range m.checker.ledger.Streams {
						if stream != keyStream && currentName(stream) != stream {
							t.Errorf("the ledger has %s still", stream)
						}
					}
				})
			}
		})
	}
}

// TestReadsOlderSnapshot restores lost entries of an older store from a snapshot with
// the older bucket names, and keeps the losses known before.
func TestReadsOlderSnapshot(t *testing.T) {
	dir := olderStore(t, "378cfc6-all")
	g, stop := embedded(t, dir)
	buckets := make(map[string]map[string]bucketEntry)
	for _, name := range []string{"SUBSCRIPTIONS", "TOKENS"} {
		buckets[name] = must[map[string]bucketEntry](t)(copyBucket(t.Context(), bucketOf(t, g.js, name)))
	}
	if err := writeSealed(filepath.Join(dir, "snapshot"), must[[]byte](t)(json.Marshal(buckets))); err != nil {
		t.Fatal(err)
	}
	lost := slices.Min(slices.Collect(maps.Keys(buckets["SUBSCRIPTIONS"])))
	if err := must[jetstream.Stream](t)(g.js.Stream(t.Context(), "KV_SUBSCRIPTIONS")).Purge(t.Context(), jetstream.WithPurgeSubject("$KV.SUBSCRIPTIONS."+lost)); err != nil {
		t.Fatal(err)
	}
	g.checker.addLosses("EVENTS", []loss{{Stream: "EVENTS", First: 3, Last: 3, Records: 1}}, true)
	g.checker.saveLedger()
	stop()

	js, m, closeStore, err := openStore(t.Context(), storeConfig(dir), quiet())
	if err != nil {
		t.Fatal(err)
	}
	defer closeStore()
	s := openSnapshot(storeConfig(dir), m.checker.markRestored, quiet())
	if err := s.restoreBuckets(t.Context(), js); err != nil {
		t.Fatal(err)
	}
	for name, want := range buckets {
		got := must[map[string]bucketEntry](t)(copyBucket(t.Context(), bucketOf(t, js, "bellhop_"+strings.ToLower(name))))
		if len(got) != len(want) {
			t.Errorf("%s has %d keys, want %d", name, len(got), len(want))
		}
		for key, e := range want {
			if now := got[key]; string(now.Value) != string(e.Value) || now.Deleted != e.Deleted {
				t.Errorf("%s %s is %+v, want %+v", name, key, now, e)
			}
		}
	}
	if losses := m.checker.allLosses(); len(losses) != 1 || losses[0].Stream != "bellhop_events" || losses[0].What != "events" {
		t.Errorf("losses are %+v", losses)
	}
}
