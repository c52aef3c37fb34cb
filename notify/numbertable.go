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

// numberTable allots numbers to extensions, for the dialects that send numbers.
type numberTable struct {
	kv     jetstream.KeyValue
	stream jetstream.Stream // of kv

	mu    sync.RWMutex
	known map[string]uint64 // by user
}

// Numbers returns all extensions that have a number, and their numbers. The first
// callback that needs the number of an extension allots it.
func (n *Notifier) Numbers(ctx context.Context) (map[string]uint64, error) {
	all := make(map[string]uint64)
	err := watchBucket(ctx, n.numbers.kv, false, func(e jetstream.KeyValueEntry) error {
		all[string(e.Value())] = e.Revision()
		return nil
	})
	return all, err
}

// KnownNumber returns the number of an extension from memory, without allotting one. It
// returns 0 if the extension has none, or this node has not learned it yet.
func (n *Notifier) KnownNumber(user string) uint64 {
	n.numbers.mu.RLock()
	defer n.numbers.mu.RUnlock()
	return n.numbers.known[user]
}

// watch reads the numbers allotted by all nodes into memory until ctx ends, so that a
// reader of events need not ask the store for each extension.
func (t *numberTable) watch(ctx context.Context) error {
	return watchBucket(ctx, t.kv, true, func(e jetstream.KeyValueEntry) error {
		t.mu.Lock()
		defer t.mu.Unlock()
		t.known[string(e.Value())] = e.Revision()
		return nil
	})
}

// ExtensionNumbered returns the extension that has a number in callbacks, or "" if there
// is none. The number is the position of the name in the stream of the bucket.
func (n *Notifier) ExtensionNumbered(ctx context.Context, number uint64) (user string, err error) {
	if number == 0 {
		return "", nil
	}
	m, err := n.numbers.stream.GetMsg(ctx, number)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("find extension number %d: %w", number, err)
	}
	return string(m.Data), nil
}

// ExtensionNumber returns the number of an extension, or 0 if no callback has needed one
// yet.
func (n *Notifier) ExtensionNumber(ctx context.Context, user string) (uint64, error) {
	if len(user) > dialog.MaxName {
		return 0, nil
	}
	e, err := n.numbers.kv.Get(ctx, stream.Base32Token(user))
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("read number of extension %s: %w", user, err)
	}
	return e.Revision(), nil
}

// NumberExtension returns the number of an extension, and allots one if it has none. A
// number never changes.
func (n *Notifier) NumberExtension(ctx context.Context, user string) (uint64, error) {
	return n.numbers.allotNumber(ctx, user)
}

// allotNumber returns the number of an extension. It allots the number on first use, and
// never changes it. The same user in two domains has one number, because one bellhop
// serves one PBX.
func (t *numberTable) allotNumber(ctx context.Context, user string) (uint64, error) {
	t.mu.RLock()
	id, ok := t.known[user]
	t.mu.RUnlock()
	if ok {
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
