package dialog

import (
	"cmp"
	"strings"
	"time"
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

	offerSum uint32 // sum of the data that the INVITE offers and requires

	callerNumRaw, calledRaw string // as written, if different
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
	configured      [][2]string // header fields that a correlation method compares, with their values
	fromHistoryInfo bool        // the diversion comes from History-Info
}

// maxClientAPI is the longest Client-Api-Id that events carry, in bytes.
const maxClientAPI = 100

// readInvite parses an INVITE in one pass and finds the extension of the leg that it
// begins. Its results share m's memory.
func (t *Tracker) readInvite(m *Message, k *callHints) (f inviteFacts, ext Extension, ok bool) {
	var from, to, remote, preferred, contact, account string
	var identified, history bool
	c := &t.config
	trusted := m.trusted()
	for name, value := range headerFields(m.Head) {
		switch {
		case sameHeader(name, "From"):
			from = value
		case sameHeader(name, "To"):
			to = value
		case sameHeader(name, "Contact"):
			contact = value
		case sameHeader(name, "P-Asserted-Identity"):
			identified = trusted
		case sameHeader(name, "P-Preferred-Identity"):
			if preferred == "" {
				preferred = value
			} else {
				preferred += "," + value // there may be two (RFC 3325 §9.2)
			}
		case sameHeader(name, "Privacy"):
			f.private = f.private || asksPrivacy(value)
		case sameHeader(name, "Authorization"), sameHeader(name, "Proxy-Authorization"):
			f.credentials = true
			if user := digestUser(value); account == "" || t.directory.accountExtension(account, m.At).User == "" {
				account = user
			}
		case sameHeader(name, "Diversion"):
			if f.diversion == "" && trusted {
				f.diversion = firstOf(value)
			}
		case sameHeader(name, "History-Info"):
			history = trusted
		case sameHeader(name, "Require"), sameHeader(name, "Proxy-Require"), sameHeader(name, "Supported"), sameHeader(name, "Content-Type"), sameHeader(name, "Content-Encoding"):
			f.offerSum = addToSum(f.offerSum, value)
		case sameHeader(name, "Client-Api-Id"):
			if len(value) <= maxClientAPI {
				f.clientAPIID = value
			}
		case sameHeader(name, "User-Agent"):
			f.userAgent = value
		case sameHeader(name, "Remote-Party-ID"):
			if trusted {
				if v := callingParty(value); v != "" {
					remote = v
					f.private = f.private || partyAsksPrivacy(v)
				}
			}
		case sameHeader(name, "Session-ID"):
			k.session = value
		case sameHeader(name, "P-Charging-Vector"):
			k.icid, _ = paramValue(";"+value, "icid-value")
		case sameHeader(name, "Replaces"):
			k.replaces = value
		case sameHeader(name, "Referred-By"):
			_, by, _ := parseNameAddr(value)
			k.referredBy = parseURI(by).user
		}
		f.readConfigured(c, name, value)
		for i := range t.methods {
			if h := t.methods[i].header; h != "" && sameHeader(name, h) {
				k.configured = append(k.configured, [2]string{h, value})
			}
		}
	}
	display, u, _ := parseNameAddr(from)
	caller, fromURI := parseURI(u), u
	f.withheld = f.private && !c.IgnorePrivacy
	asserted := ""
	if identified {
		name, assertedURI := assertedIdentity(m.Head)
		asserted = parseURI(assertedURI).user
		if c.IgnorePrivacy || !f.private && !isAnonymous(caller) {
			if display = cmp.Or(name, display); asserted != "" {
				display, u, caller = name, assertedURI, parseURI(assertedURI)
			}
		}
	}
	f.callerNum, f.callerNumRaw, f.callerName, f.hidden = caller.user, rawUser(u), display, isAnonymous(caller)
	k.setCallerNumbers(parseURI(fromURI).user, f.callerNum, display, remote, asserted)
	if trusted {
		f.verstat = readVerstat(u)
	}
	if f.callerNum == "" || f.hidden {
		f.callerNum, f.callerNumRaw, f.hidden = anonymousUser, "", true
	}
	if f.withheld {
		f.callerNum, f.callerNumRaw, f.callerName, f.hidden = anonymousUser, "", anonymousName, true
	}
	target := parseURI(m.URI())
	f.calledUser, f.calledRaw, f.calledHost = target.user, rawUser(m.URI()), target.host
	if _, u, _ = parseNameAddr(to); m.Trunk != "" && m.Src == Edge && !isNumber(f.calledUser) && isNumber(parseURI(u).user) {
		f.calledDID = parseURI(u).user
	}
	if f.diversion != "" {
		_, u, _ = parseNameAddr(f.diversion)
		f.diversion = parseURI(u).user
	} else if history {
		k.fromHistoryInfo, f.diversion = true, divertedBy(readHistory(m.Head), f.calledUser)
	}
	f.offerSum = addBodyToSum(f.offerSum, m.Body)
	if f.callAPIID == "" {
		f.callAPIID = m.CallID
	}
	switch {
	case m.Trunk != "":
	case m.Src == PBX && m.Dst == Edge:
		f.userAgent = "" // this is the PBX's User-Agent: the phone's comes with its response
		_, u, _ = parseNameAddr(to)
		ext, ok = t.directory.calledExtension(m, u)
	case m.Src == Edge:
		_, contact, _ = parseNameAddr(contact)
		ext, ok = t.directory.callingExtension(m, fromURI, preferred, account, contact)
		if ok && f.callerNum != ext.User && !f.hidden && account != "" && t.directory.kindOf(f.callerNum, m.At) != "" {
			f.callerNum, f.callerName = ext.User, "" // the caller shows a number of another extension
		}
	}
	return f, ext, ok
}

