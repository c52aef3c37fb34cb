package sip

import (
	"bytes"
)

// This file limits what unknown sources can take: memory for their transactions, and bytes
// sent to an address that they may have forged.

// shedLogInterval is the shortest time between two log lines of one worker about shed
// requests.
const shedLogInterval = instant(60e9)

// updateShedding turns shedding on or off: new requests of unknown sources are dropped
// while transactions hold at least 80 % of their memory limit.
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

// admitRequest reports whether a request may start a transaction; a request that is not
// ok is answered with f, or dropped if f is nil.
//
// At 80 % of the memory limit, new requests of unknown sources are dropped; at 90 %, their
// requests within a dialog too, because a To tag is easily made up. At 95 %, new requests
// of known sources are refused. Requests of known sources within a dialog are always
// admitted.
func (w *worker) admitRequest(now instant, p *packet) (f *fault, ok bool) {
	if w.memory.heldBytes < w.memory.maxHeldBytes/10*8 {
		return nil, true
	}
	known := w.proxy.isKnown(now, p)
	switch {
	case !p.msg.initial() && (known || w.memory.heldBytes < w.memory.maxHeldBytes/10*9):
		return nil, true
	case known && w.memory.heldBytes < w.memory.maxHeldBytes/100*95:
		return nil, true
	case known:
		return overloaded, false
	}
	return nil, false
}

// overloaded answers new requests of known sources when transactions hold too much
// memory.
var overloaded = &fault{503, "Overloaded"}

// isKnown reports whether a request comes from the PBX, from a trunk, or from an address
// whose REGISTER or INVITE was accepted within the last hour.
func (px *Proxy) isKnown(now instant, p *packet) bool {
	ip := p.peer.Addr()
	return p.side == pbxSide || px.acceptedSources.has(ip, now) || px.peers.isConfigured(ip)
}

// priorityOf returns the priority of p. A CANCEL has the priority of its INVITE, so that
// both keep their order.
func (px *Proxy) priorityOf(p *packet) priority {
	m := &p.msg
	if !m.isRequest() {
		return inDialog
	}
	switch known, initial := px.isKnown(p.receivedAt, p), m.initial(); {
	case known && !initial:
		return inDialog
	case known || !initial:
		return fromKnown
	}
	return fromStranger
}

// isProven reports whether the peer has proved that it receives at its address: it has a
// connection, or it knew the content of a response. PBX and trunks need no proof.
func (px *Proxy) isProven(now instant, to destination) bool {
	ip := to.addr.Addr()
	return to.conn != nil || px.provenSources.has(ip, now) || px.peers.isConfigured(ip)
}

// rememberAccepted makes the source of a REGISTER or INVITE that got a 2xx a known source. A
// 2xx to a REGISTER also proves the source's address: the credentials answer a challenge.
func (px *Proxy) rememberAccepted(now instant, t *responseContext, m *message) {
	if t.src != edgeSide || m.status/100 != 2 {
		return
	}
	ip := t.server.upstream.peer().Addr()
	switch {
	case m.isMethod("REGISTER"):
		px.acceptedSources.add(ip, now)
		px.provenSources.add(ip, now)
	case m.isMethod("INVITE"):
		px.acceptedSources.add(ip, now)
	}
}

// rememberBinding notes the address in the token of a binding as known and proven, when
// the PBX sends a request to that binding. The PBX has the token because it accepted a
// REGISTER with it. After a restart of bellhop, the first request of the PBX to a phone,
// such as a periodic OPTIONS, thus restores what an earlier process knew.
func (px *Proxy) rememberBinding(p *packet, t *token) {
	if ip := t.flow.peer.Addr(); p.side == pbxSide && ip.IsValid() {
		px.acceptedSources.add(ip, p.receivedAt)
		px.phoneSources.add(ip, p.receivedAt)
		px.provenSources.add(ip, p.receivedAt)
	}
}

// proveByACK accepts the ACK of a failure as proof of its source's address, if the ACK
// comes from the address of the INVITE and has the To tag of the failure.
func (w *worker) proveByACK(now instant, s *serverTx, p *packet) {
	ip := p.peer.Addr()
	if s.state != serverCompleted || p.conn != nil || ip != s.upstream.addr.Addr() || w.proxy.provenSources.has(ip, now) {
		return
	}
	w.scratch.index(s.lastResponse, false)
	if tag := w.scratch.text(w.scratch.toTag); len(tag) > 0 && bytes.Equal(tag, p.msg.text(p.msg.toTag)) {
		w.proxy.provenSources.add(ip, now)
	}
}

// proveByRoute accepts the ACK of a 2xx as proof of its source's address, if it returns
// our Record-Route token for this address: only the response contained it. It is called
// after routing has removed our Routes.
func (w *worker) proveByRoute(now instant, p *packet) {
	ip := p.peer.Addr()
	if p.side != edgeSide || p.conn != nil || w.proxy.provenSources.has(ip, now) {
		return
	}
	if w.router.poppedTokenNames(ip, &p.msg) {
		w.proxy.provenSources.add(ip, now)
	}
}

// shrinkingMap is a map that frees memory: once it has held 4,096 entries or more, and has
// shrunk to an eighth of its largest length, it is copied into a new map.
type shrinkingMap[K comparable, V any] struct {
	m       map[K]V
	peakLen int // largest length since m was made
}

func (t *shrinkingMap[K, V]) put(k K, v V) {
	if t.m == nil {
		t.m = make(map[K]V)
	}
	t.m[k] = v
	t.peakLen = max(t.peakLen, len(t.m))
}

func (t *shrinkingMap[K, V]) remove(k K) {
	delete(t.m, k)
	n := len(t.m)
	if t.peakLen < 4096 || n > t.peakLen/8 {
		return
	}
	m := make(map[K]V, n)
	for k, v := range t.m {
		m[k] = v
	}
	t.m, t.peakLen = m, n
}
