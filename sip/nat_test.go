package sip_test

import (
	"bytes"
	"crypto/tls"
	"encoding/hex"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"bellhop/sip"
	"bellhop/sip/siptest"
)

// TestAnswersSTUN sends STUN requests to the SIP port. A source gets five responses at once
// and five a second after that.
func TestAnswersSTUN(t *testing.T) {
	request, _ := hex.DecodeString("000100002112a442b7e7a701bc34d686fa87dfae")
	want := "0101000c2112a442b7e7a701bc34d686fa87dfae" + "00200008" + "0001" + "32d4" + "e112a627" // port 5062 and 192.0.2.101, XORed with the cookie
	runScenario(t, func(s *testbed) {
		count := func(p *peer) (n int) {
			synctest.Wait()
			for m, ok := p.nextMessage(); ok; m, ok = p.nextMessage() {
				if got := hex.EncodeToString([]byte(m)); p == s.phone && got != want {
					t.Errorf("got %s\nwant %s", got, want)
				}
				n++
			}
			return n
		}
		for range 20 {
			s.phone.write(request)
		}
		if n := count(s.phone); n != 5 {
			t.Errorf("%d responses at once", n)
		}
		other := s.addUDPPeer(otherAt)
		other.write(request)
		if n := count(other); n != 1 {
			t.Errorf("another source gets %d responses", n)
		}
		s.advance(200 * time.Millisecond)
		s.phone.write(request)
		s.phone.write(request)
		if n := count(s.phone); n != 1 {
			t.Errorf("%d responses 200 ms later", n)
		}
		s.advance(time.Minute)
		s.phone.write(append(bytes.Clone(request), 1))
		s.phone.write(request[:19])
		s.phone.write(append([]byte{1, 1}, request[2:]...))
		if n := count(s.phone); n != 0 {
			t.Errorf("%d responses to what is no request", n)
		}
		if n := s.proxy.Stats().Malformed; n != 2 {
			t.Errorf("%d malformed messages", n) // the last is STUN
		}
	})
}

// TestOutbound checks the header fields of RFC 5626. The Path of a client with reg-id has
// ob if no other proxy is in front of bellhop.
func TestOutbound(t *testing.T) {
	const contact = `<sip:101@10.0.0.5;ob>;reg-id=1;+sip.instance="<urn:uuid:00000000-0000-1000-8000-AABBCCDDEEFF>"`
	for _, tt := range []struct {
		name, contact, via string
		ob                 bool
	}{
		{"first hop", contact, "", true},
		{"second hop", contact, "SIP/2.0/UDP 10.0.0.5;branch=z9hG4bK-first", false},
		{"no reg-id", `<sip:101@10.0.0.5>;+sip.instance="<urn:uuid:1>"`, "", false},
		{"reg-id in the URI", "<sip:101@10.0.0.5;reg-id=1>", "", false},
		{"reg-id in a name", `";reg-id=1" <sip:101@10.0.0.5>`, "", false},
		{"second Contact", "<sip:101@10.0.0.5>, " + contact, "", true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			runScenario(t, func(s *testbed) {
				register := s.phone.newRequest("REGISTER", "sip:pbx.example", "Contact: "+tt.contact, "Supported: path, outbound")
				if tt.via != "" {
					register = register.replaced("Max-Forwards", "Via: "+tt.via+"\r\nMax-Forwards")
				}
				s.phone.send(register)
				got := s.pbx.expect("the REGISTER goes on", "REGISTER")
				assertEqual(t, "the Contact is not touched", got.fieldValue("Contact"), tt.contact)
				end := "@192.0.2.1:5060;lr>"
				if tt.ob {
					end = "@192.0.2.1:5060;lr;ob>"
				}
				path := got.fieldValue("Path")
				if !strings.HasSuffix(path, end) {
					t.Errorf("Path: %s, want …%s", path, end)
				}
				s.pbx.respond(got, "200 OK", "Require: outbound", "Contact: "+tt.contact+";expires=60")
				assertEqual(t, "so is Require", s.phone.expect("the answer", "SIP/2.0 200").fieldValue("Require"), "outbound")
				if tt.via != "" {
					return
				}
				s.pbx.send(s.pbx.newRequest("INVITE", "sip:101@10.0.0.5;ob", "Route: "+path))
				s.phone.respond(s.phone.expect("along the Path", "INVITE sip:101@10.0.0.5;ob"), "486 Busy Here")
				s.pbx.expect("the answer", "SIP/2.0 486")
			})
		})
	}
}

