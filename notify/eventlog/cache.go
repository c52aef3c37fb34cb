package eventlog

import (
	"context"
	"sync"

	lru "github.com/hashicorp/golang-lru/v2"

	"bellhop/dialog"
	"bellhop/notify/stream"
)

// blockSize is the number of positions in a block, and the most that one request to the
// store asks for. The cache holds cachedBlocks of the newest blocks and cachedBlocks
// older ones: 4,096 events each, about 4 MB. The newest blocks together have at most
// maxRecentBytes. An older block larger than maxBlockBytes is not cached.
const (
	blockSize      = 256
	cachedBlocks   = 16
	maxRecentBytes = 16 << 20
	maxBlockBytes  = 1 << 20
)

// A block holds blockSize consecutive positions of the log. Block n begins at position
// n*blockSize + 1. Events in it never change, but they may expire from the log.
type block struct {
	known  [blockSize]bool          // the position was read: events has its event, or the log has none there
	events [blockSize]*dialog.Event // nil: not known, or not in the log
	bytes  int                      // sum of eventSize
}

// A cache holds blocks of the log: the newest, with the events that this node has
// published or read, and the older blocks that pages have read last.
type cache struct {
	mu     sync.Mutex
	recent map[uint64]*block // the newest blocks, by number
	newest uint64            // the highest block number seen
	bytes  int               // of the events of recent
	older  *lru.Cache[uint64, *block]
}

func newCache() cache {
	older, err := lru.New[uint64, *block](cachedBlocks)
	if err != nil {
		panic(err) // only for a size below 1
	}
	return cache{recent: make(map[uint64]*block), older: older}
}

// raiseEnd raises the known end of the log to seq, unless it is higher already. If the
// log is not shared, raiseEnd also releases the events up to there; otherwise
// ReleaseEvents does.
func (l *Log) raiseEnd(seq uint64) {
	l.mu.Lock()
	if l.end = max(l.end, seq); l.reader != nil {
		stream.Signal(l.reader.endRaised)
	}
	l.mu.Unlock()
	if l.config.Shared {
		stream.Signal(l.endRaised)
	} else {
		l.release(seq)
	}
}

// release allows the events up to seq to be delivered.
func (l *Log) release(seq uint64) {
	l.mu.Lock()
	l.released = max(l.released, seq)
	l.mu.Unlock()
	stream.Signal(l.releasedRaised)
}

// ReadReleased sends the events that may be delivered to batches, in order and beginning
// at position from, until ctx ends. It reads from the store only what the cache does not
// have. Only one goroutine may call it.
func (l *Log) ReadReleased(ctx context.Context, from uint64, batches chan<- []Entry) {
	for ctx.Err() == nil {
		l.mu.Lock()
		to := min(l.released, from+blockSize-1)
		l.mu.Unlock()
		if from > to {
			select {
			case <-l.releasedRaised:
			case <-ctx.Done():
			}
			continue
		}
		entries, next := l.cache.entries(from, to)
		if next == from {
			entries, next = l.readBlock(ctx, from, to)
		}
		if from = next; len(entries) == 0 {
			continue // the log has no events there
		}
		select {
		case batches <- entries:
		case <-ctx.Done():
		}
	}
}

// End returns the position of the last event known to be in the log.
func (l *Log) End() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.end
}

// blockOf returns the number of the block of a position, and the index in it.
func blockOf(seq uint64) (number uint64, index int) {
	return (seq - 1) / blockSize, int((seq - 1) % blockSize)
}

// get returns the block with a number, or nil if it is not cached. mu is locked.
func (c *cache) get(number uint64) *block {
	if b := c.recent[number]; b != nil {
		return b
	}
	b, _ := c.older.Get(number)
	return b
}

// event returns the event at a position, or nil if the cache does not have it.
func (c *cache) event(seq uint64) *dialog.Event {
	c.mu.Lock()
	defer c.mu.Unlock()
	number, i := blockOf(seq)
	if b := c.get(number); b != nil {
		return b.events[i]
	}
	return nil
}

