// Package notify publishes events and delivers them to subscriptions, at least once and in
// order.
//
// [eventlog.Log.Append] publishes events: it appends them to the event log, a JetStream
// stream. The [Notifier] then delivers each event to every subscription that matches it.
// Each attempt is one HTTP request. Attempts go on until one succeeds or the event
// expires.
//
// # Order
//
// One subscription receives the events of one call in the order in which they were
// published: an event waits until the one before it was delivered, has expired or was
// refused. Different calls and different subscriptions never wait for each other.
//
// # At least once
//
// An event is published once the stream has acknowledged it. From then on it is delivered
// at least once or visibly expires, even if processes are killed. A repeated delivery has
// the same webhook-id header. After a kill, the deliveries of the last 100 ms may be
// repeated; with a slow receiver, those of the last second.
//
// # Clocks
//
// The age of an event and the time of its next attempt are measured on the monotonic
// clock: setting the wall clock neither expires an event nor delays it. Only the age of a
// delivery that was read from the store after a restart is computed from the wall clock.
// A time in the future counts as now, and no delivery waits longer than its retry
// schedule has set.
//
// # Circuit breakers
//
// Two kinds of circuit breakers pause deliveries. The breaker of an endpoint (scheme, host
// and port) counts failed connections and missing responses. The breaker of a subscription
// counts the HTTP statuses and missing responses of its own URL. A URL that fails therefore
// delays no other URL of its host.
//
// While a breaker is open, only probes are sent. Waiting live deliveries still expire,
// and a failed probe does not count in the retry schedule. The first success closes the
// breaker and makes due the deliveries that it held. A delivery that backs off after its
// own failures keeps its schedule.
//
// A subscription is disabled when its receiver answers 410, or after five days of failures
// without a success. Each pause, resumption and disabling is published as an event of type
// subscription-state and shown in the subscription.
//
// # Signatures
//
// Every attempt has the header fields of the Standard Webhooks specification: webhook-id,
// webhook-timestamp (the time of the attempt), and webhook-signature, an HMAC-SHA256 over
// both and the payload. The payload is the body. The specification does not cover GET:
// there the payload is the query as sent, including the query of the URL itself. The
// requests of a subscription without a secret, stored by an old version or declared
// without one, are not signed, because its receiver knows no secret to verify with.
//
// # What a crash loses
//
// Kill -9 loses the events that Append has accepted and the stream has not acknowledged:
// those of the last 2 ms (40 ms above 2,000 events a second), and those of the batch that
// is being written. A power cut also loses what the store had not synced. A regular stop
// loses none: unpublished events go to the [Spool], and the next Run publishes them
// first.
//
// # Memory
//
// At most 10,000 events wait to be published. If there are more, the oldest live events
// are dropped and counted. A delivery that fails, or takes longer than a second, is
// written to the outbox and keeps about 450 bytes in memory. The last 4,096 events of the
// log are in memory, and as many older ones that pages have read.
//
// A subscription with 100,000 pending deliveries lags: further events stay in the log and
// are read again for that subscription as its deliveries end. It delays no other
// subscription. While a million deliveries are pending in all, every subscription above
// its share lags. A live event that is too old when it is read again expires then. Events
// that have left the log by then are lost and counted.
//
// # The delivery log
//
// Every attempt, and every end of a delivery, is written to the stream bellhop_attempts
// within a fifth of a second, with request and response but without secrets. Delivering
// never waits for it. While the store is slow or gone, 16 MB of records wait in memory;
// if there are more, the oldest are dropped and counted. A kill loses the records that
// were not written. The events of these records are delivered again, or were delivered
// without a record.
//
// # Redeliver, test and replay
//
// Redeliver makes one attempt at once, outside the order of the call and even while paused.
// If it succeeds, the delivering node is notified and makes no further attempt; if that
// message is lost, the event is delivered again. Test sends made-up events. Replay delivers
// the events of a time range again, in queues of their own.
//
// # Nodes
//
// Nodes that share a store, and set [Config].Node, share subscriptions and the event log:
// a subscription created on one node applies to the events that any node publishes next.
// One node, the owner of the lease, delivers the events of all. Another node takes over
// at once when the owner stops, and within about five seconds when it dies. Attempts that
// are in flight then may be repeated under the same webhook-id. A node that cannot renew
// its lease stops before another may begin, so the order within a queue holds.
package notify

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"bellhop/dialog"
	"bellhop/notify/deliverylog"
	"bellhop/notify/eventlog"
	"bellhop/notify/schedule"
	"bellhop/notify/send"
)

