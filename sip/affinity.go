package sip

import (
	"hash/maphash"
	"math"
	"sync/atomic"
)

// affinities remembers to which target of a PBX or carrier a request goes first. A request
// of a registered phone goes to the target that accepted the REGISTER, because another PBX
// may not know the phone. So does a request of a PBX that is registered at a carrier. A
// request that repeats a challenged one goes to the target that sent the challenge, because
// another target does not know its nonce. Without an entry, requests go to the targets in
// the usual order.
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
	ofRegistrar  affinityKind = 'r' // by address-of-record at the PBX
	ofCarrier    affinityKind = 'k' // by carrier, with or without account: see appendAccount
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

// appendAccount appends the key of an account at a carrier to dst: the carrier and the user
// in the From or To value v. It does not contain the host, because a PBX may write its own
// into the From of a call. It appends nothing if v has no user.
func (m *message) appendAccount(dst []byte, carrier string, v span) []byte {
	u, ok := m.readAOR(v)
	if !ok {
		return dst
	}
	return append(append(append(dst, carrier...), ' '), u.User...)
}

// rememberCarrierTarget notes the target of a carrier that has accepted the REGISTER of a
// PBX, for the account and for requests of the PBX whose sender is no account.
func (as *affinities) rememberCarrierTarget(now instant, m *message, from *target) {
	var buf [128]byte
	lifetime, carrier := m.grantedLifetime(), from.remote.carrier
	as.set(now, ofCarrier, m.appendAccount(buf[:0], carrier, m.to), from, lifetime)
	as.set(now, ofCarrier, append(buf[:0], carrier...), from, lifetime)
}

// carrierTarget returns the target of a carrier to which a request of a PBX goes first, or
// nil. A REGISTER goes to any target, unless it answers a challenge.
func (as *affinities) carrierTarget(now instant, m *message, carrier string) (to *target) {
	var buf [128]byte
	if m.hasField(hAuthorization) {
		to = as.get(now, ofChallenger, m.text(m.callID))
	}
	if to == nil && !m.isMethod("REGISTER") {
		to = as.get(now, ofCarrier, m.appendAccount(buf[:0], carrier, m.from))
	}
	if to == nil && !m.isMethod("REGISTER") {
		to = as.get(now, ofCarrier, append(buf[:0], carrier...))
	}
	if to == nil || to.remote.carrier != carrier {
		return nil
	}
	return to
}
