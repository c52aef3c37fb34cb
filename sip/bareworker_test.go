package sip

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"testing"
	"time"
)

// Tests inside the package drive a worker by hand: the proxy does not run, and its network
// only records.

var (
	bareProxy = netip.MustParseAddrPort("192.0.2.1:5060")
	barePBX   = netip.MustParseAddrPort("192.0.2.2:5060")
	barePhone = netip.MustParseAddrPort("192.0.2.101:5062")
)

// recordingSocket is a Network and its only socket. It keeps the last datagram sent.
type recordingSocket struct {
	last    []byte
	to      netip.AddrPort
	count   int
	onWrite func(b []byte) // called with each datagram, if not nil
}

func (s *recordingSocket) ListenPacket(netip.AddrPort) (PacketConn, error) { return s, nil }
func (s *recordingSocket) Listen(addr netip.AddrPort) (net.Listener, error) {
	return closedListener{addr}, nil
}
func (s *recordingSocket) Dial(netip.Addr, netip.AddrPort) (net.Conn, error) {
	return nil, net.ErrClosed
}
func (s *recordingSocket) LocalAddr() net.Addr { return net.UDPAddrFromAddrPort(bareProxy) }
func (s *recordingSocket) Close() error        { return nil }
func (s *recordingSocket) ReadFromUDPAddrPort([]byte) (int, netip.AddrPort, error) {
	return 0, netip.AddrPort{}, io.EOF
}
func (s *recordingSocket) WriteToUDPAddrPort(b []byte, to netip.AddrPort) (int, error) {
	s.last, s.to = append(s.last[:0], b...), to
	s.count++
	if s.onWrite != nil {
		s.onWrite(b)
	}
	return len(b), nil
}

// closedListener is a TCP listener that accepts nothing.
type closedListener struct{ addr netip.AddrPort }

func (l closedListener) Accept() (net.Conn, error) { return nil, net.ErrClosed }
func (l closedListener) Close() error              { return nil }
func (l closedListener) Addr() net.Addr            { return net.TCPAddrFromAddrPort(l.addr) }

// newBareWorker returns a worker of a proxy that does not run, and the socket it sends
// on.
func newBareWorker(tb testing.TB, change func(*Config)) (*worker, *recordingSocket) {
	tb.Helper()
	s := &recordingSocket{}
	cfg := Config{
		Listen:  []Listener{{Addr: Addr{Proto: UDP, AddrPort: bareProxy}}, {Addr: Addr{Proto: TCP, AddrPort: bareProxy}}},
		PBX:     []Addr{{Proto: UDP, AddrPort: barePBX}},
		Key:     testKey,
		Workers: 1,
		Log:     slog.New(slog.NewTextHandler(io.Discard, nil)),
		Net:     s,

		NameServers:    []netip.AddrPort{netip.MustParseAddrPort("192.0.2.53:53")},
		DialNameServer: func(context.Context, string, netip.AddrPort) (net.Conn, error) { return nil, net.ErrClosed },
	}
	if change != nil {
		change(&cfg)
	}
	px, err := Listen(cfg)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { px.workers[0].timer.Stop() })
	return px.workers[0], s
}

// receivePacket indexes a datagram as if it came from a peer. It returns nil if the
// datagram is not SIP.
func (w *worker) receivePacket(b []byte, from netip.AddrPort) *packet {
	p := newPacket(b)
	p.listener, p.peer, p.receivedAt = w.proxy.listeners.all[0], from, w.now()
	if !p.msg.index(p.buf, false) {
		p.release()
		return nil
	}
	p.side = w.proxy.peers.sideOf(p)
	return p
}

// advanceClock moves the proxy's clock forward by d and fires the due timers.
func (w *worker) advanceClock(d time.Duration) {
	w.proxy.epoch = w.proxy.epoch.Add(-d)
	w.wheel.advance(w.now())
}
