package sip

import (
	"fmt"
	"time"
)

// Each of several PBXs gets OPTIONS every probeInterval. A PBX counts as down if it gives
// no response within probeTimeout.
const (
	probeInterval = instant(10 * time.Second)
	probeTimeout  = instant(4 * time.Second)
)

// probe sends OPTIONS to one of several PBXs to see whether it is up. A single PBX is
// not probed, because there is no other PBX to send calls to.
type probe struct {
	worker  *worker
	pbx     *pbx
	timer   timer
	sent    int
	awaited *clientTx // OPTIONS without a response so far, or nil
}

// startProbes starts a probe for each PBX. Only the first worker probes, and only if
// there are several PBXs.
func (w *worker) startProbes() {
	if w.index != 0 || len(w.proxy.peers.pbx) < 2 {
		return
	}
	for _, p := range w.proxy.peers.pbx {
		b := &probe{worker: w, pbx: p}
		b.timer.owner = b
		b.handleTimer(w.now())
	}
}

// handleTimer sends the next OPTIONS. If the last one has no response yet, the PBX
// counts as down instead.
func (b *probe) handleTimer(now instant) {
	if b.awaited != nil {
		b.awaited.terminate()
		b.awaited = nil
		b.setDown(true)
		b.worker.wheel.start(&b.timer, now+probeInterval-probeTimeout)
		return
	}
	w, a := b.worker, b.pbx.addr
	to, _ := w.proxy.destinationAt(a, pbxSide, nil) // Listen has found a listener for each PBX
	b.sent++
	c := &clientTx{worker: w, user: b, id: w.newTxID(), nextHop: to}
	branch, name := w.proxy.branchSalt.appendBranch(nil, c.id, c.loopHash), to.ownName(pbxSide).sentBy
	c.request = w.memory.retainCopy(nil, fmt.Appendf(nil, "OPTIONS sip:%s SIP/2.0\r\nVia: SIP/2.0/%s %s;branch=%s\r\nMax-Forwards: 70\r\n"+
		"From: <sip:%s>;tag=%x\r\nTo: <sip:%s>\r\nCall-ID: probe-%08x-%d\r\nCSeq: %d OPTIONS\r\nContent-Length: 0\r\n\r\n",
		a.AddrPort, to.listener.proto.viaName(), name, branch, name, c.id, a.AddrPort, w.proxy.branchSalt, w.index, b.sent))
	b.awaited = c
	b.worker.wheel.start(&b.timer, now+probeTimeout)
	c.start(now)
}

// handleResponse handles a response to an OPTIONS. Any final response means that the PBX
// is up, except 503, with which a PBX refuses calls.
func (b *probe) handleResponse(now instant, p *packet) {
	if p.msg.status >= 200 {
		b.handleAnswer(now, p.msg.status == 503)
	}
}

func (b *probe) handleFailure(now instant, why failureReason) { b.handleAnswer(now, true) }

// handleAnswer notes the state of the PBX and schedules the next OPTIONS.
func (b *probe) handleAnswer(now instant, down bool) {
	b.awaited = nil
	b.setDown(down)
	b.worker.wheel.start(&b.timer, now+probeInterval)
}

// setDown stores whether the PBX is down, and logs a change.
func (b *probe) setDown(down bool) {
	if b.pbx.down.Swap(down) != down {
		b.worker.proxy.log.Warn("PBX state changed", "pbx", b.pbx.addr, "down", down)
	}
}
