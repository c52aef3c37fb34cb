package sip

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
