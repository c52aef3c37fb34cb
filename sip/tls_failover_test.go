package sip_test

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"bellhop/sip"
	"bellhop/sip/resolve/resolvetest"
	"bellhop/sip/siptest"
)

var (
	firstTLSAt  = netip.MustParseAddrPort("192.0.2.3:5061")
	secondTLSAt = netip.MustParseAddrPort("192.0.2.13:5061")
)

// bufferedConn is a connection whose writes do not wait until the peer reads. Without it, both
// ends of a TLS handshake that fails may write, and wait for each other.
type bufferedConn struct {
	net.Conn
	out    chan []byte
	closed chan struct{}
	once   sync.Once
}

// bufferConn returns a bufferedConn above c, which ends with the test.
func (s *testbed) bufferConn(c net.Conn) net.Conn {
	b := &bufferedConn{Conn: c, out: make(chan []byte, 64), closed: make(chan struct{})}
	s.t.Cleanup(func() { b.Close() })
	go func() {
		for {
			select {
			case m := <-b.out:
				c.Write(m)
			case <-b.closed:
				return
			}
		}
	}()
	return b
}

func (b *bufferedConn) Write(m []byte) (int, error) {
	select {
	case b.out <- bytes.Clone(m):
		return len(m), nil
	case <-b.closed:
		return 0, net.ErrClosed
	}
}

func (b *bufferedConn) Close() error {
	b.once.Do(func() { close(b.closed) })
	return b.Conn.Close()
}

// discardingConn is a connection whose bytes nobody gets.
type discardingConn struct{ net.Conn }

func (c discardingConn) Read([]byte) (int, error) {
	io.Copy(io.Discard, c.Conn)
	return 0, io.EOF
}

// slowConn is a connection to a peer that is 10 ms away. In TLS 1.3, a client that gets an answer
// that late has sent its first message before it knows that its certificate is refused.
type slowConn struct{ net.Conn }

func (c slowConn) Write(b []byte) (int, error) {
	time.Sleep(10 * ms)
	return c.Conn.Write(b)
}

// A tlsTarget is a server that the proxy connects to over TLS. A test may replace what it does
// with a new connection.
type tlsTarget struct {
	*peer
	open atomic.Pointer[func(net.Conn) net.Conn]
}

// addTLSTarget opens a server that accepts connections with a certificate for a host.
func (s *testbed) addTLSTarget(at netip.AddrPort, b *tlsBed, host string) *tlsTarget {
	to := &tlsTarget{}
	to.serve(s.serverOf(b.ca, siptest.CertificateRequest{Hosts: []string{host}}, 0))
	to.peer = s.addStreamListener(at, "TLS", func(c net.Conn) net.Conn { return (*to.open.Load())(c) })
	return to
}

// serve sets what the target does with new connections.
func (to *tlsTarget) serve(open func(net.Conn) net.Conn) { to.open.Store(&open) }

// serverOf returns a function that makes the server's end of TLS connections. maxVersion is 0
// for any version of TLS.
func (s *testbed) serverOf(a *siptest.Authority, r siptest.CertificateRequest, maxVersion uint16) func(net.Conn) net.Conn {
	config := &tls.Config{Certificates: []tls.Certificate{a.IssueTLS(r)}, MinVersion: tls.VersionTLS10, MaxVersion: maxVersion}
	return func(c net.Conn) net.Conn { return tls.Server(s.bufferConn(c), config) }
}

// targetSet is a set of two targets over TLS, with a certificate for a host.
type targetSet struct {
	name, host string
	trunk      bool            // the PBX sends requests to the targets, else the phone does
	failed     sip.TargetState // of a target that a request has failed to reach
	configure  func(c *sip.Config, b *tlsBed)
}

// tlsTargetSets returns the sets of targets: two PBXs, the servers of the name of a PBX, and
// those of a trunk.
func tlsTargetSets(t *testing.T) []targetSet {
	const zone = `_sips._tcp.%s. 600 SRV 10 0 5061 a.%[1]s.
		_sips._tcp.%[1]s. 600 SRV 20 0 5061 b.%[1]s.
		a.%[1]s. 600 A 192.0.2.3
		b.%[1]s. 600 A 192.0.2.13`
	named := func(c *sip.Config, host string) []sip.Addr {
		c.DialNameServer = resolvetest.NewServer(t, fmt.Sprintf(zone, host)).Dial
		return []sip.Addr{{Proto: sip.TLS, Host: host}}
	}
	return []targetSet{
		{"two PBXs", "pbx.example", false, sip.TargetDown, func(c *sip.Config, b *tlsBed) {
			c.PBX = []sip.Addr{{Proto: sip.TLS, AddrPort: firstTLSAt}, {Proto: sip.TLS, AddrPort: secondTLSAt}}
			c.PBXTLS = b.newClient("pbx.example", nil)
		}},
		{"servers of a PBX", "pbx.example", false, sip.TargetDown, func(c *sip.Config, b *tlsBed) {
			c.PBX, c.PBXTLS = named(c, "pbx.example"), b.newClient("", nil)
		}},
		{"servers of a trunk", "carrier.example", true, sip.TargetResting, func(c *sip.Config, b *tlsBed) {
			c.Trunks = []sip.Trunk{{Name: "carrier", To: named(c, "carrier.example"), TLS: b.newClient("", nil)}}
		}},
	}
}

