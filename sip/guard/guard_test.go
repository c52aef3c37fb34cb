package guard

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"
)

var (
	scanner = netip.MustParseAddr("198.51.100.7")
	phone   = netip.MustParseAddr("192.0.2.101")
)

// newGuard returns a Guard with the default limits.
func newGuard(changes ...func(*Settings)) *Guard {
	s := Settings{
		UserAgents: []string{"friendly-scanner", "VaxSIPUserAgent"},
		Allow:      []netip.Prefix{netip.MustParsePrefix("203.0.113.0/24")},
		Rate:       Rate{30, 10 * time.Second},
		PerBinding: 10,
		BanAfter:   10,
		BanTime:    5 * time.Minute,
	}
	for _, change := range changes {
		change(&s)
	}
	return New(s)
}

// numbered returns one of many sources.
func numbered(n int) netip.Addr {
	return netip.AddrFrom4([4]byte{10, byte(n >> 16), byte(n >> 8), byte(n)})
}

// requests returns how many of n requests at one time are served.
func requests(g *Guard, ip netip.Addr, n int, now time.Duration) (served int) {
	for range n {
		if !g.DropsRequest(ip, Datagram, now) {
			served++
		}
	}
	return served
}

// A source may send its whole rate at once, and then one request each time a request of
// the rate is due. After a pause it has the whole rate again.
func TestRateOfASource(t *testing.T) {
	g := newGuard()
	now := time.Hour
	for _, tt := range []struct {
		after time.Duration
		want  int
	}{
		{0, 30},
		{0, 0},
		{332 * time.Millisecond, 0},
		{2 * time.Millisecond, 1},
		{3334 * time.Millisecond, 10},
		{time.Minute, 30},
	} {
		now += tt.after
		if got := requests(g, scanner, 100, now); got != tt.want {
			t.Errorf("%v later %d of 100 requests are served, want %d", tt.after, got, tt.want)
		}
	}
	if got := requests(g, phone, 100, now); got != 30 {
		t.Errorf("another source gets %d, want 30", got)
	}
	if g.DropsRequest(scanner, OnStream, now) || g.DropsRequest(scanner, FollowUp, now) {
		t.Error("datagrams, which may be forged, use up the rate of connections or of dialogs")
	}
	if got := g.Dropped(DropRate); got == 0 {
		t.Error("nothing is counted")
	}
}

// Addresses of one /64 are one source, because its holder has all of them.
func TestIPv6NetworkIsOneSource(t *testing.T) {
	g := newGuard()
	served := 0
	for i := range 100 {
		served += requests(g, netip.MustParseAddr(fmt.Sprintf("2001:db8:1:2::%x", i)), 1, 0)
	}
	if served != 30 {
		t.Errorf("%d of 100 requests of one /64 are served, want 30", served)
	}
	if got := requests(g, netip.MustParseAddr("2001:db8:1:3::1"), 100, 0); got != 30 {
		t.Errorf("the next /64 gets %d, want 30", got)
	}
	for text, want := range map[string]string{"2001:db8:1:2::9": "2001:db8:1:2::/64", "192.0.2.7": "192.0.2.7/32", "::ffff:192.0.2.7": "192.0.2.7/32", "::1": "::/64"} {
		if got := sourceOf(netip.MustParseAddr(text)).prefix(); got.String() != want {
			t.Errorf("the source of %s is %v, want %s", text, got, want)
		}
	}
}

// 200 phones behind one address restart at once: two requests each.
func TestRateGrowsWithBindings(t *testing.T) {
	g := newGuard()
	counts := BindingCounts{}
	for range 200 {
		counts.Add(phone)
	}
	g.SetBindings(counts)
	if got := requests(g, phone, 400, 0); got != 400 {
		t.Errorf("%d of 400 requests of an office are served", got)
	}
	if got := requests(g, phone, 10000, 0); got < 1600 || got > 1660 {
		t.Errorf("then %d further ones are served, want 1630", got)
	}
	if got := requests(g, scanner, 400, 0); got != 30 {
		t.Errorf("a source without bindings gets %d, want 30", got)
	}
}

