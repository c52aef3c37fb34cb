package sip_test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"bellhop/sip"
)

func TestStreamFraming(t *testing.T) { // RFC 3261 §7.5, §18.3; row 35
	play(t, func(s *scene) {
		phone := s.tcp(phoneAt.Addr())
		message := func(body string) text {
			return phone.request("MESSAGE", "sip:102@pbx.example", "", body)
		}
		arrives := func(what, body string) {
			t.Helper()
			got := s.pbx.gets(what, "MESSAGE")
			equal(t, what, got.body(), body)
			s.pbx.replies(got, "200 OK")
			phone.gets(what, "SIP/2.0 200")
		}
		for _, b := range []byte(message("byte by byte")) {
			phone.write([]byte{b})
		}
		arrives("byte by byte", "byte by byte")
		phone.sends(message("one") + message("two") + "\r\n" + message("") + "\r\n" + message("three\r\n\r\n"))
		for _, want := range []string{"one", "two", "", "three\r\n\r\n"} {
			got := s.pbx.gets("several in one segment", "MESSAGE")
			equal(t, "several in one segment", got.body(), want)
			s.pbx.replies(got, "200 OK")
			phone.gets("answer", "SIP/2.0 200")
		}
		long := message(strings.Repeat("x", 60000))
		phone.sends(long[:100], long[100:5000], long[5000:])
		arrives("60,000 bytes", strings.Repeat("x", 60000))
		s.quiet("that was all")
	}, oneWorker)
}

func TestPing(t *testing.T) { // RFC 5626 §3.5.1, row 35
	play(t, func(s *scene) {
		phone := s.tcp(phoneAt.Addr())
		phone.sends("\r\n\r\n")
		equal(t, "pong", string(phone.gets("a ping", "\r\n")), "\r\n")
		phone.sends("\r", "\n", "\r", "\n")
		equal(t, "pong", string(phone.gets("a ping in pieces", "\r\n")), "\r\n")
		phone.sends("\r\n" + phone.request("OPTIONS", "sip:192.0.2.1"))
		phone.gets("one CRLF is no ping", "SIP/2.0 200")
		phone.sends("\r\n\r\n" + phone.request("OPTIONS", "sip:192.0.2.1"))
		phone.gets("a ping", "\r\n")
		phone.gets("before a message", "SIP/2.0 200")
		s.quiet("that was all")
	})
}

func TestAStreamThatCannotBeReadFurtherIsClosed(t *testing.T) { // RFC 3261 §18.3, row 5
	for _, tt := range []struct {
		name, old, new string
		want           string
	}{
		{"two Content-Lengths", "Content-Length: 0", "Content-Length: 0\r\nl: 5", "SIP/2.0 400"},
		{"the same one twice", "Content-Length: 0", "Content-Length: 0\r\nContent-Length: 0", "SIP/2.0 400"},
		{"negative", "Content-Length: 0", "Content-Length: -999", "SIP/2.0 400"},
		{"no number", "Content-Length: 0", "Content-Length: many", "SIP/2.0 400"},
		{"too large", "Content-Length: 0", "Content-Length: 65536", "SIP/2.0 400"},
		{"it wraps", "Content-Length: 0", "Content-Length: 4294967296", "SIP/2.0 400"},
		{"no SIP", "MESSAGE sip:102@pbx.example SIP/2.0", "GET / HTTP/1.1", "<closed>"},
		{"a response of that kind", "MESSAGE sip:102@pbx.example SIP/2.0\r\n", "SIP/2.0 200 OK\r\nContent-Length: -1\r\n", "<closed>"},
		{"no start line of ours", "MESSAGE sip:102@pbx.example SIP/2.0\r\n", "MESSAGE sip:102@pbx.example\r\nContent-Length: -1\r\n", "<closed>"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			play(t, func(s *scene) {
				phone := s.tcp(phoneAt.Addr())
				phone.sends(phone.request("MESSAGE", "sip:102@pbx.example").with(tt.old, tt.new) + phone.request("MESSAGE", "sip:smuggled@pbx.example"))
				phone.gets("told or not", tt.want)
				if tt.want != "<closed>" {
					phone.gets("and closed", "<closed>")
				}
				s.quiet("what is behind it is not read")
				equal(t, "connections", fmt.Sprint(s.hop.Stats().Streams), "0")
			})
		})
	}
}

