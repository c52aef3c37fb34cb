package sip

import "bytes"

// This file limits what unknown sources can take: memory for their transactions, and bytes
// sent to an address that they may have forged.

// shedLogInterval is the shortest time between two log lines of one worker about shed
// requests.
const shedLogInterval = instant(60e9)

// updateShedding turns shedding on while transactions hold at least 80 % of their memory
// limit, and off otherwise. While it is on, new requests of unknown sources are dropped.
func (w *worker) updateShedding(now instant) {
	full := w.memory.heldBytes >= w.memory.maxHeldBytes/10*8
	if full == w.shedding.Load() {
		return
	}
	w.shedding.Store(full)
	if full && (now-w.shedLoggedAt >= shedLogInterval || w.shedLoggedAt == 0) {
		w.shedLoggedAt = now
		w.proxy.log.Warn("new requests of unknown sources shed", "worker", w.index, "held_bytes", w.memory.heldBytes, "limit_bytes", w.memory.maxHeldBytes)
	}
}

// admitRequest reports whether a request may start a transaction, and counts it otherwise.
// If ok is false, the request is answered with f, or dropped if f is nil.
//
// At 80 % of the memory limit, new requests of unknown sources are dropped; at 90 %, their
// requests within a dialog too, because a To tag is easily made up. At 95 %, new requests
// of known sources are refused. Requests of known sources within a dialog are always
// admitted.
func (w *worker) admitRequest(now instant, p *packet) (f *fault, ok bool) {
	if p.overRate {
		return overloaded, false
	}
	if w.memory.heldBytes < w.memory.maxHeldBytes/10*8 {
		return nil, true
	}
	known := w.proxy.sources.isKnown(now, p)
	switch {
	case !p.msg.initial() && (known || w.memory.heldBytes < w.memory.maxHeldBytes/10*9):
		return nil, true
	case known && w.memory.heldBytes < w.memory.maxHeldBytes/100*95:
		return nil, true
	case known:
		f = overloaded
	}
	w.proxy.stats.shed.Add(1)
	return f, false
}

// overloaded answers new requests of known sources when transactions hold too much
// memory, and new requests on a connection whose source sends too many.
var overloaded = &fault{503, "Overloaded"}

// proveByACK accepts the ACK of a 3xx‥6xx as proof of its source's address, if the ACK
// comes from the address of the INVITE and has the To tag of the 3xx‥6xx.
func (w *worker) proveByACK(now instant, s *serverTx, p *packet) {
	ip := p.peer.Addr()
	if s.state != serverCompleted || p.conn != nil || ip != s.upstream.addr.Addr() || w.proxy.sources.proven.has(ip, now) {
		return
	}
	w.scratch.index(s.lastResponse, false)
	if tag := w.scratch.text(w.scratch.toTag); len(tag) > 0 && bytes.Equal(tag, p.msg.text(p.msg.toTag)) {
		w.proxy.sources.proven.add(ip, now)
	}
}

// proveByRoute accepts the ACK of a 2xx as proof of its source's address, if the ACK
// returns our Record-Route token for this address, because only the response contained
// that token. It is called after routing has removed our Routes.
func (w *worker) proveByRoute(now instant, p *packet) {
	ip := p.peer.Addr()
	if p.side != edgeSide || p.conn != nil || w.proxy.sources.proven.has(ip, now) {
		return
	}
	if w.router.poppedTokenNames(ip, &p.msg) {
		w.proxy.sources.proven.add(ip, now)
	}
}
