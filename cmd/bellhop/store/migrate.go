package store

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"bellhop/cmd/bellhop/config"
)

// Keys in the metadata of a stream during a migration. They are stored: never change
// one.
const (
	migratingMark = "bellhop-migrating" // on KV_bellhop_keys: the migration is not complete
	copyOfMark    = "bellhop-copy-of"   // on each copy: name and creation time of the source
)

// A migration copies the streams of version 1 of the store to the streams of this
// version.
//
// First it mirrors each older stream, which preserves sequence numbers and times. The
// older streams keep their messages, so after a failure in this phase an older build
// still starts. Then it seals the older streams, so that no older build starts or
// writes to them. It promotes the mirrors to independent streams, and deletes the older
// streams except the bucket keys. Every step can be repeated: a migration that was
// killed continues at the next start, and nodes that start together may all run it.
type migration struct {
	js       jetstream.JetStream
	config   config.Config
	embedded bool // the server runs in this process: all streams are bellhop's
	checker  *checker
	log      *slog.Logger

	stalled time.Duration     // limit for a copy without progress
	grace   time.Duration     // limit for older builds to stop
	between func(step string) // for tests: called before each step; may be nil
}

const (
	copyStalled = time.Minute
	copyPoll    = 20 * time.Millisecond
	olderGrace  = 6 * time.Second
)

// migrateStore migrates a store to this version. A newer store is an error.
func migrateStore(ctx context.Context, js jetstream.JetStream, c config.Config, m *supervisor, log *slog.Logger) error {
	g := &migration{js: js, config: c, embedded: m != nil, log: log, stalled: copyStalled, grace: olderGrace}
	if m != nil {
		g.checker = m.checker
	}
	return g.run(ctx)
}

// run migrates the store if it is of version 1.
func (g *migration) run(ctx context.Context) error {
	for _, f := range olderStreams {
		if err := checkOwner(ctx, g.js, f.newName); err != nil {
			return err
		}
	}
	keys := olderStreams[0]
	now, err := streamInfo(ctx, g.js, keys.newName)
	if err != nil {
		return err
	}
	if now != nil && now.Config.Metadata[migratingMark] == "" {
		return g.fenceOlderBuilds(ctx)
	}
	if now == nil {
		older, err := g.isOlder(ctx)
		if err != nil {
			return err
		}
		if !older {
			return g.fenceOlderBuilds(ctx)
		}
	}
	began := time.Now()
	if err := g.moveStreams(ctx); err != nil {
		return fmt.Errorf("migrate the store of an older version: %w", err)
	}
	g.log.Info("store migrated", "version", storeVersion, "took", time.Since(began).Round(time.Millisecond))
	return nil
}

// isOlder reports whether the store is of version 1. Before anything is changed, it
// returns an error if the key in the store differs from the key in store.dir, or if the
// store has data but both keys are missing.
func (g *migration) isOlder(ctx context.Context) (bool, error) {
	keys := olderStreams[0]
	older, data := false, false
	if g.embedded {
		for _, f := range olderStreams {
			old, err := streamInfo(ctx, g.js, f.name)
			if err != nil {
				return false, err
			}
			if old != nil && !(f.name == keyStream && old.Config.Sealed) {
				older, data = true, data || f.name != keyStream
			}
		}
	} else {
		var err error
		if older, err = g.ownsStream(ctx, keys); err != nil {
			return false, err
		}
	}
	if !older {
		return false, nil
	}
	kept, err := readStored(ctx, g.js, keys.name, `{"last_by_subj":"$KV.keys.sip"}`)
	if err != nil {
		return false, err
	}
	without := kept == nil || len(kept.Data) == 0
	if without && !g.embedded {
		return false, nil
	}
	path := filepath.Join(g.config.Store.Dir, "key")
	key, err := readKey(path)
	switch {
	case err != nil:
	case key == nil && without && data:
		err = errNoKey(path)
	case key != nil && !without && !bytes.Equal(key, kept.Data):
		err = errWrongKey(path)
	}
	if err != nil {
		return false, fmt.Errorf("migrate the store of an older version: %w", err)
	}
	return true, nil
}

