package sip_test

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/gobwas/ws"

	"bellhop/sip"
)

// fates are the expected results of the torture messages over UDP: a status is the response
// to the sender, "on" means forwarded to the PBX, "silence" means that nothing is sent.
var fates = map[string]map[string]string{
	"rfc4475": {
		"badaspec": "400 on", "badbranch": "on", "baddate": "on", "baddn": "400 on", "badinv01": "400 on", "badvers": "505",
		"bcast": "silence", "bext01": "420", "bigcode": "silence", "clerr": "400", "cparam01": "on", "cparam02": "on",
		"dblreq": "on", "esc01": "on", "esc02": "on", "escnull": "on", "escruri": "400", "insuf": "400", "intmeth": "on",
		"inv2543": "on", "invut": "on", "longreq": "on", "ltgtruri": "400", "lwsdisp": "on", "lwsruri": "400", "lwsstart": "400",
		"mcl01": "400", "mismatch01": "400", "mismatch02": "400", "mpart01": "403", "multi01": "400", "ncl": "400",
		"noreason": "silence", "novelsc": "on", "quotbal": "400", "regaut01": "on", "regbadct": "400 on", "regescrt": "on",
		"scalar02": "400", "scalarlg": "silence", "sdp01": "on", "semiuri": "on", "test": "400 silence", "transports": "on",
		"trws": "400 on", "unkscm": "416 on", "unksm2": "on", "unreason": "silence", "wsinv": "403", "zeromf": "483",
	},
	"rfc5118": {
		"ipv4-mapped-ipv6": "on", "ipv6-bad": "400", "ipv6-bug-abnf-3-colons": "400 on", "ipv6-correct-abnf-2-colons": "on",
		"ipv6-good": "on", "ipv6-in-sdp": "on", "mult-ip-in-header": "on", "mult-ip-in-sdp": "on", "port-ambiguous": "on",
		"port-unambiguous": "on", "via-received-param-no-delim": "on", "via-received-param-with-delim": "on",
	},
}

func TestTortureMessagesOverUDP(t *testing.T) { // RFC 4475, RFC 5118
	for folder, fates := range fates {
		for name, m := range readCorpus(t, folder) {
			if fates[name] == "on" {
				t.Run(name+" with X-CID", func(t *testing.T) { checkRequestUnchanged(t, m, true) })
			}
			t.Run(name, func(t *testing.T) {
				want := fates[name]
				if want == "" {
					t.Fatal("nobody said what becomes of it")
				}
				runScenario(t, func(s *testbed) {
					// Responses go to the port in the topmost Via.
					sent := map[*peer]bool{s.phone: true}
					for _, port := range []uint16{5060, 5050, 5070, 4097} {
						sent[s.addUDPPeer(netip.AddrPortFrom(phoneAt.Addr(), port))] = true
					}
					s.phone.send(text(m))
					fate := "silence"
					if got, ok := s.pbx.nextMessage(); ok {
						fate = "on"
						if !strings.Contains(want, "400") {
							assertSame(t, "what went on", undoEdits(t, m, []byte(got), false), cutToLength(m))
						}
						if got.method() != "ACK" {
							s.pbx.respond(got, "404 Not Found")
						}
					} else {
						for p := range sent {
							if got, ok := p.nextMessage(); ok {
								fate = strings.Fields(got.startLine())[1]
							}
						}
					}
					if !strings.Contains(want, fate) {
						t.Errorf("%s: want %s", fate, want)
					}
					s.checkAlive()
				})
			})
		}
	}
}

func TestTheBinaryBodyOfRFC4475(t *testing.T) { // mpart01: without its foreign Route the message is forwarded, and its body can be checked
	if m, ok := readCorpus(t, "rfc4475")["mpart01"]; ok {
		checkRequestUnchanged(t, bytes.Replace(m, []byte("Route: <sip:127.0.0.1:5080>\r\n"), nil, 1), true)
	}
}

func TestTheValidResponsesOfRFC4475(t *testing.T) { // §3.1.1.12, §3.1.1.13
	all := readCorpus(t, "rfc4475")
	for _, name := range []string{"unreason", "noreason"} {
		if m, ok := all[name]; ok {
			t.Run(name, func(t *testing.T) { checkResponseUnchanged(t, m) })
		}
	}
}

// checkAlive checks that the proxy still answers.
func (s *testbed) checkAlive() {
	s.t.Helper()
	for _, p := range s.peers {
		p.discardReceived()
	}
	s.phone.send(s.phone.newRequest("OPTIONS", "sip:192.0.2.1"))
	s.phone.expect("alive", "SIP/2.0 200")
}

