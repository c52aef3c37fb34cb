package sip

import (
	"math"
	"strings"

	"bellhop/dialog/siptext"
)

// Limits of what one REGISTER makes the proxy remember.
const (
	maxBindingLifetime     = instant(24 * 3600e9)
	defaultBindingLifetime = instant(3600e9) // RFC 3261 §10.2.1.1
	maxContactBindings     = 16              // further Contacts have no binding
)

// registration is a REGISTER of the edge side that waits for its final response.
type registration struct {
	flow  flow
	byURI bool    // see packet.flow
	at    instant // time at which it was received
}

// rememberBindings records the bindings of a REGISTER with the 2xx m. It is called before
// the 2xx is sent, so that a request that the client or the PBX sends after it finds them
// on any worker. A Contact that expires at once ends its binding. "*" ends the binding of
// the address-of-record over this flow.
func (c *composer) rememberBindings(bs *bindings, now instant, reg *registration, m *message) {
	if c.answeredRequest == nil {
		return
	}
	sent := &c.scratch
	sent.index(c.answeredRequest, false)
	aor := sent.appendAOR(nil, sent.to)
	if len(aor) == 0 {
		return
	}
	expires := now + m.grantedLifetime()
	for list, n := sent.listValues(hContact), 0; list.next() && n < maxContactBindings; n++ {
		uri, params, ok := splitNameAddr(sent.b, list.value)
		if !ok {
			continue
		}
		b := &binding{flow: reg.flow, byURI: reg.byURI, since: reg.at, expires: expires}
		client := sent.text(uri)
		if string(client) == "*" {
			b.id = bs.ofFlow(now, reg.flow, aor, false)
		} else if client, ok = c.writtenContact(client, reg.flow); ok {
			b.id, b.byContact = c.sealer.bindingID(aor, client, sent, params)
		}
		asked, known := sent.lifetimeOf(params)
		switch {
		case b.id == bindingID{}:
		case known && asked == 0 || !reg.flow.reachesClient(reg.byURI):
			bs.end(now, b.id, reg.at)
		case string(client) != "*":
			bs.set(now, b, aor)
			c.keepAlives.start(now, b, client)
		}
	}
}

// writtenContact returns the Contact URI as the client wrote it. uri is that Contact in
// the REGISTER that was sent to the PBX, in which the proxy may have replaced it by its
// own.
//
// ok is false if uri has our token for another flow than fl. Such a client has read the
// Contact of another client from a response of the PBX and repeats it.
func (c *composer) writtenContact(uri []byte, fl flow) (wrote []byte, ok bool) {
	if c.cfg.Register != RegisterContact {
		return uri, true
	}
	var u siptext.URI
	if parseURI(string(uri), &u) != nil {
		return uri, true
	}
	text, _ := u.Param(contactParam)
	t, ours := c.sealer.openToken(text, inContact)
	if !ours {
		return uri, true
	}
	_, of, _ := strings.Cut(t.text, " ")
	return []byte(of), t.flow == fl
}

// firstBinding returns the id of the binding of the first Contact of a REGISTER, or the
// zero id if it has none.
func (s *sealer) firstBinding(m *message) (id bindingID) {
	list := m.listValues(hContact)
	if !list.next() {
		return id
	}
	uri, params, ok := splitNameAddr(m.b, list.value)
	aor := m.appendAOR(nil, m.to)
	if ok && len(aor) > 0 && string(m.text(uri)) != "*" {
		id, _ = s.bindingID(aor, m.text(uri), m, params)
	}
	return id
}

// bindingID returns the id of the binding that a Contact of m makes. The id is a hash of
// the address-of-record and of the parameter +sip.instance. If the Contact has no
// +sip.instance, the hash is of the Contact URI instead, and byContact is true. params
// are the parameters of the Contact.
func (s *sealer) bindingID(aor, uri []byte, m *message, params span) (id bindingID, byContact bool) {
	kind, client := "binding of instance", []byte(nil)
	if v, found := findParam(m.b, params, "+sip.instance"); found && !v.empty() {
		client = m.text(v)
	} else {
		kind, client, byContact = "binding of contact", uri, true
	}
	return bindingID(s.computeMAC(len(id), []byte(kind), []byte{0}, aor, []byte{0}, client)), byContact
}

// lifetimeOf returns the lifetime of a binding in a REGISTER or in the 2xx to one: that in
// the parameters of its Contact, else that in Expires. known is false if there is neither.
func (m *message) lifetimeOf(params span) (lifetime instant, known bool) {
	v, found := findParam(m.b, params, "expires")
	if !found {
		f := m.firstField(hExpires)
		if f == nil {
			return 0, false
		}
		v = f.value
	}
	seconds, ok := parseNumber(m.text(v), math.MaxInt32)
	return instant(seconds) * 1e9, ok
}

// grantedLifetime returns the longest lifetime in the 2xx m to a REGISTER. The PBX may
// list other bindings too, so the result may be longer than the lifetime of this one.
// That does no harm, because the PBX sends no request to a binding that has expired.
func (m *message) grantedLifetime() (longest instant) {
	known := false
	for list := m.listValues(hContact); list.next(); {
		_, params, _ := splitNameAddr(m.b, list.value)
		if lifetime, ok := m.lifetimeOf(params); ok {
			longest, known = max(longest, lifetime), true
		}
	}
	if !known {
		return defaultBindingLifetime
	}
	return min(longest, maxBindingLifetime)
}

// appendAOR appends the address-of-record in the From or To value v to dst: user@host, the
// host in lower case. It appends nothing if v has no user or no host.
func (m *message) appendAOR(dst []byte, v span) []byte {
	u, ok := m.readAOR(v)
	if !ok {
		return dst
	}
	dst = append(append(dst, u.User...), '@')
	return append(dst, strings.ToLower(u.Host)...)
}
