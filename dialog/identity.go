package dialog

import (
	"strings"

	"bellhop/dialog/siptext"
)

// Number and name, in events, of a caller whose identity is withheld.
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

// partyAsksPrivacy reports whether a Remote-Party-ID asks to hide its number. This form
// is older than the Privacy of RFC 3323 (draft-ietf-sip-privacy-01 §6.3).
func partyAsksPrivacy(remotePartyID string) bool {
	params := siptext.ParseNameAddr(remotePartyID).Params
	privacy, _ := siptext.Param(params, "privacy")
	return strings.EqualFold(privacy, "full") || strings.EqualFold(privacy, "uri")
}

// callingParty returns the first value of a Remote-Party-ID that is about the caller, or
// "" if all are about the callee (draft-ietf-sip-privacy-01 §6.3).
func callingParty(remotePartyID string) string {
	for v := range siptext.List(remotePartyID) {
		params := siptext.ParseNameAddr(v).Params
		if party, ok := siptext.Param(params, "party"); !ok || !strings.EqualFold(party, "called") {
			return v
		}
	}
	return ""
}

// isAnonymous reports whether u hides the caller. The caller may have asked for that (RFC
// 3323 §4.1.1.3), or an earlier network does not know the caller (3GPP TS 23.003 §13.6,
// §13.7).
func isAnonymous(u uri) bool {
	return isAnonymousUser(u.user) || u.host == "anonymous.invalid" || u.host == "unknown.invalid"
}

// isAnonymousUser reports whether the user of a URI stands for an unknown caller.
func isAnonymousUser(user string) bool {
	return strings.EqualFold(user, anonymousUser) || strings.EqualFold(user, "unavailable")
}

// assertedIdentity returns the name and URI in P-Asserted-Identity, which may have two
// values for one person (RFC 3325 §9.1). The URI is the first with a telephone number,
// else the first with a user, else the first. The name is the first that is not empty.
func assertedIdentity(head string) (name, u string) {
	best := 0
	for n, value := range siptext.Fields(head) {
		if !siptext.SameName(n, "P-Asserted-Identity") {
			continue
		}
		for v := range siptext.List(value) {
			a := siptext.ParseNameAddr(v)
			rank := 1
			switch user := parseURI(a.URI).user; {
			case isNumber(user):
				rank = 3
			case user != "":
				rank = 2
			}
			if rank > best {
				best, u = rank, a.URI
			}
			if name == "" {
				name = a.Display
			}
		}
	}
	return name, u
}

// readVerstat returns the verstat parameter, which says how the caller's number was
// verified. It is a parameter of the number, or of the URI that contains it.
func readVerstat(u string) string {
	parts := siptext.ParseURI(u)
	if v, ok := siptext.Param(parts.UserParams, "verstat"); ok {
		return v
	}
	v, _ := parts.Param("verstat")
	return v
}