// Sources whose networks differ in one bit only do not share a rate of any kind.
func TestKindsOfRequestsShareNoRate(t *testing.T) {
	g := newGuard()
	for range 30 {
		g.DropsRequest(netip.MustParseAddr("2600:1::1"), Datagram, 0)
		g.DropsRequest(netip.MustParseAddr("2600:1::1"), OnStream, 0)
	}
	for _, other := range []string{"2400:1::1", "2500:1::1", "2700:1::1"} {
		for _, kind := range []RequestKind{Datagram, OnStream, FollowUp} {
			if g.DropsRequest(netip.MustParseAddr(other), kind, 0) {
				t.Errorf("a request of kind %d from %s uses the rate of another source", kind, other)
			}
		}
	}
}

// The largest rate of the configuration is exact.
func TestLargestRate(t *testing.T) {
	g := newGuard(func(s *Settings) { s.Rate = Rate{100000, time.Second} })
	if got := requests(g, scanner, 200000, time.Hour); got != 100000 {
		t.Errorf("%d requests at once are served, want 100000", got)
	}
	if got := requests(g, scanner, 200000, time.Hour+100*time.Millisecond); got != 10000 {
		t.Errorf("%d requests are served 100 ms later, want 10000", got)
	}
}

func TestNoRate(t *testing.T) {
	g := newGuard(func(s *Settings) { s.Rate = Rate{} })
	if got := requests(g, scanner, 10000, 0); got != 10000 {
		t.Errorf("%d of 10000 requests are served without a limit", got)
	}
}

// A flood of forged sources does not make the tables forget a source that has used up its
// rate, a ban or points.
func TestForgedSourcesEvictNothing(t *testing.T) {
	g := newGuard()
	now := time.Minute
	requests(g, scanner, 30, now)
	banned := netip.MustParseAddr("198.51.100.8")
	g.addBan(sourceOf(banned), BanCredentials, now)
	for range 9 {
		g.AddPoint(phone, now)
	}
	for i := range 65000 {
		g.DropsRequest(numbered(i), Datagram, now+time.Duration(i)*50*time.Microsecond)
		g.AllowsAnswer(numbered(i), SIPAnswer, now)
		g.IsBanned(numbered(i), now)
		g.NoteNonce(numbered(i), fmt.Append(nil, i), now)
	}
	if got := requests(g, scanner, 30, now); got != 0 {
		t.Errorf("after 65,000 sources, %d requests of a source that has used up its rate are served", got)
	}
	if !g.IsBanned(banned, now) {
		t.Error("a ban is lost")
	}
	if !g.AddPoint(phone, now) {
		t.Error("points are lost")
	}
}

func TestAnswersToAForgedSource(t *testing.T) {
	g := newGuard()
	sent := 0
	for ms := range 10000 {
		if g.AllowsAnswer(scanner, SIPAnswer, time.Duration(ms)*time.Millisecond) {
			sent++
		}
	}
	if sent < 50 || sent > 55 {
		t.Errorf("%d answers in 10 s, want 5 a second and 5 at once", sent)
	}
	if !g.AllowsAnswer(scanner, STUNAnswer, 10*time.Second) {
		t.Error("answers of SIP use up the rate of STUN")
	}
}

// Points count within 10 minutes. Accepted credentials set them to 0.
func TestPointsWithinTheirWindow(t *testing.T) {
	g := newGuard()
	add := func(n int, now time.Duration) (due bool) {
		for range n {
			due = g.AddPoint(scanner, now)
		}
		return due
	}
	if add(9, 0) {
		t.Error("a ban is due after 9 points")
	}
	g.ClearPoints(scanner)
	if add(9, time.Minute) {
		t.Error("accepted credentials do not set the points to 0")
	}
	if add(1, 12*time.Minute) {
		t.Error("points count for more than 10 minutes")
	}
	if !add(9, 13*time.Minute) {
		t.Error("no ban is due after 10 points in 10 minutes")
	}
	if b, ok := g.BanIfDue(scanner, BanCredentials, 13*time.Minute); !ok || b.Source.String() != "198.51.100.7/32" || b.Until-b.Since != 5*time.Minute || b.Times != 1 {
		t.Errorf("banned: %+v, %v", b, ok)
	}
	if _, ok := g.BanIfDue(scanner, BanCredentials, 13*time.Minute); ok {
		t.Error("banned twice")
	}
	if got := g.Banned(BanCredentials); got != 1 {
		t.Errorf("%d bans are counted", got)
	}
}