// A server has worked until now. Then its certificate is wrong, or the handshake fails. The call
// goes to the next server at once, in the same transaction of its sender.
func TestTLSErrorLeadsToTheNextTarget(t *testing.T) {
	for _, fault := range []struct {
		name  string
		open  func(s *testbed, b *tlsBed, host string) func(net.Conn) net.Conn
		after time.Duration // until the next server gets the call
	}{
		{"certificate of another name", func(s *testbed, b *tlsBed, host string) func(net.Conn) net.Conn {
			return s.serverOf(b.ca, siptest.CertificateRequest{Hosts: []string{"a." + host}}, 0)
		}, 0},
		{"certificate of an unknown authority", func(s *testbed, b *tlsBed, host string) func(net.Conn) net.Conn {
			return s.serverOf(b.foreign, siptest.CertificateRequest{Hosts: []string{host}}, 0)
		}, 0},
		{"certificate that has expired", func(s *testbed, b *tlsBed, host string) func(net.Conn) net.Conn {
			return s.serverOf(b.ca, siptest.CertificateRequest{Hosts: []string{host}, NotAfter: time.Date(1999, 12, 31, 0, 0, 0, 0, time.UTC)}, 0)
		}, 0},
		{"no version in common", func(s *testbed, b *tlsBed, host string) func(net.Conn) net.Conn {
			return s.serverOf(b.ca, siptest.CertificateRequest{Hosts: []string{host}}, tls.VersionTLS11)
		}, 0},
		{"no TLS", func(s *testbed, b *tlsBed, host string) func(net.Conn) net.Conn {
			return func(c net.Conn) net.Conn {
				c = s.bufferConn(c)
				c.Write([]byte("SIP/2.0 400 Bad Request\r\n\r\n"))
				return discardingConn{c}
			}
		}, 0},
		{"connection closed", func(s *testbed, b *tlsBed, host string) func(net.Conn) net.Conn {
			return func(c net.Conn) net.Conn {
				c.Close()
				return c
			}
		}, 0},
		{"client certificate refused", func(s *testbed, b *tlsBed, host string) func(net.Conn) net.Conn {
			config := &tls.Config{Certificates: []tls.Certificate{b.ca.IssueTLS(siptest.CertificateRequest{Hosts: []string{host}})}, ClientAuth: tls.RequireAnyClientCert}
			return func(c net.Conn) net.Conn {
				c = s.bufferConn(slowConn{c})
				if tls.Server(c, config).Handshake() == nil {
					s.t.Error("the handshake works without a client certificate")
				}
				return discardingConn{c}
			}
		}, 2010 * ms},
		{"no answer", func(s *testbed, b *tlsBed, host string) func(net.Conn) net.Conn {
			return func(c net.Conn) net.Conn { return discardingConn{c} }
		}, 250 * ms},
	} {
		for _, set := range tlsTargetSets(t) {
			t.Run(fmt.Sprintf("%s, %s", set.name, fault.name), func(t *testing.T) {
				b := &tlsBed{}
				runScenario(t, func(s *testbed) {
					s.probes = true
					first, second := s.addTLSTarget(firstTLSAt, b, set.host), s.addTLSTarget(secondTLSAt, b, set.host)
					sender, uri := s.phone, "sip:102@pbx.example"
					if set.trunk {
						sender, uri = s.pbx, "sip:5551234@carrier.example"
					}
					state := func() sip.TargetStatus {
						if set.trunk {
							return s.proxy.TrunkStates()[0].Targets[0]
						}
						return s.proxy.PBXStates()[0]
					}
					message := func(to *tlsTarget, what string) {
						t.Helper()
						sender.send(sender.newRequest("MESSAGE", uri))
						to.respond(to.get(what, "MESSAGE"), "200 OK")
						sender.expect(what, "SIP/2.0 200")
					}
					s.wait(12*time.Second, first.peer, second.peer) // OPTIONS may have come before the servers were open
					message(first, "the first works")
					assertEqual(t, "state", string(state().State), string(sip.TargetUp))
					first.serve(fault.open(s, b, set.host))
					first.closeConn()
					s.advance(0)
					first.discardReceived()

					invite := sender.newRequest("INVITE", uri)
					sender.send(invite)
					if fault.after > 0 {
						s.advance(fault.after - 10*ms)
						second.getNothing("too early")
						s.advance(10 * ms)
					}
					got := second.get("the call", "INVITE "+uri)
					sender.send(invite)
					second.getNothing("a retransmission belongs to the same transaction")
					sender.discardReceived()
					second.respond(got, "200 OK")
					ok := sender.expect("answer", "SIP/2.0 200")
					sender.send(sender.callerRequest(ok, "ACK"))
					second.get("its ACK", "ACK")
					if n := s.proxy.Stats().FailedOver; n != 1 {
						t.Errorf("%d failovers are counted, want 1", n)
					}
					if fault.after == 0 {
						if to := state(); to.State != set.failed || to.Error != "INVITE: unreachable" {
							t.Errorf("the state of the first is %s with error %q, want %s", to.State, to.Error, set.failed)
						}
						message(second, "the next request")
						if n := s.proxy.Stats().FailedOver; n != 1 {
							t.Errorf("the next request went to the first before: %d failovers", n)
						}
					}
					sender.send(sender.callerRequest(ok, "BYE"))
					second.respond(second.get("within the dialog", "BYE"), "200 OK")
					sender.expect("answer", "SIP/2.0 200")
					for _, m := range first.allReceived() {
						if strings.Contains(m, "INVITE") {
							t.Errorf("the first has got\n%s", m)
						}
					}

					first.serve(s.serverOf(b.ca, siptest.CertificateRequest{Hosts: []string{set.host}}, 0))
					for range 45 {
						s.advance(time.Second)
						second.getNothing("only OPTIONS")
						first.answerAll()
					}
					message(first, "the first works again")
				}, b.listen, func(c *sip.Config) { set.configure(c, b) })
			})
		}
	}
}

