package notify

import (
	"context"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// A sweeper removes from the outbox each word that another has taken the place
// of, once that is in the stream, and then each that says that something is over.
// A crash may leave some of either; the last word of a subject is the one that
// counts.
//
// The store's own ways do not do. A limit of one message per subject leaves
// nothing of what it removes on the disk: once the last word is gone, a server
// that was killed finds what was before it again. A roll-up, or a purge, when the
// disk is full, ends with the server waiting for itself for ever (2.15.2).
type sweeper struct {
	lastSeq   map[string]uint64 // places of the words that count
	uncertain map[string]bool   // subjects that may have others, at places unknown

	superseded, ended []uint64 // places to be swept; gone when none of old is left
	purge             []string // subjects of which all but the last word are swept
}

func newSweeper() *sweeper {
	return &sweeper{lastSeq: make(map[string]uint64), uncertain: make(map[string]bool)}
}

// heard takes a word that the stream has.
func (s *sweeper) noteMessage(subject string, seq uint64, over bool) {
	if before, ok := s.lastSeq[subject]; ok {
		s.superseded = append(s.superseded, before)
	}
	s.lastSeq[subject] = seq
	if over {
		delete(s.lastSeq, subject)
		s.ended = append(s.ended, seq)
	}
}

// wrote takes what became of a word.
func (s *sweeper) noteResult(m *nats.Msg, r writeResult) {
	if r.err != nil {
		s.uncertain[m.Subject] = true // the answer may be what was lost
		return
	}
	_, known := s.lastSeq[m.Subject]
	if s.uncertain[m.Subject] || !known && len(m.Header) > 0 {
		delete(s.uncertain, m.Subject)
		s.purge = append(s.purge, m.Subject)
	}
	s.noteMessage(m.Subject, r.seq, len(m.Data) == 0)
}

// sweep has the store remove what it can. What fails is left for the next time.
func (s *sweeper) removeMessages(ctx context.Context, w *batchWriter) {
	s.purge = requestEach(ctx, w, s.purge, func(subject string) *nats.Msg {
		return &nats.Msg{Subject: "$JS.API.STREAM.PURGE.bellhop_outbox", Data: fmt.Appendf(nil, `{"filter":%q,"keep":1}`, subject)}
	})
	remove := func(place uint64) *nats.Msg {
		return &nats.Msg{Subject: "$JS.API.STREAM.MSG.DELETE.bellhop_outbox", Data: fmt.Appendf(nil, `{"seq":%d,"no_erase":true}`, place)}
	}
	s.superseded = requestEach(ctx, w, s.superseded, remove)
	if len(s.superseded) == 0 && len(s.purge) == 0 {
		s.ended = requestEach(ctx, w, s.ended, remove)
	}
}

// ask asks the store for something of each, a wave at a time, and returns
// those of which it was not done.
func requestEach[T any](ctx context.Context, w *batchWriter, all []T, of func(T) *nats.Msg) (left []T) {
	for len(all) > 0 {
		wave := all[:min(batchSize, len(all))]
		msgs := make([]*nats.Msg, len(wave))
		for i, one := range wave {
			msgs[i] = of(one)
		}
		for i, r := range w.writeBatch(ctx, msgs) {
			if r.err != nil && !alreadyRemoved(r.err) {
				left = append(left, wave[i])
			}
		}
		all = all[len(wave):]
		if len(left) > 0 {
			return append(left, all...)
		}
	}
	return nil
}

// swept reports whether what was to be removed is not there any more. Of a place
// before the first, or after the last, the store has an error of its own.
func alreadyRemoved(err error) bool {
	var api *jetstream.APIError
	if !errors.As(err, &api) {
		return false
	}
	const sequenceNotFound, deleteFailed = 10043, 10057
	return api.ErrorCode == sequenceNotFound || api.ErrorCode == deleteFailed && (api.Description == "no message found" || api.Description == "stream store EOF")
}
