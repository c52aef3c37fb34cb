package sip_test

import (
	"fmt"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"bellhop/sip"
)

func keepAlive(d time.Duration) func(*sip.Config) {
	return func(c *sip.Config) { c.KeepAlive = d }
}

// registerWith registers p with a Contact for an hour, or removes the binding if seconds
// is 0.
func (p *peer) registerWith(user, contact string, seconds int) {
	p.s.t.Helper()
	p.send(p.newRequest("REGISTER", "sip:pbx.example", "To: <sip:"+user+"@pbx.example>", "Contact: "+contact, fmt.Sprintf("Expires: %d", seconds)))
	got := p.s.pbx.expect("the REGISTER goes on", "REGISTER")
	p.s.pbx.respond(got, "200 OK", "Contact: "+contact+fmt.Sprintf(";expires=%d", seconds))
	p.expect("the answer comes back", "SIP/2.0 200")
}

// countOptions answers the OPTIONS that p gets within d, which begin with start. It returns
// the times before the first and between them.
func (p *peer) countOptions(d time.Duration, start string) (gaps []time.Duration) {
	p.s.t.Helper()
	last := time.Now()
	for end := last.Add(d); time.Now().Before(end); {
		p.s.advance(100 * time.Millisecond)
		for {
			m, ok := p.nextMessage()
			if !ok {
				break
			}
			if !strings.HasPrefix(string(m), start) {
				p.s.t.Fatalf("%s got\n%s", p.name, m)
			}
			gaps = append(gaps, time.Since(last))
			last = time.Now()
			p.respond(m, "404 Not Found")
		}
	}
	return gaps
}

// A phone behind a NAT gets an OPTIONS in each interval until its binding expires or it
// removes it. Nobody else sees the OPTIONS.
func TestKeepsNATsOpen(t *testing.T) {
	const interval = 25 * time.Second
	for _, tt := range []struct {
		name, contact string
		kept          bool
		uri           string
	}{
		{"private address", "<sip:101@10.0.0.5:5060>", true, "sip:101@10.0.0.5:5060"},
		{"other port", "<sip:101@192.0.2.101:5060>", true, "sip:101@192.0.2.101:5060"},
		{"host name", "<sip:101@phone.example;line=1>", true, "sip:101@phone.example;line=1"},
		{"telephone number", "<tel:+101>", true, "sip:192.0.2.101:5062"},
		{"long", "<sip:" + strings.Repeat("1", 300) + "@10.0.0.5>", true, "sip:192.0.2.101:5062"},
		{"its own address", "<sip:101@192.0.2.101:5062>", false, ""},
		{"its own address, over TCP", "<sip:101@192.0.2.101:5062;transport=tcp>", false, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			runScenario(t, func(s *testbed) {
				s.phone.registerWith("101", tt.contact, 3600)
				for len(s.observations) > 0 {
					<-s.observations
				}
				if !tt.kept {
					s.advance(2 * interval)
					s.expectNothing("nothing keeps it open")
					return
				}
				gaps := s.phone.countOptions(10*interval, "OPTIONS "+tt.uri+" SIP/2.0\r\n")
				if len(gaps) != 10 || gaps[0] > interval {
					t.Errorf("%d OPTIONS in ten intervals, the first after %v", len(gaps), gaps[0])
				}
				for _, gap := range gaps[1:] {
					if gap < interval-200*time.Millisecond || gap > interval+200*time.Millisecond {
						t.Errorf("OPTIONS come every %v", gap)
					}
				}
				if n := len(s.observations); n > 0 {
					t.Errorf("%d messages observed", n)
				}
				if n := s.proxy.Stats().Stray; n > 0 {
					t.Errorf("%d stray responses", n)
				}
				s.phone.registerWith("101", tt.contact, 0)
				s.advance(interval)
				s.expectNothing("the phone has gone")
			}, keepAlive(interval))
		})
	}
}

