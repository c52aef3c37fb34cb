// Package store opens the store of bellhop, a JetStream: an embedded NATS server with
// its files in store.dir, or the servers of store.nats.
//
// A [Store] creates and uses only streams that are bellhop's and not of a newer
// version. [Open] migrates streams of an older version. Only one process at a time can
// use store.dir. The directory also contains the key that authenticates routes, the
// name of the node, the admin token if the config has none, and the events that the
// store had not accepted before a stop.
//
// An embedded store survives failures of its disk. After a failed write, the store is
// opened anew once the disk is writable. Damaged records are found, removed and
// reported, so that the records behind them stay readable. Lost subscriptions and
// tokens are restored from a snapshot.
package store

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"bellhop/admin/ops"
	"bellhop/cmd/bellhop/config"
)

// A Store is an open store. CreateOrUpdateStream, CreateOrUpdateKeyValue and
// CreateKeyValue mark what they create as bellhop's, and fail for a stream of another
// program or of a newer version. After the connection is lost, the Store reconnects
// without a limit of attempts, whatever error the server reported (see [serverConn]).
// The methods may be called concurrently, except Close.
type Store struct {
	jetstream.JetStream

	config     config.Config
	log        *slog.Logger
	supervisor *supervisor     // nil with store.nats
	snapshot   *bucketSnapshot // nil with store.nats
	undo       []func()        // close what is open, the last first
}

// Open opens the store of c. It repairs an embedded store and restores its lost
// subscriptions and tokens. It migrates a store of an older version. It returns an
// error if no server of store.nats can be reached, and does not wait for one to start.
func Open(ctx context.Context, c config.Config, log *slog.Logger) (_ *Store, err error) {
	s := &Store{config: c, log: log}
	defer func() {
		if err != nil {
			s.Close()
		}
	}()
	unlock, err := lockDir(c.Store.Dir)
	if err != nil {
		return nil, err
	}
	s.undo = append(s.undo, unlock)
	name := "store " + c.Store.Dir
	if len(c.Store.NATS) > 0 {
		name = "store " + config.Join(c.Store.NATS)
	}
	if err := s.connect(ctx); err != nil {
		return nil, fmt.Errorf("open %s: %w", name, err)
	}
	if s.supervisor != nil {
		s.snapshot = openSnapshot(c, s.supervisor.checker.markRestored, log)
		s.snapshot.prepared = s.supervisor.checker.prepared
		if err := s.snapshot.restoreBuckets(ctx, s); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// connect starts the embedded server if there is one, connects to the store and migrates
// it.
func (s *Store) connect(ctx context.Context) error {
	if len(s.config.Store.NATS) == 0 {
		s.supervisor = newSupervisor(s.config, s.log)
		if err := s.supervisor.startEmbedded(); err != nil {
			return err
		}
		s.undo = append(s.undo, s.supervisor.stopEmbedded, StartTask(s.supervisor.run))
	}
	nc, err := connectStore(s.config, s.supervisor, s.log)
	if err != nil {
		return err
	}
	s.undo = append(s.undo, nc.Close)
	if s.JetStream, err = jetstream.New(nc); err != nil {
		return err
	}
	if _, err := s.AccountInfo(ctx); err != nil {
		return err
	}
	return migrateStore(ctx, s.JetStream, s.config, s.supervisor, s.log)
}

// Close closes the store, and stops the embedded server once it has written everything.
// Run must have returned. Close may be called again.
func (s *Store) Close() {
	for len(s.undo) > 0 {
		s.undo[len(s.undo)-1]()
		s.undo = s.undo[:len(s.undo)-1]
	}
}

// Run checks the files of an embedded store and keeps its snapshot up to date, until
// ctx ends. It returns at once if the store is store.nats. Call [Store.SharedKey]
// before Run, because Run assumes that the bucket of the key is complete.
func (s *Store) Run(ctx context.Context) {
	if s.supervisor == nil {
		return
	}
	checker := s.supervisor.checker
	checker.markRestored("KV_bellhop_keys", math.MaxUint64) // the file key has it
	stopChecks := StartTask(func(ctx context.Context) { checker.run(ctx, s) })
	s.snapshot.run(ctx, s)
	stopChecks() // after the last change of a bucket
}

// StartTask runs f in a goroutine. stop cancels f's context and waits until f has
// returned.
func StartTask(f func(context.Context)) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var run sync.WaitGroup
	run.Go(func() { f(ctx) })
	return func() {
		cancel()
		run.Wait()
	}
}

// WriteError returns why the embedded server cannot write, or nil. The servers of
// store.nats are not supervised.
func (s *Store) WriteError() error {
	if s.supervisor == nil {
		return nil
	}
	return s.supervisor.writeError()
}

// Losses returns the records that damage has destroyed in an embedded store, the newest
// loss first.
func (s *Store) Losses() []ops.Loss {
	if s.supervisor == nil {
		return nil
	}
	return s.supervisor.checker.allLosses()
}

// Spool returns the file of the events that the store had not accepted before a stop.
func (s *Store) Spool() Spool { return Spool{s.filePath("unpublished")} }

// filePath returns the path of a file in store.dir.
func (s *Store) filePath(name string) string { return filepath.Join(s.config.Store.Dir, name) }

// sleepContext waits for d, or until ctx ends.
func sleepContext(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// lockDir creates dir if it does not exist, and locks it for this process.
func lockDir(dir string) (unlock func(), err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("lock store.dir: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock store.dir: %w", err)
	}
	err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if err == nil {
		return func() { f.Close() }, nil
	}
	f.Close()
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return nil, fmt.Errorf("open store %s: in use by another bellhop: stop that one, or set another store.dir", dir)
	}
	return nil, fmt.Errorf("lock store.dir %s: %w", dir, err)
}
