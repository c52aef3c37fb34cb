package admin

import (
	"fmt"
	"net"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/time/rate"

	"bellhop/admin/access"
	"bellhop/admin/limit"
	"bellhop/admin/ops"
)

// FailureLimiter returns the limiter of requests from an address without a valid token.
func failureLimiter(s *Server, address string) *rate.Limiter {
	r := httptest.NewRequest("GET", "/", nil)
	r.RemoteAddr = net.JoinHostPort(address, "1")
	return s.auth.FailureLimiter(r)
}

// exhaustLimiter leaves nothing of a limit, for the duration of a test.
func exhaustLimiter(l *rate.Limiter) {
	l.SetLimit(1e-3)
	now := time.Now()
	l.AllowN(now, int(l.TokensAt(now)))
}

func TestTokenHasRateLimit(t *testing.T) {
	r := newRig(t, Config{})
	client, _ := r.newToken(object{"scope": "read"})
	other, _ := r.newToken(object{"scope": "read"})
	resp, _ := client.do("GET", "/v1/subscriptions", nil)
	left, err := strconv.Atoi(resp.Header.Get("X-RateLimit-Remaining"))
	reset, err2 := strconv.ParseInt(resp.Header.Get("X-RateLimit-Reset"), 10, 64)
	if resp.Header.Get("X-RateLimit-Limit") != fmt.Sprint(limit.TokenBurst) || err != nil || left != limit.TokenBurst-1 || err2 != nil || reset < time.Now().Unix() || resp.Header.Get("Retry-After") != "" {
		t.Errorf("the answer has %v", resp.Header)
	}

	limit := r.server.auth.Tokens.Find(client.token, time.Now()).Limit
	exhaustLimiter(limit)
	resp, out := client.do("GET", "/v1/subscriptions", nil)
	wait, err := strconv.Atoi(resp.Header.Get("Retry-After"))
	if resp.StatusCode != 429 || resp.Header.Get("Content-Type") != "application/problem+json" || out["status"] != 429.0 || err != nil || wait < 1 || wait > 1001 ||
		resp.Header.Get("X-RateLimit-Remaining") != "0" || resp.Header.Get("X-RateLimit-Limit") == "" || resp.Header.Get("X-RateLimit-Reset") == "" {
		t.Errorf("%d %v %v", resp.StatusCode, resp.Header, out)
	}
	client.wantProblem(429, "", "GET", "/v1/nowhere", nil)
	other.want(200, "GET", "/v1/subscriptions", nil)
	r.want(200, "GET", "/v1/subscriptions", nil)
}

func TestWrongTokensAreLimited(t *testing.T) {
	r := newRig(t, Config{})
	client, _ := r.newToken(object{"scope": "read"})
	const guesser, neighbor = "192.0.2.1:1000", "192.0.2.2:1000"
	for i := range limit.FailureBurst {
		if w := serveFrom(r.server, guesser, "GET", "/v1/calls", fmt.Sprint("guess", i)); w.Code != 401 {
			t.Fatalf("guess %d: %d", i, w.Code)
		}
	}
	limit := failureLimiter(r.server, "192.0.2.1")
	exhaustLimiter(limit)
	for _, tt := range []struct {
		peer, path, token string
		want              int
	}{
		{guesser, "/v1/calls", "guess", 429},
		{guesser, "/v1/calls", "", 429},
		{guesser, "/v1/calls", testToken, 429}, // short enough to be guessed
		{guesser, "/v1/calls", client.token, 200},
		{guesser, "/metrics", testToken, 429},
		{guesser, "/metrics", client.token, 200},
		{guesser, "/healthz", "", 200},
		{neighbor, "/v1/calls", "guess", 401},
		{neighbor, "/v1/calls", testToken, 200},
		{"192.0.2.1:2000", "/v1/calls", "guess", 429},
		{"[::ffff:192.0.2.1]:2000", "/v1/calls", "guess", 429},
	} {
		w := serveFrom(r.server, tt.peer, "GET", tt.path, tt.token)
		if w.Code != tt.want || (w.Code == 429) != (w.Header().Get("Retry-After") != "") {
			t.Errorf("%s with %q from %s: %d %v, want %d", tt.path, tt.token, tt.peer, w.Code, w.Header(), tt.want)
		}
	}
	unready := openServer(t, r.js, Config{Token: testToken, Config: ops.Config{Notifier: r.notifier, Ready: func() []string { return []string{"draining"} }}})
	exhaustLimiter(failureLimiter(unready, "192.0.2.1"))
	for _, token := range []string{"guess", testToken} {
		if w := serveFrom(unready, guesser, "GET", "/readyz", token); strings.Contains(w.Body.String(), "draining") {
			t.Errorf("/readyz tells that %q is the token", token)
		}
	}

	long := openServer(t, r.js, Config{Token: strings.Repeat("x", access.MinSecretLength), Config: ops.Config{Notifier: r.notifier}})
	exhaustLimiter(failureLimiter(long, "192.0.2.1"))
	if w := serveFrom(long, guesser, "GET", "/v1/calls", strings.Repeat("x", access.MinSecretLength)); w.Code != 200 {
		t.Errorf("who has a token that nobody can guess is shut out by who guesses: %d", w.Code)
	}
}

func TestValidTokenIsNoFailure(t *testing.T) {
	r := newRig(t, Config{})
	for range limit.FailureBurst + 10 {
		if w := serveFrom(r.server, "192.0.2.1:1000", "GET", "/v1/calls", testToken); w.Code != 200 {
			t.Fatalf("%d", w.Code)
		}
	}
}
