package sip

import (
	"slices"
	"sync/atomic"
	"time"
)

// callRate limits the calls to one trunk in any second. Workers share it without a lock.
// at holds the times of the last calls in a ring, as many as a second may have.
type callRate struct {
	next     atomic.Uint64 // number of the next call
	at       []atomic.Int64
	loggedAt atomic.Int64 // time of the last log line about a refused call
}

// newTrunks returns trunks with a callRate each.
func newTrunks(configured []Trunk) []Trunk {
	trunks := slices.Clone(configured)
	for i := range trunks {
		trunks[i].rate = newCallRate(trunks[i].MaxCPS)
	}
	return trunks
}

// newCallRate returns a callRate of that many calls a second, or nil if n is 0.
func newCallRate(n int) *callRate {
	if n <= 0 {
		return nil
	}
	c := &callRate{at: make([]atomic.Int64, n)}
	for i := range c.at {
		c.at[i].Store(-int64(time.Second))
	}
	return c
}

// allow reports whether a call may begin at now, and counts it.
func (c *callRate) allow(now instant) bool {
	for {
		n := c.next.Load()
		slot := &c.at[n%uint64(len(c.at))]
		if now-instant(slot.Load()) < instant(time.Second) {
			return false
		}
		if c.next.CompareAndSwap(n, n+1) {
			slot.Store(int64(now))
			return true
		}
	}
}

// trunkBusy refuses a call beyond [Trunk.MaxCPS]. The PBX can try another trunk.
var trunkBusy = &fault{503, "Trunk Busy"}

// limitCalls returns trunkBusy for a new call of the PBX to a trunk that gets no more
// calls at the moment. It logs that at most once a minute for each trunk.
func (px *Proxy) limitCalls(now instant, p *packet, r *routeDecision) *fault {
	if p.side != pbxSide || r.dst != edgeSide || !p.msg.initial() || !p.msg.isMethod("INVITE") {
		return nil
	}
	trunk := px.peers.trunkAt(r.nextHop.peer().Addr())
	if trunk == nil || trunk.rate == nil || trunk.rate.allow(now) {
		return nil
	}
	px.stats.limited.Add(1)
	last := trunk.rate.loggedAt.Load()
	if (last == 0 || now-instant(last) >= instant(time.Minute)) && trunk.rate.loggedAt.CompareAndSwap(last, int64(now)) {
		px.log.Warn("calls to trunk refused", "trunk", trunk.Name, "max_cps", trunk.MaxCPS)
	}
	return trunkBusy
}
