package limit

import (
	"net/netip"
	"testing"
)

func TestFailuresAreBounded(t *testing.T) {
	f := NewFailures()
	ip := netip.MustParseAddr("10.0.0.0")
	first := f.Limiter(ip)
	if f.Limiter(ip) != first {
		t.Error("an address has two limits")
	}
	for range maxPeers + 10 {
		ip = ip.Next()
		f.Limiter(ip)
	}
	if n := f.peers.Len(); n != maxPeers {
		t.Errorf("%d addresses are kept, want %d", n, maxPeers)
	}
}