// Config sets how long events are kept and where callbacks may be sent.
type Config struct {
	KeepEvents       time.Duration // retention of event log and delivery log; 0: 30 days
	Replicas         int           // of every stream and bucket; 0: 1
	Node             string        // permanent name of this node among those that share the store; "": the store is not shared
	MaxSubscriptions int           // limit per extension; 0: 100

	// Destinations of callbacks, see [send.Config].
	Allow, Deny []netip.Prefix
	Own         []netip.AddrPort // bellhop's own TCP listeners

	Version string       // the User-Agent is bellhop/<version>
	Log     *slog.Logger // nil: slog.Default()

	// PublishAtOnce publishes each event at once. By default an event is published
	// together with the events of the next 2 to 40 ms, which is cheaper under load.
	PublishAtOnce bool

	// Spool stores the events that are not published when Run ends. nil: they are lost.
	Spool Spool

	// Transport makes the HTTP requests in tests, instead of the network and without the
	// egress guard. nil: the network.
	Transport http.RoundTripper

	Resolver *net.Resolver // resolves the host names of receivers; nil: the resolver of the machine

	WallClock func() time.Time // wall clock, replaced by tests that set it; nil: time.Now
}

// wall reads the wall clock, without a monotonic reading.
func (c Config) wall() time.Time {
	if c.WallClock == nil {
		return time.Now().Round(0)
	}
	return c.WallClock().Round(0)
}

func (c Config) keepEvents() time.Duration {
	if c.KeepEvents == 0 {
		return 30 * 24 * time.Hour
	}
	return c.KeepEvents
}

func (c Config) maxSubscriptions() int {
	if c.MaxSubscriptions == 0 {
		return 100
	}
	return c.MaxSubscriptions
}

func (c Config) log() *slog.Logger {
	if c.Log == nil {
		return slog.Default()
	}
	return c.Log
}

// A Notifier publishes events and delivers them. Its methods may be called from any
// goroutine unless they say otherwise.
type Notifier struct {
	EventLog *eventlog.Log // Append publishes events; Run runs it
	Numbers  NumberTable   // of extensions, in callbacks

	config Config
	log    *slog.Logger
	js     jetstream.JetStream
	outbox jetstream.Stream

	deliveryLog *deliverylog.Log

	registry   registry
	health     healthStates
	lease      lease
	delivering atomic.Bool
	sender     *send.Sender
	stats      counters

	maxPending int // maximum deliveries of one subscription in memory
	maxReplay  int // maximum events of one replay
}

// Open opens the streams and buckets, creates what is missing, and reads the subscriptions.
// The Notifier holds nothing that must be closed.
func Open(ctx context.Context, js jetstream.JetStream, c Config) (*Notifier, error) {
	c.Replicas = max(1, c.Replicas)
	n := &Notifier{config: c, log: c.log(), js: js, maxPending: schedule.MaxPending, maxReplay: maxReplay}
	n.registry.changedSignal, n.registry.seenSignal = make(chan struct{}, 1), make(chan struct{}, 1)
	n.registry.changed = make(map[string]bool)
	n.registry.subs = make(map[string]Subscription)
	n.registry.deleted = make(map[string]uint64)
	n.health.nc = js.Conn()
	n.health.wakeup = make(chan struct{}, 1)
	n.health.known = make(map[string]healthState)
	n.health.unsaved = make(map[string]*healthState)
	n.Numbers.known = make(map[string]uint64)
	n.sender = newSender(c)

	var err error
	n.EventLog, err = eventlog.Open(ctx, js, eventlog.Config{
		Retention: c.keepEvents(), Replicas: c.Replicas, Shared: n.sharesLog(),
		PublishAtOnce: c.PublishAtOnce, Spool: c.Spool, Log: n.log,
		Wanted: n.registry.wanted, MonotonicTime: n.monotonicTime, RecoverPanic: n.recoverPanic,
	})
	if err != nil {
		return nil, err
	}
	if n.outbox, err = openOutbox(ctx, js, c); err != nil {
		return nil, fmt.Errorf("open outbox bellhop_outbox: %w", err)
	}
	l := deliverylog.Config{MaxAge: c.keepEvents(), Replicas: c.Replicas, Log: n.log, ReportPanic: n.reportPanic}
	if n.deliveryLog, err = deliverylog.Open(ctx, js, l); err != nil {
		return nil, err
	}
	if n.registry.kv, err = openSubscriptions(ctx, js, c); err != nil {
		return nil, err
	}
	if n.registry.stream, err = js.Stream(ctx, "KV_bellhop_subscriptions"); err != nil {
		return nil, fmt.Errorf("open bucket bellhop_subscriptions: %w", err)
	}
	if n.Numbers.kv, err = openExtensions(ctx, js, c); err != nil {
		return nil, err
	}
	if n.Numbers.stream, err = js.Stream(ctx, "KV_bellhop_extensions"); err != nil {
		return nil, fmt.Errorf("open bucket bellhop_extensions: %w", err)
	}
	if n.health.kv, err = openHealthStates(ctx, js, c); err != nil {
		return nil, err
	}
	if c.Node != "" {
		kv, err := openLeases(ctx, js, c)
		if err != nil {
			return nil, err
		}
		n.lease = newLease(kv, c.Node)
	}
	if err := n.registry.watch(ctx, false); err != nil {
		return nil, err
	}
	if err := n.health.watch(ctx, false); err != nil {
		return nil, err
	}
	return n, nil
}

