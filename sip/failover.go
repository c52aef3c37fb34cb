package sip

import (
	"bytes"
	"slices"

	"bellhop/dialog/siptext"
)

// How long a target rests after a failure, unless its 503 has Retry-After.
const (
	restTime    = instant(30e9)
	maxRestTime = instant(60e9)
)

// failover holds what is needed to send a request to another target if the first one
// fails (RFC 3263 §4.3): the request as it was received, and the targets that were not
// tried. It is freed when the sender gets the first response.
type failover struct {
	left       []*target // not tried so far
	connecting []*target // tried, but their connections were not open in time: the request was not sent
	request    keptRequest
}

// startFailover notes the target of the request of p. If there are further targets, it
// keeps the request for them. hash is the loop hash.
func (t *responseContext) startFailover(p *packet, r *routeDecision, hash uint32) {
	if r.target == nil {
		return
	}
	t.target = r.target
	if len(r.left) == 0 {
		return
	}
	t.failover = &failover{left: slices.Clone(r.left), request: t.worker.keepRequest(p, hash)}
}

// endFailover frees what failover holds. The request is then sent to no other target.
func (t *responseContext) endFailover() {
	if t.failover != nil {
		t.failover.request.release(t.worker)
		t.failover = nil
		t.client.failoverAt = 0
	}
}

// nextTarget returns the next target that is up, or nil. Those to which a connection is
// being opened come last.
func (f *failover) nextTarget() *target {
	for len(f.left) > 0 && f.left[0].down.Load() {
		f.left = f.left[1:]
	}
	switch {
	case len(f.left) > 0:
		return f.left[0]
	case len(f.connecting) > 0:
		return f.connecting[0]
	}
	return nil
}

// takeNext removes and returns nextTarget.
func (f *failover) takeNext() *target {
	to := f.nextTarget()
	if len(f.left) > 0 {
		f.left = f.left[1:]
	} else {
		f.connecting = f.connecting[1:]
	}
	return to
}

// canFailOver reports whether a request can be sent to another target.
func (t *responseContext) canFailOver() bool {
	return t.failover != nil && !t.canceled && t.server.state == serverProceeding && t.failover.nextTarget() != nil
}

// sendToNextTarget sends the request to the next target, with a new branch, in the same
// server transaction. It returns false if there is none. See detachClient for the client
// transaction so far.
func (t *responseContext) sendToNextTarget(now instant) bool {
	for t.canFailOver() {
		w, f := t.worker, t.failover
		to := f.takeNext()
		p := f.request.packet()
		w.router.onlyTarget = to
		r, fault := w.router.routeRequest(p)
		w.router.onlyTarget = nil
		sent := fault == nil && r.target == to
		if sent {
			t.detachClient(now)
			t.target = to
			w.proxy.stats.failedOver.Add(1)
			w.sendRequest(now, t, p, &r, f.request.hash)
		}
		p.release()
		if sent {
			return true
		}
	}
	return false
}

// handleRefusal handles a 503: the target rests, and the request goes to the next one. It
// returns false if there is none.
func (t *responseContext) handleRefusal(now instant, m *message) bool {
	if t.target == nil || m.status != 503 {
		return false
	}
	long := restTime
	if s, ok := readRetryAfter(m); ok {
		long = min(instant(s)*1e9, maxRestTime)
	}
	t.target.restsUntil.Store(int64(now + long))
	t.target.noteFailure(t.worker, now, m.methodName(), m, 0)
	return t.sendToNextTarget(now)
}

// readRetryAfter returns the seconds in the Retry-After of m. A comment and parameters may
// follow them (RFC 3261 §20.33).
func readRetryAfter(m *message) (seconds int, ok bool) {
	for line := range bytes.SplitSeq(m.b[:m.headLen], crlf) {
		name, value, _ := bytes.Cut(line, []byte(":"))
		if !siptext.EqualFold(bytes.TrimSpace(name), "retry-after") {
			continue
		}
		value = bytes.TrimSpace(value)
		end := bytes.IndexFunc(value, func(c rune) bool { return c < '0' || c > '9' })
		if end < 0 {
			end = len(value)
		}
		return parseNumber(value[:end], 1<<31-1)
	}
	return 0, false
}

// handleSilent handles a next hop without a response at clientTx.failoverAt. Over a stream,
// the time for the response begins when the connection is open.
func (t *responseContext) handleSilent(now instant) {
	c := &t.client
	s, after := c.nextHop.conn, t.worker.proxy.failoverAfter()
	switch {
	case s != nil && !s.isOpen() && !s.closed():
		t.tryOtherConnection(now)
	case s != nil && instant(s.openedAt.Load())+after > now:
		c.restartFailover(now, instant(s.openedAt.Load())+after)
	default:
		t.handleUnanswered(now, silent)
	}
}

