package guard

import (
	"hash/maphash"
	"sync/atomic"
	"time"
)

// A Rate is a number of events in a time. A source may use the whole number at once.
type Rate struct {
	Count int
	Per   time.Duration
}

// limiter limits the rate of each source by the generic cell rate algorithm (ITU-T
// I.371): for each source it keeps the time at which the source has all of its rate
// again.
//
// A slot is one word: tagBits of the hash of the source, and that time in ticks. A time
// that has passed is the same as none, so the slots free themselves. A full bucket evicts
// the source whose time comes first.
type limiter struct {
	seed  maphash.Seed
	slots []atomic.Uint64
}

const (
	limiterSlots = 1 << 17 // 1 MiB
	tagBits      = 20
	timeMask     = 1<<(64-tagBits) - 1
	limiterTick  = 10 * time.Microsecond // timeMask of them are 5 years
)

func newLimiter(seed maphash.Seed) *limiter {
	return &limiter{seed: seed, slots: make([]atomic.Uint64, limiterSlots)}
}

// take takes one event from the rate of a source, and returns false if the rate is used
// up. A rate of more than one event per limiterTick is limited to one.
func (l *limiter) take(s source, r Rate, now time.Duration) bool {
	bucket, hash := bucketOf(l.slots, l.seed, uint64(s))
	tag := hash &^ timeMask
	at, whole := uint64(now/limiterTick)+1, uint64(r.Per/limiterTick)
	each := max(whole/uint64(max(r.Count, 1)), 1)
	for {
		slot, first, old := 0, uint64(timeMask), uint64(0)
		for i := range bucket {
			v := bucket[i].Load()
			if v&^timeMask == tag && v&timeMask > at {
				slot, first, old = i, v&timeMask, v
				break
			}
			if v&timeMask < first {
				slot, first, old = i, v&timeMask, v
			}
		}
		full := at // time at which all of the rate is available
		if old&^timeMask == tag && first > at {
			full = first
		}
		if full+each > at+whole {
			return false
		}
		if bucket[slot].CompareAndSwap(old, tag|(full+each)&timeMask) {
			return true
		}
	}
}
