package sip

import (
	"hash/maphash"
	"slices"
	"strings"

	"bellhop/dialog/siptext"
)

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
	switch {
	case in.wait != nil:
		in.wait.handleAnswer(now)
		return
	case in.packet == nil:
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

// handleRequest handles a request: a retransmission, an ACK, a CANCEL, or a new request
// to forward.
func (w *worker) handleRequest(now instant, p *packet) {
	m := &p.msg
	if m.fault != nil {
		w.proxy.stats.malformed.Add(1)
		w.refuseRequest(p, m.fault, "")
		return
	}
	key := w.makeServerKey(m, m.methodName())
	if s := w.serverTxs.m[key]; s != nil {
		if !m.isMethod("ACK") {
			s.handleRetransmission(p)
			return
		}
		w.proveByACK(now, s, p)
		if t := s.context; s.handleACK(now) {
			if t.dst == 0 {
				return // the INVITE was refused while it waited, and not observed
			}
			w.observer.observe(p, &routeDecision{dst: t.dst, nextHop: t.client.nextHop}, t.trunk)
			return
		}
	} else if !m.isMethod("CANCEL") && w.dropsFollowUp(now, p) {
		return
	}
	switch {
	case m.isMethod("ACK"):
		w.forwardACK(now, p)
	case m.isMethod("CANCEL"):
		w.handleCancel(now, p, key)
	default:
		if f, ok := w.admitRequest(now, p); !ok {
			if f != nil {
				w.refuseRequest(p, f, retryAfter)
			}
			return
		}
		w.forwardRequest(now, p, key)
	}
}

// forwardRequest forwards a new request (RFC 3261 §16.3–16.6), or answers it itself.
func (w *worker) forwardRequest(now instant, p *packet, key serverKey) {
	m := &p.msg
	if m.isMethod("OPTIONS") && p.listener.serves(p.side) && w.proxy.listeners.areAskedBy(m) {
		w.answerOptions(p)
		return
	}
	if f, extra := w.checkRequest(m); f != nil {
		w.refuseRequest(p, f, extra)
		return
	}
	hash := w.loopHash(m)
	if w.proxy.branchSalt.isLoop(m, hash) {
		w.refuseRequest(p, loopDetected, "")
		return
	}
	r, f := w.router.routeRequest(p)
	if f == lookupNeeded {
		if r, f = w.lookUpName(now, p, &r, key, hash); f == lookupNeeded {
			return
		}
	}
	if f != nil {
		w.refuseTowards(p, r.dst, f, "")
		return
	}
	if f := w.proxy.limitCalls(now, p, &r); f != nil {
		w.refuseTowards(p, r.dst, f, trunkRetryAfter)
		return
	}
	w.forwardRouted(now, w.newContext(now, p, key), p, &r, hash)
}

// newContext starts the server transaction of the request of p.
func (w *worker) newContext(now instant, p *packet, key serverKey) *responseContext {
	m := &p.msg
	t := &responseContext{worker: w, src: p.side, hasCredentials: m.hasField(hAuthorization), inDialog: !m.initial()}
	t.server.context = t
	t.server.start(w, key, p.responseDestination(), m.isMethod("INVITE"), len(p.buf))
	if w.proxy.cfg.Observations != nil {
		t.branch = string(m.text(m.via.branch))
	}
	if t.server.invite {
		w.wheel.start(&t.server.timer, now+tryingDelay)
	}
	return t
}

// forwardRouted sends the request of p to its next hop. t is its context, and hash its loop
// hash.
func (w *worker) forwardRouted(now instant, t *responseContext, p *packet, r *routeDecision, hash uint32) {
	m := &p.msg
	t.dst, t.trunk, t.flowGone = r.dst, w.proxy.peers.trunkName(p, r), r.flowGone
	t.hasOurPath = w.proxy.cfg.Register == RegisterPath && r.dst == pbxSide && m.isMethod("REGISTER") && m.makesBinding()
	if p.side == edgeSide && r.dst == pbxSide && m.isMethod("REGISTER") {
		t.registration = &registration{r.edgeFlow, r.byURI, p.receivedAt}
	}
	t.startFailover(p, r, hash)
	w.observer.observe(p, r, t.trunk)
	w.sendRequest(now, t, p, r, hash)
}

// checkRequest validates a new request (RFC 3261 §16.3). A request with a fault is refused;
// extra holds header field lines of the response.
func (w *worker) checkRequest(m *message) (f *fault, extra string) {
	if m.maxForwards == 0 {
		return &fault{483, "Too Many Hops"}, ""
	}
	if tags := unsupportedTags(m); tags != "" {
		return &fault{420, "Bad Extension"}, "Unsupported: " + tags + "\r\n"
	}
	if w.proxy.draining.Load() && m.initial() && m.isMethod("INVITE") {
		return goingDown, retryAfter
	}
	return nil, ""
}

// unsupportedTags lists every option tag of Proxy-Require, because the proxy supports
// none (RFC 3261 §16.3 item 5). It returns "" if there is no tag.
func unsupportedTags(m *message) string {
	var tags []string
	for i := range m.fields {
		if f := &m.fields[i]; f.name == hProxyRequire {
			tags = slices.AppendSeq(tags, siptext.List(string(m.text(f.value))))
		}
	}
	return strings.Join(tags, ", ")
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
