package access

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

// Scope is what a token may do: read; also change subscriptions and send callbacks
// (write); or everything (admin). The words are stored: never change one, only add.
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
	ErrNotFound = errors.New("no such token")
	ErrTooMany  = fmt.Errorf("the limit of %d tokens is reached: revoke some", MaxTokens)
)

const (
	MaxTokens   = 1000
	TokenPrefix = "bh_" // lets secret scanners and people recognize a token
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

// Tokens holds the tokens of the config and of the bucket in memory. A watch and
// this node's own writes keep it up to date.
type Tokens struct {
	kv  jetstream.KeyValue
	log *slog.Logger

	mu         sync.Mutex
	stored     map[string]storedToken // by token id, as in the bucket
	byHash     map[[sha256.Size]byte]*Client
	Grants     Grants               // access tokens that were issued for API tokens
	revoked    map[string]bool      // revoked by this node; the watch may still report older revisions
	unsavedUse map[string]time.Time // time of last use by token id, not stored yet
}

// newTokens returns Tokens with only the token of the config, or with none if config is
// "". loadAll adds those of the bucket.
func newTokens(kv jetstream.KeyValue, log *slog.Logger, config string) *Tokens {
	ts := &Tokens{
		kv: kv, log: log,
		stored:     make(map[string]storedToken),
		byHash:     make(map[[sha256.Size]byte]*Client),
		Grants:     newGrantStore(),
		revoked:    make(map[string]bool),
		unsavedUse: make(map[string]time.Time),
	}
	if config != "" {
		ts.byHash[sha256.Sum256([]byte(config))] = &Client{ID: ConfigID, scope: Admin, Limit: rate.NewLimiter(limit.ConfigRate, limit.ConfigBurst)}
	}
	return ts
}

// Find returns the client of a token or of an access token that was issued for one. It
// returns nil if secret is unknown or expired. The lookup is by hash, so that its timing
// reveals nothing about secrets. Find notes the time as that of the token's last use.
func (ts *Tokens) Find(secret string, now time.Time) *Client {
	return ts.findHash(sha256.Sum256([]byte(secret)), now)
}

// findHash is Find for the hash of a secret.
func (ts *Tokens) findHash(sum [sha256.Size]byte, now time.Time) *Client {
	sum = ts.Grants.TokenHash(sum, now)
	ts.mu.Lock()
	defer ts.mu.Unlock()
	a := ts.byHash[sum]
	if a == nil || !a.expires.IsZero() && !now.Before(a.expires) {
		return nil
	}
	if a.ID != ConfigID {
		ts.unsavedUse[a.ID] = now
	}
	return a
}

// StillValid reports whether the token of a client is neither revoked nor expired.
func (ts *Tokens) StillValid(a *Client, now time.Time) bool {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	_, known := ts.stored[a.ID]
	return a.ID == ConfigID || known && (a.expires.IsZero() || now.Before(a.expires))
}

// apply adds or updates a token in memory, unless memory has the same or a newer revision
// of it, or this node has revoked it.
func (ts *Tokens) apply(t storedToken) {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	old, known := ts.stored[t.ID]
	if ts.revoked[t.ID] || old.revision >= t.revision {
		return
	}
	ts.stored[t.ID] = t
	if !known {
		ts.byHash[[sha256.Size]byte(t.Hash)] = &Client{
			ID: t.ID, scope: t.Scope, Extensions: t.Extensions, expires: t.Expires,
			Limit: rate.NewLimiter(limit.TokenRate, limit.TokenBurst),
		}
	}
}

// applyRevocation removes a token from memory. seen is true if the watch has reported the
// revocation, and false if this node has just revoked the token.
func (ts *Tokens) applyRevocation(id string, seen bool) {
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
func (ts *Tokens) loadAll(ctx context.Context) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	return ts.watchBucket(ctx, false)
}

// Watch applies the changes of the bucket until ctx ends. Every minute it stores when
// tokens were last used.
func (ts *Tokens) Watch(ctx context.Context) error { return ts.watchBucket(ctx, true) }

// watchBucket applies the content of the bucket. If goOn is true, it then applies every
// change until ctx ends, and stores every minute when tokens were last used.
func (ts *Tokens) watchBucket(ctx context.Context, goOn bool) error {
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
			case e == nil && !goOn: // End of the content
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
func (ts *Tokens) applyEntry(e jetstream.KeyValueEntry) {
	t := storedToken{revision: e.Revision()}
	err := json.Unmarshal(e.Value(), &t)
	if err == nil && (len(t.Hash) != sha256.Size || t.ID != e.Key()) {
		err = errors.New("its hash is missing, or its id differs from its key")
	}
	if err != nil {
		ts.log.Error("stored token ignored", "token", e.Key(), "err", err)
		return
	}
	ts.apply(t)
}

// writeLastUsed stores when tokens were last used. If another node has written a token
// meanwhile, the time that the other node wrote stays.
func (ts *Tokens) writeLastUsed(ctx context.Context) {
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
func (ts *Tokens) writeToken(ctx context.Context, t storedToken) (storedToken, error) {
	b, err := json.Marshal(t)
	if err != nil {
		return t, fmt.Errorf("encode token %s: %w", t.ID, err)
	}
	if t.revision, err = ts.kv.Update(ctx, t.ID, b, t.revision); err != nil {
		return t, fmt.Errorf("store token %s: %w", t.ID, err)
	}
	ts.apply(t)
	return t, nil
}

// Create creates a token, and returns it with its secret.
func (ts *Tokens) Create(ctx context.Context, t Token) (Token, error) {
	ts.mu.Lock()
	many := len(ts.stored) >= MaxTokens
	ts.mu.Unlock()
	if many {
		return t, ErrTooMany
	}
	var key [32]byte
	rand.Read(key[:]) // never fails
	secret := TokenPrefix + base64.RawURLEncoding.EncodeToString(key[:])
	sum := sha256.Sum256([]byte(secret))
	t.ID = strings.ToLower(rand.Text()[:16])
	t.Created = time.Now().UTC().Truncate(time.Microsecond)
	_, err := ts.writeToken(ctx, storedToken{Token: t, Hash: sum[:]})
	t.Secret = secret
	return t, err
}

// Revoke deletes a token and returns it.
func (ts *Tokens) Revoke(ctx context.Context, id string) (Token, error) {
	t, err := ts.Get(id)
	if err != nil {
		return t, err
	}
	if err := ts.kv.Delete(ctx, id); err != nil {
		return t, fmt.Errorf("delete token %s: %w", id, err)
	}
	ts.applyRevocation(id, false)
	return t, nil
}

// Get returns the token with an id, or ErrNotFound.
func (ts *Tokens) Get(id string) (Token, error) {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	t, known := ts.stored[id]
	if !known {
		return Token{}, ErrNotFound
	}
	return ts.withLastUsed(t), nil
}

// All returns the tokens of the bucket, oldest first.
func (ts *Tokens) All() []Token {
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

// withLastUsed returns a token with the time of its last use, even if that time is not
// stored yet. The caller holds mu.
func (ts *Tokens) withLastUsed(t storedToken) Token {
	if at, ok := ts.unsavedUse[t.ID]; ok {
		t.LastUsed = at.UTC().Truncate(time.Second)
	}
	return t.Token
}

// Validate returns the first invalid field of a new token and the reason; "": all are
// valid.
func (t *Token) Validate() (field, why string) {
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
