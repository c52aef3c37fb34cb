package admin

import (
	"net/http"
	"time"

	"bellhop/admin/access"
	ui "bellhop/admin/page"
)

// requireSession redirects requests without a session to /login. The others reach next
// with their access in the context.
func (s *Server) requireSession(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		now := time.Now()
		client := s.auth.SessionClient(r, now)
		switch {
		case client != nil && client.Limit.AllowN(now, 1):
			next.ServeHTTP(w, r.WithContext(access.WithClient(r.Context(), client)))
		case client != nil:
			writeTooMany(w, client.Limit, now, writePageError, "Too many requests: wait a moment and reload the page.")
		case r.Header.Get("HX-Request") != "":
			w.Header().Set("HX-Redirect", "/login")
			w.WriteHeader(http.StatusUnauthorized)
		case r.Method == http.MethodGet && r.Header.Get("Accept") != "text/event-stream":
			http.Redirect(w, r, "/login", http.StatusSeeOther)
		default:
			writePageError(w, http.StatusUnauthorized, "Sign in first.")
		}
	})
}

func (s *Server) loginPage(w http.ResponseWriter, r *http.Request) {
	if s.auth.SessionClient(r, time.Now()) != nil {
		http.Redirect(w, r, "/", http.StatusSeeOther)
		return
	}
	writeLoginPage(w, http.StatusOK, "")
}

// writeLoginPage writes the login page. It is an [access.ErrorWriter].
func writeLoginPage(w http.ResponseWriter, status int, detail string) {
	writeHTML(w, status, ui.Whole("login", ui.View{Title: "Sign in", Data: detail}))
}

func (s *Server) handleLogin(w http.ResponseWriter, r *http.Request) {
	now := time.Now()
	token := r.PostFormValue("token")
	client, ok := s.auth.Identify(r, token, now)
	switch {
	case !ok:
		writeTooMany(w, s.auth.FailureLimiter(r), now, writeLoginPage, "Too many wrong tokens from this address: wait a moment and try again.")
		return
	case client == nil:
		writeLoginPage(w, http.StatusUnauthorized, "Unknown or expired token.")
		return
	}
	s.endSession(r)
	http.SetCookie(w, newSessionCookie(r, s.auth.Sessions.Start(client.ID, token, now), int(access.SessionTTL.Seconds())))
	http.Redirect(w, r, "/", http.StatusSeeOther)
}

func (s *Server) handleLogout(w http.ResponseWriter, r *http.Request) {
	s.endSession(r)
	http.SetCookie(w, newSessionCookie(r, "", -1))
	http.Redirect(w, r, "/login", http.StatusSeeOther)
}

// endSession ends the session of a request.
func (s *Server) endSession(r *http.Request) {
	if cookie, err := r.Cookie(access.SessionCookie); err == nil {
		s.auth.Sessions.End(cookie.Value)
	}
}

// newSessionCookie returns the cookie of a session.
func newSessionCookie(r *http.Request, id string, seconds int) *http.Cookie {
	return &http.Cookie{
		Name: access.SessionCookie, Value: id, Path: "/", MaxAge: seconds,
		HttpOnly: true, Secure: r.TLS != nil, SameSite: http.SameSiteStrictMode,
	}
}
