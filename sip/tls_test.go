package sip_test

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"bellhop/sip"
	"bellhop/sip/certs"
	"bellhop/sip/siptest"
)

var (
	proxyTLSAt   = netip.MustParseAddrPort("192.0.2.1:5061")
	tlsCarrierAt = netip.MustParseAddrPort("192.0.2.200:5061")
)

// tlsBed has the certificates of a testbed with TLS. They are made in its bubble, because
// time there is another.
type tlsBed struct {
	ca, foreign *siptest.Authority
	server      certs.Pair
}

// listen adds a TLS listener to the configuration.
func (b *tlsBed) listen(c *sip.Config) {
	b.ca, b.foreign = siptest.NewAuthority("ca"), siptest.NewAuthority("foreign")
	b.server = b.issue("sip.tls_cert", siptest.CertificateRequest{Hosts: []string{"sip.example.com"}})
	store, err := certs.New([]certs.Pair{{
		Name: b.server.Name,
		Cert: func() ([]byte, error) { return b.server.Cert() },
		Key:  func() ([]byte, error) { return b.server.Key() },
	}})
	if err != nil {
		panic(err)
	}
	c.Listen = append(c.Listen, sip.Listener{Addr: sip.Addr{Proto: sip.TLS, AddrPort: proxyTLSAt}, Certificates: store})
}

// issue returns a pair of a new certificate.
func (b *tlsBed) issue(name string, r siptest.CertificateRequest) certs.Pair {
	cert, key := b.ca.Issue(r)
	return certs.Pair{Name: name, Cert: source(cert), Key: source(key)}
}

func source(b []byte) certs.Source { return func() ([]byte, error) { return b, nil } }

// newClient returns a client that trusts the authority of the testbed.
func (b *tlsBed) newClient(serverName string, cert *certs.Pair) *certs.Client {
	c, err := certs.NewClient(certs.ClientConfig{Name: "trunk.tls_ca", ServerName: serverName, CA: source(b.ca.PEM()), Cert: cert})
	if err != nil {
		panic(err)
	}
	return c
}

// dialTLSPeer opens a TLS connection to the proxy.
func (s *testbed) dialTLSPeer(from netip.Addr, b *tlsBed, certificates ...tls.Certificate) *peer {
	s.t.Helper()
	raw, err := s.net.Dial(from, proxyTLSAt)
	if err != nil {
		s.t.Fatal(err)
	}
	c := tls.Client(raw, &tls.Config{ServerName: "sip.example.com", RootCAs: b.ca.Pool(), Certificates: certificates})
	if err := c.Handshake(); err != nil {
		s.t.Fatal(err)
	}
	return s.addConnPeer(c, "TLS")
}

// addTLSListener adds a peer that the proxy connects to over TLS, and counts the
// connections that are made.
func (s *testbed) addTLSListener(at netip.AddrPort, config *tls.Config) (p *peer, opened *atomic.Int32) {
	opened = &atomic.Int32{}
	return s.addStreamListener(at, "TLS", func(c net.Conn) net.Conn {
		opened.Add(1)
		return tls.Server(c, config)
	}), opened
}

