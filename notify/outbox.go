package notify

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"bellhop/notify/schedule"
	"bellhop/notify/stream"
)

// openOutbox opens the stream of the outbox. The stream has the state of every delivery
// that fails or lasts longer than a second, every read of the log for a lagging
// subscription or a replay, and the cursor of the log. Each of them has a subject of its
// own. An empty message says that the delivery or the read has ended. A [sweeper] removes
// messages that are no longer needed.
func openOutbox(ctx context.Context, js jetstream.JetStream, c Config) (jetstream.Stream, error) {
	return js.CreateOrUpdateStream(ctx, jetstream.StreamConfig{
		Name:     "bellhop_outbox",
		Subjects: []string{"bellhop.delivery.>"}, // bellhop.delivery.<subscription>.<position in the log>, bellhop.delivery.<subscription>.<log read>, bellhop.delivery.cursor
		Storage:  jetstream.FileStorage,
		Replicas: c.Replicas,
	})
}

// cursorSubject is the subject of the stored cursor.
const cursorSubject = "bellhop.delivery." + schedule.CursorName

// outboxSubject returns the subject of the delivery of event seq to a subscription.
func outboxSubject(subscription string, seq uint64) string {
	return "bellhop.delivery." + subscription + "." + strconv.FormatUint(seq, 10)
}

// updateHeader marks a message that is not the first of its subject.
var updateHeader = nats.Header{"Again": {"1"}}

// restoreDue returns the due time of a stored delivery. It is never later than a whole
// backoff from now, even if the wall clock was set since.
func (n *Notifier) restoreDue(r *schedule.StoredDelivery) time.Time {
	if r.Due.IsZero() {
		return r.Due
	}
	wait := r.Backoff
	if wait == 0 { // written by an older version
		wait = schedule.MaxWait
	}
	return time.Now().Add(min(r.Due.Sub(n.config.wall()), wait))
}

// outboxMessage encodes an update as a message of the outbox.
func outboxMessage(u schedule.Update) *nats.Msg {
	m := &nats.Msg{Subject: "bellhop.delivery." + u.Name, Data: u.Data}
	if u.Repeated {
		m.Header = updateHeader
	}
	return m
}

// saveUpdates hands the next batch of updates to the outbox writer, unless a batch is
// still being written.
func (l *deliveryLoop) saveUpdates(now time.Time) {
	if l.updates != nil {
		return
	}
	if l.updates = l.scheduler.Updates(now, stream.BatchSize); l.updates == nil {
		return
	}
	msgs := make([]*nats.Msg, len(l.updates))
	for i, u := range l.updates {
		msgs[i] = outboxMessage(u)
	}
	l.updateBatches <- msgs
}

// takeUpdateResults applies the results of the written batch to the scheduler.
func (l *deliveryLoop) takeUpdateResults(results []stream.Result) {
	for i, u := range l.updates {
		l.scheduler.FinishUpdate(u, results[i].Err)
	}
	l.updates = nil
}

// runOutboxWriter writes batches to the outbox, and removes superseded messages, until
// updateBatches is closed.
func (l *deliveryLoop) runOutboxWriter(writer *stream.Writer, sweeper *sweeper) {
	for msgs := range l.updateBatches {
		l.updateResults <- l.writeOutboxBatch(writer, sweeper, msgs)
		l.sweepOutbox(writer, sweeper)
	}
}

// writeOutboxBatch writes a batch to the outbox and returns the result of each message.
func (l *deliveryLoop) writeOutboxBatch(writer *stream.Writer, sweeper *sweeper, msgs []*nats.Msg) (results []stream.Result) {
	results = stream.Unanswered(len(msgs)) // if it panics
	defer l.recoverPanic("write outbox")
	results = writer.Write(l.attemptCtx, msgs)
	for _, r := range results {
		if r.Err != nil {
			l.log.Warn("outbox not written", "err", r.Err)
			stream.Sleep(l.attemptCtx, stream.Backoff)
			break
		}
	}
	for i, r := range results {
		sweeper.noteResult(msgs[i], r)
	}
	return results
}