// One phone of an office with a wrong password does not cut off the others.
func TestSourceWithBindingsNeedsMorePoints(t *testing.T) {
	g := newGuard()
	counts := BindingCounts{}
	for range 199 {
		counts.Add(phone)
	}
	g.SetBindings(counts)
	for i := 1; i <= 2000; i++ {
		due := g.AddPoint(phone, 0)
		if due != (i >= 10) {
			t.Fatalf("point %d: due %v", i, due)
		}
		if _, ok := g.BanIfDue(phone, BanCredentials, 0); ok != (i == 2000) {
			t.Fatalf("point %d: banned %v", i, ok)
		}
	}
}

// Each ban within a day of the last one is twice as long, up to a day.
func TestBansDouble(t *testing.T) {
	g := newGuard()
	now := time.Duration(0)
	var got []time.Duration
	for range 11 {
		b := g.addBan(sourceOf(scanner), BanCredentials, now)
		got = append(got, b.Until-b.Since)
		now = b.Until - 1
		if !g.IsBanned(scanner, now) {
			t.Error("the ban ends early")
		}
		if now++; g.IsBanned(scanner, now) {
			t.Error("the ban does not end")
		}
	}
	var want []time.Duration
	for _, minutes := range []int{5, 10, 20, 40, 80, 160, 320, 640, 1280, 1440, 1440} {
		want = append(want, time.Duration(minutes)*time.Minute)
	}
	if !slices.Equal(got, want) {
		t.Errorf("bans of %v, want %v", got, want)
	}
	if b := g.addBan(sourceOf(scanner), BanCredentials, now+MaxBanTime); b.Times != 1 {
		t.Errorf("a day later it is ban %d, want the first", b.Times)
	}
}

// A ban of an IPv6 address is one of its network. It is listed until it ends.
func TestBansAreListed(t *testing.T) {
	g := newGuard()
	ip := netip.MustParseAddr("2001:db8::1")
	if b := g.addBan(sourceOf(ip), BanNotSIP, 0); b.Until != 5*time.Minute || b.Reason != BanNotSIP || b.Source.String() != "2001:db8::/64" {
		t.Errorf("banned: %+v", b)
	}
	g.addBan(sourceOf(scanner), BanCredentials, time.Minute)
	if got := g.Bans(time.Minute); len(got) != 2 || got[0].Source.Addr() != scanner {
		t.Errorf("bans %v", got)
	}
	if !g.IsBanned(netip.MustParseAddr("2001:db8::ffff"), time.Minute) {
		t.Error("another address of the banned network is served")
	}
	if got := g.Bans(5 * time.Minute); len(got) != 1 || got[0].Source.Addr() != scanner {
		t.Errorf("bans %v after the first has ended", got)
	}
}

// Bans survive new settings, unless the whole source is allowed now.
func TestConfigureKeepsBans(t *testing.T) {
	g := newGuard()
	network := netip.MustParseAddr("2001:db8::77")
	for _, ip := range []netip.Addr{scanner, phone, network} {
		g.addBan(sourceOf(ip), BanCredentials, 0)
	}
	allow := func(p string) { g.Configure(Settings{Allow: []netip.Prefix{netip.MustParsePrefix(p)}}) }
	allow("192.0.2.0/24")
	allow("2001:db8::/120")
	if !g.IsBanned(scanner, 0) || g.IsBanned(phone, 0) || !g.IsBanned(network, 0) {
		t.Errorf("bans %v, want those of sources that are not allowed as a whole", g.Bans(0))
	}
	allow("2001:db8::/48")
	if g.IsBanned(network, 0) {
		t.Error("the ban of an allowed network goes on")
	}
}