// In mode "contact", the parameters of RFC 5626 stay at the Contact.
func TestOutboundByContact(t *testing.T) {
	runScenario(t, func(s *testbed) {
		s.phone.send(s.phone.newRequest("REGISTER", "sip:pbx.example", `Contact: <sip:101@10.0.0.5;ob>;reg-id=1;+sip.instance="<urn:uuid:1>"`))
		got := s.pbx.expect("the REGISTER goes on", "REGISTER").fieldValue("Contact")
		if !strings.HasSuffix(got, `>;reg-id=1;+sip.instance="<urn:uuid:1>"`) {
			t.Error(got)
		}
	}, withRegister(sip.RegisterContact))
}

// carrierAt is a trunk that receives over TCP.
var carrierAt = netip.MustParseAddrPort("203.0.113.9:5060")

// withTrunk adds a trunk whose addresses are those of carrierAt's network.
func withTrunk(t sip.Trunk) func(*sip.Config) {
	t.Name, t.Sources = "carrier", parsePrefixes("203.0.113.0/24")
	return func(c *sip.Config) { c.Trunks = []sip.Trunk{t} }
}

// TestAlias opens a connection from the address of a carrier, and writes alias into its
// Via. The PBX's calls to the carrier go over that connection if the carrier is a trunk.
// Otherwise they go to the carrier's port.
func TestAlias(t *testing.T) {
	for _, tt := range []struct {
		name string
		from string // source address of the connection
		via  string // sent-by and parameters
		used bool
	}{
		{"trunk", "203.0.113.9", "203.0.113.9:5060;alias", true},
		{"trunk, default port", "203.0.113.9", "203.0.113.9;alias", true},
		{"trunk, by name", "203.0.113.9", "carrier.example;rport;alias", true},
		{"trunk, without alias", "203.0.113.9", "203.0.113.9:5060", false},
		{"trunk, in another parameter", "203.0.113.9", `203.0.113.9:5060;x="a;alias"`, false},
		{"trunk, at another port", "203.0.113.9", "203.0.113.9:5080;alias", false},
		{"other address of the trunk", "203.0.113.10", "203.0.113.9:5060;alias", false},
		{"stranger with the carrier in its Via", "192.0.2.66", "203.0.113.9:5060;alias", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			runScenario(t, func(s *testbed) { testAlias(s, tt.from, tt.via, tt.used) }, withTrunk(sip.Trunk{}))
		})
	}
	t.Run("stranger with the address of the carrier", func(t *testing.T) {
		runScenario(t, func(s *testbed) { testAlias(s, "203.0.113.9", "203.0.113.9:5060;alias", false) })
	})
}

