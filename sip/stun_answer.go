package sip

import (
	"hash/maphash"
	"net/netip"
	"sync/atomic"
	"time"

	"bellhop/sip/stun"
)

// Each source gets stunBurst STUN responses at once, and one more every stunInterval.
const (
	stunInterval = instant(200 * time.Millisecond)
	stunBurst    = 5
)

// stunLimitSlots is the number of slots of a stunLimit.
const stunLimitSlots = 1 << 12

// stunLimit limits the STUN responses to each source address, because the source of a
// datagram may be forged. Any goroutine may use it. Each slot holds the time at which its
// sources have no response left to count against their burst. Sources whose addresses have
// the same hash share a slot.
type stunLimit struct {
	seed  maphash.Seed
	slots [stunLimitSlots]atomic.Int64
}

// newStunLimit returns a stunLimit without any source.
func newStunLimit() *stunLimit { return &stunLimit{seed: maphash.MakeSeed()} }

// allow reports whether a source may get a response at now, and counts the response.
func (s *stunLimit) allow(now instant, source netip.Addr) bool {
	b := source.As16()
	slot := &s.slots[maphash.Bytes(s.seed, b[:])%stunLimitSlots]
	for {
		busy := slot.Load()
		next := max(instant(busy), now) + stunInterval
		if next > now+stunBurst*stunInterval {
			return false
		}
		if slot.CompareAndSwap(busy, int64(next)) {
			return true
		}
	}
}

// answerSTUN answers a STUN request to the port of a UDP listener. local is the address to
// which it was sent, see datagramHandler.
func (l *listener) answerSTUN(request []byte, from netip.AddrPort, local netip.Addr) {
	if !l.proxy.stunLimit.allow(l.proxy.now(), from.Addr()) {
		return
	}
	var buf [stun.MaxResponse]byte
	if b := stun.AppendResponse(buf[:0], request, from); len(b) > 0 {
		l.writeDatagram(b, local, from)
	}
}