// Whatever comes over a stream, in one piece or byte by byte, the proxy answers afterwards.
// Over a WebSocket the pieces are frames.
func TestTortureMessagesOverStreams(t *testing.T) {
	messages := map[string]map[string][]byte{"odd": {}}
	for _, folder := range []string{"rfc4475", "rfc5118", "rfc3665", "scanners"} {
		messages[folder] = readCorpus(t, folder)
	}
	for _, odd := range oddMessages {
		phone := peer{addr: phoneAt, proto: "UDP"}
		messages["odd"][odd.name] = []byte(odd.sent(phone.newRequest("MESSAGE", "sip:102@pbx.example")))
	}
	for _, proto := range []sip.Proto{sip.TCP, sip.TLS, sip.WS, sip.WSS} {
		for _, piece := range []int{1 << 20, 1} {
			for folder, all := range messages {
				t.Run(fmt.Sprintf("%s over %v in pieces of %d", folder, proto, piece), func(t *testing.T) {
					b := &tlsBed{}
					runScenario(t, func(s *testbed) {
						for _, m := range all {
							c, err := s.net.Dial(phoneAt.Addr(), streamListeners[proto])
							if err != nil {
								t.Fatal(err)
							}
							if proto == sip.TLS || proto == sip.WSS {
								over := tls.Client(c, &tls.Config{ServerName: "sip.example.com", RootCAs: b.ca.Pool()})
								if c = over; over.Handshake() != nil {
									t.Fatal("the handshake fails")
								}
							}
							s.sendPieces(c, proto, slices.Collect(slices.Chunk(m, piece)))
							s.checkAlive()
							c.Close()
						}
					}, withWebSocket, b.listen, func(c *sip.Config) {
						other := c.Listen[len(c.Listen)-1]
						other.Proto, other.AddrPort = sip.WSS, wssAt
						c.Listen = append(c.Listen, other)
					})
				})
			}
		}
	}
}

var (
	wssAt           = netip.MustParseAddrPort("192.0.2.1:443")
	streamListeners = map[sip.Proto]netip.AddrPort{sip.TCP: proxyAt, sip.TLS: proxyTLSAt, sip.WS: wsAt, sip.WSS: wssAt}
)

// sendPieces sends the pieces of a message on a connection: over a WebSocket as the
// fragments of one message. It discards what the proxy sends.
func (s *testbed) sendPieces(c net.Conn, proto sip.Proto, pieces [][]byte) {
	if proto == sip.TCP || proto == sip.TLS {
		go io.Copy(io.Discard, c)
		for _, b := range pieces {
			c.Write(b)
		}
		return
	}
	page := s.shakeHands(c)
	opcode := ws.OpText
	if !utf8.Valid(slices.Concat(pieces...)) {
		opcode = ws.OpBinary
	}
	for i, b := range pieces {
		page.sendFrames(ws.NewFrame(opcode, i == len(pieces)-1, slices.Clone(b)))
		opcode = ws.OpContinuation
	}
}

