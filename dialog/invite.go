package dialog

import (
	"cmp"
	"strings"
	"time"

	"bellhop/dialog/siptext"
)

// inviteFacts are the data of one INVITE that its leg keeps for events.
type inviteFacts struct {
	callerNum, callerName string // of the caller
	verstat               string
	calledUser            string // user of the Request-URI
	calledDID             string // number called through a trunk, if the Request-URI names an account
	calledHost            string
	diversion             string
	callAPIID             string
	clientAPIID           string
	callBackID            string
	tag                   string
	recID                 string
	userAgent             string
	headers               [][2]string
	callerE164            string
	calledE164            string
	credentials           bool
	hidden                bool // the caller does not show its identity

	offerSum uint32 // hash of the data that the INVITE offers and requires, to recognize a changed INVITE

	callerNumRaw, calledRaw string // as written in the message, if different
	private                 bool   // the caller asks that its number is not shown
	withheld                bool   // private, and the configuration does not ignore it
}

// callHints are the data of an INVITE by which its call may be found. They share the
// message's memory.
type callHints struct {
	session         string // Session-ID
	icid            string // icid-value of P-Charging-Vector
	replaces        string
	referredBy      string      // user of Referred-By
	numbers         [5]string   // numbers by which the caller may be known
	methods         []method    // correlation methods to read header fields for
	configured      [][2]string // header fields that a correlation method compares, with their values
	fromHistoryInfo bool        // the diversion comes from History-Info
}

// maxClientAPI is the longest Client-Api-Id that events carry, in bytes.
const maxClientAPI = 100

// inviteHeaders are the header fields of an INVITE that are evaluated together.
type inviteHeaders struct {
	from, to, contact      string
	remoteParty, preferred string
	account                string // account in the credentials
	identified, history    bool   // the sender is trusted, and the INVITE has P-Asserted-Identity (identified) or History-Info (history)
}

// readInvite parses an INVITE in one pass. It returns the facts of the INVITE and the
// extension at the phone that the INVITE comes from or goes to; ext has no user if there
// is none. It adds the hints to k. The results share m's memory.
func (d *directory) readInvite(m *Message, k *callHints) (f inviteFacts, ext Extension) {
	h := d.readInviteHeaders(m, k, &f)
	from := siptext.ParseNameAddr(h.from)
	f.setCaller(m, k, &h, &from, d.config.IgnorePrivacy)
	f.setCalled(m, k, &h)
	f.offerSum = addBodyToSum(f.offerSum, m.Body)
	if f.callAPIID == "" {
		f.callAPIID = m.CallID
	}
	switch {
	case m.Trunk != "":
	case m.Src == PBX && m.Dst == Edge:
		f.userAgent = "" // this is the PBX's User-Agent: the phone's comes with its response
		ext, _ = d.calledExtension(m, siptext.ParseNameAddr(h.to).URI)
	case m.Src == Edge:
		var ok bool
		ext, ok = d.callingExtension(m, from.URI, h.preferred, h.account, siptext.ParseNameAddr(h.contact).URI)
		if ok && f.callerNum != ext.User && !f.hidden && h.account != "" && d.kindOf(f.callerNum, m.At) != "" {
			f.callerNum, f.callerName = ext.User, "" // the caller shows a number of another extension
		}
	}
	return f, ext
}

// readInviteHeaders reads the header fields of an INVITE. It sets the fields of f and k
// that depend on one header field only, and returns the header fields that are evaluated
// together.
func (d *directory) readInviteHeaders(m *Message, k *callHints, f *inviteFacts) (h inviteHeaders) {
	trusted := m.trusted()
	for name, value := range siptext.Fields(m.Head) {
		switch {
		case siptext.SameName(name, "From"):
			h.from = value
		case siptext.SameName(name, "To"):
			h.to = value
		case siptext.SameName(name, "Contact"):
			h.contact = value
		case siptext.SameName(name, "P-Asserted-Identity"):
			h.identified = trusted
		case siptext.SameName(name, "P-Preferred-Identity"):
			h.preferred = joinValues(h.preferred, value) // there may be two (RFC 3325 §9.2)
		case siptext.SameName(name, "Privacy"):
			f.private = f.private || asksPrivacy(value)
		case siptext.SameName(name, "Authorization"), siptext.SameName(name, "Proxy-Authorization"):
			f.credentials = true
			if user := digestUser(value); h.account == "" || d.accountExtension(h.account, m.At).User == "" {
				h.account = user
			}
		case siptext.SameName(name, "Diversion"):
			if f.diversion == "" && trusted {
				f.diversion = siptext.First(value)
			}
		case siptext.SameName(name, "History-Info"):
			h.history = trusted
		case siptext.SameName(name, "Require"), siptext.SameName(name, "Proxy-Require"), siptext.SameName(name, "Supported"), siptext.SameName(name, "Content-Type"), siptext.SameName(name, "Content-Encoding"):
			f.offerSum = addToSum(f.offerSum, value)
		case siptext.SameName(name, "Client-Api-Id"):
			if len(value) <= maxClientAPI {
				f.clientAPIID = value
			}
		case siptext.SameName(name, "User-Agent"):
			f.userAgent = value
		case siptext.SameName(name, "Remote-Party-ID"):
			if trusted {
				if v := callingParty(value); v != "" {
					h.remoteParty = v
					f.private = f.private || partyAsksPrivacy(v)
				}
			}
		case siptext.SameName(name, "Session-ID"):
			k.session = value
		case siptext.SameName(name, "P-Charging-Vector"):
			k.icid, _ = siptext.Param(value, "icid-value")
		case siptext.SameName(name, "Replaces"):
			k.replaces = value
		case siptext.SameName(name, "Referred-By"):
			by := siptext.ParseNameAddr(value).URI
			k.referredBy = parseURI(by).user
		}
		f.readConfigured(d.config, name, value)
		k.readConfigured(name, value)
	}
	return h
}