// A phone that does not answer gets the OPTIONS four times within an interval, over and
// over, until its binding expires.
func TestKeepsNATOfSilentPhoneOpen(t *testing.T) {
	runScenario(t, func(s *testbed) {
		s.phone.registerWith("101", "<sip:101@10.0.0.5>", 100)
		s.advance(95 * time.Second)
		n := 0
		for _, ok := s.phone.nextMessage(); ok; _, ok = s.phone.nextMessage() {
			n++
		}
		if n < 12 || n > 16 {
			t.Errorf("%d OPTIONS in 95 s", n)
		}
		s.advance(time.Minute)
		s.phone.discardReceived()
		s.advance(time.Minute)
		s.expectNothing("the binding has expired")
	}, keepAlive(25*time.Second))
}

// writeCounter is a network that counts the datagrams to an address.
type writeCounter struct {
	sip.Network
	to    netip.AddrPort
	count *atomic.Int64
}

func (n writeCounter) ListenPacket(addr netip.AddrPort) (sip.PacketConn, error) {
	c, err := n.Network.ListenPacket(addr)
	return countedSocket{c, n}, err
}

type countedSocket struct {
	sip.PacketConn
	net writeCounter
}

func (c countedSocket) WriteToUDPAddrPort(b []byte, to netip.AddrPort) (int, error) {
	if to == c.net.to {
		c.net.count.Add(1)
	}
	return c.PacketConn.WriteToUDPAddrPort(b, to)
}

// A phone whose port is closed gets one OPTIONS in each interval, without repetitions,
// until its binding expires. Each is written three times, because a write may return the
// error of an earlier one.
func TestUnreachablePhoneGetsOneOPTIONSAnInterval(t *testing.T) {
	var count atomic.Int64
	runScenario(t, func(s *testbed) {
		s.phone.registerWith("101", "<sip:101@10.0.0.5>", 100)
		s.phone.close()
		count.Store(0)
		s.advance(100 * time.Second)
		if n := count.Swap(0); n != 3*4 {
			t.Errorf("%d datagrams in four intervals", n)
		}
		s.advance(200 * time.Second)
		if n := count.Load(); n > 0 {
			t.Errorf("%d datagrams after the end of the binding", n)
		}
	}, keepAlive(25*time.Second), func(c *sip.Config) { c.Net = writeCounter{c.Net, phoneAt, &count} })
}

// The OPTIONS to many phones that register at once are spread evenly.
func TestSpreadsKeepAlives(t *testing.T) {
	const phones, interval = 400, 20 * time.Second
	runScenario(t, func(s *testbed) {
		for i := range phones {
			s.phone.registerWith(fmt.Sprint(1000+i), fmt.Sprintf("<sip:%d@10.0.%d.%d>", 1000+i, i/250, i%250+1), 90)
		}
		for range 2 {
			most := 0
			for range int(interval / time.Second) {
				s.advance(time.Second)
				n := 0
				for m, ok := s.phone.nextMessage(); ok; m, ok = s.phone.nextMessage() {
					n++
					s.phone.respond(m, "200 OK")
				}
				most = max(most, n)
			}
			if most > 3*phones/20 {
				t.Errorf("%d of %d OPTIONS within a second", most, phones)
			}
		}
		s.advance(2 * time.Minute)
		s.phone.discardReceived()
	}, keepAlive(interval))
}

// While the PBX sends OPTIONS to a phone at least as often, the proxy sends none. It sends
// its own when the PBX stops.
func TestKeepsSilentWhilePBXQualifies(t *testing.T) {
	for _, mode := range []sip.Register{sip.RegisterPath, sip.RegisterContact} {
		t.Run(string(mode), func(t *testing.T) {
			runScenario(t, func(s *testbed) {
				route, uri := s.phone.registerOver("101@pbx.example", "<sip:101@10.0.0.5>")
				for range 20 {
					s.pbx.send(s.pbx.newRequest("OPTIONS", uri, route...))
					s.phone.respond(s.phone.expect("the PBX's own", "OPTIONS sip:101@10.0.0.5 SIP/2.0\r\nVia: SIP/2.0/UDP 192.0.2.1:5060"), "200 OK")
					s.pbx.expect("the answer", "SIP/2.0 200")
					s.advance(24 * time.Second)
					s.expectNothing("the proxy is silent")
				}
				s.advance(2 * time.Second)
				got := s.phone.expect("the PBX has stopped", "OPTIONS sip:101@10.0.0.5")
				if len(got.fieldValues("Via")) != 1 {
					t.Errorf("it is the PBX's:\n%s", got)
				}
				s.phone.respond(got, "200 OK")
			}, keepAlive(25*time.Second), withRegister(mode))
		})
	}
}

