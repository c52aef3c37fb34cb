package sip_test

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// On a stream, only Content-Length marks the end of a body. A request without it is
// refused, not forwarded in part.
func TestRequestWithoutContentLengthIsRefused(t *testing.T) { // RFC 3261 §18.3, §20.14
	sdp := "v=0\r\no=- 7 7 IN IP4 192.0.2.101\r\ns=-\r\nt=0 0\r\n"
	without := func(m text) text {
		return m.replaced(fmt.Sprintf("Content-Length: %d\r\n", len(m.body())), "")
	}
	for _, tt := range []struct {
		name    string
		request func(p *peer) text
	}{
		{"an INVITE with a body", func(p *peer) text { return p.newInvite("Content-Type: application/sdp", "", sdp) }},
		{"an INVITE without one", func(p *peer) text { return p.newInvite() }},
		{"a MESSAGE whose text looks like a request", func(p *peer) text {
			return p.newRequest("MESSAGE", "sip:102@pbx.example", "c: text/plain", "", "BYE sip:102@pbx.example SIP/2.0\r\n\r\n")
		}},
		{"a REGISTER", func(p *peer) text { return p.newRequest("REGISTER", "sip:pbx.example") }},
	} {
		for _, dribble := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/dribbled=%v", tt.name, dribble), func(t *testing.T) {
				runScenario(t, func(s *testbed) {
					phone := s.dialTCPPeer(phoneAt.Addr())
					m := without(tt.request(phone))
					if dribble {
						for _, b := range []byte(m[:len(m)-len(m.body())]) {
							phone.write([]byte{b})
						}
						go phone.write([]byte(m.body()))
					} else {
						phone.send(m)
					}
					phone.expect("refused", "SIP/2.0 400 Missing Content-Length")
					phone.expect("what is behind it cannot be read", "<closed>")
					s.expectNothing("nothing goes on")
				})
			})
		}
	}
	t.Run("from the PBX", func(t *testing.T) {
		runScenario(t, func(s *testbed) {
			own := s.dialTCPPeer(pbxAt.Addr())
			own.send(without(own.newRequest("INVITE", "sip:101@192.0.2.101:5062", "Content-Type: application/sdp", "", sdp)))
			own.expect("refused", "SIP/2.0 400 Missing Content-Length")
			own.expect("and closed", "<closed>")
			s.expectNothing("the phone gets nothing")
		}, pbxOverTCP)
	})
	t.Run("an ACK", func(t *testing.T) { // it is never answered
		runScenario(t, func(s *testbed) {
			phone := s.dialTCPPeer(phoneAt.Addr())
			phone.send(without(phone.newRequest("ACK", "sip:102@pbx.example")))
			phone.expect("closed", "<closed>")
			s.expectNothing("it does not go on")
		})
	})
	t.Run("over UDP the datagram ends it", func(t *testing.T) {
		runScenario(t, func(s *testbed) {
			s.phone.send(without(s.phone.newRequest("MESSAGE", "sip:102@pbx.example", "Content-Type: text/plain", "", "hello")))
			got := s.pbx.expect("goes on", "MESSAGE")
			assertEqual(t, "body", got.body(), "hello")
			s.pbx.respond(got, "200 OK")
		})
	})
}

// The length of a response without a body is known without Content-Length.
func TestBodylessResponseNeedsNoContentLength(t *testing.T) {
	runScenario(t, func(s *testbed) {
		invite, got := s.sendInvite()
		s.pbx.send(s.pbx.newResponse(got, "180 Ringing").replaced("Content-Length: 0\r\n", "") + s.pbx.newResponse(got, "183 Session Progress").replaced("Content-Length: 0\r\n", ""))
		s.phone.expect("no Content-Type: no body", "SIP/2.0 180")
		s.phone.expect("and what is behind it is read", "SIP/2.0 183")
		for _, name := range []string{"Content-Type", "c", "CONTENT-TYPE "} {
			s.pbx.send(s.pbx.newResponse(got, "200 OK", name+": application/sdp", "", "v=0\r\n").replaced("Content-Length: 5\r\n", ""))
			s.pbx.expect("nobody knows where it ends", "<closed>")
			s.pbx.discardReceived()
			s.expectNothing("half a 200 is none")
			s.phone.send(s.phone.newRequest("OPTIONS", "sip:102@pbx.example"))
			s.pbx.respond(s.pbx.expect("over a new connection", "OPTIONS"), "200 OK")
			s.phone.expect("answer", "SIP/2.0 200")
		}
		s.pbx.respond(got, "486 Busy Here")
		s.pbx.expect("acknowledged", "ACK")
		s.phone.sendACK(invite, s.phone.expect("the call has its end", "SIP/2.0 486"))
	}, pbxOverTCP, oneWorker)
}

