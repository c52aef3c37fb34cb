package dialog

import (
	"strings"

	"bellhop/dialog/siptext"
)

// A uri is the part of a SIP, SIPS or tel URI that the tracker uses. Two URIs of the same
// user at the same host have equal user and host (RFC 3261 §19.1.4).
type uri struct {
	user   string // without escapes, password and telephone-subscriber parameters; a number without visual separators
	host   string // in lower case, without port; "" in a tel URI
	params string // without the leading semicolon
}

func parseURI(s string) uri {
	p := siptext.ParseURI(s)
	u := uri{user: siptext.Unescape(p.User), host: siptext.LowerHost(p.Host), params: p.Params}
	if p.Params == "" {
		u.params = p.UserParams
	}
	if p.IsTel() {
		u.user = siptext.PlainNumber(u.user)
	}
	return u
}

// rawUser returns the user of a URI as written, "" if parseURI returns the same.
func rawUser(s string) string {
	if p := siptext.ParseURI(s); strings.IndexByte(p.User, '%') >= 0 || p.IsTel() {
		if p.User != parseURI(s).user {
			return p.User
		}
	}
	return ""
}
