package main

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
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

	"bellhop/admin"
	"bellhop/dialog"
	"bellhop/dialog/keep"
	"bellhop/dialog/trace"
	"bellhop/notify"
	"bellhop/sip"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/nyaruka/phonenumbers"
)

// drainFor is how long transactions may take to end after SIGTERM. With the 5 s
// that callbacks under way then have, it is less than the 10 s until docker
// stop kills.
const drainFor = 4 * time.Second

// serve runs bellhop with the config at path until ctx ends.
func serve(ctx context.Context, path string, stdout io.Writer) error {
	cfg, err := load(path)
	if err != nil {
		return err
	}
	var level slog.LevelVar
	level.Set(slog.Level(cfg.Log.Level))
	log := newLogger(stdout, cfg.Log.Format, &level)
	if os.Getenv("GOGC") == "" {
		// What lives is small beside what each message leaves: collect half as often.
		debug.SetGCPercent(200)
	}
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(memoryLimit(runtime.GOMAXPROCS(0)))
	}
	s, err := build(ctx, cfg, log)
	if err != nil {
		return err
	}
	if s.created {
		fmt.Fprintf(stdout, "admin token, shown this once and kept in %s/admin.token: %s\n", cfg.Store.Dir, s.token)
	}
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	defer signal.Stop(hup)
	beside, stopBeside := context.WithCancel(ctx)
	defer stopBeside()
	var helpers sync.WaitGroup
	helpers.Go(func() { s.processors.fit(beside, s.hop.Crowded()) })
	helpers.Go(func() { s.strain.run(beside) })
	helpers.Go(func() { giveBack(beside) })
	helpers.Go(func() {
		for {
			select {
			case <-hup:
				cfg = s.reload(beside, path, cfg, &level)
			case <-beside.Done():
				return
			}
		}
	})
	log.Info("ready", "version", version(), "listen", list(s.hop.Addrs()), "pbx", list(cfg.SIP.PBX), "admin", s.adminURL())
	err = s.run(ctx)
	stopBeside()
	helpers.Wait()
	return err
}

// A service is the rooms with what the operator sees of them.
type service struct {
	*rooms
	cfg        config
	log        *slog.Logger
	api        *admin.Server
	admin      *http.Server
	listener   net.Listener                    // the admin API's
	cert       atomic.Pointer[tls.Certificate] // the admin API's, if it is https
	token      string
	created    bool // the token is new
	stopping   atomic.Bool
	mender     *mender
	snapshot   *snapshot // nil: the store is not ours
	js         jetstream.JetStream
	processors *processors
	strain     *strain
	closeStore func()

	kinds atomic.Pointer[map[string]dialog.Kind] // of the extensions that the config names
}

