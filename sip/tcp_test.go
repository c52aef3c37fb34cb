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

func TestStreamIsCutIntoMessages(t *testing.T) { // RFC 3261 §7.5, §18.3; row 35
	runScenario(t, func(s *testbed) {
		phone := s.dialTCPPeer(phoneAt.Addr())
		message := func(body string) text {
			return phone.newRequest("MESSAGE", "sip:102@pbx.example", "", body)
		}
		arrives := func(what, body string) {
			t.Helper()
			got := s.pbx.expect(what, "MESSAGE")
			assertEqual(t, what, got.body(), body)
			s.pbx.respond(got, "200 OK")
			phone.expect(what, "SIP/2.0 200")
		}
		for _, b := range []byte(message("byte by byte")) {
			phone.write([]byte{b})
		}
		arrives("byte by byte", "byte by byte")
		phone.send(message("one") + message("two") + "\r\n" + message("") + "\r\n" + message("three\r\n\r\n"))
		for _, want := range []string{"one", "two", "", "three\r\n\r\n"} {
			got := s.pbx.expect("several in one segment", "MESSAGE")
			assertEqual(t, "several in one segment", got.body(), want)
			s.pbx.respond(got, "200 OK")
			phone.expect("answer", "SIP/2.0 200")
		}
		long := message(strings.Repeat("x", 60000))
		phone.send(long[:100], long[100:5000], long[5000:])
		arrives("60,000 bytes", strings.Repeat("x", 60000))
		s.expectNothing("that was all")
	}, oneWorker)
}

func TestPingGetsAPong(t *testing.T) { // RFC 5626 §3.5.1, row 35
	runScenario(t, func(s *testbed) {
		phone := s.dialTCPPeer(phoneAt.Addr())
		phone.send("\r\n\r\n")
		assertEqual(t, "pong", string(phone.expect("a ping", "\r\n")), "\r\n")
		phone.send("\r", "\n", "\r", "\n")
		assertEqual(t, "pong", string(phone.expect("a ping in pieces", "\r\n")), "\r\n")
		phone.send("\r\n" + phone.newRequest("OPTIONS", "sip:192.0.2.1"))
		phone.expect("one CRLF is no ping", "SIP/2.0 200")
		phone.send("\r\n\r\n" + phone.newRequest("OPTIONS", "sip:192.0.2.1"))
		phone.expect("a ping", "\r\n")
		phone.expect("before a message", "SIP/2.0 200")
		s.expectNothing("that was all")
	})
}

func TestAStreamThatCannotBeReadFurtherIsClosed(t *testing.T) { // RFC 3261 §18.3, row 5
	for _, tt := range []struct {
		name, old, new string
		want           string
	}{
		{"two Content-Lengths", "Content-Length: 0", "Content-Length: 0\r\nl: 5", "SIP/2.0 400"},
		{"the same one twice", "Content-Length: 0", "Content-Length: 0\r\nContent-Length: 0", "SIP/2.0 400"},
		{"negative Content-Length", "Content-Length: 0", "Content-Length: -999", "SIP/2.0 400"},
		{"no number", "Content-Length: 0", "Content-Length: many", "SIP/2.0 400"},
		{"too large", "Content-Length: 0", "Content-Length: 65536", "SIP/2.0 400"},
		{"it wraps", "Content-Length: 0", "Content-Length: 4294967296", "SIP/2.0 400"},
		{"no SIP", "MESSAGE sip:102@pbx.example SIP/2.0", "GET / HTTP/1.1", "<closed>"},
		{"a response of that kind", "MESSAGE sip:102@pbx.example SIP/2.0\r\n", "SIP/2.0 200 OK\r\nContent-Length: -1\r\n", "<closed>"},
		{"no start line of ours", "MESSAGE sip:102@pbx.example SIP/2.0\r\n", "MESSAGE sip:102@pbx.example\r\nContent-Length: -1\r\n", "<closed>"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			runScenario(t, func(s *testbed) {
				phone := s.dialTCPPeer(phoneAt.Addr())
				phone.send(phone.newRequest("MESSAGE", "sip:102@pbx.example").replaced(tt.old, tt.new) + phone.newRequest("MESSAGE", "sip:smuggled@pbx.example"))
				phone.expect("told or not", tt.want)
				if tt.want != "<closed>" {
					phone.expect("and closed", "<closed>")
				}
				s.expectNothing("what is behind it is not read")
				assertEqual(t, "connections", fmt.Sprint(s.proxy.Stats().Streams), "0")
			})
		})
	}
}

