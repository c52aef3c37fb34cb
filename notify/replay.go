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
	"bellhop/notify/subscription"
)

// ErrInactive reports that a subscription is disabled.
var ErrInactive = errors.New("the subscription is disabled: activate it first")

// maxReplay is how many events one replay may have.
const maxReplay = 100_000

// Replay delivers events of a time range again to one subscription: those published at from
// or later, and before to; a zero to is now. It replays the given types; without any, those
// of the subscription. It returns the number of events; those whose delivery is pending are
// not delivered twice. Each delivery has its original webhook-id, is durable,
// and follows the order of its call, independently of new events.
//
// Once Replay returns, the replay survives any crash, and the delivering node carries it
// out. The error is an *Invalid, ErrNotFound, ErrInactive, or of the store.
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
func (n *Notifier) planReplay(ctx context.Context, s *Subscription, from, to time.Time, types []string) (plan storedLogRead, count int, err error) {
	plan.Types = types
	filter := s.Filter()
	filter.Types = subscription.MaskOf(types...)
	_, last, err := n.events.Bounds(ctx)
	if err != nil {
		return plan, 0, err
	}
	first, err := n.events.PositionAt(ctx, from)
	if err != nil || first == 0 {
		return plan, 0, err
	}
	end, err := n.events.PositionAt(ctx, to)
	if err != nil {
		return plan, 0, err
	}
	if end == 0 {
		end = last + 1
	}
	for q, more := (Query{Extension: s.Extension, Position: first, Limit: 1000}), true; more; {
		var found []eventlog.Entry
		if found, more, err = n.events.Find(ctx, q); err != nil {
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

// isReplay reports whether r is a replay.
func (r *logRead) isReplay() bool { return r.name != laggingName }

// pendingSeqs returns the log positions of all pending deliveries of sr.
func (sr *subscriber) pendingSeqs() map[uint64]bool {
	pending := make(map[uint64]bool, sr.pending)
	for _, q := range sr.queues {
		for _, d := range q.deliveries {
			pending[d.seq] = true
		}
	}
	return pending
}

// replayOf returns the pending replay of the event of d, or nil.
func (sr *subscriber) replayOf(d *delivery) *delivery {
	if q := sr.queues[replayQueueName(d.queue.name)]; q != nil {
		for _, r := range q.deliveries {
			if r.seq == d.seq {
				return r
			}
		}
	}
	return nil
}

// replayQueueName returns the name of the queue for replays beside queue name.
func replayQueueName(name string) string { return "replay " + strings.TrimPrefix(name, "replay ") }

// addReplayEvent queues an event of a replay, unless its delivery is pending: in a queue,
// or in a part of the log that is still to be read for its subscriber.
func (s *scheduler) addReplayEvent(page *recentEvent, e eventlog.Entry, pending map[uint64]bool) {
	r := page.logRead
	sr, bit := r.subscriber, subscription.EventMask(e.Event)
	unread := e.Seq > s.lastRead || sr.lag != nil && e.Seq > sr.lag.after
	if subscription.MaskOf(r.types...)&bit == 0 || !sr.filter.Covers(e.Event.Extension) || pending[e.Seq] || unread && sr.filter.Types&bit != 0 {
		return
	}
	d := newDelivery(e.Seq, e.Event, page)
	d.replay = true
	s.enqueueFromPage(page, replayQueueName(eventlog.QueueName(e.Event)), d)
}

// replaySubject is the NATS subject on which the delivering node learns that the outbox has
// a new replay. The message is not stored; every replayPollInterval that node looks into
// the outbox itself.
const (
	replaySubject      = "bellhop.replay"
	replayPollInterval = time.Minute
)

// watchReplays passes every new replay in the outbox to the delivery loop until ctx ends.
// Replays up to the position known were restored before.
func (l *deliveryLoop) watchReplays(ctx context.Context, known *uint64) error {
	asked := make(chan struct{}, 1)
	sub, err := l.js.Conn().Subscribe(replaySubject, func(*nats.Msg) { signal(asked) })
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
			sleep(ctx, time.Second)
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

// readReplays passes the replays after the position known to the delivery loop.
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
		if len(m.Header) > 0 {
			continue // a progress update of this loop
		}
		subscription, name, _ := strings.Cut(strings.TrimPrefix(m.Subject, "bellhop.delivery."), ".")
		r, err := decodeLogRead(subscription, name, m.Data)
		if err != nil {
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
