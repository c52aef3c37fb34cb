package guard

import (
	"encoding/binary"
	"hash/maphash"
	"math"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// A BanReason tells why a source is banned.
type BanReason uint8

const (
	BanCredentials BanReason = iota // wrong passwords
	BanNotSIP                       // connections that carry something else than SIP
	BanHandshake                    // TLS or WebSocket handshakes that failed
	BanManual                       // an operator has banned it
	banReasons                      // number of reasons
)

// BanReasons are all values of BanReason.
var BanReasons = []BanReason{BanCredentials, BanNotSIP, BanHandshake, BanManual}

// banReasonNames are stored and shown: never change one, only add.
var banReasonNames = [banReasons]string{"credentials", "not_sip", "handshake", "manual"}

func (r BanReason) String() string { return banReasonNames[r] }

// BanReasonOf returns the reason with a name, or BanManual for one that this version does
// not know.
func BanReasonOf(name string) BanReason {
	if i := slices.Index(banReasonNames[:], name); i >= 0 {
		return BanReason(i)
	}
	return BanManual
}

// A Ban is the time in which nothing is accepted from a source.
type Ban struct {
	Source       netip.Prefix // a /32 or a /64
	Reason       BanReason
	Since, Until time.Duration
	Times        int // 1 for the first ban, 2 for the next; 1 again after a break of MaxBanTime
}

// isRemembered reports whether a ban makes the next one of its source longer.
func (b Ban) isRemembered(now time.Duration) bool { return b.Until+MaxBanTime > now }

// bans holds the bans of sources. Readers take no lock. A ban that has ended stays for
// MaxBanTime, so that the next one lasts longer.
type bans struct {
	seed  maphash.Seed
	slots []atomic.Pointer[Ban]
	count atomic.Int64 // slots in use; readers look no further if it is 0

	mu sync.Mutex // of writers
}

const banSlots = 1 << 15 // 256 KiB without the bans

func newBans(seed maphash.Seed) *bans {
	return &bans{seed: seed, slots: make([]atomic.Pointer[Ban], banSlots)}
}

// bucketOf returns the slots in which the ban of a source may be.
func (bs *bans) bucketOf(s source) []atomic.Pointer[Ban] {
	var b [8]byte
	binary.LittleEndian.PutUint64(b[:], uint64(s))
	i := maphash.Bytes(bs.seed, b[:]) % (banSlots / ways)
	return bs.slots[i*ways:][:ways]
}

// find returns the last ban of a source, or nil.
func (bs *bans) find(s source) *Ban {
	if bs.count.Load() == 0 {
		return nil
	}
	bucket := bs.bucketOf(s)
	for i := range bucket {
		if b := bucket[i].Load(); b != nil && sourceOf(b.Source.Addr()) == s {
			return b
		}
	}
	return nil
}

// active returns the ban of a source that has not ended at now, or nil.
func (bs *bans) active(s source, now time.Duration) *Ban {
	if b := bs.find(s); b != nil && b.Until > now {
		return b
	}
	return nil
}

// add bans a source. The first ban lasts for first, and each further one twice as long as
// the one before, up to MaxBanTime.
func (bs *bans) add(s source, reason BanReason, first, now time.Duration) Ban {
	bs.mu.Lock()
	defer bs.mu.Unlock()
	b := &Ban{Source: s.prefix(), Reason: reason, Since: now, Times: 1}
	if last := bs.find(s); last != nil && last.isRemembered(now) {
		b.Times = last.Times + 1
	}
	b.Until = now + min(first<<min(b.Times-1, 16), MaxBanTime)
	bs.put(s, b)
	return *b
}

// set puts a ban with its own times into the table.
func (bs *bans) set(b Ban) {
	bs.mu.Lock()
	defer bs.mu.Unlock()
	bs.put(sourceOf(b.Source.Addr()), &b)
}

// put puts a ban into the table, in place of the source's last one, else of the one that
// ends first. The caller holds mu.
func (bs *bans) put(s source, b *Ban) {
	bucket := bs.bucketOf(s)
	at, until := 0, time.Duration(math.MaxInt64)
	for i := range bucket {
		ends := time.Duration(math.MinInt64) // a free slot
		if old := bucket[i].Load(); old != nil {
			if sourceOf(old.Source.Addr()) == s {
				at = i
				break
			}
			ends = old.Until
		}
		if ends < until {
			at, until = i, ends
		}
	}
	if bucket[at].Swap(b) == nil {
		bs.count.Add(1)
	}
}

// remove removes the last ban of a source, if it ends after a time, and returns it or nil.
func (bs *bans) remove(s source, after time.Duration) (removed *Ban) {
	bs.mu.Lock()
	defer bs.mu.Unlock()
	bucket := bs.bucketOf(s)
	for i := range bucket {
		if b := bucket[i].Load(); b != nil && sourceOf(b.Source.Addr()) == s && b.Until > after {
			removed = bucket[i].Swap(nil)
			bs.count.Add(-1)
		}
	}
	return removed
}

// all returns a copy of every ban in the table, by source.
func (bs *bans) all() (list []Ban) {
	if bs.count.Load() == 0 {
		return nil
	}
	for i := range bs.slots {
		if b := bs.slots[i].Load(); b != nil {
			list = append(list, *b)
		}
	}
	slices.SortFunc(list, func(a, b Ban) int { return a.Source.Addr().Compare(b.Source.Addr()) })
	return list
}
