package schedule

import (
	"slices"
	"strings"
)

// A queue holds the deliveries of one subscription and one call, in order. Only the first
// is attempted. The replayed events of a call have a queue of their own, whose deliveries
// are attempted when no other delivery of the subscription is due.
type queue struct {
	queueKey
	subscriber *subscriber
	deliveries []*delivery
	heapIndex  int // in backoffHeap; -1: not in it
}

// A queueKey identifies a queue among those of its subscriber.
type queueKey struct {
	order   string // [dialog.Event.OrderKey] of its events
	replays bool   // its events are replayed
}

// replayPrefix begins the stored name of a queue of replayed events.
const replayPrefix = "replay "

// storedName returns the name of the queue in the outbox. Never change its format.
func (k queueKey) storedName() string {
	if k.replays {
		return replayPrefix + k.order
	}
	return k.order
}

// restoreQueueKey is the inverse of storedName. The name alone does not tell whether the
// queue is of replayed events, because a user may be called "replay x".
func restoreQueueKey(name string, replays bool) queueKey {
	if replays {
		name = strings.TrimPrefix(name, replayPrefix)
	}
	return queueKey{name, replays}
}

// remove removes d from q, and reports whether d was the first.
func (q *queue) remove(d *delivery) (first bool) {
	if q.deliveries[0] == d {
		q.deliveries[0] = nil
		q.deliveries = q.deliveries[1:]
		return true
	}
	q.deliveries = slices.DeleteFunc(q.deliveries, func(other *delivery) bool { return other == d })
	return false
}

// fifo is a queue. The zero value is empty.
type fifo[T any] struct {
	items []T
	head  int
}

func (f *fifo[T]) len() int   { return len(f.items) - f.head }
func (f *fifo[T]) at(i int) T { return f.items[f.head+i] }
func (f *fifo[T]) push(x T)   { f.items = append(f.items, x) }

// pop removes and returns the first item; there must be one.
func (f *fifo[T]) pop() T {
	var zero T
	x := f.items[f.head]
	f.items[f.head] = zero
	f.head++
	if f.head > 32 && f.head*2 >= len(f.items) {
		n := copy(f.items, f.items[f.head:])
		clear(f.items[n:])
		f.items, f.head = f.items[:n], 0
	} else if f.head == len(f.items) {
		f.items, f.head = f.items[:0], 0
	}
	return x
}
