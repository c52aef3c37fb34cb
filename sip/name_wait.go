package sip

import (
	"strings"
	"time"

	"bellhop/dialog"
	"bellhop/dialog/siptext"
	"bellhop/sip/resolve"
)

// This file sends requests of a PBX to names that are not in the configuration. The
// addresses of such a name may have to be looked up first. The request then waits in its
// server transaction, so that a retransmission finds it, a CANCEL ends it, and its sender
// gets 100. The worker does not wait.
//
// No name that a phone or trunk has written is looked up: within a dialog or a binding, a
// name in their Contact, Record-Route or Path stands for the address that they had before.

// maxNameWait is the longest time that a request waits for the addresses of a name.
const maxNameWait = instant(3 * time.Second)

// nameWait is a request that waits for the addresses of the name that it is sent to.
type nameWait struct {
	context *responseContext
	request keptRequest
	timer   timer          // ends the wait after maxNameWait
	answer  resolve.Answer // set before the worker gets the nameWait as a workItem
}

// routeToName routes a request of the PBX to the addresses of the name in a URI. If they
// are not known yet, it returns lookupNeeded, with the name in r. If the first address is
// ours, the request would come back. A name over TLS is refused, because only a trunk or
// PBX in the configuration says which certificates to trust.
func (rt *router) routeToName(p *packet, r *routeDecision, u *siptext.URI) *fault {
	proto := uriProto(u)
	if proto == 0 || proto.secure() {
		return hostNotResolved
	}
	if rt.onlyTarget != nil { // after other addresses of the name have failed
		return rt.routeToTrunk(p, r)
	}
	if rt.answer.Pending() {
		r.name = resolve.Target{Host: targetHost(u), Port: uint16(uriPort(u))}
		if hasParam(u, "transport") {
			r.name.Transport = resolveTransport(proto)
		}
		return lookupNeeded
	}
	name := strings.ToLower(targetHost(u))
	rt.resolved = rt.answer.AppendAddrs(rt.resolved[:0], stableRandom(p.msg.text(p.msg.callID), name))
	if len(rt.resolved) > 0 && rt.listeners.haveAddr(rt.resolved[0].AddrPort) {
		return loopDetected
	}
	to, f := &remote{config: Addr{Host: targetHost(u)}, carrier: name}, hostNotResolved
	rt.targets = rt.targets[:0]
	for _, found := range rt.resolved {
		a := rt.peers.trunkTarget(u, Addr{Proto: protoOf(found.Transport), AddrPort: found.AddrPort})
		switch bad := rt.checkEdgeAddr(p, a); {
		case rt.peers.sideAt(a) == pbxSide && !rt.listeners.haveAddr(a.AddrPort):
			if len(rt.targets) == 0 { // a request to the edge side does not fail over to the PBX
				r.dst = pbxSide
				return rt.routeToAddr(p, r, a)
			}
		case bad != nil:
			f = bad
		case !a.Proto.secure() || rt.peers.canDial(a):
			rt.targets = append(rt.targets, rt.proxy.newTarget(to, a))
		}
	}
	if len(rt.targets) == 0 {
		return f
	}
	rt.preferCarrierTarget(p, name, nil)
	return rt.routeToTrunk(p, r)
}

// routeResolved routes the request of p again, with the answer to the lookup that it
// needs.
func (rt *router) routeResolved(p *packet, answer resolve.Answer) (routeDecision, *fault) {
	rt.answer = answer
	defer func() { rt.answer = resolve.Answer{} }()
	return rt.routeRequest(p)
}

// lookUpName looks up the name that a new request is sent to, and routes the request if the
// answer is known. Otherwise the request waits: lookUpName returns lookupNeeded.
func (w *worker) lookUpName(now instant, p *packet, r *routeDecision, key serverKey, hash uint32) (routeDecision, *fault) {
	nw := &nameWait{}
	answer := w.proxy.resolver.Lookup(r.name, func(a resolve.Answer) {
		nw.answer = a
		if !w.queue.enqueue(workItem{wait: nw}, inDialog) {
			w.proxy.stats.dropped.Add(1) // maxNameWait ends the wait
		}
	})
	if !answer.Pending() {
		return w.router.routeResolved(p, answer)
	}
	nw.request = w.keepRequest(p, hash)
	nw.context = w.newContext(now, p, key)
	nw.context.wait = nw
	nw.timer.owner = nw
	w.proxy.stats.transactions.Add(1)
	w.wheel.start(&nw.timer, now+maxNameWait)
	return *r, lookupNeeded
}

// handleAnswer sends the request on, unless the wait has ended.
func (nw *nameWait) handleAnswer(now instant) {
	t := nw.context
	w := t.worker
	defer w.proxy.recoverPanic("answer of a name server")
	if t.wait != nw {
		return
	}
	p := nw.request.packet()
	defer p.release()
	p.receivedAt = now // what was observed meanwhile came before
	r, f := w.router.routeResolved(p, nw.answer)
	if f != nil {
		nw.refuse(now, r.dst, f, "")
		return
	}
	if f := w.proxy.limitCalls(now, p, &r); f != nil {
		nw.refuse(now, r.dst, f, trunkRetryAfter)
		return
	}
	w.forwardRouted(now, t, p, &r, nw.request.hash)
	nw.end() // after the client transaction has begun, so that Drain does not miss the request
}

// handleTimer refuses the request, because the addresses of the name have not come in time.
func (nw *nameWait) handleTimer(now instant) { nw.refuse(now, edgeSide, hostNotResolved, "") }

// refuse ends the wait with a final response of the proxy, as refuseTowards refuses a
// request that did not wait.
func (nw *nameWait) refuse(now instant, dst dialog.Side, f *fault, extra string) {
	t := nw.context
	p := nw.request.packet()
	defer p.release()
	nw.end()
	b := t.worker.composer.makeResponse(p, f.status, f.phrase, extra)
	t.worker.noteRefusal(p, dst, f, b)
	t.server.sendResponse(now, f.status, b)
}

// sendTrying sends 100.
func (nw *nameWait) sendTrying(now instant) {
	p := nw.request.packet()
	defer p.release()
	nw.context.server.sendResponse(now, 100, nw.context.worker.composer.makeResponse(p, 100, "Trying", ""))
}

// end frees what the wait holds.
func (nw *nameWait) end() {
	w := nw.context.worker
	w.proxy.stats.transactions.Add(-1)
	w.wheel.stop(&nw.timer)
	nw.request.release(w)
	nw.context.wait = nil
}
