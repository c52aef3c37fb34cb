package ops

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"time"

	"bellhop/admin/access"
	"bellhop/notify"
)

// errNotBound is the error of a token that creates a subscription that it may not see, or
// changes one so that it may no longer see it.
var errNotBound = errors.New("this token is bound to extensions: subscribe to one of these, by name")

// firstError returns the error of the first invalid field of a subscription, or err if
// all fields are valid.
func firstError(sub notify.Subscription, err error) error {
	sub.Normalize()
	return cmp.Or(sub.Validate(), err)
}

// InvalidFields yields the error of each invalid field of a subscription. If the regular
// expression is too complex, it yields only that error, because checking the other fields
// would compile the expression.
func InvalidFields(sub notify.Subscription) iter.Seq[*notify.Invalid] {
	var tooComplex *notify.Invalid
	if errors.As(checkComplexity(sub.ExtensionRegex), &tooComplex) {
		return func(yield func(*notify.Invalid) bool) { yield(tooComplex) }
	}
	sub.Normalize()
	return sub.Invalid()
}

// Subscriptions returns the subscriptions that the client may see, oldest first.
func (o *Operations) Subscriptions(ctx context.Context) []notify.Subscription {
	client := access.ClientOf(ctx)
	return slices.DeleteFunc(o.notifier.Subscriptions(), func(sub notify.Subscription) bool {
		return !client.CanSee(sub.Extension)
	})
}

// Subscription returns a subscription, or [notify.ErrNotFound].
func (o *Operations) Subscription(ctx context.Context, id string) (notify.Subscription, error) {
	sub, err := o.notifier.Subscription(id)
	if err == nil && !access.ClientOf(ctx).CanSee(sub.Extension) {
		return notify.Subscription{}, notify.ErrNotFound
	}
	return sub, err
}

// MaxSubscriptions returns the maximum number of subscriptions to one extension.
func (o *Operations) MaxSubscriptions() int { return o.notifier.MaxSubscriptions() }

// CreateSubscription creates a subscription, and returns it with its secret.
func (o *Operations) CreateSubscription(ctx context.Context, sub notify.Subscription) (notify.Subscription, error) {
	client := access.ClientOf(ctx)
	sub.ID, sub.Owner = "", client.ID
	if err := checkComplexity(sub.ExtensionRegex); err != nil {
		return sub, err
	}
	if !client.CanSee(sub.Extension) {
		return sub, firstError(sub, errNotBound)
	}
	if err := o.checkQuota(client.ID, &sub); err != nil {
		return sub, firstError(sub, err)
	}
	sub, err := o.notifier.Subscribe(ctx, sub)
	if err == nil {
		o.record(ctx, "create-subscription", sub.ID, nil, maskSecrets(sub))
	}
	return sub, err
}

// checkQuota returns an error if creating or changing sub would exceed the limits of a
// token. token is its id.
func (o *Operations) checkQuota(token string, sub *notify.Subscription) error {
	if token == access.ConfigID {
		return nil
	}
	cost, count := ProgramSize(sub.ExtensionRegex), 0
	for _, other := range o.notifier.Subscriptions() {
		if other.Owner == token && other.ID != sub.ID {
			count++
			cost += ProgramSize(other.ExtensionRegex)
		}
	}
	switch {
	case count >= MaxSubscriptionsPerToken:
		return &quotaError{fmt.Sprintf("this token has reached its limit of %d subscriptions: delete some, or use another token", count)}
	case sub.ExtensionRegex != "" && cost > MaxProgramsPerToken:
		return &quotaError{fmt.Sprintf("the extension_regex of this token's subscriptions compile to %d instructions, more than %d: delete some, or use fewer repetitions", cost, MaxProgramsPerToken)}
	}
	return nil
}

// checkComplexity returns a [notify.Invalid] if an expression would compile to too
// large a program.
func checkComplexity(expr string) error {
	if size := ProgramSize(expr); size > maxProgramSize {
		return &notify.Invalid{Field: "extension_regex", Why: fmt.Sprintf("is too complex: it compiles to about %d instructions, more than %d: use fewer repetitions", size, maxProgramSize)}
	}
	return nil
}

// ChangeSubscription changes a subscription with edit, see [notify.Notifier.Edit].
func (o *Operations) ChangeSubscription(ctx context.Context, id string, revision uint64, edit func(*notify.Subscription) error) (notify.Subscription, error) {
	before, err := o.Subscription(ctx, id)
	if err != nil {
		return before, err
	}
	client := access.ClientOf(ctx)
	after, err := o.notifier.Edit(ctx, id, revision, func(sub *notify.Subscription) error {
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
			if err := cmp.Or(checkComplexity(sub.ExtensionRegex), o.checkQuota(client.ID, sub)); err != nil {
				return err
			}
		}
		if !client.CanSee(sub.Extension) {
			return firstError(*sub, errNotBound)
		}
		return nil
	})
	if err == nil {
		o.record(ctx, "change-subscription", id, before, after)
	}
	return after, err
}

// DeleteSubscription deletes a subscription, see [notify.Notifier.Unsubscribe].
func (o *Operations) DeleteSubscription(ctx context.Context, id string, revision uint64) error {
	sub, err := o.Subscription(ctx, id)
	if err != nil {
		return err
	}
	if err := o.notifier.Unsubscribe(ctx, id, revision); err != nil {
		return err
	}
	o.record(ctx, "delete-subscription", id, sub, nil)
	return nil
}

// RotateSecret gives a subscription a new secret, see [notify.Notifier.RotateSecret].
func (o *Operations) RotateSecret(ctx context.Context, id string, revision uint64) (notify.Subscription, error) {
	before, err := o.Subscription(ctx, id)
	if err != nil {
		return before, err
	}
	sub, err := o.notifier.RotateSecret(ctx, id, revision)
	if err == nil {
		o.record(ctx, "rotate-secret", id, before, maskSecrets(sub))
	}
	return sub, err
}

// TestSubscription sends sample callbacks to a subscription now, see
// [notify.Notifier.Test].
func (o *Operations) TestSubscription(ctx context.Context, id string) ([]notify.SampleResult, error) {
	if _, err := o.Subscription(ctx, id); err != nil {
		return nil, err
	}
	end, err := o.tests.startTest(ctx)
	if err != nil {
		return nil, err
	}
	defer end()
	results, err := o.notifier.Test(ctx, id)
	if err == nil {
		o.record(ctx, "test-subscription", id, nil, nil)
	}
	return results, err
}

// Replay is a time range to replay. [notify.Notifier.Replay] validates it.
type Replay struct {
	From  time.Time `json:"from,omitzero" doc:"Start of the time range: events published then or later"`
	To    time.Time `json:"to,omitzero" doc:"End of the time range, not included; default now"`
	Types []string  `json:"types,omitempty" nullable:"false" doc:"Only these event types; default those of the subscription"`
}

// Replay delivers the events of a time range to a subscription again, and returns their
// number, see [notify.Notifier.Replay].
func (o *Operations) Replay(ctx context.Context, id string, r Replay) (events int, err error) {
	if _, err := o.Subscription(ctx, id); err != nil {
		return 0, err
	}
	events, err = o.notifier.Replay(ctx, id, r.From, r.To, r.Types)
	if err == nil {
		o.record(ctx, "replay", id, nil, r)
	}
	return events, err
}
