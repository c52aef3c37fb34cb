package sip

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"

	"bellhop/dialog"
	"bellhop/dialog/siptext"
	"bellhop/sip/resolve"
)

// routeDecision is the destination of a request, with the data about it that Record-Route,
// Path and the observation need.
type routeDecision struct {
	nextHop  destination
	dst      dialog.Side
	edgeFlow flow      // to the peer on the edge side, for Record-Route and Path
	byURI    bool      // see packet.flow
	flowGone bool      // the flow to the phone is closed, so the URI gives the next hop
	binding  bindingID // binding that edgeFlow belongs to; zero: none
	pbx      pbxID     // PBX that an edge-side request goes to
	target   *target   // of a PBX or trunk, that nextHop is; nil: another address
	left     []*target // further targets for failover; valid until the next request is routed
	aor      string    // address-of-record of the binding that the request is sent to

	name resolve.Target // to be looked up, if the fault is lookupNeeded

	contactPBX pbxID // PBX whose Contact the Request-URI was, if we had replaced that Contact

	trunk    *Trunk // trunk that the request comes from, or nil
	stranger bool   // the request comes from neither PBX nor trunk
}

// Responses to requests that cannot be routed. An unreachable next hop has status 500,
// because it counts as 503, and a proxy forwards 503 as 500 (RFC 3261 §16.7, §16.9).
var (
	forgedRoute       = &fault{403, "Forged Route"}
	routeNotAllowed   = &fault{403, "Route Not Allowed"}
	badURI            = &fault{400, "Malformed Request-URI"}
	badRoute          = &fault{400, "Malformed Route"}
	noBinding         = &fault{404, "Not Found"}
	hostNotResolved   = &fault{500, "Next Hop Not Resolved"}
	lookupNeeded      = &fault{500, "Next Hop Not Resolved"} // a new request waits instead: see lookUpName
	loopDetected      = &fault{482, "Loop Detected"}
	noTransport       = &fault{500, "No Transport To Next Hop"}
	noPBX             = &fault{500, "No PBX Answers"}
	flowFailed        = &fault{430, "Flow Failed"}
	nextHopNotAllowed = &fault{403, "Next Hop Not Allowed"}
	onlyForPBX        = &fault{403, "Only The PBX May Send Here"}
)

// router decides where requests go (RFC 3261 §16.4–16.6). It uses the message, the
// configuration, the PBXs that are up, the open connections, and the dialogs of
// [Proxy.RestoreDialogs]. It keeps nothing of a request for the next one, because the
// tokens in the messages contain the routing state (RFC 5626 §5.3).
type router struct {
	proxy      *Proxy
	peers      *peers
	listeners  *listeners
	sealer     *sealer
	oldDialogs oldDialogs
	routes     routeSet // of the request that was read last
	edits      *splice  // of that request

	onlyTarget *target        // not nil: a request goes to it again, after other targets have failed
	answer     resolve.Answer // to the lookup that the request needed before; pending: none was needed
	targets    []*target      // scratch
	resolved   []resolve.Addr // scratch
	ranked     []*pbx         // scratch
}

// routeRequest decides where the request of p goes. It notes two kinds of edits in
// rt.edits: it removes our own Routes, and it replaces the Request-URI if a strict
// router, our Contact token or our maddr requires it.
func (rt *router) routeRequest(p *packet) (r routeDecision, f *fault) {
	m := &p.msg
	rt.edits.reset()
	if !p.listener.serves(p.side) {
		return r, onlyForPBX
	}
	if p.side == edgeSide {
		r.trunk = rt.peers.trunkOf(p)
		r.stranger = r.trunk == nil
	}
	var target siptext.URI
	foreign := parseURI(string(m.text(m.uri)), &target)
	if foreign != nil && foreign != badScheme {
		return r, foreign
	}
	if f := rt.routes.read(m, rt.edits); f != nil {
		return r, f
	}
	var tokens poppedTokens
	if f := rt.restoreTarget(p, &r, &target, &tokens); f != nil {
		return r, f
	}
	if f := rt.popOwnRoutes(p, &r, &tokens); f != nil {
		return r, f
	}
	next, routed := &target, !rt.routes.empty()
	if routed {
		next = &rt.routes.first().uri
		if !hasParam(next, "lr") {
			// The next hop is a strict router: RFC 3261 §16.6 item 6.
			if foreign != nil {
				return r, foreign // moveFirstToURI cannot make a Route of it
			}
			rt.routes.moveFirstToURI()
		}
	}
	if p.side == edgeSide {
		r.aor = "" // only requests of the PBX are sent to a binding
		f = rt.routeFromEdge(p, &r, next, routed, &tokens)
		return r, f
	}
	if foreign != nil && !routed && !tokens.last.flow.peer.IsValid() {
		return r, foreign // nothing else names a next hop
	}
	f = rt.routeFromPBX(p, &r, next, &tokens.last)
	return r, f
}

