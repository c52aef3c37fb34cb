package store

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"bellhop/admin"
	"bellhop/admin/ops"
	"bellhop/cmd/bellhop/config"
	"bellhop/cmd/bellhop/store/storetest"
	"bellhop/dialog/keep"
	"bellhop/notify"
)

// openRooms opens all streams and buckets like bellhop.
func openRooms(t *testing.T, c config.Config) error {
	t.Helper()
	st, err := Open(t.Context(), c, quiet())
	if err != nil {
		return err
	}
	defer st.Close()
	if _, err := st.SharedKey(t.Context()); err != nil {
		return err
	}
	n, err := notify.Open(t.Context(), st, notify.Config{Node: "n1", Replicas: c.Store.Replicas, Log: quiet()})
	if err != nil {
		return err
	}
	if _, err := keep.Open(t.Context(), st, keep.Config{Node: "n1", Replicas: c.Store.Replicas, Log: quiet()}); err != nil {
		return err
	}
	_, err = admin.Open(t.Context(), st, admin.Config{Token: "secret", Config: ops.Config{Notifier: n, Replicas: c.Store.Replicas, Log: quiet()}})
	return err
}

// snapshotOf returns the configuration and all messages of every stream of other
// programs.
func snapshotOf(t *testing.T, js jetstream.JetStream) map[string]string {
	t.Helper()
	all := make(map[string]string)
	list := js.ListStreams(t.Context())
	for info := range list.Info() {
		if name := info.Config.Name; !isOwnStream(name) {
			b := must[[]byte](t)(json.Marshal(info.Config))
			all[name] = fmt.Sprintf("%s %v %d %d\n%s", b, info.Created, info.State.FirstSeq, info.State.LastSeq, strings.Join(dump(t, js, name), "\n"))
		}
	}
	if err := list.Err(); err != nil {
		t.Fatal(err)
	}
	return all
}

// wantUntouched fails the test if streams of other programs have changed.
func wantUntouched(t *testing.T, js jetstream.JetStream, want map[string]string) {
	t.Helper()
	got := snapshotOf(t, js)
	for name := range maps.Keys(want) {
		if got[name] != want[name] {
			t.Errorf("%s is\n%s\nwant\n%s", name, got[name], want[name])
		}
	}
	for name := range got {
		if _, known := want[name]; !known && name != keyStream {
			t.Errorf("%s was made", name)
		}
	}
}

// otherProgram creates the streams of another program, with two messages each and names
// that bellhop's streams once had.
func otherProgram(t *testing.T, js jetstream.JetStream, streams []jetstream.StreamConfig, buckets ...string) {
	t.Helper()
	for _, c := range streams {
		must[jetstream.Stream](t)(js.CreateStream(t.Context(), c))
		for i := range 2 {
			subject := strings.NewReplacer(">", "a.b.c", "*", "x").Replace(c.Subjects[0])
			must[*jetstream.PubAck](t)(js.Publish(t.Context(), subject, fmt.Appendf(nil, `{"order": %d}`, i)))
		}
	}
	for _, b := range buckets {
		kv := must[jetstream.KeyValue](t)(js.CreateKeyValue(t.Context(), jetstream.KeyValueConfig{Bucket: b, History: 1}))
		for _, key := range []string{"first", "second"} {
			must[uint64](t)(kv.PutString(t.Context(), key, `{"theirs": true}`))
		}
	}
}

