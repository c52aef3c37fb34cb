package main

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"bellhop/sip"
)

// TestReloadsPBXAndNameServers changes sip.pbx, dns.servers and advertise while bellhop runs.
// Calls go to the PBX that there is now, and the log names no key that needs a restart.
func TestReloadsPBXAndNameServers(t *testing.T) {
	t.Parallel()
	s := newSite(t, sip.UDP, sip.UDP)
	p := s.serve()
	text, err := os.ReadFile(filepath.Join(s.dir, "config.toml"))
	if err != nil {
		t.Fatal(err)
	}
	second := newPeer(t, netip.MustParseAddrPort("127.0.0.3:0"))
	pbx := fmt.Sprintf("pbx = [%q]", s.pbx)
	reload := func(other, applied, later string) {
		t.Helper()
		before := len(p.out.String())
		s.write("config.toml", strings.Replace(string(text), pbx, other, 1))
		p.signal(syscall.SIGHUP)
		s.eventually("the change is in force", func() bool {
			return strings.Contains(p.out.String()[before:], fmt.Sprintf(`"config reloaded","applied":%q,"needs_restart":%q`, applied, later))
		})
	}
	reload(fmt.Sprintf("advertise = \"sip.example.com\"\npbx = [\"udp://%v\"]\n[dns]\nservers = [\"127.0.0.3\"]", second.c.LocalAddr()), "sip.advertise sip.pbx dns.servers", "")
	phone := newPeer(t, netip.MustParseAddrPort("127.0.0.5:0"))
	phone.send(s.hop, "MESSAGE sip:102@pbx.example SIP/2.0",
		fmt.Sprintf("Via: SIP/2.0/UDP %v;branch=z9hG4bK-1", phone.c.LocalAddr()),
		"From: <sip:101@pbx.example>;tag=1", "To: <sip:102@pbx.example>", "Call-ID: after-reload", "CSeq: 1 MESSAGE", "Max-Forwards: 70")
	second.gets("MESSAGE sip:102@pbx.example SIP/2.0")

	reload("pbx = [\"udp://[::1]:5070\"]\n[[listener]]\nlisten = \"udp://[::1]:5060\"", "sip.advertise dns.servers", "sip.pbx listener")
	if out := p.out.String(); !strings.Contains(out, `"PBXs not replaced","err":"sip: no listener can reach PBX udp://[::1]:5070: `) {
		t.Errorf("the log does not say why the PBX is not replaced:\n%s", out)
	}
	reload(pbx, "sip.pbx", "")
	p.stop()
}