// restoreTarget replaces a Request-URI that names the proxy by the URI of the real target
// (RFC 3261 §16.4). There are three cases: a strict router has put our Record-Route into
// the Request-URI, a PBX calls a Contact that we have rewritten, or maddr is our address.
// Any other Request-URI stays.
func (rt *router) restoreTarget(p *packet, r *routeDecision, target *siptext.URI, tokens *poppedTokens) *fault {
	if !rt.listeners.areNamedBy(target) {
		return nil
	}
	m, edits := &p.msg, rt.edits
	switch {
	case hasParam(target, "lr") && target.User != "":
		t, ok := rt.sealer.openRouteToken(target.User, m)
		if !ok {
			return forgedRoute
		}
		tokens.add(t)
		if rt.routes.empty() {
			return badRoute
		}
		last := rt.routes.last() // the original Request-URI
		edits.replace(m.uri, string(m.text(last.uriText)))
		rt.routes.removeLast()
		*target = last.uri
	case hasParam(target, contactParam):
		text, _ := target.Param(contactParam)
		if to, pbx, ok := rt.sealer.openPBXContact(text); ok {
			r.contactPBX = pbx
			edits.replace(m.uri, to)
			return parseURI(to, target)
		}
		t, ok := rt.sealer.openToken(text, inContact)
		if !ok {
			return forgedRoute
		}
		tokens.add(t)
		rt.proxy.sources.rememberBinding(p, &t)
		aor, to, _ := strings.Cut(t.text, " ")
		r.aor = aor
		edits.replace(m.uri, to)
		return parseURI(to, target)
	case hasParam(target, "maddr"):
		to := stripMaddr(string(m.text(m.uri)), uriPort(target))
		edits.replace(m.uri, to)
		return parseURI(to, target)
	}
	return nil
}

// popOwnRoutes removes the Routes that name the proxy from the top of the route set, and
// opens their tokens.
func (rt *router) popOwnRoutes(p *packet, r *routeDecision, tokens *poppedTokens) *fault {
	for !rt.routes.empty() && rt.listeners.areNamedBy(&rt.routes.first().uri) {
		if user := rt.routes.first().uri.User; user != "" {
			t, ok := rt.openOwnRoute(p, r, user)
			if !ok {
				return forgedRoute
			}
			tokens.add(t)
		}
		rt.routes.removeFirst()
	}
	return nil
}

// openOwnRoute opens the token in a Route that names the proxy. The token comes from our
// Record-Route in p's dialog, or from our Path. A Path token gives the address-of-record
// of the binding that the request is sent to.
func (rt *router) openOwnRoute(p *packet, r *routeDecision, text string) (t token, ok bool) {
	if t, ok = rt.sealer.openRouteToken(text, &p.msg); ok {
		return t, true
	}
	if t, ok = rt.sealer.openToken(text, inPath); !ok {
		return t, false
	}
	r.aor = t.text
	if p.side == pbxSide {
		rt.proxy.notePathUse(p)
		rt.proxy.sources.rememberBinding(p, &t)
	} else if t.flow.peer != p.peer { // only a PBX uses the Path of another peer
		rt.proxy.diagnoseSource(p.receivedAt, p.listener, p.peer, true)
	}
	return t, true
}