// moveStreams copies all older streams and deletes them.
func (g *migration) moveStreams(ctx context.Context) error {
	if err := g.refuseOlderNodes(ctx); err != nil {
		return err
	}
	if err := g.checkSpace(ctx); err != nil {
		return err
	}
	copies, err := g.startMirrors(ctx)
	if err != nil {
		return err
	}
	if err := g.waitForCopies(ctx, copies); err != nil {
		return err
	}
	if err := g.refuseOlderNodes(ctx); err != nil {
		return err
	}
	// The bucket keys never changes, so its copy can be promoted first. This fails on
	// servers before 2.12, which cannot promote.
	for _, f := range copies {
		if f.name != keyStream {
			continue
		}
		if err := g.promoteMirror(ctx, f); err != nil {
			return fmt.Errorf("promote the copy of stream %s: %w: NATS must be 2.12 or later; the older streams are unchanged", f.name, err)
		}
	}
	if err := g.fenceOlderBuilds(ctx); err != nil {
		return err
	}
	for _, f := range copies {
		if err := g.sealStream(ctx, f.name); err != nil {
			return err
		}
	}
	if err := g.waitForCopies(ctx, copies); err != nil {
		return err
	}
	for _, f := range copies {
		if err := g.promoteMirror(ctx, f); err != nil {
			return fmt.Errorf("promote the copy of stream %s: %w", f.name, err)
		}
	}
	for _, f := range copies {
		if f.name == keyStream {
			continue
		}
		if err := g.deleteSource(ctx, f); err != nil {
			return fmt.Errorf("delete stream %s: %w", f.name, err)
		}
	}
	return g.markMigrated(ctx)
}

// beforeStep must be called before each change. It calls the hook of tests, if there is
// one.
func (g *migration) beforeStep(name string) {
	if g.between != nil {
		g.between(name)
	}
}

// fenceOlderBuilds keeps older builds from starting with an embedded store of this
// version. It seals the bucket that they open first, and creates that bucket if it does
// not exist. In a shared NATS it does nothing, because another program may own a bucket
// of that name.
func (g *migration) fenceOlderBuilds(ctx context.Context) error {
	if !g.embedded {
		return nil
	}
	f := olderStreams[0]
	old, err := streamInfo(ctx, g.js, f.name)
	if err != nil {
		return err
	}
	if old == nil {
		_, err := g.js.CreateStream(ctx, jetstream.StreamConfig{Name: f.name, Subjects: []string{f.subject}, Storage: jetstream.FileStorage, MaxMsgsPerSubject: 1,
			Description: "tells an older bellhop that the store is of a newer version"})
		if err != nil {
			return fmt.Errorf("create stream %s: %w", f.name, err)
		}
	}
	return g.sealStream(ctx, f.name)
}

// sealStream makes a stream read-only.
func (g *migration) sealStream(ctx context.Context, name string) error {
	err := g.updateStream(ctx, name, "seal "+name, func(c *jetstream.StreamConfig) bool {
		sealed := c.Sealed
		c.Sealed = true
		return !sealed
	})
	if err != nil {
		return fmt.Errorf("seal stream %s: %w", name, err)
	}
	return nil
}

// updateStream applies change to the configuration of a stream. It does nothing if the
// stream does not exist or change returns false. After an error it tries again with the
// current configuration, because another node may have updated the stream at the same
// time.
func (g *migration) updateStream(ctx context.Context, name, step string, change func(*jetstream.StreamConfig) bool) (err error) {
	for range 5 {
		info, infoErr := streamInfo(ctx, g.js, name)
		if infoErr != nil {
			return infoErr
		}
		if info == nil || !change(&info.Config) {
			return nil
		}
		if err == nil {
			g.beforeStep(step)
		} else {
			sleepContext(ctx, copyPoll)
		}
		err = retryLeaderless(ctx, func() error {
			_, err := g.js.UpdateStream(ctx, info.Config)
			return err
		})
		if err == nil {
			return nil
		}
	}
	return err
}

// markMigrated records that the store is of this version.
func (g *migration) markMigrated(ctx context.Context) error {
	keys := olderStreams[0]
	if g.checker != nil {
		g.checker.renameStream(keys.name, keys.newName)
	}
	return g.updateStream(ctx, keys.newName, "finish", func(c *jetstream.StreamConfig) bool {
		_, migrating := c.Metadata[migratingMark]
		delete(c.Metadata, migratingMark)
		return migrating
	})
}
