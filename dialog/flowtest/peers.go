package flowtest

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"bellhop/dialog"
	"bellhop/dialog/siptext"
)

// A Peer is a phone, a trunk or the PBX that bellhop exchanges messages with.
type Peer struct {
	Name  string
	Addr  netip.AddrPort
	Side  dialog.Side
	User  string // user of its address of record
	Trunk string // name of the [[trunk]] in the config; "": no trunk
}

// Peers are the peers that a flow can name.
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

// PBXAddresses are further addresses at which the peer pbx sends and receives. bellhop
// takes them for the PBX if [Config.PBXSources] has them.
var PBXAddresses = []Peer{
	{Name: "pbx:5080", Addr: netip.MustParseAddrPort("192.0.2.1:5080"), Side: dialog.PBX},
	{Name: "pbx2", Addr: netip.MustParseAddrPort("192.0.2.2:5060"), Side: dialog.PBX},
}

// Bellhop is the address of bellhop.
var Bellhop = netip.MustParseAddrPort("192.0.2.5:5060")

// Domain is the SIP domain of the PBX.
const Domain = "pbx.example"

// isPeerName reports whether name is a peer or an address of the PBX.
func isPeerName(name string) bool {
	_, ok := findPeer(func(p Peer) bool { return p.Name == name })
	return ok
}

// peerByName returns the peer, or the address of the PBX, called name. The name must
// exist.
func peerByName(name string) Peer {
	p, _ := findPeer(func(p Peer) bool { return p.Name == name })
	return p
}

// findPeer returns the first peer or address of the PBX that fits.
func findPeer(fits func(Peer) bool) (Peer, bool) {
	all := slices.Concat(Peers, PBXAddresses)
	if i := slices.IndexFunc(all, fits); i >= 0 {
		return all[i], true
	}
	return Peer{}, false
}

// A peerSet is the peers of one flow. It completes the messages that they send, from the
// text of a section and from the messages sent and received before.
type peerSet struct {
	agents     map[string]*userAgent
	lastNumber int    // number of the last tag, branch or Call-ID
	cid        string // X-CID that the PBX received last
}

// newPeerSet returns peers without dialogs, transactions and registrations. transports are
// those of Config.
func newPeerSet(transports map[string]string) *peerSet {
	r := &peerSet{agents: map[string]*userAgent{}}
	for _, p := range Peers {
		r.agents[p.Name] = &userAgent{Peer: p, peers: r, transport: "UDP"}
	}
	for name, transport := range transports {
		r.agents[name].transport = transport
	}
	return r
}

// A userAgent is a peer with its dialogs, transactions and messages.
type userAgent struct {
	Peer
	peers             *peerSet
	transport         string // as in a Via
	dialogs           []*dialogState
	sentRequests      []*transaction // requests
	receivedRequests  []*transaction // requests
	receivedMessages  []*message     // requests and responses
	lastSent          []byte         // last message sent
	registeredContact string         // contact that it registered last; "": none
	bindings          []binding      // contacts that are bound, if it is the PBX
}

// A dialogState is a dialog of a user agent, an attempt to begin one, or a registration.
type dialogState struct {
	method           string // of the request that began it
	callID           string
	local, remote    string // From and To of requests of this user agent, with tags if known
	remoteTarget     string // URI for requests within the dialog
	routeSet         []string
	lastCSeq         int      // of the last request sent
	lastInvite       *message // last INVITE sent
	finalResponse    *message // of lastInvite; nil: none yet
	acked            bool
	challenge        *message // 401 or 407 that no request with credentials has followed yet
	confirmed, ended bool
}

func (l *dialogState) localTag() string  { return addressParam(l.local, "tag") }
func (l *dialogState) remoteTag() string { return addressParam(l.remote, "tag") }

// A transaction is a request with its dialog.
type transaction struct {
	request   *message
	dialog    *dialogState
	completed bool // there is a final response
}

type binding struct {
	contact, aor string
	expires      int
	path         []string
}

