package admin

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"bellhop/admin/access"
	"bellhop/admin/ops"
)

func TestTokenLifecycle(t *testing.T) {
	r := newRig(t, Config{})
	expires := time.Now().Add(time.Hour).UTC().Truncate(time.Second)
	resp, made := r.do("POST", "/v1/tokens", object{"note": "crm", "scope": "write", "extensions": []string{"101", "102@pbx.example"}, "expires": expires})
	id, _ := made["id"].(string)
	secret, _ := made["token"].(string)
	if resp.StatusCode != 201 || id == "" || resp.Header.Get("Location") != "/v1/tokens/"+id || !strings.HasPrefix(secret, "bh_") || len(secret) != 46 {
		t.Fatalf("%d %v %v", resp.StatusCode, resp.Header, made)
	}
	for key, want := range (object{"note": "crm", "scope": "write", "extensions": []any{"101", "102@pbx.example"}, "expires": expires.Format(time.RFC3339), "last_used": nil}) {
		if d := cmp.Diff(want, made[key]); d != "" {
			t.Errorf("%s (- want, + got):\n%s", key, d)
		}
	}

	path := "/v1/tokens/" + id
	delete(made, "token") // shown only in this response
	if d := cmp.Diff(made, r.want(200, "GET", path, nil)); d != "" {
		t.Errorf("read differs from created:\n%s", d)
	}
	r.as(secret).want(200, "GET", "/v1/subscriptions", nil)
	if used, ok := r.want(200, "GET", path, nil)["last_used"].(string); !ok || used < made["created"].(string)[:19] {
		t.Errorf("last used is %q, after it was created at %v", used, made["created"])
	}

	_, second := r.newToken(object{"scope": "read"})
	all, next := r.ids("/v1/tokens")
	if !slices.Equal(all, []string{id, second}) || next != "" {
		t.Errorf("listed are %v, want %v", all, []string{id, second})
	}
	first, next := r.ids("/v1/tokens?limit=1")
	if rest, end := r.ids("/v1/tokens?cursor=" + next); !slices.Equal(slices.Concat(first, rest), all) || end != "" {
		t.Errorf("pages are %v and %v", first, rest)
	}

	r.want(204, "DELETE", path, nil)
	r.as(secret).wantProblem(401, "", "GET", "/v1/subscriptions", nil)
	r.wantProblem(404, "", "GET", path, nil)
	r.wantProblem(404, "", "DELETE", path, nil)
	for _, odd := range []string{"*", "%3E", "a.b", "%20", "x%0d%0a"} {
		r.wantProblem(404, "", "GET", "/v1/tokens/"+odd, nil)
		r.wantProblem(404, "", "DELETE", "/v1/tokens/"+odd, nil)
	}
}

func TestInvalidTokensAreRefused(t *testing.T) {
	r := newRig(t, Config{})
	for _, tt := range []struct {
		name     string
		status   int
		location string
		body     any
	}{
		{"no body", 400, "", nil},
		{"no scope", 422, "body", object{}},
		{"unknown scope", 422, "body.scope", object{"scope": "root"}},
		{"unknown field", 422, "body.extension", object{"scope": "read", "extension": "101"}},
		{"its own id", 422, "body.id", object{"scope": "read", "id": "x"}},
		{"no extension", 422, "body.extensions", object{"scope": "read", "extensions": []string{}}},
		{"an empty extension", 422, "body.extensions", object{"scope": "read", "extensions": []string{"101", ""}}},
		{"an extension with a space", 422, "body.extensions", object{"scope": "read", "extensions": []string{"1 1"}}},
		{"an admin that is bound", 422, "body.extensions", object{"scope": "admin", "extensions": []string{"101"}}},
		{"too many extensions", 422, "body.extensions", object{"scope": "read", "extensions": strings.Split(strings.Repeat("1,", 100)+"1", ",")}},
		{"over already", 422, "body.expires", object{"scope": "read", "expires": "2020-01-01T00:00:00Z"}},
		{"no time", 422, "body.expires", object{"scope": "read", "expires": "tomorrow"}},
		{"a long note", 422, "body.note", object{"scope": "read", "note": strings.Repeat("x", 1001)}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := *r
			r.T = t
			r.wantProblem(tt.status, tt.location, "POST", "/v1/tokens", tt.body)
		})
	}
	if all, _ := r.ids("/v1/tokens"); all != nil {
		t.Errorf("there are the tokens %v", all)
	}
}

// waitUntil waits until a condition is true, or the time of the test is over.
func (r *rig) waitUntil(what string, so func() bool) {
	r.Helper()
	ctx, stop := context.WithTimeout(r.Context(), 5*time.Minute)
	defer stop()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !so() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			r.Fatalf("it is not so after 5 min that %s", what)
		}
	}
}

func TestTokensSurviveStoreOutage(t *testing.T) {
	r := newRig(t, Config{})
	client, id := r.newToken(object{"scope": "read"})
	r.store.Close()
	r.wantProblem(503, "", "POST", "/v1/tokens", object{"scope": "read"})
	r.wantProblem(503, "", "DELETE", "/v1/tokens/"+id, nil)
	r.wantProblem(503, "", "GET", "/v1/audit", nil)
	client.want(200, "GET", "/v1/subscriptions", nil) // known tokens stay valid
	if _, err := Open(t.Context(), r.js, Config{Config: ops.Config{Notifier: r.notifier}}); err == nil {
		t.Error("a Server opens without a store")
	}
}

func TestExcessTokensAreRefused(t *testing.T) {
	r := newRig(t, Config{})
	for range access.MaxTokens {
		if _, err := r.server.auth.Tokens.Create(t.Context(), access.Token{Scope: access.Read}); err != nil {
			t.Fatal(err)
		}
	}
	r.wantProblem(409, "", "POST", "/v1/tokens", object{"scope": "read"})
	r.wantProblem(404, "", "GET", "/v1/tokens/x", nil)
}
