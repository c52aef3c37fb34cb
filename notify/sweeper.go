package notify

import (
	"context"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"bellhop/notify/stream"
)

// A sweeper removes messages from the outbox: first those that a stored later message of
// the same subject supersedes, and then those that say that a delivery has ended. A crash
// may leave messages of both kinds, so only the last message of a subject counts.
//
// JetStream's own ways do not suffice (nats-server 2.15.2). A limit of one message per
// subject leaves no trace of the removed message on disk. If the last message is then
// removed and the server is killed, the server restores the message before it
// (https://github.com/nats-io/nats-server/issues/8505). A roll-up or a purge while the
// disk is full makes the server deadlock; removing by position does not.
type sweeper struct {
	lastSeq   map[string]uint64 // positions of the messages that count, by subject
	uncertain map[string]bool   // subjects that may have other messages, at unknown positions

	superseded, ended []uint64 // positions to remove; ended only when superseded and purge are empty
	purge             []string // subjects of which all messages but the last are to be removed
}

// newSweeper returns a sweeper that knows no message.
func newSweeper() *sweeper {
	return &sweeper{lastSeq: make(map[string]uint64), uncertain: make(map[string]bool)}
}

// noteMessage records a message of the stream. ended reports whether it marks the end of
// a delivery.
func (s *sweeper) noteMessage(subject string, seq uint64, ended bool) {
	if before, ok := s.lastSeq[subject]; ok {
		s.superseded = append(s.superseded, before)
	}
	s.lastSeq[subject] = seq
	if ended {
		delete(s.lastSeq, subject)
		s.ended = append(s.ended, seq)
	}
}

// noteResult records the result of writing a message.
func (s *sweeper) noteResult(m *nats.Msg, r stream.Result) {
	if r.Err != nil {
		s.uncertain[m.Subject] = true // perhaps only its acknowledgement was lost
		return
	}
	_, known := s.lastSeq[m.Subject]
	if s.uncertain[m.Subject] || !known && len(m.Header) > 0 {
		delete(s.uncertain, m.Subject)
		s.purge = append(s.purge, m.Subject)
	}
	s.noteMessage(m.Subject, r.Seq, len(m.Data) == 0)
}

// removeMessages requests the removal of all messages that may be removed now. It repeats
// failed requests at its next call.
func (s *sweeper) removeMessages(ctx context.Context, w *stream.Writer) {
	s.purge = requestEach(ctx, w, s.purge, func(subject string) *nats.Msg {
		return &nats.Msg{Subject: "$JS.API.STREAM.PURGE.bellhop_outbox", Data: fmt.Appendf(nil, `{"filter":%q,"keep":1}`, subject)}
	})
	remove := func(seq uint64) *nats.Msg {
		return &nats.Msg{Subject: "$JS.API.STREAM.MSG.DELETE.bellhop_outbox", Data: fmt.Appendf(nil, `{"seq":%d,"no_erase":true}`, seq)}
	}
	s.superseded = requestEach(ctx, w, s.superseded, remove)
	if len(s.superseded) == 0 && len(s.purge) == 0 {
		s.ended = requestEach(ctx, w, s.ended, remove)
	}
}

// requestEach sends a request for each item of all, in batches, until a request of a
// batch fails. It returns the items whose request failed or was not sent.
func requestEach[T any](ctx context.Context, w *stream.Writer, all []T, of func(T) *nats.Msg) (left []T) {
	for len(all) > 0 {
		batch := all[:min(stream.BatchSize, len(all))]
		msgs := make([]*nats.Msg, len(batch))
		for i, one := range batch {
			msgs[i] = of(one)
		}
		for i, r := range w.Write(ctx, msgs) {
			if r.Err != nil && !alreadyRemoved(r.Err) {
				left = append(left, batch[i])
			}
		}
		all = all[len(batch):]
		if len(left) > 0 {
			return append(left, all...)
		}
	}
	return nil
}

// alreadyRemoved reports whether err says that the message is gone already. The store has
// a different error for positions before the first or after the last message.
func alreadyRemoved(err error) bool {
	var api *jetstream.APIError
	if !errors.As(err, &api) {
		return false
	}
	const sequenceNotFound, deleteFailed = 10043, 10057
	return api.ErrorCode == sequenceNotFound || api.ErrorCode == deleteFailed && (api.Description == "no message found" || api.Description == "stream store EOF")
}
