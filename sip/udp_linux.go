package sip

import (
	"cmp"
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
	raw     syscall.RawConn
	v4      bool           // of family AF_INET, not AF_INET6
	anyAddr bool           // bound to an unspecified address
	batch   *datagramBatch // used by the reading goroutine only; nil: nothing was received
}

// receiveBatch is the largest number of datagrams that one system call receives. A call
// that returns fewer has emptied the socket, so there is no backlog.
const receiveBatch = 16

// newPacketConn requests a large receive buffer and turns the error queue on. Without
// the error queue, an unconnected socket gets no report of a closed port. A socket on an
// unspecified address reports to which address each datagram was sent.
func newPacketConn(c *net.UDPConn) (PacketConn, error) {
	own := addrPortOf(c.LocalAddr()).Addr()
	s := &udpSocket{UDPConn: c, v4: own.Is4(), anyAddr: own.IsUnspecified()}
	raw, err := c.SyscallConn()
	if err != nil {
		return nil, err
	}
	s.raw = raw
	raw.Control(func(fd uintptr) {
		if unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, receiveBufferSize) != nil {
			unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, receiveBufferSize)
		}
		unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_SNDBUF, receiveBufferSize/4)
		unix.SetsockoptInt(int(fd), unix.SOL_IP, unix.IP_RECVERR, 1)
		unix.SetsockoptInt(int(fd), unix.SOL_IPV6, unix.IPV6_RECVERR, 1)
		if s.anyAddr {
			unix.SetsockoptInt(int(fd), unix.SOL_IP, unix.IP_PKTINFO, 1)
			unix.SetsockoptInt(int(fd), unix.SOL_IPV6, unix.IPV6_RECVPKTINFO, 1)
		}
	})
	return s, nil
}

// freeBind lets a socket be bound to an address that the machine does not have.
func freeBind(_, _ string, c syscall.RawConn) (err error) {
	ctrlErr := c.Control(func(fd uintptr) {
		if err = unix.SetsockoptInt(int(fd), unix.SOL_IP, unix.IP_FREEBIND, 1); err != nil {
			err = unix.SetsockoptInt(int(fd), unix.SOL_IPV6, unix.IPV6_FREEBIND, 1)
		}
	})
	return cmp.Or(ctrlErr, err)
}

// datagramBatch is the memory that recvmmsg fills: struct mmsghdr and the memory it
// points to.
type datagramBatch struct {
	head [receiveBatch]struct {
		unix.Msghdr
		n uint32
	}
	iovec   [receiveBatch]unix.Iovec
	from    [receiveBatch]unix.RawSockaddrInet6 // or RawSockaddrInet4, which is shorter
	control [receiveBatch]controlMessage
	buf     [receiveBatch][maxMessage + 1]byte
}

// newDatagramBatch returns an empty batch. It has 1 MiB, so a socket keeps its batch: every
// closed port that the proxy sends to ends receiveBatches once.
func newDatagramBatch(anyAddr bool) *datagramBatch {
	in := new(datagramBatch)
	for i := range in.head {
		h := &in.head[i]
		h.Name = (*byte)(unsafe.Pointer(&in.from[i]))
		h.Iov = &in.iovec[i]
		h.SetIovlen(1)
		in.iovec[i].Base = &in.buf[i][0]
		in.iovec[i].SetLen(len(in.buf[i]))
		if anyAddr {
			h.Control = (*byte)(unsafe.Pointer(&in.control[i]))
		}
	}
	return in
}

// controlMessage is the memory of one control message: struct cmsghdr and struct
// in_pktinfo or in6_pktinfo.
type controlMessage struct {
	unix.Cmsghdr
	data [24]byte
}

