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
	shelved = maxRecent / partSize
	maxLeaf = 1 << 20
)

// A shelf keeps the leaves of the log last read. A leaf is what it has at partSize
// places, the first of which is one more than a multiple of that. It does not
// change, but that it grows old.
type shelf struct{ leaves *lru.Cache[uint64, []entry] } // by their first places

func newShelf() shelf {
	leaves, err := lru.New[uint64, []entry](shelved)
	if err != nil {
		panic(err) // a size below 1
	}
	return shelf{leaves}
}

// leafTime is how long the store may take to give a part of a page.
const leafTime = 10 * time.Second

// leaf returns the leaf that has a place, if all of it is in the log and many
// events are wanted, or what begins there and is that many; and the place after
// it. Only whole leaves are kept: who follows the log by small pages reads no event
// twice.
func (n *Notifier) leaf(ctx context.Context, place, end uint64, most int) (entries []entry, next uint64, err error) {
	first := place - (place-1)%partSize
	next = first + partSize
	if entries, ok := n.shelf.leaves.Get(first); ok {
		return entries, next, nil
	}
	ctx, cancel := context.WithTimeout(ctx, leafTime)
	defer cancel()
	if err := n.tails.begin(ctx); err != nil {
		return nil, 0, err
	}
	defer n.tails.end()
	if entries, ok := n.shelf.leaves.Get(first); ok { // read in somebody else's turn
		return entries, next, nil
	}
	whole := next-1 <= end && most >= partSize/4 // all of it costs little more
	if whole {
		place = first
	} else {
		next = min(next, end+1, place+uint64(most))
	}
	entries = n.collect(ctx, place, next-1)
	if ctx.Err() != nil {
		return nil, 0, fmt.Errorf("places from %d on: %w", place, ctx.Err())
	}
	size := 0
	for _, e := range entries {
		size += weight(e.event)
	}
	if whole && size <= maxLeaf {
		n.shelf.leaves.Add(first, entries)
	}
	return entries, next, nil
}

// leafThrough finds what q asks for by reading the log leaf by leaf, from a place
// on: so many events at most.
func (n *Notifier) leafThrough(ctx context.Context, place uint64, q Query, most int) (found []entry, err error) {
	info, err := n.events.Info(ctx) // of the server that leads the log: another's copy may be behind
	if err != nil {
		return nil, err
	}
	oldest, end := info.State.FirstSeq, info.State.LastSeq
	for place = max(place, oldest, 1); place <= end; {
		entries, next, err := n.leaf(ctx, place, end, most-len(found))
		if err != nil {
			return nil, err
		}
		for _, e := range entries {
			if e.seq < place || !q.matches(e.event) {
				continue
			}
			if found = append(found, e); len(found) == most {
				return found, nil
			}
		}
		place = next
	}
	return found, nil
}
