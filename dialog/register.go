package dialog

import "slices"

// defaultExpires is how many seconds a binding lasts for which nobody says it (RFC 3261
// §10.2.1.1).
const defaultExpires = 3600

// maxRegister is how long a REGISTER may be that is kept until its response.
const maxRegister = 4 << 10

// A registerRequest is what a REGISTER asks for.
type registerRequest struct {
	all      bool // * with expiry 0: all bindings are removed
	seconds  int  // Expires; below 0: it does not say
	contacts []registerContact
}

// A registerContact is a Contact of a REGISTER.
type registerContact struct {
	key, uri string // as contactKey and bareURI have it
	seconds  int    // below 0: it does not say
}

// readRegister reads the head of a REGISTER; an empty one asks for nothing.
func readRegister(head string) *registerRequest {
	r := &registerRequest{seconds: -1}
	star := false
	for name, value := range fields(head) {
		switch {
		case is(name, "Expires"):
			r.seconds = seconds(value, -1)
		case is(name, "Contact"):
			for v := range list(value) {
				_, u, params := nameAddr(v)
				key := contactKey(u)
				if u == "*" {
					star = true
				}
				if key == "" || len(r.contacts) == maxContacts {
					continue
				}
				c := registerContact{key: key, uri: bareURI(u), seconds: -1}
				if p, ok := param(params, "expires"); ok {
					c.seconds = seconds(p, -1)
				}
				r.contacts = append(r.contacts, c)
			}
		}
	}
	r.all = star && r.seconds == 0
	return r
}

// asked returns for how long a contact is to be bound; below 0: it does not say.
func (r *registerRequest) asked(key string) int {
	i := slices.IndexFunc(r.contacts, func(c registerContact) bool { return c.key == key })
	switch {
	case i < 0:
		return -1
	case r.contacts[i].seconds >= 0:
		return r.contacts[i].seconds
	}
	return r.seconds
}

// removes reports whether a contact is to be unbound. That it stands in the response
// all the same changes nothing.
func (r *registerRequest) removes(key string) bool { return r.all || r.asked(key) == 0 }

// adds reports whether a contact is to be bound.
func (r *registerRequest) adds() bool {
	return slices.ContainsFunc(r.contacts, func(c registerContact) bool { return !r.removes(c.key) })
}

// expires returns for how many seconds a contact is bound: as the response says of it,
// or of all, or as the REGISTER asked; each may be below 0.
func (r *registerRequest) expires(key string, own, all int) int {
	for _, n := range []int{own, all, r.asked(key)} {
		if n >= 0 {
			return n
		}
	}
	return defaultExpires
}
