package main

import (
	"bytes"
	"fmt"
	"net"
	"net/netip"
	"os"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"bellhop/sip"
)

// TestKillKeepsLiveCalls kills bellhop with 200 live calls, and restarts it.
func TestKillKeepsLiveCalls(t *testing.T) {
	t.Parallel()
	restart(t, 200, syscall.SIGKILL)
}

// TestStopKeepsLiveCalls stops bellhop with live calls, and restarts it.
func TestStopKeepsLiveCalls(t *testing.T) {
	t.Parallel()
	restart(t, 20, syscall.SIGTERM)
}

// restart ends bellhop with live calls, and starts it again. Half of the calls are then
// ended by the caller and half by the PBX: every BYE must reach the other end, and its
// 200 must come back. Each call has its hangup, with the duration that SIPp measured.
func restart(t *testing.T, calls int, by syscall.Signal) {
	s := newSite(t, sip.UDP, sip.UDP)
	p := s.serve()
	s.subscribe("json", "POST", "dial-out", "answer", "hangup")

	phones, pbx := s.place("held", calls, 100)
	pbx.acknowledged(calls)
	s.receiver.wait("every answer, and no hangup", patience, func(came []received) bool {
		if n := hangups(came); n > 0 {
			t.Fatalf("%d hangups before any call was to end", n)
		}
		return count(came, "answer") == calls
	})

	p.signal(by)
	<-p.done
	p = s.serve()
	if _, answer := s.request("GET", "/readyz", nil); bytes.Contains(answer, []byte("damaged")) {
		t.Errorf("the store is taken for damaged: %s", answer)
	}
	var up struct{ Items []struct{ State string } }
	s.api("GET", "/v1/calls?limit=1000", nil, &up)
	if len(up.Items) != calls {
		t.Errorf("%d calls are taken up again, want %d", len(up.Items), calls)
	}

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
	phones.exits(0, patience)
	pbx.exits(0, patience)
	s.receiver.wait("a hangup for every call", patience, func(came []received) bool { return count(came, "hangup") >= calls })
	p.stop()

	caller, callee := phones.spans(), pbx.spans()
	if len(caller) != calls || len(callee) != calls {
		t.Fatalf("SIPp tells of %d and %d calls, want %d", len(caller), len(callee), calls)
	}
	answered := map[string]int64{}
	for _, c := range s.once(calls, "dial-out 1", "answer 3", "hangup 4") {
		switch c.get("EventType") {
		case "answer":
			answered[c.get("CallID")] = c.number("EventTime")
		case "hangup":
			got := time.Duration(c.number("Duration")) * time.Microsecond
			if want := c.number("EventTime") - answered[c.get("CallID")]; got.Microseconds() != want {
				t.Errorf("Duration is %v, but answer to hangup %d µs", got, want)
			}
			// SIPp had sent the message before bellhop saw it, and receives its copy after.
			from, to := caller[c.get("callapi_id")], callee[c.get("callapi_id")]
			least, most := earlier(from.bye, to.bye).Sub(from.ok), later(from.bye, to.bye).Sub(to.ok)
			if got < least-250*time.Millisecond || got > most+250*time.Millisecond { // SIPp looks at the clock when it has sent
				t.Errorf("Duration is %v, SIPp says between %v and %v", got, least, most)
			}
			if c.get("recovered") != "true" || c.get("CallStatus") != "ANSWER" {
				t.Errorf("hangup is %v", c.fields)
			}
		}
	}
}

// TestKillWithoutBYEHangsUpOnce kills bellhop and both ends of its live calls, so that
// no BYE ever comes. Each call has exactly one hangup after max_duration, however often
// bellhop restarts.
func TestKillWithoutBYEHangsUpOnce(t *testing.T) {
	t.Parallel()
	const calls = 20
	s := newSite(t, sip.UDP, sip.UDP)
	s.configure("[calls]\nmax_duration = \"45s\"\n")
	p := s.serve()
	s.subscribe("json", "POST", "dial-out", "answer", "hangup")
	phones, pbx := s.place("held", calls, 100)
	s.receiver.wait("every answer", patience, func(came []received) bool { return count(came, "answer") == calls })

	// So much later that the log is no longer read for these calls, another begins.
	<-time.After(7 * time.Second)
	newPeer(t, netip.MustParseAddrPort("127.0.0.2:0")).invite(s, "another")
	<-time.After(2 * time.Second)
	for _, victim := range []*process{p, phones.process, pbx.process} {
		victim.signal(syscall.SIGKILL)
		<-victim.done
	}

	p = s.serve()
	s.receiver.wait("a hangup for every call", patience, func(came []received) bool { return hangups(came) >= calls })
	p.stop()
	p = s.serve()
	p.stop()
	for _, c := range s.once(calls, "dial-out 1", "answer 3", "hangup 4") {
		if c.get("EventType") != "hangup" {
			continue
		}
		if c.get("CallStatus") != "UNKNOWN" || c.get("recovered") != "true" || c.number("Duration") != (45*time.Second).Microseconds() {
			t.Errorf("hangup is %v", c.fields)
		}
	}
}

