package sip

import (
	"errors"
	"net"
	"net/netip"
	"syscall"
)

// sendMessage sends b and reports whether the transport accepted it. tx is the id of the
// client transaction that gets a later transport error, or 0.
//
// If to.conn is closed, another stream is opened to to.addr, unless that is the port from
// which the peer had connected: nobody listens there. For a response, to.addr is the
// source IP address of the request with the port of sent-by (RFC 3261 §18.2.2).
func (w *worker) sendMessage(to destination, b []byte, tx uint64) bool {
	switch {
	case to.conn == nil:
		return to.listener.writeDatagram(b, to.local, to.addr) == nil
	case to.conn.queueMessage(b, tx):
		return true
	case to.isFlow():
		return false
	}
	return w.proxy.streams.openTo(Addr{Proto: to.listener.proto, AddrPort: to.addr, Host: to.conn.host}, to.listener).queueMessage(b, tx)
}

// writeDatagram sends one datagram, from the address local if it is valid. If the machine
// no longer has that address, the system chooses another.
//
// The socket's error queue is on, so a write may return the error of an earlier datagram
// and send nothing. Therefore the write is tried up to three times. If the destination is
// still unreachable, the datagram counts as lost, the client transaction of its request is
// informed, and writeDatagram returns nil. Any other error is returned.
func (l *listener) writeDatagram(b []byte, local netip.Addr, to netip.AddrPort) (err error) {
	if l.packet == nil {
		return net.ErrClosed
	}
	for i := range 3 {
		if err = l.writePacket(b, local, to); err == nil {
			return nil
		}
		l.drainErrorQueue()
		if i > 0 || errors.Is(err, syscall.EINVAL) {
			local = netip.Addr{} // it may be the reason
		}
	}
	if isUnreachable(err) {
		l.proxy.reportUnsent(b)
		return nil
	}
	return err
}

// isUnreachable reports whether err says that a destination cannot be reached, as ICMP
// or ARP report it.
func isUnreachable(err error) bool {
	return errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.EHOSTUNREACH) || errors.Is(err, syscall.ENETUNREACH)
}

// writePacket sends one datagram with one system call.
func (l *listener) writePacket(b []byte, local netip.Addr, to netip.AddrPort) (err error) {
	if c, ok := l.packet.(sourceConn); ok && local.IsValid() {
		_, err = c.WriteFrom(b, local, to)
	} else {
		_, err = l.packet.WriteToUDPAddrPort(b, to)
	}
	return err
}

// sourceConn is a PacketConn on an unspecified address that can send from any address of
// the machine.
type sourceConn interface {
	// WriteFrom sends one datagram from the address local.
	WriteFrom(b []byte, local netip.Addr, to netip.AddrPort) (int, error)
}

// reportUnsent informs the worker of an undelivered request. b is the start of its
// datagram, as the ICMP error quotes it.
func (px *Proxy) reportUnsent(b []byte) {
	defer px.recoverPanic("error queue")
	var m message
	if !m.index(b, false) || !m.isRequest() || !m.via.ok {
		return
	}
	if id, _, ok := px.branchSalt.openBranch(m.text(m.via.branch)); ok {
		px.reportFailedTx(id)
	}
}
