package sip

import (
	"net/netip"

	"bellhop/dialog"
)

// keptRequest is a received request that a worker keeps, to route it later or once more.
type keptRequest struct {
	buf      []byte // the request as it was received
	listener *listener
	conn     *stream
	peer     netip.AddrPort
	local    netip.Addr // our address that it was sent to
	side     dialog.Side
	at       instant // time at which it was received
	hash     uint32  // loop hash
}

// keepRequest copies the request of p. hash is its loop hash. See keptRequest.release.
func (w *worker) keepRequest(p *packet, hash uint32) keptRequest {
	return keptRequest{
		buf: w.memory.retainCopy(nil, p.buf), listener: p.listener, conn: p.conn, peer: p.peer,
		local: p.local, side: p.side, at: p.receivedAt, hash: hash,
	}
}

// packet returns the request as a packet, which the caller releases. The request ends with
// the buffer, over a stream too: a message in a WebSocket frame needs no Content-Length.
func (k *keptRequest) packet() *packet {
	p := newPacket(k.buf)
	p.msg.index(p.buf, false)
	p.listener, p.conn, p.peer, p.local, p.side, p.receivedAt = k.listener, k.conn, k.peer, k.local, k.side, k.at
	return p
}

// release frees the copy.
func (k *keptRequest) release(w *worker) { k.buf = w.memory.releaseCopy(k.buf) }
