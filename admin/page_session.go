package admin

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"net/http"
	"time"

	ui "bellhop/admin/page"
)

const (
	sessionCookie = "bellhop"
	sessionTTL    = 12 * time.Hour
	maxSessions   = 50 // of one token; the oldest is evicted
)

// sessionStore keeps the sessions of the page, by the hash of the cookie's value. They
// are in memory: after a restart, people sign in again.
type sessionStore struct {
	byHash *ownerCache[secretHash] // session to token: a session ends with its token at the latest
}

// newSessionStore returns a store without sessions.
func newSessionStore() sessionStore { return sessionStore{newOwnerCache[secretHash](maxSessions)} }

// start starts a session for a token, and returns the value of its cookie.
func (ss sessionStore) start(tokenID, token string, now time.Time) (id string) {
	id = rand.Text() + rand.Text()
	ss.byHash.add(tokenID, sha256.Sum256([]byte(id)), sha256.Sum256([]byte(token)), now, now.Add(sessionTTL))
	return id
}

// end ends a session.
func (ss sessionStore) end(id string) { ss.byHash.remove(sha256.Sum256([]byte(id))) }

// sessionAccess returns the access of a request's session; nil: it has no valid one.
func (s *Server) sessionAccess(r *http.Request, now time.Time) *access {
	cookie, err := r.Cookie(sessionCookie)
	if err != nil {
		return nil
	}
	return s.accessOfSession(cookie.Value, now)
}

// accessOfSession returns the access of the session with an id; nil: it is not valid.
func (s *Server) accessOfSession(id string, now time.Time) *access {
	token, ok := s.sessions.byHash.get(sha256.Sum256([]byte(id)), now)
	if !ok {
		return nil
	}
	client := s.tokens.accessByHash(token, now)
	if client == nil {
		s.sessions.end(id)
	}
	return client
}

// requireSession redirects requests without a session to /login. The others reach next
// with their access in the context.
func (s *Server) requireSession(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		now := time.Now()
		client := s.sessionAccess(r, now)
		switch {
		case client != nil && client.limit.AllowN(now, 1):
			next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), accessKey{}, client)))
		case client != nil:
			writeTooMany(w, client.limit, now, writePageError, "Too many requests: wait a moment and reload the page.")
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
	if s.sessionAccess(r, time.Now()) != nil {
		http.Redirect(w, r, "/", http.StatusSeeOther)
		return
	}
	writeLoginPage(w, http.StatusOK, "")
}

// writeLoginPage writes the login page. It is an [errorWriter].
func writeLoginPage(w http.ResponseWriter, status int, detail string) {
	writeHTML(w, status, ui.Whole("login", ui.View{Title: "Sign in", Data: detail}))
}

func (s *Server) handleLogin(w http.ResponseWriter, r *http.Request) {
	now := time.Now()
	token := r.PostFormValue("token")
	client, ok := s.identifyToken(r, token, now)
	switch {
	case !ok:
		writeTooMany(w, s.failures.Limiter(peerNetwork(r)), now, writeLoginPage, "Too many wrong tokens from this address: wait a moment and try again.")
		return
	case client == nil:
		writeLoginPage(w, http.StatusUnauthorized, "Unknown or expired token.")
		return
	}
	s.endSession(r)
	http.SetCookie(w, newSessionCookie(r, s.sessions.start(client.id, token, now), int(sessionTTL.Seconds())))
	http.Redirect(w, r, "/", http.StatusSeeOther)
}

func (s *Server) handleLogout(w http.ResponseWriter, r *http.Request) {
	s.endSession(r)
	http.SetCookie(w, newSessionCookie(r, "", -1))
	http.Redirect(w, r, "/login", http.StatusSeeOther)
}

// endSession ends the session of a request.
func (s *Server) endSession(r *http.Request) {
	if cookie, err := r.Cookie(sessionCookie); err == nil {
		s.sessions.end(cookie.Value)
	}
}

// newSessionCookie returns the cookie of a session.
func newSessionCookie(r *http.Request, id string, seconds int) *http.Cookie {
	return &http.Cookie{
		Name: sessionCookie, Value: id, Path: "/", MaxAge: seconds,
		HttpOnly: true, Secure: r.TLS != nil, SameSite: http.SameSiteStrictMode,
	}
}
