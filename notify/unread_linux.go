package notify

import (
	"crypto/tls"
	"net"
	"syscall"
)

// unread reports whether a kept connection has bytes that nobody asked for, or was
// closed by the receiver: it must not be used again. Of TLS these are bytes of any
// record, as an alert that closes it.
func hasUnreadBytes(c net.Conn) (unread bool) {
	if t, ok := c.(*tls.Conn); ok {
		c = t.NetConn()
	}
	sc, ok := c.(syscall.Conn)
	if !ok {
		return false
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return true
	}
	var b [1]byte
	err = raw.Read(func(fd uintptr) bool {
		_, _, err := syscall.Recvfrom(int(fd), b[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		unread = err != syscall.EAGAIN && err != syscall.EINTR
		return true
	})
	return unread || err != nil
}
