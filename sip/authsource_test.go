package sip_test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"bellhop/sip"
)

// FreeSWITCH judges a caller by X-AUTH-IP if a proxy sends it. The proxy must therefore
// remove it from requests of strangers, and from no others.
func TestStripsXAuthFieldsOfStrangers(t *testing.T) {
	trunkAt := netip.MustParseAddrPort("198.51.100.9:5060")
	fields := []string{"X-AUTH-IP: 127.0.0.1", "X-AUTH-PORT: 5060", "X-Auth-Token: t"}
	check := func(t *testing.T, got text, kept bool) {
		t.Helper()
		want := "||t"
		if kept {
			want = "127.0.0.1|5060|t"
		}
		assertEqual(t, got.startLine(), strings.Join([]string{got.fieldValue("X-AUTH-IP"), got.fieldValue("X-AUTH-PORT"), got.fieldValue("X-Auth-Token")}, "|"), want)
	}
	for _, strip := range []bool{true, false} {
		t.Run(fmt.Sprintf("strip=%v", strip), func(t *testing.T) {
			runScenario(t, func(s *testbed) {
				trunk := s.addUDPPeer(trunkAt)
				for _, from := range []*peer{s.phone, trunk} {
					kept := from == trunk || !strip
					for _, method := range []string{"REGISTER", "MESSAGE", "SUBSCRIBE", "OPTIONS"} {
						from.send(from.newRequest(method, "sip:102@pbx.example", fields...))
						got := s.pbx.expect("sent on", method)
						check(t, got, kept)
						s.pbx.respond(got, "200 OK", "Path: "+got.fieldValue("Path"))
						from.expect("answer", "SIP/2.0 200")
					}
					invite := from.newInvite(fields...)
					from.send(invite)
					got := s.pbx.expect("sent on", "INVITE")
					check(t, got, kept)
					s.pbx.respond(got, "180 Ringing", fields...)
					check(t, from.expect("a response says what the PBX says", "SIP/2.0 180"), true)
					from.sendCancel(invite, fields...)
					from.expect("taken", "SIP/2.0 200")
					cancel := s.pbx.expect("goes on", "CANCEL")
					check(t, cancel, kept)
					s.pbx.respond(cancel, "200 OK")
					s.pbx.respond(got, "487 Request Terminated")
					s.pbx.expect("acknowledged", "ACK")
					from.sendACK(invite, from.expect("the end", "SIP/2.0 487"))

					c := from.setUpCall(s.pbx)
					from.send(from.callerRequest(c.ok, "INFO", fields...))
					got = s.pbx.expect("within a dialog", "INFO")
					check(t, got, kept)
					s.pbx.respond(got, "200 OK")
					from.expect("answer", "SIP/2.0 200")
				}
				s.pbx.send(s.pbx.newRequest("MESSAGE", "sip:101@192.0.2.101:5062", fields...))
				got := s.phone.expect("from the PBX", "MESSAGE")
				check(t, got, true)
				s.phone.respond(got, "200 OK")
			}, func(c *sip.Config) {
				c.StripIdentity = strip
				c.Trunks = []sip.Trunk{{Name: "carrier", Sources: parsePrefixes("198.51.100.9/32")}}
			})
		})
	}
}
