package dialog

import (
	"net/netip"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"
)

// A scanner calls number after number in the name of any extension, and the PBX refuses
// each call. So an attempt that is refused before a phone rings is rate-limited, unless the
// extension has a registration from its source. Of each source, attemptBurst attempts emit
// events at once, and then one every attemptEvery. Attempts beyond that emit nothing and
// are counted.
const (
	attemptBurst = 30
	attemptEvery = 2 * time.Second

	// maxSources is the number of sources with attempts in memory. Beyond that the least
	// recently used one is evicted and has all its tokens again. About 150 bytes each.
	maxSources = 1 << 14
)

// An attemptLimiter decides which refused attempts emit events.
type attemptLimiter struct {
	registered *simplelru.LRU[registeredFrom, registeredAt]
	usedUntil  *simplelru.LRU[netip.Addr, time.Time] // by source: when the tokens of its attempts so far are refilled
}

// A registeredFrom is a source from which an extension has registered.
type registeredFrom struct {
	source netip.Addr
	user   string
}

// A registeredAt is when a registration ends, and its most recent flow.
type registeredAt struct {
	until time.Time
	peer  netip.AddrPort
}

func newAttemptLimiter() *attemptLimiter {
	g := &attemptLimiter{}
	g.registered, _ = simplelru.NewLRU[registeredFrom, registeredAt](maxBindings, nil) // fails only without a size
	g.usedUntil, _ = simplelru.NewLRU[netip.Addr, time.Time](maxSources, nil)
	return g
}

// sourceOf returns the source of an attempt: an IPv4 address, or the first 64 bits of an
// IPv6 address.
func sourceOf(peer netip.AddrPort) netip.Addr {
	a := peer.Addr()
	if a.Is4() || !a.IsValid() {
		return a
	}
	p, _ := a.Prefix(64) // fails only of less than 64 bits
	return p.Addr()
}

// noteRegistration notes that an extension has registered from a peer until a time; the
// zero time: no longer.
func (g *attemptLimiter) noteRegistration(peer netip.AddrPort, user string, until time.Time) {
	k := registeredFrom{sourceOf(peer), user}
	switch {
	case !peer.IsValid():
	case until.IsZero():
		g.registered.Remove(k)
	default:
		if !g.registered.Contains(k) {
			k.user = cloneString(user)
		}
		g.registered.Add(k, registeredAt{until, peer})
	}
}

// registeredOver reports whether an extension has registered over the flow of a peer.
func (g *attemptLimiter) registeredOver(peer netip.AddrPort, user string, now time.Time) bool {
	r, ok := g.registered.Peek(registeredFrom{sourceOf(peer), user})
	return ok && r.peer == peer && now.Before(r.until)
}

// takeToken reports whether another attempt of a source emits events, and uses a token.
func (g *attemptLimiter) takeToken(source netip.Addr, now time.Time) bool {
	used, _ := g.usedUntil.Get(source)
	if used.Before(now) || used.Sub(now) > 2*attemptBurst*attemptEvery { // or the clock was set back
		used = now
	}
	if used.Sub(now) > (attemptBurst-1)*attemptEvery {
		return false
	}
	g.usedUntil.Add(source, used.Add(attemptEvery))
	return true
}

// allowsAttempt reports whether a caller's leg, for which no phone rings yet, emits events
// when it begins to count as a call or is refused. It takes a token of the source if the leg
// is rate-limited.
func (t *Tracker) allowsAttempt(l *leg, now time.Time) bool {
	p := l.party
	switch {
	case l.origin == PBX, l.trunk, !l.peer.IsValid(), l.state == ringing:
		return true
	case (p == nil || p.dialed || p.over) && (l.service == nil || l.service.dialed || l.service.over):
		return true // no event is due, or it was emitted already
	}
	for _, o := range l.call.legs {
		if o.origin == PBX { // the PBX has called somebody for this caller
			return true
		}
	}
	source := sourceOf(l.peer)
	if p != nil {
		if r, ok := t.limiter.registered.Peek(registeredFrom{source, p.ext.User}); ok && now.Before(r.until) {
			return true
		}
	}
	return t.limiter.takeToken(source, now)
}

// Suppressed returns the number of refused attempts without events, because their source
// had too many. It may be called from any goroutine.
func (t *Tracker) Suppressed() uint64 { return t.suppressed.Load() }
