package sip

import (
	"bytes"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"bellhop/dialog"
	"bellhop/sip/guard"
)

const typicalINVITE = "INVITE sip:102@pbx.example.com SIP/2.0\r\n" +
	"Via: SIP/2.0/UDP 192.0.2.101:5062;branch=z9hG4bK-00000000;rport\r\n" +
	"Max-Forwards: 70\r\n" +
	"From: \"Alice Liddell\" <sip:101@pbx.example.com>;tag=as58f4201b\r\n" +
	"To: <sip:102@pbx.example.com>\r\n" +
	"Call-ID: 5f1c9d2e-00000000@192.0.2.101\r\n" +
	"CSeq: 102 INVITE\r\n" +
	"Contact: <sip:101@192.0.2.101:5062>\r\n" +
	"User-Agent: Some Phone 1.2.3\r\n" +
	"Date: Sat, 01 Nov 2025 12:00:00 GMT\r\n" +
	"Allow: INVITE, ACK, CANCEL, OPTIONS, BYE, REFER, SUBSCRIBE, NOTIFY, INFO, PUBLISH, MESSAGE\r\n" +
	"Supported: replaces, timer\r\n" +
	"Session-Expires: 1800\r\n" +
	"Content-Type: application/sdp\r\n" +
	"Content-Length: 181\r\n\r\n" +
	"v=0\r\no=root 1821 1821 IN IP4 192.0.2.101\r\ns=call\r\nc=IN IP4 192.0.2.101\r\nt=0 0\r\nm=audio 11424 RTP/AVP 0 8 101\r\n" +
	"a=rtpmap:0 PCMU/8000\r\na=rtpmap:8 PCMA/8000\r\na=rtpmap:101 telephone-ev\r\n"

func BenchmarkIndex(b *testing.B) {
	in := []byte(typicalINVITE)
	var m message
	b.SetBytes(int64(len(in)))
	b.ReportAllocs()
	for b.Loop() {
		if !m.index(in, false) || m.fault != nil {
			b.Fatal(m.fault)
		}
	}
}

// BenchmarkSplice routes a typical INVITE and writes it as it is forwarded.
func BenchmarkSplice(b *testing.B) {
	w, _ := newBareWorker(b, nil)
	p := w.receivePacket([]byte(typicalINVITE), barePhone)
	branch := w.proxy.branchSalt.appendBranch(nil, 1, 2)
	b.ReportAllocs()
	for b.Loop() {
		r, f := w.router.routeRequest(p)
		if f != nil {
			b.Fatal(f)
		}
		w.composer.rewriteRequest(p, &r, branch)
	}
}

// BenchmarkCall handles the six messages of a call in a worker, without sockets. Its
// clock makes 1,000 calls a second, so that transactions of the last 32 seconds are in
// memory.
func BenchmarkCall(b *testing.B) {
	for _, watched := range []bool{false, true} {
		b.Run(fmt.Sprintf("watched=%v", watched), func(b *testing.B) { benchmarkCall(b, watched) })
	}
}

