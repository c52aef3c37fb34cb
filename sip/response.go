package sip

import (
	"bytes"

	"bellhop/dialog/siptext"
)

// handleResponse passes a response to its client transaction. A response without one is
// dropped (RFC 6026 §8.9, RFC 3261 §18.1.2).
func (w *worker) handleResponse(now instant, p *packet) {
	m := &p.msg
	if m.fault != nil {
		w.proxy.stats.malformed.Add(1)
		return
	}
	id, hash, _ := w.proxy.branchSalt.openBranch(m.text(m.via.branch))
	c := w.clientTxs.m[id]
	if m.isMethod("CANCEL") {
		c = w.cancelTxs.m[id]
	}
	if c == nil || c.loopHash != hash || m.isMethod("INVITE") != (c.invite) && !c.cancel {
		w.proxy.stats.stray.Add(1)
		return
	}
	c.handleResponse(now, m, p)
}

// rewriteResponse returns the response of p as it is forwarded, and its status: without
// our Via, and a 503 as a 500 (RFC 3261 §16.7 items 3 and 6). A response without another
// Via gets the Vias of the request it answers. The result is valid until the next
// message.
func (w *worker) rewriteResponse(p *packet, to destination) ([]byte, int) {
	m, s := &p.msg, &w.edits
	s.reset()
	status := m.status
	if status == 503 {
		status = 500
		s.replace(span{8, int32(bytes.Index(m.b, crlf))}, "500 Server Internal Error")
	}
	f := m.firstField(hVia)
	if end := m.via.value.to; end < f.value.to {
		// The same field has another value after ours.
		i := end
		for i < f.value.to && (m.b[i] == ',' || siptext.IsSpace(m.b[i])) {
			i++
		}
		s.remove(span{f.value.from, i})
	} else {
		s.remove(f.line)
		if w.answeredRequest != nil && !m.hasNextVia() {
			w.scratch.index(w.answeredRequest, false)
			top := w.scratch.firstField(hVia)
			for v := w.scratch.fieldAfter(top); v != nil; v = w.scratch.fieldAfter(v) {
				s.insert(f.line.from, string(w.scratch.text(v.line)))
			}
		}
	}
	if p.side == pbxSide && m.status > 100 && m.status < 300 && needsRecordRoute(m) {
		w.bindNextRoute(m)
	}
	w.edits.addContentLength(m, to)
	w.outBuf = s.apply(w.outBuf[:0], m.b)
	return w.outBuf, status
}
