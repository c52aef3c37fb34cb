package admin

import (
	"crypto/sha256"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"bellhop/admin/access"
)

func TestIdempotencyKeyRepeatsResponse(t *testing.T) {
	r := newRig(t, Config{})
	key := []string{"Idempotency-Key", "k1"}
	resp, first := r.do("POST", "/v1/subscriptions", subscription(), key...)
	again, second := r.do("POST", "/v1/subscriptions", subscription(), key...)
	if d := cmp.Diff(first, second); d != "" || resp.StatusCode != 201 || again.StatusCode != 201 {
		t.Errorf("%d, then %d; the answers differ by\n%s", resp.StatusCode, again.StatusCode, d)
	}
	for _, name := range []string{"Location", "ETag", "Content-Type"} {
		if resp.Header.Get(name) == "" || resp.Header.Get(name) != again.Header.Get(name) {
			t.Errorf("%s is %q, then %q", name, resp.Header.Get(name), again.Header.Get(name))
		}
	}
	if resp.Header.Get("X-RateLimit-Remaining") == "" || resp.Header.Get("Cache-Control") != "no-store" || len(again.Header.Values("X-RateLimit-Remaining")) != 1 {
		t.Errorf("the answers have %v and %v", resp.Header, again.Header)
	}
	r.wantProblem(422, "", "POST", "/v1/subscriptions", withFields(subscription(), "note", "other"), key...)
	r.wantProblem(422, "", "POST", "/v1/subscriptions?x=1", subscription(), key...)
	r.wantProblem(422, "", "POST", "/v1/subscriptions/"+first["id"].(string)+"/rotate-secret", nil, key...)

	// Another token may use the same key.
	client, _ := r.newToken(object{"scope": "write"})
	if other := client.want(201, "POST", "/v1/subscriptions", subscription(), key...); other["id"] == first["id"] {
		t.Error("another token's key has the same answer")
	}
	if ids, _ := r.ids("/v1/subscriptions"); len(ids) != 2 {
		t.Errorf("there are %d subscriptions, want two", len(ids))
	}

	// A failure is not cached: a corrected request may use the same key.
	r.wantProblem(422, "", "POST", "/v1/subscriptions", withFields(subscription(), "url", "ftp://x"), "Idempotency-Key", "k2")
	r.want(201, "POST", "/v1/subscriptions", withFields(subscription(), "extension", "1002"), "Idempotency-Key", "k2")

	r.wantProblem(400, "", "POST", "/v1/subscriptions", subscription(), "Idempotency-Key", strings.Repeat("k", maxIdempotencyKey+1))
	r.want(200, "GET", "/v1/subscriptions", nil, key...) // a GET ignores the key
	r.as("").wantProblem(401, "", "POST", "/v1/subscriptions", subscription(), key...)
}

// post sends a request with a key to h.
func post(h http.Handler, key string) *httptest.ResponseRecorder {
	r := httptest.NewRequest("POST", "/v1/x", strings.NewReader("{}"))
	r.Header.Set("Idempotency-Key", key)
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r.WithContext(access.WithClient(r.Context(), &access.Client{ID: "somebody"})))
	return w
}

func TestIdempotencyKeyWhileInProgress(t *testing.T) {
	begun, end := make(chan bool), make(chan bool)
	h := newIdempotencyCache(writeProblem).answerOnce(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		begun <- true
		<-end
		w.WriteHeader(201)
	}))
	first := make(chan int)
	go func() { first <- post(h, "k").Code }()
	<-begun
	if w := post(h, "k"); w.Code != 409 || w.Header().Get("Retry-After") == "" {
		t.Errorf("while the first is under way: %d %v", w.Code, w.Header())
	}
	end <- true
	if got := <-first; got != 201 {
		t.Errorf("the first: %d", got)
	}
	if w := post(h, "k"); w.Code != 201 {
		t.Errorf("when the first is over: %d", w.Code)
	}
}

func TestIdempotencyKeyAfterPanic(t *testing.T) {
	calls := 0
	h := newIdempotencyCache(writeProblem).answerOnce(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(200)
		if calls++; calls == 1 {
			panic(http.ErrAbortHandler)
		}
	}))
	func() {
		defer func() { recover() }()
		post(h, "k")
	}()
	if w := post(h, "k"); w.Code != 200 || calls != 2 {
		t.Errorf("after a panic: %d, %d calls", w.Code, calls)
	}
}

func TestCachedResponsesAreBounded(t *testing.T) {
	as := newIdempotencyCache(writeProblem)
	now := time.Now()
	request := sha256.Sum256(nil)
	k, _ := as.reserve("a", "k", request, now)
	k.answer.WriteHeader(201)
	as.finish("a", "k", k)
	if _, first := as.reserve("a", "k", request, now.Add(responseTTL-1)); first {
		t.Error("an answer is forgotten before its time")
	}
	if _, first := as.reserve("a", "k", request, now.Add(responseTTL)); !first {
		t.Error("an answer is kept over its time")
	}
	for i := range maxCachedResponses + 10 {
		as.reserve("b", fmt.Sprint(i), request, now)
	}
	if n := as.responses.Len(); n != maxCachedResponses+1 {
		t.Errorf("%d answers are kept, want %d", n, maxCachedResponses+1)
	}
	if _, first := as.reserve("a", "k", request, now.Add(responseTTL)); first {
		t.Error("one token has pushed out the answer of another")
	}
}
