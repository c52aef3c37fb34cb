package admin

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"maps"
	"net/http"
	"sync"
	"time"
)

const (
	maxCachedResponses = 1000           // of one token that are kept: the last ones
	responseTTL        = 24 * time.Hour // at most
	maxIdempotencyKey  = 255            // bytes of an Idempotency-Key
)

// answers are those to requests with an Idempotency-Key, in memory, with the
// secrets that were in them. Only who has had one gets it again.
type idempotencyCache struct {
	refuse errorWriter

	mu        sync.Mutex
	responses *ownerCache[cachedResponse] // by who asked, and the key
}

// A kept answer is one that was given, or will be.
type cachedResponse struct {
	request [sha256.Size]byte
	at      time.Time
	answer  recordedResponse // its status is 0 while the request is under way
}

func newIdempotencyCache(refuse errorWriter) *idempotencyCache {
	return &idempotencyCache{refuse: refuse, responses: newOwnerCache[cachedResponse](maxCachedResponses)}
}

// once has h answer a POST with an Idempotency-Key once: a repetition has the
// same answer, if that was a success. After a failure it is made anew.
func (as *idempotencyCache) answerOnce(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		key := r.Header.Get("Idempotency-Key")
		if key == "" || r.Method != http.MethodPost {
			h.ServeHTTP(w, r)
			return
		}
		if len(key) > maxIdempotencyKey {
			as.refuse(w, http.StatusBadRequest, fmt.Sprintf("Idempotency-Key too long: at most %d bytes", maxIdempotencyKey))
			return
		}
		body, err := io.ReadAll(r.Body) // which is in memory
		if err != nil {
			as.refuse(w, http.StatusBadRequest, "the body cannot be read: send it whole, within 15 s")
			return
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		request := sha256.Sum256(fmt.Appendf(nil, "%s\n%s", r.URL.RequestURI(), body))

		who := accessOf(r.Context()).id
		k, first := as.reserve(who, key, request, time.Now())
		switch {
		case k.request != request:
			as.refuse(w, http.StatusUnprocessableEntity, "this Idempotency-Key belongs to another request: use a new key")
		case first:
			defer func() { as.finish(who, key, k) }() // also when h panics
			var answer recordedResponse
			h.ServeHTTP(&answer, r)
			answer.WriteHeader(http.StatusOK) // unless it has
			k.answer = answer
			k.answer.writeTo(w)
		case k.answer.status == 0:
			w.Header().Set("Retry-After", "1")
			as.refuse(w, http.StatusConflict, "the first request with this Idempotency-Key is still in progress: try again")
		default:
			k.answer.writeTo(w)
		}
	})
}

// take returns what is kept for a key, or keeps that its first request is under
// way.
func (as *idempotencyCache) reserve(who, key string, request secretHash, now time.Time) (k cachedResponse, first bool) {
	as.mu.Lock()
	defer as.mu.Unlock()
	name := responseKey(who, key)
	if k, ok := as.responses.get(name, now); ok {
		return k, false
	}
	k = cachedResponse{request: request, at: now}
	as.responses.add(who, name, k, now, now.Add(responseTTL))
	return k, true
}

// nameOf is under what the answer to who asked with a key is kept.
func responseKey(who, key string) secretHash { return sha256.Sum256([]byte(who + " " + key)) }

// settle keeps a success, and forgets a failure.
func (as *idempotencyCache) finish(who, key string, k cachedResponse) {
	as.mu.Lock()
	defer as.mu.Unlock()
	name := responseKey(who, key)
	as.responses.remove(name)
	if k.answer.status/100 == 2 {
		as.responses.add(who, name, k, k.at, k.at.Add(responseTTL))
	}
}

// A recorded response is written later, or again.
type recordedResponse struct {
	header http.Header
	status int
	body   []byte
}

func (r *recordedResponse) Header() http.Header {
	if r.header == nil {
		r.header = http.Header{}
	}
	return r.header
}

func (r *recordedResponse) WriteHeader(status int) {
	if r.status == 0 {
		r.status = status
	}
}

func (r *recordedResponse) Write(b []byte) (int, error) {
	r.WriteHeader(http.StatusOK)
	r.body = append(r.body, b...)
	return len(b), nil
}

func (r *recordedResponse) writeTo(w http.ResponseWriter) {
	maps.Copy(w.Header(), r.header)
	w.WriteHeader(r.status)
	w.Write(r.body)
}
