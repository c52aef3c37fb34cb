package flowtest

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"bellhop/dialog"
)

// A Peer is who bellhop talks to.
type Peer struct {
	Name  string
	Addr  netip.AddrPort
	Side  dialog.Side
	User  string // of its address of record
	Trunk string // name of the [[trunk]] it is
}

// Peers are those that a flow can name.
var Peers = []Peer{
	{Name: "phone", Addr: netip.MustParseAddrPort("192.0.2.11:5060"), Side: dialog.Edge, User: "101"},
	{Name: "bob", Addr: netip.MustParseAddrPort("192.0.2.12:5060"), Side: dialog.Edge, User: "102"},
	{Name: "bob2", Addr: netip.MustParseAddrPort("192.0.2.13:5060"), Side: dialog.Edge, User: "102"},
	{Name: "carol", Addr: netip.MustParseAddrPort("192.0.2.14:5060"), Side: dialog.Edge, User: "103"},
	{Name: "dora", Addr: netip.MustParseAddrPort("192.0.2.15:5060"), Side: dialog.Edge, User: "104"},
	{Name: "erin", Addr: netip.MustParseAddrPort("192.0.2.16:5060"), Side: dialog.Edge, User: "105"},
	{Name: "frank", Addr: netip.MustParseAddrPort("192.0.2.17:5060"), Side: dialog.Edge, User: "106"},
	{Name: "trunk", Addr: netip.MustParseAddrPort("192.0.2.21:5060"), Side: dialog.Edge, User: "5559876", Trunk: "carrier"},
	{Name: "pbx", Addr: netip.MustParseAddrPort("192.0.2.1:5060"), Side: dialog.PBX},
}

// PBXAddresses are further addresses of the PBX: the peer pbx sends from them, and is
// sent to. bellhop takes them for the PBX's if [Config.PBXSources] has them.
var PBXAddresses = []Peer{
	{Name: "pbx:5080", Addr: netip.MustParseAddrPort("192.0.2.1:5080"), Side: dialog.PBX},
	{Name: "pbx2", Addr: netip.MustParseAddrPort("192.0.2.2:5060"), Side: dialog.PBX},
}

// Bellhop is where bellhop listens.
var Bellhop = netip.MustParseAddrPort("192.0.2.5:5060")

// Domain is the PBX's.
const Domain = "pbx.example"

func known(name string) bool {
	_, ok := peerBy(func(p Peer) bool { return p.Name == name })
	return ok
}

// peer returns the peer, or the address of the PBX, with a name that is known.
func peer(name string) Peer {
	p, _ := peerBy(func(p Peer) bool { return p.Name == name })
	return p
}

// peerBy returns the first of all peers and addresses of the PBX that fits.
func peerBy(fits func(Peer) bool) (Peer, bool) {
	all := slices.Concat(Peers, PBXAddresses)
	if i := slices.IndexFunc(all, fits); i >= 0 {
		return all[i], true
	}
	return Peer{}, false
}

// A Rig is the peers of one flow. It composes what they send, out of what a
// section gives and what they have sent and received before.
type Rig struct {
	agents map[string]*agent
	last   int // number of the last tag, branch or Call-ID
	cid    string
}

// NewRig returns peers that know nothing of each other yet.
func NewRig() *Rig {
	r := &Rig{agents: map[string]*agent{}}
	for _, p := range Peers {
		r.agents[p.Name] = &agent{Peer: p, rig: r}
	}
	return r
}

// An agent is a peer and what it remembers.
type agent struct {
	Peer
	rig      *Rig
	dialogs  []*leg
	sent     []*exchange // requests
	received []*exchange // requests
	heard    []*message  // all that was received
	last     []byte      // last that was sent
	address  string      // the contact it has registered last
	bindings []binding   // of a registrar
}

// A leg is a dialog of an agent, or an attempt at one, or a registration.
type leg struct {
	method           string // that began it
	callID           string
	local, remote    string // From and To as this agent writes them, with tags if known
	target           string // remote
	routes           []string
	cseq             int      // last that was sent
	invite           *message // last INVITE that was sent
	final            *message // its final response
	acked            bool
	challenge        *message // 401 or 407 not yet replied to
	confirmed, ended bool
}

func (l *leg) localTag() string  { return param(l.local, "tag") }
func (l *leg) remoteTag() string { return param(l.remote, "tag") }