// allRoutesOpen reports whether each remaining Route of m that names us has a token of
// m's dialog. With any other such Route, the sender could make a PBX that is a proxy send
// the request back to us.
func (rt *router) allRoutesOpen(m *message) bool {
	for i := range rt.routes.remaining() {
		u := &rt.routes.remaining()[i].uri
		if !rt.listeners.areNamedBy(u) {
			continue
		}
		if _, ok := rt.sealer.openRouteToken(u.User, m); !ok {
			return false
		}
	}
	return true
}

// hasOwnRoute reports whether a Route of m carries a token that the proxy issued in the
// dialog of m. Such a request is not forged, even if its source is no longer known
// because the call has lasted for more than an hour.
func (rt *router) hasOwnRoute(m *message) bool {
	if rt.routes.read(m, nil) != nil {
		return false
	}
	for i := range rt.routes.values {
		if u := &rt.routes.values[i].uri; u.User != "" && rt.listeners.areNamedBy(u) {
			if t, ok := rt.sealer.openRouteToken(u.User, m); ok && (!t.unbound || rt.oldDialogs.contains(m)) {
				return true
			}
		}
	}
	return false
}

// poppedTokenNames reports whether a Route that was removed from m has a token whose flow
// leads to the address ip. The token must be bound to m's dialog. m must be the request
// that was routed last.
func (rt *router) poppedTokenNames(ip netip.Addr, m *message) bool {
	for i := range rt.routes.values {
		if user := rt.routes.values[i].uri.User; rt.routes.isRemoved(i) && user != "" {
			if t, ok := rt.sealer.openRouteToken(user, m); ok && !t.unbound && t.flow.peer.Addr() == ip {
				return true
			}
		}
	}
	return false
}

// routeFromEdge routes a request of a phone or trunk to a PBX. A request with our token
// goes to the PBX of its dialog. Otherwise an initial request goes to the configured PBX
// that its Route names. A request without Route goes to the first PBX that is up. No
// Route or Request-URI can choose another next hop, because any stranger can write them.
//
// There are two exceptions. If the PBX has left the dialog to its two ends, a request
// goes to the other end: see routeToOtherEnd. Tokens of version 1 are valid in the
// dialogs of [Proxy.RestoreDialogs]: see routeUnboundFromEdge.
func (rt *router) routeFromEdge(p *packet, r *routeDecision, next *siptext.URI, routed bool, tokens *poppedTokens) *fault {
	r.dst = pbxSide
	r.edgeFlow, r.byURI = p.flow()
	if r.trunk == nil && needsRecordRoute(&p.msg) {
		var buf [128]byte
		r.binding = rt.proxy.bindings.ofFlow(p.receivedAt, r.edgeFlow, p.msg.appendAOR(buf[:0], p.msg.from), !r.byURI)
	}
	within := tokens.last.use == inRoute && !p.msg.initial()
	switch {
	case within && tokens.last.unbound && rt.oldDialogs.contains(&p.msg):
		return rt.routeUnboundFromEdge(p, r, next, tokens)
	case !p.msg.initial() && !rt.allRoutesOpen(&p.msg):
		return forgedRoute
	case within && !tokens.last.unbound:
		if (tokens.first.direct || tokens.last.direct) && tokens.first != tokens.last && tokens.last.flow.peer != p.peer {
			return rt.routeToOtherEnd(p, r, next, &tokens.last)
		}
		if t := &tokens.first; routed && rt.peers.pbxOfURI(next) == nil && (t.next == routeID{} || t.next != newRouteID(next)) {
			return routeNotAllowed
		}
		return rt.routeToDialogPBX(p, r, next, &tokens.first)
	case !routed:
		return rt.routeToNamedPBX(p, r, next)
	}
	pbx := rt.peers.pbxOfURI(next)
	if !p.msg.initial() || !slices.Contains(rt.peers.configured(), pbx) {
		return routeNotAllowed // within a dialog, a PBX that is a proxy would follow any URI
	}
	return rt.routeToPBX(p, r, pbx)
}