func TestAStreamGoesOnBehindABadMessage(t *testing.T) { // RFC 3261 §18.3: the length is known
	play(t, func(s *scene) {
		phone := s.tcp(phoneAt.Addr())
		bad := phone.request("MESSAGE", "sip:102@pbx.example", "", "a body").with("From:", "X-From:")
		phone.sends(bad + phone.request("OPTIONS", "sip:192.0.2.1") + "SIP/2.0 4294967301 better not break\r\nContent-Length: 3\r\n\r\nabc" +
			"OPTIONS sip:192.0.2.1 SIP/7.0\r\nContent-Length: 3\r\n\r\nabc" + phone.request("OPTIONS", "sip:192.0.2.1"))
		phone.gets("refused", "SIP/2.0 400")
		phone.gets("and read on", "SIP/2.0 200")
		phone.gets("and on", "SIP/2.0 200")
		s.quiet("that was all")
	}, oneWorker)
}

func TestOversizeOnAStream(t *testing.T) { // bounds
	play(t, func(s *scene) {
		phone := s.tcp(phoneAt.Addr())
		go phone.write([]byte("MESSAGE sip:102@pbx.example SIP/2.0\r\n" + strings.Repeat("X: "+strings.Repeat("x", 1000)+"\r\n", 70)))
		phone.gets("a header section without end", "<closed>")
		for range 2 {
			endless := s.tcp(phoneAt.Addr())
			go endless.write([]byte(strings.Repeat("x", 70000)))
			endless.gets("a line without end", "<closed>")
		}
		s.after(0)
		equal(t, "connections", fmt.Sprint(s.hop.Stats().Streams), "0")
	})
}

func TestASlowStreamIsClosed(t *testing.T) { // proxy.md §3: slowloris
	play(t, func(s *scene) {
		silent := s.tcp(phoneAt.Addr())
		s.after(10*time.Second - ms)
		s.quiet("not yet")
		s.after(ms)
		silent.gets("10 s without a byte", "<closed>")

		slow := s.tcp(phoneAt.Addr())
		slow.sends("MESSAGE sip:")
		for range 29 {
			s.after(time.Second)
			slow.sends("1")
		}
		s.quiet("not yet")
		s.after(time.Second)
		slow.gets("30 s for a message", "<closed>")

		idle := s.tcp(phoneAt.Addr())
		idle.sends(idle.request("OPTIONS", "sip:192.0.2.1"))
		idle.gets("answer", "SIP/2.0 200")
		s.after(time.Hour)
		s.quiet("an hour is fine")
		idle.sends("\r\n\r\n")
		idle.gets("pong", "\r\n")
		s.after(time.Hour)
		s.quiet("another is fine")
		s.after(6 * time.Second)
		idle.gets("3,605 s without a ping", "<closed>")
	})
}

func TestTooManyConnectionsOfOneAddress(t *testing.T) {
	play(t, func(s *scene) {
		var open []*peer
		for range 64 {
			open = append(open, s.tcp(phoneAt.Addr()))
		}
		s.after(0)
		s.tcp(phoneAt.Addr()).gets("one too many", "<closed>")
		other := s.tcp(otherAt.Addr())
		other.sends(other.request("OPTIONS", "sip:192.0.2.1"))
		other.gets("another address may", "SIP/2.0 200")
		open[0].close()
		open[0].forgets()
		again := s.tcp(phoneAt.Addr())
		again.sends(again.request("OPTIONS", "sip:192.0.2.1"))
		again.gets("when one has gone another may come", "SIP/2.0 200")
		if n := s.hop.Stats().Refused; n != 1 {
			s.t.Errorf("%d connections are counted as refused, want 1", n)
		}
	}, func(c *sip.Config) { c.Connections = 64 })
}

