package sip

import (
	"bytes"
	"net/netip"
	"strings"

	"bellhop/dialog"
	"bellhop/dialog/siptext"
)

// routeDecision is the destination of a request, with the data about it that Record-Route,
// Path and the observation need.
type routeDecision struct {
	nextHop  destination
	dst      dialog.Side
	edgeFlow flow   // to the peer on the edge side, for Record-Route and Path
	byURI    bool   // edgeFlow gives only the peer's host; the URI gives the port
	pbx      pbxID  // PBX that an edge-side request goes to
	aor      string // address-of-record of the binding that the request is sent to

	trunk    *Trunk // trunk that the request comes from, or nil
	stranger bool   // the request comes from neither PBX nor trunk
}

// Responses to requests that cannot be routed. An unreachable next hop counts as 503, which
// is forwarded as 500 (RFC 3261 §16.7, §16.9).
var (
	forgedRoute       = &fault{403, "Forged Route"}
	routeNotAllowed   = &fault{403, "Route Not Allowed"}
	badURI            = &fault{400, "Malformed Request-URI"}
	badRoute          = &fault{400, "Malformed Route"}
	noBinding         = &fault{404, "Not Found"}
	hostNotResolved   = &fault{500, "Next Hop Is Not An Address"}
	noTransport       = &fault{500, "No Transport To Next Hop"}
	noPBX             = &fault{500, "No PBX Answers"}
	flowFailed        = &fault{430, "Flow Failed"}
	nextHopNotAllowed = &fault{403, "Next Hop Not Allowed"}
)

// routeRequest decides where the request of p goes (RFC 3261 §16.4–16.6). It notes the
// edits in w.edits: our own Route values are removed, and the Request-URI is replaced
// where a strict router or our Contact token requires it.
//
// It looks up nothing but listeners and open connections: everything else is in the
// message (RFC 5626 §5.3).
func (w *worker) routeRequest(p *packet) (r routeDecision, f *fault) {
	m := &p.msg
	w.edits.reset()
	if p.side == edgeSide {
		r.trunk = w.proxy.peers.trunkAt(p.peer.Addr())
		r.stranger = r.trunk == nil
	}
	var uri siptext.URI
	foreign := parseURI(string(m.text(m.uri)), &uri)
	if foreign != nil && foreign != badScheme {
		return r, foreign
	}
	rs, f := w.readRoutes(m)
	if f != nil {
		return r, f
	}
	var tokens poppedTokens
	target := uri
	if w.proxy.listeners.areNamedBy(&uri) {
		switch {
		case hasParam(&uri, "lr") && uri.User != "":
			// A strict router has put our Record-Route into the Request-URI; the
			// original Request-URI is the last Route (RFC 3261 §16.4).
			t, ok := w.sealer.openRouteToken(uri.User, m)
			if !ok {
				return r, forgedRoute
			}
			tokens.add(t)
			if len(rs) == 0 {
				return r, badRoute
			}
			last := rs[len(rs)-1]
			rs = rs[:len(rs)-1]
			w.edits.replace(m.uri, string(m.text(last.uriText)))
			w.removeRoute(m, last)
			target = last.uri
		case hasParam(&uri, contactParam):
			text, _ := uri.Param(contactParam)
			t, ok := w.sealer.openToken(text, inContact)
			if !ok {
				return r, forgedRoute
			}
			tokens.add(t)
			w.proxy.rememberBinding(p, &t)
			aor, to, _ := strings.Cut(t.text, " ")
			r.aor = aor
			w.edits.replace(m.uri, to)
			if f := parseURI(to, &target); f != nil {
				return r, f
			}
		case hasParam(&uri, "maddr"):
			to := stripMaddr(string(m.text(m.uri)), uriPort(&uri))
			w.edits.replace(m.uri, to)
			if f := parseURI(to, &target); f != nil {
				return r, f
			}
		}
	}
	for len(rs) > 0 && w.proxy.listeners.areNamedBy(&rs[0].uri) {
		if u := rs[0].uri.User; u != "" {
			t, ok := w.sealer.openRouteToken(u, m)
			if !ok {
				if t, ok = w.sealer.openToken(u, inPath); ok {
					r.aor = t.text
					if p.side == pbxSide {
						w.proxy.notePathUse(p)
						w.proxy.rememberBinding(p, &t)
					} else if t.flow.peer != p.peer { // only a registrar uses a Path
						w.proxy.diagnoseSource(p.receivedAt, p.peer, true)
					}
				}
			}
			if !ok {
				return r, forgedRoute
			}
			tokens.add(t)
		}
		w.removeRoute(m, rs[0])
		rs = rs[1:]
	}
	next := &target
	if len(rs) > 0 {
		next = &rs[0].uri
		if !hasParam(next, "lr") {
			// The next hop is a strict router: RFC 3261 §16.6 item 6.
			if foreign != nil {
				return r, foreign // applyStrictRoute cannot make a Route of it
			}
			w.applyStrictRoute(m, rs)
		}
	}
	if p.side == edgeSide {
		r.aor = "" // only the PBX names the binding of a request
		return w.routeFromEdge(p, r, next, len(rs) > 0, &tokens)
	}
	if foreign != nil && len(rs) == 0 && !tokens.last.flow.peer.IsValid() {
		return r, foreign // nothing else names a next hop
	}
	return w.routeFromPBX(p, r, next, tokens.last)
}

