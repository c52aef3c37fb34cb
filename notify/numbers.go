package notify

import (
	"context"
	"fmt"

	"github.com/nats-io/nats.go/jetstream"
)

// Numbers returns the extensions that have a number, because some callback needed
// one, and their numbers.
func (n *Notifier) Numbers(ctx context.Context) (map[string]uint64, error) {
	w, err := n.numbers.kv.WatchAll(ctx)
	if err != nil {
		return nil, fmt.Errorf("bucket EXTENSIONS: %w", err)
	}
	defer w.Stop()
	all := make(map[string]uint64)
	for {
		var e jetstream.KeyValueEntry
		select {
		case e = <-w.Updates():
		case <-ctx.Done():
			return nil, fmt.Errorf("bucket EXTENSIONS: %w", ctx.Err())
		}
		if e == nil { // that was all
			return all, nil
		}
		all[string(e.Value())] = e.Revision()
	}
}
