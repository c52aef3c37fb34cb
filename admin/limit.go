package admin

import (
	"net/netip"

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
type failures struct {
	peers *lru.Cache[netip.Addr, *rate.Limiter]
}

func newFailures() failures {
	peers, err := lru.New[netip.Addr, *rate.Limiter](maxPeers)
	if err != nil {
		panic(err) // the size is not above zero
	}
	return failures{peers}
}

func (f failures) of(peer netip.Addr) *rate.Limiter {
	if l, ok := f.peers.Get(peer); ok {
		return l
	}
	l := rate.NewLimiter(failureRate, failureBurst)
	if first, ok, _ := f.peers.PeekOrAdd(peer, l); ok {
		return first
	}
	return l
}
