package notify

import (
	"context"

	"github.com/nats-io/nats.go/jetstream"
)

// Numbers returns the extensions that have a number, because some callback needed
// one, and their numbers.
func (n *Notifier) Numbers(ctx context.Context) (map[string]uint64, error) {
	all := make(map[string]uint64)
	err := watchBucket(ctx, n.numbers.kv, false, func(e jetstream.KeyValueEntry) error {
		all[string(e.Value())] = e.Revision()
		return nil
	})
	return all, err
}

// KnownNumber returns the number of an extension, and allots none; 0 if none is
// allotted, or this node has not heard of it yet. It reads memory alone.
func (n *Notifier) KnownNumber(user string) uint64 {
	n.numbers.mu.RLock()
	defer n.numbers.mu.RUnlock()
	return n.numbers.known[user]
}

// watch keeps all numbers that any node has allotted in memory, until ctx ends: who
// reads events must not ask the store for each name.
func (t *numberTable) watch(ctx context.Context) error {
	return watchBucket(ctx, t.kv, true, func(e jetstream.KeyValueEntry) error {
		t.mu.Lock()
		defer t.mu.Unlock()
		t.known[string(e.Value())] = e.Revision()
		return nil
	})
}