// An exchange is a request and the leg it belongs to.
type exchange struct {
	request *message
	leg     *leg
	final   bool // it has its final response
}

type binding struct {
	contact, aor string
	expires      int
	path         []string
}

func (r *Rig) next() int {
	r.last++
	return r.last
}

// agent returns the peer with a name. The PBX is one peer at each of its addresses.
func (r *Rig) agent(name string) *agent {
	p := peer(name)
	if p.Side != dialog.PBX {
		return r.agents[name]
	}
	a := r.agents["pbx"]
	a.Addr = p.Addr
	return a
}

// Compose returns the message that a Send or Forward step sends.
func (r *Rig) Compose(s Step) ([]byte, error) {
	a := r.agent(s.From)
	if strings.TrimSpace(s.Text) == "" {
		if a.last == nil {
			return nil, fmt.Errorf("%s has sent nothing that it could send again", s.From)
		}
		return a.last, nil
	}
	text := strings.ReplaceAll(s.Text, "{cid}", r.cid)
	for i, b := range r.agents["pbx"].bindings {
		text = strings.ReplaceAll(text, fmt.Sprintf("{contact%d}", i+1), b.contact)
	}
	if b := r.agents["pbx"].bindings; len(b) > 0 {
		text = strings.ReplaceAll(text, "{contact}", b[len(b)-1].contact)
	}
	for name, a := range r.agents {
		if n := len(a.dialogs); n > 0 {
			text = strings.ReplaceAll(text, "{"+name+"}", a.dialogs[n-1].callID)
		}
	}
	given, err := parse(strings.TrimSuffix(text, "\n"))
	if err != nil {
		return nil, err
	}
	var m *message
	switch {
	case s.Do == Forward:
		m, err = a.forward(given)
	case given.status() != 0:
		m, err = a.respond(given)
	default:
		m, err = a.request(given)
	}
	if err != nil {
		return nil, err
	}
	a.last = m.bytes()
	return a.last, nil
}

// Receive tells the rig what bellhop has sent to a peer.
func (r *Rig) Receive(to string, raw []byte) error {
	m, err := parse(string(raw))
	if err != nil {
		return err
	}
	a := r.agent(to)
	a.heard = append(a.heard, m)
	if m.status() != 0 {
		a.receiveResponse(m)
		return nil
	}
	if v := m.get("X-CID"); v != "" && a.Side == dialog.PBX {
		r.cid = v
	}
	a.receiveRequest(m)
	return nil
}

func (a *agent) receiveRequest(m *message) {
	for _, e := range a.received {
		if e.request.branch() == m.branch() && e.request.method() == m.method() {
			return // a retransmission
		}
	}
	if m.method() == "ACK" {
		return
	}
	l := a.legOf(m.get("Call-ID"), m.toTag(), m.fromTag())
	switch {
	case m.toTag() == "" && (m.method() == "INVITE" || m.method() == "SUBSCRIBE"):
		l = &leg{
			method: m.method(),
			callID: m.get("Call-ID"),
			local:  tagged(m.get("To"), fmt.Sprintf("%s-%d", a.Name, a.rig.next())),
			remote: m.get("From"),
			target: address(m.get("Contact")),
			routes: m.all("Record-Route"),
			cseq:   100,
		}
		a.dialogs = append(a.dialogs, l)
	case l != nil && m.method() == "BYE":
		l.ended = true
	case l != nil && m.method() == "INVITE" && m.has("Contact"):
		l.target = address(m.get("Contact"))
	}
	a.received = append(a.received, &exchange{request: m, leg: l})
}

// legOf finds a dialog by its tags.
func (a *agent) legOf(callID, localTag, remoteTag string) *leg {
	for _, l := range slices.Backward(a.dialogs) {
		if l.callID == callID && l.localTag() == localTag && l.remoteTag() == remoteTag {
			return l
		}
	}
	return nil
}

func (a *agent) receiveResponse(m *message) {
	for _, e := range slices.Backward(a.sent) {
		if e.request.branch() != m.branch() || e.request.method() != m.method() {
			continue
		}
		status, l := m.status(), e.leg
		e.final = status >= 200
		switch {
		case l == nil:
		case status == 401 || status == 407:
			l.challenge = m
			if m.method() == "INVITE" {
				l.final, l.acked = m, false
			}
		case m.method() == l.method && l.opens():
			a.invited(l, m)
		}
		return
	}
}

