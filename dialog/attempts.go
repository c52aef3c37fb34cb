package dialog

import (
	"crypto/sha256"
	"net/netip"
	"sync/atomic"
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

	maxAttempts = 1 << 14 // challenged INVITEs in memory
)

// attempts are the INVITEs that have not led to a call: those that met a challenge, and the
// sources of those that were refused.
type attempts struct {
	challenged *simplelru.LRU[attemptKey, attempt] // INVITEs that met 401 or 407
	suppressed atomic.Uint64                       // number of refused attempts without events
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

// An attempt is a challenged INVITE, which the INVITE with credentials continues.
type attempt struct {
	began     time.Time
	partySeed string // partySeed of the leg
}

// addChallenged keeps the beginning of a leg whose INVITE met a challenge.
func (a *attempts) addChallenged(l *leg) {
	a.challenged.Add(newAttemptKey(l.callID, l.fromTag), attempt{l.began, cloneString(l.partySeed)})
}

// continueChallenged gives a caller's new leg the beginning of the attempt that its INVITE
// continues, if it continues one.
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

// nextExpiry returns when to remove the oldest challenged INVITE; false if there is none.
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

// registeredOver reports whether an extension has registered over the flow of a peer.
func (a *attempts) registeredOver(peer netip.AddrPort, user string, now time.Time) bool {
	r, ok := a.registered.Peek(registeredFrom{sourceOf(peer), user})
	return ok && r.peer == peer && now.Before(r.until)
}

// takeToken reports whether another attempt of a source emits events, and uses a token.
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

// allows reports whether a caller's leg, for which no phone rings yet, emits events
// when it begins to count as a call or is refused. It takes a token of the source if the leg
// is rate-limited.
func (a *attempts) allows(l *leg, now time.Time) bool {
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
		if r, ok := a.registered.Peek(registeredFrom{source, p.ext.User}); ok && now.Before(r.until) {
			return true
		}
	}
	return a.takeToken(source, now)
}

// Suppressed returns the number of refused attempts without events, because their source
// had too many. It may be called from any goroutine.
func (t *Tracker) Suppressed() uint64 { return t.attempts.suppressed.Load() }
