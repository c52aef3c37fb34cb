package dialog

import (
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"

	"bellhop/dialog/siptext"
)

// Kind is the type of endpoint behind an extension's number.
type Kind string

const (
	Phone      Kind = "phone"
	Queue      Kind = "queue"
	IVR        Kind = "ivr"
	Conference Kind = "conference"
)

// maxBindings is the largest number of contacts, and of addresses of record, in memory,
// of about 400 bytes each. Beyond that the least recently used one is evicted. It is
// learned again when the phone refreshes it.
const maxBindings = 1 << 16

// A directory has the extensions, the contacts that they have registered, and the numbers
// that the PBX shows for them.
type directory struct {
	config      *Config
	declared    map[string]Kind                 // by number
	numberByDID map[string]string               // declared number by public number
	aors        *simplelru.LRU[string, address] // registered addresses of record by user
	contacts    *simplelru.LRU[string, binding] // by contactKey
	aliases     aliases
}

// An address is an address of record that has registered.
type address struct {
	ext      Extension
	contacts []string  // keys of its bindings; at most maxContacts
	until    time.Time // when its last binding expires
	unlisted bool      // the registrar lists no bindings in its 2xx
}

// A binding is a contact of an address of record.
type binding struct {
	ext   Extension
	until time.Time
	uri   string // in the form of bareURI
}

// maxContacts is the largest number of bindings in memory per address of record.
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
			d.numberByDID[siptext.PlainNumber(did)] = e.Number
		}
	}
}

// kindOf returns the kind of the extension user, or "" if user is not an extension.
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

// learns reports whether user is an extension once it has registered.
func (d *directory) learns(user string, now time.Time) bool {
	return d.config.Learn || d.kindOf(user, now) != ""
}

// registered reports whether a user has a binding that has not expired.
func (d *directory) registered(user string, now time.Time) bool {
	a, ok := d.aors.Peek(user)
	return ok && now.Before(a.until)
}

// extensionAt returns the extension whose name is the user of u, with the host of u as
// its domain; false if there is none.
func (d *directory) extensionAt(u uri, now time.Time) (Extension, bool) {
	if d.kindOf(u.user, now) == "" || len(u.host) > MaxName {
		return Extension{}, false
	}
	return Extension{User: u.user, Domain: u.host}, true
}

// dialedExtension returns the extension that a dialed number leads to. It returns the
// first of these that exists: the extension that declares the number as its public
// number; the extension for which the PBX shows the number, if the number itself is
// neither declared nor registered; the extension with the number as its name. The result
// has no user if none exists.
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

// boundExtension returns the extension that has registered contact; false if there is
// none.
func (d *directory) boundExtension(contact string, now time.Time) (Extension, bool) {
	b, ok := d.contacts.Get(contactKey(contact))
	if !ok || !now.Before(b.until) || !d.learns(b.ext.User, now) {
		return Extension{}, false
	}
	return b.ext, true
}

