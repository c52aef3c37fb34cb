package sip

import "bellhop/dialog/siptext"

// This file routes requests over flows (RFC 5626 §5.3).

// takeFlow routes a request to a registered client over a flow. There may be two: that of
// token t, and that over which the binding of t was registered last. The newer flow is
// tried first if it replaces the other (see binding.replaces), and second if it does not.
// takeFlow returns false if no flow can be used.
func (rt *router) takeFlow(p *packet, r *routeDecision, t *token) bool {
	var newest *binding
	if t.binding != (bindingID{}) {
		newest = rt.proxy.bindings.newest(t.binding, p.receivedAt)
	}
	if !rt.tryFlows(p, r, t, newest) {
		return false
	}
	if newest != nil && newest.flow == r.edgeFlow && p.msg.isMethod("OPTIONS") {
		newest.qualifiedAt.Store(max(int64(p.receivedAt), 1)) // keepAlive sends none of its own
	}
	return true
}

// tryFlows does the work of takeFlow. newest is the binding of t as it was registered
// last, or nil.
func (rt *router) tryFlows(p *packet, r *routeDecision, t *token, newest *binding) bool {
	switch {
	case newest == nil || newest.flow == t.flow:
		return rt.tryFlow(p, r, t.flow, t.byURI)
	case newest.replaces(t.flow):
		return rt.tryFlow(p, r, newest.flow, newest.byURI) || rt.tryFlow(p, r, t.flow, t.byURI)
	}
	return rt.tryFlow(p, r, t.flow, t.byURI) || rt.tryFlow(p, r, newest.flow, newest.byURI)
}

// tryFlow routes a request to the peer of a flow. It returns false if the connection is
// closed, or if no listener reaches the peer. Over UDP it returns false if byURI is set.
func (rt *router) tryFlow(p *packet, r *routeDecision, fl flow, byURI bool) bool {
	var to destination
	if fl.proto.stream() {
		if to.conn = rt.proxy.streams.findStream(Addr{Proto: fl.proto, AddrPort: fl.peer}, fl.connID); to.conn == nil {
			return false
		}
		to.listener, to.addr, to.local = to.conn.listener, fl.peer, to.conn.localAddr()
	} else if to = (destination{listener: rt.listeners.findForFlow(fl, p.listener), addr: fl.peer}); to.listener == nil || byURI {
		return false
	} else {
		to.local = to.listener.localAddr(fl.local)
	}
	r.edgeFlow, r.byURI, r.nextHop = fl, byURI, to
	return true
}

// checkFlow refuses a flow that leads to the proxy itself.
func (rt *router) checkFlow(r *routeDecision) *fault {
	if r.nextHop.conn == nil && rt.listeners.haveAddr(r.nextHop.addr) {
		return noBinding
	}
	return nil
}

// closedFault returns the response to a request for a flow that cannot be used.
func (f flow) closedFault() *fault {
	if f.proto.stream() {
		return flowFailed
	}
	return noTransport
}

// routePastFlow routes a request to a phone whose flow fl is closed. If the URI names
// another port of the flow's host over TCP, the phone listens there. The port from which
// it had connected is never tried.
func (rt *router) routePastFlow(p *packet, r *routeDecision, uri *siptext.URI, fl flow) *fault {
	a, ok := uriAddr(uri)
	if !ok || fl.proto != TCP || a.Proto != TCP || a.Addr() != fl.peer.Addr() || a.Port() == fl.peer.Port() {
		return fl.closedFault()
	}
	r.edgeFlow, r.flowGone = fl, true
	return rt.routeToEdge(p, r, a)
}

// routeWithinLimit routes a request to the address that a URI names, limited to the host
// or trunk of the flow in token t.
func (rt *router) routeWithinLimit(p *packet, r *routeDecision, uri *siptext.URI, t *token) *fault {
	a, ok := rt.peers.limitTarget(uri, t.flow)
	if !ok {
		return flowFailed
	}
	r.edgeFlow, r.byURI, r.flowGone = t.flow, true, t.flow.connID != 0
	f := rt.routeToEdge(p, r, a)
	if f == nil && a.Proto == UDP {
		r.nextHop.local = r.nextHop.listener.localAddr(t.flow.local)
	}
	return f
}
