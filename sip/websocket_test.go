package sip_test

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gobwas/ws"

	"bellhop/sip"
)

var (
	wsAt   = netip.MustParseAddrPort("192.0.2.1:80")
	pageAt = netip.MustParseAddr("192.0.2.103") // a browser
)

// withWebSocket adds listeners for WebSocket: one alone at wsAt, and one that shares the
// address of the TCP listener.
func withWebSocket(c *sip.Config) {
	for _, at := range []netip.AddrPort{wsAt, proxyAt} {
		c.Listen = append(c.Listen, sip.Listener{Addr: sip.Addr{Proto: sip.WS, AddrPort: at}})
	}
}

// A browser is a peer over WebSocket.
type browserPeer struct {
	*peer
	conn net.Conn
	in   frameInbox
}

// handshakeLines are the lines of an opening handshake, without the blank line.
const handshakeLines = "GET /ws HTTP/1.1\r\nHost: pbx.example\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" +
	"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"

// openWebSocket opens a WebSocket to the proxy.
func (s *testbed) openWebSocket(from netip.Addr, at netip.AddrPort) *browserPeer {
	s.t.Helper()
	c, err := s.net.Dial(from, at)
	if err != nil {
		s.t.Fatal(err)
	}
	return s.shakeHands(c)
}

// shakeHands makes the opening handshake on a connection.
func (s *testbed) shakeHands(c net.Conn) *browserPeer {
	s.t.Helper()
	go fmt.Fprint(c, handshakeLines+"Sec-WebSocket-Protocol: sip\r\n\r\n")
	r := bufio.NewReader(c)
	if resp, err := http.ReadResponse(r, nil); err != nil || resp.StatusCode != 101 || resp.Header.Get("Sec-WebSocket-Protocol") != "sip" {
		s.t.Fatalf("handshake: %v, %v", resp, err)
	}
	local, _ := netip.ParseAddrPort(c.LocalAddr().String())
	b := &browserPeer{conn: c}
	go b.in.readFrames(r)
	b.peer = s.addPeer(&peer{
		addr: local, proto: "WS",
		nextMessage: b.in.next,
		write:       func(m []byte) { b.sendFrames(ws.NewTextFrame(append([]byte(nil), m...))) },
		close:       func() { c.Close() },
	})
	return b
}

// sendFrames sends frames to the proxy, each masked.
func (b *browserPeer) sendFrames(frames ...ws.Frame) {
	for _, f := range frames {
		compiled := ws.MustCompileFrame(ws.MaskFrame(f))
		b.conn.Write(compiled)
	}
}

// fragment returns a frame that is not the last of its message, or continues it.
func fragment(opcode ws.OpCode, fin bool, payload text) ws.Frame {
	return ws.NewFrame(opcode, fin, []byte(payload))
}

// A frameInbox holds what came over a WebSocket. Control frames are in it as <ping> and
// the like, binary messages behind <binary>.
type frameInbox struct {
	mu sync.Mutex
	in []text
}

