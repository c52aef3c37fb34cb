// Package siptest has helpers for tests with SIP: a network in memory, for virtual time,
// and a small PBX and phones that use any network.
package siptest

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"bellhop/sip"
)

// A Network is a network in memory. Datagrams and streams arrive at once and in order. In
// a synctest bubble, a goroutine that waits for data or a connection is durably blocked.
type Network struct {
	mu        sync.Mutex
	packets   map[netip.AddrPort]*PacketConn
	listeners map[netip.AddrPort]*listener
	lastPort  uint16
}

// NewNetwork returns an empty network.
func NewNetwork() *Network {
	return &Network{packets: map[netip.AddrPort]*PacketConn{}, listeners: map[netip.AddrPort]*listener{}, lastPort: 40000}
}

// queueSize is the number of unread datagrams of a socket after which further ones are
// lost.
const queueSize = 1 << 12

type datagram struct {
	b    []byte
	from netip.AddrPort
}

// A PacketConn is a UDP socket of a [Network].
type PacketConn struct {
	net    *Network
	addr   netip.AddrPort
	in     chan datagram
	closed chan struct{}
	once   sync.Once
}

// ListenPacket opens a socket. An address in use is refused with EADDRINUSE, as by the
// kernel.
func (n *Network) ListenPacket(addr netip.AddrPort) (sip.PacketConn, error) {
	return n.ListenPacketConn(addr)
}

// ListenPacketConn opens a socket like [Network.ListenPacket], and returns its concrete type.
func (n *Network) ListenPacketConn(addr netip.AddrPort) (*PacketConn, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.packets[addr] != nil {
		return nil, os.NewSyscallError("bind", syscall.EADDRINUSE)
	}
	c := &PacketConn{net: n, addr: addr, in: make(chan datagram, queueSize), closed: make(chan struct{})}
	n.packets[addr] = c
	return c, nil
}

// ReadFromUDPAddrPort waits for a datagram and reads it.
func (c *PacketConn) ReadFromUDPAddrPort(b []byte) (int, netip.AddrPort, error) {
	select {
	case d := <-c.in:
		return copy(b, d.b), d.from, nil
	case <-c.closed:
		return 0, netip.AddrPort{}, net.ErrClosed
	}
}

// WriteToUDPAddrPort sends a datagram. To an address without a socket it fails with
// ECONNREFUSED, as a connected socket would.
func (c *PacketConn) WriteToUDPAddrPort(b []byte, to netip.AddrPort) (int, error) {
	c.net.mu.Lock()
	peer := c.net.packets[to]
	c.net.mu.Unlock()
	if peer == nil {
		return 0, os.NewSyscallError("sendto", syscall.ECONNREFUSED)
	}
	select {
	case peer.in <- datagram{append([]byte(nil), b...), c.addr}:
	default:
	}
	return len(b), nil
}

// TryRead returns the next datagram without waiting; ok is false if there is none.
func (c *PacketConn) TryRead() (b []byte, from netip.AddrPort, ok bool) {
	select {
	case d := <-c.in:
		return d.b, d.from, true
	default:
		return nil, netip.AddrPort{}, false
	}
}

// LocalAddr returns the address that the socket is bound to.
func (c *PacketConn) LocalAddr() net.Addr { return net.UDPAddrFromAddrPort(c.addr) }

// Close closes the socket and frees its address.
func (c *PacketConn) Close() error {
	c.once.Do(func() {
		c.net.mu.Lock()
		delete(c.net.packets, c.addr)
		c.net.mu.Unlock()
		close(c.closed)
	})
	return nil
}

// A listener is a stream listener of a [Network].
type listener struct {
	net    *Network
	addr   netip.AddrPort
	in     chan net.Conn
	closed chan struct{}
	once   sync.Once
}

// Listen opens a stream listener.
func (n *Network) Listen(addr netip.AddrPort) (net.Listener, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.listeners[addr] != nil {
		return nil, os.NewSyscallError("bind", syscall.EADDRINUSE)
	}
	l := &listener{net: n, addr: addr, in: make(chan net.Conn), closed: make(chan struct{})}
	n.listeners[addr] = l
	return l, nil
}

// Dial opens a stream to a listener, from a free port of local. It waits up to 5 s for
// Accept.
func (n *Network) Dial(local netip.Addr, to netip.AddrPort) (net.Conn, error) {
	n.mu.Lock()
	l := n.listeners[to]
	n.lastPort++
	from := netip.AddrPortFrom(local, n.lastPort)
	n.mu.Unlock()
	refused := os.NewSyscallError("connect", syscall.ECONNREFUSED)
	if l == nil {
		return nil, refused
	}
	a, b := net.Pipe()
	accepted := &conn{Conn: a, local: to, peer: from}
	select {
	case l.in <- accepted:
		return &conn{Conn: b, local: from, peer: to, accepted: accepted}, nil
	case <-l.closed:
		return nil, refused
	case <-time.After(5 * time.Second):
		return nil, errors.New("connect: not accepted within 5 s")
	}
}

func (l *listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.in:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *listener) Addr() net.Addr { return net.TCPAddrFromAddrPort(l.addr) }

func (l *listener) Close() error {
	l.once.Do(func() {
		l.net.mu.Lock()
		delete(l.net.listeners, l.addr)
		l.net.mu.Unlock()
		close(l.closed)
	})
	return nil
}

// A conn is one end of a pipe, with addresses.
type conn struct {
	net.Conn
	local, peer netip.AddrPort
	accepted    *conn // other end, if this one was dialed

	vanished atomic.Bool // the peer has vanished, so what is written is lost
	onLoss   func()      // called when something is lost
}

// vanishedTimeout is how long lost bytes stay unacknowledged before a connection fails. Linux
// needs that time with the user timeout of 29 s that the proxy sets.
const vanishedTimeout = 30600 * time.Millisecond

// Vanish makes the peer that has dialed a connection vanish without closing it, as a machine
// that loses its power. What is sent to it is lost. Some 30 s after the first lost bytes the
// connection fails at the other end.
func Vanish(c net.Conn) {
	end := c.(*conn).accepted
	end.onLoss = sync.OnceFunc(func() { time.AfterFunc(vanishedTimeout, func() { end.Close() }) })
	end.vanished.Store(true)
}

func (c *conn) Write(b []byte) (int, error) {
	if c.vanished.Load() {
		c.onLoss()
		return len(b), nil
	}
	return c.Conn.Write(b)
}

func (c *conn) LocalAddr() net.Addr  { return net.TCPAddrFromAddrPort(c.local) }
func (c *conn) RemoteAddr() net.Addr { return net.TCPAddrFromAddrPort(c.peer) }