func TestPhoneOverTLS(t *testing.T) {
	b := &tlsBed{}
	runScenario(t, func(s *testbed) {
		phone := s.dialTLSPeer(phoneAt.Addr(), b)
		phone.send(phone.newRequest("REGISTER", "sip:pbx.example"))
		register := s.pbx.expect("the REGISTER goes on", "REGISTER")
		s.pbx.respond(register, "200 OK")
		phone.expect("the answer comes back", "SIP/2.0 200")

		c := phone.setUpCall(s.pbx)
		assertEqual(t, "Via of the PBX's side", strings.Fields(c.invite.fieldValue("Via"))[0], "SIP/2.0/UDP")
		rr := splitValues(c.invite.fieldValues("Record-Route"))
		if len(rr) != 2 || !strings.HasSuffix(rr[0], "@192.0.2.1:5060;lr>") || !strings.HasPrefix(rr[1], "<sip:") || !strings.HasSuffix(rr[1], "@192.0.2.1:5061;transport=tls;lr>") {
			t.Errorf("Record-Route is %q", rr)
		}
		s.pbx.send(s.pbx.calleeRequest(c.invite, "BYE"))
		bye := phone.expect("the BYE comes over the phone's connection", "BYE")
		if via := bye.fieldValue("Via"); !strings.HasPrefix(via, "SIP/2.0/TLS 192.0.2.1:5061;") {
			t.Errorf("Via is %q", via)
		}
		phone.respond(bye, "200 OK")
		s.pbx.expect("the answer comes back", "SIP/2.0 200")

		path := strings.Trim(register.fieldValue("Path"), "<>")
		call := func() {
			s.pbx.send(s.pbx.newRequest("MESSAGE", "sip:101@"+phone.addr.String()+";transport=tls", "Route: <"+path+">"))
		}
		call()
		phone.respond(phone.expect("the Path leads to the phone", "MESSAGE"), "200 OK")
		s.pbx.expect("the answer comes back", "SIP/2.0 200")
		phone.close()
		s.advance(0)
		call()
		s.pbx.expect("the phone is not connected to", "SIP/2.0 430")
	}, b.listen)
}

// Every connection here is wrong. It ends, and costs nothing else.
func TestBadTLSConnectionsEnd(t *testing.T) {
	b := &tlsBed{}
	runScenario(t, func(s *testbed) {
		dial := func() *peer {
			c, err := s.net.Dial(otherAt.Addr(), proxyTLSAt)
			if err != nil {
				t.Fatal(err)
			}
			return s.addConnPeer(c, "TCP")
		}
		for _, tt := range []struct{ name, sent string }{
			{"SIP without TLS", "OPTIONS sip:192.0.2.1 SIP/2.0\r\nContent-Length: 0\r\n\r\n"},
			{"HTTP", "GET / HTTP/1.1\r\n\r\n"},
			{"garbage", strings.Repeat("\x00\xff", 2000)},
			{"an empty record", "\x16\x03\x01\x00\x00"},
			{"a record that is too long", "\x16\x03\x01\xff\xff" + strings.Repeat("x", 100)},
			{"a wrong ClientHello", "\x16\x03\x01\x00\x08\x01\x00\x00\x04abcd"},
			{"SSL 3.0 only", "\x16\x03\x00\x00\x2f\x01\x00\x00\x2b\x03\x00" + strings.Repeat("r", 32) + "\x00\x00\x04\x00\x2f\x00\x35\x01\x00"},
		} {
			p := dial()
			go p.write([]byte(tt.sent))
			s.advance(0)
			got := p.expectLast(tt.name, "")
			if !strings.HasSuffix(string(got), "<closed>") {
				t.Errorf("%s: the connection stays open: %q", tt.name, got)
			}
		}
		if n := s.proxy.Stats().Handshakes; n != 7 {
			t.Errorf("%d failed handshakes are counted, want 7", n)
		}

		silent, half := dial(), dial()
		half.write([]byte("\x16\x03\x01\x01"))
		handshaken := s.dialTLSPeer(otherAt.Addr(), b)
		phone := s.dialTLSPeer(phoneAt.Addr(), b)
		phone.send(phone.newRequest("OPTIONS", "sip:192.0.2.1:5061;transport=tls"))
		phone.expect("others are served", "SIP/2.0 200")
		s.advance(10*time.Second - ms)
		s.expectNothing("not yet")
		s.advance(ms)
		silent.expect("10 s without a byte", "<closed>")
		half.expect("10 s without a handshake", "<closed>")
		handshaken.expect("10 s without a message", "<closed>")
		assertEqual(t, "connections", fmt.Sprint(s.proxy.Stats().Streams), "1")
		assertEqual(t, "panics", fmt.Sprint(s.proxy.Stats().Panics), "0")
	}, b.listen)
}

