package sip

import (
	"slices"
	"strings"

	"bellhop/dialog/siptext"
)

// handleRequest handles a request: a retransmission, an ACK, a CANCEL, or a new request
// to forward.
func (w *worker) handleRequest(now instant, p *packet) {
	m := &p.msg
	if m.fault != nil {
		w.proxy.stats.malformed.Add(1)
		w.refuseRequest(p, m.fault, "")
		return
	}
	key := w.makeServerKey(m, m.methodName())
	if s := w.serverTxs.m[key]; s != nil {
		if !m.isMethod("ACK") {
			s.handleRetransmission(p)
			return
		}
		w.proveByACK(now, s, p)
		if t := s.context; s.handleACK(now) {
			w.observer.observe(p, &routeDecision{dst: t.dst, nextHop: t.client.nextHop}, t.trunk)
			return
		}
	} else if !m.isMethod("CANCEL") && w.dropsFollowUp(now, p) {
		return
	}
	switch {
	case m.isMethod("ACK"):
		w.forwardACK(now, p)
	case m.isMethod("CANCEL"):
		w.handleCancel(now, p, key)
	default:
		if f, ok := w.admitRequest(now, p); !ok {
			if f != nil {
				w.refuseRequest(p, f, retryAfter)
			}
			return
		}
		w.forwardRequest(now, p, key)
	}
}

// forwardRequest forwards a new request (RFC 3261 §16.3–16.6), or answers it itself.
func (w *worker) forwardRequest(now instant, p *packet, key serverKey) {
	m := &p.msg
	if m.isMethod("OPTIONS") && p.listener.serves(p.side) && w.proxy.listeners.areAskedBy(m) {
		w.answerOptions(p)
		return
	}
	if f, extra := w.checkRequest(m); f != nil {
		w.refuseRequest(p, f, extra)
		return
	}
	hash := w.loopHash(m)
	if w.proxy.branchSalt.isLoop(m, hash) {
		w.refuseRequest(p, &fault{482, "Loop Detected"}, "")
		return
	}
	r, f := w.router.routeRequest(p)
	if f != nil {
		w.refuseTowards(p, r.dst, f, "")
		return
	}
	if f := w.proxy.limitCalls(now, p, &r); f != nil {
		w.refuseTowards(p, r.dst, f, "Retry-After: 1\r\n")
		return
	}
	t := &responseContext{worker: w, src: p.side, dst: r.dst, trunk: w.proxy.peers.trunkName(p, &r), flowGone: r.flowGone, hasCredentials: m.hasField(hAuthorization), inDialog: !m.initial()}
	t.hasOurPath = w.proxy.cfg.Register == RegisterPath && r.dst == pbxSide && m.isMethod("REGISTER") && m.makesBinding()
	if p.side == edgeSide && r.dst == pbxSide && m.isMethod("REGISTER") {
		t.registration = &registration{r.bindingFlow(), r.byURI, p.receivedAt}
	}
	t.server.context = t
	t.server.start(w, key, p.responseDestination(), m.isMethod("INVITE"), len(p.buf))
	if w.proxy.cfg.Observations != nil {
		t.branch = string(m.text(m.via.branch))
	}
	t.startFailover(p, &r, hash)
	if t.server.invite {
		w.wheel.start(&t.server.timer, now+tryingDelay)
	}
	w.observer.observe(p, &r, t.trunk)
	w.sendRequest(now, t, p, &r, hash)
}

// sendRequest starts the client transaction of t.
func (w *worker) sendRequest(now instant, t *responseContext, p *packet, r *routeDecision, hash uint32) {
	id := w.newTxID()
	w.branchBuf = w.proxy.branchSalt.appendBranch(w.branchBuf[:0], id, hash)
	out, tooLarge := w.preferTCP(r, w.composer.rewriteRequest(p, r, w.branchBuf))
	t.client = clientTx{worker: w, user: t, id: id, loopHash: hash, nextHop: r.nextHop, tooLarge: tooLarge, invite: t.server.invite, request: w.memory.retainCopy(nil, out)}
	if t.canFailOver() {
		t.client.failoverAt = now + w.proxy.failoverAfter()
	}
	t.client.start(now)
}

// checkRequest validates a new request (RFC 3261 §16.3). A request with a fault is refused;
// extra holds header field lines of the response.
func (w *worker) checkRequest(m *message) (f *fault, extra string) {
	if m.maxForwards == 0 {
		return &fault{483, "Too Many Hops"}, ""
	}
	if tags := unsupportedTags(m); tags != "" {
		return &fault{420, "Bad Extension"}, "Unsupported: " + tags + "\r\n"
	}
	if w.proxy.draining.Load() && m.initial() && m.isMethod("INVITE") {
		return goingDown, retryAfter
	}
	return nil, ""
}

// unsupportedTags lists every option tag of Proxy-Require, because the proxy supports
// none (RFC 3261 §16.3 item 5). It returns "" if there is no tag.
func unsupportedTags(m *message) string {
	var tags []string
	for i := range m.fields {
		if f := &m.fields[i]; f.name == hProxyRequire {
			tags = slices.AppendSeq(tags, siptext.List(string(m.text(f.value))))
		}
	}
	return strings.Join(tags, ", ")
}

// forwardStateless forwards a request without a transaction. The new branch is a hash of
// the request's topmost Via and Call-ID, so that a retransmission gets the same branch
// (RFC 3261 §16.11).
func (w *worker) forwardStateless(p *packet, r *routeDecision, hash uint32) {
	m := &p.msg
	w.hash.Reset()
	w.hash.Write(m.text(m.via.value))
	w.hash.Write(m.text(m.callID))
	w.branchBuf = w.proxy.branchSalt.appendBranch(w.branchBuf[:0], w.hash.Sum64()&(1<<48-1), hash)
	w.observer.observe(p, r, w.proxy.peers.trunkName(p, r))
	out, _ := w.preferTCP(r, w.composer.rewriteRequest(p, r, w.branchBuf))
	w.sendMessage(r.nextHop, out, 0)
}
