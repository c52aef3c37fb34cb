package main

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
)

// A mender runs the embedded server, and watches it write. A stream that could
// not be written once, for example because the disk was full, takes nothing more
// until it is opened anew. The mender waits until the disk takes something, and
// starts another server in place of that one. Who is connected connects again.
type mender struct {
	config config
	log    *slog.Logger
	check  *integrity    // mends the files while no server runs; nil: nobody does
	broken chan struct{} // has room for one: why is not nil

	mu  sync.Mutex
	srv *server.Server // nil: none runs
	why error          // what the server could not write; nil: it writes
}

func newMender(c config, log *slog.Logger) *mender {
	return &mender{config: c, log: log, broken: make(chan struct{}, 1)}
}

// InProcessConn connects to the server that runs.
func (m *mender) InProcessConn() (net.Conn, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.srv == nil {
		return nil, errors.New("the embedded server does not run")
	}
	conn, err := m.srv.InProcessConn()
	if err != nil {
		return nil, err
	}
	return &storeConn{Conn: conn}, nil
}

// start starts a server.
func (m *mender) start() error {
	if err := m.check.prepare(); err != nil {
		return err
	}
	srv, err := startServer(m.config, m.log, m)
	if err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.srv = srv
	return nil
}

// stop stops the server, if one runs.
func (m *mender) stop() {
	m.mu.Lock()
	srv := m.srv
	m.srv = nil
	m.mu.Unlock()
	if srv != nil {
		srv.Shutdown()
		srv.WaitForShutdown()
		m.check.closed()
	}
}

// ailing says why the store cannot be written, or nil. Nobody mends what is not
// embedded: of a nil mender it is nil.
func (m *mender) ailing() error {
	if m == nil {
		return nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.why
}

// hear takes what the server says is wrong.
func (m *mender) hear(complaint string) {
	_, why, found := strings.Cut(complaint, "ritical write error: ")
	if !found && !strings.Contains(complaint, "isabling JetStream") {
		return
	}
	if !found {
		why = complaint
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.why == nil {
		m.log.Error("the store cannot be written: it is opened anew when it can", "err", why)
	}
	m.breaks(errors.New("the store cannot be written: " + why))
}

// mendDamage has the store opened anew, because a file is damaged.
func (m *mender) mendDamage() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.breaks(errors.New("the store is opened anew, to mend a damaged file"))
}

// breaks has run open the store anew. The caller holds mu.
func (m *mender) breaks(why error) {
	m.why = why
	select {
	case m.broken <- struct{}{}:
	default:
	}
}

const (
	mendPause    = time.Second      // between two looks at whether the disk takes something
	mendPauseMax = 30 * time.Second // when opening anew did not help
	mendRoom     = 8 << 20          // bytes that must be free: less is full again at once
)

// run mends until ctx ends.
func (m *mender) run(ctx context.Context) {
	pause, mended := mendPause, time.Time{}
	for {
		select {
		case <-m.broken:
		case <-ctx.Done():
			return
		}
		if time.Since(mended) > mendPauseMax {
			pause = mendPause
		}
		for ok := false; !ok; pause = min(2*pause, mendPauseMax) {
			if !m.waitForRoom(ctx, pause) {
				return
			}
			ok = m.reopen()
		}
		mended = time.Now()
	}
}

// waitForRoom waits for a pause at least, and until the disk takes something. It
// returns false when ctx ends first.
func (m *mender) waitForRoom(ctx context.Context, pause time.Duration) bool {
	tick := time.NewTicker(pause)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return false
		}
		if takes(m.config.Store.Dir) == nil {
			return true
		}
		tick.Reset(mendPause)
	}
}

// takes says why a directory's disk would not take more, or nil.
func takes(dir string) error {
	var fs syscall.Statfs_t
	if err := syscall.Statfs(dir, &fs); err != nil {
		return fmt.Errorf("look at %s: %w", dir, err)
	}
	if free := int64(fs.Bavail) * int64(fs.Bsize); free < mendRoom {
		return fmt.Errorf("%s has %d bytes free, less than %d", dir, free, mendRoom)
	}
	f, err := os.CreateTemp(dir, ".room-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(make([]byte, 64<<10))
	return errors.Join(err, f.Sync(), f.Close())
}

// reopen has another server open every stream anew.
func (m *mender) reopen() bool {
	m.stop()
	m.mu.Lock()
	m.why = nil // what is heard from here on is news
	m.mu.Unlock()
	select {
	case <-m.broken:
	default:
	}
	if err := m.start(); err != nil {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.why = fmt.Errorf("the store cannot be opened: %w", err)
		m.log.Error("the store cannot be opened anew", "err", err)
		return false
	}
	m.log.Info("the store is opened anew")
	return true
}