// stallHandshakes opens n connections from each of some addresses, and begins a handshake on
// each that does not go on.
func (s *testbed) stallHandshakes(n int, from ...netip.Addr) {
	s.t.Helper()
	for range n {
		for _, ip := range from {
			c, err := s.net.Dial(ip, proxyTLSAt)
			if err != nil {
				s.t.Fatal(err)
			}
			s.t.Cleanup(func() { c.Close() })
			c.Write([]byte{0x16})
		}
	}
	s.advance(0)
}

// expectTLSWithin checks that a phone gets an answer over a new TLS connection in time.
func (s *testbed) expectTLSWithin(limit time.Duration, b *tlsBed) {
	s.t.Helper()
	start := time.Now()
	phone := s.dialTLSPeer(phoneAt.Addr(), b)
	phone.send(phone.newRequest("OPTIONS", "sip:192.0.2.1:5061;transport=tls"))
	phone.expect("the phone is served", "SIP/2.0 200")
	if d := time.Since(start); d > limit {
		s.t.Errorf("the phone is served after %v, want %v", d, limit)
	}
}

// Peers that stop in the middle of the handshake take all places. The oldest of them give
// way to others after half a second.
func TestStalledHandshakesKeepNobodyOut(t *testing.T) {
	b := &tlsBed{}
	runScenario(t, func(s *testbed) {
		var from []netip.Addr
		for i := range 300 {
			from = append(from, netip.AddrFrom4([4]byte{198, 51, 100 + byte(i>>8), byte(i)}))
		}
		s.stallHandshakes(1, from...)
		s.expectTLSWithin(500*time.Millisecond, b)
		if n := s.proxy.Stats().Handshakes; n == 0 || n > 100 {
			t.Errorf("%d of %d handshakes were ended", n, len(from))
		}
	}, b.listen)
}

// 256 handshakes may be under way. One more waits until the first of them has had half a
// second, and takes its place. Without others, each has 10 s.
func TestHandshakesAtOnceAreLimited(t *testing.T) {
	stall := func(s *testbed, n int) {
		var from []netip.Addr
		for i := range n {
			from = append(from, netip.AddrFrom4([4]byte{198, 51, 100 + byte(i>>8), byte(i)}))
		}
		s.stallHandshakes(1, from...)
	}
	for _, tt := range []struct {
		stalled     int
		waits, ends string
	}{
		{255, "0s", "0"},
		{256, "500ms", "1"},
	} {
		t.Run(fmt.Sprintf("%d stalled", tt.stalled), func(t *testing.T) {
			b := &tlsBed{}
			runScenario(t, func(s *testbed) {
				stall(s, tt.stalled)
				start := time.Now()
				s.dialTLSPeer(phoneAt.Addr(), b)
				assertEqual(t, "the next handshake waits for", time.Since(start).String(), tt.waits)
				s.advance(0)
				assertEqual(t, "handshakes ended", fmt.Sprint(s.proxy.Stats().Handshakes), tt.ends)
			}, b.listen)
		})
	}
	t.Run("10 s each", func(t *testing.T) {
		b := &tlsBed{}
		runScenario(t, func(s *testbed) {
			stall(s, 256)
			s.advance(10*time.Second - ms)
			assertEqual(t, "connections", fmt.Sprint(s.proxy.Stats().Streams), "256")
			s.advance(ms)
			assertEqual(t, "connections", fmt.Sprint(s.proxy.Stats().Streams), "0")
			assertEqual(t, "handshakes ended", fmt.Sprint(s.proxy.Stats().Handshakes), "256")
		}, b.listen)
	})
}

// Few sources with many connections each do not make another source wait for its turn
// among them.
func TestStalledHandshakesOfFewSources(t *testing.T) {
	b := &tlsBed{}
	runScenario(t, func(s *testbed) {
		s.stallHandshakes(500, netip.MustParseAddr("198.51.100.1"), netip.MustParseAddr("198.51.100.2"), netip.MustParseAddr("198.51.100.3"))
		s.expectTLSWithin(250*time.Millisecond, b)
	}, b.listen)
}

