package sip

import "hash/maphash"

// dispatch passes an indexed packet to its worker. If the queue is full, a datagram is
// dropped and counted, and a stream waits for room. A response whose branch is not ours
// is dropped, and so is a new request of an unknown source while the worker sheds. Package
// guard drops requests of sources that send too many. A stream of a banned source is
// closed; it may have been accepted, but not in the table yet, when the ban began.
//
// idle reports that the socket has no backlog. The worker may then handle p inline, on
// this goroutine. Messages in a backlog are queued, so that several workers share them.
func (px *Proxy) dispatch(p *packet, idle bool) {
	px.stats.received.Add(1)
	if p.conn != nil && px.dropsBanned(p.listener, p.conn, p.peer.Addr(), p.receivedAt) {
		p.conn.close()
		p.release()
		return
	}
	p.side = px.peers.sideOf(p)
	if px.guardDrops(p) {
		p.release()
		return
	}
	if p.conn != nil {
		px.noteAlias(p)
	}
	w := px.workerFor(&p.msg)
	if w == nil {
		px.stats.stray.Add(1)
		p.release()
		return
	}
	in := workItem{packet: p}
	if idle && w.tryInline(in) {
		return
	}
	r := px.sources.priorityOf(p)
	if r == fromStranger && w.shedding.Load() {
		px.stats.shed.Add(1)
		p.release()
		return
	}
	if w.queue.enqueue(in, r) {
		return
	}
	if p.conn != nil && w.queue.enqueueWaiting(in, r, p.conn.done) { // the sender can be made to wait
		return
	}
	px.stats.dropped.Add(1)
	p.release()
}

// tryInline handles a work item on the goroutine of the caller. It never waits: it
// returns false if the worker has queued work or is busy.
func (w *worker) tryInline(in workItem) bool {
	if w.queue.bytes.Load() > 0 || !w.mu.TryLock() {
		return false
	}
	defer w.mu.Unlock()
	w.handleItem(in)
	w.resetTimer()
	return true
}

// handleQueued handles a work item from a queue.
func (w *worker) handleQueued(in workItem) {
	cost := in.queuedSize()
	w.mu.Lock()
	w.handleItem(in)
	w.resetTimer()
	w.mu.Unlock()
	w.queue.finishItem(cost)
}

// handleItem handles a work item. The caller holds mu.
func (w *worker) handleItem(in workItem) {
	now := w.now()
	if w.wheel.count == 0 {
		w.wheel.advance(now)
	}
	if in.packet == nil {
		w.handleSendFailure(now, in.failedTx)
		return
	}
	w.handleMessage(now, in.packet)
	w.updateShedding(now)
}

// handleMessage handles one message and releases its packet. A panic is logged and costs
// this message only.
func (w *worker) handleMessage(now instant, p *packet) {
	defer p.release()
	defer w.proxy.recoverPanic("message")
	if p.msg.isRequest() {
		w.handleRequest(now, p)
	} else {
		w.handleResponse(now, p)
	}
}

// workerFor returns the worker of a message. A request belongs to the worker of its
// Call-ID. A response belongs to the worker that made the transaction id in its branch.
// workerFor returns nil for a response if this process did not make its branch.
func (px *Proxy) workerFor(m *message) *worker {
	n := uint64(len(px.workers))
	if m.isRequest() {
		return px.workerOfCallID(m.text(m.callID))
	}
	id, _, ok := px.branchSalt.openBranch(m.text(m.via.branch))
	if !ok {
		return nil
	}
	return px.workers[id%n]
}

// workerOfCallID returns the worker that handles the requests with a Call-ID.
func (px *Proxy) workerOfCallID(callID []byte) *worker {
	return px.workers[maphash.Bytes(px.hashSeed, callID)%uint64(len(px.workers))]
}

// reportFailedTx informs the worker of a client transaction that its request could not
// be sent. It does nothing if id is 0.
func (px *Proxy) reportFailedTx(id uint64) {
	if id == 0 {
		return
	}
	if !px.workers[id%uint64(len(px.workers))].queue.enqueue(workItem{failedTx: id}, inDialog) {
		px.stats.dropped.Add(1) // Timer B or F ends the transaction
	}
}
