package access

import (
	"crypto/sha256"
	"sync"
	"time"
)

// Hash is the SHA-256 of a secret.
type Hash = [sha256.Size]byte

// sweepEvery is the interval at which expired values are removed.
const sweepEvery = time.Minute

// Cache keeps values until they expire, each by the hash of a secret. Each owner may have
// max values. A further value evicts the owner's oldest, never one of another owner.
type Cache[V any] struct {
	max int

	mu     sync.Mutex
	values map[Hash]ownedEntry[V]
	keysOf map[string][]Hash // by owner, oldest first
	swept  time.Time
}

type ownedEntry[V any] struct {
	value V
	owner string
	until time.Time
}

// NewCache returns an empty cache. most is the maximum number of values of each owner.
func NewCache[V any](most int) *Cache[V] {
	return &Cache[V]{max: most, values: make(map[Hash]ownedEntry[V]), keysOf: make(map[string][]Hash)}
}

// Add adds a value for an owner, and evicts the owner's oldest if there is no room.
func (o *Cache[V]) Add(owner string, key Hash, v V, now, until time.Time) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if now.Sub(o.swept) >= sweepEvery {
		o.swept = now
		for key, v := range o.values {
			if !now.Before(v.until) {
				o.removeLocked(key)
			}
		}
	}
	if keys := o.keysOf[owner]; len(keys) >= o.max {
		o.removeLocked(keys[0])
	}
	o.values[key] = ownedEntry[V]{v, owner, until}
	o.keysOf[owner] = append(o.keysOf[owner], key)
}

// Get returns the value with a key, if it has not expired.
func (o *Cache[V]) Get(key Hash, now time.Time) (v V, ok bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	kept, ok := o.values[key]
	if !ok || !now.Before(kept.until) {
		o.removeLocked(key)
		return v, false
	}
	return kept.value, true
}

// Remove removes the value with a key.
func (o *Cache[V]) Remove(key Hash) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.removeLocked(key)
}

// Len returns the number of values, expired ones that were not swept included.
func (o *Cache[V]) Len() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.values)
}

// removeLocked is Remove for a caller that holds mu.
func (o *Cache[V]) removeLocked(key Hash) {
	owner := o.values[key].owner
	delete(o.values, key)
	var rest []Hash
	for _, k := range o.keysOf[owner] {
		if k != key {
			rest = append(rest, k)
		}
	}
	if o.keysOf[owner] = rest; len(rest) == 0 {
		delete(o.keysOf, owner)
	}
}