// A phone that registers again from another port gets OPTIONS there, and no more at the
// old one, whichever workers handle its REGISTERs.
func TestKeepAliveFollowsBinding(t *testing.T) {
	runScenario(t, func(s *testbed) {
		moved := s.addUDPPeer(netip.AddrPortFrom(phoneAt.Addr(), 6000))
		for range 6 { // each with a Call-ID of its own
			s.phone.registerWith("101", `<sip:101@10.0.0.5>;+sip.instance="<urn:uuid:1>"`, 300)
		}
		moved.registerWith("101", `<sip:101@10.0.0.5>;+sip.instance="<urn:uuid:1>"`, 300)
		s.phone.discardReceived()
		if gaps := moved.countOptions(100*time.Second, "OPTIONS "); len(gaps) != 4 {
			t.Errorf("OPTIONS after %v", gaps)
		}
		if m, ok := s.phone.nextMessage(); ok {
			t.Errorf("the old port got\n%s", m)
		}
		moved.registerWith("101", `<sip:101@192.0.2.101:6000>;+sip.instance="<urn:uuid:1>"`, 300) // the NAT has gone
		s.advance(time.Minute)
		s.expectNothing("nothing to keep open")
	}, keepAlive(25*time.Second))
}

// While the proxy drains, it sends no OPTIONS, so that Drain returns.
func TestDrainEndsKeepAlives(t *testing.T) {
	runScenario(t, func(s *testbed) {
		s.phone.registerWith("101", `<sip:101@10.0.0.5>;+sip.instance="<urn:uuid:1>"`, 60)
		done := false
		go func() {
			s.proxy.Drain(t.Context())
			done = true
		}()
		s.advance(time.Minute)
		synctest.Wait()
		if !done {
			t.Error("Drain has not returned")
		}
		s.expectNothing("no OPTIONS")
	}, keepAlive(25*time.Second))
}

// A phone that answers late has got the OPTIONS twice. Its second response belongs to the
// same transaction.
func TestKeepAliveAbsorbsSecondResponse(t *testing.T) {
	runScenario(t, func(s *testbed) {
		s.phone.registerWith("101", "<sip:101@10.0.0.5>", 60)
		var sent []text
		for len(sent) < 2 {
			s.advance(100 * time.Millisecond)
			if m, ok := s.phone.nextMessage(); ok {
				sent = append(sent, m)
			}
		}
		assertEqual(t, "sent again", string(sent[1]), string(sent[0]))
		s.phone.respond(sent[0], "200 OK")
		s.phone.respond(sent[1], "200 OK")
		s.advance(20 * time.Second)
		s.expectNothing("answered")
		if n := s.proxy.Stats().Stray; n > 0 {
			t.Errorf("%d stray responses", n)
		}
		s.advance(time.Minute)
		s.phone.discardReceived()
	}, keepAlive(25*time.Second))
}

// A trunk that registers its customers through the proxy keeps them reachable itself. So
// does a proxy of the edge side.
func TestKeepsSilentTowardsProxies(t *testing.T) {
	runScenario(t, func(s *testbed) {
		register := s.phone.newRequest("REGISTER", "sip:pbx.example", "Contact: <sip:101@10.0.0.5>", "Expires: 300").
			replaced("Max-Forwards", "Via: SIP/2.0/UDP 10.0.0.5;branch=z9hG4bK-first\r\nMax-Forwards")
		s.phone.send(register)
		s.pbx.respond(s.pbx.expect("the REGISTER goes on", "REGISTER"), "200 OK", "Contact: <sip:101@10.0.0.5>;expires=300")
		s.phone.expect("the answer comes back", "SIP/2.0 200")
		s.advance(2 * time.Minute)
		s.expectNothing("no OPTIONS")
	}, keepAlive(25*time.Second))
}

// Without an interval, nothing is sent.
func TestKeepAliveCanBeOff(t *testing.T) {
	runScenario(t, func(s *testbed) {
		s.phone.registerWith("101", `<sip:101@10.0.0.5>;+sip.instance="<urn:uuid:1>"`, 3600)
		s.advance(time.Hour)
		s.expectNothing("no OPTIONS")
	})
}
