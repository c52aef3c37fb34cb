package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// storeVersion is the version of the store that this build reads and writes.
// Version 1 had no mark, and streams with the names of [formerStreams].
const storeVersion = 2

// storeMark is the key of a stream's metadata that says that bellhop has made it.
// The value is the version of the store. It is stored: never change it.
const storeMark = "bellhop-store"

// An ownedStore creates streams and buckets with bellhop's mark, and refuses to use
// one that has another owner or is of a newer version.
type ownedStore struct{ jetstream.JetStream }

func (s ownedStore) CreateOrUpdateStream(ctx context.Context, c jetstream.StreamConfig) (jetstream.Stream, error) {
	if err := checkOwner(ctx, s.JetStream, c.Name); err != nil {
		return nil, err
	}
	c.Metadata = marks()
	stream, err := s.JetStream.CreateOrUpdateStream(ctx, c)
	return stream, withHint(err)
}

func (s ownedStore) CreateOrUpdateKeyValue(ctx context.Context, c jetstream.KeyValueConfig) (jetstream.KeyValue, error) {
	if err := checkOwner(ctx, s.JetStream, "KV_"+c.Bucket); err != nil {
		return nil, err
	}
	c.Metadata = marks()
	kv, err := s.JetStream.CreateOrUpdateKeyValue(ctx, c)
	return kv, withHint(err)
}

func (s ownedStore) CreateKeyValue(ctx context.Context, c jetstream.KeyValueConfig) (jetstream.KeyValue, error) {
	c.Metadata = marks()
	kv, err := s.JetStream.CreateKeyValue(ctx, c)
	return kv, withHint(err)
}

func marks() map[string]string { return map[string]string{storeMark: strconv.Itoa(storeVersion)} }

// checkOwner returns an error if a stream exists and is not bellhop's, or is of a
// newer version of the store.
func checkOwner(ctx context.Context, js jetstream.JetStream, name string) error {
	info, err := streamInfo(ctx, js, name)
	if err != nil || info == nil {
		return err
	}
	mark, marked := info.Config.Metadata[storeMark]
	if !marked {
		return fmt.Errorf("stream %s belongs to another program: its metadata has no %s; rename or remove it, or give bellhop a NATS account of its own", name, storeMark)
	}
	if version, err := strconv.Atoi(mark); err != nil || version > storeVersion {
		return fmt.Errorf("stream %s is of version %s of the store, and this bellhop knows version %d: start the newer bellhop, or restore the backup that was made before it", name, mark, storeVersion)
	}
	return nil
}

// streamInfo returns a stream as it is now; nil: there is none.
func streamInfo(ctx context.Context, js jetstream.JetStream, name string) (info *jetstream.StreamInfo, err error) {
	err = retried(ctx, func() error {
		s, err := js.Stream(ctx, name)
		if err == nil {
			info = s.CachedInfo()
		}
		return err
	})
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("look for stream %s: %w", name, err)
	}
	return info, nil
}

// leaderless is how long a stream of a cluster of NATS servers may have no leader, as
// when it is new or its leader has died.
const leaderless = 30 * time.Second

// retried calls f until it succeeds, fails for good, or has had no answer from a
// leader for too long.
func retried(ctx context.Context, f func() error) error {
	for began := time.Now(); ; sleep(ctx, 100*time.Millisecond) {
		err := f()
		var api *jetstream.APIError
		none := errors.Is(err, context.DeadlineExceeded) || errors.Is(err, nats.ErrTimeout) || errors.Is(err, nats.ErrNoResponders) ||
			errors.As(err, &api) && api.Code == 503
		if !none || ctx.Err() != nil || time.Since(began) > leaderless {
			return err
		}
	}
}

// withHint adds to an error what to do where another program's stream takes bellhop's subjects.
func withHint(err error) error {
	const subjectsOverlap = 10065
	var api *jetstream.APIError
	if errors.As(err, &api) && api.ErrorCode == subjectsOverlap {
		return fmt.Errorf("%w: another program's stream takes subjects of bellhop: change that, or give bellhop a NATS account of its own", err)
	}
	return err
}

// ownStream reports whether a stream has a name that bellhop gives.
func ownStream(name string) bool {
	return strings.HasPrefix(strings.TrimPrefix(name, "KV_"), "bellhop_")
}