// receiveBatches calls handle for every datagram until the socket fails. It holds the
// socket for reading all the time, so that no readiness event is lost between two reads.
func (s *udpSocket) receiveBatches(handle datagramHandler) error {
	if s.batch == nil {
		s.batch = newDatagramBatch(s.anyAddr)
	}
	in := s.batch
	var failed syscall.Errno
	err := s.raw.Read(func(fd uintptr) (done bool) {
		for {
			for i := range in.head {
				in.head[i].Namelen = unix.SizeofSockaddrInet6
				if s.anyAddr {
					in.head[i].SetControllen(int(unsafe.Sizeof(in.control[i])))
				}
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
				handle(in.buf[i][:in.head[i].n], in.peerAddr(i), in.localAddr(i), n < receiveBatch)
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

// localAddr returns the address of the machine to which datagram i was sent. It is the zero
// address if the socket does not report it, or if it is a multicast address.
func (in *datagramBatch) localAddr(i int) (ip netip.Addr) {
	c := &in.control[i]
	if in.head[i].Controllen < unix.SizeofCmsghdr {
		return ip
	}
	switch {
	case c.Level == unix.SOL_IP && c.Type == unix.IP_PKTINFO:
		ip = netip.AddrFrom4((*unix.Inet4Pktinfo)(unsafe.Pointer(&c.data)).Spec_dst)
	case c.Level == unix.SOL_IPV6 && c.Type == unix.IPV6_PKTINFO:
		ip = netip.AddrFrom16((*unix.Inet6Pktinfo)(unsafe.Pointer(&c.data)).Addr)
	}
	if ip.IsMulticast() || ip.IsUnspecified() {
		return netip.Addr{}
	}
	return ip
}

// readPort reads a port in network byte order.
func readPort(p *uint16) uint16 { return binary.BigEndian.Uint16((*[2]byte)(unsafe.Pointer(p))[:]) }

// writePort writes a port in network byte order.
func writePort(p *uint16, port uint16) {
	binary.BigEndian.PutUint16((*[2]byte)(unsafe.Pointer(p))[:], port)
}

// sendCall is one sendto or sendmsg system call and its arguments.
type sendCall struct {
	b       []byte
	to      unix.RawSockaddrInet6 // or RawSockaddrInet4
	size    uintptr               // of to
	from    bool                  // head and its control message are set: sendmsg
	head    unix.Msghdr
	iovec   unix.Iovec
	control controlMessage
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
		if s.from {
			_, _, s.err = syscall.RawSyscall(unix.SYS_SENDMSG, fd, uintptr(unsafe.Pointer(&s.head)), unix.MSG_DONTWAIT)
		} else {
			_, _, s.err = syscall.RawSyscall6(unix.SYS_SENDTO, fd, uintptr(unsafe.Pointer(unsafe.SliceData(s.b))), uintptr(len(s.b)),
				unix.MSG_DONTWAIT, uintptr(unsafe.Pointer(&s.to)), s.size)
		}
		if s.err != unix.EINTR {
			return s.err != unix.EAGAIN
		}
	}
}

// setLocal makes the call send from the address ip of a family.
func (s *sendCall) setLocal(ip netip.Addr, v4 bool) {
	s.from = true
	s.iovec.Base = unsafe.SliceData(s.b)
	s.iovec.SetLen(len(s.b))
	s.head = unix.Msghdr{Name: (*byte)(unsafe.Pointer(&s.to)), Namelen: uint32(s.size), Iov: &s.iovec, Control: (*byte)(unsafe.Pointer(&s.control))}
	s.head.SetIovlen(1)
	s.control = controlMessage{}
	size := unix.SizeofInet6Pktinfo
	if v4 {
		s.control.Level, s.control.Type, size = unix.SOL_IP, unix.IP_PKTINFO, unix.SizeofInet4Pktinfo
		(*unix.Inet4Pktinfo)(unsafe.Pointer(&s.control.data)).Spec_dst = ip.As4()
	} else {
		s.control.Level, s.control.Type = unix.SOL_IPV6, unix.IPV6_PKTINFO
		(*unix.Inet6Pktinfo)(unsafe.Pointer(&s.control.data)).Addr = ip.As16()
	}
	s.control.SetLen(unix.CmsgLen(size))
	s.head.SetControllen(unix.CmsgSpace(size))
}

// WriteToUDPAddrPort sends one datagram. It may be called from several goroutines.
func (s *udpSocket) WriteToUDPAddrPort(b []byte, to netip.AddrPort) (int, error) {
	return s.WriteFrom(b, netip.Addr{}, to)
}

// WriteFrom sends one datagram from the address local, or from an address that the system
// chooses if local is not valid. It may be called from several goroutines. The system also
// chooses for a peer at a link-local address, which only one of our addresses reaches.
func (s *udpSocket) WriteFrom(b []byte, local netip.Addr, to netip.AddrPort) (int, error) {
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
	if out.from = false; s.anyAddr && local.IsValid() && local.Is4() == s.v4 {
		out.setLocal(local, s.v4)
	}
	err := s.raw.Write(out.trySend)
	out.b, out.iovec.Base = nil, nil
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
