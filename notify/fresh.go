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
type fresh struct {
	news chan struct{} // has room for one

	mu      sync.Mutex
	entries []entry
	newest  uint64 // place of the last event that is known to be in the log
}

// look learns how far the log goes, and returns where it begins.
func (f *fresh) look(ctx context.Context, events jetstream.Stream) (first uint64, err error) {
	info, err := events.Info(ctx)
	if err != nil {
		return 0, err
	}
	f.mu.Lock()
	f.newest = max(f.newest, info.State.LastSeq)
	f.mu.Unlock()
	f.tell()
	return info.State.FirstSeq, nil
}

// tell wakes who delivers.
func (f *fresh) tell() {
	select {
	case f.news <- struct{}{}:
	default:
	}
}

// offer hands on events in the order of the log.
func (f *fresh) offer(said []entry) {
	if len(said) == 0 {
		return
	}
	f.mu.Lock()
	if len(f.entries)+len(said) <= maxFresh {
		f.entries = append(f.entries, said...)
	}
	f.newest = max(f.newest, said[len(said)-1].seq)
	f.mu.Unlock()
	f.tell()
}

// take returns what was handed on since it was last called, and how far the
// log goes.
func (f *fresh) take() (entries []entry, newest uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	entries, f.entries = f.entries, nil
	return entries, f.newest
}