// allReceived returns what p has received so far.
func (p *peer) allReceived() (all []string) {
	for m, ok := p.nextMessage(); ok; m, ok = p.nextMessage() {
		all = append(all, string(m))
	}
	return all
}

// answerAll answers the requests that p has received, and discards anything else.
func (p *peer) answerAll() {
	for _, m := range p.allReceived() {
		if strings.Contains(m, "\r\nVia: ") && !strings.HasPrefix(m, "SIP/2.0 ") {
			p.respond(text(m), "200 OK")
		}
	}
}

// The next PBX is reached over another transport. Its Via and Record-Route are those of that
// transport, so that the call and its CANCEL go on there.
func TestFailoverToAnotherTransport(t *testing.T) {
	b := &tlsBed{}
	runScenario(t, func(s *testbed) {
		first, second := s.addTLSTarget(firstTLSAt, b, "pbx.example"), s.allPBXs[1]
		works := *first.open.Load()
		s.wait(12*time.Second, first.peer, second)
		fail := func() {
			t.Helper()
			first.serve(func(c net.Conn) net.Conn {
				c.Close()
				return c
			})
			first.closeConn()
			s.advance(0)
			first.discardReceived()
		}
		check := func(got text) {
			t.Helper()
			assertEqual(t, "Via", strings.Join(strings.Fields(got.fieldValue("Via"))[:1], ""), "SIP/2.0/UDP")
			rr := splitValues(got.fieldValues("Record-Route"))
			if len(rr) != 1 || !strings.HasSuffix(rr[0], "@192.0.2.1:5060;lr>") {
				t.Errorf("Record-Route is %q", rr)
			}
		}
		fail()
		s.phone.send(s.phone.newInvite())
		got := second.get("the call", "INVITE")
		check(got)
		second.respond(got, "200 OK")
		ok := s.phone.expect("answer", "SIP/2.0 200")
		s.phone.send(s.phone.callerRequest(ok, "ACK"))
		second.get("its ACK", "ACK")
		s.phone.exchange(second, "INFO", func(m string) text { return s.phone.callerRequest(ok, m) })
		second.exchange(s.phone, "BYE", func(m string) text { return second.calleeRequest(got, m) })

		first.serve(works)
		for range 15 {
			s.advance(time.Second)
			second.getNothing("only OPTIONS")
			first.answerAll()
		}
		s.sendMessage(first.peer, "the first is back")
		fail()
		invite := s.phone.newInvite()
		s.phone.send(invite)
		got = second.get("another call", "INVITE")
		check(got)
		second.respond(got, "180 Ringing")
		s.phone.expect("rings", "SIP/2.0 180")
		s.phone.sendCancel(invite)
		s.phone.expect("answer to the CANCEL", "SIP/2.0 200")
		cancel := second.get("the CANCEL", "CANCEL")
		assertEqual(t, "branch", cancel.viaBranch(), got.viaBranch())
		second.respond(cancel, "200 OK")
		second.respond(got, "487 Request Terminated")
		second.get("its ACK", "ACK")
		s.phone.sendACK(invite, s.phone.expect("answer", "SIP/2.0 487"))
		if n := s.proxy.Stats().FailedOver; n != 2 {
			t.Errorf("%d failovers are counted, want 2", n)
		}
	}, b.listen, func(c *sip.Config) {
		c.PBX = []sip.Addr{{Proto: sip.TLS, AddrPort: firstTLSAt}, {Proto: sip.UDP, AddrPort: secondAt}}
		c.PBXTLS = b.newClient("pbx.example", nil)
	})
}
