package admin

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
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

	r.wantProblem(400, "", "POST", "/v1/subscriptions", subscription(), "Idempotency-Key", strings.Repeat("k", 256))
	r.want(200, "GET", "/v1/subscriptions", nil, key...) // a GET ignores the key
	r.as("").wantProblem(401, "", "POST", "/v1/subscriptions", subscription(), key...)
}
