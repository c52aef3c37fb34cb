package main

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"bellhop/cmd/bellhop/store/storetest"
	"bellhop/sip"
	"bellhop/sip/guard"
	"bellhop/sip/siptest"
)

var (
	scanner        = netip.MustParseAddr("203.0.113.9")
	otherScanner   = netip.MustParseAddr("2001:db8::9")
	allowedScanner = netip.MustParseAddr("2001:db8:1::9") // by guard.allow
)

// newBanKeeper returns the keeper of a new proxy, with the bans of the store.
func newBanKeeper(t *testing.T, js jetstream.JetStream) *banKeeper {
	t.Helper()
	proxy := must[*sip.Proxy](t)(sip.Listen(sip.Config{
		Listen: []sip.Listener{{Addr: sip.Addr{Proto: sip.UDP, AddrPort: netip.MustParseAddrPort("192.0.2.1:5060")}}},
		PBX:    []sip.Addr{{Proto: sip.UDP, AddrPort: netip.MustParseAddrPort("192.0.2.2:5060")}},
		Key:    make([]byte, 32),
		Guard:  guard.Settings{BanAfter: 10, BanTime: 5 * time.Minute, Allow: []netip.Prefix{netip.PrefixFrom(allowedScanner, 128)}},
		Net:    siptest.NewNetwork(),
		Log:    quiet(),
	}))
	t.Cleanup(proxy.Close)
	return must[*banKeeper](t)(openBans(t.Context(), js, 1, proxy, quiet()))
}

// bannedReasons returns the reasons of the bans of a proxy, by source.
func (k *banKeeper) bannedReasons() string {
	var all []string
	for _, b := range k.proxy.Bans() {
		all = append(all, guard.SourceText(b.Source)+" "+b.Reason.String())
	}
	return strings.Join(all, ", ")
}

func (k *banKeeper) wantBans(t *testing.T, want string) {
	t.Helper()
	if got := k.bannedReasons(); got != want {
		t.Errorf("bans %q, want %q", got, want)
	}
}

// reload applies what the bucket has.
func (k *banKeeper) reload(t *testing.T) {
	t.Helper()
	if err := k.watch(t.Context(), false); err != nil {
		t.Fatal(err)
	}
}

func TestBansSurviveARestart(t *testing.T) {
	st := opened(t, storetest.Config(t.TempDir()))
	k := newBanKeeper(t, st)
	b := must[sip.Ban](t)(k.proxy.Ban(scanner, time.Hour))
	must[sip.Ban](t)(k.proxy.Ban(otherScanner, time.Hour))
	k.storeChanges(t.Context())

	next := newBanKeeper(t, st)
	next.wantBans(t, "203.0.113.9 manual, 2001:db8::/64 manual")
	if restored, ok := next.proxy.BanOf(scanner); !ok || restored.Until.Sub(b.Until).Abs() > time.Second || restored.Since.Sub(b.Since).Abs() > time.Second {
		t.Errorf("restored %+v, want %+v", restored, b)
	}
	revision := next.stored[b.Source].revision
	next.storeChanges(t.Context())
	if next.stored[b.Source].revision != revision {
		t.Error("a ban that has not changed is stored again")
	}
	next.proxy.Unban(scanner)
	next.storeChanges(t.Context())
	newBanKeeper(t, st).wantBans(t, "2001:db8::/64 manual")
}

// Nodes that share a store ban the same sources.
func TestNodesShareBans(t *testing.T) {
	st := opened(t, storetest.Config(t.TempDir()))
	one, two := newBanKeeper(t, st), newBanKeeper(t, st)
	must[sip.Ban](t)(one.proxy.Ban(scanner, time.Hour))
	one.storeChanges(t.Context())
	two.reload(t)
	two.wantBans(t, "203.0.113.9 manual")

	// Both change the ban. The one that ends last is kept by both.
	must[sip.Ban](t)(one.proxy.Ban(scanner, 2*time.Hour))
	last := must[sip.Ban](t)(two.proxy.Ban(scanner, 3*time.Hour))
	one.storeChanges(t.Context())
	two.reload(t)
	two.storeChanges(t.Context())
	one.reload(t)
	for _, k := range []*banKeeper{one, two} {
		if b, _ := k.proxy.BanOf(scanner); b.Until.Sub(last.Until).Abs() > time.Second {
			t.Errorf("banned until %v, want %v", b.Until, last.Until)
		}
	}

	// An operator may shorten a ban.
	short := must[sip.Ban](t)(two.proxy.Ban(scanner, time.Minute))
	two.storeChanges(t.Context())
	one.reload(t)
	if b, _ := one.proxy.BanOf(scanner); b.Until.Sub(short.Until).Abs() > time.Second {
		t.Errorf("banned until %v, want %v", b.Until, short.Until)
	}

	two.proxy.Unban(scanner)
	two.storeChanges(t.Context())
	one.reload(t)
	one.wantBans(t, "")
	one.storeChanges(t.Context())
	two.reload(t)
	two.wantBans(t, "")
}

