package dialog

import (
	"cmp"
	"strings"
	"time"
)

// facts is what one INVITE says about its leg, and is kept of it.
type facts struct {
	num, name   string // the caller's
	verstat     string
	called      string // user of the Request-URI
	did         string // of a trunk: the number called, where the Request-URI names an account
	calledHost  string
	diversion   string
	callAPI     string
	clientAPI   string
	callBack    string
	tag         string
	rec         string
	agent       string
	headers     [][2]string
	numE164     string
	calledE164  string
	credentials bool
	hidden      bool // the caller does not show who it is

	asked uint32 // sum of what the INVITE offers and requires

	numRaw, calledRaw string // as they are written, if otherwise
	private           bool   // the caller asks that its number is not shown
	withheld          bool   // and that is heeded
}

// links is what of an INVITE may lead to the call that it belongs to. It shares
// the message's memory.
type links struct {
	session    string // Session-ID
	icid       string // of P-Charging-Vector
	replaces   string
	referredBy string      // user
	numbers    [5]string   // by which the caller may be known
	configured [][2]string // header fields that a method goes by, with their values
	history    bool        // the diversion is out of History-Info
}

// maxClientAPI is the longest Client-Api-Id that is passed on.
const maxClientAPI = 100

// read takes an INVITE apart in one pass and finds the extension whose leg it
// begins. What it returns shares m's memory.
func (t *Tracker) read(m *Message, k *links) (f facts, ext Extension, ok bool) {
	var from, to, remote, preferred, contact, account string
	var identified, history bool
	c := &t.config
	trusted := m.trusted()
	for name, value := range fields(m.Head) {
		switch {
		case is(name, "From"):
			from = value
		case is(name, "To"):
			to = value
		case is(name, "Contact"):
			contact = value
		case is(name, "P-Asserted-Identity"):
			identified = trusted
		case is(name, "P-Preferred-Identity"):
			if preferred == "" {
				preferred = value
			} else {
				preferred += "," + value // there may be two (RFC 3325 §9.2)
			}
		case is(name, "Privacy"):
			f.private = f.private || private(value)
		case is(name, "Authorization"), is(name, "Proxy-Authorization"):
			f.credentials = true
			if user := username(value); account == "" || t.names.account(account, m.At).User == "" {
				account = user
			}
		case is(name, "Diversion"):
			if f.diversion == "" && trusted {
				f.diversion = firstOf(value)
			}
		case is(name, "History-Info"):
			history = trusted
		case is(name, "Require"), is(name, "Proxy-Require"), is(name, "Supported"), is(name, "Content-Type"), is(name, "Content-Encoding"):
			f.asked = asks(f.asked, value)
		case is(name, "Client-Api-Id"):
			if len(value) <= maxClientAPI {
				f.clientAPI = value
			}
		case is(name, "User-Agent"):
			f.agent = value
		case is(name, "Remote-Party-ID"):
			if trusted {
				if v := callingParty(value); v != "" {
					remote = v
					f.private = f.private || privateParty(v)
				}
			}
		case is(name, "Session-ID"):
			k.session = value
		case is(name, "P-Charging-Vector"):
			k.icid, _ = param(";"+value, "icid-value")
		case is(name, "Replaces"):
			k.replaces = value
		case is(name, "Referred-By"):
			_, by, _ := nameAddr(value)
			k.referredBy = parseURI(by).user
		}
		f.configured(c, name, value)
		for i := range t.methods {
			if h := t.methods[i].header; h != "" && is(name, h) {
				k.configured = append(k.configured, [2]string{h, value})
			}
		}
	}
	display, u, _ := nameAddr(from)
	caller, fromURI := parseURI(u), u
	f.withheld = f.private && !c.IgnorePrivacy
	asserted := ""
	if identified {
		name, assertedURI := assertedIdentity(m.Head)
		asserted = parseURI(assertedURI).user
		if c.IgnorePrivacy || !f.private && !anonymous(caller) {
			if display = cmp.Or(name, display); asserted != "" {
				display, u, caller = name, assertedURI, parseURI(assertedURI)
			}
		}
	}
	f.num, f.numRaw, f.name, f.hidden = caller.user, rawUser(u), display, anonymous(caller)
	k.caller(parseURI(fromURI).user, f.num, display, remote, asserted)
	if trusted {
		f.verstat = verstat(u)
	}
	if f.num == "" || f.hidden {
		f.num, f.numRaw, f.hidden = anonymousUser, "", true
	}
	if f.withheld {
		f.num, f.numRaw, f.name, f.hidden = anonymousUser, "", anonymousName, true
	}
	target := parseURI(m.URI())
	f.called, f.calledRaw, f.calledHost = target.user, rawUser(m.URI()), target.host
	if _, u, _ = nameAddr(to); m.Trunk != "" && m.Src == Edge && !digits(f.called) && digits(parseURI(u).user) {
		f.did = parseURI(u).user
	}
	if f.diversion != "" {
		_, u, _ = nameAddr(f.diversion)
		f.diversion = parseURI(u).user
	} else if history {
		k.history, f.diversion = true, divertedBy(readHistory(m.Head), f.called)
	}
	f.asked = asksBody(f.asked, m.Body)
	if f.callAPI == "" {
		f.callAPI = m.CallID
	}
	switch {
	case m.Trunk != "":
	case m.Src == PBX && m.Dst == Edge:
		f.agent = "" // the PBX's: the phone's comes with its response
		_, u, _ = nameAddr(to)
		ext, ok = t.names.called(m, u)
	case m.Src == Edge:
		_, contact, _ = nameAddr(contact)
		ext, ok = t.names.calling(m, fromURI, preferred, account, contact)
		if ok && f.num != ext.User && !f.hidden && account != "" && t.names.kind(f.num, m.At) != "" {
			f.num, f.name = ext.User, "" // it is not whose number it shows
		}
	}
	return f, ext, ok
}

