package sip

import (
	"bytes"
	"net/netip"
	"strconv"
	"strings"

	"bellhop/dialog"

	msg "github.com/emiago/sipgo/sip"
)

const (
	edgeSide = dialog.Edge
	pbxSide  = dialog.PBX
)

// A way is how a message leaves: from one of our listeners, to an address, and
// on a stream if it is one.
type destination struct {
	listener *listener
	addr     netip.AddrPort
	conn     *stream // nil over UDP
}

func (w destination) reliable() bool { return w.conn != nil }

// peer is the address of who gets what leaves. On a stream it need not be the
// one in to, which is where another is opened when that has ended.
func (w destination) peer() netip.AddrPort {
	if w.conn != nil {
		return w.conn.peer
	}
	return w.addr
}

// routing is the answer to where a request goes.
type routeDecision struct {
	nextHop  destination
	dst      dialog.Side
	edgeFlow flow   // to the peer on the edge side, for Record-Route and Path
	byURI    bool   // edge says at which host the peer is, and URIs where there
	pbx      pbxID  // the PBX that an edge-side request goes to
	aor      string // who registered the binding that the request is sent to

	trunk    *Trunk // that the request comes from, nil if none
	stranger bool   // the request comes from neither PBX nor trunk
}

// Faults of routing. A next hop that cannot be reached counts as 503, which
// leaves as 500 (RFC 3261 §16.7, §16.9).
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

