package dialog

import (
	"slices"

	"bellhop/dialog/siptext"
)

// defaultExpires is the duration in seconds of a binding without an expiry (RFC 3261
// §10.2.1.1).
const defaultExpires = 3600

// maxRegister is the size in bytes up to which a REGISTER is kept until its response.
const maxRegister = 4 << 10

// A registerRequest is the content of a REGISTER.
type registerRequest struct {
	removesAll bool // Contact * with expiry 0: removes all bindings
	seconds    int  // Expires; negative: absent
	contacts   []registerContact
}

// A registerContact is a Contact of a REGISTER, or of its 2xx.
type registerContact struct {
	key, uri  string // in the forms of contactKey and bareURI
	transport string // in lower case; "": not known
	instance  string // +sip.instance; "": absent
	regID     string // reg-id; "": absent
	seconds   int    // negative: absent
}

// readContact parses one value of a Contact header field. Its key is "" if it is invalid or
// *.
func readContact(value string) (c registerContact) {
	a := siptext.ParseNameAddr(value)
	u := siptext.ParseURI(a.URI)
	c = registerContact{key: contactKey(a.URI), uri: bareURI(a.URI), transport: u.Transport(), seconds: -1}
	c.instance, _ = siptext.Param(a.Params, "+sip.instance")
	c.regID, _ = siptext.Param(a.Params, "reg-id")
	if own, ok := siptext.Param(a.Params, "expires"); ok {
		c.seconds = parseSeconds(own, -1)
	}
	return c
}

// isOtherBinding reports whether o is certainly another binding than c, although both
// have the same key. It is if o is over another flow of the same phone (RFC 5626 §6), or
// over another transport (RFC 3261 §19.1.4). A value that c or o lacks is not compared.
func (c *registerContact) isOtherBinding(o *registerContact) bool {
	differ := func(a, b string) bool { return a != "" && b != "" && a != b }
	return differ(c.instance, o.instance) || differ(c.regID, o.regID) || differ(c.transport, o.transport)
}

// readRegister parses the head of a REGISTER; an empty one yields an empty request.
func readRegister(head string) *registerRequest {
	r := &registerRequest{seconds: -1}
	star := false
	for name, value := range siptext.Fields(head) {
		switch {
		case siptext.SameName(name, "Expires"):
			r.seconds = parseSeconds(value, -1)
		case siptext.SameName(name, "Contact"):
			for v := range siptext.List(value) {
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

// requestedExpiry returns the duration in seconds that the REGISTER requests for a
// contact's binding. It is 0 if the REGISTER removes the binding, and negative if the
// REGISTER requests no duration or does not have the contact. A phone that changes its
// transport adds and removes contacts with the same key; the added one then decides.
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

// removesBinding reports whether the REGISTER removes the binding of a contact, even if
// the response still lists the contact.
func (r *registerRequest) removesBinding(c *registerContact) bool {
	return r.removesAll || r.requestedExpiry(c) == 0
}

// namesContact reports whether the REGISTER has a contact with the key.
func (r *registerRequest) namesContact(key string) bool {
	return slices.ContainsFunc(r.contacts, func(c registerContact) bool { return c.key == key })
}

// addsBinding reports whether the REGISTER binds a contact.
func (r *registerRequest) addsBinding() bool {
	return slices.ContainsFunc(r.contacts, func(c registerContact) bool { return !r.removesBinding(&c) })
}

// bindingExpiry returns the duration of a contact's binding in seconds. It is the first
// of these that is not negative: own, which the response gives for the contact; all,
// which the response gives for all contacts; the requested duration; and defaultExpires.
func (r *registerRequest) bindingExpiry(c *registerContact, own, all int) int {
	for _, n := range []int{own, all, r.requestedExpiry(c)} {
		if n >= 0 {
			return n
		}
	}
	return defaultExpires
}
