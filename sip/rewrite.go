package sip

import (
	"bytes"
	"encoding/hex"
	"hash/maphash"
	"net/netip"
	"strconv"
	"strings"

	"bellhop/dialog/siptext"
)

// This file writes messages: forwarded ones, edited in the bytes they came in, and the few
// that the proxy makes itself.

// branchLen is the length of our branches: cookie, "bh", the salt of the process, the id of
// the client transaction and the loop hash. A branch is unique in space and time and cannot
// be guessed (RFC 3261 §16.6 item 8).
//
//	z9hG4bKbh 1f2e3d4c . 00000001a2b3 . 9c8d7e6f
const branchLen = len(cookie) + 2 + 8 + 1 + 12 + 1 + 8

// appendBranch appends the branch of a client transaction to dst. hash is its loop hash.
func (w *worker) appendBranch(dst []byte, id uint64, hash uint32) []byte {
	dst = append(dst, cookie+"bh"...)
	dst = appendHex(dst, uint64(w.proxy.branchSalt), 8)
	dst = append(dst, '.')
	dst = appendHex(dst, id, 12)
	dst = append(dst, '.')
	return appendHex(dst, uint64(hash), 8)
}

// openBranch reads a branch that this process made; ok is false for any other.
func (px *Proxy) openBranch(b []byte) (id uint64, hash uint32, ok bool) {
	if len(b) != branchLen || string(b[:len(cookie)+2]) != cookie+"bh" {
		return 0, 0, false
	}
	b = b[len(cookie)+2:]
	salt, ok1 := readHex(b[:8])
	id, ok2 := readHex(b[9:21])
	sum, ok3 := readHex(b[22:])
	return id, uint32(sum), ok1 && ok2 && ok3 && uint32(salt) == px.branchSalt
}

const hexDigits = "0123456789abcdef"

// appendHex appends the n low hex digits of v to dst.
func appendHex(dst []byte, v uint64, n int) []byte {
	for i := n - 1; i >= 0; i-- {
		dst = append(dst, hexDigits[v>>(4*i)&15])
	}
	return dst
}

// readHex reads lower-case hex digits.
func readHex(b []byte) (v uint64, ok bool) {
	for _, c := range b {
		switch {
		case '0' <= c && c <= '9':
			v = v<<4 | uint64(c-'0')
		case 'a' <= c && c <= 'f':
			v = v<<4 | uint64(c-'a'+10)
		default:
			return 0, false
		}
	}
	return v, true
}

// loopHash hashes everything that decides where a request goes. A request that comes
// back with the same hash is in a loop; one with another hash is in a spiral (RFC 5393
// §4.2).
func (w *worker) loopHash(m *message) uint32 {
	h := &w.hash
	h.Reset()
	h.Write(m.text(m.uri))
	h.WriteByte(0)
	h.Write(m.text(m.fromTag))
	h.WriteByte(0)
	h.Write(m.text(m.toTag))
	h.WriteByte(0)
	h.Write(m.text(m.callID))
	maphash.WriteComparable(h, m.cseq)
	for i := range m.fields {
		if f := &m.fields[i]; f.name == hRoute || f.name == hProxyRequire {
			h.Write(m.text(f.value))
		}
	}
	return uint32(h.Sum64())
}

// isLoop reports whether a Via of m is ours and has this loop hash: the same request has
// passed before.
func (w *worker) isLoop(m *message, hash uint32) bool {
	for i := range m.fields {
		f := &m.fields[i]
		if f.name != hVia {
			continue
		}
		for v := m.text(f.value); ; {
			at := bytes.Index(v, []byte(cookie+"bh"))
			if at < 0 {
				break
			}
			v = v[at:]
			if len(v) >= branchLen {
				if _, h, ok := w.proxy.openBranch(v[:branchLen]); ok && h == hash {
					return true
				}
			}
			v = v[len(cookie):]
		}
	}
	return false
}

