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
)

// openStore opens the store that c names: the embedded NATS server, which
// listens nowhere and keeps all in store.dir, or the servers of store.nats. It
// waits until the store answers, but not for servers that are down. A
// connection that is lost later is sought again for ever, whatever the server
// says: see [storeConn]. A store of an older version is brought to this one first.
//
// Either way store.dir is this process's alone until closeStore is called. The
// mender says whether the embedded server can write; it is nil if there is none.
func openStore(ctx context.Context, c config, log *slog.Logger) (_ jetstream.JetStream, m *mender, closeStore func(), err error) {
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
		m = newMender(c, log)
		m.check = openIntegrity(c, log)
		m.check.reopen = m.mendDamage
		if err := m.start(); err != nil {
			return nil, nil, nil, fmt.Errorf("%s: %w", name, err)
		}
		undo = append(undo, m.stop)
		undo = append(undo, start(m.run))
	} else {
		name = "store " + list(c.Store.NATS)
	}
	nc, err := connectStore(c, m, log)
	if err != nil {
		return nil, nil, nil, fmt.Errorf("%s: %w", name, err)
	}
	undo = append(undo, nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		return nil, nil, nil, fmt.Errorf("%s: %w", name, err)
	}
	if _, err := js.AccountInfo(ctx); err != nil {
		return nil, nil, nil, fmt.Errorf("%s: %w", name, err)
	}
	if err := migrate(ctx, js, c, m, log); err != nil {
		return nil, nil, nil, fmt.Errorf("%s: %w", name, err)
	}
	return ownedStore{js}, m, closeAll, nil
}

// connectStore connects to the embedded server of m, or to the servers that c
// names.
func connectStore(c config, m *mender, log *slog.Logger) (*nats.Conn, error) {
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
		options = append(options, nats.InProcessServer(m), nats.ReconnectBufSize(-1)) // what is not taken now is said again by who says it
		return nats.Connect("", options...)
	}
	dialer, urls, err := dialerOf(c.Store.NATS)
	if err != nil {
		return nil, err
	}
	options = append(options,
		nats.PingInterval(2*time.Second), // a server whose machine has died is left within six
		nats.SetCustomDialer(dialer),
		nats.SkipHostLookup()) // the dialer needs the names
	return nats.Connect(urls, options...)
}

// lockDir makes dir if need be, and takes it for this process.
func lockDir(dir string) (unlock func(), err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("store: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("store: %w", err)
	}
	err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if err == nil {
		return func() { f.Close() }, nil
	}
	f.Close()
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return nil, fmt.Errorf("store %s is in use by another bellhop: stop that one, or set another store.dir", dir)
	}
	return nil, fmt.Errorf("store: lock %s: %w", dir, err)
}

// storage is where and how the embedded server keeps streams.
func storage(c config) server.JetStreamConfig {
	return server.JetStreamConfig{
		StoreDir:     c.Store.Dir,
		MaxMemory:    256 << 20, // streams are on disk; it is for passing consumers
		MaxStore:     1 << 50,   // the disk is the limit: one taken at the start is wrong once the disk has other room
		SyncInterval: time.Duration(c.Store.Sync),
		SyncAlways:   c.Store.Sync == 0,
		Strict:       true,
		CompressOK:   true,
	}
}

// maxControlLine is the size in bytes of the longest line of the protocol that
// the embedded server takes. With names of dialog.MaxName bytes none is longer than
// 2 KB, as the longest has a subject of one such name in base32 and an inbox. What
// an older version has stored may have names of up to 2,300 bytes, and is asked for
// by them: that is twice NATS's own limit of 4 KB at most.
const maxControlLine = 8 << 10

// startServer starts the embedded server.
func startServer(c config, log *slog.Logger, m *mender) (*server.Server, error) {
	s := storage(c)
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
	out := &serverLog{log: log, mender: m}
	srv.SetLoggerV2(out, false, false, false)
	srv.Start()
	if out.fatal != nil || !srv.ReadyForConnections(10*time.Second) {
		srv.Shutdown()
		srv.WaitForShutdown()
		return nil, cmp.Or(out.fatal, errors.New("the embedded server does not start"))
	}
	return srv, nil
}

// A serverLog takes the embedded server's log: what it warns of goes to log and
// to the mender, what it calls fatal is why it did not start.
type serverLog struct {
	log    *slog.Logger
	mender *mender
	fatal  error // written while the server starts
}

func (l *serverLog) Noticef(string, ...any) {}
func (l *serverLog) Debugf(string, ...any)  {}
func (l *serverLog) Tracef(string, ...any)  {}

func (l *serverLog) Warnf(format string, v ...any) {
	warning := fmt.Sprintf(format, v...)
	l.log.Warn("store warns", "err", warning)
	l.mender.hear(warning)
}

func (l *serverLog) Errorf(format string, v ...any) {
	complaint := fmt.Sprintf(format, v...)
	l.log.Error("store error", "err", complaint)
	l.mender.hear(complaint)
}