// A slow handshake gives way to nobody while there is room.
func TestSlowHandshakeMayGoOn(t *testing.T) {
	b := &tlsBed{}
	runScenario(t, func(s *testbed) {
		slow, err := s.net.Dial(strangerAt.Addr(), proxyTLSAt)
		if err != nil {
			t.Fatal(err)
		}
		defer slow.Close()
		slow.Write([]byte{0x16})
		s.advance(2 * time.Second)
		for range 20 {
			s.dialTLSPeer(phoneAt.Addr(), b)
		}
		s.advance(0)
		assertEqual(t, "handshakes ended", fmt.Sprint(s.proxy.Stats().Handshakes), "0")
	}, b.listen)
}

func TestTrunkIsKnownByItsCertificate(t *testing.T) {
	for _, tt := range []struct {
		name    string
		request siptest.CertificateRequest
		foreign bool
		none    bool
		trunk   bool
	}{
		{name: "for servers only", request: siptest.CertificateRequest{Hosts: []string{"sip.carrier.example"}, Usage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}, trunk: true},
		{name: "for clients only", request: siptest.CertificateRequest{Hosts: []string{"x.example", "SIP.carrier.example"}, Usage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}, trunk: true},
		{name: "a wildcard", request: siptest.CertificateRequest{Hosts: []string{"*.carrier.example"}}, trunk: true},
		{name: "none", none: true},
		{name: "another name", request: siptest.CertificateRequest{Hosts: []string{"carrier.example"}}},
		{name: "a foreign authority", request: siptest.CertificateRequest{Hosts: []string{"sip.carrier.example"}}, foreign: true},
		{name: "expired", request: siptest.CertificateRequest{Hosts: []string{"sip.carrier.example"}, NotAfter: time.Date(1999, 12, 31, 0, 0, 0, 0, time.UTC)}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := &tlsBed{}
			runScenario(t, func(s *testbed) {
				var own []tls.Certificate
				if a := b.ca; !tt.none {
					if tt.foreign {
						a = b.foreign
					}
					own = append(own, a.IssueTLS(tt.request))
				}
				for range 2 { // the second one resumes the session of TLS
					peer := s.dialTLSPeer(tlsCarrierAt.Addr(), b, own...)
					peer.send(peer.newInvite())
					invite := s.pbx.expect("the INVITE goes on", "INVITE")
					if got := invite.fieldValue("X-Bellhop-Trunk") != ""; got != tt.trunk {
						t.Errorf("taken for the trunk: %v, want %v", got, tt.trunk)
					}
					s.pbx.respond(invite, "486 Busy Here")
					s.pbx.discardReceived()
					peer.discardReceived()
				}
			}, b.listen, func(c *sip.Config) {
				c.Trunks = []sip.Trunk{{Name: "carrier", Secret: "0123456789abcdef", TLSNames: []string{"sip.carrier.example"}, TLS: b.newClient("sip.carrier.example", nil)}}
			})
		})
	}
}

