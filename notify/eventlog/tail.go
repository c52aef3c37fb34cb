package eventlog

import (
	"context"

	"bellhop/dialog"
)

// maxTailBytes limits the events that one call of Tail.Next returns, because a slow
// reader holds them in memory. A single event may be larger.
const maxTailBytes = 256 << 10

// A tailReader fills the cache for all tails. It reads the new events that are not
// cached: those that other nodes have published. It runs from the opening of the first
// tail until the closing of the last.
type tailReader struct {
	stop      context.CancelFunc
	done      chan struct{} // closed when it has ended
	endRaised chan struct{} // capacity 1: the end of the log has risen

	// Log.mu guards the fields below.
	read  uint64        // position up to which events were read
	grown chan struct{} // closed when read rises
}

// openReader registers a tail and returns the reader that all tails share.
func (l *Log) openReader() *tailReader {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.tails++
	if l.reader == nil {
		ctx, stop := context.WithCancel(context.Background())
		r := &tailReader{
			stop: stop, done: make(chan struct{}), endRaised: make(chan struct{}, 1),
			read: l.end, grown: make(chan struct{}),
		}
		l.reader = r
		go func() {
			defer close(r.done)
			l.followEnd(ctx, r.endRaised, func() { l.readNew(ctx, r) })
		}()
	}
	return l.reader
}

// closeReader unregisters a tail; the last one stops the reader.
func (l *Log) closeReader() {
	l.mu.Lock()
	r := l.reader
	l.tails--
	last := l.tails == 0
	if last {
		l.reader = nil
	}
	l.mu.Unlock()
	if last {
		r.stop()
		<-r.done
	}
}

// readNew reads the events up to the end of the log into the cache, and wakes the tails.
// It reads r.read without the lock, because nothing else changes it.
func (l *Log) readNew(ctx context.Context, r *tailReader) {
	defer l.config.RecoverPanic("tail")
	for end := l.End(); r.read < end; end = l.End() {
		next := min(end, r.read+blockSize)
		if l.Read(ctx, r.read+1, next); ctx.Err() != nil {
			return
		}
		l.mu.Lock()
		r.read = next
		close(r.grown)
		r.grown = make(chan struct{})
		l.mu.Unlock()
	}
}

// A Tail reads the log as it grows. It returns every event that its query selects, once
// and in log order, whichever node published it. Only one goroutine may use a Tail.
//
// All tails of a node share one reader of the log. A tail whose next event is no longer
// cached reads the log itself to catch up. Other tails, and the publisher, never wait
// until a slow tail has caught up.
type Tail struct {
	log      *Log
	query    Query
	reader   *tailReader
	position uint64 // of the last event read
	readSize int    // positions per read from the store, to catch up
}

// Tail returns a Tail that begins after the event q.After, or at the time q.Since. If
// neither is set, or Since is in the future, it begins at the end of the log. Limit is
// ignored. The caller must close the Tail.
func (l *Log) Tail(ctx context.Context, q Query) (*Tail, error) {
	_, position, err := l.Bounds(ctx)
	if err != nil {
		return nil, err
	}
	if q.After != "" || !q.Since.IsZero() {
		first, err := l.firstPosition(ctx, &q)
		if err != nil {
			return nil, err
		}
		if first > 0 {
			position = first - 1
		}
	}
	return &Tail{log: l, query: q, reader: l.openReader(), position: position, readSize: blockSize}, nil
}

// Next waits for the next events until ctx ends. It returns at least one, and at most
// some hundreds or 256 KiB of them. It may be called again after an error, and misses no
// event. Readers share the events and must not change them.
func (t *Tail) Next(ctx context.Context) (events []*dialog.Event, err error) {
	for ctx.Err() == nil {
		t.log.mu.Lock()
		read, grown := t.reader.read, t.reader.grown
		t.log.mu.Unlock()
		if t.position >= read {
			select {
			case <-grown:
			case <-ctx.Done():
			}
			continue
		}
		entries, next, err := t.log.readPage(ctx, t.position+1, read, t.readSize)
		if err != nil {
			continue // the store does not respond, or ctx has ended
		}
		t.readSize = min(2*t.readSize, blockSize)
		bytes := 0
		for i, e := range entries {
			if bytes += eventSize(e.Event); i > 0 && bytes > maxTailBytes {
				next, t.readSize = e.Seq, i // reads no more than it may return next time
				break
			}
			if t.query.matches(e.Event) {
				events = append(events, e.Event)
			}
		}
		if t.position = next - 1; len(events) > 0 {
			return events, nil
		}
	}
	return nil, ctx.Err()
}

// Close closes the Tail. It must not be used afterwards.
func (t *Tail) Close() { t.log.closeReader() }
