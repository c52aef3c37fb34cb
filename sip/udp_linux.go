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

// udpSocket makes its system calls without the Go scheduler. They never block, but the
// scheduler assumes that any system call may, and has its monitor thread watch them. At
// a few thousand messages a second that thread takes up to an eighth of all processor
// time.
type udpSocket struct {
	*net.UDPConn
	raw syscall.RawConn
	v4  bool // of family AF_INET, not AF_INET6
}

// receiveBatch is the largest number of datagrams that one system call receives. A call
// that returns fewer has emptied the socket, so there is no backlog.
const receiveBatch = 16

// newPacketConn requests a large receive buffer and turns the error queue on. Without
// the error queue, an unconnected socket gets no report of a closed port.
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

// datagramBatch is the memory that recvmmsg fills: struct mmsghdr and the memory it
// points to.
type datagramBatch struct {
	head [receiveBatch]struct {
		unix.Msghdr
		n uint32
	}
	iovec [receiveBatch]unix.Iovec
	from  [receiveBatch]unix.RawSockaddrInet6 // or RawSockaddrInet4, which is shorter
	buf   [receiveBatch][maxMessage + 1]byte
}

// receiveBatches calls handle for every datagram until the socket fails. It holds the
// socket for reading all the time, so that no readiness event is lost between two reads.
func (s *udpSocket) receiveBatches(handle func(b []byte, from netip.AddrPort, idle bool)) error {
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
				handle(in.buf[i][:in.head[i].n], in.peerAddr(i), n < receiveBatch)
			}
			if n < receiveBatch {
				return false // the socket is empty: the next datagram wakes this goroutine
			}
		}
	})
	if err == nil && failed != 0 {
		err = failed
	}
	return err
}

// peerAddr returns the source address of datagram i.
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

// readPort reads a port in network byte order.
func readPort(p *uint16) uint16 { return binary.BigEndian.Uint16((*[2]byte)(unsafe.Pointer(p))[:]) }

// writePort writes a port in network byte order.
func writePort(p *uint16, port uint16) {
	binary.BigEndian.PutUint16((*[2]byte)(unsafe.Pointer(p))[:], port)
}

// sendCall is one sendto system call and its arguments.
type sendCall struct {
	b       []byte
	to      unix.RawSockaddrInet6 // or RawSockaddrInet4
	size    uintptr               // of to
	err     syscall.Errno
	trySend func(fd uintptr) (done bool)
}

// sendCalls holds values of sendCall for reuse. The trySend of each is bound only once,
// so that a write allocates nothing.
var sendCalls = sync.Pool{New: func() any {
	s := new(sendCall)
	s.trySend = s.send
	return s
}}

// send makes the system call. It returns false if the socket is not ready to send.
func (s *sendCall) send(fd uintptr) (done bool) {
	for {
		_, _, s.err = syscall.RawSyscall6(unix.SYS_SENDTO, fd, uintptr(unsafe.Pointer(unsafe.SliceData(s.b))), uintptr(len(s.b)),
			unix.MSG_DONTWAIT, uintptr(unsafe.Pointer(&s.to)), s.size)
		if s.err != unix.EINTR {
			return s.err != unix.EAGAIN
		}
	}
}

// WriteToUDPAddrPort sends one datagram. It may be called from several goroutines.
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

// drainErrorQueue empties the socket's error queue and informs the transactions of the
// requests in it. It reports whether there was an error.
func (l *listener) drainErrorQueue() (found bool) {
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
			l.proxy.reportUnsent(quoted[:n])
		}
	})
	return found
}
