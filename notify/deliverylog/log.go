// Package deliverylog records the attempts at deliveries.
//
// A [Log] buffers records and writes them to the stream bellhop_attempts, within a fifth
// of a second, with request and response but without secrets. Recording never waits for
// the store. While the store is slow or gone, 16 MB of records wait in memory; if there
// are more, the oldest are dropped and counted. A kill loses the records that were not
// written.
//
// The Log also reads the records of one delivery, and pages of ended deliveries, newest
// first. A [Delivery] is built from its records. They do not tell whether it is still
// pending; only the outbox does.
package deliverylog

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/klauspost/compress/s2"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"bellhop/notify/stream"
)

// Config configures a Log.
type Config struct {
	MaxAge   time.Duration // how long records are kept
	Replicas int           // of the stream

	Log         *slog.Logger
	ReportPanic func(part string, v any) // called with a recovered panic
}

// A Log is the delivery log: every attempt, and every end of a delivery. Most deliveries
// succeed at the first attempt. Their records share messages, each with records of one
// subscription. Every other record is a message of its own, and is found by its subject,
// which names the delivery. Any number of goroutines may use a Log.
type Log struct {
	jetstream.Stream // bellhop_attempts

	config Config
	js     jetstream.JetStream
	buffer buffer
}

// Open opens the delivery log, and creates it if it is missing.
func Open(ctx context.Context, js jetstream.JetStream, c Config) (*Log, error) {
	s, err := js.CreateOrUpdateStream(ctx, jetstream.StreamConfig{
		Name:     "bellhop_attempts",
		Subjects: []string{"bellhop.attempt.>"}, // bellhop.attempt.<subscription>, bellhop.attempt.<subscription>.<event id>
		Storage:  jetstream.FileStorage,
		MaxAge:   c.MaxAge,
		Replicas: c.Replicas,
	})
	if err != nil {
		return nil, fmt.Errorf("open delivery log bellhop_attempts: %w", err)
	}
	return &Log{Stream: s, config: c, js: js, buffer: buffer{wakeup: make(chan struct{}, 1)}}, nil
}

// Add buffers a record for the log, unless its event id is unknown because the event log
// has lost the event. It never blocks.
func (l *Log) Add(r *Record) {
	if r.Event != "" {
		l.buffer.add(r)
	}
}

// Dropped returns how many records were lost: the buffer was full while the store was
// slow or gone, or the record could not be written.
func (l *Log) Dropped() uint64 { return l.buffer.droppedCount() }

// Write writes a record at once, and returns when the store has it.
func (l *Log) Write(ctx context.Context, r *Record) error {
	batch := recordBatch{records: []*Record{r}}
	_, err := l.js.PublishMsg(ctx, batch.encodeMessages()[0].message)
	return err
}

// Start writes records until the returned func is called, and then the remaining ones for
// at most two seconds. The end of ctx does not stop it.
func (l *Log) Start(ctx context.Context) (stop func()) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		l.writeAllRecords(ctx)
	}()
	return func() { cancel(); <-ended }
}

// recoverPanic is deferred where a response of the store is handled.
func (l *Log) recoverPanic(part string) {
	if v := recover(); v != nil {
		l.config.ReportPanic(part, v)
	}
}

// writeAllRecords writes records to the delivery log until ctx ends, and then the
// remaining ones for at most two seconds.
func (l *Log) writeAllRecords(ctx context.Context) {
	w, err := stream.NewWriter(l.js.Conn(), l.recoverPanic)
	for err != nil {
		l.config.Log.Error("attempts not recorded", "err", err)
		if stream.Sleep(ctx, time.Second); ctx.Err() != nil {
			return
		}
		w, err = stream.NewWriter(l.js.Conn(), l.recoverPanic)
	}
	defer w.Close()
	last, cancel := stream.WithDrainTime(ctx, l.js.Conn())
	defer cancel()
	var batch recordBatch
	for {
		batch.records = l.buffer.take(batch.records[:0])
		if len(batch.records) == 0 {
			if ctx.Err() != nil {
				return
			}
			select {
			case <-l.buffer.wakeup:
				stream.Sleep(ctx, recordInterval)
			case <-ctx.Done():
			}
			continue
		}
		l.writeRecordBatch(last, w, &batch)
		clear(batch.records)
		if last.Err() != nil {
			l.buffer.countDropped(l.buffer.bufferedCount())
			l.config.Log.Error("attempts not recorded: the store did not accept them", "attempts", l.buffer.droppedCount())
			return
		}
	}
}