// opens reports whether what began the leg opens a dialog.
func (l *leg) opens() bool { return l.method == "INVITE" || l.method == "SUBSCRIBE" }

// invited takes note of a response to an INVITE, or to a SUBSCRIBE.
func (a *agent) invited(l *leg, m *message) {
	if m.status() >= 300 {
		l.final, l.acked, l.ended = m, false, !l.confirmed
		return
	}
	if m.status() == 100 || m.toTag() == "" {
		return
	}
	opened := l.confirmed
	if l.confirmed && l.remoteTag() != m.toTag() { // another fork's
		other := *l
		l, opened = &other, false
		a.dialogs = append(a.dialogs, l)
	}
	if m.status() >= 200 {
		l.final, l.acked, l.confirmed = m, false, true
	}
	l.remote = m.get("To")
	if m.has("Contact") {
		l.target = address(m.get("Contact"))
	}
	if m.has("Record-Route") && !opened { // RFC 3261 §12.2: the route set stays
		l.routes = m.all("Record-Route")
		slices.Reverse(l.routes)
	}
}

// request completes a request that the agent sends.
func (a *agent) request(m *message) (*message, error) {
	method, uri := m.method(), m.uri()
	l := a.find(m)
	var given *message
	switch {
	case method == "ACK" || method == "CANCEL":
		if l == nil {
			return nil, fmt.Errorf("%s has no INVITE that this %s fits", a.Name, method)
		}
		given = a.hopByHop(m, l)
		if given != nil {
			return given, nil
		}
	case l == nil && m.has("Call-ID") && m.fromTag() != "" && m.toTag() != "": // somebody else's dialog
		l = a.begin(m)
	case l == nil && slices.Contains([]string{"BYE", "UPDATE", "PRACK"}, method):
		return nil, fmt.Errorf("%s has no dialog that this %s fits", a.Name, method)
	case l == nil:
		l = a.begin(m)
	}
	if uri == "" {
		uri = l.target
	}
	if uri == "" {
		return nil, fmt.Errorf("%s does not know where to send this %s: give its Request-URI", a.Name, method)
	}
	cseq := l.cseq + 1
	if method == "ACK" {
		cseq = l.final.cseq()
	} else {
		l.cseq = max(l.cseq+1, m.cseq())
	}
	d := &message{start: fmt.Sprintf("%s %s SIP/2.0", method, uri)}
	d.add("Via", fmt.Sprintf("SIP/2.0/UDP %s;branch=z9hG4bK-%s-%d;rport", a.Addr, a.Name, a.rig.next()))
	d.add("Max-Forwards", "70")
	d.add("Route", a.routes(l, uri)...)
	d.add("From", l.local)
	d.add("To", l.remote)
	d.add("Call-ID", l.callID)
	d.add("CSeq", fmt.Sprintf("%d %s", cseq, method))
	if slices.Contains([]string{"INVITE", "REGISTER", "SUBSCRIBE", "UPDATE", "REFER", "NOTIFY"}, method) {
		d.add("Contact", "<"+a.contact()+">")
	}
	if method == "REGISTER" {
		d.add("Expires", "3600")
	}
	if l.challenge != nil && method != "ACK" {
		d.add(a.credentials(l, method, uri))
		l.challenge = nil
	}
	if method == "INVITE" {
		d.body = a.sdp()
	}
	m = complete(d, m)
	switch method {
	case "REGISTER":
		if c := address(m.get("Contact")); c != "*" {
			a.address = c
		}
	case "INVITE":
		l.invite, l.final, l.acked = m, nil, false
	case "ACK":
		l.acked = true
		return m, nil
	case "BYE":
		l.ended = true
	}
	a.sent = append(a.sent, &exchange{request: m, leg: l})
	return m, nil
}

// begin makes the leg that a request begins.
func (a *agent) begin(m *message) *leg {
	uri := m.uri()
	if uri == "" && m.method() == "REGISTER" {
		uri = "sip:" + Domain
	}
	l := &leg{method: m.method(), target: uri, callID: m.get("Call-ID"), local: m.get("From"), remote: m.get("To")}
	if l.callID == "" {
		l.callID = fmt.Sprintf("%d-%s@%s", a.rig.next(), a.Name, a.Addr.Addr())
	}
	if l.local == "" {
		l.local = a.from()
	}
	l.local = tagged(l.local, fmt.Sprintf("%s-%d", a.Name, a.rig.next()))
	if l.remote == "" {
		l.remote = "<" + uri + ">"
		if m.method() == "REGISTER" {
			l.remote = a.from()
		}
	}
	a.dialogs = append(a.dialogs, l)
	return l
}

