package notify

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"bellhop/dialog"
	"bellhop/notify/eventlog"
	"bellhop/notify/stream"
	"bellhop/notify/subscription"
)

// openEventLog opens the event log: every published event, until MaxAge. It has limits
// retention and is no work queue: an event stays readable after all its deliveries, for
// replay and the page. Each event has a subject of its own, so the stream refuses a second
// publish of it however late.
func openEventLog(ctx context.Context, js jetstream.JetStream, c Config) (jetstream.Stream, error) {
	return js.CreateOrUpdateStream(ctx, jetstream.StreamConfig{
		Name:        "bellhop_events",
		Subjects:    []string{"bellhop.event.>"}, // bellhop.event.<extension>.<call>.<event id>
		Storage:     jetstream.FileStorage,
		MaxAge:      c.keepEvents(),
		Replicas:    c.Replicas,
		AllowDirect: true, // single events are read for deliveries of the outbox
	})
}

// allEventsSubject matches the subjects of all events.
const allEventsSubject = "bellhop.event.*.*.*"

// eventSubject returns the subject that an event is published to.
func eventSubject(e *dialog.Event) string {
	return "bellhop.event." + stream.Base32Token(e.Extension.User) + "." + stream.Token(e.Call) + "." + stream.Token(e.ID)
}

// maxUnpublished is how many events wait in memory while the store is slow or gone.
const maxUnpublished = 10_000

// publisher buffers events until the event log has acknowledged them.
type publisher struct {
	wakeup chan struct{} // capacity 1: buffer is not empty

	mu             sync.Mutex
	buffer         []*dialog.Event
	leadingDurable int             // how many events at the front of buffer are known to be durable
	batch          []*dialog.Event // being written; at most one event of a call, so that none overtakes one that failed
	batchCalls     map[string]bool // calls with an event in batch; empty between calls of fillBatch
	lastErr        error           // error of the last batch; nil after a success
	dropped        uint64          // events lost, see Stats.Dropped
}

// Publish buffers events for the event log, in their order, and keeps the slice. It never
// blocks: when 10,000 events wait already, the oldest live one is dropped and counted, or
// the oldest if all are durable. Events of an opt-in type are discarded while no
// subscription names it. The events of one call must come from one goroutine.
func (n *Notifier) Publish(events []dialog.Event) {
	p := &n.publisher
	p.mu.Lock()
	for i := range events {
		e := &events[i]
		if bit := subscription.EventMask(e); bit&subscription.OptIn() != 0 && bit&subscription.Mask(n.registry.namedTypes.Load()) == 0 {
			continue
		}
		p.bufferEvent(e)
	}
	p.mu.Unlock()
	signal(p.wakeup)
}

// bufferEvent appends an event to the buffer. It drops an event that the log could never
// store: too long a name would make a protocol line that ends the NATS connection each time
// the event is published.
func (p *publisher) bufferEvent(e *dialog.Event) {
	if len(e.Extension.User) > dialog.MaxName || len(e.Call) > dialog.MaxName || len(e.ID) > dialog.MaxName {
		p.dropped++
		return
	}
	if len(p.buffer)+len(p.batch) >= maxUnpublished && len(p.buffer) > 0 {
		p.dropOldest()
	}
	p.buffer = append(p.buffer, e)
}

// dropOldest removes the oldest live event from the buffer, or the oldest event if all are
// durable.
func (p *publisher) dropOldest() {
	for p.leadingDurable < len(p.buffer) && !p.buffer[p.leadingDurable].Type.Live() {
		p.leadingDurable++
	}
	oldest := p.leadingDurable
	if oldest == len(p.buffer) {
		oldest, p.leadingDurable = 0, p.leadingDurable-1
	}
	p.buffer = slices.Delete(p.buffer, oldest, oldest+1)
	p.dropped++
}

// fillBatch moves events from the buffer to the batch, at most one event of a call and the
// oldest of each call first, and returns the batch.
func (p *publisher) fillBatch() []*dialog.Event {
	p.mu.Lock()
	defer p.mu.Unlock()
	defer clear(p.batchCalls)
	for _, e := range p.batch {
		p.batchCalls[queueName(e)] = true
	}
	rest := p.buffer[:0]
	for i, e := range p.buffer {
		if len(p.batch) >= stream.BatchSize {
			rest = append(rest, p.buffer[i:]...)
			break
		}
		if call := queueName(e); p.batchCalls[call] {
			rest = append(rest, e)
		} else {
			p.batchCalls[call] = true
			p.batch = append(p.batch, e)
		}
	}
	clear(p.buffer[len(rest):])
	p.buffer, p.leadingDurable = rest, 0
	return p.batch
}

