package eventlog

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"

	"bellhop/notify/stream"
)

// endSubject is the NATS subject on which a node announces the end of the log to other
// nodes. The message is not stored, so a node may miss it. Therefore followEnd also asks
// the stream for the end every endPollInterval.
const (
	endSubject      = "bellhop.said"
	endPollInterval = time.Second
)

// announceEnd sends the last position of the log that this node knows to the other nodes.
func (l *Log) announceEnd() {
	l.js.Conn().Publish(endSubject, strconv.AppendUint(nil, l.End(), 10)) // a lost message only delays the others
}

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

// End returns the position of the last event known to be in the log.
func (l *Log) End() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.end
}

// raiseEnd raises the known end of the log to seq, unless it is higher already. If the
// log is not shared, it raises Released as well.
func (l *Log) raiseEnd(seq uint64) {
	l.mu.Lock()
	if l.end = max(l.end, seq); l.reader != nil {
		stream.Signal(l.reader.endRaised)
	}
	if !l.config.Shared {
		l.released = max(l.released, seq)
	}
	l.mu.Unlock()
	if l.config.Shared {
		stream.Signal(l.endRaised)
	} else {
		stream.Signal(l.ReleasedRaised)
	}
}

// Released returns the position of the last event that may be delivered. If the log is
// shared, it rises only while ReleaseEvents runs; otherwise it rises with the end of the
// log.
func (l *Log) Released() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.released
}

// ReleaseEvents raises Released to the end of the log whenever the end has risen, until
// ctx ends. Before, it calls sync, which returns when this node knows every subscription
// that was stored before the new events. If sync fails, the events are released all the
// same. A node that does not share the log need not call ReleaseEvents.
func (l *Log) ReleaseEvents(ctx context.Context, sync func(context.Context) error) error {
	l.followEnd(ctx, l.endRaised, func() {
		seq := l.End()
		if seq <= l.Released() {
			return
		}
		if err := sync(ctx); err != nil && ctx.Err() == nil {
			l.log.Warn("subscriptions not refreshed", "err", err)
		}
		l.mu.Lock()
		l.released = max(l.released, seq)
		l.mu.Unlock()
		stream.Signal(l.ReleasedRaised)
	})
	return nil
}
