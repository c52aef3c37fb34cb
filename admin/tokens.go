package admin

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/time/rate"

	"bellhop/admin/limit"
	"bellhop/dialog"
)

// Scope is what a token may do: read, also change subscriptions and send callbacks
// (write), or everything (admin). The text is stored: never change one, only add.
type Scope string

const (
	Read  Scope = "read"
	Write Scope = "write"
	Admin Scope = "admin"
)

// Token is a credential for the API. Only its time of last use changes after creation.
type Token struct {
	ID         string    `json:"id" doc:"ID of the token, by which it is revoked"`
	Secret     string    `json:"token,omitempty" doc:"Secret to send as Authorization: Bearer TOKEN; returned only when the token is created"`
	Note       string    `json:"note,omitempty" doc:"Note for people"`
	Scope      Scope     `json:"scope" enum:"read,write,admin" doc:"read: GET only; write: also change subscriptions and resend deliveries; admin: everything"`
	Extensions []string  `json:"extensions,omitempty" nullable:"false" doc:"Extensions the token is bound to; absent: all extensions"`
	Expires    time.Time `json:"expires,omitzero" doc:"Absent: valid until revoked"`
	Created    time.Time `json:"created" doc:"Time of creation"`
	LastUsed   time.Time `json:"last_used,omitzero" doc:"Time of the last request, accurate to a minute"`
}

// storedToken is the JSON of a token in the bucket, with a hash instead of the secret.
// Fields are only ever added.
type storedToken struct {
	Token
	Hash []byte `json:"hash"` // SHA-256 of the secret

	revision uint64
}

var (
	errNoToken    = errors.New("no such token")
	errManyTokens = fmt.Errorf("the limit of %d tokens is reached: revoke some", maxTokens)
)

const (
	maxTokens   = 1000
	tokenPrefix = "bh_" // lets secret scanners and people recognize a token
)

// openTokenBucket opens the bucket of tokens: id to JSON.
func openTokenBucket(ctx context.Context, js jetstream.JetStream, replicas int) (jetstream.KeyValue, error) {
	return js.CreateOrUpdateKeyValue(ctx, jetstream.KeyValueConfig{
		Bucket:   "bellhop_tokens",
		History:  1,
		Storage:  jetstream.FileStorage,
		Replicas: replicas,
	})
}

// tokenStore holds the tokens of the config and of the bucket in memory. A watch and
// this node's own writes keep it up to date.
type tokenStore struct {
	kv  jetstream.KeyValue
	log *slog.Logger

	mu         sync.Mutex
	stored     map[string]storedToken // by token id, as in the bucket
	byHash     map[[sha256.Size]byte]*access
	grants     grantStore           // access tokens issued for these
	revoked    map[string]bool      // revoked by this node; the watch may still report older revisions
	unsavedUse map[string]time.Time // time of last use by token id, not stored yet
}

// newTokenStore returns a store that knows the token of the config only, or none if
// that is "".
func newTokenStore(kv jetstream.KeyValue, log *slog.Logger, config string) *tokenStore {
	ts := &tokenStore{
		kv: kv, log: log,
		stored:     make(map[string]storedToken),
		byHash:     make(map[[sha256.Size]byte]*access),
		grants:     newGrantStore(),
		revoked:    make(map[string]bool),
		unsavedUse: make(map[string]time.Time),
	}
	if config != "" {
		ts.byHash[sha256.Sum256([]byte(config))] = &access{id: configID, scope: Admin, limit: rate.NewLimiter(limit.ConfigRate, limit.ConfigBurst)}
	}
	return ts
}

// findAccess returns the access that a secret gives, or nil if it is unknown or
// expired. The lookup is by hash, so that its timing reveals nothing about secrets.
func (ts *tokenStore) findAccess(secret string, now time.Time) *access {
	return ts.accessByHash(sha256.Sum256([]byte(secret)), now)
}

// accessByHash is findAccess for the hash of a secret.
func (ts *tokenStore) accessByHash(sum [sha256.Size]byte, now time.Time) *access {
	sum = ts.grants.apiTokenHash(sum, now)
	ts.mu.Lock()
	defer ts.mu.Unlock()
	a := ts.byHash[sum]
	if a == nil || !a.expires.IsZero() && !now.Before(a.expires) {
		return nil
	}
	if a.id != configID {
		ts.unsavedUse[a.id] = now
	}
	return a
}

// stillValid reports whether an access is neither revoked nor expired.
func (ts *tokenStore) stillValid(a *access, now time.Time) bool {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	_, known := ts.stored[a.id]
	return a.id == configID || known && (a.expires.IsZero() || now.Before(a.expires))
}

