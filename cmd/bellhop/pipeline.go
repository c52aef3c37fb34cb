package main

import (
	"context"
	"iter"
	"log/slog"
	"math"
	"net/http"
	"net/netip"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"bellhop/cmd/bellhop/config"
	"bellhop/cmd/bellhop/store"
	"bellhop/dialog"
	"bellhop/dialog/keep"
	"bellhop/dialog/trace"
	"bellhop/notify"
	"bellhop/notify/eventlog"
	"bellhop/sip"
)

// A pipeline has the parts that handle a message, in order. The proxy forwards the
// message and sends a copy to the observer. The tracker of the observer follows the
// calls and returns events. The notifier publishes the events, and the keeper stores
// the live calls.
type pipeline struct {
	proxy    *sip.Proxy
	certs    *certificates
	bans     *banKeeper
	observer *observer
	keeper   *keep.Keeper
	notifier *notify.Notifier
	node     string // name of this node among those that share the store
	log      *slog.Logger
}

// An environment has the address of the admin API, and what replaces parts of the
// machine in tests. Except for the address, a zero field replaces nothing.
type environment struct {
	own       netip.AddrPort    // address of the admin API, which receives no callbacks
	network   sip.Network       // nil: the machine's
	transport http.RoundTripper // nil: the machine's
	unbatched bool              // messages and events are not batched
	wall      func() time.Time  // the wall clock; nil: the machine's
}

// buildPipeline builds the parts and connects them. It opens the sockets of the proxy,
// but nothing reads from them before run.
func buildPipeline(ctx context.Context, cfg config.Config, st *store.Store, log *slog.Logger, w environment) (_ *pipeline, err error) {
	// The key must exist before anything listens, because every route needs it.
	key, err := st.SharedKey(ctx)
	if err != nil {
		return nil, err
	}
	watch := make(chan dialog.Message, observeQueueSize)
	acme, err := openACME(ctx, cfg, st, log)
	if err != nil {
		return nil, err
	}
	certs, err := openCertificates(cfg, acme, log)
	if err != nil {
		return nil, err
	}
	proxy, err := listenProxy(cfg, certs, key, watch, log, w)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			proxy.Close()
		}
	}()
	node, err := st.NodeName()
	if err != nil {
		return nil, err
	}
	n, err := openNotifier(ctx, cfg, st, node, proxy, log, w)
	if err != nil {
		return nil, err
	}
	k, t, err := restoreTracker(ctx, cfg, node, st, proxy.Clock, n, log)
	if err != nil {
		return nil, err
	}
	var up []sip.Dialog
	for _, l := range t.Dialogs() {
		up = append(up, sip.Dialog{CallID: l.CallID, Tag: l.FromTag})
	}
	proxy.RestoreDialogs(up)
	bans, err := openBans(ctx, st, cfg.Store.Replicas, proxy, log)
	if err != nil {
		return nil, err
	}
	observer := newObserver(t, trace.New(cfg.Calls.Trace), watch, proxy.Clock, n, k, w.unbatched, log)
	return &pipeline{proxy: proxy, certs: certs, bans: bans, observer: observer, keeper: k, notifier: n, node: node, log: log}, nil
}

// listenProxy opens the sockets of the proxy. The proxy authenticates routes with key
// and sends copies of messages to observations.
func listenProxy(cfg config.Config, certs *certificates, key []byte, observations chan<- dialog.Message, log *slog.Logger, w environment) (*sip.Proxy, error) {
	connections, capped := capConnections(cfg.Guard.AllConnections, openFileLimit())
	proxy, err := sip.Listen(sip.Config{
		Listen:     certs.listeners(cfg),
		LocalNets:  config.Prefixes(cfg.SIP.LocalNet),
		PBX:        cfg.SIP.PBX,
		PBXMode:    cfg.SIP.PBXMode,
		PBXSources: config.Prefixes(cfg.SIP.PBXSources),
		UDPMax:     cfg.SIP.UDPMax,
		KeepAlive:  time.Duration(cfg.NAT.KeepAlive),
		Register:   cfg.SIP.Register,
		AddCID:     cfg.Calls.AddCID,
		Trunks:     certs.trunksOf(cfg),
		TLS:        certs.tlsServer(cfg),
		PBXTLS:     certs.pbxClient(),

		FailoverAfter: time.Duration(cfg.SIP.FailoverAfter),
		NameServers:   config.NameServers(cfg.DNS.Servers),
		StripIdentity: cfg.SIP.StripIdentity,
		Key:           key,
		Observations:  observations,
		Log:           log,
		Net:           w.network,
		WallClock:     w.wall,

		Guard:          cfg.GuardSettings(),
		Connections:    cfg.Guard.Connections,
		AllConnections: connections,
	})
	if err != nil {
		return nil, err
	}
	if capped {
		log.Warn("guard.all_connections lowered to the limit of open files", "connections", connections)
	}
	return proxy, nil
}

