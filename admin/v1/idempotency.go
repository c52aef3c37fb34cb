package v1

import (
	"crypto/sha256"
	"fmt"
	"net/http"
	"sync"
	"time"

	"bellhop/admin/access"
	"bellhop/admin/limit"
)

const (
	maxCachedResponses = 1000 // of one token; the oldest is evicted
	responseTTL        = 24 * time.Hour
	maxIdempotencyKey  = 255 // bytes
)

// idempotencyCache keeps the responses to requests with an Idempotency-Key in memory,
// secrets included. Only the token that got a response gets it again.
type idempotencyCache struct {
	mu        sync.Mutex
	responses *access.Cache[cachedResponse] // by token and key, see responseKey
}

// cachedResponse is the response to a request with an idempotency key. It is cached when
// the request begins, without an answer yet.
type cachedResponse struct {
	request [sha256.Size]byte // hash of the URI and the body
	at      time.Time
	answer  access.Response // status 0 while the request is in progress
}

// newIdempotencyCache returns an empty cache.
func newIdempotencyCache() *idempotencyCache {
	return &idempotencyCache{responses: access.NewCache[cachedResponse](maxCachedResponses)}
}

// answerOnce lets h serve requests with an Idempotency-Key. If the response is a 2xx, it
// is cached, and a repetition of the request gets it without h. After any other response,
// h serves a repetition again. A repetition during the first request is answered 409.
// Another request with the same key is answered 422.
func (c *idempotencyCache) answerOnce(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		key := r.Header.Get("Idempotency-Key")
		if len(key) > maxIdempotencyKey {
			WriteError(w, http.StatusBadRequest, fmt.Sprintf("Idempotency-Key too long: at most %d bytes", maxIdempotencyKey))
			return
		}
		request := sha256.Sum256(fmt.Appendf(nil, "%s\n%s", r.URL.RequestURI(), limit.Body(r)))

		token := access.ClientOf(r.Context()).ID
		k, first := c.reserve(token, key, request, time.Now())
		switch {
		case k.request != request:
			WriteError(w, http.StatusUnprocessableEntity, "this Idempotency-Key belongs to another request: use a new key")
		case first:
			defer func() { c.finish(token, key, k) }() // also when h panics
			var answer access.Response
			h.ServeHTTP(&answer, r)
			answer.WriteHeader(http.StatusOK) // no effect if h has written a status
			k.answer = answer
			k.answer.WriteTo(w)
		case k.answer.Status() == 0:
			w.Header().Set("Retry-After", "1")
			WriteError(w, http.StatusConflict, "the first request with this Idempotency-Key is still in progress: try again")
		default:
			k.answer.WriteTo(w)
		}
	})
}

// reserve returns the cached response of a key. If there is none, it reserves the key for
// the request, and first is true.
func (c *idempotencyCache) reserve(token, key string, request access.Hash, now time.Time) (k cachedResponse, first bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	name := responseKey(token, key)
	if k, ok := c.responses.Get(name, now); ok {
		return k, false
	}
	k = cachedResponse{request: request, at: now}
	c.responses.Add(token, name, k, now, now.Add(responseTTL))
	return k, true
}

// responseKey returns the key of the response to an Idempotency-Key of a token.
func responseKey(token, key string) access.Hash { return sha256.Sum256([]byte(token + " " + key)) }

// finish caches the response to a first request if it is a 2xx, else it frees the key.
func (c *idempotencyCache) finish(token, key string, k cachedResponse) {
	c.mu.Lock()
	defer c.mu.Unlock()
	name := responseKey(token, key)
	c.responses.Remove(name)
	if k.answer.Status()/100 == 2 {
		c.responses.Add(token, name, k, k.at, k.at.Add(responseTTL))
	}
}
