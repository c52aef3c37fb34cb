package admin

import (
	"context"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"time"

	"golang.org/x/time/rate"

	"bellhop/admin/limit"
	"bellhop/dialog"
)

// permission is what a request needs for a route. The zero permission is the highest,
// so that a route without one is for admins.
type permission int

const (
	permitAdmin   permission = iota // tokens, the audit log
	permitRead                      // see what the token is bound to
	permitWrite                     // and change it too
	permitReadAll                   // see data of all extensions
	permitAll                       // open; the handler behind it may need more
)

// access is the identity behind a request, and what it may do. nil is an
// unauthenticated client.
type access struct {
	id         string // token id, or configID
	scope      Scope
	extensions []string      // the token is bound to these; nil: to none
	expires    time.Time     // zero: never
	limit      *rate.Limiter // rate limit of its requests
}

// configID is the id of the token of the config, or of the one created at the first
// start.
const configID = "config"

// permits reports whether a may use a route that needs do. canSee then limits what it
// sees there.
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

// canSee reports whether a may see an extension and everything of it. The name is 101
// or 101@pbx.example, as in a subscription or of a [dialog.Extension]. "" stands for
// all extensions, as in a subscription with an extension_regex. A token bound to 101
// sees that user in every domain.
//
// A request that names something by its id and may not see it is answered 404, as if it
// did not exist.
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

// visibleParties returns the parties of a call that a may see.
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

// accessOf returns the access of the request that ctx belongs to; nil: there is none.
func accessOf(ctx context.Context) *access {
	a, _ := ctx.Value(accessKey{}).(*access)
	return a
}

// errorWriter writes an error in the format of one API. Without a detail, it writes the
// text of the status.
type errorWriter func(w http.ResponseWriter, status int, detail string)

// permissionMux is a mux with a permission for each of its patterns.
type permissionMux struct {
	mux         *http.ServeMux
	permissions map[string]permission // by pattern
	refuse      errorWriter
}

// newMux returns a mux without routes.
func (s *Server) newMux(refuse errorWriter) *permissionMux {
	rs := &permissionMux{http.NewServeMux(), make(map[string]permission), refuse}
	s.muxes = append(s.muxes, rs)
	return rs
}

// handle adds a route that needs the permission asks.
func (rs *permissionMux) handle(pattern string, asks permission, h http.Handler) {
	rs.permissions[pattern] = asks
	rs.mux.Handle(pattern, h)
}

// HandleFunc adds a route whose permission is already in permissions, and panics if
// there is none. huma calls it.
func (rs *permissionMux) HandleFunc(pattern string, h func(http.ResponseWriter, *http.Request)) {
	if _, known := rs.permissions[pattern]; !known {
		panic("admin: route " + pattern + " has no permission")
	}
	rs.mux.HandleFunc(pattern, h)
}

// ServeHTTP serves requests that have the permission of their route, and answers 403 to
// others. A request without a route gets the mux's error in the API's format.
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

// missingPermission is the error text for a token without the permission of a route.
var missingPermission = map[permission]string{
	permitAdmin:   "use a token with scope admin",
	permitWrite:   "this token is read-only: use one with scope write",
	permitReadAll: "this token is bound to extensions: use one that is not",
}

// authenticate answers 401 to requests without a valid token, and 429 to those beyond a
// rate limit. The others reach next with their access in the context. find identifies
// the client, with the results of identifyToken.
func (s *Server) authenticate(find func(*http.Request, time.Time) (*access, bool), refuse errorWriter, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "no-store")
		now := time.Now()
		client, ok := find(r, now)
		switch {
		case !ok:
			writeTooMany(w, s.failures.Limiter(peerNetwork(r)), now, refuse, "too many requests from this address without a valid token: wait as long as Retry-After says")
		case client == nil:
			w.Header().Set("WWW-Authenticate", `Bearer realm="bellhop"`)
			refuse(w, http.StatusUnauthorized, "send a valid token as Authorization: Bearer TOKEN; the first one is admin.token in the config, or the file admin.token in store.dir")
		default:
			if !client.limit.AllowN(now, 1) {
				writeTooMany(w, client.limit, now, refuse, "too many requests with this token: wait as long as Retry-After says")
				return
			}
			limit.SetRateHeaders(w.Header(), client.limit, now)
			next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), accessKey{}, client)))
		}
	})
}

// bearerToken returns the token of Authorization: Bearer, or "".
func bearerToken(r *http.Request) string {
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return ""
	}
	return strings.TrimSpace(token)
}

// identifyByBearer identifies the client by its bearer token, see identifyToken.
func (s *Server) identifyByBearer(r *http.Request, now time.Time) (client *access, ok bool) {
	return s.identifyToken(r, bearerToken(r), now)
}

// identifyToken returns the access of a token; nil: it is not valid. If the address of
// the request has failed too often, ok is false and the token is not accepted. This
// protects a token of the config that is short enough to be guessed: any other valid
// token is accepted even from such an address.
func (s *Server) identifyToken(r *http.Request, credential string, now time.Time) (client *access, ok bool) {
	client = s.tokens.findAccess(credential, now)
	if client != nil && !(client.id == configID && s.configTokenGuessable) {
		return client, true
	}
	failure := s.failures.Limiter(peerNetwork(r)).ReserveN(now, 1)
	if failure.DelayFrom(now) > 0 {
		failure.CancelAt(now)
		return nil, false
	}
	if client != nil {
		failure.CancelAt(now)
	} else if credential != "" {
		s.log.Warn("token rejected", "peer", r.RemoteAddr)
	}
	return client, true
}

// peerNetwork returns the address that a request comes from. Of an IPv6 address it is
// the /64 network, because one client usually has all of its addresses.
func peerNetwork(r *http.Request) netip.Addr {
	peer, _ := netip.ParseAddrPort(r.RemoteAddr)
	return limit.Network(peer.Addr())
}

// writeTooMany answers 429 with the state of a rate limit.
func writeTooMany(w http.ResponseWriter, l *rate.Limiter, now time.Time, refuse errorWriter, detail string) {
	limit.SetRetryHeaders(w.Header(), l, now)
	refuse(w, http.StatusTooManyRequests, detail)
}
