package access

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// openAuthenticator opens an Authenticator on a store, whose other nodes may be open too.
// It does not learn of later changes.
func openAuthenticator(t *testing.T, js jetstream.JetStream) *Authenticator {
	t.Helper()
	a, err := New(t.Context(), js, 1, "config-secret", slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// openStore starts a store.
func openTokenStore(t *testing.T) jetstream.JetStream {
	t.Helper()
	srv, err := server.NewServer(&server.Options{DontListen: true, NoLog: true, NoSigs: true, JetStream: true, StoreDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	srv.Start()
	t.Cleanup(func() { srv.Shutdown(); srv.WaitForShutdown() })
	if !srv.ReadyForConnections(5 * time.Minute) {
		t.Fatal("the store does not start")
	}
	nc, err := nats.Connect("", nats.InProcessServer(srv))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	return js
}

// watchTokens has an Authenticator learn of changes until the test ends. It returns a channel
// that receives a value after each change of the bucket has been applied.
func watchTokens(t *testing.T, a *Authenticator) (applied <-chan struct{}) {
	ctx, stop := context.WithCancel(context.WithoutCancel(t.Context()))
	changes := make(chan struct{}, 100)
	a.Tokens.kv = observedBucket{a.Tokens.kv, changes}
	var run sync.WaitGroup
	run.Go(func() { a.Tokens.Watch(ctx) })
	t.Cleanup(func() { stop(); run.Wait() })
	return changes
}

// An observedBucket reports on applied when the reader of a watch has applied an update.
type observedBucket struct {
	jetstream.KeyValue
	applied chan<- struct{}
}

func (b observedBucket) WatchAll(ctx context.Context, opts ...jetstream.WatchOpt) (jetstream.KeyWatcher, error) {
	w, err := b.KeyValue.WatchAll(ctx, opts...)
	if err != nil {
		return nil, err
	}
	updates := make(chan jetstream.KeyValueEntry)
	go func() {
		for e := range w.Updates() {
			for _, e := range []jetstream.KeyValueEntry{e, nil} { // who reads the nil has applied e
				select {
				case updates <- e:
				case <-ctx.Done():
					return
				}
			}
			b.applied <- struct{}{}
		}
	}()
	return observedWatcher{w, updates}, nil
}

type observedWatcher struct {
	jetstream.KeyWatcher
	updates <-chan jetstream.KeyValueEntry
}

func (w observedWatcher) Updates() <-chan jetstream.KeyValueEntry { return w.updates }

// createToken creates a token, and returns its secret and its id.
func createToken(t *testing.T, ts *Tokens, token Token) (secret, id string) {
	t.Helper()
	made, err := ts.Create(t.Context(), token)
	if err != nil {
		t.Fatal(err)
	}
	return made.Secret, made.ID
}

// waitForTokens waits until a condition is true, which it checks again after each applied
// change.
func waitForTokens(t *testing.T, applied <-chan struct{}, condition string, met func() bool) {
	t.Helper()
	deadline := time.After(5 * time.Minute)
	for !met() {
		select {
		case <-applied:
		case <-deadline:
			t.Fatalf("not so after 5 min: %s", condition)
		}
	}
}

func TestTokenExpires(t *testing.T) {
	ts := openAuthenticator(t, openTokenStore(t)).Tokens
	at := time.Now().Add(time.Hour).UTC().Truncate(time.Second)
	secret, _ := createToken(t, ts, Token{Scope: Read, Expires: at})
	if ts.Find(secret, at.Add(-1)) == nil {
		t.Error("it is good for nothing before it expires")
	}
	if ts.Find(secret, at) != nil {
		t.Error("it is good for something when it has expired")
	}
	if ts.Find("", at) != nil {
		t.Error("no token is one")
	}
}

func TestTokensAreHashed(t *testing.T) {
	ts := openAuthenticator(t, openTokenStore(t)).Tokens
	secret, id := createToken(t, ts, Token{Scope: Read})
	e, err := ts.kv.Get(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	var kept storedToken
	if err := json.Unmarshal(e.Value(), &kept); err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256([]byte(secret))
	if strings.Contains(string(e.Value()), secret[len(TokenPrefix):]) || string(kept.Hash) != string(sum[:]) {
		t.Errorf("the store has %s", e.Value())
	}
}

func TestNodesShareTokens(t *testing.T) {
	js := openTokenStore(t)
	auth := openAuthenticator(t, js)
	applied := watchTokens(t, auth)
	before, _ := createToken(t, auth.Tokens, Token{Scope: Read})
	node := openAuthenticator(t, js)
	nodeApplied := watchTokens(t, node)
	if node.Tokens.Find(before, time.Now()) == nil {
		t.Error("a new node does not know a token")
	}
	secret, id := createToken(t, auth.Tokens, Token{Scope: Write, Extensions: []string{"101"}})
	waitForTokens(t, nodeApplied, "another node knows the token", func() bool { return node.Tokens.Find(secret, time.Now()) != nil })
	if a := node.Tokens.Find(secret, time.Now()); a.ID != id || a.Permits(PermitAdmin) || !a.Permits(PermitWrite) || a.CanSee("102") {
		t.Errorf("there it is %+v", a)
	}
	if _, err := node.Tokens.Revoke(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	waitForTokens(t, applied, "the token is revoked here", func() bool { return auth.Tokens.Find(secret, time.Now()) == nil })
	waitForTokens(t, nodeApplied, "nothing is remembered of it", func() bool {
		ts := node.Tokens
		ts.mu.Lock()
		defer ts.mu.Unlock()
		return len(ts.revoked) == 0 && len(ts.stored) == 1
	})
}

func TestLastUseIsStored(t *testing.T) {
	js := openTokenStore(t)
	auth := openAuthenticator(t, js)
	secret, id := createToken(t, auth.Tokens, Token{Scope: Read})
	unused, unusedID := createToken(t, auth.Tokens, Token{Scope: Read})
	now := time.Now().Add(time.Hour).UTC().Truncate(time.Second)
	auth.Tokens.Find(secret, now)
	auth.Tokens.writeLastUsed(t.Context())

	node := openAuthenticator(t, js)
	if got, err := node.Tokens.Get(id); err != nil || !got.LastUsed.Equal(now) {
		t.Errorf("last used at %v: %v, want %v", got.LastUsed, err, now)
	}
	if got, err := node.Tokens.Get(unusedID); err != nil || !got.LastUsed.IsZero() {
		t.Errorf("never used, but at %v: %v", got.LastUsed, err)
	}
	a := auth.Tokens.Find(secret, now)
	if a == nil || a != auth.Tokens.Find(secret, now) || auth.Tokens.Find(unused, now) == nil {
		t.Error("it is not what it was")
	}

	// The token is revoked on another node: a later write does not bring it back.
	if _, err := node.Tokens.Revoke(t.Context(), unusedID); err != nil {
		t.Fatal(err)
	}
	lagging := auth.Tokens
	lagging.mu.Lock()
	lagging.unsavedUse[unusedID] = now
	lagging.mu.Unlock()
	lagging.writeLastUsed(t.Context())
	if _, err := auth.Tokens.kv.Get(t.Context(), unusedID); err != jetstream.ErrKeyNotFound {
		t.Errorf("the store has the revoked token: %v", err)
	}
}

func TestRevokedTokenStaysRevoked(t *testing.T) {
	js := openTokenStore(t)
	secret, id := createToken(t, openAuthenticator(t, js).Tokens, Token{Scope: Read})
	ts := openAuthenticator(t, js).Tokens // without a watch
	late := ts.stored[id]
	late.revision++
	if _, err := ts.Revoke(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	ts.apply(late) // as a slow watch does after another node has stored the last use
	if ts.Find(secret, time.Now()) != nil {
		t.Error("a revoked token is back")
	}
}

func TestUnreadableTokensAreIgnored(t *testing.T) {
	js := openTokenStore(t)
	auth := openAuthenticator(t, js)
	secret, _ := createToken(t, auth.Tokens, Token{Scope: Read})
	for key, value := range map[string]string{"a": "{", "b": `{"id":"b","scope":"admin"}`, "c": `{"id":"d","scope":"admin","hash":"` + strings.Repeat("A", 43) + `="}`} {
		if _, err := auth.Tokens.kv.PutString(t.Context(), key, value); err != nil {
			t.Fatal(err)
		}
	}
	ts := openAuthenticator(t, js).Tokens
	if all := ts.All(); len(all) != 1 || ts.Find(secret, time.Now()) == nil {
		t.Errorf("known are %v, want the readable one alone", all)
	}
}

func TestTokensAreLimited(t *testing.T) {
	ts := openAuthenticator(t, openTokenStore(t)).Tokens
	for i := range MaxTokens {
		ts.apply(storedToken{Token: Token{ID: fmt.Sprint(i)}, Hash: fmt.Appendf(nil, "%032d", i), revision: 1})
	}
	if _, err := ts.Create(t.Context(), Token{Scope: Read}); err != ErrTooMany {
		t.Errorf("one too many: %v", err)
	}
}

// Without a token of the config, an empty secret is refused.
func TestOAuthRefusesEmptySecret(t *testing.T) {
	if who := newTokens(nil, nil, "").Find("", time.Now()); who != nil {
		t.Errorf("nobody is %+v", who)
	}
}

func TestAccessTokensExpire(t *testing.T) {
	g := newGrantStore()
	now := time.Now()
	api := sha256.Sum256([]byte("secret"))
	access := sha256.Sum256([]byte(g.Issue("a", api, now)))
	if got := g.TokenHash(access, now.Add(GrantTTL-1)); got != api {
		t.Error("a grant ends early")
	}
	if got := g.TokenHash(access, now.Add(GrantTTL)); got != access {
		t.Error("a grant is good for more than its time")
	}
	if got := g.TokenHash(api, now); got != api {
		t.Error("an API token does not stand for itself")
	}
	access = sha256.Sum256([]byte(g.Issue("a", api, now)))
	for range maxGrants + 10 {
		g.Issue("b", api, now)
	}
	if g.TokenHash(access, now) != api || g.byHash.Len() != maxGrants+1 {
		t.Errorf("one API token has pushed out the grant of another: %d are kept", g.byHash.Len())
	}
	for range maxGrants {
		g.Issue("a", api, now)
	}
	if got := g.TokenHash(access, now); got != access || g.byHash.Len() != 2*maxGrants {
		t.Errorf("%d grants are kept, want %d", g.byHash.Len(), 2*maxGrants)
	}
	g.Issue("b", api, now.Add(GrantTTL))
	if g.byHash.Len() != 1 || len(g.byHash.keysOf) != 1 {
		t.Errorf("%d grants are kept that have ended", g.byHash.Len()-1)
	}
}

func TestSessionsExpire(t *testing.T) {
	a := openAuthenticator(t, openTokenStore(t))
	now := time.Now()
	id := a.Sessions.Start(ConfigID, "config-secret", now)
	req := httptest.NewRequest("GET", "/", nil)
	req.AddCookie(&http.Cookie{Name: SessionCookie, Value: id})
	if a.SessionClient(req, now.Add(SessionTTL-1)) == nil {
		t.Error("a session ends early")
	}
	if a.SessionClient(req, now.Add(SessionTTL)) != nil || a.SessionClient(req, now) != nil {
		t.Error("a session does not end")
	}
	first := a.Sessions.Start(ConfigID, "config-secret", now)
	other, _ := createToken(t, a.Tokens, Token{Scope: Read})
	for range 2 * maxSessions {
		a.Sessions.Start("other", other, now)
	}
	req = httptest.NewRequest("GET", "/", nil)
	req.AddCookie(&http.Cookie{Name: SessionCookie, Value: first})
	if n := a.Sessions.byHash.Len(); n != maxSessions+1 || a.SessionClient(req, now) == nil {
		t.Errorf("one token has pushed out the session of another: there are %d", n)
	}
	for range maxSessions {
		a.Sessions.Start(ConfigID, "config-secret", now)
	}
	req = httptest.NewRequest("GET", "/", nil)
	req.AddCookie(&http.Cookie{Name: SessionCookie, Value: first})
	if n := a.Sessions.byHash.Len(); n != 2*maxSessions || a.SessionClient(req, now) != nil {
		t.Errorf("there are %d sessions", n)
	}
}

func TestRevokedAndExpiredTokensAreInvalid(t *testing.T) {
	ts := newTokens(nil, nil, "")
	const id = "revoked"
	now := time.Now()
	for _, tt := range []struct {
		who  *Client
		want bool
	}{
		{&Client{ID: ConfigID}, true},
		{&Client{ID: id}, false},
		{&Client{ID: "other"}, true},
		{&Client{ID: "other", expires: now.Add(time.Second)}, true},
		{&Client{ID: "other", expires: now}, false},
	} {
		ts.stored["other"] = storedToken{}
		if got := ts.StillValid(tt.who, now); got != tt.want {
			t.Errorf("%+v is good: %v", tt.who, got)
		}
	}
}
