package sip

import (
	"bytes"
	"strings"

	"bellhop/dialog/siptext"
)

// contactParam is the URI parameter of a rewritten Contact that holds our token.
const contactParam = "bellhop"

// addBinding edits a REGISTER so that calls to the phone come back through the proxy: by
// Path (RFC 3327 §5.2), or by a rewritten Contact.
func (c *composer) addBinding(p *packet, r *routeDecision) {
	ourURI := r.nextHop.ownName(pbxSide).uri
	switch c.cfg.Register {
	case RegisterPath:
		c.addPath(&p.msg, r.edgeFlow, r.byURI, ourURI)
	case RegisterContact:
		c.rewriteContacts(&p.msg, r.edgeFlow, r.byURI, ourURI)
	case RegisterNone:
	}
}

// reachesClient reports whether requests to a client go over its flow. If byURI is true,
// they do not over UDP, and over a stream only while it is open: see packet.flow.
func (f flow) reachesClient(byURI bool) bool { return !byURI || f.proto != UDP }

// addPath puts our Path on top. A registrar refuses Path from a client that does not
// support it, so the REGISTER says that it does.
func (c *composer) addPath(m *message, fl flow, byURI bool, ourURI string) {
	top := m.firstField(hVia).line.from
	at := top
	if f := m.firstField(hPath); f != nil {
		at = f.line.from
	}
	t := token{flow: fl, use: inPath, byURI: byURI, text: m.registeredAOR()}
	if fl.reachesClient(byURI) {
		t.binding = c.sealer.firstBinding(m)
	}
	c.tmpBuf = c.sealer.sealToken(c.tmpBuf[:0], t)
	outbound := ""
	if m.hasRegID() && !m.hasNextVia() {
		outbound = ";ob" // RFC 5626 §5.1: the proxy is the first hop
	}
	c.edits.insert(at, "Path: <sip:", string(c.tmpBuf), "@", ourURI, ";lr", outbound, ">\r\n")
	c.edits.insert(top, "Supported: path\r\n")
}

// hasRegID reports whether a Contact has reg-id: the client keeps several flows (RFC 5626).
func (m *message) hasRegID() (found bool) {
	m.eachContact(func(_, params span, _ bool) {
		_, here := findParam(m.b, params, "reg-id")
		found = found || here
	})
	return found
}

// rewriteContacts replaces the host of each Contact by ours, and adds a token that
// contains the phone's own URI. A Contact stays unchanged if it already has our token for
// the same address-of-record, if its URI is malformed or ambiguous, or if its new form
// would make the header field too long.
func (c *composer) rewriteContacts(m *message, fl flow, byURI bool, ourURI string) {
	aor := m.registeredAOR()
	room := m.contactRoom()
	key := m.appendAOR(nil, m.to)
	m.eachContact(func(uri, params span, bare bool) {
		var u siptext.URI
		text := m.text(uri)
		if parseURI(string(text), &u) != nil {
			return
		}
		sealed, _ := u.Param(contactParam)
		if t, ok := c.sealer.openToken(sealed, inContact); ok && strings.HasPrefix(t.text, aor+" ") {
			return // another phone's Contact, as the PBX lists it
		}
		t := token{flow: fl, use: inContact, byURI: byURI, text: aor + " " + string(text)}
		if len(key) > 0 && fl.reachesClient(byURI) {
			t.binding, _ = c.sealer.bindingID(key, text, m, params)
		}
		c.replaceContact(m, uri, &u, bare, t, ourURI, &room)
	})
}

// replaceContact notes the edit that replaces a Contact URI by ours, with the token t in
// it. u is the parsed URI; its user stays. bare reports that the URI has no angle
// brackets. room is the number of bytes by which the header field may still grow:
// replaceContact subtracts what the edit takes, and notes nothing if that is more.
func (c *composer) replaceContact(m *message, uri span, u *siptext.URI, bare bool, t token, ourURI string, room *int) {
	text := string(m.text(uri))
	c.tmpBuf = c.sealer.sealToken(c.tmpBuf[:0], t)
	user := ""
	if u.Scheme != "tel" && u.User != "" {
		user = text[strings.IndexByte(text, ':')+1:]
		user = user[:strings.LastIndexByte(user, '@')+1]
	}
	if strings.Count(user, "@") > 1 {
		return // other elements would read the URI differently
	}
	grows := len("<sip:;=>") + len(user) + len(ourURI) + len(contactParam) + len(c.tmpBuf) - len(text)
	if grows > *room {
		return
	}
	*room -= grows
	open, shut := "", ""
	if bare {
		open, shut = "<", ">"
	}
	c.edits.replace(uri, open, "sip:", user, ourURI, ";", contactParam, "=", string(c.tmpBuf), shut)
}

