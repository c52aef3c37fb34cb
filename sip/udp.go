package sip

import (
	"context"
	"errors"
	"hash/maphash"
	"net"
	"net/netip"
	"syscall"
	"time"
)

// machine is the [Network] of the machine we run on.
type systemNetwork struct{}

// receiveBuffer is what is asked of the kernel for a UDP socket: calls are lost
// to a full one while the processor is half idle.
const receiveBufferSize = 4 << 20

func (systemNetwork) ListenPacket(addr netip.AddrPort) (PacketConn, error) {
	c, err := net.ListenUDP(udpNetwork(addr.Addr()), net.UDPAddrFromAddrPort(addr))
	if err != nil {
		return nil, err
	}
	return newPacketConn(c)
}

func (systemNetwork) Listen(addr netip.AddrPort) (net.Listener, error) {
	return net.ListenTCP("tcp", net.TCPAddrFromAddrPort(addr))
}

func (systemNetwork) Dial(local netip.Addr, addr netip.AddrPort) (net.Conn, error) {
	d := net.Dialer{Timeout: dialTimeout}
	if !local.IsUnspecified() {
		d.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(local, 0))
	}
	return d.Dial("tcp", addr.String())
}

func udpNetwork(ip netip.Addr) string {
	if ip.Is4() {
		return "udp4"
	}
	return "udp"
}

func isInUse(err error) bool { return errors.Is(err, syscall.EADDRINUSE) }

// isUnreachable reports whether err is what ICMP or ARP said of a destination.
func isUnreachable(err error) bool {
	return errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.EHOSTUNREACH) || errors.Is(err, syscall.ENETUNREACH)
}

// readPackets hands each datagram to its worker until the socket is closed.
func (h *Proxy) readPackets(ctx context.Context, l *listener) {
	for {
		err := h.receiveDatagrams(l)
		if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
			return
		}
		// An ICMP error of something sent earlier, or a passing shortage:
		// the socket lives on.
		if !h.drainErrorQueue(l) {
			time.Sleep(time.Millisecond)
		}
	}
}

// receive hands datagrams on until the socket fails, or one panics.
func (h *Proxy) receiveDatagrams(l *listener) error {
	defer h.recoverPanic("socket")
	return receiveDatagrams(l.packet, func(b []byte, from netip.AddrPort, alone bool) { h.handleDatagram(l, b, from, alone) })
}

// datagram indexes a datagram and hands it on. A panic costs this one only.
func (h *Proxy) handleDatagram(l *listener, b []byte, from netip.AddrPort, alone bool) {
	defer h.recoverPanic("datagram")
	for len(b) > 1 && b[0] == '\r' && b[1] == '\n' {
		b = b[2:] // RFC 3261 §7.5
	}
	if len(b) < 16 {
		return // a keep-alive
	}
	p := newPacket(b)
	p.listener, p.peer, p.receivedAt = l, unmapAddr(from), h.now()
	if !p.msg.index(p.buf, false) {
		h.stats.malformed.Add(1)
		p.release()
		return
	}
	h.dispatch(p, alone)
}

// A receiver is a PacketConn that has a quicker way to receive.
type batchReceiver interface {
	receiveBatches(take func(b []byte, from netip.AddrPort, alone bool)) error
}

// receive shows take every datagram that comes, until the socket fails. The
// bytes are good until take returns. alone says that few others wait behind it.
func receiveDatagrams(c PacketConn, take func(b []byte, from netip.AddrPort, alone bool)) error {
	if r, ok := c.(batchReceiver); ok {
		return r.receiveBatches(take)
	}
	buf := make([]byte, maxMessage+1)
	for {
		before := time.Now()
		n, from, err := c.ReadFromUDPAddrPort(buf)
		if err != nil {
			return err
		}
		take(buf[:n], from, time.Since(before) > emptySocketRead)
	}
}

// idleRead is how long a read takes that found the socket empty and waited.
const emptySocketRead = 10 * time.Microsecond

// dispatch hands p, which is indexed, to the worker its Call-ID hashes to. A
// datagram for a full queue is dropped; a stream waits.
//
// alone says that there is no backlog: then the worker may do p at once, on
// this goroutine. Messages that come thick and fast are queued, so that several
// workers share them.
func (h *Proxy) dispatch(p *packet, alone bool) {
	h.stats.received.Add(1)
	p.side = h.sideOf(p)
	w := h.workerFor(&p.msg)
	if w == nil {
		h.stats.stray.Add(1)
		p.release()
		return
	}
	in := workItem{packet: p}
	if alone && w.tryInline(in) {
		return
	}
	r := h.priorityOf(p)
	if r == fromStranger && w.shedding.Load() {
		h.stats.shed.Add(1)
		p.release()
		return
	}
	if w.enqueue(in, r) {
		return
	}
	if p.conn != nil && w.enqueueWaiting(in, r, p.conn.done) { // the sender can be made to wait
		return
	}
	h.stats.dropped.Add(1)
	p.release()
}

// owner is the worker whose message m is: of a request by its Call-ID; of a
// response by our branch, which the same worker made. It is nil for a response
// to nothing of ours.
func (h *Proxy) workerFor(m *message) *worker {
	n := uint64(len(h.workers))
	if m.isRequest() {
		return h.workerOfCallID(m.text(m.callID))
	}
	id, _, ok := h.openBranch(m.text(m.via.branch))
	if !ok {
		return nil
	}
	return h.workers[id%n]
}

// workerOf is the worker that has the requests of a Call-ID.
func (h *Proxy) workerOfCallID(callID []byte) *worker {
	return h.workers[maphash.Bytes(h.hashSeed, callID)%uint64(len(h.workers))]
}

// write sends one datagram. With the error queue on, a call may return the
// error of an earlier datagram without sending: it is made again. If the network
// says no each time, the datagram is lost, as others are that leave.
func (l *listener) writeDatagram(b []byte, to netip.AddrPort) (err error) {
	if l.packet == nil {
		return net.ErrClosed
	}
	for range 3 {
		if _, err = l.packet.WriteToUDPAddrPort(b, to); err == nil {
			return nil
		}
		l.proxy.drainErrorQueue(l)
	}
	if isUnreachable(err) {
		l.proxy.reportUnsent(b)
		return nil
	}
	return err
}

// unsent tells the worker whose request b was that it did not arrive. b is the
// beginning of the datagram, as the error message quotes it.
func (h *Proxy) reportUnsent(b []byte) {
	defer h.recoverPanic("error queue")
	var m message
	if !m.index(b, false) || !m.isRequest() || !m.via.ok {
		return
	}
	if id, _, ok := h.openBranch(m.text(m.via.branch)); ok {
		h.reportFailedTx(id)
	}
}

// failed tells the worker that the request of a client transaction did not go out.
func (h *Proxy) reportFailedTx(id uint64) {
	if id == 0 {
		return
	}
	if !h.workers[id%uint64(len(h.workers))].enqueue(workItem{failedTx: id}, inDialog) {
		h.stats.dropped.Add(1) // Timers B and F will tell
	}
}
