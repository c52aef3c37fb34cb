package keep

import (
	"context"
	"fmt"
	"io/fs"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats-server/v2/server/ats"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/goleak"

	"bellhop/dialog"
)

func TestMain(m *testing.M) {
	ats.Register() // before any synctest bubble: else the server's clock would belong to the first one
	goleak.VerifyTestMain(m, goleak.IgnoreCurrent())
}

// openStore starts a server in this process and connects to it.
func openStore(t testing.TB, dir string) (jetstream.JetStream, func()) {
	t.Helper()
	s, err := server.NewServer(&server.Options{
		ServerName: "bellhop", DontListen: true, JetStream: true, StoreDir: dir, NoLog: true, NoSigs: true,
		SyncInterval: 24 * time.Hour, // syncing every virtual 0.1 s would make the tests slow
	})
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	if !s.ReadyForConnections(5 * time.Minute) {
		t.Fatal("the store does not start")
	}
	nc, err := nats.Connect("", nats.InProcessServer(s))
	if err != nil {
		t.Fatal(err)
	}
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	return js, func() {
		nc.Close()
		s.Shutdown()
		s.WaitForShutdown()
	}
}

// A fakeLog is the event log as a Keeper sees it.
type fakeLog struct {
	mu          sync.Mutex
	unpublished time.Time // of the oldest unpublished event; zero: all are published
	end         uint64
}

// setEnd sets the position of the last event.
func (l *fakeLog) setEnd(end uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.end = end
}

func (l *fakeLog) logEnd() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.end
}

func (l *fakeLog) setOldestUnpublished(unsaid time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.unpublished = unsaid
}

func (l *fakeLog) oldestUnpublished() (time.Time, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.unpublished, !l.unpublished.IsZero()
}