// fixVia notes the edits that write the source address into the topmost Via: received if
// it differs from sent-by, and both received and rport if the request has rport (RFC
// 3261 §18.2.1, RFC 3581 §4).
func fixVia(s *splice, m *message, peer netip.AddrPort) {
	v := &m.via
	ip := peer.Addr()
	if v.hasRport {
		port := strconv.Itoa(int(peer.Port()))
		if v.rport.empty() {
			if v.rport.from > 0 && m.b[v.rport.from-1] == '=' {
				s.insert(v.rport.from, port)
			} else {
				s.insert(v.rport.from, "=", port)
			}
		} else if string(m.text(v.rport)) != port {
			s.replace(v.rport, port)
		}
	}
	if !v.received.empty() {
		if got, err := netip.ParseAddr(string(bytes.Trim(m.text(v.received), "[]"))); err != nil || got != ip {
			s.replace(v.received, ip.String())
		}
		return
	}
	if v.hasRport || !isHost(m.text(v.host), ip) {
		s.insert(v.value.to, ";received=", ip.String())
	}
}

// isHost reports whether the host h of a Via is the address ip.
func isHost(h []byte, ip netip.Addr) bool {
	var buf [64]byte
	if ip.Is4() {
		return bytes.Equal(ip.AppendTo(buf[:0]), h)
	}
	got, err := netip.ParseAddr(string(bytes.Trim(h, "[]")))
	return err == nil && got == ip
}

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
	w.addContentLength(m, r.nextHop)
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
func (w *worker) addContentLength(m *message, to destination) {
	if to.reliable() && m.contentLength < 0 {
		w.edits.insert(int32(m.headLen-2), "Content-Length: ", strconv.Itoa(len(m.b)-m.headLen), "\r\n")
	}
}

// needsRecordRoute reports whether a request gets our Record-Route: it does if its
// method opens a dialog, refreshes one, or is unknown to us (RFC 3261 §16.6 item 4).
func needsRecordRoute(m *message) bool {
	switch string(m.methodName()) {
	case "REGISTER", "ACK", "CANCEL", "BYE", "OPTIONS", "MESSAGE", "PUBLISH", "PRACK", "INFO":
		return false
	}
	return true
}

// addRecordRoute puts our Record-Route on top. A request that leaves from another
// listener than it came to gets two (RFC 5658).
func (w *worker) addRecordRoute(p *packet, r *routeDecision) {
	m, s := &p.msg, &w.edits
	at := m.firstField(hVia).line.from
	if f := m.firstField(hRecordRoute); f != nil {
		at = f.line.from
	}
	w.tmpBuf = w.sealer.sealRouteToken(w.tmpBuf[:0], w.routeToken(p, r), m.text(m.callID), m.text(m.fromTag))
	user := string(w.tmpBuf)
	s.insert(at, "Record-Route: <sip:", user, "@", r.nextHop.listener.uri, ";lr>\r\n")
	if r.nextHop.listener != p.listener {
		s.insert(at, "Record-Route: <sip:", user, "@", p.listener.uri, ";lr>\r\n")
	}
}

// routeToken returns the token of a request's Record-Route: the flow on the edge side
// and the PBX of its dialog.
func (w *worker) routeToken(p *packet, r *routeDecision) token {
	t := token{use: inRoute, flow: r.edgeFlow, byURI: r.byURI, pbx: r.pbx}
	if p.side == edgeSide {
		return t
	}
	t.fromPBX = true
	t.pbx, t.target = w.dialogPBX(p)
	var top siptext.URI
	if f := p.msg.firstField(hRecordRoute); f != nil && w.readURI(&p.msg, f.value, &top) {
		switch {
		case !w.namesUs(&top):
			if w.pbxOfURI(&top) == nil {
				t.next = newRouteID(&top)
			}
		case r.dst == edgeSide:
			// The PBX has added no Record-Route on top of ours: it leaves the dialog.
			before, ok := w.sealer.openRouteToken(top.User, &p.msg)
			t.direct = ok && !before.unbound
		}
	}
	return t
}

