package sip

import (
	"io"
	"log/slog"
	"net"
	"net/netip"
	"testing"
	"time"
)

// Tests of what is inside the hop drive a worker by hand: nothing runs, and
// the network is a sink.

var (
	bareHop   = netip.MustParseAddrPort("192.0.2.1:5060")
	barePBX   = netip.MustParseAddrPort("192.0.2.2:5060")
	barePhone = netip.MustParseAddrPort("192.0.2.101:5062")
)

// sink is a network, and its only socket: it keeps the last datagram.
type sink struct {
	last []byte
	to   netip.AddrPort
	n    int
	took func(b []byte) // called with each; nil: nothing is
}

func (s *sink) ListenPacket(netip.AddrPort) (PacketConn, error)   { return s, nil }
func (s *sink) Listen(addr netip.AddrPort) (net.Listener, error)  { return deafListener{addr}, nil }
func (s *sink) Dial(netip.Addr, netip.AddrPort) (net.Conn, error) { return nil, net.ErrClosed }
func (s *sink) LocalAddr() net.Addr                               { return net.UDPAddrFromAddrPort(bareHop) }
func (s *sink) Close() error                                      { return nil }
func (s *sink) ReadFromUDPAddrPort([]byte) (int, netip.AddrPort, error) {
	return 0, netip.AddrPort{}, io.EOF
}
func (s *sink) WriteToUDPAddrPort(b []byte, to netip.AddrPort) (int, error) {
	s.last, s.to = append(s.last[:0], b...), to
	s.n++
	if s.took != nil {
		s.took(b)
	}
	return len(b), nil
}

type deafListener struct{ addr netip.AddrPort }

func (l deafListener) Accept() (net.Conn, error) { return nil, net.ErrClosed }
func (l deafListener) Close() error              { return nil }
func (l deafListener) Addr() net.Addr            { return net.TCPAddrFromAddrPort(l.addr) }

// bare is a worker of a hop that does not run.
func bare(tb testing.TB, change func(*Config)) (*worker, *sink) {
	tb.Helper()
	s := &sink{}
	cfg := Config{
		Listen:  []Addr{{UDP, bareHop}, {TCP, bareHop}},
		PBX:     []Addr{{UDP, barePBX}},
		Key:     testKey,
		Workers: 1,
		Log:     slog.New(slog.NewTextHandler(io.Discard, nil)),
		Net:     s,
	}
	if change != nil {
		change(&cfg)
	}
	h, err := Listen(cfg)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { h.workers[0].timer.Stop() })
	return h.workers[0], s
}

// comes indexes a datagram as it does when it comes from a peer, nil if it is
// no SIP.
func (w *worker) comes(b []byte, from netip.AddrPort) *packet {
	p := newPacket(b)
	p.listener, p.peer, p.receivedAt = w.proxy.listeners[0], from, w.now()
	if !p.msg.index(p.buf, false) {
		p.release()
		return nil
	}
	p.side = w.proxy.sideOf(p)
	return p
}

// passes lets the hop's clock run.
func (w *worker) passes(d time.Duration) {
	w.proxy.epoch = w.proxy.epoch.Add(-d)
	w.wheel.advance(w.now())
}