// A full bucket evicts the ban that ends first, never one that goes on for longer.
func TestTooManyBans(t *testing.T) {
	g := newGuard()
	g.addBan(sourceOf(scanner), BanCredentials, 0)
	g.addBan(sourceOf(scanner), BanCredentials, 0) // twice as long
	for i := range 2 * banSlots {
		g.addBan(sourceOf(numbered(i)), BanCredentials, 0)
	}
	if !g.IsBanned(scanner, 0) {
		t.Error("the longest ban is lost")
	}
	if n := len(g.bans.all()); n > banSlots {
		t.Errorf("%d bans are kept", n)
	}
}

func TestUserAgentOfScanners(t *testing.T) {
	g := newGuard()
	for name, want := range map[string]bool{
		"friendly-scanner":               true,
		"Friendly-Scanner 0.3":           true,
		"some vaxsipuseragent/3.1":       true,
		"Linphone/5.1.65 (belle-sip)":    false,
		"":                               false,
		"friendly":                       false,
		string(make([]byte, 64<<10)):     false,
		"Yealink SIP-T46S 66.86.0.15":    false,
		"\xff\xfe friendly-scanner \x00": true,
	} {
		if got := g.DropsUserAgent([]byte(name)); got != want {
			t.Errorf("%.40q is dropped: %v, want %v", name, got, want)
		}
	}
	if got := g.Dropped(DropUserAgent); got != 4 {
		t.Errorf("%d are counted, want 4", got)
	}
}

// Only the source that a nonce was sent to proves its address by it, and none if it was
// sent to several.
func TestNonces(t *testing.T) {
	g := newGuard()
	g.NoteNonce(phone, []byte("abc"), time.Minute)
	g.NoteNonce(phone, []byte("abc"), 2*time.Minute)
	g.NoteNonce(phone, []byte("shared"), time.Minute)
	g.NoteNonce(scanner, []byte("shared"), time.Minute)
	g.NoteNonce(scanner, []byte("shared"), 2*time.Minute)
	g.NoteNonce(phone, []byte("again"), time.Minute)
	g.NoteNonce(scanner, []byte("again"), 2*time.Hour)
	for _, tt := range []struct {
		ip    netip.Addr
		nonce string
		now   time.Duration
		want  bool
	}{
		{phone, "abc", time.Minute, true},
		{phone, "abc", time.Hour + time.Minute, true},
		{phone, "abc", time.Hour + 2*time.Minute, false},
		{phone, "abd", time.Minute, false},
		{scanner, "abc", time.Minute, false},
		{phone, "shared", 2 * time.Minute, false},
		{scanner, "shared", 2 * time.Minute, false},
		{scanner, "again", 2 * time.Hour, true},
		{phone, "again", 2 * time.Hour, false},
	} {
		if got := g.ProvesSource(tt.ip, []byte(tt.nonce), tt.now); got != tt.want {
			t.Errorf("nonce %s from %v at %v: %v, want %v", tt.nonce, tt.ip, tt.now, got, tt.want)
		}
	}
}