func TestPBXOverTLSIsVerified(t *testing.T) {
	for _, tt := range []struct {
		name    string
		request siptest.CertificateRequest
		want    string
	}{
		{"the right name", siptest.CertificateRequest{Hosts: []string{"pbx.example"}}, ""},
		{"another name", siptest.CertificateRequest{Hosts: []string{"other.example"}}, "SIP/2.0 500"},
		{"expired", siptest.CertificateRequest{Hosts: []string{"pbx.example"}, NotAfter: time.Date(1999, 12, 31, 0, 0, 0, 0, time.UTC)}, "SIP/2.0 500"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := &tlsBed{}
			pbxTLSAt := netip.MustParseAddrPort("192.0.2.3:5061")
			runScenario(t, func(s *testbed) {
				pbx, _ := s.addTLSListener(pbxTLSAt, &tls.Config{Certificates: []tls.Certificate{b.ca.IssueTLS(tt.request)}})
				phone := s.dialTLSPeer(phoneAt.Addr(), b)
				if tt.want != "" {
					phone.send(phone.newInvite())
					s.advance(11 * time.Second) // both ends may wait for each other until the handshake times out: the network has no buffer
					if got := phone.expectLast("the call fails", "SIP/2.0"); !strings.HasPrefix(string(got), tt.want) {
						t.Errorf("the call ends with %s, want %s", got, tt.want)
					}
					assertEqual(t, "sent to an unknown server", string(pbx.expect("nothing is", "")), "<closed>")
					return
				}
				c := phone.setUpCall(pbx)
				pbx.send(pbx.calleeRequest(c.invite, "BYE"))
				phone.expect("the BYE comes over the phone's connection", "BYE")
			}, b.listen, func(c *sip.Config) {
				c.PBX = []sip.Addr{{Proto: sip.TLS, AddrPort: pbxTLSAt}}
				c.PBXTLS = b.newClient("pbx.example", nil)
			})
		})
	}
}

// The carrier writes an IP address and another port into its Record-Route, and accepts
// only one connection.
func TestDialogStaysOnTheConnectionOfItsInvite(t *testing.T) {
	b := &tlsBed{}
	runScenario(t, func(s *testbed) {
		own := b.ca.IssueTLS(siptest.CertificateRequest{Hosts: []string{"sip.carrier.example"}})
		var presented []string
		config := &tls.Config{Certificates: []tls.Certificate{own}, ClientAuth: tls.RequireAnyClientCert, VerifyConnection: func(cs tls.ConnectionState) error {
			presented = append(presented, cs.ServerName+" "+strings.Join(cs.PeerCertificates[0].DNSNames, " "))
			return nil
		}}
		carrier, opened := s.addTLSListener(tlsCarrierAt, config)
		other, openedOther := s.addTLSListener(netip.AddrPortFrom(tlsCarrierAt.Addr(), 5071), config)

		s.pbx.send(s.pbx.newRequest("INVITE", "sip:5551234@192.0.2.200"))
		invite := carrier.expect("the INVITE goes to the trunk's address", "INVITE sip:5551234@192.0.2.200 ")
		if via := invite.fieldValue("Via"); !strings.HasPrefix(via, "SIP/2.0/TLS ") {
			t.Errorf("Via is %q", via)
		}
		carrier.send(carrier.newResponse(invite, "200 OK").replaced("Record-Route: ", "Record-Route: <sip:192.0.2.200:5071;transport=tls;lr>, "))
		ok := s.pbx.expectLast("the answer comes back", "SIP/2.0 200")
		s.pbx.send(s.pbx.callerRequest(ok, "ACK"), s.pbx.callerRequest(ok, "BYE"))
		carrier.expect("the ACK takes the connection", "ACK")
		carrier.respond(carrier.expect("and so does the BYE", "BYE"), "200 OK")
		s.pbx.expect("the answer comes back", "SIP/2.0 200")
		s.pbx.send(s.pbx.newRequest("INVITE", "sip:5551234@192.0.2.200;transport=tls"))
		carrier.respond(carrier.expect("the next call takes it too", "INVITE"), "486 Busy Here")
		s.pbx.expectLast("the answer comes back", "SIP/2.0 486")
		carrier.discardReceived()
		assertEqual(t, "connections", fmt.Sprint(opened.Load(), openedOther.Load()), "1 0")

		carrier.closeConn()
		s.advance(0)
		carrier.discardReceived()
		s.pbx.send(s.pbx.callerRequest(ok, "INFO"))
		other.respond(other.expect("the connection has gone: the Route gives the address", "INFO"), "200 OK")
		s.pbx.expect("the answer comes back", "SIP/2.0 200")
		for _, got := range presented {
			assertEqual(t, "the name asked for, and the certificate presented", got, "sip.carrier.example sbc.example")
		}
		assertEqual(t, "connections", fmt.Sprint(opened.Load(), openedOther.Load()), "1 1")
	}, b.listen, func(c *sip.Config) {
		own := b.issue("trunk.tls_cert", siptest.CertificateRequest{Hosts: []string{"sbc.example"}})
		c.Trunks = []sip.Trunk{{Name: "carrier", To: []sip.Addr{{Proto: sip.TLS, AddrPort: tlsCarrierAt}}, TLS: b.newClient("sip.carrier.example", &own)}}
	})
}

