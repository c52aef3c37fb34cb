package main

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
)

// A snapshot is a copy of the buckets of subscriptions and tokens in the file
// snapshot of store.dir, so that damage to the store costs none of them. The file
// before it is kept as snapshot.old.
//
// It is written a moment after a bucket has changed. At the start, each key of a
// bucket must be at least as new as in the snapshot; one that is not is written
// again, or deleted again. Deleting leaves a marker in the bucket, which has a
// revision as any value has, and is in the snapshot too. So a snapshot that is older
// than a deletion never undoes it, and an older value that the store finds again,
// because the block is damaged where the marker was, is deleted again.
//
// Of a store.nats there is none: its servers have replicas, and several bellhops
// write to it.
type snapshot struct {
	path     string
	log      *slog.Logger
	restored func(stream string, upTo uint64) // told which stream is complete again, up to which revision
	prepared <-chan struct{}                  // the store was opened anew; nil: never

	buckets map[string]map[string]copied // by bucket and key; of one goroutine at a time
}

// copied is what a snapshot has of one key. The JSON form is stored: fields are only
// ever added.
type copied struct {
	Revision uint64 `json:"revision"`
	Deleted  bool   `json:"deleted,omitempty"`
	Value    []byte `json:"value,omitempty"`
}

// copiedBuckets are the buckets of which there is a snapshot, and what an entry is.
var copiedBuckets = []struct{ bucket, entry string }{{"bellhop_subscriptions", "subscription"}, {"bellhop_tokens", "token"}}

const (
	snapshotPause = 50 * time.Millisecond // for further changes, before it is written
	restoreRetry  = 5 * time.Second       // after it failed
	bucketTimeout = 30 * time.Second      // for reading and restoring the buckets
)

// openSnapshot reads the snapshot of a store. What neither file has is not there.
func openSnapshot(c config, restored func(string, uint64), log *slog.Logger) *snapshot {
	s := &snapshot{path: filepath.Join(c.Store.Dir, "snapshot"), log: log, restored: restored}
	for _, path := range []string{s.path, s.path + ".old"} {
		s.buckets = make(map[string]map[string]copied)
		err := readSealed(path, &s.buckets)
		if err == nil {
			break
		}
		s.buckets = nil
		if !errors.Is(err, fs.ErrNotExist) {
			log.Error("snapshot not used", "err", err)
		}
	}
	if s.buckets == nil {
		s.buckets = make(map[string]map[string]copied)
	}
	for _, name := range slices.Collect(maps.Keys(s.buckets)) {
		now := strings.TrimPrefix(currentName("KV_"+name), "KV_")
		if all := s.buckets[name]; now != name { // an older version wrote it
			delete(s.buckets, name)
			if s.buckets[now] == nil {
				s.buckets[now] = all
			}
		}
	}
	return s
}

// restore brings the buckets of js up to the snapshot, and then the snapshot up to
// the buckets.
func (s *snapshot) restore(ctx context.Context, js jetstream.JetStream) error {
	ctx, cancel := context.WithTimeout(ctx, bucketTimeout)
	defer cancel()
	for _, c := range copiedBuckets {
		kept := s.buckets[c.bucket]
		kv, err := js.KeyValue(ctx, c.bucket)
		if errors.Is(err, jetstream.ErrBucketNotFound) && len(kept) > 0 {
			kv, err = js.CreateKeyValue(ctx, jetstream.KeyValueConfig{Bucket: c.bucket, History: 1, Storage: jetstream.FileStorage})
		}
		if errors.Is(err, jetstream.ErrBucketNotFound) {
			continue // nothing was ever in it
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
			if err := bringUp(ctx, kv, key, now[key], want); err != nil {
				return fmt.Errorf("restore %s %s: %w", c.entry, key, err)
			}
			switch {
			case !want.Deleted:
				s.log.Warn(c.entry+" restored from the snapshot", "id", key)
			case now[key].Revision > 0:
				s.log.Warn(c.entry+" deleted again", "id", key)
			}
		}
		if now, err = copyBucket(ctx, kv); err != nil {
			return err
		}
		s.buckets[c.bucket] = now
		s.restored("KV_"+c.bucket, upTo)
	}
	return s.write()
}