func TestStreamGoesOnAfterABadMessage(t *testing.T) { // RFC 3261 §18.3: the length is known
	runScenario(t, func(s *testbed) {
		phone := s.dialTCPPeer(phoneAt.Addr())
		bad := phone.newRequest("MESSAGE", "sip:102@pbx.example", "", "a body").replaced("From:", "X-From:")
		phone.send(bad + phone.newRequest("OPTIONS", "sip:192.0.2.1") + "SIP/2.0 4294967301 better not break\r\nContent-Length: 3\r\n\r\nabc" +
			"OPTIONS sip:192.0.2.1 SIP/7.0\r\nContent-Length: 3\r\n\r\nabc" + phone.newRequest("OPTIONS", "sip:192.0.2.1"))
		phone.expect("refused", "SIP/2.0 400")
		phone.expect("and read on", "SIP/2.0 200")
		phone.expect("and on", "SIP/2.0 200")
		s.expectNothing("that was all")
	}, oneWorker)
}

func TestOversizeMessageClosesTheStream(t *testing.T) { // bounds
	runScenario(t, func(s *testbed) {
		phone := s.dialTCPPeer(phoneAt.Addr())
		go phone.write([]byte("MESSAGE sip:102@pbx.example SIP/2.0\r\n" + strings.Repeat("X: "+strings.Repeat("x", 1000)+"\r\n", 70)))
		phone.expect("a header section without end", "<closed>")
		for range 2 {
			endless := s.dialTCPPeer(phoneAt.Addr())
			go endless.write([]byte(strings.Repeat("x", 70000)))
			endless.expect("a line without end", "<closed>")
		}
		s.advance(0)
		assertEqual(t, "connections", fmt.Sprint(s.proxy.Stats().Streams), "0")
	})
}

func TestASlowStreamIsClosed(t *testing.T) { // proxy.md §3: slowloris
	runScenario(t, func(s *testbed) {
		silent := s.dialTCPPeer(phoneAt.Addr())
		s.advance(10*time.Second - ms)
		s.expectNothing("not yet")
		s.advance(ms)
		silent.expect("10 s without a byte", "<closed>")

		slow := s.dialTCPPeer(phoneAt.Addr())
		slow.send("MESSAGE sip:")
		for range 29 {
			s.advance(time.Second)
			slow.send("1")
		}
		s.expectNothing("not yet")
		s.advance(time.Second)
		slow.expect("30 s for a message", "<closed>")

		idle := s.dialTCPPeer(phoneAt.Addr())
		idle.send(idle.newRequest("OPTIONS", "sip:192.0.2.1"))
		idle.expect("answer", "SIP/2.0 200")
		s.advance(time.Hour)
		s.expectNothing("an hour is fine")
		idle.send("\r\n\r\n")
		idle.expect("pong", "\r\n")
		s.advance(time.Hour)
		s.expectNothing("another is fine")
		s.advance(6 * time.Second)
		idle.expect("3,605 s without a ping", "<closed>")
	})
}

func TestConnectionsOfOneAddressAreLimited(t *testing.T) {
	runScenario(t, func(s *testbed) {
		var open []*peer
		for range 64 {
			open = append(open, s.dialTCPPeer(phoneAt.Addr()))
		}
		s.advance(0)
		s.dialTCPPeer(phoneAt.Addr()).expect("one too many", "<closed>")
		other := s.dialTCPPeer(otherAt.Addr())
		other.send(other.newRequest("OPTIONS", "sip:192.0.2.1"))
		other.expect("another address may", "SIP/2.0 200")
		open[0].close()
		open[0].discardReceived()
		again := s.dialTCPPeer(phoneAt.Addr())
		again.send(again.newRequest("OPTIONS", "sip:192.0.2.1"))
		again.expect("when one has gone another may come", "SIP/2.0 200")
		if n := s.proxy.Stats().Refused; n != 1 {
			s.t.Errorf("%d connections are counted as refused, want 1", n)
		}
	}, func(c *sip.Config) { c.Connections = 64 })
}

