package sip

import (
	"fmt"

	"bellhop/dialog"
)

// preferTCP moves a request that is too large for UDP to TCP (RFC 3261 §18.1.1). out is
// the request as it was rewritten for the next hop of r. If it is longer than
// [Config.UDPMax] and would leave over UDP, preferTCP changes the next hop to the same
// address over TCP, returns the request with a Via that says TCP, and sets tooLarge.
// Otherwise it returns out.
//
// Only requests to the PBX, and to a trunk at the address that the URI names, are moved.
// A phone behind a NAT can be reached only over its flow. If no listener has TCP, the
// request stays on UDP.
func (w *worker) preferTCP(r *routeDecision, out []byte) (_ []byte, tooLarge bool) {
	px := w.proxy
	if px.cfg.UDPMax <= 0 || len(out) <= px.cfg.UDPMax || r.nextHop.conn != nil {
		return out, false
	}
	if r.dst == edgeSide && (!r.byURI || px.peers.trunkAt(r.nextHop.addr.Addr()) == nil) {
		return out, false
	}
	to, ok := px.destinationAt(Addr{Proto: TCP, AddrPort: r.nextHop.addr}, r.dst, nil)
	if !ok {
		return out, false
	}
	r.nextHop = to
	return w.composer.replaceVia(out, to, r.dst), true
}

// replaceVia returns a request that was already rewritten, with our Via changed for the
// destination to on a side. The branch stays. The result is valid until the next message.
func (c *composer) replaceVia(request []byte, to destination, side dialog.Side) []byte {
	m := &c.scratch
	m.index(request, false)
	c.edits.reset()
	c.edits.replace(span{m.via.value.from, m.via.value.to}, fmt.Sprintf("SIP/2.0/%s %s;branch=%s", to.listener.proto.viaName(), to.ownName(side).sentBy, m.text(m.via.branch)))
	c.edits.addContentLength(m, to)
	c.tmpBuf = c.edits.apply(c.tmpBuf[:0], request)
	return c.tmpBuf
}

// retryOverUDP sends a request over UDP after preferTCP had moved it to TCP and TCP has
// failed (RFC 3261 §18.1.1). The branch stays the same. It returns false if the request
// was not moved, or cannot be sent over UDP either.
func (t *responseContext) retryOverUDP(now instant) bool {
	c, w := &t.client, t.worker
	if !c.tooLarge || t.canceled {
		return false
	}
	to, ok := w.proxy.destinationAt(Addr{Proto: UDP, AddrPort: c.nextHop.addr}, t.dst, t.server.upstream.listener)
	if !ok {
		return false
	}
	c.nextHop, c.tooLarge = to, false
	c.sent = w.memory.retainCopy(c.sent, w.composer.replaceVia(c.sent, c.nextHop, t.dst))
	if !w.sendMessage(c.nextHop, c.sent, c.id) {
		return false
	}
	c.state = clientCalling
	c.startRequestTimer(now)
	return true
}
