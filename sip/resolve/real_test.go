package resolve_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"

	"bellhop/sip/resolve"
	"bellhop/sip/resolve/resolvetest"
)

// TestRealServer tests lookups over real sockets, with responses over UDP and TCP.
func TestRealServer(t *testing.T) {
	records := "pbx.example. 60 A 192.0.2.1\n"
	for i := range 200 {
		records += fmt.Sprintf("many.example. 60 A 10.0.0.%d\n", i+1)
	}
	zone := resolvetest.NewServer(t, records)
	handler := dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		m := zone.Answer(q)
		if w.LocalAddr().Network() == "udp" {
			m.Truncate(resolveSize)
		}
		w.WriteMsg(m)
	})
	packets, stream := listenBoth(t)
	at := netip.MustParseAddrPort(packets.LocalAddr().String())
	for _, s := range []*dns.Server{{PacketConn: packets, Handler: handler}, {Listener: stream, Handler: handler}} {
		go s.ActivateAndServe()
		defer s.Shutdown()
	}
	r := resolve.New(resolve.Config{Servers: []netip.AddrPort{at}, Families: allTransports})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { r.Run(ctx); close(done) }()
	for host, want := range map[string]int{"pbx.example": 1, "many.example": 16} {
		answers := make(chan resolve.Answer, 1)
		r.Lookup(resolve.Target{Host: host, Port: 5060, Transport: resolve.UDP}, func(a resolve.Answer) { answers <- a })
		if a := <-answers; len(addrs(a)) != want {
			t.Errorf("%s has %d addresses (%v), want %d", host, len(addrs(a)), a.Err(), want)
		}
	}
	cancel()
	<-done
}

const resolveSize = 512

// listenBoth listens over UDP and TCP on the same free port.
func listenBoth(t *testing.T) (net.PacketConn, net.Listener) {
	t.Helper()
	for {
		packets, err := net.ListenPacket("udp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		stream, err := net.Listen("tcp", packets.LocalAddr().String())
		if err == nil {
			return packets, stream
		}
		defer packets.Close() // only now, so that the next port is another one
		if !errors.Is(err, syscall.EADDRINUSE) {
			t.Fatal(err)
		}
	}
}

func TestResolvConf(t *testing.T) {
	file := filepath.Join(t.TempDir(), "resolv.conf")
	now := time.Unix(1e9, 0)
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(file, now, now); err != nil {
			t.Fatal(err)
		}
	}
	list := resolve.NewServerList(file)
	check := func(why string, want ...string) {
		t.Helper()
		var got []string
		for _, s := range list.At(now) {
			got = append(got, s.String())
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v", why, got, want)
		}
	}
	check("no file", "127.0.0.1:53")
	write("# nothing\nnameserver 192.0.2.53\nnameserver bad\nnameserver 2001:db8::53\nsearch example\n")
	check("too early to look", "127.0.0.1:53")
	now = now.Add(5 * time.Second)
	check("read", "192.0.2.53:53", "[2001:db8::53]:53")
	now = now.Add(5 * time.Second)
	write("nameserver 192.0.2.99\n")
	check("changed", "192.0.2.99:53")
	os.Remove(file)
	now = now.Add(5 * time.Second)
	check("removed: the last ones stay", "192.0.2.99:53")
}

// FuzzAnswer tests that no response of a name server makes the resolver panic or keep more
// than its limits.
func FuzzAnswer(f *testing.F) {
	zone := resolvetest.NewServer(f, `a.example. 60 A 192.0.2.1
		a.example. 60 NAPTR 10 0 "s" "SIP+D2U" "" _sip._udp.a.example.
		b.example. 60 CNAME a.example.
		_sip._udp.a.example. 60 SRV 0 0 5060 a.example.
		example. 3600 SOA ns.example. me.example. 1 2 3 4 60`)
	names := []string{"a.example", "b.example", "_sip._udp.a.example", "c.example"}
	types := []uint16{dns.TypeA, dns.TypeAAAA, dns.TypeSRV, dns.TypeNAPTR}
	for i, name := range names {
		for j, qtype := range types {
			q := new(dns.Msg)
			q.SetQuestion(dns.Fqdn(name), qtype)
			b, err := zone.Answer(q).Pack()
			if err != nil {
				f.Fatal(err)
			}
			f.Add(b, uint8(i), uint8(j))
		}
	}
	f.Fuzz(func(t *testing.T, b []byte, name, qtype uint8) {
		m := new(dns.Msg)
		if m.Unpack(b) != nil && !m.Truncated {
			return
		}
		records, ttl, alias := resolve.ReadAnswer(m, names[int(name)%len(names)], types[int(qtype)%len(types)])
		if records > 64 || ttl < 0 || ttl > time.Hour || len(alias) > 253 {
			t.Errorf("%d records, TTL %v, alias %q", records, ttl, alias)
		}
	})
}
