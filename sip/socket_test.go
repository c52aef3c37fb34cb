package sip_test

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"bellhop/sip"
	"bellhop/sip/siptest"
)

var loopback = netip.MustParseAddrPort("127.0.0.1:0")

// openSocket returns a real UDP socket on loopback. It is closed with the test.
func openSocket(t *testing.T) (*net.UDPConn, netip.AddrPort) {
	t.Helper()
	c, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(loopback))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c, c.LocalAddr().(*net.UDPAddr).AddrPort()
}

// startOnLoopback starts a proxy on real sockets and returns its UDP and TCP address.
func startOnLoopback(t *testing.T, pbx sip.Addr) (udp, tcp netip.AddrPort) {
	t.Helper()
	return startOnLoopbackAt(t, loopback, pbx)
}

func startOnLoopbackAt(t *testing.T, at netip.AddrPort, pbx sip.Addr) (udp, tcp netip.AddrPort) {
	t.Helper()
	proxy, err := sip.Listen(sip.Config{
		Listen: listenOn(sip.Addr{Proto: sip.UDP, AddrPort: at}, sip.Addr{Proto: sip.TCP, AddrPort: at}),
		PBX:    []sip.Addr{pbx},
		Key:    key,
		Log:    slog.New(slog.NewTextHandler(io.Discard, nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var run sync.WaitGroup
	run.Go(func() { proxy.Run(ctx) })
	t.Cleanup(func() {
		cancel()
		run.Wait()
	})
	return proxy.Addrs()[0].AddrPort, proxy.Addrs()[1].AddrPort
}

// expectDatagram reads one datagram, which must begin with start.
func expectDatagram(t *testing.T, c *net.UDPConn, what, start string) (text, netip.AddrPort) {
	t.Helper()
	c.SetReadDeadline(time.Now().Add(5 * time.Minute))
	buf := make([]byte, 65536)
	n, from, err := c.ReadFromUDPAddrPort(buf)
	if err != nil || !strings.HasPrefix(string(buf[:n]), start) {
		t.Fatalf("%s: got %.200q, %v, want %s", what, buf[:n], err, start)
	}
	return text(buf[:n]), from
}

// The PBX's port is closed when the INVITE comes, and open when Timer A retransmits it.
// In between, the error queue reports the closed port.
func TestAPBXThatRestartsGetsTheCall(t *testing.T) { // RFC 3261 §17.1.1.2
	pbx, at := openSocket(t)
	pbx.Close()
	proxy, _ := startOnLoopback(t, sip.Addr{Proto: sip.UDP, AddrPort: at})
	c, own := openSocket(t)
	phone := &peer{proto: "UDP", addr: own}
	invite := phone.newInvite()
	c.WriteToUDPAddrPort([]byte(invite), proxy)
	expectDatagram(t, c, "the caller is told to wait, and nothing else", "SIP/2.0 100")
	pbx, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(at))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { pbx.Close() })
	called := &peer{proto: "UDP", addr: at, name: "pbx"}
	got, from := expectDatagram(t, pbx, "Timer A", "INVITE")
	pbx.WriteToUDPAddrPort([]byte(called.newResponse(got, "486 Busy Here")), from)
	failure, _ := expectDatagram(t, c, "the end", "SIP/2.0 486")
	c.WriteToUDPAddrPort([]byte(inTransaction(invite, "ACK", failure.fieldValue("To"))), proxy)
	expectDatagram(t, pbx, "acknowledged", "ACK")
}

func TestUnreachablePhoneHarmsNoOtherCall(t *testing.T) { // errors of responses are no errors of requests
	pbx, at := openSocket(t)
	proxy, _ := startOnLoopback(t, sip.Addr{Proto: sip.UDP, AddrPort: at})
	gone, was := openSocket(t)
	left := &peer{proto: "UDP", addr: was}
	c, own := openSocket(t)
	phone := &peer{proto: "UDP", addr: own}
	called := &peer{proto: "UDP", addr: at, name: "pbx"}
	gone.WriteToUDPAddrPort([]byte(left.newRequest("MESSAGE", "sip:102@pbx.example")), proxy)
	first, from := expectDatagram(t, pbx, "sent on", "MESSAGE")
	gone.Close()
	pbx.WriteToUDPAddrPort([]byte(called.newResponse(first, "200 OK")), from)
	for range 20 {
		c.WriteToUDPAddrPort([]byte(phone.newRequest("MESSAGE", "sip:102@pbx.example")), proxy)
		got, _ := expectDatagram(t, pbx, "sent on", "MESSAGE")
		pbx.WriteToUDPAddrPort([]byte(called.newResponse(got, "200 OK")), from)
		expectDatagram(t, c, "answer", "SIP/2.0 200")
		pbx.WriteToUDPAddrPort([]byte(called.newResponse(first, "200 OK")), from)
	}
}

func TestLargeDatagramsAreForwarded(t *testing.T) { // RFC 3261 §18.1.1, row 34: up to 65,535 bytes both ways
	pbx, at := openSocket(t)
	proxy, _ := startOnLoopback(t, sip.Addr{Proto: sip.UDP, AddrPort: at})
	c, own := openSocket(t)
	phone := &peer{proto: "UDP", addr: own}
	called := &peer{proto: "UDP", addr: at, name: "pbx"}
	for _, size := range []int{1200, 1400, 9000, 60000, 64000} {
		body := string(bytes.Repeat([]byte{'x', 0, '\r', 0xff}, size/4))
		c.WriteToUDPAddrPort([]byte(phone.newRequest("MESSAGE", "sip:102@pbx.example", "", body)), proxy)
		got, from := expectDatagram(t, pbx, "sent on", "MESSAGE")
		if got.body() != body {
			t.Errorf("a body of %d bytes did not arrive as it left", size)
		}
		pbx.WriteToUDPAddrPort([]byte(called.newResponse(got, "200 OK", "", body)), from)
		if back, _ := expectDatagram(t, c, "answer", "SIP/2.0 200"); back.body() != body {
			t.Errorf("a body of %d bytes did not come back as it left", size)
		}
	}
}

func TestConnectionsComeAndGo(t *testing.T) { // nothing is left when clients vanish at any moment
	pbx, at := openSocket(t)
	_, proxy := startOnLoopback(t, sip.Addr{Proto: sip.UDP, AddrPort: at})
	called := &peer{proto: "UDP", addr: at, name: "pbx"}
	go func() { // answers all
		buf := make([]byte, 65536)
		for {
			n, from, err := pbx.ReadFromUDPAddrPort(buf)
			if err != nil {
				return
			}
			if m := text(buf[:n]); strings.HasPrefix(string(m), "MESSAGE") {
				pbx.WriteToUDPAddrPort([]byte(called.newResponse(m, "200 OK")), from)
			}
		}
	}()
	var messages []text
	for range 40 * 5 {
		messages = append(messages, (&peer{proto: "TCP", addr: at}).newRequest("MESSAGE", "sip:102@pbx.example"))
	}
	var clients sync.WaitGroup
	for i := range 40 {
		mine := messages[5*i : 5*i+5]
		clients.Go(func() {
			c, err := net.Dial("tcp", proxy.String())
			if err != nil {
				t.Error(err)
				return
			}
			defer c.Close()
			for j, m := range mine {
				c.Write([]byte(m))
				if (i+j)%7 == 0 {
					return // without waiting for the answer
				}
				if i%5 == 0 {
					c.Write([]byte("INVITE sip:x SIP/2.0\r\nContent-Length: -1\r\n\r\n"))
				}
				c.SetReadDeadline(time.Now().Add(5 * time.Second))
				if _, err := c.Read(make([]byte, 4096)); err != nil {
					return
				}
			}
		})
	}
	clients.Wait()
}

func TestLastResponseOnAStreamArrives(t *testing.T) { // RFC 3261 §18.3, row 5: 400, then closed
	_, at := openSocket(t)
	_, proxy := startOnLoopback(t, sip.Addr{Proto: sip.UDP, AddrPort: at})
	c, err := net.Dial("tcp", proxy.String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	bad := (&peer{proto: "TCP", addr: at}).newRequest("MESSAGE", "sip:102@pbx.example").replaced("Content-Length: 0", "Content-Length: 1\r\nl: 2")
	for _, b := range []byte(bad + bad) {
		if _, err := c.Write([]byte{b}); err != nil {
			t.Fatal(err)
		}
	}
	c.(*net.TCPConn).CloseWrite()
	c.SetReadDeadline(time.Now().Add(5 * time.Minute))
	got, err := io.ReadAll(c)
	if err != nil || !bytes.HasPrefix(got, []byte("SIP/2.0 400")) {
		t.Errorf("got %q, %v", got, err)
	}
}

func TestPortInUseIsReported(t *testing.T) {
	_, at := openSocket(t)
	_, err := sip.Listen(sip.Config{
		Listen: listenOn(sip.Addr{Proto: sip.UDP, AddrPort: at}),
		PBX:    []sip.Addr{{Proto: sip.UDP, AddrPort: at}},
		Key:    key,
	})
	if want := "cannot listen on udp://" + at.String() + ": the port is in use by another process"; err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

func TestListenReportsBadConfiguration(t *testing.T) {
	udp, tcp := sip.Addr{Proto: sip.UDP, AddrPort: loopback}, sip.Addr{Proto: sip.TCP, AddrPort: loopback}
	pbx := netip.MustParseAddrPort("127.0.0.1:5070")
	at5060 := sip.Addr{Proto: sip.UDP, AddrPort: netip.MustParseAddrPort("127.0.0.1:5060")}
	for _, tt := range []struct {
		name string
		cfg  sip.Config
		want string
	}{
		{"no key", sip.Config{Listen: listenOn(udp), PBX: []sip.Addr{udp}, Key: []byte("short")}, "sip: key has 5 bytes: use at least 32"},
		{"no listener", sip.Config{PBX: []sip.Addr{udp}, Key: key}, "sip: no listener or no PBX: configure at least one of each"},
		{"no PBX", sip.Config{Listen: listenOn(udp), Key: key}, "sip: no listener or no PBX: configure at least one of each"},
		{
			"a PBX over TCP and no TCP", sip.Config{Listen: listenOn(udp), PBX: []sip.Addr{{Proto: sip.TCP, AddrPort: pbx}}, Key: key},
			"sip: no listener can reach PBX tcp://127.0.0.1:5070: add a tcp listener of its address family",
		},
		{
			"a PBX over IPv6 and no IPv6", sip.Config{Listen: listenOn(udp, tcp), PBX: []sip.Addr{{Proto: sip.UDP, AddrPort: netip.MustParseAddrPort("[2001:db8::1]:5060")}}, Key: key},
			"sip: no listener can reach PBX udp://[2001:db8::1]:5060: add a udp listener of its address family",
		},
		{
			"a PBX at the address of a listener", sip.Config{Listen: listenOn(at5060), PBX: []sip.Addr{at5060}, Key: key, Net: siptest.NewNetwork()},
			"sip: PBX udp://127.0.0.1:5060 is the listener udp://127.0.0.1:5060 of bellhop: calls would loop: use the address of the PBX",
		},
		{
			"a trunk at an address of a listener on all addresses",
			sip.Config{
				Listen: listenOn(sip.Addr{Proto: sip.UDP, AddrPort: netip.MustParseAddrPort("0.0.0.0:5060")}), PBX: []sip.Addr{{Proto: sip.UDP, AddrPort: pbx}},
				Trunks: []sip.Trunk{{Name: "a", To: []sip.Addr{at5060}}}, Key: key, Net: siptest.NewNetwork(),
			},
			"sip: trunk udp://127.0.0.1:5060 is the listener udp://0.0.0.0:5060 of bellhop: calls would loop: use the address of the trunk",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			proxy, err := sip.Listen(tt.cfg)
			if err == nil {
				proxy.Close()
				t.Fatal("it listens")
			}
			assertEqual(t, "error", err.Error(), tt.want)
		})
	}
}
