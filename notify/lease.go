package notify

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"bellhop/notify/stream"
)

// openLeases opens the bucket of leases. The key "deliver" holds the name of the node that
// delivers.
func openLeases(ctx context.Context, js jetstream.JetStream, c Config) (jetstream.KeyValue, error) {
	return openBucket(ctx, js, c, jetstream.KeyValueConfig{Bucket: "bellhop_leases"})
}

// leaseKey is the key of the lease to deliver.
const leaseKey = "deliver"

// The owner renews the lease every leaseRenew. It stops delivering if its last successful
// renewal began leaseValid ago. Another node takes the lease only after it has seen the
// same revision for leaseExpiry, which is longer, so the old owner has stopped by then.
// Nodes that do not own the lease read it every leasePoll.
const (
	leaseRenew  = time.Second
	leaseValid  = 3 * time.Second
	leaseExpiry = 5 * time.Second
	leasePoll   = 250 * time.Millisecond
)

// A lease is the right to deliver. One of the nodes that share a store owns it.
//
//	free ──written by any──▶ owned ──written again by its owner──▶ owned
//	  ▲                        │
//	  └──────released──────────┴──unchanged for 5 s──▶ written by another node
//
// Each write names the revision that it replaces, so one of two concurrent writes is
// refused. Clocks are not compared: each node measures on its own clock how long it has
// seen the same revision.
type lease struct {
	kv      jetstream.KeyValue
	node    string // permanent name of this node
	startID string // differs after every start

	revision   uint64    // of the last write
	validUntil time.Time // no other node takes the lease before this time

	seenRevision uint64    // last revision read while waiting for the lease
	seenSince    time.Time // when seenRevision was first seen
}

// newLease returns the lease for a node that does not own it.
func newLease(kv jetstream.KeyValue, node string) lease {
	return lease{kv: kv, node: node, startID: rand.Text()}
}

// value returns what the owner stores: its name and startID.
func (l *lease) value() []byte { return []byte(l.node + " " + l.startID) }

// errLeaseLost reports that another node may deliver now.
var errLeaseLost = errors.New("the lease is lost")

// acquireLease returns once this node owns the lease, or ctx has ended. It takes a lease
// at once if the lease is free, or if this node owned it before it was killed.
func (l *lease) acquireLease(ctx context.Context) error {
	for {
		began := time.Now()
		revision, err := l.tryAcquire(ctx)
		switch {
		case ctx.Err() != nil:
			return nil
		case err == nil && revision != 0:
			l.revision, l.validUntil, l.seenRevision = revision, began.Add(leaseValid), 0
			return nil
		case err != nil && !wrongRevision(err):
			return fmt.Errorf("acquire lease %s: %w", leaseKey, err)
		}
		stream.Sleep(ctx, leasePoll)
	}
}

// tryAcquire takes the lease if it is free, expired or owned under the name of this node,
// and returns its revision. It returns 0 if another node owns the lease.
func (l *lease) tryAcquire(ctx context.Context) (revision uint64, err error) {
	ctx, cancel := context.WithTimeout(ctx, leaseValid)
	defer cancel()
	e, err := l.kv.Get(ctx, leaseKey) // the value may be stale: then the write is refused
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return l.kv.Create(ctx, leaseKey, l.value())
	}
	if err != nil {
		return 0, err
	}
	if now := time.Now(); e.Revision() != l.seenRevision {
		l.seenRevision, l.seenSince = e.Revision(), now
	}
	holder, _, _ := strings.Cut(string(e.Value()), " ")
	if holder != l.node && time.Since(l.seenSince) < leaseExpiry {
		return 0, nil
	}
	return l.kv.Update(ctx, leaseKey, l.value(), e.Revision())
}

// keepRenewing renews the lease until ctx ends. If the lease is lost, it returns
// errLeaseLost at once.
func (l *lease) keepRenewing(ctx context.Context) error {
	for wait := leaseRenew; ; {
		stream.Sleep(ctx, min(wait, time.Until(l.validUntil)))
		if ctx.Err() != nil {
			return nil
		}
		began := time.Now()
		err := l.renewOnce(ctx)
		switch {
		case err == nil:
			l.validUntil = began.Add(leaseValid)
			wait = leaseRenew
		case errors.Is(err, errLeaseLost):
			return err
		case !time.Now().Before(l.validUntil):
			return fmt.Errorf("%w: not renewed for %v: %w", errLeaseLost, leaseValid, err)
		default:
			wait = leasePoll
		}
	}
}

// renewOnce renews the lease. The error is errLeaseLost if another node has written it or
// it is gone; after any other error, the renewal may be repeated.
func (l *lease) renewOnce(ctx context.Context) error {
	deadline := time.Now().Add(leaseRenew)
	if l.validUntil.Before(deadline) {
		deadline = l.validUntil
	}
	ctx, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()
	revision, err := l.kv.Update(ctx, leaseKey, l.value(), l.revision)
	if err == nil {
		l.revision = revision
		return nil
	}
	if !wrongRevision(err) {
		return err
	}
	e, err := l.kv.Get(ctx, leaseKey)
	if err != nil && !errors.Is(err, jetstream.ErrKeyNotFound) {
		return err
	}
	if err != nil {
		return fmt.Errorf("%w: the key is gone", errLeaseLost)
	}
	value := string(e.Value())
	holder, _, _ := strings.Cut(value, " ")
	switch {
	case value == string(l.value()): // an earlier write succeeded, but its response was lost
		l.revision = e.Revision()
		return errors.New("the response to a renewal was lost")
	case holder == l.node:
		return fmt.Errorf("%w: two nodes are named %s: give each its own name", errLeaseLost, holder)
	}
	return fmt.Errorf("%w: node %s owns it", errLeaseLost, holder)
}

// releaseLease lets another node take the lease at once.
func (l *lease) releaseLease(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, leaseRenew)
	defer cancel()
	if err := l.kv.Delete(ctx, leaseKey, jetstream.LastRevision(l.revision)); err != nil {
		return fmt.Errorf("release lease %s: %w", leaseKey, err)
	}
	return nil
}

// deliverWithLease waits until this node owns the lease, and then delivers until ctx
// ends. It needs no lease if the store is not shared. It returns early if the store fails
// or the lease is lost.
func (n *Notifier) deliverWithLease(ctx context.Context) error {
	owned, endLease := context.WithCancelCause(context.WithoutCancel(ctx))
	defer endLease(nil)
	if n.config.Node == "" {
		return n.runDelivery(ctx, owned)
	}
	n.registry.setIdle()
	if err := n.lease.acquireLease(ctx); err != nil || ctx.Err() != nil {
		return err
	}
	n.log.Info("delivery started", "node", n.config.Node)

	delivering, end := context.WithCancel(owned)
	defer end()
	defer context.AfterFunc(ctx, end)()
	keeping, stop := context.WithCancel(context.WithoutCancel(ctx)) // renew also while the last attempts end
	var keeper sync.WaitGroup
	keeper.Go(func() {
		if err := n.lease.keepRenewing(keeping); err != nil {
			endLease(err)
		}
	})
	err := n.runDelivery(delivering, owned)
	n.stats.pending.Store(0)
	n.stats.lagging.Store(0)
	stop()
	keeper.Wait()
	if owned.Err() != nil {
		return context.Cause(owned)
	}
	if err := n.lease.releaseLease(context.WithoutCancel(ctx)); err != nil {
		n.log.Warn("lease not released: another node takes over when it expires", "err", err)
	}
	return err
}

// Delivering reports whether this node delivers now.
func (n *Notifier) Delivering() bool { return n.delivering.Load() }
