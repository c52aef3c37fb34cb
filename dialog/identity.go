package dialog

import "strings"

// Number and name in events of a caller whose identity is withheld.
const (
	anonymousUser = "anonymous"
	anonymousName = "Anonymous"
)

// asksPrivacy reports whether a Privacy header field asks to hide the caller's identity
// (RFC 3323 §4.2, RFC 3325 §9.3).
func asksPrivacy(privacy string) bool {
	for v := range strings.FieldsFuncSeq(privacy, func(r rune) bool { return r == ';' || r == ',' }) {
		switch strings.ToLower(strings.TrimSpace(v)) {
		case "id", "user", "header":
			return true
		}
	}
	return false
}

// partyAsksPrivacy reports whether a Remote-Party-ID asks to hide its number. This precedes
// the Privacy of RFC 3323 (draft-ietf-sip-privacy-01 §6.3).
func partyAsksPrivacy(remotePartyID string) bool {
	_, _, params := parseNameAddr(remotePartyID)
	privacy, _ := paramValue(params, "privacy")
	return strings.EqualFold(privacy, "full") || strings.EqualFold(privacy, "uri")
}

// callingParty returns the value of a Remote-Party-ID that is about the caller, "" if there
// is none: others are about the callee (draft-ietf-sip-privacy-01 §6.3).
func callingParty(remotePartyID string) string {
	for v := range listValues(remotePartyID) {
		_, _, params := parseNameAddr(v)
		if party, ok := paramValue(params, "party"); !ok || !strings.EqualFold(party, "called") {
			return v
		}
	}
	return ""
}

// isAnonymous reports whether u hides the caller: because the caller asks for it (RFC 3323
// §4.1.1.3), or because a network before does not know it (3GPP TS 23.003 §13.6, §13.7).
func isAnonymous(u uri) bool {
	return isAnonymousUser(u.user) || u.host == "anonymous.invalid" || u.host == "unknown.invalid"
}

// isAnonymousUser reports whether the user of a URI stands for an unknown caller.
func isAnonymousUser(user string) bool {
	return strings.EqualFold(user, anonymousUser) || strings.EqualFold(user, "unavailable")
}

// assertedIdentity returns the name and URI in P-Asserted-Identity, which may have two
// values for one person (RFC 3325 §9.1). The URI is the first with a telephone number,
// else the first with a user; the name is the first that is present.
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

// readVerstat returns how the caller's number was verified: a parameter of the number, or
// of the URI that contains it.
func readVerstat(u string) string {
	p := splitURI(u)
	if v, ok := paramValue(p.userParams, "verstat"); ok {
		return v
	}
	v, _ := paramValue(p.params, "verstat")
	return v
}
