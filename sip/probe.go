package sip

import (
	"slices"
	"strings"
	"time"
)

// Each target of several PBXs gets OPTIONS every probeInterval. One that gives no response
// within probeTimeout has missed it. A target counts as down after downMisses of them in a
// row, and as up again after upAnswers.
const (
	probeInterval = instant(5 * time.Second)
	probeTimeout  = instant(2 * time.Second)
	downMisses    = 2
	upAnswers     = 2
)

// unresolvedWait is how often a prober looks for an address of a remote whose name has
// none yet, so that its targets get their first OPTIONS soon after the start.
const unresolvedWait = instant(time.Second)

// prober sends OPTIONS to the targets of a remote to learn which are up. If all PBXs
// together have only one target, that target gets no OPTIONS, because calls can go
// nowhere else. The first worker owns all probers.
type prober struct {
	worker   *worker // nil: not started
	remote   *remote
	interval instant
	timeout  instant // for a response
	timer    timer
	probes   []*probe // under way; empty between the end of timeout and the next OPTIONS
}

// probe is one OPTIONS to a target of a prober, and its result when there is one.
type probe struct {
	prober  *prober
	targets []*target // that are the server: see sameServer
	sentAt  instant
	tx      *clientTx // nil once there is a response or failure
}

// probeCount counts the last probes of a target of a PBX. Only the worker that probes uses
// it.
type probeCount struct {
	misses  int // without a response, in a row
	answers int // with a response, in a row, while the target is down
}

// startProbers starts those probers of PBXs and trunks that do not run. Only the first worker
// probes.
func (w *worker) startProbers() {
	if w.index != 0 {
		return
	}
	for _, b := range slices.Concat(w.proxy.peers.pbxs.Load().probers, w.proxy.peers.trunks.Load().probers) {
		if b.worker == nil {
			b.start(w)
		}
	}
}

// start sends the first OPTIONS.
func (b *prober) start(w *worker) {
	b.worker, b.timer.owner = w, b
	b.handleTimer(w.now())
}

// stop ends a prober.
func (b *prober) stop() {
	if b.worker == nil {
		return
	}
	for _, p := range b.probes {
		if p.tx != nil {
			p.tx.terminate()
		}
	}
	b.worker.wheel.stop(&b.timer)
}

// handleTimer ends the probes that are under way, or sends the next ones. While the proxy
// drains, it sends none, so that Drain returns.
func (b *prober) handleTimer(now instant) {
	w := b.worker
	if len(b.probes) > 0 {
		for _, p := range b.probes {
			if p.tx != nil {
				p.tx.terminate()
				p.finish(now, nil, silent)
			}
		}
		b.probes = b.probes[:0]
		w.wheel.start(&b.timer, now+b.interval-b.timeout)
		return
	}
	targets, next := b.remote.view.Load().targets, b.interval
	switch {
	case len(targets) == 0:
		next = min(next, unresolvedWait)
	case b.remote.pbx != nil && !w.proxy.peers.pbxs.Load().severalTargets():
		targets[0].endProbes(w.proxy) // it was one of several until a name changed
	case !w.proxy.draining.Load():
		for _, t := range targets {
			b.sendOptions(now, t)
		}
	}
	if len(b.probes) > 0 {
		next = b.timeout
	}
	w.wheel.start(&b.timer, now+next)
}

// sendOptions sends OPTIONS to a target. The Request-URI names a PBX by its address, and
// a trunk as it is configured: by name or by address. A server that has several names gets
// OPTIONS for the first of them only.
func (b *prober) sendOptions(now instant, t *target) {
	side := b.remote.side()
	same := b.worker.proxy.peers.sameServer(t)
	if len(same) == 0 || same[0] != t {
		return
	}
	p := &probe{prober: b, targets: same, sentAt: b.worker.now()}
	to, ok := b.worker.proxy.destinationAt(t.Addr, side, nil)
	if !ok {
		p.finish(now, nil, unreachable)
		return
	}
	at := t.AddrPort.String()
	if b.remote.pbx == nil {
		_, at, _ = strings.Cut(b.remote.config.String(), "://")
	}
	uri := "sip:" + at
	if t.Proto != UDP {
		uri += ";transport=" + t.Proto.String()
	}
	p.tx = b.worker.newOptions(p, to, side, uri, "Contact: <sip:"+to.ownName(side).uri+">\r\n"+allowedMethods)
	b.probes = append(b.probes, p)
	p.tx.start(now)
}

// handleResponse handles a response to an OPTIONS.
func (p *probe) handleResponse(now instant, m *packet) {
	if m.msg.status >= 200 && p.tx != nil {
		p.finish(now, &m.msg, 0)
	}
}

// handleFailure handles a transport error or the end of the transaction.
func (p *probe) handleFailure(now instant, why failureReason) {
	if p.tx != nil {
		p.finish(now, nil, why)
	}
}

// finish stores the result of an OPTIONS: its final response m, or why there is none if m
// is nil. After any final response the target no longer rests, because it can be reached.
func (p *probe) finish(now instant, m *message, why failureReason) {
	p.tx = nil
	px := p.prober.worker.proxy
	for _, t := range p.targets {
		if m != nil {
			t.restsUntil.Store(0)
		}
		if t.remote.pbx == nil {
			t.storeProbe(m)
		} else {
			t.countProbe(m, why)
		}
		t.noteProbe(px, now, m, why, px.now()-p.sentAt)
	}
}

// storeProbe stores what an OPTIONS to a target of a trunk has shown. A trunk that refuses
// calls answers 503; one that does not accept the proxy as its peer answers 403.
func (t *target) storeProbe(m *message) {
	t.refusing.Store(m != nil && m.status == 503)
	t.probeFailed.Store(m == nil || m.status == 403)
}

// countProbe counts the probe of a target of a PBX. With 503 the target refuses new
// requests, but its dialogs go on. A transport error shows at once that it is down.
func (t *target) countProbe(m *message, why failureReason) {
	n := &t.probed
	if m == nil {
		n.answers = 0
		if n.misses++; n.misses >= downMisses || why == unreachable {
			t.down.Store(true)
		}
		return
	}
	n.misses = 0
	t.refusing.Store(m.status == 503)
	if t.down.Load() {
		if n.answers++; n.answers >= upAnswers {
			t.down.Store(false)
			n.answers = 0
		}
	}
}

// endProbes makes a target up that gets no more OPTIONS. The state that its status shows is
// then that of requests: a PBX stays down until it answers one, and a trunk is unknown.
func (t *target) endProbes(px *Proxy) {
	if t.down.Swap(false) {
		t.failing.Store(true)
	}
	t.refusing.Store(false)
	t.probeFailed.Store(false)
	t.probed = probeCount{}
	if t.remote.pbx == nil {
		t.failing.Store(false)
		t.answeredAt.Store(0)
		t.roundTrip.Store(0)
	}
	t.updateReport(px, px.now(), nil)
}