// entries returns the events at the positions from..to that precede the first position
// unknown to the cache. next is that position, or to+1 if all are known.
func (c *cache) entries(from, to uint64) (entries []Entry, next uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for next = from; next <= to; {
		number, i := blockOf(next)
		b := c.get(number)
		if b == nil {
			return entries, next
		}
		for ; i < blockSize && next <= to; i++ {
			if !b.known[i] {
				return entries, next
			}
			if e := b.events[i]; e != nil {
				entries = append(entries, Entry{next, e})
			}
			next++
		}
	}
	return entries, next
}

// add records that entries are all the events at the positions from..to. It ignores
// positions that are older than the newest blocks.
func (c *cache) add(from, to uint64, entries []Entry) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.raiseNewest(to)
	for seq := from; seq <= to; seq++ {
		var e *dialog.Event
		if len(entries) > 0 && entries[0].Seq == seq {
			e, entries = entries[0].Event, entries[1:]
		}
		c.put(seq, e)
	}
	c.limitBytes()
}

// addPublished records events that this node has published. entries are in the order of
// the log.
func (c *cache) addPublished(entries []Entry) {
	if len(entries) == 0 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.raiseNewest(entries[len(entries)-1].Seq)
	for _, e := range entries {
		c.put(e.Seq, e.Event)
	}
	c.limitBytes()
}

// raiseNewest records that the log has reached position seq. If seq begins a newer block,
// it evicts the blocks that are no longer among the newest. mu is locked.
func (c *cache) raiseNewest(seq uint64) {
	if number, _ := blockOf(seq); number > c.newest {
		c.newest = number
		for old := range c.recent {
			if old+cachedBlocks <= number {
				c.evict(old)
			}
		}
	}
}

// put stores the event at a position. A nil e means that the log has no event there. put
// ignores positions that are older than the newest blocks. mu is locked.
func (c *cache) put(seq uint64, e *dialog.Event) {
	number, i := blockOf(seq)
	if number+cachedBlocks <= c.newest {
		return
	}
	b := c.recent[number]
	if b == nil {
		b = new(block)
		c.recent[number] = b
		c.older.Remove(number)
	}
	c.clear(b, i)
	b.known[i], b.events[i] = true, e
	if e != nil {
		b.bytes += eventSize(e)
		c.bytes += eventSize(e)
	}
}

// clear removes the event at index i of b, one of the newest blocks. The position is then
// unknown. mu is locked.
func (c *cache) clear(b *block, i int) {
	if e := b.events[i]; e != nil {
		b.bytes -= eventSize(e)
		c.bytes -= eventSize(e)
	}
	b.known[i], b.events[i] = false, nil
}

// limitBytes evicts the oldest blocks of recent while all of them together exceed
// maxRecentBytes. If the newest block alone exceeds it, limitBytes clears the oldest
// events of that block. mu is locked.
func (c *cache) limitBytes() {
	for number := c.newest - min(c.newest, cachedBlocks-1); c.bytes > maxRecentBytes && number < c.newest; number++ {
		c.evict(number)
	}
	b := c.recent[c.newest]
	for i := 0; c.bytes > maxRecentBytes && i < blockSize; i++ {
		c.clear(b, i)
	}
}

// evict removes a block from recent. mu is locked.
func (c *cache) evict(number uint64) {
	if b := c.recent[number]; b != nil {
		c.bytes -= b.bytes
		delete(c.recent, number)
	}
}

// addOlder caches a whole block that was read for a page. It ignores a block that is
// larger than maxBlockBytes or already in recent.
func (c *cache) addOlder(number uint64, entries []Entry) {
	b := new(block)
	for i := range b.known {
		b.known[i] = true
	}
	for _, e := range entries {
		_, i := blockOf(e.Seq)
		b.events[i] = e.Event
		b.bytes += eventSize(e.Event)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if b.bytes <= maxBlockBytes && c.recent[number] == nil {
		c.older.Add(number, b)
	}
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
