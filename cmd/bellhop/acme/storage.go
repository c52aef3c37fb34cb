package acme

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"sync"
	"time"

	"github.com/caddyserver/certmagic"
	"github.com/nats-io/nats.go/jetstream"
)

// A lock that its owner does not release, because it was killed, expires after lockExpiry.
// The wait for a lock looks every lockPoll whether it is free.
const (
	lockExpiry = 5 * time.Minute
	lockPoll   = time.Second

	lockTimeout = 2 * time.Second // of a request that acquires or releases a lock
)

// bucketStorage stores certificates, keys and the account in a bucket that all nodes share.
// It implements [certmagic.Storage]. The keys of certmagic are paths.
//
// A lock is an entry of a second bucket. One node at a time can create it.
type bucketStorage struct {
	files, locks jetstream.KeyValue

	mu   sync.Mutex
	held map[string]uint64 // revision of each lock that this node holds
}

// openStorage opens the buckets, and creates what is missing.
func openStorage(ctx context.Context, js jetstream.JetStream, replicas int) (*bucketStorage, error) {
	s := &bucketStorage{held: map[string]uint64{}}
	for _, b := range []struct {
		kv     *jetstream.KeyValue
		config jetstream.KeyValueConfig
	}{
		{&s.files, jetstream.KeyValueConfig{Bucket: "bellhop_acme", Description: "certificates of ACME, with their keys"}},
		{&s.locks, jetstream.KeyValueConfig{Bucket: "bellhop_acme_locks", TTL: lockExpiry}},
	} {
		var err error
		b.config.History, b.config.Storage, b.config.Replicas = 1, jetstream.FileStorage, replicas
		if *b.kv, err = js.CreateOrUpdateKeyValue(ctx, b.config); err != nil {
			return nil, fmt.Errorf("open bucket %s: %w", b.config.Bucket, err)
		}
	}
	return s, nil
}

// escape returns the key of a bucket for a path. Other characters than those of host names
// become = and two hexadecimal digits.
func escape(path string) string {
	var b strings.Builder
	for _, c := range []byte(path) {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '-', c == '_', c == '.', c == '/':
			b.WriteByte(c)
		default:
			fmt.Fprintf(&b, "=%02x", c)
		}
	}
	return b.String()
}

// notExist returns the error that certmagic expects if a key does not exist.
func notExist(err error) error {
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return fs.ErrNotExist
	}
	return err
}

// Store implements [certmagic.Storage].
func (s *bucketStorage) Store(ctx context.Context, path string, value []byte) error {
	_, err := s.files.Put(ctx, escape(path), value)
	return err
}

// Load implements [certmagic.Storage].
func (s *bucketStorage) Load(ctx context.Context, path string) ([]byte, error) {
	e, err := s.files.Get(ctx, escape(path))
	if err != nil {
		return nil, notExist(err)
	}
	return e.Value(), nil
}

// Exists implements [certmagic.Storage].
func (s *bucketStorage) Exists(ctx context.Context, path string) bool {
	_, err := s.Stat(ctx, path)
	return err == nil
}

// Stat implements [certmagic.Storage].
func (s *bucketStorage) Stat(ctx context.Context, path string) (certmagic.KeyInfo, error) {
	e, err := s.files.Get(ctx, escape(path))
	if err != nil {
		return certmagic.KeyInfo{}, notExist(err)
	}
	return certmagic.KeyInfo{Key: path, Modified: e.Created(), Size: int64(len(e.Value())), IsTerminal: true}, nil
}

// Delete implements [certmagic.Storage] for a file. certmagic deletes the files of a
// folder before the folder, so a folder needs no deletion.
func (s *bucketStorage) Delete(ctx context.Context, path string) error {
	return s.files.Purge(ctx, escape(path))
}

// List is not supported. certmagic lists only to find an account without an email address
// or by its key, and for functions that bellhop does not call.
func (s *bucketStorage) List(context.Context, string, bool) ([]string, error) {
	return nil, fmt.Errorf("list the store of ACME: %w", errors.ErrUnsupported)
}

// Lock implements [certmagic.Locker]. It waits until no other node has the lock.
func (s *bucketStorage) Lock(ctx context.Context, name string) error {
	for {
		err := s.tryLock(ctx, name)
		if err == nil {
			return nil
		}
		if !errors.Is(err, jetstream.ErrKeyExists) {
			return fmt.Errorf("acquire lock %s: %w", name, err)
		}
		select {
		case <-time.After(lockPoll):
		case <-ctx.Done():
			return fmt.Errorf("acquire lock %s, which another node has: %w", name, ctx.Err())
		}
	}
}

// tryLock acquires a lock if no node has it. The request does not end with ctx: the store
// might have granted a lock that nobody releases then.
func (s *bucketStorage) tryLock(ctx context.Context, name string) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), lockTimeout)
	defer cancel()
	revision, err := s.locks.Create(ctx, escape(name), nil)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.held[name] = revision
	return nil
}

// Unlock implements [certmagic.Locker]. It also releases the lock when ctx has ended, and
// leaves the lock of another node alone if this one has expired.
func (s *bucketStorage) Unlock(ctx context.Context, name string) error {
	s.mu.Lock()
	revision, held := s.held[name]
	delete(s.held, name)
	s.mu.Unlock()
	if !held {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), lockTimeout)
	defer cancel()
	return s.locks.Delete(ctx, escape(name), jetstream.LastRevision(revision))
}