// contactRoom returns the number of bytes by which the longest Contact field of m may grow.
func (m *message) contactRoom() int {
	room := maxFieldLen
	for i := range m.fields {
		if f := &m.fields[i]; f.name == hContact {
			room = min(room, maxFieldLen-int(f.line.to-f.line.from))
		}
	}
	return room
}

// restoreContacts replaces the rewritten Contacts in p, the 2xx to a REGISTER, by the
// Contacts that the phones wrote. It is called before the 2xx is observed, because the
// observer knows bindings by these Contacts, as the phones do.
//
// If the phone has registered the same Contact over another flow from the same host, the
// Contact of that binding is removed from the list, because the phone would take it for
// the new one. If another host has registered the same Contact, it belongs to a phone
// behind another NAT, and it stays as the PBX lists it.
func (c *composer) restoreContacts(p *packet) {
	m, s := &p.msg, &c.edits
	own := c.ownContacts()
	s.reset()
	for i := range m.fields {
		f := &m.fields[i]
		if f.name != hContact {
			continue
		}
		kept := int32(-1) // end of the last value that stays
		rest := f.value
		for one, ok := cutValue(m.b, &rest); ok; one, ok = cutValue(m.b, &rest) {
			switch {
			case c.restoreContact(m, one, own):
				kept = one.to
			case !rest.empty():
				s.remove(span{one.from, rest.from})
			case kept >= 0:
				s.remove(span{kept, rest.to})
			default:
				s.remove(f.line)
			}
		}
	}
	if len(s.edits) > 0 {
		c.tmpBuf = s.apply(c.tmpBuf[:0], m.b)
		p.buf = append(p.buf[:0], c.tmpBuf...)
		m.index(p.buf, p.conn != nil)
	}
}

// restoreContact notes the edit that puts the phone's own URI back into one Contact, and
// reports whether the Contact stays in the list.
func (c *composer) restoreContact(m *message, one span, own []ownContact) bool {
	uri, _, ok := splitNameAddr(m.b, one)
	var u siptext.URI
	if !ok || parseURI(string(m.text(uri)), &u) != nil {
		return true
	}
	text, _ := u.Param(contactParam)
	t, ok := c.sealer.openToken(text, inContact)
	if !ok {
		return true
	}
	_, wrote, _ := strings.Cut(t.text, " ")
	for i := range own {
		if o := &own[i]; o.uri == wrote && o.flow != t.flow {
			return o.flow.peer.Addr() != t.flow.peer.Addr()
		}
	}
	c.edits.replace(uri, wrote)
	return true
}

// ownContact is a Contact of the REGISTER whose 2xx is being handled.
type ownContact struct {
	uri  string // as the phone wrote it
	flow flow   // in the token that the proxy put into it
}

// ownContacts returns the Contacts of the REGISTER whose 2xx is being handled.
func (c *composer) ownContacts() (own []ownContact) {
	if c.answeredRequest == nil {
		return nil
	}
	m := &c.scratch
	m.index(c.answeredRequest, false)
	m.eachContact(func(uri, _ span, _ bool) {
		var u siptext.URI
		if parseURI(string(m.text(uri)), &u) != nil {
			return
		}
		text, _ := u.Param(contactParam)
		if t, ok := c.sealer.openToken(text, inContact); ok {
			_, wrote, _ := strings.Cut(t.text, " ")
			own = append(own, ownContact{wrote, t.flow})
		}
	})
	return own
}

// eachContact calls do with each URI in the Contact fields and the parameters after it.
// bare reports that no angle brackets are around the URI.
func (m *message) eachContact(do func(uri, params span, bare bool)) {
	for list := m.listValues(hContact); list.next(); {
		one := list.value
		if uri, params, ok := splitNameAddr(m.b, one); ok && string(m.text(uri)) != "*" {
			before := bytes.TrimRight(m.b[one.from:uri.from], " \t\r\n") // its display name may have a bracket too
			do(uri, params, !bytes.HasSuffix(before, []byte("<")))
		}
	}
}

// registeredAOR returns user@host of the To of a REGISTER, or "" if it has no such URI.
func (m *message) registeredAOR() string {
	u, ok := m.readAOR(m.to)
	if !ok {
		return ""
	}
	return u.User + "@" + u.Host
}

// readAOR reads the URI in the From or To value v. ok reports whether it has a user and a
// host, as an address-of-record has.
func (m *message) readAOR(v span) (u siptext.URI, ok bool) {
	uri, _, ok := splitNameAddr(m.b, v)
	ok = ok && parseURI(string(m.text(uri)), &u) == nil && u.User != "" && u.Host != ""
	return u, ok
}
