package guard

import (
	"hash/maphash"
	"sync/atomic"
	"time"
)

// pointsWindow is the time within which the points of a source are added up. It begins
// with the first point.
const pointsWindow = 10 * time.Minute

// maxPoints is the largest number of points that a slot holds.
const maxPoints = 1<<pointBits - 1

// scores counts points of sources. A slot is one word: tagBits of the hash of the source,
// its points, and the second after that of its first point. A full bucket evicts the
// source with the oldest first point.
type scores struct {
	seed  maphash.Seed
	slots []atomic.Uint64
}

const (
	scoreSlots = 1 << 16 // 512 KiB
	pointBits  = 14
	secondBits = 64 - tagBits - pointBits // 34 years
	secondMask = 1<<secondBits - 1
)

func newScores(seed maphash.Seed) *scores {
	return &scores{seed: seed, slots: make([]atomic.Uint64, scoreSlots)}
}

// find returns the slot of a source and its value. If there is none, it returns the slot
// to use, its value, and live false.
func (sc *scores) find(s source, now time.Duration) (slot *atomic.Uint64, v uint64, tag uint64, live bool) {
	bucket, hash := bucketOf(sc.slots, sc.seed, uint64(s))
	tag = hash &^ timeMask
	for i := range bucket {
		w := bucket[i].Load()
		if w&^timeMask == tag && w != 0 {
			return &bucket[i], w, tag, time.Duration(w&secondMask)*time.Second+pointsWindow > now
		}
		if slot == nil || w&secondMask < v&secondMask {
			slot, v = &bucket[i], w
		}
	}
	return slot, v, tag, false
}

// add adds a point to a source and returns its points.
func (sc *scores) add(s source, now time.Duration) int {
	for {
		slot, v, tag, live := sc.find(s, now)
		next := tag | 1<<secondBits | uint64(now/time.Second) + 1
		if live {
			next = v
			if pointsOf(v) < maxPoints {
				next += 1 << secondBits
			}
		}
		if slot.CompareAndSwap(v, next) {
			return pointsOf(next)
		}
	}
}

// points returns the points of a source.
func (sc *scores) points(s source, now time.Duration) int {
	if _, v, _, live := sc.find(s, now); live {
		return pointsOf(v)
	}
	return 0
}

// clear removes the points of a source.
func (sc *scores) clear(s source) {
	if slot, v, _, live := sc.find(s, 0); live {
		slot.CompareAndSwap(v, 0)
	}
}

func pointsOf(v uint64) int { return int(v >> secondBits & maxPoints) }
