package sip

import (
	"slices"
	"sync"
)

// outQueue holds the bytes that wait to be written to a stream. It takes no memory while it
// is empty, because most connections are those of idle phones. Any goroutine adds messages,
// and one takes them all and writes them.
//
// Its mutex is that of one connection and is held for a copy, as the lock in a channel is.
type outQueue struct {
	mu      sync.Mutex
	waiting outBatch
	writing int  // bytes of the batch that was taken last
	writer  bool // the queue has a writer, or will get one when the stream is open
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
	id     uint64
	length int
	until  int // the message ends before this byte of the batch
}

// addResult is what has become of a message.
type addResult uint8

const (
	added      addResult = iota
	addedFirst           // and the caller must start a writer
	refused              // the queue has ended
	full                 // there is no room
)

// add appends b to the queue in the form that encode gives it. tx is the id of the client
// transaction of b, or 0.
func (q *outQueue) add(encode func(dst, b []byte) []byte, b []byte, tx uint64) addResult {
	q.mu.Lock()
	defer q.mu.Unlock()
	to := &q.waiting
	switch {
	case q.ended:
		return refused
	case len(to.b)+q.writing+len(b) > maxOutBytes:
		return full
	}
	before := len(to.b)
	to.b = encode(to.b, b)
	if tx != 0 {
		to.txs = append(to.txs, outTx{id: tx, length: len(to.b) - before, until: len(to.b)})
	}
	if q.writer {
		return added
	}
	q.writer = true
	return addedFirst
}

// end lets the writer close the stream after the messages that wait. It reports whether the
// caller must start a writer.
func (q *outQueue) end() (first bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.ended, q.waiting.end = true, true
	first, q.writer = !q.writer, true
	return first
}

// take removes and returns what waits. The batch that was taken before is written. If
// nothing waits, ok is false, and the queue has no writer any more.
func (q *outQueue) take() (batch outBatch, ok bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	batch = q.waiting
	q.waiting, q.writing = outBatch{}, len(batch.b)
	q.writer = len(batch.b) > 0 || batch.end
	return batch, q.writer
}

// withdraw removes the message of a client transaction from the queue. It returns false if
// the message is not there, because it is being written or is lost.
func (q *outQueue) withdraw(tx uint64) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	to := &q.waiting
	i := slices.IndexFunc(to.txs, func(t outTx) bool { return t.id == tx })
	if i < 0 {
		return false
	}
	end := to.txs[i].until
	start := end - to.txs[i].length
	to.b = slices.Delete(to.b, start, end)
	to.txs = slices.Delete(to.txs, i, i+1)
	for j := i; j < len(to.txs); j++ {
		to.txs[j].until -= end - start
	}
	return true
}

// abandon ends the queue and returns what waits, which nobody writes any more.
func (q *outQueue) abandon() outBatch {
	q.mu.Lock()
	defer q.mu.Unlock()
	batch := q.waiting
	q.waiting, q.ended = outBatch{}, true
	return batch
}
