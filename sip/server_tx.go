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
	w     *worker
	key   serverKey
	state serverState
	back  way

	invite bool
	last   []byte // latest response that a retransmitted request is answered with
	credit int    // bytes that came, less those that were sent back
	twos   uint8  // repetitions of a 2xx that were sent
	rang   bool   // a 1xx was sent: the client repeats its INVITE no more

	timer   timer
	pause   instant // before the next retransmission of last: Timer G
	giveUp  instant // Timer H
	context *proxied
}

type serverState uint8

const (
	serverProceeding serverState = iota // nothing final was sent
	serverAccepted                      // INVITE: a 2xx was sent; the UAS repeats it, not we
	serverCompleted                     // a final response was sent; INVITE: not yet acknowledged
	serverConfirmed                     // INVITE: acknowledged; further ACKs are absorbed
	serverGone
)

// begin enters the transaction into the worker's table. size is that of the
// request.
func (s *serverTx) begin(w *worker, key serverKey, back way, invite bool, size int) {
	s.w, s.key, s.back, s.invite, s.credit = w, key, back, invite, size
	s.timer.owner = s
	w.servers.put(key, s)
	w.held += transactionSize
}

// repeated answers a retransmission of the request.
func (s *serverTx) repeated(p *packet) {
	s.credit += len(p.buf)
	switch s.state {
	case serverProceeding, serverCompleted:
		if s.last != nil {
			s.send(s.last, false)
		}
	case serverAccepted, serverConfirmed, serverGone:
		// The 2xx is the UAS's to repeat; after an ACK nothing is asked for.
	}
}

// respond sends a response and takes the state it brings. b is only used
// during the call.
func (s *serverTx) respond(now instant, status int, b []byte) {
	owed := s.state == serverProceeding && status > 100 && (status < 300 || s.rang)
	switch {
	case s.state == serverAccepted && status/100 == 2:
		// Another 2xx of a forked INVITE, or the same again: the first ones may
		// have been lost.
		if owed = s.twos < maxTwos; owed {
			s.twos++
		}
	case s.state != serverProceeding:
		return
	case status < 200:
		s.keep(b)
	case s.invite && status < 300:
		s.state = serverAccepted
		s.last = s.w.forget(s.last)
		s.w.wheel.start(&s.timer, now+timerL)
	case s.invite:
		s.state = serverCompleted
		s.keep(b)
		s.giveUp = now + timerH
		s.pause = t1
		if s.back.reliable() {
			s.w.wheel.start(&s.timer, s.giveUp)
		} else {
			s.w.wheel.start(&s.timer, now+s.pause)
		}
	case s.back.reliable():
		s.end()
	default:
		s.state = serverCompleted
		s.keep(b)
		s.w.wheel.start(&s.timer, now+timerJ)
	}
	s.send(b, owed)
}

func (s *serverTx) keep(b []byte) { s.last = s.w.keep(s.last, b) }

// maxTwos is how many times the PBX may repeat a 2xx to a source that has not
// proved to be there. It took the call, and a 2xx that is lost ends it; all
// eleven of RFC 3261 §13.3.1.4 would be a reflection.
const maxTwos = 2

// send sends a response. An INVITE with a forged source must not bring more bytes
// there than it had: until the source has proved to be there, all responses
// together are no larger than the INVITE and its repetitions, and a failure that is
// larger waits for the next repetition of the INVITE. An owed response is sent all
// the same, once: a 1xx or 2xx, because the PBX has taken the call, and what follows
// a 1xx, because no repetition of the INVITE will come.
func (s *serverTx) send(b []byte, owed bool) {
	if s.invite && !owed && s.credit < len(b) && !s.w.proven(s.back) {
		s.w.hop.stats.withheld.Add(1)
		return
	}
	s.rang = s.rang || s.state == serverProceeding
	s.credit -= len(b)
	s.w.send(s.back, b, 0)
}

// acknowledged takes the ACK of a final response other than 2xx and reports
// whether the ACK was for this transaction: one of a 2xx is not.
func (s *serverTx) acknowledged(now instant) bool {
	switch s.state {
	case serverCompleted:
		s.state = serverConfirmed
		s.last = s.w.forget(s.last)
		if s.back.reliable() {
			s.end()
		} else {
			s.w.wheel.start(&s.timer, now+timerI)
		}
		return true
	case serverConfirmed, serverProceeding:
		return true
	case serverAccepted, serverGone:
	}
	return false
}

// due does what the deadline asks for.
func (s *serverTx) due(now instant) {
	switch s.state {
	case serverProceeding:
		s.context.tryingDue()
	case serverCompleted:
		if !s.invite || now >= s.giveUp {
			s.end()
			return
		}
		s.send(s.last, false)
		s.pause = min(2*s.pause, t2)
		s.w.wheel.start(&s.timer, min(now+s.pause, s.giveUp))
	case serverAccepted, serverConfirmed:
		s.end()
	case serverGone:
	}
}

// end takes the transaction out of the worker's table.
func (s *serverTx) end() {
	if s.state == serverGone {
		return
	}
	s.state = serverGone
	s.w.wheel.stop(&s.timer)
	s.w.servers.remove(s.key)
	s.w.held -= transactionSize
	s.last, s.context = s.w.forget(s.last), nil
}
