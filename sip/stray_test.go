package sip_test

import (
	"strings"
	"testing"
	"time"
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

// TestATryingWithoutAnotherVia: every 100 of sofia-sip has the topmost Via alone. It
// stops the repetitions, and lets a CANCEL go, all the same.
func TestATryingWithoutAnotherVia(t *testing.T) {
	play(t, func(s *scene) {
		invite, got := s.invited()
		trying := s.pbx.answer(got, "100 Trying")
		s.pbx.sends(text(strings.Replace(string(trying), "Via: "+got.all("Via")[1]+"\r\n", "", 1)))
		s.after(150 * ms)
		s.phone.gets("our own, when the PBX takes its time", "SIP/2.0 100")
		s.after(40 * time.Second)
		s.quiet("the INVITE is not repeated, and does not time out")
		s.phone.cancels(invite)
		s.phone.gets("the CANCEL is taken", "SIP/2.0 200")
		cancel := s.pbx.gets("and goes on", "CANCEL")
		s.pbx.replies(cancel, "200 OK")
		s.pbx.replies(got, "487 Request Terminated")
		s.pbx.gets("acknowledged", "ACK")
		s.phone.acks(invite, s.phone.gets("the end", "SIP/2.0 487"))
	})
}
