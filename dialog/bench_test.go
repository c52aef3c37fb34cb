package dialog

import (
	"fmt"
	"testing"
)

// BenchmarkAnsweredCall is INVITE, 100, 180, 200, ACK, BYE, 200 of one leg; the
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
