//go:build interop

package main

import (
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"bellhop/sip"
)

// TestInteropAnyIPv6Address places calls through a bellhop on [::] that has several
// addresses. Whatever a phone gets comes from the address that it sends to, and whatever the
// PBX gets from the address that the PBX sends to.
func TestInteropAnyIPv6Address(t *testing.T) {
	s := newSite(t, sip.UDP, sip.UDP)
	const pbxSends, phoneAt = "::1", "2001:db8::9"
	asked := []string{"2001:db8::5", "2001:db8::6"}
	for _, ip := range append(asked, phoneAt) {
		t.Cleanup(func() { s.shell("ip", "addr", "del", ip+"/128", "dev", "lo") })
		s.shell("ip", "addr", "replace", ip+"/128", "dev", "lo", "nodad")
	}
	s.pbx = sip.Addr{Proto: sip.UDP, AddrPort: freePort(t, "::1")}
	s.hop = freePort(t, "::")
	s.configure("")
	p := s.serve()
	s.subscribe("json", "POST", "dial-out", "answer", "hangup")
	pbx := newPeer(t, s.pbx.AddrPort)
	phone := newPeer(t, netip.AddrPortFrom(netip.MustParseAddr(phoneAt), 0))
	gets := func(p *peer, from, begin string) []string {
		t.Helper()
		lines := p.gets(begin)
		if want := netip.AddrPortFrom(netip.MustParseAddr(from), s.hop.Port()); p.source != want {
			t.Errorf("%s comes from %v, want %v", lines[0], p.source, want)
		}
		return lines
	}
	for i, ip := range asked {
		to := *s
		to.hop = netip.AddrPortFrom(netip.MustParseAddr(ip), s.hop.Port())
		toPBX := *s
		toPBX.hop = netip.AddrPortFrom(netip.MustParseAddr(pbxSends), s.hop.Port())

		phone.invite(&to, fmt.Sprintf("call-%d", i))
		invite := gets(pbx, pbxSends, "INVITE ")
		pbx.reply(&toPBX, invite, "180 Ringing")
		gets(phone, ip, "SIP/2.0 180 ")
		pbx.send(toPBX.hop, append([]string{"SIP/2.0 200 OK", fmt.Sprintf("Contact: <sip:102@%v>", s.pbx.AddrPort), fieldsOf(invite, "To")[0] + ";tag=pbx"},
			fieldsOf(invite, "Via", "From", "Call-ID", "CSeq", "Record-Route")...)...)
		ok := gets(phone, ip, "SIP/2.0 200 ")
		phone.send(to.hop, inDialog("ACK", ok, true, phone.c.LocalAddr(), "UDP")...)
		gets(pbx, pbxSends, "ACK ")
		pbx.send(toPBX.hop, inDialog("INFO", invite, false, pbx.c.LocalAddr(), "UDP")...)
		phone.reply(&to, gets(phone, ip, "INFO "), "200 OK")
		gets(pbx, pbxSends, "SIP/2.0 200 ")
		phone.send(to.hop, inDialog("BYE", ok, true, phone.c.LocalAddr(), "UDP")...)
		pbx.reply(&toPBX, gets(pbx, pbxSends, "BYE "), "200 OK")
		gets(phone, ip, "SIP/2.0 200 ")
	}
	s.receiver.wait("the events of two calls", patience, func(came []received) bool { return len(came) == 6 })
	p.stop()
}

// TestInteropVanishedPhone cuts a phone off in a call over TCP, without FIN or RST, and does
// not bring it back. Linux notices that. The BYE of the PBX is answered 430 before the PBX
// gives up waiting, and the call has its hangup.
func TestInteropVanishedPhone(t *testing.T) {
	s := newSite(t, sip.TCP, sip.UDP)
	p := s.serve()
	s.subscribe("json", "POST", "dial-out", "answer", "hangup")
	pbx := newPeer(t, s.pbx.AddrPort)
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 2)}}
	c, err := dialer.Dial("tcp", s.hop.String())
	if err != nil {
		t.Fatal(err)
	}
	phone := newStreamPeer(t, c)
	phone.send("INVITE sip:102@pbx.example SIP/2.0",
		fmt.Sprintf("Via: SIP/2.0/TCP %v;branch=z9hG4bK-vanishes", c.LocalAddr()),
		"From: <sip:101@pbx.example>;tag=phone", "To: <sip:102@pbx.example>", "Call-ID: vanishes", "CSeq: 1 INVITE",
		"Max-Forwards: 70", fmt.Sprintf("Contact: <sip:101@%v;transport=tcp>", c.LocalAddr()))
	invite := pbx.gets("INVITE ")
	pbx.reply(s, invite, "200 OK")
	ok := phone.gets("SIP/2.0 200 ")
	ok = append(ok, fmt.Sprintf("Contact: <sip:102@%v>", s.pbx.AddrPort))
	phone.send(inDialog("ACK", ok, true, c.LocalAddr(), "TCP")...)
	pbx.gets("ACK ")

	vanish(t, c.(*net.TCPConn))
	began := time.Now()
	pbx.send(s.hop, inDialog("BYE", invite, false, pbx.c.LocalAddr(), "UDP")...)
	s.receiver.wait("the call has its hangup", 10*time.Second, func(came []received) bool { return len(came) == 3 })
	pbx.gets("SIP/2.0 430 ")
	took := time.Since(began)
	t.Logf("the BYE is answered after %v", took)
	if took > 32*time.Second {
		t.Errorf("the BYE is answered after %v", took)
	}
	p.stop()
	for _, c := range s.once(1, "dial-out 1", "answer 2", "hangup 3") {
		if c.get("EventType") == "hangup" && c.get("CallStatus") != "ANSWER" {
			t.Errorf("hangup is %v", c.fields)
		}
	}
}

// vanish makes the kernel drop whatever comes to a connection. Its peer gets no
// acknowledgment, as if this machine had lost its power.
func vanish(t *testing.T, c *net.TCPConn) {
	t.Helper()
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	dropAll := unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: 0}
	if e := raw.Control(func(fd uintptr) {
		err = unix.SetsockoptSockFprog(int(fd), syscall.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: 1, Filter: &dropAll})
	}); e != nil || err != nil {
		t.Fatal(e, err)
	}
}