// applyToken adds or updates a token, unless the store has a newer revision or the
// token was revoked here.
func (ts *tokenStore) applyToken(t storedToken) {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	old, known := ts.stored[t.ID]
	if ts.revoked[t.ID] || old.revision >= t.revision {
		return
	}
	ts.stored[t.ID] = t
	if !known {
		ts.byHash[[sha256.Size]byte(t.Hash)] = &access{
			id: t.ID, scope: t.Scope, extensions: t.Extensions, expires: t.Expires,
			limit: rate.NewLimiter(limit.TokenRate, limit.TokenBurst),
		}
	}
}

// applyRevocation removes a token. seen is true if the watch reports the revocation,
// and false if this node has just made it.
func (ts *tokenStore) applyRevocation(id string, seen bool) {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	if t, known := ts.stored[id]; known {
		delete(ts.byHash, [sha256.Size]byte(t.Hash))
		delete(ts.stored, id)
		delete(ts.unsavedUse, id)
		ts.revoked[id] = true
	}
	if seen {
		delete(ts.revoked, id) // the watch reports nothing older after this
	}
}

// loadAll reads all tokens of the bucket.
func (ts *tokenStore) loadAll(ctx context.Context) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	return ts.watchBucket(ctx, false)
}

// watchBucket applies the content of the bucket. With goOn it then applies every change
// until ctx ends, and writes down every minute which tokens were used.
func (ts *tokenStore) watchBucket(ctx context.Context, goOn bool) error {
	w, err := ts.kv.WatchAll(ctx)
	if err != nil {
		return fmt.Errorf("watch tokens: %w", err)
	}
	defer w.Stop()
	minute := time.NewTicker(time.Minute)
	defer minute.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-minute.C:
			ts.writeLastUsed(ctx)
		case e, open := <-w.Updates():
			switch {
			case !open:
				return errors.New("watch tokens: closed")
			case e == nil && !goOn: // end of the content
				return nil
			case e == nil:
			case e.Operation() == jetstream.KeyValuePut:
				ts.applyEntry(e)
			default:
				ts.applyRevocation(e.Key(), true)
			}
		}
	}
}

// applyEntry applies a token of the bucket. A token that cannot be read is logged and
// gives no access.
func (ts *tokenStore) applyEntry(e jetstream.KeyValueEntry) {
	t := storedToken{revision: e.Revision()}
	err := json.Unmarshal(e.Value(), &t)
	if err == nil && (len(t.Hash) != sha256.Size || t.ID != e.Key()) {
		err = errors.New("its hash is missing, or its id differs from its key")
	}
	if err != nil {
		ts.log.Error("stored token ignored", "token", e.Key(), "err", err)
		return
	}
	ts.applyToken(t)
}

// writeLastUsed stores when tokens were last used. If another node has written a token
// meanwhile, its time stays.
func (ts *tokenStore) writeLastUsed(ctx context.Context) {
	ts.mu.Lock()
	var news []storedToken
	for id, at := range ts.unsavedUse {
		if t, known := ts.stored[id]; known {
			t.LastUsed = at.UTC().Truncate(time.Second)
			news = append(news, t)
		}
	}
	clear(ts.unsavedUse)
	ts.mu.Unlock()
	for _, t := range news {
		if _, err := ts.writeToken(ctx, t); err != nil && !errors.Is(err, jetstream.ErrKeyRevisionMismatch) {
			ts.log.Warn("last use of token not stored", "token", t.ID, "err", err)
		}
	}
}

// writeToken stores t if the bucket still has the revision of t; revision 0 creates it.
func (ts *tokenStore) writeToken(ctx context.Context, t storedToken) (storedToken, error) {
	b, err := json.Marshal(t)
	if err != nil {
		return t, fmt.Errorf("encode token %s: %w", t.ID, err)
	}
	if t.revision, err = ts.kv.Update(ctx, t.ID, b, t.revision); err != nil {
		return t, fmt.Errorf("store token %s: %w", t.ID, err)
	}
	ts.applyToken(t)
	return t, nil
}

// create creates a token, and returns it with its secret.
func (ts *tokenStore) create(ctx context.Context, t Token) (Token, error) {
	ts.mu.Lock()
	many := len(ts.stored) >= maxTokens
	ts.mu.Unlock()
	if many {
		return t, errManyTokens
	}
	var key [32]byte
	rand.Read(key[:]) // never fails
	secret := tokenPrefix + base64.RawURLEncoding.EncodeToString(key[:])
	sum := sha256.Sum256([]byte(secret))
	t.ID = strings.ToLower(rand.Text()[:16])
	t.Created = time.Now().UTC().Truncate(time.Microsecond)
	_, err := ts.writeToken(ctx, storedToken{Token: t, Hash: sum[:]})
	t.Secret = secret
	return t, err
}

// revoke deletes a token and returns it.
func (ts *tokenStore) revoke(ctx context.Context, id string) (Token, error) {
	t, err := ts.get(id)
	if err != nil {
		return t, err
	}
	if err := ts.kv.Delete(ctx, id); err != nil {
		return t, fmt.Errorf("delete token %s: %w", id, err)
	}
	ts.applyRevocation(id, false)
	return t, nil
}

