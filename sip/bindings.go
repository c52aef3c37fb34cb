package sip

import (
	"hash/maphash"
	"math"
	"sync/atomic"
)

// binding is what the proxy remembers of an accepted registration of one client: the flow
// over which it was made. Only qualifiedAt changes once it is in a table.
type binding struct {
	id        bindingID
	byContact bool // the client has no +sip.instance, so its Contact URI identifies it
	flow      flow
	byURI     bool    // see packet.flow
	since     instant // time at which the REGISTER was received
	expires   instant
	keys      [bindingIndexes]uint64 // in the tables of bindings

	qualifiedAt atomic.Int64 // instant at which the last OPTIONS of the PBX went over flow; 0: none
}

// replaces reports whether requests go over b's flow and no longer over fl, another flow
// of the same binding, even if fl is open. They still go over fl if only the Contact URI
// identifies the binding and the two flows have different hosts: two clients behind two
// NATs may register the same Contact URI for one address-of-record.
func (b *binding) replaces(fl flow) bool {
	return !b.byContact || b.flow.peer.Addr() == fl.peer.Addr()
}

// Tables of bindings, each with its own key.
const (
	byID bindingIndex = iota
	byFlow
	byFlowAndAOR
	bindingIndexes
)

type bindingIndex uint8

// bindings remembers the flow over which each binding was registered last, and which
// bindings a flow has. Workers share it without a lock. A token names the binding of its
// flow, so that requests follow a client that has registered over another flow since.
// Without the memory of a binding, requests take the flow in their token.
//
// Only a 2xx of the PBX to a REGISTER sets a binding. Its id contains the
// address-of-record of that REGISTER, so nobody can redirect the binding of another
// address-of-record.
type bindings struct {
	seed   maphash.Seed // secret, so that nobody can choose which binding another one evicts
	tables [bindingIndexes][]atomic.Pointer[binding]
}

// The size of each table: 65,536 bindings. A full bucket evicts the binding that expires
// first.
const (
	bindingBuckets = 1 << 13
	bindingWays    = 8
)

// newBindings returns bindings without any binding.
func newBindings() *bindings {
	bs := &bindings{seed: maphash.MakeSeed()}
	for i := range bs.tables {
		bs.tables[i] = make([]atomic.Pointer[binding], bindingBuckets*bindingWays)
	}
	return bs
}

// set records b, unless a later REGISTER has set the binding. aor is the address-of-record
// in the form of appendAOR. The first binding of a flow stays the first until it expires,
// ends or moves to another flow.
func (bs *bindings) set(now instant, b *binding, aor []byte) {
	b.keys = [...]uint64{bs.keyOfID(b.id), bs.keyOfFlow(b.flow, nil), bs.keyOfFlow(b.flow, aor)}
	bs.put(byID, b, now)
	bs.put(byFlowAndAOR, b, now)
	first := bs.find(byFlow, b.keys[byFlow], now)
	if first != nil && first.id != b.id {
		if current := bs.newest(first.id, now); current != nil && current.flow == b.flow {
			return
		}
		bs.remove(byFlow, first)
	}
	bs.put(byFlow, b, now)
}

// end removes a binding, unless a REGISTER later than at has set it.
func (bs *bindings) end(now instant, id bindingID, at instant) {
	b := bs.newest(id, now)
	if b == nil || b.since > at {
		return
	}
	for index := range bindingIndexes {
		bs.remove(index, b)
	}
}

// newest returns the binding with that id as it was registered last, or nil.
func (bs *bindings) newest(id bindingID, now instant) *binding {
	return bs.find(byID, bs.keyOfID(id), now)
}

// ofFlow returns the id of a binding that was registered over a flow: that of the
// address-of-record aor, else the first one of the flow if orFirst is true. It returns
// the zero id if there is none.
func (bs *bindings) ofFlow(now instant, fl flow, aor []byte, orFirst bool) bindingID {
	if b := bs.find(byFlowAndAOR, bs.keyOfFlow(fl, aor), now); b != nil {
		return b.id
	}
	if orFirst {
		if b := bs.find(byFlow, bs.keyOfFlow(fl, nil), now); b != nil {
			return b.id
		}
	}
	return bindingID{}
}

func (bs *bindings) keyOfID(id bindingID) uint64 { return maphash.Bytes(bs.seed, id[:]) }

// keyOfFlow returns the key of a flow, or of a flow and an address-of-record.
func (bs *bindings) keyOfFlow(fl flow, aor []byte) uint64 {
	var buf [192]byte
	b := appendIP(fl.appendTo(buf[:0]), fl.local)
	return maphash.Bytes(bs.seed, append(b, aor...))
}

// bucketOf returns the bucket of a key in a table.
func (bs *bindings) bucketOf(index bindingIndex, key uint64) []atomic.Pointer[binding] {
	return bs.tables[index][key%bindingBuckets*bindingWays:][:bindingWays]
}

// find returns the binding with that key in a table, or nil. If two workers have just set
// it at the same time, it may be there twice; the later one is returned.
func (bs *bindings) find(index bindingIndex, key uint64, now instant) (found *binding) {
	bucket := bs.bucketOf(index, key)
	for i := range bucket {
		if b := bucket[i].Load(); b != nil && b.keys[index] == key && b.expires > now && (found == nil || b.since > found.since) {
			found = b
		}
	}
	return found
}

// put puts b into a table. If the table has an earlier binding with the same key, b
// replaces it; if it has a later one, put does nothing. Otherwise b takes a free slot, or
// the slot of the binding that expires first.
func (bs *bindings) put(index bindingIndex, b *binding, now instant) {
	bucket := bs.bucketOf(index, b.keys[index])
	for {
		at, old, oldExpires := 0, (*binding)(nil), instant(math.MaxInt64)
		for i := range bucket {
			v := bucket[i].Load()
			var expires instant
			switch {
			case v == nil || v.expires <= now:
			case v.keys[index] != b.keys[index]:
				expires = v.expires
			case v.since > b.since:
				return
			default:
				expires = -1
			}
			if expires < oldExpires {
				at, old, oldExpires = i, v, expires
			}
		}
		if bucket[at].CompareAndSwap(old, b) {
			return
		}
	}
}

// remove removes the binding with the key and the id of b from a table, if there is one.
func (bs *bindings) remove(index bindingIndex, b *binding) {
	bucket := bs.bucketOf(index, b.keys[index])
	for i := range bucket {
		if v := bucket[i].Load(); v != nil && v.keys[index] == b.keys[index] && v.id == b.id {
			bucket[i].CompareAndSwap(v, nil)
		}
	}
}