// PBX and trunk may have any number of connections, up to the bound of all. One
// on which nothing came yet counts.
func TestTheConnectionsOfPBXAndTrunk(t *testing.T) {
	trunk := netip.MustParseAddr("192.0.2.200")
	play(t, func(s *scene) {
		for range 3 {
			for _, ip := range []netip.Addr{trunk, pbxAt.Addr()} {
				p := s.tcp(ip)
				p.sends(p.request("OPTIONS", "sip:192.0.2.1"))
				p.gets("it may", "SIP/2.0 200")
			}
		}
		s.tcp(phoneAt.Addr())
		s.after(0)
		if n := s.hop.Stats().Streams; n != 7 {
			s.t.Errorf("%d connections are counted, want 7", n)
		}
		s.tcp(otherAt.Addr()).gets("one more than all may be", "<closed>")
		s.tcp(trunk).gets("nor a trunk's", "<closed>")
		s.after(11 * time.Second)
		other := s.tcp(otherAt.Addr())
		other.sends(other.request("OPTIONS", "sip:192.0.2.1"))
		other.gets("the silent one has gone", "SIP/2.0 200")
	}, func(c *sip.Config) {
		c.Connections, c.AllConnections = 1, 7
		c.Trunks = []sip.Trunk{{Name: "carrier", Sources: prefixes("192.0.2.200")}}
	})
}

// Silent connections are closed with the hop, and not waited for.
func TestASilentConnectionEndsWithTheHop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := begin(t)
		s.tcp(phoneAt.Addr())
		s.after(0)
		began := time.Now()
		s.stop()
		if took := time.Since(began); took != 0 {
			t.Errorf("the hop took %v to end", took)
		}
		s.leave()
	})
}

func TestAPeerThatDoesNotReadHoldsNobodyUp(t *testing.T) { // one bounded writer per connection
	play(t, func(s *scene) {
		c, err := s.net.Dial(phoneAt.Addr(), hopAt)
		if err != nil {
			s.t.Fatal(err)
		}
		defer c.Close()
		deaf := &peer{s: s, proto: "TCP", addr: phoneAt}
		for range 300 {
			c.Write([]byte(deaf.request("OPTIONS", "sip:192.0.2.1")))
		}
		s.phone.sends(s.phone.request("OPTIONS", "sip:192.0.2.1"))
		s.phone.gets("others are served", "SIP/2.0 200")
		s.after(6 * time.Second)
		equal(t, "connections", fmt.Sprint(s.hop.Stats().Streams), "0")
	})
}

func TestRequestsGoToAClientOverItsOwnConnection(t *testing.T) { // RFC 5626 §5.3, row 37
	play(t, func(s *scene) {
		other := s.tcp(phoneAt.Addr())
		other.sends(other.request("OPTIONS", "sip:192.0.2.1"))
		other.gets("another client of the same address", "SIP/2.0 200")
		phone := s.tcp(phoneAt.Addr())
		// Its Contact is where it cannot be reached.
		invite := phone.invite("Contact: <sip:101@10.0.0.5:5060;transport=tcp>", "Via: SIP/2.0/TCP 10.0.0.5:5060;branch=z9hG4bK-nat")
		phone.sends(invite)
		got := s.pbx.gets("the INVITE goes on", "INVITE")
		s.pbx.replies(got, "200 OK")
		phone.gets("answer", "SIP/2.0 200")
		s.pbx.sends(s.pbx.back(got, "INFO"))
		phone.replies(phone.gets("over its own", "INFO sip:101@10.0.0.5:5060"), "200 OK")
		s.pbx.gets("answer", "SIP/2.0 200")
		phone.close()
		phone.forgets()
		s.pbx.sends(s.pbx.back(got, "BYE"))
		s.pbx.gets("when it is gone, it is gone", "SIP/2.0 430")
		s.quiet("no other client gets it")
	})
}

func TestAClientThatListensIsConnectedToWhenItsConnectionIsGone(t *testing.T) { // RFC 3261 §18.1.1
	play(t, func(s *scene) {
		phone := s.tcp(phoneAt.Addr())
		listening := s.tcpListener(phoneAt)
		phone.sends(phone.invite("Contact: " + listening.contact()))
		got := s.pbx.gets("the INVITE goes on", "INVITE")
		s.pbx.replies(got, "200 OK")
		ok := phone.gets("answer", "SIP/2.0 200")
		phone.sends(phone.within(ok, "ACK"))
		s.pbx.gets("its ACK", "ACK")
		phone.close()
		phone.forgets()
		s.stop() // and we are another process since
		s.again()
		s.pbx.sends(s.pbx.back(got, "BYE"))
		listening.replies(listening.gets("at its Contact", "BYE"), "200 OK")
		s.pbx.gets("answer", "SIP/2.0 200")
	})
}