// route decides where the request of p goes, RFC 3261 §16.4–16.6, and notes in
// w.splice what that changes in it: our own Route values are taken off, and
// the Request-URI is changed where a strict router or our Contact token asks
// for it. Nothing is looked up but the listeners and open connections: what it
// needs to know is in the message (RFC 5626 §5.3).
func (w *worker) routeRequest(p *packet) (r routeDecision, f *fault) {
	m := &p.msg
	w.edits.reset()
	if p.side == edgeSide {
		r.trunk = w.proxy.trunkAt(p.peer.Addr())
		r.stranger = r.trunk == nil
	}
	var uri msg.Uri
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
	if w.namesUs(&uri) {
		switch {
		case strings.Contains(uri.User, "@"):
			return r, badURI
		case hasParam(&uri, "lr") && uri.User != "":
			// A strict router put our own Record-Route here; what it was meant
			// for is the last Route (RFC 3261 §16.4).
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
			t, ok := w.sealer.openToken(paramValue(&uri, contactParam), inContact)
			if !ok {
				return r, forgedRoute
			}
			tokens.add(t)
			w.proxy.rememberBinding(p, &t)
			aor, to, _ := strings.Cut(t.text, " ")
			r.aor = aor
			w.edits.replace(m.uri, to)
			target = msg.Uri{}
			if f := parseURI(to, &target); f != nil {
				return r, f
			}
		case hasParam(&uri, "maddr"):
			to := stripMaddr(string(m.text(m.uri)), uri.Port)
			w.edits.replace(m.uri, to)
			target = msg.Uri{}
			if f := parseURI(to, &target); f != nil {
				return r, f
			}
		}
	}
	for len(rs) > 0 && w.namesUs(&rs[0].uri) {
		if u := rs[0].uri.User; u != "" {
			t, ok := w.sealer.openRouteToken(u, m)
			if !ok {
				if t, ok = w.sealer.openToken(u, inPath); ok {
					r.aor = t.text
					if p.side == pbxSide {
						w.proxy.notePathUse(p)
						w.proxy.rememberBinding(p, &t)
					} else if t.flow.peer != p.peer { // only a registrar sends along it
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
				return r, foreign // no Route can be made of it
			}
			w.applyStrictRoute(m, rs)
		}
	}
	if p.side == edgeSide {
		r.aor = "" // the PBX alone says whom a binding belongs to
		return w.routeFromEdge(p, r, next, len(rs) > 0, &tokens)
	}
	if foreign != nil && len(rs) == 0 && !tokens.last.flow.peer.IsValid() {
		return r, foreign // it alone would say where to
	}
	return w.routeFromPBX(p, r, next, tokens.last)
}

// taken are the tokens of the Routes that were taken off a request.
type poppedTokens struct {
	first, last token
	n           int
}

func (t *poppedTokens) add(k token) {
	if t.n++; t.n == 1 {
		t.first = k
	}
	t.last = k
}

// fromEdge routes what phones and trunks send: to the PBX. Neither Route nor
// Request-URI chooses another next hop, within a dialog neither: they are what a
// stranger can write. Only where the PBX has left a dialog to its two ends does a
// request go to the other end, at the address to which the PBX sent the INVITE.
func (w *worker) routeFromEdge(p *packet, r routeDecision, next *msg.Uri, routed bool, tokens *poppedTokens) (routeDecision, *fault) {
	r.dst = pbxSide
	r.edgeFlow, r.byURI = w.flowOf(p)
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
		if t := &tokens.first; routed && w.pbxOfURI(next) == nil && (t.next == routeID{} || t.next != newRouteID(next)) {
			return r, routeNotAllowed
		}
		return w.routeToDialogPBX(p, r, next, &tokens.first)
	case !routed:
		return w.routeToAnyPBX(p, r)
	}
	pbx := w.pbxOfURI(next)
	if pbx == nil || !p.msg.initial() {
		return r, routeNotAllowed // within a dialog a PBX that is a proxy would follow the URI anywhere
	}
	return w.routeToPBX(p, r, pbx)
}

// allOpen reports whether each Route of m that names us has a token of m's dialog.
// One that has none would lead back to us through a PBX that is a proxy.
func (w *worker) allRoutesOpen(m *message) bool {
	for i := range w.routeValues {
		r := &w.routeValues[i]
		if r.field < 0 || !w.namesUs(&r.uri) {
			continue // taken off, or another's
		}
		if _, ok := w.sealer.openRouteToken(r.uri.User, m); !ok {
			return false
		}
	}
	return true
}

// namesPBX returns the configured PBX that a URI names, nil if it names none.
func (w *worker) pbxOfURI(u *msg.Uri) *pbx {
	a, ok := uriAddr(u)
	if !ok {
		return nil
	}
	return w.proxy.pbxOfAddr(a)
}

// toDialogPBX sends a request within a dialog to the PBX that the dialog is with.
func (w *worker) routeToDialogPBX(p *packet, r routeDecision, next *msg.Uri, t *token) (routeDecision, *fault) {
	if t.fromPBX && !t.direct && t.target.IsValid() && w.proxy.isPBXHost(t.target.Addr()) {
		return w.routeToAddr(p, r, t.target)
	}
	for _, pbx := range w.proxy.pbx {
		if pbx.id == t.pbx {
			return w.routeToPBX(p, r, pbx)
		}
	}
	if pbx := w.pbxOfURI(next); pbx != nil { // the dialog's is not in the configuration any more
		return w.routeToPBX(p, r, pbx)
	}
	return w.routeToAnyPBX(p, r)
}

func (w *worker) routeToAnyPBX(p *packet, r routeDecision) (routeDecision, *fault) {
	pbx, ok := w.proxy.firstAlivePBX()
	if !ok {
		return r, noPBX
	}
	return w.routeToPBX(p, r, pbx)
}

func (w *worker) routeToPBX(p *packet, r routeDecision, pbx *pbx) (routeDecision, *fault) {
	r.pbx = pbx.id
	return w.routeToAddr(p, r, pbx.addr)
}

// toOtherEnd sends a request within a dialog that the PBX is not in to the other
// end: t is the token of the Record-Route between the PBX and that end.
func (w *worker) routeToOtherEnd(p *packet, r routeDecision, next *msg.Uri, t *token) (routeDecision, *fault) {
	r.dst, r.edgeFlow, r.byURI = edgeSide, t.flow, t.byURI
	if t.byURI {
		return w.routeToEdge(p, r, w.limitTarget(next, t.flow))
	}
	return w.routeOverFlow(p, r, nil)
}

// believed is where a URI leads whose author the PBX has not vouched for: to where
// it says if that is at the flow's host, or at the same trunk; else to the peer of
// the flow.
func (w *worker) limitTarget(u *msg.Uri, fl flow) Addr {
	if a, ok := uriAddr(u); ok {
		trunk := w.proxy.trunkAt(a.Addr())
		if a.Addr() == fl.peer.Addr() || trunk != nil && trunk == w.proxy.trunkAt(fl.peer.Addr()) {
			return a
		}
	}
	return Addr{fl.proto, fl.peer}
}

// fromEdgeUnbound routes a request with tokens of version 1 in a dialog that was
// up when this process began, as the build did that made them.
func (w *worker) routeUnboundFromEdge(p *packet, r routeDecision, next *msg.Uri, tokens *poppedTokens) (routeDecision, *fault) {
	last := &tokens.last
	if last.flow.peer.IsValid() && last.flow != tokens.first.flow && last.flow.peer != p.peer {
		r.dst, r.edgeFlow = edgeSide, last.flow
		return w.routeOverFlow(p, r, nil)
	}
	a, known := uriAddr(next)
	pbx := w.proxy.pbxOfAddr(a)
	switch {
	case pbx != nil:
		return w.routeToPBX(p, r, pbx)
	case !known || w.namesUs(next):
		return w.routeToAnyPBX(p, r)
	case w.proxy.isPBXHost(a.Addr()):
		return w.routeToAddr(p, r, a)
	}
	r.dst = edgeSide
	return w.routeToEdge(p, r, a)
}

// fromPBX routes what the PBX sends: over the flow our token names, else by
// Route, else by the Request-URI. Within a dialog the URI is the remote target, which
// the other end has chosen. It is believed of one that the PBX has called itself; of
// one that has called the PBX, or to whom the PBX, a proxy, only passes on what comes
// from the edge side, not farther than its host.
func (w *worker) routeFromPBX(p *packet, r routeDecision, next *msg.Uri, t token) (routeDecision, *fault) {
	r.dst = edgeSide
	passedOn := !p.msg.initial() && passedBefore(&p.msg)
	switch {
	case t.flow.peer.IsValid() && !t.byURI:
		r.edgeFlow = t.flow
		return w.routeOverFlow(p, r, next)
	case w.namesUs(next):
		w.proxy.noteCallToUs(p)
		return r, noBinding
	case t.byURI && (!t.fromPBX || passedOn):
		r.edgeFlow, r.byURI = t.flow, true
		return w.routeToEdge(p, r, w.limitTarget(next, t.flow))
	case passedOn && t.use != inRoute:
		return r, nextHopNotAllowed
	}
	a, ok := uriAddr(next)
	if !ok {
		return r, hostNotResolved
	}
	if pbx := w.proxy.pbxOfAddr(a); pbx != nil {
		a = pbx.addr
	}
	if r.dst = w.proxy.sideAt(a); r.dst == pbxSide {
		return w.routeToAddr(p, r, a)
	}
	r, f := w.routeToEdge(p, r, a)
	if f == nil {
		r.edgeFlow, r.byURI = flow{proto: a.Proto, listenerIndex: r.nextHop.listener.index, listenerPort: r.nextHop.listener.addr.Port(), peer: a.AddrPort}, true
	}
	return r, f
}

// passedOn reports whether m has been here before: a Via below the topmost is ours.
func passedBefore(m *message) bool {
	for i := range m.fields {
		if f := &m.fields[i]; f.name == hVia && bytes.Contains(m.text(f.value), []byte(cookie+"bh")) {
			return true
		}
	}
	return false
}

// toEdge sends to an address on the edge side that a URI names. It may not be one
// of this machine's own, unless the sender or a trunk is there too.
func (w *worker) routeToEdge(p *packet, r routeDecision, a Addr) (routeDecision, *fault) {
	if w.proxy.listensAt(a.AddrPort) {
		return r, noBinding
	}
	ip := a.Addr()
	if ip.IsUnspecified() || ip.IsMulticast() || isLocalOnly(ip) && !isLocalOnly(p.peer.Addr()) && w.proxy.trunkAt(ip) == nil {
		return r, nextHopNotAllowed
	}
	return w.routeToAddr(p, r, a)
}

// inward reports whether an address is not to be reached from other networks:
// loopback, or link-local.
func isLocalOnly(ip netip.Addr) bool { return ip.IsLoopback() || ip.IsLinkLocalUnicast() }

// overFlow sends to the peer of a flow the way it came (RFC 5626 §5.3). When its
// stream is gone another may be opened to the same address, at the port that
// the URI names; nil: none is.
func (w *worker) routeOverFlow(p *packet, r routeDecision, uri *msg.Uri) (routeDecision, *fault) {
	fl := r.edgeFlow
	switch fl.proto {
	case UDP:
		r.nextHop = destination{listener: w.proxy.listenerOfFlow(fl, p.listener), addr: fl.peer}
		if r.nextHop.listener == nil {
			return r, noTransport
		}
		if w.proxy.listensAt(fl.peer) {
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

// over sends to an address.
func (w *worker) routeToAddr(p *packet, r routeDecision, a Addr) (routeDecision, *fault) {
	l := w.proxy.listenerFor(a.Proto, a.Addr(), p.listener)
	if l == nil {
		return r, noTransport
	}
	r.nextHop = destination{listener: l, addr: a.AddrPort}
	if a.Proto == TCP {
		r.nextHop.conn = w.proxy.streams.openTo(a.AddrPort, l)
	}
	return r, nil
}

// flowOf is the flow on which p came. byURI says that requests do not go back over
// it: the peer is not the client itself, or does not hear where it sends from.
func (w *worker) flowOf(p *packet) (fl flow, byURI bool) {
	m := &p.msg
	fl = flow{proto: p.listener.proto, listenerIndex: p.listener.index, listenerPort: p.listener.addr.Port(), peer: p.peer}
	if p.conn != nil {
		fl.connID = p.conn.id
	}
	symmetric := p.conn != nil || m.via.hasRport || sentByAddr(m) == p.peer
	return fl, m.hasNextVia() || !symmetric
}

// sentBy is the address in the topmost Via; invalid if it is a name.
func sentByAddr(m *message) netip.AddrPort {
	ip, err := netip.ParseAddr(strings.Trim(string(m.text(m.via.host)), "[]"))
	if err != nil {
		return netip.AddrPort{}
	}
	port := m.via.port
	if port == 0 {
		port = 5060
	}
	return netip.AddrPortFrom(ip, uint16(port))
}

// A routeValue is one value of a Route header field.
type routeValue struct {
	uri     msg.Uri
	uriText span // the URI's text
	value   span // the value, without the commas around it
	field   int  // index in message.fields
}

// routes reads all Route values, the ones that share a field too.
func (w *worker) readRoutes(m *message) ([]routeValue, *fault) {
	w.routeValues = w.routeValues[:0]
	for i := range m.fields {
		f := &m.fields[i]
		if f.name != hRoute {
			continue
		}
		for v := f.value; v.from < v.to; {
			end := valueEnd(m.b, v)
			if end < 0 {
				return nil, badRoute
			}
			one := trimSpan(m.b, span{v.from, end})
			uri, _, ok := splitNameAddr(m.b, one)
			if !ok || len(w.routeValues) >= maxRoutes {
				return nil, badRoute
			}
			r := routeValue{uriText: uri, value: one, field: i}
			if parseURI(string(m.text(uri)), &r.uri) != nil {
				return nil, badRoute
			}
			w.routeValues = append(w.routeValues, r)
			v.from = skipSpace(m.b, end+1, v.to)
		}
	}
	return w.routeValues, nil
}

// endOfValue returns where the first of several comma-separated values ends,
// or -1 when its quotes do not pair.
func valueEnd(b []byte, v span) int32 {
	for i := v.from; i < v.to; i++ {
		switch b[i] {
		case '"':
			if i = closingQuote(b, i, v.to); i < 0 {
				return -1
			}
		case '<':
			for i < v.to && b[i] != '>' {
				i++
			}
		case ',':
			return i
		}
	}
	return v.to
}

func trimSpan(b []byte, v span) span {
	for v.from < v.to && isSpace(b[v.from]) {
		v.from++
	}
	for v.to > v.from && isSpace(b[v.to-1]) {
		v.to--
	}
	return v
}

// removeRoute takes one value out: the whole field when it is alone in it,
// else with the comma behind it, or before it if it is the last.
func (w *worker) removeRoute(m *message, r routeValue) {
	f := &m.fields[r.field]
	v := r.value
	if left := w.countRoutes(r.field); left == 1 {
		w.edits.remove(f.line)
		w.dropFieldEdits(f.line)
	} else {
		if v.to < f.value.to {
			v.to = skipSpace(m.b, v.to, f.value.to)
			v.to = skipSpace(m.b, v.to+1, f.value.to)
		} else {
			for v.from > f.value.from && m.b[v.from] != ',' {
				v.from--
			}
		}
		w.edits.remove(v)
	}
	w.markRouteRemoved(r)
}

// routeLeft counts the values of a field that were not removed.
func (w *worker) countRoutes(field int) (n int) {
	for i := range w.routeValues {
		if w.routeValues[i].field == field {
			n++
		}
	}
	return n
}

func (w *worker) markRouteRemoved(r routeValue) {
	for i := range w.routeValues {
		if w.routeValues[i].value == r.value {
			w.routeValues[i].field = -1
		}
	}
}

// dropFieldEdits forgets the edits inside a field that is removed as a whole.
func (w *worker) dropFieldEdits(line span) {
	keep := w.edits.edits[:0]
	for _, e := range w.edits.edits {
		if e.from >= line.from && e.from < line.to && (span{e.from, e.to}) != line {
			continue
		}
		keep = append(keep, e)
	}
	w.edits.edits = keep
}

// strictRoute puts the next Route into the Request-URI and the Request-URI
// behind the last Route, for a next hop of RFC 2543.
func (w *worker) applyStrictRoute(m *message, rs []routeValue) {
	uri := string(m.text(m.uri))
	for i, e := range w.edits.edits { // it may have been replaced already
		if e.from == m.uri.from && e.to == m.uri.to {
			uri = string(w.edits.text[e.textFrom:e.textTo])
			w.edits.edits = append(w.edits.edits[:i], w.edits.edits[i+1:]...)
			break
		}
	}
	w.edits.insert(m.fields[rs[len(rs)-1].field].line.to, "Route: <", uri, ">\r\n")
	w.edits.replace(m.uri, string(m.text(rs[0].uriText)))
	w.removeRoute(m, rs[0])
}

// withoutMaddr takes maddr, and the port and transport that go with it, off a
// URI whose maddr is ours (RFC 3261 §16.4).
func stripMaddr(uri string, port int) string {
	at := strings.LastIndexByte(uri, '@') + 1 // a user may have semicolons
	parts := strings.Split(uri[at:], ";")
	keep := parts[:1]
	if port != 5060 {
		keep[0] = strings.TrimSuffix(keep[0], ":"+strconv.Itoa(port))
	}
	for _, p := range parts[1:] {
		name, _, _ := strings.Cut(p, "=")
		if !strings.EqualFold(name, "maddr") && !strings.EqualFold(name, "transport") {
			keep = append(keep, p)
		}
	}
	return uri[:at] + strings.Join(keep, ";")
}

// parseURI reads a URI with sipgo's parser. A scheme that is not sip, sips or
// tel is refused, and so are header fields in a URI: an element behind us must
// not make a Route of them (RFC 3261 §19.1.5).
func parseURI(s string, u *msg.Uri) *fault {
	scheme, _, found := strings.Cut(s, ":")
	switch {
	case strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r == '\x7f' || r == '<' || r == '>' || r == '"' }):
		return badURI // where it may come to stand, as a Request-URI, it would be cut apart
	case !found || !isToken([]byte(scheme)):
		return badURI
	case !strings.EqualFold(scheme, "sip") && !strings.EqualFold(scheme, "sips") && !strings.EqualFold(scheme, "tel"):
		return badScheme
	}
	if err := msg.ParseUri(s, u); err != nil {
		return badURI
	}
	if u.Scheme != "tel" && (u.Host == "" || len(u.Headers) > 0 || u.Port < 0 || u.Port > 65535 || strings.ContainsAny(u.Host, " \t<>\"?&=@")) {
		return badURI
	}
	if u.Port == 0 && u.Scheme != "tel" && hasPort(s) {
		return badURI // port 0 is none (RFC 6335 §6): to take 5060 for it would be a guess
	}
	return nil
}

// namesPort reports whether a sip or sips URI has a port.
func hasPort(uri string) bool {
	_, hostport, _ := strings.Cut(uri, ":")
	hostport = hostport[strings.LastIndexByte(hostport, '@')+1:]
	if end := strings.IndexAny(hostport, ";?"); end >= 0 {
		hostport = hostport[:end]
	}
	return strings.Contains(hostport[strings.LastIndexByte(hostport, ']')+1:], ":")
}

// addrOf is the address a URI names, by maddr or host, port and transport.
// Names are none.
func uriAddr(u *msg.Uri) (Addr, bool) {
	h := u.Host
	if v := paramValue(u, "maddr"); v != "" {
		h = v
	}
	ip, err := netip.ParseAddr(strings.Trim(h, "[]"))
	if err != nil || u.Scheme != "sip" {
		return Addr{}, false
	}
	a := Addr{Proto: UDP}
	switch t := paramValue(u, "transport"); {
	case strings.EqualFold(t, "tcp"):
		a.Proto = TCP
	case t != "" && !strings.EqualFold(t, "udp"):
		return Addr{}, false
	}
	port := u.Port
	if port == 0 {
		port = 5060
	}
	a.AddrPort = netip.AddrPortFrom(ip.Unmap(), uint16(port)) // ::ffff:0.0.0.0 is no other host than 0.0.0.0
	return a, true
}

// has reports whether a URI has a parameter; its name is compared without case.
func hasParam(u *msg.Uri, param string) bool {
	for _, kv := range u.UriParams {
		if equalFold(kv.K, param) {
			return true
		}
	}
	return false
}

// value is the value of a URI parameter, "" if it has none.
func paramValue(u *msg.Uri, param string) string {
	for _, kv := range u.UriParams {
		if equalFold(kv.K, param) {
			return kv.V
		}
	}
	return ""
}

// ours reports whether a URI names one of our listeners, or us by maddr.
func (w *worker) namesUs(u *msg.Uri) bool {
	if u.Scheme != "sip" && u.Scheme != "sips" {
		return false
	}
	h := u.Host
	if v := paramValue(u, "maddr"); v != "" {
		h = v
	}
	return w.proxy.isOwnName(h, u.Port)
}
