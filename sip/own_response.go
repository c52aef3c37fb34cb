package sip

import (
	"encoding/hex"
	"strconv"
	"time"

	"bellhop/dialog"
	"bellhop/sip/guard"
)

// refuseRequest answers a request that is not forwarded, and keeps no state of it. A
// retransmission is refused again. The ACK of the response is recognized by its To tag.
// See refuseTowards.
func (w *worker) refuseRequest(p *packet, f *fault, extra string) { w.refuseTowards(p, 0, f, extra) }

// refuseTowards refuses a request that was to go to the side dst, or to an unknown side
// if dst is 0.
func (w *worker) refuseTowards(p *packet, dst dialog.Side, f *fault, extra string) {
	if !p.msg.answerable() {
		return
	}
	b := w.composer.makeResponse(p, f.status, f.phrase, extra)
	w.noteRefusal(p, dst, f, b)
	w.sendOwnResponse(p, b)
}

// noteRefusal observes a request that is refused because of f, and b, the response to it.
// It also looks for an error in the configuration that may be the reason.
//
// A request within a dialog is observed: the sender of a BYE has left the dialog even if
// the BYE reaches nobody (RFC 3261 §15.1.1). A CANCEL is observed too: it may be the only
// trace of a call that rang when bellhop restarted. A request of an unknown source is
// observed only if it carries a Route that we issued in its dialog; any other could be
// forged.
func (w *worker) noteRefusal(p *packet, dst dialog.Side, f *fault, b []byte) {
	m := &p.msg
	if !m.ambiguous && (!m.initial() || m.isMethod("CANCEL")) && (w.proxy.sources.isKnown(p.receivedAt, p) || w.router.hasOwnRoute(m)) {
		w.observer.observeRefused(p, dst, b)
	}
	if f.status == 403 && p.side == edgeSide {
		w.proxy.diagnoseSource(p.receivedAt, p.listener, p.peer, true)
	}
	if p.side == pbxSide && m.isMethod("REGISTER") {
		w.proxy.diagnosePhone(p)
	}
}

// isForgeable reports whether the source of p is an unknown one that may be forged: it has
// no connection, has not proved its address, is not on this machine and is not allowed.
func (w *worker) isForgeable(p *packet) bool {
	px, ip := w.proxy, p.peer.Addr()
	return !px.sources.isKnown(w.now(), p) && !px.sources.isProven(w.now(), p.responseDestination()) && !ip.IsLoopback() && !px.guard.Allows(ip)
}

// sendOwnResponse sends the response b that the proxy makes itself, without state.
//
// An unknown source that may be forged gets no response that is larger than its request,
// and only a few responses a second. The response to an INVITE is not larger than the
// INVITE either if its source is known but has not proved its address.
func (w *worker) sendOwnResponse(p *packet, b []byte) {
	px, larger := w.proxy, len(b) > len(p.buf)
	withhold := larger && p.msg.isMethod("INVITE") && !px.sources.isProven(w.now(), p.responseDestination())
	if !withhold && w.isForgeable(p) {
		withhold = larger || !px.guard.AllowsAnswer(p.peer.Addr(), guard.SIPAnswer, time.Duration(w.now()))
	}
	if withhold {
		px.stats.withheld.Add(1)
		return
	}
	w.sendMessage(p.responseDestination(), b, 0)
}

// goingDown answers new calls, and OPTIONS to the proxy, while it drains.
var goingDown = &fault{503, "Going Down"}

// retryAfter is the header field line of a 503: the sender may try again after 5 seconds.
const retryAfter = "Retry-After: 5\r\n"

// allowedMethods is the header field line of a 200 to OPTIONS.
const allowedMethods = "Allow: INVITE, ACK, CANCEL, BYE, OPTIONS, REGISTER, SUBSCRIBE, NOTIFY, REFER, MESSAGE, INFO, UPDATE, PRACK, PUBLISH\r\n"

// answerOptions answers an OPTIONS that is addressed to the proxy. A 503 tells the sender to
// choose another proxy, because this one is draining or no PBX is up. To a source that may
// be forged, the answer omits its last header field if it would be larger than the request.
func (w *worker) answerOptions(p *packet) {
	f, extra := &fault{200, "OK"}, w.composer.optionsFields(p)
	switch {
	case w.proxy.draining.Load():
		f, extra = goingDown, retryAfter
	case !w.proxy.PBXReachable():
		f, extra = &fault{503, noPBX.phrase}, retryAfter
	}
	b := w.composer.makeResponse(p, f.status, f.phrase, extra)
	if len(b) > len(p.buf) && w.isForgeable(p) {
		b = w.composer.makeResponse(p, f.status, f.phrase, "")
	}
	w.sendOwnResponse(p, b)
}

// makeResponse returns a response of the proxy itself to the request of p (RFC 3261
// §8.2.6). extra holds whole header field lines.
func (c *composer) makeResponse(p *packet, status int, phrase, extra string) []byte {
	c.edits.reset()
	if p.msg.via.ok {
		fixVia(&c.edits, &p.msg, p.peer)
	}
	c.tmpBuf = c.edits.apply(c.tmpBuf[:0], p.msg.b)
	c.scratch.index(c.tmpBuf, false)
	c.outBuf = c.appendResponse(c.outBuf[:0], &c.scratch, 0, status, phrase, extra)
	return c.outBuf
}

// makeResponseTo returns a response of the proxy itself to a request that was forwarded.
// Our Via, the topmost in sent, is left out.
func (c *composer) makeResponseTo(sent []byte, status int, phrase string) []byte {
	c.scratch.index(sent, false)
	c.outBuf = c.appendResponse(c.outBuf[:0], &c.scratch, 1, status, phrase, "")
	return c.outBuf
}

// appendResponse appends to dst a response to m that has no body. It copies From, To,
// Call-ID, CSeq, and the Vias after the first skipVias Via fields. It adds ownTag to a To
// without a tag, unless status is 100. extra holds further header field lines.
func (c *composer) appendResponse(dst []byte, m *message, skipVias, status int, phrase, extra string) []byte {
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
			dst = append(dst, c.ownTag(m)...)
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
func (c *composer) ownTag(m *message) []byte {
	sum := c.sealer.computeMAC(8, []byte("tag"), m.text(m.callID), []byte{0}, m.text(m.fromTag))
	return hex.AppendEncode(c.tagBuf[:0], sum)
}
