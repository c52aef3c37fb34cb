package sip_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"bellhop/sip"
)

// anyAddr is a proxy on all IPv4 addresses of the machine, between a phone at 127.0.0.9
// and a PBX at 127.0.0.1, on real sockets.
type anyAddr struct {
	t           *testing.T
	port        uint16
	phone, pbx  *net.UDPConn
	atPhone     *peer
	atPBX       *peer
	stop, start func()
}

func newAnyAddr(t *testing.T) *anyAddr {
	t.Helper()
	a := &anyAddr{t: t}
	open := func(ip string) (*net.UDPConn, netip.AddrPort) {
		c, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.MustParseAddrPort(ip+":0")))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c, c.LocalAddr().(*net.UDPAddr).AddrPort()
	}
	var phoneAt, pbxAt netip.AddrPort
	a.phone, phoneAt = open("127.0.0.9")
	a.pbx, pbxAt = open("127.0.0.1")
	a.atPhone = &peer{proto: "UDP", addr: phoneAt, name: "phone"}
	a.atPBX = &peer{proto: "UDP", addr: pbxAt, name: "pbx"}
	a.start = func() {
		proxy, err := sip.Listen(sip.Config{
			Listen: listenOn(sip.Addr{Proto: sip.UDP, AddrPort: netip.AddrPortFrom(netip.IPv4Unspecified(), a.port)}),
			PBX:    []sip.Addr{{Proto: sip.UDP, AddrPort: pbxAt}},
			Key:    key,
			Log:    slog.New(slog.NewTextHandler(io.Discard, nil)),
		})
		if err != nil {
			t.Fatal(err)
		}
		a.port = proxy.Addrs()[0].Port()
		ctx, cancel := context.WithCancel(context.Background())
		var run sync.WaitGroup
		run.Go(func() { proxy.Run(ctx) })
		a.stop = sync.OnceFunc(func() {
			cancel()
			run.Wait()
		})
	}
	a.start()
	t.Cleanup(func() { a.stop() })
	return a
}

// at returns the proxy's socket address at an IP address.
func (a *anyAddr) at(ip string) netip.AddrPort {
	return netip.AddrPortFrom(netip.MustParseAddr(ip), a.port)
}

// ask sends a message of the phone to the proxy at an IP address.
func (a *anyAddr) ask(ip string, m text) { a.phone.WriteToUDPAddrPort([]byte(m), a.at(ip)) }

// expectFrom reads a message of the phone, which must come from an IP address.
func (a *anyAddr) expectFrom(ip, what, start string) text {
	a.t.Helper()
	m, from := expectDatagram(a.t, a.phone, what, start)
	if from != a.at(ip) {
		a.t.Errorf("%s: it comes from %s, want %s", what, from, a.at(ip))
	}
	return m
}

// answerNext answers the next request that the PBX receives, and returns it.
func (a *anyAddr) answerNext(start, status string) text {
	a.t.Helper()
	got, from := expectDatagram(a.t, a.pbx, "it goes to the PBX", start)
	if from != a.at("127.0.0.1") {
		a.t.Errorf("%s leaves from %s, want %s", start, from, a.at("127.0.0.1"))
	}
	assertEqual(a.t, "Via to the PBX", sentBy(got), a.at("127.0.0.1").String())
	a.pbx.WriteToUDPAddrPort([]byte(a.atPBX.newResponse(got, status)), from)
	return got
}

func TestAnyAddressAnswersFromTheAddressAsked(t *testing.T) { // RFC 3581 §4
	a := newAnyAddr(t)
	for _, ip := range []string{"127.0.0.5", "127.0.0.1", "127.0.0.6", "127.0.0.5"} {
		a.ask(ip, a.atPhone.newRequest("OPTIONS", "sip:"+a.at(ip).String()))
		a.expectFrom(ip, "our own answer", "SIP/2.0 200")
		a.ask(ip, a.atPhone.newRequest("MESSAGE", "sip:102@pbx.example"))
		a.answerNext("MESSAGE", "200 OK")
		a.expectFrom(ip, "the answer of the PBX", "SIP/2.0 200")
	}
}

