package main

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"bellhop/admin"
	"bellhop/admin/ops"
	"bellhop/cmd/bellhop/config"
	"bellhop/cmd/bellhop/store"
	"bellhop/dialog"
	"bellhop/dialog/keep"
	"bellhop/dialog/trace"
	"bellhop/notify"
	"bellhop/sip"
)

// drainTimeout is how long transactions may take to end after SIGTERM. With the 5 s for
// callbacks in flight after that, it is less than the 10 s after which docker stop
// kills.
const drainTimeout = 4 * time.Second

// runServe runs bellhop with the config at path until ctx ends.
func runServe(ctx context.Context, path string, stdout io.Writer) error {
	cfg, err := config.Load(path)
	if err != nil {
		return err
	}
	var level slog.LevelVar
	level.Set(slog.Level(cfg.Log.Level))
	log := newLogger(stdout, cfg.Log.Format, &level)
	if os.Getenv("GOGC") == "" {
		// Live memory is small compared to the garbage of each message: collect half as often.
		debug.SetGCPercent(200)
	}
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(memoryLimit(runtime.GOMAXPROCS(0)))
	}
	s, err := buildService(ctx, cfg, log)
	if err != nil {
		return err
	}
	if s.created {
		fmt.Fprintf(stdout, "admin token (shown once, stored in %s/admin.token): %s\n", cfg.Store.Dir, s.token)
	}
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	defer signal.Stop(hup)
	helpersCtx, stopHelpers := context.WithCancel(ctx)
	defer stopHelpers()
	var helpers sync.WaitGroup
	helpers.Go(func() { s.processors.runScaling(helpersCtx, s.proxy.Backlog()) })
	helpers.Go(func() { s.overload.run(helpersCtx) })
	helpers.Go(func() { releaseMemory(helpersCtx) })
	helpers.Go(func() {
		for {
			select {
			case <-hup:
				cfg = s.reloadConfig(helpersCtx, path, cfg, &level)
			case <-helpersCtx.Done():
				return
			}
		}
	})
	log.Info("ready", "version", buildVersion(), "listen", config.Join(s.proxy.Addrs()), "pbx", config.Join(cfg.SIP.PBX), "admin", s.adminURL())
	err = s.run(ctx)
	stopHelpers()
	helpers.Wait()
	return err
}

// A service is the pipeline with everything around it: the store, the admin API and the
// settings.
type service struct {
	*pipeline
	cfg        config.Config
	log        *slog.Logger
	api        *admin.Server
	admin      *http.Server
	listener   net.Listener                    // of the admin API
	cert       atomic.Pointer[tls.Certificate] // of the admin API; nil: plain HTTP
	token      string
	created    bool // the admin token is new
	stopping   atomic.Bool
	store      *store.Store
	processors *processorScaler
	overload   *overloadMonitor

	kinds atomic.Pointer[map[string]dialog.Kind] // by number of the configured extensions
}

// buildService opens the store and builds the pipeline and the admin API. After it
// returns, nothing can fail to start.
func buildService(ctx context.Context, cfg config.Config, log *slog.Logger) (_ *service, err error) {
	s := &service{cfg: cfg, log: log, processors: newProcessorScaler(), overload: newOverloadMonitor()}
	var undo []func()
	defer func() {
		if err != nil {
			for _, f := range slices.Backward(undo) {
				f()
			}
		}
	}()
	if s.store, err = store.Open(ctx, cfg, log); err != nil {
		return nil, err
	}
	undo = append(undo, s.store.Close)
	if s.token, s.created, err = s.store.AdminToken(); err != nil {
		return nil, err
	}
	if s.listener, err = s.listenAdmin(); err != nil {
		return nil, err
	}
	undo = append(undo, func() { s.listener.Close() })
	own := netip.MustParseAddrPort(s.listener.Addr().String())
	if s.pipeline, err = buildPipeline(ctx, cfg, s.store, log, environment{own: own}); err != nil {
		return nil, err
	}
	s.setKinds(cfg)
	s.api, err = admin.Open(ctx, s.store, admin.Config{
		Token:          s.token,
		Listen:         s.listenURIs(),
		TrustedProxies: config.Prefixes(cfg.Admin.TrustedProxies),
		Strained:       s.overload.overloaded,
		Collectors:     slices.Concat(proxyMetrics(s.proxy), observerMetrics(s.observer), keeperMetrics(s.keeper)),
		Config: ops.Config{
			Notifier:   s.notifier,
			KeepEvents: time.Duration(cfg.Notify.KeepEvents),
			Replicas:   cfg.Store.Replicas,
			Calls:      s.observer.liveCalls,
			Trace:      s.observer.callTrace,
			Kind:       func(user string) dialog.Kind { return (*s.kinds.Load())[user] },
			Extensions: s.observer.knownExtensions,
			Extension:  s.observer.knownExtension,
			Ready:      s.notReadyReasons,
			Degraded:   s.proxy.Degraded,
			Suppressed: s.observer.tracker.Suppressed,
			Losses:     s.store.Losses,
			Node:       s.node,
			Version:    buildVersion(),
			Log:        log,
		},
	})
	if err != nil {
		s.proxy.Close()
		return nil, err
	}
	s.admin = s.api.HTTPServer()
	s.admin.Handler = s.processors.countRequests(s.admin.Handler)
	return s, nil
}

