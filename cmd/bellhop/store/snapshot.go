package store

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"bellhop/cmd/bellhop/config"
)

// A bucketSnapshot is a copy of the buckets of subscriptions and tokens in the file
// snapshot of store.dir. Entries that damage to the store has destroyed are restored
// from it. The previous copy is kept in the file snapshot.old.
//
// The snapshot is written 50 ms after a change. At the start, an entry of a bucket that
// is missing, or is older than in the snapshot, is written or deleted again. The
// revisions of the two tell which is older. A deletion leaves a marker with a revision,
// both in the bucket and in the snapshot. So a snapshot that is older than a deletion
// never undoes it. If damage destroys a marker in the bucket and an old value
// reappears, the value is deleted again.
//
// There is no snapshot of store.nats, because its servers have replicas and several
// bellhops write to it.
type bucketSnapshot struct {
	path     string
	log      *slog.Logger
	restored func(stream string, upTo uint64) // called after a restore up to a revision
	prepared <-chan struct{}                  // receives after the store was opened anew; nil: never

	buckets map[string]map[string]bucketEntry // by bucket and key; used by one goroutine at a time
}

// A bucketEntry is the snapshot of a key. Its JSON form is stored: only add fields.
type bucketEntry struct {
	Revision uint64 `json:"revision"`
	Deleted  bool   `json:"deleted,omitempty"`
	Value    []byte `json:"value,omitempty"`
}

// snapshotBuckets are the buckets in the snapshot, with a word for their entries.
var snapshotBuckets = []struct{ bucket, entry string }{{"bellhop_subscriptions", "subscription"}, {"bellhop_tokens", "token"}}

const (
	snapshotPause = 50 * time.Millisecond // wait for further changes before writing
	restoreRetry  = 5 * time.Second       // after a failed restore
	bucketTimeout = 30 * time.Second      // to read and restore the buckets
)

// openSnapshot reads the snapshot of a store. If it cannot be read, openSnapshot reads
// the previous one. If neither can be read, the result is empty.
func openSnapshot(c config.Config, restored func(string, uint64), log *slog.Logger) *bucketSnapshot {
	s := &bucketSnapshot{path: filepath.Join(c.Store.Dir, "snapshot"), log: log, restored: restored}
	for _, path := range []string{s.path, s.path + ".old"} {
		s.buckets = make(map[string]map[string]bucketEntry)
		err := readSealed(path, &s.buckets)
		if err == nil {
			break
		}
		s.buckets = nil
		if !errors.Is(err, fs.ErrNotExist) {
			log.Error("snapshot unreadable", "err", err)
		}
	}
	if s.buckets == nil {
		s.buckets = make(map[string]map[string]bucketEntry)
	}
	for _, name := range slices.Collect(maps.Keys(s.buckets)) {
		now := strings.TrimPrefix(currentName("KV_"+name), "KV_")
		if all := s.buckets[name]; now != name { // written by an older version
			delete(s.buckets, name)
			if s.buckets[now] == nil {
				s.buckets[now] = all
			}
		}
	}
	return s
}

// restoreBuckets restores missing and outdated entries of the buckets of js from the
// snapshot, and then updates the snapshot from the buckets.
func (s *bucketSnapshot) restoreBuckets(ctx context.Context, js jetstream.JetStream) error {
	ctx, cancel := context.WithTimeout(ctx, bucketTimeout)
	defer cancel()
	for _, c := range snapshotBuckets {
		kept := s.buckets[c.bucket]
		kv, err := js.KeyValue(ctx, c.bucket)
		if errors.Is(err, jetstream.ErrBucketNotFound) && len(kept) > 0 {
			kv, err = js.CreateKeyValue(ctx, jetstream.KeyValueConfig{Bucket: c.bucket, History: 1, Storage: jetstream.FileStorage})
		}
		if errors.Is(err, jetstream.ErrBucketNotFound) {
			continue // the bucket was never used
		}
		if err != nil {
			return fmt.Errorf("restore bucket %s: %w", c.bucket, err)
		}
		now, err := copyBucket(ctx, kv)
		if err != nil {
			return err
		}
		upTo := uint64(0)
		for key, want := range kept {
			upTo = max(upTo, want.Revision)
			if now[key].Revision >= want.Revision {
				continue
			}
			if err := restoreEntry(ctx, kv, key, now[key], want); err != nil {
				return fmt.Errorf("restore %s %s: %w", c.entry, key, err)
			}
			switch {
			case !want.Deleted:
				s.log.Warn(c.entry+" restored from the snapshot", "id", key)
			case now[key].Revision > 0:
				s.log.Warn(c.entry+" deleted again from the snapshot", "id", key)
			}
		}
		if now, err = copyBucket(ctx, kv); err != nil {
			return err
		}
		s.buckets[c.bucket] = now
		s.restored("KV_"+c.bucket, upTo)
	}
	return s.writeSnapshot()
}

// restoreEntry replaces the entry now of a bucket with the entry want of the snapshot.
func restoreEntry(ctx context.Context, kv jetstream.KeyValue, key string, now, want bucketEntry) (err error) {
	if !want.Deleted {
		_, err = kv.Update(ctx, key, want.Value, now.Revision)
		return err
	}
	return kv.Delete(ctx, key, jetstream.LastRevision(now.Revision))
}

