package eventlog

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"bellhop/dialog"
	"bellhop/notify/stream"
)

// Read returns the events at the positions from..to, or, if ctx ends, those read until
// then. Events that expire meanwhile are left out. Any server with a copy of the stream
// may answer. If a server does not answer, or its copy lags, Read asks again.
func (l *Log) Read(ctx context.Context, from, to uint64) (entries []Entry) {
	for from <= to && ctx.Err() == nil {
		cached, next := l.cache.entries(from, to)
		entries = append(entries, cached...)
		if next == from {
			var read []Entry
			read, next = l.readBlock(ctx, from, min(to, from+blockSize-1))
			entries = append(entries, read...)
		}
		from = next
	}
	return entries
}

// readBlock reads the events at the positions from..to, at most blockSize, from the store
// and caches them. It asks again until all are read or ctx ends. next is the position
// after the last one read.
func (l *Log) readBlock(ctx context.Context, from, to uint64) (entries []Entry, next uint64) {
	next = from
	for wait := time.Millisecond; next <= to && ctx.Err() == nil; {
		before := next
		err := l.requestEvents(ctx, readRequest{Seq: next, Batch: int(to - next + 1)}, func(seq uint64, e *dialog.Event) bool {
			if next = min(seq, to) + 1; seq <= to && e != nil {
				entries = append(entries, Entry{seq, e})
			}
			return seq < to // beyond to: the events before seq are gone
		})
		if next > before {
			wait = time.Millisecond
			continue
		}
		if err == nil && wait >= stream.Backoff {
			var first uint64
			if first, _, err = l.Bounds(ctx); err == nil && first > to {
				next = to + 1 // the events are gone
				break
			}
		}
		if err != nil && ctx.Err() == nil {
			l.log.Warn("events not read", "from", next, "err", err)
			wait = stream.Backoff
		}
		stream.Sleep(ctx, wait)
		wait = min(2*wait, stream.Backoff)
	}
	if next > from {
		l.cache.add(from, next-1, entries)
	}
	return entries, next
}

// decodeEvent returns the event at position seq from the cache, or decodes it from data.
// It returns nil if data cannot be decoded.
func (l *Log) decodeEvent(seq uint64, data []byte) *dialog.Event {
	if e := l.cache.event(seq); e != nil {
		return e
	}
	e, err := l.decode(data)
	if err != nil {
		l.log.Error("event not decoded", "position", seq, "err", err)
		return nil
	}
	e.Observed = l.config.MonotonicTime(e.At)
	return e
}

// decode decodes an event. If decoding panics, it returns errUnreadable.
func (l *Log) decode(data []byte) (e *dialog.Event, err error) {
	err = errUnreadable // if it panics
	defer l.config.RecoverPanic("decode event")
	e = new(dialog.Event)
	err = json.Unmarshal(data, e)
	return e, err
}

// errUnreadable reports that decoding an event panicked.
var errUnreadable = errors.New("decoding panicked")

// readRequest is a get or direct-get request to JetStream. Its JSON form is that of NATS.
type readRequest struct {
	Seq     uint64     `json:"seq,omitempty"` // the first position
	Since   *time.Time `json:"start_time,omitempty"`
	Subject string     `json:"next_by_subj,omitempty"`
	Last    string     `json:"last_by_subj,omitempty"`
	Batch   int        `json:"batch,omitempty"` // maximum number of events; for a direct get only
}

var (
	errNoAnswer = errors.New("the store does not respond")
	errGap      = errors.New("a part of the store's response is lost")
)

// requestEvents requests a batch of events from any server with a copy of the log, and
// calls f for each until f returns false. e is nil if the event cannot be decoded. The
// request needs no consumer on the server. If a message of the response is lost, for
// example because the connected server died, f is called for all events before the gap,
// and the error is errGap.
func (l *Log) requestEvents(ctx context.Context, p readRequest, f func(seq uint64, e *dialog.Event) bool) error {
	nc := l.js.Conn()
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
		if !f(seq, l.decodeEvent(seq, m.Data)) {
			return nil
		}
	}
}

// ErrEventGone reports that an event is no longer in the log.
var ErrEventGone = errors.New("the event is no longer in the log")

// A Message is an event as the stream stores it.
type Message struct {
	Seq  uint64    `json:"seq"`
	Time time.Time `json:"time"` // when it was published
	Data []byte    `json:"data"` // JSON
}

// getMessage requests one message from the server that leads the stream, because the copy
// of another server may lag. The error is ErrEventGone if no message matches.
func (l *Log) getMessage(ctx context.Context, p readRequest) (m Message, err error) {
	ctx, cancel := context.WithTimeout(ctx, stream.Timeout)
	defer cancel()
	request, _ := json.Marshal(p) // cannot fail: numbers, a time and a subject
	response, err := l.js.Conn().RequestWithContext(ctx, "$JS.API.STREAM.MSG.GET.bellhop_events", request)
	if err != nil {
		return m, err
	}
	var got struct {
		Message *Message            `json:"message"`
		Error   *jetstream.APIError `json:"error"`
	}
	switch err := json.Unmarshal(response.Data, &got); {
	case err != nil:
		return m, err
	case got.Error != nil && got.Error.ErrorCode == jetstream.JSErrCodeMessageNotFound:
		return m, ErrEventGone
	case got.Error != nil:
		return m, got.Error
	case got.Message == nil:
		return m, errNoAnswer
	}
	return *got.Message, nil
}

// Event reads the event at position seq from any server with a copy. If that copy does
// not have it, Event asks the server that leads the stream. The error is ErrEventGone if
// the log does not have the event.
func (l *Log) Event(ctx context.Context, seq uint64) (*dialog.Event, error) {
	var data []byte
	m, err := l.events.GetMsg(ctx, seq)
	switch {
	case err == nil:
		data = m.Data
	case errors.Is(err, jetstream.ErrMsgNotFound):
		var leaders Message
		leaders, err = l.getMessage(ctx, readRequest{Seq: seq})
		data = leaders.Data
	}
	if err == ErrEventGone {
		return nil, err
	}
	e := new(dialog.Event)
	if err = cmp.Or(err, json.Unmarshal(data, e)); err != nil {
		return nil, fmt.Errorf("read bellhop_events %d: %w", seq, err)
	}
	return e, nil
}

// Lookup returns the message of the event with the given id. The error is ErrEventGone if
// the log does not have the event.
func (l *Log) Lookup(ctx context.Context, id string) (Message, error) {
	if len(id) > dialog.MaxName {
		return Message{}, ErrEventGone
	}
	m, err := l.getMessage(ctx, readRequest{Last: "bellhop.event.*.*." + stream.Token(id)})
	if err != nil && err != ErrEventGone {
		err = fmt.Errorf("find event %s: %w", id, err)
	}
	return m, err
}
