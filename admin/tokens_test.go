package admin

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go/jetstream"
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
		{"nothing", 400, "", nil},
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

func TestTokenExpires(t *testing.T) {
	r := newRig(t, Config{})
	at := time.Now().Add(time.Hour).UTC().Truncate(time.Second)
	client, _ := r.newToken(object{"scope": "read", "expires": at})
	ts := r.server.tokens
	if ts.findAccess(client.token, at.Add(-1)) == nil {
		t.Error("it is good for nothing before it expires")
	}
	if ts.findAccess(client.token, at) != nil {
		t.Error("it is good for something when it has expired")
	}
	if ts.findAccess("", at) != nil {
		t.Error("no token is one")
	}
}

func TestTokensAreHashed(t *testing.T) {
	r := newRig(t, Config{})
	client, id := r.newToken(object{"scope": "read"})
	e, err := r.server.tokens.kv.Get(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	var kept storedToken
	if err := json.Unmarshal(e.Value(), &kept); err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256([]byte(client.token))
	if strings.Contains(string(e.Value()), client.token[len(tokenPrefix):]) || string(kept.Hash) != string(sum[:]) {
		t.Errorf("the store has %s", e.Value())
	}
}

// openNode opens a Server on the same store, as another node. Only if it runs, it
// learns of later changes.
func (r *rig) openNode(run bool) *Server {
	r.Helper()
	c := Config{Token: testToken, Notifier: r.notifier, Log: slog.New(slog.NewTextHandler(io.Discard, nil))}
	if run {
		return openServer(r.T, r.js, c)
	}
	s, err := Open(r.Context(), r.js, c)
	if err != nil {
		r.Fatal(err)
	}
	return s
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

func TestNodesShareTokens(t *testing.T) {
	r := newRig(t, Config{})
	before, _ := r.newToken(object{"scope": "read"})
	node := r.openNode(true)
	if node.tokens.findAccess(before.token, time.Now()) == nil {
		t.Error("a new node does not know a token")
	}
	client, id := r.newToken(object{"scope": "write", "extensions": []string{"101"}})
	r.waitUntil("another node knows the token", func() bool { return node.tokens.findAccess(client.token, time.Now()) != nil })
	if a := node.tokens.findAccess(client.token, time.Now()); a.id != id || a.permits(permitAdmin) || !a.permits(permitWrite) || a.canSee("102") {
		t.Errorf("there it is %+v", a)
	}
	if _, err := node.tokens.revoke(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	r.waitUntil("the token is revoked here", func() bool { return r.server.tokens.findAccess(client.token, time.Now()) == nil })
	r.waitUntil("nothing is remembered of it", func() bool {
		ts := node.tokens
		ts.mu.Lock()
		defer ts.mu.Unlock()
		return len(ts.revoked) == 0 && len(ts.stored) == 1
	})
}

func TestLastUseIsStored(t *testing.T) {
	r := newRig(t, Config{})
	client, id := r.newToken(object{"scope": "read"})
	unused, unusedID := r.newToken(object{"scope": "read"})
	now := time.Now().Add(time.Hour).UTC().Truncate(time.Second)
	r.server.tokens.findAccess(client.token, now)
	r.server.tokens.writeLastUsed(t.Context())

	node := r.openNode(false)
	if got, err := node.tokens.get(id); err != nil || !got.LastUsed.Equal(now) {
		t.Errorf("last used at %v: %v, want %v", got.LastUsed, err, now)
	}
	if got, err := node.tokens.get(unusedID); err != nil || !got.LastUsed.IsZero() {
		t.Errorf("never used, but at %v: %v", got.LastUsed, err)
	}
	a := r.server.tokens.findAccess(client.token, now)
	if a == nil || a != r.server.tokens.findAccess(client.token, now) || r.server.tokens.findAccess(unused.token, now) == nil {
		t.Error("it is not what it was")
	}

	// The token is revoked on another node: a later write does not bring it back.
	if _, err := node.tokens.revoke(t.Context(), unusedID); err != nil {
		t.Fatal(err)
	}
	lagging := r.server.tokens
	lagging.mu.Lock()
	lagging.unsavedUse[unusedID] = now
	lagging.mu.Unlock()
	lagging.writeLastUsed(t.Context())
	if _, err := r.server.tokens.kv.Get(t.Context(), unusedID); err != jetstream.ErrKeyNotFound {
		t.Errorf("the store has the revoked token: %v", err)
	}
}

func TestRevokedTokenStaysRevoked(t *testing.T) {
	r := newRig(t, Config{})
	client, id := r.newToken(object{"scope": "read"})
	ts := r.openNode(false).tokens // without a watch
	late := ts.stored[id]
	late.revision++
	if _, err := ts.revoke(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	ts.applyToken(late) // as a slow watch does after another node has stored the last use
	if ts.findAccess(client.token, time.Now()) != nil {
		t.Error("a revoked token is back")
	}
}

func TestUnreadableTokensAreIgnored(t *testing.T) {
	r := newRig(t, Config{})
	client, _ := r.newToken(object{"scope": "read"})
	for key, value := range map[string]string{"a": "{", "b": `{"id":"b","scope":"admin"}`, "c": `{"id":"d","scope":"admin","hash":"` + strings.Repeat("A", 43) + `="}`} {
		if _, err := r.server.tokens.kv.PutString(t.Context(), key, value); err != nil {
			t.Fatal(err)
		}
	}
	ts := r.openNode(false).tokens
	if all := ts.all(); len(all) != 1 || ts.findAccess(client.token, time.Now()) == nil {
		t.Errorf("known are %v, want the readable one alone", all)
	}
}

func TestTokensAreLimited(t *testing.T) {
	r := newRig(t, Config{})
	ts := r.server.tokens
	for i := range maxTokens {
		ts.applyToken(storedToken{Token: Token{ID: fmt.Sprint(i)}, Hash: fmt.Appendf(nil, "%032d", i), revision: 1})
	}
	r.wantProblem(409, "", "POST", "/v1/tokens", object{"scope": "read"})
	r.wantProblem(404, "", "GET", "/v1/tokens/x", nil)
}

func TestTokensSurviveStoreOutage(t *testing.T) {
	r := newRig(t, Config{})
	client, id := r.newToken(object{"scope": "read"})
	r.store.Close()
	r.wantProblem(503, "", "POST", "/v1/tokens", object{"scope": "read"})
	r.wantProblem(503, "", "DELETE", "/v1/tokens/"+id, nil)
	r.wantProblem(503, "", "GET", "/v1/audit", nil)
	client.want(200, "GET", "/v1/subscriptions", nil) // known tokens stay valid
	if _, err := Open(t.Context(), r.js, Config{Notifier: r.notifier}); err == nil {
		t.Error("a Server opens without a store")
	}
}
