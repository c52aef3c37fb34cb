package stream

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// ErrDuplicate reports that the stream already has a message of this subject.
var ErrDuplicate = errors.New("already stored")

// A Writer writes messages to streams in batches: it publishes all messages of a batch
// without waiting, and then awaits all acknowledgements. The caller has the results of a
// batch before it writes the next, so no message overtakes one that failed.
type Writer struct {
	nc           *nats.Conn
	sub          *nats.Subscription
	prefix       string            // of the reply subjects
	recoverPanic func(part string) // deferred where acknowledgements are parsed

	mu          sync.Mutex
	batchNumber int      // part of the reply subjects, to recognize late acknowledgements; rises only after a batch with missing ones, because the server caches reply subjects
	results     []Result // by index in the batch; ErrUnanswered until acknowledged
	unanswered  int      // messages without an acknowledgement
	done        chan struct{}
}

// A Result is the result of one message: its position in the stream, or an error. With
// ErrDuplicate the stream has the message; after any other error the message may have to be
// written again.
type Result struct {
	Seq uint64
	Err error
}

// ErrUnanswered reports that the store has not acknowledged a message.
var ErrUnanswered = errors.New("no response from the store")

// Unanswered returns n results with ErrUnanswered.
func Unanswered(n int) []Result {
	results := make([]Result, n)
	for i := range results {
		results[i].Err = ErrUnanswered
	}
	return results
}

// NewWriter returns a Writer, which must be closed. It defers recoverPanic, which must call
// recover, where it handles a response of the store.
func NewWriter(nc *nats.Conn, recoverPanic func(part string)) (*Writer, error) {
	w := &Writer{nc: nc, prefix: nc.NewInbox() + ".", recoverPanic: recoverPanic, done: make(chan struct{}, 1)}
	var err error
	w.sub, err = nc.Subscribe(w.prefix+"*.*", w.handleAck)
	return w, err
}

// Close ends the Writer.
func (w *Writer) Close() { w.sub.Unsubscribe() }

// Write publishes msgs and returns the result of each. It waits for acknowledgements for
// at most Timeout, or until ctx ends. The error of an unacknowledged message is
// ErrUnanswered.
func (w *Writer) Write(ctx context.Context, msgs []*nats.Msg) []Result {
	w.mu.Lock()
	w.unanswered = len(msgs)
	w.results = Unanswered(len(msgs))
	reply := w.prefix + strconv.Itoa(w.batchNumber) + "."
	select {
	case <-w.done: // of a batch that was given up
	default:
	}
	w.mu.Unlock()

	for i, m := range msgs {
		m.Reply = reply + strconv.Itoa(i)
		if err := w.nc.PublishMsg(m); err != nil {
			w.setResult(i, Result{Err: err})
		}
	}
	timeout := time.NewTimer(Timeout)
	defer timeout.Stop()
	select {
	case <-w.done:
	case <-timeout.C:
	case <-ctx.Done():
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.unanswered > 0 {
		w.batchNumber++ // later acknowledgements are ignored
	}
	return w.results
}

// handleAck sets the result of a message from its acknowledgement. It ignores late
// acknowledgements of earlier batches.
func (w *Writer) handleAck(m *nats.Msg) {
	defer w.recoverPanic("read acknowledgement")
	batch, index, _ := strings.Cut(m.Subject[len(w.prefix):], ".")
	i, err := strconv.Atoi(index)
	if err != nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if batch == strconv.Itoa(w.batchNumber) {
		w.setResultLocked(i, parseAck(m))
	}
}

// setResult sets the result of message i, unless it has one.
func (w *Writer) setResult(i int, r Result) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.setResultLocked(i, r)
}

// setResultLocked sets the result of message i, unless it has one. mu is locked.
func (w *Writer) setResultLocked(i int, r Result) {
	if i >= len(w.results) || w.results[i].Err != ErrUnanswered {
		return
	}
	w.results[i] = r
	if w.unanswered--; w.unanswered == 0 {
		w.done <- struct{}{}
	}
}

// parseAck parses the response of a stream to a publish or to a request to remove messages.
func parseAck(m *nats.Msg) Result {
	// The usual response, as the server writes it: {"stream":"bellhop_events","seq":7}
	if rest, ok := bytes.CutPrefix(m.Data, []byte(`{"stream":`)); ok {
		_, rest, _ = bytes.Cut(rest, []byte(`"seq":`))
		if seq, err := strconv.ParseUint(string(bytes.TrimRight(rest, "} ")), 10, 64); err == nil {
			return Result{Seq: seq}
		}
	}
	var ack struct {
		Error   *jetstream.APIError `json:"error"`
		Stream  string              `json:"stream"`
		Seq     uint64              `json:"seq"`
		Success bool                `json:"success"` // of a request other than publish
	}
	switch err := json.Unmarshal(m.Data, &ack); {
	case len(m.Data) == 0:
		return Result{Err: jetstream.ErrNoStreamResponse}
	case err != nil:
		return Result{Err: fmt.Errorf("parse acknowledgement: %w", err)}
	case ack.Error != nil && ack.Error.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequence:
		return Result{Err: ErrDuplicate}
	case ack.Error != nil:
		return Result{Err: ack.Error}
	case ack.Stream == "" && !ack.Success:
		return Result{Err: errors.New("parse acknowledgement: it names no stream")}
	}
	return Result{Seq: ack.Seq}
}
