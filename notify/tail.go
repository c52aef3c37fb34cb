package notify

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"bellhop/dialog"
)

// maxRecent and maxRecentBytes bound the last events that are in memory while
// somebody tails the log. A tail that is farther behind reads the log for itself.
const (
	maxCachedEvents = 4096
	maxCachedBytes  = 16 << 20
)

// maxBatch is how many bytes of events a tail is given at once: so much is what a
// reader that is slow keeps from being freed. One event may be larger.
const maxTailBytes = 256 << 10

// tails is the one reading of the log's end that all tails share.
type sharedTail struct {
	readSlot chan struct{} // has room for one: who reads the log for himself

	mu    sync.Mutex
	tails int        // how many share it
	cache *tailCache // nil: nobody does
}

// A recent is the end of the log in memory. It is kept up by a reader of its own,
// from the first tail's beginning to the last one's end.
type tailCache struct {
	stop      context.CancelFunc
	done      chan struct{} // closed when the reader has ended
	endRaised chan struct{} // has room for one: heard has risen

	mu           sync.Mutex
	logEnd       uint64  // place of the last event that is known to be in the log
	entries      []entry // all that the log has after from and up to the place to
	bytes        int     // of these, as weight has it
	evictedBytes int     // bytes of those that were evicted, but that the array of entries may hold
	from         uint64
	to           uint64
	grown        chan struct{} // closed when to rises
}

// share returns what all tails share. The log goes as far as end.
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

// unshare says that a tail has ended.
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

// keepUp reads what any node says, until ctx ends.
func (n *Notifier) fillTailCache(ctx context.Context, c *tailCache) error {
	sub, err := n.subscribeEnds(c.raiseEnd)
	if err != nil {
		n.log.Warn("who follows the log hears of events late", "err", err)
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
				n.log.Warn("it is not known how far the log goes", "err", err)
			}
		}
		for end := c.knownEnd(); position < end && ctx.Err() == nil; {
			var entries []entry
			entries, position = n.readNext(ctx, position, end)
			c.addEntries(entries, position)
		}
	}
}

// begin waits for the turn to read the log: one does at a time, so that many do
// not take the machine from the calls. Who has begun must end.
func (t *sharedTail) acquireRead(ctx context.Context) error {
	select {
	case t.readSlot <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (t *sharedTail) releaseRead() { <-t.readSlot }

// part reads the log after a place, up to another or less, and returns how far
// it has come.
func (n *Notifier) readNext(ctx context.Context, from, to uint64) (entries []entry, position uint64) {
	to = min(to, from+readSize)
	entries = n.collectRange(ctx, from+1, to)
	if ctx.Err() != nil {
		return nil, from // what ends early is not all
	}
	return entries, to
}

// batch returns the first of some entries, so many as a tail is given at once.
func limitEntries(entries []entry) []entry {
	bytes := 0
	for i, e := range entries {
		if bytes += eventSize(e.event); i == readSize || i > 0 && bytes > maxTailBytes {
			return entries[:i:i]
		}
	}
	return entries
}

// weight is about how many bytes of memory an event takes.
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

// hear learns that the log goes as far as seq, or farther.
func (c *tailCache) raiseEnd(seq uint64) {
	c.mu.Lock()
	c.logEnd = max(c.logEnd, seq)
	c.mu.Unlock()
	signal(c.endRaised)
}

// end is how far the log is known to go.
func (c *tailCache) knownEnd() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.logEnd
}

// add adds what the log has up to a place.
func (c *tailCache) addEntries(entries []entry, to uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, e := range entries {
		c.bytes += eventSize(e.event)
	}
	c.entries = append(c.entries, entries...)
	for len(c.entries) > maxCachedEvents || c.bytes > maxCachedBytes {
		c.from = c.entries[0].seq
		c.bytes -= eventSize(c.entries[0].event)
		c.evictedBytes += eventSize(c.entries[0].event)
		c.entries = c.entries[1:]
	}
	if c.evictedBytes > maxCachedBytes {
		c.entries, c.evictedBytes = slices.Clone(c.entries), 0
	}
	c.to = to
	close(c.grown)
	c.grown = make(chan struct{})
}

// after returns what is in memory of the events after a place. Those from there
// up to the place missed are not; news is closed when there are more.
func (c *tailCache) entriesAfter(position uint64) (entries []entry, missed uint64, grown <-chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	i, _ := slices.BinarySearchFunc(c.entries, position+1, func(e entry, seq uint64) int {
		return int(int64(e.seq - seq))
	})
	return c.entries[i:len(c.entries):len(c.entries)], c.from, c.grown
}

// A Tail reads the log as it grows: every event that it asks for once, in the
// order of the log, whichever node said it. It belongs to one goroutine.
//
// All tails of a node share one reading of the log; one that is thousands of
// events behind catches up by a reading of its own. Nobody waits for a tail.
type Tail struct {
	n        *Notifier
	query    Query
	cache    *tailCache
	position uint64 // of the last event that was looked at
	readSize uint64 // how many places of the log it reads at once
}

// Tail returns a Tail that begins where the query says: without After and Since,
// and if Since is yet to come, it begins now. Limit is ignored. The caller closes
// it.
func (n *Notifier) Tail(ctx context.Context, q Query) (*Tail, error) {
	info, err := n.events.Info(ctx)
	if err != nil {
		return nil, fmt.Errorf("event log bellhop_events: %w", err)
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

// placeBefore is the place before the first event that was said at a time or
// later, or else the end.
func (n *Notifier) positionBefore(ctx context.Context, since time.Time, end uint64) (position uint64, err error) {
	position = end
	c := jetstream.OrderedConsumerConfig{DeliverPolicy: jetstream.DeliverByStartTimePolicy, OptStartTime: &since}
	err = readMessages(ctx, n.events, c, func(m jetstream.Msg) error {
		meta, err := m.Metadata()
		if err != nil {
			return err
		}
		position = meta.Sequence.Stream - 1
		return errStopReading
	})
	if err != nil && !errors.Is(err, errStopReading) {
		return 0, fmt.Errorf("read bellhop_events: %w", err)
	}
	return position, nil
}

// Next returns the next events: at least one, and some hundreds or 256 KiB of them
// at most. It waits
// for them until ctx ends, and may be called again then: nothing is missed. The
// events belong to all who read them: nobody changes one.
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
				t.readSize = uint64(len(limited)) // to read no more in vain
				entries, position = slices.Clone(limited), limited[len(limited)-1].seq
			}
			t.position = position
		case len(entries) > 0:
			entries = limitEntries(entries)
			t.position = entries[len(entries)-1].seq
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

// Close ends a Tail.
func (t *Tail) Close() { t.n.closeTailCache() }

// of returns the events that the query asks for.
func (q Query) filterEntries(entries []entry) []*dialog.Event {
	user, _, _ := strings.Cut(q.Extension, "@")
	var events []*dialog.Event
	for _, e := range entries {
		if (user == "" || e.event.Extension.User == user) && (q.Call == "" || e.event.Call == q.Call) && q.matchesEvent(e.event) {
			events = append(events, e.event)
		}
	}
	return events
}