// A ping is two CRLFs, one directly after the other.
func TestSingleCRLFIsNoPing(t *testing.T) { // RFC 5626 §3.5.1, RFC 3261 §7.5
	for _, tt := range []struct {
		name   string
		pieces string // apart by commas; a number is a pause in milliseconds
		pongs  int
	}{
		{"one whole ping", "RNRN", 1},
		{"single ones, half a second apart", "RN,500,RN,500,RN,500,RN", 0},
		{"single ones, half a minute apart", "RN,30000,RN,30000,RN", 0},
		{"a single one, then a ping", "RN,2000,RNRN", 1},
		{"a ping, then a single one", "RNRN,2000,RN", 1},
		{"three at once, and a ping later", "RNRNRN,2000,RNRN", 2},
		{"two pings at once", "RNRNRNRN", 2},
		{"byte by byte", "R,100,N,100,R,100,N", 1},
		{"byte by byte, at once", "R,N,R,N", 1},
		{"cut in the middle", "RN,100,RN", 1},
		{"cut behind the first CR", "R,200,NRN", 1},
		{"cut before the last LF, which is late", "RNR,900,N", 1},
		{"single ones in pieces", "R,50,N,500,R,50,N,500,R,50,N", 0},
		{"a message between two single ones", "RN,M,RN", 0},
		{"a ping before a message", "RNRN,M", 1},
		{"a CRLF, then a message with its own before it", "RN,1000,RNM", 0},
		{"pings around a message at once", "RNRNMRNRN", 2},
	} {
		t.Run(tt.name, func(t *testing.T) {
			runScenario(t, func(s *testbed) {
				phone := s.dialTCPPeer(phoneAt.Addr())
				pongs, answers := 0, 0
				hears := func() {
					s.advance(0)
					for m, ok := phone.nextMessage(); ok; m, ok = phone.nextMessage() {
						if strings.HasPrefix(string(m), "SIP/2.0 200") {
							answers++
						} else {
							pongs += strings.Count(string(m), "\r\n")
						}
					}
				}
				for piece := range strings.SplitSeq(tt.pieces, ",") {
					var pause int
					if n, _ := fmt.Sscan(piece, &pause); n == 1 {
						s.advance(time.Duration(pause) * ms)
						continue
					}
					options := string(phone.newRequest("OPTIONS", "sip:192.0.2.1"))
					phone.send(text(strings.NewReplacer("R", "\r", "N", "\n", "M", options).Replace(piece)))
					hears()
				}
				assertEqual(t, "pongs", fmt.Sprint(pongs), fmt.Sprint(tt.pongs))
				assertEqual(t, "answers", fmt.Sprint(answers), fmt.Sprint(strings.Count(tt.pieces, "M")))
			})
		})
	}
}

// An unreadable message is refused alone, whatever pieces it arrives in. On a stream the
// messages after it are still read.
func TestGarbageInAHeaderSectionIsRefused(t *testing.T) { // RFC 3261 §7.3.1, §25.1
	for _, tt := range []struct{ name, line string }{
		{"a line without a colon", "Warning - this is no header field"},
		{"a name in UTF-8", "X-Grüße: ja"},
		{"a name in Latin-1", "X-Gr\xfc\xdfe: ja"},
		{"no name", ": value"},
		{"a space in the name", "X Y: z"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			runScenario(t, func(s *testbed) {
				s.phone.send(s.phone.newInvite(tt.line))
				s.phone.expect("UDP", "SIP/2.0 400")
				s.pbx.send(s.pbx.newRequest("INVITE", "sip:101@192.0.2.101:5062", tt.line))
				s.pbx.expect("from the PBX too", "SIP/2.0 400")
				phone := s.dialTCPPeer(otherAt.Addr())
				for _, b := range []byte(phone.newInvite(tt.line, "", "a body") + phone.newRequest("OPTIONS", "sip:192.0.2.1")) {
					phone.write([]byte{b})
				}
				phone.expect("TCP", "SIP/2.0 400")
				phone.expect("and read on", "SIP/2.0 200")
				s.expectNothing("nothing goes on")
			}, oneWorker)
		})
	}
}
