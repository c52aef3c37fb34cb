package sip

import "hash/maphash"

// dispatch passes an indexed packet to its worker. If the queue is full, a datagram is
// dropped and counted; a stream waits.
//
// idle reports that the socket has no backlog. The worker may then handle p inline, on
// this goroutine. Messages in a backlog are queued, so that several workers share them.
func (h *Proxy) dispatch(p *packet, idle bool) {
	h.stats.received.Add(1)
	p.side = h.sideOf(p)
	w := h.workerFor(&p.msg)
	if w == nil {
		h.stats.stray.Add(1)
		p.release()
		return
	}
	in := workItem{packet: p}
	if idle && w.tryInline(in) {
		return
	}
	r := h.priorityOf(p)
	if r == fromStranger && w.shedding.Load() {
		h.stats.shed.Add(1)
		p.release()
		return
	}
	if w.enqueue(in, r) {
		return
	}
	if p.conn != nil && w.enqueueWaiting(in, r, p.conn.done) { // the sender can be made to wait
		return
	}
	h.stats.dropped.Add(1)
	p.release()
}

// workerFor returns the worker of a message. A request belongs to the worker of its
// Call-ID. A response belongs to the worker whose id is in our branch; nil if the branch
// is not ours.
func (h *Proxy) workerFor(m *message) *worker {
	n := uint64(len(h.workers))
	if m.isRequest() {
		return h.workerOfCallID(m.text(m.callID))
	}
	id, _, ok := h.openBranch(m.text(m.via.branch))
	if !ok {
		return nil
	}
	return h.workers[id%n]
}

// workerOfCallID returns the worker that handles the requests with a Call-ID.
func (h *Proxy) workerOfCallID(callID []byte) *worker {
	return h.workers[maphash.Bytes(h.hashSeed, callID)%uint64(len(h.workers))]
}

// reportFailedTx informs the worker of a client transaction that its request could not
// be sent. id 0 is none.
func (h *Proxy) reportFailedTx(id uint64) {
	if id == 0 {
		return
	}
	if !h.workers[id%uint64(len(h.workers))].enqueue(workItem{failedTx: id}, inDialog) {
		h.stats.dropped.Add(1) // Timer B or F ends the transaction
	}
}
