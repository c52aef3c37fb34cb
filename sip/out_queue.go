package sip

import "sync"

// outQueue holds the bytes that wait to be written to a stream. It takes no memory while it
// is empty, because most connections are those of idle phones. Any goroutine adds messages;
// one takes them all and writes them.
//
// Its mutex is that of one connection and is held for a copy, as the lock in a channel is.
type outQueue struct {
	ready chan struct{} // has a value after a message was added, or after end

	mu      sync.Mutex
	waiting outBatch
	writing int  // bytes of the batch that was taken last
	ended   bool // nothing more is added
}

// outBatch is messages that are written together. Each is as the stream carries it.
type outBatch struct {
	b   []byte
	txs []outTx
	end bool // the stream is closed after them
}

// outTx is the client transaction of a message in an outBatch, which is informed if the
// message cannot be written.
type outTx struct {
	id    uint64
	until int // the message ends before this byte of the batch
}

// newOutQueue returns an empty queue.
func newOutQueue() outQueue { return outQueue{ready: make(chan struct{}, 1)} }

// add appends b to the queue in the form that encode gives it. If added is false, the
// queue has ended, or it has no room and fits is false. tx is the id of the client
// transaction of b, or 0.
func (q *outQueue) add(encode func(dst, b []byte) []byte, b []byte, tx uint64) (added, fits bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	switch to := &q.waiting; {
	case q.ended:
		return false, true
	case len(to.b)+q.writing+len(b) > maxOutBytes:
		return false, false
	default:
		to.b = encode(to.b, b)
		if tx != 0 {
			to.txs = append(to.txs, outTx{tx, len(to.b)})
		}
		q.wake()
		return true, true
	}
}

// end lets the writer close the stream after the messages that wait.
func (q *outQueue) end() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.ended, q.waiting.end = true, true
	q.wake()
}

// wake informs the writer that there is something to take. The caller holds mu.
func (q *outQueue) wake() {
	select {
	case q.ready <- struct{}{}:
	default:
	}
}

// take removes and returns the messages that wait. The batch that was taken before is
// written.
func (q *outQueue) take() outBatch {
	q.mu.Lock()
	defer q.mu.Unlock()
	batch := q.waiting
	q.waiting, q.writing = outBatch{}, len(batch.b)
	return batch
}

// abandon ends the queue and returns the messages that wait, which nobody writes any more.
func (q *outQueue) abandon() outBatch {
	q.mu.Lock()
	q.ended = true
	q.mu.Unlock()
	return q.take()
}
