package sip_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"bellhop/sip"
)

func TestMaxForwardsIsDecremented(t *testing.T) { // RFC 3261 §16.3 item 3, §16.6 item 3
	for _, tt := range []struct {
		is, want string
		refused  bool
	}{
		{"70", "69", false}, {"1", "0", false}, {"255", "254", false}, {"0068", "67", false}, {"", "70", false},
		{"0", "483", true}, {"256", "400", true}, {"4294967295", "400", true}, {"-1", "400", true}, {"seventy", "400", true}, {"7 0", "400", true},
		{"0\r\nMax-Forwards: 70", "400", true},
	} {
		t.Run(tt.is, func(t *testing.T) {
			runScenario(t, func(s *testbed) {
				s.phone.send(s.phone.newRequest("MESSAGE", "sip:102@pbx.example", "Max-Forwards: "+tt.is))
				if tt.refused {
					s.phone.expect("refused", "SIP/2.0 "+tt.want)
					s.expectNothing("and not sent on")
					return
				}
				got := s.pbx.expect("sent on", "MESSAGE")
				assertEqual(t, "Max-Forwards", strings.Join(got.fieldValues("Max-Forwards"), " "), tt.want)
				s.pbx.respond(got, "200 OK")
			})
		})
	}
}

func TestInvalidRequestsAreRefused(t *testing.T) { // rows 3–8, 11
	invite := "INVITE sip:102@pbx.example SIP/2.0"
	for _, tt := range []struct {
		name, old, new, want string
	}{
		{"another version", invite, "INVITE sip:102@pbx.example SIP/7.0", "505"},
		{"no Call-ID", "Call-ID", "X-Call-ID", "400"},
		{"no From", "From", "X-From", "400"},
		{"no To", "To:", "X-To:", "400"},
		{"no CSeq", "CSeq", "X-CSeq", "400"},
		{"two Call-IDs", "Call-ID", "i: other\r\nCall-ID", "400"},
		{"two From", "From", "f: <sip:evil@pbx.example>;tag=1\r\nFrom", "400"},
		{"two To", "To:", "t: <sip:evil@pbx.example>\r\nTo:", "400"},
		{"two CSeq", "CSeq", "cseq: 2 INVITE\r\nCSeq", "400"},
		{"CSeq of another method", "1 INVITE", "1 BYE", "400"},
		{"CSeq of another case", "1 INVITE", "1 invite", "400"},
		{"CSeq too large", "CSeq: 1", "CSeq: 4294967296", "400"},
		{"CSeq no number", "CSeq: 1", "CSeq: one", "400"},
		{"two Content-Lengths", "Content-Length: 0", "Content-Length: 0\r\nl: 0", "400"},
		{"negative Content-Length", "Content-Length: 0", "Content-Length: -1", "400"},
		{"Content-Length beyond the datagram", "Content-Length: 0", "Content-Length: 1", "400"},
		{"Content-Length that wraps", "Content-Length: 0", "Content-Length: 4294967296", "400"},
		{"bare LF in a field", "Contact: ", "X: a\nP-Asserted-Identity: <sip:boss@pbx.example>\r\nContact: ", "400"},
		{"bare CR in a field", "Contact: ", "X: a\rb\r\nContact: ", "400"},
		{"NUL in a field", "Contact: ", "X: a\x00b\r\nContact: ", "400"},
		{"a line that is no field", "Contact: ", "this is no field\r\nContact: ", "400"},
		{"space in the Request-URI", invite, "INVITE sip:102@pbx.example; lr SIP/2.0", "400"},
		{"Request-URI in angle brackets", invite, "INVITE <sip:102@pbx.example> SIP/2.0", "400"},
		{"two spaces in the request line", invite, "INVITE  sip:102@pbx.example SIP/2.0", "400"},
		{"fields in the Request-URI", invite, "INVITE sip:102@pbx.example?Route=%3Csip:evil%3E SIP/2.0", "400"},
		{"bare IPv6 Request-URI", invite, "INVITE sip:2001:db8::10 SIP/2.0", "400"},
		{"quotes that do not pair", "To: <", "To: \"Mr. J. User <", "400"},
		{"Proxy-Require", "Contact: ", "Proxy-Require: foo,\r\n bar,\r\nProxy-Require:\r\nPROXY-REQUIRE: ,baz\r\nContact: ", "420"},
		{"a start line of 3000 bytes", invite, "INVITE sip:" + strings.Repeat("1", 3000) + "@pbx.example SIP/2.0", "400"},
		{"a field of 9000 bytes", "Contact: ", "X: " + strings.Repeat("x", 9000) + "\r\nContact: ", "400"},
		{"300 fields", "Contact: ", strings.Repeat("X: x\r\n", 300) + "Contact: ", "400"},
		{"70 Vias", "Contact: ", strings.Repeat("Via: SIP/2.0/UDP a;branch=b\r\n", 70) + "Contact: ", "400"},
		{"100 Routes", "Contact: ", strings.Repeat("Route: <sip:192.0.2.1;lr>\r\n", 33) + "Route: " + strings.Repeat("<sip:192.0.2.1;lr>,", 66) + "<sip:192.0.2.2;lr>\r\nContact: ", "400"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			runScenario(t, func(s *testbed) {
				s.phone.send(s.phone.newInvite().replaced(tt.old, tt.new))
				got := s.phone.expect("refused", "SIP/2.0 "+tt.want)
				if tt.want == "505" {
					assertEqual(t, "it is SIP/2.0 that we speak", got.startLine(), "SIP/2.0 505 Version Not Supported")
				}
				if tt.want == "420" {
					assertEqual(t, "all of them", got.fieldValue("Unsupported"), "foo, bar, baz")
				}
				s.expectNothing("and not sent on")
			})
		})
	}
}

