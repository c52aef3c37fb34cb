package resolve_test

import (
	"bytes"
	"context"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"bellhop/sip/resolve"
	"bellhop/sip/resolve/resolvetest"
)

var (
	serverA = netip.MustParseAddrPort("192.0.2.53:53")
	serverB = netip.MustParseAddrPort("192.0.2.54:53")
)

// A testbed is a running resolver with a name server.
type testbed struct {
	*resolve.Resolver
	t      *testing.T
	server *resolvetest.Server
	log    *bytes.Buffer
}

var allTransports = map[resolve.Transport]resolve.Families{
	resolve.UDP: {IPv4: true, IPv6: true},
	resolve.TCP: {IPv4: true, IPv6: true},
	resolve.TLS: {IPv4: true, IPv6: true},
}

// run runs a script with a resolver in virtual time.
func run(t *testing.T, zone string, script func(b *testbed), changes ...func(*resolve.Config)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		b := &testbed{t: t, server: resolvetest.NewServer(t, zone), log: &bytes.Buffer{}}
		cfg := resolve.Config{
			Servers:  []netip.AddrPort{serverA, serverB},
			Families: allTransports,
			Log:      slog.New(slog.NewTextHandler(b.log, nil)),
			Dial:     b.server.Dial,
		}
		for _, change := range changes {
			change(&cfg)
		}
		b.Resolver = resolve.New(cfg)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- b.Run(ctx) }()
		defer func() {
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
			if strings.Contains(b.log.String(), "panic recovered") {
				t.Errorf("a lookup panicked: %s", b.log)
			}
		}()
		script(b)
	})
}

// lookup returns the answer for a target after at most the time d.
func (b *testbed) lookup(target resolve.Target, d time.Duration) resolve.Answer {
	answers := make(chan resolve.Answer, 2)
	a := b.Lookup(target, func(a resolve.Answer) { answers <- a })
	if !a.Pending() {
		return a
	}
	select {
	case a = <-answers:
	case <-time.After(d):
	}
	return a
}

// want checks the addresses that a target has.
func (b *testbed) want(why string, target resolve.Target, want ...string) {
	b.t.Helper()
	a := b.lookup(target, time.Minute)
	if got := addrs(a); !slices.Equal(got, want) {
		b.t.Errorf("%s: %v has %v (%v), want %v", why, target, got, a.Err(), want)
	}
}

// wantError checks that a target has no address for a reason.
func (b *testbed) wantError(why string, target resolve.Target, reason string) {
	b.t.Helper()
	a := b.lookup(target, time.Minute)
	if err := a.Err(); err == nil || !strings.Contains(err.Error(), reason) || len(addrs(a)) > 0 {
		b.t.Errorf("%s: %v has %v and error %v, want %q", why, target, addrs(a), err, reason)
	}
}

// addrs returns the addresses of an answer. Equal weights keep their order.
func addrs(a resolve.Answer) (list []string) {
	for _, to := range a.AppendAddrs(nil, func(int) int { return 0 }) {
		list = append(list, to.String())
	}
	return list
}
