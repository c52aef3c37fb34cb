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
)

// A bare hop is the tracker alone. It forwards what a flow says is forwarded,
// and makes of its own what else the flow says bellhop sends; of a proxy it has
// only what the peers need to go on.
type trackerHop struct {
	config        Config
	tracker       *dialog.Tracker
	nextTracker   func(*dialog.Tracker) *dialog.Tracker
	now           time.Time
	wallOffset    time.Duration // the wall clock is
	events        []dialog.Event
	pending       []*relayedMessage // received and not yet forwarded
	forwarded     []*relayedMessage
	registrations map[string]*relayedMessage // the REGISTER, by the token in its Path or Contact
	boundContacts []boundContact             // of those whose token is in the Contact
}

// A boundContact is the Contact of a phone that has registered; its place makes its token.
type boundContact struct{ peer, uri string }

// A passage is a message on its way through the hop.
type relayedMessage struct {
	from, to       Peer
	received, sent *message
	branch         string // of the request as it came in
	answered       bool   // by the hop itself
}

// NewTrackerHop returns a Hop that is a tracker and nothing else. Its messages leave
// only where a flow says so: it proves what is said, not what is sent.
func NewTrackerHop(c Config) Hop {
	return NewTrackerHopWith(c, func(t *dialog.Tracker) *dialog.Tracker { return t })
}

// NewTrackerHopWith is as NewTrackerHop, with a tracker that may change: before it is shown
// a message, or that time passes, before says which it is from here on.
func NewTrackerHopWith(c Config, before func(*dialog.Tracker) *dialog.Tracker) Hop {
	return &trackerHop{
		config:        c,
		tracker:       dialog.New(c.Dialog),
		nextTracker:   before,
		now:           time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC),
		registrations: map[string]*relayedMessage{},
	}
}

func (b *trackerHop) Now() time.Time { return b.now }

func (b *trackerHop) SetClock(by time.Duration) { b.wallOffset += by }

func (b *trackerHop) Unread() []string { return nil }

func (b *trackerHop) Events() (said []dialog.Event) {
	said, b.events = b.events, nil
	return said
}

func (b *trackerHop) Sleep(d time.Duration) {
	until := b.now.Add(d)
	b.tracker = b.nextTracker(b.tracker)
	for {
		next, ok := b.tracker.Next()
		if !ok || next.After(until) {
			break
		}
		if next.After(b.now) {
			b.now = next
		}
		b.tracker.SetClock(b.now, b.wallOffset)
		b.events = append(b.events, b.tracker.Advance(b.now)...)
	}
	b.now = until
}

func (b *trackerHop) Send(from Peer, msg []byte) error {
	m, err := parseMessage(string(msg))
	if err != nil {
		return err
	}
	from = b.classifyPeer(from)
	p := &relayedMessage{from: from, received: m, branch: m.branch()}
	switch {
	case m.status() != 0:
		q := b.findForwarded(from, m.branch())
		if q == nil {
			return fmt.Errorf("%q answers nothing", m.start)
		}
		p.to, p.branch = q.from, q.branch
		if m.method() == "REGISTER" && m.status()/100 == 2 && b.config.Register == "contact" {
			b.rewriteContacts(m, func(uri string) string {
				if i, ok := b.findBoundContact(uri); ok {
					return b.boundContacts[i].uri
				}
				return uri
			})
			msg = m.bytes()
		}
	case from.Side == dialog.Edge:
		p.to = peerByName("pbx")
		if to, ok := peerAt(m.requestURI()); ok && peerByName(to.Name).Side == dialog.PBX {
			p.to = b.classifyPeer(to) // within a dialog
		}
	case b.findRegistration(m) != nil:
		p.to = b.findRegistration(m).from
	default:
		to, ok := peerAt(m.requestURI())
		if !ok {
			return fmt.Errorf("no peer is at %s", m.requestURI())
		}
		p.to = to
	}
	if !b.isAbsorbed(p) {
		b.pending = append(b.pending, p)
	}
	b.observeMessage(p, msg, false)
	return nil
}

