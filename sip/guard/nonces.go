package guard

import (
	"hash/maphash"
	"sync/atomic"
	"time"
)

// nonces remembers to which source each nonce was sent. A nonce that was sent to more than
// one source proves nothing: some PBXs, such as Asterisk, send the same nonce to everybody
// within a second, because all requests reach them from the proxy. Whoever has received it
// could use it in datagrams with the source of another.
//
// A slot is one word: a part of the hash of the nonce, a part of the hash of the source, or
// sharedNonce, and the time at which the nonce was sent last. A full bucket evicts the
// oldest.
type nonces struct {
	seed  maphash.Seed
	slots []atomic.Uint64
}

const (
	nonceSlots      = 1 << 18 // 2 MiB
	nonceLifetime   = time.Hour
	nonceSourceBits = 24
	nonceTimeBits   = 20 // in seconds: it begins again after 12 days
	nonceTimeMask   = 1<<nonceTimeBits - 1
	nonceSourceMask = (1<<nonceSourceBits - 1) << nonceTimeBits
	nonceTagMask    = ^uint64(nonceSourceMask | nonceTimeMask)
	sharedNonce     = 0 // in place of the source
)

func newNonces(seed maphash.Seed) *nonces {
	return &nonces{seed: seed, slots: make([]atomic.Uint64, nonceSlots)}
}

// bucketOf returns the bucket of a nonce, and the parts of its slot.
func (n *nonces) bucketOf(s source, nonce []byte) (bucket []atomic.Uint64, tag, from uint64) {
	bucket, hash := bucketOf(n.slots, n.seed, maphash.Bytes(n.seed, nonce))
	_, of := bucketOf(n.slots, n.seed, ^uint64(s))
	return bucket, hash & nonceTagMask, max(of&nonceSourceMask, 1<<nonceTimeBits)
}

// nonceAge returns the time since the nonce of a slot was sent. It returns 0 if the nonce
// was sent less than a minute in the future, because the clock of the goroutine that sent
// it may be ahead.
func nonceAge(v uint64, now time.Duration) time.Duration {
	seconds := (uint64(now/time.Second) - v) & nonceTimeMask
	if seconds > nonceTimeMask-60 {
		return 0
	}
	return time.Duration(seconds) * time.Second
}

// add remembers that a nonce is sent to a source.
func (n *nonces) add(s source, nonce []byte, now time.Duration) {
	bucket, tag, from := n.bucketOf(s, nonce)
	for {
		slot, old, oldest := 0, uint64(0), time.Duration(-1)
		sent := from
		for i := range bucket {
			v := bucket[i].Load()
			age := nonceAge(v, now)
			if v == 0 {
				age = time.Duration(nonceTimeMask+1) * time.Second // a free slot
			} else if v&nonceTagMask == tag && age < nonceLifetime {
				slot, old = i, v
				if v&nonceSourceMask != from {
					sent = sharedNonce
				}
				break
			}
			if age > oldest {
				slot, old, oldest = i, v, age
			}
		}
		if bucket[slot].CompareAndSwap(old, tag|sent|uint64(now/time.Second)&nonceTimeMask) {
			return
		}
	}
}

// proves reports whether a nonce was sent to a source within nonceLifetime, and to no other.
func (n *nonces) proves(s source, nonce []byte, now time.Duration) bool {
	bucket, tag, from := n.bucketOf(s, nonce)
	for i := range bucket {
		if v := bucket[i].Load(); v != 0 && v&nonceTagMask == tag && nonceAge(v, now) < nonceLifetime {
			return v&nonceSourceMask == from
		}
	}
	return false
}
