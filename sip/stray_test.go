package sip_test

import (
	"strings"
	"testing"
	"time"
)

func TestResponseWithoutAnotherVia(t *testing.T) { // RFC 3261 §16.7 item 3
	runScenario(t, func(s *testbed) {
		invite, got := s.sendInvite()
		ringing := s.pbx.newResponse(got, "180 Ringing")
		own, phones := got.fieldValues("Via")[0], got.fieldValues("Via")[1]
		s.pbx.send(text(strings.Replace(string(ringing), "Via: "+phones+"\r\n", "", 1)))
		s.expectNothing("there is nobody to send it to")
		if !strings.Contains(string(ringing), own) {
			t.Fatalf("our Via %q is not in\n%s", own, ringing)
		}
		s.pbx.respond(got, "486 Busy Here")
		s.pbx.expect("acknowledged", "ACK")
		s.phone.sendACK(invite, s.phone.expect("the transaction has gone on", "SIP/2.0 486"))
	})
}

// Every 100 of sofia-sip has the topmost Via alone. It stops the retransmissions and
// releases a waiting CANCEL all the same.
func TestATryingWithoutAnotherVia(t *testing.T) {
	runScenario(t, func(s *testbed) {
		invite, got := s.sendInvite()
		trying := s.pbx.newResponse(got, "100 Trying")
		s.pbx.send(text(strings.Replace(string(trying), "Via: "+got.fieldValues("Via")[1]+"\r\n", "", 1)))
		s.advance(150 * ms)
		s.phone.expect("our own, when the PBX takes its time", "SIP/2.0 100")
		s.advance(40 * time.Second)
		s.expectNothing("the INVITE is not repeated, and does not time out")
		s.phone.sendCancel(invite)
		s.phone.expect("the CANCEL is taken", "SIP/2.0 200")
		cancel := s.pbx.expect("and goes on", "CANCEL")
		s.pbx.respond(cancel, "200 OK")
		s.pbx.respond(got, "487 Request Terminated")
		s.pbx.expect("acknowledged", "ACK")
		s.phone.sendACK(invite, s.phone.expect("the end", "SIP/2.0 487"))
	})
}