// from is the address of record; a PBX calls in the name of its last caller.
func (a *agent) from() string {
	if a.Side == dialog.PBX {
		for _, e := range slices.Backward(a.received) {
			if e.request.method() == "INVITE" || e.request.method() == "MESSAGE" {
				from, _, _ := strings.Cut(e.request.get("From"), ";tag=")
				return from
			}
		}
		return "<sip:" + Domain + ">"
	}
	if a.Trunk != "" {
		return "<sip:" + a.User + "@carrier.example>"
	}
	return "<sip:" + a.User + "@" + Domain + ">"
}

func (a *agent) contact() string {
	if a.address != "" {
		return a.address
	}
	if a.User == "" {
		return "sip:" + a.Addr.String()
	}
	return "sip:" + a.User + "@" + a.Addr.String()
}

// routes is a dialog's route set, or the Path of a registered contact. A hop of
// the agent's own, which stands for a proxy too, is behind it.
func (a *agent) routes(l *leg, uri string) []string {
	if l.confirmed || l.remoteTag() != "" {
		set := l.routes
		for len(set) > 0 && strings.Contains(set[0], "<sip:"+a.Addr.String()) {
			set = set[1:]
		}
		return set
	}
	for _, b := range a.bindings {
		if b.contact == uri {
			return b.path
		}
	}
	return nil
}

// find returns the leg that a request continues, and nil if it begins one.
func (a *agent) find(m *message) *leg {
	method, uri, callID, tag := m.method(), m.uri(), m.get("Call-ID"), m.toTag()
	fits := func(l *leg) bool {
		if callID != "" && callID != l.callID || tag != "" && tag != l.remoteTag() {
			return false
		}
		at := func(target string) bool { return uri == "" || uri == target }
		switch method {
		case "INVITE":
			if l.method != "INVITE" || l.ended {
				return false
			}
			return l.challenge != nil && at(l.invite.uri()) || l.confirmed && at(l.target)
		case "ACK":
			return l.final != nil && (at(l.target) || at(l.invite.uri()))
		case "CANCEL":
			return l.invite != nil && l.final == nil && at(l.invite.uri())
		case "REGISTER":
			return l.method == method
		case "BYE", "UPDATE", "INFO", "PRACK", "REFER":
			return l.method == "INVITE" && l.remoteTag() != "" && at(l.target)
		case "OPTIONS":
			return uri == "" && l.method == "INVITE" && l.remoteTag() != ""
		case "NOTIFY":
			return l.opens() && l.remoteTag() != "" && at(l.target)
		case "SUBSCRIBE":
			if l.method == "INVITE" && l.remoteTag() != "" && at(l.target) {
				return uri == "" // a refresh of what REFER began
			}
			return l.method == method && (l.challenge != nil || l.confirmed && uri == "")
		}
		return l.method == method && l.challenge != nil
	}
	var stale *leg
	for _, l := range slices.Backward(a.dialogs) {
		if !fits(l) {
			continue
		}
		if !l.ended && (method != "ACK" || !l.acked) {
			return l
		}
		if stale == nil {
			stale = l
		}
	}
	return stale
}

// hopByHop completes a CANCEL, or the ACK of a refused INVITE; nil for the ACK
// of a 2xx, which is a request of the dialog.
func (a *agent) hopByHop(m *message, l *leg) *message {
	if m.method() == "ACK" && l.final.status() < 300 {
		return nil
	}
	d := &message{start: fmt.Sprintf("%s %s SIP/2.0", m.method(), l.invite.uri())}
	d.add("Via", l.invite.all("Via")[0])
	d.add("Max-Forwards", "70")
	d.add("Route", l.invite.all("Route")...)
	d.add("From", l.invite.get("From"))
	d.add("To", l.invite.get("To"))
	if m.method() == "ACK" {
		d.set("To", l.final.get("To"))
		l.acked = true
	}
	d.add("Call-ID", l.callID)
	d.add("CSeq", fmt.Sprintf("%d %s", l.invite.cseq(), m.method()))
	d = complete(d, m)
	if m.method() == "CANCEL" {
		a.sent = append(a.sent, &exchange{request: d})
	}
	return d
}