// bindNextRoute edits our Record-Route in a response of the PBX: its token then names
// the Route of the PBX that follows ours in the caller's requests, unless that is a
// configured PBX (RFC 3261 §16.7 item 8). Without this binding a caller could put any
// Route after ours.
func (w *worker) bindNextRoute(m *message) {
	if f := m.firstField(hRecordRoute); f == nil || valueEnd(m.b, f.value) == f.value.to && m.fieldAfter(f) == nil {
		return // ours alone: the PBX has added no Record-Route
	}
	var above siptext.URI // the previous value: in the caller's Routes it follows ours
	for i := range m.fields {
		f := &m.fields[i]
		if f.name != hRecordRoute {
			continue
		}
		rest := f.value
		for one, more := cutValue(m.b, &rest); more; one, more = cutValue(m.b, &rest) {
			uri, _, ok := splitNameAddr(m.b, one)
			var u siptext.URI
			if !ok || parseURI(string(m.text(uri)), &u) != nil {
				return
			}
			if !w.namesUs(&u) {
				above = u
				continue
			}
			if above.Host == "" || w.pbxOfURI(&above) != nil {
				continue
			}
			if t, ok := w.sealer.openRouteToken(u.User, m); ok && !t.fromPBX && !t.unbound {
				t.next = newRouteID(&above)
				w.tmpBuf = w.sealer.sealRouteToken(w.tmpBuf[:0], t, m.text(m.callID), m.text(m.fromTag))
				from := uri.from + int32(strings.Index(string(m.text(uri)), u.User))
				w.edits.replace(span{from, from + int32(len(u.User))}, string(w.tmpBuf))
			}
		}
		if !rest.empty() {
			return // a quote is not closed
		}
	}
}

// readURI parses the URI of the name-addr at the start of v into u, and reports whether
// it is valid.
func (w *worker) readURI(m *message, v span, u *siptext.URI) bool {
	uri, _, ok := splitNameAddr(m.b, v)
	return ok && parseURI(string(m.text(uri)), u) == nil
}

// dialogPBX returns the PBX for requests within the dialog of p, which the PBX has sent:
// the id of a configured PBX, or else an address.
//
// The Contact decides if it is the PBX's own. A PBX that is a proxy forwards the
// caller's Contact; then the source of p decides.
func (w *worker) dialogPBX(p *packet) (id pbxID, target Addr) {
	contact, known := w.contactAddr(&p.msg)
	known = known && !p.msg.hasNextVia()
	if pbx := w.proxy.pbxOfAddr(contact); known && pbx != nil {
		return pbx.id, Addr{}
	}
	if known && w.proxy.isPBXHost(contact.Addr()) {
		return id, contact
	}
	for _, pbx := range w.proxy.pbx {
		if pbx.isSource(p.listener.proto, p.peer) {
			return pbx.id, Addr{}
		}
	}
	return id, Addr{p.listener.proto, p.peer}
}

// contactAddr returns the address in the first Contact of m.
func (w *worker) contactAddr(m *message) (a Addr, ok bool) {
	f := m.firstField(hContact)
	if f == nil {
		return a, false
	}
	var u siptext.URI
	if !w.readURI(m, f.value, &u) {
		return a, false
	}
	return uriAddr(&u)
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
	w.addContentLength(m, to)
	w.outBuf = s.apply(w.outBuf[:0], m.b)
	return w.outBuf, status
}

// makeResponse returns a response of the proxy itself to the request of p (RFC 3261
// §8.2.6). extra holds whole header field lines. The result is valid until the next
// message.
func (w *worker) makeResponse(p *packet, status int, phrase, extra string) []byte {
	w.edits.reset()
	if p.msg.via.ok {
		fixVia(&w.edits, &p.msg, p.peer)
	}
	w.tmpBuf = w.edits.apply(w.tmpBuf[:0], p.msg.b)
	w.scratch.index(w.tmpBuf, false)
	w.outBuf = w.appendResponse(w.outBuf[:0], &w.scratch, 0, status, phrase, extra)
	return w.outBuf
}

