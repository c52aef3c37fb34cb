package store

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"bellhop/cmd/bellhop/config"
)

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
	dialer, urls, err := newServerDialer(c.Store.NATS)
	if err != nil {
		return nil, err
	}
	options = append(options,
		nats.PingInterval(2*time.Second), // a dead server is detected within 6 s
		nats.SetCustomDialer(dialer),
		nats.SkipHostLookup()) // the dialer needs the names
	return nats.Connect(urls, options...)
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

// A serverLog receives the log of the embedded server. It passes warnings and errors to
// log and to the supervisor. It keeps a fatal error, which is the reason why the server
// did not start.
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
