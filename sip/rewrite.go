package sip

import (
	"bytes"
	"strconv"

	"bellhop/dialog/siptext"
)

// sendRequest rewrites the request of p for its next hop and starts the client
// transaction of t with it. hash is the loop hash of the request.
func (w *worker) sendRequest(now instant, t *responseContext, p *packet, r *routeDecision, hash uint32) {
	id := w.newTxID()
	w.branchBuf = w.proxy.branchSalt.appendBranch(w.branchBuf[:0], id, hash)
	out, tooLarge := w.preferTCP(r, w.composer.rewriteRequest(p, r, w.branchBuf))
	t.client = clientTx{worker: w, user: t, id: id, loopHash: hash, nextHop: r.nextHop, tooLarge: tooLarge, invite: t.server.invite, sent: w.memory.retainCopy(nil, out)}
	if t.canFailOver() {
		t.client.failoverAt = now + w.proxy.failoverAfter()
		if s := r.nextHop.conn; s != nil && !s.isOpen() {
			t.client.failoverAt = s.since + connectInterval
		}
	}
	t.client.start(now)
}

// forwardStateless forwards a request without a transaction. The new branch is a hash of
// the request's topmost Via and Call-ID, so that a retransmission gets the same branch
// (RFC 3261 §16.11).
func (w *worker) forwardStateless(p *packet, r *routeDecision, hash uint32) {
	m := &p.msg
	w.hash.Reset()
	w.hash.Write(m.text(m.via.value))
	w.hash.Write(m.text(m.callID))
	w.branchBuf = w.proxy.branchSalt.appendBranch(w.branchBuf[:0], w.hash.Sum64()&(1<<48-1), hash)
	w.observer.observe(p, r, w.proxy.peers.trunkName(p, r))
	out, _ := w.preferTCP(r, w.composer.rewriteRequest(p, r, w.branchBuf))
	w.sendMessage(r.nextHop, out, 0)
}

// composer writes the messages that a worker sends. It edits the received bytes of a
// message that is forwarded, and makes the proxy's own messages. A message that it
// returns is valid until it writes the next one.
type composer struct {
	cfg             *Config
	peers           *peers
	listeners       *listeners
	sealer          *sealer
	keepAlives      *keepAlives
	edits           splice  // of the message that is forwarded; the router notes the first ones
	answeredRequest []byte  // request, as sent, whose final response is being handled; else nil
	scratch         message // index of a message that is not the one received
	outBuf          []byte
	tmpBuf          []byte
	tagBuf          [16]byte
}

// rewriteRequest returns the request as it is forwarded (RFC 3261 §16.6). c.edits must
// already contain the edits of the router.
func (c *composer) rewriteRequest(p *packet, r *routeDecision, branch []byte) []byte {
	m, s := &p.msg, &c.edits
	top := m.firstField(hVia).line.from
	s.insert(top, "Via: SIP/2.0/", r.nextHop.listener.proto.viaName(), " ", r.nextHop.ownName(r.dst).sentBy, ";branch=", string(branch), "\r\n")
	fixVia(s, m, p.peer)
	if m.maxForwards < 0 {
		s.insert(top, "Max-Forwards: 70\r\n")
	} else {
		s.replace(m.firstField(hMaxForwards).value, strconv.Itoa(m.maxForwards-1))
	}
	if needsRecordRoute(m) {
		c.addRecordRoute(p, r)
	}
	if r.dst == pbxSide && m.initial() {
		switch {
		case m.isMethod("INVITE") && c.addsCID(p, r):
			s.insert(top, "X-CID: ", string(c.sealer.appendCID(c.tmpBuf[:0], m.text(m.callID), m.text(m.fromTag))), "\r\n")
		case m.isMethod("REGISTER"):
			c.addBinding(p, r)
		}
	}
	c.applyTrust(p, r)
	if r.dst == edgeSide {
		c.replacePBXContacts(p, r.nextHop)
	}
	c.edits.addContentLength(m, r.nextHop)
	c.outBuf = s.apply(c.outBuf[:0], m.b)
	return c.outBuf
}

