package sip

import "fmt"

// preferTCP returns out, a request that was rewritten for the next hop of r, as it is
// sent. If it is longer than [Config.UDPMax] and would leave over UDP, it leaves over TCP
// to the same address, and its Via says so (RFC 3261 §18.1.1).
//
// Only the PBX, and a trunk at the address that its URI names, get requests over TCP in
// this way. A phone behind a NAT can be reached only over its flow. If no listener has
// TCP, the request leaves over UDP.
func (w *worker) preferTCP(r *routeDecision, out []byte) []byte {
	px := w.proxy
	if px.cfg.UDPMax <= 0 || len(out) <= px.cfg.UDPMax || r.nextHop.conn != nil {
		return out
	}
	if r.dst == edgeSide && (!r.byURI || px.peers.trunkAt(r.nextHop.addr.Addr()) == nil) {
		return out
	}
	to, ok := px.destinationAt(Addr{Proto: TCP, AddrPort: r.nextHop.addr}, r.dst, nil)
	if !ok {
		return out
	}
	r.nextHop = to
	c := &w.composer
	c.scratch.index(out, false)
	v := &c.scratch.via
	c.edits.reset()
	c.edits.replace(span{v.value.from, v.value.to}, fmt.Sprintf("SIP/2.0/%s %s;branch=%s", to.listener.proto.viaName(), to.ownName(r.dst).sentBy, w.branchBuf))
	c.edits.addContentLength(&c.scratch, to)
	c.tmpBuf = c.edits.apply(c.tmpBuf[:0], out)
	return c.tmpBuf
}