// calledExtension returns the extension whose phone an INVITE or MESSAGE of the PBX goes
// to. The Path token is most reliable, then the binding of the Request-URI, then the user
// of the Request-URI. The To comes last: if the PBX is a proxy, it may name a group, or
// the extension that was called before a diversion.
func (d *directory) calledExtension(m *Message, to string) (Extension, bool) {
	if m.AOR != "" {
		user, host, _ := strings.Cut(m.AOR, "@")
		user, host = siptext.Unescape(user), siptext.LowerHost(host)
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

// withHomeDomain replaces the domain of e, which may be the host of a phone's contact,
// with the domain in which e has registered. If e has not registered, it takes the host
// of To, if To names e and this host is not the contact's. Otherwise e gets no domain,
// because the host of a contact is no domain and differs between the phones of one
// extension.
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

// callingExtension returns the extension that sends an INVITE or MESSAGE from the edge
// side: the one in From, else one in P-Preferred-Identity, else the one that has
// registered Contact. A phone that hides its number in From may name it in
// P-Preferred-Identity. If the account that the phone authenticates as is an extension,
// the result is always that extension, because the PBX accepts no other identity.
func (d *directory) callingExtension(m *Message, from, preferred, account, contact string) (Extension, bool) {
	a := d.accountExtension(account, m.At)
	f := parseURI(from)
	if e, ok := d.extensionAt(f, m.At); ok && (a.User == "" || a.User == e.User) {
		return e, true
	}
	for v := range siptext.List(preferred) {
		u := siptext.ParseNameAddr(v).URI
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

// accountExtension returns the extension that has the same name as the account in a
// phone's credentials, 101 or 101@pbx.example. It returns an empty Extension if there is none.
func (d *directory) accountExtension(name string, now time.Time) Extension {
	user, host, _ := strings.Cut(name, "@")
	e, _ := d.extensionAt(uri{user: siptext.Unescape(user), host: siptext.LowerHost(host)}, now)
	return e
}

// learnBindings learns the bindings of an address of record from m, the response to the
// REGISTER r. ok is false if m is not a 2xx from the PBX, or has no valid address of
// record. A 2xx should list all bindings (RFC 3261 §10.3 step 8). If the registrar lists
// none, the bindings are those that r asks for and the earlier ones that r does not
// remove. An expiry that the 2xx lacks is taken from r. learnBindings returns the
// extension and when its last binding expires: the zero time if it has none. Without
// bindings, ext shares m's memory.
func (d *directory) learnBindings(m *Message, r *registerRequest) (ext Extension, until time.Time, ok bool) {
	if m.Src != PBX || m.Own || m.Status/100 != 2 {
		return ext, until, false
	}
	list := bindingList{keys: make([]string, 0, 4), bindings: make([]binding, 0, 4)}
	aor, expires, listed := list.addListed(m, r)
	if aor.user == "" || len(aor.user) > MaxName || len(aor.host) > MaxName {
		return ext, until, false
	}
	old, known := d.aors.Peek(aor.user)
	known = known && old.ext.Domain == aor.host
	a := address{unlisted: !listed && (r.addsBinding() || known && old.unlisted)}
	if a.unlisted { // this registrar does not list bindings: use those of the REGISTER
		list.addRequested(m, r, expires)
		for _, key := range old.contacts {
			if b, ok := d.contacts.Peek(key); known && ok && b.ext == old.ext && m.At.Before(b.until) && !r.removesAll && !r.namesContact(key) {
				list.add(key, b.uri, b.until)
			}
		}
	}
	if known {
		a.ext = old.ext
		for _, key := range old.contacts {
			d.contacts.Remove(key)
		}
		if len(list.keys) == 0 {
			d.aors.Remove(aor.user)
		}
	}
	if len(list.keys) == 0 {
		return Extension{User: aor.user, Domain: aor.host}, until, true
	}
	if a.ext.User == "" {
		a.ext = Extension{User: strings.Clone(aor.user), Domain: strings.Clone(aor.host)}
	}
	a.contacts, a.until = list.keys, list.until
	for i, key := range list.keys {
		list.bindings[i].ext = a.ext
		d.contacts.Add(key, list.bindings[i])
	}
	d.aors.Add(a.ext.User, a)
	return a.ext, a.until, true
}

// A bindingList is a list of the bindings of an address of record. keys has the
// contactKey of each.
type bindingList struct {
	keys     []string
	bindings []binding
	until    time.Time // when the last one expires
}

// add adds a binding, or extends the one with the same key. It adds none beyond
// maxContacts.
func (l *bindingList) add(key, uri string, until time.Time) {
	switch i := slices.Index(l.keys, key); {
	case i >= 0: // several flows of one phone
		if until.After(l.bindings[i].until) {
			l.bindings[i].until = until
		}
	case len(l.keys) == maxContacts:
		return
	default:
		l.keys, l.bindings = append(l.keys, key), append(l.bindings, binding{until: until, uri: uri})
	}
	if until.After(l.until) {
		l.until = until
	}
}

// addContact adds the binding of a contact that expires after some seconds. It adds none
// if seconds is not positive.
func (l *bindingList) addContact(c *registerContact, now time.Time, seconds int) {
	if seconds > 0 {
		l.add(strings.Clone(c.key), strings.Clone(c.uri), now.Add(time.Duration(seconds)*time.Second))
	}
}

// addListed adds the bindings in m, the 2xx of the REGISTER r. It returns the address of
// record, the seconds in the Expires of m, or -1 if m has none, and whether m lists any
// contact.
func (l *bindingList) addListed(m *Message, r *registerRequest) (aor uri, expires int, listed bool) {
	expires = -1
	for name, value := range siptext.Fields(m.Head) {
		if siptext.SameName(name, "Expires") {
			expires = parseSeconds(value, -1)
		}
	}
	for name, value := range siptext.Fields(m.Head) {
		switch {
		case siptext.SameName(name, "To"):
			aor = parseURI(siptext.ParseNameAddr(value).URI)
		case siptext.SameName(name, "Contact"):
			for v := range siptext.List(value) {
				listed = true
				if c := readContact(v); c.key != "" && !r.removesBinding(&c) {
					l.addContact(&c, m.At, r.bindingExpiry(&c, c.seconds, expires))
				}
			}
		}
	}
	return aor, expires, listed
}

// addRequested adds the bindings that the REGISTER r asks for, because m, its 2xx, lists
// none. expires is the Expires of m in seconds, or -1.
func (l *bindingList) addRequested(m *Message, r *registerRequest, expires int) {
	for i := range r.contacts {
		if c := &r.contacts[i]; !r.removesBinding(c) {
			l.addContact(c, m.At, r.bindingExpiry(c, -1, expires))
		}
	}
}

// contactKey returns the parts of a contact URI that distinguish bindings: scheme, user
// without escapes, host without case, and the port if it is not the transport's default.
// The PBX may change or drop other parameters.
func contactKey(uri string) string {
	u := siptext.ParseURI(uri)
	if u.Host == "" {
		return "" // also for *
	}
	key := u.Scheme + ":"
	if u.User != "" {
		key += siptext.Unescape(u.User) + "@"
	}
	key += siptext.LowerHost(u.Host)
	if u.Port != "" && u.Port != u.DefaultPort() {
		key += ":" + u.Port
	}
	return key
}

// bareURI returns a contact URI as events and the API show it: without parameters, headers
// and escapes.
func bareURI(uri string) string {
	i := strings.IndexByte(uri, '@') + 1
	if n := strings.IndexAny(uri[i:], ";?>"); n >= 0 {
		uri = uri[:i+n]
	}
	return siptext.Unescape(uri)
}

// parseSeconds parses delta-seconds (RFC 3261 §20.19). It returns def if s is invalid.
func parseSeconds(s string, def int) int {
	n, err := strconv.ParseUint(s, 10, 32)
	if err != nil {
		return def
	}
	return int(min(n, 1<<31-1))
}

// isPhone reports whether ext is a phone. It is one unless it is declared as another
// kind.
func (d *directory) isPhone(ext Extension) bool {
	k, ok := d.declared[ext.User]
	return !ok || k == Phone
}