func TestAResponseWhoseConnectionIsGone(t *testing.T) { // RFC 3261 §18.2.2, row 36
	play(t, func(s *scene) {
		phone := s.tcp(phoneAt.Addr())
		l := s.tcpListener(phoneAt)
		victim := s.tcpListener(otherAt)
		sent := phone.request("MESSAGE", "sip:102@pbx.example", "Via: SIP/2.0/TCP 192.0.2.102:5062;branch=z9hG4bK-gone")
		phone.sends(sent)
		got := s.pbx.gets("sent on", "MESSAGE")
		phone.close()
		phone.forgets()
		s.pbx.replies(got, "200 OK")
		l.gets("to received and the port of sent-by", "SIP/2.0 200")
		if m, ok := victim.next(); ok {
			t.Errorf("an arbitrary host of a Via got\n%s", m)
		}
		s.quiet("once")
	})
}

func TestUDPToTCPGivesTheBodyALength(t *testing.T) { // RFC 3261 §18.3: over a stream it is needed
	play(t, func(s *scene) {
		s.phone.sends(s.phone.request("MESSAGE", "sip:102@pbx.example", "", "hello").with("Content-Length: 5\r\n", ""))
		got := s.pbx.gets("sent on", "MESSAGE")
		equal(t, "Content-Length", strings.Join(got.all("Content-Length"), "|"), "5")
		equal(t, "body", got.body(), "hello")
		s.pbx.replies(got, "200 OK")
		s.phone.gets("answer", "SIP/2.0 200")
	}, pbxOverTCP)
	play(t, func(s *scene) {
		phone := s.tcp(phoneAt.Addr())
		phone.sends(phone.request("MESSAGE", "sip:102@pbx.example"))
		answer := s.pbx.answer(s.pbx.gets("sent on", "MESSAGE"), "200 OK", "", "hello")
		s.pbx.sends(answer.with("Content-Length: 5\r\n", ""))
		got := phone.gets("a response too", "SIP/2.0 200")
		equal(t, "Content-Length", strings.Join(got.all("Content-Length"), "|"), "5")
		equal(t, "body", got.body(), "hello")
	})
}

func TestAPBXOverTCPIsConnectedToOnce(t *testing.T) {
	play(t, func(s *scene) {
		for range 20 {
			s.phone.sends(s.phone.request("MESSAGE", "sip:102@pbx.example"))
			s.pbx.replies(s.pbx.gets("sent on", "MESSAGE"), "200 OK")
			s.phone.gets("answer", "SIP/2.0 200")
		}
		equal(t, "connections", fmt.Sprint(s.hop.Stats().Streams), "1")
		// The PBX restarts.
		s.pbx.hangs()
		s.pbx.forgets()
		s.phone.sends(s.phone.request("MESSAGE", "sip:102@pbx.example"))
		s.pbx.replies(s.pbx.gets("a new one", "MESSAGE"), "200 OK")
		s.phone.gets("answer", "SIP/2.0 200")
		equal(t, "connections", fmt.Sprint(s.hop.Stats().Streams), "1")
	}, pbxOverTCP)
}

func TestThePBXNamesATransport(t *testing.T) { // RFC 3261 §18.1.1, §19.1.5
	play(t, func(s *scene) {
		other := s.tcpListener(otherAt)
		s.pbx.sends(s.pbx.request("INVITE", "sip:102@192.0.2.102:5062;transport=TCP"))
		got := other.gets("over TCP", "INVITE sip:102@192.0.2.102:5062;transport=TCP")
		equal(t, "Via", got.one("Via")[:len("SIP/2.0/TCP 192.0.2.1:5060;")], "SIP/2.0/TCP 192.0.2.1:5060;")
		other.replies(got, "200 OK")
		ok := s.pbx.gets("answer", "SIP/2.0 200")
		s.pbx.sends(s.pbx.within(ok, "ACK"), s.pbx.within(ok, "BYE"))
		other.gets("its ACK", "ACK")
		other.replies(other.gets("the PBX hangs up", "BYE"), "200 OK")
		s.pbx.gets("answer", "SIP/2.0 200")
		equal(t, "connections", fmt.Sprint(s.hop.Stats().Streams), "1")
		s.pbx.sends(s.pbx.request("MESSAGE", "sip:102@192.0.2.103;transport=tcp"))
		s.pbx.gets("nobody listens there", "SIP/2.0 500")
	})
}

