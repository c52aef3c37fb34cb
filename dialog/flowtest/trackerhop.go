package flowtest

import (
	"crypto/sha256"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"bellhop/dialog"
	"bellhop/dialog/siptext"
)

// A trackerHop is a [Hop] with a tracker but without a proxy. It forwards the messages
// that the flow expects to be forwarded, and creates the other messages that the flow
// expects from bellhop. It imitates as much of a proxy as the peers need.
type trackerHop struct {
	config        Config
	tracker       *dialog.Tracker
	nextTracker   func(*dialog.Tracker) *dialog.Tracker
	now           time.Time
	wallOffset    time.Duration // of the wall clock from now
	events        []dialog.Event
	pending       []*relayedMessage // received, not yet forwarded
	forwarded     []*relayedMessage
	registrations map[string]*relayedMessage // REGISTER requests by the token in their Path or Contact
	boundContacts []boundContact             // Contacts of phones that were replaced with a token
}

// A boundContact is the Contact of a registered phone. Its token is "c" and its index in
// trackerHop.boundContacts.
type boundContact struct{ peer, uri string }

// A relayedMessage is a message that the hop has received, and forwarded or not.
type relayedMessage struct {
	from, to       Peer
	received, sent *message
	branch         string // of the request as received
	answered       bool   // the hop itself has answered it
}

// NewTrackerHop returns a Hop that is a tracker without a proxy. It sends a message only
// where the flow expects one: so a flow tests the events, not the messages sent.
func NewTrackerHop(c Config) Hop {
	return NewTrackerHopWith(c, func(t *dialog.Tracker) *dialog.Tracker { return t })
}

// NewTrackerHopWith returns a Hop like that of [NewTrackerHop], whose tracker can be
// replaced. Before each message, and before time passes, nextTracker gets the current
// tracker and returns the one to use from then on.
func NewTrackerHopWith(c Config, nextTracker func(*dialog.Tracker) *dialog.Tracker) Hop {
	return &trackerHop{
		config:        c,
		tracker:       dialog.New(c.Dialog),
		nextTracker:   nextTracker,
		now:           time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC),
		registrations: map[string]*relayedMessage{},
	}
}

func (h *trackerHop) Now() time.Time { return h.now }

func (h *trackerHop) SetClock(by time.Duration) { h.wallOffset += by }

func (h *trackerHop) Unread() []string { return nil }

func (h *trackerHop) Events() (events []dialog.Event) {
	events, h.events = h.events, nil
	return events
}

func (h *trackerHop) Sleep(d time.Duration) {
	until := h.now.Add(d)
	h.tracker = h.nextTracker(h.tracker)
	for {
		next, ok := h.tracker.Next()
		if !ok || next.After(until) {
			break
		}
		if next.After(h.now) {
			h.now = next
		}
		h.tracker.SetClock(h.now, h.wallOffset)
		h.events = append(h.events, h.tracker.Advance(h.now)...)
	}
	h.now = until
}

func (h *trackerHop) Send(from Peer, msg []byte) error {
	m, err := parseMessage(string(msg))
	if err != nil {
		return err
	}
	from = h.classifyPeer(from)
	p := &relayedMessage{from: from, received: m, branch: m.branch()}
	switch {
	case m.status() != 0:
		q := h.findForwarded(from, m.branch())
		if q == nil {
			return fmt.Errorf("send %q: it answers no request", m.start)
		}
		p.to, p.branch = q.from, q.branch
		if m.method() == "REGISTER" && m.status()/100 == 2 && h.config.Register == "contact" {
			h.rewriteContacts(m, func(uri string) string {
				if i, ok := h.findBoundContact(uri); ok {
					return h.boundContacts[i].uri
				}
				return uri
			})
			msg = m.bytes()
		}
	case from.Side == dialog.Edge:
		p.to = peerByName("pbx")
		if to, ok := peerAt(m.requestURI()); ok && peerByName(to.Name).Side == dialog.PBX {
			p.to = h.classifyPeer(to) // within a dialog
		}
	case h.findRegistration(m) != nil:
		p.to = h.findRegistration(m).from
	default:
		to, ok := peerAt(m.requestURI())
		if !ok {
			return fmt.Errorf("send %q: no peer has the address %s", m.start, m.requestURI())
		}
		p.to = to
	}
	if !h.isAbsorbed(p) {
		h.pending = append(h.pending, p)
	}
	h.observeMessage(p, msg, false)
	return nil
}