// absorbs reports whether a proxy keeps p: a 100, the response to a CANCEL, the
// ACK of a refused INVITE, and what it has had before.
func (b *trackerHop) isAbsorbed(p *relayedMessage) bool {
	if p.received.status() != 0 {
		return p.received.status() == 100 || p.received.method() == "CANCEL"
	}
	for _, q := range b.forwarded {
		if q.from.Name == p.from.Name && q.branch == p.branch && q.received.status() == 0 {
			return p.received.method() == "ACK" || p.received.method() == q.received.method()
		}
	}
	return false
}

// at returns the peer at the address that a URI has.
func peerAt(uri string) (Peer, bool) {
	_, host := userHost(uri)
	addr, err := netip.ParseAddrPort(host)
	if err != nil {
		return Peer{}, false
	}
	return findPeer(func(p Peer) bool { return p.Addr == addr })
}

// sees returns a peer as the hop takes it: at an address of the PBX that the config
// does not have it is on the edge side.
func (b *trackerHop) classifyPeer(p Peer) Peer {
	configured := func(s netip.Prefix) bool { return s.Contains(p.Addr.Addr()) }
	if p.Side == dialog.PBX && p.Name != "pbx" && !slices.ContainsFunc(b.config.PBXSources, configured) {
		p.Side = dialog.Edge
	}
	return p
}

// sent finds the request that left for a peer with a branch of ours.
func (b *trackerHop) findForwarded(to Peer, branch string) *relayedMessage {
	for _, p := range slices.Backward(b.forwarded) {
		if p.to.Name == to.Name && p.sent.status() == 0 && p.sent.branch() == branch {
			return p
		}
	}
	return nil
}