// makeResponseTo returns a response of the proxy itself to a request that was forwarded.
// Our Via, the topmost in sent, is left out. The result is valid until the next message.
func (w *worker) makeResponseTo(sent []byte, status int, phrase string) []byte {
	w.scratch.index(sent, false)
	w.outBuf = w.appendResponse(w.outBuf[:0], &w.scratch, 1, status, phrase, "")
	return w.outBuf
}

// appendResponse appends a response to m without a body to dst. It copies Via, From, To,
// Call-ID and CSeq, without the first skipVias Via fields.
func (w *worker) appendResponse(dst []byte, m *message, skipVias, status int, phrase, extra string) []byte {
	dst = append(dst, "SIP/2.0 "...)
	dst = strconv.AppendInt(dst, int64(status), 10)
	dst = append(dst, ' ')
	dst = append(dst, phrase...)
	dst = append(dst, "\r\n"...)
	var seen [fieldNameCount]bool
	for i := range m.fields {
		f := &m.fields[i]
		switch f.name {
		case hVia:
			if skipVias > 0 {
				skipVias--
				continue
			}
		case hFrom, hCallID, hCSeq, hTo:
			if seen[f.name] {
				continue
			}
		default:
			continue
		}
		seen[f.name] = true
		line := m.text(f.line)
		if f.name == hTo && status > 100 && m.toTag.empty() {
			line = m.b[f.line.from:f.value.to]
			dst = append(dst, line...)
			dst = append(dst, ";tag="...)
			dst = append(dst, w.ownTag(m)...)
			dst = append(dst, "\r\n"...)
			continue
		}
		dst = append(dst, line...)
	}
	dst = append(dst, extra...)
	return append(dst, "Content-Length: 0\r\n\r\n"...)
}

// ownTag returns the To tag of the proxy's own responses. It is the same for each
// retransmission of a request, so that the proxy recognizes the ACK of a response that
// it sent without state.
func (w *worker) ownTag(m *message) []byte {
	sum := w.sealer.computeMAC(8, []byte("tag"), m.text(m.callID), []byte{0}, m.text(m.fromTag))
	return hex.AppendEncode(w.tagBuf[:0], sum)
}

// makeACK returns the ACK of a final response other than 2xx. It is hop by hop and has
// the topmost Via and the Routes of the INVITE (RFC 3261 §17.1.1.3).
func (w *worker) makeACK(invite []byte, response *message) []byte {
	m := &w.scratch
	m.index(invite, false)
	dst := w.appendHopByHop(w.outBuf[:0], m, "ACK")
	dst = append(dst, response.text(response.firstField(hTo).line)...)
	dst = append(dst, m.text(m.firstField(hFrom).line)...)
	return append(dst, "Content-Length: 0\r\n\r\n"...)
}

// makeCancel returns the CANCEL of a forwarded INVITE (RFC 3261 §9.1). fields are
// further header field lines.
func (w *worker) makeCancel(invite, fields []byte) []byte {
	m := &w.scratch
	m.index(invite, false)
	dst := w.appendHopByHop(w.outBuf[:0], m, "CANCEL")
	dst = append(dst, m.text(m.firstField(hTo).line)...)
	dst = append(dst, m.text(m.firstField(hFrom).line)...)
	dst = append(dst, fields...)
	return append(dst, "Content-Length: 0\r\n\r\n"...)
}

// appendHopByHop appends the start line and the header fields that ACK and CANCEL copy
// from their INVITE to dst.
func (w *worker) appendHopByHop(dst []byte, m *message, method string) []byte {
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

// cancelFields returns the header field lines of a received CANCEL that our CANCEL
// repeats: those that routing does not use, Reason above all (RFC 3326 §2), and
// credentials. strip removes the fields that strangers may not set.
func cancelFields(m *message, strip bool) []byte {
	var keep []byte
	pos := int32(bytes.Index(m.b, crlf) + 2)
	for i := range m.fields {
		f := &m.fields[i]
		if f.name == hAuthorization || f.name == hSupported || f.name == hExpires || f.name == hAuthSource && !strip {
			continue
		}
		keep = append(keep, m.b[pos:f.line.from]...)
		pos = f.line.to
	}
	return append(keep, m.b[pos:m.headLen-2]...)
}