// isAbsorbed reports whether a proxy does not forward p: a 100, the response to a CANCEL,
// the ACK of a rejected INVITE, or a retransmission.
func (h *trackerHop) isAbsorbed(p *relayedMessage) bool {
	if p.received.status() != 0 {
		return p.received.status() == 100 || p.received.method() == "CANCEL"
	}
	for _, q := range h.forwarded {
		if q.from.Name == p.from.Name && q.branch == p.branch && q.received.status() == 0 {
			return p.received.method() == "ACK" || p.received.method() == q.received.method()
		}
	}
	return false
}

// peerAt returns the peer with the address in a URI.
func peerAt(uri string) (Peer, bool) {
	_, host := userHost(uri)
	addr, err := netip.ParseAddrPort(host)
	if err != nil {
		return Peer{}, false
	}
	return findPeer(func(p Peer) bool { return p.Addr == addr })
}

// classifyPeer returns p with the side that bellhop assigns to it: a further address of
// the PBX is on the edge side unless the config lists it in pbx_sources.
func (h *trackerHop) classifyPeer(p Peer) Peer {
	configured := func(s netip.Prefix) bool { return s.Contains(p.Addr.Addr()) }
	if p.Side == dialog.PBX && p.Name != "pbx" && !slices.ContainsFunc(h.config.PBXSources, configured) {
		p.Side = dialog.Edge
	}
	return p
}

// findForwarded returns the request that the hop has forwarded to a peer with the given
// branch, or nil.
func (h *trackerHop) findForwarded(to Peer, branch string) *relayedMessage {
	for _, p := range slices.Backward(h.forwarded) {
		if p.to.Name == to.Name && p.sent.status() == 0 && p.sent.branch() == branch {
			return p
		}
	}
	return nil
}

// observeMessage shows a message to the tracker, as bellhop would. own says that the hop
// has created it.
func (h *trackerHop) observeMessage(p *relayedMessage, raw []byte, own bool) {
	head, body, _ := strings.Cut(string(raw), "\r\n\r\n")
	m := p.received
	o := dialog.Message{
		At:         h.now,
		WallOffset: h.wallOffset,

		Src:    p.from.Side,
		Dst:    p.to.Side,
		Own:    own,
		Method: m.method(),
		Status: m.status(),
		CallID: m.fieldValue("Call-ID"),
		CSeq:   uint32(m.cseq()),

		FromTag: m.fromTag(),
		ToTag:   m.toTag(),
		Branch:  p.branch,
		Head:    head,
		Body:    body,
	}
	o.From, o.To, o.Local = p.from.Addr, p.to.Addr, Bellhop
	o.Trunk = p.from.Trunk
	if p.from.Side == dialog.PBX {
		o.Trunk = p.to.Trunk
	}
	if r := h.findRegistration(m); r != nil {
		user, host := userHost(addressURI(r.received.fieldValue("To")))
		o.AOR = user + "@" + host
	}
	if m.status() == 0 && m.method() == "INVITE" && m.toTag() == "" {
		o.CID = m.fieldValue("X-CID")
		if h.config.AddCID && p.to.Side == dialog.PBX {
			o.CID = correlationID(m)
		}
	}
	h.tracker = h.nextTracker(h.tracker)
	h.events = append(h.events, h.tracker.Observe(o)...)
}

