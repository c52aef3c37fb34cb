package store

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go/jetstream"

	"bellhop/cmd/bellhop/store/storetest"
)

// TestSnapshotKeepsDeletions checks that a deletion is never undone: the snapshot is
// older than the deletion, or is the only copy left, or the store has lost the marker.
func TestSnapshotKeepsDeletions(t *testing.T) {
	t.Parallel()
	d := newDamagedStore(t)
	const block = "KV_bellhop_tokens/msgs/1.blk"
	for _, tt := range []struct {
		name   string
		spoil  func(dir string)
		gone   bool // the deletion is in the snapshot when bellhop is killed
		damage bool
	}{
		{"killed before the snapshot is written", func(string) {}, false, false},
		{"snapshot damaged", func(dir string) { flipAt(t, filepath.Join(dir, "snapshot"), 100) }, true, false},
		{"snapshot gone", func(dir string) { os.Remove(filepath.Join(dir, "snapshot")) }, true, false},
		{"both snapshots gone", func(dir string) {
			os.Remove(filepath.Join(dir, "snapshot"))
			os.Remove(filepath.Join(dir, "snapshot.old"))
		}, true, false},
		{"marker damaged", func(dir string) {
			flipNear(t, filepath.Join(dir, streamsFolder, block), "$KV.bellhop_tokens.id7", 3)
		}, true, true},
		{"length of the marker damaged", func(dir string) {
			flipNear(t, filepath.Join(dir, streamsFolder, block), "$KV.bellhop_tokens.id7", -22)
		}, true, true},
	} {
		for _, clean := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s/%v", tt.name, clean), func(t *testing.T) {
				dir := damagedCopy(t, d.stopped, func(string) {})
				st := openTested(t, dir)
				check := st.supervisor.checker
				if err := bucketOf(t, st, "bellhop_tokens").Delete(t.Context(), "id7"); err != nil {
					t.Fatal(err)
				}
				if tt.gone {
					if err := st.snapshot.restoreBuckets(t.Context(), st); err != nil {
						t.Fatal(err)
					}
				}
				check.recordStates(t.Context(), st)
				if clean {
					st.Close()
				} else {
					dir = damagedCopy(t, dir, func(string) {})
				}
				tt.spoil(dir)
				st = openTested(t, dir)
				if e, err := bucketOf(t, st, "bellhop_tokens").Get(t.Context(), "id7"); !errors.Is(err, jetstream.ErrKeyNotFound) {
					t.Errorf("the token is there again: %v, %v", e, err)
				}
			})
		}
	}
}

// TestSnapshotFollowsChanges checks that the snapshot follows the buckets and is
// complete at the stop.
func TestSnapshotFollowsChanges(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	st := openTested(t, dir)
	stop := StartTask(func(ctx context.Context) { st.snapshot.run(ctx, st) })
	kv := bucketOf(t, st, "bellhop_subscriptions")
	must[uint64](t)(kv.PutString(t.Context(), "a", "1"))
	deadline := time.After(patience)
	for tick := time.Tick(10 * time.Millisecond); ; {
		s := openSnapshot(storetest.Config(dir), func(string, uint64) {}, quiet())
		if string(s.buckets["bellhop_subscriptions"]["a"].Value) == "1" {
			break
		}
		select {
		case <-tick:
		case <-deadline:
			t.Fatal("the snapshot is not written")
		}
	}
	must[uint64](t)(kv.PutString(t.Context(), "b", "2"))
	must[uint64](t)(bucketOf(t, st, "bellhop_tokens").PutString(t.Context(), "c", "3"))
	if err := kv.Delete(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	stop()
	s := openSnapshot(storetest.Config(dir), nil, quiet())
	want := map[string]map[string]bucketEntry{
		"bellhop_subscriptions": {"a": {Revision: 3, Deleted: true}, "b": {Revision: 2, Value: []byte("2")}},
		"bellhop_tokens":        {"c": {Revision: 1, Value: []byte("3")}},
	}
	if diff := cmp.Diff(want, s.buckets); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	wantMode(t, filepath.Join(dir, "snapshot"), 0o600)
	wantMode(t, filepath.Join(dir, "snapshot.old"), 0o600)
}

// TestSnapshotAfterEarlyStop stops before the snapshot watches the buckets, as right
// after the store was reopened: a complete snapshot is written all the same.
func TestSnapshotAfterEarlyStop(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	st := openTested(t, dir)
	must[uint64](t)(bucketOf(t, st, "bellhop_subscriptions").PutString(t.Context(), "a", "1"))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	st.snapshot.run(ctx, st)
	s := openSnapshot(storetest.Config(dir), nil, quiet())
	if got := string(s.buckets["bellhop_subscriptions"]["a"].Value); got != "1" {
		t.Errorf("the snapshot has %q", got)
	}
}
