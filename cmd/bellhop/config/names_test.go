package config

import (
	"context"
	"net"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"

	"bellhop/sip"
	"bellhop/sip/resolve"
	"bellhop/sip/resolve/resolvetest"
)

func TestNamesAreChecked(t *testing.T) {
	for _, tt := range []struct {
		name, text string
		want       []string
	}{
		{"a name in listen", `sip.listen = ["udp://sip.example.com"]`, []string{
			`c:1:15: sip.listen: udp://sip.example.com: a listener needs an address, not a name: use udp://0.0.0.0 for all IPv4 addresses of this machine`}},
		{"transport of a name", `sip.pbx = ["tcp://pbx.example.com"]`, []string{
			`c:1:12: sip.pbx: no listener reaches tcp://pbx.example.com: add to sip.listen a tcp:// listener`}},
		{"a name twice", `sip.pbx = ["udp://pbx.example.com", "udp://PBX.example.com."]`, []string{
			`c:1:37: sip.pbx: udp://pbx.example.com is listed twice`}},
		{"mode and time", "sip.pbx_mode = \"last\"\nsip.failover_after = \"0s\"", []string{
			`c:1:16: sip.pbx_mode: pbx_mode is "first" or "spread", not "last"`,
			`c:2:22: sip.failover_after: 0s is not a time in which a PBX can answer: use 100ms to 30s, like 2s`}},
		{"name servers", `dns.servers = ["ns.example", "0.0.0.0", "192.0.2.53", "[2001:db8::53]:5353"]`, []string{
			`c:1:16: dns.servers: "ns.example" is not the address of a name server: use a form like 192.0.2.53 or 192.0.2.53:53`,
			`c:1:30: dns.servers: "0.0.0.0" is not an address to send to: use the name server's own address`}},
		{"to of a trunk", "sip.listen = [\"udp://0.0.0.0:5080\"]\nsip.pbx = [\"udp://192.0.2.1:5070\"]\n[[trunk]]\nname = \"a\"\nto = [\"ws://a.example\", \"udp://192.0.2.1\", \"udp://0.0.0.0\", \"tcp://a.example\", \"udp://a.example\", \"udp://a.example\"]", []string{
			`c:5:7: trunk.to: ws://a.example: bellhop opens no WebSocket to a trunk: use udp://, tcp:// or tls://`,
			`c:5:25: trunk.to: udp://192.0.2.1:5060 has the address of the PBX udp://192.0.2.1:5070: use the carrier's own address, to tell the two apart`,
			`c:5:44: trunk.to: udp://0.0.0.0:5060 is not an address to send to: use the carrier's own address and port`,
			`c:5:61: trunk.to: no listener reaches tcp://a.example: add to sip.listen a tcp:// listener`,
			`c:5:99: trunk.to: udp://a.example is listed twice`}},
	} {
		t.Run(tt.name, func(t *testing.T) { wantProblems(t, tt.text, tt.want) })
	}
}

func TestNameServersHaveAPort(t *testing.T) {
	c, err := Parse("c", `dns.servers = ["192.0.2.53", "[2001:db8::53]:5353", "2001:db8::53"]`)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := Join(NameServers(c.DNS.Servers)), "192.0.2.53:53, [2001:db8::53]:5353, [2001:db8::53]:53"; got != want {
		t.Errorf("name servers are %s, want %s", got, want)
	}
}

// A name without an address is no error, because the DNS may fail for a while.
func TestNamesWithoutAnAddressAreAWarning(t *testing.T) {
	socket, err := new(net.ListenConfig).ListenPacket(context.Background(), "udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &dns.Server{PacketConn: socket, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		m := new(dns.Msg)
		m.SetReply(q)
		if rr, err := dns.NewRR("pbx.example. 60 A 192.0.2.1"); err == nil && q.Question[0].Name == "pbx.example." && q.Question[0].Qtype == dns.TypeA {
			m.Answer = []dns.RR{rr}
		}
		w.WriteMsg(m)
	})}
	go server.ActivateAndServe()
	defer server.Shutdown()
	c, r, err := parse("c", "[dns]\nservers = [\""+socket.LocalAddr().String()+"\"]\n[sip]\npbx = [\"udp://pbx.example\", \"udp://gone.example\"]\n")
	if err != nil {
		t.Fatal(err)
	}
	c.warnNames(r.addProblem)
	if warnings := r.problems; len(warnings) != 1 || !strings.Contains(warnings.Error(), "4:29: sip.pbx: udp://gone.example has no address now: lookup gone.example: the name has no address") {
		t.Errorf("warnings %v, want one about gone.example", warnings)
	}
}

// One name gets no response. The others are looked up meanwhile.
func TestNamesAreLookedUpAtTheSameTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := resolvetest.NewServer(t, "pbx.example. 60 A 192.0.2.1")
		server.Respond = func(_ string, _ netip.AddrPort, q *dns.Msg) (*dns.Msg, time.Duration) {
			if strings.HasSuffix(q.Question[0].Name, "silent.example.") {
				return nil, 0
			}
			return server.Answer(q), 100 * time.Millisecond
		}
		r := resolve.New(resolve.Config{
			Servers:  []netip.AddrPort{netip.MustParseAddrPort("192.0.2.53:53")},
			Families: map[resolve.Transport]resolve.Families{resolve.UDP: {IPv4: true}},
			Dial:     server.Dial,
		})
		start := time.Now()
		errs := lookupAll(r, []sip.Addr{{Proto: sip.UDP, Host: "silent.example"}, {Proto: sip.UDP, Host: "gone.example"}, {Proto: sip.UDP, Host: "pbx.example"}})
		if d := time.Since(start); d != lookupTime {
			t.Errorf("it took %v, want %v", d, lookupTime)
		}
		if errs[0] != errLookupTime || errs[1] == nil || errs[1] == errLookupTime || errs[2] != nil {
			t.Errorf("errors %v, want one for silent.example and one for gone.example", errs)
		}
	})
}
