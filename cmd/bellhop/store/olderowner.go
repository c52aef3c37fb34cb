package store

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// ownsStream reports whether an older stream exists and is bellhop's. In an embedded
// store, every stream is. In a shared NATS, a stream is bellhop's if its configuration
// and its messages are. A bucket with entries of both bellhop and another program is an
// error.
func (g *migration) ownsStream(ctx context.Context, f olderStream) (bool, error) {
	info, err := streamInfo(ctx, g.js, f.name)
	if err != nil || info == nil || g.embedded {
		return err == nil && info != nil, err
	}
	c := info.Config
	if !slices.Equal(c.Subjects, []string{f.subject}) || c.Storage != jetstream.FileStorage || c.Retention != jetstream.LimitsPolicy ||
		c.Mirror != nil || len(c.Sources) > 0 || c.RePublish != nil || info.State.Msgs == 0 {
		return false, nil
	}
	if f.bucket {
		return g.ownsBucket(ctx, f)
	}
	first := fmt.Sprintf(`{"seq":%d,"next_by_subj":">"}`, info.State.FirstSeq)
	for _, request := range []string{first, lastMessage} {
		m, err := readStored(ctx, g.js, f.name, request)
		if err != nil || m == nil || !f.wrote(m.Subject, m.Data) {
			return false, err
		}
	}
	return true, nil
}

// ownsBucket reports whether the entries of an older bucket are bellhop's. Entries of
// bellhop and of another program in one bucket are an error.
func (g *migration) ownsBucket(ctx context.Context, f olderStream) (bool, error) {
	name := strings.TrimPrefix(f.name, "KV_")
	kv, err := g.js.KeyValue(ctx, name)
	if errors.Is(err, jetstream.ErrBucketNotFound) { // another node did it first
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("open bucket %s: %w", name, err)
	}
	ctx, cancel := context.WithTimeout(ctx, bucketTimeout)
	defer cancel()
	all, err := copyBucket(ctx, kv)
	if err != nil {
		return false, err
	}
	var ours, others []string
	for key, e := range all {
		if e.Deleted {
			e.Value = nil
		}
		if f.wrote(key, e.Value) {
			ours = append(ours, key)
		} else {
			others = append(others, key)
		}
	}
	if len(ours) > 0 && len(others) > 0 {
		return false, fmt.Errorf("bucket %s has entries of bellhop and of another program, for example %s: move those of the other program to another bucket, and start again", name, slices.Min(others))
	}
	return len(ours) > 0, nil
}

// refuseOlderNodes returns an error if an older build uses a shared store, because the
// further writes of that build would be lost. It first waits up to g.grace for the
// build to stop.
func (g *migration) refuseOlderNodes(ctx context.Context) error {
	if g.embedded {
		return nil
	}
	for began := time.Now(); ; sleepContext(ctx, 250*time.Millisecond) {
		runs, err := g.olderRuns(ctx)
		switch {
		case err != nil:
			return err
		case !runs:
			return nil
		case time.Since(began) > g.grace:
			return errors.New("an older build of bellhop still uses this store: stop all older nodes, then start this one; nothing has changed so far")
		case ctx.Err() != nil:
			return ctx.Err()
		}
	}
}

// olderRuns reports whether a client watches the subscriptions of version 1, as each
// running bellhop of an older build does.
func (g *migration) olderRuns(ctx context.Context) (bool, error) {
	s, err := g.js.Stream(ctx, "KV_SUBSCRIPTIONS")
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("look for older builds: %w", err)
	}
	consumers := s.ListConsumers(ctx)
	runs := false
	for c := range consumers.Info() {
		runs = runs || c.PushBound
	}
	if err := consumers.Err(); err != nil && !errors.Is(err, jetstream.ErrStreamNotFound) {
		return false, fmt.Errorf("look for older builds: %w", err)
	}
	return runs, nil
}