// openKeeper opens a Keeper, loads its calls and runs it until stop. calls are "id
// snapshot", sorted.
func openKeeper(t testing.TB, js jetstream.JetStream, l *fakeLog) (k *Keeper, calls []string, checkpoint Checkpoint, stop func()) {
	t.Helper()
	k, err := Open(t.Context(), js, Config{Node: "n1", OldestUnpublished: l.oldestUnpublished, LogEnd: l.logEnd, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	changes, checkpoint, err := k.Load(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range changes {
		calls = append(calls, c.Call+" "+string(c.Record))
	}
	slices.Sort(calls)
	ctx, cancel := context.WithCancel(context.Background())
	var run sync.WaitGroup
	run.Go(func() {
		if err := k.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	return k, calls, checkpoint, func() { cancel(); run.Wait() }
}

func snapshotOf(call, record string) dialog.Change {
	return dialog.Change{Call: call, Record: []byte(record)}
}
func endOf(call string) dialog.Change { return dialog.Change{Call: call} }

// runVirtual runs f in virtual time, with an empty directory for a store.
func runVirtual(t *testing.T, f func(t *testing.T, dir string)) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) { f(t, dir) })
}

// TestLiveCallsSurviveRestart: the next process loads the newest snapshot of each live
// call. The checkpoint is the end of the log at the time up to which the changes were
// complete.
func TestLiveCallsSurviveRestart(t *testing.T) {
	runVirtual(t, func(t *testing.T, dir string) {
		js, closeStore := openStore(t, dir)
		l := &fakeLog{end: 7}
		k, calls, checkpoint, stop := openKeeper(t, js, l)
		if len(calls) > 0 || checkpoint != (Checkpoint{}) {
			t.Errorf("a new store has %q, and the log is read from %v", calls, checkpoint)
		}
		now := time.Now()
		k.Put([]dialog.Change{snapshotOf("a", "1"), snapshotOf("b", "1"), snapshotOf("c", "1")}, now, now.Add(-time.Second))
		synctest.Wait()
		time.Sleep(time.Second)
		l.setEnd(9)
		now = time.Now()
		k.Put([]dialog.Change{snapshotOf("b", "2"), endOf("c"), snapshotOf("d", "1")}, now, now.Add(-time.Second))
		k.Put([]dialog.Change{endOf("d"), endOf("e")}, now, now.Add(-time.Second))
		stop()
		closeStore()

		js, closeStore = openStore(t, dir)
		_, calls, checkpoint, stop = openKeeper(t, js, l)
		if want := []string{"a 1", "b 2"}; !slices.Equal(calls, want) {
			t.Errorf("got %q, want %q", calls, want)
		}
		if want := (Checkpoint{Exists: true, Position: 7}); checkpoint != want {
			t.Errorf("the log is read from %v, want %v", checkpoint, want)
		}
		stop()
		closeStore()
	})
}

// TestNodesLoadTheirOwnCalls: nodes share the bucket, and each loads its own calls only.
func TestNodesLoadTheirOwnCalls(t *testing.T) {
	runVirtual(t, func(t *testing.T, dir string) {
		js, closeStore := openStore(t, dir)
		defer closeStore()
		k, _, _, stop := openKeeper(t, js, &fakeLog{})
		k.Put([]dialog.Change{snapshotOf("a", "1")}, time.Now(), time.Now())
		stop()
		other, err := Open(t.Context(), js, Config{Node: "n", OldestUnpublished: (&fakeLog{}).oldestUnpublished, LogEnd: (&fakeLog{}).logEnd})
		if err != nil {
			t.Fatal(err)
		}
		if calls, checkpoint, err := other.Load(t.Context()); len(calls) > 0 || checkpoint != (Checkpoint{}) || err != nil {
			t.Errorf("got %v, %v, %v of another node's", calls, checkpoint, err)
		}
	})
}

// TestChangeWaitsForItsEvents: a change is written once the event log has acknowledged
// the events before it. Until then the checkpoint stays.
func TestChangeWaitsForItsEvents(t *testing.T) {
	runVirtual(t, func(t *testing.T, dir string) {
		js, closeStore := openStore(t, dir)
		defer closeStore()
		l := &fakeLog{end: 3}
		k, _, _, stop := openKeeper(t, js, l)
		k.Put([]dialog.Change{snapshotOf("a", "1")}, time.Now(), time.Now())
		time.Sleep(time.Second)
		l.setOldestUnpublished(time.Now())
		l.setEnd(5)
		k.Put([]dialog.Change{endOf("a"), snapshotOf("b", "1")}, time.Now(), time.Now())
		time.Sleep(time.Minute)
		k.Put([]dialog.Change{snapshotOf("b", "2")}, time.Now(), time.Now())
		time.Sleep(time.Minute)
		if n := k.Pending(); n != 2 {
			t.Errorf("%d changes are pending, want 2", n)
		}
		reader, err := Open(t.Context(), js, Config{Node: "n1", OldestUnpublished: l.oldestUnpublished, LogEnd: l.logEnd})
		if err != nil {
			t.Fatal(err)
		}
		calls, checkpoint, err := reader.Load(t.Context())
		if len(calls) != 1 || calls[0].Call != "a" || checkpoint != (Checkpoint{Exists: true, Position: 3}) || err != nil {
			t.Errorf("the bucket has %v, and the log is read from %v; %v", calls, checkpoint, err)
		}
		l.setEnd(9)
		k.Put(nil, time.Now(), time.Now())
		l.setOldestUnpublished(time.Time{})
		time.Sleep(time.Second)
		calls, checkpoint, err = reader.Load(t.Context())
		if len(calls) != 1 || calls[0].Call != "b" || string(calls[0].Record) != "2" || checkpoint != (Checkpoint{Exists: true, Position: 9}) || err != nil {
			t.Errorf("the bucket has %v, and the log is read from %v; %v", calls, checkpoint, err)
		}
		stop()
	})
}

// TestLoadReadsOldCheckpoints: a checkpoint of an older version is a time; the next one
// is a position again. A checkpoint beyond the end of the log, as after the loss of the
// log, is read as the end.
func TestLoadReadsOldCheckpoints(t *testing.T) {
	runVirtual(t, func(t *testing.T, dir string) {
		js, closeStore := openStore(t, dir)
		defer closeStore()
		l := &fakeLog{end: 41}
		k, _, _, stop := openKeeper(t, js, l)
		stop()
		if _, err := k.bucket.PutString(t.Context(), k.checkpointKey(), "2026-11-30T20:12:53.5Z"); err != nil {
			t.Fatal(err)
		}
		k, _, checkpoint, stop := openKeeper(t, js, l)
		if want := (Checkpoint{Exists: true, Time: time.Date(2026, 11, 30, 20, 12, 48, 5e8, time.UTC)}); checkpoint != want {
			t.Errorf("with a checkpoint of an older version the log is read from %v, want %v", checkpoint, want)
		}
		k.Put([]dialog.Change{snapshotOf("a", "1")}, time.Now(), time.Now())
		stop()
		_, _, checkpoint, stop = openKeeper(t, js, l)
		if want := (Checkpoint{Exists: true, Position: 41}); checkpoint != want {
			t.Errorf("then the log is read from %v, want %v", checkpoint, want)
		}
		stop()
		l.setEnd(12)
		k, _, checkpoint, stop = openKeeper(t, js, l)
		if want := (Checkpoint{Exists: true, Position: 12}); checkpoint != want {
			t.Errorf("a log that ends before the checkpoint is read from %v, want %v", checkpoint, want)
		}
		l.setEnd(13)
		k.Put([]dialog.Change{snapshotOf("a", "2")}, time.Now(), time.Now())
		stop()
		_, _, checkpoint, stop = openKeeper(t, js, l)
		if want := (Checkpoint{Exists: true, Position: 13}); checkpoint != want {
			t.Errorf("and then from %v, want %v", checkpoint, want)
		}
		stop()
	})
}

// TestPutNeverBlocksWithoutStore: while the store is unreachable, Put does not block,
// and the number of pending changes is bounded by the number of live calls.
func TestPutNeverBlocksWithoutStore(t *testing.T) {
	runVirtual(t, func(t *testing.T, dir string) {
		js, closeStore := openStore(t, dir)
		k, _, _, stop := openKeeper(t, js, &fakeLog{})
		k.Put([]dialog.Change{snapshotOf("kept", "1")}, time.Now(), time.Now())
		time.Sleep(time.Second)
		closeStore()
		for i := range 10_000 {
			id := fmt.Sprint(i)
			k.Put([]dialog.Change{snapshotOf(id, "1")}, time.Now(), time.Now())
			k.Put([]dialog.Change{endOf(id)}, time.Now(), time.Now())
		}
		k.Put([]dialog.Change{endOf("kept")}, time.Now(), time.Now())
		time.Sleep(time.Minute)
		if n := k.Pending(); n < 1 || n > 3 {
			t.Errorf("%d changes are pending, want 1 to 3", n)
		}
		before := time.Now()
		stop()
		if took := time.Since(before); took > drainTimeout+time.Second {
			t.Errorf("Run took %v to end", took)
		}
	})
}

// TestBucketStaysSmall: 10,000 ended calls leave one small file and no message but the
// checkpoint.
func TestBucketStaysSmall(t *testing.T) {
	runVirtual(t, func(t *testing.T, dir string) {
		js, closeStore := openStore(t, dir)
		defer closeStore()
		k, _, _, stop := openKeeper(t, js, &fakeLog{})
		record := strings.Repeat("x", 2048)
		most := int64(0)
		for i := 0; i < 10_000; i += 100 {
			for _, put := range []func(id string) dialog.Change{
				func(id string) dialog.Change { return snapshotOf(id, record) },
				func(id string) dialog.Change { return snapshotOf(id, record) },
				endOf,
			} {
				var changes []dialog.Change
				for j := range 100 {
					changes = append(changes, put(fmt.Sprintf("%032x", i+j)))
				}
				k.Put(changes, time.Now(), time.Now())
				time.Sleep(time.Second)
			}
			most = max(most, sizeOfFiles(t, dir))
		}
		time.Sleep(purgeMarkerTTL + time.Minute)
		s, err := js.Stream(t.Context(), "KV_"+bucketName)
		if err != nil {
			t.Fatal(err)
		}
		if n := s.CachedInfo().State.Msgs; n != 1 {
			t.Errorf("the bucket has %d messages, want the checkpoint alone", n)
		}
		stop()
		t.Logf("%d bytes at most, %d at the end", most, sizeOfFiles(t, dir))
		if most > 16<<20 {
			t.Errorf("the store had %d bytes", most)
		}
	})
}

// sizeOfFiles returns the total size of the files in dir, in bytes.
func sizeOfFiles(t *testing.T, dir string) (n int64) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return nil // the server creates and removes files meanwhile
		}
		if info, err := d.Info(); err == nil {
			n += info.Size()
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// TestTooLargeSnapshotIsDropped: a snapshot over the size limit of the store delays no
// other call, and the next snapshot of its call is stored.
func TestTooLargeSnapshotIsDropped(t *testing.T) {
	runVirtual(t, func(t *testing.T, dir string) {
		js, closeStore := openStore(t, dir)
		defer closeStore()
		k, _, _, stop := openKeeper(t, js, &fakeLog{})
		k.Put([]dialog.Change{snapshotOf("a", "1"), snapshotOf("large", strings.Repeat("x", 2<<20)), snapshotOf("b", "1")}, time.Now(), time.Now())
		time.Sleep(time.Second)
		if n := k.Pending(); n != 0 || k.Dropped() != 1 {
			t.Errorf("%d changes are pending, %d are dropped; want 0 and 1", n, k.Dropped())
		}
		k.Put([]dialog.Change{snapshotOf("large", "2")}, time.Now(), time.Now())
		time.Sleep(time.Second)
		stop()
		_, calls, _, stop := openKeeper(t, js, &fakeLog{})
		defer stop()
		if want := []string{"a 1", "b 1", "large 2"}; !slices.Equal(calls, want) {
			t.Errorf("loaded calls are %v, want %v", calls, want)
		}
	})
}

// TestPanicDropsOneBatch: a panic in a write drops the changes of its batch only.
func TestPanicDropsOneBatch(t *testing.T) {
	runVirtual(t, func(t *testing.T, dir string) {
		js, closeStore := openStore(t, dir)
		defer closeStore()
		k, _, _, stop := openKeeper(t, js, &fakeLog{})
		defer stop()
		bad := []callChange{{"bad", nil}} // a nil change, which panics
		if err := k.writeBatchRecovered(t.Context(), bad, 1); err == nil || !strings.Contains(err.Error(), "panic") {
			t.Errorf("a panic is returned as %v", err)
		}
		k.Put([]dialog.Change{snapshotOf("good", "1")}, time.Now(), time.Now())
		time.Sleep(time.Second)
		if n := k.Pending(); n != 0 || k.Dropped() != 1 {
			t.Errorf("%d changes are pending, %d are dropped; want 0 and 1", n, k.Dropped())
		}
	})
}