func TestUnusualRequestsAreForwarded(t *testing.T) { // row 1: parts that only others need to understand are not checked
	invite := "INVITE sip:102@pbx.example SIP/2.0"
	for _, tt := range []struct {
		name, old, new string
	}{
		{"tel URI", invite, "INVITE tel:+358-555-1234567;phone-context=+1 SIP/2.0"},
		{"a user with everything", invite, "INVITE sip:user;par=u%40example.net@pbx.example;x=%00 SIP/2.0"},
		{"IPv6 Request-URI", invite, "INVITE sip:[2001:db8::10]:5070 SIP/2.0"},
		{"an unknown field", "Contact: ", "Foo-Bar-1.2!~: \"unbalanced, <stuff\r\nContact: "},
		{"a bad Date", "Contact: ", "Date: Fri, 01 Jan 2010 16:00:00 EST\r\nContact: "},
		{"a bad Contact", "Contact: <", "Contact: \"unbalanced <"},
		{"Require is for the PBX", "Contact: ", "Require: nothingSupportsThis\r\nContact: "},
		{"an empty field", "Contact: ", "Subject:\r\nContact: "},
		{"a Proxy-Require without a value", "Contact: ", "Proxy-Require:\r\nContact: "},
		{"a Proxy-Require of spaces", "Contact: ", "Proxy-Require: \t\r\n  \r\nContact: "},
		{"a Proxy-Require of commas", "Contact: ", "Proxy-Require: ,\r\nproxy-require:,,\r\nContact: "},
		{"a fold", "Contact: ", "Subject: a\r\n\tb\r\n  c\r\nContact: "},
		{"other cases", "From: ", "fROM : "},
		{"no Contact", "Contact: ", "X: "},
		{"60 Vias", "Contact: ", strings.Repeat("Via: SIP/2.0/UDP a;branch=b\r\n", 60) + "Contact: "},
		{"octets that are no UTF-8", "Contact: ", "Subject: \xff\xfe\r\nContact: "},
	} {
		t.Run(tt.name, func(t *testing.T) {
			runScenario(t, func(s *testbed) {
				sent := s.phone.newInvite().replaced(tt.old, tt.new)
				s.phone.send(sent)
				got := s.pbx.expect("sent on", "INVITE ")
				assertEqual(t, "request line", got.startLine(), sent.startLine())
				if tt.old == "Contact: " && !strings.Contains(string(got), tt.new) {
					t.Errorf("what went on is\n%s", got)
				}
				s.pbx.respond(got, "404 Not Found")
			})
		})
	}
}

func TestMethodsAreForwardedUnchanged(t *testing.T) { // rows 2, 16, 40; RFC 3261 §7.1
	for _, tt := range []struct {
		method   string
		recorded bool
	}{
		{"INVITE", true}, {"SUBSCRIBE", true}, {"REFER", true}, {"UPDATE", true}, {"NOTIFY", true}, {"foo-Method", true},
		{"!interesting-Method0123456789_*+`.%indeed'~", true}, {"RE%47IST%45R", true}, {"invite", true},
		{"REGISTER", false}, {"MESSAGE", false}, {"OPTIONS", false}, {"PUBLISH", false}, {"INFO", false}, {"PRACK", false}, {"BYE", false},
	} {
		t.Run(tt.method, func(t *testing.T) {
			runScenario(t, func(s *testbed) {
				s.phone.send(s.phone.newRequest(tt.method, "sip:102@pbx.example", "RSeq: 1", "RAck: 776656 1 INVITE"))
				got := s.pbx.expect("sent on", tt.method+" sip:102@pbx.example SIP/2.0")
				if got := len(got.fieldValues("Record-Route")) == 1; got != tt.recorded {
					t.Errorf("Record-Route: %v, want %v", got, tt.recorded)
				}
				assertEqual(t, "RAck", got.fieldValue("RAck"), "776656 1 INVITE")
				s.pbx.respond(got, "404 Not Found")
				s.phone.expect("answer", "SIP/2.0 404")
			})
		})
	}
}

