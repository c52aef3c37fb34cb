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
type bare struct {
	config  Config
	tracker *dialog.Tracker
	before  func(*dialog.Tracker) *dialog.Tracker
	now     time.Time
	ahead   time.Duration // the wall clock is
	said    []dialog.Event
	passing []*passage // received and not yet forwarded
	passed  []*passage
	tokens  map[string]*passage // the REGISTER, by the token in its Path or Contact
	bound   []boundContact      // of those whose token is in the Contact
}

// A boundContact is the Contact of a phone that has registered; its place makes its token.
type boundContact struct{ peer, uri string }

// A passage is a message on its way through the hop.
type passage struct {
	from, to Peer
	in, out  *message
	branch   string // of the request as it came in
	answered bool   // by the hop itself
}

// NewBare returns a Hop that is a tracker and nothing else. Its messages leave
// only where a flow says so: it proves what is said, not what is sent.
func NewBare(c Config) Hop {
	return NewReplaced(c, func(t *dialog.Tracker) *dialog.Tracker { return t })
}

// NewReplaced is as NewBare, with a tracker that may change: before it is shown
// a message, or that time passes, before says which it is from here on.
func NewReplaced(c Config, before func(*dialog.Tracker) *dialog.Tracker) Hop {
	return &bare{
		config:  c,
		tracker: dialog.New(c.Dialog),
		before:  before,
		now:     time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC),
		tokens:  map[string]*passage{},
	}
}

func (b *bare) Now() time.Time { return b.now }

func (b *bare) SetClock(by time.Duration) { b.ahead += by }

func (b *bare) Unread() []string { return nil }

func (b *bare) Events() (said []dialog.Event) {
	said, b.said = b.said, nil
	return said
}

func (b *bare) Sleep(d time.Duration) {
	until := b.now.Add(d)
	b.tracker = b.before(b.tracker)
	for {
		next, ok := b.tracker.Next()
		if !ok || next.After(until) {
			break
		}
		if next.After(b.now) {
			b.now = next
		}
		b.tracker.SetClock(b.now, b.ahead)
		b.said = append(b.said, b.tracker.Advance(b.now)...)
	}
	b.now = until
}

func (b *bare) Send(from Peer, msg []byte) error {
	m, err := parse(string(msg))
	if err != nil {
		return err
	}
	from = b.sees(from)
	p := &passage{from: from, in: m, branch: m.branch()}
	switch {
	case m.status() != 0:
		q := b.sent(from, m.branch())
		if q == nil {
			return fmt.Errorf("%q answers nothing", m.start)
		}
		p.to, p.branch = q.from, q.branch
		if m.method() == "REGISTER" && m.status()/100 == 2 && b.config.Register == "contact" {
			b.contacts(m, func(uri string) string {
				if i, ok := b.place(uri); ok {
					return b.bound[i].uri
				}
				return uri
			})
			msg = m.bytes()
		}
	case from.Side == dialog.Edge:
		p.to = peer("pbx")
		if to, ok := at(m.uri()); ok && peer(to.Name).Side == dialog.PBX {
			p.to = b.sees(to) // within a dialog
		}
	case b.registration(m) != nil:
		p.to = b.registration(m).from
	default:
		to, ok := at(m.uri())
		if !ok {
			return fmt.Errorf("no peer is at %s", m.uri())
		}
		p.to = to
	}
	if !b.absorbs(p) {
		b.passing = append(b.passing, p)
	}
	b.observe(p, msg, false)
	return nil
}

// absorbs reports whether a proxy keeps p: a 100, the response to a CANCEL, the
// ACK of a refused INVITE, and what it has had before.
func (b *bare) absorbs(p *passage) bool {
	if p.in.status() != 0 {
		return p.in.status() == 100 || p.in.method() == "CANCEL"
	}
	for _, q := range b.passed {
		if q.from.Name == p.from.Name && q.branch == p.branch && q.in.status() == 0 {
			return p.in.method() == "ACK" || p.in.method() == q.in.method()
		}
	}
	return false
}

// at returns the peer at the address that a URI has.
func at(uri string) (Peer, bool) {
	_, host := userHost(uri)
	addr, err := netip.ParseAddrPort(host)
	if err != nil {
		return Peer{}, false
	}
	return peerBy(func(p Peer) bool { return p.Addr == addr })
}

