package admin

import (
	"context"
	"errors"

	"bellhop/admin/access"
	"bellhop/notify"
)

// errNotBound refuses a subscription that the token creating it could not see.
var errNotBound = errors.New("this token is bound to extensions: subscribe to one of these, by name")

// addSubscription creates a subscription for the request of ctx.
func (s *Server) addSubscription(ctx context.Context, sub notify.Subscription) (notify.Subscription, error) {
	if err := checkComplexity(sub.ExtensionRegex); err != nil {
		return sub, err
	}
	if err := sub.Validate(); err != nil {
		return sub, err
	}
	if !access.ClientOf(ctx).CanSee(sub.Extension) {
		return sub, errNotBound
	}
	sub.ID, sub.Owner = "", access.ClientOf(ctx).ID
	if err := s.checkQuota(sub.Owner, &sub); err != nil {
		return sub, err
	}
	sub, err := s.config.Notifier.Subscribe(ctx, sub)
	if err == nil {
		s.recordAudit(ctx, "create-subscription", sub.ID, nil, maskSecrets(sub))
	}
	return sub, err
}

// visibleSubscription returns a subscription if the request of ctx may see it, else
// notify.ErrNotFound. Every subscription id of a request is resolved here first.
func (s *Server) visibleSubscription(ctx context.Context, id string) (notify.Subscription, error) {
	sub, err := s.config.Notifier.Subscription(id)
	if err == nil && !access.ClientOf(ctx).CanSee(sub.Extension) {
		return notify.Subscription{}, notify.ErrNotFound
	}
	return sub, err
}

// editSubscription changes a subscription, see [notify.Notifier.Edit].
func (s *Server) editSubscription(ctx context.Context, id string, revision uint64, edit func(*notify.Subscription) error) (notify.Subscription, error) {
	before, err := s.visibleSubscription(ctx, id)
	if err != nil {
		return before, err
	}
	client := access.ClientOf(ctx)
	after, err := s.config.Notifier.Edit(ctx, id, revision, func(sub *notify.Subscription) error {
		if sub.Revision != before.Revision { // changed since it was read
			before = maskSecrets(*sub)
		}
		if !client.CanSee(sub.Extension) {
			return notify.ErrNotFound
		}
		expr := sub.ExtensionRegex
		if err := edit(sub); err != nil {
			return err
		}
		if sub.ExtensionRegex != expr {
			if client.ID != access.ConfigID {
				sub.Owner = client.ID // the expression counts in this token's quota
			}
			if err := s.checkQuota(client.ID, sub); err != nil {
				return err
			}
		}
		if !client.CanSee(sub.Extension) && sub.Validate() == nil {
			return errNotBound
		}
		return nil
	})
	if err == nil {
		s.recordAudit(ctx, "change-subscription", id, before, after)
	}
	return after, err
}

// removeSubscription deletes a subscription, see [notify.Notifier.Unsubscribe].
func (s *Server) removeSubscription(ctx context.Context, id string, revision uint64) error {
	sub, err := s.visibleSubscription(ctx, id)
	if err != nil {
		return err
	}
	if err := s.config.Notifier.Unsubscribe(ctx, id, revision); err != nil {
		return err
	}
	s.recordAudit(ctx, "delete-subscription", id, sub, nil)
	return nil
}
