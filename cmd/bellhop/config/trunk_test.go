package config

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestTrunksOfProxy checks the settings of a trunk as the proxy gets them.
func TestTrunksOfProxy(t *testing.T) {
	c, err := Parse("c", `sip.advertise = "sip.example.com"
trunk = [
	{name = "a", to = ["udp://127.0.0.9:5060"], sources = ["192.0.2.0/24"], contact = "ours", max_cps = 30},
	{name = "b", to = ["udp://127.0.0.10:5060"], sources = ["127.0.0.10", "192.0.3.0/24"], probe = "30s"},
	{name = "c", sources = ["192.0.4.0/24"], probe = "0s", contact = ""},
]`)
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []string{
		"a [192.0.2.0/24] [udp://127.0.0.9:5060] 1m0s true 30",
		"b [127.0.0.10/32 192.0.3.0/24] [udp://127.0.0.10:5060] 30s false 0",
		"c [192.0.4.0/24] [] 0s false 0",
	} {
		trunk := c.Trunks()[i]
		if got := fmt.Sprint(trunk.Name, trunk.Sources, trunk.To, trunk.Probe, trunk.OwnContact, trunk.MaxCPS); strings.ReplaceAll(got, " ", "") != strings.ReplaceAll(want, " ", "") {
			t.Errorf("got %s\nwant %s", got, want)
		}
	}
	if c.NAT.KeepAlive != Duration(25*time.Second) {
		t.Errorf("nat.keepalive: %v", c.NAT.KeepAlive)
	}
	if c, err = Parse("c", `nat.keepalive = "0s"`); err != nil || c.NAT.KeepAlive != 0 {
		t.Errorf("nat.keepalive: %v, %v", c.NAT.KeepAlive, err)
	}
}

// TestWarnsOfUDPMax checks that a PBX that large requests cannot reach over TCP is reported.
func TestWarnsOfUDPMax(t *testing.T) {
	for _, tt := range []struct {
		listen string
		want   string
	}{
		{`"udp://127.0.0.1:5060"`, `:2:11: sip.udp_max: no listener reaches udp://127.0.0.1:5070 over TCP, so that requests of any size leave over UDP: add to sip.listen a tcp:// listener on an IPv4 loopback address or on 0.0.0.0`},
		{`"udp://127.0.0.1:5060", "tcp://127.0.0.1:5060"`, ""},
	} {
		path := filepath.Join(t.TempDir(), "c")
		if err := os.WriteFile(path, fmt.Appendf(nil, "[sip]\nudp_max = 1300\nlisten = [%s]", tt.listen), 0o600); err != nil {
			t.Fatal(err)
		}
		_, warnings, err := Check(path)
		got := strings.TrimPrefix(warnings.Error(), path)
		if err != nil || got != tt.want {
			t.Errorf("%s: got %q, %v", tt.listen, got, err)
		}
	}
}
