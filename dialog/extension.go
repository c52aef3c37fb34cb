package dialog

import (
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"
)

// Kind is what stands behind an extension's number.
type Kind string

const (
	Phone      Kind = "phone"
	Queue      Kind = "queue"
	IVR        Kind = "ivr"
	Conference Kind = "conference"
)

// maxBindings is how many contacts and addresses of record are remembered; of
// more, those that were not seen for the longest time are forgotten, and are
// learnt again when they refresh. About 400 bytes each.
const maxBindings = 1 << 16

// directory knows which users are extensions, and whose a contact is.
type directory struct {
	config      *Config
	declared    map[string]Kind                 // by number
	numberByDID map[string]string               // number by DID
	aors        *simplelru.LRU[string, address] // by user: who registered
	contacts    *simplelru.LRU[string, binding] // by contact, as contactKey has it
	aliases     aliases
}

// An address is an address of record that has registered.
type address struct {
	ext      Extension
	contacts []string // keys of its bindings; at most maxContacts
	until    time.Time
	unlisted bool // the registrar does not list its bindings
}

type binding struct {
	ext   Extension
	until time.Time
	uri   string // as bareURI has it
}

// maxContacts is how many bindings of one address of record are remembered.
const maxContacts = 16

func newDirectory() *directory {
	aors, _ := simplelru.NewLRU[string, address](maxBindings, nil) // fails only without a size
	contacts, _ := simplelru.NewLRU[string, binding](maxBindings, nil)
	return &directory{aors: aors, contacts: contacts, aliases: newAliases()}
}

func (d *directory) configure(c *Config) {
	d.config = c
	d.declared = make(map[string]Kind, len(c.Extensions))
	d.numberByDID = make(map[string]string)
	for _, e := range c.Extensions {
		kind := e.Kind
		if kind == "" {
			kind = Phone
		}
		d.declared[e.Number] = kind
		for _, did := range e.DID {
			d.numberByDID[did] = e.Number
			d.numberByDID[plainNumber(did)] = e.Number
		}
	}
}

// kind returns what stands behind user; a user that is no extension has none.
func (d *directory) kindOf(user string, now time.Time) Kind {
	if user == "" || len(user) > MaxName {
		return ""
	}
	if k, ok := d.declared[user]; ok {
		return k
	}
	if d.config.Pattern != nil && d.config.Pattern.MatchString(user) {
		return Phone
	}
	if d.config.Learn {
		if a, ok := d.aors.Get(user); ok && now.Before(a.until) {
			return Phone
		}
	}
	return ""
}

// registered reports whether a user has registered a phone.
func (d *directory) registered(user string, now time.Time) bool {
	a, ok := d.aors.Peek(user)
	return ok && now.Before(a.until)
}

// at returns the extension that u names, if it names one.
func (d *directory) extensionAt(u uri, now time.Time) (Extension, bool) {
	if d.kindOf(u.user, now) == "" || len(u.host) > MaxName {
		return Extension{}, false
	}
	return Extension{User: u.user, Domain: u.host}, true
}

// dialed returns the extension that a number is, or leads to from outside; if
// it is none's, one without a user.
func (d *directory) dialedExtension(number, host string, now time.Time) Extension {
	if inside, ok := d.numberByDID[number]; ok {
		return Extension{User: inside}
	}
	if e := d.extensionShownAs(number); e.User != "" && d.declared[number] == "" && !d.registered(number, now) {
		return e
	}
	e, _ := d.extensionAt(uri{user: number, host: host}, now)
	return e
}

// bound returns the extension that registered contact.
func (d *directory) boundExtension(contact string, now time.Time) (Extension, bool) {
	b, ok := d.contacts.Get(contactKey(contact))
	if !ok || !now.Before(b.until) || !d.config.Learn && d.kindOf(b.ext.User, now) == "" {
		return Extension{}, false
	}
	return b.ext, true
}

