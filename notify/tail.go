package notify

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"bellhop/dialog"
	"bellhop/notify/eventlog"
	"bellhop/notify/stream"
)

// maxCachedEvents and maxCachedBytes limit the events in memory while the log is tailed. A
// tail that is farther behind reads the log itself.
const (
	maxCachedEvents = 4096
	maxCachedBytes  = 16 << 20
)

// maxTailBytes limits the events that one call of Tail.Next returns, as a slow reader keeps
// them in memory. A single event may be larger.
const maxTailBytes = 256 << 10

// sharedTail is the one reader of the end of the log that all tails share.
type sharedTail struct {
	readSlot chan struct{} // capacity 1: held by the tail or query that reads the log itself

	mu    sync.Mutex
	tails int        // how many tails are open
	cache *tailCache // nil: no tail is open
}

// A tailCache holds the end of the log in memory. A reader of its own fills it, from the
// opening of the first tail to the closing of the last.
type tailCache struct {
	stop      context.CancelFunc
	done      chan struct{} // closed when the reader has ended
	endRaised chan struct{} // capacity 1: logEnd has risen

	mu           sync.Mutex
	logEnd       uint64           // position of the last event known to be in the log
	entries      []eventlog.Entry // all events of the log after from and up to to
	bytes        int              // size of entries, see eventSize
	evictedBytes int              // size of evicted events that the array of entries still holds
	from         uint64
	to           uint64
	grown        chan struct{} // closed when to rises
}

// openTailCache registers a tail and returns the cache that all tails share. The log
// reaches at least end.
func (n *Notifier) openTailCache(end uint64) *tailCache {
	n.sharedTail.mu.Lock()
	defer n.sharedTail.mu.Unlock()
	n.sharedTail.tails++
	if n.sharedTail.cache == nil {
		ctx, stop := context.WithCancel(context.Background())
		c := &tailCache{
			stop: stop, done: make(chan struct{}), endRaised: make(chan struct{}, 1),
			logEnd: end, from: end, to: end, grown: make(chan struct{}),
		}
		n.sharedTail.cache = c
		go func() {
			defer close(c.done)
			n.runRestarting(ctx, "tail", func(ctx context.Context) error { return n.fillTailCache(ctx, c) })
		}()
	}
	return n.sharedTail.cache
}

// closeTailCache unregisters a tail; the last one stops the reader.
func (n *Notifier) closeTailCache() {
	n.sharedTail.mu.Lock()
	c := n.sharedTail.cache
	n.sharedTail.tails--
	last := n.sharedTail.tails == 0
	if last {
		n.sharedTail.cache = nil
	}
	n.sharedTail.mu.Unlock()
	if last {
		c.stop()
		<-c.done
	}
}

// fillTailCache reads the events of all nodes into the cache until ctx ends.
func (n *Notifier) fillTailCache(ctx context.Context, c *tailCache) error {
	sub, err := n.subscribeEnds(c.raiseEnd)
	if err != nil {
		n.log.Warn("announcements of the log end not received: tails are late", "err", err)
	} else {
		defer sub.Unsubscribe()
	}
	poll := time.NewTicker(logPollInterval)
	defer poll.Stop()
	for position := c.to; ; {
		select {
		case <-ctx.Done():
			return nil
		case <-c.endRaised:
		case <-poll.C:
			if info, err := n.events.Info(ctx); err == nil {
				c.raiseEnd(info.State.LastSeq)
			} else if ctx.Err() == nil {
				n.log.Warn("end of the event log unknown", "err", err)
			}
		}
		for end := c.knownEnd(); position < end && ctx.Err() == nil; {
			var entries []eventlog.Entry
			entries, position = n.readNext(ctx, position, end)
			c.addEntries(entries, position)
		}
	}
}