// TestKillWhileRinging kills bellhop while a phone rings: when the caller gives up, the
// call has a hangup.
func TestKillWhileRinging(t *testing.T) {
	t.Parallel()
	s := newSite(t, sip.UDP, sip.UDP)
	p := s.serve()
	s.subscribe("json", "POST", "dial-out", "hangup")
	phone, pbx := newPeer(t, netip.MustParseAddrPort("127.0.0.2:0")), newPeer(t, s.pbx.AddrPort)
	phone.invite(s, "rings")
	pbx.reply(s, pbx.gets("INVITE "), "180 Ringing")
	phone.gets("SIP/2.0 180 ")
	s.receiver.wait("a dial-out", patience, func(came []received) bool { return count(came, "dial-out") == 1 })

	p.signal(syscall.SIGKILL)
	<-p.done
	p = s.serve()
	phone.send(s.hop, "CANCEL sip:102@pbx.example SIP/2.0",
		fmt.Sprintf("Via: SIP/2.0/UDP %v;branch=z9hG4bK-rings", phone.c.LocalAddr()),
		"From: <sip:101@pbx.example>;tag=rings", "To: <sip:102@pbx.example>", "Call-ID: rings", "CSeq: 1 CANCEL", "Max-Forwards: 70")
	pbx.gets("CANCEL ")
	s.receiver.wait("a hangup", patience, func(came []received) bool { return hangups(came) == 1 })
	p.stop()
	for _, c := range s.receiver.take() {
		if c.get("EventType") == "hangup" && (c.get("CallStatus") != "CANCEL" || c.get("hangup_by") != "caller" || c.get("recovered") != "true") {
			t.Errorf("hangup is %v", c.fields)
		}
	}
}

// count counts the callbacks of a type, without repetitions.
func count(came []received, typ string) int {
	ids := map[string]bool{}
	for _, c := range came {
		if c.get("EventType") == typ {
			ids[c.id] = true
		}
	}
	return len(ids)
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// A span has the times of the 200 and of the first BYE at an end of a call.
type span struct{ ok, bye time.Time }

// spans returns the spans of the calls that have ended, by Call-ID, as SIPp logged them.
func (a *agent) spans() map[string]span {
	a.t.Helper()
	b, err := os.ReadFile(a.messages)
	if err != nil {
		a.t.Fatal(err)
	}
	up, ended := map[string]time.Time{}, map[string]span{}
	for _, m := range strings.Split(string(b), "-----------------------------------------------")[1:] {
		id := regexp.MustCompile(`(?m)^Call-ID: *(\S+)`).FindStringSubmatch(m)
		stamp, _, _ := strings.Cut(strings.TrimSpace(m), "\n")
		at, err := time.Parse("2006-01-02 15:04:05.000000", strings.TrimSpace(stamp))
		if err != nil || id == nil {
			continue
		}
		switch {
		case strings.Contains(m, "\nSIP/2.0 200 ") && strings.Contains(m, " INVITE"):
			if up[id[1]].IsZero() {
				up[id[1]] = at
			}
		case strings.Contains(m, "\nBYE "):
			if _, over := ended[id[1]]; !over {
				ended[id[1]] = span{up[id[1]], at}
			}
		}
	}
	return ended
}

// TestKillKeepsPendingDeliveries kills bellhop while its receiver is down, and restarts
// it: every published event is delivered.
func TestKillKeepsPendingDeliveries(t *testing.T) {
	t.Parallel()
	const calls = 20
	s := newSite(t, sip.UDP, sip.UDP)
	p := s.serve()
	s.subscribe("json", "POST", "dial-out", "hangup")
	s.receiver.down()
	phones, pbx := s.place("busy", calls, 50)
	phones.exits(0, patience)
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
	s.receiver.wait("a hangup for every call", patience, func(came []received) bool { return hangups(came) >= calls })
	p.stop()
	s.once(calls, "dial-out 1", "hangup 2")
}

// hangUp tells SIPp directly to end a call. The first call is 1.
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
