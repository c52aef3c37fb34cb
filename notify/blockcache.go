package notify

import (
	"context"
	"fmt"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
)

// shelved is how many leaves are kept: as many events as maxRecent, some 4 MB.
// One of more than maxLeaf bytes is not.
const (
	maxCachedBlocks = maxCachedEvents / readSize
	maxBlockBytes   = 1 << 20
)

// A shelf keeps the leaves of the log last read. A leaf is what it has at partSize
// places, the first of which is one more than a multiple of that. It does not
// change, but that it grows old.
type blockCache struct{ lru *lru.Cache[uint64, []entry] } // by their first places

func newBlockCache() blockCache {
	blocks, err := lru.New[uint64, []entry](maxCachedBlocks)
	if err != nil {
		panic(err) // a size below 1
	}
	return blockCache{blocks}
}

// leafTime is how long the store may take to give a part of a page.
const blockTimeout = 10 * time.Second

// leaf returns the leaf that has a place, if all of it is in the log and many
// events are wanted, or what begins there and is that many; and the place after
// it. Only whole leaves are kept: who follows the log by small pages reads no event
// twice.
func (n *Notifier) readBlock(ctx context.Context, position, end uint64, wanted int) (entries []entry, next uint64, err error) {
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
	if entries, ok := n.blocks.lru.Get(first); ok { // read in somebody else's turn
		return entries, next, nil
	}
	whole := next-1 <= end && wanted >= readSize/4 // all of it costs little more
	if whole {
		position = first
	} else {
		next = min(next, end+1, position+uint64(wanted))
	}
	entries = n.collectRange(ctx, position, next-1)
	if ctx.Err() != nil {
		return nil, 0, fmt.Errorf("places from %d on: %w", position, ctx.Err())
	}
	size := 0
	for _, e := range entries {
		size += eventSize(e.event)
	}
	if whole && size <= maxBlockBytes {
		n.blocks.lru.Add(first, entries)
	}
	return entries, next, nil
}

// leafThrough finds what q asks for by reading the log leaf by leaf, from a place
// on: so many events at most.
func (n *Notifier) scanBlocks(ctx context.Context, position uint64, q Query, limit int) (found []entry, err error) {
	info, err := n.events.Info(ctx) // of the server that leads the log: another's copy may be behind
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
			if e.seq < position || !q.matchesEvent(e.event) {
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