// writeRecordBatch writes a batch of records. If that panics, the batch is lost and counted
// as dropped.
func (l *Log) writeRecordBatch(ctx context.Context, w *stream.Writer, batch *recordBatch) {
	defer func() {
		if v := recover(); v != nil {
			l.config.ReportPanic("record attempts", v)
			l.buffer.countDropped(len(batch.records))
		}
	}()
	l.writeRecords(ctx, w, batch.encodeMessages())
}

// writeRecords writes messages until the delivery log has all of them, or ctx ends.
func (l *Log) writeRecords(ctx context.Context, w *stream.Writer, all []logMessage) {
	for len(all) > 0 {
		msgs := make([]*nats.Msg, len(all))
		for i := range all {
			msgs[i] = all[i].message
		}
		var unwritten []logMessage
		var failed error
		for i, result := range w.Write(ctx, msgs) {
			switch {
			case result.Err == nil:
			case errors.Is(result.Err, nats.ErrMaxPayload): // will never fit into a message
				l.buffer.countDropped(all[i].records)
			default:
				unwritten, failed = append(unwritten, all[i]), result.Err
			}
		}
		if all = unwritten; failed == nil {
			return
		}
		if ctx.Err() != nil {
			for _, r := range all {
				l.buffer.countDropped(r.records)
			}
			return
		}
		l.config.Log.Warn("delivery log not written", "messages", len(all), "err", failed)
		stream.Sleep(ctx, stream.Backoff)
	}
}

// A logMessage is one message of the delivery log.
type logMessage struct {
	message *nats.Msg
	records int
}

// A recordBatch encodes records into messages, reusing its memory. A message is a JSON
// array. It is compressed with S2, as NATS would do it, because callbacks resemble each
// other.
type recordBatch struct {
	records  []*Record
	text     []byte // of one message
	packed   []byte // of all messages
	messages []logMessage
}

// encodeMessages encodes the records and returns the messages, valid until the next call.
func (p *recordBatch) encodeMessages() []logMessage {
	slices.SortStableFunc(p.records, func(a, b *Record) int { return cmp.Compare(a.Subscription, b.Subscription) })
	if cap(p.packed) > 4<<20 {
		p.packed = nil
	}
	p.text, p.packed, p.messages = append(p.text[:0], '['), p.packed[:0], p.messages[:0]
	var last *Record
	count := 0
	for _, a := range p.records {
		if !a.AtOnce {
			continue
		}
		if count > 0 && (last.Subscription != a.Subscription || len(p.text) > maxMessageText) {
			p.addMessage(sharedSubject(last.Subscription), count)
			count = 0
		}
		last = a
		count++
		p.text = append(a.appendJSON(p.text), ',')
	}
	if count > 0 {
		p.addMessage(sharedSubject(last.Subscription), count)
	}
	for _, a := range p.records {
		if !a.AtOnce {
			p.text = append(a.appendJSON(p.text), ',')
			p.addMessage(Subject(a.Subscription, a.Event), 1)
		}
	}
	return p.messages
}

// addMessage compresses the text into a message.
func (p *recordBatch) addMessage(subject string, count int) {
	p.text[len(p.text)-1] = ']'
	start, room := len(p.packed), s2.MaxEncodedLen(len(p.text))
	p.packed = slices.Grow(p.packed, room) // earlier messages keep the old array
	data := s2.Encode(p.packed[start:start+room], p.text)
	p.packed = p.packed[:start+len(data)]
	p.text = append(p.text[:0], '[')
	p.messages = append(p.messages, logMessage{&nats.Msg{Subject: subject, Data: data}, count})
}

// sharedSubject returns the subject for the records of deliveries that succeeded at the
// first attempt, see Record.AtOnce.
func sharedSubject(subscription string) string { return "bellhop.attempt." + subscription }

// Subject returns the subject of a delivery, for all its records that do not share
// messages.
func Subject(subscription, event string) string {
	return "bellhop.attempt." + subscription + "." + stream.Token(event)
}