// run runs the service until ctx ends. It then refuses new calls, and returns once the
// existing transactions have ended or drainTimeout has passed.
func (s *service) run(ctx context.Context) error {
	defer s.store.Close()
	defer startTask(s.store.Run)()
	stopRooms := startTask(s.pipeline.run)
	stopTokens := startTask(s.api.Run)
	defer stopTokens()
	failed := make(chan error, 1)
	var api sync.WaitGroup
	api.Go(func() {
		if err := s.admin.Serve(s.api.Listener(s.listener)); !errors.Is(err, http.ErrServerClosed) {
			failed <- fmt.Errorf("serve admin API: %w", err)
		}
	})
	var err error
	select {
	case <-ctx.Done():
	case err = <-failed:
	}
	s.stopping.Store(true)
	s.log.Info("draining", "timeout", drainTimeout)
	draining, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainTimeout)
	s.proxy.Drain(draining)
	cancel()
	stopRooms()
	ending, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	if s.admin.Shutdown(ending) != nil {
		s.admin.Close()
	}
	api.Wait()
	return err
}

// A pipeline is the parts that a message passes, in order: the proxy forwards it
// and passes a copy to the tracker of the observer. The tracker's events go to the
// notifier, its calls to the keeper.
type pipeline struct {
	proxy    *sip.Proxy
	observer *observer
	keeper   *keep.Keeper
	notifier *notify.Notifier
	node     string // name of this node among those that share the store
	log      *slog.Logger
}

// An environment replaces parts of the machine in tests. The zero value is the machine.
type environment struct {
	own       netip.AddrPort    // address of the admin API, which receives no callbacks
	network   sip.Network       // nil: the machine's
	transport http.RoundTripper // nil: the machine's
	unbatched bool              // messages and events are not batched
	wall      func() time.Time  // the wall clock; nil: the machine's
}

// buildPipeline builds the parts and connects them. Sockets are open when it returns,
// but nothing is read before run.
func buildPipeline(ctx context.Context, cfg config.Config, st *store.Store, log *slog.Logger, w environment) (*pipeline, error) {
	// The key must exist before anything listens: every route needs it.
	key, err := st.SharedKey(ctx)
	if err != nil {
		return nil, err
	}
	connections, capped := capConnections(cfg.Guard.AllConnections, openFileLimit())
	watch := make(chan dialog.Message, observeQueueSize)
	proxy, err := sip.Listen(sip.Config{
		Listen:     cfg.SIP.Listen,
		Advertise:  cfg.SIP.Advertise,
		PBX:        cfg.SIP.PBX,
		PBXSources: config.Prefixes(cfg.SIP.PBXSources),
		Register:   cfg.SIP.Register,
		AddCID:     cfg.Calls.AddCID,
		Trunks:     cfg.Trunks(),

		StripIdentity: cfg.SIP.StripIdentity,
		Key:           key,
		Observations:  watch,
		Log:           log,
		Net:           w.network,
		WallClock:     w.wall,

		Connections:    cfg.Guard.Connections,
		AllConnections: connections,
	})
	if err != nil {
		return nil, err
	}
	if capped {
		log.Warn("guard.all_connections lowered to the limit of open files", "connections", connections)
	}
	own := []netip.AddrPort{w.own}
	for _, a := range proxy.Addrs() {
		if a.Proto == sip.TCP {
			own = append(own, a.AddrPort)
		}
	}
	node, err := st.NodeName()
	if err != nil {
		proxy.Close()
		return nil, err
	}
	leaseName := node // name for the lease; "" with an embedded store
	if len(cfg.Store.NATS) == 0 {
		leaseName = ""
	}
	n, err := notify.Open(ctx, st, notify.Config{
		KeepEvents:       time.Duration(cfg.Notify.KeepEvents),
		Replicas:         cfg.Store.Replicas,
		Node:             leaseName,
		MaxSubscriptions: cfg.Notify.MaxSubscriptions,
		Allow:            config.Prefixes(cfg.Notify.Allow),
		Deny:             config.Prefixes(cfg.Notify.Deny),
		Own:              own,
		Version:          buildVersion(),
		Log:              log,
		Transport:        w.transport,
		PublishAtOnce:    w.unbatched,
		WallClock:        w.wall,
		Spool:            st.Spool(),
	})
	if err != nil {
		proxy.Close()
		return nil, err
	}
	n.Declare(config.DeclaredSubscriptions(cfg))
	k, t, err := restoreTracker(ctx, cfg, node, st, proxy.Clock, n, log)
	if err != nil {
		proxy.Close()
		return nil, err
	}
	var up []sip.Dialog
	for _, l := range t.Dialogs() {
		up = append(up, sip.Dialog{CallID: l.CallID, Tag: l.FromTag})
	}
	proxy.RestoreDialogs(up)
	observer := newObserver(t, trace.New(cfg.Calls.Trace), watch, proxy.Clock, n, k, w.unbatched, log)
	return &pipeline{proxy: proxy, observer: observer, keeper: k, notifier: n, node: node, log: log}, nil
}

