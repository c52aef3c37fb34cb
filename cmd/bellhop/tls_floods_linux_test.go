package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"bellhop/sip"
	"bellhop/sip/siptest"
)

// Bounds of TestTLSFloodsDelayNobody.
const (
	probeInterval = 250 * time.Millisecond
	probeLimit    = time.Second // from the first byte to the response, with all handshakes
	tlsFloodRSS   = 100 << 20   // of bellhop, beyond that before the flood
)

// TestTLSFloodsDelayNobody lets strangers attack the listeners for TLS and for WebSockets.
// Everybody else gets an answer within probeLimit: over UDP, and over new connections with
// TLS and with WebSockets.
func TestTLSFloodsDelayNobody(t *testing.T) {
	if !*soak {
		t.Skip("measures for minutes: make soak")
	}
	for _, f := range []struct {
		name string
		wss  bool // it attacks the listener for WebSockets
	}{
		{"TLS ClientHellos", false},
		{"TLS handshakes that stop", false},
		{"silent connections", false},
		{"silent connections over TLS", false},
		{"requests over TLS byte by byte", false},
		{"WebSocket handshakes byte by byte", true},
		{"WebSocket frames byte by byte", true},
	} {
		t.Run(f.name, func(t *testing.T) {
			prefer(os.Getpid(), -10) // bellhop inherits it
			t.Cleanup(func() { prefer(os.Getpid(), 0) })
			s := newSite(t, sip.UDP, sip.UDP)
			tlsAt, wssAt := freePort(t, "127.0.0.4"), freePort(t, "127.0.0.4")
			s.renewCertificate(tlsAt.Addr(), 1)
			more := ""
			for _, listen := range []string{"tls://" + tlsAt.String(), "wss://" + wssAt.String()} {
				more += fmt.Sprintf("[[listener]]\nlisten = %q\ntls_cert = [\"file:%[2]s/live/cert.pem\"]\ntls_key = [\"file:%[2]s/live/key.pem\"]\n", listen, s.dir)
			}
			s.configure(more)
			r := &floodRun{t: t, site: s, bellhop: s.serve()}
			attacked := tlsAt
			if f.wss {
				attacked = wssAt
			}
			before := r.rss("VmRSS")
			stop := r.startSender(f.name, attacked)
			p := startProbes(s.hop, tlsAt, wssAt)
			sent := stop()
			p.check(t)
			peak := r.rss("VmHWM")
			t.Logf("%d attempts in %v; RSS %d MB before, %d MB at most", sent.Sent, floodLength, before>>20, peak>>20)
			if sent.Sent == 0 || peak > before+tlsFloodRSS {
				t.Errorf("%d attempts; RSS was %d MB, and %d MB before", sent.Sent, peak>>20, before>>20)
			}
			r.bellhop.stop()
		})
	}
}

// prober sends OPTIONS over one transport.
type prober struct {
	transport string
	open      func() (net.Conn, error)

	mu     sync.Mutex
	took   []time.Duration
	failed []error
}

// probes are the probers of all transports.
type probes struct {
	all  []*prober
	run  sync.WaitGroup
	stop context.CancelFunc
}

// startProbes starts a prober for the listeners for UDP, TLS and WebSockets. Every
// probeInterval each sends OPTIONS, over a connection of its own.
func startProbes(udpAt, tlsAt, wssAt netip.AddrPort) *probes {
	ctx, stop := context.WithCancel(context.Background())
	p := &probes{stop: stop, all: []*prober{
		{transport: "UDP", open: func() (net.Conn, error) { return dialProbe("udp4", udpAt) }},
		{transport: "TLS", open: func() (net.Conn, error) { return dialTLSProbe(tlsAt) }},
		{transport: "WSS", open: func() (net.Conn, error) {
			c, err := dialTLSProbe(wssAt)
			if err != nil {
				return nil, err
			}
			return siptest.OpenWebSocket(c)
		}},
	}}
	for _, o := range p.all {
		p.run.Go(func() {
			tick := time.NewTicker(probeInterval)
			defer tick.Stop()
			for n := 0; ctx.Err() == nil; n++ {
				p.run.Go(func() { o.probe(n) })
				<-tick.C
			}
		})
	}
	return p
}

// probeAddr is the address that probes come from.
const probeAddr = "127.0.0.9"

// dialProbe opens a connection that fails after some time.
func dialProbe(network string, to netip.AddrPort) (net.Conn, error) {
	d := net.Dialer{Timeout: patience, LocalAddr: &net.TCPAddr{IP: net.ParseIP(probeAddr)}}
	if network == "udp4" {
		d.LocalAddr = &net.UDPAddr{IP: net.ParseIP(probeAddr)}
	}
	c, err := d.Dial(network, to.String())
	if err == nil {
		c.SetDeadline(time.Now().Add(patience))
	}
	return c, err
}

// dialTLSProbe opens a connection and makes the TLS handshake.
func dialTLSProbe(to netip.AddrPort) (net.Conn, error) {
	c, err := dialProbe("tcp4", to)
	if err != nil {
		return nil, err
	}
	t := tls.Client(c, &tls.Config{InsecureSkipVerify: true})
	if err := t.Handshake(); err != nil {
		c.Close()
		return nil, err
	}
	return t, nil
}