// respond completes a response that the agent sends.
func (a *agent) respond(m *message) (*message, error) {
	e := a.answers(m)
	if e == nil {
		return nil, fmt.Errorf("%s has received no request that %q answers", a.Name, m.start)
	}
	q, status := e.request, m.status()
	for i := range m.fields {
		m.fields[i].value = strings.ReplaceAll(m.fields[i].value, "{via}", q.get("Via"))
	}
	d := &message{start: m.start}
	d.add("Via", q.all("Via")...)
	if slices.Contains([]string{"INVITE", "UPDATE", "SUBSCRIBE"}, q.method()) && status > 100 && status < 300 {
		d.add("Record-Route", q.all("Record-Route")...)
		d.add("Contact", "<"+a.contact()+">")
	}
	d.add("From", q.get("From"))
	to := q.get("To")
	switch {
	case status == 100:
	case e.leg != nil:
		to = tagged(to, e.leg.localTag())
	default:
		to = tagged(to, fmt.Sprintf("%s-%d", a.Name, a.rig.next()))
	}
	d.add("To", to)
	d.add("Call-ID", q.get("Call-ID"))
	d.add("CSeq", q.get("CSeq"))
	switch {
	case status == 401:
		d.add("WWW-Authenticate", fmt.Sprintf(`Digest realm="%s", nonce="%d", algorithm=MD5, qop="auth"`, Domain, a.rig.next()))
	case status == 407:
		d.add("Proxy-Authenticate", fmt.Sprintf(`Digest realm="%s", nonce="%d", algorithm=MD5, qop="auth"`, Domain, a.rig.next()))
	case status/100 == 2 && q.method() == "REGISTER":
		a.bind(q, d)
	case status/100 == 2 && q.method() == "INVITE":
		d.body = a.sdp()
	}
	m = complete(d, m)
	e.final = e.final || status >= 200
	if l := e.leg; l != nil && q.method() == l.method && status/100 == 2 {
		if l.localTag() != m.toTag() { // another fork's
			other := *l
			l = &other
			a.dialogs = append(a.dialogs, l)
		}
		l.local, l.confirmed = m.get("To"), true
	}
	return m, nil
}

// answers finds the request that a response answers.
func (a *agent) answers(m *message) *exchange {
	var stale *exchange
	for _, e := range slices.Backward(a.received) {
		switch {
		case m.has("Call-ID") && m.get("Call-ID") != e.request.get("Call-ID"):
		case m.has("CSeq") && m.get("CSeq") != e.request.get("CSeq"):
		case m.status() < 200 && e.request.method() != "INVITE":
		case !e.final:
			return e
		case stale == nil:
			stale = e
		}
	}
	return stale
}

// bind keeps what a REGISTER binds, and lists it in the response.
func (a *agent) bind(q, d *message) {
	aor := address(q.get("To"))
	expires := 3600
	if n, err := strconv.Atoi(q.get("Expires")); err == nil {
		expires = n
	}
	for _, c := range q.all("Contact") {
		left := expires
		if n, err := strconv.Atoi(param(c, "expires")); err == nil {
			left = n
		}
		a.bindings = slices.DeleteFunc(a.bindings, func(b binding) bool {
			return b.aor == aor && (c == "*" || b.contact == address(c))
		})
		if left > 0 && c != "*" {
			a.bindings = append(a.bindings, binding{contact: address(c), aor: aor, expires: left, path: q.all("Path")})
		}
	}
	for _, b := range a.bindings {
		if b.aor == aor {
			d.add("Contact", fmt.Sprintf("<%s>;expires=%d", b.contact, b.expires))
		}
	}
	d.add("Path", q.all("Path")...)
}

