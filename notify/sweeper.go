package notify

import (
	"context"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"bellhop/notify/stream"
)

// A sweeper removes messages from the outbox: each one that a later message of its subject
// supersedes, once that is stored, and then each one that says that a delivery has ended. A
// crash may leave some of either; the last message of a subject counts.
//
// JetStream's own ways do not suffice (nats-server 2.15.2). With a limit of one message per
// subject, nothing of the removed message stays on disk: once the last message is gone, a
// server that was killed finds the one before it again
// (https://github.com/nats-io/nats-server/issues/8505). A roll-up, or a purge, while the
// disk is full makes the server wait for itself forever; removing by position does not.
type sweeper struct {
	lastSeq   map[string]uint64 // positions of the messages that count, by subject
	uncertain map[string]bool   // subjects that may have other messages, at unknown positions

	superseded, ended []uint64 // positions to remove; those of ended follow once none is left
	purge             []string // subjects whose messages but the last are to be removed
}

// newSweeper returns a sweeper that knows no message.
func newSweeper() *sweeper {
	return &sweeper{lastSeq: make(map[string]uint64), uncertain: make(map[string]bool)}
}

// noteMessage records a message of the stream; ended says that its delivery has ended.
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

// removeMessages asks the store to remove what it can. Failed removals are repeated the
// next time.
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

// requestEach sends a request for each item of all, in batches, and returns the items whose
// request failed.
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

// alreadyRemoved reports whether err says that the message is gone already. For positions
// before the first or after the last message the store has an error of its own.
func alreadyRemoved(err error) bool {
	var api *jetstream.APIError
	if !errors.As(err, &api) {
		return false
	}
	const sequenceNotFound, deleteFailed = 10043, 10057
	return api.ErrorCode == sequenceNotFound || api.ErrorCode == deleteFailed && (api.Description == "no message found" || api.Description == "stream store EOF")
}