func TestCallSentBackUnchangedIsALoop(t *testing.T) { // RFC 3261 §16.3 item 4
	runScenario(t, func(s *testbed) {
		s.phone.send(s.phone.newInvite())
		got := s.pbx.expect("the INVITE goes on", "INVITE")
		s.pbx.respond(got, "100 Trying")
		s.pbx.send(got.replaced("Via:", "Via: SIP/2.0/UDP 192.0.2.2;branch=z9hG4bK-pbx\r\nVia:"))
		s.pbx.expect("a loop", "SIP/2.0 482")
		s.pbx.respond(got, "482 Loop Detected")
		s.pbx.expect("acknowledged", "ACK")
		s.phone.discardReceived()
	})
}

func TestLoopIsRefusedAndSpiralForwarded(t *testing.T) { // RFC 3261 §16.3 item 4, RFC 5393 §4.2
	runScenario(t, func(s *testbed) {
		other := s.addUDPPeer(otherAt)
		// From the PBX: the Request-URI is the next hop, so that nothing else changes.
		sent := s.pbx.newRequest("MESSAGE", "sip:102@192.0.2.102:5062")
		s.pbx.send(sent)
		got := other.expect("it goes on", "MESSAGE sip:102@192.0.2.102:5062")
		loop := got.replaced("Via:", "Via: SIP/2.0/UDP 192.0.2.102:5062;branch=z9hG4bK-other\r\nVia:")
		other.send(loop)
		other.expect("the same again", "SIP/2.0 482")
		spiral := loop.replaced("z9hG4bK-other", "z9hG4bK-another").replaced("MESSAGE sip:102@192.0.2.102:5062", "MESSAGE sip:103@pbx.example")
		other.send(spiral)
		again := s.pbx.expect("another Request-URI is a spiral", "MESSAGE sip:103@pbx.example")
		assertEqual(t, "Vias", fmt.Sprint(len(again.fieldValues("Via"))), "4")
		s.pbx.respond(again, "200 OK")
		other.expect("the answer goes round", "SIP/2.0 200")
		other.respond(got, "200 OK")
		s.pbx.expect("the answer", "SIP/2.0 200")
	})
}

func TestMergedRequestsAreForwarded(t *testing.T) { // RFC 3261 §16.3: only the UAS sends 482
	runScenario(t, func(s *testbed) {
		sent := s.phone.newRequest("MESSAGE", "sip:102@pbx.example")
		fork := sent.replaced("branch=z9hG4bK", "branch=z9hG4bK-fork")
		s.phone.send(sent, fork)
		s.pbx.respond(s.pbx.expect("one", "MESSAGE"), "200 OK")
		s.pbx.respond(s.pbx.expect("the other", "MESSAGE"), "482 Loop Detected")
		s.phone.expect("one", "SIP/2.0 200")
		s.phone.expect("the other", "SIP/2.0 482")
	})
}

func TestOPTIONSToTheProxyIsAnswered(t *testing.T) { // RFC 3261 §11; the proxy answers one without a user that names it
	runScenario(t, func(s *testbed) {
		s.phone.send(s.phone.newRequest("OPTIONS", "sip:192.0.2.1"))
		s.phone.expect("we are here", "SIP/2.0 200")
		s.pbx.send(s.pbx.newRequest("OPTIONS", "sip:192.0.2.1:5060;transport=udp"))
		s.pbx.expect("for the PBX too", "SIP/2.0 200")
		s.phone.send(s.phone.newRequest("OPTIONS", "sip:102@192.0.2.1"))
		s.pbx.respond(s.pbx.expect("one with a user goes on", "OPTIONS sip:102@192.0.2.1"), "200 OK")
		s.phone.expect("answer", "SIP/2.0 200")
		s.phone.send(s.phone.newRequest("OPTIONS", "sip:pbx.example"))
		s.pbx.respond(s.pbx.expect("and one for another", "OPTIONS sip:pbx.example"), "200 OK")
		s.phone.expect("answer", "SIP/2.0 200")
	})
}

