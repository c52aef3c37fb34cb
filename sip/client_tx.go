package sip

// clientTx is one client transaction (RFC 3261 §17.1, RFC 6026 §8). It retransmits the
// request until the next hop answers, and acknowledges failures of an INVITE.
//
//	INVITE      calling ──1xx──▶ proceeding
//	               ├──────┬──────────┤
//	             3xx‥6xx  2xx        B, C
//	               ▼      ▼          ▼
//	          completed accepted    terminated
//	others      calling ──1xx──▶ proceeding ──final──▶ completed ──K──▶ terminated
type clientTx struct {
	worker   *worker
	user     transactionUser // nil: responses are dropped
	id       uint64
	state    clientState
	invite   bool
	tooLarge bool   // the request leaves over TCP because it is too large for UDP
	cancel   bool   // the transaction is the CANCEL of the INVITE with the same id
	canceled bool   // a CANCEL was sent
	underWay bool   // counted in Stats.Transactions
	loopHash uint32 // secret part of the branch; a forged response does not have it
	nextHop  destination

	// sent is what is sent again: the request and, after a 3xx‥6xx to INVITE, its ACK. It is
	// nil after another final response.
	sent []byte

	timer           timer
	retransmitAfter instant // wait before the next retransmission: Timers A and E
	deadline        instant // Timers B and F; C while proceeding
	failoverAt      instant // handleFailure gets silent then, if there is no response; 0: never
}

// clientState is a state of the diagram at clientTx.
type clientState uint8

const (
	clientCalling    clientState = iota // request sent, no response yet
	clientProceeding                    // a provisional response was received
	clientAccepted                      // INVITE: a 2xx was received; more may follow
	clientCompleted                     // a final response was received; repetitions are absorbed
	clientTerminated
)

// transactionUser is the owner of a client transaction (RFC 3261 §5). It gets the
// responses or the failure.
type transactionUser interface {
	// handleResponse is called for each new response. Repetitions are left out, except
	// those of a 2xx to INVITE.
	handleResponse(now instant, p *packet)
	// handleFailure is called when a timeout or a transport error ends the wait for the
	// final response. The transaction then terminates, except after ringTimeout and silent.
	// After ringTimeout the user terminates it, or sends CANCEL and gets ringTimeout again
	// if no final response comes within 64*T1. After silent it goes on. In all cases the
	// user may instead start another transaction in its place: see sendToNextTarget.
	handleFailure(now instant, why failureReason)
}

// failureReason tells why a request gets no final response.
type failureReason uint8

const (
	timedOut    failureReason = iota + 1 // Timer B or F
	unreachable                          // the transport reports an error
	ringTimeout                          // Timer C, or no final response after our CANCEL
	silent                               // no response by clientTx.failoverAt, or within prober.timeout
)

// start sends the request. The timers are set before the first byte leaves, so that no
// response can come before they run.
func (c *clientTx) start(now instant) {
	c.timer.owner = c
	c.worker.addClientTx(c)
	c.underWay = true
	c.worker.proxy.stats.transactions.Add(1)
	c.retransmitAfter = t1
	c.deadline = now + timerB
	c.startRequestTimer(now)
	if !c.worker.sendMessage(c.nextHop, c.sent, c.id) {
		c.fail(now, unreachable)
	}
}

// startRequestTimer sets the timer to the next retransmission, failoverAt, the time at which
// the connection of a non-INVITE request is checked, or the deadline.
func (c *clientTx) startRequestTimer(now instant) {
	at := c.deadline
	if !c.nextHop.reliable() {
		at = min(at, now+c.retransmitAfter)
	} else if check := at - closedCheckTime; !c.invite && now < check {
		at = check
	}
	if c.failoverAt != 0 && c.state == clientCalling {
		at = min(at, c.failoverAt)
	}
	c.worker.wheel.start(&c.timer, at)
}

// restartFailover sets failoverAt to another time.
func (c *clientTx) restartFailover(now, at instant) {
	c.failoverAt = at
	c.startRequestTimer(now)
}

// handleResponse handles a response to the request.
func (c *clientTx) handleResponse(now instant, p *packet) {
	switch c.state {
	case clientCalling, clientProceeding:
		c.advanceState(now, p)
	case clientAccepted:
		if p.msg.status/100 == 2 {
			c.user.handleResponse(now, p)
		}
	case clientCompleted:
		if c.invite && p.msg.status >= 300 {
			c.worker.sendMessage(c.nextHop, c.sent, 0)
		}
	case clientTerminated:
	}
}

// advanceState handles a provisional response or the first final response. It moves the
// transaction to the next state and passes the response to the user.
func (c *clientTx) advanceState(now instant, p *packet) {
	m := &p.msg
	user := c.user // on a stream the final response terminates the transaction and clears c.user
	if request := c.sent; m.status >= 200 {
		c.sent, c.worker.composer.answeredRequest = nil, request
		defer func() { c.worker.composer.answeredRequest = c.worker.memory.releaseCopy(request) }()
	}
	switch {
	case m.status < 200:
		first := c.state == clientCalling
		c.state = clientProceeding
		if c.invite && !c.canceled && (first || m.status > 100) {
			c.deadline = now + timerC
			c.worker.wheel.start(&c.timer, c.deadline)
		}
	case c.invite && m.status < 300:
		c.state = clientAccepted
		c.worker.wheel.start(&c.timer, now+timerL)
	case c.invite:
		c.state = clientCompleted
		c.sent = c.worker.memory.retainCopy(nil, c.worker.composer.makeACK(c.worker.composer.answeredRequest, m))
		c.worker.sendMessage(c.nextHop, c.sent, 0)
		c.absorbRepetitions(now, timerD)
	default:
		c.state = clientCompleted
		c.absorbRepetitions(now, timerK)
	}
	if m.status >= 200 {
		c.markSettled()
	}
	if user != nil {
		user.handleResponse(now, p)
	}
}

