package sip

// maxHeldPerWorker is the number of bytes that the transactions of each worker may hold.
// If there is only one worker, its transactions may hold twice as many. The number is the
// memory of 2,500 calls a second on each processor. See [worker.admitRequest].
const maxHeldPerWorker = 96 << 20

// transactionSize is about the bytes that a server or client transaction takes up,
// without the messages it retains.
const transactionSize = 384

// Limits of the buffers that are kept for reuse. Their sizes are multiples of bufferStep
// up to maxFreeBuffer. Larger buffers, and those beyond maxFreeBytes in all, are left to
// the garbage collector.
const (
	bufferStep    = 256
	maxFreeBuffer = 4 << 10
	maxFreeBytes  = 1 << 20
)

// txMemory is the memory of a worker's transactions: the messages that they retain, and
// released buffers for reuse. heldBytes is the size of all transactions and all retained
// messages. If the last message is released and no transaction is left, the buffers for
// reuse are freed.
type txMemory struct {
	heldBytes    int
	maxHeldBytes int                                  // limit of heldBytes
	freeBuffers  [maxFreeBuffer / bufferStep][][]byte // by size
	freeBytes    int                                  // bytes of freeBuffers
}

// addTransaction counts a transaction that begins.
func (t *txMemory) addTransaction() { t.heldBytes += transactionSize }

// removeTransaction uncounts a transaction that ends.
func (t *txMemory) removeTransaction() { t.heldBytes -= transactionSize }

// retainCopy returns a copy of b, which counts as held until releaseCopy. It reuses old,
// a buffer of an earlier retainCopy or nil, if its size fits. Otherwise it releases old
// and takes a free or new buffer.
func (t *txMemory) retainCopy(old, b []byte) []byte {
	if c := cap(old); old != nil && len(b) <= c && c <= max(2*len(b), bufferStep) {
		return append(old[:0], b...)
	}
	t.releaseCopy(old)
	size := max(len(b), 1)
	if size <= maxFreeBuffer {
		size = (size + bufferStep - 1) / bufferStep * bufferStep
		if s := &t.freeBuffers[size/bufferStep-1]; len(*s) > 0 {
			old = (*s)[len(*s)-1]
			*s = (*s)[:len(*s)-1]
			t.freeBytes -= size
			t.heldBytes += size
			return append(old[:0], b...)
		}
	}
	t.heldBytes += size
	return append(make([]byte, 0, size), b...)
}

// releaseCopy frees a buffer of retainCopy. It always returns nil.
func (t *txMemory) releaseCopy(b []byte) []byte {
	size := cap(b)
	t.heldBytes -= size
	if t.heldBytes == 0 {
		clear(t.freeBuffers[:])
		t.freeBytes = 0
		return nil
	}
	if 0 < size && size <= maxFreeBuffer && t.freeBytes+size <= maxFreeBytes {
		s := &t.freeBuffers[size/bufferStep-1]
		*s = append(*s, b)
		t.freeBytes += size
	}
	return nil
}
