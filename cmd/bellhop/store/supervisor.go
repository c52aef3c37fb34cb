package store

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"bellhop/cmd/bellhop/config"
)

// A supervisor runs the embedded server. After a failed write, for example on a full
// disk, a stream rejects every message until it is opened again. The supervisor then
// waits until the disk is writable, stops the server and starts another. Clients
// reconnect. The supervisor does the same if the checker finds a damaged file.
//
// The supervisor detects a failed write in the server's log, because nothing else shows
// it at once. nats-server 2.15.2 keeps the error in the stream (setWriteErr in its
// filestore.go), but shows it neither in the stream's info nor in healthz. The server
// publishes an advisory about storage only when it disables JetStream, which a failed
// write of a stream does not cause. A publisher gets error 10077 for its next message;
// without a publisher, the stream would stay broken.
type supervisor struct {
	config         config.Config
	log            *slog.Logger
	checker        *checker      // repairs the files while no server runs
	reopenRequests chan struct{} // has room for one request; failure is its reason

	mu      sync.Mutex
	srv     *server.Server // nil: no server runs
	failure error          // why the server cannot write; nil: it can
}

// newSupervisor returns a supervisor of the store of c. startEmbedded starts the server.
func newSupervisor(c config.Config, log *slog.Logger) *supervisor {
	s := &supervisor{config: c, log: log, checker: openChecker(c, log), reopenRequests: make(chan struct{}, 1)}
	s.checker.requestReopen = s.reopenForRepair
	return s
}

// InProcessConn connects to the running server. It implements
// [nats.InProcessConnProvider].
func (s *supervisor) InProcessConn() (net.Conn, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.srv == nil {
		return nil, errors.New("embedded server is not running")
	}
	conn, err := s.srv.InProcessConn()
	if err != nil {
		return nil, err
	}
	return &serverConn{Conn: conn}, nil
}

// startEmbedded checks and repairs the files, and starts a server.
func (s *supervisor) startEmbedded() error {
	if err := s.checker.prepareStore(); err != nil {
		return err
	}
	srv, err := startServer(s.config, s.log, s)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.srv = srv
	return nil
}

// stopEmbedded stops the server, if one runs.
func (s *supervisor) stopEmbedded() {
	s.mu.Lock()
	srv := s.srv
	s.srv = nil
	s.mu.Unlock()
	if srv != nil {
		srv.Shutdown()
		srv.WaitForShutdown()
		s.checker.markClean()
	}
}

// writeError returns why the server cannot write, or nil.
func (s *supervisor) writeError() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.failure
}

// observeLog takes a line of the server's log. If the line reports a failed write, or
// that JetStream is being disabled, observeLog requests that the store is opened anew.
func (s *supervisor) observeLog(line string) {
	_, why, found := strings.Cut(line, "ritical write error: ")
	if !found && !strings.Contains(line, "isabling JetStream") {
		return
	}
	if !found {
		why = line
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.failure == nil {
		s.log.Error("store write failed; reopening when the disk is writable", "err", why)
	}
	s.requestReopen(errors.New("store not writable: " + why))
}

// reopenForRepair requests that the store is opened anew, which repairs a damaged file.
func (s *supervisor) reopenForRepair() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.requestReopen(errors.New("store reopening to repair a damaged file"))
}

// requestReopen records the failure and makes run open the store anew. The caller holds
// mu.
func (s *supervisor) requestReopen(why error) {
	s.failure = why
	select {
	case s.reopenRequests <- struct{}{}:
	default:
	}
}

const (
	reopenPause    = time.Second      // first wait before reopening, and between checks
	reopenPauseMax = 30 * time.Second // the wait doubles up to this if reopening failed
	minFreeSpace   = 8 << 20          // bytes; less would be full again at once
)

// run reopens the store on request, until ctx ends.
func (s *supervisor) run(ctx context.Context) {
	pause, reopened := reopenPause, time.Time{}
	for {
		select {
		case <-s.reopenRequests:
		case <-ctx.Done():
			return
		}
		if time.Since(reopened) > reopenPauseMax {
			pause = reopenPause
		}
		for ok := false; !ok; pause = min(2*pause, reopenPauseMax) {
			if !s.waitForSpace(ctx, pause) {
				return
			}
			ok = s.reopenStore()
		}
		reopened = time.Now()
	}
}

// waitForSpace waits at least pause, and until the disk is writable. It returns false if
// ctx ends first.
func (s *supervisor) waitForSpace(ctx context.Context, pause time.Duration) bool {
	tick := time.NewTicker(pause)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return false
		}
		if checkWritable(s.config.Store.Dir) == nil {
			return true
		}
		tick.Reset(reopenPause)
	}
}

// checkWritable returns an error if the disk of dir cannot be written or has less than
// minFreeSpace bytes free.
func checkWritable(dir string) error {
	var fs syscall.Statfs_t
	if err := syscall.Statfs(dir, &fs); err != nil {
		return fmt.Errorf("check free space of %s: %w", dir, err)
	}
	if free := int64(fs.Bavail) * int64(fs.Bsize); free < minFreeSpace {
		return fmt.Errorf("%s has %d bytes free, less than %d", dir, free, minFreeSpace)
	}
	f, err := os.CreateTemp(dir, ".room-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(make([]byte, 64<<10))
	return errors.Join(err, f.Sync(), f.Close())
}

// reopenStore stops the server and starts another, which opens every stream anew. It
// reports whether that succeeded.
func (s *supervisor) reopenStore() bool {
	s.stopEmbedded()
	s.mu.Lock()
	s.failure = nil // the log from here on is of the new server
	s.mu.Unlock()
	select {
	case <-s.reopenRequests:
	default:
	}
	if err := s.startEmbedded(); err != nil {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.failure = fmt.Errorf("open store: %w", err)
		s.log.Error("store not reopened", "err", err)
		return false
	}
	s.log.Info("store reopened")
	return true
}