// restoreTracker returns a tracker with the calls that were live when this node stopped,
// and the keeper that stores them.
func restoreTracker(ctx context.Context, cfg config.Config, node string, js jetstream.JetStream, clock func() (time.Time, time.Duration), n *notify.Notifier, log *slog.Logger) (*keep.Keeper, *dialog.Tracker, error) {
	k, err := keep.Open(ctx, js, keep.Config{Node: node, Replicas: cfg.Store.Replicas, OldestUnpublished: n.OldestUnpublished, LogEnd: n.LogEnd, Log: log})
	if err != nil {
		return nil, nil, err
	}
	calls, mark, err := k.Load(ctx)
	if err != nil {
		return nil, nil, err
	}
	q := notify.Query{Since: mark.Time, Limit: 1000}
	if mark.Time.IsZero() {
		q.Position = mark.Position + 1
	}
	var events []dialog.Event
	for ; mark.Exists; q.After = events[len(events)-1].ID {
		some, more, err := n.Events(ctx, q)
		if err != nil {
			return nil, nil, err
		}
		for _, e := range some {
			events = append(events, *e)
		}
		if !more {
			break
		}
	}
	if !k.HasFloor() {
		if events, err = prependHangups(ctx, n, calls, events); err != nil {
			return nil, nil, err
		}
	}
	events = append(events, n.Unpublished()...) // the event log will contain these
	t := dialog.New(cfg.TrackerConfig())
	now, offset := clock()
	t.SetClock(now, offset)
	if len(cfg.Store.NATS) == 0 {
		node = "" // no other node uses the event log
	}
	if err := t.Restore(node, calls, events); err != nil {
		log.Error("live calls not restored", "err", err)
	}
	if live := len(t.Calls()); live > 0 {
		log.Info("live calls restored", "calls", live)
	}
	k.Put(t.Changed(now), now, now)
	return k, t, nil
}

// prependHangups returns events preceded by the other hangups of calls in the event log.
// They end calls whose records reappeared in a store that was killed.
func prependHangups(ctx context.Context, n *notify.Notifier, calls []dialog.Change, events []dialog.Event) ([]dialog.Event, error) {
	known := make(map[string]bool)
	for _, e := range events {
		known[e.ID] = true
	}
	var all []dialog.Event
	for _, c := range calls {
		hangups, _, err := n.Events(ctx, notify.Query{Call: c.Call, Type: string(dialog.Hangup), Limit: 1000})
		if err != nil {
			return nil, err
		}
		for _, e := range hangups {
			if !known[e.ID] {
				all = append(all, *e)
			}
		}
	}
	return append(all, events...), nil
}

// run runs the parts until ctx ends. It then stops them in the order of the pipeline, so
// that each still takes what the one before it sends.
func (r *pipeline) run(ctx context.Context) {
	stopProxy := startTask(func(ctx context.Context) { r.proxy.Run(ctx) })
	stopObserver := startTask(r.observer.run)
	stopNotifier := startTask(func(ctx context.Context) {
		if err := r.notifier.Run(ctx); err != nil {
			r.log.Error("notifier stopped", "err", err)
		}
	})
	stopKeeper := startTask(func(ctx context.Context) {
		if err := r.keeper.Run(ctx); err != nil {
			r.log.Error("keeper stopped", "err", err)
		}
	})
	<-ctx.Done()
	stopProxy()
	stopObserver()
	stopNotifier()
	stopKeeper() // after the last events
}

// startTask runs f in a goroutine. stop cancels f's context and waits for its end.
func startTask(f func(context.Context)) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var run sync.WaitGroup
	run.Go(func() { f(ctx) })
	return func() {
		cancel()
		run.Wait()
	}
}

