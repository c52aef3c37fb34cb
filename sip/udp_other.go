//go:build !linux

package sip

import "net"

func newPacketConn(c *net.UDPConn) (PacketConn, error) {
	c.SetReadBuffer(receiveBufferSize)
	return c, nil
}

// drainErrorQueue has nothing to read here: a closed port shows by Timer B.
func (h *Proxy) drainErrorQueue(*listener) bool { return false }