// TestLeavesOtherProgramsStreams checks that the data of another program in a shared
// NATS stays unchanged, whatever its names, and that bellhop works beside it.
func TestLeavesOtherProgramsStreams(t *testing.T) {
	memory := jetstream.StreamConfig{Name: "EVENTS", Subjects: []string{"orders.>"}, Storage: jetstream.MemoryStorage}
	for _, tt := range []struct {
		name    string
		streams []jetstream.StreamConfig
		buckets []string
	}{
		{"other subjects", []jetstream.StreamConfig{
			{Name: "EVENTS", Subjects: []string{"orders.>"}, MaxAge: time.Hour}, {Name: "OUTBOX", Subjects: []string{"mail.*"}, MaxMsgs: 100},
			{Name: "ATTEMPTS", Subjects: []string{"login"}}, {Name: "AUDIT", Subjects: []string{"audit.>"}},
		}, nil},
		{"the same subjects", []jetstream.StreamConfig{
			{Name: "EVENTS", Subjects: []string{"event.>"}}, {Name: "OUTBOX", Subjects: []string{"delivery.>"}},
			{Name: "ATTEMPTS", Subjects: []string{"attempt.>"}}, {Name: "AUDIT", Subjects: []string{"audit"}},
		}, nil},
		{"buckets of another program", nil, []string{"keys", "SUBSCRIPTIONS", "TOKENS", "EXTENSIONS", "STANDINGS", "LEASES", "CALLS"}},
		{"in memory, and a queue", []jetstream.StreamConfig{memory, {Name: "OUTBOX", Subjects: []string{"delivery.>"}, Retention: jetstream.WorkQueuePolicy}}, []string{"CALLS"}},
		{"other names with the same subjects", []jetstream.StreamConfig{{Name: "SHOP", Subjects: []string{"event.>", "delivery.>", "attempt.>", "audit"}}}, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := storetest.Config(t.TempDir())
			url, js := startNATS(t, t.TempDir())
			c.Store.NATS = []config.NATSURL{config.NATSURL(url)}
			otherProgram(t, js, tt.streams, tt.buckets...)
			want := snapshotOf(t, js)
			for range 2 {
				if err := openRooms(t, c); err != nil {
					t.Error(err)
				}
				wantUntouched(t, js, want)
			}
		})
	}
}

// TestMigrationLeavesOtherProgramsStreams migrates an older store in a shared NATS.
// Streams of another program that have names of bellhop's older streams stay unchanged.
func TestMigrationLeavesOtherProgramsStreams(t *testing.T) {
	c, js := sharedStore(t, "d9dd3e8")
	for _, name := range []string{"KV_TOKENS", "AUDIT"} {
		if err := js.DeleteStream(t.Context(), name); err != nil {
			t.Fatal(err)
		}
	}
	older := dumpOlder(t, js)
	otherProgram(t, js, []jetstream.StreamConfig{{Name: "AUDIT", Subjects: []string{"audit"}}}, "TOKENS")
	want := snapshotOf(t, js)
	for name := range want {
		if name != "AUDIT" && name != "KV_TOKENS" {
			delete(want, name)
		}
	}
	st := opened(t, c)
	for name, messages := range older {
		if now := dump(t, st, name); !slices.Equal(now, messages) {
			t.Errorf("%s has %q, want %q", name, now, messages)
		}
	}
	st.Close()
	if err := openRooms(t, c); err != nil {
		t.Error(err)
	}
	wantUntouched(t, js, want)
}

// TestMigrationRejectsSharedBucket rejects a bucket with entries of bellhop and of
// another program.
func TestMigrationRejectsSharedBucket(t *testing.T) {
	c, js := sharedStore(t, "378cfc6-all")
	kv := must[jetstream.KeyValue](t)(js.KeyValue(t.Context(), "TOKENS"))
	must[uint64](t)(kv.PutString(t.Context(), "session", "theirs"))
	want := snapshotOf(t, js)
	wantError(t, openRooms(t, c), "TOKENS", "session", "another program", "move")
	wantUntouched(t, js, want)
	if err := kv.Purge(t.Context(), "session"); err != nil {
		t.Fatal(err)
	}
}