// A ban that has ended is remembered after a restart, for as long as it makes the next one
// longer. An operator who removes a ban removes it from the memory of all nodes.
func TestEndedBansAreRemembered(t *testing.T) {
	st := opened(t, storetest.Config(t.TempDir()))
	k := newBanKeeper(t, st)
	ended := func(ip netip.Addr, ago time.Duration) {
		until := time.Now().Add(-ago)
		k.proxy.RestoreBan(sip.Ban{Source: guard.SourceOf(ip), Reason: guard.BanNotSIP, Since: until.Add(-time.Hour), Until: until, Times: 3})
	}
	wantHistory := func(k *banKeeper, want string) {
		t.Helper()
		var sources []string
		for _, b := range k.proxy.BanHistory() {
			sources = append(sources, fmt.Sprint(b.Source.Addr(), " ", b.Times))
		}
		if got := strings.Join(sources, ", "); got != want {
			t.Errorf("history %q, want %q", got, want)
		}
	}
	ended(scanner, time.Hour)
	ended(otherScanner, guard.MaxBanTime+time.Minute)
	k.storeChanges(t.Context())
	k.wantBans(t, "")
	wantHistory(k, "203.0.113.9 3")

	next := newBanKeeper(t, st)
	next.wantBans(t, "")
	wantHistory(next, "203.0.113.9 3")
	must[sip.Ban](t)(next.proxy.Ban(scanner, time.Hour))
	next.storeChanges(t.Context())
	next.proxy.Unban(scanner)
	next.storeChanges(t.Context())
	k.reload(t)
	wantHistory(k, "")
}

// An IPv6 address that is exempt cannot be banned, although another address of its network
// can, which bans the rest of the network.
func TestExemptIPv6AddressCannotBeBanned(t *testing.T) {
	k := newBanKeeper(t, opened(t, storetest.Config(t.TempDir())))
	s := &service{pipeline: &pipeline{proxy: k.proxy}}
	if b, err := s.addBan(allowedScanner.String(), time.Hour); err == nil {
		t.Errorf("banned: %+v", b)
	}
	if b, err := s.addBan("2001:db8:1::1", time.Hour); err != nil || b.Source != "2001:db8:1::/64" {
		t.Errorf("banned: %+v, %v", b, err)
	}
}

// The record of a ban is deleted when the ban is no longer remembered.
func TestForgottenBansAreDeleted(t *testing.T) {
	k := newBanKeeper(t, opened(t, storetest.Config(t.TempDir())))
	must[uint64](t)(k.bucket.Put(t.Context(), "203.0.113.9", []byte(`{"until":"2020-01-01T00:00:00Z"}`)))
	k.reload(t)
	k.storeChanges(t.Context())
	if _, err := k.bucket.Get(t.Context(), "203.0.113.9"); !errors.Is(err, jetstream.ErrKeyNotFound) {
		t.Errorf("the record of a ban of 2020 is read with the error %v", err)
	}
}

// A node that ends a ban does not end the later one of another node.
func TestEndOfAnEarlierBan(t *testing.T) {
	st := opened(t, storetest.Config(t.TempDir()))
	one, two := newBanKeeper(t, st), newBanKeeper(t, st)
	must[sip.Ban](t)(one.proxy.Ban(scanner, time.Hour))
	one.storeChanges(t.Context())
	two.reload(t)
	one.proxy.Unban(scanner)
	must[sip.Ban](t)(two.proxy.Ban(scanner, 2*time.Hour))
	two.storeChanges(t.Context())
	one.storeChanges(t.Context())
	for _, k := range []*banKeeper{one, two} {
		k.reload(t)
		k.wantBans(t, "203.0.113.9 manual")
	}
	if one.failed {
		t.Error("the later ban counts as a failure of the store")
	}
}