// An office has 300 phones behind one address, each with a connection. With the default
// limit, those beyond it are refused, and the others are not disturbed. With a limit that is
// large enough, or none, all register.
func TestPhonesOfAnOfficeAreLimited(t *testing.T) {
	const phones = 300
	office := netip.MustParseAddr("198.51.100.9")
	for _, tt := range []struct{ limit, registered int }{{256, 256}, {phones, phones}, {0, phones}} {
		t.Run(fmt.Sprintf("limit %d", tt.limit), func(t *testing.T) {
			runUnproven(t, func(s *testbed) {
				type registered struct {
					*peer
					route []string
					uri   string
				}
				var all []registered
				register := func(p *peer, n int) {
					user := fmt.Sprint(1000 + n)
					p.send(p.newRequest("REGISTER", "sip:pbx.example", "From: <sip:"+user+"@pbx.example>;tag=r", "To: <sip:"+user+"@pbx.example>", `Authorization: Digest nonce="n"`))
					got := s.pbx.expect("the REGISTER of "+user+" goes on", "REGISTER")
					s.pbx.respond(got, "200 OK", "Contact: "+got.fieldValue("Contact")+";expires=3600")
					p.expect("it is accepted", "SIP/2.0 200")
					s.advance(400 * ms) // within the rate of the office
					all = append(all, registered{p, []string{"Route: " + got.fieldValue("Path")}, bracketedURI(got.fieldValue("Contact"))})
				}
				for n := range phones {
					if p := s.dialTCPPeer(office); n < tt.registered {
						register(p, n)
					} else {
						p.expect("one too many", "<closed>")
					}
				}
				assertEqual(t, "refused connections", fmt.Sprint(s.proxy.Stats().Refused), fmt.Sprint(phones-tt.registered))
				other := s.dialTCPPeer(otherAt.Addr())
				other.registerOver("102@pbx.example", other.contact())
				if tt.registered < phones {
					all[0].closeAndForget()
					all = all[1:]
					register(s.dialTCPPeer(office), phones-1)
				}
				for _, p := range all {
					s.sendToPhone(s.pbx.newRequest("MESSAGE", p.uri, p.route...), p.peer)
				}
				s.expectNothing("that was all")
			}, guarded, func(c *sip.Config) { c.Connections = tt.limit })
		})
	}
}

// PBX and trunk may have any number of connections, up to the limit of all connections.
// A connection without a first byte counts.
func TestPBXAndTrunkHaveNoConnectionLimit(t *testing.T) {
	trunk := netip.MustParseAddr("192.0.2.200")
	runScenario(t, func(s *testbed) {
		for range 3 {
			for _, ip := range []netip.Addr{trunk, pbxAt.Addr()} {
				p := s.dialTCPPeer(ip)
				p.send(p.newRequest("OPTIONS", "sip:192.0.2.1"))
				p.expect("it may", "SIP/2.0 200")
			}
		}
		s.dialTCPPeer(phoneAt.Addr())
		s.advance(0)
		if n := s.proxy.Stats().Streams; n != 7 {
			s.t.Errorf("%d connections are counted, want 7", n)
		}
		s.dialTCPPeer(otherAt.Addr()).expect("one more than all may be", "<closed>")
		s.dialTCPPeer(trunk).expect("nor a trunk's", "<closed>")
		s.advance(11 * time.Second)
		other := s.dialTCPPeer(otherAt.Addr())
		other.send(other.newRequest("OPTIONS", "sip:192.0.2.1"))
		other.expect("the silent one has gone", "SIP/2.0 200")
	}, func(c *sip.Config) {
		c.Connections, c.AllConnections = 1, 7
		c.Trunks = []sip.Trunk{{Name: "carrier", Sources: parsePrefixes("192.0.2.200")}}
	})
}

