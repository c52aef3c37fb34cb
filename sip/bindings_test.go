package sip

import (
	"encoding/binary"
	"net/netip"
	"sync"
	"testing"
)

// flowFrom returns a UDP flow from a port.
func flowFrom(port uint16) flow {
	return flow{proto: UDP, listenerPort: 5060, peer: netip.AddrPortFrom(barePhone.Addr(), port)}
}

// testBinding returns a binding that was registered over a flow and expires after a
// minute.
func testBinding(id byte, fl flow, since instant) *binding {
	return &binding{id: bindingID{id}, flow: fl, since: since, expires: since + 60e9}
}

func TestNewestRegistrationOfABindingIsRemembered(t *testing.T) {
	bs := newBindings()
	aor := []byte("101@pbx.example")
	expect := func(why string, now instant, want flow) {
		t.Helper()
		var got flow
		if b := bs.newest(bindingID{1}, now); b != nil {
			got = b.flow
		}
		if got != want {
			t.Errorf("%s: the binding is at %v, want %v", why, got.peer, want.peer)
		}
	}
	expect("no REGISTER so far", 1e9, flow{})
	bs.set(2e9, testBinding(1, flowFrom(1), 1e9), aor)
	expect("registered", 2e9, flowFrom(1))
	bs.set(4e9, testBinding(1, flowFrom(2), 3e9), aor)
	expect("over another flow", 4e9, flowFrom(2))
	bs.set(5e9, testBinding(1, flowFrom(1), 2e9), aor)
	expect("the 2xx to an earlier REGISTER comes late", 5e9, flowFrom(2))
	bs.end(5e9, bindingID{1}, 2e9)
	expect("so does that to an earlier one that ends it", 5e9, flowFrom(2))
	expect("until it expires", 63e9-1, flowFrom(2))
	expect("it expires", 63e9, flow{})
	bs.set(70e9, testBinding(1, flowFrom(3), 70e9), aor)
	expect("registered again", 71e9, flowFrom(3))
	bs.end(72e9, bindingID{1}, 72e9)
	expect("ended", 72e9, flow{})
	if id := bs.ofFlow(72e9, flowFrom(3), aor, true); id != (bindingID{}) {
		t.Errorf("the flow of the ended binding has binding %v", id)
	}
}

func TestBindingOfAFlowIsFoundByAddressOfRecord(t *testing.T) {
	bs := newBindings()
	line := func(n string) []byte { return []byte(n + "@pbx.example") }
	expect := func(why string, fl flow, aor string, orFirst bool, want byte) {
		t.Helper()
		if got := bs.ofFlow(10e9, fl, line(aor), orFirst); got != (bindingID{want}) {
			t.Errorf("%s: got binding %v, want %d", why, got, want)
		}
	}
	desk, other := flowFrom(1), flowFrom(2)
	for id, aor := range []string{1: "101", 2: "102", 3: "103"} {
		if id > 0 {
			bs.set(10e9, testBinding(byte(id), desk, instant(id)), line(aor))
		}
	}
	expect("the second line", desk, "102", true, 2)
	expect("no line has it: the first", desk, "anonymous", true, 1)
	expect("no line has it", desk, "anonymous", false, 0)
	expect("another flow", other, "102", true, 0)
	local := desk
	local.local = bareProxy.Addr()
	expect("another address of ours", local, "102", true, 0)

	bs.set(10e9, testBinding(1, desk, 5), line("101"))
	expect("the first line renews: it stays the first", desk, "anonymous", true, 1)
	bs.set(10e9, testBinding(1, other, 6), line("101"))
	bs.set(10e9, testBinding(3, desk, 7), line("103"))
	expect("the first line has moved", desk, "anonymous", true, 3)
	expect("to the other flow", other, "anonymous", true, 1)
}

// The tables are bounded, and a full bucket evicts what expires first.
func TestBindingsAreBounded(t *testing.T) {
	bs := newBindings()
	const count = bindingBuckets * bindingWays * 2
	for i := range uint32(count) {
		b := &binding{flow: flowFrom(1), since: 1, expires: 60e9 + instant(i)}
		b.flow.connID = i
		binary.BigEndian.PutUint32(b.id[:], i)
		bs.set(1, b, nil)
	}
	left, late := 0, 0
	for i := range uint32(count) {
		var id bindingID
		binary.BigEndian.PutUint32(id[:], i)
		if bs.newest(id, 2) != nil {
			left++
			if i >= count/2 {
				late++
			}
		}
	}
	if left > count/2 || left < count/2*9/10 || late < left*8/10 {
		t.Errorf("%d of %d bindings are left, %d of them among the later half", left, count, late)
	}
	bs.set(1000e9, testBinding(9, flowFrom(1), 1000e9), nil)
	if bs.newest(bindingID{9}, 1000e9) == nil {
		t.Error("an expired binding takes the room of a new one")
	}
}

// Workers set, end and read the same bindings at the same time. The last registration is
// found by all of them.
func TestBindingsAreSharedByWorkers(t *testing.T) {
	bs := newBindings()
	var run sync.WaitGroup
	for w := range 4 {
		run.Go(func() {
			for i := range 2000 {
				id := byte(i % 8)
				now := instant(i + 1)
				bs.set(now, testBinding(id, flowFrom(uint16(w+1)), now), []byte{id})
				if b := bs.newest(bindingID{id}, now); b == nil || b.since < now {
					t.Errorf("after a registration of %d binding %d is %+v", now, id, b)
				}
				bs.ofFlow(now, flowFrom(uint16(w+1)), []byte{id}, true)
				if i%16 == 0 {
					bs.end(now, bindingID{id}, 0)
				}
			}
		})
	}
	run.Wait()
	for id := range byte(8) {
		bs.set(1e9, testBinding(id, flowFrom(77), 1e9), []byte{id})
		if b := bs.newest(bindingID{id}, 1e9); b == nil || b.flow != flowFrom(77) {
			t.Errorf("binding %d is %+v", id, b)
		}
	}
}