// bringUp writes what the snapshot has of a key over what the bucket has.
func bringUp(ctx context.Context, kv jetstream.KeyValue, key string, now, want copied) (err error) {
	if !want.Deleted {
		_, err = kv.Update(ctx, key, want.Value, now.Revision)
		return err
	}
	return kv.Delete(ctx, key, jetstream.LastRevision(now.Revision))
}

// copyBucket returns all that a bucket has, with the markers of what was deleted.
func copyBucket(ctx context.Context, kv jetstream.KeyValue) (map[string]copied, error) {
	w, err := kv.WatchAll(ctx)
	if err != nil {
		return nil, fmt.Errorf("read bucket %s: %w", kv.Bucket(), err)
	}
	defer w.Stop()
	all := make(map[string]copied)
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
			all[e.Key()] = copyOf(e)
		}
	}
}

func copyOf(e jetstream.KeyValueEntry) copied {
	if e.Operation() != jetstream.KeyValuePut {
		return copied{Revision: e.Revision(), Deleted: true}
	}
	return copied{Revision: e.Revision(), Value: e.Value()}
}

// write writes the snapshot if it has changed.
func (s *snapshot) write() error {
	b, err := json.Marshal(s.buckets)
	if err != nil {
		return fmt.Errorf("write snapshot: %w", err)
	}
	if old, err := readPrivate(s.path); err == nil {
		if _, body, _ := bytes.Cut(old, []byte("\n")); bytes.Equal(body, b) {
			return nil
		}
		// A damaged one is not worth the place of the one before it.
		if readSealed(s.path, new(map[string]map[string]copied)) == nil {
			os.Remove(s.path + ".old")
			if err := os.Link(s.path, s.path+".old"); err != nil {
				return fmt.Errorf("keep the snapshot before: %w", err)
			}
		}
	}
	if err := writeSealed(s.path, b); err != nil {
		return fmt.Errorf("write snapshot: %w", err)
	}
	return nil
}

// run writes the snapshot whenever a bucket has changed, until ctx ends. Every hour,
// and when the store was opened anew, it restores what a bucket has lost meanwhile.
// Its last snapshot has what the buckets have when ctx ends.
func (s *snapshot) run(ctx context.Context, js jetstream.JetStream) {
	defer s.finish(context.WithoutCancel(ctx), js)
	for span := checkEvery; ctx.Err() == nil; {
		if err := s.follow(ctx, js, span); err != nil && ctx.Err() == nil {
			s.log.Warn("snapshot begun anew", "err", err)
			sleep(ctx, time.Second)
		}
		if ctx.Err() != nil {
			return
		}
		span = checkEvery
		if err := s.restore(ctx, js); err != nil {
			s.log.Warn("snapshot not compared", "err", err)
			span = restoreRetry
		}
	}
}

// follow writes the snapshot whenever a bucket has changed, for a span, until the
// store is opened anew, or until ctx ends.
func (s *snapshot) follow(ctx context.Context, js jetstream.JetStream, span time.Duration) error {
	var updates [2]<-chan jetstream.KeyValueEntry
	for i, c := range copiedBuckets {
		kv, err := js.KeyValue(ctx, c.bucket)
		if err != nil {
			return fmt.Errorf("bucket %s: %w", c.bucket, err)
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
	var due <-chan time.Time // nil: nothing is to be written
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
			if err := s.write(); err != nil {
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
		case e != nil && s.hear(copiedBuckets[i].bucket, e.Key(), copyOf(e)) && due == nil:
			due = time.After(snapshotPause)
		}
	}
}

// hear takes what a bucket has for a key, and reports whether that is new.
func (s *snapshot) hear(bucket, key string, c copied) bool {
	all := s.buckets[bucket]
	if all == nil {
		all = make(map[string]copied)
		s.buckets[bucket] = all
	}
	if c.Revision <= all[key].Revision {
		return false
	}
	all[key] = c
	return true
}

// finish writes the snapshot of what the buckets have now.
func (s *snapshot) finish(ctx context.Context, js jetstream.JetStream) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	for _, c := range copiedBuckets {
		kv, err := js.KeyValue(ctx, c.bucket)
		if err != nil {
			continue // what was heard of it is in the snapshot
		}
		all, err := copyBucket(ctx, kv)
		if err != nil {
			continue
		}
		for key, entry := range all {
			s.hear(c.bucket, key, entry)
		}
	}
	if err := s.write(); err != nil {
		s.log.Warn("snapshot not written", "err", err)
	}
}
