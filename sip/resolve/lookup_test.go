package resolve_test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"bellhop/sip/resolve"
)

// TestAddresses tests which records are read for a target (RFC 3263 §4).
func TestAddresses(t *testing.T) {
	udp := func(host string, port uint16) resolve.Target {
		return resolve.Target{Host: host, Port: port, Transport: resolve.UDP}
	}
	for _, tt := range []struct {
		name, zone string
		target     resolve.Target
		want       []string
		reason     string // of the failure, if there is no address
	}{
		{"address", ``, udp("192.0.2.7", 0), []string{"udp://192.0.2.7:5060"}, ""},
		{"IPv6 address", ``, udp("[2001:db8::7]", 5070), []string{"udp://[2001:db8::7]:5070"}, ""},
		{"address of a SIPS URI", ``, resolve.Target{Host: "192.0.2.7", Secure: true}, []string{"tls://192.0.2.7:5061"}, ""},
		{"port", `a.example. 60 A 192.0.2.1
			_sip._udp.a.example. 60 SRV 0 0 9 b.example.
			b.example. 60 A 192.0.2.2`, udp("a.example", 5070), []string{"udp://192.0.2.1:5070"}, ""},
		{"no SRV record", `a.example. 60 A 192.0.2.1`, udp("a.example", 0), []string{"udp://192.0.2.1:5060"}, ""},
		{"upper case and final dot", `a.example. 60 A 192.0.2.1`, udp("A.Example.", 0), []string{"udp://192.0.2.1:5060"}, ""},
		{"TLS without SRV record", `a.example. 60 A 192.0.2.1`, resolve.Target{Host: "a.example", Transport: resolve.TLS}, []string{"tls://192.0.2.1:5061"}, ""},
		{"SRV of TLS is _sips._tcp", `_sips._tcp.a.example. 60 SRV 0 0 5071 b.example.
			b.example. 60 A 192.0.2.2`, resolve.Target{Host: "a.example", Transport: resolve.TLS}, []string{"tls://192.0.2.2:5071"}, ""},
		{"SRV by priority", `_sip._udp.a.example. 60 SRV 20 0 5072 c.example.
			_sip._udp.a.example. 60 SRV 10 0 5071 b.example.
			b.example. 60 A 192.0.2.2
			c.example. 60 A 192.0.2.3`, udp("a.example", 0), []string{"udp://192.0.2.2:5071", "udp://192.0.2.3:5072"}, ""},
		{"SRV target without address", `_sip._udp.a.example. 60 SRV 10 0 5071 b.example.
			_sip._udp.a.example. 60 SRV 20 0 5072 c.example.
			c.example. 60 A 192.0.2.3`, udp("a.example", 0), []string{"udp://192.0.2.3:5072"}, ""},
		{"no SRV target has an address", `_sip._udp.a.example. 60 SRV 10 0 5071 b.example.
			a.example. 60 A 192.0.2.1`, udp("a.example", 0), nil, "has no address"},
		{"SRV port 0", `_sip._udp.a.example. 60 SRV 10 0 0 b.example.
			b.example. 60 A 192.0.2.2
			a.example. 60 A 192.0.2.1`, udp("a.example", 0), []string{"udp://192.0.2.1:5060"}, ""},
		{"service declined", `_sip._udp.a.example. 60 SRV 0 0 0 .
			a.example. 60 A 192.0.2.1`, udp("a.example", 0), nil, "offers no SIP service"},
		{"two families alternate", `a.example. 60 A 192.0.2.1
			a.example. 60 A 192.0.2.2
			a.example. 60 AAAA 2001:db8::1
			a.example. 60 AAAA 2001:db8::2`, udp("a.example", 5060),
			[]string{"udp://[2001:db8::1]:5060", "udp://192.0.2.1:5060", "udp://[2001:db8::2]:5060", "udp://192.0.2.2:5060"}, ""},
		{"alias", `a.example. 60 CNAME b.example.
			b.example. 60 A 192.0.2.2`, udp("a.example", 0), []string{"udp://192.0.2.2:5060"}, ""},
		{"alias of an SRV target", `_sip._udp.a.example. 60 SRV 0 0 5071 b.example.
			b.example. 60 CNAME c.example.
			c.example. 60 A 192.0.2.3`, udp("a.example", 0), []string{"udp://192.0.2.3:5071"}, ""},
		{"aliases in a loop", `a.example. 60 CNAME b.example.
			b.example. 60 CNAME a.example.`, udp("a.example", 0), nil, "has no address"},
		{"NAPTR by order", `a.example. 60 NAPTR 20 0 "s" "SIP+D2U" "" _sip._udp.b.example.
			a.example. 60 NAPTR 10 0 "S" "sip+d2t" "" _sip._tcp.b.example.
			_sip._udp.b.example. 60 SRV 0 0 5071 c.example.
			_sip._tcp.b.example. 60 SRV 0 0 5072 c.example.
			c.example. 60 A 192.0.2.3`, resolve.Target{Host: "a.example"}, []string{"tcp://192.0.2.3:5072"}, ""},
		{"NAPTR of other services", `a.example. 60 NAPTR 10 0 "s" "SIP+D2S" "" _sip._sctp.b.example.
			a.example. 60 NAPTR 10 0 "u" "E2U+sip" "!^.*$!sip:b.example!" .
			_sip._tcp.a.example. 60 SRV 0 0 5072 c.example.
			c.example. 60 A 192.0.2.3`, resolve.Target{Host: "a.example"}, []string{"tcp://192.0.2.3:5072"}, ""},
		{"SIPS URI takes TLS only", `a.example. 60 NAPTR 10 0 "s" "SIP+D2U" "" _sip._udp.b.example.
			a.example. 60 NAPTR 20 0 "s" "SIPS+D2T" "" _sips._tcp.b.example.
			_sip._udp.b.example. 60 SRV 0 0 5071 c.example.
			_sips._tcp.b.example. 60 SRV 0 0 5073 c.example.
			c.example. 60 A 192.0.2.3`, resolve.Target{Host: "a.example", Secure: true}, []string{"tls://192.0.2.3:5073"}, ""},
		{"neither transport nor records", `a.example. 60 A 192.0.2.1`, resolve.Target{Host: "a.example"}, []string{"udp://192.0.2.1:5060"}, ""},
		{"unknown name", ``, udp("a.example", 0), nil, "has no address"},
		{"useless addresses", `a.example. 60 A 0.0.0.0
			a.example. 60 A 224.0.0.1
			a.example. 60 AAAA ::ffff:192.0.2.1`, udp("a.example", 5060), nil, "has no address"},
		{"no name", ``, udp("a b", 0), nil, "not a host name"},
		{"empty label", ``, udp("a..example", 0), nil, "not a host name"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			run(t, tt.zone, func(b *testbed) {
				if tt.reason != "" {
					b.wantError(tt.name, tt.target, tt.reason)
					return
				}
				b.want(tt.name, tt.target, tt.want...)
			})
		})
	}
}