// Run publishes and delivers events until ctx ends, and then returns nil. After ctx has
// ended, Run still publishes events for at most two seconds, waits at most five seconds
// for the attempts in flight, and writes their records for at most two seconds. Events
// that are still unpublished go to the Spool. If a part of Run fails, its error is logged
// and the part is restarted.
func (n *Notifier) Run(ctx context.Context) error {
	defer n.sender.Close()
	defer n.deliveryLog.Start(ctx)()
	parts := []struct {
		name string
		run  func(context.Context) error
	}{
		{"publish", n.EventLog.Run},
		{"subscriptions", func(ctx context.Context) error { return n.registry.watch(ctx, true) }},
		{"health", func(ctx context.Context) error { return n.health.watch(ctx, true) }},
		{"save health", n.health.saveChanges},
		{"extensions", n.Numbers.watch},
		{"deliver", n.deliverWithLease},
	}
	var running sync.WaitGroup
	for _, p := range parts {
		running.Go(func() { n.runRestarting(ctx, p.name, p.run) })
	}
	running.Wait()
	n.EventLog.SaveSpool()
	return nil
}

// Stats holds counts since Open, except Unpublished, Pending and Lagging, which are current
// values.
type Stats struct {
	Published   uint64 // events acknowledged by the event log
	Dropped     uint64 // events lost: the buffer was full while the store was slow or gone, or the event cannot be stored
	Unpublished int    // events that wait to be published

	Delivered uint64 // deliveries by outcome
	Expired   uint64
	Refused   uint64
	Canceled  uint64
	Failed    uint64 // attempts that will be retried
	Pending   int    // deliveries that have not ended

	Lost    uint64 // events that left the log before a lagging subscription had read them, whether or not it wanted them
	Lagging int    // subscriptions that lag

	EndpointPauses     uint64 // circuit breakers of endpoints opened: failed connections and missing responses
	SubscriptionPauses uint64 // circuit breakers of subscriptions opened: failures of their own URLs
	Disabled           uint64 // subscriptions disabled: the receiver answered 410, or failed for five days

	RecordsDropped uint64 // attempts and ends missing in the delivery log: the buffer was full while the store was slow or gone

	Panics uint64 // panics recovered; each is a bug and has cost the work in progress
}

// counters hold the counts of deliveries, breakers and panics that Stats returns.
type counters struct {
	failed           atomic.Uint64
	paused, disabled atomic.Uint64
	ownPaused        atomic.Uint64
	ended            [schedule.Outcomes]atomic.Uint64
	pending, lagging atomic.Int64
	lost             atomic.Uint64
	panics           atomic.Uint64
}

// Stats returns the current counts.
func (n *Notifier) Stats() Stats {
	log := n.EventLog.Stats()
	return Stats{
		Published:          log.Published,
		Dropped:            log.Dropped,
		Unpublished:        log.Unpublished,
		Delivered:          n.stats.ended[schedule.Delivered].Load(),
		Expired:            n.stats.ended[schedule.Expired].Load(),
		Refused:            n.stats.ended[schedule.Refused].Load(),
		Canceled:           n.stats.ended[schedule.Canceled].Load(),
		Failed:             n.stats.failed.Load(),
		Pending:            int(n.stats.pending.Load()),
		Lost:               n.stats.lost.Load(),
		Lagging:            int(n.stats.lagging.Load()),
		EndpointPauses:     n.stats.paused.Load(),
		SubscriptionPauses: n.stats.ownPaused.Load(),
		Disabled:           n.stats.disabled.Load(),

		RecordsDropped: n.deliveryLog.Dropped(),

		Panics: n.stats.panics.Load(),
	}
}

// Aliases of the event log's types for the API, the page and the config.
type (
	Query = eventlog.Query
	Tail  = eventlog.Tail
	Spool = eventlog.Spool
	Pace  = eventlog.Pace
)

var (
	ErrNoEvent   = eventlog.ErrNoEvent
	ErrEventGone = eventlog.ErrEventGone
)

// Events reads the log, see [eventlog.Log.Find]. Readers share the events and must not
// change them.
func (n *Notifier) Events(ctx context.Context, q Query) (events []*dialog.Event, more bool, err error) {
	found, more, err := n.EventLog.Find(ctx, q)
	for _, e := range found {
		events = append(events, e.Event)
	}
	return events, more, err
}

// monotonicTime converts a wall clock time from the store into a time on the monotonic
// clock of this process. The age of the result is the age that at has by the wall clock
// now. Setting the wall clock afterwards does not change it. A time in the future becomes
// now. The zero time stays zero.
func (n *Notifier) monotonicTime(at time.Time) time.Time {
	if at.IsZero() {
		return at
	}
	return time.Now().Add(-max(0, n.config.wall().Sub(at)))
}

// sharesLog reports whether other nodes publish to the log too.
func (n *Notifier) sharesLog() bool { return n.config.Node != "" }
