package notify

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"bellhop/dialog"
	"bellhop/notify/payload"
	"bellhop/notify/stream"
	"bellhop/notify/subscription"
)

// Aliases of the types of a subscription for the API, the page and the config.
type (
	Subscription = subscription.Subscription
	Dialect      = payload.Dialect
	Duration     = subscription.Duration
	Secret       = subscription.Secret
	PrivateKey   = subscription.PrivateKey
	Invalid      = subscription.Invalid
)

// The dialects and states of a subscription.
const (
	Unified     = payload.Unified
	Telphin     = payload.Telphin
	CTI         = payload.CTI
	JSON        = payload.JSON
	CloudEvents = payload.CloudEvents

	StateActive   = subscription.StateActive
	StatePaused   = subscription.StatePaused
	StateDisabled = subscription.StateDisabled
)

// NewSubscription returns a subscription with the defaults: POST, json, active.
func NewSubscription() Subscription { return subscription.New() }

// openSubscriptions opens the bucket of subscriptions: JSON by subscription id.
func openSubscriptions(ctx context.Context, js jetstream.JetStream, c Config) (jetstream.KeyValue, error) {
	return openBucket(ctx, js, c, jetstream.KeyValueConfig{Bucket: "bellhop_subscriptions"})
}

// A registry holds in memory all subscriptions that this node knows. A watch of the
// bucket, the node's own writes, and Declare keep it current.
type registry struct {
	kv            jetstream.KeyValue
	stream        jetstream.Stream // of kv
	changedSignal chan struct{}    // capacity 1: changed is not empty
	seenSignal    chan struct{}    // capacity 1: seen has risen

	mu      sync.RWMutex
	subs    map[string]Subscription // as stored, with secrets and header values
	deleted map[string]uint64       // revision at which an id was deleted: older entries of a slow watch are ignored
	changed map[string]bool         // ids that the delivery loop has not applied yet
	idle    bool                    // no delivery loop runs

	declaredOnce bool   // Declare was called before
	seen         uint64 // every revision up to here is known

	namedTypes atomic.Uint32 // [subscription.Mask] of all types that any subscription has named since the start
}

// watch applies all entries of the bucket. If forever is true, it then applies every
// change until ctx ends.
func (r *registry) watch(ctx context.Context, forever bool) error {
	return watchBucket(ctx, r.kv, forever, r.applyEntry)
}

// applyEntry applies one entry of the bucket, a subscription or a deletion.
func (r *registry) applyEntry(e jetstream.KeyValueEntry) error {
	if e.Operation() != jetstream.KeyValuePut {
		r.removeSubscription(e.Key(), e.Revision())
	} else if err := r.applyStored(e); err != nil {
		return err
	}
	r.raiseSeen(e.Revision())
	return nil
}

// applyStored applies one subscription as the bucket stores it.
func (r *registry) applyStored(e jetstream.KeyValueEntry) error {
	var s Subscription
	if err := json.Unmarshal(e.Value(), &s); err != nil {
		return fmt.Errorf("decode subscription %s: %w", e.Key(), err)
	}
	s.Revision = e.Revision()
	r.putSubscription(s)
	return nil
}

// setIdle discards all changes until markAllChanged is called, because no delivery loop
// runs.
func (r *registry) setIdle() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.idle = true
	clear(r.changed)
}

// markAllChanged marks every subscription as changed. A delivery loop calls it when it
// starts.
func (r *registry) markAllChanged() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.idle = false
	for id := range r.subs {
		r.markChanged(id)
	}
}

// takeChanged returns the subscriptions that changed since the last call; a deleted one has
// only its ID.
func (r *registry) takeChanged() []Subscription {
	r.mu.Lock()
	defer r.mu.Unlock()
	var subs []Subscription
	for id := range r.changed {
		s := r.subs[id]
		s.ID = id
		subs = append(subs, s)
	}
	clear(r.changed)
	return subs
}

// applySubscriptions applies the changed subscriptions to the scheduler.
func (l *deliveryLoop) applySubscriptions() {
	for _, s := range l.registry.takeChanged() {
		delete(l.disabling, s.ID)
		l.signers[s.ID] = newSigner(&s)
		if !s.Active {
			delete(l.signers, s.ID)
			l.health.set(s.ID, nil)
		}
		st, _ := l.health.get(s.ID)
		known := l.scheduler.Has(s.ID)
		l.scheduler.ApplySubscription(s, l.monotonicTime(st.Failing))
		l.restorePause(s, st, known)
	}
}

// wanted reports whether an event is published. An event of an opt-in type is published
// only if a subscription has named its type since the start.
func (r *registry) wanted(e *dialog.Event) bool {
	return !e.Type.OptIn() || subscription.EventMask(e)&subscription.Mask(r.namedTypes.Load()) != 0
}

// syncTimeout limits how long events wait until the subscriptions stored before them are
// known.
const syncTimeout = 2 * time.Second

// syncSubscriptions returns once this node knows every subscription that was stored when it
// was called. It fails after syncTimeout.
func (r *registry) syncSubscriptions(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, syncTimeout)
	defer cancel()
	info, err := r.stream.Info(ctx)
	if err != nil {
		return fmt.Errorf("read bellhop_subscriptions: %w", err)
	}
	last := info.State.LastSeq
	late := time.NewTimer(syncTimeout / 8)
	defer late.Stop()
	for !r.hasSeen(last) {
		select {
		case <-r.seenSignal:
		case <-late.C: // the watch has lost its server and has not noticed yet
			if err := r.watch(ctx, false); err != nil {
				return err
			}
			r.raiseSeen(last) // or the entry is gone
		case <-ctx.Done():
			return fmt.Errorf("read bellhop_subscriptions: %w", ctx.Err())
		}
	}
	return nil
}

// raiseSeen records that this node knows every change up to a revision.
func (r *registry) raiseSeen(revision uint64) {
	r.mu.Lock()
	r.seen = max(r.seen, revision)
	r.mu.Unlock()
	stream.Signal(r.seenSignal)
}

// hasSeen reports whether this node knows every change up to a revision.
func (r *registry) hasSeen(revision uint64) bool {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.seen >= revision
}

// refreshSubscription reads one subscription from the store into the registry. The error
// is ErrNotFound if the store does not have it.
func (r *registry) refreshSubscription(ctx context.Context, id string) error {
	e, err := r.kv.Get(ctx, id)
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return ErrNotFound
	}
	if err != nil {
		return fmt.Errorf("read subscription %s: %w", id, err)
	}
	return r.applyStored(e)
}
