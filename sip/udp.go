package sip

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"syscall"
	"time"

	"bellhop/sip/stun"
)

// systemNetwork is the [Network] of the operating system.
type systemNetwork struct{ log *slog.Logger }

// receiveBufferSize is the kernel receive buffer that is requested for a UDP socket, in
// bytes. With a small one, calls are lost to a full buffer while the processor is half
// idle.
const receiveBufferSize = 4 << 20

func (n systemNetwork) ListenPacket(addr netip.AddrPort) (PacketConn, error) {
	c, err := openSocket(n, addr, func(lc *net.ListenConfig) (net.PacketConn, error) {
		return lc.ListenPacket(context.Background(), "udp"+ipVersion(addr.Addr()), addr.String())
	})
	if err != nil {
		return nil, err
	}
	return newPacketConn(c.(*net.UDPConn))
}

func (n systemNetwork) Listen(addr netip.AddrPort) (net.Listener, error) {
	return openSocket(n, addr, func(lc *net.ListenConfig) (net.Listener, error) {
		freeBind := lc.Control
		lc.KeepAliveConfig = tcpKeepAlive
		lc.Control = func(network, address string, c syscall.RawConn) error {
			if freeBind != nil {
				if err := freeBind(network, address, c); err != nil {
					return err
				}
			}
			return setUserTimeout(network, address, c)
		}
		return lc.Listen(context.Background(), "tcp"+ipVersion(addr.Addr()), addr.String())
	})
}

// openSocket opens a socket on an address. If the machine does not have the address, the
// socket receives nothing until it has: another node may have it now, and this one after a
// failover (VRRP). That is logged, because the address may also be mistyped.
func openSocket[T any](n systemNetwork, addr netip.AddrPort, open func(lc *net.ListenConfig) (T, error)) (T, error) {
	s, err := open(new(net.ListenConfig))
	if !errors.Is(err, syscall.EADDRNOTAVAIL) {
		return s, err
	}
	absent, freeErr := open(&net.ListenConfig{Control: freeBind})
	if freeErr != nil {
		return s, err
	}
	n.log.Warn("listener address not assigned", "addr", addr.String(), "remedy", "add the address to this machine, unless another node has it now")
	return absent, nil
}

func (systemNetwork) Dial(local netip.Addr, addr netip.AddrPort) (net.Conn, error) {
	d := net.Dialer{Timeout: dialTimeout, KeepAliveConfig: tcpKeepAlive, Control: setUserTimeout}
	if !local.IsUnspecified() {
		d.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(local, 0))
	}
	return d.Dial("tcp", addr.String())
}

// ipVersion returns the suffix that limits a network of package net to the family of ip.
// Without it, a socket on [::] would receive IPv4 too.
func ipVersion(ip netip.Addr) string {
	if ip.Unmap().Is4() {
		return "4"
	}
	return "6"
}

func isInUse(err error) bool { return errors.Is(err, syscall.EADDRINUSE) }

// readPackets passes the datagrams of a listener to the workers until the socket is
// closed.
func (l *listener) readPackets(ctx context.Context) {
	for {
		err := l.receiveDatagrams()
		if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
			return
		}
		// An ICMP error for an earlier datagram, or a temporary lack of resources. The
		// socket stays usable.
		if !l.drainErrorQueue() {
			time.Sleep(time.Millisecond)
		}
	}
}

// receiveDatagrams calls handleDatagram for every datagram until the socket fails. It
// recovers a panic, and then returns nil.
func (l *listener) receiveDatagrams() error {
	defer l.proxy.recoverPanic("socket")
	if r, ok := l.packet.(batchReceiver); ok {
		return r.receiveBatches(l.handleDatagram)
	}
	buf := make([]byte, maxMessage+1)
	for {
		before := time.Now()
		n, from, err := l.packet.ReadFromUDPAddrPort(buf)
		if err != nil {
			return err
		}
		l.handleDatagram(buf[:n], from, netip.Addr{}, time.Since(before) > emptySocketRead)
	}
}

// batchReceiver is a PacketConn that receives several datagrams with one system call.
type batchReceiver interface {
	// receiveBatches calls handle for every datagram until the socket fails.
	receiveBatches(handle datagramHandler) error
}

// datagramHandler handles a received datagram. b is valid until it returns. local is the
// address to which the datagram was sent, if the socket is bound to an unspecified address
// and the system reports it, else the zero address. idle reports that the socket has no
// backlog.
type datagramHandler func(b []byte, from netip.AddrPort, local netip.Addr, idle bool)

// A read that takes longer than emptySocketRead found the socket empty and waited for a
// datagram.
const emptySocketRead = 10 * time.Microsecond

// handleDatagram indexes a datagram and dispatches it. It is a datagramHandler. A panic
// costs this datagram only.
func (l *listener) handleDatagram(b []byte, from netip.AddrPort, local netip.Addr, idle bool) {
	px := l.proxy
	defer px.recoverPanic("datagram")
	from = unmapAddr(from)
	now := px.now()
	if px.dropsBanned(l, nil, from.Addr(), now) {
		return
	}
	if stun.IsMessage(b) {
		l.answerSTUN(b, from, local)
		return
	}
	for len(b) > 1 && b[0] == '\r' && b[1] == '\n' {
		b = b[2:] // RFC 3261 §7.5
	}
	if len(b) < 16 {
		return // a keep-alive
	}
	p := newPacket(b)
	p.listener, p.peer, p.local, p.receivedAt = l, from, local, now
	if local.IsValid() {
		l.addAddr(local)
	}
	if !p.msg.index(p.buf, false) {
		px.stats.malformed.Add(1)
		p.release()
		return
	}
	px.dispatch(p, idle)
}