// called returns the extension whose phone an INVITE or MESSAGE of the PBX
// goes to. The Path token knows best; then who registered the Request-URI;
// then the names in the message. The To of a PBX that is a proxy may name a
// group, or who was called before the call was sent on: it comes last.
func (d *directory) calledExtension(m *Message, to string) (Extension, bool) {
	if m.AOR != "" {
		user, host, _ := strings.Cut(m.AOR, "@")
		user, host = unescapeURI(user), lowerHost(host)
		if fits := len(user) <= MaxName && len(host) <= MaxName; fits && (d.config.Learn && user != "" || d.kindOf(user, m.At) != "") {
			return Extension{User: user, Domain: host}, true
		}
	}
	if e, ok := d.boundExtension(m.URI(), m.At); ok {
		return e, true
	}
	if e, ok := d.extensionAt(parseURI(m.URI()), m.At); ok {
		return d.withHomeDomain(e, parseURI(to)), true
	}
	return d.extensionAt(parseURI(to), m.At)
}

// home gives an extension that was named by a phone's address the domain that
// it registers in, or that To gives it. The address is none, and differs between
// the phones of one extension.
func (d *directory) withHomeDomain(e Extension, to uri) Extension {
	phone := e.Domain
	e.Domain = ""
	if a, ok := d.aors.Get(e.User); ok {
		e.Domain = a.ext.Domain
	} else if to.user == e.User && to.host != phone && len(to.host) <= MaxName {
		e.Domain = to.host
	}
	return e
}

// calling returns the extension that an INVITE or MESSAGE from the edge side
// comes from. The account that the phone logs in with says it, as the PBX takes
// nothing up from one that is not that account's; unless the PBX names accounts
// otherwise than extensions. A phone that hides its number still says whose it is
// to the PBX.
func (d *directory) callingExtension(m *Message, from, preferred, account, contact string) (Extension, bool) {
	a := d.accountExtension(account, m.At)
	f := parseURI(from)
	if e, ok := d.extensionAt(f, m.At); ok && (a.User == "" || a.User == e.User) {
		return e, true
	}
	for v := range listValues(preferred) {
		_, u, _ := parseNameAddr(v)
		if e, ok := d.extensionAt(parseURI(u), m.At); ok && (a.User == "" || a.User == e.User) {
			return e, true
		}
	}
	if e, ok := d.boundExtension(contact, m.At); ok && (a.User == "" || a.User == e.User) {
		return e, true
	}
	if a.User == "" {
		return Extension{}, false
	}
	if e, ok := d.extensionAt(f, m.At); ok && a.Domain == "" {
		a.Domain = e.Domain
	}
	return a, true
}

// account returns the extension that a phone logs in as; if the account's name is
// none's, one without a user.
func (d *directory) accountExtension(name string, now time.Time) Extension {
	user, host, _ := strings.Cut(name, "@")
	e, _ := d.extensionAt(uri{user: unescapeURI(user), host: lowerHost(host)}, now)
	return e
}

