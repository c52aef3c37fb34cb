package access

import (
	"crypto/rand"
	"crypto/sha256"
	"net/http"
	"time"
)

const (
	SessionCookie = "bellhop"
	SessionTTL    = 12 * time.Hour
	maxSessions   = 50 // of one token; the oldest is evicted
)

// Sessions keeps the sessions of the page. A session ends with its token at the latest.
// Sessions are in memory: after a restart, people sign in again.
type Sessions struct {
	byHash *Cache[Hash] // hash of the token, by the hash of the cookie's value
}

// newSessionStore returns a store without sessions.
func newSessionStore() Sessions { return Sessions{NewCache[Hash](maxSessions)} }

// Start starts a session for a token, and returns the value of its cookie.
func (ss Sessions) Start(tokenID, token string, now time.Time) (id string) {
	id = rand.Text() + rand.Text()
	ss.byHash.Add(tokenID, sha256.Sum256([]byte(id)), sha256.Sum256([]byte(token)), now, now.Add(SessionTTL))
	return id
}

// End ends a session.
func (ss Sessions) End(id string) { ss.byHash.Remove(sha256.Sum256([]byte(id))) }

// SessionClient returns the client of a request's session; nil: it has no valid one.
func (a *Authenticator) SessionClient(r *http.Request, now time.Time) *Client {
	cookie, err := r.Cookie(SessionCookie)
	if err != nil {
		return nil
	}
	return a.IdentifySession(cookie.Value, now)
}

// IdentifySession returns the client of the session with an id; nil: it is not valid.
func (a *Authenticator) IdentifySession(id string, now time.Time) *Client {
	token, ok := a.Sessions.byHash.Get(sha256.Sum256([]byte(id)), now)
	if !ok {
		return nil
	}
	client := a.Tokens.findHash(token, now)
	if client == nil {
		a.Sessions.End(id)
	}
	return client
}