func TestFamiliesOfListeners(t *testing.T) {
	zone := `a.example. 60 A 192.0.2.1
		a.example. 60 AAAA 2001:db8::1`
	run(t, zone, func(b *testbed) {
		b.want("only IPv4 is listened on", resolve.Target{Host: "a.example", Port: 5060, Transport: resolve.UDP}, "udp://192.0.2.1:5060")
		if n := b.server.Questions("AAAA a.example"); n != 0 {
			t.Errorf("%d questions for AAAA, want none", n)
		}
		b.wantError("no listener has TCP", resolve.Target{Host: "a.example", Transport: resolve.TCP}, "no listener has the transport")
		tcp := resolve.Target{Host: "b.example", Transport: resolve.TCP}
		if a := b.Lookup(tcp, func(resolve.Answer) {}); a.Pending() {
			t.Error("a transport without a listener needs a lookup")
		}
		if _, err := b.Watch(tcp, nil); err == nil {
			t.Error("a name is watched that can never have an address")
		}
		b.wantError("numeric, other family", resolve.Target{Host: "2001:db8::1", Transport: resolve.UDP}, "no listener has transport udp")
	}, func(c *resolve.Config) {
		c.Families = map[resolve.Transport]resolve.Families{resolve.UDP: {IPv4: true}}
	})
}

// TestWeights tests that hosts of one priority share the load by weight (RFC 2782).
func TestWeights(t *testing.T) {
	run(t, `_sip._udp.a.example. 60 SRV 10 60 5060 big.example.
		_sip._udp.a.example. 60 SRV 10 30 5060 small.example.
		_sip._udp.a.example. 60 SRV 10 0 5060 none.example.
		_sip._udp.a.example. 60 SRV 20 99 5060 last.example.
		big.example. 60 A 192.0.2.60
		small.example. 60 A 192.0.2.30
		none.example. 60 A 192.0.2.10
		last.example. 60 A 192.0.2.20`, func(b *testbed) {
		a := b.lookup(resolve.Target{Host: "a.example", Transport: resolve.UDP}, time.Minute)
		random := rand.New(rand.NewPCG(1, 2)).IntN
		first := map[string]int{}
		const n = 30000
		for range n {
			list := a.AppendAddrs(nil, random)
			if len(list) != 4 || list[3].Addr() != netip.MustParseAddr("192.0.2.20") {
				t.Fatalf("order %v, want all of priority 10, then 192.0.2.20", list)
			}
			first[list[0].Addr().String()]++
		}
		for addr, share := range map[string]float64{"192.0.2.60": 60. / 91, "192.0.2.30": 30. / 91, "192.0.2.10": 1. / 91} {
			if got := float64(first[addr]) / n; got < share*0.9 || got > share*1.1 {
				t.Errorf("%s came first in %.3f of the orders, want about %.3f", addr, got, share)
			}
		}
	})
}

func TestHostsAndAddressesAreBounded(t *testing.T) {
	zone := ""
	for i := range 60 {
		zone += fmt.Sprintf("_sip._udp.a.example. 60 SRV %d 0 5060 h%d.example.\n", i, i)
		for j := range 30 {
			zone += fmt.Sprintf("h%d.example. 60 A 10.0.%d.%d\n", i, i, j+1)
		}
	}
	run(t, zone, func(b *testbed) {
		a := b.lookup(resolve.Target{Host: "a.example", Transport: resolve.UDP}, time.Minute)
		if n := len(addrs(a)); n == 0 || n > 32*16 {
			t.Errorf("%d addresses, want at most 512", n)
		}
	})
}