func (in *frameInbox) readFrames(r *bufio.Reader) {
	for {
		h, err := ws.ReadHeader(r)
		payload := make([]byte, h.Length)
		for n := 0; err == nil && n < len(payload); {
			var k int
			k, err = r.Read(payload[n:])
			n += k
		}
		m := text(payload)
		switch {
		case err != nil:
			m = "<closed>"
		case h.Masked:
			m = "<masked>"
		case h.OpCode == ws.OpClose && len(payload) >= 2:
			m = text(fmt.Sprintf("<close %d>", int(payload[0])<<8|int(payload[1])))
		case h.OpCode != ws.OpText:
			m = text(map[ws.OpCode]string{ws.OpBinary: "<binary>", ws.OpPing: "<ping>", ws.OpPong: "<pong>", ws.OpClose: "<close>"}[h.OpCode]) + m
		}
		in.mu.Lock()
		in.in = append(in.in, m)
		in.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// next removes the first message from the inbox.
func (in *frameInbox) next() (text, bool) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if len(in.in) == 0 {
		return "", false
	}
	m := in.in[0]
	in.in = in.in[1:]
	return m, true
}

// A page registers, calls, is called, and each side hangs up. Everything goes over its one
// connection.
func TestBrowserCallsAndIsCalled(t *testing.T) {
	for _, at := range []netip.AddrPort{wsAt, proxyAt} {
		t.Run(at.String(), func(t *testing.T) {
			runScenario(t, func(s *testbed) {
				page := s.openWebSocket(pageAt, at)
				register := page.newRequest("REGISTER", "sip:pbx.example", "Content-Length:")
				page.send(register)
				got := s.pbx.expect("the REGISTER goes on", "REGISTER")
				if c := got.fieldValue("Contact"); c != page.contact() {
					t.Errorf("the Contact is %s", c)
				}
				path := got.fieldValue("Path")
				s.pbx.respond(got, "200 OK")
				page.expect("the answer", "SIP/2.0 200")

				out := page.setUpCall(s.pbx)
				rr := out.ok.fieldValues("Record-Route")
				if len(rr) != 2 || !strings.Contains(strings.Join(rr, " "), "@"+at.String()+";transport=ws;lr>") {
					t.Errorf("Record-Route: %q", rr)
				}
				if via := out.invite.fieldValues("Via"); !strings.Contains(via[len(via)-1], "abc.invalid;") || !strings.Contains(via[len(via)-1], "received=192.0.2.103") {
					t.Errorf("Via: %q", via)
				}
				page.send(page.callerRequest(out.ok, "INVITE"))
				hold := s.pbx.expect("hold", "INVITE")
				s.pbx.respond(hold, "200 OK")
				page.send(page.callerRequest(page.expect("its answer", "SIP/2.0 200"), "ACK"))
				s.pbx.expect("its ACK", "ACK")
				s.pbx.send(s.pbx.calleeRequest(out.invite, "BYE"))
				bye := page.expect("the PBX hangs up", "BYE sip:x@abc.invalid;transport=ws")
				if via := bye.fieldValue("Via"); !strings.HasPrefix(via, "SIP/2.0/WS "+at.String()+";") {
					t.Errorf("Via: %s", via)
				}
				page.respond(bye, "200 OK")
				s.pbx.expect("the answer", "SIP/2.0 200")

				s.pbx.send(s.pbx.newRequest("INVITE", "sip:x@abc.invalid;transport=ws", "Route: "+path))
				in := page.expect("a call comes in", "INVITE sip:x@abc.invalid;transport=ws")
				page.respond(in, "200 OK")
				ok := s.pbx.expect("it is answered", "SIP/2.0 200")
				s.pbx.send(s.pbx.callerRequest(ok, "ACK"))
				page.expect("its ACK", "ACK")
				page.send(page.calleeRequest(in, "BYE"))
				s.pbx.respond(s.pbx.expect("the page hangs up", "BYE"), "200 OK")
				page.expect("the answer", "SIP/2.0 200")
				s.expectNothing("that was all")
				if n := s.proxy.Connections(sip.WS); n != 1 {
					t.Errorf("%d connections over WebSocket", n)
				}
			}, withWebSocket, oneWorker)
		})
	}
}

// A browser and a phone use one port with TLS, with and without a reverse proxy.
func TestBrowserAndPhoneShareATLSPort(t *testing.T) {
	for _, header := range []text{"", proxyHeaderV2} {
		for _, first := range []sip.Proto{sip.TLS, sip.WSS} {
			b := &tlsBed{}
			runScenario(t, func(s *testbed) {
				phone := s.dialTLSPeer(phoneAt.Addr(), b)
				phone.send(phone.newRequest("OPTIONS", "sip:192.0.2.1:5061"))
				phone.expect("the phone is answered", "SIP/2.0 200")

				from := pageAt
				if header != "" {
					from = balancerAt
				}
				raw, err := s.net.Dial(from, proxyTLSAt)
				if err != nil {
					s.t.Fatal(err)
				}
				if header != "" {
					raw.Write([]byte(header))
				}
				page := s.shakeHands(tls.Client(raw, &tls.Config{ServerName: "sip.example.com", RootCAs: b.ca.Pool(), NextProtos: []string{"http/1.1"}}))
				page.proto = "WSS"
				route, uri := page.registerOver("101@pbx.example", browser("1"))
				call := page.setUpCall(s.pbx)
				if rr := call.ok.fieldValues("Record-Route"); len(rr) != 2 || !strings.HasSuffix(rr[1], "@192.0.2.1:5061;transport=ws;lr>") {
					t.Errorf("Record-Route: %q", rr)
				}
				s.pbx.send(s.pbx.calleeRequest(call.invite, "BYE"))
				bye := page.expect("the PBX hangs up", "BYE")
				if via := bye.fieldValue("Via"); !strings.HasPrefix(via, "SIP/2.0/WSS 192.0.2.1:5061;") {
					t.Errorf("Via: %s", via)
				}
				page.respond(bye, "200 OK")
				s.pbx.expect("the answer", "SIP/2.0 200")
				s.advance(20 * time.Second)
				page.expect("a ping, after which the connection is read on", "<ping>")
				s.sendToPhone(s.pbx.newRequest("MESSAGE", uri, route...), page.peer)
				page.close()
				page.discardReceived()
				s.pbx.send(s.pbx.newRequest("INVITE", uri, route...))
				s.pbx.sendACK(s.pbx.newRequest("INVITE", uri), s.pbx.expect("nobody is there", "SIP/2.0 430"))
			}, func(c *sip.Config) {
				b.listen(c)
				tls := &c.Listen[len(c.Listen)-1]
				tls.ProxyFrom = parsePrefixes("192.0.2.50")
				other := *tls
				tls.Proto = first
				if first == sip.TLS {
					other.Proto = sip.WSS
				}
				c.Listen = append(c.Listen, other)
			})
		}
	}
}

// A browser whose connection is closed is not dialled: the PBX gets 430 at once. If the
// page registers again, its call goes on.
func TestBrowserThatIsGoneIsNotDialled(t *testing.T) {
	runScenario(t, func(s *testbed) {
		page := s.openWebSocket(pageAt, wsAt)
		route, uri := page.registerOver("101@pbx.example", browser("1"))
		out := page.setUpCall(s.pbx, "From: <sip:101@pbx.example>;tag=a")
		listening := s.addTCPListener(page.addr)
		page.close()
		page.discardReceived()
		for _, contact := range []string{uri, "sip:x@192.0.2.103:9;transport=ws", "sip:x@192.0.2.103:9"} {
			s.pbx.send(s.pbx.newRequest("INVITE", contact, route...))
			failure := s.pbx.expect("nobody is there", "SIP/2.0 430")
			s.pbx.sendACK(s.pbx.newRequest("INVITE", contact), failure)
		}
		s.pbx.send(s.pbx.calleeRequest(out.invite, "INFO"))
		s.pbx.expect("nor in the dialog", "SIP/2.0 430")
		listening.discardReceived()
		again := s.openWebSocket(pageAt, proxyAt)
		again.registerOver("101@pbx.example", browser("1"))
		s.sendToPhone(s.pbx.calleeRequest(out.invite, "BYE"), again.peer)
		s.expectNothing("that was all")
	}, withWebSocket)
}

// The answer to a request of a page that has gone is lost, and nothing else happens.
func TestAnswerToAPageThatIsGone(t *testing.T) {
	runScenario(t, func(s *testbed) {
		page := s.openWebSocket(pageAt, wsAt)
		page.send(page.newInvite("Via: SIP/2.0/WS 192.0.2.103:5060;branch=z9hG4bK1"))
		got := s.pbx.expect("the INVITE goes on", "INVITE")
		page.close()
		page.discardReceived()
		listening := s.addTCPListener(netip.AddrPortFrom(pageAt, 5060))
		s.pbx.respond(got, "486 Busy Here")
		s.pbx.expect("the answer is acknowledged", "ACK")
		listening.discardReceived()
	}, withWebSocket)
}

// A text that is not UTF-8 would end the connection at the browser.
func TestMessageInLatin1IsSentAsBinary(t *testing.T) {
	runScenario(t, func(s *testbed) {
		page := s.openWebSocket(pageAt, wsAt)
		route, uri := page.registerOver("101@pbx.example", browser("1"))
		s.pbx.send(s.pbx.newRequest("MESSAGE", uri, append(route, "", "caf\xe9")...))
		got := page.expect("it is binary", "<binary>MESSAGE")
		assertEqual(t, "body", got.body(), "caf\xe9")
		page.sendFrames(ws.NewBinaryFrame([]byte(page.newResponse(text(strings.TrimPrefix(string(got), "<binary>")), "200 OK", "", "caf\xe9"))))
		assertEqual(t, "body", s.pbx.expect("the answer", "SIP/2.0 200").body(), "caf\xe9")
	}, withWebSocket)
}

func TestFramesOfABrowser(t *testing.T) {
	runScenario(t, func(s *testbed) {
		page := s.openWebSocket(pageAt, wsAt)
		options := page.newRequest("OPTIONS", "sip:192.0.2.1")
		page.sendFrames(fragment(ws.OpText, false, options[:5]), ws.NewPingFrame([]byte("x")), fragment(ws.OpContinuation, false, options[5:9]),
			ws.NewPongFrame(nil), fragment(ws.OpContinuation, true, options[9:]))
		page.expect("a ping between fragments", "<pong>x")
		page.expect("the fragments", "SIP/2.0 200")
		page.send("\r\n\r\n")
		assertEqual(t, "pong", string(page.expect("a ping of SIP", "\r\n")), "\r\n")
		page.send("\r\n", "", "no SIP\r\n\r\n", "\r\n"+page.newRequest("OPTIONS", "sip:192.0.2.1"))
		page.expect("only the OPTIONS is answered", "SIP/2.0 200")
		for _, b := range ws.MustCompileFrame(ws.MaskFrame(ws.NewTextFrame([]byte(page.newRequest("OPTIONS", "sip:192.0.2.1"))))) {
			page.conn.Write([]byte{b})
		}
		page.expect("byte by byte", "SIP/2.0 200")
		bad := page.newRequest("MESSAGE", "sip:102@pbx.example").replaced("Content-Length: 0", "Content-Length: 9")
		page.send(bad, page.newRequest("OPTIONS", "sip:192.0.2.1"))
		page.expect("too short", "SIP/2.0 400")
		page.expect("and read on", "SIP/2.0 200")
		long := page.newRequest("MESSAGE", "sip:102@pbx.example", "", strings.Repeat("x", 60000))
		page.send(long)
		got := s.pbx.expect("60,000 bytes", "MESSAGE")
		s.pbx.respond(got, "200 OK", "", strings.Repeat("y", 60000))
		assertEqual(t, "body", page.expect("the answer", "SIP/2.0 200").body(), strings.Repeat("y", 60000))
		page.sendFrames(ws.NewCloseFrame(ws.NewCloseFrameBody(1001, "")))
		page.expect("the proxy closes too", "<close 1001>")
		s.advance(time.Second)
		page.expect("and ends", "<closed>")
		s.expectNothing("that was all")
		assertEqual(t, "connections", fmt.Sprint(s.proxy.Stats().Streams), "0")
	}, withWebSocket, oneWorker)
}

func TestFaultyFrameEndsTheConnection(t *testing.T) {
	for _, tt := range []struct {
		name string
		b    []byte
		want text
	}{
		{"unmasked", ws.MustCompileFrame(ws.NewTextFrame([]byte("x"))), "<close 1002>"},
		{"text that is not UTF-8", ws.MustCompileFrame(ws.MaskFrame(ws.NewTextFrame([]byte("\xe9")))), "<close 1007>"},
		{"64 KiB", []byte{0x82, 0xff, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0}, "<close 1009>"},
		{"64 KiB in fragments", append(ws.MustCompileFrame(ws.MaskFrame(ws.NewFrame(ws.OpText, false, make([]byte, 65535)))), 0x80, 0x81, 0, 0, 0, 0, 0), "<close 1009>"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			runScenario(t, func(s *testbed) {
				page := s.openWebSocket(pageAt, wsAt)
				go page.conn.Write(append(tt.b, ws.MustCompileFrame(ws.MaskFrame(ws.NewTextFrame([]byte(page.newInvite()))))...))
				page.expect("told", string(tt.want))
				s.advance(time.Second)
				page.expect("and ended", "<closed>")
				s.expectNothing("what is behind it is not read")
				assertEqual(t, "connections", fmt.Sprint(s.proxy.Stats().Streams), "0")
			}, withWebSocket)
		})
	}
}