// copyBucket returns all entries of a bucket, including the markers of deleted keys.
func copyBucket(ctx context.Context, kv jetstream.KeyValue) (map[string]bucketEntry, error) {
	w, err := kv.WatchAll(ctx)
	if err != nil {
		return nil, fmt.Errorf("read bucket %s: %w", kv.Bucket(), err)
	}
	defer w.Stop()
	all := make(map[string]bucketEntry)
	for {
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("read bucket %s: %w", kv.Bucket(), ctx.Err())
		case e, open := <-w.Updates():
			if !open {
				return nil, fmt.Errorf("read bucket %s: watch closed", kv.Bucket())
			}
			if e == nil {
				return all, nil
			}
			all[e.Key()] = entryOf(e)
		}
	}
}

// entryOf converts an entry of a bucket.
func entryOf(e jetstream.KeyValueEntry) bucketEntry {
	if e.Operation() != jetstream.KeyValuePut {
		return bucketEntry{Revision: e.Revision(), Deleted: true}
	}
	return bucketEntry{Revision: e.Revision(), Value: e.Value()}
}

// writeSnapshot writes the snapshot if it has changed.
func (s *bucketSnapshot) writeSnapshot() error {
	b, err := json.Marshal(s.buckets)
	if err != nil {
		return fmt.Errorf("write snapshot: %w", err)
	}
	if old, err := config.ReadPrivate(s.path); err == nil {
		if _, body, _ := bytes.Cut(old, []byte("\n")); bytes.Equal(body, b) {
			return nil
		}
		// A damaged snapshot must not replace the previous one.
		if readSealed(s.path, new(map[string]map[string]bucketEntry)) == nil {
			os.Remove(s.path + ".old")
			if err := os.Link(s.path, s.path+".old"); err != nil {
				return fmt.Errorf("keep the previous snapshot: %w", err)
			}
		}
	}
	if err := writeSealed(s.path, b); err != nil {
		return fmt.Errorf("write snapshot: %w", err)
	}
	return nil
}

// run writes the snapshot after each change of a bucket, until ctx ends. Every hour, and
// after the store was opened anew, it restores entries that a bucket has lost. At the
// end it writes the current content of the buckets.
func (s *bucketSnapshot) run(ctx context.Context, js jetstream.JetStream) {
	defer s.writeFinal(context.WithoutCancel(ctx), js)
	for span := checkInterval; ctx.Err() == nil; {
		if err := s.watchBuckets(ctx, js, span); err != nil && ctx.Err() == nil {
			s.log.Warn("snapshot restarted", "err", err)
			sleepContext(ctx, time.Second)
		}
		if ctx.Err() != nil {
			return
		}
		span = checkInterval
		if err := s.restoreBuckets(ctx, js); err != nil {
			s.log.Warn("snapshot not compared", "err", err)
			span = restoreRetry
		}
	}
}

// watchBuckets writes the snapshot after each change of a bucket. It returns after span,
// when the store is opened anew, or when ctx ends.
func (s *bucketSnapshot) watchBuckets(ctx context.Context, js jetstream.JetStream, span time.Duration) error {
	var updates [2]<-chan jetstream.KeyValueEntry
	for i, c := range snapshotBuckets {
		kv, err := js.KeyValue(ctx, c.bucket)
		if err != nil {
			return fmt.Errorf("open bucket %s: %w", c.bucket, err)
		}
		w, err := kv.WatchAll(ctx)
		if err != nil {
			return fmt.Errorf("watch bucket %s: %w", c.bucket, err)
		}
		defer w.Stop()
		updates[i] = w.Updates()
	}
	over := time.NewTimer(span)
	defer over.Stop()
	var due <-chan time.Time // nil: no change to write
	for {
		var e jetstream.KeyValueEntry
		var i int
		open := true
		select {
		case e, open = <-updates[0]:
		case e, open = <-updates[1]:
			i = 1
		case <-due:
			due = nil
			if err := s.writeSnapshot(); err != nil {
				s.log.Warn("snapshot not written", "err", err)
				due = time.After(time.Second)
			}
		case <-over.C:
			return nil
		case <-s.prepared:
			return nil
		case <-ctx.Done():
			return nil
		}
		switch {
		case !open && ctx.Err() == nil:
			return errors.New("watch closed")
		case e != nil && s.updateEntry(snapshotBuckets[i].bucket, e.Key(), entryOf(e)) && due == nil:
			due = time.After(snapshotPause)
		}
	}
}

// updateEntry replaces an entry of the snapshot with c if c is newer, and reports
// whether it was.
func (s *bucketSnapshot) updateEntry(bucket, key string, c bucketEntry) bool {
	all := s.buckets[bucket]
	if all == nil {
		all = make(map[string]bucketEntry)
		s.buckets[bucket] = all
	}
	if c.Revision <= all[key].Revision {
		return false
	}
	all[key] = c
	return true
}

// writeFinal writes a snapshot of the current content of the buckets.
func (s *bucketSnapshot) writeFinal(ctx context.Context, js jetstream.JetStream) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	for _, c := range snapshotBuckets {
		kv, err := js.KeyValue(ctx, c.bucket)
		if err != nil {
			continue // the snapshot has the updates received so far
		}
		all, err := copyBucket(ctx, kv)
		if err != nil {
			continue
		}
		for key, entry := range all {
			s.updateEntry(c.bucket, key, entry)
		}
	}
	if err := s.writeSnapshot(); err != nil {
		s.log.Warn("snapshot not written", "err", err)
	}
}