// tryOtherConnection sends the request to another target, because the connection was not
// open within connectInterval. It prefers a target whose connection is open, and then one
// that was not tried (RFC 8305 §5). The connection is opened further, because another one
// may take longer. If every target was tried, the request waits where it is until one of
// the connections is open, or its own fails.
func (t *responseContext) tryOtherConnection(now instant) {
	c, f := &t.client, t.failover
	if !t.canFailOver() {
		return
	}
	c.restartFailover(now, now+connectInterval)
	opened := slices.IndexFunc(f.connecting, func(to *target) bool {
		s := t.worker.proxy.streams.findStream(to.Addr, 0)
		return s != nil && s.isOpen()
	})
	if opened < 0 && len(f.left) == 0 || !c.nextHop.conn.outQueue.withdraw(c.id) {
		return
	}
	if opened >= 0 {
		f.left = slices.Insert(f.left, 0, f.connecting[opened])
		f.connecting = slices.Delete(f.connecting, opened, opened+1)
	}
	f.connecting = append(f.connecting, t.target)
	c.state = clientTerminated
	if !t.sendToNextTarget(now) {
		c.state = clientCalling
		c.fail(now, unreachable)
	}
}

// handleUnanswered handles a transport error or a target without any response: the target
// is down or rests, and the request goes to the next one. It returns false if there is
// none.
func (t *responseContext) handleUnanswered(now instant, why failureReason) bool {
	if t.target == nil {
		return false
	}
	t.target.restsUntil.Store(int64(now + restTime))
	if why == unreachable && t.target.remote.pbx != nil && t.worker.proxy.peers.pbxs.Load().severalTargets() {
		t.target.down.Store(true)
	}
	method, _, _ := bytes.Cut(t.client.sent, []byte(" "))
	t.target.noteFailure(t.worker, now, method, nil, why)
	return t.sendToNextTarget(now)
}

// rememberTarget notes the PBX or carrier that an address-of-record is registered at, and
// the one that has challenged a request, so that the next requests go there. from is the
// target that has sent the response m, or nil.
func (t *responseContext) rememberTarget(now instant, m *message, from *target) {
	as := t.worker.proxy.affinities
	if from == nil {
		return
	}
	carrier := from.remote.pbx == nil
	switch {
	case (m.status == 401 || m.status == 407) && (carrier || t.worker.proxy.peers.pbxs.Load().several()):
		as.set(now, ofChallenger, m.text(m.callID), from, challengeLifetime)
	case carrier && m.status/100 == 2 && m.isMethod("REGISTER"):
		as.rememberCarrierTarget(now, m, from)
	case m.status/100 == 2 && m.isMethod("REGISTER"): // of a single PBX too: SetPBXs may add another
		var buf [128]byte
		as.set(now, ofRegistrar, m.appendAOR(buf[:0], m.to), from, m.grantedLifetime())
	}
}

// detachClient frees t.client for the next target. The client transaction in it goes on
// as another clientTx if it is still needed: after its ACK, to send the ACK again;
// without a response, as an abandonedBranch.
func (t *responseContext) detachClient(now instant) {
	c := &t.client
	if c.state == clientTerminated {
		c.terminate()
		return
	}
	old := &clientTx{}
	at := c.timer.at
	t.worker.wheel.stop(&c.timer)
	*old = *c
	old.timer = timer{owner: old}
	t.worker.clientTxs.m[old.id] = old
	old.user = nil
	switch {
	case old.state == clientCalling || old.state == clientProceeding:
		old.user = &abandonedBranch{context: t, client: old, target: t.target}
		old.failoverAt = 0
		old.markSettled()
		t.worker.wheel.start(&old.timer, old.deadline)
	case at != 0: // it was running
		t.worker.wheel.start(&old.timer, at)
	}
	c.underWay = false
}

// abandonedBranch is the user of a client transaction whose target has sent no response in
// time. The target may still have got the request. If it rings, it gets a CANCEL. If it
// accepts, the sender gets its 2xx, because nobody else can end what it has begun.
type abandonedBranch struct {
	context *responseContext
	client  *clientTx
	target  *target
}

func (b *abandonedBranch) handleResponse(now instant, p *packet) {
	t, status := b.context, p.msg.status
	b.target.noteAnswer(t.worker.proxy, now)
	switch {
	case status/100 == 2:
		if t.forwardResponse(now, p, b.target); b.client.invite {
			t.canceled = true
			t.sendCancel(now) // the other target rings
		}
	case status < 200 && b.client.invite:
		t.cancelClient(now, b.client, nil)
	}
}

// handleFailure ends the wait for a final response after a CANCEL.
func (b *abandonedBranch) handleFailure(now instant, why failureReason) {
	if why == ringTimeout {
		b.client.terminate()
	}
}
