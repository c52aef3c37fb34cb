package notify

import (
	"context"
	"sync"

	"github.com/nats-io/nats.go/jetstream"

	"bellhop/notify/eventlog"
)

// maxHandoff is how many published events wait to be delivered. The delivery loop reads all
// others from the log.
const maxHandoff = 4096

// handoff passes published events from the publisher to the delivery loop, which then need
// not read them from the log. It is a shortcut only: events that are not handed over are
// read from the log.
//
// On a node that shares the log, events wait here until they may be delivered (see
// [Notifier.releaseEvents]).
type handoff struct {
	shared      bool          // other nodes publish too
	limitRaised chan struct{} // capacity 1: limit has risen
	endRaised   chan struct{} // capacity 1: logEnd has risen

	mu      sync.Mutex
	idle    bool             // this node delivers nothing: no events are kept
	entries []eventlog.Entry // in the order of the log
	logEnd  uint64           // position of the last event known to be in the log
	limit   uint64           // position of the last event that may be delivered
}

// refreshEnd asks the stream for its end, and returns the position of its first event.
func (h *handoff) refreshEnd(ctx context.Context, events jetstream.Stream) (first uint64, err error) {
	info, err := events.Info(ctx)
	if err != nil {
		return 0, err
	}
	h.raiseEnd(info.State.LastSeq)
	return info.State.FirstSeq, nil
}

// raiseEnd records that the log reaches seq or farther.
func (h *handoff) raiseEnd(seq uint64) {
	h.mu.Lock()
	h.logEnd = max(h.logEnd, seq)
	h.mu.Unlock()
	if h.shared {
		signal(h.endRaised)
	} else {
		h.raiseLimit(seq)
	}
}

// unreleasedEnd returns the known end of the log; raised reports whether it lies beyond the
// limit.
func (h *handoff) unreleasedEnd() (seq uint64, raised bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.logEnd, h.logEnd > h.limit
}

// knownEnd returns the position of the last event known to be in the log.
func (h *handoff) knownEnd() uint64 {
	seq, _ := h.unreleasedEnd()
	return seq
}

// raiseLimit allows events up to seq to be delivered.
func (h *handoff) raiseLimit(seq uint64) {
	h.mu.Lock()
	h.limit = max(h.limit, seq)
	h.mu.Unlock()
	signal(h.limitRaised)
}

// setIdle sets whether this node delivers nothing, and discards the events kept.
func (h *handoff) setIdle(idle bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.idle, h.entries = idle, nil
}

// offerEntries hands published events over, in the order of the log. Events beyond
// maxHandoff are left to the log.
func (h *handoff) offerEntries(published []eventlog.Entry) {
	if len(published) == 0 {
		return
	}
	h.mu.Lock()
	if !h.idle && len(h.entries)+len(published) <= maxHandoff {
		h.entries = append(h.entries, published...)
	}
	h.mu.Unlock()
	h.raiseEnd(published[len(published)-1].Seq)
}

// takeEntries removes and returns the events that may be delivered, and the limit.
func (h *handoff) takeEntries() (entries []eventlog.Entry, limit uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	n := 0
	for n < len(h.entries) && h.entries[n].Seq <= h.limit {
		n++
	}
	entries, h.entries = h.entries[:n:n], h.entries[n:]
	if len(h.entries) == 0 {
		h.entries = nil
	}
	return entries, h.limit
}

// signal sends on ch, which has capacity 1, unless a signal waits there already.
func signal(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}
