package main

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"syscall"
	"testing"
	"time"

	"bellhop/sip"
)

// TestKilled kills a bellhop with 200 calls up, and starts it again. Half of
// the calls are then ended by the caller and half by the PBX: every BYE must
// reach the other end, and its 200 must come back.
func TestKilled(t *testing.T) {
	t.Parallel()
	const calls = 200
	s := newSite(t, sip.UDP, sip.UDP)
	p := s.serve()
	s.subscribe("json", "POST", "answer", "hangup")

	phones, pbx := s.place("held", calls, 100)
	s.eventually("every call is acknowledged", func() bool {
		messages, err := os.ReadFile(pbx.messages)
		return err == nil && bytes.Count(messages, []byte("\nACK ")) >= calls
	})
	s.receiver.wait("every answer", patience, func(came []received) bool { return len(came) == calls })
	for _, c := range s.receiver.take() {
		if c.get("EventType") != "answer" {
			t.Fatalf("%v before any call was to end", c.fields)
		}
	}

	p.signal(syscall.SIGKILL)
	<-p.done
	p = s.serve()

	// 4 calls a tick: no socket's buffer is the limit.
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for call := 1; call <= calls; call++ {
		end := phones
		if call%2 == 0 {
			end = pbx
		}
		end.hangUp(call)
		if call%4 == 0 {
			<-tick.C
		}
	}
	phones.exits(0, time.Minute)
	pbx.exits(0, patience)
	p.stop()
}

// TestKilledOwing kills a bellhop whose receiver is away, and starts it again:
// every event that was said is delivered all the same.
func TestKilledOwing(t *testing.T) {
	t.Parallel()
	const calls = 20
	s := newSite(t, sip.UDP, sip.UDP)
	p := s.serve()
	s.subscribe("json", "POST", "dial-out", "hangup")
	s.receiver.down()
	phones, pbx := s.place("busy", calls, 50)
	phones.exits(0, time.Minute)
	pbx.exits(0, patience)
	s.eventually("every event is in the log", func() bool {
		var log struct{ Items []any }
		s.api("GET", "/v1/events?limit=1000", nil, &log)
		return len(log.Items) >= 2*calls
	})

	p.signal(syscall.SIGKILL)
	<-p.done
	p = s.serve()
	s.receiver.up()
	s.receiver.wait("a hangup for every call", time.Minute, func(came []received) bool { return hangups(came) >= calls })
	p.stop()
	s.once(calls, "dial-out 1", "hangup 2")
}

// hangUp tells SIPp to end a call, the first being 1, without asking bellhop.
func (a *agent) hangUp(call int) {
	a.t.Helper()
	c, err := net.Dial("udp", a.at.AddrPort.String())
	if err != nil {
		a.t.Fatal(err)
	}
	defer c.Close()
	_, err = fmt.Fprintf(c, "INFO sip:sipp@%v SIP/2.0\r\nVia: SIP/2.0/UDP %v;branch=z9hG4bK-test\r\nFrom: <sip:test@test>;tag=test\r\n"+
		"To: <sip:sipp@test>\r\nCall-ID: %d%s\r\nCSeq: 1 INFO\r\nContent-Length: 0\r\n\r\n", a.at.AddrPort, c.LocalAddr(), call, a.calls)
	if err != nil {
		a.t.Fatal(err)
	}
}