// probe sends the nth OPTIONS, and notes how long its response took.
func (o *prober) probe(n int) {
	began := time.Now()
	err := o.ask(n)
	took := time.Since(began)
	o.mu.Lock()
	defer o.mu.Unlock()
	o.took = append(o.took, took)
	if err != nil {
		o.failed = append(o.failed, err)
	}
}

// ask opens a connection, sends the nth OPTIONS over it and waits for a 200.
func (o *prober) ask(n int) error {
	c, err := o.open()
	if err != nil {
		return err
	}
	defer c.Close()
	at := netip.MustParseAddrPort(c.LocalAddr().String())
	b := appendRequest(nil, "OPTIONS", "sip:"+c.RemoteAddr().String(), at, n, "", "")
	if _, err := c.Write(bytes.Replace(b, []byte("SIP/2.0/UDP"), []byte("SIP/2.0/"+o.transport), 1)); err != nil {
		return err
	}
	in := make([]byte, 4096)
	k, err := c.Read(in)
	if err == nil && !bytes.HasPrefix(in[:k], []byte("SIP/2.0 200 ")) {
		err = fmt.Errorf("the response is %q", in[:k])
	}
	return err
}

// check ends the probes, and checks that each was answered within probeLimit.
func (p *probes) check(t *testing.T) {
	t.Helper()
	p.stop()
	p.run.Wait()
	for _, o := range p.all {
		slowest := slices.Max(o.took)
		t.Logf("%s: %d probes, the slowest took %v", o.transport, len(o.took), slowest.Round(time.Millisecond))
		if len(o.failed) > 0 || slowest > probeLimit {
			t.Errorf("%s: %d of %d probes failed (%v), and the slowest took %v; want %v at most", o.transport, len(o.failed), len(o.took), errorsText(o.failed), slowest, probeLimit)
		}
	}
}

// errorsText returns the first of some errors, or "".
func errorsText(errs []error) string {
	if len(errs) == 0 {
		return ""
	}
	return errs[0].Error()
}

// Attacks on listeners for TLS and WebSockets.
func init() {
	senders["TLS ClientHellos"] = func(s *sender) {
		hello := clientHello()
		for i := range 64 {
			s.run.Go(func() {
				for n := i; s.ctx.Err() == nil; n += 64 {
					s.attack(source(n%400), func(c net.Conn) {
						c.Write(hello)
						c.Read(make([]byte, 1)) // bellhop has computed its answer
					})
				}
			})
		}
	}
	stall := func(connections int, begin func(s *sender, c net.Conn)) func(*sender) {
		return func(s *sender) {
			for i := range connections {
				s.run.Go(func() {
					for s.ctx.Err() == nil {
						s.attack(source(i%100), func(c net.Conn) { begin(s, c) })
					}
				})
			}
		}
	}
	senders["TLS handshakes that stop"] = stall(500, func(s *sender, c net.Conn) {
		c.Write(clientHello())
		io.Copy(io.Discard, c)
	})
	senders["silent connections"] = stall(500, func(s *sender, c net.Conn) { io.Copy(io.Discard, c) })
	senders["silent connections over TLS"] = stall(500, func(s *sender, c net.Conn) {
		if t := tls.Client(c, &tls.Config{InsecureSkipVerify: true}); t.Handshake() == nil {
			io.Copy(io.Discard, t)
		}
	})
	senders["requests over TLS byte by byte"] = stall(500, func(s *sender, c net.Conn) {
		t := tls.Client(c, &tls.Config{InsecureSkipVerify: true})
		at := netip.MustParseAddrPort(c.LocalAddr().String())
		s.drip(t, appendRequest(nil, "OPTIONS", "sip:"+s.hop.String(), at, 1, largeHead("Subject", 1<<10), ""))
	})
	senders["WebSocket handshakes byte by byte"] = stall(500, func(s *sender, c net.Conn) {
		s.drip(tls.Client(c, &tls.Config{InsecureSkipVerify: true}), []byte("GET / HTTP/1.1\r\nHost: pbx.example\r\nUpgrade: websocket\r\n"+largeHead("X", 1<<10)))
	})
	senders["WebSocket frames byte by byte"] = stall(500, func(s *sender, c net.Conn) {
		w, err := siptest.OpenWebSocket(tls.Client(c, &tls.Config{InsecureSkipVerify: true}))
		if err == nil {
			s.drip(w.Conn, append([]byte{0x81, 0xfe, 0x40, 0x00, 0, 0, 0, 0}, make([]byte, 1<<10)...)) // 16 KiB are announced
		}
	})
}

// attack opens a connection and calls do. It counts the connections.
func (s *sender) attack(from netip.Addr, do func(net.Conn)) {
	c := s.dial(from)
	if c == nil {
		time.Sleep(100 * time.Millisecond)
		return
	}
	defer context.AfterFunc(s.ctx, func() { c.Close() })()
	defer c.Close()
	atomic.AddInt64(&s.tally.Sent, 1)
	do(c)
}

// drip writes a byte every 100 ms.
func (s *sender) drip(c net.Conn, b []byte) {
	for i := range b {
		if s.ctx.Err() != nil || !s.writeStream(c, b[i:i+1]) {
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// clientHello returns the ClientHello of crypto/tls.
func clientHello() []byte {
	ours, theirs := net.Pipe()
	go tls.Client(theirs, &tls.Config{InsecureSkipVerify: true}).Handshake()
	defer theirs.Close()
	b := make([]byte, 4096)
	n, _ := ours.Read(b)
	return b[:n]
}
