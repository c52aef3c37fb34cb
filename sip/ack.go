package sip

import "strconv"

// forwardACK forwards the ACK of a 2xx, which has no transaction (RFC 3261 §17.1,
// §13.2.2.4). The ACK of a final response that the proxy made without state is absorbed.
// An ACK that cannot be routed is dropped, because an ACK is never answered.
func (w *worker) forwardACK(now instant, p *packet) {
	m := &p.msg
	if m.maxForwards == 0 || string(m.text(m.toTag)) == string(w.composer.ownTag(m)) {
		return
	}
	hash := w.loopHash(m)
	if w.proxy.branchSalt.isLoop(m, hash) {
		return
	}
	r, f := w.router.routeRequest(p)
	if f != nil {
		return
	}
	w.proveByRoute(now, p)
	w.forwardStateless(p, &r, hash)
}

// makeACK returns the ACK of a final response other than 2xx. It is hop by hop and has
// the topmost Via and the Routes of the INVITE (RFC 3261 §17.1.1.3).
func (c *composer) makeACK(invite []byte, response *message) []byte {
	m := &c.scratch
	m.index(invite, false)
	dst := appendHopByHop(c.outBuf[:0], m, "ACK")
	dst = append(dst, response.text(response.firstField(hTo).line)...)
	dst = append(dst, m.text(m.firstField(hFrom).line)...)
	return append(dst, "Content-Length: 0\r\n\r\n"...)
}

// appendHopByHop appends the start line and the header fields that ACK and CANCEL copy
// from their INVITE to dst.
func appendHopByHop(dst []byte, m *message, method string) []byte {
	dst = append(dst, method...)
	dst = append(dst, ' ')
	dst = append(dst, m.text(m.uri)...)
	dst = append(dst, " SIP/2.0\r\n"...)
	dst = append(dst, m.text(m.firstField(hVia).line)...)
	for i := range m.fields {
		if f := &m.fields[i]; f.name == hRoute {
			dst = append(dst, m.text(f.line)...)
		}
	}
	dst = append(dst, "Max-Forwards: 70\r\n"...)
	dst = append(dst, m.text(m.firstField(hCallID).line)...)
	dst = append(dst, "CSeq: "...)
	dst = strconv.AppendUint(dst, uint64(m.cseq), 10)
	dst = append(dst, ' ')
	dst = append(dst, method...)
	return append(dst, "\r\n"...)
}
