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
	key   string
	state serverState
	back  way

	invite bool
	last   []byte // latest response that a retransmitted request is answered with

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

// begin enters the transaction into the worker's table.
func (s *serverTx) begin(w *worker, key []byte, back way, invite bool) {
	s.w, s.key, s.back, s.invite = w, string(key), back, invite
	s.timer.owner = s
	w.servers[s.key] = s
}

// repeated answers a retransmission of the request.
func (s *serverTx) repeated() {
	switch s.state {
	case serverProceeding, serverCompleted:
		if s.last != nil {
			s.w.send(s.back, s.last, 0)
		}
	case serverAccepted, serverConfirmed, serverGone:
		// The 2xx is the UAS's to repeat; after an ACK nothing is asked for.
	}
}

// respond sends a response and takes the state it brings. b is only used
// during the call.
func (s *serverTx) respond(now instant, status int, b []byte) {
	switch {
	case s.state == serverAccepted && status/100 == 2:
		// Another 2xx of a forked INVITE, or the same again.
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
	s.w.send(s.back, b, 0)
}

func (s *serverTx) keep(b []byte) { s.last = s.w.keep(s.last, b) }

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
		s.w.send(s.back, s.last, 0)
		s.pause = min(2*s.pause, t2)
		s.w.wheel.start(&s.timer, min(now+s.pause, s.giveUp))
	case serverAccepted, serverConfirmed:
		s.end()
	case serverGone:
	}
}

// end takes the transaction out of the worker's table.
func (s *serverTx) end() {
	s.state = serverGone
	s.w.wheel.stop(&s.timer)
	delete(s.w.servers, s.key)
	s.last, s.context = s.w.forget(s.last), nil
}
