package sip

import (
	"net/netip"
	"time"

	"bellhop/dialog"
)

// maxBody is how much of a body an observer is shown.
const maxObservedBody = 8 << 10

// observe shows a request to the watcher, as it came, with what routing found out.
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

// observeResponse shows a response to the watcher, as it came.
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

// observeOwn shows a response that is our own.
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

// observeRefused shows a request that is not sent on, and our answer to it. dst is the
// side that it was to go to; 0: the other one than that it came from.
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
	t.server.upstream = w.responseDestination(p)
	w.observe(p, &routeDecision{dst: t.dst}, "")
	w.observeOwn(t, w.makeResponse(p, f.status, f.phrase, extra))
}

func (t *responseContext) fillObservation(o *dialog.Message) {
	o.Src, o.Dst, o.To, o.Trunk, o.Branch = t.dst, t.src, t.server.upstream.peer(), t.trunk, t.branch
}

// local is our end of what a message came on, or leaves on.
func localEnd(on *listener, conn *stream) (at netip.AddrPort, isStream bool) {
	if conn != nil {
		return conn.local, true
	}
	return on.local, false
}

// observation copies what a watcher may keep: one allocation that all strings
// of it share. It reads the wall clock, which somebody may have set since the
// message came a moment ago.
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

// maxWatched bounds the bytes that wait for the watcher: a message is queued only
// while as many of its size as wait already are no more.
const maxObservedBytes = 32 << 20

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