// settleBatch removes acknowledged events from the batch and returns them as log entries.
// repeated reports whether the stream had some event already. failed is the error of the
// events that stay in the batch.
func (p *publisher) settleBatch(results []stream.Result) (published []eventlog.Entry, repeated bool, failed error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	var unacknowledged []*dialog.Event
	for i, e := range p.batch {
		switch err := results[i].Err; {
		case err == nil:
			published = append(published, eventlog.Entry{Seq: results[i].Seq, Event: e})
		case err == stream.ErrDuplicate:
			repeated = true
		case errors.Is(err, nats.ErrMaxPayload): // will never fit into a message
			p.dropped++
		default:
			unacknowledged, failed = append(unacknowledged, e), err
		}
	}
	p.batch, p.lastErr = unacknowledged, failed
	return published, repeated, failed
}

// replaceInBatch replaces the event at index i of the batch.
func (p *publisher) replaceInBatch(i int, e *dialog.Event) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.batch[i] = e
}

// removeFromBatch drops the event at index i, which cannot be encoded, and returns the rest
// of the batch.
func (p *publisher) removeFromBatch(i int) []*dialog.Event {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.dropped++
	p.batch = slices.Delete(p.batch, i, i+1)
	return p.batch
}

// unpublished returns how many events are not in the log yet.
func (p *publisher) unpublished() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.buffer) + len(p.batch)
}

// OldestUnpublished returns when the oldest unpublished event was observed. Events without
// an observation time do not count; ok is false if there is no other.
func (n *Notifier) OldestUnpublished() (oldest time.Time, ok bool) {
	p := &n.publisher
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, events := range [][]*dialog.Event{p.batch, p.buffer} {
		for _, e := range events {
			if !e.Observed.IsZero() && (!ok || e.Observed.Before(oldest)) {
				oldest, ok = e.Observed, true
			}
		}
	}
	return oldest, ok
}

// LogEnd returns the position of the last event known to be in the log.
func (n *Notifier) LogEnd() uint64 { return n.handoff.knownEnd() }

// Unpublished returns the events that are not in the log, those of each call in order.
func (n *Notifier) Unpublished() []dialog.Event {
	p := &n.publisher
	p.mu.Lock()
	defer p.mu.Unlock()
	var events []dialog.Event
	for _, e := range slices.Concat(p.batch, p.buffer) {
		events = append(events, *e)
	}
	return events
}

// batchPace is the least time between two batches. A batch costs more than its events, so
// under load events share one; but a kill loses the events that wait. The first event
// after a quiet moment does not wait. A call has three to eight events: 200 calls a second
// stay below the rate, 1,000 calls a second exceed it.
var batchPace = Pace{Rate: 2000, Burst: 500, Quiet: 2 * time.Millisecond, Busy: 40 * time.Millisecond}

// publishEvents publishes events until ctx ends, and then the rest of them for at most 2 s.
func (n *Notifier) publishEvents(ctx context.Context) error {
	w, err := stream.NewWriter(n.js.Conn(), n.recoverPanic)
	if err != nil {
		return fmt.Errorf("publish events: %w", err)
	}
	defer w.Close()
	drain, cancel := stream.WithDrainTime(ctx, n.js.Conn())
	defer cancel()
	var written time.Time // when the last batch was written
	pace := batchPace
	msgs := make([]*nats.Msg, stream.BatchSize)
	for i := range msgs {
		msgs[i] = &nats.Msg{Header: expectNoMessage}
	}
	for {
		batch := n.encodeBatch(msgs, n.publisher.fillBatch())
		if len(batch) == 0 {
			n.clearSpool()
			select {
			case <-n.publisher.wakeup:
				if !n.config.PublishAtOnce {
					sleep(ctx, time.Until(written.Add(pace.Wait())))
				}
				continue
			case <-ctx.Done():
				if n.publisher.unpublished() == 0 {
					return nil
				}
				continue
			}
		}
		published, repeated, err := n.publisher.settleBatch(w.Write(drain, batch))
		written = time.Now()
		pace.Add(written, len(batch))
		n.stats.published.Add(uint64(len(published)))
		n.handoff.offerEntries(published)
		for repeated && drain.Err() == nil {
			if _, err := n.handoff.refreshEnd(drain, n.events); err == nil {
				break
			}
			sleep(drain, stream.Backoff)
		}
		n.announceEnd()
		if err == nil {
			continue
		}
		if drain.Err() != nil {
			return nil // saveSpool stores the rest
		}
		n.log.Warn("events not published", "events", n.publisher.unpublished(), "err", err)
		sleep(drain, stream.Backoff)
	}
}

