package sip

import (
	"net/netip"
	"time"

	"bellhop/dialog"
)

// maxObservedBody is the number of bytes of a body that an observation contains.
const maxObservedBody = 8 << 10

// observe sends an observation of a request as it was received, with its routing.
func (w *worker) observe(p *packet, r *routeDecision, trunk string) {
	if w.proxy.cfg.Observations == nil {
		return
	}
	m := &p.msg
	o := w.makeObservation(m, p.receivedAt)
	o.Src, o.Dst, o.From, o.To, o.Trunk, o.AOR = p.side, r.dst, p.peer, r.nextHop.addr, trunk, r.aor
	o.Local, o.Stream = localEnd(p.listener, p.conn)
	o.Branch = o.Head[m.via.branch.from:m.via.branch.to]
	if f := m.firstField(hXCID); f != nil {
		o.CID = w.sealer.openCID(m.text(f.value))
	}
	if o.CID == "" && r.dst == pbxSide && m.initial() && m.isMethod("INVITE") && w.addsCID(p, r) {
		o.CID = string(w.sealer.appendCID(w.tmpBuf[:0], m.text(m.callID), m.text(m.fromTag))[:cidLen])
	}
	w.sendObservation(o)
}

// observeResponse sends an observation of a response as it was received.
func (w *worker) observeResponse(t *responseContext, p *packet) {
	if w.proxy.cfg.Observations == nil {
		return
	}
	o := w.makeObservation(&p.msg, p.receivedAt)
	t.fillObservation(&o)
	o.From = p.peer
	o.Local, o.Stream = localEnd(p.listener, p.conn)
	w.sendObservation(o)
}

// observeOwn sends an observation of a response that the proxy makes itself.
func (w *worker) observeOwn(t *responseContext, b []byte) {
	if w.proxy.cfg.Observations == nil {
		return
	}
	w.scratch.index(b, false)
	o := w.makeObservation(&w.scratch, w.now())
	t.fillObservation(&o)
	o.Own = true
	o.From = t.client.nextHop.addr
	o.Local, o.Stream = localEnd(t.server.upstream.listener, t.server.upstream.conn)
	w.sendObservation(o)
}

// observeRefused sends observations of a request that is not forwarded and of the
// proxy's response to it. dst is the side that the request was to go to; 0 stands for
// the side opposite to its sender's.
func (w *worker) observeRefused(p *packet, dst dialog.Side, f *fault, extra string) {
	if w.proxy.cfg.Observations == nil {
		return
	}
	if dst == 0 {
		dst = pbxSide
		if p.side == pbxSide {
			dst = edgeSide
		}
	}
	t := &responseContext{worker: w, src: p.side, dst: dst, branch: string(p.msg.text(p.msg.via.branch))}
	t.server.upstream = p.responseDestination()
	w.observe(p, &routeDecision{dst: t.dst}, "")
	w.observeOwn(t, w.makeResponse(p, f.status, f.phrase, extra))
}

// fillObservation sets the fields of an observation that all responses to one request
// share.
func (t *responseContext) fillObservation(o *dialog.Message) {
	o.Src, o.Dst, o.To, o.Trunk, o.Branch = t.dst, t.src, t.server.upstream.peer(), t.trunk, t.branch
}

// localEnd returns the proxy's own address on a listener or connection, and whether it
// is a stream.
func localEnd(on *listener, conn *stream) (at netip.AddrPort, isStream bool) {
	if conn != nil {
		return conn.local, true
	}
	return on.local, false
}

// makeObservation copies a message for the observer, in one allocation that all its
// strings share. It reads the wall clock again, because somebody may have set it since
// the message was received.
func (w *worker) makeObservation(m *message, at instant) dialog.Message {
	_, offset := w.proxy.Clock()
	text := string(m.b[:min(len(m.b), m.headLen+maxObservedBody)])
	cut := func(s span) string { return text[s.from:s.to] }
	return dialog.Message{
		At:         w.proxy.epoch.Add(time.Duration(at)),
		WallOffset: offset,
		Method:     cut(m.cseqMethod),
		Status:     m.status,
		CallID:     cut(m.callID),
		CSeq:       m.cseq,
		FromTag:    cut(m.fromTag),
		ToTag:      cut(m.toTag),
		Head:       text[:m.headLen],
		Body:       text[m.headLen:],
	}
}

// maxObservedBytes limits the bytes that wait for the observer. Their number is
// estimated: all waiting messages count as large as the one to be added.
const maxObservedBytes = 32 << 20

// sendObservation sends an observation without waiting. If too many are waiting, it is
// dropped and counted as unobserved.
func (w *worker) sendObservation(o dialog.Message) {
	if len(w.proxy.cfg.Observations)*(len(o.Head)+len(o.Body)) > maxObservedBytes {
		w.proxy.stats.unobserved.Add(1)
		return
	}
	select {
	case w.proxy.cfg.Observations <- o:
	default:
		w.proxy.stats.unobserved.Add(1)
	}
}
