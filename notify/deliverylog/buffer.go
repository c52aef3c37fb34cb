package deliverylog

import (
	"sync"
	"time"

	"bellhop/notify/stream"
)

const (
	maxBufferedRecords = 16 << 20               // bytes of records that wait to be written, about
	recordOverhead     = 700                    // bytes of a record beside its texts
	recordInterval     = 200 * time.Millisecond // records made within this time are written together
	recordBatchSize    = 256                    // maximum records of a batch
	maxMessageText     = 128 << 10              // bytes of a message after which no record is added to it
)

// A buffer holds records until they are taken for writing.
type buffer struct {
	wakeup chan struct{} // capacity 1: there are records

	mu      sync.Mutex
	records []*Record // those before head were taken
	head    int
	size    int // bytes of the records, see Record.size
	dropped uint64
}

// size estimates the bytes of a record.
func (r *Record) size() int { return recordOverhead + len(r.Body) + len(r.ResponseBody) }

// add adds a record. It never blocks: if the records exceed maxBufferedRecords, it drops
// the oldest.
func (b *buffer) add(r *Record) {
	b.mu.Lock()
	b.records = append(b.records, r)
	b.size += r.size()
	for b.size > maxBufferedRecords {
		b.pop()
		b.dropped++
	}
	b.mu.Unlock()
	stream.Signal(b.wakeup)
}

// pop removes and returns the oldest record; there must be one. mu is locked.
func (b *buffer) pop() *Record {
	r := b.records[b.head]
	b.records[b.head] = nil
	b.size -= r.size()
	if b.head++; b.head > 32 && b.head*2 >= len(b.records) {
		n := copy(b.records, b.records[b.head:])
		clear(b.records[n:])
		b.records, b.head = b.records[:n], 0
	}
	return r
}

// take moves records to a batch, up to recordBatchSize.
func (b *buffer) take(batch []*Record) []*Record {
	b.mu.Lock()
	defer b.mu.Unlock()
	for len(b.records) > b.head && len(batch) < recordBatchSize {
		batch = append(batch, b.pop())
	}
	return batch
}

// bufferedCount returns how many records wait to be written.
func (b *buffer) bufferedCount() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.records) - b.head
}

// countDropped counts records that will not be written.
func (b *buffer) countDropped(records int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.dropped += uint64(records)
}

// droppedCount returns how many records were dropped.
func (b *buffer) droppedCount() uint64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.dropped
}
