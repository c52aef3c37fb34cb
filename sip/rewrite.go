package sip

import "strconv"

// rewriteRequest returns the request as it is forwarded (RFC 3261 §16.6). routeRequest
// has noted its edits in w.edits before. The result is valid until the next message.
func (w *worker) rewriteRequest(p *packet, r *routeDecision, branch []byte) []byte {
	m, s := &p.msg, &w.edits
	top := m.firstField(hVia).line.from
	s.insert(top, "Via: SIP/2.0/", r.nextHop.listener.proto.viaName(), " ", r.nextHop.listener.sentBy, ";branch=", string(branch), "\r\n")
	fixVia(s, m, p.peer)
	if m.maxForwards < 0 {
		s.insert(top, "Max-Forwards: 70\r\n")
	} else {
		s.replace(m.firstField(hMaxForwards).value, strconv.Itoa(m.maxForwards-1))
	}
	if needsRecordRoute(m) {
		w.addRecordRoute(p, r)
	}
	if r.dst == pbxSide && m.initial() {
		switch {
		case m.isMethod("INVITE") && w.addsCID(p, r):
			s.insert(top, "X-CID: ", string(w.sealer.appendCID(w.tmpBuf[:0], m.text(m.callID), m.text(m.fromTag))), "\r\n")
		case m.isMethod("REGISTER"):
			w.addBinding(p, r)
		}
	}
	w.applyTrust(p, r)
	w.edits.addContentLength(m, r.nextHop)
	w.outBuf = s.apply(w.outBuf[:0], m.b)
	return w.outBuf
}

// trunkMark is the header field that tells the PBX that a request comes from a
// configured trunk. Its value is the trunk's secret.
const trunkMark = "X-Bellhop-Trunk"

// applyTrust adds trunkMark to requests of trunks and removes it from all others. From
// requests of strangers it also removes the header fields that only a trusted peer may
// set, as the PBX trusted its network before the proxy stood in front of it.
func (w *worker) applyTrust(p *packet, r *routeDecision) {
	m, s := &p.msg, &w.edits
	strip := w.proxy.cfg.StripIdentity && r.stranger
	for i := range m.fields {
		switch f := &m.fields[i]; f.name {
		case hTrunkMark:
			s.remove(f.line)
		case hAssertedIdentity, hRemotePartyID, hDiversion, hAuthSource:
			if strip {
				s.remove(f.line)
			}
		case hXCID:
			if strip && w.sealer.openCID(m.text(f.value)) == "" {
				s.remove(f.line)
			}
		}
	}
	if r.trunk != nil && r.trunk.Secret != "" && r.dst == pbxSide {
		s.insert(m.firstField(hVia).line.from, trunkMark, ": ", r.trunk.Secret, "\r\n")
	}
}

// addsCID reports whether an INVITE towards the PBX gets an X-CID of ours: it has none,
// or a stranger has made one up.
func (w *worker) addsCID(p *packet, r *routeDecision) bool {
	f := p.msg.firstField(hXCID)
	return w.proxy.cfg.AddCID && (f == nil || w.proxy.cfg.StripIdentity && r.stranger && w.sealer.openCID(p.msg.text(f.value)) == "")
}

// addContentLength adds the Content-Length to a message that leaves on a stream without
// one. A datagram may lack it, a message on a stream may not (RFC 3261 §18.3).
func (s *splice) addContentLength(m *message, to destination) {
	if to.reliable() && m.contentLength < 0 {
		s.insert(int32(m.headLen-2), "Content-Length: ", strconv.Itoa(len(m.b)-m.headLen), "\r\n")
	}
}
