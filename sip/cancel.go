package sip

import "bytes"

// handleCancel answers a CANCEL and cancels its INVITE (RFC 3261 §9.2, §16.10). A CANCEL
// without an INVITE is forwarded without state.
func (w *worker) handleCancel(now instant, p *packet, key serverKey) {
	m := &p.msg
	s := w.serverTxs.m[w.makeServerKey(m, []byte("INVITE"))]
	if s == nil {
		if m.maxForwards == 0 || w.requeueCancel(p) || w.dropsFollowUp(now, p) {
			return
		}
		r, f := w.router.routeRequest(p)
		if f != nil {
			w.refuseTowards(p, r.dst, f, "")
			return
		}
		w.forwardStateless(p, &r, w.loopHash(m))
		return
	}
	k := &serverTx{}
	k.start(w, key, p.responseDestination(), false, len(p.buf))
	k.sendResponse(now, 200, w.composer.makeResponse(p, 200, "OK", ""))
	switch t := s.context; {
	case t == nil:
	case t.wait != nil:
		t.wait.refuse(now, edgeSide, &fault{487, "Request Terminated"}, "") // the INVITE was sent to nobody
	case t.dst == 0: // the INVITE was refused while it waited
	default:
		w.observer.observe(p, &routeDecision{dst: t.dst, nextHop: t.client.nextHop}, t.trunk)
		t.cancelInvite(now, m)
	}
}

// requeueCancel is called for a CANCEL whose INVITE is not found. The INVITE may still
// wait among the new requests of unknown sources, if its source has become known since.
// Therefore requeueCancel puts the CANCEL behind these requests, at most once, and
// reports whether it did.
func (w *worker) requeueCancel(p *packet) bool {
	if p.requeued || len(w.queue.strangers) == 0 {
		return false
	}
	q := newPacket(p.buf)
	q.msg.index(q.buf, p.conn != nil)
	q.listener, q.conn, q.peer, q.local, q.side, q.receivedAt, q.requeued = p.listener, p.conn, p.peer, p.local, p.side, p.receivedAt, true
	if w.queue.enqueue(workItem{packet: q}, fromStranger) {
		return true
	}
	q.release()
	return false
}

// makeCancel returns the CANCEL of a forwarded INVITE (RFC 3261 §9.1). fields are
// further header field lines.
func (c *composer) makeCancel(invite, fields []byte) []byte {
	m := &c.scratch
	m.index(invite, false)
	dst := appendHopByHop(c.outBuf[:0], m, "CANCEL")
	dst = append(dst, m.text(m.firstField(hTo).line)...)
	dst = append(dst, m.text(m.firstField(hFrom).line)...)
	dst = append(dst, fields...)
	return append(dst, "Content-Length: 0\r\n\r\n"...)
}

// cancelFields returns the header field lines of a received CANCEL that our CANCEL
// repeats: all that the proxy does not read, such as Reason (RFC 3326 §2), and Supported,
// Expires, User-Agent, the credentials, X-AUTH-IP and X-AUTH-PORT. strip omits the last
// two.
func cancelFields(m *message, strip bool) []byte {
	var keep []byte
	pos := int32(bytes.Index(m.b, crlf) + 2)
	for i := range m.fields {
		f := &m.fields[i]
		switch {
		case f.name == hAuthorization, f.name == hSupported, f.name == hExpires, f.name == hUserAgent, f.name == hAuthSource && !strip:
			continue
		}
		keep = append(keep, m.b[pos:f.line.from]...)
		pos = f.line.to
	}
	return append(keep, m.b[pos:m.headLen-2]...)
}