// TestRejectsStreamOfAnotherProgram checks that bellhop does not start beside a stream or
// bucket of another program that has a name or subjects of bellhop's, or one of a newer
// bellhop. It leaves the stream unchanged, and the error contains the remedy.
func TestRejectsStreamOfAnotherProgram(t *testing.T) {
	newer := map[string]string{storeMark: "3"}
	for _, tt := range []struct {
		name    string
		streams []jetstream.StreamConfig
		bucket  string
		mark    map[string]string
		words   []string
	}{
		{"event log", []jetstream.StreamConfig{{Name: "bellhop_events", Subjects: []string{"doors.>"}}}, "", nil, []string{"bellhop_events", "another program", "account"}},
		{"audit log", []jetstream.StreamConfig{{Name: "bellhop_audit", Subjects: []string{"bellhop.audit"}}}, "", nil, []string{"bellhop_audit", "another program"}},
		{"one bucket of another program", nil, "bellhop_calls", nil, []string{"KV_bellhop_calls", "another program"}},
		{"keys of another program", nil, "bellhop_keys", nil, []string{"KV_bellhop_keys", "another program"}},
		{"overlapping subjects", []jetstream.StreamConfig{{Name: "HOTEL", Subjects: []string{"bellhop.>"}}}, "", nil, []string{"subjects", "account"}},
		{"newer event log", []jetstream.StreamConfig{{Name: "bellhop_events", Subjects: []string{"doors.>"}, Metadata: newer}}, "", newer, []string{"bellhop_events", "version 3", "newer bellhop"}},
		{"newer keys", nil, "bellhop_keys", newer, []string{"KV_bellhop_keys", "version 3", "newer bellhop"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := storetest.Config(t.TempDir())
			url, js := startNATS(t, t.TempDir())
			c.Store.NATS = []config.NATSURL{config.NATSURL(url)}
			otherProgram(t, js, tt.streams)
			name := "KV_" + tt.bucket
			if tt.bucket != "" {
				must[jetstream.KeyValue](t)(js.CreateKeyValue(t.Context(), jetstream.KeyValueConfig{Bucket: tt.bucket, Metadata: tt.mark}))
			} else {
				name = tt.streams[0].Name
			}
			want := must[jetstream.Stream](t)(js.Stream(t.Context(), name)).CachedInfo()
			wantError(t, openRooms(t, c), tt.words...)
			got := must[jetstream.Stream](t)(js.Stream(t.Context(), name)).CachedInfo()
			if a, b := must[[]byte](t)(json.Marshal(got.Config)), must[[]byte](t)(json.Marshal(want.Config)); string(a) != string(b) {
				t.Errorf("it is %s, want %s", a, b)
			}
		})
	}
}

// TestRejectsNewerStore opens an embedded store of a newer version, which fails.
func TestRejectsNewerStore(t *testing.T) {
	c := storetest.Config(t.TempDir())
	st := opened(t, c)
	if _, err := st.SharedKey(t.Context()); err != nil {
		t.Fatal(err)
	}
	config := must[jetstream.Stream](t)(st.Stream(t.Context(), "KV_bellhop_keys")).CachedInfo().Config
	config.Metadata[storeMark] = fmt.Sprint(storeVersion + 1)
	must[jetstream.Stream](t)(st.UpdateStream(t.Context(), config))
	st.Close()
	_, err := Open(t.Context(), c, quiet())
	wantError(t, err, c.Store.Dir, "version 3", "newer bellhop", "backup")
}

// TestOlderBuildsDoNotStart checks that an older build, which opens the bucket keys
// first, does not start with an embedded store of this version, new or migrated.
func TestOlderBuildsDoNotStart(t *testing.T) {
	for name, dir := range map[string]string{"new": t.TempDir(), "migrated": storetest.Older(t, "378cfc6-all")} {
		t.Run(name, func(t *testing.T) {
			st := opened(t, storetest.Config(dir))
			_, err := st.JetStream.CreateOrUpdateKeyValue(t.Context(), jetstream.KeyValueConfig{Bucket: "keys", Description: "secrets that all nodes share"})
			if err == nil {
				t.Error("it could start")
			}
		})
	}
}

