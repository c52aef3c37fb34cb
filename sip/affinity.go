package sip

import (
	"hash/maphash"
	"math"
	"sync/atomic"
)

// affinities remembers to which target of a PBX a request goes first. Two kinds of
// entries exist. A request of a registered phone goes to the target that accepted the
// REGISTER, because another PBX may not know the phone. A request that repeats a
// challenged one goes to the target that sent the challenge, because another PBX does not
// know its nonce. Without an entry, requests go to the targets in the usual order.
//
// Workers share affinities without a lock. A full bucket evicts the entry that expires
// first.
type affinities struct {
	seed  maphash.Seed // secret, so that nobody can choose which entry another one evicts
	slots []atomic.Pointer[affinity]
}

// affinity is one entry. It does not change once it is in the table.
type affinity struct {
	key     uint64
	target  *target
	expires instant
}

// The size of the table: 65,536 entries.
const (
	affinityBuckets = 1 << 13
	affinityWays    = 8
)

// challengeLifetime is how long requests with the Call-ID of a challenged request go to
// the target that sent the challenge.
const challengeLifetime = instant(60e9)

// affinityKind is what an entry is about.
type affinityKind byte

const (
	ofRegistrar  affinityKind = 'r' // by address-of-record
	ofChallenger affinityKind = 'c' // by Call-ID
)

// newAffinities returns an empty table.
func newAffinities() *affinities {
	return &affinities{seed: maphash.MakeSeed(), slots: make([]atomic.Pointer[affinity], affinityBuckets*affinityWays)}
}

// find returns the bucket and the key of an entry.
func (as *affinities) find(kind affinityKind, name []byte) (bucket []atomic.Pointer[affinity], key uint64) {
	var h maphash.Hash
	h.SetSeed(as.seed)
	h.WriteByte(byte(kind))
	h.Write(name)
	key = h.Sum64()
	return as.slots[key%affinityBuckets*affinityWays:][:affinityWays], key
}

// get returns the target of an entry, or nil. name must not be empty.
func (as *affinities) get(now instant, kind affinityKind, name []byte) *target {
	if len(name) == 0 {
		return nil
	}
	bucket, key := as.find(kind, name)
	for i := range bucket {
		if a := bucket[i].Load(); a != nil && a.key == key && a.expires > now {
			return a.target
		}
	}
	return nil
}

// set sets the target of an entry for a time.
func (as *affinities) set(now instant, kind affinityKind, name []byte, to *target, lifetime instant) {
	if to == nil || len(name) == 0 {
		return
	}
	bucket, key := as.find(kind, name)
	at, first := 0, instant(math.MaxInt64)
	for i := range bucket {
		a := bucket[i].Load()
		if a != nil && a.key == key {
			at = i // the entry that get finds
			break
		}
		expires := instant(0)
		if a != nil {
			expires = a.expires
		}
		if expires < first {
			at, first = i, expires
		}
	}
	bucket[at].Store(&affinity{key, to, now + lifetime})
}