// nextNumber returns a number for a new tag, branch or Call-ID.
func (r *peerSet) nextNumber() int {
	r.lastNumber++
	return r.lastNumber
}

// findAgent returns the peer called name. All addresses of the PBX belong to the peer
// pbx. If name is one of these addresses, pbx sends from that address from now on.
func (r *peerSet) findAgent(name string) *userAgent {
	p := peerByName(name)
	if p.Side != dialog.PBX {
		return r.agents[name]
	}
	a := r.agents["pbx"]
	a.Addr = p.Addr
	return a
}

// composeStep returns the complete message that a Send or Forward step sends.
func (r *peerSet) composeStep(s Step) ([]byte, error) {
	a := r.findAgent(s.From)
	if strings.TrimSpace(s.Text) == "" {
		if a.lastSent == nil {
			return nil, fmt.Errorf("repeat message: %s has sent none", s.From)
		}
		return a.lastSent, nil
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
	given, err := parseMessage(strings.TrimSuffix(text, "\n"))
	if err != nil {
		return nil, err
	}
	var m *message
	switch {
	case s.Action == Forward:
		m, err = a.forwardAsProxy(given)
	case given.status() != 0:
		m, err = a.completeResponse(given)
	default:
		m, err = a.completeRequest(given)
	}
	if err != nil {
		return nil, err
	}
	a.lastSent = m.bytes()
	return a.lastSent, nil
}

// receiveMessage hands a message from bellhop to the user agent called to, which updates
// its dialogs and transactions.
func (r *peerSet) receiveMessage(to string, raw []byte) error {
	m, err := parseMessage(string(raw))
	if err != nil {
		return err
	}
	a := r.findAgent(to)
	a.receivedMessages = append(a.receivedMessages, m)
	if m.status() != 0 {
		a.receiveResponse(m)
		return nil
	}
	if v := m.fieldValue("X-CID"); v != "" && a.Side == dialog.PBX {
		r.cid = v
	}
	a.receiveRequest(m)
	return nil
}

// receiveRequest adds the transaction of a request and, if it begins a dialog, the
// dialog. It ignores a retransmission and an ACK.
func (a *userAgent) receiveRequest(m *message) {
	for _, e := range a.receivedRequests {
		if e.request.branch() == m.branch() && e.request.method() == m.method() {
			return // a retransmission
		}
	}
	if m.method() == "ACK" {
		return
	}
	l := a.findDialogByTags(m.fieldValue("Call-ID"), m.toTag(), m.fromTag())
	switch {
	case m.toTag() == "" && (m.method() == "INVITE" || m.method() == "SUBSCRIBE"):
		l = &dialogState{
			method:       m.method(),
			callID:       m.fieldValue("Call-ID"),
			local:        withTag(m.fieldValue("To"), fmt.Sprintf("%s-%d", a.Name, a.peers.nextNumber())),
			remote:       m.fieldValue("From"),
			remoteTarget: addressURI(m.fieldValue("Contact")),
			routeSet:     m.fieldValues("Record-Route"),
			lastCSeq:     100,
		}
		a.dialogs = append(a.dialogs, l)
	case l != nil && m.method() == "BYE":
		l.ended = true
	case l != nil && m.method() == "INVITE" && m.hasField("Contact"):
		l.remoteTarget = addressURI(m.fieldValue("Contact"))
	}
	a.receivedRequests = append(a.receivedRequests, &transaction{request: m, dialog: l})
}

// findDialogByTags returns the newest dialog with the Call-ID and tags, or nil.
func (a *userAgent) findDialogByTags(callID, localTag, remoteTag string) *dialogState {
	for _, l := range slices.Backward(a.dialogs) {
		if l.callID == callID && l.localTag() == localTag && l.remoteTag() == remoteTag {
			return l
		}
	}
	return nil
}

// receiveResponse updates the transaction and the dialog of a response.
func (a *userAgent) receiveResponse(m *message) {
	for _, e := range slices.Backward(a.sentRequests) {
		if e.request.branch() != m.branch() || e.request.method() != m.method() {
			continue
		}
		status, l := m.status(), e.dialog
		e.completed = status >= 200
		switch {
		case l == nil:
		case status == 401 || status == 407:
			l.challenge = m
			if m.method() == "INVITE" {
				l.finalResponse, l.acked = m, false
			}
		case m.method() == l.method && l.opensDialog():
			a.updateDialog(l, m)
		}
		return
	}
}

// opensDialog reports whether the request that began l opens a dialog.
func (l *dialogState) opensDialog() bool { return l.method == "INVITE" || l.method == "SUBSCRIBE" }

// updateDialog updates a dialog with a response to its INVITE or SUBSCRIBE.
func (a *userAgent) updateDialog(l *dialogState, m *message) {
	if m.status() >= 300 {
		l.finalResponse, l.acked, l.ended = m, false, !l.confirmed
		return
	}
	if m.status() == 100 || m.toTag() == "" {
		return
	}
	opened := l.confirmed
	if l.confirmed && l.remoteTag() != m.toTag() { // of another branch of a fork
		other := *l
		l, opened = &other, false
		a.dialogs = append(a.dialogs, l)
	}
	if m.status() >= 200 {
		l.finalResponse, l.acked, l.confirmed = m, false, true
	}
	l.remote = m.fieldValue("To")
	if m.hasField("Contact") {
		l.remoteTarget = addressURI(m.fieldValue("Contact"))
	}
	if m.hasField("Record-Route") && !opened { // RFC 3261 §12.2: the route set stays
		l.routeSet = m.fieldValues("Record-Route")
		slices.Reverse(l.routeSet)
	}
}

// completeRequest completes the request m, of which the flow gives only a part. It
// updates the dialog of the request as if the request was sent.
func (a *userAgent) completeRequest(m *message) (*message, error) {
	method, uri := m.method(), m.requestURI()
	l := a.findDialogOf(m)
	switch {
	case method == "ACK" || method == "CANCEL":
		if l == nil {
			return nil, fmt.Errorf("send %[2]s: %[1]s has no INVITE that it belongs to", a.Name, method)
		}
		if d := a.completeHopByHop(m, l); d != nil {
			return d, nil
		}
	case l == nil && m.hasField("Call-ID") && m.fromTag() != "" && m.toTag() != "": // a dialog of another peer
		l = a.beginDialog(m)
	case l == nil && slices.Contains([]string{"BYE", "UPDATE", "PRACK"}, method):
		return nil, fmt.Errorf("send %[2]s: %[1]s has no dialog that it belongs to", a.Name, method)
	case l == nil:
		l = a.beginDialog(m)
	}
	if uri == "" {
		uri = l.remoteTarget
	}
	if uri == "" {
		return nil, fmt.Errorf("send %[2]s: %[1]s has no target for it: add a Request-URI", a.Name, method)
	}
	cseq := l.lastCSeq + 1
	if method == "ACK" {
		cseq = l.finalResponse.cseq()
	} else {
		l.lastCSeq = max(l.lastCSeq+1, m.cseq())
	}
	d := &message{start: fmt.Sprintf("%s %s SIP/2.0", method, uri)}
	d.addField("Via", fmt.Sprintf("SIP/2.0/%s %s;branch=z9hG4bK-%s-%d;rport", a.transport, a.sentBy(), a.Name, a.peers.nextNumber()))
	d.addField("Max-Forwards", "70")
	d.addField("Route", a.findRoutes(l, uri)...)
	d.addField("From", l.local)
	d.addField("To", l.remote)
	d.addField("Call-ID", l.callID)
	d.addField("CSeq", fmt.Sprintf("%d %s", cseq, method))
	if slices.Contains([]string{"INVITE", "REGISTER", "SUBSCRIBE", "UPDATE", "REFER", "NOTIFY"}, method) {
		d.addField("Contact", "<"+a.contactURI()+">")
	}
	if method == "REGISTER" {
		d.addField("Expires", "3600")
	}
	if l.challenge != nil && method != "ACK" {
		d.addField(a.answerChallenge(l, method, uri))
		l.challenge = nil
	}
	if method == "INVITE" {
		d.body = a.sdpBody()
	}
	m = mergeMessage(d, m)
	switch method {
	case "REGISTER":
		if c := addressURI(m.fieldValue("Contact")); c != "*" {
			a.registeredContact = c
		}
	case "INVITE":
		l.lastInvite, l.finalResponse, l.acked = m, nil, false
	case "ACK":
		l.acked = true
		return m, nil
	case "BYE":
		l.ended = true
	}
	a.sentRequests = append(a.sentRequests, &transaction{request: m, dialog: l})
	return m, nil
}

// beginDialog adds the dialog that a request begins.
func (a *userAgent) beginDialog(m *message) *dialogState {
	uri := m.requestURI()
	if uri == "" && m.method() == "REGISTER" {
		uri = "sip:" + Domain
	}
	l := &dialogState{method: m.method(), remoteTarget: uri, callID: m.fieldValue("Call-ID"), local: m.fieldValue("From"), remote: m.fieldValue("To")}
	if l.callID == "" {
		l.callID = fmt.Sprintf("%d-%s@%s", a.peers.nextNumber(), a.Name, a.Addr.Addr())
	}
	if l.local == "" {
		l.local = a.defaultFrom()
	}
	l.local = withTag(l.local, fmt.Sprintf("%s-%d", a.Name, a.peers.nextNumber()))
	if l.remote == "" {
		l.remote = "<" + uri + ">"
		if m.method() == "REGISTER" {
			l.remote = a.defaultFrom()
		}
	}
	a.dialogs = append(a.dialogs, l)
	return l
}

// defaultFrom returns the From of a request for which the flow gives none: the address of
// record. The PBX uses the From of the last INVITE or MESSAGE that it received.
func (a *userAgent) defaultFrom() string {
	if a.Side == dialog.PBX {
		for _, e := range slices.Backward(a.receivedRequests) {
			if e.request.method() == "INVITE" || e.request.method() == "MESSAGE" {
				from, _, _ := strings.Cut(e.request.fieldValue("From"), ";tag=")
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

// sentBy returns the host and port in Via and Contact.
func (a *userAgent) sentBy() string {
	if a.transport == "WS" {
		return a.Name + ".invalid" // RFC 7118 §5.2
	}
	return a.Addr.String()
}

// contactURI returns the URI for a Contact of the user agent.
func (a *userAgent) contactURI() string {
	if a.registeredContact != "" {
		return a.registeredContact
	}
	uri := "sip:" + a.sentBy()
	if a.User != "" {
		uri = "sip:" + a.User + "@" + a.sentBy()
	}
	if a.transport != "UDP" {
		uri += ";transport=" + strings.ToLower(a.transport)
	}
	return uri
}

// findRoutes returns the Route values for a request to uri: the route set of the dialog,
// or the Path of a registered contact. It leaves out leading routes to the user agent
// itself, which it added as a proxy.
func (a *userAgent) findRoutes(l *dialogState, uri string) []string {
	if l.confirmed || l.remoteTag() != "" {
		set := l.routeSet
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

// findDialogOf returns the dialog that a request belongs to, or nil if it begins one.
func (a *userAgent) findDialogOf(m *message) *dialogState {
	method, uri, callID, tag := m.method(), m.requestURI(), m.fieldValue("Call-ID"), m.toTag()
	fits := func(l *dialogState) bool {
		if callID != "" && callID != l.callID || tag != "" && tag != l.remoteTag() {
			return false
		}
		at := func(target string) bool { return uri == "" || uri == target }
		switch method {
		case "INVITE":
			if l.method != "INVITE" || l.ended {
				return false
			}
			return l.challenge != nil && at(l.lastInvite.requestURI()) || l.confirmed && at(l.remoteTarget)
		case "ACK":
			return l.finalResponse != nil && (at(l.remoteTarget) || at(l.lastInvite.requestURI()))
		case "CANCEL":
			return l.lastInvite != nil && l.finalResponse == nil && at(l.lastInvite.requestURI())
		case "REGISTER":
			return l.method == method
		case "BYE", "UPDATE", "INFO", "PRACK", "REFER":
			return l.method == "INVITE" && l.remoteTag() != "" && at(l.remoteTarget)
		case "OPTIONS":
			return uri == "" && l.method == "INVITE" && l.remoteTag() != ""
		case "NOTIFY":
			return l.opensDialog() && l.remoteTag() != "" && at(l.remoteTarget)
		case "SUBSCRIBE":
			if l.method == "INVITE" && l.remoteTag() != "" && at(l.remoteTarget) {
				return uri == "" // refreshes the subscription of a REFER
			}
			return l.method == method && (l.challenge != nil || l.confirmed && uri == "")
		}
		return l.method == method && l.challenge != nil
	}
	var stale *dialogState
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

// completeHopByHop completes m, of which the flow gives only a part, if m is a CANCEL or
// the ACK of a rejected INVITE. It returns nil for the ACK of a 2xx, because that is a
// request within the dialog.
func (a *userAgent) completeHopByHop(m *message, l *dialogState) *message {
	if m.method() == "ACK" && l.finalResponse.status() < 300 {
		return nil
	}
	d := &message{start: fmt.Sprintf("%s %s SIP/2.0", m.method(), l.lastInvite.requestURI())}
	d.addField("Via", l.lastInvite.fieldValues("Via")[0])
	d.addField("Max-Forwards", "70")
	d.addField("Route", l.lastInvite.fieldValues("Route")...)
	d.addField("From", l.lastInvite.fieldValue("From"))
	d.addField("To", l.lastInvite.fieldValue("To"))
	if m.method() == "ACK" {
		d.setField("To", l.finalResponse.fieldValue("To"))
		l.acked = true
	}
	d.addField("Call-ID", l.callID)
	d.addField("CSeq", fmt.Sprintf("%d %s", l.lastInvite.cseq(), m.method()))
	d = mergeMessage(d, m)
	if m.method() == "CANCEL" {
		a.sentRequests = append(a.sentRequests, &transaction{request: d})
	}
	return d
}

// completeResponse completes the response m, of which the flow gives only a part. It
// updates the transaction and the dialog of m as if m was sent.
func (a *userAgent) completeResponse(m *message) (*message, error) {
	e := a.findAnsweredRequest(m)
	if e == nil {
		return nil, fmt.Errorf("send %[2]q: %[1]s has received no request for it", a.Name, m.start)
	}
	q, status := e.request, m.status()
	for i := range m.fields {
		m.fields[i].value = strings.ReplaceAll(m.fields[i].value, "{via}", q.fieldValue("Via"))
	}
	d := &message{start: m.start}
	d.addField("Via", q.fieldValues("Via")...)
	if slices.Contains([]string{"INVITE", "UPDATE", "SUBSCRIBE"}, q.method()) && status > 100 && status < 300 {
		d.addField("Record-Route", q.fieldValues("Record-Route")...)
		d.addField("Contact", "<"+a.contactURI()+">")
	}
	d.addField("From", q.fieldValue("From"))
	to := q.fieldValue("To")
	switch {
	case status == 100:
	case e.dialog != nil:
		to = withTag(to, e.dialog.localTag())
	default:
		to = withTag(to, fmt.Sprintf("%s-%d", a.Name, a.peers.nextNumber()))
	}
	d.addField("To", to)
	d.addField("Call-ID", q.fieldValue("Call-ID"))
	d.addField("CSeq", q.fieldValue("CSeq"))
	switch {
	case status == 401:
		d.addField("WWW-Authenticate", fmt.Sprintf(`Digest realm="%s", nonce="%d", algorithm=MD5, qop="auth"`, Domain, a.peers.nextNumber()))
	case status == 407:
		d.addField("Proxy-Authenticate", fmt.Sprintf(`Digest realm="%s", nonce="%d", algorithm=MD5, qop="auth"`, Domain, a.peers.nextNumber()))
	case status/100 == 2 && q.method() == "REGISTER":
		a.updateBindings(q, d)
	case status/100 == 2 && q.method() == "INVITE":
		d.body = a.sdpBody()
	}
	m = mergeMessage(d, m)
	e.completed = e.completed || status >= 200
	if l := e.dialog; l != nil && q.method() == l.method && status/100 == 2 {
		if l.localTag() != m.toTag() { // of another branch of a fork
			other := *l
			l = &other
			a.dialogs = append(a.dialogs, l)
		}
		l.local, l.confirmed = m.fieldValue("To"), true
	}
	return m, nil
}

// findAnsweredRequest returns the transaction that a response answers: the newest that
// fits and has no final response, or else the newest that fits. It returns nil if none
// fits.
func (a *userAgent) findAnsweredRequest(m *message) *transaction {
	var stale *transaction
	for _, e := range slices.Backward(a.receivedRequests) {
		switch {
		case m.hasField("Call-ID") && m.fieldValue("Call-ID") != e.request.fieldValue("Call-ID"):
		case m.hasField("CSeq") && m.fieldValue("CSeq") != e.request.fieldValue("CSeq"):
		case m.status() < 200 && e.request.method() != "INVITE":
		case !e.completed:
			return e
		case stale == nil:
			stale = e
		}
	}
	return stale
}

// updateBindings applies the REGISTER q to the bindings. It then lists the bindings of
// the same address of record in the response d.
func (a *userAgent) updateBindings(q, d *message) {
	aor := addressURI(q.fieldValue("To"))
	expires := 3600
	if n, err := strconv.Atoi(q.fieldValue("Expires")); err == nil {
		expires = n
	}
	for _, c := range q.fieldValues("Contact") {
		left := expires
		if n, err := strconv.Atoi(addressParam(c, "expires")); err == nil {
			left = n
		}
		a.bindings = slices.DeleteFunc(a.bindings, func(b binding) bool {
			return b.aor == aor && (c == "*" || b.contact == addressURI(c))
		})
		if left > 0 && c != "*" {
			a.bindings = append(a.bindings, binding{contact: addressURI(c), aor: aor, expires: left, path: q.fieldValues("Path")})
		}
	}
	for _, b := range a.bindings {
		if b.aor == aor {
			d.addField("Contact", fmt.Sprintf("<%s>;expires=%d", b.contact, b.expires))
		}
	}
	d.addField("Path", q.fieldValues("Path")...)
}

// forwardAsProxy returns the newest received message of the kind that m describes, with
// the changes that a proxy makes and those that m lists.
func (a *userAgent) forwardAsProxy(m *message) (*message, error) {
	kind := func(h *message) bool {
		if m.hasField("Call-ID") && m.fieldValue("Call-ID") != h.fieldValue("Call-ID") || m.hasField("CSeq") && m.fieldValue("CSeq") != h.fieldValue("CSeq") {
			return false
		}
		if m.status() != 0 {
			return h.status() == m.status()
		}
		return h.status() == 0 && h.method() == m.method()
	}
	var source *message
	for _, h := range slices.Backward(a.receivedMessages) {
		if kind(h) {
			source = h
			break
		}
	}
	if source == nil {
		return nil, fmt.Errorf("forward %[2]q: %[1]s has received no such message", a.Name, m.start)
	}
	d := source.clone()
	if d.status() != 0 {
		d.removeFirstValue("Via")
		for _, e := range a.receivedRequests {
			if e.request.branch() == d.branch() && e.request.method() == d.method() {
				e.completed = e.completed || d.status() >= 200
			}
		}
		return mergeMessage(d, m), nil
	}
	uri := m.requestURI()
	if uri == "" {
		uri = d.requestURI()
	}
	d.start = fmt.Sprintf("%s %s SIP/2.0", d.method(), uri)
	hops, _ := strconv.Atoi(d.fieldValue("Max-Forwards"))
	d.setField("Max-Forwards", strconv.Itoa(hops-1))
	if addressURI(d.fieldValue("Route")) == a.ownRoute() {
		d.removeFirstValue("Route")
	}
	if d.toTag() == "" {
		for _, route := range slices.Backward(a.findRoutes(&dialogState{}, uri)) {
			d.prependField("Route", route)
		}
		d.prependField("Record-Route", "<"+a.ownRoute()+">")
	}
	d.prependField("Via", fmt.Sprintf("SIP/2.0/UDP %s;branch=z9hG4bK-%s-%d", a.Addr, a.Name, a.peers.nextNumber()))
	m = mergeMessage(d, m)
	var l *dialogState
	if m.method() == "INVITE" && m.toTag() == "" {
		l = &dialogState{method: "INVITE", callID: m.fieldValue("Call-ID"), local: m.fieldValue("From"), remote: m.fieldValue("To"), remoteTarget: uri, lastInvite: m, ended: true}
		a.dialogs = append(a.dialogs, l)
	}
	a.sentRequests = append(a.sentRequests, &transaction{request: m, dialog: l})
	return m, nil
}

func (a *userAgent) ownRoute() string { return "sip:" + a.Addr.String() + ";lr" }

// answerChallenge returns the header field with credentials for the challenge of l. The
// digest is not computed.
func (a *userAgent) answerChallenge(l *dialogState, method, uri string) (name, value string) {
	name, challenge := "Authorization", l.challenge.fieldValue("WWW-Authenticate")
	if l.challenge.status() == 407 {
		name, challenge = "Proxy-Authorization", l.challenge.fieldValue("Proxy-Authenticate")
	}
	account := siptext.ParseURI(addressURI(l.local)).User
	if account == "anonymous" {
		account = a.User
	}
	_, nonce, _ := strings.Cut(challenge, `nonce="`)
	nonce, _, _ = strings.Cut(nonce, `"`)
	return name, fmt.Sprintf(`Digest username="%s", realm="%s", nonce="%s", uri="%s", qop=auth, nc=00000001, cnonce="%s", response="%032x", algorithm=MD5`,
		account, Domain, nonce, uri, method, a.peers.nextNumber())
}

// sdpBody returns a session description with one audio stream.
func (a *userAgent) sdpBody() string {
	ip := a.Addr.Addr()
	return fmt.Sprintf("v=0\r\no=- 1 1 IN IP4 %s\r\ns=-\r\nc=IN IP4 %s\r\nt=0 0\r\nm=audio 40000 RTP/AVP 0\r\na=rtpmap:0 PCMU/8000\r\n", ip, ip)
}

// mergeMessage returns draft, with its start line, header fields and body replaced by
// those that given has. A header field that given has without a value is left out. A From
// or To of given without a tag gets the tag of draft.
func mergeMessage(draft, given *message) *message {
	m := &message{start: draft.start, body: given.body}
	if len(strings.Fields(given.start)) > 1 {
		m.start = given.start
	}
	for _, f := range draft.fields {
		switch {
		case sameField(f.name, "Content-Type"), sameField(f.name, "Content-Length"):
			if given.body != "" {
				continue
			}
		case !given.hasField(f.name):
		case m.hasField(f.name):
			continue
		default:
			for _, g := range given.fields {
				if sameField(g.name, f.name) {
					if sameField(f.name, "From") || sameField(f.name, "To") {
						g.value = withTag(g.value, addressParam(f.value, "tag"))
					}
					m.fields = append(m.fields, g)
				}
			}
			continue
		}
		m.fields = append(m.fields, f)
	}
	for _, g := range given.fields {
		if !draft.hasField(g.name) {
			m.fields = append(m.fields, g)
		}
	}
	m.fields = slices.DeleteFunc(m.fields, func(f field) bool { return f.value == "" })
	if m.body == "" && given.fieldValue("Content-Length") != "0" {
		m.body = draft.body
		if m.body != "" && !m.hasField("Content-Type") {
			m.addField("Content-Type", "application/sdp")
		}
	}
	if !m.hasField("Content-Length") {
		m.addField("Content-Length", strconv.Itoa(len(m.body)))
	}
	return m
}