// absorbRepetitions keeps the transaction for the given time, so that repetitions of the
// final response find it. On a stream there are none, and it ends at once.
func (c *clientTx) absorbRepetitions(now, long instant) {
	if c.nextHop.reliable() {
		c.terminate()
		return
	}
	c.worker.wheel.start(&c.timer, now+long)
}

// handleTimer retransmits the request, reports a timeout or ends the transaction,
// depending on the state.
func (c *clientTx) handleTimer(now instant) {
	switch c.state {
	case clientCalling, clientProceeding:
		switch {
		case c.failoverAt != 0 && c.state == clientCalling && now >= c.failoverAt:
			c.failoverAt = 0
			c.startRequestTimer(now)
			c.user.handleFailure(now, silent)
		case now < c.deadline && !c.invite && c.nextHop.flowClosed():
			c.fail(now, unreachable)
		case now < c.deadline && c.nextHop.reliable():
			c.startRequestTimer(now)
		case now < c.deadline:
			c.retransmitRequest(now)
		case c.invite && c.state == clientProceeding:
			c.fail(now, ringTimeout)
		default:
			c.fail(now, timedOut)
		}
	case clientAccepted, clientCompleted:
		c.terminate()
	case clientTerminated:
	}
}

// retransmitRequest sends the request again. Timer A doubles without bound. Timer E
// doubles up to T2, and is T2 after a provisional response.
func (c *clientTx) retransmitRequest(now instant) {
	c.retransmitAfter *= 2
	if !c.invite && (c.retransmitAfter > t2 || c.state == clientProceeding) {
		c.retransmitAfter = t2
	}
	c.startRequestTimer(now)
	if !c.worker.sendMessage(c.nextHop, c.sent, c.id) {
		c.fail(now, unreachable)
	}
}

// fail reports a failure to the user and terminates the transaction. After ringTimeout it
// does not terminate the transaction, because the user may send CANCEL and wait further.
// After a final response fail does nothing.
func (c *clientTx) fail(now instant, why failureReason) {
	if c.state != clientCalling && c.state != clientProceeding {
		return
	}
	user := c.user
	if why == ringTimeout {
		user.handleFailure(now, why)
		return
	}
	c.state = clientTerminated
	if user != nil {
		user.handleFailure(now, why)
	}
	if c.state == clientTerminated { // else the user has started another one in its place
		c.terminate()
	}
}

// markSettled takes the transaction out of Stats.Transactions.
func (c *clientTx) markSettled() {
	if c.underWay {
		c.underWay = false
		c.worker.proxy.stats.transactions.Add(-1)
	}
}

// terminate removes the transaction from the worker's table and releases its messages.
func (c *clientTx) terminate() {
	c.state = clientTerminated
	c.markSettled()
	c.worker.wheel.stop(&c.timer)
	c.worker.removeClientTx(c)
	c.sent, c.user = c.worker.memory.releaseCopy(c.sent), nil
}

// newTxID returns the next id of a client transaction. The id modulo the number of
// workers is the index of the worker.
func (w *worker) newTxID() uint64 {
	w.lastTxID++
	return (w.lastTxID*uint64(len(w.proxy.workers)) + uint64(w.index)) & (1<<48 - 1)
}

// addClientTx puts c into its table and counts its memory.
func (w *worker) addClientTx(c *clientTx) {
	w.memory.addTransaction()
	if c.cancel {
		w.cancelTxs.put(c.id, c)
		return
	}
	w.clientTxs.put(c.id, c)
}

// removeClientTx removes c, unless its id belongs to another transaction by now.
func (w *worker) removeClientTx(c *clientTx) {
	t := &w.clientTxs
	if c.cancel {
		t = &w.cancelTxs
	}
	if t.m[c.id] == c {
		t.remove(c.id)
		w.memory.removeTransaction()
	}
}

// handleResponse passes a response to its client transaction. A response without one is
// dropped (RFC 6026 §8.9, RFC 3261 §18.1.2).
func (w *worker) handleResponse(now instant, p *packet) {
	m := &p.msg
	if m.fault != nil {
		w.proxy.stats.malformed.Add(1)
		return
	}
	id, hash, _ := w.proxy.branchSalt.openBranch(m.text(m.via.branch))
	c := w.clientTxs.m[id]
	if m.isMethod("CANCEL") {
		c = w.cancelTxs.m[id]
	}
	if c == nil || c.loopHash != hash || m.isMethod("INVITE") != (c.invite) && !c.cancel {
		w.proxy.stats.stray.Add(1)
		return
	}
	c.handleResponse(now, p)
}

// handleSendFailure handles a transport error of the request of a client transaction.
func (w *worker) handleSendFailure(now instant, id uint64) {
	defer w.proxy.recoverPanic("failure")
	if c := w.clientTxs.m[id]; c != nil && w.endsTransaction(c) {
		c.fail(now, unreachable)
	}
}

// endsTransaction reports whether a transport error of the request of c ends c.
//
// An error of a stream ends it. An ICMP error ends a probe, and also a request that can be
// sent to another target. After any other ICMP error the datagram counts as lost: Timers A
// and E retransmit it, and a next hop that restarts is back before Timer B.
func (w *worker) endsTransaction(c *clientTx) bool {
	t, forwarded := c.user.(*responseContext)
	if c.nextHop.reliable() || !forwarded {
		return true
	}
	return t.canFailOver()
}
