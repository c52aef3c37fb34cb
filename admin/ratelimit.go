package admin

import (
	"math"
	"net/http"
	"net/netip"
	"strconv"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/time/rate"
)

// Rate limits: requests that are allowed at once, and requests a second after that. The
// holder of the config's token could stop bellhop anyway: its limit only stops runaway
// clients.
const (
	tokenBurst, tokenRate     = 1000, 100
	configBurst, configRate   = 10_000, 1000
	failureBurst, failureRate = 300, 1 // of one address, without a valid token
)

// maxPeers is the number of addresses whose failures are counted, the last to fail.
const maxPeers = 10_000

// failureLimits counts the requests of each address that had no valid token.
type failureLimits struct {
	peers *lru.Cache[netip.Addr, *rate.Limiter]
}

// newFailureLimits returns failureLimits without failures.
func newFailureLimits() failureLimits {
	return failureLimits{newLRU[netip.Addr, *rate.Limiter](maxPeers)}
}

// limiterOf returns the limiter of an address, with a new one if it has none.
func (f failureLimits) limiterOf(peer netip.Addr) *rate.Limiter {
	if l, ok := f.peers.Get(peer); ok {
		return l
	}
	l := rate.NewLimiter(failureRate, failureBurst)
	if first, ok, _ := f.peers.PeekOrAdd(peer, l); ok {
		return first
	}
	return l
}

// writeTooMany answers 429 with a Retry-After.
func writeTooMany(w http.ResponseWriter, l *rate.Limiter, now time.Time, refuse errorWriter, detail string) {
	setRateHeaders(w, l, now)
	wait := timeUntil(l, 1, now)
	w.Header().Set("Retry-After", strconv.Itoa(max(1, int(math.Ceil(wait.Seconds())))))
	refuse(w, http.StatusTooManyRequests, detail)
}

// setRateHeaders sets the X-RateLimit header fields: the burst, the requests left, and
// the Unix time at which the whole burst is available again.
func setRateHeaders(w http.ResponseWriter, l *rate.Limiter, now time.Time) {
	full := now.Add(timeUntil(l, l.Burst(), now))
	h := w.Header()
	h.Set("X-RateLimit-Limit", strconv.Itoa(l.Burst()))
	h.Set("X-RateLimit-Remaining", strconv.Itoa(max(0, int(l.TokensAt(now)))))
	h.Set("X-RateLimit-Reset", strconv.FormatInt(full.Unix()+1, 10))
}

// timeUntil returns how long it takes until l has n tokens.
func timeUntil(l *rate.Limiter, n int, now time.Time) time.Duration {
	return time.Duration((float64(n) - l.TokensAt(now)) / float64(l.Limit()) * float64(time.Second))
}