// A record that cannot be read is left alone, and the others are restored.
func TestUnreadableBans(t *testing.T) {
	st := opened(t, storetest.Config(t.TempDir()))
	k := newBanKeeper(t, st)
	must[sip.Ban](t)(k.proxy.Ban(scanner, time.Hour))
	k.storeChanges(t.Context())
	for key, record := range map[string]string{"nobody": "{}", "203.0.113.10": "no JSON", "203.0.113.11": `{"until":"2020-01-01T00:00:00Z"}`, "203.0.113.12": `{"reason":"a later one","until":"2100-01-01T00:00:00Z"}`} {
		must[uint64](t)(k.bucket.Put(t.Context(), key, []byte(record)))
	}
	newBanKeeper(t, st).wantBans(t, "203.0.113.9 manual, 203.0.113.12 manual")
}

// While the store is closed, bans work. They are stored when it is open again.
func TestBansWithoutAStore(t *testing.T) {
	c := storetest.Config(t.TempDir())
	st := opened(t, c)
	k := newBanKeeper(t, st)
	st.Close()
	must[sip.Ban](t)(k.proxy.Ban(scanner, time.Hour))
	k.storeChanges(t.Context())
	k.wantBans(t, "203.0.113.9 manual")
	if !k.failed {
		t.Error("a closed store takes a ban")
	}
	st = opened(t, c)
	k.bucket = must[jetstream.KeyValue](t)(st.KeyValue(t.Context(), "bellhop_bans"))
	k.storeChanges(t.Context())
	newBanKeeper(t, st).wantBans(t, "203.0.113.9 manual")
}

// TestBanCommands adds, lists and removes bans, and restarts bellhop meanwhile.
func TestBanCommands(t *testing.T) {
	t.Parallel()
	s := newSite(t, sip.UDP, sip.UDP)
	p := s.serve()
	bans := func(status int, args ...string) (stdout, stderr string) {
		t.Helper()
		return s.ask(testToken, status, append(append([]string{"bans"}, args...), "--server", "http://"+s.admin.String())...)
	}
	if stdout, _ := bans(0, "add", "203.0.113.9", "2001:db8::9", "--for", "24h"); strings.Count(stdout, " banned until ") != 2 || !strings.Contains(stdout, "2001:db8::/64 banned") {
		t.Errorf("add writes %q", stdout)
	}
	p.stop()
	p = s.serve()
	list, _ := bans(0, "list")
	if lines := strings.Split(strings.TrimSpace(list), "\n"); len(lines) != 3 || !strings.HasPrefix(lines[0], "SOURCE ") || !strings.Contains(list, "203.0.113.9 ") || !strings.Contains(list, "manual") {
		t.Errorf("list writes\n%s", list)
	}
	if stdout, _ := bans(0, "remove", "203.0.113.9", "2001:db8::/64"); stdout != "ban of 203.0.113.9 ended\nban of 2001:db8::/64 ended\n" {
		t.Errorf("remove writes %q", stdout)
	}
	if stdout, _ := bans(0, "list", "--json"); strings.TrimSpace(stdout) != "[]" {
		t.Errorf("list --json writes %q", stdout)
	}
	for _, tt := range []struct {
		status int
		args   []string
		want   string
	}{
		{1, []string{"add", s.pbx.Addr().String()}, "bellhop: ban 127.0.0.3: request rejected (422 Unprocessable Entity): source: cannot be banned: it is an address of the PBX"},
		{1, []string{"add", "203.0.113.0/24"}, "bellhop: ban 203.0.113.0/24: request rejected (422 Unprocessable Entity): source: must be an IPv4 address"},
		{1, []string{"remove", "203.0.113.9"}, "bellhop: request rejected (404 Not Found): this source is not banned: see bellhop bans list"},
		{2, []string{"add", "203.0.113.9", "--for", "-1h"}, "bellhop: --for must be positive: -1h0m0s"},
		{2, []string{"add"}, "bellhop: want at least 1 argument, got 0"},
	} {
		if stdout, stderr := bans(tt.status, tt.args...); !strings.HasPrefix(stderr, tt.want) || stdout != "" {
			t.Errorf("%q writes %q and %q, want %q", tt.args, stdout, stderr, tt.want)
		}
	}
	p.stop()
}