// openNotifier opens the notifier of a node. The notifier sends no callbacks to the
// admin API or to the proxy, so that a subscription cannot make bellhop call itself.
func openNotifier(ctx context.Context, cfg config.Config, st *store.Store, node string, proxy *sip.Proxy, log *slog.Logger, w environment) (*notify.Notifier, error) {
	own := []netip.AddrPort{w.own}
	for _, a := range proxy.Addrs() {
		if a.Proto == sip.TCP {
			own = append(own, a.AddrPort)
		}
	}
	if len(cfg.Store.NATS) == 0 {
		node = "" // no lease: no other node shares the store
	}
	n, err := notify.Open(ctx, st, notify.Config{
		KeepEvents:       time.Duration(cfg.Notify.KeepEvents),
		Replicas:         cfg.Store.Replicas,
		Node:             node,
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
		return nil, err
	}
	n.Declare(config.DeclaredSubscriptions(cfg))
	return n, nil
}

// restoreTracker returns a tracker with the calls that were live when this node stopped,
// and the keeper that stores them.
func restoreTracker(ctx context.Context, cfg config.Config, node string, js jetstream.JetStream, clock func() (time.Time, time.Duration), n *notify.Notifier, log *slog.Logger) (*keep.Keeper, *dialog.Tracker, error) {
	k, err := keep.Open(ctx, js, keep.Config{Node: node, Replicas: cfg.Store.Replicas, OldestUnpublished: n.EventLog.OldestUnpublished, LogEnd: n.EventLog.End, Log: log})
	if err != nil {
		return nil, nil, err
	}
	calls, checkpoint, err := k.Load(ctx)
	if err != nil {
		return nil, nil, err
	}
	t := dialog.New(cfg.TrackerConfig())
	now, offset := clock()
	t.SetClock(now, offset)
	if len(cfg.Store.NATS) == 0 {
		node = "" // no other node uses the event log
	}
	stored := storedEvents{log: n.EventLog, checkpoint: checkpoint}
	if !k.HasFloor() {
		stored.endedCalls = calls
	}
	if err := t.Restore(node, calls, stored.all(ctx)); err != nil {
		log.Error("live calls not restored", "err", err)
	}
	if stored.err != nil {
		return nil, nil, stored.err
	}
	if live := len(t.Calls()); live > 0 {
		log.Info("live calls restored", "calls", live)
	}
	k.Put(t.Changed(now), now, now)
	return k, t, nil
}

// storedEvents are the events with which restored calls continue: those that the event
// log has after the checkpoint of the snapshots, and those that are not published yet.
// There may be many, so they are not all in memory at a time.
type storedEvents struct {
	log        *eventlog.Log
	checkpoint keep.Checkpoint
	endedCalls []dialog.Change // calls of which some may have ended before the checkpoint
	err        error           // of reading; set when all has yielded its events
}

// all yields the events, each once. Before them it yields the hangups of endedCalls that
// precede the checkpoint: a store that was killed may have the snapshot of a call that
// had already ended, and the hangup ends such a call.
func (s *storedEvents) all(ctx context.Context) iter.Seq[dialog.Event] {
	return func(yield func(dialog.Event) bool) {
		begin := uint64(math.MaxUint64) // nothing was ever stored: all events precede it
		switch {
		case !s.checkpoint.Exists:
		case s.checkpoint.Time.IsZero():
			begin = s.checkpoint.Position + 1
		default:
			if begin, s.err = s.log.PositionAt(ctx, s.checkpoint.Time); s.err != nil {
				return
			}
			if begin == 0 {
				begin = math.MaxUint64
			}
		}
		stopped := false
		emit := func(e eventlog.Entry) bool {
			stopped = !yield(*e.Event)
			return !stopped
		}
		for _, c := range s.endedCalls {
			var hangups []eventlog.Entry
			if hangups, _, s.err = s.log.Find(ctx, notify.Query{Call: c.Call, Type: string(dialog.Hangup), Limit: 1000}); s.err != nil {
				return
			}
			for _, e := range hangups {
				if e.Seq < begin && !emit(e) {
					return
				}
			}
		}
		if begin < math.MaxUint64 {
			if s.err = s.log.Scan(ctx, begin, emit); s.err != nil || stopped {
				return
			}
		}
		for _, e := range s.log.Unpublished() { // the event log will contain these
			if !yield(e) {
				return
			}
		}
	}
}

// run runs the parts until ctx ends. It then stops them in the order of the pipeline,
// so that each part still handles the output of the part before it.
func (r *pipeline) run(ctx context.Context) {
	stopProxy := store.StartTask(func(ctx context.Context) { r.proxy.Run(ctx) })
	stopObserver := store.StartTask(r.observer.run)
	stopNotifier := store.StartTask(func(ctx context.Context) {
		if err := r.notifier.Run(ctx); err != nil {
			r.log.Error("notifier stopped", "err", err)
		}
	})
	stopKeeper := store.StartTask(func(ctx context.Context) {
		if err := r.keeper.Run(ctx); err != nil {
			r.log.Error("keeper stopped", "err", err)
		}
	})
	stopCertificates := store.StartTask(r.certs.run)
	stopBans := store.StartTask(r.bans.run)
	<-ctx.Done()
	stopBans()
	stopCertificates()
	stopProxy()
	stopObserver()
	stopNotifier()
	stopKeeper() // after the last events
}