// reloadConfig reads the config again, applies the settings that can change at run time,
// and logs those that need a restart. A file with problems changes nothing. It returns
// the config to compare the next one with.
func (s *service) reloadConfig(ctx context.Context, path string, old config.Config, level *slog.LevelVar) config.Config {
	cfg, err := config.Load(path)
	if err != nil {
		s.log.Error("config reload rejected", "err", err)
		return old
	}
	https := old.Admin.TLSCert != "" && cfg.Admin.TLSCert != ""
	if https {
		if err := s.useCertificate(cfg); err != nil {
			s.log.Error("config reload rejected", "err", err)
			return old
		}
	}
	var now, later []string
	for _, key := range config.ChangedKeys(old, cfg) {
		if isReloadable(key) || https && strings.HasPrefix(key, "admin.tls_") {
			now = append(now, key)
		} else {
			later = append(later, key)
		}
	}
	level.Set(slog.Level(cfg.Log.Level))
	if err := s.observer.queryTracker(ctx, func(t *dialog.Tracker) {
		t.Configure(cfg.TrackerConfig())
		s.observer.traces.Configure(cfg.Calls.Trace)
	}); err != nil {
		s.log.Error("config reload rejected", "err", err)
		return old
	}
	s.notifier.Declare(config.DeclaredSubscriptions(cfg))
	s.setKinds(cfg)
	s.log.Info("config reloaded", "applied", strings.Join(now, " "), "needs_restart", strings.Join(later, " "))
	// Settings that need a restart keep their old value, so that the next reload logs
	// them again.
	running := old
	running.Log.Level, running.Extensions, running.Extension = cfg.Log.Level, cfg.Extensions, cfg.Extension
	running.Subscription = cfg.Subscription
	if https {
		running.Admin.TLSCert, running.Admin.TLSKey = cfg.Admin.TLSCert, cfg.Admin.TLSKey
	}
	addCID := running.Calls.AddCID
	running.Calls = cfg.Calls
	running.Calls.AddCID = addCID
	return running
}

// setKinds gives the admin API the kinds of the configured extensions.
func (s *service) setKinds(cfg config.Config) {
	kinds := make(map[string]dialog.Kind, len(cfg.Extension))
	for _, e := range cfg.Extension {
		kinds[e.Number] = dialog.Kind(e.Kind)
	}
	s.kinds.Store(&kinds)
}

// isReloadable reports whether SIGHUP applies a key.
func isReloadable(key string) bool {
	table, _, _ := strings.Cut(key, ".")
	switch table {
	case "extensions", "extension", "subscription":
		return true
	case "calls":
		return key != "calls.add_cid"
	}
	return key == "log.level"
}

// listenAdmin opens the listener of the admin API, with TLS if the config has a
// certificate.
func (s *service) listenAdmin() (net.Listener, error) {
	at := s.cfg.Admin.Listen.AddrPort
	l, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(at))
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, fmt.Errorf("listen on %s for the admin API: the port is in use by another process", at)
	}
	if err != nil {
		return nil, fmt.Errorf("listen on %s for the admin API: %w", at, err)
	}
	if s.cfg.Admin.TLSCert == "" {
		return l, nil
	}
	if err := s.useCertificate(s.cfg); err != nil {
		l.Close()
		return nil, err
	}
	return tls.NewListener(l, &tls.Config{
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return s.cert.Load(), nil },
		MinVersion:     tls.VersionTLS12,
	}), nil
}

// useCertificate reads the certificate of the admin API and uses it for new connections.
func (s *service) useCertificate(cfg config.Config) error {
	cert, err := cfg.LoadCertificate()
	if err != nil {
		return fmt.Errorf("load admin.tls_cert and admin.tls_key: %w", err)
	}
	s.cert.Store(&cert)
	return nil
}

// adminURL returns the URL of the admin API's listener.
func (s *service) adminURL() string {
	scheme := "http://"
	if s.cfg.Admin.TLSCert != "" {
		scheme = "https://"
	}
	return scheme + s.listener.Addr().String()
}

// listenURIs returns the SIP URIs at which phones reach bellhop.
func (s *service) listenURIs() (uris []string) {
	for _, a := range s.proxy.Addrs() {
		at := sip.HostPort{Host: a.Addr().String(), Port: a.Port()}
		if name := s.cfg.SIP.Advertise; name.Host != "" {
			at.Host, at.Port = name.Host, cmp.Or(name.Port, at.Port)
		}
		uris = append(uris, "sip:"+at.String()+";transport="+a.Proto.String())
	}
	return uris
}

// notReadyReasons returns why bellhop is not ready; none if it is.
func (s *service) notReadyReasons() []string {
	var why []string
	if s.stopping.Load() {
		why = append(why, "draining: new calls are refused")
	}
	if !s.proxy.PBXReachable() {
		why = append(why, "no PBX answers OPTIONS")
	}
	if err := s.store.WriteError(); err != nil {
		why = append(why, err.Error())
	}
	return why
}