// expectNoMessage is the header by which a stream refuses a second message of a subject.
var expectNoMessage = nats.Header{jetstream.ExpectedLastSubjSeqHeader: {"0"}}

// encodeBatch encodes the events of a batch into msgs, reusing their memory. It drops an
// event that cannot be encoded.
func (n *Notifier) encodeBatch(msgs []*nats.Msg, batch []*dialog.Event) []*nats.Msg {
	for i := 0; i < len(batch); {
		if e := n.encodeEvent(msgs[i], batch[i]); e != nil {
			n.publisher.replaceInBatch(i, e)
			i++
		} else {
			batch = n.publisher.removeFromBatch(i)
		}
	}
	return msgs[:len(batch)]
}

// encodeEvent writes an event into a message and returns the event as the log stores it, or
// nil if encoding panics.
func (n *Notifier) encodeEvent(m *nats.Msg, e *dialog.Event) (encoded *dialog.Event) {
	defer n.recoverPanic("encode event")
	body := eventlog.AppendEvent(m.Data[:0], e)
	if bytes.Contains(body, []byte(`\ufffd`)) {
		// Invalid UTF-8 becomes U+FFFD in the log: the event is delivered so from the start.
		e = &dialog.Event{Observed: e.Observed}
		if err := json.Unmarshal(body, e); err != nil {
			panic(err) // it was encoded just now
		}
	}
	m.Subject, m.Data = eventSubject(e), body
	return e
}

// sleep waits until d has passed or ctx ends.
func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// A Query selects events of the log. The zero value selects all.
type Query struct {
	Since      time.Time // published at or after this time
	Position   uint64    // at this position of the log or after it; takes precedence over Since
	After      string    // published after the event with this id; takes precedence over Since
	Extension  string    // as in a Subscription
	Extensions []string  // of one of these extensions; nil: of any
	Call       string
	Type       string // as in a Subscription
	Limit      int    // 0: 100; at most 1000
}

// ErrNoEvent reports that Query.After names no event of the log.
var ErrNoEvent = errors.New("no such event in the log")

// Events reads the log, oldest event first. more reports that further events match: query
// again with After set to the id of the last one. Readers share the events and must not
// change them.
func (n *Notifier) Events(ctx context.Context, q Query) (events []*dialog.Event, more bool, err error) {
	limit := q.Limit
	if limit <= 0 {
		limit = 100
	}
	limit = min(limit, 1000)
	first := uint64(1)
	switch {
	case q.After != "":
		position, err := n.positionOf(ctx, q)
		if err != nil {
			return nil, false, err
		}
		first = position + 1
	case q.Position != 0:
		first = q.Position
	case !q.Since.IsZero():
		first = 0
		err := n.requestEvents(ctx, readRequest{Since: &q.Since, Batch: 1}, func(seq uint64, _ *nats.Msg) bool {
			first = seq
			return false
		})
		if err != nil {
			return nil, false, fmt.Errorf("read bellhop_events: %w", err)
		}
		if first == 0 {
			return nil, false, nil
		}
	}
	var found []eventlog.Entry
	for _, subject := range q.subjects() {
		of, err := n.findEvents(ctx, subject, first, q, limit+1)
		if err != nil {
			return nil, false, fmt.Errorf("read bellhop_events: %w", err)
		}
		found = append(found, of...)
	}
	slices.SortFunc(found, func(a, b eventlog.Entry) int { return cmp.Compare(a.Seq, b.Seq) })
	more = len(found) > limit
	for _, e := range found[:min(limit, len(found))] {
		events = append(events, e.Event)
	}
	return events, more, nil
}

// findEvents returns at most limit events under a subject that q selects, from a position
// on.
func (n *Notifier) findEvents(ctx context.Context, subject string, position uint64, q Query, limit int) (found []eventlog.Entry, err error) {
	if subject == allEventsSubject {
		return n.scanBlocks(ctx, position, q, limit)
	}
	p := readRequest{Seq: position, Subject: subject, Batch: min(limit, readSize)}
	for {
		if err := n.sharedTail.acquireRead(ctx); err != nil {
			return nil, err
		}
		received := 0
		var decodeErr error
		err := n.requestEvents(ctx, p, func(seq uint64, m *nats.Msg) bool {
			received++
			p.Seq = seq + 1
			e := eventlog.Entry{Seq: seq, Event: new(dialog.Event)}
			if decodeErr = json.Unmarshal(m.Data, e.Event); decodeErr == nil && q.matchesEvent(e.Event) {
				found = append(found, e)
			}
			return decodeErr == nil && len(found) < limit
		})
		n.sharedTail.releaseRead()
		if err = cmp.Or(err, decodeErr); err != nil {
			return nil, err
		}
		if received < p.Batch || len(found) == limit {
			return found, nil
		}
		p.Batch = readSize
	}
}

