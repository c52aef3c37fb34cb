package sip_test

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"bellhop/sip"
	"bellhop/sip/guard"
)

// An operator bans a phone, whose connection is closed, and ends the ban.
func TestOperatorBansASource(t *testing.T) {
	runUnproven(t, func(s *testbed) {
		s.phone.expectServed()
		over := s.dialTCPPeer(s.phone.addr.Addr())
		over.expectServed()
		b, err := s.proxy.Ban(s.phone.addr.Addr(), time.Hour)
		if err != nil || b.Source != netip.PrefixFrom(s.phone.addr.Addr(), 32) || b.Reason != guard.BanManual || b.Until.Sub(b.Since) != time.Hour {
			t.Fatalf("banned: %+v, %v", b, err)
		}
		over.expect("the source is banned", "<closed>")
		s.phone.expectBanned()
		if lines := s.bans(); len(lines) != 1 || !strings.Contains(lines[0], "reason=manual for=1h0m0s") {
			t.Errorf("log %q", lines)
		}
		if bans := s.proxy.Bans(); len(bans) != 1 || bans[0] != b {
			t.Errorf("bans %+v", bans)
		}
		if ended, ok := s.proxy.Unban(b.Source.Addr()); !ok || ended != b {
			t.Errorf("ended: %+v, %v", ended, ok)
		}
		s.phone.expectServed()
		if _, ok := s.proxy.Unban(b.Source.Addr()); ok || len(s.proxy.Bans()) > 0 {
			t.Error("the ban has ended, and is ended again")
		}
	}, guarded)
}

// An address to which bans do not apply is not banned by mistake.
func TestExemptSourcesCannotBeBanned(t *testing.T) {
	runUnproven(t, func(s *testbed) {
		for ip, why := range map[string]string{
			"192.0.2.2":    "an address of the PBX",
			"192.0.2.200":  "an address of the trunk carrier",
			"192.0.2.201":  "in guard.allow",
			"198.51.100.9": "a reverse proxy",
		} {
			if _, err := s.proxy.Ban(netip.MustParseAddr(ip), time.Hour); err == nil || !strings.Contains(err.Error(), why) {
				t.Errorf("ban of %s: %v, want %q", ip, err, why)
			}
		}
		if len(s.proxy.Bans()) > 0 {
			t.Errorf("bans %+v", s.proxy.Bans())
		}
	}, guarded, func(c *sip.Config) {
		c.Guard.Allow = parsePrefixes("192.0.2.201")
		c.Listen[0].ProxyFrom = parsePrefixes("198.51.100.9")
	})
}

// A ban goes on in the next process for the time that is left, and the next one is longer.
func TestBansAreRestored(t *testing.T) {
	runUnproven(t, func(s *testbed) {
		s.phone.guess(10)
		s.phone.expectBanned()
		bans := s.proxy.Bans()
		s.stop()
		s.advance(time.Minute)
		s.restartProxy()
		for _, b := range bans {
			s.proxy.RestoreBan(b)
		}
		if again := s.proxy.Bans(); len(again) != 1 || again[0] != bans[0] {
			t.Errorf("restored %+v, want %+v", again, bans)
		}
		s.phone.expectBanned()
		s.advance(5 * time.Minute)
		s.phone.expectServed()
		s.proxy.RestoreBan(bans[0])
		s.phone.expectServed()
		s.phone.guess(10)
		if b := s.proxy.Bans(); len(b) != 1 || b[0].Times != 2 {
			t.Errorf("the next ban is %+v", b)
		}
	}, guarded)
}
