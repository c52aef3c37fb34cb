//go:build !linux

package sip

import "net"

func newPacketConn(c *net.UDPConn) (PacketConn, error) {
	c.SetReadBuffer(receiveBuffer)
	return c, nil
}

// sendErrors has nothing to read here: a closed port shows by Timer B.
func (h *Hop) sendErrors(*listener) bool { return false }