// routeToDialogPBX routes a request within a dialog to the PBX in the dialog's token t.
// If that PBX is no longer known, the request goes to the configured PBX that next names,
// or else to the first PBX that is up.
func (rt *router) routeToDialogPBX(p *packet, r *routeDecision, next *siptext.URI, t *token) *fault {
	if t.fromPBX && !t.direct && t.pbx == (pbxID{}) && t.target.IsValid() && rt.peers.isPBXHost(t.target.Addr()) {
		return rt.routeToAddr(p, r, t.target)
	}
	for _, pbx := range rt.peers.known() {
		if pbx.id == t.pbx {
			return rt.routeWithinDialog(p, r, pbx, t.target)
		}
	}
	if pbx := rt.peers.pbxOfURI(next); pbx != nil { // the dialog's PBX is no longer known
		return rt.routeToPBX(p, r, pbx)
	}
	return rt.routeToAnyPBX(p, r)
}

// routeToNamedPBX routes a request without Route. It goes to the PBX that its Request-URI
// names, if that PBX is up, in two cases: the Request-URI was our Contact in place of the
// PBX's, or the request comes from a trunk with which the PBX has registered. All other
// requests go to the first PBX that is up.
func (rt *router) routeToNamedPBX(p *packet, r *routeDecision, target *siptext.URI) *fault {
	named := r.contactPBX
	if named == (pbxID{}) && r.trunk != nil {
		if pbx := rt.peers.pbxOfURI(target); pbx != nil {
			named = pbx.id
		}
	}
	for _, pbx := range rt.peers.configured() {
		if pbx.id == named && pbx.up() {
			return rt.routeToPBX(p, r, pbx)
		}
	}
	return rt.routeToAnyPBX(p, r)
}

// routeToOtherEnd routes a request within a dialog directly to the other end, because the
// PBX is no longer in the dialog. t is our Record-Route token between the PBX and that
// end.
func (rt *router) routeToOtherEnd(p *packet, r *routeDecision, next *siptext.URI, t *token) *fault {
	r.dst, r.binding = edgeSide, t.binding
	if rt.takeFlow(p, r, t) {
		return rt.checkFlow(r)
	}
	if t.byURI {
		return rt.routeWithinLimit(p, r, next, t)
	}
	return t.flow.closedFault()
}

// routeToAnyPBX routes a new request to a PBX that is up.
func (rt *router) routeToAnyPBX(p *packet, r *routeDecision) *fault {
	rt.choosePBXTargets(p)
	return rt.routeToTargets(p, r, rt.targets)
}

// routeToPBX routes a request to a configured PBX, whether it is up or not. Targets to be
// avoided come last.
func (rt *router) routeToPBX(p *packet, r *routeDecision, pbx *pbx) *fault {
	rt.targets, rt.resolved = pbx.appendTargets(rt.targets[:0], rt.resolved, p.msg.text(p.msg.callID))
	rt.sortAvoided(p.receivedAt)
	return rt.routeToTargets(p, r, rt.targets)
}

// routeWithinDialog routes a request within a dialog to the PBX of the dialog, whether it
// is up or not. at is the address of the PBX in the dialog, if the PBX has a name. Only
// that address knows the dialog. If the name no longer leads there, the PBX may have moved
// with its dialogs. The other addresses are then for failover.
func (rt *router) routeWithinDialog(p *packet, r *routeDecision, pbx *pbx, at Addr) *fault {
	if !at.IsValid() {
		f := rt.routeToPBX(p, r, pbx)
		r.left = nil
		return f
	}
	if t := pbx.targetAt(at); t != nil {
		rt.targets = append(rt.targets[:0], t)
		return rt.routeToTargets(p, r, rt.targets)
	}
	at.Host = pbx.config.Host
	rt.targets, rt.resolved = pbx.appendTargets(append(rt.targets[:0], rt.proxy.newTarget(&pbx.remote, at)), rt.resolved, p.msg.text(p.msg.callID))
	return rt.routeToTargets(p, r, rt.targets)
}

