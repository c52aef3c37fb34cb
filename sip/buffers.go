package sip

// Limits of the buffers that a worker keeps for reuse. Their sizes are multiples of
// bufferStep up to maxFreeBuffer. Larger buffers, and those beyond maxFreeBytes in all,
// are left to the garbage collector. A worker without transactions keeps none.
const (
	bufferStep    = 256
	maxFreeBuffer = 4 << 10
	maxFreeBytes  = 1 << 20
)

// retainCopy copies b into old, if old is large enough and not wastefully large, else
// into a free or new buffer. Messages that transactions keep are retained here: their
// bytes count in heldBytes until releaseCopy.
func (w *worker) retainCopy(old, b []byte) []byte {
	if c := cap(old); old != nil && len(b) <= c && c <= max(2*len(b), bufferStep) {
		return append(old[:0], b...)
	}
	w.releaseCopy(old)
	size := max(len(b), 1)
	if size <= maxFreeBuffer {
		size = (size + bufferStep - 1) / bufferStep * bufferStep
		if s := &w.freeBuffers[size/bufferStep-1]; len(*s) > 0 {
			old = (*s)[len(*s)-1]
			*s = (*s)[:len(*s)-1]
			w.freeBytes -= size
			w.heldBytes += size
			return append(old[:0], b...)
		}
	}
	w.heldBytes += size
	return append(make([]byte, 0, size), b...)
}

// releaseCopy frees a buffer of retainCopy. It always returns nil.
func (w *worker) releaseCopy(b []byte) []byte {
	size := cap(b)
	w.heldBytes -= size
	if w.heldBytes == 0 {
		clear(w.freeBuffers[:])
		w.freeBytes = 0
		return nil
	}
	if 0 < size && size <= maxFreeBuffer && w.freeBytes+size <= maxFreeBytes {
		s := &w.freeBuffers[size/bufferStep-1]
		*s = append(*s, b)
		w.freeBytes += size
	}
	return nil
}
