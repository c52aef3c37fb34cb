package notify

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"bellhop/dialog"
	"bellhop/notify/eventlog"
	"bellhop/notify/stream"
)

// publishedSubject is the NATS subject on which a node announces the end of the event log
// to other nodes and to tails. The message is not stored: a node that misses it asks the
// stream, every logPollInterval.
const (
	publishedSubject = "bellhop.said"
	logPollInterval  = time.Second
)

// announceEnd announces how far this node knows the event log to reach.
func (n *Notifier) announceEnd() {
	n.js.Conn().Publish(publishedSubject, strconv.AppendUint(nil, n.handoff.knownEnd(), 10)) // a lost message only delays the others
}

// subscribeEnds calls raiseEnd with each announcement of any node.
func (n *Notifier) subscribeEnds(raiseEnd func(seq uint64)) (*nats.Subscription, error) {
	return n.js.Conn().Subscribe(publishedSubject, func(m *nats.Msg) {
		defer n.recoverPanic("receive " + publishedSubject)
		if seq, err := strconv.ParseUint(string(m.Data), 10, 64); err == nil {
			raiseEnd(seq)
		}
	})
}

// releaseEvents lets the events of all nodes be delivered until ctx ends. It raises the
// limit of the handoff only after this node has read every subscription that was stored
// before those events.
func (n *Notifier) releaseEvents(ctx context.Context) error {
	sub, err := n.subscribeEnds(n.handoff.raiseEnd)
	if err != nil {
		n.log.Warn("announcements of other nodes not received: their events are late", "err", err)
	} else {
		defer sub.Unsubscribe()
	}
	poll := time.NewTicker(logPollInterval)
	defer poll.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-n.handoff.endRaised:
		case <-poll.C:
			if _, err := n.handoff.refreshEnd(ctx, n.events); err != nil && ctx.Err() == nil {
				n.log.Warn("end of the event log unknown", "err", err)
			}
		}
		seq, raised := n.handoff.unreleasedEnd()
		if !raised {
			continue
		}
		if err := n.registry.syncSubscriptions(ctx); err != nil && ctx.Err() == nil {
			n.log.Warn("subscriptions not refreshed", "err", err)
		}
		n.handoff.raiseLimit(seq)
	}
}

// syncTimeout is how long events wait at most for the subscriptions that were stored before
// them.
const syncTimeout = 2 * time.Second

// syncSubscriptions returns once this node knows every subscription that was stored when it
// was called. It fails after syncTimeout.
func (r *registry) syncSubscriptions(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, syncTimeout)
	defer cancel()
	info, err := r.stream.Info(ctx)
	if err != nil {
		return fmt.Errorf("read bellhop_subscriptions: %w", err)
	}
	last := info.State.LastSeq
	late := time.NewTimer(syncTimeout / 8)
	defer late.Stop()
	for !r.hasSeen(last) {
		select {
		case <-r.seenSignal:
		case <-late.C: // the watch has lost its server and has not noticed yet
			if err := r.watch(ctx, false); err != nil {
				return err
			}
			r.raiseSeen(last) // or the entry is gone
		case <-ctx.Done():
			return fmt.Errorf("read bellhop_subscriptions: %w", ctx.Err())
		}
	}
	return nil
}

// raiseSeen records that this node knows every change up to a revision.
func (r *registry) raiseSeen(revision uint64) {
	r.mu.Lock()
	r.seen = max(r.seen, revision)
	r.mu.Unlock()
	signal(r.seenSignal)
}

// hasSeen reports whether this node knows every change up to a revision.
func (r *registry) hasSeen(revision uint64) bool {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.seen >= revision
}

// readSize is how many events one request to the store asks for.
const readSize = 256

// readRange sends the events of the positions from to to on log, or those read when ctx
// ends. Any server with a copy may answer. A server whose copy lags, or that does not
// answer, is asked again.
func (n *Notifier) readRange(ctx context.Context, from, to uint64, log chan<- eventlog.Entry) {
	for wait := time.Millisecond; from <= to && ctx.Err() == nil; {
		next, err := n.readOnce(ctx, from, to, log)
		if next > from {
			from, wait = next, time.Millisecond
			continue
		}
		if err == nil && wait >= stream.Backoff {
			var info *jetstream.StreamInfo
			if info, err = n.events.Info(ctx); err == nil && info.State.FirstSeq > to {
				return // the events are gone
			}
		}
		if err != nil && ctx.Err() == nil {
			n.log.Warn("events not read", "from", from, "err", err)
			wait = stream.Backoff
		}
		sleep(ctx, wait)
		wait = min(2*wait, stream.Backoff)
	}
}