// The Contact of the carrier names no transport. The BYE must not leave in the clear.
func TestDialogOverTLSStaysThere(t *testing.T) {
	b := &tlsBed{}
	runScenario(t, func(s *testbed) {
		carrier, opened := s.addTLSListener(tlsCarrierAt, &tls.Config{Certificates: []tls.Certificate{b.ca.IssueTLS(siptest.CertificateRequest{Hosts: []string{"sip.carrier.example"}})}})
		plain := s.addUDPPeer(netip.MustParseAddrPort("192.0.2.200:5060"))
		for _, contact := range []string{"<sip:192.0.2.200>", "<sip:c@host.carrier.example>"} {
			s.pbx.send(s.pbx.newRequest("INVITE", "sip:5551234@192.0.2.200"))
			invite := carrier.expect("the INVITE goes to the trunk's address", "INVITE ")
			answer := carrier.newResponse(invite, "200 OK")
			carrier.send(answer.replaced(answer.fieldValue("Contact"), contact))
			ok := s.pbx.expectLast("the answer comes back", "SIP/2.0 200")
			carrier.closeConn()
			s.advance(0)
			carrier.discardReceived()
			s.pbx.send(s.pbx.callerRequest(ok, "BYE"))
			carrier.respond(carrier.expect("the BYE takes TLS", "BYE"), "200 OK")
			s.pbx.expect("the answer comes back", "SIP/2.0 200")
		}
		assertEqual(t, "connections", fmt.Sprint(opened.Load()), "3")
		plain.discardReceived()
	}, b.listen, func(c *sip.Config) {
		c.Trunks = []sip.Trunk{{Name: "carrier", To: []sip.Addr{{Proto: sip.TLS, AddrPort: tlsCarrierAt}}, TLS: b.newClient("sip.carrier.example", nil)}}
	})
}

// A phone or browser is never connected to over TLS, nor is a stranger whose URI the PBX
// was given.
func TestStrangersAreNotDialedOverTLS(t *testing.T) {
	b := &tlsBed{}
	runScenario(t, func(s *testbed) {
		_, opened := s.addTLSListener(netip.MustParseAddrPort("192.0.2.77:5061"), &tls.Config{Certificates: []tls.Certificate{b.ca.IssueTLS(siptest.CertificateRequest{})}})
		for _, uri := range []string{"sip:x@192.0.2.77;transport=tls", "sips:x@192.0.2.77", "sips:x@192.0.2.77;transport=udp"} {
			s.pbx.send(s.pbx.newRequest("MESSAGE", uri))
			s.pbx.expect(uri, "SIP/2.0 430")
		}
		assertEqual(t, "connections", fmt.Sprint(opened.Load()), "0")
	}, b.listen)
}

