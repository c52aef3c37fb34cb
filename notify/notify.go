// Package notify tells subscribers what happened, at least once and in order.
//
// A [Notifier] is given events by Say, writes them to the event log, a
// JetStream stream, and delivers each to every subscription that wants it: one
// HTTP request per attempt, attempts until one succeeds or the event's class
// says that it is no longer worth it.
//
// # Order
//
// The events of one call reach one subscription in the order they were said:
// each waits until the one before it was delivered, has expired or was refused.
// Different calls, and different subscriptions, never wait for each other.
//
// # At least once
//
// An event is said once it is in the log. From then on it is delivered at
// least once or visibly expires, whatever is killed when. A repetition has the
// same webhook-id header. After a kill, what was delivered in the last 100 ms may
// be delivered again; the last second's, if a receiver was slow.
//
// # Clocks
//
// How old an event is, and when it is tried again, goes by the monotonic clock: by
// setting the wall clock nobody makes an event expire, or wait. Only what a restart
// finds in the store is as old as the wall clock says then; it is never of the
// future, and waits for no longer than it was to.
//
// # Pauses
//
// Two kinds of circuit breakers pause deliveries: one of each endpoint, a scheme,
// host and port, which counts connections that cannot be made and answers that do not
// come, and one of each subscription, which counts the HTTP statuses that its own URL
// answers. So a URL that fails delays no other at its host. While a breaker is open
// only a probe is sent now and then, what waits keeps what its class gives it, and a
// probe uses up no attempt. The first success closes the breaker, and makes due
// what waited for it; what backs off for its own failures keeps its schedule. A
// subscription is switched off when its receiver answers 410, or after five days in
// which nothing succeeded. Each of these is an event of the type subscription-state,
// and shown in the subscription.
//
// # Signatures
//
// Every attempt has the header fields of the Standard Webhooks specification:
// webhook-id, webhook-timestamp, which is that of the attempt, and
// webhook-signature, an HMAC-SHA256 over both and the payload. The payload is
// the body. The specification does not know GET: of a GET it is the query, byte
// for byte as on the wire, with what the URL itself has of it. A subscription
// that has no secret, because it was stored before there were any or is declared
// without, is not signed until it has one: nobody could verify what is signed with
// a secret that nobody was shown.
//
// # What a crash loses
//
// Kill -9 loses the events that Say has taken and the log has not: those of the
// last 2 ms and of one write while fewer than 2,000 events come a second, of 40 ms
// when more do. A power cut also loses what the store had not synced. A stop loses
// none: what the store does not take is in the [Spool], and published first by the
// next Run.
//
// # Memory
//
// At most 10,000 events wait for the log; beyond, the oldest live ones are
// dropped and counted. A delivery that fails, or does not end within a second,
// is written to the outbox and leaves memory but for some 450 bytes.
// While somebody tails the log, its last 4,096 events are in memory.
//
// A subscription with 100,000 deliveries waiting is behind: what is said from
// then on stays in the log, and is read again for that subscription as its
// deliveries end. It delays no other. While a million wait for all together, who
// has more than its share of them is behind. A live event that is too old when it
// is read again expires then; what has left the log by then is lost, and counted.
//
// # The delivery log
//
// Every attempt, and every end, is in the stream bellhop_attempts a fifth of a second
// after it was made: what was sent, and what came back, without secrets.
// Delivering never waits for it. While the store is slow or gone, 16 MB of it
// wait in memory; beyond, the oldest are dropped and counted. A kill loses what
// was not written: the event is then delivered again, or was without a trace.
//
// # By hand
//
// Redeliver makes one attempt at once, past the order of the call and past a
// pause. If it succeeds, who delivers is told and makes no other; if that word is
// lost, the event is delivered again. Test sends made-up events. Replay delivers
// again what was said in a time, in lanes of its own.
//
// # Nodes
//
// Nodes that share a store, and are told so by [Config].Node, share subscriptions
// and the log: what is subscribed on one is in force for what is said next on
// any. One of them delivers what all have said. It holds a lease; another takes
// over at once when it stops, and within about five seconds when it dies. What was under way
// then may be repeated, under the same webhook-id. A node that can no longer
// renew its lease stops before another may begin, so order within a lane holds.
package notify

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"bellhop/dialog"
)