func TestSilentBrowserIsPinged(t *testing.T) {
	runScenario(t, func(s *testbed) {
		page := s.openWebSocket(pageAt, wsAt)
		s.advance(20*time.Second - ms)
		s.expectNothing("not yet")
		s.advance(ms)
		page.expect("20 s of silence", "<ping>")
		page.sendFrames(ws.NewPongFrame(nil))
		s.advance(20 * time.Second)
		page.expect("and again", "<ping>")
		s.advance(20 * time.Second)
		page.expect("unanswered", "<ping>")
		s.advance(20*time.Second - ms)
		s.expectNothing("not yet")
		s.advance(ms)
		page.expect("two unanswered", "<closed>")
	}, withWebSocket)
}

func TestSlowBrowserIsClosed(t *testing.T) {
	runScenario(t, func(s *testbed) {
		silent := s.dialTCPPeerAt(pageAt, wsAt)
		s.advance(10 * time.Second)
		silent.expect("10 s without a byte", "<closed>")

		slow := s.dialTCPPeerAt(pageAt, wsAt)
		for _, b := range []byte(handshakeLines)[:10] {
			slow.write([]byte{b})
			s.advance(time.Second)
		}
		s.expectNothing("the time runs from the GET")
		s.advance(4 * time.Second)
		slow.expect("10 s for a handshake", "<closed>")

		page := s.openWebSocket(pageAt, wsAt)
		frame := ws.MustCompileFrame(ws.MaskFrame(ws.NewTextFrame([]byte(page.newInvite()))))
		for _, b := range frame[:30] {
			page.conn.Write([]byte{b})
			s.advance(time.Second)
		}
		page.expect("a ping in the middle", "<ping>")
		page.expect("30 s for a message", "<closed>")
		s.advance(0)
		assertEqual(t, "connections", fmt.Sprint(s.proxy.Stats().Streams), "0")
	}, withWebSocket)
}