// build opens the store and makes the rooms: all that can fail has failed when
// it returns.
func build(ctx context.Context, cfg config, log *slog.Logger) (_ *service, err error) {
	s := &service{cfg: cfg, log: log, processors: newProcessors(), strain: newStrain()}
	var undo []func()
	defer func() {
		if err != nil {
			for _, f := range slices.Backward(undo) {
				f()
			}
		}
	}()
	js, mender, closeStore, err := openStore(ctx, cfg, log)
	if err != nil {
		return nil, err
	}
	s.js, s.mender, s.closeStore = js, mender, closeStore
	undo = append(undo, closeStore)
	if mender != nil {
		s.snapshot = openSnapshot(cfg, mender.check.restored, log)
		s.snapshot.prepared = mender.check.prepared
		if err := s.snapshot.restore(ctx, js); err != nil {
			return nil, err
		}
	}
	if s.token, s.created, err = adminToken(cfg); err != nil {
		return nil, err
	}
	if s.listener, err = s.listenAdmin(); err != nil {
		return nil, err
	}
	undo = append(undo, func() { s.listener.Close() })
	own := netip.MustParseAddrPort(s.listener.Addr().String())
	if s.rooms, err = connect(ctx, cfg, js, log, world{own: own}); err != nil {
		return nil, err
	}
	s.setKinds(cfg)
	s.api, err = admin.Open(ctx, js, admin.Config{
		Token:      s.token,
		Notifier:   s.notifier,
		KeepEvents: time.Duration(cfg.Notify.KeepEvents),
		Replicas:   cfg.Store.Replicas,
		Listen:     s.phonesAt(),

		TrustedProxies: prefixes(cfg.Admin.TrustedProxies),

		Calls:      s.follower.calls,
		Trace:      s.follower.trace,
		Kind:       func(user string) dialog.Kind { return (*s.kinds.Load())[user] },
		Extensions: s.follower.extensions,
		Extension:  s.follower.extension,
		Ready:      s.unready,
		Degraded:   s.hop.Degraded,
		Suppressed: s.follower.tracker.Suppressed,
		Strained:   s.strain.strained,
		Losses:     s.losses,
		Collectors: slices.Concat(hopMetrics(s.hop), followerMetrics(s.follower), keeperMetrics(s.keeper)),
		Node:       s.node,
		Version:    version(),
		Log:        log,
	})
	if err != nil {
		s.hop.Close()
		return nil, err
	}
	s.admin = s.api.HTTPServer()
	s.admin.Handler = s.processors.counting(s.admin.Handler)
	return s, nil
}

// run runs everything until ctx ends: then new calls are refused, and it
// returns once the old transactions have ended, or drainFor has passed.
func (s *service) run(ctx context.Context) error {
	defer s.closeStore()
	defer s.checkStore()()
	stopRooms := start(s.rooms.run)
	stopTokens := start(s.api.Run)
	defer stopTokens()
	failed := make(chan error, 1)
	var api sync.WaitGroup
	api.Go(func() {
		if err := s.admin.Serve(s.api.Listener(s.listener)); !errors.Is(err, http.ErrServerClosed) {
			failed <- fmt.Errorf("admin API: %w", err)
		}
	})
	var err error
	select {
	case <-ctx.Done():
	case err = <-failed:
	}
	s.stopping.Store(true)
	s.log.Info("stopping", "for at most", drainFor)
	draining, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainFor)
	s.hop.Drain(draining)
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

// The rooms that a call goes through, from left to right: the hop shows each
// message to the follower's tracker, whose events go to the notifier, and its
// calls to the keeper.
type rooms struct {
	hop      *sip.Hop
	follower *follower
	keeper   *keep.Keeper
	notifier *notify.Notifier
	node     string // names this one among those that share the store
	log      *slog.Logger
}

// A world is what is around the rooms. The zero world is the machine's.
type world struct {
	own       netip.AddrPort    // the admin API, which no callback may reach
	network   sip.Network       // nil: the machine's
	transport http.RoundTripper // nil: the machine's
	prompt    bool              // events do not wait for others
	wall      func() time.Time  // the wall clock; nil: the machine's
}

