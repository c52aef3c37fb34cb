package send

import (
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"
)

func parsePrefixes(s ...string) (ps []netip.Prefix) {
	for _, s := range s {
		ps = append(ps, netip.MustParsePrefix(s))
	}
	return ps
}

func TestGuardDeniesAddresses(t *testing.T) {
	own := []netip.AddrPort{netip.MustParseAddrPort("192.168.1.1:8080"), netip.MustParseAddrPort("0.0.0.0:5060"), netip.MustParseAddrPort("[::]:5061"),
		netip.MustParseAddrPort("[::ffff:192.168.1.3]:9090"), netip.MustParseAddrPort("[fe80::7%eth0]:9091")}
	for _, tt := range []struct {
		to          string
		allow, deny []netip.Prefix
		want        string // "": allowed
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
		{to: "169.254.170.2:80", want: "refused"},
		{to: "168.63.129.16:80", want: "metadata"},
		{to: "[fe80::1]:80", want: "refused"},
		{to: "[febf::1%2]:80", want: "refused"},
		{to: "[fe80::1%eth0]:80", want: "refused"},
		{to: "[fd00:ec2::254]:80", want: "metadata"},
		{to: "[fd00:ec2::23]:80", want: "metadata"},
		{to: "[fd20:ce::254]:80", want: "metadata"},
		{to: "[fd00:42::42]:80", want: "metadata"},
		{to: "100.100.100.200:80", want: "metadata"},
		{to: "[fd00:ec2::254]:80", allow: parsePrefixes("fd00:ec2::254/128")},
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
		{to: "[::ffff:0:0]:80", want: "refused"},
		{to: "[::ffff:8.8.8.8]:80"},
		{to: "[::ffff:127.0.0.1%eth0]:80", want: "refused"},
		{to: "[::127.0.0.1]:80", want: "refused"},
		{to: "[::8.8.8.8]:80", want: "refused"},
		{to: "[64:ff9b::7f00:1]:80", want: "refused"},
		{to: "[64:ff9b::808:808]:80", want: "refused"},
		{to: "[64:ff9b:1::7f00:1]:80", want: "refused"},
		{to: "[2001:0:808:808::80ff:fffe]:80", want: "refused"}, // Teredo of 127.0.0.1
		{to: "[2001:20::1]:80", want: "refused"},
		{to: "[2620:4f:8000::1]:80", want: "refused"},
		{to: "[3fff::1]:80", want: "refused"},
		{to: "[100::1]:80", want: "refused"},
		{to: "[5f00::1]:80", want: "refused"},
		{to: "[4000::1]:80", want: "refused"},
		{to: "[ff05::1:3]:80", want: "refused"},
		{to: "192.0.0.170:80", want: "refused"},
		{to: "192.88.99.1:80", want: "refused"},
		{to: "198.19.255.255:80", want: "refused"},
		{to: "198.51.100.1:80", want: "refused"},
		{to: "203.0.113.1:80", want: "refused"},
		{to: "223.255.255.255:80"},
		{to: "11.0.0.0:80"},
		{to: "9.255.255.255:80"},
		{to: "100.128.0.0:80"},
		{to: "[fdff:ffff::1]:65535"},
		{to: "[::ffff:0:7f00:1]:80", want: "refused"},
		{to: "[fec0::1]:80", want: "refused"},

		{to: "127.0.0.1:80", allow: parsePrefixes("127.0.0.0/8")},
		{to: "127.0.0.1:80", allow: parsePrefixes("127.0.0.2/32"), want: "refused"},
		{to: "[::1]:80", allow: parsePrefixes("127.0.0.0/8"), want: "refused"},
		{to: "[::ffff:127.0.0.1]:80", allow: parsePrefixes("127.0.0.0/8")},

		// A translated address must be allowed as both.
		{to: "[64:ff9b::808:808]:80", allow: parsePrefixes("64:ff9b::/96")},
		{to: "[64:ff9b::7f00:1]:80", allow: parsePrefixes("64:ff9b::/96"), want: "stands for 127.0.0.1, is refused"},
		{to: "[64:ff9b::a9fe:a9fe]:80", allow: parsePrefixes("::/0"), want: "stands for 169.254.169.254, is refused"},
		{to: "[64:ff9b::7f00:1]:80", allow: parsePrefixes("64:ff9b::/96", "127.0.0.1/32")},
		{to: "[64:ff9b::a01:203]:80", allow: parsePrefixes("64:ff9b::/96"), deny: parsePrefixes("10.0.0.0/8"), want: "denied"},
		{to: "[64:ff9b::c0a8:101]:8080", allow: parsePrefixes("64:ff9b::/96"), want: "itself"},
		{to: "[64:ff9b:1::a01:203]:80", allow: parsePrefixes("64:ff9b:1::/48"), deny: parsePrefixes("10.0.0.0/8"), want: "denied"},
		{to: "[2002:7f00:1::]:80", allow: parsePrefixes("2002::/16"), want: "stands for 127.0.0.1, is refused"},
		{to: "[2002:808:808::1]:80", allow: parsePrefixes("2002::/16")},
		{to: "[2001:0:808:808::80ff:fffe]:80", allow: parsePrefixes("2001::/32"), want: "stands for 127.0.0.1, is refused"},
		{to: "[::127.0.0.1]:80", allow: parsePrefixes("::/0"), want: "stands for 127.0.0.1, is refused"},
		{to: "[::ffff:0:7f00:1]:80", allow: parsePrefixes("::/0"), want: "stands for 127.0.0.1, is refused"},
		{to: "[::1]:80", allow: parsePrefixes("::/0")},
		{to: "127.0.0.1:80", allow: parsePrefixes("::/0"), want: "refused"},
		{to: "[::ffff:127.0.0.1]:80", allow: parsePrefixes("::/0"), want: "refused"},
		{to: "[::1]:80", allow: parsePrefixes("0.0.0.0/0"), want: "refused"},

		{to: "10.1.2.3:80", deny: parsePrefixes("10.0.0.0/8"), want: "denied"},
		{to: "10.1.2.3:80", deny: parsePrefixes("10.0.0.0/8"), allow: parsePrefixes("10.1.2.3/32"), want: "denied"},
		{to: "[::ffff:10.1.2.3]:80", deny: parsePrefixes("10.0.0.0/8"), allow: parsePrefixes("::/0"), want: "denied"},
		{to: "8.8.8.8:80", deny: parsePrefixes("0.0.0.0/0"), want: "denied"},

		{to: "192.168.1.1:8080", want: "itself"},
		{to: "192.168.1.1:8081"},
		{to: "192.168.1.1:8080", allow: parsePrefixes("192.168.0.0/16"), want: "itself"},
		{to: "127.0.0.1:5060", allow: parsePrefixes("127.0.0.0/8"), want: "itself"},
		{to: "127.9.9.9:5061", allow: parsePrefixes("127.0.0.0/8"), want: "itself"},
		{to: "[::1]:5060", allow: parsePrefixes("::1/128"), want: "itself"},
		{to: "127.0.0.1:5062", allow: parsePrefixes("127.0.0.0/8")},
		{to: "0.0.0.0:8080", allow: parsePrefixes("0.0.0.0/0"), want: "itself"},
		{to: "[::]:8080", allow: parsePrefixes("::/0"), want: "itself"},
		{to: "[::ffff:0.0.0.0]:5060", allow: parsePrefixes("0.0.0.0/0"), want: "itself"},
		{to: "0.0.0.0:81", allow: parsePrefixes("0.0.0.0/0")},
		{to: "[::ffff:192.168.1.1]:8080", want: "itself"},
		{to: "192.168.1.3:9090", want: "itself"},
		{to: "[fe80::7%eth0]:9091", allow: parsePrefixes("fe80::/10"), want: "itself"},
		{to: "[fe80::7%2]:9091", allow: parsePrefixes("fe80::/10"), want: "itself"},
		{to: "192.168.1.1:8080", deny: parsePrefixes("192.168.1.1/32"), want: "denied"},
		{to: "10.1.2.3:5060"},
	} {
		g := newEgressGuard(Config{Allow: tt.allow, Deny: tt.deny, Own: own})
		err := g.checkDial("tcp4", tt.to, nil)
		switch {
		case tt.want == "" && err != nil:
			t.Errorf("%s: %v, want permitted (allow %v, deny %v)", tt.to, err, tt.allow, tt.deny)
		case tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)):
			t.Errorf("%s: %v, want %s (allow %v, deny %v)", tt.to, err, tt.want, tt.allow, tt.deny)
		}
	}
	g := newEgressGuard(Config{})
	for _, network := range []string{"udp4", "unix", "ip4"} {
		if g.checkDial(network, "8.8.8.8:80", nil) == nil {
			t.Errorf("%s is permitted", network)
		}
	}
	if g.checkDial("tcp4", "localhost:80", nil) == nil {
		t.Error("a name is permitted")
	}
}

// The egress guard checks the address that is dialed, whatever the name of the host.
func TestGuardChecksDialedAddress(t *testing.T) {
	r := newReceiver(t)
	for _, host := range []string{"127.0.0.1", "localhost", "[::ffff:127.0.0.1]"} {
		url := strings.Replace(r.URL, "127.0.0.1", host, 1)
		transport, _, _ := newTransport(Config{})
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
		if got := parseRetryAfter(tt.in, now); got != tt.want {
			t.Errorf("%q: %v, want %v", tt.in, got, tt.want)
		}
	}
}
