package sip

import (
	"bytes"
	"net/netip"
)

// This file bounds what strangers can have of the hop: memory for their
// transactions, and bytes that are sent to an address they only claim.

// shedLog is the least time between two log lines of a worker about requests shed.
const shedLog = instant(60e9)

// measure notes whether four fifths of the memory that transactions may hold are
// taken: from then on the new requests of strangers are dropped.
func (w *worker) measure(now instant) {
	full := w.held >= w.maxHeld/10*8
	if full == w.full.Load() {
		return
	}
	w.full.Store(full)
	if full && (now-w.warned >= shedLog || w.warned == 0) {
		w.warned = now
		w.hop.log.Warn("new requests of unknown sources shed: transactions hold most of the memory they may", "worker", w.index, "bytes", w.held, "limit", w.maxHeld)
	}
}

// admit reports whether a request may have a transaction. When four fifths of the
// memory are taken, new requests of strangers are dropped, and at 90 % those that
// say they are within a dialog: a To tag is easily made up. At 95 % the new
// requests of known sources are refused with f; theirs within a dialog always go.
func (w *worker) admit(now instant, p *packet) (f *fault, ok bool) {
	if w.held < w.maxHeld/10*8 {
		return nil, true
	}
	known := w.hop.knows(now, p)
	switch {
	case !p.msg.initial() && (known || w.held < w.maxHeld/10*9):
		return nil, true
	case known && w.held < w.maxHeld/100*95:
		return nil, true
	case known:
		return overloaded, false
	}
	return nil, false
}

var overloaded = &fault{503, "Overloaded"}

// knows reports whether a request comes from the PBX, from a trunk, or from an
// address whose REGISTER or INVITE was accepted within the hour.
func (h *Hop) knows(now instant, p *packet) bool {
	ip := p.peer.Addr()
	return p.side == pbxSide || h.known.has(ip, now) || h.trusted(ip)
}

// rank says how long p may wait. A CANCEL waits as long as its INVITE, so that
// they keep their order.
func (h *Hop) rank(p *packet) rank {
	m := &p.msg
	if !m.request() {
		return inDialog
	}
	switch known, initial := h.knows(p.at, p), m.initial(); {
	case known && !initial:
		return inDialog
	case known || !initial:
		return fromKnown
	}
	return fromStranger
}

// trusted reports whether the configuration names an address: as the PBX's, or
// as a trunk's.
func (h *Hop) trusted(ip netip.Addr) bool { return h.pbxHost(ip) || h.trunkAt(ip) != nil }

// proven reports whether who is at the other end has proved to be there: by a
// connection, or by something that only a response can have told him. PBX and
// trunks need not.
func (w *worker) proven(to way) bool {
	ip := to.to.Addr()
	return to.conn != nil || w.hop.proved.has(ip, w.now()) || w.hop.trusted(ip)
}

// remember notes who got a 2xx. That to a REGISTER proves that the source is
// there: its credentials answer a challenge.
func (w *worker) remember(now instant, t *responseContext, m *message) {
	if t.src != edgeSide || m.status/100 != 2 {
		return
	}
	ip := t.server.upstream.peer().Addr()
	switch {
	case m.is("REGISTER"):
		w.hop.known.add(ip, now)
		w.hop.proved.add(ip, now)
	case m.is("INVITE"):
		w.hop.known.add(ip, now)
	}
}

// rememberBinding notes whose binding a request of the PBX is sent to. Its token went
// into a REGISTER, and the PBX has it because it accepted that: after a restart of
// bellhop its first request to a phone, such as the OPTIONS by which it sees whether the
// phone is there, says who had proved to be there before.
func (h *Hop) rememberBinding(p *packet, t *token) {
	if ip := t.flow.peer.Addr(); p.side == pbxSide && ip.IsValid() {
		h.known.add(ip, p.at)
		h.phones.add(ip, p.at)
		h.proved.add(ip, p.at)
	}
}

// proveByACK takes the ACK of the failure that s sent last for a proof if it
// comes from where the INVITE came from, with the To tag of that response.
func (w *worker) proveByACK(now instant, s *serverTx, p *packet) {
	ip := p.peer.Addr()
	if s.state != serverCompleted || p.conn != nil || ip != s.upstream.to.Addr() || w.hop.proved.has(ip, now) {
		return
	}
	w.aux.index(s.lastResponse, false)
	if tag := w.aux.text(w.aux.toTag); len(tag) > 0 && bytes.Equal(tag, p.msg.text(p.msg.toTag)) {
		w.hop.proved.add(ip, now)
	}
}

// proveByRoute takes the ACK of a 2xx for a proof if it has our Record-Route
// back, made for this very address: only the response told it. It is called
// when routing has taken our own Routes off.
func (w *worker) proveByRoute(now instant, p *packet) {
	ip := p.peer.Addr()
	if p.side != edgeSide || p.conn != nil || w.hop.proved.has(ip, now) {
		return
	}
	for i := range w.routeBuf {
		if r := &w.routeBuf[i]; r.field < 0 && r.uri.User != "" {
			if t, ok := w.seal.openRoute(r.uri.User, &p.msg); ok && !t.unbound && t.flow.peer.Addr() == ip {
				w.hop.proved.add(ip, now)
				return
			}
		}
	}
}

// A table is a map that gives memory back: once it holds little of what it
// held, it is made anew.
type table[K comparable, V any] struct {
	m    map[K]V
	most int // entries since m was made
}

func (t *table[K, V]) put(k K, v V) {
	if t.m == nil {
		t.m = make(map[K]V)
	}
	t.m[k] = v
	t.most = max(t.most, len(t.m))
}

func (t *table[K, V]) remove(k K) {
	delete(t.m, k)
	n := len(t.m)
	if t.most < 4096 || n > t.most/8 {
		return
	}
	m := make(map[K]V, n)
	for k, v := range t.m {
		m[k] = v
	}
	t.m, t.most = m, n
}
