package sip

// A serverTx is one server transaction (RFC 3261 §17.2, RFC 6026 §8): towards
// whoever sent the request it absorbs retransmissions and repeats responses.
//
//	INVITE      proceeding ──2xx──▶ accepted ──L──▶ gone
//	                │
//	                └───3xx‥6xx──▶ completed ──ACK──▶ confirmed ──I──▶ gone
//	                                   └──H──▶ gone
//	others      proceeding ──final─▶ completed ──J──▶ gone
type serverTx struct {
	worker   *worker
	key      serverKey
	state    serverState
	upstream destination

	invite       bool
	lastResponse []byte // latest response that a retransmitted request is answered with
	creditBytes  int    // bytes that came, less those that were sent back
	repeated2xx  uint8  // repetitions of a 2xx that were sent
	sent1xx      bool   // a 1xx was sent: the client repeats its INVITE no more

	timer           timer
	retransmitAfter instant // before the next retransmission of last: Timer G
	ackDeadline     instant // Timer H
	context         *responseContext
}

type serverState uint8

const (
	serverProceeding serverState = iota // nothing final was sent
	serverAccepted                      // INVITE: a 2xx was sent; the UAS repeats it, not we
	serverCompleted                     // a final response was sent; INVITE: not yet acknowledged
	serverConfirmed                     // INVITE: acknowledged; further ACKs are absorbed
	serverTerminated
)

// begin enters the transaction into the worker's table. size is that of the
// request.
func (s *serverTx) start(w *worker, key serverKey, back destination, invite bool, size int) {
	s.worker, s.key, s.upstream, s.invite, s.creditBytes = w, key, back, invite, size
	s.timer.owner = s
	w.serverTxs.put(key, s)
	w.heldBytes += transactionSize
}

// repeated answers a retransmission of the request.
func (s *serverTx) handleRetransmission(p *packet) {
	s.creditBytes += len(p.buf)
	switch s.state {
	case serverProceeding, serverCompleted:
		if s.lastResponse != nil {
			s.sendWithinCredit(s.lastResponse, false)
		}
	case serverAccepted, serverConfirmed, serverTerminated:
		// The 2xx is the UAS's to repeat; after an ACK nothing is asked for.
	}
}

// respond sends a response and takes the state it brings. b is only used
// during the call.
func (s *serverTx) sendResponse(now instant, status int, b []byte) {
	owed := s.state == serverProceeding && status > 100 && (status < 300 || s.sent1xx)
	switch {
	case s.state == serverAccepted && status/100 == 2:
		// Another 2xx of a forked INVITE, or the same again: the first ones may
		// have been lost.
		if owed = s.repeated2xx < maxRepeated2xx; owed {
			s.repeated2xx++
		}
	case s.state != serverProceeding:
		return
	case status < 200:
		s.retainResponse(b)
	case s.invite && status < 300:
		s.state = serverAccepted
		s.lastResponse = s.worker.releaseCopy(s.lastResponse)
		s.worker.wheel.start(&s.timer, now+timerL)
	case s.invite:
		s.state = serverCompleted
		s.retainResponse(b)
		s.ackDeadline = now + timerH
		s.retransmitAfter = t1
		if s.upstream.reliable() {
			s.worker.wheel.start(&s.timer, s.ackDeadline)
		} else {
			s.worker.wheel.start(&s.timer, now+s.retransmitAfter)
		}
	case s.upstream.reliable():
		s.terminate()
	default:
		s.state = serverCompleted
		s.retainResponse(b)
		s.worker.wheel.start(&s.timer, now+timerJ)
	}
	s.sendWithinCredit(b, owed)
}

func (s *serverTx) retainResponse(b []byte) { s.lastResponse = s.worker.retainCopy(s.lastResponse, b) }

// maxTwos is how many times the PBX may repeat a 2xx to a source that has not
// proved to be there. It took the call, and a 2xx that is lost ends it; all
// eleven of RFC 3261 §13.3.1.4 would be a reflection.
const maxRepeated2xx = 2

// send sends a response. An INVITE with a forged source must not bring more bytes
// there than it had: until the source has proved to be there, all responses
// together are no larger than the INVITE and its repetitions, and a failure that is
// larger waits for the next repetition of the INVITE. An owed response is sent all
// the same, once: a 1xx or 2xx, because the PBX has taken the call, and what follows
// a 1xx, because no repetition of the INVITE will come.
func (s *serverTx) sendWithinCredit(b []byte, owed bool) {
	if s.invite && !owed && s.creditBytes < len(b) && !s.worker.isProven(s.upstream) {
		s.worker.proxy.stats.withheld.Add(1)
		return
	}
	s.sent1xx = s.sent1xx || s.state == serverProceeding
	s.creditBytes -= len(b)
	s.worker.sendMessage(s.upstream, b, 0)
}

// acknowledged takes the ACK of a final response other than 2xx and reports
// whether the ACK was for this transaction: one of a 2xx is not.
func (s *serverTx) handleACK(now instant) bool {
	switch s.state {
	case serverCompleted:
		s.state = serverConfirmed
		s.lastResponse = s.worker.releaseCopy(s.lastResponse)
		if s.upstream.reliable() {
			s.terminate()
		} else {
			s.worker.wheel.start(&s.timer, now+timerI)
		}
		return true
	case serverConfirmed, serverProceeding:
		return true
	case serverAccepted, serverTerminated:
	}
	return false
}

// due does what the deadline asks for.
func (s *serverTx) handleTimer(now instant) {
	switch s.state {
	case serverProceeding:
		s.context.sendTrying()
	case serverCompleted:
		if !s.invite || now >= s.ackDeadline {
			s.terminate()
			return
		}
		s.sendWithinCredit(s.lastResponse, false)
		s.retransmitAfter = min(2*s.retransmitAfter, t2)
		s.worker.wheel.start(&s.timer, min(now+s.retransmitAfter, s.ackDeadline))
	case serverAccepted, serverConfirmed:
		s.terminate()
	case serverTerminated:
	}
}

// end takes the transaction out of the worker's table.
func (s *serverTx) terminate() {
	if s.state == serverTerminated {
		return
	}
	s.state = serverTerminated
	s.worker.wheel.stop(&s.timer)
	s.worker.serverTxs.remove(s.key)
	s.worker.heldBytes -= transactionSize
	s.lastResponse, s.context = s.worker.releaseCopy(s.lastResponse), nil
}
