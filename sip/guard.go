package sip

import (
	"bytes"
	"net/netip"
)

// This file bounds what strangers can have of the hop: memory for their
// transactions, and bytes that are sent to an address they only claim.

// shedLog is the least time between two log lines of a worker about requests shed.
const shedLogInterval = instant(60e9)

// measure notes whether four fifths of the memory that transactions may hold are
// taken: from then on the new requests of strangers are dropped.
func (w *worker) updateShedding(now instant) {
	full := w.heldBytes >= w.maxHeldBytes/10*8
	if full == w.shedding.Load() {
		return
	}
	w.shedding.Store(full)
	if full && (now-w.shedLoggedAt >= shedLogInterval || w.shedLoggedAt == 0) {
		w.shedLoggedAt = now
		w.proxy.log.Warn("new requests of unknown sources shed", "worker", w.index, "held_bytes", w.heldBytes, "limit_bytes", w.maxHeldBytes)
	}
}

// admit reports whether a request may have a transaction. When four fifths of the
// memory are taken, new requests of strangers are dropped, and at 90 % those that
// say they are within a dialog: a To tag is easily made up. At 95 % the new
// requests of known sources are refused with f; theirs within a dialog always go.
func (w *worker) admitRequest(now instant, p *packet) (f *fault, ok bool) {
	if w.heldBytes < w.maxHeldBytes/10*8 {
		return nil, true
	}
	known := w.proxy.isKnown(now, p)
	switch {
	case !p.msg.initial() && (known || w.heldBytes < w.maxHeldBytes/10*9):
		return nil, true
	case known && w.heldBytes < w.maxHeldBytes/100*95:
		return nil, true
	case known:
		return overloaded, false
	}
	return nil, false
}

var overloaded = &fault{503, "Overloaded"}

// knows reports whether a request comes from the PBX, from a trunk, or from an
// address whose REGISTER or INVITE was accepted within the hour.
func (h *Proxy) isKnown(now instant, p *packet) bool {
	ip := p.peer.Addr()
	return p.side == pbxSide || h.acceptedSources.has(ip, now) || h.isConfigured(ip)
}

// rank says how long p may wait. A CANCEL waits as long as its INVITE, so that
// they keep their order.
func (h *Proxy) priorityOf(p *packet) priority {
	m := &p.msg
	if !m.isRequest() {
		return inDialog
	}
	switch known, initial := h.isKnown(p.receivedAt, p), m.initial(); {
	case known && !initial:
		return inDialog
	case known || !initial:
		return fromKnown
	}
	return fromStranger
}

// trusted reports whether the configuration names an address: as the PBX's, or
// as a trunk's.
func (h *Proxy) isConfigured(ip netip.Addr) bool { return h.isPBXHost(ip) || h.trunkAt(ip) != nil }

// proven reports whether who is at the other end has proved to be there: by a
// connection, or by something that only a response can have told him. PBX and
// trunks need not.
func (w *worker) isProven(to destination) bool {
	ip := to.addr.Addr()
	return to.conn != nil || w.proxy.provenSources.has(ip, w.now()) || w.proxy.isConfigured(ip)
}

// remember notes who got a 2xx. That to a REGISTER proves that the source is
// there: its credentials answer a challenge.
func (w *worker) rememberAccepted(now instant, t *responseContext, m *message) {
	if t.src != edgeSide || m.status/100 != 2 {
		return
	}
	ip := t.server.upstream.peer().Addr()
	switch {
	case m.isMethod("REGISTER"):
		w.proxy.acceptedSources.add(ip, now)
		w.proxy.provenSources.add(ip, now)
	case m.isMethod("INVITE"):
		w.proxy.acceptedSources.add(ip, now)
	}
}

// rememberBinding notes whose binding a request of the PBX is sent to. Its token went
// into a REGISTER, and the PBX has it because it accepted that: after a restart of
// bellhop its first request to a phone, such as the OPTIONS by which it sees whether the
// phone is there, says who had proved to be there before.
func (h *Proxy) rememberBinding(p *packet, t *token) {
	if ip := t.flow.peer.Addr(); p.side == pbxSide && ip.IsValid() {
		h.acceptedSources.add(ip, p.receivedAt)
		h.phoneSources.add(ip, p.receivedAt)
		h.provenSources.add(ip, p.receivedAt)
	}
}

// proveByACK takes the ACK of the failure that s sent last for a proof if it
// comes from where the INVITE came from, with the To tag of that response.
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

// proveByRoute takes the ACK of a 2xx for a proof if it has our Record-Route
// back, made for this very address: only the response told it. It is called
// when routing has taken our own Routes off.
func (w *worker) proveByRoute(now instant, p *packet) {
	ip := p.peer.Addr()
	if p.side != edgeSide || p.conn != nil || w.proxy.provenSources.has(ip, now) {
		return
	}
	for i := range w.routeValues {
		if r := &w.routeValues[i]; r.field < 0 && r.uri.User != "" {
			if t, ok := w.sealer.openRouteToken(r.uri.User, &p.msg); ok && !t.unbound && t.flow.peer.Addr() == ip {
				w.proxy.provenSources.add(ip, now)
				return
			}
		}
	}
}

// A table is a map that gives memory back: once it holds little of what it
// held, it is made anew.
type shrinkingMap[K comparable, V any] struct {
	m       map[K]V
	peakLen int // entries since m was made
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
