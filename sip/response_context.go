package sip

import "bellhop/dialog"

// responseContext is one request on its way through the proxy (RFC 3261 §16.6–16.7): its
// server transaction towards the sender and its client transaction towards the next hop.
type responseContext struct {
	worker *worker
	server serverTx
	client clientTx

	canceled       bool // the sender sent CANCEL
	hasCredentials bool // the request has Authorization or Proxy-Authorization
	inDialog       bool // the request has a To tag
	hasOurPath     bool // a REGISTER that makes a binding and carries our Path
	flowGone       bool // the request is sent to the URI, because the flow to the phone is closed
	src, dst       dialog.Side
	cancelFields   []byte // header fields of the received CANCEL that our CANCEL repeats

	registration *registration // of a REGISTER that may set bindings, else nil
	target       *target       // of a PBX or trunk that the request was sent to, or nil
	failover     *failover     // nil: the request is sent to no other target
	wait         *nameWait     // not nil: the next hop is being looked up, and client is not started

	// The fields below and the sides go into the observation of each response.
	branch string
	trunk  string
}

// handleResponse handles a response of the next hop. A 503 may send the request to the next
// target. All other responses are forwarded.
func (t *responseContext) handleResponse(now instant, p *packet) {
	m := &p.msg
	if t.target != nil {
		t.target.noteAnswer(t.worker.proxy, now)
	}
	if t.handleRefusal(now, m) {
		return
	}
	t.forwardResponse(now, p, t.target)
	if m.status < 200 && t.canceled {
		t.sendCancel(now)
	}
}

// forwardResponse forwards a response (RFC 3261 §16.7) if the server transaction takes it.
// from is the target that has sent it, or nil.
//
// A 100 is not forwarded, because it is hop by hop. A final response without a second Via
// is forwarded, because our branch identifies its request and rewriteResponse restores
// the Vias of that request. A provisional response without a second Via is dropped.
//
// The response is observed before it is sent, so that every message that it causes, even
// on another leg of the call, is observed later.
func (t *responseContext) forwardResponse(now instant, p *packet, from *target) {
	m := &p.msg
	if !t.server.takesResponse(m.status) {
		return
	}
	if m.status > 100 {
		t.endFailover()
	}
	t.rememberTarget(now, m, from)
	if t.registration != nil && m.status/100 == 2 {
		t.worker.composer.rememberBindings(t.worker.proxy.bindings, now, t.registration, m)
	}
	if t.worker.proxy.cfg.Register == RegisterContact && m.status/100 == 2 && m.isMethod("REGISTER") {
		t.worker.composer.restoreContacts(p)
	}
	t.worker.observer.observeResponse(t, p)
	t.worker.proxy.diagnose(now, t, m)
	if m.status >= 200 {
		t.cancelFields = t.worker.memory.releaseCopy(t.cancelFields)
		t.worker.proxy.sources.rememberAccepted(now, t, m)
	}
	if m.status > 100 && (t.worker.composer.answeredRequest != nil || m.hasNextVia()) {
		if m.isMethod("BYE") && (m.status/100 == 2 || m.status == 481) {
			t.worker.router.oldDialogs.remove(m.text(m.callID))
		}
		b, status := t.worker.composer.rewriteResponse(p, t.server.upstream)
		t.server.sendResponse(now, status, b)
	}
	t.judgeCredentials(now, m) // last, because a ban closes the connection of the response
}

