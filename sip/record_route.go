package sip

import (
	"strings"

	"bellhop/dialog/siptext"
)

// needsRecordRoute reports whether a request gets our Record-Route: it does if its
// method opens a dialog, refreshes one, or is unknown to us (RFC 3261 §16.6 item 4).
func needsRecordRoute(m *message) bool {
	switch string(m.methodName()) {
	case "REGISTER", "ACK", "CANCEL", "BYE", "OPTIONS", "MESSAGE", "PUBLISH", "PRACK", "INFO":
		return false
	}
	return true
}

// addRecordRoute puts our Record-Route on top. A request gets two if its sender and its
// next hop know the proxy by different names (RFC 5658).
func (c *composer) addRecordRoute(p *packet, r *routeDecision) {
	m, s := &p.msg, &c.edits
	at := m.firstField(hVia).line.from
	if f := m.firstField(hRecordRoute); f != nil {
		at = f.line.from
	}
	c.tmpBuf = c.sealer.sealRouteToken(c.tmpBuf[:0], c.routeToken(p, r), m.text(m.callID), m.text(m.fromTag))
	user := string(c.tmpBuf)
	thereScheme, there := recordRouteURI(m, r.nextHop.listener, r.nextHop.ownName(r.dst))
	hereScheme, here := recordRouteURI(m, p.listener, p.ownName())
	s.insert(at, "Record-Route: <", thereScheme, user, "@", there, ";lr>\r\n")
	if here != there {
		s.insert(at, "Record-Route: <", hereScheme, user, "@", here, ";lr>\r\n")
	}
}

// recordRouteURI returns the URI of our Record-Route for one side of a request in two
// parts: the scheme, and the rest after the user. The scheme is SIPS if the Request-URI
// has it and the side uses TLS (RFC 3261 §16.6 item 4). Otherwise it is SIP, because many
// peers do not understand a Route with SIPS.
func recordRouteURI(m *message, l *listener, name *ownName) (scheme, rest string) {
	if uri := m.text(m.uri); l.proto == TLS && len(uri) > 5 && siptext.EqualFold(uri[:5], "sips:") {
		return "sips:", name.sentBy
	}
	return "sip:", name.uri
}

// routeToken returns the token of a request's Record-Route: the flow on the edge side
// and the PBX of its dialog.
func (c *composer) routeToken(p *packet, r *routeDecision) token {
	t := token{use: inRoute, flow: r.edgeFlow, byURI: r.byURI, binding: r.binding, pbx: r.pbx}
	if p.side == edgeSide {
		if to := r.target; to != nil && to.remote.pbx != nil && to.remote.config.Host != "" {
			t.target = to.Addr
		}
		return t
	}
	t.fromPBX = true
	t.pbx, t.target = c.peers.dialogPBX(p)
	var top siptext.URI
	if f := p.msg.firstField(hRecordRoute); f != nil && p.msg.readURI(f.value, &top) {
		switch {
		case !c.listeners.areNamedBy(&top):
			if c.peers.pbxOfURI(&top) == nil {
				t.next = newRouteID(&top)
			}
		case r.dst == edgeSide:
			// The PBX has added no Record-Route on top of ours, so it leaves the dialog.
			before, ok := c.sealer.openRouteToken(top.User, &p.msg)
			t.direct = ok && !before.unbound
		}
	}
	return t
}

// bindNextRoute edits our Record-Routes in a response of the PBX (RFC 3261 §16.7 item 8),
// so that the caller cannot choose the next hop of its later requests. In these requests,
// the value above ours becomes the Route after ours. bindNextRoute writes the id of that
// Route into our token, and routeFromEdge accepts no other Route there. A Route that
// names a configured PBX needs no id.
func (c *composer) bindNextRoute(m *message) {
	if f := m.firstField(hRecordRoute); f == nil || valueEnd(m.b, f.value) == f.value.to && m.fieldAfter(f) == nil {
		return // ours alone: the PBX has added no Record-Route
	}
	var above siptext.URI // the previous value: in the caller's Routes it follows ours
	list := m.listValues(hRecordRoute)
	for list.next() && !list.unclosed {
		uri, _, ok := splitNameAddr(m.b, list.value)
		var u siptext.URI
		if !ok || parseURI(string(m.text(uri)), &u) != nil {
			return
		}
		if !c.listeners.areNamedBy(&u) {
			above = u
			continue
		}
		if above.Host == "" || c.peers.pbxOfURI(&above) != nil {
			continue
		}
		if t, ok := c.sealer.openRouteToken(u.User, m); ok && !t.fromPBX && !t.unbound {
			t.next = newRouteID(&above)
			c.tmpBuf = c.sealer.sealRouteToken(c.tmpBuf[:0], t, m.text(m.callID), m.text(m.fromTag))
			from := uri.from + int32(strings.Index(string(m.text(uri)), u.User))
			c.edits.replace(span{from, from + int32(len(u.User))}, string(c.tmpBuf))
		}
	}
}
