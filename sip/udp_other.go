//go:build !linux

package sip

import "net"

func tuneUDP(c *net.UDPConn, size int) { c.SetReadBuffer(size) }

// sendErrors has nothing to read here: a closed port shows by Timer B.
func (h *Hop) sendErrors(*listener) bool { return false }
