package eventlog

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"bellhop/dialog"
	"bellhop/notify/jsontext"
	"bellhop/notify/stream"
)

// maxUnpublished limits the events that wait in memory while the store is slow or gone.
const maxUnpublished = 10_000

// publisher buffers events until the event log has acknowledged them.
type publisher struct {
	wakeup chan struct{} // capacity 1: signaled when events are buffered

	mu             sync.Mutex
	buffer         []*dialog.Event
	leadingDurable int             // how many events at the front of buffer are known to be durable (not live)
	batch          []*dialog.Event // being written; at most one event of a call, so that none overtakes one that failed
	batchCalls     map[string]bool // calls with an event in batch; empty between calls of fillBatch
	lastErr        error           // error of the last batch; nil after a success
	dropped        uint64          // events lost, see Stats
	published      uint64          // events acknowledged
	spooled        bool            // the Spool may hold events
}

func newPublisher() publisher {
	return publisher{wakeup: make(chan struct{}, 1), batchCalls: make(map[string]bool)}
}

// Append buffers events for publishing, in their order. It retains the slice. It never
// blocks: if 10,000 events already wait, it drops and counts the oldest live one, or the
// oldest of all if all are durable. It discards events that are not Wanted. The events of
// one call must be appended by one goroutine.
func (l *Log) Append(events []dialog.Event) {
	p := &l.publisher
	p.mu.Lock()
	for i := range events {
		e := &events[i]
		if l.config.Wanted(e) {
			p.bufferEvent(e)
		}
	}
	p.mu.Unlock()
	stream.Signal(p.wakeup)
}

// bufferEvent appends an event to the buffer. It drops an event that has too long a name,
// because the log could never store it: its NATS protocol line would exceed the limit of
// the server, which then closes the connection.
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

