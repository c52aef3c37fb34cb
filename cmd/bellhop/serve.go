package main

import (
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

	"github.com/prometheus/client_golang/prometheus"

	"bellhop/admin"
	"bellhop/admin/ops"
	"bellhop/cmd/bellhop/config"
	"bellhop/cmd/bellhop/store"
	"bellhop/dialog"
	"bellhop/sip"
)

// drainTimeout is how long transactions may take to end after SIGTERM. Callbacks in
// flight may then take another 5 s. The sum is less than the 10 s after which docker
// stop kills.
const drainTimeout = 4 * time.Second

// runServe runs bellhop with the config at path until ctx ends.
func runServe(ctx context.Context, path string, stdout io.Writer) error {
	hup := make(chan os.Signal, 1) // a SIGHUP during the start waits until bellhop is ready
	signal.Notify(hup, syscall.SIGHUP)
	defer signal.Stop(hup)
	cfg, err := config.Load(path)
	if err != nil {
		return err
	}
	var level slog.LevelVar
	level.Set(slog.Level(cfg.Log.Level))
	log := newLogger(stdout, cfg.Log.Format, &level)
	if os.Getenv("GOGC") == "" {
		// Live memory is small and each message makes garbage, so collect half as often.
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
	log.Info("ready", "version", buildVersion(), "listen", config.Join(s.proxy.Addrs()), "pbx", config.Join(s.cfg.SIP.PBX), "admin", s.adminURL())
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

	kinds atomic.Pointer[map[string]dialog.Kind] // by number of an extension
}

// buildService opens the store and builds the pipeline and the admin API. Everything
// that can fail at the start has succeeded when it returns.
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
	undo = append(undo, s.proxy.Close)
	s.setKinds(cfg)
	s.api, err = admin.Open(ctx, s.store, admin.Config{
		Token:          s.token,
		Listen:         s.listenURIs,
		Guides:         guides(),
		TrustedProxies: config.Prefixes(cfg.Admin.TrustedProxies),
		Strained:       s.overload.overloaded,
		Collectors:     slices.Concat([]prometheus.Collector{s.certs}, proxyMetrics(s.proxy), guardMetrics(s.proxy), []prometheus.Collector{targetMetrics{s.proxy.PBXStates, s.proxy.TrunkStates}}, observerMetrics(s.observer), keeperMetrics(s.keeper)),
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
			Degraded:   s.degradedReasons,
			Suppressed: s.observer.tracker.Suppressed,
			Edge:       s.describeEdge,
			Peers:      s.describePeers,
			Bans:       s.listBans,
			BanOf:      s.banOf,
			AddBan:     s.addBan,
			RemoveBan:  s.removeBan,
			Losses:     s.store.Losses,
			Node:       s.node,
			Version:    buildVersion(),
			Log:        log,
		},
	})
	if err != nil {
		return nil, err
	}
	s.admin = s.api.HTTPServer()
	s.admin.Handler = s.processors.countRequests(s.admin.Handler)
	return s, nil
}

// run runs the service until ctx ends or the admin API fails. It then refuses new
// calls, and stops once the existing transactions have ended or drainTimeout has
// passed.
func (s *service) run(ctx context.Context) error {
	defer s.store.Close()
	defer store.StartTask(s.store.Run)()
	stopRooms := store.StartTask(s.pipeline.run)
	stopTokens := store.StartTask(s.api.Run)
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
	for _, l := range s.proxy.Listeners() {
		if l.Side != sip.PBXListener {
			uris = append(uris, l.URI)
		}
	}
	return uris
}

// degradedReasons returns the problems that do not keep bellhop from its work.
func (s *service) degradedReasons() []string {
	return append(s.proxy.Degraded(), s.certs.problems(time.Now())...)
}

// describeEdge returns the state of the SIP connections, listeners and certificates.
func (s *service) describeEdge() (ops.Connections, []ops.Listener, []ops.Certificate) {
	count, stats := s.proxy.Connections, s.proxy.Stats()
	cs := ops.Connections{
		TCP: count(sip.TCP), TLS: count(sip.TLS), WS: count(sip.WS), WSS: count(sip.WSS),
		Refused: stats.Refused, HandshakesFailed: stats.Handshakes,
	}
	var ls []ops.Listener
	for _, l := range s.proxy.Listeners() {
		ls = append(ls, ops.Listener{Address: l.Addr.String(), Side: string(l.Side), Connections: l.Connections})
	}
	return cs, ls, s.certs.describe(time.Now())
}

// describePeers returns the states of PBXs and trunks as the status shows them.
func (s *service) describePeers() (pbx []ops.Target, trunks []ops.Trunk) {
	for _, state := range s.proxy.TrunkStates() {
		trunks = append(trunks, ops.Trunk{Name: state.Name, Refused: state.Refused, Targets: describeTargets(state.Targets)})
	}
	return describeTargets(s.proxy.PBXStates()), trunks
}

// describeTargets returns the states of addresses as the status shows them.
func describeTargets(states []sip.TargetStatus) []ops.Target {
	targets := []ops.Target{}
	for _, s := range states {
		to := ops.Target{
			Configured: s.Configured.String(), State: string(s.State), Since: statusTime(s.Since),
			Answer: s.Answer, Answered: statusTime(s.AnsweredAt), RoundTrip: s.RoundTrip.Microseconds(),
			Error: s.Error, Failed: statusTime(s.FailedAt),
		}
		if s.Addr.IsValid() {
			to.Address = s.Addr.String()
		}
		targets = append(targets, to)
	}
	return targets
}

// statusTime returns a time in full seconds, or nil for the zero time.
func statusTime(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC().Truncate(time.Second)
	return &t
}

// notReadyReasons returns the reasons why bellhop is not ready, or none if it is ready.
func (s *service) notReadyReasons() []string {
	var why []string
	if s.stopping.Load() {
		why = append(why, "draining: new calls are refused")
	}
	if !s.proxy.PBXReachable() {
		reason := "no PBX answers OPTIONS"
		if names := s.proxy.UnresolvedNames(); len(names) > 0 {
			reason += "; no address is known for " + strings.Join(names, ", ")
		}
		why = append(why, reason)
	}
	if err := s.store.WriteError(); err != nil {
		why = append(why, err.Error())
	}
	return why
}
