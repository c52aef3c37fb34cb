package admin

import (
	"context"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"time"

	"golang.org/x/time/rate"

	"bellhop/dialog"
)

// A right is what a route asks of who uses it. The zero right is the highest:
// a route that says nothing is for admins.
type permission int

const (
	permitAdmin   permission = iota // tokens, the audit log
	permitRead                      // what the token sees
	permitWrite                     // and change it
	permitReadAll                   // what concerns all extensions
	permitAll                       // nothing: what is behind it may ask for more
)

// An access is who makes a request, and what that is good for. A nil one is
// nobody.
type access struct {
	id         string // of the token, or configID
	scope      Scope
	extensions []string      // to which the token is bound; nil: to none
	expires    time.Time     // zero: never
	limit      *rate.Limiter // of its requests
}

// configID is the id of the token that the config names, or that was made at
// the first start.
const configID = "config"

// may reports whether a request may use a route that asks for do. What it may
// see there, sees tells.
func (a *access) permits(do permission) bool {
	switch {
	case do == permitAll:
		return true
	case a == nil:
		return false
	case do == permitRead:
		return a.scope == Read || a.scope == Write || a.scope == Admin
	case do == permitWrite:
		return a.scope == Write || a.scope == Admin
	case do == permitReadAll:
		return a.permits(permitRead) && a.extensions == nil
	}
	return a.scope == Admin && a.extensions == nil
}

// sees reports whether it may know of an extension, and of what is the
// extension's. The name is 101 or 101@pbx.example, as in a subscription or of a
// [dialog.Extension]; "" is all, as of a subscription with an extension_regex.
// One bound to 101 sees that user in every domain.
//
// Whoever asks for something that it does not see by its id is told 404, as if
// there were none.
func (a *access) canSee(extension string) bool {
	if a == nil || a.extensions == nil {
		return a != nil
	}
	e := dialog.Extension{User: extension}
	if at := strings.LastIndexByte(extension, '@'); at >= 0 {
		e = dialog.Extension{User: extension[:at], Domain: extension[at+1:]}
	}
	return slices.ContainsFunc(a.extensions, e.Is)
}

// parties returns those of a call that it sees.
func (a *access) visibleParties(all []dialog.Party) []dialog.Party {
	var seen []dialog.Party
	for _, p := range all {
		if a.canSee(p.Extension.String()) {
			seen = append(seen, p)
		}
	}
	return seen
}

type accessKey struct{}

// accessOf is who makes the request that ctx is of.
func accessOf(ctx context.Context) *access {
	a, _ := ctx.Value(accessKey{}).(*access)
	return a
}

// A refusal writes an error in the form of an API; "" is a detail that says
// nothing new.
type errorWriter func(w http.ResponseWriter, status int, detail string)

// routes is a mux whose patterns all say what they ask of who uses them.
type permissionMux struct {
	mux         *http.ServeMux
	permissions map[string]permission // by pattern
	refuse      errorWriter
}

// newRoutes returns a mux without routes.
func (s *Server) newMux(refuse errorWriter) *permissionMux {
	rs := &permissionMux{http.NewServeMux(), make(map[string]permission), refuse}
	s.muxes = append(s.muxes, rs)
	return rs
}

// handle adds a route.
func (rs *permissionMux) handle(pattern string, asks permission, h http.Handler) {
	rs.permissions[pattern] = asks
	rs.mux.Handle(pattern, h)
}

// HandleFunc adds a route of which rights knows already what it asks for. It is
// for huma.
func (rs *permissionMux) HandleFunc(pattern string, h func(http.ResponseWriter, *http.Request)) {
	if _, known := rs.permissions[pattern]; !known {
		panic("admin: the route " + pattern + " does not say what it asks for")
	}
	rs.mux.HandleFunc(pattern, h)
}

// ServeHTTP serves who may. What has no pattern is refused as the mux would.
func (rs *permissionMux) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h, pattern := rs.mux.Handler(r)
	switch asks := rs.permissions[pattern]; {
	case pattern == "":
		var plain recordedResponse
		h.ServeHTTP(&plain, r)
		if allow := plain.Header().Get("Allow"); allow != "" {
			w.Header().Set("Allow", allow)
		}
		rs.refuse(w, plain.status, "")
	case accessOf(r.Context()).permits(asks):
		rs.mux.ServeHTTP(w, r)
	default:
		rs.refuse(w, http.StatusForbidden, missingPermission[asks])
	}
}

// lacking says what a token lacks that may not use a route.
var missingPermission = map[permission]string{
	permitAdmin:   "use a token with scope admin",
	permitWrite:   "this token is read-only: use one with scope write",
	permitReadAll: "this token is bound to extensions: use one that is not",
}

// admit answers 401 to nobody, and 429 to who asks too often. Others are in the
// context of the requests that next serves. Who makes a request, find finds out,
// as identify does.
func (s *Server) authenticate(find func(*http.Request, time.Time) (*access, bool), refuse errorWriter, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "no-store")
		now := time.Now()
		who, ok := find(r, now)
		switch {
		case !ok:
			writeTooMany(w, s.failures.limiterOf(peerNetwork(r)), now, refuse, "too many requests from this address without a valid token: wait as long as Retry-After says")
		case who == nil:
			w.Header().Set("WWW-Authenticate", `Bearer realm="bellhop"`)
			refuse(w, http.StatusUnauthorized, "send a valid token as Authorization: Bearer TOKEN; the first one is admin.token in the config, or the file admin.token in store.dir")
		default:
			if !who.limit.AllowN(now, 1) {
				writeTooMany(w, who.limit, now, refuse, "too many requests with this token: wait as long as Retry-After says")
				return
			}
			setRateHeaders(w, who.limit, now)
			next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), accessKey{}, who)))
		}
	})
}

// bearer is the token of a request's Authorization: Bearer.
func bearerToken(r *http.Request) string {
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return ""
	}
	return strings.TrimSpace(token)
}

// byBearer identifies who makes a request by its bearer token.
func (s *Server) identifyByBearer(r *http.Request, now time.Time) (who *access, ok bool) {
	return s.identifyToken(r, bearerToken(r), now)
}

// identify finds out who makes a request; nil is nobody. Where that was tried in
// vain too often, it is not found out, and not ok. This is for what can be
// guessed: who has another token gets in past all who guess.
func (s *Server) identifyToken(r *http.Request, credential string, now time.Time) (who *access, ok bool) {
	who = s.tokens.findAccess(credential, now)
	if who != nil && !(who.id == configID && s.configTokenGuessable) {
		return who, true
	}
	failure := s.failures.limiterOf(peerNetwork(r)).ReserveN(now, 1)
	if failure.DelayFrom(now) > 0 {
		failure.CancelAt(now)
		return nil, false
	}
	if who != nil {
		failure.CancelAt(now)
	} else if credential != "" {
		s.log.Warn("wrong token", "peer", r.RemoteAddr)
	}
	return who, true
}

// peerOf is the address that a request comes from; of IPv6 its network, as who
// has one address there has them all.
func peerNetwork(r *http.Request) netip.Addr {
	peer, _ := netip.ParseAddrPort(r.RemoteAddr)
	return networkOf(peer.Addr())
}

// networkOf is an address, or of IPv6 its /64.
func networkOf(ip netip.Addr) netip.Addr {
	if ip = ip.Unmap().WithZone(""); ip.Is6() && !ip.IsLoopback() {
		network, _ := ip.Prefix(64)
		ip = network.Addr()
	}
	return ip
}