// Silent connections are closed with the proxy, and it does not wait for them.
func TestSilentConnectionEndsWithTheProxy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newTestbed(t)
		s.dialTCPPeer(phoneAt.Addr())
		s.advance(0)
		began := time.Now()
		s.stop()
		if took := time.Since(began); took != 0 {
			t.Errorf("the proxy took %v to end", took)
		}
		s.closeAll()
	})
}

func TestPeerThatDoesNotReadDelaysNoOther(t *testing.T) { // one bounded writer per connection
	runScenario(t, func(s *testbed) {
		c, err := s.net.Dial(phoneAt.Addr(), proxyAt)
		if err != nil {
			s.t.Fatal(err)
		}
		defer c.Close()
		deaf := &peer{s: s, proto: "TCP", addr: phoneAt}
		for range 300 {
			c.Write([]byte(deaf.newRequest("OPTIONS", "sip:192.0.2.1")))
		}
		s.phone.send(s.phone.newRequest("OPTIONS", "sip:192.0.2.1"))
		s.phone.expect("others are served", "SIP/2.0 200")
		s.advance(6 * time.Second)
		assertEqual(t, "connections", fmt.Sprint(s.proxy.Stats().Streams), "0")
	})
}

func TestRequestsGoToAClientOverItsOwnConnection(t *testing.T) { // RFC 5626 §5.3, row 37
	runScenario(t, func(s *testbed) {
		other := s.dialTCPPeer(phoneAt.Addr())
		other.send(other.newRequest("OPTIONS", "sip:192.0.2.1"))
		other.expect("another client of the same address", "SIP/2.0 200")
		phone := s.dialTCPPeer(phoneAt.Addr())
		// Its Contact names an address where it cannot be reached.
		invite := phone.newInvite("Contact: <sip:101@10.0.0.5:5060;transport=tcp>", "Via: SIP/2.0/TCP 10.0.0.5:5060;branch=z9hG4bK-nat")
		phone.send(invite)
		got := s.pbx.expect("the INVITE goes on", "INVITE")
		s.pbx.respond(got, "200 OK")
		phone.expect("answer", "SIP/2.0 200")
		s.pbx.send(s.pbx.calleeRequest(got, "INFO"))
		phone.respond(phone.expect("over its own", "INFO sip:101@10.0.0.5:5060"), "200 OK")
		s.pbx.expect("answer", "SIP/2.0 200")
		phone.close()
		phone.discardReceived()
		s.pbx.send(s.pbx.calleeRequest(got, "BYE"))
		s.pbx.expect("when it is gone, it is gone", "SIP/2.0 430")
		s.expectNothing("no other client gets it")
	})
}

func TestListeningClientIsConnectedToAgain(t *testing.T) { // RFC 3261 §18.1.1
	runScenario(t, func(s *testbed) {
		phone := s.dialTCPPeer(phoneAt.Addr())
		listening := s.addTCPListener(phoneAt)
		phone.send(phone.newInvite("Contact: " + listening.contact()))
		got := s.pbx.expect("the INVITE goes on", "INVITE")
		s.pbx.respond(got, "200 OK")
		ok := phone.expect("answer", "SIP/2.0 200")
		phone.send(phone.callerRequest(ok, "ACK"))
		s.pbx.expect("its ACK", "ACK")
		phone.close()
		phone.discardReceived()
		s.stop() // and we are another process since
		s.restartProxy()
		s.pbx.send(s.pbx.calleeRequest(got, "BYE"))
		listening.respond(listening.expect("at its Contact", "BYE"), "200 OK")
		s.pbx.expect("answer", "SIP/2.0 200")
	})
}