// get returns the token with an id, or errNoToken.
func (ts *tokenStore) get(id string) (Token, error) {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	t, known := ts.stored[id]
	if !known {
		return Token{}, errNoToken
	}
	return ts.withLastUsed(t), nil
}

// all returns the tokens of the bucket, oldest first.
func (ts *tokenStore) all() []Token {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	all := make([]Token, 0, len(ts.stored))
	for _, t := range ts.stored {
		all = append(all, ts.withLastUsed(t))
	}
	slices.SortFunc(all, func(a, b Token) int {
		return cmp.Or(a.Created.Compare(b.Created), strings.Compare(a.ID, b.ID))
	})
	return all
}

// withLastUsed returns a token with a time of last use that is not stored yet. The
// caller holds mu.
func (ts *tokenStore) withLastUsed(t storedToken) Token {
	if at, ok := ts.unsavedUse[t.ID]; ok {
		t.LastUsed = at.UTC().Truncate(time.Second)
	}
	return t.Token
}

// tokenResponse is the answer to the creation of a token.
type tokenResponse struct {
	Location string `header:"Location"`
	Body     Token
}

func (s *Server) listTokens(_ context.Context, in *struct {
	Cursor string `query:"cursor" doc:"next from the previous page"`
	Limit  int    `query:"limit" minimum:"1" maximum:"1000" default:"100" doc:"Maximum number of items"`
}) (*listResponse[Token], error) {
	if err := checkCursor(in.Cursor); err != nil {
		return nil, err
	}
	return pageAfter(s.tokens.all(), in.Cursor, in.Limit, func(t Token) string { return cursorOf(t.Created, t.ID) }), nil
}

// newToken is the body of a request that creates a token.
type newToken struct {
	Note       string    `json:"note,omitempty" maxLength:"1000" doc:"Note for people: the user of the token, and its purpose"`
	Scope      Scope     `json:"scope" enum:"read,write,admin" doc:"read: GET only; write: also change subscriptions and resend deliveries; admin: everything"`
	Extensions []string  `json:"extensions,omitempty" nullable:"false" minItems:"1" maxItems:"100" doc:"Bind the token to these extensions: it sees and changes nothing else. 101 is user 101 of any domain, 101@pbx.example of that one"`
	Expires    time.Time `json:"expires,omitzero" doc:"Time from which the token is rejected; absent: never"`
}

// validate returns the first invalid field of a new token and the reason; "": all are
// valid.
func (t *Token) validate() (field, why string) {
	switch {
	case t.Scope == Admin && t.Extensions != nil:
		return "extensions", "must be empty with scope admin: leave them out, or choose another scope"
	case slices.ContainsFunc(t.Extensions, func(e string) bool {
		return e == "" || len(e) > dialog.MaxName || strings.ContainsFunc(e, func(r rune) bool { return r <= ' ' || r == 0x7f })
	}):
		return "extensions", "must be names such as 101 or 101@pbx.example, of at most 256 bytes"
	case !t.Expires.IsZero() && !t.Expires.After(time.Now()):
		return "expires", "must be in the future"
	}
	return "", ""
}

func (s *Server) createToken(ctx context.Context, in *struct{ Body newToken }) (*tokenResponse, error) {
	t := Token{Note: in.Body.Note, Scope: in.Body.Scope, Extensions: in.Body.Extensions, Expires: in.Body.Expires.UTC()}
	if field, why := t.validate(); why != "" {
		return nil, unprocessable("body."+field, why)
	}
	t, err := s.issueToken(ctx, t)
	if err != nil {
		return nil, s.apiError(err)
	}
	return &tokenResponse{"/v1/tokens/" + t.ID, t}, nil
}

// issueToken creates a token for the request of ctx, and records it in the audit log.
func (s *Server) issueToken(ctx context.Context, t Token) (Token, error) {
	t, err := s.tokens.create(ctx, t)
	if err == nil {
		made := t
		made.Secret = ""
		s.recordAudit(ctx, "create-token", t.ID, nil, made)
	}
	return t, err
}

func (s *Server) getToken(_ context.Context, in *struct {
	ID string `path:"id" doc:"ID of the token"`
}) (*struct{ Body Token }, error) {
	t, err := s.tokens.get(in.ID)
	if err != nil {
		return nil, s.apiError(err)
	}
	return &struct{ Body Token }{t}, nil
}

func (s *Server) revokeToken(ctx context.Context, in *struct {
	ID string `path:"id" doc:"ID of the token"`
}) (*struct{}, error) {
	if err := s.withdrawToken(ctx, in.ID); err != nil {
		return nil, s.apiError(err)
	}
	return nil, nil
}

// withdrawToken revokes a token for the request of ctx, and records it in the audit
// log.
func (s *Server) withdrawToken(ctx context.Context, id string) error {
	t, err := s.tokens.revoke(ctx, id)
	if err == nil {
		s.recordAudit(ctx, "revoke-token", t.ID, t, nil)
	}
	return err
}
