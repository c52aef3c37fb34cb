package sip

import (
	"bytes"
	"sync/atomic"
	"time"
)

// maxProbeAnswer is how many bytes of a status line are remembered.
const maxProbeAnswer = 80

// trunkProbe sends OPTIONS to one address of a trunk: some trunks send no calls before
// they have got one, and a NAT in front of bellhop stays open for calls of the trunk. The
// first worker owns all trunkProbes.
type trunkProbe struct {
	worker   *worker // nil: not started
	trunk    string  // name
	addr     Addr
	interval instant
	timer    timer
	awaited  *clientTx // OPTIONS without a response so far, or nil
	state    atomic.Pointer[probeState]
}

// probeState is what the last OPTIONS has shown. It does not change.
type probeState struct {
	up     bool
	since  instant // time at which the address became up or down
	answer string  // status code and reason of the last response, or why there is none
}

// ProbeInterval returns the interval of the OPTIONS to a trunk over a transport. Over UDP
// that is keepAlive if it is shorter, because the trunk is then kept reachable as a phone
// behind a NAT is. It returns 0 for no OPTIONS.
func ProbeInterval(proto Proto, probe, keepAlive time.Duration) time.Duration {
	if proto == UDP && keepAlive > 0 {
		return min(probe, keepAlive)
	}
	return probe
}

// newTrunkProbes returns the probes of the trunks. Those that are in old already, and have
// the same interval, stay the same. Others keep the state of their address.
func newTrunkProbes(cfg *Config, trunks []*Trunk, old []*trunkProbe) (probes []*trunkProbe) {
	for _, t := range trunks {
		for _, a := range t.To {
			interval := instant(ProbeInterval(a.Proto, t.Probe, cfg.KeepAlive))
			if interval <= 0 {
				continue
			}
			b := &trunkProbe{trunk: t.Name, addr: a, interval: interval}
			for _, o := range old {
				switch {
				case o.trunk != t.Name || o.addr != a:
				case o.interval == interval:
					b = o
				default:
					b.state.Store(o.state.Load())
				}
			}
			probes = append(probes, b)
		}
	}
	return probes
}

// startTrunkProbes starts those probes of trunks that do not run. The first worker runs all.
func (w *worker) startTrunkProbes() {
	if w.index != 0 {
		return
	}
	for _, b := range w.proxy.peers.trunks.Load().probes {
		if b.worker == nil {
			b.worker, b.timer.owner = w, b
			b.handleTimer(w.now())
		}
	}
}

// stop ends a probe.
func (b *trunkProbe) stop() {
	if b.worker == nil {
		return
	}
	if b.awaited != nil {
		b.awaited.terminate()
		b.awaited = nil
	}
	b.worker.wheel.stop(&b.timer)
}

// handleTimer sends the next OPTIONS. If the last one has no response yet, the address
// counts as down instead. While the proxy drains, it sends none, so that Drain returns.
func (b *trunkProbe) handleTimer(now instant) {
	w, wait := b.worker, min(optionsTimeout, b.interval/2)
	if b.awaited != nil {
		b.awaited.terminate()
		b.awaited = nil
		b.setState(now, false, "no response")
		w.wheel.start(&b.timer, now+b.interval-wait)
		return
	}
	if w.proxy.draining.Load() {
		w.wheel.start(&b.timer, now+b.interval)
		return
	}
	to, ok := w.proxy.destinationAt(b.addr, edgeSide, nil)
	if !ok {
		b.setState(now, false, "no listener reaches it")
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
	status := p.msg.status
	if status < 200 {
		return
	}
	line, _, _ := bytes.Cut(p.msg.b, crlf)
	answer := line[len("SIP/2.0 "):]
	b.setState(now, status != 403 && status != 503, string(answer[:min(len(answer), maxProbeAnswer)]))
	b.awaited = nil
	b.worker.wheel.start(&b.timer, now+b.interval)
}

func (b *trunkProbe) handleFailure(now instant, why failureReason) {
	b.awaited = nil
	b.setState(now, false, "unreachable")
	b.worker.wheel.start(&b.timer, now+b.interval)
}

// setState stores what an OPTIONS has shown. It logs when the address goes down, and when
// it is up again.
func (b *trunkProbe) setState(now instant, up bool, answer string) {
	old := b.state.Load()
	next := &probeState{up: up, since: now, answer: answer}
	if old != nil && old.up == up {
		if old.answer == answer {
			return
		}
		next.since = old.since
	}
	b.state.Store(next)
	if wasUp := old == nil || old.up; wasUp != up {
		b.worker.proxy.log.Warn("trunk state changed", "trunk", b.trunk, "address", b.addr, "down", !up, "why", answer)
	}
}

// TrunkState is the state of a trunk.
type TrunkState struct {
	Name    string
	Refused uint64        // calls of the PBX refused because of [Trunk.MaxCPS]
	Targets []TargetState // its addresses that get OPTIONS
}

// TargetState is what the last OPTIONS to an address of a trunk has shown.
type TargetState struct {
	Addr   Addr
	Known  bool          // an OPTIONS has had a response or has failed; else the fields below are zero
	Up     bool          // the response was neither 403 nor 503
	For    time.Duration // how long the address has been up or down
	Answer string        // status code and reason of the last response, or why there is none
}

// TrunkStates returns the states of the trunks in the order of the configuration. It may be
// called from any goroutine at any time.
func (px *Proxy) TrunkStates() (states []TrunkState) {
	now := px.now()
	set := px.peers.trunks.Load()
	for _, t := range set.all {
		s := TrunkState{Name: t.Name, Refused: t.refused.Load()}
		for _, b := range set.probes {
			if b.trunk != t.Name {
				continue
			}
			target := TargetState{Addr: b.addr}
			if v := b.state.Load(); v != nil {
				target.Known, target.Up, target.For, target.Answer = true, v.up, max(time.Duration(now-v.since), 0), v.answer
			}
			s.Targets = append(s.Targets, target)
		}
		states = append(states, s)
	}
	return states
}

// optionsFields returns the header fields of the 200 to an OPTIONS that is addressed to the
// proxy. A trunk gets the Contact at which it reaches the proxy too.
func (c *composer) optionsFields(p *packet) string {
	if p.side == edgeSide && c.peers.trunkOf(p) != nil {
		return "Contact: <sip:" + p.ownName().uri + ">\r\n" + allowedMethods
	}
	return allowedMethods
}