// findRegistration returns the REGISTER whose token is in a request of the PBX, or nil.
// The token is in the Route, from a Path, or in the Request-URI, from a Contact.
func (h *trackerHop) findRegistration(m *message) *relayedMessage {
	for _, uri := range []string{addressURI(m.fieldValue("Route")), m.requestURI()} {
		if token, host := userHost(uri); host == Bellhop.String() {
			return h.registrations[token]
		}
	}
	return nil
}

// bracketedURI matches a SIP URI in angle brackets.
var bracketedURI = regexp.MustCompile(`<sip:[^>]*>`)

// rewriteContacts replaces each URI in the Contacts of m with change of it.
func (h *trackerHop) rewriteContacts(m *message, change func(uri string) string) {
	for i, f := range m.fields {
		if sameField(f.name, "Contact") {
			m.fields[i].value = bracketedURI.ReplaceAllStringFunc(f.value, func(s string) string {
				return "<" + change(s[1:len(s)-1]) + ">"
			})
		}
	}
}

// findBoundContact returns the index in boundContacts of the Contact whose token is in a
// URI.
func (h *trackerHop) findBoundContact(uri string) (i int, ok bool) {
	token, host := userHost(uri)
	if host != Bellhop.String() || !strings.HasPrefix(token, "c") {
		return 0, false
	}
	i, err := strconv.Atoi(token[1:])
	return i, err == nil && i < len(h.boundContacts)
}

// correlationID returns the X-CID of an INVITE, or one derived from its Call-ID and From
// tag.
func correlationID(m *message) string {
	if v := m.fieldValue("X-CID"); v != "" {
		return v
	}
	sum := sha256.Sum256([]byte(m.fieldValue("Call-ID") + m.fromTag()))
	return fmt.Sprintf("%x", sum[:16])
}

func (h *trackerHop) Receive(to Peer, want string) ([]byte, error) {
	w, err := parseMessage(want)
	if err != nil {
		return nil, err
	}
	for i, p := range h.pending {
		if p.to.Name != to.Name || !matchesExpected(p.received, w) {
			continue
		}
		h.pending = slices.Delete(h.pending, i, i+1)
		p.sent = h.forwardMessage(p)
		if p.received.status() == 503 {
			p.sent.start = w.start // RFC 3261 §16.7 step 6
		}
		h.forwarded = append(h.forwarded, p)
		return p.sent.bytes(), nil
	}
	if w.status() != 0 {
		return h.createResponse(to, w)
	}
	return h.createRequest(to, w)
}

// matchesExpected reports whether m, when forwarded, is the message that w describes.
func matchesExpected(m, w *message) bool {
	if w.hasField("CSeq") && w.fieldValue("CSeq") != m.fieldValue("CSeq") {
		return false
	}
	if w.status() == 0 {
		return m.status() == 0 && m.method() == w.method()
	}
	return m.status() == w.status() || m.status() == 503 && w.status() == 500
}