// observe shows the tracker a message as the hop would.
func (b *trackerHop) observeMessage(p *relayedMessage, raw []byte, own bool) {
	head, body, _ := strings.Cut(string(raw), "\r\n\r\n")
	m := p.received
	o := dialog.Message{
		At:         b.now,
		WallOffset: b.wallOffset,

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
	if r := b.findRegistration(m); r != nil {
		user, host := userHost(addressURI(r.received.fieldValue("To")))
		o.AOR = user + "@" + host
	}
	if m.status() == 0 && m.method() == "INVITE" && m.toTag() == "" {
		o.CID = m.fieldValue("X-CID")
		if b.config.AddCID && p.to.Side == dialog.PBX {
			o.CID = correlationID(m)
		}
	}
	b.tracker = b.nextTracker(b.tracker)
	b.events = append(b.events, b.tracker.Observe(o)...)
}

// registration is the REGISTER whose token a request of the PBX bears: in its
// Route, out of the Path, or in its Request-URI, out of the Contact.
func (b *trackerHop) findRegistration(m *message) *relayedMessage {
	for _, uri := range []string{addressURI(m.fieldValue("Route")), m.requestURI()} {
		if token, host := userHost(uri); host == Bellhop.String() {
			return b.registrations[token]
		}
	}
	return nil
}

// inBrackets finds the SIP URIs in the angle brackets of a Contact.
var bracketedURI = regexp.MustCompile(`<sip:[^>]*>`)

// contacts puts what change returns in the place of each URI in the Contacts of m.
func (b *trackerHop) rewriteContacts(m *message, change func(uri string) string) {
	for i, f := range m.fields {
		if sameField(f.name, "Contact") {
			m.fields[i].value = bracketedURI.ReplaceAllStringFunc(f.value, func(s string) string {
				return "<" + change(s[1:len(s)-1]) + ">"
			})
		}
	}
}

// place returns where the Contact is among those bound whose token a URI has.
func (b *trackerHop) findBoundContact(uri string) (i int, ok bool) {
	token, host := userHost(uri)
	if host != Bellhop.String() || !strings.HasPrefix(token, "c") {
		return 0, false
	}
	i, err := strconv.Atoi(token[1:])
	return i, err == nil && i < len(b.boundContacts)
}

// cid is the correlation id of an INVITE: its own, or one that stands for it.
func correlationID(m *message) string {
	if v := m.fieldValue("X-CID"); v != "" {
		return v
	}
	sum := sha256.Sum256([]byte(m.fieldValue("Call-ID") + m.fromTag()))
	return fmt.Sprintf("%x", sum[:16])
}

func (b *trackerHop) Receive(to Peer, want string) ([]byte, error) {
	w, err := parseMessage(want)
	if err != nil {
		return nil, err
	}
	for i, p := range b.pending {
		if p.to.Name != to.Name || !matchesExpected(p.received, w) {
			continue
		}
		b.pending = slices.Delete(b.pending, i, i+1)
		p.sent = b.forwardMessage(p)
		if p.received.status() == 503 {
			p.sent.start = w.start // RFC 3261 §16.7 step 6
		}
		b.forwarded = append(b.forwarded, p)
		return p.sent.bytes(), nil
	}
	if w.status() != 0 {
		return b.createResponse(to, w)
	}
	return b.createRequest(to, w)
}

// alike reports whether m, forwarded, is what w expects.
func matchesExpected(m, w *message) bool {
	if w.hasField("CSeq") && w.fieldValue("CSeq") != m.fieldValue("CSeq") {
		return false
	}
	if w.status() == 0 {
		return m.status() == 0 && m.method() == w.method()
	}
	return m.status() == w.status() || m.status() == 503 && w.status() == 500
}

// forward changes a message as a proxy does.
func (b *trackerHop) forwardMessage(p *relayedMessage) *message {
	m := p.received.clone()
	if m.status() != 0 {
		m.removeFirstValue("Via")
		return m
	}
	n := strconv.Itoa(len(b.forwarded))
	hops, _ := strconv.Atoi(m.fieldValue("Max-Forwards"))
	m.setField("Max-Forwards", strconv.Itoa(hops-1))
	if i, ok := b.findBoundContact(m.requestURI()); ok {
		m.start = strings.Replace(m.start, m.requestURI(), b.boundContacts[i].uri, 1)
	}
	for {
		if _, host := userHost(addressURI(m.fieldValue("Route"))); host != Bellhop.String() {
			break
		}
		m.removeFirstValue("Route")
	}
	uri := "sip:t" + n + "@" + Bellhop.String() + ";lr"
	switch {
	case m.method() == "REGISTER" && b.config.Register == "path":
		b.registrations["t"+n] = p
		m.prependField("Path", "<"+uri+">")
	case m.method() == "REGISTER" && b.config.Register == "contact":
		b.rewriteContacts(m, func(uri string) string {
			c := boundContact{p.from.Name, uri}
			i := slices.Index(b.boundContacts, c)
			if i < 0 {
				i, b.boundContacts = len(b.boundContacts), append(b.boundContacts, c)
			}
			token := fmt.Sprint("c", i)
			b.registrations[token] = p
			return "sip:" + token + "@" + Bellhop.String()
		})
	case m.method() == "INVITE":
		m.prependField("Record-Route", "<"+uri+">")
		if b.config.AddCID && p.to.Side == dialog.PBX && m.toTag() == "" && !m.hasField("X-CID") {
			m.addField("X-CID", correlationID(m))
		}
	}
	branch := "z9hG4bK-hop-" + n
	if m.method() == "CANCEL" || m.method() == "ACK" {
		for _, q := range b.forwarded { // of its INVITE, if that has the same
			if q.branch == p.branch && q.sent.method() == "INVITE" && q.sent.status() == 0 {
				branch = q.sent.branch()
			}
		}
	}
	m.prependField("Via", fmt.Sprintf("SIP/2.0/UDP %s;branch=%s", Bellhop, branch))
	return m
}

// answer makes a response of the hop's own to the newest request of a peer that
// it fits.
func (b *trackerHop) createResponse(to Peer, w *message) ([]byte, error) {
	for _, p := range slices.Backward(slices.Concat(b.forwarded, b.pending)) {
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
		b.observeMessage(&relayedMessage{from: p.to, to: to, received: m, branch: p.branch}, m.bytes(), true)
		return m.bytes(), nil
	}
	return nil, fmt.Errorf("%s has sent no request that %q answers", to.Name, w.start)
}

// ask makes a request of the hop's own: an INVITE again, or its ACK or CANCEL.
func (b *trackerHop) createRequest(to Peer, w *message) ([]byte, error) {
	for _, p := range slices.Backward(b.forwarded) {
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
	return nil, fmt.Errorf("%s is sent no %s", to.Name, w.method())
}