func benchmarkCall(b *testing.B, watched bool) {
	observations := make(chan dialog.Message, 16)
	w, out := newBareWorker(b, func(c *Config) {
		if watched {
			c.Observations = observations
		}
	})
	serial := 0
	var inside time.Duration // the rest is the peers' work
	number := func(m []byte) {
		for at := 0; ; at += 8 {
			i := bytes.Index(m[at:], []byte("-0000"))
			if i < 0 {
				return
			}
			at += i + 1
			appendHex(m[at:at], uint64(serial), 8)
		}
	}
	send := func(m []byte, phone bool) {
		from := barePBX
		if phone {
			from = barePhone
		}
		began := time.Now()
		w.handleItem(workItem{packet: w.receivePacket(m, from)})
		inside += time.Since(began)
		for len(observations) > 0 {
			<-observations
		}
	}
	invite, buf := []byte(typicalINVITE), []byte(nil)
	respond := func(status, more string) {
		m := &w.scratch
		m.index(out.last, false)
		buf = append(buf[:0], status...)
		for i := range m.fields {
			switch f := &m.fields[i]; f.name {
			case hVia, hRecordRoute, hFrom, hCallID, hCSeq:
				buf = append(buf, m.text(f.line)...)
			case hTo:
				buf = append(buf, m.b[f.line.from:f.value.to]...)
				if m.toTag.empty() {
					buf = append(buf, ";tag=as1"...)
				}
				buf = append(buf, "\r\n"...)
			}
		}
		buf = append(buf, more...)
	}
	const contact = "Contact: <sip:102@192.0.2.2:5060>\r\nContent-Length: 0\r\n\r\n"
	var answer, request, ringing []byte
	var m message
	within := func(method string, n int) []byte {
		m.index(answer, false)
		request = fmt.Appendf(request[:0], "%s sip:102@192.0.2.2:5060 SIP/2.0\r\nVia: SIP/2.0/UDP 192.0.2.101:5062;branch=z9hG4bK%s%08x;rport\r\nMax-Forwards: 70\r\nRoute: %s\r\n",
			method, method, serial, m.text(m.firstField(hRecordRoute).value))
		request = append(request, m.text(m.firstField(hFrom).line)...)
		request = append(request, m.text(m.firstField(hTo).line)...)
		request = append(request, m.text(m.firstField(hCallID).line)...)
		return fmt.Appendf(request, "CSeq: %d %s\r\nContent-Length: 0\r\n\r\n", n, method)
	}
	template := bytes.Clone(invite)
	one := func() {
		serial++
		copy(invite, template)
		number(invite)
		send(invite, true)
		respond("SIP/2.0 180 Ringing\r\n", contact)
		ringing = append(ringing[:0], buf...)
		respond("SIP/2.0 200 OK\r\n", contact)
		answer = append(answer[:0], buf...)
		send(ringing, false)
		send(answer, false)
		send(within("ACK", 102), true)
		send(within("BYE", 103), true)
		respond("SIP/2.0 200 OK\r\n", "Content-Length: 0\r\n\r\n")
		send(buf, false)
		w.advanceClock(time.Millisecond)
	}
	one()
	if out.count != 6 || !bytes.HasPrefix(out.last, []byte("SIP/2.0 200")) || w.proxy.stats.transactions.Load() != 0 {
		b.Fatalf("%d messages left, the last is\n%s", out.count, out.last)
	}
	b.ReportAllocs()
	inside = 0
	for b.Loop() {
		one()
	}
	b.ReportMetric(float64(inside.Nanoseconds())/float64(b.N), "hop-ns/op")
}

// BenchmarkGuard measures what the limits of sources cost for each new request of a phone.
func BenchmarkGuard(b *testing.B) {
	w, _ := newBareWorker(b, func(c *Config) {
		c.Guard = guard.Settings{
			UserAgents: []string{"friendly-scanner", "sipvicious", "sipcli", "VaxSIPUserAgent", "pplsip"},
			Rate:       guard.Rate{Count: 1e5, Per: time.Second}, PerBinding: 10, BanAfter: 10, BanTime: 5 * time.Minute,
		}
		c.Trunks = []Trunk{{Name: "a", Sources: []netip.Prefix{netip.MustParsePrefix("198.51.100.0/24")}}, {Name: "b", Sources: []netip.Prefix{netip.MustParsePrefix("203.0.113.0/24")}}}
	})
	p := w.receivePacket([]byte(typicalINVITE), barePhone)
	b.ReportAllocs()
	for b.Loop() {
		p.receivedAt += instant(time.Millisecond)
		if w.proxy.dropsBanned(p.listener, nil, p.peer.Addr(), p.receivedAt) || w.proxy.guardDrops(p) {
			b.Fatal("dropped")
		}
	}
}
