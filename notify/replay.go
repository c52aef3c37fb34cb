package notify

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"bellhop/notify/eventlog"
	"bellhop/notify/schedule"
	"bellhop/notify/stream"
	"bellhop/notify/subscription"
)

// ErrInactive reports that a subscription is disabled.
var ErrInactive = errors.New("the subscription is disabled: activate it first")

// maxReplay is how many events one replay may have.
const maxReplay = 100_000

// Replay delivers events of a time range again to one subscription: those published at or
// after from, and before to. A zero to means now. types are the event types to replay;
// without any, they are those of the subscription. Replay returns the number of events,
// including those whose delivery is pending, which are not delivered twice. Each delivery
// has its original webhook-id, is durable, and follows the order of its call,
// independently of new events.
//
// Once Replay returns, the replay is stored and survives any crash. The delivering node
// makes its deliveries. The error is an *Invalid, ErrNotFound, ErrInactive, or one of the
// store.
func (n *Notifier) Replay(ctx context.Context, id string, from, to time.Time, types []string) (count int, err error) {
	s, err := n.registry.get(id)
	if err != nil {
		return 0, err
	}
	if !s.Active {
		return 0, ErrInactive
	}
	if now := time.Now(); to.IsZero() || to.After(now) {
		to = now
	}
	if len(types) == 0 {
		types = s.Types
	}
	if err := subscription.CheckTypes(types); err != nil {
		return 0, err
	}
	switch {
	case from.IsZero():
		return 0, &Invalid{Field: "from", Why: "is missing"}
	case !from.Before(to):
		return 0, &Invalid{Field: "from", Why: "is not before to, or is in the future"}
	}
	plan, count, err := n.planReplay(ctx, &s, from, to, types)
	if err != nil || count == 0 {
		return 0, err
	}
	message, _ := json.Marshal(plan) // cannot fail: numbers and words
	if _, err := n.js.Publish(ctx, "bellhop.delivery."+id+".replay."+rand.Text(), message); err != nil {
		return 0, fmt.Errorf("write bellhop_outbox: replay for %s: %w", id, err)
	}
	n.js.Conn().Publish(replaySubject, nil) // a lost message only delays the others
	return count, nil
}

// planReplay returns the range of the log that a replay covers, and the number of its
// events.
func (n *Notifier) planReplay(ctx context.Context, s *Subscription, from, to time.Time, types []string) (plan schedule.StoredRead, count int, err error) {
	plan.Types = types
	filter := s.Filter()
	filter.Types = subscription.MaskOf(types...)
	_, last, err := n.EventLog.Bounds(ctx)
	if err != nil {
		return plan, 0, err
	}
	first, err := n.EventLog.PositionAt(ctx, from)
	if err != nil || first == 0 {
		return plan, 0, err
	}
	end, err := n.EventLog.PositionAt(ctx, to)
	if err != nil {
		return plan, 0, err
	}
	if end == 0 {
		end = last + 1
	}
	for q, more := (Query{Extension: s.Extension, Position: first, Limit: 1000}), true; more; {
		var found []eventlog.Entry
		if found, more, err = n.EventLog.Find(ctx, q); err != nil {
			return plan, 0, err
		}
		for _, e := range found {
			if e.Seq >= end {
				return plan, count, nil
			}
			q.Position = e.Seq + 1
			if !filter.Matches(e.Event) {
				continue
			}
			if count++; count > n.maxReplay {
				return plan, 0, &Invalid{Field: "from", Why: fmt.Sprintf("and to have more than %d events between them: narrow the range, or name types", n.maxReplay)}
			}
			if plan.To = e.Seq; count == 1 {
				plan.After = plan.To - 1
			}
		}
	}
	return plan, count, nil
}

// replaySubject is the NATS subject on which a new replay is announced to the delivering
// node. The message is not stored, so that node also reads the outbox every
// replayPollInterval.
const (
	replaySubject      = "bellhop.replay"
	replayPollInterval = time.Minute
)

// watchReplays passes every new replay in the outbox to the delivery loop until ctx ends.
// Replays up to position *known of the outbox were restored before. watchReplays advances
// *known.
func (l *deliveryLoop) watchReplays(ctx context.Context, known *uint64) error {
	asked := make(chan struct{}, 1)
	sub, err := l.js.Conn().Subscribe(replaySubject, func(*nats.Msg) { stream.Signal(asked) })
	if err != nil {
		l.log.Warn("replays delayed", "err", err)
	} else {
		defer sub.Unsubscribe()
	}
	poll := time.NewTicker(replayPollInterval)
	defer poll.Stop()
	for ctx.Err() == nil {
		if err := l.readReplays(ctx, known); err != nil && ctx.Err() == nil {
			l.log.Warn("replays delayed", "err", err)
			stream.Sleep(ctx, time.Second)
			continue
		}
		select {
		case <-ctx.Done():
		case <-asked:
		case <-poll.C:
		}
	}
	return nil
}

// readReplays passes the replays after position *known of the outbox to the delivery
// loop, and advances *known.
func (l *deliveryLoop) readReplays(ctx context.Context, known *uint64) error {
	for {
		m, err := l.outbox.GetMsg(ctx, *known+1, jetstream.WithGetMsgSubject("bellhop.delivery.*.replay.*"))
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read bellhop_outbox: %w", err)
		}
		*known = m.Sequence
		if len(m.Header) > 0 || len(m.Data) == 0 {
			continue // a progress update of this loop
		}
		subscription, name, _ := strings.Cut(strings.TrimPrefix(m.Subject, "bellhop.delivery."), ".")
		r := storedRead{subscription: subscription, name: name}
		if err := json.Unmarshal(m.Data, &r.StoredRead); err != nil {
			return fmt.Errorf("read bellhop_outbox: %s: %w", m.Subject, err)
		}
		if l.sharesLog() {
			if err := l.registry.syncSubscriptions(ctx); err != nil && ctx.Err() == nil {
				l.log.Warn("subscriptions not refreshed", "err", err)
			}
		}
		select {
		case l.replays <- r:
		case <-ctx.Done():
			return nil
		}
	}
}
