package v1

import (
	"crypto/sha256"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"bellhop/admin/access"
)

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
	h := newIdempotencyCache().answerOnce(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
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
	h := newIdempotencyCache().answerOnce(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
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
	as := newIdempotencyCache()
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