// sweepOutbox removes messages that the outbox no longer needs.
func (l *deliveryLoop) sweepOutbox(writer *stream.Writer, sweeper *sweeper) {
	defer l.recoverPanic("sweep outbox")
	sweeper.removeMessages(l.attemptCtx, writer)
}

// A storedRead is a read of the log, as the outbox stores it, for a lagging subscription
// or a replay.
type storedRead struct {
	subscription, name string
	schedule.StoredRead
}

// restoreOutbox restores cursor, log reads and deliveries from the outbox into s, and
// records the messages of the outbox in sw. It returns the position of the last message.
func (n *Notifier) restoreOutbox(ctx context.Context, s *schedule.Scheduler, sw *sweeper) (lastSeq uint64, err error) {
	type pending struct {
		subscription string
		seq          uint64
		schedule.StoredDelivery
	}
	deliveries := make(map[string]*pending) // the last message, by subject
	reads := make(map[string]storedRead)    // likewise
	var cursor, newest uint64
	err = stream.Read(ctx, n.outbox, jetstream.OrderedConsumerConfig{}, func(m jetstream.Msg) (err error) {
		meta, err := m.Metadata()
		if err != nil {
			return err
		}
		lastSeq = meta.Sequence.Stream
		sw.noteMessage(m.Subject(), lastSeq, len(m.Data()) == 0)
		if m.Subject() == cursorSubject {
			cursor, err = strconv.ParseUint(string(m.Data()), 10, 64)
			return err
		}
		subscription, name, _ := strings.Cut(strings.TrimPrefix(m.Subject(), "bellhop.delivery."), ".")
		seq, notNumber := strconv.ParseUint(name, 10, 64)
		switch {
		case len(m.Data()) == 0:
			delete(reads, m.Subject())
			delete(deliveries, m.Subject())
		case notNumber != nil:
			r := storedRead{subscription: subscription, name: name}
			err = json.Unmarshal(m.Data(), &r.StoredRead)
			reads[m.Subject()] = r
			newest = max(newest, r.After)
		default:
			d := &pending{subscription: subscription, seq: seq}
			err = json.Unmarshal(m.Data(), &d.StoredDelivery)
			d.Due = n.restoreDue(&d.StoredDelivery)
			deliveries[m.Subject()] = d
		}
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("read bellhop_outbox: %w", err)
	}
	all := slices.SortedFunc(maps.Values(deliveries), func(a, b *pending) int { return cmp.Compare(a.seq, b.seq) })
	newest = max(newest, cursor)
	if len(all) > 0 {
		newest = max(newest, all[len(all)-1].seq)
	}
	last, err := n.waitForLogEnd(ctx, newest)
	if err != nil {
		return 0, err
	}
	s.Start(min(cursor, last))
	for _, r := range reads {
		r.After, r.To = min(r.After, last), min(r.To, last)
		s.RestoreRead(r.subscription, r.name, r.StoredRead)
	}
	for _, d := range all {
		s.RestoreDelivery(d.subscription, d.seq, d.StoredDelivery, n.monotonicTime(d.At), d.seq > last)
	}
	return lastSeq, nil
}

// waitForLogEnd returns the end of the event log. It waits up to a second for the log to
// reach newest, the last event that the outbox knows. The outbox is ahead of the log if a
// power cut cost the log more, or if the server that leads the log has just taken over.
func (n *Notifier) waitForLogEnd(ctx context.Context, newest uint64) (last uint64, err error) {
	for begin := time.Now(); ; stream.Sleep(ctx, stream.Backoff) {
		if _, last, err = n.EventLog.Bounds(ctx); err != nil {
			return 0, err
		}
		if last >= newest || time.Since(begin) > time.Second {
			return last, nil
		}
	}
}
