//go:build !linux

package sip

import (
	"errors"
	"net"
	"syscall"
)

func newPacketConn(c *net.UDPConn) (PacketConn, error) {
	c.SetReadBuffer(receiveBufferSize)
	return c, nil
}

// drainErrorQueue does nothing on this system: Timer B or F reports a closed port.
func (l *listener) drainErrorQueue() bool { return false }

// freeBind refuses to bind an address that the machine does not have.
func freeBind(_, _ string, _ syscall.RawConn) error { return errors.ErrUnsupported }
