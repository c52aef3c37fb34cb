package main

import (
	"flag"
	"slices"
	"testing"
	"time"

	"bellhop/sip"
)

var soak = flag.Bool("soak", false, "tests take minutes, and measure")

// TestReceiverDown stops the receiver during calls. It is back before a live event
// expires, so no event may be missing: repetitions have the same ids, and the events of
// each call arrive in order.
func TestReceiverDown(t *testing.T) {
	t.Parallel()
	calls, rate, down := 120, 20, 6*time.Second
	if *soak {
		calls, rate, down = 500, 10, 30*time.Second
	}
	s := newSite(t, sip.UDP, sip.UDP)
	p := s.serve()
	s.subscribe("json", "POST", "dial-out", "ringing", "answer", "hangup")

	phones, pbx := s.place("caller-hangs-up", calls, rate)
	s.receiver.wait("a quarter of the hangups", patience, func(came []received) bool { return hangups(came) >= calls/4 })
	s.receiver.down()
	gone := time.Now()
	<-time.After(down)
	s.receiver.up()
	back := time.Now()
	phones.exits(0, patience)
	pbx.exits(0, patience)
	s.receiver.wait("a hangup for every call", patience, func(came []received) bool { return hangups(came) >= calls })
	late := time.Since(back)
	p.stop()

	first := s.once(calls, "dial-out 1", "ringing 2", "answer 3", "hangup 4")
	missed := 0
	for _, c := range first {
		if at := time.UnixMicro(c.number("EventTime")); at.After(gone) && at.Before(back) {
			missed++
		}
	}
	if missed == 0 {
		t.Error("nothing happened while the receiver was away")
	}
	t.Logf("%d events of %d calls, %d of them while the receiver was away for %v; the last hangup came %v after it was back",
		len(first), calls, missed, down, late.Round(time.Millisecond))
}

// once returns the received callbacks of the dialect json without repetitions. It fails
// the test unless each call has the wanted types and sequence numbers in order, and
// repetitions have the same ids.
func (s *site) once(calls int, want ...string) (first []received) {
	s.t.Helper()
	told := map[string][]string{}
	events := map[string]string{} // webhook-id to event
	ids := map[string]string{}    // event to webhook-id
	for _, c := range s.receiver.take() {
		event := c.get("CallID") + " " + c.get("EventType") + " " + c.get("event_id")
		other, again := events[c.id]
		if again && other != event {
			s.t.Errorf("webhook-id %s is of %s and of %s", c.id, other, event)
		}
		if other, again := ids[event]; again && other != c.id {
			s.t.Errorf("%s came as %s and as %s", event, other, c.id)
		}
		events[c.id], ids[event] = event, c.id
		if !again {
			first = append(first, c)
			told[c.get("CallID")] = append(told[c.get("CallID")], c.get("EventType")+" "+c.get("sequence"))
		}
	}
	if len(told) != calls {
		s.t.Errorf("callbacks of %d calls, want %d", len(told), calls)
	}
	for call, got := range told {
		if !slices.Equal(got, want) {
			s.t.Errorf("call %s: got %q, want %q", call, got, want)
		}
	}
	return first
}

// hangups counts the calls with a hangup.
func hangups(came []received) int {
	over := map[string]bool{}
	for _, c := range came {
		if c.get("EventType") == "hangup" {
			over[c.get("CallID")] = true
		}
	}
	return len(over)
}
