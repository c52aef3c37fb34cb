package schedule

import (
	"container/heap"
	"slices"
	"strings"
	"time"
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

// dispatch holds the deliveries that are due and those that back off.
//
// Endpoints take turns, and so do the subscribers of each endpoint. In each turn one
// attempt is started. An endpoint without a free slot is not in dueEndpoints, so that an
// endpoint that does not respond does not delay the others.
type dispatch struct {
	dueEndpoints fifo[*endpoint] // with a due delivery and a free slot
	backoffs     backoffHeap
	nextProbe    time.Time // when to look for open breakers to probe; zero: not scheduled
	outbox       *outbox
}

// makeDue makes d due. If a circuit breaker blocks d, d backs off until the breaker
// closes instead, and the deliveries of its queue are written to the outbox.
func (p *dispatch) makeDue(d *delivery) {
	if d.blocked() {
		p.backOff(d, byBreaker)
		p.outbox.saveQueue(d.queue)
		return
	}
	d.state, d.backoff.reason = due, noBackoff
	d.queue.subscriber.pushDue(d)
	p.enqueueSubscriber(d.queue.subscriber)
}

// backOff makes d wait until it is due, expires, or is picked as a probe. The success of
// another delivery makes d due earlier only if the reason is byBreaker and the breaker
// closes.
func (p *dispatch) backOff(d *delivery, reason backoffReason) {
	sr := d.queue.subscriber
	d.state, d.backoff.reason = backingOff, reason
	heap.Push(&p.backoffs, d.queue)
	switch {
	case sr.endpoint.open():
		p.scheduleProbe(sr.endpoint.nextProbe)
	case sr.open():
		p.scheduleProbe(sr.nextProbe)
	}
}

// endBackoff removes d from the deliveries that back off.
func (p *dispatch) endBackoff(d *delivery) { heap.Remove(&p.backoffs, d.queue.heapIndex) }

// firstBackoff returns the delivery whose backoff ends first, or nil.
func (p *dispatch) firstBackoff() *delivery {
	if len(p.backoffs) == 0 {
		return nil
	}
	return p.backoffs[0].deliveries[0]
}

// enqueueSubscriber adds sr to the due subscribers of its endpoint if it can make an
// attempt. It also adds the endpoint to the due endpoints if it can.
func (p *dispatch) enqueueSubscriber(sr *subscriber) {
	e := sr.endpoint
	if !sr.enqueued && !sr.gone && sr.hasDue() && sr.inFlight < sr.maxAttempts() {
		sr.enqueued = true
		e.dueSubscribers.push(sr)
	}
	p.enqueueEndpoint(e)
}

// enqueueEndpoint adds e to the due endpoints if it has a due subscriber and a free slot.
func (p *dispatch) enqueueEndpoint(e *endpoint) {
	if !e.enqueued && e.dueSubscribers.len() > 0 && e.inFlight < maxEndpointAttempts {
		e.enqueued = true
		p.dueEndpoints.push(e)
	}
}

// holdDue looks for due deliveries of sr that a circuit breaker now blocks, and makes
// them back off.
func (p *dispatch) holdDue(sr *subscriber) {
	for _, waiting := range [...]*fifo[*delivery]{&sr.due, &sr.dueReplays} {
		for range waiting.len() {
			if d := waiting.pop(); d.state == due {
				p.makeDue(d)
			}
		}
	}
}

// releaseHeld looks for deliveries of sr that backed off because of a circuit breaker,
// and makes those due that are no longer blocked.
func (p *dispatch) releaseHeld(sr *subscriber) {
	for _, q := range sr.queues {
		if d := q.deliveries[0]; d.state == backingOff && d.backoff.reason == byBreaker {
			p.endBackoff(d)
			p.makeDue(d)
		}
	}
}

// scheduleProbe makes RunDue look for open breakers to probe at the time at, or earlier.
func (p *dispatch) scheduleProbe(at time.Time) {
	if p.nextProbe.IsZero() || at.Before(p.nextProbe) {
		p.nextProbe = at
	}
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
