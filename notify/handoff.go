package notify

import (
	"context"
	"sync"

	"github.com/nats-io/nats.go/jetstream"
)

// maxFresh is how many events that were just said wait to be delivered. What
// there is no room for is read from the log.
const maxHandoff = 4096

// fresh hands events that are in the log from who says them to who delivers
// them, so that they need not be read again. It is a shortcut only: the log is
// the truth, and what is not handed on is read.
//
// On a node that shares the log, events wait here until they may pass (see
// [Notifier.follow]).
type handoff struct {
	shared      bool
	limitRaised chan struct{} // has room for one: newest has risen
	endRaised   chan struct{} // has room for one: heard has risen

	mu      sync.Mutex
	idle    bool // nobody delivers here: nothing is handed on
	entries []entry
	logEnd  uint64 // place of the last event that is known to be in the log
	limit   uint64 // place of the last event that may be delivered
}

// look learns how far the log goes, and returns where it begins.
func (h *handoff) refreshEnd(ctx context.Context, events jetstream.Stream) (first uint64, err error) {
	info, err := events.Info(ctx)
	if err != nil {
		return 0, err
	}
	h.raiseEnd(info.State.LastSeq)
	return info.State.FirstSeq, nil
}

// hear learns that the log goes as far as seq, or farther.
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

// rumored returns how far the log is known to go, and whether less may pass yet.
func (h *handoff) unreleasedEnd() (seq uint64, raised bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.logEnd, h.logEnd > h.limit
}

// end is how far the log is known to go.
func (h *handoff) knownEnd() uint64 {
	seq, _ := h.unreleasedEnd()
	return seq
}

// pass says that events up to seq may be delivered.
func (h *handoff) raiseLimit(seq uint64) {
	h.mu.Lock()
	h.limit = max(h.limit, seq)
	h.mu.Unlock()
	signal(h.limitRaised)
}

// rest says whether nobody delivers here for now.
func (h *handoff) setIdle(idle bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.idle, h.entries = idle, nil
}

// offer hands on events in the order of the log.
func (h *handoff) offerEntries(published []entry) {
	if len(published) == 0 {
		return
	}
	h.mu.Lock()
	if !h.idle && len(h.entries)+len(published) <= maxHandoff {
		h.entries = append(h.entries, published...)
	}
	h.mu.Unlock()
	h.raiseEnd(published[len(published)-1].seq)
}

// take returns what was handed on and may be delivered, and how far the log may
// be.
func (h *handoff) takeEntries() (entries []entry, limit uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	n := 0
	for n < len(h.entries) && h.entries[n].seq <= h.limit {
		n++
	}
	entries, h.entries = h.entries[:n:n], h.entries[n:]
	if len(h.entries) == 0 {
		h.entries = nil
	}
	return entries, h.limit
}

// wake tells who waits that there is something.
func signal(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}