// Sources of the numbers in callHints.
const (
	fromField = iota
	identity  // number in events
	displayed
	remoteParty
	asserted // P-Asserted-Identity, also if the caller hides it
)

// setCallerNumbers sets the numbers that a PBX may show for the caller on other legs.
func (k *callHints) setCallerNumbers(from, told, display, remote, known string) {
	k.numbers[fromField] = from
	k.numbers[identity] = told
	if isNumber(display) {
		k.numbers[displayed] = display
	}
	if remote != "" {
		_, u, _ := parseNameAddr(remote)
		k.numbers[remoteParty] = parseURI(u).user
	}
	k.numbers[asserted] = known
}

// isNumber reports whether s is a telephone number without separators.
func isNumber(s string) bool {
	n := strings.TrimPrefix(s, "+")
	return n != "" && strings.Trim(n, "0123456789") == ""
}

// readConfigured copies a header field that the configuration names.
func (f *inviteFacts) readConfigured(c *Config, name, value string) {
	if c.CallAPIID != "" && sameHeader(name, c.CallAPIID) {
		f.callAPIID = value
	}
	if c.CallBackID != "" && sameHeader(name, c.CallBackID) {
		f.callBackID = value
	}
	if c.Tag != "" && sameHeader(name, c.Tag) {
		f.tag = value
	}
	if c.RecID != "" && sameHeader(name, c.RecID) {
		f.recID = value
	}
	for _, want := range c.Headers {
		if sameHeader(name, want) && len(f.headers) < maxHeaderFields {
			f.headers = append(f.headers, [2]string{want, value})
		}
	}
}

// maxHeaderFields is the number of configured header fields that are copied from one
// INVITE.
const maxHeaderFields = 32

// cloneStrings copies the facts, and the further strings, into one block of memory.
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

// toE164 returns the E.164 form of a number, if the configuration asks for it. The short
// number of an extension has none.
func (t *Tracker) toE164(number string, now time.Time) string {
	if t.config.E164 == nil || len(number) < 7 && t.directory.kindOf(number, now) != "" {
		return ""
	}
	return t.config.E164(number)
}

// digestUser returns the account in digest credentials, user[@host].
func digestUser(credentials string) string {
	_, params, _ := strings.Cut(credentials, " ")
	for p := range listValues(params) {
		if k, v, _ := strings.Cut(p, "="); strings.EqualFold(strings.TrimSpace(k), "username") {
			v = strings.TrimSpace(v)
			if strings.HasPrefix(v, `"`) {
				v = unquoteString(v[1:closingQuote(v)])
			}
			return v
		}
	}
	return ""
}