func TestDrainRefusesNewCalls(t *testing.T) { // row 45: never for in-dialog requests
	runScenario(t, func(s *testbed) {
		c := s.phone.setUpCall(s.pbx)
		s.phone.send(s.phone.newInvite())
		ringing := s.pbx.expect("another call", "INVITE")
		s.pbx.respond(ringing, "180 Ringing")
		s.phone.expect("ringing", "SIP/2.0 180")
		drained := make(chan time.Time, 1)
		go func() {
			s.proxy.Drain(context.Background())
			drained <- time.Now()
		}()
		s.advance(ms)
		invite := s.phone.newInvite()
		s.phone.send(invite)
		refused := s.phone.expect("no new calls", "SIP/2.0 503")
		assertEqual(t, "come back later", refused.fieldValue("Retry-After"), "5")
		s.phone.sendACK(invite, refused)
		s.phone.send(s.phone.callerRequest(c.ok, "INVITE"))
		again := s.pbx.expect("a re-INVITE passes", "INVITE")
		s.pbx.respond(again, "488 Not Acceptable Here")
		s.pbx.expect("acknowledged", "ACK")
		s.phone.expect("answer", "SIP/2.0 488")
		s.phone.send(s.phone.callerRequest(c.ok, "BYE"))
		s.pbx.respond(s.pbx.expect("a BYE passes", "BYE"), "200 OK")
		s.phone.expect("answer", "SIP/2.0 200")
		s.phone.send(s.phone.newRequest("REGISTER", "sip:pbx.example"))
		s.pbx.respond(s.pbx.expect("a REGISTER passes", "REGISTER"), "200 OK")
		s.phone.expect("answer", "SIP/2.0 200")
		s.advance(20 * time.Second)
		select {
		case <-drained:
			t.Error("drained while a call rings")
		default:
		}
		s.pbx.respond(ringing, "200 OK")
		s.advance(50 * ms)
		select {
		case <-drained:
		default:
			t.Error("not drained though nothing is under way")
		}
		s.phone.discardReceived()
	})
}

func TestObservationNamesTheTrunk(t *testing.T) {
	runScenario(t, func(s *testbed) {
		carrier := s.addUDPPeer(otherAt)
		invite := carrier.newInvite()
		carrier.send(invite)
		got := s.pbx.expect("the INVITE goes on", "INVITE")
		s.pbx.respond(got, "404 Not Found")
		s.pbx.discardReceived()
		carrier.sendACK(invite, carrier.expect("answer", "SIP/2.0 404"))
		s.pbx.send(s.pbx.newRequest("MESSAGE", "sip:0049@192.0.2.102:5062"))
		carrier.respond(carrier.expect("out", "MESSAGE"), "200 OK")
		s.pbx.expect("answer", "SIP/2.0 200")
		s.phone.send(s.phone.newRequest("MESSAGE", "sip:0049@pbx.example"))
		s.pbx.respond(s.pbx.expect("no trunk", "MESSAGE"), "200 OK")
		s.advance(0)
		want := map[string]string{"INVITE": "carrier", "ACK": "carrier"}
		for len(s.observations) > 0 {
			m := <-s.observations
			trunk := want[m.Method]
			if farEnd(m) == otherAt {
				trunk = "carrier"
			}
			assertEqual(t, m.Method+" of "+farEnd(m).String(), m.Trunk, trunk)
		}
	}, func(c *sip.Config) {
		c.Trunks = []sip.Trunk{{Name: "carrier", Sources: parsePrefixes("192.0.2.102/32")}}
	})
}

// bellhop forwards URI schemes that only the PBX can route (RFC 5031: urn:service:sos is
// an emergency service).
func TestAnySchemeGoesToThePBX(t *testing.T) {
	runScenario(t, func(s *testbed) {
		for _, uri := range []string{"urn:service:sos", "urn:service:sos.police", "im:bob@pbx.example", "pres:bob@pbx.example", "nobodyKnowsThisScheme:totally(opaque)", "http://example.com"} {
			for _, lines := range [][]string{nil, {"Route: <sip:192.0.2.1;lr>"}, {"Route: <sip:192.0.2.1;lr>, <sip:192.0.2.2;lr>"}} {
				s.phone.send(s.phone.newRequest("MESSAGE", uri, lines...))
				s.pbx.respond(s.pbx.expect(uri, "MESSAGE "+uri+" SIP/2.0"), "200 OK")
				s.phone.expect("answer", "SIP/2.0 200")
			}
			s.pbx.send(s.pbx.newRequest("MESSAGE", uri))
			s.pbx.expect("from the PBX it says nothing of where to", "SIP/2.0 416")
			s.pbx.send(s.pbx.newRequest("MESSAGE", uri, "Route: <sip:192.0.2.101:5062;lr>"))
			s.phone.respond(s.phone.expect("but by its Route", "MESSAGE "+uri), "200 OK")
			s.pbx.expect("answer", "SIP/2.0 200")
		}
	})
}
