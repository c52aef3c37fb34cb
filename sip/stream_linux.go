package sip

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// setUserTimeout limits for how long data on a TCP socket may stay unacknowledged. Accepted
// sockets inherit the limit of their listener. It is a control function of [net.Dialer].
func setUserTimeout(_, _ string, c syscall.RawConn) error {
	var err error
	if e := c.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(userTimeout.Milliseconds()))
	}); e != nil {
		return e
	}
	return err
}
