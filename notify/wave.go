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
	nc     *nats.Conn
	sub    *nats.Subscription
	prefix string // of the subjects that acknowledgements come to

	mu   sync.Mutex
	wave int     // number of the current one; what else answers comes too late
	errs []error // by place in the wave; errUnanswered until answered
	left int     // unanswered
	done chan struct{}
}

var errUnanswered = errors.New("no answer from the store")

func newWaver(nc *nats.Conn) (*waver, error) {
	w := &waver{nc: nc, prefix: nc.NewInbox() + ".", done: make(chan struct{}, 1)}
	var err error
	w.sub, err = nc.Subscribe(w.prefix+"*.*", w.answer)
	return w, err
}

func (w *waver) close() { w.sub.Unsubscribe() }

// write publishes msgs and returns an error for each: nil if it is in the
// stream, errRepeated if it was already, another if it may have to be written
// again. It takes waveTimeout at most.
func (w *waver) write(ctx context.Context, msgs []*nats.Msg) []error {
	w.mu.Lock()
	w.wave++
	w.left = len(msgs)
	w.errs = make([]error, len(msgs))
	for i := range w.errs {
		w.errs[i] = errUnanswered
	}
	reply := w.prefix + strconv.Itoa(w.wave) + "."
	select {
	case <-w.done: // of a wave that was given up
	default:
	}
	w.mu.Unlock()

	for i, m := range msgs {
		m.Reply = reply + strconv.Itoa(i)
		if err := w.nc.PublishMsg(m); err != nil {
			w.settle(i, err)
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
	w.wave++ // no answer is taken from here on
	return w.errs
}

// answer takes one acknowledgement.
func (w *waver) answer(m *nats.Msg) {
	wave, place, _ := strings.Cut(m.Subject[len(w.prefix):], ".")
	i, err := strconv.Atoi(place)
	if err != nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if wave == strconv.Itoa(w.wave) {
		w.settled(i, ackError(m))
	}
}

func (w *waver) settle(i int, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.settled(i, err)
}

func (w *waver) settled(i int, err error) {
	if i >= len(w.errs) || w.errs[i] != errUnanswered {
		return
	}
	w.errs[i] = err
	if w.left--; w.left == 0 {
		w.done <- struct{}{}
	}
}

// ackError reads a stream's answer to a publish.
func ackError(m *nats.Msg) error {
	if bytes.HasPrefix(m.Data, []byte(`{"stream":`)) { // as the server writes it
		return nil
	}
	var ack struct {
		Error  *jetstream.APIError `json:"error"`
		Stream string              `json:"stream"`
	}
	switch err := json.Unmarshal(m.Data, &ack); {
	case len(m.Data) == 0:
		return jetstream.ErrNoStreamResponse
	case err != nil:
		return fmt.Errorf("answer of the store: %w", err)
	case ack.Error != nil && ack.Error.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequence:
		return errRepeated
	case ack.Error != nil:
		return ack.Error
	case ack.Stream == "":
		return errors.New("answer of the store names no stream")
	}
	return nil
}