// routeFromEdge routes a request of a phone or trunk: to the PBX.
//
// Neither Route nor Request-URI can choose another next hop, within a dialog neither,
// because any stranger can write them. The one exception is a dialog that the PBX has
// left to its two ends: a request in it goes to the other end, at the address to which
// the PBX sent the INVITE.
func (w *worker) routeFromEdge(p *packet, r routeDecision, next *siptext.URI, routed bool, tokens *poppedTokens) (routeDecision, *fault) {
	r.dst = pbxSide
	r.edgeFlow, r.byURI = p.flow()
	within := tokens.last.use == inRoute && !p.msg.initial()
	switch {
	case within && tokens.last.unbound && w.oldDialogs.contains(&p.msg):
		return w.routeUnboundFromEdge(p, r, next, tokens)
	case !p.msg.initial() && !w.allRoutesOpen(&p.msg):
		return r, forgedRoute
	case within && !tokens.last.unbound:
		if (tokens.first.direct || tokens.last.direct) && tokens.first != tokens.last && tokens.last.flow.peer != p.peer {
			return w.routeToOtherEnd(p, r, next, &tokens.last)
		}
		if t := &tokens.first; routed && w.proxy.peers.pbxOfURI(next) == nil && (t.next == routeID{} || t.next != newRouteID(next)) {
			return r, routeNotAllowed
		}
		return w.routeToDialogPBX(p, r, next, &tokens.first)
	case !routed:
		return w.routeToAnyPBX(p, r)
	}
	pbx := w.proxy.peers.pbxOfURI(next)
	if pbx == nil || !p.msg.initial() {
		return r, routeNotAllowed // within a dialog, a PBX that is a proxy would follow any URI
	}
	return w.routeToPBX(p, r, pbx)
}

// routeToDialogPBX sends a request within a dialog to the PBX of that dialog.
func (w *worker) routeToDialogPBX(p *packet, r routeDecision, next *siptext.URI, t *token) (routeDecision, *fault) {
	if t.fromPBX && !t.direct && t.target.IsValid() && w.proxy.peers.isPBXHost(t.target.Addr()) {
		return w.routeToAddr(p, r, t.target)
	}
	for _, pbx := range w.proxy.peers.pbx {
		if pbx.id == t.pbx {
			return w.routeToPBX(p, r, pbx)
		}
	}
	if pbx := w.proxy.peers.pbxOfURI(next); pbx != nil { // the dialog's PBX is no longer configured
		return w.routeToPBX(p, r, pbx)
	}
	return w.routeToAnyPBX(p, r)
}

// routeToAnyPBX sends a request to the first PBX that answers.
func (w *worker) routeToAnyPBX(p *packet, r routeDecision) (routeDecision, *fault) {
	pbx, ok := w.proxy.peers.firstAlivePBX()
	if !ok {
		return r, noPBX
	}
	return w.routeToPBX(p, r, pbx)
}

// routeToPBX sends a request to a configured PBX.
func (w *worker) routeToPBX(p *packet, r routeDecision, pbx *pbx) (routeDecision, *fault) {
	r.pbx = pbx.id
	return w.routeToAddr(p, r, pbx.addr)
}

// routeToOtherEnd sends a request within a dialog that the PBX has left to the other end
// of the dialog. t is the token of the Record-Route between the PBX and that end.
func (w *worker) routeToOtherEnd(p *packet, r routeDecision, next *siptext.URI, t *token) (routeDecision, *fault) {
	r.dst, r.edgeFlow, r.byURI = edgeSide, t.flow, t.byURI
	if t.byURI {
		return w.routeToEdge(p, r, w.proxy.peers.limitTarget(next, t.flow))
	}
	return w.routeOverFlow(p, r, nil)
}

// routeUnboundFromEdge routes a request with tokens of version 1 in a dialog that was up
// when this process started. It routes as the version did that made those tokens.
func (w *worker) routeUnboundFromEdge(p *packet, r routeDecision, next *siptext.URI, tokens *poppedTokens) (routeDecision, *fault) {
	last := &tokens.last
	if last.flow.peer.IsValid() && last.flow != tokens.first.flow && last.flow.peer != p.peer {
		r.dst, r.edgeFlow = edgeSide, last.flow
		return w.routeOverFlow(p, r, nil)
	}
	a, known := uriAddr(next)
	pbx := w.proxy.peers.pbxOfAddr(a)
	switch {
	case pbx != nil:
		return w.routeToPBX(p, r, pbx)
	case !known || w.proxy.listeners.areNamedBy(next):
		return w.routeToAnyPBX(p, r)
	case w.proxy.peers.isPBXHost(a.Addr()):
		return w.routeToAddr(p, r, a)
	}
	r.dst = edgeSide
	return w.routeToEdge(p, r, a)
}