// The first bytes decide between SIP and WebSocket.
func TestTransportsShareAnAddress(t *testing.T) {
	other := "Origin: https://other.example\r\n"
	for _, tt := range []struct {
		name string
		at   netip.AddrPort
		send text
		want string
	}{
		{"SIP", proxyAt, "OPTIONS sip:192.0.2.1 SIP/2.0\r\nVia: SIP/2.0/TCP a;branch=z9hG4bK1\r\nFrom: <sip:a@b>;tag=1\r\nTo: <sip:a@b>\r\nCall-ID: 1\r\nCSeq: 1 OPTIONS\r\nContent-Length: 0\r\n\r\n", "SIP/2.0 200"},
		{"a ping before SIP", proxyAt, "\r\n\r\n", "\r\n"},
		{"a method that begins like GET", proxyAt, "GETX sip:192.0.2.1 SIP/2.0\r\nVia: SIP/2.0/TCP a;branch=z9hG4bK1\r\nFrom: <sip:a@b>;tag=1\r\nTo: <sip:a@b>\r\nCall-ID: 1\r\nCSeq: 1 GETX\r\nMax-Forwards: 0\r\nContent-Length: 0\r\n\r\n", "SIP/2.0 483"},
		{"WebSocket", proxyAt, handshakeLines + "Sec-WebSocket-Protocol: sip\r\n\r\n", "HTTP/1.1 101"},
		{"no subprotocol", proxyAt, handshakeLines + "\r\n", "HTTP/1.1 400"},
		{"a page of another origin", proxyAt, handshakeLines + text(other) + "Sec-WebSocket-Protocol: sip\r\n\r\n", "HTTP/1.1 101"},
		{"HTTP probe", proxyAt, "GET / HTTP/1.1\r\nHost: a\r\n\r\n", "HTTP/1.1 400"},
		{"neither", proxyAt, "\x16\x03\x01", "<closed>"},
		{"other HTTP", proxyAt, "POST / HTTP/1.1\r\nHost: a\r\n\r\n", "<closed>"},
		{"SIP at the address of WebSocket", wsAt, "OPTIONS sip:192.0.2.1 SIP/2.0\r\n", "<closed>"},
		{"GE", wsAt, "GE\x00", "<closed>"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			runScenario(t, func(s *testbed) {
				for _, whole := range []bool{true, false} {
					p := s.dialTCPPeerAt(pageAt, tt.at)
					if whole {
						go p.write([]byte(tt.send))
					} else {
						go func() {
							for _, b := range []byte(tt.send) {
								p.write([]byte{b})
							}
						}()
					}
					p.expect("told or not", tt.want)
					p.close()
					p.discardReceived()
				}
				s.expectNothing("that was all")
			}, withWebSocket)
		})
	}
}