// oddMessages are messages of our own that check the same promises as the message
// collections, which may be missing. Each is made of a MESSAGE of the phone, which begins
// with oddStart. fate is what becomes of it over UDP.
var oddMessages = []struct {
	name, fate string
	sent       func(m text) text
}{
	{"a branch that is the cookie only", "on", func(m text) text { return m.replaced(m.viaBranch(), "z9hG4bK") }},
	{"a response to nothing", "silence", func(m text) text { return m.replaced(oddStart, "SIP/2.0 200 OK") }},
	{"a response with our name in its Via", "silence", func(m text) text {
		return m.replaced(oddStart, "SIP/2.0 200 OK").replaced("192.0.2.101:5062", "192.0.2.1:5060")
	}},
	{"a response to a broadcast", "silence", func(m text) text {
		return m.replaced(oddStart, "SIP/2.0 200 OK").replaced("192.0.2.101:5062", "255.255.255.255")
	}},
	{"a status code of ten digits", "silence", func(m text) text { return m.replaced(oddStart, "SIP/2.0 4294967301 better not break the receiver") }},
	{"a status code of two digits", "silence", func(m text) text { return m.replaced(oddStart, "SIP/2.0 20 OK") }},
	{"a response with a CSeq too large", "silence", func(m text) text {
		return m.replaced(oddStart, "SIP/2.0 503 Service Unavailable").replaced("CSeq: 1", "CSeq: 9292394834772304023312")
	}},
	{"a second request behind the body", "on", func(m text) text { return m + m }},
	{"space behind the version", "400", func(m text) text { return m.replaced(oddStart, oddStart+"  ") }},
	{"a start line of one word", "silence", func(m text) text { return m.replaced(oddStart, "MESSAGE") }},
	{"no start line", "silence", func(m text) text { return m.replaced(oddStart+"\r\n", "") }},
	{"HTTP", "silence", func(m text) text { return m.replaced(oddStart, "GET / HTTP/1.1") }},
	{"no end of the header section", "400", func(m text) text { return text(strings.TrimSuffix(string(m), "\r\n")) }},
	{"LFs for line ends", "silence", func(m text) text { return text(strings.ReplaceAll(string(m), "\r\n", "\n")) }},
	{"no Via", "silence", func(m text) text { return m.replaced("Via:", "X-Via:") }},
	{"a Via without a transport", "silence", func(m text) text { return m.replaced("SIP/2.0/UDP ", "SIP/2.0 ") }},
	{"a Via of another version", "400", func(m text) text { return m.replaced("SIP/2.0/UDP ", "SIP/3.0/UDP ") }},
	{"a Via without a host", "silence", func(m text) text { return m.replaced("UDP 192.0.2.101:5062", "UDP ") }},
	{"a port that is none", "silence", func(m text) text { return m.replaced("192.0.2.101:5062", "192.0.2.101:65536") }},
	{"a Via with a hole", "400", func(m text) text { return m.replaced(";branch", ";;branch") }},
	{"a contact that opens and does not close", "on", func(m text) text { return m.replaced("Contact: <", "Contact: \"") }},
	{"a bad display name in To", "on", func(m text) text { return m.replaced("To: <", "To: Bell, Alexander <") }},
	{"nothing but CRLFs", "silence", func(m text) text { return "\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n" }},
	{"CRLFs before it", "on", func(m text) text { return "\r\n\r\n" + m }},
	{"65,535 NULs", "silence", func(m text) text { return text(bytes.Repeat([]byte{0}, 65535)) }},
}

const oddStart = "MESSAGE sip:102@pbx.example SIP/2.0"

func TestOddMessagesAreAnsweredOrForwarded(t *testing.T) {
	for _, tt := range oddMessages {
		t.Run(tt.name, func(t *testing.T) {
			runScenario(t, func(s *testbed) {
				s.phone.send(tt.sent(s.phone.newRequest("MESSAGE", "sip:102@pbx.example")))
				fate := "silence"
				if got, ok := s.pbx.nextMessage(); ok {
					fate = "on"
					s.pbx.respond(got, "200 OK")
				} else if got, ok := s.phone.nextMessage(); ok {
					fate = strings.Fields(got.startLine())[1]
				}
				assertEqual(t, "fate", fate, tt.fate)
				s.checkAlive()
			})
		})
	}
}

func TestGarbageLeavesNothingBehind(t *testing.T) { // no message makes the memory grow without limit
	runScenario(t, func(s *testbed) {
		before := s.proxy.Stats()
		n := 0
		for i := range 1000 {
			m := s.phone.newRequest("MESSAGE", "sip:102@pbx.example")
			for _, bad := range []text{
				m.replaced("From:", "X-From:"),
				m.replaced("MESSAGE sip", "MESSAGE <sip"),
				m.replaced("Max-Forwards: 70", "Max-Forwards: 0"),
				m.replaced("Contact:", "Proxy-Require: x\r\nContact:"),
				m.replaced("Contact:", "Route: <sip:x@192.0.2.1;lr>\r\nContact:"),
				m.replaced("MESSAGE sip:102@pbx.example SIP/2.0", "SIP/2.0 200 OK"),
				m.replaced("MESSAGE sip:102@pbx.example", "ACK sip:102@pbx.example").replaced("1 MESSAGE", "1 ACK"),
				m.replaced("MESSAGE sip:102@pbx.example", "OPTIONS sip:192.0.2.1").replaced("1 MESSAGE", "1 OPTIONS"),
				m[:20+i%100],
				text(strings.Repeat(string(rune('a'+i%26)), i)),
			} {
				s.phone.write([]byte(bad))
				n++
			}
			if i%100 == 0 {
				s.phone.discardReceived()
				s.pbx.discardReceived()
			}
		}
		s.phone.discardReceived()
		s.pbx.discardReceived()
		after := s.proxy.Stats()
		if n != 10000 || after.Transactions != before.Transactions || after.Dropped != 0 || after.Streams != 0 {
			t.Errorf("after %d messages: %+v", n, after)
		}
		s.stop()
		if n := s.proxy.Held(); n != 0 {
			t.Errorf("%d transactions and timers are held", n)
		}
	}, func(c *sip.Config) { c.Observations = nil })
}