func TestResponseOpensANewConnection(t *testing.T) { // RFC 3261 §18.2.2, row 36
	runScenario(t, func(s *testbed) {
		phone := s.dialTCPPeer(phoneAt.Addr())
		l := s.addTCPListener(phoneAt)
		victim := s.addTCPListener(otherAt)
		sent := phone.newRequest("MESSAGE", "sip:102@pbx.example", "Via: SIP/2.0/TCP 192.0.2.102:5062;branch=z9hG4bK-gone")
		phone.send(sent)
		got := s.pbx.expect("sent on", "MESSAGE")
		phone.close()
		phone.discardReceived()
		s.pbx.respond(got, "200 OK")
		l.expect("to received and the port of sent-by", "SIP/2.0 200")
		if m, ok := victim.nextMessage(); ok {
			t.Errorf("an arbitrary host of a Via got\n%s", m)
		}
		s.expectNothing("once")
	})
}

func TestForwardingToTCPAddsContentLength(t *testing.T) { // RFC 3261 §18.3: over a stream it is needed
	runScenario(t, func(s *testbed) {
		s.phone.send(s.phone.newRequest("MESSAGE", "sip:102@pbx.example", "", "hello").replaced("Content-Length: 5\r\n", ""))
		got := s.pbx.expect("sent on", "MESSAGE")
		assertEqual(t, "Content-Length", strings.Join(got.fieldValues("Content-Length"), "|"), "5")
		assertEqual(t, "body", got.body(), "hello")
		s.pbx.respond(got, "200 OK")
		s.phone.expect("answer", "SIP/2.0 200")
	}, pbxOverTCP)
	runScenario(t, func(s *testbed) {
		phone := s.dialTCPPeer(phoneAt.Addr())
		phone.send(phone.newRequest("MESSAGE", "sip:102@pbx.example"))
		answer := s.pbx.newResponse(s.pbx.expect("sent on", "MESSAGE"), "200 OK", "", "hello")
		s.pbx.send(answer.replaced("Content-Length: 5\r\n", ""))
		got := phone.expect("a response too", "SIP/2.0 200")
		assertEqual(t, "Content-Length", strings.Join(got.fieldValues("Content-Length"), "|"), "5")
		assertEqual(t, "body", got.body(), "hello")
	})
}

func TestAPBXOverTCPIsConnectedToOnce(t *testing.T) {
	runScenario(t, func(s *testbed) {
		for range 20 {
			s.phone.send(s.phone.newRequest("MESSAGE", "sip:102@pbx.example"))
			s.pbx.respond(s.pbx.expect("sent on", "MESSAGE"), "200 OK")
			s.phone.expect("answer", "SIP/2.0 200")
		}
		assertEqual(t, "connections", fmt.Sprint(s.proxy.Stats().Streams), "1")
		// The PBX restarts.
		s.pbx.closeConn()
		s.pbx.discardReceived()
		s.phone.send(s.phone.newRequest("MESSAGE", "sip:102@pbx.example"))
		s.pbx.respond(s.pbx.expect("a new one", "MESSAGE"), "200 OK")
		s.phone.expect("answer", "SIP/2.0 200")
		assertEqual(t, "connections", fmt.Sprint(s.proxy.Stats().Streams), "1")
	}, pbxOverTCP)
}

func TestTransportOfThePBXIsFollowed(t *testing.T) { // RFC 3261 §18.1.1, §19.1.5
	runScenario(t, func(s *testbed) {
		other := s.addTCPListener(otherAt)
		s.pbx.send(s.pbx.newRequest("INVITE", "sip:102@192.0.2.102:5062;transport=TCP"))
		got := other.expect("over TCP", "INVITE sip:102@192.0.2.102:5062;transport=TCP")
		assertEqual(t, "Via", got.fieldValue("Via")[:len("SIP/2.0/TCP 192.0.2.1:5060;")], "SIP/2.0/TCP 192.0.2.1:5060;")
		other.respond(got, "200 OK")
		ok := s.pbx.expect("answer", "SIP/2.0 200")
		s.pbx.send(s.pbx.callerRequest(ok, "ACK"), s.pbx.callerRequest(ok, "BYE"))
		other.expect("its ACK", "ACK")
		other.respond(other.expect("the PBX hangs up", "BYE"), "200 OK")
		s.pbx.expect("answer", "SIP/2.0 200")
		assertEqual(t, "connections", fmt.Sprint(s.proxy.Stats().Streams), "1")
		s.pbx.send(s.pbx.newRequest("MESSAGE", "sip:102@192.0.2.103;transport=tcp"))
		s.pbx.expect("nobody listens there", "SIP/2.0 500")
	})
}