// TestMigrationRejectsRunningOlderBuild checks that a newer bellhop changes nothing while
// an older build runs, and that the error contains the remedy. The newer one starts once
// the older build has stopped.
func TestMigrationRejectsRunningOlderBuild(t *testing.T) {
	c, js := sharedStore(t, "d9dd3e8")
	kv := must[jetstream.KeyValue](t)(js.KeyValue(t.Context(), "SUBSCRIPTIONS"))
	watch := must[jetstream.KeyWatcher](t)(kv.WatchAll(t.Context()))
	want := snapshotOf(t, js)
	nc := must[*nats.Conn](t)(connectStore(c, nil, quiet()))
	defer nc.Close()
	g := &migration{js: must[jetstream.JetStream](t)(jetstream.New(nc, jetstream.WithDefaultTimeout(patience))), config: c, log: quiet(), stalled: patience}
	wantError(t, g.run(t.Context()), "older build", "stop")
	wantUntouched(t, js, want)
	if err := watch.Stop(); err != nil {
		t.Fatal(err)
	}
	if err := openRooms(t, c); err != nil {
		t.Error(err)
	}
}

// TestRejectsWritesOfOlderBuild checks that the store rejects the writes of an older
// node that was cut off during the migration, so that they stay in that node's memory.
func TestRejectsWritesOfOlderBuild(t *testing.T) {
	c, js := sharedStore(t, "378cfc6-all")
	nc := must[*nats.Conn](t)(connectStore(c, nil, quiet()))
	defer nc.Close()
	late := 0
	g := &migration{js: must[jetstream.JetStream](t)(jetstream.New(nc, jetstream.WithDefaultTimeout(patience))), config: c, log: quiet(), stalled: patience}
	g.between = func(step string) {
		if !strings.HasPrefix(step, "promote bellhop_") && !strings.HasPrefix(step, "delete") && step != "finish" {
			return
		}
		for _, subject := range []string{"event.GEYDC.call.late", "delivery.s.1", "attempt.s", "audit", "$KV.SUBSCRIPTIONS.late", "$KV.CALLS.mark.late"} {
			late++
			if ack, err := js.Publish(t.Context(), subject, []byte("{}"), jetstream.WithRetryAttempts(0)); err == nil {
				t.Errorf("before %s, %s was taken: %+v", step, subject, ack)
			}
		}
	}
	want := dumpOlder(t, js)
	if err := g.run(t.Context()); err != nil {
		t.Fatal(err)
	}
	wantMigrated(t, js, want)
	if late == 0 {
		t.Error("nothing was tried")
	}
}

// TestMigrationRejectsWrongKey rejects a node with the key of another store before
// anything is changed.
func TestMigrationRejectsWrongKey(t *testing.T) {
	c, js := sharedStore(t, "378cfc6-all")
	if err := errors.Join(writePrivate(c.Store.Dir+"/key", make([]byte, keySize))); err != nil {
		t.Fatal(err)
	}
	want := snapshotOf(t, js)
	wantError(t, openRooms(t, c), "key", "another store")
	wantUntouched(t, js, want)
}

// TestNodesMigrateTogether starts the nodes of a cluster at once with an older store:
// all succeed, and nothing is lost.
func TestNodesMigrateTogether(t *testing.T) {
	for range 3 {
		c, js := sharedStore(t, "d9dd3e8")
		want := dumpOlder(t, js)
		var nodes sync.WaitGroup
		for range 4 {
			other := storetest.Config(t.TempDir())
			other.Store.NATS = c.Store.NATS
			nodes.Go(func() {
				st, err := Open(t.Context(), other, quiet())
				if err != nil {
					t.Error(err)
					return
				}
				st.Close()
			})
		}
		nodes.Wait()
		wantMigrated(t, js, want)
	}
}
