package sip

import (
	"encoding/binary"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A udpSocket makes the system calls of its messages itself. They never wait,
// but the scheduler takes every system call for one that may, and has a thread
// of its own keep watch meanwhile: with a few thousand messages a second that
// thread costs as much as an eighth of all work.
type udpSocket struct {
	*net.UDPConn
	raw syscall.RawConn
	v4  bool // of family AF_INET, not AF_INET6
}

// batch is how many datagrams one system call may receive. Fewer are no backlog.
const receiveBatch = 16

// newPacketConn asks for a large receive buffer and for the error queue: without
// it nobody tells an unconnected socket that a port is closed.
func newPacketConn(c *net.UDPConn) (PacketConn, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return nil, err
	}
	raw.Control(func(fd uintptr) {
		if unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, receiveBufferSize) != nil {
			unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, receiveBufferSize)
		}
		unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_SNDBUF, receiveBufferSize/4)
		unix.SetsockoptInt(int(fd), unix.SOL_IP, unix.IP_RECVERR, 1)
		unix.SetsockoptInt(int(fd), unix.SOL_IPV6, unix.IPV6_RECVERR, 1)
	})
	return &udpSocket{UDPConn: c, raw: raw, v4: addrPortOf(c.LocalAddr()).Addr().Is4()}, nil
}

// incoming is what the kernel fills: struct mmsghdr and what it points to.
type datagramBatch struct {
	head [receiveBatch]struct {
		unix.Msghdr
		n uint32
	}
	iovec [receiveBatch]unix.Iovec
	from  [receiveBatch]unix.RawSockaddrInet6 // or RawSockaddrInet4, which is shorter
	buf   [receiveBatch][maxMessage + 1]byte
}

// receive shows take every datagram that comes, until the socket fails. It
// holds the socket open all the while, so that readiness that was noticed is
// never lost between two reads.
func (s *udpSocket) receiveBatches(take func(b []byte, from netip.AddrPort, alone bool)) error {
	in := new(datagramBatch)
	for i := range in.head {
		h := &in.head[i]
		h.Name = (*byte)(unsafe.Pointer(&in.from[i]))
		h.Iov = &in.iovec[i]
		h.SetIovlen(1)
		in.iovec[i].Base = &in.buf[i][0]
		in.iovec[i].SetLen(len(in.buf[i]))
	}
	var failed syscall.Errno
	err := s.raw.Read(func(fd uintptr) (done bool) {
		for {
			for i := range in.head {
				in.head[i].Namelen = unix.SizeofSockaddrInet6
			}
			n, _, errno := syscall.RawSyscall6(unix.SYS_RECVMMSG, fd, uintptr(unsafe.Pointer(&in.head)), receiveBatch, unix.MSG_DONTWAIT, 0, 0)
			switch errno {
			case 0:
			case unix.EAGAIN:
				return false
			case unix.EINTR:
				continue
			default:
				failed = errno
				return true
			}
			for i := range in.head[:n] {
				take(in.buf[i][:in.head[i].n], in.peerAddr(i), n < receiveBatch)
			}
			if n < receiveBatch {
				return false // the socket is empty; what comes from now on wakes us
			}
		}
	})
	if err == nil && failed != 0 {
		err = failed
	}
	return err
}

// peer is where datagram i came from.
func (in *datagramBatch) peerAddr(i int) netip.AddrPort {
	if in.from[i].Family == unix.AF_INET {
		from := (*unix.RawSockaddrInet4)(unsafe.Pointer(&in.from[i]))
		return netip.AddrPortFrom(netip.AddrFrom4(from.Addr), readPort(&from.Port))
	}
	from := &in.from[i]
	ip := netip.AddrFrom16(from.Addr)
	if from.Scope_id != 0 {
		ip = ip.WithZone(strconv.FormatUint(uint64(from.Scope_id), 10))
	}
	return netip.AddrPortFrom(ip, readPort(&from.Port))
}

// port reads a port that is in the order of the network.
func readPort(p *uint16) uint16 { return binary.BigEndian.Uint16((*[2]byte)(unsafe.Pointer(p))[:]) }

func writePort(p *uint16, port uint16) {
	binary.BigEndian.PutUint16((*[2]byte)(unsafe.Pointer(p))[:], port)
}

// A sending is one datagram on its way into the kernel.
type sendCall struct {
	b       []byte
	to      unix.RawSockaddrInet6 // or RawSockaddrInet4
	size    uintptr               // of to
	err     syscall.Errno
	trySend func(fd uintptr) (done bool)
}

var sendCalls = sync.Pool{New: func() any {
	s := new(sendCall)
	s.trySend = s.send
	return s
}}

func (s *sendCall) send(fd uintptr) (done bool) {
	for {
		_, _, s.err = syscall.RawSyscall6(unix.SYS_SENDTO, fd, uintptr(unsafe.Pointer(unsafe.SliceData(s.b))), uintptr(len(s.b)),
			unix.MSG_DONTWAIT, uintptr(unsafe.Pointer(&s.to)), s.size)
		if s.err != unix.EINTR {
			return s.err != unix.EAGAIN
		}
	}
}

// WriteToUDPAddrPort sends one datagram. It may be called from several
// goroutines.
func (s *udpSocket) WriteToUDPAddrPort(b []byte, to netip.AddrPort) (int, error) {
	ip := to.Addr()
	if ip.Zone() != "" || s.v4 && !ip.Is4() {
		return s.UDPConn.WriteToUDPAddrPort(b, to)
	}
	out := sendCalls.Get().(*sendCall)
	defer sendCalls.Put(out)
	out.b = b
	if s.v4 {
		sa := (*unix.RawSockaddrInet4)(unsafe.Pointer(&out.to))
		*sa = unix.RawSockaddrInet4{Family: unix.AF_INET, Addr: ip.As4()}
		writePort(&sa.Port, to.Port())
		out.size = unix.SizeofSockaddrInet4
	} else {
		out.to = unix.RawSockaddrInet6{Family: unix.AF_INET6, Addr: ip.As16()}
		writePort(&out.to.Port, to.Port())
		out.size = unix.SizeofSockaddrInet6
	}
	err := s.raw.Write(out.trySend)
	out.b = nil
	if err == nil && out.err != 0 {
		err = out.err
	}
	if err != nil {
		return 0, err
	}
	return len(b), nil
}

// sendErrors empties the socket's error queue and tells the transactions whose
// requests are in it. It reports whether there was any.
func (h *Proxy) drainErrorQueue(l *listener) (found bool) {
	s, ok := l.packet.(*udpSocket)
	if !ok {
		return false
	}
	var quoted [2048]byte
	var control [512]byte
	s.raw.Control(func(fd uintptr) {
		for {
			n, _, _, _, err := unix.Recvmsg(int(fd), quoted[:], control[:], syscall.MSG_ERRQUEUE|syscall.MSG_DONTWAIT)
			if err != nil {
				return
			}
			found = true
			h.reportUnsent(quoted[:n])
		}
	})
	return found
}
