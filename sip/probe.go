package sip

import (
	"fmt"
	"time"
)

// Pauses of the OPTIONS to each of several PBXs.
const (
	probeEvery  = instant(10 * time.Second)
	probeAnswer = instant(4 * time.Second)
)

// A probe asks one of several PBXs with OPTIONS whether it is there. A single
// PBX is not asked: there is no other to go to.
type probe struct {
	w     *worker
	pbx   *pbx
	timer timer
	n     int
	asked *clientTx // nil when no answer is awaited
}

// probe begins to ask the PBXs that fall to this worker.
func (w *worker) probe() {
	if w.index != 0 || len(w.hop.pbx) < 2 {
		return
	}
	for _, p := range w.hop.pbx {
		b := &probe{w: w, pbx: p}
		b.timer.owner = b
		b.due(w.now())
	}
}

// due asks, or takes silence for an answer.
func (b *probe) due(now instant) {
	if b.asked != nil {
		b.asked.end()
		b.asked = nil
		b.say(true)
		b.w.wheel.start(&b.timer, now+probeEvery-probeAnswer)
		return
	}
	w, a := b.w, b.pbx.addr
	l := w.hop.listenerFor(a.Proto, a.Addr(), nil)
	to := way{on: l, to: a.AddrPort}
	if a.Proto == TCP {
		to.conn = w.hop.streams.to(a.AddrPort, l)
	}
	b.n++
	c := &clientTx{w: w, user: b, id: w.newID(), to: to}
	branch := w.appendBranch(nil, c.id, c.hash)
	c.request = w.keep(nil, fmt.Appendf(nil, "OPTIONS sip:%s SIP/2.0\r\nVia: SIP/2.0/%s %s;branch=%s\r\nMax-Forwards: 70\r\n"+
		"From: <sip:%s>;tag=%x\r\nTo: <sip:%s>\r\nCall-ID: probe-%08x-%d\r\nCSeq: %d OPTIONS\r\nContent-Length: 0\r\n\r\n",
		a.AddrPort, l.proto.via(), l.sentBy, branch, l.sentBy, c.id, a.AddrPort, w.hop.salt, w.index, b.n))
	b.asked = c
	b.w.wheel.start(&b.timer, now+probeAnswer)
	c.begin(now)
}

// response: whatever it says, the PBX is there; but one that says 503 wants no calls.
func (b *probe) response(now instant, c *clientTx, m *message, p *packet) {
	if m.status >= 200 {
		b.heard(now, m.status == 503)
	}
}

func (b *probe) failed(now instant, c *clientTx, why failure) { b.heard(now, true) }

func (b *probe) heard(now instant, down bool) {
	b.asked = nil
	b.say(down)
	b.w.wheel.start(&b.timer, now+probeEvery)
}

func (b *probe) say(down bool) {
	if b.pbx.down.Swap(down) != down {
		b.w.hop.log.Warn("PBX changed", "pbx", b.pbx.addr, "down", down)
	}
}
