package sip

import (
	"fmt"
	"time"
)

// Each target of several gets OPTIONS every probeInterval. One that gives no response
// within probeTimeout has missed it. A target counts as down after downMisses of them in a
// row, and as up again after upAnswers.
const (
	probeInterval = instant(5 * time.Second)
	probeTimeout  = instant(2 * time.Second)
	downMisses    = 2
	upAnswers     = 2
)

// probeCount counts the last probes of a target. Only the worker that probes uses it.
type probeCount struct {
	misses  int // without a response, in a row
	answers int // with a response, in a row, while the target is down
}

// prober sends OPTIONS to the targets of the PBXs to see which are up. A single target is
// not probed, because there is no other to send calls to.
type prober struct {
	worker *worker
	timer  timer
	sent   int
	probes []*probe // under way; empty between probeTimeout and the next OPTIONS
}

// probe is one OPTIONS.
type probe struct {
	worker *worker
	target *target
	tx     *clientTx // nil once there is a response or failure
}

// startProbes starts the probes. Only the first worker probes.
func (w *worker) startProbes() {
	if w.index != 0 || !w.proxy.peers.several() {
		return
	}
	b := &prober{worker: w}
	b.timer.owner = b
	b.handleTimer(w.now())
}

// handleTimer ends the probes that are under way, or sends the next ones.
func (b *prober) handleTimer(now instant) {
	if len(b.probes) > 0 {
		for _, p := range b.probes {
			if p.tx != nil {
				p.tx.terminate()
				p.handleMiss(1)
			}
		}
		b.probes = b.probes[:0]
		b.worker.wheel.start(&b.timer, now+probeInterval-probeTimeout)
		return
	}
	b.worker.wheel.start(&b.timer, now+probeTimeout)
	var targets []*target
	for _, p := range b.worker.proxy.peers.pbx {
		targets = append(targets, p.view.Load().targets...)
	}
	for _, t := range targets {
		if len(targets) == 1 {
			t.down.Store(false) // it was one of several until its name changed
			t.refusing.Store(false)
			t.probed = probeCount{}
			break
		}
		b.sendOptions(now, t)
	}
	if len(b.probes) == 0 {
		b.worker.wheel.start(&b.timer, now+probeInterval)
	}
}

// sendOptions sends OPTIONS to a target.
func (b *prober) sendOptions(now instant, t *target) {
	w := b.worker
	to, ok := w.proxy.destinationAt(t.Addr, pbxSide, nil)
	if !ok {
		return
	}
	b.sent++
	p := &probe{worker: w, target: t}
	b.probes = append(b.probes, p)
	c := &clientTx{worker: w, user: p, id: w.newTxID(), nextHop: to}
	branch, name := w.proxy.branchSalt.appendBranch(nil, c.id, c.loopHash), to.ownName(pbxSide).sentBy
	c.request = w.memory.retainCopy(nil, fmt.Appendf(nil, "OPTIONS sip:%s SIP/2.0\r\nVia: SIP/2.0/%s %s;branch=%s\r\nMax-Forwards: 70\r\n"+
		"From: <sip:%s>;tag=%x\r\nTo: <sip:%s>\r\nCall-ID: probe-%08x-%d\r\nCSeq: %d OPTIONS\r\nContent-Length: 0\r\n\r\n",
		t.AddrPort, to.listener.proto.viaName(), name, branch, name, c.id, t.AddrPort, w.proxy.branchSalt, w.index, b.sent))
	p.tx = c
	c.start(now)
}

// handleResponse handles a response to an OPTIONS. Any final response means that the
// target is there. With 503 it refuses new requests, but its dialogs go on.
func (p *probe) handleResponse(now instant, m *packet) {
	if m.msg.status < 200 || p.tx == nil {
		return
	}
	p.tx = nil
	t := p.target
	t.restsUntil.Store(0)
	t.probed.misses = 0
	if t.down.Load() {
		if t.probed.answers++; t.probed.answers >= upAnswers {
			t.setDown(p.worker.proxy, false, "it answers OPTIONS")
		}
	}
	if refuses := m.msg.status == 503; t.refusing.Swap(refuses) != refuses {
		p.worker.proxy.log.Warn("PBX state changed", "pbx", t.remote.config.String(), "address", t.Addr.String(), "refuses", refuses)
	}
}

// handleFailure handles a transport error or the end of the transaction.
func (p *probe) handleFailure(now instant, why failureReason) {
	if p.tx != nil {
		p.tx = nil
		p.handleMiss(downMisses)
	}
}

// handleMiss counts n probes without a response.
func (p *probe) handleMiss(n int) {
	p.tx = nil
	t := p.target
	t.probed.answers = 0
	if t.probed.misses += n; t.probed.misses >= downMisses {
		t.setDown(p.worker.proxy, true, "it does not answer OPTIONS")
	}
}

// setDown stores whether a target is down, and logs a change.
func (t *target) setDown(px *Proxy, down bool, why string) {
	if t.down.Swap(down) != down {
		px.log.Warn("PBX state changed", "pbx", t.remote.config.String(), "address", t.Addr.String(), "down", down, "why", why)
	}
}
