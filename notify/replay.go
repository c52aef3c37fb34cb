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

	"bellhop/dialog"
)

// ErrInactive says that a subscription is switched off.
var ErrInactive = errors.New("the subscription is switched off: switch it on first")

// maxReplay is how many events one replay may have.
const maxReplay = 100_000

// Replay delivers again, to one subscription, what was said from a time on and
// before another of the types named, or of its own if none are. The zero to is
// now. It returns how many events that are; those that still wait to be delivered
// are not delivered twice. Each has the webhook-id that it had. All are worth
// delivering as long as a hangup is, and come in the order of their call, beside
// what is said meanwhile.
//
// Once it returns, the replay outlives any crash, and whichever node delivers
// does it. The error is an *Invalid, ErrNotFound or ErrInactive, or of the store.
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
	if err := checkTypes(&Subscription{Types: types}); err != nil {
		return 0, err
	}
	switch {
	case from.IsZero():
		return 0, &Invalid{"from", "is missing"}
	case !from.Before(to):
		return 0, &Invalid{"from", "is not before to, or is in the future"}
	}
	order, count, err := n.planReplay(ctx, &s, from, to, types)
	if err != nil || count == 0 {
		return 0, err
	}
	word, _ := json.Marshal(order) // of numbers and words
	if _, err := n.js.Publish(ctx, "bellhop.delivery."+id+".replay."+rand.Text(), word); err != nil {
		return 0, fmt.Errorf("write bellhop_outbox: replay for %s: %w", id, err)
	}
	n.js.Conn().Publish(replaySubject, nil) // if it fails, it is missed
	return count, nil
}

// order finds what of the log a replay has, and how many events these are.
func (n *Notifier) planReplay(ctx context.Context, s *Subscription, from, to time.Time, types []string) (order storedLogRead, count int, err error) {
	sr := &subscriber{sub: s}
	if s.ExtensionRegex != "" {
		sr.regex, _ = compileAnchored(s.ExtensionRegex) // Validate has compiled it
	}
	order.Types = types
	bits := typeMask(types)
	err = readMessages(ctx, n.events, jetstream.OrderedConsumerConfig{
		FilterSubjects: Query{Extension: s.Extension}.subjects(),
		DeliverPolicy:  jetstream.DeliverByStartTimePolicy, OptStartTime: &from,
	}, func(m jetstream.Msg) error {
		meta, err := m.Metadata()
		if err != nil {
			return err
		}
		if !meta.Timestamp.Before(to) {
			return errStopReading
		}
		var e dialog.Event
		if err := json.Unmarshal(m.Data(), &e); err != nil {
			return err
		}
		if bits&eventBit(&e) == 0 || !sr.matchesExtension(e.Extension) {
			return nil
		}
		if count++; count > n.maxReplay {
			return &Invalid{"from", fmt.Sprintf("and to have more than %d events between them: narrow the range, or name types", n.maxReplay)}
		}
		if order.To = meta.Sequence.Stream; count == 1 {
			order.After = order.To - 1
		}
		return nil
	})
	if err != nil && !errors.Is(err, errStopReading) {
		return order, 0, fmt.Errorf("read bellhop_events: %w", err)
	}
	return order, count, nil
}

func (r *logRead) isReplay() bool { return r.name != laggingName }

// waits is what t is owed, by its place in the log.
func (sr *subscriber) pendingSeqs() map[uint64]bool {
	waits := make(map[uint64]bool, sr.pending)
	for _, q := range sr.queues {
		for _, d := range q.deliveries {
			waits[d.seq] = true
		}
	}
	return waits
}

// replayOf is what waits to deliver the event of d to t again; nil: nothing.
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

// replayLane names the lane of replays beside another.
func replayQueueName(name string) string { return "replay " + strings.TrimPrefix(name, "replay ") }

// replay delivers an event again, unless it waits: in a lane, or in what of
// the log has not been read for its target yet.
func (s *scheduler) addReplayEvent(page *recentEvent, e entry, waits map[uint64]bool) {
	r := page.logRead
	sr, bit := r.subscriber, eventBit(e.event)
	unread := e.seq > s.lastRead || sr.lag != nil && e.seq > sr.lag.after
	if typeMask(r.types)&bit == 0 || !sr.matchesExtension(e.event.Extension) || waits[e.seq] || unread && sr.typeMask&bit != 0 {
		return
	}
	d := newDelivery(e.seq, e.event, page)
	d.replay = true
	s.enqueueFromPage(page, replayQueueName(queueName(e.event)), d)
}

// askedSubject is where the node that delivers hears, past all streams, that
// there is a replay in the outbox. It looks there itself every orderLook.
const (
	replaySubject      = "bellhop.replay"
	replayPollInterval = time.Minute
)

// hearOrders passes on every replay that any node is asked for, until ctx ends.
// Those up to a place in the outbox are known.
func (l *deliveryLoop) watchReplays(ctx context.Context, known *uint64) error {
	asked := make(chan struct{}, 1)
	sub, err := l.js.Conn().Subscribe(replaySubject, func(*nats.Msg) { signal(asked) })
	if err != nil {
		l.log.Warn("replays are late", "err", err)
	} else {
		defer sub.Unsubscribe()
	}
	look := time.NewTicker(replayPollInterval)
	defer look.Stop()
	for ctx.Err() == nil {
		if err := l.readReplays(ctx, known); err != nil && ctx.Err() == nil {
			l.log.Warn("replays are late", "err", err)
			sleep(ctx, time.Second)
			continue
		}
		select {
		case <-ctx.Done():
		case <-asked:
		case <-look.C:
		}
	}
	return nil
}

// takeOrders passes on the replays after a place in the outbox.
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
			continue // our own word of how far it is
		}
		subscription, name, _ := strings.Cut(strings.TrimPrefix(m.Subject, "bellhop.delivery."), ".")
		r, err := decodeLogRead(subscription, name, m.Data)
		if err != nil {
			return fmt.Errorf("read bellhop_outbox: %s: %w", m.Subject, err)
		}
		if l.handoff.shared {
			if err := l.registry.syncSubscriptions(ctx); err != nil && ctx.Err() == nil {
				l.log.Warn("subscriptions may be old", "err", err)
			}
		}
		select {
		case l.replays <- r:
		case <-ctx.Done():
			return nil
		}
	}
}
