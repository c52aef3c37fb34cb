package notify

import (
	"context"

	"github.com/nats-io/nats.go/jetstream"
)

// Numbers returns the extensions that have a number, because some callback needed
// one, and their numbers.
func (n *Notifier) Numbers(ctx context.Context) (map[string]uint64, error) {
	all := make(map[string]uint64)
	err := watch(ctx, n.numbers.kv, false, func(e jetstream.KeyValueEntry) error {
		all[string(e.Value())] = e.Revision()
		return nil
	})
	return all, err
}