func TestSIPSMeansTLS(t *testing.T) { // RFC 3261 §16.6 item 4, §26.2.2
	b := &tlsBed{}
	runScenario(t, func(s *testbed) {
		phone := s.dialTLSPeer(phoneAt.Addr(), b)
		phone.send(phone.newRequest("INVITE", "sips:102@pbx.example"))
		invite := s.pbx.expect("the PBX gets it over its transport", "INVITE sips:102@pbx.example ")
		rr := splitValues(invite.fieldValues("Record-Route"))
		if len(rr) != 2 || !strings.HasPrefix(rr[0], "<sip:") || !strings.HasPrefix(rr[1], "<sips:") || !strings.HasSuffix(rr[1], "@192.0.2.1:5061;lr>") {
			t.Errorf("Record-Route is %q", rr)
		}
		s.pbx.respond(invite, "200 OK")
		ok := phone.expectLast("the answer comes back", "SIP/2.0 200")
		phone.send(phone.callerRequest(ok, "ACK"), phone.callerRequest(ok, "BYE"))
		s.pbx.expect("the Route is understood", "ACK")
		s.pbx.respond(s.pbx.expect("and again", "BYE"), "200 OK")
		phone.expect("the answer comes back", "SIP/2.0 200")

		// The PBX calls the phone by its SIPS Contact, whatever transport that names.
		s.pbx.send(s.pbx.newRequest("MESSAGE", "sips:101@"+phone.addr.String()+";transport=tcp"))
		phone.respond(phone.expect("it comes over TLS", "MESSAGE sips:"), "200 OK")
		s.pbx.expect("the answer comes back", "SIP/2.0 200")

		// A phone makes SIPS of the PBX's Contact.
		c := phone.setUpCall(s.pbx)
		bye := phone.callerRequest(c.ok, "BYE")
		phone.send(bye.replaced("BYE sip:", "BYE sips:"))
		s.pbx.expect("it goes to the PBX of the dialog", "BYE sips:")
	}, b.listen)
}

func TestOldClientsNeedAKey(t *testing.T) {
	for _, tt := range []struct {
		name   string
		server sip.TLSServer
		client *tls.Config
		works  bool
	}{
		{"1.3", sip.TLSServer{}, &tls.Config{MinVersion: tls.VersionTLS13}, true},
		{"1.2", sip.TLSServer{}, &tls.Config{MaxVersion: tls.VersionTLS12}, true},
		{"1.1", sip.TLSServer{}, &tls.Config{MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}, false},
		{"1.0 by tls_min", sip.TLSServer{MinVersion: tls.VersionTLS10}, &tls.Config{MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS10}, true},
		{"1.0 with tls_min 1.1", sip.TLSServer{MinVersion: tls.VersionTLS11}, &tls.Config{MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS10}, false},
		{"1.2 with tls_min 1.3", sip.TLSServer{MinVersion: tls.VersionTLS13}, &tls.Config{MaxVersion: tls.VersionTLS12}, false},
		{"RSA key exchange", sip.TLSServer{}, &tls.Config{MaxVersion: tls.VersionTLS12, CipherSuites: []uint16{tls.TLS_RSA_WITH_AES_128_CBC_SHA}}, false},
		{"RSA key exchange by tls_legacy", sip.TLSServer{Legacy: true}, &tls.Config{MaxVersion: tls.VersionTLS12, CipherSuites: []uint16{tls.TLS_RSA_WITH_AES_128_CBC_SHA}}, true},
		{"CBC", sip.TLSServer{}, &tls.Config{MaxVersion: tls.VersionTLS12, CipherSuites: []uint16{tls.TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA}}, false},
		{"CBC by tls_legacy", sip.TLSServer{Legacy: true}, &tls.Config{MaxVersion: tls.VersionTLS12, CipherSuites: []uint16{tls.TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA}}, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := &tlsBed{}
			runScenario(t, func(s *testbed) {
				raw, err := s.net.Dial(phoneAt.Addr(), proxyTLSAt)
				if err != nil {
					t.Fatal(err)
				}
				defer raw.Close()
				config := tt.client.Clone()
				config.ServerName, config.RootCAs = "sip.example.com", b.ca.Pool()
				if err := tls.Client(raw, config).Handshake(); (err == nil) != tt.works {
					t.Errorf("got %v, works: %v", err, tt.works)
				}
			}, b.listen, func(c *sip.Config) {
				c.TLS = tt.server
				store, err := certs.New([]certs.Pair{b.issue("rsa", siptest.CertificateRequest{Hosts: []string{"sip.example.com"}, RSA: true})})
				if err != nil {
					t.Fatal(err)
				}
				c.Listen[len(c.Listen)-1].Certificates = store
			})
		})
	}
}
