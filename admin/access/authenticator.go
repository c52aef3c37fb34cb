package access

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/time/rate"

	"bellhop/admin/limit"
)

// Bearer returns the token of Authorization: Bearer, or "".
func Bearer(r *http.Request) string {
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return ""
	}
	return strings.TrimSpace(token)
}

// Authenticator identifies the clients of requests: by the secret of a token, by an
// access token that was issued for one, or by a session of the page.
type Authenticator struct {
	Tokens   *Tokens
	Sessions Sessions

	log       *slog.Logger
	failures  limit.Failures // failed authentications by address
	guessable bool           // the token of the config is short enough to be guessed
}

// MinSecretLength is the length in bytes from which a token counts as impossible to
// guess.
const MinSecretLength = 32

// New returns an Authenticator and loads its tokens from the store. config is the token
// in the config file, "" if there is none.
func New(ctx context.Context, js jetstream.JetStream, replicas int, config string, log *slog.Logger) (*Authenticator, error) {
	kv, err := openTokenBucket(ctx, js, replicas)
	if err != nil {
		return nil, fmt.Errorf("open bucket bellhop_tokens: %w", err)
	}
	a := &Authenticator{
		Tokens: newTokens(kv, log, config), Sessions: newSessionStore(),
		log: log, failures: limit.NewFailures(), guessable: len(config) < MinSecretLength,
	}
	return a, a.Tokens.loadAll(ctx)
}

// FailureLimiter returns the rate limiter for requests without a valid token from the
// address of r, see network.
func (a *Authenticator) FailureLimiter(r *http.Request) *rate.Limiter {
	return a.failures.Limiter(network(r))
}

// IdentifyBearer identifies the client by its bearer token, see Identify.
func (a *Authenticator) IdentifyBearer(r *http.Request, now time.Time) (client *Client, ok bool) {
	return a.Identify(r, Bearer(r), now)
}

// Identify returns the client of a token, nil if the token is not valid. ok is false if
// the address of the request has sent too many invalid tokens: the caller answers 429.
// Even then a valid token is accepted, unless it is the token of the config and short
// enough to be guessed.
func (a *Authenticator) Identify(r *http.Request, credential string, now time.Time) (client *Client, ok bool) {
	client = a.Tokens.Find(credential, now)
	if client != nil && !(client.ID == ConfigID && a.guessable) {
		return client, true
	}
	failure := a.FailureLimiter(r).ReserveN(now, 1)
	if failure.DelayFrom(now) > 0 {
		failure.CancelAt(now)
		return nil, false
	}
	if client != nil {
		failure.CancelAt(now)
	} else if credential != "" {
		a.log.Warn("token rejected", "peer", r.RemoteAddr)
	}
	return client, true
}

// network returns the address that a request comes from. If it is an IPv6 address,
// network returns its /64, because all addresses of a /64 usually belong to one client.
func network(r *http.Request) netip.Addr {
	peer, _ := netip.ParseAddrPort(r.RemoteAddr)
	return limit.Network(peer.Addr())
}

// WriteTooMany answers 429, with the state of the rate limit l in the header.
func WriteTooMany(w http.ResponseWriter, l *rate.Limiter, now time.Time, refuse ErrorWriter, detail string) {
	limit.SetRetryHeaders(w.Header(), l, now)
	refuse(w, http.StatusTooManyRequests, detail)
}
