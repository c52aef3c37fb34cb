package sip

import "bellhop/dialog"

// proxied is one request on its way through: the response context of RFC 3261
// §16.6–16.7, with the server transaction towards the sender and the client
// transaction towards the next hop.
type responseContext struct {
	worker *worker
	server serverTx
	client clientTx

	canceled       bool   // the sender gave up
	hasCredentials bool   // the request has credentials
	inDialog       bool   // it is within a dialog
	hasOurPath     bool   // it makes a binding, with our Path
	cancelFields   []byte // header fields of its CANCEL that CANCEL passes on

	// What an observer is told with each response.
	branch   string
	src, dst dialog.Side
	trunk    string
}

// response sends a response on, RFC 3261 §16.7. A 100 is hop by hop, and sofia-sip
// gives it our Via alone. A final response that has no other Via gets those of the
// request back: whose it is our branch has told. It is observed first: what it causes, as on another leg of
// the call, comes after it.
func (t *responseContext) handleResponse(now instant, c *clientTx, m *message, p *packet) {
	if t.worker.proxy.cfg.Register == RegisterContact && m.status/100 == 2 && m.isMethod("REGISTER") {
		t.worker.restoreContacts(p)
	}
	t.worker.observeResponse(t, p)
	t.worker.diagnose(now, t, m)
	if m.status >= 200 {
		t.cancelFields = t.worker.releaseCopy(t.cancelFields)
		t.worker.rememberAccepted(now, t, m)
	}
	if m.status > 100 && (t.worker.answeredRequest != nil || m.hasNextVia()) {
		if m.isMethod("BYE") && (m.status/100 == 2 || m.status == 481) {
			t.worker.oldDialogs.remove(m.text(m.callID))
		}
		b, status := t.worker.rewriteResponse(p, t.server.upstream)
		t.server.sendResponse(now, status, b)
	}
	if m.status < 200 && t.canceled {
		t.sendCancel(now)
	}
}

// failed answers in the place of a next hop that did not.
func (t *responseContext) handleFailure(now instant, c *clientTx, why failureReason) {
	if why != ringTimeout || c.canceled {
		t.cancelFields = t.worker.releaseCopy(t.cancelFields)
	}
	switch {
	case why == ringTimeout && !c.canceled:
		t.sendCancel(now)
	case why == unreachable && t.canceled:
		t.sendOwnFinal(now, 487, "Request Terminated") // what cannot get there is the CANCEL
	case why == unreachable:
		// A transport error counts as 503, and 503 leaves as 500 (RFC 3261 §16.7, §16.9).
		t.sendOwnFinal(now, 500, "Next Hop Unreachable")
	case why == ringTimeout && t.canceled:
		t.cancelFields = t.worker.releaseCopy(t.cancelFields)
		t.sendOwnFinal(now, 487, "Request Terminated")
		c.terminate()
	case !t.server.invite:
		// RFC 4320 §4.1: the sender has timed out too; a 408 would come too late.
		t.server.terminate()
	default:
		t.sendOwnFinal(now, 408, "Request Timeout")
		c.terminate()
	}
}

// cancel takes the sender's CANCEL (RFC 3261 §16.10): it goes on once the next
// hop has been heard. The final response still comes from there, and may be a 2xx.
func (t *responseContext) cancelInvite(now instant, m *message) {
	if t.canceled || t.client.state != clientCalling && t.client.state != clientProceeding {
		return
	}
	t.canceled = true
	t.cancelFields = t.worker.retainCopy(nil, cancelFields(m, t.worker.proxy.cfg.StripIdentity && t.src == edgeSide && t.trunk == ""))
	if t.client.state == clientProceeding {
		t.sendCancel(now)
	}
}

// sendCancel sends CANCEL downstream, once, and gives the final response 64*T1
// to come (RFC 3261 §9.1).
func (t *responseContext) sendCancel(now instant) {
	c := &t.client
	if c.canceled || c.state != clientProceeding {
		return
	}
	c.canceled = true
	c.deadline = now + timerB
	t.worker.wheel.start(&c.timer, c.deadline)
	k := &clientTx{worker: t.worker, id: c.id, loopHash: c.loopHash, nextHop: c.nextHop, cancel: true, request: t.worker.retainCopy(nil, t.worker.makeCancel(c.request, t.cancelFields))}
	t.cancelFields = t.worker.releaseCopy(t.cancelFields)
	k.start(now)
}

// answer sends a final response of our own.
func (t *responseContext) sendOwnFinal(now instant, status int, phrase string) {
	b := t.worker.makeResponseTo(t.client.request, status, phrase)
	t.worker.observeOwn(t, b)
	t.server.sendResponse(now, status, b)
}

// tryingDue says 100 when the next hop took its time (RFC 3261 §16.2).
func (t *responseContext) sendTrying() {
	if t.server.lastResponse == nil {
		t.server.sendResponse(t.worker.now(), 100, t.worker.makeResponseTo(t.client.request, 100, "Trying"))
	}
}