// handleFailure handles a next hop that gives no final response. A request that is too large
// for UDP and cannot be sent over TCP is sent over UDP. After a ringTimeout it
// sends CANCEL, if none has been sent. It sends no response to a non-INVITE request that
// timed out. In all other cases it sends a final response of the proxy.
func (t *responseContext) handleFailure(now instant, why failureReason) {
	c := &t.client
	if why == unreachable && t.retryOverUDP(now) {
		return
	}
	switch {
	case why == silent:
		t.handleSilent(now)
		return
	case why != ringTimeout && t.handleUnanswered(now, why):
		return
	}
	t.endFailover()
	if why != ringTimeout || c.canceled {
		t.cancelFields = t.worker.memory.releaseCopy(t.cancelFields)
	}
	switch {
	case why == ringTimeout && !c.canceled:
		t.sendCancel(now)
	case why == unreachable && t.canceled:
		t.sendOwnFinal(now, 487, "Request Terminated") // the CANCEL cannot be sent either
	case t.flowFailed(why):
		t.sendOwnFinal(now, flowFailed.status, flowFailed.phrase)
	case why == unreachable:
		// A transport error counts as 503, and 503 leaves as 500 (RFC 3261 §16.7, §16.9).
		t.sendOwnFinal(now, 500, "Next Hop Unreachable")
	case why == ringTimeout && t.canceled:
		t.sendOwnFinal(now, 487, "Request Terminated")
		c.terminate()
	case !t.server.invite && t.server.state == serverProceeding:
		// RFC 4320 §4.1: no 408 to a non-INVITE request; the sender has timed out too.
		t.server.terminate()
	default:
		t.sendOwnFinal(now, 408, "Request Timeout")
		c.terminate()
	}
}

// flowFailed reports whether a request to a phone gets no final response because the flow to
// the phone is closed. A peer may respond over another connection, so only a request without
// any response has failed. A 430 to a re-INVITE would keep alive a call that a 408 ends (RFC
// 3261 §12.2.1.2).
func (t *responseContext) flowFailed(why failureReason) bool {
	to := t.client.nextHop
	switch {
	case t.dst != edgeSide:
		return false
	case why == unreachable:
		return t.flowGone || to.isFlow()
	}
	return why == timedOut && !t.inDialog && t.server.invite && to.flowClosed()
}

// cancelInvite handles the sender's CANCEL (RFC 3261 §16.10). Our own CANCEL waits for
// the first provisional response of the next hop. The final response still comes from
// the next hop and may be a 2xx.
func (t *responseContext) cancelInvite(now instant, m *message) {
	if t.canceled || t.client.state != clientCalling && t.client.state != clientProceeding {
		return
	}
	t.canceled = true
	t.endFailover()
	t.cancelFields = t.worker.memory.retainCopy(nil, cancelFields(m, t.worker.proxy.cfg.StripIdentity && t.src == edgeSide && t.trunk == ""))
	if t.client.state == clientProceeding {
		t.sendCancel(now)
	}
}

// sendCancel sends CANCEL to the next hop, at most once, and waits 64*T1 for the final
// response (RFC 3261 §9.1).
func (t *responseContext) sendCancel(now instant) {
	c := &t.client
	if c.canceled || c.state != clientProceeding {
		return
	}
	fields := t.cancelFields
	t.cancelFields = nil
	t.cancelClient(now, c, fields)
	t.worker.memory.releaseCopy(fields)
}

// cancelClient sends CANCEL for a client transaction, with the given header fields, and
// waits 64*T1 for its final response.
func (t *responseContext) cancelClient(now instant, c *clientTx, fields []byte) {
	if c.canceled || c.state != clientProceeding {
		return
	}
	c.canceled = true
	c.deadline = now + timerB
	t.worker.wheel.start(&c.timer, c.deadline)
	k := &clientTx{worker: t.worker, id: c.id, loopHash: c.loopHash, nextHop: c.nextHop, cancel: true, sent: t.worker.memory.retainCopy(nil, t.worker.composer.makeCancel(c.sent, fields))}
	if k.start(now); k.state == clientTerminated {
		t.worker.handleSendFailure(now, c.id) // as after a later error of the stream
	}
}

// sendOwnFinal sends a final response that the proxy makes itself, unless one was sent
// already.
func (t *responseContext) sendOwnFinal(now instant, status int, phrase string) {
	if !t.server.takesResponse(status) {
		return
	}
	b := t.worker.composer.makeResponseTo(t.client.sent, status, phrase)
	t.worker.observer.observeOwn(t, b)
	t.server.sendResponse(now, status, b)
}

// sendTrying sends 100 if no response has been sent yet (RFC 3261 §16.2). It is called
// tryingDelay after the INVITE.
func (t *responseContext) sendTrying() {
	switch {
	case t.server.lastResponse != nil:
	case t.wait != nil:
		t.wait.sendTrying(t.worker.now())
	default:
		t.server.sendResponse(t.worker.now(), 100, t.worker.composer.makeResponseTo(t.client.sent, 100, "Trying"))
	}
}
