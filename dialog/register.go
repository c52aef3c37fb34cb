package dialog

import "slices"

// defaultExpires is how many seconds a binding lasts for which nobody says it (RFC 3261
// §10.2.1.1).
const defaultExpires = 3600

// maxRegister is how long a REGISTER may be that is kept until its response.
const maxRegister = 4 << 10

// A registerRequest is what a REGISTER asks for.
type registerRequest struct {
	removesAll bool // * with expiry 0: all bindings are removed
	seconds    int  // Expires; below 0: it does not say
	contacts   []registerContact
}

// A registerContact is a Contact of a REGISTER, or of its 2xx.
type registerContact struct {
	key, uri  string // as contactKey and bareURI have it
	transport string // in lower case; "": it is not known
	instance  string // +sip.instance; "": it does not say
	regID     string // reg-id, likewise
	seconds   int    // below 0: it does not say
}

// readContact reads one value of a Contact header field. Its key is "" if it is none, as
// is that of *.
func readContact(value string) (c registerContact) {
	_, u, params := parseNameAddr(value)
	c = registerContact{key: contactKey(u), uri: bareURI(u), seconds: -1}
	p := splitURI(u)
	c.transport = p.transportName()
	c.instance, _ = paramValue(params, "+sip.instance")
	c.regID, _ = paramValue(params, "reg-id")
	if own, ok := paramValue(params, "expires"); ok {
		c.seconds = parseSeconds(own, -1)
	}
	return c
}

// another reports whether o is surely of another binding than c, though their keys are
// the same: of another flow of the same phone (RFC 5626 §6), or over another transport
// (RFC 3261 §19.1.4). What one of them does not say tells nothing.
func (c *registerContact) isOtherBinding(o *registerContact) bool {
	differ := func(a, b string) bool { return a != "" && b != "" && a != b }
	return differ(c.instance, o.instance) || differ(c.regID, o.regID) || differ(c.transport, o.transport)
}

// readRegister reads the head of a REGISTER; an empty one asks for nothing.
func readRegister(head string) *registerRequest {
	r := &registerRequest{seconds: -1}
	star := false
	for name, value := range headerFields(head) {
		switch {
		case sameHeader(name, "Expires"):
			r.seconds = parseSeconds(value, -1)
		case sameHeader(name, "Contact"):
			for v := range listValues(value) {
				c := readContact(v)
				star = star || c.uri == "*"
				if c.key != "" && len(r.contacts) < maxContacts {
					r.contacts = append(r.contacts, c)
				}
			}
		}
	}
	r.removesAll = star && r.seconds == 0
	return r
}

// asked returns for how long the binding of a contact is to last; below 0: it does not
// say. Where one REGISTER binds and unbinds contacts with the same key, as a phone does
// that changes its transport, the contact is the one that is bound.
func (r *registerRequest) requestedExpiry(c *registerContact) int {
	asked := -1
	for i := range r.contacts {
		o := &r.contacts[i]
		if o.key != c.key {
			continue
		}
		n := o.seconds
		if n < 0 {
			n = r.seconds
		}
		switch {
		case n != 0:
			return n
		case !o.isOtherBinding(c):
			asked = 0
		}
	}
	return asked
}

// removes reports whether a contact is to be unbound. That it stands in the response
// all the same changes nothing.
func (r *registerRequest) removesBinding(c *registerContact) bool {
	return r.removesAll || r.requestedExpiry(c) == 0
}

// names reports whether the REGISTER is about a contact.
func (r *registerRequest) namesContact(key string) bool {
	return slices.ContainsFunc(r.contacts, func(c registerContact) bool { return c.key == key })
}

// adds reports whether a contact is to be bound.
func (r *registerRequest) addsBinding() bool {
	return slices.ContainsFunc(r.contacts, func(c registerContact) bool { return !r.removesBinding(&c) })
}

// expires returns for how many seconds a contact is bound: as the response says of it,
// or of all, or as the REGISTER asked; each may be below 0.
func (r *registerRequest) bindingExpiry(c *registerContact, own, all int) int {
	for _, n := range []int{own, all, r.requestedExpiry(c)} {
		if n >= 0 {
			return n
		}
	}
	return defaultExpires
}
