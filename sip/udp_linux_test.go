package sip

import (
	"errors"
	"net"
	"net/netip"
	"runtime"
	"syscall"
	"testing"
	"time"
)

// openUDP opens a UDP socket of the proxy at an IP address, on a free port.
func openUDP(t *testing.T, ip string) (*udpSocket, netip.AddrPort) {
	t.Helper()
	c, err := systemNetwork{}.ListenPacket(netip.AddrPortFrom(netip.MustParseAddr(ip), 0))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c.(*udpSocket), addrPortOf(c.LocalAddr())
}

// sourceOf returns the source address of the next datagram.
func sourceOf(t *testing.T, c *udpSocket) netip.Addr {
	t.Helper()
	c.SetReadDeadline(time.Now().Add(time.Minute))
	_, from, err := c.ReadFromUDPAddrPort(make([]byte, 100))
	if err != nil {
		t.Fatal(err)
	}
	return from.Addr()
}

func TestDatagramLeavesFromTheGivenAddress(t *testing.T) {
	from, _ := openUDP(t, "0.0.0.0")
	bound, _ := openUDP(t, "127.0.0.2")
	to, at := openUDP(t, "127.0.0.1")
	for _, tt := range []struct {
		c           *udpSocket
		local, want string
	}{
		{from, "127.0.0.5", "127.0.0.5"},
		{from, "", "127.0.0.1"},
		{from, "127.0.0.6", "127.0.0.6"},
		{from, "192.0.2.77", "127.0.0.1"}, // the machine no longer has it
		{from, "224.0.0.1", "127.0.0.1"},
		{from, "::1", "127.0.0.1"}, // of the other family
		{bound, "127.0.0.5", "127.0.0.2"},
	} {
		var local netip.Addr
		if tt.local != "" {
			local = netip.MustParseAddr(tt.local)
		}
		l := &listener{packet: tt.c, proxy: &Proxy{}}
		if err := l.writeDatagram([]byte("x"), local, at); err != nil {
			t.Errorf("from %s: %v", tt.local, err)
			continue
		}
		if got := sourceOf(t, to); got.String() != tt.want {
			t.Errorf("from %s: it leaves from %s, want %s", tt.local, got, tt.want)
		}
	}
}

func TestReceivedDatagramHasItsDestination(t *testing.T) {
	for _, tt := range []struct{ listen, to, want string }{
		{"0.0.0.0", "127.0.0.5", "127.0.0.5"},
		{"127.0.0.5", "127.0.0.5", "invalid IP"},
		{"::", "::1", "::1"},
		{"::1", "::1", "invalid IP"},
	} {
		if c, err := net.Listen("tcp6", "[::1]:0"); err == nil {
			c.Close()
		} else if tt.to == "::1" {
			continue // no IPv6
		}
		c, at := openUDP(t, tt.listen)
		from, source := openUDP(t, tt.to)
		got := make(chan string)
		go c.receiveBatches(func(b []byte, peer netip.AddrPort, local netip.Addr, idle bool) {
			if peer == source {
				got <- string(b) + " " + local.String()
			}
		})
		for _, b := range []string{"a", "b"} {
			from.WriteToUDPAddrPort([]byte(b), netip.AddrPortFrom(netip.MustParseAddr(tt.to), at.Port()))
			if g := <-got; g != b+" "+tt.want {
				t.Errorf("on %s, asked at %s: got %q, want %s", tt.listen, tt.to, g, tt.want)
			}
		}
	}
}

// A closed port at a peer ends receiveBatches with an error. Whoever makes the proxy send to
// closed ports must not cost it memory.
func TestErrorsOfASocketAllocateLittle(t *testing.T) {
	c, _ := openUDP(t, "127.0.0.1")
	closed, at := openUDP(t, "127.0.0.1")
	closed.Close()
	l := &listener{packet: c, proxy: &Proxy{}}
	c.SetReadDeadline(time.Now().Add(time.Minute))
	fail := func() {
		c.WriteToUDPAddrPort([]byte("x"), at)
		if err := c.receiveBatches(func([]byte, netip.AddrPort, netip.Addr, bool) {}); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Fatalf("the socket fails with %v", err)
		}
		l.drainErrorQueue()
	}
	fail()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	const errs = 20
	for range errs {
		fail()
	}
	runtime.ReadMemStats(&after)
	if bytes := (after.TotalAlloc - before.TotalAlloc) / errs; bytes > 4<<10 {
		t.Errorf("an error costs %d bytes", bytes)
	}
}

func TestSendingAllocatesNothing(t *testing.T) {
	for _, ip := range []string{"0.0.0.0", "127.0.0.1"} {
		c, at := openUDP(t, ip)
		local, b := netip.MustParseAddr("127.0.0.5"), []byte("x")
		to := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), at.Port())
		if n := testing.AllocsPerRun(100, func() { c.WriteFrom(b, local, to) }); n >= 1 {
			t.Errorf("a datagram of a socket on %s costs %v allocations", ip, n)
		}
	}
}