// joinValues returns the values of two header fields as one list.
func joinValues(a, b string) string {
	if a == "" {
		return b
	}
	return a + "," + b
}

// setCaller sets the caller of an INVITE from its From and P-Asserted-Identity, and the
// numbers by which the PBX may show the caller.
func (f *inviteFacts) setCaller(m *Message, k *callHints, h *inviteHeaders, from *siptext.NameAddr, ignorePrivacy bool) {
	display, u := from.Display, from.URI
	caller := parseURI(u)
	f.withheld = f.private && !ignorePrivacy
	asserted := ""
	if h.identified {
		name, assertedURI := assertedIdentity(m.Head)
		asserted = parseURI(assertedURI).user
		if ignorePrivacy || !f.private && !isAnonymous(caller) {
			if display = cmp.Or(name, display); asserted != "" {
				display, u, caller = name, assertedURI, parseURI(assertedURI)
			}
		}
	}
	f.callerNum, f.callerNumRaw, f.callerName, f.hidden = caller.user, rawUser(u), display, isAnonymous(caller)
	k.setCallerNumbers(parseURI(from.URI).user, f.callerNum, display, h.remoteParty, asserted)
	if m.trusted() {
		f.verstat = readVerstat(u)
	}
	if f.callerNum == "" || f.hidden {
		f.callerNum, f.callerNumRaw, f.hidden = anonymousUser, "", true
	}
	if f.withheld {
		f.callerNum, f.callerNumRaw, f.callerName, f.hidden = anonymousUser, "", anonymousName, true
	}
}

// setCalled sets the dialed and the diverting number of an INVITE.
func (f *inviteFacts) setCalled(m *Message, k *callHints, h *inviteHeaders) {
	target := parseURI(m.URI())
	f.calledUser, f.calledRaw, f.calledHost = target.user, rawUser(m.URI()), target.host
	if m.Trunk != "" && m.Src == Edge && !isNumber(f.calledUser) {
		if did := parseURI(siptext.ParseNameAddr(h.to).URI).user; isNumber(did) {
			f.calledDID = did
		}
	}
	if f.diversion != "" {
		f.diversion = parseURI(siptext.ParseNameAddr(f.diversion).URI).user
	} else if h.history {
		k.fromHistoryInfo, f.diversion = true, divertedBy(readHistory(m.Head), f.calledUser)
	}
}

// Indexes of callHints.numbers, by the source of the number.
const (
	fromField = iota
	identity  // the caller's number in events
	displayed
	remoteParty
	asserted // P-Asserted-Identity, also if the caller hides it
)

// readConfigured keeps the value of a header field if a correlation method compares it.
func (k *callHints) readConfigured(name, value string) {
	for i := range k.methods {
		if h := k.methods[i].header; h != "" && siptext.SameName(name, h) {
			k.configured = append(k.configured, [2]string{h, value})
		}
	}
}

// setCallerNumbers sets the numbers that a PBX may show for the caller on other legs.
func (k *callHints) setCallerNumbers(from, told, display, remote, known string) {
	k.numbers[fromField] = from
	k.numbers[identity] = told
	if isNumber(display) {
		k.numbers[displayed] = display
	}
	if remote != "" {
		u := siptext.ParseNameAddr(remote).URI
		k.numbers[remoteParty] = parseURI(u).user
	}
	k.numbers[asserted] = known
}

// isNumber reports whether s consists of digits, perhaps after a plus sign.
func isNumber(s string) bool {
	n := strings.TrimPrefix(s, "+")
	return n != "" && strings.Trim(n, "0123456789") == ""
}

// readConfigured keeps the value of a header field if the configuration names the field.
func (f *inviteFacts) readConfigured(c *Config, name, value string) {
	if c.CallAPIID != "" && siptext.SameName(name, c.CallAPIID) {
		f.callAPIID = value
	}
	if c.CallBackID != "" && siptext.SameName(name, c.CallBackID) {
		f.callBackID = value
	}
	if c.Tag != "" && siptext.SameName(name, c.Tag) {
		f.tag = value
	}
	if c.RecID != "" && siptext.SameName(name, c.RecID) {
		f.recID = value
	}
	for _, want := range c.Headers {
		if siptext.SameName(name, want) && len(f.headers) < maxHeaderFields {
			f.headers = append(f.headers, [2]string{want, value})
		}
	}
}

// maxHeaderFields is the largest number of header fields of Config.Headers that are kept
// from one INVITE.
const maxHeaderFields = 32

// cloneStrings copies the strings of f, and the strings in more, into one block of
// memory.
func (f *inviteFacts) cloneStrings(more ...*string) {
	all := append(more, &f.callerNum, &f.callerName, &f.verstat, &f.calledUser, &f.calledDID, &f.calledHost, &f.diversion, &f.callAPIID,
		&f.clientAPIID, &f.callBackID, &f.tag, &f.recID, &f.userAgent, &f.callerNumRaw, &f.calledRaw)
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

// toE164 returns the E.164 form of a number, or "" if the configuration does not ask for
// it. An extension's number of fewer than 7 digits has no E.164 form.
func (d *directory) toE164(number string, now time.Time) string {
	if d.config.E164 == nil || len(number) < 7 && d.kindOf(number, now) != "" {
		return ""
	}
	return d.config.E164(number)
}

// digestUser returns the username in digest credentials, which may be user@host.
func digestUser(credentials string) string {
	_, params, _ := strings.Cut(credentials, " ")
	for p := range siptext.List(params) {
		if user, ok := siptext.Param(p, "username"); ok {
			return user
		}
	}
	return ""
}