// collectRange returns the events of the positions from to to, or those read when ctx ends.
func (n *Notifier) collectRange(ctx context.Context, from, to uint64) (entries []eventlog.Entry) {
	log := make(chan eventlog.Entry, to-from+1)
	n.readRange(ctx, from, to, log)
	close(log)
	for e := range log {
		entries = append(entries, e)
	}
	return entries
}

// readOnce sends the events of one request to the store on log, and returns the next
// position to read.
func (n *Notifier) readOnce(ctx context.Context, from, to uint64, log chan<- eventlog.Entry) (next uint64, err error) {
	err = n.requestEvents(ctx, readRequest{Seq: from, Batch: int(min(readSize, to-from+1))}, func(seq uint64, m *nats.Msg) bool {
		if seq > to {
			from = to + 1 // the events up to there are gone
			return false
		}
		from = seq + 1
		e, err := n.decodeEvent(m.Data)
		if err != nil {
			n.log.Error("event not decoded", "subject", m.Header.Get(jetstream.SubjectHeader), "err", err)
			return true
		}
		e.Observed = n.monotonicTime(e.At)
		select {
		case log <- eventlog.Entry{Seq: seq, Event: e}:
			return true
		case <-ctx.Done():
			return false
		}
	})
	if err != nil {
		err = fmt.Errorf("read bellhop_events %d: %w", from, err)
	}
	return from, err
}

// decodeEvent decodes an event of the log; a panic is an error.
func (n *Notifier) decodeEvent(data []byte) (e *dialog.Event, err error) {
	err = errUnreadable // if it panics
	defer n.recoverPanic("decode event")
	e = new(dialog.Event)
	err = json.Unmarshal(data, e)
	return e, err
}

// errUnreadable reports that decoding an event panicked.
var errUnreadable = errors.New("decoding panicked")

// readRequest is a direct-get request to JetStream. Its JSON form is that of NATS.
type readRequest struct {
	Seq     uint64     `json:"seq,omitempty"` // the first position
	Since   *time.Time `json:"start_time,omitempty"`
	Subject string     `json:"next_by_subj,omitempty"`
	Batch   int        `json:"batch"` // events at most
}

var (
	errNoAnswer = errors.New("the store does not respond")
	errGap      = errors.New("a part of the store's response is lost")
)

// requestEvents requests a batch of events from any server with a copy of the log, and
// calls f for each until f returns false. It needs no consumer on the server. If a message
// of the response is lost, as when the connected server dies, the error is errGap, and f
// has had all events before the gap.
func (n *Notifier) requestEvents(ctx context.Context, p readRequest, f func(seq uint64, m *nats.Msg) bool) error {
	nc := n.js.Conn()
	answers := make(chan *nats.Msg, p.Batch+1) // and the message that ends the batch
	sub, err := nc.ChanSubscribe(nc.NewInbox(), answers)
	if err != nil {
		return err
	}
	defer sub.Unsubscribe()
	request, _ := json.Marshal(p) // cannot fail: numbers and a subject
	if err := nc.PublishRequest("$JS.API.DIRECT.GET.bellhop_events", sub.Subject, request); err != nil {
		return err
	}
	timeout := time.NewTimer(stream.Timeout)
	defer timeout.Stop()
	for previous := "0"; ; { // position of the previous message
		var m *nats.Msg
		select {
		case m = <-answers:
			timeout.Reset(stream.Timeout)
		case <-timeout.C:
			return errNoAnswer
		case <-ctx.Done():
			return ctx.Err()
		}
		status := m.Header.Get("Status")
		switch complete := m.Header.Get(jetstream.LastSequenceHeader) == previous; {
		case status == "404": // no message
			return nil
		case status != "" && status != "204":
			return fmt.Errorf("%s %s", status, m.Header.Get("Description"))
		case !complete:
			return errGap
		case status == "204": // end of batch
			return nil
		}
		previous = m.Header.Get(jetstream.SequenceHeader)
		seq, err := strconv.ParseUint(previous, 10, 64)
		if err != nil {
			return err
		}
		if !f(seq, m) {
			return nil
		}
	}
}