// fillBatch moves events from the buffer to the batch, in order, until the batch is full.
// It skips an event if the batch has an event of the same call. It returns the batch,
// which begins with the events that the last batch failed to publish.
func (p *publisher) fillBatch() []*dialog.Event {
	p.mu.Lock()
	defer p.mu.Unlock()
	defer clear(p.batchCalls)
	for _, e := range p.batch {
		p.batchCalls[e.OrderKey()] = true
	}
	rest := p.buffer[:0]
	for i, e := range p.buffer {
		if len(p.batch) >= stream.BatchSize {
			rest = append(rest, p.buffer[i:]...)
			break
		}
		if call := e.OrderKey(); p.batchCalls[call] {
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

// settleBatch removes from the batch the events that the stream has stored or can never
// store. published are the events stored by this batch, as log entries. repeated reports
// whether the stream already had one of the others. failed is the error of the events
// that stay in the batch, or nil if none stays.
func (p *publisher) settleBatch(results []stream.Result) (published []Entry, repeated bool, failed error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	var unacknowledged []*dialog.Event
	for i, e := range p.batch {
		switch err := results[i].Err; {
		case err == nil:
			published = append(published, Entry{results[i].Seq, e})
		case err == stream.ErrDuplicate:
			repeated = true
		case errors.Is(err, nats.ErrMaxPayload): // will never fit into a message
			p.dropped++
		default:
			unacknowledged, failed = append(unacknowledged, e), err
		}
	}
	p.batch, p.lastErr = unacknowledged, failed
	p.published += uint64(len(published))
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

// OldestUnpublished returns when the oldest unpublished event was observed. It considers
// only events with an observation time; ok is false if there is none.
func (l *Log) OldestUnpublished() (oldest time.Time, ok bool) {
	p := &l.publisher
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

// Unpublished returns the events that are not published yet. Those of one call are in
// order.
func (l *Log) Unpublished() []dialog.Event {
	p := &l.publisher
	p.mu.Lock()
	defer p.mu.Unlock()
	var events []dialog.Event
	for _, e := range slices.Concat(p.batch, p.buffer) {
		events = append(events, *e)
	}
	return events
}

// batchPace sets the minimum time between two batches. With a longer time, more events
// share a batch, which is cheaper, but a kill loses more of them. An event does not wait
// if the last batch was written longer ago than the minimum. A call has three to eight
// events, so 200 calls a second stay below the rate, and 1,000 exceed it.
var batchPace = Pace{Rate: 2000, Burst: 500, Quiet: 2 * time.Millisecond, Busy: 40 * time.Millisecond}

// Run publishes events until ctx ends, and then the remaining ones for at most 2 s. Only
// one goroutine may call it.
func (l *Log) Run(ctx context.Context) error {
	w, err := stream.NewWriter(l.js.Conn(), l.config.RecoverPanic)
	if err != nil {
		return fmt.Errorf("publish events: %w", err)
	}
	defer w.Close()
	drain, cancel := stream.WithDrainTime(ctx, l.js.Conn())
	defer cancel()
	var written time.Time // when the last batch was written
	pace := batchPace
	msgs := make([]*nats.Msg, stream.BatchSize)
	for i := range msgs {
		msgs[i] = &nats.Msg{Header: expectNoMessage}
	}
	for {
		batch := l.encodeBatch(msgs, l.publisher.fillBatch())
		if len(batch) == 0 {
			l.clearSpool()
			select {
			case <-l.publisher.wakeup:
				if !l.config.PublishAtOnce {
					stream.Sleep(ctx, time.Until(written.Add(pace.Wait())))
				}
				continue
			case <-ctx.Done():
				if l.publisher.unpublished() == 0 {
					return nil
				}
				continue
			}
		}
		published, repeated, err := l.publisher.settleBatch(w.Write(drain, batch))
		written = time.Now()
		pace.Add(written, len(batch))
		if len(published) > 0 {
			l.cache.addPublished(published)
			l.raiseEnd(published[len(published)-1].Seq)
		}
		for repeated && drain.Err() == nil {
			if _, _, err := l.Bounds(drain); err == nil {
				break
			}
			stream.Sleep(drain, stream.Backoff)
		}
		l.announceEnd()
		if err == nil {
			continue
		}
		if drain.Err() != nil {
			return nil // SaveSpool stores the rest
		}
		l.log.Warn("events not published", "events", l.publisher.unpublished(), "err", err)
		stream.Sleep(drain, stream.Backoff)
	}
}

// expectNoMessage is the header that makes a stream refuse a message if its subject
// already has one.
var expectNoMessage = nats.Header{jetstream.ExpectedLastSubjSeqHeader: {"0"}}

// encodeBatch encodes the events of a batch into msgs, reusing their memory. It drops
// events that cannot be encoded.
func (l *Log) encodeBatch(msgs []*nats.Msg, batch []*dialog.Event) []*nats.Msg {
	for i := 0; i < len(batch); {
		if e := l.encodeEvent(msgs[i], batch[i]); e != nil {
			l.publisher.replaceInBatch(i, e)
			i++
		} else {
			batch = l.publisher.removeFromBatch(i)
		}
	}
	return msgs[:len(batch)]
}

// eventEncoder encodes events for the log. It is faster than json.Marshal, which matters
// because it encodes every event of every call.
var eventEncoder = jsontext.NewEncoder[dialog.Event]()

// encodeEvent encodes an event into m. It returns the event as the log stores it: e
// itself, or a copy with U+FFFD in place of invalid UTF-8. It returns nil if encoding
// panics.
func (l *Log) encodeEvent(m *nats.Msg, e *dialog.Event) (encoded *dialog.Event) {
	defer l.config.RecoverPanic("encode event")
	body := eventEncoder.Append(m.Data[:0], e)
	if bytes.Contains(body, []byte(`\ufffd`)) {
		// The log stores U+FFFD in place of invalid UTF-8. Deliveries that do not read
		// the log must send the same.
		e = &dialog.Event{Observed: e.Observed}
		if err := json.Unmarshal(body, e); err != nil {
			panic(err) // it was encoded just now
		}
	}
	m.Subject, m.Data = subjectOf(e), body
	return e
}

// subjectOf returns the subject that an event is published to.
func subjectOf(e *dialog.Event) string {
	return "bellhop.event." + stream.Base32Token(e.Extension.User) + "." + stream.Token(e.Call) + "." + stream.Token(e.ID)
}

// announceEnd sends the last position of the log that this node knows to the other nodes.
func (l *Log) announceEnd() {
	l.js.Conn().Publish(endSubject, strconv.AppendUint(nil, l.End(), 10)) // a lost message only delays the others
}
