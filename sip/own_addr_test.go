package sip

import (
	"net/netip"
	"testing"
)

// A listener on all IPv4 addresses has those of this machine and those at which it has
// received something, but not an address of another node that a token of a flow contains.
func TestListenerOnAllAddressesOwnsNoOtherAddress(t *testing.T) {
	w, _ := newBareWorker(t, func(c *Config) {
		c.Listen = append(c.Listen, Listener{Addr: Addr{Proto: TCP, AddrPort: netip.MustParseAddrPort("0.0.0.0:5070")}})
	})
	ls := &w.proxy.listeners
	l := ls.all[len(ls.all)-1]
	other, asked := netip.MustParseAddr("198.51.100.77"), netip.MustParseAddr("198.51.100.78")
	to := destination{listener: l, addr: barePhone, local: l.localAddr(other)}
	if got := to.ownName(edgeSide).sentBy; got != "198.51.100.77:5070" {
		t.Errorf("a phone that knows another node gets the name %s", got)
	}
	l.addAddr(asked)
	owned := map[netip.Addr]bool{other: false, asked: true, netip.MustParseAddr("198.51.100.79"): false, netip.MustParseAddr("127.0.0.77"): true}
	for _, ip := range machineAddrs() {
		owned[ip] = ip.Is4()
	}
	for ip, want := range owned {
		at := netip.AddrPortFrom(ip, 5070)
		if got := ls.haveAddr(at); got != want {
			t.Errorf("%v is ours: %t, want %t", at, got, want)
		}
		if got := ls.receiverOf(Addr{Proto: TCP, AddrPort: at}) != nil; got != want {
			t.Errorf("%v has a listener: %t, want %t", at, got, want)
		}
		if ls.haveAddr(netip.AddrPortFrom(ip, 5071)) {
			t.Errorf("port 5071 of %v is ours", ip)
		}
	}
}
