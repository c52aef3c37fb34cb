package admin

import (
	"bellhop/admin/limit"
	"net/http"
	"strings"
)

// queueReads lets next serve reading requests one at a time, and answers 503 if too
// many wait. Changes are served at once: they are rare, and wait for the store anyway.
func (s *Server) queueReads(refuse errorWriter, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if requiredPermission(r) != permitRead {
			next.ServeHTTP(w, r)
			return
		}
		gate := s.gate
		if opensStream(r) {
			gate = s.streamGate
		}
		if !gate.Serve(next, w, r, accessOf(r.Context()).id) {
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