// Requests to a phone leave from the address that the phone has sent to, also after a
// restart. The phone knows the proxy by that address.
func TestAnyAddressKeepsTheAddressOfAFlow(t *testing.T) { // RFC 5626 §5.3
	a := newAnyAddr(t)
	const ip = "127.0.0.5"
	a.ask(ip, a.atPhone.newRequest("REGISTER", "sip:pbx.example", "To: <sip:101@pbx.example>"))
	register := a.answerNext("REGISTER", "200 OK")
	a.expectFrom(ip, "registered", "SIP/2.0 200")
	a.ask(ip, a.atPhone.newInvite())
	invite := a.answerNext("INVITE", "200 OK")
	ok := a.expectFrom(ip, "answer", "SIP/2.0 200")
	assertEqual(t, "Record-Route", hosts(ok), a.at("127.0.0.1").String()+" "+a.at(ip).String())
	a.ask(ip, a.atPhone.callerRequest(ok, "ACK"))
	ack, _ := expectDatagram(t, a.pbx, "its ACK", "ACK")
	assertEqual(t, "Route of the ACK", ack.fieldValue("Route"), "")
	for _, life := range []string{"first process", "second process"} {
		for _, m := range []text{
			a.atPBX.newRequest("MESSAGE", "sip:101@127.0.0.9", "Route: "+register.fieldValue("Path")),
			a.atPBX.calleeRequest(invite, "INFO"),
		} {
			a.pbx.WriteToUDPAddrPort([]byte(m), a.at("127.0.0.1"))
			got := a.expectFrom(ip, life, m.method())
			assertEqual(t, life+": Via", sentBy(got), a.at(ip).String())
			assertEqual(t, life+": Route", got.fieldValue("Route"), "")
			a.ask(ip, a.atPhone.newResponse(got, "200 OK"))
			expectDatagram(t, a.pbx, life, "SIP/2.0 200")
		}
		a.stop()
		a.start()
	}
	a.ask(ip, a.atPhone.callerRequest(ok, "BYE"))
	a.answerNext("BYE", "200 OK")
	a.expectFrom(ip, "the phone hangs up", "SIP/2.0 200")
}

// A listener on all IPv6 addresses leaves IPv4 to another one.
func TestAnyIPv6AddressIsIPv6Only(t *testing.T) {
	var cfg sip.Config
	v4 := netip.MustParseAddrPort("127.0.0.1:5070")
	c, err := net.ListenUDP("udp6", net.UDPAddrFromAddrPort(netip.MustParseAddrPort("[::1]:0")))
	if errors.Is(err, syscall.EADDRNOTAVAIL) || errors.Is(err, syscall.EAFNOSUPPORT) {
		t.Skipf("the machine has no [::1]: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	own := c.LocalAddr().(*net.UDPAddr).AddrPort()
	cfg.PBX, cfg.Key, cfg.Log = []sip.Addr{{Proto: sip.UDP, AddrPort: v4}}, key, slog.New(slog.NewTextHandler(io.Discard, nil))
	var proxy *sip.Proxy
	for range 20 { // another process may have the port of TCP, or take it first
		free, _ := openSocket(t)
		port := free.LocalAddr().(*net.UDPAddr).AddrPort().Port()
		free.Close()
		cfg.Listen = nil
		for _, ip := range []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()} {
			at := netip.AddrPortFrom(ip, port)
			cfg.Listen = append(cfg.Listen, listenOn(sip.Addr{Proto: sip.UDP, AddrPort: at}, sip.Addr{Proto: sip.TCP, AddrPort: at})...)
		}
		if proxy, err = sip.Listen(cfg); !errors.Is(err, syscall.EADDRINUSE) {
			break
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var run sync.WaitGroup
	run.Go(func() { proxy.Run(ctx) })
	defer run.Wait()
	defer cancel()
	phone := &peer{proto: "UDP", addr: own}
	at := netip.AddrPortFrom(netip.IPv6Loopback(), cfg.Listen[2].Port())
	c.WriteToUDPAddrPort([]byte(phone.newRequest("OPTIONS", "sip:"+at.String())), at)
	if _, from := expectDatagram(t, c, "our own answer", "SIP/2.0 200"); from != at {
		t.Errorf("asked %s, answered from %s", at, from)
	}
	stream, err := net.DialTimeout("tcp", at.String(), time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Close()
	stream.Write([]byte((&peer{proto: "TCP", addr: own}).newRequest("OPTIONS", "sip:"+at.String())))
	stream.SetReadDeadline(time.Now().Add(5 * time.Minute))
	buf := make([]byte, 4096)
	if n, err := stream.Read(buf); err != nil || !strings.HasPrefix(string(buf[:n]), "SIP/2.0 200") {
		t.Errorf("over TCP: %q, %v", buf[:n], err)
	}
}

// A listener may have an address that the machine does not have yet.
func TestListenerWaitsForItsAddress(t *testing.T) {
	var log bytes.Buffer
	absent := netip.MustParseAddrPort("192.0.2.77:0")
	proxy, err := sip.Listen(sip.Config{
		Listen: listenOn(sip.Addr{Proto: sip.UDP, AddrPort: absent}, sip.Addr{Proto: sip.TCP, AddrPort: absent}, sip.Addr{Proto: sip.UDP, AddrPort: loopback}),
		PBX:    []sip.Addr{{Proto: sip.UDP, AddrPort: netip.MustParseAddrPort("192.0.2.78:5060")}},
		Key:    key,
		Log:    slog.New(slog.NewTextHandler(&log, nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	defer proxy.Close()
	for i, a := range proxy.Addrs()[:2] {
		if a.Addr() != absent.Addr() || a.Port() == 0 {
			t.Errorf("listener %d is at %v", i, a)
		}
	}
	if n := strings.Count(log.String(), "listener address not assigned"); n != 2 {
		t.Errorf("%d warnings, want 2: %s", n, &log)
	}
}
