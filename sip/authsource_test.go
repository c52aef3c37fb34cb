package sip_test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"bellhop/sip"
)

// TestXAuthIP: FreeSWITCH judges a caller by it if a proxy sent it, and the proxy passes
// what anybody wrote. It is taken off what strangers send, and nobody else.
func TestXAuthIP(t *testing.T) {
	trunkAt := netip.MustParseAddrPort("198.51.100.9:5060")
	fields := []string{"X-AUTH-IP: 127.0.0.1", "X-AUTH-PORT: 5060", "X-Auth-Token: t"}
	check := func(t *testing.T, got text, kept bool) {
		t.Helper()
		want := "||t"
		if kept {
			want = "127.0.0.1|5060|t"
		}
		equal(t, got.start(), strings.Join([]string{got.one("X-AUTH-IP"), got.one("X-AUTH-PORT"), got.one("X-Auth-Token")}, "|"), want)
	}
	for _, strip := range []bool{true, false} {
		t.Run(fmt.Sprintf("strip=%v", strip), func(t *testing.T) {
			play(t, func(s *scene) {
				trunk := s.udp(trunkAt)
				for _, from := range []*peer{s.phone, trunk} {
					kept := from == trunk || !strip
					for _, method := range []string{"REGISTER", "MESSAGE", "SUBSCRIBE", "OPTIONS"} {
						from.sends(from.request(method, "sip:102@pbx.example", fields...))
						got := s.pbx.gets("sent on", method)
						check(t, got, kept)
						s.pbx.replies(got, "200 OK", "Path: "+got.one("Path"))
						from.gets("answer", "SIP/2.0 200")
					}
					invite := from.invite(fields...)
					from.sends(invite)
					got := s.pbx.gets("sent on", "INVITE")
					check(t, got, kept)
					s.pbx.replies(got, "180 Ringing", fields...)
					check(t, from.gets("a response says what the PBX says", "SIP/2.0 180"), true)
					from.cancels(invite, fields...)
					from.gets("taken", "SIP/2.0 200")
					cancel := s.pbx.gets("goes on", "CANCEL")
					check(t, cancel, kept)
					s.pbx.replies(cancel, "200 OK")
					s.pbx.replies(got, "487 Request Terminated")
					s.pbx.gets("acknowledged", "ACK")
					from.acks(invite, from.gets("the end", "SIP/2.0 487"))

					c := from.calls(s.pbx)
					from.sends(from.within(c.ok, "INFO", fields...))
					got = s.pbx.gets("within a dialog", "INFO")
					check(t, got, kept)
					s.pbx.replies(got, "200 OK")
					from.gets("answer", "SIP/2.0 200")
				}
				s.pbx.sends(s.pbx.request("MESSAGE", "sip:101@192.0.2.101:5062", fields...))
				got := s.phone.gets("from the PBX", "MESSAGE")
				check(t, got, true)
				s.phone.replies(got, "200 OK")
			}, func(c *sip.Config) {
				c.StripIdentity = strip
				c.Trunks = []sip.Trunk{{Name: "carrier", Sources: prefixes("198.51.100.9/32")}}
			})
		})
	}
}
