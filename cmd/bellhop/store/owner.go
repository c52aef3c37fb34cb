package store

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

// storeVersion is the version of the store that this build reads and writes. Version 1
// has no storeMark and the stream names of [olderStreams].
const storeVersion = 2

// storeMark is the metadata key of streams that bellhop created. Its value is the
// version of the store. It is stored: never change it.
const storeMark = "bellhop-store"

// CreateOrUpdateStream creates or updates a stream of bellhop. A stream of that name that
// belongs to another program, or is of a newer version, is an error.
func (s *Store) CreateOrUpdateStream(ctx context.Context, c jetstream.StreamConfig) (jetstream.Stream, error) {
	if err := checkOwner(ctx, s.JetStream, c.Name); err != nil {
		return nil, err
	}
	c.Metadata = ownerMetadata()
	stream, err := s.JetStream.CreateOrUpdateStream(ctx, c)
	return stream, withHint(err)
}

// CreateOrUpdateKeyValue creates or updates a bucket of bellhop. It fails for the same
// reasons as [Store.CreateOrUpdateStream].
func (s *Store) CreateOrUpdateKeyValue(ctx context.Context, c jetstream.KeyValueConfig) (jetstream.KeyValue, error) {
	if err := checkOwner(ctx, s.JetStream, "KV_"+c.Bucket); err != nil {
		return nil, err
	}
	c.Metadata = ownerMetadata()
	kv, err := s.JetStream.CreateOrUpdateKeyValue(ctx, c)
	return kv, withHint(err)
}

// CreateKeyValue creates a bucket of bellhop.
func (s *Store) CreateKeyValue(ctx context.Context, c jetstream.KeyValueConfig) (jetstream.KeyValue, error) {
	c.Metadata = ownerMetadata()
	kv, err := s.JetStream.CreateKeyValue(ctx, c)
	return kv, withHint(err)
}

// ownerMetadata returns the metadata of streams that bellhop creates.
func ownerMetadata() map[string]string {
	return map[string]string{storeMark: strconv.Itoa(storeVersion)}
}

// checkOwner returns an error if a stream exists and belongs to another program, or is
// of a newer version of the store.
func checkOwner(ctx context.Context, js jetstream.JetStream, name string) error {
	info, err := streamInfo(ctx, js, name)
	if err != nil || info == nil {
		return err
	}
	mark, marked := info.Config.Metadata[storeMark]
	if !marked {
		return fmt.Errorf("stream %s belongs to another program: its metadata has no %s; rename or remove it, or give bellhop its own NATS account", name, storeMark)
	}
	if version, err := strconv.Atoi(mark); err != nil || version > storeVersion {
		return fmt.Errorf("stream %s is of store version %s, but this bellhop supports version %d: run the newer bellhop, or restore a backup from before its first start", name, mark, storeVersion)
	}
	return nil
}

// streamInfo returns the current state of a stream, or nil if it does not exist.
func streamInfo(ctx context.Context, js jetstream.JetStream, name string) (info *jetstream.StreamInfo, err error) {
	err = retryLeaderless(ctx, func() error {
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

// leaderTimeout is how long a stream in a cluster may have no leader, as when it is new
// or its leader has died.
const leaderTimeout = 30 * time.Second

// retryLeaderless calls f until it succeeds or fails for good. It retries for up to
// leaderTimeout while no leader answers.
func retryLeaderless(ctx context.Context, f func() error) error {
	for began := time.Now(); ; sleepContext(ctx, 100*time.Millisecond) {
		err := f()
		var api *jetstream.APIError
		none := errors.Is(err, context.DeadlineExceeded) || errors.Is(err, nats.ErrTimeout) || errors.Is(err, nats.ErrNoResponders) ||
			errors.As(err, &api) && api.Code == 503
		if !none || ctx.Err() != nil || time.Since(began) > leaderTimeout {
			return err
		}
	}
}

// withHint adds a hint to err if it means that a stream of another program has subjects
// of bellhop.
func withHint(err error) error {
	const subjectsOverlap = 10065
	var api *jetstream.APIError
	if errors.As(err, &api) && api.ErrorCode == subjectsOverlap {
		return fmt.Errorf("%w: a stream of another program has subjects of bellhop: change its subjects, or give bellhop its own NATS account", err)
	}
	return err
}

// isOwnStream reports whether a stream of this name is bellhop's: bellhop_…, or
// KV_bellhop_… for a bucket.
func isOwnStream(name string) bool {
	return strings.HasPrefix(strings.TrimPrefix(name, "KV_"), "bellhop_")
}
