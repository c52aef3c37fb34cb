package page

import (
	"net/http"
	"time"

	"bellhop/admin/access"
)

// RequireSession lets next serve requests with a session, with the session's client in
// the context. Beyond the client's rate limit it answers 429. Without a session, it sends
// requests for a page and requests of htmx to /login, and answers 401 to others.
func (p *Page) RequireSession(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		now := time.Now()
		client := p.auth.SessionClient(r, now)
		switch {
		case client != nil && client.Limit.AllowN(now, 1):
			next.ServeHTTP(w, r.WithContext(access.WithClient(r.Context(), client)))
		case client != nil:
			access.WriteTooMany(w, client.Limit, now, WriteError, "Too many requests: wait a moment and reload the page.")
		case r.Header.Get("HX-Request") != "":
			w.Header().Set("HX-Redirect", "/login")
			w.WriteHeader(http.StatusUnauthorized)
		case r.Method == http.MethodGet && r.Header.Get("Accept") != "text/event-stream":
			http.Redirect(w, r, "/login", http.StatusSeeOther)
		default:
			WriteError(w, http.StatusUnauthorized, "Sign in first.")
		}
	})
}

// ShowLogin answers with the login page, or sends a client that is signed in to /.
func (p *Page) ShowLogin(w http.ResponseWriter, r *http.Request) {
	if p.auth.SessionClient(r, time.Now()) != nil {
		http.Redirect(w, r, "/", http.StatusSeeOther)
		return
	}
	writeLoginPage(w, http.StatusOK, "")
}

// writeLoginPage writes the login page. It is an [access.ErrorWriter].
func writeLoginPage(w http.ResponseWriter, status int, detail string) {
	writeHTML(w, status, Whole("login", View{Title: "Sign in", Data: detail}))
}

// Login starts a session for the token of the form, and ends the former session of the
// browser.
func (p *Page) Login(w http.ResponseWriter, r *http.Request) {
	now := time.Now()
	token := r.PostFormValue("token")
	client, ok := p.auth.Identify(r, token, now)
	switch {
	case !ok:
		access.WriteTooMany(w, p.auth.FailureLimiter(r), now, writeLoginPage, "Too many wrong tokens from this address: wait a moment and try again.")
		return
	case client == nil:
		writeLoginPage(w, http.StatusUnauthorized, "Unknown or expired token.")
		return
	}
	p.endSession(r)
	http.SetCookie(w, newSessionCookie(r, p.auth.Sessions.Start(client.ID, token, now), int(access.SessionTTL.Seconds())))
	http.Redirect(w, r, "/", http.StatusSeeOther)
}

// Logout ends the session.
func (p *Page) Logout(w http.ResponseWriter, r *http.Request) {
	p.endSession(r)
	http.SetCookie(w, newSessionCookie(r, "", -1))
	http.Redirect(w, r, "/login", http.StatusSeeOther)
}

// endSession ends the session of a request.
func (p *Page) endSession(r *http.Request) {
	if cookie, err := r.Cookie(access.SessionCookie); err == nil {
		p.auth.Sessions.End(cookie.Value)
	}
}

// newSessionCookie returns the cookie of a session. seconds is its lifetime; with -1 the
// browser deletes the cookie.
func newSessionCookie(r *http.Request, id string, seconds int) *http.Cookie {
	return &http.Cookie{
		Name: access.SessionCookie, Value: id, Path: "/", MaxAge: seconds,
		HttpOnly: true, Secure: r.TLS != nil, SameSite: http.SameSiteStrictMode,
	}
}
