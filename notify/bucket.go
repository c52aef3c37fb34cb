package notify

import (
	"context"
	"fmt"

	"github.com/nats-io/nats.go/jetstream"
)

// openBucket opens a bucket that keeps the last value of each key.
func openBucket(ctx context.Context, js jetstream.JetStream, c Config, b jetstream.KeyValueConfig) (jetstream.KeyValue, error) {
	b.History, b.Storage, b.Replicas = 1, jetstream.FileStorage, c.Replicas
	kv, err := js.CreateOrUpdateKeyValue(ctx, b)
	if err != nil {
		return nil, fmt.Errorf("open bucket %s: %w", b.Bucket, err)
	}
	return kv, nil
}

// watchBucket calls f for every key of a bucket. If forever is true, it then calls f for
// every change until ctx ends. It stops at the first error of f, of the store or of ctx,
// and returns it.
func watchBucket(ctx context.Context, kv jetstream.KeyValue, forever bool, f func(jetstream.KeyValueEntry) error) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	w, err := kv.WatchAll(ctx)
	if err != nil {
		return fmt.Errorf("watch bucket %s: %w", kv.Bucket(), err)
	}
	defer w.Stop()
	for {
		select {
		case <-ctx.Done():
			return fmt.Errorf("watch bucket %s: %w", kv.Bucket(), ctx.Err())
		case e, open := <-w.Updates():
			switch {
			case !open:
				return fmt.Errorf("watch bucket %s: closed", kv.Bucket())
			case e == nil && !forever: // all current keys were seen
				return nil
			case e == nil:
			default:
				if err := f(e); err != nil {
					return err
				}
			}
		}
	}
}