// Over TLS the certificate decides, not the address. The PBX's calls to the address of a
// trunk go over the connection of a peer with the certificate of that trunk only.
func TestAliasOverTLS(t *testing.T) {
	const name, otherName = "sip.carrier.example", "sip.other.example"
	for _, tt := range []struct {
		what, presents string
		used           bool
	}{
		{"the trunk's certificate", name, true},
		{"no certificate", "", false},
		{"another trunk's certificate", otherName, false},
	} {
		t.Run(tt.what, func(t *testing.T) {
			b := &tlsBed{}
			runScenario(t, func(s *testbed) {
				carrier, _ := s.addTLSListener(tlsCarrierAt, &tls.Config{Certificates: []tls.Certificate{b.ca.IssueTLS(siptest.CertificateRequest{Hosts: []string{name}})}})
				var own []tls.Certificate
				if tt.presents != "" {
					own = append(own, b.ca.IssueTLS(siptest.CertificateRequest{Hosts: []string{tt.presents}}))
				}
				p := s.dialTLSPeer(tlsCarrierAt.Addr(), b, own...)
				p.send(p.newRequest("MESSAGE", "sip:102@pbx.example", fmt.Sprintf("Via: SIP/2.0/TLS %s;branch=z9hG4bK-alias;alias", tlsCarrierAt)))
				s.pbx.respond(s.pbx.expect("its request goes on", "MESSAGE"), "200 OK")
				p.expect("the answer", "SIP/2.0 200")
				target := carrier
				if tt.used {
					target = p
				}
				s.pbx.send(s.pbx.newRequest("MESSAGE", fmt.Sprintf("sip:5551234@%s;transport=tls", tlsCarrierAt)))
				target.respond(target.expect("the PBX sends to the trunk", "MESSAGE sip:5551234@"), "200 OK")
				s.pbx.expect("the answer", "SIP/2.0 200")
				p.discardReceived()
			}, b.listen, func(c *sip.Config) {
				c.Trunks = []sip.Trunk{
					{Name: "carrier", TLSNames: []string{name}, To: []sip.Addr{{Proto: sip.TLS, AddrPort: tlsCarrierAt}}, TLS: b.newClient(name, nil)},
					{Name: "other", TLSNames: []string{otherName}, TLS: b.newClient(otherName, nil)},
				}
			})
		})
	}
}

// A trunk that is known by its certificate may send from any address, and is called over
// its connection.
func TestAliasFromUnlistedAddress(t *testing.T) {
	b := &tlsBed{}
	runScenario(t, func(s *testbed) {
		at := netip.MustParseAddrPort("198.51.100.20:5061")
		call := func() { s.pbx.send(s.pbx.newRequest("MESSAGE", fmt.Sprintf("sip:5551234@%s;transport=tls", at))) }
		call()
		s.pbx.expect("nobody is there", "SIP/2.0 430")
		p := s.dialTLSPeer(at.Addr(), b, b.ca.IssueTLS(siptest.CertificateRequest{Hosts: []string{"sip.carrier.example"}}))
		p.send(p.newRequest("MESSAGE", "sip:102@pbx.example", fmt.Sprintf("Via: SIP/2.0/TLS %s;branch=z9hG4bK-alias;alias", at)))
		s.pbx.respond(s.pbx.expect("its request goes on", "MESSAGE"), "200 OK")
		p.expect("the answer", "SIP/2.0 200")
		call()
		p.respond(p.expect("over its connection", "MESSAGE sip:5551234@"), "200 OK")
		s.pbx.expect("the answer", "SIP/2.0 200")
		p.close()
		s.advance(time.Second)
		call()
		s.pbx.expect("nobody is there any more", "SIP/2.0 430")
	}, b.listen, func(c *sip.Config) {
		c.Trunks = []sip.Trunk{{Name: "carrier", TLSNames: []string{"sip.carrier.example"}, TLS: b.newClient("sip.carrier.example", nil)}}
	})
}

func testAlias(s *testbed, from, via string, used bool) {
	s.t.Helper()
	carrier := s.addTCPListener(carrierAt)
	p := s.dialTCPPeer(netip.MustParseAddr(from))
	p.send(p.newRequest("MESSAGE", "sip:102@pbx.example", "Via: SIP/2.0/TCP "+via+";branch=z9hG4bK-alias"))
	s.pbx.respond(s.pbx.expect("its request goes on", "MESSAGE"), "200 OK")
	p.expect("the answer", "SIP/2.0 200")
	target := carrier
	if used {
		target = p
	}
	s.pbx.send(s.pbx.newRequest("MESSAGE", fmt.Sprintf("sip:5551234@%s;transport=tcp", carrierAt)))
	target.respond(target.expect("the PBX sends to the carrier", "MESSAGE sip:5551234@"), "200 OK")
	s.pbx.expect("the answer", "SIP/2.0 200")
	if !used {
		return
	}
	p.close()
	s.advance(time.Second)
	s.pbx.send(s.pbx.newRequest("MESSAGE", fmt.Sprintf("sip:5551234@%s;transport=tcp", carrierAt)))
	carrier.respond(carrier.expect("the connection is gone: the carrier's port", "MESSAGE"), "200 OK")
	s.pbx.expect("the answer", "SIP/2.0 200")
	p.discardReceived()
}

