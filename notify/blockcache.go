package notify

import (
	"context"
	"fmt"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"

	"bellhop/notify/eventlog"
)

// maxCachedBlocks is how many blocks of the log are cached: as many events as
// maxCachedEvents, about 4 MB. A block larger than maxBlockBytes is not cached.
const (
	maxCachedBlocks = maxCachedEvents / readSize
	maxBlockBytes   = 1 << 20
)

// A blockCache caches the blocks of the log that were read last, so that page after page is
// read once. A block is the events at readSize positions, of which the first is one more
// than a multiple of readSize. Its events do not change; they only expire.
type blockCache struct {
	lru *lru.Cache[uint64, []eventlog.Entry]
} // by first position

func newBlockCache() blockCache {
	blocks, err := lru.New[uint64, []eventlog.Entry](maxCachedBlocks)
	if err != nil {
		panic(err) // only for a size below 1
	}
	return blockCache{blocks}
}

// blockTimeout is how long reading a block may take.
const blockTimeout = 10 * time.Second

// readBlock returns the block that contains a position, if the log has all of it and many
// events are wanted, and the position after it. Else it returns the wanted number of events
// from position on. Only whole blocks are cached: a reader with small pages reads no event
// twice.
func (n *Notifier) readBlock(ctx context.Context, position, end uint64, wanted int) (entries []eventlog.Entry, next uint64, err error) {
	first := position - (position-1)%readSize
	next = first + readSize
	if entries, ok := n.blocks.lru.Get(first); ok {
		return entries, next, nil
	}
	ctx, cancel := context.WithTimeout(ctx, blockTimeout)
	defer cancel()
	if err := n.sharedTail.acquireRead(ctx); err != nil {
		return nil, 0, err
	}
	defer n.sharedTail.releaseRead()
	if entries, ok := n.blocks.lru.Get(first); ok { // another reader has just read it
		return entries, next, nil
	}
	whole := next-1 <= end && wanted >= readSize/4 // the whole block costs little more
	if whole {
		position = first
	} else {
		next = min(next, end+1, position+uint64(wanted))
	}
	entries = n.collectRange(ctx, position, next-1)
	if ctx.Err() != nil {
		return nil, 0, fmt.Errorf("read bellhop_events from %d: %w", position, ctx.Err())
	}
	size := 0
	for _, e := range entries {
		size += eventSize(e.Event)
	}
	if whole && size <= maxBlockBytes {
		n.blocks.lru.Add(first, entries)
	}
	return entries, next, nil
}

// scanBlocks returns at most limit events that q selects, from a position on, by reading
// the log block by block.
func (n *Notifier) scanBlocks(ctx context.Context, position uint64, q Query, limit int) (found []eventlog.Entry, err error) {
	info, err := n.events.Info(ctx) // from the leader: another server's copy may lag
	if err != nil {
		return nil, err
	}
	oldest, end := info.State.FirstSeq, info.State.LastSeq
	for position = max(position, oldest, 1); position <= end; {
		entries, next, err := n.readBlock(ctx, position, end, limit-len(found))
		if err != nil {
			return nil, err
		}
		for _, e := range entries {
			if e.Seq < position || !q.matchesEvent(e.Event) {
				continue
			}
			if found = append(found, e); len(found) == limit {
				return found, nil
			}
		}
		position = next
	}
	return found, nil
}
