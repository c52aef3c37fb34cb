package limit

import (
	"math"
	"net/http"
	"net/netip"
	"strconv"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/time/rate"
)

// Rate limits: the burst of requests, and the requests a second after it. The limit of
// the config's token (Config) only stops runaway clients, because the holder of that
// token could stop bellhop anyway.
const (
	TokenBurst, TokenRate     = 1000, 100
	ConfigBurst, ConfigRate   = 10_000, 1000
	FailureBurst, failureRate = 300, 1 // of one address, without a valid token
)

// maxPeers is the maximum number of addresses whose failures are counted. The least
// recently used one is evicted.
const maxPeers = 10_000

// Failures limits the rate of requests without a valid token, by address.
type Failures struct {
	peers *lru.Cache[netip.Addr, *rate.Limiter]
}

// NewFailures returns Failures without any address.
func NewFailures() Failures {
	peers, err := lru.New[netip.Addr, *rate.Limiter](maxPeers)
	if err != nil {
		panic(err) // impossible: maxPeers is above zero
	}
	return Failures{peers}
}

// Limiter returns the limiter of an address, and creates it if there is none.
func (f Failures) Limiter(peer netip.Addr) *rate.Limiter {
	if l, ok := f.peers.Get(peer); ok {
		return l
	}
	l := rate.NewLimiter(failureRate, FailureBurst)
	if first, ok, _ := f.peers.PeekOrAdd(peer, l); ok {
		return first
	}
	return l
}

// SetRetryHeaders sets the header fields of a 429: those of SetRateHeaders, and
// Retry-After.
func SetRetryHeaders(h http.Header, l *rate.Limiter, now time.Time) {
	SetRateHeaders(h, l, now)
	wait := timeUntil(l, 1, now)
	h.Set("Retry-After", strconv.Itoa(max(1, int(math.Ceil(wait.Seconds())))))
}

// SetRateHeaders sets the X-RateLimit header fields: the burst, the requests left, and
// the Unix time at which the whole burst is available again.
func SetRateHeaders(h http.Header, l *rate.Limiter, now time.Time) {
	full := now.Add(timeUntil(l, l.Burst(), now))
	h.Set("X-RateLimit-Limit", strconv.Itoa(l.Burst()))
	h.Set("X-RateLimit-Remaining", strconv.Itoa(max(0, int(l.TokensAt(now)))))
	h.Set("X-RateLimit-Reset", strconv.FormatInt(full.Unix()+1, 10))
}

// timeUntil returns how long it takes until l has n tokens.
func timeUntil(l *rate.Limiter, n int, now time.Time) time.Duration {
	return time.Duration((float64(n) - l.TokensAt(now)) / float64(l.Limit()) * float64(time.Second))
}