// Config says how events are kept and where they may be sent.
type Config struct {
	KeepEvents       time.Duration // 0: 30 days
	Replicas         int           // of every stream; 0 is 1
	Node             string        // names this node for good among those that share the store; "": none does
	MaxSubscriptions int           // per extension; 0: 100

	// Where callbacks may go: Deny goes first, then Own, then Allow, then the
	// defaults (see [guard]).
	Allow, Deny []netip.Prefix
	Own         []netip.AddrPort // bellhop's own TCP listeners

	Version string       // User-Agent is bellhop/<version>
	Log     *slog.Logger // nil: slog.Default()

	// Prompt has each event written at once, and not together with those of the
	// next 2 to 40 ms, as is cheaper when many come.
	Prompt bool

	// Spool keeps the events that are not in the log when Run ends. nil: they are
	// lost.
	Spool Spool

	// Transport makes the HTTP requests instead of the network, and without
	// the guard: for tests. nil: the network.
	Transport http.RoundTripper

	Resolver *net.Resolver // looks receivers' names up; nil: as the machine does

	Wall func() time.Time // the wall clock, for tests that set it; nil: time.Now
}

// wall reads the wall clock: there is no monotonic reading in what it returns.
func (c Config) wall() time.Time {
	if c.Wall == nil {
		return time.Now().Round(0)
	}
	return c.Wall().Round(0)
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

// A Notifier says events and delivers them. Its methods may be called from any
// goroutine, unless they say otherwise.
type Notifier struct {
	config Config
	log    *slog.Logger
	js     jetstream.JetStream
	events jetstream.Stream
	outbox jetstream.Stream

	deliveryLog jetstream.Stream

	registry   registry
	health     healthStates
	numbers    numberTable
	publisher  publisher
	handoff    handoff
	sharedTail sharedTail
	blocks     blockCache
	lease      lease
	delivering atomic.Bool
	sender     *sender
	records    recordBuffer
	stats      counters
	spooled    bool // the Spool may have events; the publisher's, and then Run's

	maxPending int // deliveries of one subscription
	maxReplay  int // events of one replay
}

// Open opens the streams and buckets, creating what is missing, and reads the
// subscriptions. The Notifier holds nothing that must be closed.
func Open(ctx context.Context, js jetstream.JetStream, c Config) (*Notifier, error) {
	c.Replicas = max(1, c.Replicas)
	n := &Notifier{config: c, log: c.log(), js: js, maxPending: maxPending, maxReplay: maxReplay}
	n.registry.changedSignal, n.registry.seenSignal = make(chan struct{}, 1), make(chan struct{}, 1)
	n.registry.changed = make(map[string]bool)
	n.registry.subs = make(map[string]Subscription)
	n.registry.deleted = make(map[string]uint64)
	n.health.nc = js.Conn()
	n.health.wakeup = make(chan struct{}, 1)
	n.health.known = make(map[string]healthState)
	n.health.unsaved = make(map[string]*healthState)
	n.numbers.known = make(map[string]uint64)
	n.publisher.wakeup = make(chan struct{}, 1)
	n.publisher.batchCalls = make(map[string]bool)
	n.handoff.shared = c.Node != ""
	n.handoff.limitRaised, n.handoff.endRaised = make(chan struct{}, 1), make(chan struct{}, 1)
	n.records.wakeup = make(chan struct{}, 1)
	n.sharedTail.readSlot = make(chan struct{}, 1)
	n.blocks = newBlockCache()
	n.sender = newSender(c)

	var err error
	if n.events, err = openEventLog(ctx, js, c); err != nil {
		return nil, fmt.Errorf("event log bellhop_events: %w", err)
	}
	n.handoff.logEnd = n.events.CachedInfo().State.LastSeq
	if n.outbox, err = openOutbox(ctx, js, c); err != nil {
		return nil, fmt.Errorf("outbox bellhop_outbox: %w", err)
	}
	if n.deliveryLog, err = openDeliveryLog(ctx, js, c); err != nil {
		return nil, fmt.Errorf("delivery log bellhop_attempts: %w", err)
	}
	if n.registry.kv, err = openSubscriptions(ctx, js, c); err != nil {
		return nil, err
	}
	if n.registry.stream, err = js.Stream(ctx, "KV_bellhop_subscriptions"); err != nil {
		return nil, fmt.Errorf("bucket bellhop_subscriptions: %w", err)
	}
	if n.numbers.kv, err = openExtensions(ctx, js, c); err != nil {
		return nil, err
	}
	if n.numbers.stream, err = js.Stream(ctx, "KV_bellhop_extensions"); err != nil {
		return nil, fmt.Errorf("bucket bellhop_extensions: %w", err)
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
	n.loadSpool()
	return n, nil
}

// Run says and delivers events until ctx ends, and then returns nil: events not
// said yet get two seconds more, attempts under way five, and then what came of
// them two. Events that are not in the log then are in the Spool. A part that
// fails is logged and begun anew.
func (n *Notifier) Run(ctx context.Context) error {
	defer n.sender.close()
	defer n.startRecording(ctx)()
	parts := []struct {
		name string
		run  func(context.Context) error
	}{
		{"say", n.publishEvents},
		{"subscriptions", func(ctx context.Context) error { return n.registry.watch(ctx, true) }},
		{"standings", func(ctx context.Context) error { return n.health.watch(ctx, true) }},
		{"write standings", n.health.saveChanges},
		{"extensions", n.numbers.watch},
		{"deliver", n.deliverWithLease},
	}
	ended := make(chan struct{})
	for _, p := range parts {
		go func() {
			for {
				err := n.runRecovering(ctx, p.name, p.run)
				if ctx.Err() != nil {
					break
				}
				n.log.Error("notify begins anew", "part", p.name, "err", err)
				sleep(ctx, time.Second)
			}
			ended <- struct{}{}
		}()
	}
	for range parts {
		<-ended
	}
	n.saveSpool()
	return nil
}

// Stats are counts since Open, but for Unsaid, Pending and Behind, which are so now.
type Stats struct {
	Said    uint64 // events written to the log
	Dropped uint64 // events that are lost: they found no room while the store was slow or gone, or no log could take them
	Unsaid  int    // events that wait for the log

	Delivered uint64 // deliveries, by how they ended
	Expired   uint64
	Refused   uint64
	Canceled  uint64
	Failed    uint64 // attempts that were not the end of it
	Pending   int    // deliveries that have not ended

	Lost   uint64 // events that left the log before a subscription that was behind was told, whether or not it wanted them
	Behind int    // subscriptions that are

	Pauses    uint64 // of endpoints, for connections that failed and answers that did not come
	OwnPauses uint64 // of subscriptions, for what their own URLs answered
	Disabled  uint64 // subscriptions: their receivers answered 410, or failed for five days

	Unrecorded uint64 // attempts and ends that found no room while the store was slow or gone

	Panics uint64 // of bugs; each has cost what was being done
}

// counters are what Stats reads.
type counters struct {
	published, failed atomic.Uint64
	paused, disabled  atomic.Uint64
	ownPaused         atomic.Uint64
	ended             [outcomes]atomic.Uint64
	pending, lagging  atomic.Int64
	lost              atomic.Uint64
	panics            atomic.Uint64
}

// Stats returns the counts.
func (n *Notifier) Stats() Stats {
	n.publisher.mu.Lock()
	dropped := n.publisher.dropped
	n.publisher.mu.Unlock()
	return Stats{
		Said:      n.stats.published.Load(),
		Dropped:   dropped,
		Unsaid:    n.publisher.unpublished(),
		Delivered: n.stats.ended[delivered].Load(),
		Expired:   n.stats.ended[expired].Load(),
		Refused:   n.stats.ended[refused].Load(),
		Canceled:  n.stats.ended[canceled].Load(),
		Failed:    n.stats.failed.Load(),
		Pending:   int(n.stats.pending.Load()),
		Lost:      n.stats.lost.Load(),
		Behind:    int(n.stats.lagging.Load()),
		Pauses:    n.stats.paused.Load(),
		OwnPauses: n.stats.ownPaused.Load(),
		Disabled:  n.stats.disabled.Load(),

		Unrecorded: n.records.droppedCount(),

		Panics: n.stats.panics.Load(),
	}
}

// Health says why events cannot be said or delivered as they should, or nil.
func (n *Notifier) Health() error {
	n.publisher.mu.Lock()
	defer n.publisher.mu.Unlock()
	switch waiting := len(n.publisher.buffer) + len(n.publisher.batch); {
	case n.publisher.lastErr != nil:
		return fmt.Errorf("the store takes no events, %d wait: %w", waiting, n.publisher.lastErr)
	case waiting > maxUnpublished/2:
		return fmt.Errorf("the store is slow: %d events wait", waiting)
	case !n.js.Conn().IsConnected():
		if err := n.js.Conn().LastError(); err != nil {
			return fmt.Errorf("the store is not connected: %w", err)
		}
		return errors.New("the store is not connected")
	}
	return nil
}

// class says how long an event is worth delivering.
type retention int

const (
	live    retention = iota // seconds
	durable                  // days
)

func retentionOf(t dialog.Type) retention {
	switch t {
	case dialog.Ringing, dialog.DialIn, dialog.DialOut, dialog.Answer, dialog.Hold, dialog.Resume:
		return live
	}
	return durable
}

// observed is when something was that the store knows by the wall clock, on the
// monotonic clock of this process: as long ago as the wall clock now says. From here
// on nobody makes it older by setting the clock. What would be of the future is of
// now. Of the zero time it is zero.
func (n *Notifier) monotonicTime(at time.Time) time.Time {
	if at.IsZero() {
		return at
	}
	return time.Now().Add(-max(0, n.config.wall().Sub(at)))
}

// laneOf names what an event is in order with: its call, or its extension if
// it is of no call.
func queueName(e *dialog.Event) string {
	if e.Call == "" {
		return e.Extension.User
	}
	return e.Call
}
