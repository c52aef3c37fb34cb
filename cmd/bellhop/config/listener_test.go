package config

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"bellhop/sip"
)

func TestListenersOfBothFormsAreOpened(t *testing.T) {
	for _, tt := range []struct {
		name string
		text string
		want []string
	}{
		{"nothing", "", []string{"udp://127.0.0.1:5060  "}},
		{"lines", `[sip]
listen = ["udp://0.0.0.0:5060", "tcp://0.0.0.0:5060"]
advertise = "sip.example.com"`, []string{"udp://0.0.0.0:5060 sip.example.com ", "tcp://0.0.0.0:5060 sip.example.com "}},
		{"a table replaces the default", `[[listener]]
listen = "udp://0.0.0.0:5070"
advertise = "sip.example.com:5060"
[sip]
pbx = ["udp://127.0.0.1:5071"]`, []string{"udp://0.0.0.0:5070 sip.example.com:5060 "}},
		{"a table beside a line", `[sip]
listen = ["udp://127.0.0.1:5060"]
advertise = "203.0.113.1"
[[listener]]
listen = "udp://192.0.2.1:5060"
side = "both"
[[listener]]
listen = "udp://10.0.0.1:5060"
side = "pbx"
[[listener]]
listen = "udp://[2001:db8::1]:5060"
side = "edge"`, []string{"udp://127.0.0.1:5060 203.0.113.1 ", "udp://192.0.2.1:5060 203.0.113.1 both", "udp://10.0.0.1:5060  pbx", "udp://[2001:db8::1]:5060  edge"}},
		{"both families on all addresses", `sip.listen = ["udp://0.0.0.0:5060", "udp://[::]:5060"]
sip.advertise = "2001:db8::1"`, []string{"udp://0.0.0.0:5060  ", "udp://[::]:5060 [2001:db8::1] "}},
		{"TCP and WebSocket share an address", `sip.listen = ["udp://127.0.0.1:5060", "tcp://192.0.2.1:80", "ws://192.0.2.1"]`, []string{"udp://127.0.0.1:5060  ", "tcp://192.0.2.1:80  ", "ws://192.0.2.1:80  "}},
		{"the PBX's name is its own", `sip.advertise = "sip.example.com"
listener = [{listen = "udp://127.0.0.1:5060", advertise = "inside.example", side = "pbx"}, {listen = "udp://192.0.2.1:5060"}]`, []string{"udp://127.0.0.1:5060 inside.example pbx", "udp://192.0.2.1:5060 sip.example.com "}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, err := Parse("c", tt.text)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, l := range c.Listeners() {
				got = append(got, fmt.Sprintf("%v %v %v", l.Addr, l.Advertise, l.Side))
			}
			if !slices.Equal(got, tt.want) {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

// TestOnlyAddressesOfThisMachineLoop checks that a PBX and a trunk may have the port of a
// listener on all addresses, unless their address is one of this machine.
func TestOnlyAddressesOfThisMachineLoop(t *testing.T) {
	const text = `[sip]
listen = ["udp://0.0.0.0:5060", "tcp://0.0.0.0:5060", "udp://[::]:5060", "tcp://[::]:5060"]
pbx = [%q]
[[trunk]]
name = "carrier"
to = [%q]`
	for _, proto := range []string{"udp", "tcp"} {
		for _, host := range []string{"198.51.100.1", "[2001:db8:5::1]"} {
			pbx, trunk := proto+"://"+host+":5060", "udp://203.0.113.1:5060"
			if _, err := Parse("c", fmt.Sprintf(text, pbx, trunk)); err != nil {
				t.Errorf("PBX at %s: %v", pbx, err)
			}
			if _, err := Parse("c", fmt.Sprintf(text, trunk, pbx)); err != nil {
				t.Errorf("trunk at %s: %v", pbx, err)
			}
		}
	}
	own, err := net.InterfaceAddrs()
	if err != nil || len(own) == 0 {
		t.Fatalf("no addresses of this machine: %v", err)
	}
	for _, o := range own {
		a := sip.Addr{Proto: sip.TCP, AddrPort: netip.AddrPortFrom(netip.MustParsePrefix(o.String()).Addr(), 5060)}
		listener := "tcp://0.0.0.0:5060"
		if a.Addr().Is6() {
			listener = "tcp://[::]:5060"
		}
		for _, tt := range []struct{ pbx, trunk, want string }{
			{a.String(), "udp://203.0.113.1:5060", "c:3:8: sip.pbx: %v is bellhop's own listener %s: calls would loop: use the PBX's address, or change sip.listen"},
			{"udp://198.51.100.1:5060", a.String(), "c:6:7: trunk.to: %v is bellhop's own listener %s: calls would loop: use the carrier's address"},
		} {
			_, err := Parse("c", fmt.Sprintf(text, tt.pbx, tt.trunk))
			if want := fmt.Sprintf(tt.want, a, listener); fmt.Sprint(err) != want {
				t.Errorf("got  %v\nwant %s", err, want)
			}
		}
	}
}

func TestListenerOfBrowsers(t *testing.T) {
	c, err := Parse("c", `[[listener]]
listen = "udp://127.0.0.1:5060"
[[listener]]
listen = "ws://192.0.2.1:8080"
origins = ["https://Phone.example.com:443", "http://localhost:3000"]
proxy_from = ["192.0.2.9", "2001:db8::/64"]`)
	if err != nil {
		t.Fatal(err)
	}
	l := c.Listeners()[1]
	if got := fmt.Sprint(l.Origins, l.ProxyFrom); got != "[https://phone.example.com http://localhost:3000] [192.0.2.9/32 2001:db8::/64]" {
		t.Errorf("got %s", got)
	}
}

func TestAllAddressesWithoutANameAreAWarning(t *testing.T) {
	for _, tt := range []struct {
		text string
		want string
	}{
		{`sip.listen = ["udp://127.0.0.1:5060"]`, ""},
		{`sip.listen = ["udp://0.0.0.0:5060"]` + "\n" + `sip.advertise = "sip.example.com"`, ""},
		{`sip.listen = ["udp://127.0.0.1:5060", "udp://0.0.0.0:5062"]`, "c:1:39: sip.listen: udp://0.0.0.0:5062 has no advertised name: each phone is given the address of this machine to which it sends. If phones come through a NAT in front of bellhop, set sip.advertise"},
		{`sip.listen = ["udp://127.0.0.1:5060"]` + "\n[[listener]]\nlisten = \"udp://[::]:5060\"", "c:3:10: listener.listen: udp://[::]:5060 has no advertised name: each phone is given the address of this machine to which it sends. If phones come through a NAT in front of bellhop, set advertise"},
		{`sip.listen = ["udp://192.0.2.1:5060"]` + "\n[[listener]]\nlisten = \"udp://0.0.0.0:5061\"\nside = \"pbx\"", ""},
	} {
		c, r, err := parse("c", tt.text)
		if err != nil {
			t.Fatal(err)
		}
		c.warnListeners(r.addProblem)
		if got := strings.TrimSpace(r.problems.Error()); got != tt.want {
			t.Errorf("%s:\n got %q\nwant %q", tt.text, got, tt.want)
		}
	}
}

func TestListenerNeedsTheSideOfThePBXToReachIt(t *testing.T) {
	var pbx, l sip.Listener
	pbx.Addr.UnmarshalText([]byte("udp://192.0.2.1:5060"))
	l.Addr.UnmarshalText([]byte("udp://192.0.2.2:5060"))
	for side, want := range map[sip.ListenerSide]bool{"": true, sip.BothSides: true, sip.PBXListener: true, sip.EdgeListener: false} {
		if l.Side = side; l.ReachesPBX(pbx.Addr) != want {
			t.Errorf("a listener of side %q reaches the PBX: want %v", side, want)
		}
	}
}
