package sip

import (
	"bytes"
	"sync/atomic"
)

// trunkProbe sends OPTIONS to one address of a trunk: some trunks send no calls before
// they have got one, and a NAT in front of bellhop stays open for calls of the trunk. The
// first worker owns all trunkProbes.
type trunkProbe struct {
	worker   *worker
	trunk    *Trunk
	addr     Addr
	interval instant
	timer    timer
	awaited  *clientTx // OPTIONS without a response so far, or nil
	down     atomic.Bool
}

// newTrunkProbes returns the probes of the configured trunks. Over UDP a trunk gets
// OPTIONS as often as a phone behind a NAT does, if that is more often.
func newTrunkProbes(cfg *Config, trunks []Trunk) (probes []*trunkProbe) {
	for i := range trunks {
		t := &trunks[i]
		for _, a := range t.To {
			interval := t.Probe
			if a.Proto == UDP && cfg.KeepAlive > 0 {
				interval = min(interval, cfg.KeepAlive)
			}
			if interval > 0 {
				probes = append(probes, &trunkProbe{trunk: t, addr: a, interval: instant(interval)})
			}
		}
	}
	return probes
}

// startTrunkProbes starts the probes of all trunks on the first worker.
func (w *worker) startTrunkProbes() {
	if w.index != 0 {
		return
	}
	for _, b := range w.proxy.trunkProbes {
		b.worker, b.timer.owner = w, b
		b.handleTimer(w.now())
	}
}

// handleTimer sends the next OPTIONS. If the last one has no response yet, the address
// counts as down instead. While the proxy drains, it sends none, so that Drain returns.
func (b *trunkProbe) handleTimer(now instant) {
	w, wait := b.worker, min(optionsTimeout, b.interval/2)
	if b.awaited != nil {
		b.awaited.terminate()
		b.awaited = nil
		b.setDown(true, "no response")
		w.wheel.start(&b.timer, now+b.interval-wait)
		return
	}
	if w.proxy.draining.Load() {
		w.wheel.start(&b.timer, now+b.interval)
		return
	}
	to, ok := w.proxy.destinationAt(b.addr, edgeSide, nil)
	if !ok {
		b.setDown(true, "no listener reaches it")
		w.wheel.start(&b.timer, now+b.interval)
		return
	}
	uri := "sip:" + b.addr.AddrPort.String()
	if b.addr.Proto != UDP {
		uri += ";transport=" + b.addr.Proto.String()
	}
	b.awaited = w.newOptions(b, to, uri, "Contact: <sip:"+to.ownName(edgeSide).uri+">\r\n"+allowedMethods)
	w.wheel.start(&b.timer, now+wait)
	b.awaited.start(now)
}

// handleResponse handles a response to an OPTIONS. A trunk that refuses calls answers
// 503; one that does not accept the proxy as its peer answers 403.
func (b *trunkProbe) handleResponse(now instant, p *packet) {
	switch status := p.msg.status; {
	case status < 200:
		return
	case status == 403 || status == 503:
		line, _, _ := bytes.Cut(p.msg.b, crlf)
		b.setDown(true, string(line[len("SIP/2.0 "):]))
	default:
		b.setDown(false, "")
	}
	b.awaited = nil
	b.worker.wheel.start(&b.timer, now+b.interval)
}

func (b *trunkProbe) handleFailure(now instant, why failureReason) {
	b.awaited = nil
	b.setDown(true, "unreachable")
	b.worker.wheel.start(&b.timer, now+b.interval)
}

// setDown stores whether the address is down, and logs a change.
func (b *trunkProbe) setDown(down bool, why string) {
	if b.down.Swap(down) != down {
		b.worker.proxy.log.Warn("trunk state changed", "trunk", b.trunk.Name, "address", b.addr, "down", down, "why", why)
	}
}

// optionsFields returns the header fields of the 200 to an OPTIONS that is addressed to the
// proxy. A trunk gets the Contact at which it reaches the proxy too.
func (c *composer) optionsFields(p *packet) string {
	if p.side == edgeSide && c.peers.trunkOf(p) != nil {
		return "Contact: <sip:" + p.ownName().uri + ">\r\n" + allowedMethods
	}
	return allowedMethods
}
