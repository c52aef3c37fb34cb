package notify

import (
	"context"
	"encoding/json"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/nats-io/nats.go"

	"bellhop/dialog"
)

// shelved is how many leaves are kept: as many events as maxRecent, some 4 MB.
const shelved = maxRecent / partSize

// A leaf is what the log has at partSize places in a row, the first of which is a
// multiple of that, and one.
type leaf struct {
	entries []entry
	next    uint64 // where the log goes on; 0: it did not yet
}

// A shelf keeps the leaves last read. What the log has does not change, but that
// it grows old.
type shelf struct{ leaves *lru.Cache[uint64, leaf] } // by their first places

func newShelf() shelf {
	leaves, err := lru.New[uint64, leaf](shelved)
	if err != nil {
		panic(err) // a size below 1
	}
	return shelf{leaves}
}

// leaf returns the leaf that has a place, or of it what begins there and has so
// many events. Only whole leaves are kept: who follows the log by small pages
// reads no event twice.
func (n *Notifier) leaf(ctx context.Context, place uint64, most int) (l leaf, err error) {
	first := place - (place-1)%partSize
	if l, ok := n.shelf.leaves.Get(first); ok {
		return l, nil
	}
	if err := n.tails.begin(ctx); err != nil {
		return l, err
	}
	defer n.tails.end()
	if l, ok := n.shelf.leaves.Get(first); ok { // somebody else's turn
		return l, nil
	}
	p := part{Seq: place, Batch: most}
	if most >= partSize/4 { // all of it costs little more
		p = part{Seq: first, Batch: partSize}
	}
	last := first + partSize - 1
	came := 0
	var wrong error
	err = n.ask(ctx, p, func(seq uint64, m *nats.Msg) bool {
		if came++; seq > last {
			l.next = seq
			return false
		}
		e := entry{seq, new(dialog.Event)}
		if wrong = json.Unmarshal(m.Data, e.event); wrong != nil {
			return false
		}
		l.entries = append(l.entries, e)
		if seq == last || came == p.Batch {
			l.next = seq + 1
		}
		return true
	})
	switch {
	case err != nil:
		return leaf{}, err
	case wrong != nil:
		return leaf{}, wrong
	case p.Seq == first && l.next > last:
		n.shelf.leaves.Add(first, l)
	}
	return l, nil
}

// leafThrough finds what q asks for by reading the log leaf by leaf, from a place
// on: so many events at most.
func (n *Notifier) leafThrough(ctx context.Context, place uint64, q Query, most int) (found []entry, err error) {
	oldest := time.Now().Add(-n.config.keepEvents())
	for place > 0 {
		l, err := n.leaf(ctx, place, most-len(found))
		if err != nil {
			return nil, err
		}
		for _, e := range l.entries {
			if e.seq < place || e.event.At.Before(oldest) || !q.matches(e.event) {
				continue
			}
			if found = append(found, e); len(found) == most {
				return found, nil
			}
		}
		place = l.next
	}
	return found, nil
}