// learn takes the bindings out of the 2xx of a REGISTER, which lists all that
// the address of record has (RFC 3261 §10.3 step 8). What the 2xx does not say is taken
// from the REGISTER. Only the PBX is believed.
// It returns whose they are and when the last of them expires: the zero time
// if there are none. Without bindings ext shares m's memory.
func (d *directory) learnBindings(m *Message, r *registerRequest) (ext Extension, until time.Time, ok bool) {
	if m.Src != PBX || m.Own || m.Status/100 != 2 {
		return ext, until, false
	}
	var aor uri
	var a address
	expires := -1
	keys, bindings := make([]string, 0, 4), make([]binding, 0, 4)
	add := func(key, uri string, until time.Time) {
		switch i := slices.Index(keys, key); {
		case i >= 0: // another flow of the same phone
			if until.After(bindings[i].until) {
				bindings[i].until = until
			}
		case len(keys) == maxContacts:
			return
		default:
			keys, bindings = append(keys, key), append(bindings, binding{until: until, uri: uri})
		}
		if until.After(a.until) {
			a.until = until
		}
	}
	for name, value := range headerFields(m.Head) {
		if sameHeader(name, "Expires") {
			expires = parseSeconds(value, -1)
		}
	}
	listed := false
	for name, value := range headerFields(m.Head) {
		switch {
		case sameHeader(name, "To"):
			_, u, _ := parseNameAddr(value)
			aor = parseURI(u)
		case sameHeader(name, "Contact"):
			for v := range listValues(value) {
				listed = true
				c := readContact(v)
				if c.key == "" || r.removesBinding(&c) {
					continue
				}
				if left := r.bindingExpiry(&c, c.seconds, expires); left > 0 {
					add(strings.Clone(c.key), strings.Clone(c.uri), m.At.Add(time.Duration(left)*time.Second))
				}
			}
		}
	}
	if aor.user == "" || len(aor.user) > MaxName || len(aor.host) > MaxName {
		return ext, until, false
	}
	old, known := d.aors.Peek(aor.user)
	known = known && old.ext.Domain == aor.host
	a.unlisted = !listed && (r.addsBinding() || known && old.unlisted)
	if a.unlisted { // this registrar does not list bindings
		for i := range r.contacts {
			c := &r.contacts[i]
			if left := r.bindingExpiry(c, -1, expires); left > 0 && !r.removesBinding(c) {
				add(strings.Clone(c.key), strings.Clone(c.uri), m.At.Add(time.Duration(left)*time.Second))
			}
		}
		for _, key := range old.contacts {
			if b, ok := d.contacts.Peek(key); known && ok && b.ext == old.ext && m.At.Before(b.until) && !r.removesAll && !r.namesContact(key) {
				add(key, b.uri, b.until)
			}
		}
	}
	if known {
		a.ext = old.ext
		for _, key := range old.contacts {
			d.contacts.Remove(key)
		}
		if len(keys) == 0 {
			d.aors.Remove(aor.user)
		}
	}
	if len(keys) == 0 {
		return Extension{User: aor.user, Domain: aor.host}, until, true
	}
	if a.ext.User == "" {
		a.ext = Extension{User: strings.Clone(aor.user), Domain: strings.Clone(aor.host)}
	}
	a.contacts = keys
	for i, key := range keys {
		bindings[i].ext = a.ext
		d.contacts.Add(key, bindings[i])
	}
	d.aors.Add(a.ext.User, a)
	return a.ext, a.until, true
}

// contactKey is what of a contact URI tells bindings apart: scheme, user without
// escapes, host without case, and the port if it is not the default of the
// transport. Other parameters come back from a PBX changed, or not at all.
func contactKey(uri string) string {
	p := splitURI(uri)
	if p.host == "" {
		return "" // also of *
	}
	key := lowerHost(p.scheme) + ":"
	if p.user != "" {
		key += unescapeURI(p.user) + "@"
	}
	key += lowerHost(p.host)
	if p.port != "" && p.port != p.defaultPort() {
		key += ":" + p.port
	}
	return key
}

// defaultPort is the port of a URI that names none (RFC 3261 §19.1.2, RFC 7118 §7).
func (p *uriParts) defaultPort() string {
	switch p.transportName() {
	case "wss":
		return "443"
	case "ws":
		return "80"
	case "tls":
		return "5061"
	}
	return "5060"
}

// transport is the one that a URI is reached over, in lower case: that of a SIPS URI is
// a secure one.
func (p *uriParts) transportName() string {
	transport, _ := paramValue(p.params, "transport")
	transport = lowerHost(transport)
	secure := strings.EqualFold(p.scheme, "sips")
	switch {
	case secure && transport == "ws":
		return "wss"
	case secure && transport != "wss":
		return "tls"
	case transport == "":
		return "udp"
	}
	return transport
}

// bareURI is a contact URI as events and API tell it: without parameters, headers
// and escapes.
func bareURI(uri string) string {
	i := strings.IndexByte(uri, '@') + 1
	if n := strings.IndexAny(uri[i:], ";?>"); n >= 0 {
		uri = uri[:i+n]
	}
	return unescapeURI(uri)
}

// seconds reads delta-seconds; what is none is the default (RFC 3261 §20.19).
func parseSeconds(s string, def int) int {
	n, err := strconv.ParseUint(s, 10, 32)
	if err != nil {
		return def
	}
	return int(min(n, 1<<31-1))
}

// phone reports whether ext is one: whoever is not declared otherwise.
func (d *directory) isPhone(ext Extension) bool {
	k, ok := d.declared[ext.User]
	return !ok || k == Phone
}
