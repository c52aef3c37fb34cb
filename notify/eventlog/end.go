package eventlog

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
)

// endSubject is the NATS subject on which a node announces the end of the log to other
// nodes. The message is not stored, so a node may miss it. Therefore followEnd also asks
// the stream for the end every endPollInterval.
const (
	endSubject      = "bellhop.said"
	endPollInterval = time.Second
)

// followEnd updates the known end of the log until ctx ends, from the announcements of
// all nodes and by asking the stream every endPollInterval. It calls f whenever raised
// has a signal.
func (l *Log) followEnd(ctx context.Context, raised <-chan struct{}, f func()) {
	sub, err := l.js.Conn().Subscribe(endSubject, func(m *nats.Msg) {
		defer l.config.RecoverPanic("receive " + endSubject)
		if seq, err := strconv.ParseUint(string(m.Data), 10, 64); err == nil {
			l.raiseEnd(seq)
		}
	})
	if err != nil {
		l.log.Warn("announcements of the log end not received: the events of other nodes are late", "err", err)
	} else {
		defer sub.Unsubscribe()
	}
	poll := time.NewTicker(endPollInterval)
	defer poll.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-raised:
			f()
		case <-poll.C:
			if _, _, err := l.Bounds(ctx); err != nil && ctx.Err() == nil {
				l.log.Warn("end of the event log unknown", "err", err)
			}
		}
	}
}

// Bounds asks the server that leads the stream for the positions of the first event and of
// the last one. The log is empty if first is greater than last.
func (l *Log) Bounds(ctx context.Context) (first, last uint64, err error) {
	info, err := l.events.Info(ctx)
	if err != nil {
		return 0, 0, fmt.Errorf("read bellhop_events: %w", err)
	}
	l.raiseEnd(info.State.LastSeq)
	return info.State.FirstSeq, info.State.LastSeq, nil
}

// ReleaseEvents releases the events up to the end of the log whenever the end has risen,
// until ctx ends. Before, it calls sync, which returns when this node knows every subscription
// that was stored before the new events. If sync fails, the events are released all the
// same. A node that does not share the log need not call ReleaseEvents.
func (l *Log) ReleaseEvents(ctx context.Context, sync func(context.Context) error) error {
	l.followEnd(ctx, l.endRaised, func() {
		l.mu.Lock()
		end, released := l.end, l.released
		l.mu.Unlock()
		if end <= released {
			return
		}
		if err := sync(ctx); err != nil && ctx.Err() == nil {
			l.log.Warn("subscriptions not refreshed", "err", err)
		}
		l.release(end)
	})
	return nil
}
