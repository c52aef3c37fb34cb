package notify

import (
	"cmp"
	"context"
	"crypto/rand"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"bellhop/notify/subscription"
)

// Subscriptions returns all subscriptions, oldest first, without secrets and header values.
func (n *Notifier) Subscriptions() []Subscription {
	n.registry.mu.RLock()
	defer n.registry.mu.RUnlock()
	all := make([]Subscription, 0, len(n.registry.subs))
	for _, s := range n.registry.subs {
		all = append(all, n.health.withHealth(s.Redacted()))
	}
	slices.SortFunc(all, func(a, b Subscription) int {
		return cmp.Or(a.Created.Compare(b.Created), strings.Compare(a.ID, b.ID))
	})
	return all
}

// Subscription returns one subscription, without secrets and header values, or ErrNotFound.
func (n *Notifier) Subscription(id string) (Subscription, error) {
	s, err := n.registry.get(id)
	return n.health.withHealth(s.Redacted()), err
}

// Subscribe stores a new subscription and returns it as stored, with its secret. It sets
// ID, times, state and revision, and generates a secret if s has none. The subscription
// applies from the next published event on. The error is an *Invalid, ErrLimit, or one of
// the store.
func (n *Notifier) Subscribe(ctx context.Context, s Subscription) (Subscription, error) {
	s = s.Clone()
	s.Normalize()
	if err := s.Validate(); err != nil {
		return s, err
	}
	if n.registry.countSiblings(&s) >= n.config.maxSubscriptions() {
		return s, ErrLimit
	}
	s.ID, s.Revision, s.State, s.Why = newID(), 0, "", ""
	s.Created = time.Now().UTC().Truncate(time.Microsecond)
	s.Began = time.Time{}
	s.Secret = cmp.Or(s.Secret, subscription.NewSecret())
	s.OldSecret, s.OldSecretUntil = "", time.Time{}
	s, err := n.registry.saveSubscription(ctx, s)
	shown := s.Redacted()
	shown.Secret = s.Secret
	return shown, err
}

// Edit changes a subscription. edit gets the subscription with its secret and header
// values, and may change everything but ID, times, state and revision. A new secret is a
// rotation, see [Notifier.RotateSecret]. If edit returns an error, Edit changes nothing
// and returns it. If revision is not 0 and the subscription has another, the error is
// ErrConflict. If revision is 0 and the subscription is changed elsewhere meanwhile, edit
// is called again.
func (n *Notifier) Edit(ctx context.Context, id string, revision uint64, edit func(*Subscription) error) (Subscription, error) {
	for {
		old, err := n.registry.get(id)
		if err != nil {
			return Subscription{}, err
		}
		if revision != 0 && revision != old.Revision {
			return old.Redacted(), ErrConflict
		}
		s := old.Clone()
		if err := edit(&s); err != nil {
			return old.Redacted(), err
		}
		s.InheritSecrets(&old, time.Now())
		s.Normalize()
		if err := s.Validate(); err != nil {
			return old.Redacted(), err
		}
		moved := s.Extension != old.Extension || s.ExtensionRegex != old.ExtensionRegex
		if moved && n.registry.countSiblings(&s) >= n.config.maxSubscriptions() {
			return old.Redacted(), ErrLimit
		}
		if s.Began = old.Began; s.AsksAnew(&old) {
			s.Began = time.Now().UTC().Truncate(time.Microsecond)
		}
		s.ID, s.Created, s.Revision, s.State, s.Why = id, old.Created, old.Revision, old.State, old.Why
		s, err = n.registry.saveSubscription(ctx, s)
		if err == ErrConflict && revision == 0 {
			if err := n.registry.refreshSubscription(ctx, id); err != nil {
				return Subscription{}, err
			}
			continue // another node has changed it meanwhile
		}
		return n.health.withHealth(s.Redacted()), err
	}
}

// Unsubscribe deletes a subscription and cancels its pending deliveries. If revision is not
// 0 and the subscription has another, the error is ErrConflict.
func (n *Notifier) Unsubscribe(ctx context.Context, id string, revision uint64) error {
	s, err := n.registry.get(id)
	if err != nil {
		return err
	}
	if revision != 0 && revision != s.Revision {
		return ErrConflict
	}
	if s.Declared != "" {
		return fmt.Errorf("%w (%s)", ErrDeclared, s.Declared)
	}
	var opts []jetstream.KVDeleteOpt
	if revision != 0 {
		opts = append(opts, jetstream.LastRevision(revision))
	}
	err = n.registry.kv.Delete(ctx, id, opts...)
	if wrongRevision(err) {
		return ErrConflict
	}
	if err != nil {
		return fmt.Errorf("delete subscription %s: %w", id, err)
	}
	n.registry.removeSubscription(id, s.Revision)
	return nil
}

// RotateSecret gives a subscription a new secret and returns the subscription with it.
// For 24 hours requests are also signed with the previous secret; any older one no longer
// signs. If revision is not 0 and the subscription has another, the error is ErrConflict.
func (n *Notifier) RotateSecret(ctx context.Context, id string, revision uint64) (Subscription, error) {
	secret := subscription.NewSecret()
	s, err := n.Edit(ctx, id, revision, func(s *Subscription) error {
		s.Secret = secret
		return nil
	})
	if err == nil {
		s.Secret = secret
	}
	return s, err
}

// MaxSubscriptions returns how many subscriptions may name one extension, or one regular
// expression.
func (n *Notifier) MaxSubscriptions() int { return n.config.maxSubscriptions() }

const idChars = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"

// newID returns 30 random characters of [A-Za-z0-9].
func newID() string {
	id := make([]byte, 0, 30)
	var b [64]byte
	for {
		rand.Read(b[:]) // never fails
		for _, c := range b {
			if c >= 4*byte(len(idChars)) {
				continue // would favor the first letters
			}
			if id = append(id, idChars[int(c)%len(idChars)]); len(id) == cap(id) {
				return string(id)
			}
		}
	}
}
