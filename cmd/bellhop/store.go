package main

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"bellhop/cmd/bellhop/config"
)

// openStore opens the store of c: the embedded NATS server, which has no listener and
// stores everything in store.dir, or the servers of store.nats. It waits for an answer
// of the store, but not for servers that are down. A connection that is lost later is
// reestablished without limit, whatever the server reports: see [storeConn]. A store of
// an older version is migrated first.
//
// In both cases store.dir belongs to this process until closeStore is called. m reports
// whether the embedded server can write; it is nil if there is none.
func openStore(ctx context.Context, c config.Config, log *slog.Logger) (_ jetstream.JetStream, m *supervisor, closeStore func(), err error) {
	var undo []func()
	closeAll := func() {
		for len(undo) > 0 {
			undo[len(undo)-1]()
			undo = undo[:len(undo)-1]
		}
	}
	defer func() {
		if err != nil {
			closeAll()
		}
	}()

	unlock, err := lockDir(c.Store.Dir)
	if err != nil {
		return nil, nil, nil, err
	}
	undo = append(undo, unlock)

	name := "store " + c.Store.Dir
	if len(c.Store.NATS) == 0 {
		m = newSupervisor(c, log)
		m.checker = openStoreChecker(c, log)
		m.checker.requestReopen = m.reopenForRepair
		if err := m.startEmbedded(); err != nil {
			return nil, nil, nil, fmt.Errorf("open %s: %w", name, err)
		}
		undo = append(undo, m.stopEmbedded)
		undo = append(undo, startTask(m.run))
	} else {
		name = "store " + config.Join(c.Store.NATS)
	}
	nc, err := connectStore(c, m, log)
	if err != nil {
		return nil, nil, nil, fmt.Errorf("open %s: %w", name, err)
	}
	undo = append(undo, nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		return nil, nil, nil, fmt.Errorf("open %s: %w", name, err)
	}
	if _, err := js.AccountInfo(ctx); err != nil {
		return nil, nil, nil, fmt.Errorf("open %s: %w", name, err)
	}
	if err := migrateStore(ctx, js, c, m, log); err != nil {
		return nil, nil, nil, fmt.Errorf("open %s: %w", name, err)
	}
	return ownedStore{js}, m, closeAll, nil
}

// connectStore connects to the embedded server of m, or to the servers of c.
func connectStore(c config.Config, m *supervisor, log *slog.Logger) (*nats.Conn, error) {
	options := []nats.Option{
		nats.Name("bellhop"),
		nats.MaxReconnects(-1),
		nats.ReconnectWait(time.Second),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) {
			if err != nil {
				log.Warn("store disconnected", "err", err)
			}
		}),
		nats.ReconnectHandler(func(*nats.Conn) { log.Info("store reconnected") }),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
			log.Warn("store error", "err", err)
		}),
	}
	if m != nil {
		options = append(options, nats.InProcessServer(m), nats.ReconnectBufSize(-1)) // no buffering: callers retry by themselves
		return nats.Connect("", options...)
	}
	dialer, urls, err := newStoreDialer(c.Store.NATS)
	if err != nil {
		return nil, err
	}
	options = append(options,
		nats.PingInterval(2*time.Second), // a dead server is detected within 6 s
		nats.SetCustomDialer(dialer),
		nats.SkipHostLookup()) // the dialer needs the names
	return nats.Connect(urls, options...)
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

// embeddedConfig returns the JetStream configuration of the embedded server.
func embeddedConfig(c config.Config) server.JetStreamConfig {
	return server.JetStreamConfig{
		StoreDir:     c.Store.Dir,
		MaxMemory:    256 << 20, // for ephemeral consumers; streams are on disk
		MaxStore:     1 << 50,   // unlimited: the free space at the start says nothing about later
		SyncInterval: time.Duration(c.Store.Sync),
		SyncAlways:   c.Store.Sync == 0,
		Strict:       true,
		CompressOK:   true,
	}
}

