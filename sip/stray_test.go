package sip_test

import (
	"strings"
	"testing"
)

func TestResponseWithoutAnotherVia(t *testing.T) { // RFC 3261 §16.7 item 3
	play(t, func(s *scene) {
		invite, got := s.invited()
		ringing := s.pbx.answer(got, "180 Ringing")
		own, phones := got.all("Via")[0], got.all("Via")[1]
		s.pbx.sends(text(strings.Replace(string(ringing), "Via: "+phones+"\r\n", "", 1)))
		s.quiet("there is nobody to send it to")
		if !strings.Contains(string(ringing), own) {
			t.Fatalf("our Via %q is not in\n%s", own, ringing)
		}
		s.pbx.replies(got, "486 Busy Here")
		s.pbx.gets("acknowledged", "ACK")
		s.phone.acks(invite, s.phone.gets("the transaction has gone on", "SIP/2.0 486"))
	})
}