func TestAPBXThatDoesNotAcceptIsGivenUp(t *testing.T) { // row 25
	play(t, func(s *scene) {
		s.pbx.close()
		l, err := s.net.Listen(pbxAt) // and never accepts
		if err != nil {
			s.t.Fatal(err)
		}
		defer l.Close()
		for range 3 { // they wait for the one connection
			s.phone.sends(s.phone.request("MESSAGE", "sip:102@pbx.example"))
		}
		s.after(5*time.Second - ms)
		s.quiet("not yet")
		equal(t, "connections", fmt.Sprint(s.hop.Stats().Streams), "1")
		s.after(ms)
		for range 3 {
			s.phone.gets("5 s", "SIP/2.0 500")
		}
	}, pbxOverTCP)
}

func TestItStopsWhateverIsUnderWay(t *testing.T) { // Run returns when every goroutine has ended
	play(t, func(s *scene) {
		open := s.tcp(phoneAt.Addr())
		half := s.tcp(phoneAt.Addr())
		half.sends("INVITE sip:102@pbx.example SIP/2.0\r\n")
		for range 20 {
			open.sends(open.invite())
			s.phone.sends(s.phone.invite())
		}
		s.pbx.sends(s.pbx.request("MESSAGE", "sip:102@192.0.2.102:5062;transport=tcp"))
		began := time.Now()
		s.stop()
		if d := time.Since(began); d > 5*time.Second {
			t.Errorf("it took %s", d)
		}
		open.gets("its connection is closed", "<closed>")
		s.again() // the ports are free
		s.pbx.forgets()
		s.phone.forgets()
		s.alive()
	})
}

func TestAPBXThatChangesConnectionsIsFollowed(t *testing.T) { // RFC 3261 §18: a transaction is not bound to a connection
	play(t, func(s *scene) {
		for _, end := range []string{"CANCEL", "busy"} {
			invite := s.phone.invite()
			s.phone.sends(invite)
			got := s.pbx.gets("the INVITE goes on", "INVITE")
			s.pbx.replies(got, "180 Ringing")
			s.phone.gets("ringing", "SIP/2.0 180")
			s.pbx.hangs()
			s.pbx.forgets()
			fresh := s.tcp(pbxAt.Addr()) // the PBX's own
			if end == "CANCEL" {
				s.phone.cancels(invite)
				s.phone.gets("answered", "SIP/2.0 200")
				s.pbx.gets("a new connection", "CANCEL")
				fresh.sends(s.pbx.answer(got, "487 Request Terminated"))
			} else {
				fresh.sends(s.pbx.answer(got, "486 Busy Here"))
			}
			s.pbx.gets("it is acknowledged where the INVITE went", "ACK")
			s.phone.acks(invite, s.phone.gets("the end", "SIP/2.0 48"))
			s.pbx.hangs()
			s.pbx.forgets()
		}
	}, pbxOverTCP)
}

func TestOverTCPThePBXIsToldByItsAddress(t *testing.T) { // DESIGN §4.2, §6
	play(t, func(s *scene) {
		own := s.tcp(pbxAt.Addr()) // from whatever port
		own.sends(own.request("MESSAGE", "sip:101@192.0.2.101:5062"))
		s.phone.replies(s.phone.gets("from the PBX side", "MESSAGE"), "200 OK")
		own.gets("answer", "SIP/2.0 200")
		phone := s.tcp(otherAt.Addr())
		phone.sends(phone.request("MESSAGE", "sip:101@192.0.2.101:5062"))
		s.pbx.replies(s.pbx.gets("from the edge side", "MESSAGE"), "404 Not Found")
		phone.gets("answer", "SIP/2.0 404")
		s.quiet("a phone chooses nobody")
	}, pbxOverTCP)
}
