package sip

import "bellhop/dialog"

// proxied is one request on its way through: the response context of RFC 3261
// §16.6–16.7, with the server transaction towards the sender and the client
// transaction towards the next hop.
type proxied struct {
	w      *worker
	server serverTx
	client clientTx

	canceled   bool   // the sender gave up
	authorized bool   // the request has credentials
	within     bool   // it is within a dialog
	path       bool   // it makes a binding, with our Path
	reason     []byte // header fields of its CANCEL that CANCEL passes on

	// What an observer is told with each response.
	branch   string
	src, dst dialog.Side
	trunk    string
}

// response sends a response on, RFC 3261 §16.7. A 100 is hop by hop, and sofia-sip
// gives it our Via alone. A final response that has no other Via gets those of the
// request back: whose it is our branch has told. It is observed first: what it causes, as on another leg of
// the call, comes after it.
func (t *proxied) response(now instant, c *clientTx, m *message, p *packet) {
	if t.w.hop.cfg.Register == RegisterContact && m.status/100 == 2 && m.is("REGISTER") {
		t.w.restoreContacts(p)
	}
	t.w.observeResponse(t, p)
	t.w.diagnose(now, t, m)
	if m.status >= 200 {
		t.reason = t.w.forget(t.reason)
		t.w.remember(now, t, m)
	}
	if m.status > 100 && (t.w.answered != nil || m.hasNextVia()) {
		if m.is("BYE") && (m.status/100 == 2 || m.status == 481) {
			t.w.oldDialogs.end(m.text(m.callID))
		}
		b, status := t.w.upstream(p, t.server.back)
		t.server.respond(now, status, b)
	}
	if m.status < 200 && t.canceled {
		t.sendCancel(now)
	}
}

// failed answers in the place of a next hop that did not.
func (t *proxied) failed(now instant, c *clientTx, why failure) {
	if why != rangOut || c.canceled {
		t.reason = t.w.forget(t.reason)
	}
	switch {
	case why == rangOut && !c.canceled:
		t.sendCancel(now)
	case why == unreachable && t.canceled:
		t.answer(now, 487, "Request Terminated") // what cannot get there is the CANCEL
	case why == unreachable:
		// A transport error counts as 503, and 503 leaves as 500 (RFC 3261 §16.7, §16.9).
		t.answer(now, 500, "Next Hop Unreachable")
	case why == rangOut && t.canceled:
		t.reason = t.w.forget(t.reason)
		t.answer(now, 487, "Request Terminated")
		c.end()
	case !t.server.invite:
		// RFC 4320 §4.1: the sender has timed out too; a 408 would come too late.
		t.server.end()
	default:
		t.answer(now, 408, "Request Timeout")
		c.end()
	}
}

// cancel takes the sender's CANCEL (RFC 3261 §16.10): it goes on once the next
// hop has been heard. The final response still comes from there, and may be a 2xx.
func (t *proxied) cancel(now instant, m *message) {
	if t.canceled || t.client.state != clientCalling && t.client.state != clientProceeding {
		return
	}
	t.canceled = true
	t.reason = t.w.keep(nil, cancelFields(m, t.w.hop.cfg.StripIdentity && t.src == edgeSide && t.trunk == ""))
	if t.client.state == clientProceeding {
		t.sendCancel(now)
	}
}

// sendCancel sends CANCEL downstream, once, and gives the final response 64*T1
// to come (RFC 3261 §9.1).
func (t *proxied) sendCancel(now instant) {
	c := &t.client
	if c.canceled || c.state != clientProceeding {
		return
	}
	c.canceled = true
	c.giveUp = now + timerB
	t.w.wheel.start(&c.timer, c.giveUp)
	k := &clientTx{w: t.w, id: c.id, hash: c.hash, to: c.to, cancel: true, request: t.w.keep(nil, t.w.cancelFor(c.request, t.reason))}
	t.reason = t.w.forget(t.reason)
	k.begin(now)
}

// answer sends a final response of our own.
func (t *proxied) answer(now instant, status int, phrase string) {
	b := t.w.answerTo(t.client.request, status, phrase)
	t.w.observeOwn(t, b)
	t.server.respond(now, status, b)
}

// tryingDue says 100 when the next hop took its time (RFC 3261 §16.2).
func (t *proxied) tryingDue() {
	if t.server.last == nil {
		t.server.respond(t.w.now(), 100, t.w.answerTo(t.client.request, 100, "Trying"))
	}
}
