package sip

import (
	"net/netip"
	"time"

	"bellhop/dialog"
)

// maxObservedBody is the number of bytes of a body that an observation contains.
const maxObservedBody = 8 << 10

// observer passes copies of messages to the tracker (see [Config.Observations]). It never
// waits. If there is no room for an observation, the observation is dropped and counted.
type observer struct {
	proxy    *Proxy
	composer *composer
	scratch  message // index of a response that the proxy makes itself
}

// observe sends an observation of a request as it was received, with its routing.
func (ob *observer) observe(p *packet, r *routeDecision, trunk string) {
	if ob.proxy.cfg.Observations == nil {
		return
	}
	m := &p.msg
	var o dialog.Message
	ob.copyMessage(&o, m, p.receivedAt)
	o.Src, o.Dst, o.From, o.To, o.Trunk, o.AOR = p.side, r.dst, p.peer, r.nextHop.addr, trunk, r.aor
	o.Local, o.Stream = destination{listener: p.listener, conn: p.conn, local: p.local}.localEnd()
	o.Branch = o.Head[m.via.branch.from:m.via.branch.to]
	o.CID = ob.composer.correlationID(p, r)
	ob.sendObservation(&o)
}

// observeResponse sends an observation of a response as it was received.
func (ob *observer) observeResponse(t *responseContext, p *packet) {
	if ob.proxy.cfg.Observations == nil {
		return
	}
	var o dialog.Message
	ob.copyMessage(&o, &p.msg, p.receivedAt)
	t.fillObservation(&o)
	o.From = p.peer
	o.Local, o.Stream = destination{listener: p.listener, conn: p.conn, local: p.local}.localEnd()
	ob.sendObservation(&o)
}

// observeOwn sends an observation of a response that the proxy makes itself.
func (ob *observer) observeOwn(t *responseContext, b []byte) {
	if ob.proxy.cfg.Observations == nil {
		return
	}
	ob.scratch.index(b, false)
	var o dialog.Message
	ob.copyMessage(&o, &ob.scratch, ob.proxy.now())
	t.fillObservation(&o)
	o.Own = true
	o.From = t.client.nextHop.addr
	o.Local, o.Stream = t.server.upstream.localEnd()
	ob.sendObservation(&o)
}

// observeRefused sends observations of a request that is not forwarded and of b, the
// proxy's response to it. dst is the side that the request was to go to; 0 stands for
// the side opposite to its sender's.
func (ob *observer) observeRefused(p *packet, dst dialog.Side, b []byte) {
	if ob.proxy.cfg.Observations == nil {
		return
	}
	if dst == 0 {
		dst = pbxSide
		if p.side == pbxSide {
			dst = edgeSide
		}
	}
	t := &responseContext{src: p.side, dst: dst, branch: string(p.msg.text(p.msg.via.branch))}
	t.server.upstream = p.responseDestination()
	ob.observe(p, &routeDecision{dst: t.dst}, "")
	ob.observeOwn(t, b)
}

// fillObservation sets the fields of an observation that all responses to one request
// share.
func (t *responseContext) fillObservation(o *dialog.Message) {
	o.Src, o.Dst, o.To, o.Trunk, o.Branch = t.dst, t.src, t.server.upstream.peer(), t.trunk, t.branch
}

// localEnd returns the proxy's own address in a flow, and whether it is a stream.
func (d destination) localEnd() (at netip.AddrPort, isStream bool) {
	switch {
	case d.conn != nil:
		return d.conn.local, true
	case d.local.IsValid():
		return netip.AddrPortFrom(d.local, d.listener.local.Port()), false
	}
	return d.listener.local, false
}

// copyMessage copies a message into the observation o, which is empty, in one allocation
// that all strings share. at is the time of the message. The offset of the wall clock is
// read anew, because the wall clock may have been set since.
func (ob *observer) copyMessage(o *dialog.Message, m *message, at instant) {
	text := string(m.b[:min(len(m.b), m.headLen+maxObservedBody)])
	cut := func(s span) string { return text[s.from:s.to] }
	_, o.WallOffset = ob.proxy.Clock()
	o.At = ob.proxy.epoch.Add(time.Duration(at))
	o.Method, o.Status, o.CallID, o.CSeq = cut(m.cseqMethod), m.status, cut(m.callID), m.cseq
	o.FromTag, o.ToTag = cut(m.fromTag), cut(m.toTag)
	o.Head, o.Body = text[:m.headLen], text[m.headLen:]
}

// maxObservedBytes limits the bytes of the observations that wait in the channel. Their
// number is estimated, as if all of them were as large as the one to be added.
const maxObservedBytes = 32 << 20

// sendObservation sends an observation without waiting. If too many are waiting, it is
// dropped and counted as unobserved.
func (ob *observer) sendObservation(o *dialog.Message) {
	if len(ob.proxy.cfg.Observations)*(len(o.Head)+len(o.Body)) > maxObservedBytes {
		ob.proxy.stats.unobserved.Add(1)
		return
	}
	select {
	case ob.proxy.cfg.Observations <- *o:
	default:
		ob.proxy.stats.unobserved.Add(1)
	}
}