// TestLargeRequestsLeaveOverTCP sends requests of 1.2 to 60 KB. Beyond the limit, those to
// the PBX and to trunks leave over TCP, and their Via says so. Phones get them over UDP.
func TestLargeRequestsLeaveOverTCP(t *testing.T) {
	const limit = 1300
	for _, size := range []int{200, 1200, 1400, 9000, 60000} {
		for _, udpMax := range []int{0, limit} {
			t.Run(fmt.Sprintf("%d bytes, udp_max %d", size, udpMax), func(t *testing.T) {
				runScenario(t, func(s *testbed) { testLargeRequest(s, size, udpMax) },
					withTrunk(sip.Trunk{}), func(c *sip.Config) { c.UDPMax = udpMax })
			})
		}
	}
}

func testLargeRequest(s *testbed, size, udpMax int) {
	s.t.Helper()
	pbxOverTCP, trunk, trunkOverTCP := s.addTCPListener(pbxAt), s.addUDPPeer(carrierAt), s.addTCPListener(carrierAt)
	body := strings.Repeat("x", size)
	expect := func(what string, udp, tcp *peer, start string) (*peer, text) {
		synctest.Wait()
		p, proto := udp, "UDP"
		if size+600 > udpMax && udpMax > 0 { // the header section has about that many bytes
			p, proto = tcp, "TCP"
		}
		got := p.expect(what, start)
		if via := got.fieldValue("Via"); !strings.HasPrefix(via, "SIP/2.0/"+proto+" 192.0.2.1:5060;branch=") {
			s.t.Errorf("%s: Via: %s", what, via)
		}
		assertEqual(s.t, what+": the body", got.body(), body)
		return p, got
	}
	// From a phone to the PBX, and within the dialog.
	invite := s.phone.newInvite("", body)
	s.phone.send(invite)
	p, got := expect("to the PBX", s.pbx, pbxOverTCP, "INVITE")
	p.respond(got, "200 OK")
	ok := s.phone.expect("the answer", "SIP/2.0 200")
	s.phone.send(s.phone.callerRequest(ok, "ACK", "", body))
	expect("the ACK", s.pbx, pbxOverTCP, "ACK")
	s.phone.send(s.phone.callerRequest(ok, "INFO", "", body))
	p, info := expect("within the dialog", s.pbx, pbxOverTCP, "INFO")
	p.respond(info, "200 OK")
	s.phone.expect("the answer", "SIP/2.0 200")
	// To the phone, over its flow.
	s.pbx.send(s.pbx.calleeRequest(got, "INFO", "", body))
	toPhone := s.phone.expect("to the phone", "INFO")
	assertEqual(s.t, "the body", toPhone.body(), body)
	s.phone.respond(toPhone, "200 OK")
	s.pbx.expect("the answer", "SIP/2.0 200")
	// To a trunk.
	s.pbx.send(s.pbx.newRequest("INVITE", "sip:5551234@"+carrierAt.String(), "", body))
	p, got = expect("to the trunk", trunk, trunkOverTCP, "INVITE")
	p.respond(got, "486 Busy Here")
	s.pbx.expect("the answer", "SIP/2.0 486")
	if ack := p.expect("the ACK of the failure", "ACK"); ack.viaBranch() != got.viaBranch() {
		s.t.Errorf("ACK:\n%s", ack)
	}
}

// A slowNetwork refuses connections after 5 s.
type slowNetwork struct{ sip.Network }

func (slowNetwork) Dial(netip.Addr, netip.AddrPort) (net.Conn, error) {
	time.Sleep(5 * time.Second)
	return nil, syscall.ETIMEDOUT
}

func slowToRefuse(c *sip.Config) { c.Net = slowNetwork{c.Net} }

