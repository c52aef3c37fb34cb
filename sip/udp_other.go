//go:build !linux

package sip

import "net"

func newPacketConn(c *net.UDPConn) (PacketConn, error) {
	c.SetReadBuffer(receiveBufferSize)
	return c, nil
}

// drainErrorQueue does nothing on this system: Timer B or F reports a closed port.
func (l *listener) drainErrorQueue() bool { return false }