// connect makes the rooms and joins them. Sockets are open when it returns, but
// nothing is read before run.
func connect(ctx context.Context, cfg config, js jetstream.JetStream, log *slog.Logger, w world) (*rooms, error) {
	// The key is there before anything listens: no route is made without it.
	key, err := sharedKey(ctx, js, cfg)
	if err != nil {
		return nil, err
	}
	connections, capped := allConnections(cfg.Guard.AllConnections, openFiles())
	watch := make(chan dialog.Message, watched)
	hop, err := sip.Listen(sip.Config{
		Listen:     cfg.SIP.Listen,
		Advertise:  cfg.SIP.Advertise,
		PBX:        cfg.SIP.PBX,
		PBXSources: prefixes(cfg.SIP.PBXSources),
		Register:   cfg.SIP.Register,
		AddCID:     cfg.Calls.AddCID,
		Trunks:     trunks(cfg),

		StripIdentity: cfg.SIP.StripIdentity,
		Key:           key,
		Watch:         watch,
		Log:           log,
		Net:           w.network,
		Wall:          w.wall,

		Connections:    cfg.Guard.Connections,
		AllConnections: connections,
	})
	if err != nil {
		return nil, err
	}
	if capped {
		log.Warn("guard.all_connections lowered: open files do not allow more", "connections", connections)
	}
	own := []netip.AddrPort{w.own}
	for _, a := range hop.Addrs() {
		if a.Proto == sip.TCP {
			own = append(own, a.AddrPort)
		}
	}
	node, err := nodeName(cfg)
	if err != nil {
		hop.Close()
		return nil, err
	}
	among := node // those that share the store
	if len(cfg.Store.NATS) == 0 {
		among = ""
	}
	n, err := notify.Open(ctx, js, notify.Config{
		KeepEvents:       time.Duration(cfg.Notify.KeepEvents),
		Replicas:         cfg.Store.Replicas,
		Node:             among,
		MaxSubscriptions: cfg.Notify.MaxSubscriptions,
		Allow:            prefixes(cfg.Notify.Allow),
		Deny:             prefixes(cfg.Notify.Deny),
		Own:              own,
		Version:          version(),
		Log:              log,
		Transport:        w.transport,
		PublishAtOnce:    w.prompt,
		WallClock:        w.wall,
		Spool:            spoolOf(cfg),
	})
	if err != nil {
		hop.Close()
		return nil, err
	}
	n.Declare(declared(cfg))
	k, t, err := takeUp(ctx, cfg, node, js, hop.Clock, n, log)
	if err != nil {
		hop.Close()
		return nil, err
	}
	var up []sip.Dialog
	for _, l := range t.Dialogs() {
		up = append(up, sip.Dialog{CallID: l.CallID, Tag: l.FromTag})
	}
	hop.TakeUp(up)
	f := newFollower(t, trace.New(cfg.Calls.Trace), watch, hop.Clock, n, k, w.prompt, log)
	return &rooms{hop: hop, follower: f, keeper: k, notifier: n, node: node, log: log}, nil
}