// maxControlLine is the size in bytes of the longest protocol line that the embedded
// server accepts. With names of dialog.MaxName bytes no line exceeds 2 KB: the longest
// has a subject with one such name in base32, and an inbox. An older version may have
// stored names of up to 2,300 bytes, which need lines of up to 8 KB, twice NATS's
// default limit.
const maxControlLine = 8 << 10

// startServer starts the embedded server.
func startServer(c config.Config, log *slog.Logger, m *supervisor) (*server.Server, error) {
	s := embeddedConfig(c)
	srv, err := server.NewServer(&server.Options{
		ServerName:         "bellhop",
		DontListen:         true,
		NoSigs:             true,
		JetStream:          true,
		StoreDir:           s.StoreDir,
		MaxControlLine:     maxControlLine,
		JetStreamMaxMemory: s.MaxMemory,
		JetStreamMaxStore:  s.MaxStore,
		SyncInterval:       s.SyncInterval,
		SyncAlways:         s.SyncAlways,
	})
	if err != nil {
		return nil, err
	}
	out := &serverLog{log: log, supervisor: m}
	srv.SetLoggerV2(out, false, false, false)
	srv.Start()
	if out.fatal != nil || !srv.ReadyForConnections(10*time.Second) {
		srv.Shutdown()
		srv.WaitForShutdown()
		return nil, cmp.Or(out.fatal, errors.New("embedded server not ready after 10s"))
	}
	return srv, nil
}

// A serverLog receives the log of the embedded server. Warnings and errors go to log and
// to the supervisor; a fatal error is the reason why the server did not start.
type serverLog struct {
	log        *slog.Logger
	supervisor *supervisor
	fatal      error // set during the start of the server
}

func (l *serverLog) Noticef(string, ...any) {}
func (l *serverLog) Debugf(string, ...any)  {}
func (l *serverLog) Tracef(string, ...any)  {}

func (l *serverLog) Warnf(format string, v ...any) {
	warning := fmt.Sprintf(format, v...)
	l.log.Warn("store warning", "err", warning)
	l.supervisor.observeLog(warning)
}

func (l *serverLog) Errorf(format string, v ...any) {
	complaint := fmt.Sprintf(format, v...)
	l.log.Error("store error", "err", complaint)
	l.supervisor.observeLog(complaint)
}

func (l *serverLog) Fatalf(format string, v ...any) { l.fatal = fmt.Errorf(format, v...) }

const keySize = 32

// sharedKey returns the key that authenticates routes: the same in all nodes and after
// every restart. It is stored in the file key of store.dir and in the bucket
// bellhop_keys. A missing copy is restored from the other; if both are missing, a key is
// created.
//
// It is an error if the two differ or the file cannot be trusted: a wrong key would cut
// off every live call. It is also an error if both are missing although there is data,
// which was made with a key.
func sharedKey(ctx context.Context, js jetstream.JetStream, c config.Config) ([]byte, error) {
	path := filepath.Join(c.Store.Dir, "key")
	key, err := readKey(path)
	if err != nil {
		return nil, err
	}
	missing := key == nil
	if missing {
		key = make([]byte, keySize)
		rand.Read(key)
	}

	bucket, err := js.CreateOrUpdateKeyValue(ctx, jetstream.KeyValueConfig{
		Bucket:      "bellhop_keys",
		Description: "secrets that all nodes share",
		Replicas:    c.Store.Replicas,
	})
	if err != nil {
		return nil, fmt.Errorf("read key from bucket bellhop_keys: %w", err)
	}
	if missing {
		if err := refuseNewKey(ctx, js, bucket, c); err != nil {
			return nil, err
		}
	}
	_, err = bucket.Create(ctx, "sip", key)
	if errors.Is(err, jetstream.ErrKeyExists) {
		var kept jetstream.KeyValueEntry
		if kept, err = bucket.Get(ctx, "sip"); err == nil {
			switch {
			case len(kept.Value()) != keySize:
				return nil, fmt.Errorf("read key from bucket bellhop_keys: %d bytes instead of %d", len(kept.Value()), keySize)
			case missing:
				key = kept.Value()
			case !bytes.Equal(key, kept.Value()):
				return nil, errWrongKey(path)
			}
		}
	}
	if err != nil {
		return nil, fmt.Errorf("read key from bucket bellhop_keys: %w", err)
	}
	if missing {
		if err := writePrivate(path, key); err != nil {
			return nil, fmt.Errorf("read or write key: %w", err)
		}
	}
	return key, nil
}