// Where the numbers of the caller come from.
const (
	fromField = iota
	identity  // as events tell it
	displayed
	remoteParty
	asserted // also of one who hides it
)

// caller notes the numbers that a PBX may have put the caller's into.
func (k *links) caller(from, told, display, remote, known string) {
	k.numbers[fromField] = from
	k.numbers[identity] = told
	if digits(display) {
		k.numbers[displayed] = display
	}
	if remote != "" {
		_, u, _ := nameAddr(remote)
		k.numbers[remoteParty] = parseURI(u).user
	}
	k.numbers[asserted] = known
}

// digits reports whether s is a telephone number without separators.
func digits(s string) bool {
	n := strings.TrimPrefix(s, "+")
	return n != "" && strings.Trim(n, "0123456789") == ""
}

// configured keeps the fields that the configuration names.
func (f *facts) configured(c *Config, name, value string) {
	if c.CallAPIID != "" && is(name, c.CallAPIID) {
		f.callAPI = value
	}
	if c.CallBackID != "" && is(name, c.CallBackID) {
		f.callBack = value
	}
	if c.Tag != "" && is(name, c.Tag) {
		f.tag = value
	}
	if c.RecID != "" && is(name, c.RecID) {
		f.rec = value
	}
	for _, want := range c.Headers {
		if is(name, want) && len(f.headers) < maxHeaders {
			f.headers = append(f.headers, [2]string{want, value})
		}
	}
}

// maxHeaders is how many chosen header fields are kept of one INVITE.
const maxHeaders = 32

// keep gives the facts memory of their own, in one piece.
func (f *facts) keep(more ...*string) {
	all := append(more, &f.num, &f.name, &f.verstat, &f.called, &f.did, &f.calledHost, &f.diversion, &f.callAPI,
		&f.clientAPI, &f.callBack, &f.tag, &f.rec, &f.agent, &f.numRaw, &f.calledRaw)
	for i := range f.headers {
		all = append(all, &f.headers[i][0], &f.headers[i][1])
	}
	n := 0
	for _, s := range all {
		n += len(*s)
	}
	var b strings.Builder
	b.Grow(n)
	for _, s := range all {
		b.WriteString(*s)
	}
	piece := b.String()
	for _, s := range all {
		*s, piece = piece[:len(*s)], piece[len(*s):]
	}
}

// e164 returns the E.164 form of a number, if that is asked for. A short number
// that is an extension's has none.
func (t *Tracker) e164(number string, now time.Time) string {
	if t.config.E164 == nil || len(number) < 7 && t.names.kind(number, now) != "" {
		return ""
	}
	return t.config.E164(number)
}

// username returns the account that digest credentials name, user[@host].
func username(credentials string) string {
	_, params, _ := strings.Cut(credentials, " ")
	for p := range list(params) {
		if k, v, _ := strings.Cut(p, "="); strings.EqualFold(strings.TrimSpace(k), "username") {
			v = strings.TrimSpace(v)
			if strings.HasPrefix(v, `"`) {
				v = unquote(v[1:closing(v)])
			}
			return v
		}
	}
	return ""
}
