package notify

import (
	"context"

	"github.com/nats-io/nats.go/jetstream"
)

// Numbers returns all extensions that have a number, and their numbers. A callback that
// needs a number allots it.
func (n *Notifier) Numbers(ctx context.Context) (map[string]uint64, error) {
	all := make(map[string]uint64)
	err := watchBucket(ctx, n.numbers.kv, false, func(e jetstream.KeyValueEntry) error {
		all[string(e.Value())] = e.Revision()
		return nil
	})
	return all, err
}

// KnownNumber returns the number of an extension without allotting one; 0 if it has none,
// or this node has not learned of it yet. It reads memory only.
func (n *Notifier) KnownNumber(user string) uint64 {
	n.numbers.mu.RLock()
	defer n.numbers.mu.RUnlock()
	return n.numbers.known[user]
}

// watch keeps the numbers allotted by all nodes in memory until ctx ends: a reader of
// events must not ask the store for each name.
func (t *numberTable) watch(ctx context.Context) error {
	return watchBucket(ctx, t.kv, true, func(e jetstream.KeyValueEntry) error {
		t.mu.Lock()
		defer t.mu.Unlock()
		t.known[string(e.Value())] = e.Revision()
		return nil
	})
}
