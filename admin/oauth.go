package admin

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"net/http"
	"strings"
	"time"
)

const (
	maxGrants = 100       // access tokens of one API token; the oldest is evicted
	grantTTL  = time.Hour // lifetime of an access token
)

// grantStore keeps the access tokens that were issued for API tokens (RFC 6749 §4.4).
// They are in memory, by their hashes: after a restart, clients request new ones.
type grantStore struct {
	byHash *ownerCache[secretHash] // access token to API token, whose permissions and expiry apply
}

// newGrantStore returns a store without access tokens.
func newGrantStore() grantStore { return grantStore{newOwnerCache[secretHash](maxGrants)} }

// issue creates an access token for the API token with an id and a hash.
func (g grantStore) issue(id string, token secretHash, now time.Time) string {
	var key [32]byte
	rand.Read(key[:]) // never fails
	secret := base64.RawURLEncoding.EncodeToString(key[:])
	g.byHash.add(id, sha256.Sum256([]byte(secret)), token, now, now.Add(grantTTL))
	return secret
}

// apiTokenHash returns the hash of the API token that an access token stands for. A
// hash of anything else, or of an expired access token, is returned as it is.
func (g grantStore) apiTokenHash(sum [sha256.Size]byte, now time.Time) [sha256.Size]byte {
	if token, ok := g.byHash.get(sum, now); ok {
		return token
	}
	return sum
}

// serveOAuthToken issues an access token for the id and secret of an API token, which
// stand in the form of either kind, in the query, or in Authorization: Basic.
func (s *Server) serveOAuthToken(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodPost {
		w.Header().Set("Allow", http.MethodPost)
		writeTelphinError(w, http.StatusMethodNotAllowed, "")
		return
	}
	if err := r.ParseMultipartForm(maxBody); err != nil && err != http.ErrNotMultipart {
		writeTelphinError(w, http.StatusBadRequest, "malformed form")
		return
	}
	id, secret, basic := r.BasicAuth()
	if !basic {
		id, secret = r.Form.Get("client_id"), r.Form.Get("client_secret")
	}
	if r.Form.Get("grant_type") != "client_credentials" {
		writeTelphinError(w, http.StatusBadRequest, "grant_type must be client_credentials")
		return
	}
	secret = strings.TrimSpace(secret)
	now, sum := time.Now(), sha256.Sum256([]byte(secret))
	client, ok := s.identifyToken(r, secret, now)
	switch {
	case !ok:
		writeTooMany(w, s.failures.Limiter(peerNetwork(r)), now, writeTelphinError, "too many requests from this address with a wrong secret: wait as long as Retry-After says")
	case client == nil, !isClient(client, id), s.tokens.grants.apiTokenHash(sum, now) != sum: // an access token cannot issue another
		w.Header().Set("WWW-Authenticate", `Basic realm="bellhop"`)
		writeTelphinError(w, http.StatusUnauthorized, "")
	default:
		writeJSON(w, http.StatusOK, struct {
			Token   string `json:"access_token"`
			Type    string `json:"token_type"`
			Seconds int    `json:"expires_in"`
		}{s.tokens.grants.issue(client.id, sum, now), "Bearer", int(grantTTL.Seconds())})
	}
}

// isClient reports whether id is the client id of a token. The token of the config has
// the client id admin.
func isClient(client *access, id string) bool {
	if client.id == configID {
		return id == "admin"
	}
	return id == client.id
}
