package sip

import "crypto/sha256"

// serverTx is one server transaction (RFC 3261 §17.2, RFC 6026 §8). It absorbs
// retransmissions of the request and repeats the response.
//
//	INVITE      proceeding ──2xx──▶ accepted ──L──▶ terminated
//	                │
//	                └───3xx‥6xx──▶ completed ──ACK──▶ confirmed ──I──▶ terminated
//	                                   └──H──▶ terminated
//	others      proceeding ──final─▶ completed ──J──▶ terminated
type serverTx struct {
	worker      *worker
	key         serverKey
	state       serverState
	invite      bool
	sent1xx     bool  // a 1xx was sent: the client stops retransmitting its INVITE
	repeated2xx uint8 // repetitions of a 2xx that were sent
	upstream    destination

	lastResponse []byte // answers a retransmitted request; nil: none is sent
	creditBytes  int    // bytes received less bytes sent back, see sendWithinCredit

	timer           timer
	retransmitAfter instant // wait before the next retransmission of lastResponse: Timer G
	ackDeadline     instant // Timer H
	context         *responseContext
}

// serverState is a state of the diagram at serverTx.
type serverState uint8

const (
	serverProceeding serverState = iota // no final response was sent
	serverAccepted                      // INVITE: a 2xx was sent; the UAS repeats it, not the proxy
	serverCompleted                     // a final response was sent; INVITE: a 3xx‥6xx without ACK so far
	serverConfirmed                     // INVITE: the ACK has come; further ACKs are absorbed
	serverTerminated
)

// start puts the transaction into the worker's table. size is the size of the request in
// bytes.
func (s *serverTx) start(w *worker, key serverKey, upstream destination, invite bool, size int) {
	s.worker, s.key, s.upstream, s.invite, s.creditBytes = w, key, upstream, invite, size
	s.timer.owner = s
	w.serverTxs.put(key, s)
	w.memory.addTransaction()
}

// handleRetransmission answers a retransmission of the request.
func (s *serverTx) handleRetransmission(p *packet) {
	s.creditBytes += len(p.buf)
	switch s.state {
	case serverProceeding, serverCompleted:
		if s.lastResponse != nil {
			s.sendWithinCredit(s.lastResponse, false)
		}
	case serverAccepted, serverConfirmed, serverTerminated:
		// The UAS repeats a 2xx; after the ACK no response is due.
	}
}

// takesResponse reports whether sendResponse sends a response with a status. After a final
// response it sends only a 2xx to an INVITE, because nobody but the caller can end the call
// that the 2xx begins (RFC 3261 §16.7 item 5).
func (s *serverTx) takesResponse(status int) bool {
	return s.state == serverProceeding || s.invite && status/100 == 2
}

// sendResponse sends the response b if the transaction takes it, and moves the transaction
// to the next state. It copies b if b may be sent again.
func (s *serverTx) sendResponse(now instant, status int, b []byte) {
	owed := s.state == serverProceeding && status > 100 && (status < 300 || s.sent1xx)
	switch {
	case !s.takesResponse(status):
		return
	case s.state != serverProceeding:
		// A 2xx of another fork, or a repetition, because the first may have been lost.
		if owed = s.repeated2xx < maxRepeated2xx; owed {
			s.repeated2xx++
		}
	case status < 200:
		s.retainResponse(b)
	case s.invite && status < 300:
		s.state = serverAccepted
		s.lastResponse = s.worker.memory.releaseCopy(s.lastResponse)
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

func (s *serverTx) retainResponse(b []byte) {
	s.lastResponse = s.worker.memory.retainCopy(s.lastResponse, b)
}

// maxRepeated2xx is the number of repetitions of a 2xx that are sent to a source that has
// neither proved its address nor enough credit (see sendWithinCredit). With one 2xx
// alone, its loss would end the call. All eleven repetitions of RFC 3261 §13.3.1.4 would
// amplify a reflection.
const maxRepeated2xx = 2

// sendWithinCredit sends the response b, unless the source of the INVITE may be forged
// and has no credit left.
//
// A source that has not proved its address gets b only if all responses to the INVITE
// together are then no larger than the INVITE and its retransmissions. A response that is
// withheld may be sent after a retransmission, which raises the credit. An owed response
// is sent in any case. The first 1xx or 2xx is owed, because the PBX has taken the call.
// The final response after a 1xx is owed, because the client no longer retransmits its
// INVITE. A response to a request other than INVITE is always sent.
func (s *serverTx) sendWithinCredit(b []byte, owed bool) {
	if s.invite && !owed && s.creditBytes < len(b) && !s.worker.proxy.sources.isProven(s.worker.now(), s.upstream) {
		s.worker.proxy.stats.withheld.Add(1)
		return
	}
	s.sent1xx = s.sent1xx || s.state == serverProceeding
	s.creditBytes -= len(b)
	s.worker.sendMessage(s.upstream, b, 0)
}

// handleACK handles an ACK with the transaction's branch, and reports whether the
// transaction absorbs it. The ACK of a 2xx is not absorbed, because it goes to the UAS.
func (s *serverTx) handleACK(now instant) bool {
	switch s.state {
	case serverCompleted:
		s.state = serverConfirmed
		s.lastResponse = s.worker.memory.releaseCopy(s.lastResponse)
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

// handleTimer sends 100, retransmits the final response or ends the transaction,
// depending on the state.
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

// terminate removes the transaction from the worker's table and releases its response.
func (s *serverTx) terminate() {
	if s.state == serverTerminated {
		return
	}
	s.state = serverTerminated
	s.worker.wheel.stop(&s.timer)
	s.worker.serverTxs.remove(s.key)
	s.worker.memory.removeTransaction()
	s.lastResponse, s.context = s.worker.memory.releaseCopy(s.lastResponse), nil
}

// serverKey identifies a server transaction: 128 bits of a SHA-256 over a secret of the
// process and the fields that RFC 3261 §17.2.3 compares. Its size does not depend on the
// request. To find two requests with the same key takes about 2^64 tries against this
// process.
type serverKey [16]byte

// makeServerKey returns the key of a server transaction in the worker's table. For the
// transaction of m itself, method is the method of m; an ACK gets the key of its INVITE.
// For the INVITE that the CANCEL m cancels, method is INVITE.
func (w *worker) makeServerKey(m *message, method []byte) serverKey {
	k := append(w.keyBuf[:0], w.proxy.serverKeySecret[:]...)
	if m.via.hasCookie(m.b) {
		k = append(k, m.text(m.via.branch)...)
		k = append(k, 0)
		k = append(k, m.text(m.via.host)...)
		k = append(k, byte(m.via.port>>8), byte(m.via.port))
	} else {
		k = append(k, m.text(m.via.value)...)
		k = append(k, 0)
		k = append(k, m.text(m.uri)...)
		k = append(k, 0)
		k = append(k, m.text(m.callID)...)
		k = append(k, 0)
		k = append(k, m.text(m.fromTag)...)
		k = append(k, byte(m.cseq>>24), byte(m.cseq>>16), byte(m.cseq>>8), byte(m.cseq))
	}
	k = append(k, 0)
	if string(method) == "ACK" {
		k = append(k, "INVITE"...)
	} else {
		k = append(k, method...)
	}
	w.keyBuf = k
	sum := sha256.Sum256(k)
	return serverKey(sum[:16])
}