// acquireRead waits for the one slot to read the log, so that many readers do not take the
// CPU from calls. After success the caller must call releaseRead.
func (t *sharedTail) acquireRead(ctx context.Context) error {
	select {
	case t.readSlot <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// releaseRead frees the slot taken by acquireRead.
func (t *sharedTail) releaseRead() { <-t.readSlot }

// readNext reads at most readSize positions after from and up to to, and returns the
// position that it has reached.
func (n *Notifier) readNext(ctx context.Context, from, to uint64) (entries []eventlog.Entry, position uint64) {
	to = min(to, from+readSize)
	entries = n.collectRange(ctx, from+1, to)
	if ctx.Err() != nil {
		return nil, from // the events are incomplete if ctx has ended
	}
	return entries, to
}

// limitEntries returns the first entries, as many as one call of Tail.Next may return.
func limitEntries(entries []eventlog.Entry) []eventlog.Entry {
	bytes := 0
	for i, e := range entries {
		if bytes += eventSize(e.Event); i == readSize || i > 0 && bytes > maxTailBytes {
			return entries[:i:i]
		}
	}
	return entries
}

// eventSize estimates the memory of an event, in bytes.
func eventSize(e *dialog.Event) int {
	n := 1024 + len(e.MessageText) + len(e.ContentType) + len(e.UserAgent) + len(e.SipReason) + len(e.Diversion) +
		len(e.CallerNum) + len(e.CallerName) + len(e.CalledNumber) + len(e.CalledDID) + len(e.RemoteNumber) + len(e.ANI) +
		len(e.CallerNumRaw) + len(e.CalledNumberRaw) +
		len(e.CallAPIID) + len(e.ClientAPIID) + len(e.CallBackID) + len(e.RecID) + len(e.Tag) +
		len(e.Extension.User) + len(e.Extension.Domain)
	for _, h := range e.Headers {
		n += len(h[0]) + len(h[1])
	}
	return n
}

// raiseEnd records that the log reaches seq or farther.
func (c *tailCache) raiseEnd(seq uint64) {
	c.mu.Lock()
	c.logEnd = max(c.logEnd, seq)
	c.mu.Unlock()
	signal(c.endRaised)
}

// knownEnd returns the position of the last event known to be in the log.
func (c *tailCache) knownEnd() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.logEnd
}

// addEntries appends the events of the log up to position to, evicts the oldest beyond the
// limits, and wakes the tails.
func (c *tailCache) addEntries(entries []eventlog.Entry, to uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, e := range entries {
		c.bytes += eventSize(e.Event)
	}
	c.entries = append(c.entries, entries...)
	for len(c.entries) > maxCachedEvents || c.bytes > maxCachedBytes {
		c.from = c.entries[0].Seq
		c.bytes -= eventSize(c.entries[0].Event)
		c.evictedBytes += eventSize(c.entries[0].Event)
		c.entries = c.entries[1:]
	}
	if c.evictedBytes > maxCachedBytes {
		c.entries, c.evictedBytes = slices.Clone(c.entries), 0
	}
	c.to = to
	close(c.grown)
	c.grown = make(chan struct{})
}

// entriesAfter returns the cached events after a position. The cache has no events up to
// the position missed; a reader before it must read the log. grown is closed when more
// events are cached.
func (c *tailCache) entriesAfter(position uint64) (entries []eventlog.Entry, missed uint64, grown <-chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	i, _ := slices.BinarySearchFunc(c.entries, position+1, func(e eventlog.Entry, seq uint64) int {
		return int(int64(e.Seq - seq))
	})
	return c.entries[i:len(c.entries):len(c.entries)], c.from, c.grown
}

// A Tail reads the log as it grows: every event that its query selects once, in the order
// of the log, whichever node published it. It belongs to one goroutine.
//
// All tails of a node share one reader of the log. A tail that is thousands of events
// behind reads the log itself to catch up. Nothing waits for a tail.
type Tail struct {
	n        *Notifier
	query    Query
	cache    *tailCache
	position uint64 // of the last event read
	readSize uint64 // how many positions it reads at once
}

// Tail returns a Tail that begins at After or Since of the query; without either, or with a
// Since in the future, it begins at the end of the log. Limit is ignored. The caller must
// close it.
func (n *Notifier) Tail(ctx context.Context, q Query) (*Tail, error) {
	info, err := n.events.Info(ctx)
	if err != nil {
		return nil, fmt.Errorf("read bellhop_events: %w", err)
	}
	end := info.State.LastSeq
	position := end
	switch {
	case q.After != "":
		position, err = n.positionOf(ctx, q)
	case !q.Since.IsZero():
		position, err = n.positionBefore(ctx, q.Since, end)
	}
	if err != nil {
		return nil, err
	}
	return &Tail{n: n, query: q, cache: n.openTailCache(end), position: position, readSize: readSize}, nil
}

// positionBefore returns the position before the first event published at since or later;
// end if there is none.
func (n *Notifier) positionBefore(ctx context.Context, since time.Time, end uint64) (position uint64, err error) {
	position = end
	c := jetstream.OrderedConsumerConfig{DeliverPolicy: jetstream.DeliverByStartTimePolicy, OptStartTime: &since}
	err = stream.Read(ctx, n.events, c, func(m jetstream.Msg) error {
		meta, err := m.Metadata()
		if err != nil {
			return err
		}
		position = meta.Sequence.Stream - 1
		return stream.ErrStop
	})
	if err != nil {
		return 0, fmt.Errorf("read bellhop_events: %w", err)
	}
	return position, nil
}

// Next returns the next events: at least one, and at most some hundreds or 256 KiB of them.
// It waits for them until ctx ends, and may be called again afterwards: no event is missed.
// Readers share the events and must not change them.
func (t *Tail) Next(ctx context.Context) ([]*dialog.Event, error) {
	for ctx.Err() == nil {
		entries, missed, grown := t.cache.entriesAfter(t.position)
		switch {
		case t.position < missed:
			if err := t.n.sharedTail.acquireRead(ctx); err != nil {
				return nil, err
			}
			var position uint64
			entries, position = t.n.readNext(ctx, t.position, min(missed, t.position+t.readSize))
			t.n.sharedTail.releaseRead()
			t.readSize = min(2*t.readSize, readSize)
			if limited := limitEntries(entries); len(limited) < len(entries) {
				t.readSize = uint64(len(limited)) // reads no more than it may return next time
				entries, position = slices.Clone(limited), limited[len(limited)-1].Seq
			}
			t.position = position
		case len(entries) > 0:
			entries = limitEntries(entries)
			t.position = entries[len(entries)-1].Seq
		default:
			select {
			case <-grown:
			case <-ctx.Done():
			}
		}
		if events := t.query.filterEntries(entries); len(events) > 0 {
			return events, nil
		}
	}
	return nil, ctx.Err()
}

// Close closes the Tail. It must not be used afterwards.
func (t *Tail) Close() { t.n.closeTailCache() }

// filterEntries returns the events that the query selects.
func (q Query) filterEntries(entries []eventlog.Entry) []*dialog.Event {
	user, _, _ := strings.Cut(q.Extension, "@")
	var events []*dialog.Event
	for _, e := range entries {
		if (user == "" || e.Event.Extension.User == user) && (q.Call == "" || e.Event.Call == q.Call) && q.matchesEvent(e.Event) {
			events = append(events, e.Event)
		}
	}
	return events
}
