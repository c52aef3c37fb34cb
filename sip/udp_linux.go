package sip

import (
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// tuneUDP asks for a large receive buffer and for the error queue: without it
// nobody tells an unconnected socket that a port is closed.
func tuneUDP(c *net.UDPConn, size int) {
	raw, err := c.SyscallConn()
	if err != nil {
		return
	}
	raw.Control(func(fd uintptr) {
		if unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, size) != nil {
			unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, size)
		}
		unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_SNDBUF, size/4)
		unix.SetsockoptInt(int(fd), unix.SOL_IP, unix.IP_RECVERR, 1)
		unix.SetsockoptInt(int(fd), unix.SOL_IPV6, unix.IPV6_RECVERR, 1)
	})
}

// sendErrors empties the socket's error queue and tells the transactions whose
// requests are in it. It reports whether there was any.
func (h *Hop) sendErrors(l *listener) (found bool) {
	c, ok := l.packet.(*net.UDPConn)
	if !ok {
		return false
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return false
	}
	var quoted [2048]byte
	var control [512]byte
	raw.Control(func(fd uintptr) {
		for {
			n, _, _, _, err := unix.Recvmsg(int(fd), quoted[:], control[:], syscall.MSG_ERRQUEUE|syscall.MSG_DONTWAIT)
			if err != nil {
				return
			}
			found = true
			h.unsent(quoted[:n])
		}
	})
	return found
}
