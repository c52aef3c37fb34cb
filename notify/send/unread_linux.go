package send

import (
	"crypto/tls"
	"net"
	"syscall"
)

// hasUnreadBytes reports whether a kept connection has bytes that belong to no request,
// or was closed by the receiver. Such a connection must not be used again. With TLS the
// bytes may be of any record, such as a closing alert.
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