// trunkMark is the header field that tells the PBX that a request comes from a
// configured trunk. Its value is the trunk's secret.
const trunkMark = "X-Bellhop-Trunk"

// applyTrust removes a received trunkMark, and adds the trunk's to a request of a
// trunk. If [Config.StripIdentity] is set, it also removes from requests of strangers the
// header fields that only a trusted peer may set, because the PBX may trust all requests
// that come from the proxy.
func (c *composer) applyTrust(p *packet, r *routeDecision) {
	m, s := &p.msg, &c.edits
	strip := c.cfg.StripIdentity && r.stranger
	for i := range m.fields {
		switch f := &m.fields[i]; f.name {
		case hTrunkMark:
			s.remove(f.line)
		case hAssertedIdentity, hRemotePartyID, hDiversion, hAuthSource:
			if strip {
				s.remove(f.line)
			}
		case hXCID:
			if strip && c.sealer.openCID(m.text(f.value)) == "" {
				s.remove(f.line)
			}
		}
	}
	if r.trunk != nil && r.trunk.Secret != "" && r.dst == pbxSide {
		s.insert(m.firstField(hVia).line.from, trunkMark, ": ", r.trunk.Secret, "\r\n")
	}
}

// addsCID reports whether an INVITE towards the PBX gets our X-CID. It does if
// [Config.AddCID] is set and the INVITE has no X-CID, or one that applyTrust removes.
func (c *composer) addsCID(p *packet, r *routeDecision) bool {
	f := p.msg.firstField(hXCID)
	return c.cfg.AddCID && (f == nil || c.cfg.StripIdentity && r.stranger && c.sealer.openCID(p.msg.text(f.value)) == "")
}

// correlationID returns the correlation id of a request. If the request already has an
// X-CID of ours, it is the id in that X-CID. If rewriteRequest adds an X-CID, it is the
// id in that one. Otherwise it is "".
func (c *composer) correlationID(p *packet, r *routeDecision) (id string) {
	m := &p.msg
	if f := m.firstField(hXCID); f != nil {
		id = c.sealer.openCID(m.text(f.value))
	}
	if id == "" && r.dst == pbxSide && m.initial() && m.isMethod("INVITE") && c.addsCID(p, r) {
		id = string(c.sealer.appendCorrelationID(c.tmpBuf[:0], m.text(m.callID), m.text(m.fromTag)))
	}
	return id
}

// rewriteResponse returns the response of p as it is forwarded, and its status. It
// removes our Via and turns a 503 into a 500 (RFC 3261 §16.7 items 3 and 6). A final
// response without another Via gets the Vias of the request that it answers.
func (c *composer) rewriteResponse(p *packet, to destination) ([]byte, int) {
	m, s := &p.msg, &c.edits
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
		if c.answeredRequest != nil && !m.hasNextVia() {
			c.scratch.index(c.answeredRequest, false)
			top := c.scratch.firstField(hVia)
			for v := c.scratch.fieldAfter(top); v != nil; v = c.scratch.fieldAfter(v) {
				s.insert(f.line.from, string(c.scratch.text(v.line)))
			}
		}
	}
	if p.side == pbxSide && m.status > 100 && m.status < 300 && needsRecordRoute(m) {
		c.bindNextRoute(m)
	}
	c.replacePBXContacts(p, to)
	c.restorePBXContacts(p)
	c.edits.addContentLength(m, to)
	c.outBuf = s.apply(c.outBuf[:0], m.b)
	return c.outBuf, status
}

// addContentLength adds the Content-Length to a message that leaves on a stream without
// one. A datagram may lack it, a message on a stream may not (RFC 3261 §18.3).
func (s *splice) addContentLength(m *message, to destination) {
	if to.reliable() && m.contentLength < 0 {
		s.insert(int32(m.headLen-2), "Content-Length: ", strconv.Itoa(len(m.b)-m.headLen), "\r\n")
	}
}