func TestPageOfAnotherOriginIsRefused(t *testing.T) {
	runScenario(t, func(s *testbed) {
		p := s.dialTCPPeerAt(pageAt, wsAt)
		go p.write([]byte(handshakeLines + "Sec-WebSocket-Protocol: sip\r\nOrigin: https://other.example\r\n\r\n"))
		p.expect("refused", "HTTP/1.1 403")
		p = s.dialTCPPeerAt(pageAt, wsAt)
		go p.write([]byte(handshakeLines + "Sec-WebSocket-Protocol: sip\r\nOrigin: https://Phone.example\r\n\r\n"))
		p.expect("accepted", "HTTP/1.1 101")
	}, func(c *sip.Config) {
		c.Listen = append(c.Listen, sip.Listener{Addr: sip.Addr{Proto: sip.WS, AddrPort: wsAt}, Origins: []string{"https://phone.example"}})
	})
}

// A browser on the machine of the PBX is no PBX.
func TestBrowserOnThePBXsMachineIsOnTheEdge(t *testing.T) {
	runScenario(t, func(s *testbed) {
		page := s.openWebSocket(pbxAt.Addr(), wsAt)
		page.send(page.newInvite())
		s.pbx.respond(s.pbx.expect("to the PBX", "INVITE"), "486 Busy Here")
		s.pbx.expect("ACK", "ACK")
		page.expect("the answer", "SIP/2.0 486")
	}, withWebSocket, pbxOverTCP, func(c *sip.Config) { c.PBXSources = parsePrefixes("192.0.2.2") })
}