// A stranger's large request takes no PBX down that does not listen over TCP.
func TestLargeRequestTakesNoPBXDown(t *testing.T) {
	for _, network := range []func(*sip.Config){slowToRefuse, func(*sip.Config) {}} {
		synctest.Test(t, func(t *testing.T) {
			s := newTestbed(t, network, func(c *sip.Config) {
				c.UDPMax = 500
				c.PBX = append(c.PBX, sip.Addr{Proto: sip.UDP, AddrPort: netip.MustParseAddrPort("192.0.2.3:5060")})
			})
			defer s.closeAll()
			s.phone.send(s.phone.newRequest("MESSAGE", "sip:102@pbx.example", "", strings.Repeat("x", 1000)))
			s.advance(1900 * time.Millisecond)
			for _, p := range s.allPBXs {
				p.respond(p.expect("a probe", "OPTIONS"), "200 OK")
			}
			s.advance(4 * time.Second)
			if strings.Contains(s.log.String(), "down=true") {
				t.Errorf("log: %s", s.log)
			}
			if !s.proxy.PBXReachable() {
				t.Error("no PBX is up")
			}
		})
	}
}

// A large request leaves over UDP if the next hop does not take it over TCP (RFC 3261
// §18.1.1), or if there is no listener over TCP. Its CANCEL and its ACK leave over UDP too.
func TestLargeRequestWithoutTCP(t *testing.T) {
	small := func(c *sip.Config) { c.UDPMax = 500 }
	body := strings.Repeat("x", 1000)
	t.Run("PBX refuses TCP", func(t *testing.T) {
		runScenario(t, func(s *testbed) {
			invite := s.phone.newInvite("", body)
			s.phone.send(invite)
			got := s.pbx.expect("over UDP", "INVITE")
			if via := got.fieldValue("Via"); !strings.HasPrefix(via, "SIP/2.0/UDP 192.0.2.1:5060;branch=") {
				t.Errorf("Via: %s", via)
			}
			assertEqual(t, "the body", got.body(), body)
			s.advance(600 * time.Millisecond)
			assertEqual(t, "sent again", string(s.pbx.expect("sent again", "INVITE")), string(got))
			s.phone.expect("the proxy waits", "SIP/2.0 100")
			s.pbx.respond(got, "180 Ringing")
			s.phone.expect("it rings", "SIP/2.0 180")
			s.phone.sendCancel(invite)
			s.phone.expect("taken", "SIP/2.0 200")
			cancel := s.pbx.expect("CANCEL", "CANCEL")
			assertEqual(t, "its Via", cancel.fieldValue("Via"), got.fieldValue("Via"))
			s.pbx.respond(cancel, "200 OK")
			s.pbx.respond(got, "487 Request Terminated")
			s.phone.sendACK(invite, s.phone.expect("the answer", "SIP/2.0 487"))
			assertEqual(t, "Via of the ACK", s.pbx.expect("ACK", "ACK").fieldValue("Via"), got.fieldValue("Via"))
		}, small)
	})
	t.Run("PBX takes neither", func(t *testing.T) {
		runScenario(t, func(s *testbed) {
			s.pbx.close()
			invite := s.phone.newInvite("", body)
			s.phone.send(invite)
			s.advance(32 * time.Second)
			s.phone.expect("the proxy waits", "SIP/2.0 100")
			s.phone.sendACK(invite, s.phone.expect("it was sent again and again", "SIP/2.0 408"))
		}, small)
	})
	t.Run("sender gives up", func(t *testing.T) {
		runScenario(t, func(s *testbed) {
			invite := s.phone.newInvite("", body)
			s.phone.send(invite)
			s.phone.sendCancel(invite)
			s.phone.expect("taken", "SIP/2.0 200")
			s.advance(5 * time.Second)
			s.phone.expect("the proxy waits", "SIP/2.0 100")
			s.phone.sendACK(invite, s.phone.expect("the answer", "SIP/2.0 487"))
			s.expectNothing("the INVITE is not sent again")
		}, small, slowToRefuse)
	})
	t.Run("no listener", func(t *testing.T) {
		runScenario(t, func(s *testbed) {
			s.phone.send(s.phone.newInvite("", body))
			s.pbx.respond(s.pbx.expect("over UDP", "INVITE"), "486 Busy Here")
			s.phone.expect("the answer", "SIP/2.0 486")
		}, small, func(c *sip.Config) { c.Listen = c.Listen[:1] })
	})
}