// choosePBXTargets sets rt.targets to the targets for a new request of the edge side. It
// takes the targets that are up, or a single one in any case, in the order of
// Config.PBXMode, and makes two changes: targets that rest move to the end, and the PBX
// that has challenged the request, or where the sender is registered, moves to the front.
func (rt *router) choosePBXTargets(p *packet) {
	set, m, now := rt.peers.pbxs.Load(), &p.msg, p.receivedAt
	rt.targets = rt.targets[:0]
	if !set.several() {
		rt.targets = append(rt.targets, set.all[0].view.Load().targets...)
		return
	}
	var buf [128]byte
	aor := m.appendAOR(buf[:0], m.from)
	key := aor
	if len(key) == 0 {
		key = m.text(m.callID)
	}
	rt.rankPBXs(set, key)
	for _, pbx := range rt.ranked {
		rt.targets, rt.resolved = pbx.appendTargets(rt.targets, rt.resolved, key)
	}
	rt.targets = oneOfEachServer(rt.targets)
	if set.severalTargets() { // else the only one may still be down from when it was one of several
		rt.targets = slices.DeleteFunc(rt.targets, func(t *target) bool { return !t.up() })
	}
	rt.sortAvoided(now)
	var first *target
	if m.hasField(hAuthorization) {
		first = rt.proxy.affinities.get(now, ofChallenger, m.text(m.callID))
	}
	if first == nil && !m.isMethod("REGISTER") {
		first = rt.proxy.affinities.get(now, ofRegistrar, aor)
	}
	if first == nil {
		return
	}
	if i := slices.IndexFunc(rt.targets, first.isServerOf); i > 0 && !rt.targets[i].resting(now) {
		t := rt.targets[i]
		copy(rt.targets[1:], rt.targets[:i])
		rt.targets[0] = t
	}
}

// rankPBXs sets rt.ranked to the PBXs of a set in the order of Config.PBXMode. The order
// for SpreadPBX depends on the key. If a PBX is added or removed, few keys change their
// order (rendezvous hashing).
func (rt *router) rankPBXs(set *pbxSet, key []byte) {
	rt.ranked = append(rt.ranked[:0], set.all...)
	if rt.proxy.cfg.PBXMode == SpreadPBX {
		slices.SortFunc(rt.ranked, func(a, b *pbx) int {
			return cmp.Compare(stableHash(key, string(a.id[:])), stableHash(key, string(b.id[:])))
		})
	}
}

// sortAvoided moves the targets to be avoided to the end of rt.targets.
func (rt *router) sortAvoided(now instant) {
	slices.SortStableFunc(rt.targets, func(a, b *target) int {
		switch x, y := a.avoided(now), b.avoided(now); {
		case x && !y:
			return 1
		case y && !x:
			return -1
		}
		return 0
	})
}

// routeToTargets routes a request to the first of its targets that a listener reaches. The
// others are for failover.
func (rt *router) routeToTargets(p *packet, r *routeDecision, targets []*target) *fault {
	if rt.onlyTarget != nil {
		targets = append(targets[:0], rt.onlyTarget)
	}
	f := noPBX
	for i, t := range targets {
		if f = rt.routeToAddr(p, r, t.Addr); f == nil {
			r.target, r.left = t, targets[i+1:]
			if t.remote.pbx != nil {
				r.pbx = t.remote.pbx.id
			}
			return nil
		}
	}
	return f
}

// routeToAddr makes an address the next hop of a request.
func (rt *router) routeToAddr(p *packet, r *routeDecision, a Addr) *fault {
	if a.Proto.secure() && !rt.peers.canDial(a) && rt.proxy.streams.findStream(a, 0) == nil {
		return flowFailed // a phone, which does not listen
	}
	to, ok := rt.proxy.destinationAt(a, r.dst, p.listener)
	if !ok {
		return noTransport
	}
	r.nextHop = to
	return nil
}
