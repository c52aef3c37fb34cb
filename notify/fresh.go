package notify

import (
	"context"
	"sync"

	"github.com/nats-io/nats.go/jetstream"
)

// maxFresh is how many events that were just said wait to be delivered. What
// there is no room for is read from the log.
const maxFresh = 4096

// fresh hands events that are in the log from who says them to who delivers
// them, so that they need not be read again. It is a shortcut only: the log is
// the truth, and what is not handed on is read.
//
// On a node that shares the log, events wait here until they may pass (see
// [Notifier.follow]).
type fresh struct {
	shared bool
	news   chan struct{} // has room for one: newest has risen
	rumor  chan struct{} // has room for one: heard has risen

	mu      sync.Mutex
	resting bool // nobody delivers here: nothing is handed on
	entries []entry
	heard   uint64 // place of the last event that is known to be in the log
	newest  uint64 // place of the last event that may be delivered
}

// look learns how far the log goes, and returns where it begins.
func (f *fresh) look(ctx context.Context, events jetstream.Stream) (first uint64, err error) {
	info, err := events.Info(ctx)
	if err != nil {
		return 0, err
	}
	f.hear(info.State.LastSeq)
	return info.State.FirstSeq, nil
}

// hear learns that the log goes as far as seq, or farther.
func (f *fresh) hear(seq uint64) {
	f.mu.Lock()
	f.heard = max(f.heard, seq)
	f.mu.Unlock()
	if f.shared {
		wake(f.rumor)
	} else {
		f.pass(seq)
	}
}

// rumored returns how far the log is known to go, and whether less may pass yet.
func (f *fresh) rumored() (seq uint64, news bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.heard, f.heard > f.newest
}

// end is how far the log is known to go.
func (f *fresh) end() uint64 {
	seq, _ := f.rumored()
	return seq
}

// pass says that events up to seq may be delivered.
func (f *fresh) pass(seq uint64) {
	f.mu.Lock()
	f.newest = max(f.newest, seq)
	f.mu.Unlock()
	wake(f.news)
}

// rest says whether nobody delivers here for now.
func (f *fresh) rest(resting bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.resting, f.entries = resting, nil
}

// offer hands on events in the order of the log.
func (f *fresh) offer(said []entry) {
	if len(said) == 0 {
		return
	}
	f.mu.Lock()
	if !f.resting && len(f.entries)+len(said) <= maxFresh {
		f.entries = append(f.entries, said...)
	}
	f.mu.Unlock()
	f.hear(said[len(said)-1].seq)
}

// take returns what was handed on and may be delivered, and how far the log may
// be.
func (f *fresh) take() (entries []entry, newest uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := 0
	for n < len(f.entries) && f.entries[n].seq <= f.newest {
		n++
	}
	entries, f.entries = f.entries[:n:n], f.entries[n:]
	if len(f.entries) == 0 {
		f.entries = nil
	}
	return entries, f.newest
}

// wake tells who waits that there is something.
func wake(waits chan struct{}) {
	select {
	case waits <- struct{}{}:
	default:
	}
}
