package dialog

import (
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"
)

// BenchmarkAnsweredCall measures INVITE, 100, 180, 200, ACK, BYE and 200 of one leg; the
// times are per message.
func BenchmarkAnsweredCall(b *testing.B) {
	tracker := New(testConfig())
	l := caller()
	headers := "Via: SIP/2.0/UDP 192.0.2.11:5060;branch=z9hG4bK1;rport\r\nMax-Forwards: 70\r\nCSeq: 1 INVITE\r\n" +
		"Contact: <sip:101@192.0.2.11:5060>\r\nUser-Agent: Phone/1.0\r\nAllow: INVITE, ACK, CANCEL, BYE\r\n" +
		"Supported: replaces\r\nContent-Type: application/sdp\r\nContent-Length: 200"
	ack := l.message(Edge, "ACK", 0, headers)
	ack.ToTag = l.to
	messages := []Message{l.invite(headers), l.response(100, headers), l.response(180, headers), l.response(200, headers), ack, l.bye(true, headers), l.bye(true, headers)}
	messages[6].Status, messages[6].Src, messages[6].Dst = 200, PBX, Edge
	b.ReportAllocs()
	n := 0
	for b.Loop() {
		if n%len(messages) == 0 {
			l.at = l.at.Add(1e6)
			tracker.Advance(l.at)
			id := fmt.Sprint(n)
			for i := range messages {
				messages[i].CallID, messages[i].At = id, l.at
			}
		}
		tracker.Observe(messages[n%len(messages)])
		n++
	}
}

// BenchmarkLongCallID measures an INVITE of the PBX whose Call-ID is as long as possible,
// and consists of separators.
func BenchmarkLongCallID(b *testing.B) {
	tracker := New(testConfig())
	l := legToPhone("101", "102", strings.Repeat("-", 60_000))
	m := l.invite()
	i := inviteMatch{Message: &m, links: &callHints{}}
	b.ReportAllocs()
	for b.Loop() {
		tracker.correlator.matchSimilarCallID(&i)
	}
}

// BenchmarkLiveCalls holds 50,000 answered calls of two legs, as of a B2BUA: it measures
// the memory of one of them, and the time of another call beside them.
func BenchmarkLiveCalls(b *testing.B) {
	const live = 50_000
	headers := "Via: SIP/2.0/UDP 192.0.2.11:5060;branch=z9hG4bK1;rport\r\nMax-Forwards: 70\r\n" +
		"Contact: <sip:101@192.0.2.11:5060>\r\nUser-Agent: Phone/1.0\r\nSession-ID: %032x\r\nContent-Length: 200"
	at := start
	call := func(t *Tracker, n int) {
		caller, called := fmt.Sprint(10_000+n%80_000), fmt.Sprint(10_000+(n+1)%80_000)
		h := fmt.Sprintf(headers, n+1)
		x, y := legFromPhone(caller, called, fmt.Sprintf("%032x@192.0.2.11", n)), legToPhone(caller, called, fmt.Sprintf("%08x-1111-2222-3333-444455556666", n))
		x.at, y.at = at, at
		for _, m := range []Message{x.invite(h), x.response(100), y.invite(h), y.response(180), x.response(180), y.response(200, h), x.response(200, h)} {
			t.Observe(m)
		}
		at = at.Add(time.Millisecond)
	}
	memory := func() uint64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	tracker := New(testConfig())
	before := memory()
	for n := range live {
		call(tracker, n)
	}
	each := (memory() - before) / live
	b.ReportAllocs()
	n := live
	for b.Loop() {
		call(tracker, n)
		n++
	}
	b.ReportMetric(float64(each), "B/live-call")
	if len(tracker.deadlines) != n && len(tracker.deadlines) != maxCalls {
		b.Errorf("%d calls are followed, want %d of two legs each", len(tracker.deadlines), n)
	}
}
