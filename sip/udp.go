package sip

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"syscall"
	"time"
)

// systemNetwork is the [Network] of the operating system.
type systemNetwork struct{}

// receiveBufferSize is the kernel receive buffer that is requested for a UDP socket, in
// bytes. With a small one, calls are lost to a full buffer while the processor is half
// idle.
const receiveBufferSize = 4 << 20

func (systemNetwork) ListenPacket(addr netip.AddrPort) (PacketConn, error) {
	c, err := net.ListenUDP(udpNetwork(addr.Addr()), net.UDPAddrFromAddrPort(addr))
	if err != nil {
		return nil, err
	}
	return newPacketConn(c)
}

func (systemNetwork) Listen(addr netip.AddrPort) (net.Listener, error) {
	c := net.ListenConfig{KeepAliveConfig: keepAlive, Control: setUserTimeout}
	return c.Listen(context.Background(), "tcp", addr.String())
}

func (systemNetwork) Dial(local netip.Addr, addr netip.AddrPort) (net.Conn, error) {
	d := net.Dialer{Timeout: dialTimeout, KeepAliveConfig: keepAlive, Control: setUserTimeout}
	if !local.IsUnspecified() {
		d.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(local, 0))
	}
	return d.Dial("tcp", addr.String())
}

func udpNetwork(ip netip.Addr) string {
	if ip.Is4() {
		return "udp4"
	}
	return "udp"
}

func isInUse(err error) bool { return errors.Is(err, syscall.EADDRINUSE) }

// isUnreachable reports whether err says that a destination cannot be reached, as ICMP
// or ARP report it.
func isUnreachable(err error) bool {
	return errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.EHOSTUNREACH) || errors.Is(err, syscall.ENETUNREACH)
}

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
		l.handleDatagram(buf[:n], from, time.Since(before) > emptySocketRead)
	}
}

// batchReceiver is a PacketConn that receives several datagrams with one system call.
type batchReceiver interface {
	// receiveBatches calls handle for every datagram until the socket fails. b is valid
	// until handle returns.
	receiveBatches(handle func(b []byte, from netip.AddrPort, idle bool)) error
}

// A read that takes longer than emptySocketRead found the socket empty and waited for a
// datagram.
const emptySocketRead = 10 * time.Microsecond

// handleDatagram indexes a datagram and dispatches it. idle reports that the socket has no
// backlog. A panic costs this datagram only.
func (l *listener) handleDatagram(b []byte, from netip.AddrPort, idle bool) {
	px := l.proxy
	defer px.recoverPanic("datagram")
	for len(b) > 1 && b[0] == '\r' && b[1] == '\n' {
		b = b[2:] // RFC 3261 §7.5
	}
	if len(b) < 16 {
		return // a keep-alive
	}
	p := newPacket(b)
	p.listener, p.peer, p.receivedAt = l, unmapAddr(from), px.now()
	if !p.msg.index(p.buf, false) {
		px.stats.malformed.Add(1)
		p.release()
		return
	}
	px.dispatch(p, idle)
}

// writeDatagram sends one datagram. The socket's error queue is on, so a write may
// return the error of an earlier datagram and send nothing. Therefore the write is tried
// up to three times. If the destination is still unreachable, the datagram counts as
// lost, the client transaction of its request is informed, and writeDatagram returns nil.
// Any other error is returned.
func (l *listener) writeDatagram(b []byte, to netip.AddrPort) (err error) {
	if l.packet == nil {
		return net.ErrClosed
	}
	for range 3 {
		if _, err = l.packet.WriteToUDPAddrPort(b, to); err == nil {
			return nil
		}
		l.drainErrorQueue()
	}
	if isUnreachable(err) {
		l.proxy.reportUnsent(b)
		return nil
	}
	return err
}

// reportUnsent informs the worker of an undelivered request. b is the start of its
// datagram, as the ICMP error quotes it.
func (px *Proxy) reportUnsent(b []byte) {
	defer px.recoverPanic("error queue")
	var m message
	if !m.index(b, false) || !m.isRequest() || !m.via.ok {
		return
	}
	if id, _, ok := px.branchSalt.openBranch(m.text(m.via.branch)); ok {
		px.reportFailedTx(id)
	}
}
