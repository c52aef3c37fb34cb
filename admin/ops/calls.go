package ops

import (
	"context"
	"errors"
	"slices"

	"bellhop/admin/access"
	"bellhop/dialog"
	"bellhop/dialog/trace"
	"bellhop/notify"
)

// Calls returns the live calls in which the client may see a party, oldest first. Each
// has only the parties that the client may see. A client that is not bound to extensions
// sees all calls.
func (o *Operations) Calls(ctx context.Context) ([]dialog.Call, error) {
	if o.config.Calls == nil {
		return nil, nil
	}
	live, err := o.config.Calls(ctx)
	if err != nil {
		return nil, err
	}
	client := access.ClientOf(ctx)
	calls := make([]dialog.Call, 0, len(live))
	for _, c := range live {
		if c.Parties = client.VisibleParties(c.Parties); len(c.Parties) > 0 || client.Extensions == nil {
			calls = append(calls, c)
		}
	}
	return calls, nil
}

// ErrNoCall is the error of a call that is not live.
var ErrNoCall = errors.New("no such live call: ended calls are in /v1/events")

// Call returns a live call, or ErrNoCall.
func (o *Operations) Call(ctx context.Context, id string) (dialog.Call, error) {
	live, err := o.Calls(ctx)
	if err != nil {
		return dialog.Call{}, err
	}
	i := slices.IndexFunc(live, func(c dialog.Call) bool { return c.ID == id })
	if i < 0 {
		return dialog.Call{}, ErrNoCall
	}
	return live[i], nil
}

// ErrNoTrace is the error of a call without messages.
var ErrNoTrace = errors.New("no messages are kept of this call: calls.trace in the config says of how many calls they are")

// Trace returns the messages kept of a call, or ErrNoTrace. It does not check what the
// client may see: its routes need [access.PermitReadAll].
func (o *Operations) Trace(ctx context.Context, id string) (trace.Call, error) {
	if o.config.Trace == nil {
		return trace.Call{}, ErrNoTrace
	}
	c, ok, err := o.config.Trace(ctx, id)
	if err == nil && !ok {
		err = ErrNoTrace
	}
	return c, err
}

// Events returns the events that match a query and that the client may see, oldest
// first, see [notify.Notifier.Events].
func (o *Operations) Events(ctx context.Context, q notify.Query) (events []*dialog.Event, more bool, err error) {
	q.Extensions = access.ClientOf(ctx).Extensions
	return o.notifier.Events(ctx, q)
}

// LatestEvents returns the newest events that match a query and that the client may
// see, newest first, see [bellhop/notify/eventlog.Log.Latest].
func (o *Operations) LatestEvents(ctx context.Context, q notify.Query) ([]*dialog.Event, error) {
	q.Extensions = access.ClientOf(ctx).Extensions
	return o.notifier.EventLog.Latest(ctx, q)
}

// TailEvents returns the events that match a query and that the client may see, as they
// are published, see [bellhop/notify/eventlog.Log.Tail].
func (o *Operations) TailEvents(ctx context.Context, q notify.Query) (*notify.Tail, error) {
	q.Extensions = access.ClientOf(ctx).Extensions
	return o.notifier.EventLog.Tail(ctx, q)
}
