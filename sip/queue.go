package sip

import (
	"net/netip"
	"sync"
	"sync/atomic"

	"bellhop/dialog"
)

// Limits of a worker's queues, in messages and in bytes of their buffers.
//
// A tenth is reserved for requests within a dialog and for responses, so that a flood
// displaces no BYE. New requests of unknown sources have a queue of their own, which is
// served while the other is empty and may take half of the bytes.
const (
	maxQueuedItems     = 8192
	maxQueuedStrangers = 8192
	maxQueuedBytes     = 16 << 20
	maxPooledBuffer    = 4 << 10 // larger buffers do not go back to the pool
)

const (
	inDialog     priority = iota // a response, or a request of a known source within a dialog
	fromKnown                    // a new request of a known source, or an unknown source's request with a To tag
	fromStranger                 // a new request of an unknown source
)

// priority is the order of work under load. A work item with a higher value waits longer
// and is dropped first.
type priority uint8

// workItem is one unit of work: a received message, a request that could not be sent, or a
// request whose next hop has been looked up. Only one field is set.
type workItem struct {
	packet   *packet
	failedTx uint64 // id of the client transaction whose request failed
	wait     *nameWait
}

// queuedSize returns the bytes that a work item takes up in a queue, at least 1.
func (in workItem) queuedSize() int64 {
	if in.packet == nil {
		return 1
	}
	return int64(max(cap(in.packet.buf), 1))
}

// workQueue holds the work items that wait for a worker. Any goroutine adds them, and the
// worker's goroutine takes them out. bytes counts a work item until it has been handled,
// so the worker has no queued work if bytes is 0.
type workQueue struct {
	items          chan workItem
	strangers      chan workItem // new requests of unknown sources
	bytes          atomic.Int64
	blockedStreams atomic.Int32  // streams that wait for room
	roomFreed      chan struct{} // wakes one blocked stream
	backlog        chan struct{} // see [Proxy.Backlog]
}

// newWorkQueue returns an empty queue that signals its backlog on a channel.
func newWorkQueue(backlog chan struct{}) workQueue {
	return workQueue{
		items:     make(chan workItem, maxQueuedItems),
		strangers: make(chan workItem, maxQueuedStrangers),
		roomFreed: make(chan struct{}, 1),
		backlog:   backlog,
	}
}

// enqueue adds a work item to the queue of its priority, and returns false if there is
// no room.
func (q *workQueue) enqueue(in workItem, r priority) bool {
	cost := in.queuedSize()
	bytes, count := q.bytes.Add(cost), len(q.items)+len(q.strangers)
	if bytes > maxQueuedBytes/8 || count >= maxQueuedItems/8 {
		q.signalBacklog()
	}
	to, room := q.items, bytes <= maxQueuedBytes
	switch r {
	case fromKnown:
		room = bytes <= maxQueuedBytes/10*9 && len(to) < maxQueuedItems/10*9
	case fromStranger:
		to, room = q.strangers, bytes <= maxQueuedBytes/2
	}
	if room {
		select {
		case to <- in:
			return true
		default:
		}
	}
	q.bytes.Add(-cost)
	return false
}

// enqueueWaiting adds a work item to the queue as soon as there is room. It returns
// false if done is closed first.
func (q *workQueue) enqueueWaiting(in workItem, r priority, done <-chan struct{}) bool {
	q.blockedStreams.Add(1)
	defer q.blockedStreams.Add(-1)
	for !q.enqueue(in, r) {
		select {
		case <-q.roomFreed:
		case <-done:
			return false
		}
	}
	return true
}

// signalBacklog puts a value into the channel of Backlog if it is empty.
func (q *workQueue) signalBacklog() {
	select {
	case q.backlog <- struct{}{}:
	default:
	}
}

// finishItem subtracts the queuedSize of a handled work item from bytes, and wakes a
// stream that waits for room. It is called after each work item, so one stream at a time
// is enough.
func (q *workQueue) finishItem(size int64) {
	q.bytes.Add(-size)
	if q.blockedStreams.Load() == 0 {
		return
	}
	select {
	case q.roomFreed <- struct{}{}:
	default:
	}
}

// packet is a received message and its origin. Its buffer returns to packetPool when the
// worker has handled it; bytes that are kept longer must be copied.
type packet struct {
	msg        message
	buf        []byte
	listener   *listener
	conn       *stream // nil over UDP
	peer       netip.AddrPort
	local      netip.Addr // our address that the peer sent to, if the listener has several; else the zero address
	side       dialog.Side
	receivedAt instant
	endsStream bool // the stream cannot be read after this message and is closed
	overRate   bool // its source sends too many requests; it is refused

	requeued bool // a CANCEL that was moved after the new requests of unknown sources
}

var packetPool = sync.Pool{New: func() any { return new(packet) }}

// newPacket copies b into a packet from the pool.
func newPacket(b []byte) *packet {
	p := packetPool.Get().(*packet)
	p.buf = append(p.buf[:0], b...)
	return p
}

// release returns the packet to the pool, and closes the stream if the packet ends it. A
// packet with a large buffer is left to the garbage collector.
func (p *packet) release() {
	if p.endsStream {
		p.conn.closeWhenWritten()
	}
	if cap(p.buf) > maxPooledBuffer {
		return
	}
	*p = packet{buf: p.buf, msg: message{fields: p.msg.fields}}
	packetPool.Put(p)
}
