package sip

// A clientTx is one client transaction (RFC 3261 §17.1, RFC 6026 §8): towards
// the next hop it repeats the request until it is heard, and acknowledges
// failures.
//
//	INVITE      calling ──1xx──▶ proceeding
//	               ├──────┬──────────┤
//	             3xx‥6xx  2xx        B, C
//	               ▼      ▼          ▼
//	          completed accepted    gone
//	others      calling ──1xx──▶ proceeding ──final──▶ completed ──K──▶ gone
type clientTx struct {
	worker  *worker
	user    transactionUser // nil: nobody wants to hear of it
	id      uint64
	state   clientState
	nextHop destination

	invite   bool
	loopHash uint32 // loop hash in the branch: no stranger knows it
	cancel   bool   // this is the CANCEL of the INVITE with the same id
	request  []byte // as sent; nil once nothing is made from it any more
	ack      []byte // of a 3xx‥6xx to INVITE

	canceled bool // we sent CANCEL
	underWay bool // counted as under way

	timer           timer
	retransmitAfter instant // before the next retransmission: Timers A and E
	deadline        instant // Timers B and F; C while proceeding
}

type clientState uint8

const (
	clientCalling    clientState = iota // sent, nothing heard
	clientProceeding                    // a provisional response was heard
	clientAccepted                      // INVITE: a 2xx was heard; more may follow
	clientCompleted                     // a final response was heard; its repetitions are absorbed
	clientTerminated
)

// A transactionUser is told what becomes of a request it sent (RFC 3261 §5).
type transactionUser interface {
	// response is called for each response that is news: no repetition but of a 2xx to INVITE.
	handleResponse(now instant, c *clientTx, m *message, p *packet)
	// failed is called at most once, when no final response will come.
	handleFailure(now instant, c *clientTx, why failureReason)
}

// failure is why a request got no final response.
type failureReason uint8

const (
	timedOut    failureReason = iota + 1 // Timer B or F
	unreachable                          // the transport says so
	ringTimeout                          // Timer C, or silence after our CANCEL
)

// begin sends the request. The timers run before the first byte leaves, so
// that no answer is earlier than they are.
func (c *clientTx) start(now instant) {
	c.timer.owner = c
	c.worker.addClientTx(c)
	c.underWay = true
	c.worker.proxy.stats.transactions.Add(1)
	c.retransmitAfter = t1
	c.deadline = now + timerB
	if c.nextHop.reliable() {
		c.worker.wheel.start(&c.timer, c.deadline)
	} else {
		c.worker.wheel.start(&c.timer, now+c.retransmitAfter)
	}
	if !c.worker.sendMessage(c.nextHop, c.request, c.id) {
		c.fail(now, unreachable)
	}
}

// receive takes a response to the request.
func (c *clientTx) handleResponse(now instant, m *message, p *packet) {
	switch c.state {
	case clientCalling, clientProceeding:
		c.advanceState(now, m, p)
	case clientAccepted:
		if m.status/100 == 2 {
			c.user.handleResponse(now, c, m, p)
		}
	case clientCompleted:
		if c.invite && m.status >= 300 {
			c.worker.sendMessage(c.nextHop, c.ack, 0)
		}
	case clientTerminated:
	}
}

func (c *clientTx) advanceState(now instant, m *message, p *packet) {
	user := c.user // a transaction on a stream ends with its final response
	if sent := c.request; m.status >= 200 {
		c.request, c.worker.answeredRequest = nil, sent
		defer func() { c.worker.answeredRequest = c.worker.releaseCopy(sent) }()
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
		c.ack = c.worker.retainCopy(nil, c.worker.makeACK(c.worker.answeredRequest, m))
		c.worker.sendMessage(c.nextHop, c.ack, 0)
		c.absorbRepetitions(now, timerD)
	default:
		c.state = clientCompleted
		c.absorbRepetitions(now, timerK)
	}
	if m.status >= 200 {
		c.markSettled()
	}
	if user != nil {
		user.handleResponse(now, c, m, p)
	}
}

// wait keeps the transaction for that long to absorb repetitions; on a stream
// there are none.
func (c *clientTx) absorbRepetitions(now, long instant) {
	if c.nextHop.reliable() {
		c.terminate()
		return
	}
	c.worker.wheel.start(&c.timer, now+long)
}

// due does what the deadline asks for.
func (c *clientTx) handleTimer(now instant) {
	switch c.state {
	case clientCalling, clientProceeding:
		switch {
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

// again repeats the request: Timer A doubles without bound, Timer E up to T2
// and stays there once a provisional response was heard.
func (c *clientTx) retransmitRequest(now instant) {
	c.retransmitAfter *= 2
	if !c.invite && (c.retransmitAfter > t2 || c.state == clientProceeding) {
		c.retransmitAfter = t2
	}
	c.worker.wheel.start(&c.timer, min(now+c.retransmitAfter, c.deadline))
	if !c.worker.sendMessage(c.nextHop, c.request, c.id) {
		c.fail(now, unreachable)
	}
}

// fail ends the transaction without a final response.
func (c *clientTx) fail(now instant, why failureReason) {
	if c.state != clientCalling && c.state != clientProceeding {
		return
	}
	user := c.user
	if why == ringTimeout {
		// The user may send CANCEL and go on waiting: it ends the transaction.
		user.handleFailure(now, c, why)
		return
	}
	c.state = clientTerminated
	if user != nil {
		user.handleFailure(now, c, why)
	}
	c.terminate()
}

// settled counts the transaction as not under way any more.
func (c *clientTx) markSettled() {
	if c.underWay {
		c.underWay = false
		c.worker.proxy.stats.transactions.Add(-1)
	}
}

// end takes the transaction out of the worker's table.
func (c *clientTx) terminate() {
	c.state = clientTerminated
	c.markSettled()
	c.worker.wheel.stop(&c.timer)
	c.worker.removeClientTx(c)
	c.request, c.ack, c.user = c.worker.releaseCopy(c.request), c.worker.releaseCopy(c.ack), nil
}
