package admin

import (
	"net/http"
	"strings"
	"time"

	"golang.org/x/time/rate"

	"bellhop/admin/access"
	"bellhop/admin/limit"
)

// queueReads lets next serve reading requests one at a time, and answers 503 if too
// many wait. Changes are served at once: they are rare, and wait for the store anyway.
func (s *Server) queueReads(refuse access.ErrorWriter, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if access.Required(r) != access.PermitRead {
			next.ServeHTTP(w, r)
			return
		}
		gate := s.gate
		if opensStream(r) {
			gate = s.streamGate
		}
		if !gate.Serve(next, w, r, access.ClientOf(r.Context()).ID) {
			w.Header().Set("Retry-After", "1")
			refuse(w, http.StatusServiceUnavailable, "too many requests are waiting, and calls go first: try again")
		}
	})
}

// opensStream reports whether r asks for the event stream, or for a live part of a
// page.
func opensStream(r *http.Request) bool {
	return acceptsMediaType(r.Header.Get("Accept"), limit.EventStream) &&
		(r.URL.Path == "/v1/events" || strings.HasPrefix(r.URL.Path, "/live/"))
}

// authenticate answers 401 to requests without a valid token, and 429 to those beyond a
// rate limit. The others reach next with their access in the context. find identifies
// the client, with the results of Identify.
func (s *Server) authenticate(find func(*http.Request, time.Time) (*access.Client, bool), refuse access.ErrorWriter, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "no-store")
		now := time.Now()
		client, ok := find(r, now)
		switch {
		case !ok:
			writeTooMany(w, s.auth.FailureLimiter(r), now, refuse, "too many requests from this address without a valid token: wait as long as Retry-After says")
		case client == nil:
			w.Header().Set("WWW-Authenticate", `Bearer realm="bellhop"`)
			refuse(w, http.StatusUnauthorized, "send a valid token as Authorization: Bearer TOKEN; the first one is admin.token in the config, or the file admin.token in store.dir")
		default:
			if !client.Limit.AllowN(now, 1) {
				writeTooMany(w, client.Limit, now, refuse, "too many requests with this token: wait as long as Retry-After says")
				return
			}
			limit.SetRateHeaders(w.Header(), client.Limit, now)
			next.ServeHTTP(w, r.WithContext(access.WithClient(r.Context(), client)))
		}
	})
}

// writeTooMany answers 429 with the state of a rate limit.
func writeTooMany(w http.ResponseWriter, l *rate.Limiter, now time.Time, refuse access.ErrorWriter, detail string) {
	limit.SetRetryHeaders(w.Header(), l, now)
	refuse(w, http.StatusTooManyRequests, detail)
}
