package sip

import (
	"hash/maphash"
	"net/netip"
	"sync/atomic"
)

// Size of a set of sources: 262,144 addresses in 2 MiB, of which the system
// gives only the pages that are used.
const (
	sourceBuckets = 1 << 15
	sourceWays    = 8 // slots of a bucket: one cache line
)

// How long an address stays in a set after it was added last. Phones renew their
// registration within a day.
const (
	acceptedLifetime = instant(3600e9)
	phoneLifetime    = instant(24 * 3600e9)
)

// sources is a bounded set of addresses that all workers share. Each address
// is in it for a time. A bucket that is full evicts its oldest address. There
// is no lock: a slot is one word, with 32 bits of the address's hash and the
// second it was added. A stranger is taken for a member by chance in one of
// half a billion lookups; the seed is secret, so nobody can choose such an
// address, nor one that evicts another.
type sourceSet struct {
	lifetime instant
	seed     maphash.Seed
	slots    []atomic.Uint64
}

func newSources(keep instant) *sourceSet {
	return &sourceSet{lifetime: keep, seed: maphash.MakeSeed(), slots: make([]atomic.Uint64, sourceBuckets*sourceWays)}
}

// find returns the bucket of an address, and what its slots hold in their
// upper half.
func (s *sourceSet) findBucket(ip netip.Addr) (bucket []atomic.Uint64, tag uint64) {
	b := ip.As16()
	sum := maphash.Bytes(s.seed, b[:])
	i := sum % sourceBuckets // of the lower half
	return s.slots[i*sourceWays:][:sourceWays], sum &^ (1<<32 - 1)
}

func secondOf(now instant) uint64 { return uint64(now/1e9) + 1 }

// has reports whether an address was added within the time.
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
			if at-v&(1<<32-1) >= 60 { // no write for each message of a busy source
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
