package telphin

import (
	"crypto/sha256"
	"net/http"
	"strings"
	"time"

	"bellhop/admin/access"
	"bellhop/admin/dialect"
	"bellhop/admin/limit"
)

// ServeToken issues an access token for an API token. The client sends the id and secret
// of the API token with Basic authentication, or as client_id and client_secret in the
// query or in a form (URL-encoded or multipart).
func (a *API) ServeToken(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodPost {
		w.Header().Set("Allow", http.MethodPost)
		WriteError(w, http.StatusMethodNotAllowed, "")
		return
	}
	if err := r.ParseMultipartForm(limit.MaxBody); err != nil && err != http.ErrNotMultipart {
		WriteError(w, http.StatusBadRequest, "malformed form")
		return
	}
	id, secret, basic := r.BasicAuth()
	if !basic {
		id, secret = r.Form.Get("client_id"), r.Form.Get("client_secret")
	}
	if r.Form.Get("grant_type") != "client_credentials" {
		WriteError(w, http.StatusBadRequest, "grant_type must be client_credentials")
		return
	}
	secret = strings.TrimSpace(secret)
	now, sum := time.Now(), sha256.Sum256([]byte(secret))
	client, ok := a.auth.Identify(r, secret, now)
	switch {
	case !ok:
		access.WriteTooMany(w, a.auth.FailureLimiter(r), now, WriteError, "too many requests from this address with a wrong secret: wait as long as Retry-After says")
	case client == nil, !isClient(client, id), a.auth.Tokens.Grants.TokenHash(sum, now) != sum: // an access token cannot issue another
		w.Header().Set("WWW-Authenticate", `Basic realm="bellhop"`)
		WriteError(w, http.StatusUnauthorized, "")
	default:
		dialect.WriteJSON(w, http.StatusOK, struct {
			Token   string `json:"access_token"`
			Type    string `json:"token_type"`
			Seconds int    `json:"expires_in"`
		}{a.auth.Tokens.Grants.Issue(client.ID, sum, now), "Bearer", int(access.GrantTTL.Seconds())})
	}
}

// isClient reports whether id is the client id of a token. The token of the config has
// the client id admin.
func isClient(client *access.Client, id string) bool {
	if client.ID == access.ConfigID {
		return id == "admin"
	}
	return id == client.ID
}