// forward passes on what the agent, a proxy, has received.
func (a *agent) forward(m *message) (*message, error) {
	kind := func(h *message) bool {
		if m.has("Call-ID") && m.get("Call-ID") != h.get("Call-ID") || m.has("CSeq") && m.get("CSeq") != h.get("CSeq") {
			return false
		}
		if m.status() != 0 {
			return h.status() == m.status()
		}
		return h.status() == 0 && h.method() == m.method()
	}
	var source *message
	for _, h := range slices.Backward(a.heard) {
		if kind(h) {
			source = h
			break
		}
	}
	if source == nil {
		return nil, fmt.Errorf("%s has nothing like %q to pass on", a.Name, m.start)
	}
	d := source.clone()
	if d.status() != 0 {
		d.pop("Via")
		for _, e := range a.received {
			if e.request.branch() == d.branch() && e.request.method() == d.method() {
				e.final = e.final || d.status() >= 200
			}
		}
		return complete(d, m), nil
	}
	uri := m.uri()
	if uri == "" {
		uri = d.uri()
	}
	d.start = fmt.Sprintf("%s %s SIP/2.0", d.method(), uri)
	hops, _ := strconv.Atoi(d.get("Max-Forwards"))
	d.set("Max-Forwards", strconv.Itoa(hops-1))
	if address(d.get("Route")) == a.ownRoute() {
		d.pop("Route")
	}
	if d.toTag() == "" {
		for _, route := range slices.Backward(a.routes(&leg{}, uri)) {
			d.push("Route", route)
		}
		d.push("Record-Route", "<"+a.ownRoute()+">")
	}
	d.push("Via", fmt.Sprintf("SIP/2.0/UDP %s;branch=z9hG4bK-%s-%d", a.Addr, a.Name, a.rig.next()))
	m = complete(d, m)
	var l *leg
	if m.method() == "INVITE" && m.toTag() == "" {
		l = &leg{method: "INVITE", callID: m.get("Call-ID"), local: m.get("From"), remote: m.get("To"), target: uri, invite: m, ended: true}
		a.dialogs = append(a.dialogs, l)
	}
	a.sent = append(a.sent, &exchange{request: m, leg: l})
	return m, nil
}

func (a *agent) ownRoute() string { return "sip:" + a.Addr.String() + ";lr" }

// credentials replies to a challenge. Nobody checks the digest.
func (a *agent) credentials(l *leg, method, uri string) (name, value string) {
	name, challenge := "Authorization", l.challenge.get("WWW-Authenticate")
	if l.challenge.status() == 407 {
		name, challenge = "Proxy-Authorization", l.challenge.get("Proxy-Authenticate")
	}
	account, _ := userHost(address(l.local))
	if account == "anonymous" {
		account = a.User
	}
	_, nonce, _ := strings.Cut(challenge, `nonce="`)
	nonce, _, _ = strings.Cut(nonce, `"`)
	return name, fmt.Sprintf(`Digest username="%s", realm="%s", nonce="%s", uri="%s", qop=auth, nc=00000001, cnonce="%s", response="%032x", algorithm=MD5`,
		account, Domain, nonce, uri, method, a.rig.next())
}

// sdp is one audio stream at the agent's address.
func (a *agent) sdp() string {
	ip := a.Addr.Addr()
	return fmt.Sprintf("v=0\r\no=- 1 1 IN IP4 %s\r\ns=-\r\nc=IN IP4 %s\r\nt=0 0\r\nm=audio 40000 RTP/AVP 0\r\na=rtpmap:0 PCMU/8000\r\n", ip, ip)
}

// complete fills in what given leaves out of draft: each header field of the
// draft stands unless given has it too; one that is given without a value is left
// out. A From or To that is given without a
// tag gets the draft's.
func complete(draft, given *message) *message {
	m := &message{start: draft.start, body: given.body}
	if len(strings.Fields(given.start)) > 1 {
		m.start = given.start
	}
	for _, f := range draft.fields {
		switch {
		case same(f.name, "Content-Type"), same(f.name, "Content-Length"):
			if given.body != "" {
				continue
			}
		case !given.has(f.name):
		case m.has(f.name):
			continue
		default:
			for _, g := range given.fields {
				if same(g.name, f.name) {
					if same(f.name, "From") || same(f.name, "To") {
						g.value = tagged(g.value, param(f.value, "tag"))
					}
					m.fields = append(m.fields, g)
				}
			}
			continue
		}
		m.fields = append(m.fields, f)
	}
	for _, g := range given.fields {
		if !draft.has(g.name) {
			m.fields = append(m.fields, g)
		}
	}
	m.fields = slices.DeleteFunc(m.fields, func(f field) bool { return f.value == "" })
	if m.body == "" && given.get("Content-Length") != "0" {
		m.body = draft.body
		if m.body != "" && !m.has("Content-Type") {
			m.add("Content-Type", "application/sdp")
		}
	}
	if !m.has("Content-Length") {
		m.add("Content-Length", strconv.Itoa(len(m.body)))
	}
	return m
}