// positionOf returns the position of the event q.After in the log. It asks the server that
// leads the stream: the copy of another server may lag.
func (n *Notifier) positionOf(ctx context.Context, q Query) (uint64, error) {
	if len(q.After) > dialog.MaxName {
		return 0, ErrNoEvent
	}
	js, err := n.js.Conn().JetStream() // the jetstream package asks any server, not the leader
	if err != nil {
		return 0, fmt.Errorf("find event %s: %w", q.After, err)
	}
	m, err := js.GetLastMsg("bellhop_events", "bellhop.event.*.*."+stream.Token(q.After), nats.Context(ctx))
	if errors.Is(err, nats.ErrMsgNotFound) {
		return 0, ErrNoEvent
	}
	if err != nil {
		return 0, fmt.Errorf("find event %s: %w", q.After, err)
	}
	var e dialog.Event
	if err := json.Unmarshal(m.Data, &e); err != nil {
		return 0, fmt.Errorf("decode event %s: %w", q.After, err)
	}
	if !q.matchesExtensions(&e) {
		return 0, ErrNoEvent
	}
	return m.Sequence, nil
}

// subjects returns the narrowest subject filters that cover all events of q. A name that is
// too long has no events and yields no filter.
func (q Query) subjects() []string {
	call := "*"
	switch {
	case len(q.Call) > dialog.MaxName:
		return nil
	case q.Call != "":
		call = stream.Token(q.Call)
	}
	names := q.Extensions
	if q.Extension != "" {
		names = []string{q.Extension}
	}
	if names == nil {
		return []string{"bellhop.event.*." + call + ".*"} // allEventsSubject, if q selects any call
	}
	var subjects []string
	for _, name := range names {
		user, _, _ := strings.Cut(name, "@")
		if len(user) > dialog.MaxName {
			continue
		}
		subjects = append(subjects, "bellhop.event."+stream.Base32Token(user)+"."+call+".*")
	}
	slices.Sort(subjects)
	return slices.Compact(subjects) // filters must not overlap
}

// matchesEvent reports whether an event, found under a subject of q, has the type, domain
// and extensions of q.
func (q Query) matchesEvent(e *dialog.Event) bool {
	return (q.Type == "" || subscription.EventMask(e)&subscription.MaskOf(q.Type) != 0) &&
		(!strings.Contains(q.Extension, "@") || e.Extension.Is(q.Extension)) &&
		q.matchesExtensions(e)
}

// matchesExtensions reports whether an event is of one of q.Extensions.
func (q Query) matchesExtensions(e *dialog.Event) bool {
	return q.Extensions == nil || slices.ContainsFunc(q.Extensions, e.Extension.Is)
}

// ErrEventGone reports that an event is no longer in the log.
var ErrEventGone = errors.New("the event is no longer in the log")

// readEvent reads one event by its position in the log. The error is ErrEventGone, or of
// the store.
func (n *Notifier) readEvent(ctx context.Context, seq uint64) (*dialog.Event, error) {
	data, err := n.readEventData(ctx, seq)
	if err == ErrEventGone {
		return nil, err
	}
	if err != nil {
		return nil, fmt.Errorf("read bellhop_events %d: %w", seq, err)
	}
	e := new(dialog.Event)
	if err := json.Unmarshal(data, e); err != nil {
		return nil, fmt.Errorf("read bellhop_events %d: %w", seq, err)
	}
	return e, nil
}

// readEventData reads one message of the event log from any server with a copy. If that
// copy, which may lag, does not have it, the server that leads the stream is asked.
func (n *Notifier) readEventData(ctx context.Context, seq uint64) ([]byte, error) {
	m, err := n.events.GetMsg(ctx, seq)
	if err == nil {
		return m.Data, nil
	}
	if !errors.Is(err, jetstream.ErrMsgNotFound) {
		return nil, err
	}
	js, err := n.js.Conn().JetStream() // the jetstream package asks any server, not the leader
	if err != nil {
		return nil, err
	}
	leaders, err := js.GetMsg("bellhop_events", seq, nats.Context(ctx))
	if errors.Is(err, nats.ErrMsgNotFound) {
		return nil, ErrEventGone
	}
	if err != nil {
		return nil, err
	}
	return leaders.Data, nil
}
