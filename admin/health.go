package admin

import (
	"net/http"
	"time"

	"bellhop/admin/access"
	"bellhop/admin/dialect"
	v1 "bellhop/admin/v1"
)

// serveHealthz answers 200 while the process runs.
func (s *Server) serveHealthz(w http.ResponseWriter, _ *http.Request) {
	dialect.WriteJSON(w, http.StatusOK, map[string]string{"status": "ok"})
}

// serveReadyz answers 200 if bellhop is ready, else 503. If bellhop is only degraded, it
// answers 200, because a degraded bellhop still does its work and must stay in service.
// The body has the reasons if isTrusted accepts the request.
func (s *Server) serveReadyz(w http.ResponseWriter, r *http.Request) {
	reasons := s.ops.Unready()
	var body struct {
		Ready    bool     `json:"ready"`
		Reasons  []string `json:"reasons,omitempty"`
		Degraded []string `json:"degraded,omitempty"`
	}
	status := http.StatusOK
	if body.Ready = len(reasons) == 0; !body.Ready {
		status = http.StatusServiceUnavailable
	}
	degraded := s.ops.Degraded()
	if len(reasons)+len(degraded) > 0 && s.isTrusted(r) {
		body.Reasons, body.Degraded = reasons, degraded
	}
	dialect.WriteJSON(w, status, body)
}

// isTrusted reports whether a request comes from this machine, or has a token that may
// read everything.
func (s *Server) isTrusted(r *http.Request) bool {
	if isLocalRequest(r) {
		return true
	}
	token := access.Bearer(r)
	if token == "" {
		return false
	}
	client, _ := s.auth.Identify(r, token, time.Now())
	return client.Permits(access.PermitReadAll)
}

// requireTrusted lets h serve requests that isTrusted accepts. It refuses others with
// 401 or 403, or with 429 beyond a rate limit.
func (s *Server) requireTrusted(h http.Handler) http.Handler {
	elsewhere := access.NewMux(v1.WriteError)
	elsewhere.Handle("/", access.PermitReadAll, h)
	admitted := s.authenticate(s.auth.IdentifyBearer, v1.WriteError, elsewhere)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if isLocalRequest(r) {
			w.Header().Set("Cache-Control", "no-store")
			h.ServeHTTP(w, r)
			return
		}
		admitted.ServeHTTP(w, r)
	})
}