func (l *serverLog) Fatalf(format string, v ...any) { l.fatal = fmt.Errorf(format, v...) }

const keySize = 32

// sharedKey returns the key that authenticates routes: the same in every node
// and after every restart. It is kept in the file key of store.dir and in the
// bucket bellhop_keys of the store, whichever lacks it gets it from the other, and it
// is made when neither has it. Where the two disagree, or the file cannot be
// trusted, that is an error: another key would cut off every live call. So is a key
// that neither has although there is data, which was made with one.
func sharedKey(ctx context.Context, js jetstream.JetStream, c config) ([]byte, error) {
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
		return nil, fmt.Errorf("key: bucket bellhop_keys: %w", err)
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
				return nil, fmt.Errorf("key: the store's has %d bytes instead of %d", len(kept.Value()), keySize)
			case missing:
				key = kept.Value()
			case !bytes.Equal(key, kept.Value()):
				return nil, errWrongKey(path)
			}
		}
	}
	if err != nil {
		return nil, fmt.Errorf("key: bucket bellhop_keys: %w", err)
	}
	if missing {
		if err := writePrivate(path, key); err != nil {
			return nil, fmt.Errorf("key: %w", err)
		}
	}
	return key, nil
}

// refuseNewKey returns an error if a store without a key has data. The data is
// looked for first: nodes that share a store make the key before all else, so one
// that finds data of another finds its key too.
func refuseNewKey(ctx context.Context, js jetstream.JetStream, keys jetstream.KeyValue, c config) error {
	_, err := os.Stat(filepath.Join(c.Store.Dir, "node"))
	data := err == nil
	names := js.StreamNames(ctx)
	for name := range names.Name() {
		data = data || ownStream(name) && name != "KV_bellhop_keys"
	}
	if err := names.Err(); err != nil {
		return fmt.Errorf("key: look for data: %w", err)
	}
	if !data {
		return nil
	}
	_, err = keys.Get(ctx, "sip")
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return errNoKey(filepath.Join(c.Store.Dir, "key"))
	}
	return nil // it is there, or who asks next sees why not
}

// readKey reads the file of the key; nil: there is none.
func readKey(path string) ([]byte, error) {
	key, err := readPrivate(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("key: %w", err)
	case len(key) != keySize:
		return nil, fmt.Errorf("key: %s has %d bytes instead of %d: bring the right one back from a backup or another node; only if no call and no registration matters, remove it", path, len(key), keySize)
	}
	return key, nil
}

func errWrongKey(path string) error {
	return fmt.Errorf("key: %s is not the store's key: this directory belongs to another store; set store.dir and store.nats as they were, or remove the file to take the store's key", path)
}

func errNoKey(path string) error {
	return fmt.Errorf("key: %s is missing, and the store has data but no copy of it: bring the file back from a backup or another node; only if no call and no registration matters, make another with: head -c %d /dev/urandom > %[1]s && chmod 600 %[1]s", path, keySize)
}

// nodeName returns what names this node among those that share the store. It is
// kept in the file node of store.dir.
func nodeName(c config) (string, error) {
	path := filepath.Join(c.Store.Dir, "node")
	b, err := readPrivate(path)
	if errors.Is(err, fs.ErrNotExist) {
		b = []byte(rand.Text())
		err = writePrivate(path, b)
	}
	if err != nil {
		return "", fmt.Errorf("node: %w", err)
	}
	name := strings.TrimSpace(string(b))
	if name == "" || strings.Trim(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567") != "" {
		return "", fmt.Errorf("node: %s does not hold a name that bellhop gave: remove it to have a new one, which forgets the calls that were up", path)
	}
	return name, nil
}

// adminToken returns the token that may do everything: the configured one, or
// the one in the file admin.token of store.dir. It is created when there is
// neither, and then is to be shown to the operator, once.
func adminToken(c config) (token string, created bool, err error) {
	if c.Admin.Token != "" {
		return string(c.Admin.Token), false, nil
	}
	path := filepath.Join(c.Store.Dir, "admin.token")
	b, err := readPrivate(path)
	switch token = strings.TrimSpace(string(b)); {
	case errors.Is(err, fs.ErrNotExist):
		token = "bellhop_" + rand.Text() + rand.Text()
		if err := writePrivate(path, []byte(token+"\n")); err != nil {
			return "", false, fmt.Errorf("admin token: %w", err)
		}
		return token, true, nil
	case err != nil:
		return "", false, fmt.Errorf("admin token: %w", err)
	case token == "":
		return "", false, fmt.Errorf("admin token: %s is empty: remove it to have a new one", path)
	}
	return token, false, nil
}

// readPrivate reads a file that nobody but its owner may read or write.
func readPrivate(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("%s is open to others: chmod 600 it, if you trust what it says", path)
	}
	return os.ReadFile(path)
}

// writePrivate makes a file of mode 0600 that is on the disk, whole, when it
// returns.
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
