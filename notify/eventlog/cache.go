package eventlog

import (
	"sync"

	lru "github.com/hashicorp/golang-lru/v2"

	"bellhop/dialog"
)

// blockSize is how many positions of the log a block has, and one request to the store asks
// for. cachedBlocks is how many of the newest blocks are cached, and how many older ones:
// 4,096 events each, about 4 MB. The newest are limited to maxRecentBytes; an older block
// larger than maxBlockBytes is not cached.
const (
	blockSize      = 256
	cachedBlocks   = 16
	maxRecentBytes = 16 << 20
	maxBlockBytes  = 1 << 20
)

// A block is blockSize positions of the log, of which the first is one more than a multiple
// of blockSize. Its events do not change; they only expire.
type block struct {
	known  [blockSize]bool          // whether the event at a position, or that there is none, is in the block
	events [blockSize]*dialog.Event // nil: not known, or gone from the log
	bytes  int                      // see eventSize
}

// A cache holds blocks of the log: the newest, as far as their events were published by
// this node or read, and the older ones that pages have read last.
type cache struct {
	mu     sync.Mutex
	recent map[uint64]*block // the newest blocks, by number
	newest uint64            // the highest number of a block
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

// blockOf returns the number of the block of a position, and the index in it.
func blockOf(seq uint64) (number uint64, index int) {
	return (seq - 1) / blockSize, int((seq - 1) % blockSize)
}

// get returns the block of a number, or nil. mu is locked.
func (c *cache) get(number uint64) *block {
	if b := c.recent[number]; b != nil {
		return b
	}
	b, _ := c.older.Get(number)
	return b
}

// event returns the event at a position, if the cache has it.
func (c *cache) event(seq uint64) *dialog.Event {
	c.mu.Lock()
	defer c.mu.Unlock()
	number, i := blockOf(seq)
	if b := c.get(number); b != nil {
		return b.events[i]
	}
	return nil
}

// entries returns the events of the positions from to to, as far as the cache knows them
// without a gap, and the first position that it does not know.
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

// add records that the events of the positions from to to are entries. Only the newest
// blocks take them.
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

// addPublished records events that this node has published, which are in the order of the
// log.
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

// raiseNewest makes room for the block of a position, if it is newer than all. mu is locked.
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

// put stores the event of a position; nil: the log has none there. A position in a block that
// is no longer cached is ignored. mu is locked.
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

// clear forgets the event at an index of one of the newest blocks. mu is locked.
func (c *cache) clear(b *block, i int) {
	if e := b.events[i]; e != nil {
		b.bytes -= eventSize(e)
		c.bytes -= eventSize(e)
	}
	b.known[i], b.events[i] = false, nil
}

// limitBytes evicts the oldest events of the newest blocks while they are too large. mu is
// locked.
func (c *cache) limitBytes() {
	for number := c.newest - min(c.newest, cachedBlocks-1); c.bytes > maxRecentBytes && number < c.newest; number++ {
		c.evict(number)
	}
	b := c.recent[c.newest]
	for i := 0; c.bytes > maxRecentBytes && i < blockSize; i++ {
		c.clear(b, i)
	}
}

// evict removes one of the newest blocks. mu is locked.
func (c *cache) evict(number uint64) {
	if b := c.recent[number]; b != nil {
		c.bytes -= b.bytes
		delete(c.recent, number)
	}
}

// addOlder caches a whole block that a page has read, unless it is too large or one of the
// newest.
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
