package access

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"time"
)

const (
	maxGrants = 100       // access tokens of one API token; the oldest is evicted
	GrantTTL  = time.Hour // lifetime of an access token
)

// Grants keeps the hashes of the access tokens that were issued for API tokens
// (RFC 6749 §4.4). An access token has the permissions of its API token, and expires with
// it at the latest. The hashes are in memory: after a restart, clients request new access
// tokens.
type Grants struct {
	byHash *Cache[Hash] // hash of the API token, by the hash of the access token
}

// newGrantStore returns a store without access tokens.
func newGrantStore() Grants { return Grants{NewCache[Hash](maxGrants)} }

// Issue creates an access token for the API token with an id and a hash, and returns the
// access token.
func (g Grants) Issue(id string, token Hash, now time.Time) string {
	var key [32]byte
	rand.Read(key[:]) // never fails
	secret := base64.RawURLEncoding.EncodeToString(key[:])
	g.byHash.Add(id, sha256.Sum256([]byte(secret)), token, now, now.Add(GrantTTL))
	return secret
}

// TokenHash returns the hash of the API token for which an access token was issued. sum
// is the hash of the access token. If sum is another hash, or that of an expired access
// token, TokenHash returns sum.
func (g Grants) TokenHash(sum [sha256.Size]byte, now time.Time) [sha256.Size]byte {
	if token, ok := g.byHash.Get(sum, now); ok {
		return token
	}
	return sum
}
