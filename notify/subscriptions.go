package notify

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"bellhop/notify/stream"
	"bellhop/notify/subscription"
)

var (
	ErrNotFound = errors.New("no such subscription")
	ErrConflict = errors.New("the subscription was changed by someone else")
	ErrLimit    = errors.New("the extension has reached its limit of subscriptions")
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

// saveSubscription stores s, with its state and time of change, and returns it as stored.
// s.Revision must be the stored revision, or 0 for a new subscription; otherwise the
// error is ErrConflict. For a declared subscription the error is ErrDeclared.
func (r *registry) saveSubscription(ctx context.Context, s Subscription) (Subscription, error) {
	if s.Declared != "" {
		return s, fmt.Errorf("%w (%s)", ErrDeclared, s.Declared)
	}
	s.Modified = time.Now().UTC().Truncate(time.Microsecond)
	switch {
	case s.Active:
		s.State, s.Why = StateActive, ""
	case s.State != StateDisabled:
		s.State, s.Why = StateDisabled, "switched off"
	} // else it is disabled already, with a reason
	b, err := json.Marshal(s)
	if err != nil {
		return s, fmt.Errorf("encode subscription %s: %w", s.ID, err)
	}
	old := s.Revision
	s.Revision, err = r.kv.Update(ctx, s.ID, b, old)
	if wrongRevision(err) {
		return s, ErrConflict
	}
	if err != nil {
		return s, fmt.Errorf("store subscription %s: %w", s.ID, err)
	}
	r.putSubscription(s)
	return s, nil
}

// wrongRevision reports whether a write failed because the key has another revision.
func wrongRevision(err error) bool {
	return errors.Is(err, jetstream.ErrKeyExists) || errors.Is(err, jetstream.ErrKeyRevisionMismatch)
}

// putSubscription applies one subscription, unless a newer revision is known.
func (r *registry) putSubscription(s Subscription) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.subs[s.ID].Revision >= s.Revision || r.deleted[s.ID] >= s.Revision {
		return
	}
	r.subs[s.ID] = s
	r.namedTypes.Or(uint32(subscription.MaskOf(s.Types...)))
	r.markChanged(s.ID)
}

// markChanged marks a subscription for the delivery loop to apply, unless no loop runs.
// mu is locked.
func (r *registry) markChanged(id string) {
	if r.idle {
		return
	}
	r.changed[id] = true // before the signal
	stream.Signal(r.changedSignal)
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

// removeSubscription applies a deletion, unless a newer revision is known.
func (r *registry) removeSubscription(id string, revision uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.subs[id].Revision > revision {
		return
	}
	if _, ok := r.subs[id]; ok {
		delete(r.subs, id)
		r.deleted[id] = max(r.deleted[id], revision)
		r.markChanged(id)
		return
	}
	delete(r.deleted, id) // the watch has seen the deletion too: no older entry follows
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

// disableSubscription disables a subscription whose receiver refuses or fails. It does
// nothing if the subscription was deleted or disabled, or has another URL meanwhile.
func (r *registry) disableSubscription(ctx context.Context, id, url, why string) error {
	for {
		s, err := r.get(id)
		if err != nil || s.URL != url || !s.Active {
			return nil // deleted or changed: the response was not meant for it
		}
		if s.Declared != "" {
			r.disableDeclared(id, url, why)
			return nil
		}
		s.Active, s.State, s.Why = false, StateDisabled, why
		if _, err = r.saveSubscription(ctx, s); err != ErrConflict {
			return err
		}
		if err := r.refreshSubscription(ctx, id); err != nil {
			return err
		}
	}
}

// MaxSubscriptions returns how many subscriptions may name one extension, or one regular
// expression.
func (n *Notifier) MaxSubscriptions() int { return n.config.maxSubscriptions() }

// get returns a copy of a subscription, or ErrNotFound.
func (r *registry) get(id string) (Subscription, error) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	s, ok := r.subs[id]
	if !ok {
		return s, ErrNotFound
	}
	return s.Clone(), nil
}

// countSiblings returns how many subscriptions have the same Extension and ExtensionRegex
// as s.
func (r *registry) countSiblings(s *Subscription) (n int) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	for _, other := range r.subs {
		if other.Extension == s.Extension && other.ExtensionRegex == s.ExtensionRegex {
			n++
		}
	}
	return n
}

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
