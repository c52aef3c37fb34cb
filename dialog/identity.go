package dialog

import "strings"

// The number and the name that events give a caller whose identity is withheld.
const (
	anonymousUser = "anonymous"
	anonymousName = "Anonymous"
)

// private reports whether a Privacy header field asks that the caller's identity is
// not shown (RFC 3323 §4.2, RFC 3325 §9.3).
func asksPrivacy(privacy string) bool {
	for v := range strings.FieldsFuncSeq(privacy, func(r rune) bool { return r == ';' || r == ',' }) {
		switch strings.ToLower(strings.TrimSpace(v)) {
		case "id", "user", "header":
			return true
		}
	}
	return false
}

// privateParty reports whether a Remote-Party-ID asks that the number in it is not
// shown: what Privacy asks for, in the way before RFC 3323
// (draft-ietf-sip-privacy-01 §6.3).
func partyAsksPrivacy(remotePartyID string) bool {
	_, _, params := parseNameAddr(remotePartyID)
	privacy, _ := paramValue(params, "privacy")
	return strings.EqualFold(privacy, "full") || strings.EqualFold(privacy, "uri")
}

// callingParty returns the value of a Remote-Party-ID that is about who calls, "" if
// there is none: others are about who is called (draft-ietf-sip-privacy-01 §6.3).
func callingParty(remotePartyID string) string {
	for v := range listValues(remotePartyID) {
		_, _, params := parseNameAddr(v)
		if party, ok := paramValue(params, "party"); !ok || !strings.EqualFold(party, "called") {
			return v
		}
	}
	return ""
}

// anonymous reports whether u does not show who calls: as the caller wants it (RFC 3323
// §4.1.1.3), or as a network before does not know it (3GPP TS 23.003 §13.6, §13.7).
func isAnonymous(u uri) bool {
	return isAnonymousUser(u.user) || u.host == "anonymous.invalid" || u.host == "unknown.invalid"
}

// anonymousNumber reports whether the user of a URI says that it is nobody's.
func isAnonymousUser(user string) bool {
	return strings.EqualFold(user, anonymousUser) || strings.EqualFold(user, "unavailable")
}

// assertedIdentity reads the values of P-Asserted-Identity, of which there may be
// two for one person (RFC 3325 §9.1): the URI is the first with a telephone number,
// else the first with a user; the name is the first that there is.
func assertedIdentity(head string) (name, u string) {
	best := 0
	for n, value := range headerFields(head) {
		if !sameHeader(n, "P-Asserted-Identity") {
			continue
		}
		for v := range listValues(value) {
			display, one, _ := parseNameAddr(v)
			rank := 1
			switch user := parseURI(one).user; {
			case isNumber(user):
				rank = 3
			case user != "":
				rank = 2
			}
			if rank > best {
				best, u = rank, one
			}
			if name == "" {
				name = display
			}
		}
	}
	return name, u
}

// verstat returns how the caller's number was verified, which is a parameter of the
// number or of the URI that it is in.
func readVerstat(u string) string {
	p := splitURI(u)
	if v, ok := paramValue(p.userParams, "verstat"); ok {
		return v
	}
	v, _ := paramValue(p.params, "verstat")
	return v
}
