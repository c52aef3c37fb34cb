package notify

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

// batchSize is how many messages are written before their acknowledgements are awaited.
// storeTimeout is how long a request to the store may take.
const (
	batchSize    = 256
	storeTimeout = 5 * time.Second
)

// errAlreadyPublished reports that the stream has a message of this subject already.
var errAlreadyPublished = errors.New("already published")

// A batchWriter writes messages to streams in batches: it publishes all messages of a batch
// without waiting, and then awaits all acknowledgements. The caller has the results of a
// batch before it writes the next, so no message overtakes one that failed.
type batchWriter struct {
	n      *Notifier
	nc     *nats.Conn
	sub    *nats.Subscription
	prefix string // of the reply subjects

	mu          sync.Mutex
	batchNumber int           // in the reply subjects, tells late acknowledgements apart; rises only after a batch with missing ones, as the server caches reply subjects
	results     []writeResult // by index in the batch; errUnanswered until acknowledged
	unanswered  int           // messages without an acknowledgement
	done        chan struct{}
}

// writeResult is the result of one message: its position in the stream, or an error. With
// errAlreadyPublished the stream has the message; after any other error the message may
// have to be written again.
type writeResult struct {
	seq uint64
	err error
}

var errUnanswered = errors.New("no response from the store")

// unansweredResults returns n results with errUnanswered.
func unansweredResults(n int) []writeResult {
	results := make([]writeResult, n)
	for i := range results {
		results[i].err = errUnanswered
	}
	return results
}

func newBatchWriter(n *Notifier) (*batchWriter, error) {
	nc := n.js.Conn()
	w := &batchWriter{n: n, nc: nc, prefix: nc.NewInbox() + ".", done: make(chan struct{}, 1)}
	var err error
	w.sub, err = nc.Subscribe(w.prefix+"*.*", w.handleAck)
	return w, err
}

func (w *batchWriter) close() { w.sub.Unsubscribe() }

// writeBatch publishes msgs and returns the result of each. It takes at most storeTimeout.
func (w *batchWriter) writeBatch(ctx context.Context, msgs []*nats.Msg) []writeResult {
	w.mu.Lock()
	w.unanswered = len(msgs)
	w.results = unansweredResults(len(msgs))
	reply := w.prefix + strconv.Itoa(w.batchNumber) + "."
	select {
	case <-w.done: // of a batch that was given up
	default:
	}
	w.mu.Unlock()

	for i, m := range msgs {
		m.Reply = reply + strconv.Itoa(i)
		if err := w.nc.PublishMsg(m); err != nil {
			w.setResult(i, writeResult{err: err})
		}
	}
	timeout := time.NewTimer(storeTimeout)
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

// handleAck takes one acknowledgement of the stream.
func (w *batchWriter) handleAck(m *nats.Msg) {
	defer w.n.recoverPanic("read acknowledgement")
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
func (w *batchWriter) setResult(i int, r writeResult) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.setResultLocked(i, r)
}

// setResultLocked sets the result of message i, unless it has one. mu is locked.
func (w *batchWriter) setResultLocked(i int, r writeResult) {
	if i >= len(w.results) || w.results[i].err != errUnanswered {
		return
	}
	w.results[i] = r
	if w.unanswered--; w.unanswered == 0 {
		w.done <- struct{}{}
	}
}

// parseAck parses the response of a stream to a publish or to a request to remove messages.
func parseAck(m *nats.Msg) writeResult {
	// The usual response, as the server writes it: {"stream":"bellhop_events","seq":7}
	if rest, ok := bytes.CutPrefix(m.Data, []byte(`{"stream":`)); ok {
		_, rest, _ = bytes.Cut(rest, []byte(`"seq":`))
		if seq, err := strconv.ParseUint(string(bytes.TrimRight(rest, "} ")), 10, 64); err == nil {
			return writeResult{seq: seq}
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
		return writeResult{err: jetstream.ErrNoStreamResponse}
	case err != nil:
		return writeResult{err: fmt.Errorf("parse acknowledgement: %w", err)}
	case ack.Error != nil && ack.Error.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequence:
		return writeResult{err: errAlreadyPublished}
	case ack.Error != nil:
		return writeResult{err: ack.Error}
	case ack.Stream == "" && !ack.Success:
		return writeResult{err: errors.New("parse acknowledgement: it names no stream")}
	}
	return writeResult{seq: ack.Seq}
}
