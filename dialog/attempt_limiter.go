package dialog

import (
	"net/netip"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"
)

// A scanner calls number after number in the name of any extension, and the PBX
// refuses each call. So an attempt that is refused before a phone rings is
// rate-limited, unless the extension has a registration from where it comes: of
// each source, attemptBurst are told at once and then one every attemptEvery. Of
// what is beyond nothing is told; it is counted.
const (
	attemptBurst = 30
	attemptEvery = 2 * time.Second

	// maxSources is how many sources are known by the attempts that were told;
	// of more, the least recent one may begin anew. About 150 bytes each.
	maxSources = 1 << 14
)

// A floodgate knows which attempts are told.
type attemptLimiter struct {
	registered *simplelru.LRU[registeredFrom, registeredAt]
	usedUntil  *simplelru.LRU[netip.Addr, time.Time] // by source: when its attempts so far are used up
}

// registeredFrom is a source from which an extension has registered.
type registeredFrom struct {
	source netip.Addr
	user   string
}

// registeredAt says until when a registration lasts, and over which flow it came last.
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

// sourceOf is what the attempts of one source have in common: an IPv4 address, or
// the first 64 bits of an IPv6 address.
func sourceOf(peer netip.AddrPort) netip.Addr {
	a := peer.Addr()
	if a.Is4() || !a.IsValid() {
		return a
	}
	p, _ := a.Prefix(64) // fails only of less than 64 bits
	return p.Addr()
}

// register notes that an extension has registered from a peer until a time; the
// zero time: it has not any more.
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

// at reports whether an extension has registered over the flow of a peer.
func (g *attemptLimiter) registeredOver(peer netip.AddrPort, user string, now time.Time) bool {
	r, ok := g.registered.Peek(registeredFrom{sourceOf(peer), user})
	return ok && r.peer == peer && now.Before(r.until)
}

// take reports whether another attempt of a source is told.
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

// tells reports whether it is told that a caller's leg was taken up for which no
// phone rings yet.
func (t *Tracker) allowsAttempt(l *leg, now time.Time) bool {
	p := l.party
	switch {
	case l.origin == PBX, l.trunk, !l.peer.IsValid(), l.state == ringing:
		return true
	case (p == nil || p.dialed || p.over) && (l.service == nil || l.service.dialed || l.service.over):
		return true // nothing is to be said, or was said already
	}
	for _, o := range l.call.legs {
		if o.origin == PBX { // the PBX has called somebody for it
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

// Suppressed returns how many attempts were refused of which nothing was told, as
// their source had too many. It may be called from any goroutine.
func (t *Tracker) Suppressed() uint64 { return t.suppressed.Load() }
