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
	w     *worker
	user  transactionUser // nil: nobody wants to hear of it
	id    uint64
	state clientState
	to    way

	invite  bool
	hash    uint32 // loop hash in the branch: no stranger knows it
	cancel  bool   // this is the CANCEL of the INVITE with the same id
	request []byte // as sent; nil once nothing is made from it any more
	ack     []byte // of a 3xx‥6xx to INVITE

	canceled bool // we sent CANCEL
	pending  bool // counted as under way

	timer  timer
	pause  instant // before the next retransmission: Timers A and E
	giveUp instant // Timers B and F; C while proceeding
}

type clientState uint8

const (
	clientCalling    clientState = iota // sent, nothing heard
	clientProceeding                    // a provisional response was heard
	clientAccepted                      // INVITE: a 2xx was heard; more may follow
	clientCompleted                     // a final response was heard; its repetitions are absorbed
	clientGone
)

// A transactionUser is told what becomes of a request it sent (RFC 3261 §5).
type transactionUser interface {
	// response is called for each response that is news: no repetition but of a 2xx to INVITE.
	response(now instant, c *clientTx, m *message, p *packet)
	// failed is called at most once, when no final response will come.
	failed(now instant, c *clientTx, why failure)
}

// failure is why a request got no final response.
type failure uint8

const (
	timedOut    failure = iota + 1 // Timer B or F
	unreachable                    // the transport says so
	rangOut                        // Timer C, or silence after our CANCEL
)

// begin sends the request. The timers run before the first byte leaves, so
// that no answer is earlier than they are.
func (c *clientTx) begin(now instant) {
	c.timer.owner = c
	c.w.add(c)
	c.pending = true
	c.w.hop.stats.transactions.Add(1)
	c.pause = t1
	c.giveUp = now + timerB
	if c.to.reliable() {
		c.w.wheel.start(&c.timer, c.giveUp)
	} else {
		c.w.wheel.start(&c.timer, now+c.pause)
	}
	if !c.w.send(c.to, c.request, c.id) {
		c.fail(now, unreachable)
	}
}

// receive takes a response to the request.
func (c *clientTx) receive(now instant, m *message, p *packet) {
	switch c.state {
	case clientCalling, clientProceeding:
		c.advance(now, m, p)
	case clientAccepted:
		if m.status/100 == 2 {
			c.user.response(now, c, m, p)
		}
	case clientCompleted:
		if c.invite && m.status >= 300 {
			c.w.send(c.to, c.ack, 0)
		}
	case clientGone:
	}
}

func (c *clientTx) advance(now instant, m *message, p *packet) {
	user := c.user // a transaction on a stream ends with its final response
	if sent := c.request; m.status >= 200 {
		c.request, c.w.answered = nil, sent
		defer func() { c.w.answered = c.w.forget(sent) }()
	}
	switch {
	case m.status < 200:
		first := c.state == clientCalling
		c.state = clientProceeding
		if c.invite && !c.canceled && (first || m.status > 100) {
			c.giveUp = now + timerC
			c.w.wheel.start(&c.timer, c.giveUp)
		}
	case c.invite && m.status < 300:
		c.state = clientAccepted
		c.w.wheel.start(&c.timer, now+timerL)
	case c.invite:
		c.state = clientCompleted
		c.ack = c.w.keep(nil, c.w.ackFor(c.w.answered, m))
		c.w.send(c.to, c.ack, 0)
		c.wait(now, timerD)
	default:
		c.state = clientCompleted
		c.wait(now, timerK)
	}
	if m.status >= 200 {
		c.settled()
	}
	if user != nil {
		user.response(now, c, m, p)
	}
}

// wait keeps the transaction for that long to absorb repetitions; on a stream
// there are none.
func (c *clientTx) wait(now, long instant) {
	if c.to.reliable() {
		c.end()
		return
	}
	c.w.wheel.start(&c.timer, now+long)
}

// due does what the deadline asks for.
func (c *clientTx) due(now instant) {
	switch c.state {
	case clientCalling, clientProceeding:
		switch {
		case now < c.giveUp:
			c.again(now)
		case c.invite && c.state == clientProceeding:
			c.fail(now, rangOut)
		default:
			c.fail(now, timedOut)
		}
	case clientAccepted, clientCompleted:
		c.end()
	case clientGone:
	}
}

// again repeats the request: Timer A doubles without bound, Timer E up to T2
// and stays there once a provisional response was heard.
func (c *clientTx) again(now instant) {
	c.pause *= 2
	if !c.invite && (c.pause > t2 || c.state == clientProceeding) {
		c.pause = t2
	}
	c.w.wheel.start(&c.timer, min(now+c.pause, c.giveUp))
	if !c.w.send(c.to, c.request, c.id) {
		c.fail(now, unreachable)
	}
}

// fail ends the transaction without a final response.
func (c *clientTx) fail(now instant, why failure) {
	if c.state != clientCalling && c.state != clientProceeding {
		return
	}
	user := c.user
	if why == rangOut {
		// The user may send CANCEL and go on waiting: it ends the transaction.
		user.failed(now, c, why)
		return
	}
	c.state = clientGone
	if user != nil {
		user.failed(now, c, why)
	}
	c.end()
}

// settled counts the transaction as not under way any more.
func (c *clientTx) settled() {
	if c.pending {
		c.pending = false
		c.w.hop.stats.transactions.Add(-1)
	}
}

// end takes the transaction out of the worker's table.
func (c *clientTx) end() {
	c.state = clientGone
	c.settled()
	c.w.wheel.stop(&c.timer)
	c.w.remove(c)
	c.request, c.ack, c.user = c.w.forget(c.request), c.w.forget(c.ack), nil
}
