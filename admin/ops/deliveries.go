package ops

import (
	"context"
	"errors"

	"bellhop/admin/access"
	"bellhop/notify"
)

// errNoReceiver refuses to redeliver to a deleted subscription.
var errNoReceiver = errors.New("the subscription of the delivery was deleted: there is nowhere to send it")

// Deliveries returns a page of the deliveries that the client may see, and the cursor of
// the next page. If q.Subscriptions is nil, it returns the deliveries of all
// subscriptions; if the client may see all extensions, also those of deleted ones.
func (o *Operations) Deliveries(ctx context.Context, q notify.DeliveryQuery) (seen []notify.Delivery, next string, err error) {
	if q.Subscriptions == nil && !access.ClientOf(ctx).CanSee("") {
		q.Subscriptions = []string{}
		for _, sub := range o.Subscriptions(ctx) {
			q.Subscriptions = append(q.Subscriptions, sub.ID)
		}
	}
	all, next, err := o.notifier.Deliveries(ctx, q)
	for _, d := range all {
		if o.canSeeDelivery(ctx, d) {
			seen = append(seen, d)
		}
	}
	return seen, next, err
}

// canSeeDelivery reports whether the client may see a delivery. If its token is bound to
// extensions, it must see both the delivery's subscription and the event's extension.
func (o *Operations) canSeeDelivery(ctx context.Context, d notify.Delivery) bool {
	client := access.ClientOf(ctx)
	if client.CanSee("") {
		return true
	}
	_, err := o.Subscription(ctx, d.Subscription)
	return err == nil && client.CanSee(d.Extension)
}

// Delivery returns a delivery, or [notify.ErrNoDelivery].
func (o *Operations) Delivery(ctx context.Context, id string) (notify.Delivery, error) {
	d, err := o.notifier.Delivery(ctx, id)
	if err == nil && !o.canSeeDelivery(ctx, d) {
		return notify.Delivery{}, notify.ErrNoDelivery
	}
	return d, err
}

// Redeliver sends the event of a delivery again now and returns the attempt, see
// [notify.Notifier.Redeliver]. A token may have only MaxTestsPerToken redeliveries and
// tests in progress.
func (o *Operations) Redeliver(ctx context.Context, id string) (notify.Attempt, error) {
	if _, err := o.Delivery(ctx, id); err != nil {
		return notify.Attempt{}, err
	}
	end, err := o.tests.startTest(ctx)
	if err != nil {
		return notify.Attempt{}, err
	}
	defer end()
	a, err := o.notifier.Redeliver(ctx, id)
	switch {
	case errors.Is(err, notify.ErrNotFound):
		err = errNoReceiver
	case err == nil:
		o.record(ctx, "redeliver", id, nil, nil)
	}
	return a, err
}