// Over WebSocket, a message of the torture tests becomes the same as in a datagram, however
// its bytes arrive.
func TestTortureMessagesOverWebSocket(t *testing.T) {
	for how, write := range map[string]func(b *browserPeer, m []byte){
		"in one frame": func(b *browserPeer, m []byte) { b.sendFrames(ws.NewBinaryFrame(m)) },
		"byte by byte": func(b *browserPeer, m []byte) {
			for _, c := range ws.MustCompileFrame(ws.MaskFrame(ws.NewBinaryFrame(m))) {
				b.conn.Write([]byte{c})
			}
		},
		"in frames of one byte": func(b *browserPeer, m []byte) {
			for i := range m {
				opcode := ws.OpContinuation
				if i == 0 {
					opcode = ws.OpBinary
				}
				b.sendFrames(ws.NewFrame(opcode, i == len(m)-1, m[i:i+1]))
			}
		},
	} {
		for folder, fates := range fates {
			for name, m := range readCorpus(t, folder) {
				t.Run(name+" "+how, func(t *testing.T) {
					runScenario(t, func(s *testbed) {
						page := s.openWebSocket(phoneAt.Addr(), wsAt)
						write(page, m)
						s.advance(0)
						fate := "silence"
						if got, ok := s.pbx.nextMessage(); ok {
							fate = "on"
							if got.method() != "ACK" {
								s.pbx.respond(got, "404 Not Found")
							}
						} else if got, ok := page.nextMessage(); ok {
							fate = strings.Fields(got.startLine())[1]
						}
						if !strings.Contains(fates[name], fate) {
							t.Errorf("%s: want %s", fate, fates[name])
						}
						s.checkAlive()
					}, withWebSocket)
				})
			}
		}
	}
}
