package notify

import (
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"
)

func TestGuard(t *testing.T) {
	prefixes := func(s ...string) (ps []netip.Prefix) {
		for _, s := range s {
			ps = append(ps, netip.MustParsePrefix(s))
		}
		return ps
	}
	own := []netip.AddrPort{netip.MustParseAddrPort("192.168.1.1:8080"), netip.MustParseAddrPort("0.0.0.0:5060"), netip.MustParseAddrPort("[::]:5061")}
	for _, tt := range []struct {
		to          string
		allow, deny []netip.Prefix
		want        string // "": permitted
	}{
		{to: "8.8.8.8:443"},
		{to: "8.8.8.8:1"},
		{to: "[2a00:1450:4001::1]:80"},
		{to: "10.1.2.3:8080"},
		{to: "172.31.255.255:80"},
		{to: "172.32.0.1:80"},
		{to: "192.168.1.2:8080"},
		{to: "100.64.1.1:80"},
		{to: "[fd12:3456::1]:80"},
		{to: "127.0.0.1:80", want: "refused"},
		{to: "127.255.255.254:80", want: "refused"},
		{to: "[::1]:80", want: "refused"},
		{to: "0.0.0.0:80", want: "refused"},
		{to: "0.1.2.3:80", want: "refused"},
		{to: "[::]:80", want: "refused"},
		{to: "169.254.169.254:80", want: "refused"},
		{to: "169.254.1.1:80", want: "refused"},
		{to: "[fe80::1]:80", want: "refused"},
		{to: "[fe80::1%eth0]:80", want: "refused"},
		{to: "[fd00:ec2::254]:80", want: "metadata"},
		{to: "100.100.100.200:80", want: "metadata"},
		{to: "224.0.0.1:80", want: "refused"},
		{to: "239.255.255.255:80", want: "refused"},
		{to: "[ff02::1]:80", want: "refused"},
		{to: "240.0.0.1:80", want: "refused"},
		{to: "255.255.255.255:80", want: "refused"},
		{to: "192.0.2.1:80", want: "refused"},
		{to: "198.18.0.1:80", want: "refused"},
		{to: "[2001:db8::1]:80", want: "refused"},
		{to: "[2001::1]:80", want: "refused"},
		{to: "[2002:7f00:1::]:80", want: "refused"},
		{to: "[::ffff:127.0.0.1]:80", want: "refused"},
		{to: "[::ffff:169.254.169.254]:80", want: "refused"},
		{to: "[::ffff:8.8.8.8]:80", want: "refused"},
		{to: "[::127.0.0.1]:80", want: "refused"},
		{to: "[64:ff9b::7f00:1]:80", want: "refused"},
		{to: "[64:ff9b:1::7f00:1]:80", want: "refused"},
		{to: "[fec0::1]:80", want: "refused"},

		{to: "127.0.0.1:80", allow: prefixes("127.0.0.0/8")},
		{to: "127.0.0.1:80", allow: prefixes("127.0.0.2/32"), want: "refused"},
		{to: "[::1]:80", allow: prefixes("127.0.0.0/8"), want: "refused"},
		{to: "[::ffff:127.0.0.1]:80", allow: prefixes("127.0.0.0/8")},
		{to: "10.1.2.3:80", deny: prefixes("10.0.0.0/8"), want: "denied"},
		{to: "10.1.2.3:80", deny: prefixes("10.0.0.0/8"), allow: prefixes("10.1.2.3/32"), want: "denied"},
		{to: "[::ffff:10.1.2.3]:80", deny: prefixes("10.0.0.0/8"), allow: prefixes("::/0"), want: "denied"},
		{to: "8.8.8.8:80", deny: prefixes("0.0.0.0/0"), want: "denied"},

		{to: "192.168.1.1:8080", want: "itself"},
		{to: "192.168.1.1:8081"},
		{to: "192.168.1.1:8080", allow: prefixes("192.168.0.0/16"), want: "itself"},
		{to: "127.0.0.1:5060", allow: prefixes("127.0.0.0/8"), want: "itself"},
		{to: "127.9.9.9:5061", allow: prefixes("127.0.0.0/8"), want: "itself"},
		{to: "[::1]:5060", allow: prefixes("::1/128"), want: "itself"},
		{to: "127.0.0.1:5062", allow: prefixes("127.0.0.0/8")},
		{to: "10.1.2.3:5060"},
	} {
		g := newGuard(Config{Allow: tt.allow, Deny: tt.deny, Own: own})
		err := g.control("tcp4", tt.to, nil)
		switch {
		case tt.want == "" && err != nil:
			t.Errorf("%s: %v, want permitted (allow %v, deny %v)", tt.to, err, tt.allow, tt.deny)
		case tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)):
			t.Errorf("%s: %v, want %s (allow %v, deny %v)", tt.to, err, tt.want, tt.allow, tt.deny)
		}
	}
	g := newGuard(Config{})
	for _, network := range []string{"udp4", "unix", "ip4"} {
		if g.control(network, "8.8.8.8:80", nil) == nil {
			t.Errorf("%s is permitted", network)
		}
	}
	if g.control("tcp4", "localhost:80", nil) == nil {
		t.Error("a name is permitted")
	}
}

// The guard decides on the address that is connected to, whatever it was
// called.
func TestGuardIsAskedWhenDialing(t *testing.T) {
	r := newReceiver(t, nil)
	for _, host := range []string{"127.0.0.1", "localhost", "[::ffff:127.0.0.1]"} {
		url := strings.Replace(r.URL, "127.0.0.1", host, 1)
		transport := newTransport(Config{})
		req, err := http.NewRequestWithContext(t.Context(), "GET", url, nil)
		if err != nil {
			t.Fatal(err)
		}
		if res, err := transport.RoundTrip(req); err == nil {
			res.Body.Close()
			t.Errorf("%s was connected to", url)
		} else if !strings.Contains(err.Error(), "refused: not a public or private network") {
			t.Errorf("%s: %v", url, err)
		}
	}
}

func TestRetryAfter(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for _, tt := range []struct {
		in   string
		want time.Duration
	}{
		{"", 0},
		{"0", 0},
		{"120", 2 * time.Minute},
		{"-1", 0},
		{"soon", 0},
		{"99999999999999999999", 0},
		{"Thu, 01 Jan 2026 00:01:00 GMT", time.Minute},
		{"Wed, 31 Dec 2025 00:00:00 GMT", 0},
	} {
		if got := retryAfter(tt.in, now); got != tt.want {
			t.Errorf("%q: %v, want %v", tt.in, got, tt.want)
		}
	}
}