// forwardMessage returns the message that a proxy would send for p.
func (h *trackerHop) forwardMessage(p *relayedMessage) *message {
	m := p.received.clone()
	if m.status() != 0 {
		m.removeFirstValue("Via")
		return m
	}
	n := strconv.Itoa(len(h.forwarded))
	hops, _ := strconv.Atoi(m.fieldValue("Max-Forwards"))
	m.setField("Max-Forwards", strconv.Itoa(hops-1))
	if i, ok := h.findBoundContact(m.requestURI()); ok {
		m.start = strings.Replace(m.start, m.requestURI(), h.boundContacts[i].uri, 1)
	}
	for {
		if _, host := userHost(addressURI(m.fieldValue("Route"))); host != Bellhop.String() {
			break
		}
		m.removeFirstValue("Route")
	}
	uri := "sip:t" + n + "@" + Bellhop.String() + ";lr"
	switch {
	case m.method() == "REGISTER" && h.config.Register == "path":
		h.registrations["t"+n] = p
		m.prependField("Path", "<"+uri+">")
	case m.method() == "REGISTER" && h.config.Register == "contact":
		h.rewriteContacts(m, func(uri string) string {
			c := boundContact{p.from.Name, uri}
			i := slices.Index(h.boundContacts, c)
			if i < 0 {
				i, h.boundContacts = len(h.boundContacts), append(h.boundContacts, c)
			}
			token := fmt.Sprint("c", i)
			h.registrations[token] = p
			return "sip:" + token + "@" + Bellhop.String()
		})
	case m.method() == "INVITE":
		m.prependField("Record-Route", "<"+uri+">")
		if h.config.AddCID && p.to.Side == dialog.PBX && m.toTag() == "" && !m.hasField("X-CID") {
			m.addField("X-CID", correlationID(m))
		}
	}
	branch := "z9hG4bK-hop-" + n
	if m.method() == "CANCEL" || m.method() == "ACK" {
		for _, q := range h.forwarded { // the branch of the INVITE that it belongs to
			if q.branch == p.branch && q.sent.method() == "INVITE" && q.sent.status() == 0 {
				branch = q.sent.branch()
			}
		}
	}
	m.prependField("Via", fmt.Sprintf("SIP/2.0/UDP %s;branch=%s", Bellhop, branch))
	return m
}

// createResponse creates a response of the hop itself to the newest request of a peer
// that it can answer, and shows it to the tracker.
func (h *trackerHop) createResponse(to Peer, w *message) ([]byte, error) {
	for _, p := range slices.Backward(slices.Concat(h.forwarded, h.pending)) {
		q := p.received
		if p.from.Name != to.Name || q.status() != 0 || q.method() == "ACK" || p.answered {
			continue
		}
		if w.status() == 200 && q.method() != "CANCEL" || w.status() != 200 && q.method() == "CANCEL" {
			continue
		}
		p.answered = w.status() >= 200
		m := &message{start: w.start}
		m.addField("Via", q.fieldValues("Via")...)
		m.addField("From", q.fieldValue("From"))
		m.addField("To", q.fieldValue("To"))
		if w.status() > 100 {
			m.setField("To", withTag(q.fieldValue("To"), "hop"))
		}
		m.addField("Call-ID", q.fieldValue("Call-ID"))
		m.addField("CSeq", q.fieldValue("CSeq"))
		m.addField("Content-Length", "0")
		h.observeMessage(&relayedMessage{from: p.to, to: to, received: m, branch: p.branch}, m.bytes(), true)
		return m.bytes(), nil
	}
	return nil, fmt.Errorf("create %q: %s has sent no request for it", w.start, to.Name)
}

// createRequest creates a request of the hop itself: a retransmission of an INVITE, or
// its ACK or CANCEL.
func (h *trackerHop) createRequest(to Peer, w *message) ([]byte, error) {
	for _, p := range slices.Backward(h.forwarded) {
		if p.to.Name != to.Name || p.sent.status() != 0 || p.sent.method() != "INVITE" && p.sent.method() != w.method() {
			continue
		}
		m := p.sent.clone()
		if m.method() != w.method() {
			m.start = strings.Replace(m.start, m.method(), w.method(), 1)
			via := m.fieldValues("Via")[0]
			m.fields = slices.DeleteFunc(m.fields, func(f field) bool {
				return !sameField(f.name, "From") && !sameField(f.name, "To") && !sameField(f.name, "Call-ID")
			})
			m.prependField("Via", via)
			m.addField("CSeq", fmt.Sprintf("%d %s", p.sent.cseq(), w.method()))
			m.body = ""
		}
		return m.bytes(), nil
	}
	return nil, fmt.Errorf("create %s: no INVITE was forwarded to %s", w.method(), to.Name)
}

// userHost returns the user and the host with port of a SIP URI.
func userHost(uri string) (user, host string) {
	u := siptext.ParseURI(uri)
	if u.Port != "" {
		return u.User, u.Host + ":" + u.Port
	}
	return u.User, u.Host
}
