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

// How many requests there may be at once, and then a second. The bearer of the
// config's token could as well stop bellhop: its limit stops runaways only.
const (
	tokenBurst, tokenRate     = 1000, 100
	configBurst, configRate   = 10_000, 1000
	failureBurst, failureRate = 300, 1 // of one address, that had no token or a wrong one
)

// maxPeers is of how many addresses failures are counted: the last ones to fail.
const maxPeers = 10_000

// failures counts the failures of each address.
type failureLimits struct {
	peers *lru.Cache[netip.Addr, *rate.Limiter]
}

func newFailureLimits() failureLimits {
	return failureLimits{newLRU[netip.Addr, *rate.Limiter](maxPeers)}
}

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

// tooMany answers 429, and says how long to wait.
func writeTooMany(w http.ResponseWriter, l *rate.Limiter, now time.Time, refuse errorWriter, detail string) {
	setRateHeaders(w, l, now)
	wait := timeUntil(l, 1, now)
	w.Header().Set("Retry-After", strconv.Itoa(max(1, int(math.Ceil(wait.Seconds())))))
	refuse(w, http.StatusTooManyRequests, detail)
}

// showLimit says in an answer how many more requests there may be now, and when
// there may be as many as ever.
func setRateHeaders(w http.ResponseWriter, l *rate.Limiter, now time.Time) {
	full := now.Add(timeUntil(l, l.Burst(), now))
	h := w.Header()
	h.Set("X-RateLimit-Limit", strconv.Itoa(l.Burst()))
	h.Set("X-RateLimit-Remaining", strconv.Itoa(max(0, int(l.TokensAt(now)))))
	h.Set("X-RateLimit-Reset", strconv.FormatInt(full.Unix()+1, 10))
}

// until is the time in which l has n to spend.
func timeUntil(l *rate.Limiter, n int, now time.Time) time.Duration {
	return time.Duration((float64(n) - l.TokensAt(now)) / float64(l.Limit()) * float64(time.Second))
}