// The checks of each message allocate nothing.
func TestChecksAllocateNothing(t *testing.T) {
	g := newGuard()
	g.addBan(sourceOf(scanner), BanCredentials, 0)
	name, nonce := []byte("Linphone/5.1.65"), []byte("abc")
	if n := testing.AllocsPerRun(100, func() {
		g.IsBanned(phone, 0)
		g.DropsUserAgent(name)
		g.DropsRequest(phone, Datagram, 0)
		g.AllowsAnswer(phone, SIPAnswer, 0)
		g.NoteNonce(phone, nonce, 0)
		g.ProvesSource(phone, nonce, 0)
		g.Allows(phone)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// An operator bans a source in place of the ban that it has, and ends bans.
func TestBanByHand(t *testing.T) {
	g := newGuard()
	g.addBan(sourceOf(scanner), BanCredentials, 0)
	if b := g.Ban(scanner, time.Hour, time.Minute); b.Reason != BanManual || b.Since != time.Minute || b.Until != time.Hour+time.Minute {
		t.Errorf("banned: %+v", b)
	}
	if n := g.Banned(BanManual); n != 1 {
		t.Errorf("%d bans by hand are counted", n)
	}
	for range 9 {
		g.AddPoint(scanner, time.Minute)
	}
	if b, ok := g.Unban(scanner, time.Minute); !ok || b.Reason != BanManual || g.IsBanned(scanner, time.Minute) {
		t.Errorf("the ban that was ended is %+v, %v", b, ok)
	}
	if g.AddPoint(scanner, time.Minute) {
		t.Error("the points of the time before the ban count")
	}
	if b := g.addBan(sourceOf(scanner), BanCredentials, time.Minute); b.Times != 1 {
		t.Errorf("the next ban is the %d.", b.Times)
	}
	if _, ok := g.Unban(scanner, time.Hour); ok {
		t.Error("a ban that has ended is ended by hand")
	}
	if b := g.addBan(sourceOf(scanner), BanCredentials, time.Hour); b.Times != 2 {
		t.Errorf("the ban after one that has ended by itself is the %d.", b.Times)
	}
	if _, ok := g.Unban(phone, 0); ok {
		t.Error("there was no ban")
	}
}

// A ban of an earlier process goes on, and the next one lasts longer.
func TestRestoredBan(t *testing.T) {
	g := newGuard()
	g.Restore(Ban{Source: SourceOf(scanner), Reason: BanNotSIP, Since: -time.Hour, Until: time.Minute, Times: 3}, 0)
	if !g.IsBanned(scanner, 0) || g.IsBanned(scanner, time.Minute) {
		t.Errorf("bans %v", g.Bans(0))
	}
	if b := g.addBan(sourceOf(scanner), BanNotSIP, time.Minute); b.Times != 4 {
		t.Errorf("the next ban is the %d.", b.Times)
	}
	for ended, want := range map[time.Duration]int{time.Hour: 4, MaxBanTime - 1: 4, MaxBanTime: 1} {
		g.Forget(scanner)
		g.Restore(Ban{Source: SourceOf(scanner), Until: -ended, Times: 3}, 0)
		last, ok := g.LastBan(scanner, 0)
		if h := g.History(0); ok != (want > 1) || ok && (len(h) != 1 || h[0] != last) || !ok && len(h) > 0 {
			t.Errorf("last ban %+v, %v; history %+v", last, ok, h)
		}
		if b := g.addBan(sourceOf(scanner), BanNotSIP, 0); b.Times != want {
			t.Errorf("%v after a ban, the next one is the %d., want %d", ended, b.Times, want)
		}
	}
	g.Configure(Settings{Allow: []netip.Prefix{netip.PrefixFrom(phone, 32)}})
	g.Restore(Ban{Source: SourceOf(phone), Until: time.Hour}, 0)
	if g.IsBanned(phone, 0) {
		t.Error("a source is banned that is allowed")
	}
}

func TestParseSource(t *testing.T) {
	for text, want := range map[string]string{
		"198.51.100.7":        "198.51.100.7/32",
		"198.51.100.7/32":     "198.51.100.7/32",
		"::ffff:198.51.100.7": "198.51.100.7/32",
		"2001:db8::7":         "2001:db8::/64",
		"2001:db8::/64":       "2001:db8::/64",
		"::1":                 "::/64",
		"::/64":               "::/64",
		"198.51.100.0/24":     "",
		"198.51.100.7/64":     "",
		"2001:db8::7/128":     "",
		"2001:db8::/32":       "",
		"fe80::1%eth0":        "",
		"0.0.0.0":             "",
		"0.0.0.0/32":          "",
		"::":                  "",
		"224.0.0.1":           "",
		"phone.example":       "",
		"198.51.100.7/":       "",
		"":                    "",
	} {
		ip, err := ParseSource(text)
		if (err == nil) != (want != "") || err == nil && SourceOf(ip).String() != want {
			t.Errorf("%q is the source of %v, %v", text, ip, err)
		}
	}
}