// sees returns a peer as the hop takes it: at an address of the PBX that the config
// does not have it is on the edge side.
func (b *bare) sees(p Peer) Peer {
	configured := func(s netip.Prefix) bool { return s.Contains(p.Addr.Addr()) }
	if p.Side == dialog.PBX && p.Name != "pbx" && !slices.ContainsFunc(b.config.PBXSources, configured) {
		p.Side = dialog.Edge
	}
	return p
}

// sent finds the request that left for a peer with a branch of ours.
func (b *bare) sent(to Peer, branch string) *passage {
	for _, p := range slices.Backward(b.passed) {
		if p.to.Name == to.Name && p.out.status() == 0 && p.out.branch() == branch {
			return p
		}
	}
	return nil
}

// observe shows the tracker a message as the hop would.
func (b *bare) observe(p *passage, raw []byte, own bool) {
	head, body, _ := strings.Cut(string(raw), "\r\n\r\n")
	m := p.in
	o := dialog.Message{
		At:         b.now,
		WallOffset: b.ahead,

		Src:    p.from.Side,
		Dst:    p.to.Side,
		Own:    own,
		Method: m.method(),
		Status: m.status(),
		CallID: m.get("Call-ID"),
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
	if r := b.registration(m); r != nil {
		user, host := userHost(address(r.in.get("To")))
		o.AOR = user + "@" + host
	}
	if m.status() == 0 && m.method() == "INVITE" && m.toTag() == "" {
		o.CID = m.get("X-CID")
		if b.config.AddCID && p.to.Side == dialog.PBX {
			o.CID = cid(m)
		}
	}
	b.tracker = b.before(b.tracker)
	b.said = append(b.said, b.tracker.Observe(o)...)
}

// registration is the REGISTER whose token a request of the PBX bears: in its
// Route, out of the Path, or in its Request-URI, out of the Contact.
func (b *bare) registration(m *message) *passage {
	for _, uri := range []string{address(m.get("Route")), m.uri()} {
		if token, host := userHost(uri); host == Bellhop.String() {
			return b.tokens[token]
		}
	}
	return nil
}

// inBrackets finds the SIP URIs in the angle brackets of a Contact.
var inBrackets = regexp.MustCompile(`<sip:[^>]*>`)

// contacts puts what change returns in the place of each URI in the Contacts of m.
func (b *bare) contacts(m *message, change func(uri string) string) {
	for i, f := range m.fields {
		if same(f.name, "Contact") {
			m.fields[i].value = inBrackets.ReplaceAllStringFunc(f.value, func(s string) string {
				return "<" + change(s[1:len(s)-1]) + ">"
			})
		}
	}
}

// place returns where the Contact is among those bound whose token a URI has.
func (b *bare) place(uri string) (i int, ok bool) {
	token, host := userHost(uri)
	if host != Bellhop.String() || !strings.HasPrefix(token, "c") {
		return 0, false
	}
	i, err := strconv.Atoi(token[1:])
	return i, err == nil && i < len(b.bound)
}

// cid is the correlation id of an INVITE: its own, or one that stands for it.
func cid(m *message) string {
	if v := m.get("X-CID"); v != "" {
		return v
	}
	sum := sha256.Sum256([]byte(m.get("Call-ID") + m.fromTag()))
	return fmt.Sprintf("%x", sum[:16])
}

func (b *bare) Receive(to Peer, want string) ([]byte, error) {
	w, err := parse(want)
	if err != nil {
		return nil, err
	}
	for i, p := range b.passing {
		if p.to.Name != to.Name || !alike(p.in, w) {
			continue
		}
		b.passing = slices.Delete(b.passing, i, i+1)
		p.out = b.forward(p)
		if p.in.status() == 503 {
			p.out.start = w.start // RFC 3261 §16.7 step 6
		}
		b.passed = append(b.passed, p)
		return p.out.bytes(), nil
	}
	if w.status() != 0 {
		return b.answer(to, w)
	}
	return b.ask(to, w)
}

// alike reports whether m, forwarded, is what w expects.
func alike(m, w *message) bool {
	if w.has("CSeq") && w.get("CSeq") != m.get("CSeq") {
		return false
	}
	if w.status() == 0 {
		return m.status() == 0 && m.method() == w.method()
	}
	return m.status() == w.status() || m.status() == 503 && w.status() == 500
}

// forward changes a message as a proxy does.
func (b *bare) forward(p *passage) *message {
	m := p.in.clone()
	if m.status() != 0 {
		m.pop("Via")
		return m
	}
	n := strconv.Itoa(len(b.passed))
	hops, _ := strconv.Atoi(m.get("Max-Forwards"))
	m.set("Max-Forwards", strconv.Itoa(hops-1))
	if i, ok := b.place(m.uri()); ok {
		m.start = strings.Replace(m.start, m.uri(), b.bound[i].uri, 1)
	}
	for {
		if _, host := userHost(address(m.get("Route"))); host != Bellhop.String() {
			break
		}
		m.pop("Route")
	}
	uri := "sip:t" + n + "@" + Bellhop.String() + ";lr"
	switch {
	case m.method() == "REGISTER" && b.config.Register == "path":
		b.tokens["t"+n] = p
		m.push("Path", "<"+uri+">")
	case m.method() == "REGISTER" && b.config.Register == "contact":
		b.contacts(m, func(uri string) string {
			c := boundContact{p.from.Name, uri}
			i := slices.Index(b.bound, c)
			if i < 0 {
				i, b.bound = len(b.bound), append(b.bound, c)
			}
			token := fmt.Sprint("c", i)
			b.tokens[token] = p
			return "sip:" + token + "@" + Bellhop.String()
		})
	case m.method() == "INVITE":
		m.push("Record-Route", "<"+uri+">")
		if b.config.AddCID && p.to.Side == dialog.PBX && m.toTag() == "" && !m.has("X-CID") {
			m.add("X-CID", cid(m))
		}
	}
	branch := "z9hG4bK-hop-" + n
	if m.method() == "CANCEL" || m.method() == "ACK" {
		for _, q := range b.passed { // of its INVITE, if that has the same
			if q.branch == p.branch && q.out.method() == "INVITE" && q.out.status() == 0 {
				branch = q.out.branch()
			}
		}
	}
	m.push("Via", fmt.Sprintf("SIP/2.0/UDP %s;branch=%s", Bellhop, branch))
	return m
}

// answer makes a response of the hop's own to the newest request of a peer that
// it fits.
func (b *bare) answer(to Peer, w *message) ([]byte, error) {
	for _, p := range slices.Backward(slices.Concat(b.passed, b.passing)) {
		q := p.in
		if p.from.Name != to.Name || q.status() != 0 || q.method() == "ACK" || p.answered {
			continue
		}
		if w.status() == 200 && q.method() != "CANCEL" || w.status() != 200 && q.method() == "CANCEL" {
			continue
		}
		p.answered = w.status() >= 200
		m := &message{start: w.start}
		m.add("Via", q.all("Via")...)
		m.add("From", q.get("From"))
		m.add("To", q.get("To"))
		if w.status() > 100 {
			m.set("To", tagged(q.get("To"), "hop"))
		}
		m.add("Call-ID", q.get("Call-ID"))
		m.add("CSeq", q.get("CSeq"))
		m.add("Content-Length", "0")
		b.observe(&passage{from: p.to, to: to, in: m, branch: p.branch}, m.bytes(), true)
		return m.bytes(), nil
	}
	return nil, fmt.Errorf("%s has sent no request that %q answers", to.Name, w.start)
}

// ask makes a request of the hop's own: an INVITE again, or its ACK or CANCEL.
func (b *bare) ask(to Peer, w *message) ([]byte, error) {
	for _, p := range slices.Backward(b.passed) {
		if p.to.Name != to.Name || p.out.status() != 0 || p.out.method() != "INVITE" && p.out.method() != w.method() {
			continue
		}
		m := p.out.clone()
		if m.method() != w.method() {
			m.start = strings.Replace(m.start, m.method(), w.method(), 1)
			via := m.all("Via")[0]
			m.fields = slices.DeleteFunc(m.fields, func(f field) bool {
				return !same(f.name, "From") && !same(f.name, "To") && !same(f.name, "Call-ID")
			})
			m.push("Via", via)
			m.add("CSeq", fmt.Sprintf("%d %s", p.out.cseq(), w.method()))
			m.body = ""
		}
		return m.bytes(), nil
	}
	return nil, fmt.Errorf("%s is sent no %s", to.Name, w.method())
}
