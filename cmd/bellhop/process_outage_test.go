package main

import (
	"flag"
	"fmt"
	"slices"
	"testing"
	"time"

	"bellhop/sip"
)

var soak = flag.Bool("soak", false, "the receiver is down for 30 s amid 500 calls, not for 6 s amid 120")

// TestReceiverDown takes the receiver away while calls go on. It is back before
// a live event expires, so nothing may be missing: what comes twice has the
// same ids, and the events of each call come in order.
func TestReceiverDown(t *testing.T) {
	t.Parallel()
	calls, rate, down := 120, 20, 6*time.Second
	if *soak {
		calls, rate, down = 500, 10, 30*time.Second
	}
	s := newSite(t, sip.UDP, sip.UDP)
	p := s.serve()
	types := []string{"dial-out", "ringing", "answer", "hangup"}
	s.subscribe("json", "POST", types...)

	phones, pbx := s.place("caller-hangs-up", calls, rate)
	s.receiver.wait("a quarter of the hangups", time.Minute, func(came []received) bool { return hangups(came) >= calls/4 })
	s.receiver.down()
	gone := time.Now()
	<-time.After(down)
	s.receiver.up()
	back := time.Now()
	phones.exits(0, 2*time.Minute)
	pbx.exits(0, patience)
	s.receiver.wait("a hangup for every call", 2*time.Minute, func(came []received) bool { return hangups(came) >= calls })
	late := time.Since(back)
	p.stop()

	came := s.receiver.take()
	told := map[string][]string{} // call to the types of its events, as they first came
	ids := map[string]string{}    // webhook-id to event
	events := map[string]string{} // event to webhook-id
	missed := 0                   // events that happened while the receiver was away
	for _, c := range came {
		event := c.get("CallID") + " " + c.get("EventType") + " " + c.get("event_id")
		if other, again := ids[c.id]; again && other != event {
			t.Errorf("webhook-id %s is of %s and of %s", c.id, other, event)
		}
		if other, again := events[event]; again && other != c.id {
			t.Errorf("%s has come as %s and as %s", event, other, c.id)
		} else if again {
			continue
		}
		ids[c.id], events[event] = event, c.id
		told[c.get("CallID")] = append(told[c.get("CallID")], fmt.Sprint(c.get("EventType"), " ", c.get("sequence")))
		if at := time.UnixMicro(c.number("EventTime")); at.After(gone) && at.Before(back) {
			missed++
		}
	}
	if len(told) != calls {
		t.Errorf("callbacks of %d calls, want %d", len(told), calls)
	}
	want := []string{"dial-out 1", "ringing 2", "answer 3", "hangup 4"}
	for call, got := range told {
		if !slices.Equal(got, want) {
			t.Errorf("call %s: got %q, want %q", call, got, want)
		}
	}
	if missed == 0 {
		t.Error("nothing happened while the receiver was away")
	}
	t.Logf("%d callbacks of %d calls, %d of them of events while the receiver was away for %v, %d twice; the last hangup came %v after it was back",
		len(came), calls, missed, down, len(came)-len(events), late.Round(time.Millisecond))
}

// hangups counts the calls that were told to be over.
func hangups(came []received) int {
	over := map[string]bool{}
	for _, c := range came {
		if c.get("EventType") == "hangup" {
			over[c.get("CallID")] = true
		}
	}
	return len(over)
}
