package sip

import (
	"sync/atomic"
	"time"
)

// callRate limits the number of calls to one trunk in any second. Workers share it
// without a lock.
//
// slots is a ring with one slot for each call that a second may have. Call n takes the
// slot n modulo the number of slots. It may take it only if the call that took it before
// is more than a second old. Each slot stores the time of its call in milliseconds and
// the round of the ring. The round tells a worker that another one was faster and has
// taken the slot.
type callRate struct {
	next     atomic.Uint64 // number of the next call, or less for a moment
	slots    []atomic.Uint64
	loggedAt atomic.Int64 // time of the last log line about a refused call
}

// callTimeBits is the number of low bits of a slot of a callRate that store the time. The
// high bits store the round.
const callTimeBits = 44

// newCallRate returns a callRate of that many calls a second, or nil if n is 0.
func newCallRate(n int) *callRate {
	if n <= 0 {
		return nil
	}
	return &callRate{slots: make([]atomic.Uint64, n)}
}

// allow reports whether a call may begin at now, and counts it.
func (c *callRate) allow(now instant) bool {
	size := uint64(len(c.slots))
	ms := uint64(now/instant(time.Millisecond)) + 1 // rounded up
	for {
		n := c.next.Load()
		slot := &c.slots[n%size]
		taken := slot.Load()
		round, at := n/size+1, taken%(1<<callTimeBits) // round 0: the slot is empty
		switch taken >> callTimeBits {
		case round % (1 << (64 - callTimeBits)): // another worker has taken it
			c.next.CompareAndSwap(n, n+1)
		case (round - 1) % (1 << (64 - callTimeBits)):
			if round > 1 && ms <= at+1000 {
				return false
			}
			if slot.CompareAndSwap(taken, round<<callTimeBits|ms) {
				c.next.CompareAndSwap(n, n+1)
				return true
			}
		}
	}
}

// trunkBusy refuses a call beyond [Trunk.MaxCPS]. The PBX can try another trunk.
var trunkBusy = &fault{503, "Trunk Busy"}

// trunkRetryAfter is the header field line of the response with trunkBusy.
const trunkRetryAfter = "Retry-After: 1\r\n"

// limitCalls returns trunkBusy for a new call of the PBX to a trunk that gets no more
// calls at the moment. It logs that at most once a minute for each trunk.
func (px *Proxy) limitCalls(now instant, p *packet, r *routeDecision) *fault {
	if p.side != pbxSide || r.dst != edgeSide || !p.msg.initial() || !p.msg.isMethod("INVITE") {
		return nil
	}
	trunk := px.peers.trunkTo(r.nextHop)
	if trunk == nil || trunk.rate == nil || trunk.rate.allow(now) {
		return nil
	}
	trunk.refused.Add(1)
	last := trunk.rate.loggedAt.Load()
	if (last == 0 || now-instant(last) >= instant(time.Minute)) && trunk.rate.loggedAt.CompareAndSwap(last, int64(now)) {
		px.log.Warn("calls to trunk refused", "trunk", trunk.Name, "max_cps", trunk.MaxCPS)
	}
	return trunkBusy
}
