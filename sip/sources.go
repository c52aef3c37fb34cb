package sip

import (
	"hash/maphash"
	"net/netip"
	"sync/atomic"
)

// sources records which addresses have had a request accepted and which have proved that
// they get our responses. Workers share it without a lock.
type sources struct {
	peers    *peers
	accepted *sourceSet // their REGISTER or INVITE was accepted
	phones   *sourceSet // their REGISTER was accepted
	proven   *sourceSet // they have proved their address: they know the content of a response
}

// newSources returns sources in which only the configured peers ps are known.
func newSources(ps *peers) sources {
	return sources{peers: ps, accepted: newSourceSet(acceptedLifetime), phones: newSourceSet(phoneLifetime), proven: newSourceSet(acceptedLifetime)}
}

// isKnown reports whether a request comes from the PBX, from a trunk, or from an address
// whose REGISTER or INVITE was accepted within the last hour.
func (ss *sources) isKnown(now instant, p *packet) bool {
	ip := p.peer.Addr()
	return p.side == pbxSide || ss.accepted.has(ip, now) || ss.peers.isConfigured(p.listener, ip) || ss.peers.trunkOf(p) != nil
}

// priorityOf returns the priority of p. A CANCEL has the priority of its INVITE, so that
// both keep their order.
func (ss *sources) priorityOf(p *packet) priority {
	m := &p.msg
	if !m.isRequest() {
		return inDialog
	}
	switch known, initial := ss.isKnown(p.receivedAt, p), m.initial(); {
	case known && !initial:
		return inDialog
	case known || !initial:
		return fromKnown
	}
	return fromStranger
}

// isProven reports whether the peer has proved that it receives at its address: it has a
// connection, or it knew the content of a response. PBX and trunks need no proof.
func (ss *sources) isProven(now instant, to destination) bool {
	ip := to.addr.Addr()
	return to.conn != nil || ss.proven.has(ip, now) || ss.peers.isConfigured(to.listener, ip)
}

// rememberAccepted makes the source of a REGISTER or INVITE that got a 2xx a known source. A
// 2xx to a REGISTER also proves the source's address, because the credentials answer a
// challenge.
func (ss *sources) rememberAccepted(now instant, t *responseContext, m *message) {
	if t.src != edgeSide || m.status/100 != 2 {
		return
	}
	ip := t.server.upstream.peer().Addr()
	switch {
	case m.isMethod("REGISTER"):
		ss.accepted.add(ip, now)
		ss.proven.add(ip, now)
	case m.isMethod("INVITE"):
		ss.accepted.add(ip, now)
	}
}

// rememberBinding notes the address in the token of a binding as known and proven, when
// the PBX sends a request to that binding. The PBX has the token because it accepted a
// REGISTER with it. After a restart of bellhop, the first request of the PBX to a phone,
// such as a periodic OPTIONS, thus restores what an earlier process knew.
func (ss *sources) rememberBinding(p *packet, t *token) {
	if ip := t.flow.peer.Addr(); p.side == pbxSide && ip.IsValid() {
		ss.accepted.add(ip, p.receivedAt)
		ss.phones.add(ip, p.receivedAt)
		ss.proven.add(ip, p.receivedAt)
	}
}

// The size of a sourceSet: 262,144 addresses in 2 MiB. Pages that are not used take no
// memory.
const (
	sourceBuckets = 1 << 15
	sourceWays    = 8 // slots of a bucket: one cache line
)

// How long an address stays in a set after it was last added. Phones renew their
// registration within a day.
const (
	acceptedLifetime = instant(3600e9)
	phoneLifetime    = instant(24 * 3600e9)
)

// sourceSet is a bounded set of addresses that all workers share without a lock. An
// address expires after the set's lifetime. A full bucket evicts its oldest address.
//
// A slot is one word: 32 bits of the address's hash, and the second at which it was
// added. By chance, one lookup in half a billion finds an address that was never added.
// The hash seed is secret, so nobody can choose an address that is found this way or
// that evicts another.
type sourceSet struct {
	lifetime instant
	seed     maphash.Seed
	slots    []atomic.Uint64
}

// newSourceSet returns an empty set whose addresses expire after lifetime.
func newSourceSet(lifetime instant) *sourceSet {
	return &sourceSet{lifetime: lifetime, seed: maphash.MakeSeed(), slots: make([]atomic.Uint64, sourceBuckets*sourceWays)}
}

// findBucket returns the bucket of an address, and the upper half of a slot that holds
// the address.
func (s *sourceSet) findBucket(ip netip.Addr) (bucket []atomic.Uint64, tag uint64) {
	b := ip.As16()
	sum := maphash.Bytes(s.seed, b[:])
	i := sum % sourceBuckets // of the lower half
	return s.slots[i*sourceWays:][:sourceWays], sum &^ (1<<32 - 1)
}

// secondOf returns the lower half of a slot for an address that is added at now: the
// seconds since the proxy was made, plus 1.
func secondOf(now instant) uint64 { return uint64(now/1e9) + 1 }

// has reports whether an address was added within the set's lifetime.
func (s *sourceSet) has(ip netip.Addr, now instant) bool {
	bucket, tag := s.findBucket(ip)
	for i := range bucket {
		if v := bucket[i].Load(); v&^(1<<32-1) == tag && v != 0 {
			return instant(secondOf(now)-v&(1<<32-1))*1e9 < s.lifetime
		}
	}
	return false
}

// add puts an address into the set, or renews it.
func (s *sourceSet) add(ip netip.Addr, now instant) {
	bucket, tag := s.findBucket(ip)
	at, oldest := secondOf(now), 0
	for i := range bucket {
		v := bucket[i].Load()
		if v&^(1<<32-1) == tag && v != 0 {
			if at-v&(1<<32-1) >= 60 { // at most one write a minute for a busy source
				bucket[i].Store(tag | at)
			}
			return
		}
		if v&(1<<32-1) < bucket[oldest].Load()&(1<<32-1) {
			oldest = i
		}
	}
	bucket[oldest].Store(tag | at)
}
