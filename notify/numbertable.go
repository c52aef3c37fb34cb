package notify

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"bellhop/dialog"
	"bellhop/notify/stream"

	"github.com/nats-io/nats.go/jetstream"
)

// A NumberTable allots numbers to extensions, for the dialects that send numbers. A number
// never changes.
type NumberTable struct {
	kv     jetstream.KeyValue
	stream jetstream.Stream // of kv

	mu    sync.RWMutex
	known map[string]uint64 // by user
}

// openExtensions opens the bucket that numbers extensions. The number of an extension is
// the revision at which its name was created, so no entry is ever rewritten or deleted.
func openExtensions(ctx context.Context, js jetstream.JetStream, c Config) (jetstream.KeyValue, error) {
	return openBucket(ctx, js, c, jetstream.KeyValueConfig{Bucket: "bellhop_extensions"})
}

// All returns all extensions that have a number, and their numbers. The first callback
// that needs the number of an extension allots it.
func (t *NumberTable) All(ctx context.Context) (map[string]uint64, error) {
	all := make(map[string]uint64)
	err := watchBucket(ctx, t.kv, false, func(e jetstream.KeyValueEntry) error {
		all[string(e.Value())] = e.Revision()
		return nil
	})
	return all, err
}

// Known returns the number of an extension from memory. It returns 0 if the extension has
// none, or this node has not learned it yet.
func (t *NumberTable) Known(user string) uint64 {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.known[user]
}

// watch reads the numbers allotted by all nodes into memory until ctx ends, so that a
// reader of events need not ask the store for each extension.
func (t *NumberTable) watch(ctx context.Context) error {
	return watchBucket(ctx, t.kv, true, func(e jetstream.KeyValueEntry) error {
		t.mu.Lock()
		defer t.mu.Unlock()
		t.known[string(e.Value())] = e.Revision()
		return nil
	})
}

// Extension returns the extension that has a number, or "" if there is none. The number
// is the position of the name in the stream of the bucket.
func (t *NumberTable) Extension(ctx context.Context, number uint64) (user string, err error) {
	if number == 0 {
		return "", nil
	}
	m, err := t.stream.GetMsg(ctx, number)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("find extension number %d: %w", number, err)
	}
	return string(m.Data), nil
}

// Number returns the number of an extension, or 0 if no callback has needed one yet.
func (t *NumberTable) Number(ctx context.Context, user string) (uint64, error) {
	if len(user) > dialog.MaxName {
		return 0, nil
	}
	e, err := t.kv.Get(ctx, stream.Base32Token(user))
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("read number of extension %s: %w", user, err)
	}
	return e.Revision(), nil
}

// Allot returns the number of an extension, and allots one if it has none. The same user
// in two domains has one number, because one bellhop serves one PBX.
func (t *NumberTable) Allot(ctx context.Context, user string) (uint64, error) {
	if id := t.Known(user); id != 0 {
		return id, nil
	}
	key := stream.Base32Token(user)
	id, err := t.kv.Create(ctx, key, []byte(user))
	if errors.Is(err, jetstream.ErrKeyExists) {
		var e jetstream.KeyValueEntry
		if e, err = t.kv.Get(ctx, key); err == nil {
			id = e.Revision()
		}
	}
	if err != nil {
		return 0, fmt.Errorf("allot number of extension %s: %w", user, err)
	}
	t.mu.Lock()
	t.known[user] = id
	t.mu.Unlock()
	return id, nil
}
