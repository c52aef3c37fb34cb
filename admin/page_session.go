package admin

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"net/http"
	"time"

	look "bellhop/admin/page"
)

const (
	sessionCookie = "bellhop"
	sessionTime   = 12 * time.Hour
	maxSessions   = 50 // of one token: the newest ones
)

// sessions are those who have signed in on the page, by the hash of what their
// cookie says. They are in memory: after a restart one signs in again.
type sessions struct {
	kept *owned[sum] // the hash of the token's secret: they end with it at the latest
}

func newSessions() sessions { return sessions{newOwned[sum](maxSessions)} }

// begin begins a session of who has a token, and returns what its cookie says.
func (ss sessions) begin(who, token string, now time.Time) (id string) {
	id = rand.Text() + rand.Text()
	ss.kept.add(who, sha256.Sum256([]byte(id)), sha256.Sum256([]byte(token)), now, now.Add(sessionTime))
	return id
}

func (ss sessions) end(id string) { ss.kept.remove(sha256.Sum256([]byte(id))) }

// inSession is who has a session; nil: nobody, or no more.
func (s *Server) inSession(r *http.Request, now time.Time) *access {
	cookie, err := r.Cookie(sessionCookie)
	if err != nil {
		return nil
	}
	return s.session(cookie.Value, now)
}

// session is who has the session with an id; nil: nobody, or no more.
func (s *Server) session(id string, now time.Time) *access {
	token, ok := s.sessions.kept.get(sha256.Sum256([]byte(id)), now)
	if !ok {
		return nil
	}
	who := s.tokens.behind(token, now)
	if who == nil {
		s.sessions.end(id)
	}
	return who
}

// entered sends to the door who has no session. Others are in the context of the
// requests that next serves.
func (s *Server) entered(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		now := time.Now()
		who := s.inSession(r, now)
		switch {
		case who != nil && who.limit.AllowN(now, 1):
			next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), accessKey{}, who)))
		case who != nil:
			tooMany(w, who.limit, now, refusePage, "Too many requests: wait a moment and reload the page.")
		case r.Header.Get("HX-Request") != "":
			w.Header().Set("HX-Redirect", "/login")
			w.WriteHeader(http.StatusUnauthorized)
		case r.Method == http.MethodGet && r.Header.Get("Accept") != "text/event-stream":
			http.Redirect(w, r, "/login", http.StatusSeeOther)
		default:
			refusePage(w, http.StatusUnauthorized, "Sign in first.")
		}
	})
}

func (s *Server) loginPage(w http.ResponseWriter, r *http.Request) {
	if s.inSession(r, time.Now()) != nil {
		http.Redirect(w, r, "/", http.StatusSeeOther)
		return
	}
	refuseLogin(w, http.StatusOK, "")
}

// refuseLogin is a [refusal] that asks again.
func refuseLogin(w http.ResponseWriter, status int, detail string) {
	writePage(w, status, look.Whole("login", look.View{Title: "Sign in", Data: detail}))
}

func (s *Server) login(w http.ResponseWriter, r *http.Request) {
	now := time.Now()
	token := r.PostFormValue("token")
	who, ok := s.identify(r, token, now)
	switch {
	case !ok:
		tooMany(w, s.failures.of(peerOf(r)), now, refuseLogin, "Too many wrong tokens from this address: wait a moment and try again.")
		return
	case who == nil:
		refuseLogin(w, http.StatusUnauthorized, "Unknown or expired token.")
		return
	}
	s.forget(r)
	http.SetCookie(w, sessionOf(r, s.sessions.begin(who.id, token, now), int(sessionTime.Seconds())))
	http.Redirect(w, r, "/", http.StatusSeeOther)
}

func (s *Server) logout(w http.ResponseWriter, r *http.Request) {
	s.forget(r)
	http.SetCookie(w, sessionOf(r, "", -1))
	http.Redirect(w, r, "/login", http.StatusSeeOther)
}

// forget ends the session of a request.
func (s *Server) forget(r *http.Request) {
	if cookie, err := r.Cookie(sessionCookie); err == nil {
		s.sessions.end(cookie.Value)
	}
}

// sessionOf is the cookie of a session.
func sessionOf(r *http.Request, id string, seconds int) *http.Cookie {
	return &http.Cookie{
		Name: sessionCookie, Value: id, Path: "/", MaxAge: seconds,
		HttpOnly: true, Secure: r.TLS != nil, SameSite: http.SameSiteStrictMode,
	}
}
