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

// waveSize is how many messages are written before their acknowledgements are
// waited for; waveTimeout is how long that wait may be.
const (
	waveSize    = 256
	waveTimeout = 5 * time.Second
)

// errRepeated says that the stream has had this message before.
var errRepeated = errors.New("said before")

// A waver writes messages to streams a wave at a time: all are published
// without waiting, then all acknowledgements are awaited. What is not in the
// stream after one wave is in the caller's hands before the next, so nothing
// overtakes what failed.
type waver struct {
	n      *Notifier
	nc     *nats.Conn
	sub    *nats.Subscription
	prefix string // of the subjects that acknowledgements come to

	mu      sync.Mutex
	wave    int       // tells answers that come too late; the same while all are in time, for the server caches subjects
	results []written // by place in the wave; errUnanswered until answered
	left    int       // unanswered
	done    chan struct{}
}

// written is what became of one message: its place in the stream, or an error.
// errRepeated says that the stream had it already; after another it may have to
// be written again.
type written struct {
	seq uint64
	err error
}

var errUnanswered = errors.New("no answer from the store")

// unanswered is what became of messages that no answer came to.
func unanswered(n int) []written {
	results := make([]written, n)
	for i := range results {
		results[i].err = errUnanswered
	}
	return results
}

func newWaver(n *Notifier) (*waver, error) {
	nc := n.js.Conn()
	w := &waver{n: n, nc: nc, prefix: nc.NewInbox() + ".", done: make(chan struct{}, 1)}
	var err error
	w.sub, err = nc.Subscribe(w.prefix+"*.*", w.answer)
	return w, err
}

func (w *waver) close() { w.sub.Unsubscribe() }

// write publishes msgs and says what became of each. It takes waveTimeout at
// most.
func (w *waver) write(ctx context.Context, msgs []*nats.Msg) []written {
	w.mu.Lock()
	w.left = len(msgs)
	w.results = unanswered(len(msgs))
	reply := w.prefix + strconv.Itoa(w.wave) + "."
	select {
	case <-w.done: // of a wave that was given up
	default:
	}
	w.mu.Unlock()

	for i, m := range msgs {
		m.Reply = reply + strconv.Itoa(i)
		if err := w.nc.PublishMsg(m); err != nil {
			w.settle(i, written{err: err})
		}
	}
	timeout := time.NewTimer(waveTimeout)
	defer timeout.Stop()
	select {
	case <-w.done:
	case <-timeout.C:
	case <-ctx.Done():
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.left > 0 {
		w.wave++ // what answers from here on is too late
	}
	return w.results
}

// answer takes one acknowledgement.
func (w *waver) answer(m *nats.Msg) {
	defer w.n.contain("read acknowledgement")
	wave, place, _ := strings.Cut(m.Subject[len(w.prefix):], ".")
	i, err := strconv.Atoi(place)
	if err != nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if wave == strconv.Itoa(w.wave) {
		w.settled(i, answerOf(m))
	}
}

func (w *waver) settle(i int, r written) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.settled(i, r)
}

func (w *waver) settled(i int, r written) {
	if i >= len(w.results) || w.results[i].err != errUnanswered {
		return
	}
	w.results[i] = r
	if w.left--; w.left == 0 {
		w.done <- struct{}{}
	}
}

// answerOf reads a stream's answer to a publish, or to a request to remove.
func answerOf(m *nats.Msg) written {
	// The usual one as the server writes it: {"stream":"bellhop_events","seq":7}
	if rest, ok := bytes.CutPrefix(m.Data, []byte(`{"stream":`)); ok {
		_, rest, _ = bytes.Cut(rest, []byte(`"seq":`))
		if seq, err := strconv.ParseUint(string(bytes.TrimRight(rest, "} ")), 10, 64); err == nil {
			return written{seq: seq}
		}
	}
	var ack struct {
		Error   *jetstream.APIError `json:"error"`
		Stream  string              `json:"stream"`
		Seq     uint64              `json:"seq"`
		Success bool                `json:"success"` // of a request that is no publish
	}
	switch err := json.Unmarshal(m.Data, &ack); {
	case len(m.Data) == 0:
		return written{err: jetstream.ErrNoStreamResponse}
	case err != nil:
		return written{err: fmt.Errorf("answer of the store: %w", err)}
	case ack.Error != nil && ack.Error.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequence:
		return written{err: errRepeated}
	case ack.Error != nil:
		return written{err: ack.Error}
	case ack.Stream == "" && !ack.Success:
		return written{err: errors.New("answer of the store names no stream")}
	}
	return written{seq: ack.Seq}
}