func TestPBXThatDoesNotAcceptTimesOut(t *testing.T) { // row 25
	runScenario(t, func(s *testbed) {
		s.pbx.close()
		l, err := s.net.Listen(pbxAt) // and never accepts
		if err != nil {
			s.t.Fatal(err)
		}
		defer l.Close()
		for range 3 { // they wait for the one connection
			s.phone.send(s.phone.newRequest("MESSAGE", "sip:102@pbx.example"))
		}
		s.advance(5*time.Second - ms)
		s.expectNothing("not yet")
		assertEqual(t, "connections", fmt.Sprint(s.proxy.Stats().Streams), "1")
		s.advance(ms)
		for range 3 {
			s.phone.expect("5 s", "SIP/2.0 500")
		}
	}, pbxOverTCP)
}

func TestStopsWithTransactionsUnderWay(t *testing.T) { // Run returns when every goroutine has ended
	runScenario(t, func(s *testbed) {
		open := s.dialTCPPeer(phoneAt.Addr())
		half := s.dialTCPPeer(phoneAt.Addr())
		half.send("INVITE sip:102@pbx.example SIP/2.0\r\n")
		for range 20 {
			open.send(open.newInvite())
			s.phone.send(s.phone.newInvite())
		}
		s.pbx.send(s.pbx.newRequest("MESSAGE", "sip:102@192.0.2.102:5062;transport=tcp"))
		began := time.Now()
		s.stop()
		if d := time.Since(began); d > 5*time.Second {
			t.Errorf("it took %s", d)
		}
		open.expect("its connection is closed", "<closed>")
		s.restartProxy() // the ports are free
		s.pbx.discardReceived()
		s.phone.discardReceived()
		s.checkAlive()
	})
}

func TestAPBXThatChangesConnectionsIsFollowed(t *testing.T) { // RFC 3261 §18: a transaction is not bound to a connection
	runScenario(t, func(s *testbed) {
		for _, end := range []string{"CANCEL", "busy"} {
			invite := s.phone.newInvite()
			s.phone.send(invite)
			got := s.pbx.expect("the INVITE goes on", "INVITE")
			s.pbx.respond(got, "180 Ringing")
			s.phone.expect("ringing", "SIP/2.0 180")
			s.pbx.closeConn()
			s.pbx.discardReceived()
			fresh := s.dialTCPPeer(pbxAt.Addr()) // the PBX's own
			if end == "CANCEL" {
				s.phone.sendCancel(invite)
				s.phone.expect("answered", "SIP/2.0 200")
				s.pbx.expect("a new connection", "CANCEL")
				fresh.send(s.pbx.newResponse(got, "487 Request Terminated"))
			} else {
				fresh.send(s.pbx.newResponse(got, "486 Busy Here"))
			}
			s.pbx.expect("it is acknowledged where the INVITE went", "ACK")
			s.phone.sendACK(invite, s.phone.expect("the end", "SIP/2.0 48"))
			s.pbx.closeConn()
			s.pbx.discardReceived()
		}
	}, pbxOverTCP)
}

func TestPBXOverTCPIsRecognizedByAddress(t *testing.T) { // DESIGN §4.2, §6
	runScenario(t, func(s *testbed) {
		own := s.dialTCPPeer(pbxAt.Addr()) // from whatever port
		own.send(own.newRequest("MESSAGE", "sip:101@192.0.2.101:5062"))
		s.phone.respond(s.phone.expect("from the PBX side", "MESSAGE"), "200 OK")
		own.expect("answer", "SIP/2.0 200")
		phone := s.dialTCPPeer(otherAt.Addr())
		phone.send(phone.newRequest("MESSAGE", "sip:101@192.0.2.101:5062"))
		s.pbx.respond(s.pbx.expect("from the edge side", "MESSAGE"), "404 Not Found")
		phone.expect("answer", "SIP/2.0 404")
		s.expectNothing("a phone chooses nobody")
	}, pbxOverTCP)
}