// takeUp returns a tracker that goes on with the calls that were up when this
// node stopped, and what keeps them.
func takeUp(ctx context.Context, cfg config, node string, js jetstream.JetStream, clock func() (time.Time, time.Duration), n *notify.Notifier, log *slog.Logger) (*keep.Keeper, *dialog.Tracker, error) {
	k, err := keep.Open(ctx, js, keep.Config{Node: node, Replicas: cfg.Store.Replicas, Unsaid: n.OldestUnpublished, LogEnd: n.LogEnd, Log: log})
	if err != nil {
		return nil, nil, err
	}
	calls, mark, err := k.Load(ctx)
	if err != nil {
		return nil, nil, err
	}
	q := notify.Query{Since: mark.Since, Limit: 1000}
	if mark.Since.IsZero() {
		q.Position = mark.After + 1
	}
	var events []dialog.Event
	for ; mark.Kept; q.After = events[len(events)-1].ID {
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
	if !k.Floored() {
		if events, err = withHangups(ctx, n, calls, events); err != nil {
			return nil, nil, err
		}
	}
	events = append(events, n.Unpublished()...) // which the log will have
	t := dialog.New(tracking(cfg))
	now, offset := clock()
	t.SetClock(now, offset)
	if len(cfg.Store.NATS) == 0 {
		node = "" // nobody shares the log
	}
	if err := t.Restore(node, calls, events); err != nil {
		log.Error("some calls are not taken up again", "err", err)
	}
	if live := len(t.Calls()); live > 0 {
		log.Info("calls taken up again", "calls", live)
	}
	k.Put(t.Changed(now), now, now)
	return k, t, nil
}

// withHangups puts before events what else the log has of hangups of calls: those of
// calls that are over, whose records a server that was killed has found again.
func withHangups(ctx context.Context, n *notify.Notifier, calls []dialog.Change, events []dialog.Event) ([]dialog.Event, error) {
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

// run runs the rooms until ctx ends, then stops them from left to right, so
// that each still takes what the one before it had to say.
func (r *rooms) run(ctx context.Context) {
	hop := start(func(ctx context.Context) { r.hop.Run(ctx) })
	follow := start(r.follower.run)
	deliver := start(func(ctx context.Context) {
		if err := r.notifier.Run(ctx); err != nil {
			r.log.Error("notifier stopped", "err", err)
		}
	})
	write := start(func(ctx context.Context) {
		if err := r.keeper.Run(ctx); err != nil {
			r.log.Error("keeper stopped", "err", err)
		}
	})
	<-ctx.Done()
	hop()
	follow()
	deliver()
	write() // after what was said
}

// start runs f, and returns a func that stops it and waits for its end.
func start(f func(context.Context)) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var run sync.WaitGroup
	run.Go(func() { f(ctx) })
	return func() {
		cancel()
		run.Wait()
	}
}

// reload reads the config again, puts into force what can be, and says what
// needs a restart. A file with problems changes nothing. It returns the config
// to compare the next one with.
func (s *service) reload(ctx context.Context, path string, old config, level *slog.LevelVar) config {
	cfg, err := load(path)
	if err != nil {
		s.log.Error("config not reloaded: the old one stays in force", "err", err)
		return old
	}
	https := old.Admin.TLSCert != "" && cfg.Admin.TLSCert != ""
	if https {
		if err := s.useCertificate(cfg); err != nil {
			s.log.Error("config not reloaded: the old one stays in force", "err", err)
			return old
		}
	}
	var now, later []string
	for _, key := range diff(old, cfg) {
		if reloadable(key) || https && strings.HasPrefix(key, "admin.tls_") {
			now = append(now, key)
		} else {
			later = append(later, key)
		}
	}
	level.Set(slog.Level(cfg.Log.Level))
	if err := s.follower.with(ctx, func(t *dialog.Tracker) {
		t.Configure(tracking(cfg))
		s.follower.traces.Configure(cfg.Calls.Trace)
	}); err != nil {
		s.log.Error("config not reloaded: the old one stays in force", "err", err)
		return old
	}
	s.notifier.Declare(declared(cfg))
	s.setKinds(cfg)
	s.log.Info("config reloaded", "in force", strings.Join(now, " "), "after a restart", strings.Join(later, " "))
	// What needs a restart is still not in force: it is said again next time.
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

// setKinds tells the API what stands behind which extension.
func (s *service) setKinds(cfg config) {
	kinds := make(map[string]dialog.Kind, len(cfg.Extension))
	for _, e := range cfg.Extension {
		kinds[e.Number] = dialog.Kind(e.Kind)
	}
	s.kinds.Store(&kinds)
}

// reloadable reports whether a key is put into force by SIGHUP.
func reloadable(key string) bool {
	table, _, _ := strings.Cut(key, ".")
	switch table {
	case "extensions", "extension", "subscription":
		return true
	case "calls":
		return key != "calls.add_cid"
	}
	return key == "log.level"
}

// tracking is what the config tells the tracker.
func tracking(cfg config) dialog.Config {
	c := dialog.Config{
		Pattern:     cfg.Extensions.Pattern,
		Learn:       cfg.Extensions.Learn,
		Correlate:   []string{},
		E164:        e164(cfg.Calls.Region),
		MaxDuration: time.Duration(cfg.Calls.MaxDuration),
		Status:      map[int]dialog.Status{},
		CallAPIID:   cfg.Calls.CallAPIID,
		CallBackID:  cfg.Calls.CallbackID,
		RecID:       cfg.Calls.RecID,
		Tag:         cfg.Calls.Tag,
		Headers:     cfg.Calls.Headers,

		IgnorePrivacy: cfg.Calls.Privacy == ignorePrivacy,
	}
	for _, m := range cfg.Calls.Correlate {
		c.Correlate = append(c.Correlate, string(m))
	}
	for code, word := range cfg.Calls.Status {
		c.Status[int(code)] = dialog.Status(word)
	}
	for _, e := range cfg.Extension {
		c.Extensions = append(c.Extensions, dialog.Declared{Number: e.Number, Kind: dialog.Kind(e.Kind), DID: e.DID})
	}
	return c
}

// e164 returns what finds the E.164 form of a number as it is dialed in a
// region; nil if none is configured.
func e164(r region) func(string) string {
	if r == "" {
		return nil
	}
	return func(number string) string {
		if strings.Trim(number, "+0123456789-.() ") != "" {
			return "" // a name, or a code like *97
		}
		n, err := phonenumbers.Parse(number, string(r))
		if err != nil || !phonenumbers.IsValidNumber(n) {
			return ""
		}
		return phonenumbers.Format(n, phonenumbers.E164)
	}
}

func trunks(cfg config) []sip.Trunk {
	var ts []sip.Trunk
	for _, t := range cfg.Trunk {
		ts = append(ts, sip.Trunk{Name: t.Name, Sources: prefixes(t.Sources), Secret: string(t.Secret)})
	}
	return ts
}

// listenAdmin opens the listener of the admin API, with TLS if the config has
// a certificate.
func (s *service) listenAdmin() (net.Listener, error) {
	at := s.cfg.Admin.Listen.AddrPort
	l, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(at))
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, fmt.Errorf("cannot listen on %s for the admin API: the port is in use by another process", at)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot listen on %s for the admin API: %w", at, err)
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

// useCertificate reads the certificate of the admin API, and has new connections
// use it.
func (s *service) useCertificate(cfg config) error {
	cert, err := cfg.certificate()
	if err != nil {
		return fmt.Errorf("admin.tls_cert, admin.tls_key: %w", err)
	}
	s.cert.Store(&cert)
	return nil
}

func (s *service) adminURL() string {
	scheme := "http://"
	if s.cfg.Admin.TLSCert != "" {
		scheme = "https://"
	}
	return scheme + s.listener.Addr().String()
}

// phonesAt are the SIP URIs at which phones find bellhop.
func (s *service) phonesAt() (uris []string) {
	for _, a := range s.hop.Addrs() {
		at := sip.HostPort{Host: a.Addr().String(), Port: a.Port()}
		if name := s.cfg.SIP.Advertise; name.Host != "" {
			at.Host, at.Port = name.Host, cmp.Or(name.Port, at.Port)
		}
		uris = append(uris, "sip:"+at.String()+";transport="+a.Proto.String())
	}
	return uris
}

// checkStore keeps the store checked and the snapshot written until the returned
// func is called.
func (s *service) checkStore() (stop func()) {
	if s.mender == nil {
		return func() {}
	}
	s.mender.check.restored("KV_bellhop_keys", math.MaxUint64) // from the file key, or there would be no service
	check := start(func(ctx context.Context) { s.mender.check.run(ctx, s.js) })
	snapshot := start(func(ctx context.Context) { s.snapshot.run(ctx, s.js) })
	return func() {
		snapshot()
		check()
	}
}

// losses returns what the store has lost.
func (s *service) losses() []admin.Loss {
	if s.mender == nil {
		return nil
	}
	return s.mender.check.losses()
}

// unready says what keeps bellhop from its work.
func (s *service) unready() []string {
	var why []string
	if s.stopping.Load() {
		why = append(why, "stopping: new calls are refused")
	}
	if !s.hop.Reachable() {
		why = append(why, "no PBX answers OPTIONS")
	}
	if err := s.mender.ailing(); err != nil {
		why = append(why, err.Error())
	}
	return why
}
