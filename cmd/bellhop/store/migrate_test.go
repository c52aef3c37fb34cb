package store

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"bellhop/cmd/bellhop/config"
	"bellhop/cmd/bellhop/store/storetest"
)

// sharedStore starts a NATS server with an older store, and returns the config of a
// bellhop that used it.
func sharedStore(t *testing.T, name string) (config.Config, jetstream.JetStream) {
	t.Helper()
	dir := storetest.Older(t, name)
	c := storetest.Config(t.TempDir())
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
	_, js := startNATS(t, storetest.Older(t, name))
	return dumpOlder(t, js)
}

// TestMigrationKeepsEveryMessage checks that each message of an older store has its
// sequence number, time, header and data after the migration.
func TestMigrationKeepsEveryMessage(t *testing.T) {
	for _, name := range storetest.OlderBuilds {
		t.Run(name, func(t *testing.T) {
			want := readOlder(t, name)
			if len(want["bellhop_events"]) < 10 || len(want["bellhop_outbox"]) < 4 || len(want["KV_bellhop_calls"]) < 2 {
				t.Fatalf("the older store has %v", want)
			}
			t.Run("embedded", func(t *testing.T) {
				c := storetest.Config(storetest.Older(t, name))
				st := opened(t, c)
				wantMigrated(t, st, want)
				if _, err := st.SharedKey(t.Context()); err != nil {
					t.Error(err)
				}
				st.Close()
				st = opened(t, c) // once more there is nothing to do
				wantMigrated(t, st, want)
			})
			t.Run("shared", func(t *testing.T) {
				c, theirs := sharedStore(t, name)
				st := opened(t, c)
				wantMigrated(t, st, want)
				if _, err := st.SharedKey(t.Context()); err != nil {
					t.Error(err)
				}
				// Another node comes, which has no key yet.
				other := storetest.Config(t.TempDir())
				other.Store.NATS = c.Store.NATS
				st = opened(t, other)
				if _, err := st.SharedKey(t.Context()); err != nil {
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
	c := storetest.Config(dir)
	m := newSupervisor(c, quiet())
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
	for _, name := range storetest.OlderBuilds {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			want := readOlder(t, name)
			g, stop := embedded(t, storetest.Older(t, name))
			defer stop()
			g.checker.recordStates(t.Context(), g.js) // the ledger has the older names
			killed := make(map[string]string)         // by step
			copied := t.TempDir()
			g.between = func(step string) {
				killed[step] = filepath.Join(copied, fmt.Sprint(len(killed)))
				if err := storetest.Copy(killed[step], g.config.Store.Dir); err != nil {
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
					st, err := Open(t.Context(), storetest.Config(dir), quiet())
					if err != nil {
						t.Fatal(err)
					}
					defer st.Close()
					wantMigrated(t, st, want)
					if lost := st.supervisor.checker.allLosses(); len(lost) > 0 {
						t.Errorf("lost: %+v", lost)
					}
					for stream := range st.supervisor.checker.ledger.Streams {
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
	dir := storetest.Older(t, "378cfc6-all")
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

	st, err := Open(t.Context(), storetest.Config(dir), quiet())
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	for name, want := range buckets {
		got := must[map[string]bucketEntry](t)(copyBucket(t.Context(), bucketOf(t, st, "bellhop_"+strings.ToLower(name))))
		if len(got) != len(want) {
			t.Errorf("%s has %d keys, want %d", name, len(got), len(want))
		}
		for key, e := range want {
			if now := got[key]; string(now.Value) != string(e.Value) || now.Deleted != e.Deleted {
				t.Errorf("%s %s is %+v, want %+v", name, key, now, e)
			}
		}
	}
	if losses := st.supervisor.checker.allLosses(); len(losses) != 1 || losses[0].Stream != "bellhop_events" || losses[0].What != "events" {
		t.Errorf("losses are %+v", losses)
	}
}