// refuseNewKey returns an error if a store without a key has data. It looks for data
// first: nodes that share a store create the key before anything else, so a node that
// finds data of another node also finds its key.
func refuseNewKey(ctx context.Context, js jetstream.JetStream, keys jetstream.KeyValue, c config.Config) error {
	_, err := os.Stat(filepath.Join(c.Store.Dir, "node"))
	data := err == nil
	names := js.StreamNames(ctx)
	for name := range names.Name() {
		data = data || isOwnStream(name) && name != "KV_bellhop_keys"
	}
	if err := names.Err(); err != nil {
		return fmt.Errorf("look for data of a lost key: %w", err)
	}
	if !data {
		return nil
	}
	_, err = keys.Get(ctx, "sip")
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return errNoKey(filepath.Join(c.Store.Dir, "key"))
	}
	return nil // it exists, or the next access returns the error
}

// readKey reads the file of the key. It returns nil if there is none.
func readKey(path string) ([]byte, error) {
	key, err := config.ReadPrivate(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("read or write key: %w", err)
	case len(key) != keySize:
		return nil, fmt.Errorf("read key %s: %d bytes instead of %d: restore the file from a backup or another node; remove it only if all live calls and registrations may be lost", path, len(key), keySize)
	}
	return key, nil
}

// errWrongKey is the error for a key file that differs from the store's key.
func errWrongKey(path string) error {
	return fmt.Errorf("read key %s: it differs from the store's key: this directory belongs to another store: set store.dir and store.nats as they were, or remove the file to use the store's key", path)
}

// errNoKey is the error for data without any copy of the key.
func errNoKey(path string) error {
	return fmt.Errorf("read key %s: the file is missing and the store has data but no copy of the key: restore the file from a backup or another node; only if all live calls and registrations may be lost, create another: head -c %d /dev/urandom > %[1]s && chmod 600 %[1]s", path, keySize)
}

// nodeName returns the name of this node among those that share the store. It is stored
// in the file node of store.dir.
func nodeName(c config.Config) (string, error) {
	path := filepath.Join(c.Store.Dir, "node")
	b, err := config.ReadPrivate(path)
	if errors.Is(err, fs.ErrNotExist) {
		b = []byte(rand.Text())
		err = writePrivate(path, b)
	}
	if err != nil {
		return "", fmt.Errorf("read or write node name: %w", err)
	}
	name := strings.TrimSpace(string(b))
	if name == "" || strings.Trim(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567") != "" {
		return "", fmt.Errorf("read node name: %s does not hold a name that bellhop created: remove the file to create a new name, which loses the live calls", path)
	}
	return name, nil
}

// adminToken returns the admin token: that of the config, or that in the file
// admin.token of store.dir. If there is neither it creates one; the caller then shows it
// to the operator, once.
func adminToken(c config.Config) (token string, created bool, err error) {
	if c.Admin.Token != "" {
		return string(c.Admin.Token), false, nil
	}
	path := filepath.Join(c.Store.Dir, "admin.token")
	b, err := config.ReadPrivate(path)
	switch token = strings.TrimSpace(string(b)); {
	case errors.Is(err, fs.ErrNotExist):
		token = "bellhop_" + rand.Text() + rand.Text()
		if err := writePrivate(path, []byte(token+"\n")); err != nil {
			return "", false, fmt.Errorf("read or write admin token: %w", err)
		}
		return token, true, nil
	case err != nil:
		return "", false, fmt.Errorf("read or write admin token: %w", err)
	case token == "":
		return "", false, fmt.Errorf("read admin token: %s is empty: remove the file to create a new token", path)
	}
	return token, false, nil
}

// writePrivate creates or replaces a file, with mode 0600. The file is on the disk when
// writePrivate returns; after an error or a crash it has all of its old or of its new
// content.
func writePrivate(path string, b []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*") // of mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(b)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer dir.Close()
	return dir.Sync()
}
