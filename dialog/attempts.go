package dialog

import (
	"crypto/sha256"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"
)

// A scanner calls number after number as any extension, and the PBX refuses each call.
// Therefore the events of attempts that are refused before a phone rings are rate-limited
// by source: attemptBurst attempts at once, and then one every attemptEvery. Further
// attempts emit no events and are only counted. The limit does not apply to an extension
// that is registered from that source.
const (
	attemptBurst = 30
	attemptEvery = 2 * time.Second

	// maxSources is the largest number of sources whose token buckets are in memory,
	// at about 150 bytes each. Beyond it the least recently used bucket is removed,
	// and its source then starts with a full burst again.
	maxSources = 1 << 14

	maxAttempts = 1 << 14 // largest number of challenged INVITEs in memory
)

// attempts holds the INVITEs that were challenged and have not led to a call, the token
// bucket of each source, and the sources from which extensions are registered.
type attempts struct {
	challenged *simplelru.LRU[attemptKey, attempt] // INVITEs that met 401 or 407
	suppressed atomic.Uint64                       // number of refused attempts without events
	registered *simplelru.LRU[registeredFrom, registeredAt]
	usedUntil  *simplelru.LRU[netip.Addr, time.Time] // by source: when its token bucket will be full again
}

// A registeredFrom is an extension and a source from which it has registered.
type registeredFrom struct {
	source netip.Addr
	user   string
}

// A registeredAt has the end of a registration and its most recent flow.
type registeredAt struct {
	until time.Time
	peer  netip.AddrPort
}

func newAttempts() *attempts {
	a := &attempts{}
	a.challenged, _ = simplelru.NewLRU[attemptKey, attempt](maxAttempts, nil) // fails only without a size
	a.registered, _ = simplelru.NewLRU[registeredFrom, registeredAt](maxBindings, nil)
	a.usedUntil, _ = simplelru.NewLRU[netip.Addr, time.Time](maxSources, nil)
	return a
}

// An attemptKey is the hash of a Call-ID and a From tag. It retains no memory of the
// message.
type attemptKey [16]byte

func newAttemptKey(callID, fromTag string) attemptKey {
	var buf [256]byte
	b := append(append(append(buf[:0], callID...), 0), fromTag...)
	sum := sha256.Sum256(b)
	return attemptKey(sum[:16])
}

// An attempt is the beginning of a leg whose INVITE was challenged. The INVITE with
// credentials continues it.
type attempt struct {
	began     time.Time
	partySeed string // partySeed of the leg
}

// addChallenged stores the beginning of a leg whose INVITE was challenged.
func (a *attempts) addChallenged(l *leg) {
	a.challenged.Add(newAttemptKey(l.callID, l.fromTag), attempt{l.began, cloneString(l.partySeed)})
}

// continueChallenged gives a caller's new leg the start time and party seed of the
// challenged attempt that its INVITE continues. Without such an attempt, or after
// retryWithin, the leg keeps its own.
func (a *attempts) continueChallenged(l *leg, now time.Time) {
	k := newAttemptKey(l.callID, l.fromTag)
	before, ok := a.challenged.Get(k)
	if !ok || l.origin != Edge {
		return
	}
	a.challenged.Remove(k)
	if age := now.Sub(before.began); age >= 0 && age < retryWithin {
		l.began, l.partySeed = before.began, before.partySeed
	}
}

// nextExpiry returns when the oldest challenged INVITE expires; false if there is none.
func (a *attempts) nextExpiry() (time.Time, bool) {
	_, oldest, ok := a.challenged.GetOldest()
	return oldest.began.Add(retryWithin), ok
}

// expire removes the challenged INVITEs that were not continued within retryWithin.
func (a *attempts) expire(now time.Time) {
	for {
		_, oldest, ok := a.challenged.GetOldest()
		if !ok || now.Sub(oldest.began) < retryWithin {
			return
		}
		a.challenged.RemoveOldest()
	}
}

// sourceOf returns the source of an attempt: the IPv4 address of the peer, or the first
// 64 bits of its IPv6 address.
func sourceOf(peer netip.AddrPort) netip.Addr {
	a := peer.Addr()
	if a.Is4() || !a.IsValid() {
		return a
	}
	p, _ := a.Prefix(64) // fails only of less than 64 bits
	return p.Addr()
}

// noteRegistration stores that an extension is registered from a peer until a time. If
// that time is zero, it removes the registration.
func (a *attempts) noteRegistration(peer netip.AddrPort, user string, until time.Time) {
	k := registeredFrom{sourceOf(peer), user}
	switch {
	case !peer.IsValid():
	case until.IsZero():
		a.registered.Remove(k)
	default:
		if !a.registered.Contains(k) {
			k.user = cloneString(user)
		}
		a.registered.Add(k, registeredAt{until, peer})
	}
}

// registeredOver reports whether the extension user is registered from the peer's source,
// most recently over the peer's flow.
func (a *attempts) registeredOver(peer netip.AddrPort, user string, now time.Time) bool {
	r, ok := a.registered.Peek(registeredFrom{sourceOf(peer), user})
	return ok && r.peer == peer && now.Before(r.until)
}

// takeToken takes a token of a source for an attempt, which may then emit events. It
// returns false if the source has no token left.
func (a *attempts) takeToken(source netip.Addr, now time.Time) bool {
	used, _ := a.usedUntil.Get(source)
	if used.Before(now) || used.Sub(now) > 2*attemptBurst*attemptEvery { // or the clock was set back
		used = now
	}
	if used.Sub(now) > (attemptBurst-1)*attemptEvery {
		return false
	}
	a.usedUntil.Add(source, used.Add(attemptEvery))
	return true
}

// allows reports whether a leg may emit events. It is asked when the leg begins to count
// as a call, and when the leg is refused. A leg of the PBX or of a trunk may emit events.
// A phone's leg may if a phone rings, if the PBX has called somebody for it, or if its
// extension is registered from its source. Any other leg with an event to emit takes a
// token of its source, and may not emit events if there is none.
func (a *attempts) allows(l *leg, now time.Time) bool {
	p := l.party
	switch {
	case l.origin == PBX, l.trunk, !l.peer.IsValid(), l.state == ringing:
		return true
	case (p == nil || p.dialed || p.over) && (l.service == nil || l.service.dialed || l.service.over):
		return true // no event is due, or it was emitted already
	case l.call.hasCallee():
		return true
	}
	source := sourceOf(l.peer)
	if p != nil {
		if r, ok := a.registered.Peek(registeredFrom{source, p.ext.User}); ok && now.Before(r.until) {
			return true
		}
	}
	return a.takeToken(source, now)
}

// Suppressed returns the number of refused attempts that emitted no events, because their
// source had too many. It may be called from any goroutine.
func (t *Tracker) Suppressed() uint64 { return t.attempts.suppressed.Load() }