// routeFromPBX routes a request of the PBX: over the flow in our token, else by Route,
// else by the Request-URI.
//
// Within a dialog the Request-URI is the remote target, chosen by the other end. It is
// followed without limit only if the PBX has called that end. If that end has called the
// PBX, or if the PBX is a proxy that passes on a request of the edge side, the request
// goes no farther than the end's host.
func (w *worker) routeFromPBX(p *packet, r routeDecision, next *siptext.URI, t token) (routeDecision, *fault) {
	r.dst = edgeSide
	passedOn := !p.msg.initial() && passedBefore(&p.msg)
	switch {
	case t.flow.peer.IsValid() && !t.byURI:
		r.edgeFlow = t.flow
		return w.routeOverFlow(p, r, next)
	case w.proxy.listeners.areNamedBy(next):
		w.proxy.noteCallToUs(p)
		return r, noBinding
	case t.byURI && (!t.fromPBX || passedOn):
		r.edgeFlow, r.byURI = t.flow, true
		return w.routeToEdge(p, r, w.proxy.peers.limitTarget(next, t.flow))
	case passedOn && t.use != inRoute:
		return r, nextHopNotAllowed
	}
	a, ok := uriAddr(next)
	if !ok {
		return r, hostNotResolved
	}
	if pbx := w.proxy.peers.pbxOfAddr(a); pbx != nil {
		a = pbx.addr
	}
	if r.dst = w.proxy.peers.sideAt(a); r.dst == pbxSide {
		return w.routeToAddr(p, r, a)
	}
	r, f := w.routeToEdge(p, r, a)
	if f == nil {
		r.edgeFlow, r.byURI = flow{proto: a.Proto, listenerIndex: r.nextHop.listener.index, listenerPort: r.nextHop.listener.addr.Port(), peer: a.AddrPort}, true
	}
	return r, f
}

// passedBefore reports whether m has passed this proxy before: a Via below the topmost
// is ours.
func passedBefore(m *message) bool {
	for i := range m.fields {
		if f := &m.fields[i]; f.name == hVia && bytes.Contains(m.text(f.value), []byte(cookie+"bh")) {
			return true
		}
	}
	return false
}

// routeToEdge sends a request to an edge-side address that a URI names. A loopback or
// link-local address is refused, unless the sender has such an address too or a trunk is
// at it. Unspecified and multicast addresses, and our own listeners, are always refused.
func (w *worker) routeToEdge(p *packet, r routeDecision, a Addr) (routeDecision, *fault) {
	if w.proxy.listeners.haveAddr(a.AddrPort) {
		return r, noBinding
	}
	ip := a.Addr()
	if ip.IsUnspecified() || ip.IsMulticast() || isLocalOnly(ip) && !isLocalOnly(p.peer.Addr()) && w.proxy.peers.trunkAt(ip) == nil {
		return r, nextHopNotAllowed
	}
	return w.routeToAddr(p, r, a)
}

// isLocalOnly reports whether an address cannot be reached from other networks: loopback
// or link-local.
func isLocalOnly(ip netip.Addr) bool { return ip.IsLoopback() || ip.IsLinkLocalUnicast() }

// routeOverFlow sends a request to the peer of r.edgeFlow, over the flow's listener or
// connection (RFC 5626 §5.3). If the connection is closed, another one may be opened to
// the same host at the port that uri names; with a nil uri the flow has failed.
func (w *worker) routeOverFlow(p *packet, r routeDecision, uri *siptext.URI) (routeDecision, *fault) {
	fl := r.edgeFlow
	switch fl.proto {
	case UDP:
		r.nextHop = destination{listener: w.proxy.listeners.findForFlow(fl, p.listener), addr: fl.peer}
		if r.nextHop.listener == nil {
			return r, noTransport
		}
		if w.proxy.listeners.haveAddr(fl.peer) {
			return r, noBinding
		}
		return r, nil
	case TCP:
		if c := w.proxy.streams.findStream(fl.peer, fl.connID); c != nil {
			r.nextHop = destination{listener: c.listener, addr: fl.peer, conn: c}
			return r, nil
		}
		if uri == nil {
			return r, flowFailed
		}
		if a, ok := uriAddr(uri); ok && a.Proto == TCP && a.Addr() == fl.peer.Addr() {
			return w.routeToEdge(p, r, a)
		}
	}
	return r, flowFailed
}

// routeToAddr sends a request to an address, and opens a stream for TCP if there is
// none.
func (w *worker) routeToAddr(p *packet, r routeDecision, a Addr) (routeDecision, *fault) {
	l := w.proxy.listeners.find(a.Proto, a.Addr(), p.listener)
	if l == nil {
		return r, noTransport
	}
	r.nextHop = destination{listener: l, addr: a.AddrPort}
	if a.Proto == TCP {
		r.nextHop.conn = w.proxy.streams.openTo(a.AddrPort, l)
	}
	return r, nil
}
