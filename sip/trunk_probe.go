package sip

import (
	"bytes"
	"slices"
	"strings"
	"time"
)

const (
	// maxProbeAnswer is how many bytes of a status line are remembered.
	maxProbeAnswer = 80

	// unresolvedWait is the time between two looks whether the name of a trunk has an
	// address, so that a trunk gets its first OPTIONS soon after the start.
	unresolvedWait = instant(time.Second)
)

// trunkProber sends OPTIONS to the targets of one element of [Trunk.To]: some trunks send
// no calls before they have got one, and a NAT in front of bellhop stays open for calls of
// the trunk. The first worker owns all trunkProbers.
type trunkProber struct {
	worker   *worker // nil: not started
	trunk    string  // name
	remote   *remote
	interval instant
	timer    timer
	probes   []*trunkProbe // under way; empty between the end of their time and the next OPTIONS
}

// trunkProbe is one OPTIONS.
type trunkProbe struct {
	prober *trunkProber
	target *target
	tx     *clientTx // nil once there is a response or failure
}

// probeAnswer is what OPTIONS to a target of a trunk have shown. It does not change.
type probeAnswer struct {
	up    bool
	since instant // time at which the target became up or down
	text  string  // status code and reason of the last response, or why there is none
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

// newTrunkProbers returns the probers of trunks. Those that are in old already, and have
// the same interval, stay the same.
func newTrunkProbers(cfg *Config, trunks []*Trunk, old []*trunkProber) (probers []*trunkProber) {
	for _, t := range trunks {
		for _, r := range t.remotes {
			interval := instant(ProbeInterval(r.config.Proto, t.Probe, cfg.KeepAlive))
			if interval <= 0 {
				continue
			}
			b := &trunkProber{trunk: t.Name, remote: r, interval: interval}
			if i := slices.IndexFunc(old, func(o *trunkProber) bool { return o.remote == r && o.interval == interval }); i >= 0 {
				b = old[i]
			}
			probers = append(probers, b)
		}
	}
	return probers
}

// startTrunkProbers starts those probers of trunks that do not run. The first worker runs
// all.
func (w *worker) startTrunkProbers() {
	if w.index != 0 {
		return
	}
	for _, b := range w.proxy.peers.trunks.Load().probers {
		if b.worker == nil {
			b.worker, b.timer.owner = w, b
			b.handleTimer(w.now())
		}
	}
}

// stop ends a prober.
func (b *trunkProber) stop() {
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
func (b *trunkProber) handleTimer(now instant) {
	w, wait := b.worker, min(optionsTimeout, b.interval/2)
	if len(b.probes) > 0 {
		for _, p := range b.probes {
			if p.tx != nil {
				p.tx.terminate()
				p.finish(now, false, "no response")
			}
		}
		b.probes = b.probes[:0]
		w.wheel.start(&b.timer, now+b.interval-wait)
		return
	}
	targets, next := b.remote.view.Load().targets, b.interval
	if len(targets) == 0 {
		next = min(next, unresolvedWait)
	}
	if !w.proxy.draining.Load() {
		for _, t := range targets {
			b.sendOptions(now, t)
		}
	}
	if len(b.probes) > 0 {
		next = wait
	}
	w.wheel.start(&b.timer, now+next)
}

// sendOptions sends OPTIONS to a target. Its Request-URI has the name of the trunk, if it
// is configured by name.
func (b *trunkProber) sendOptions(now instant, t *target) {
	p := &trunkProbe{prober: b, target: t}
	to, ok := b.worker.proxy.destinationAt(t.Addr, edgeSide, nil)
	if !ok {
		p.finish(now, false, "no listener reaches it")
		return
	}
	_, at, _ := strings.Cut(b.remote.config.String(), "://")
	uri := "sip:" + at
	if t.Proto != UDP {
		uri += ";transport=" + t.Proto.String()
	}
	p.tx = b.worker.newOptions(p, to, uri, "Contact: <sip:"+to.ownName(edgeSide).uri+">\r\n"+allowedMethods)
	b.probes = append(b.probes, p)
	p.tx.start(now)
}

// handleResponse handles a response to an OPTIONS. A trunk that refuses calls answers
// 503; one that does not accept the proxy as its peer answers 403.
func (p *trunkProbe) handleResponse(now instant, m *packet) {
	status := m.msg.status
	if status < 200 || p.tx == nil {
		return
	}
	line, _, _ := bytes.Cut(m.msg.b, crlf)
	text := line[len("SIP/2.0 "):]
	p.finish(now, status != 403 && status != 503, string(text[:min(len(text), maxProbeAnswer)]))
}

func (p *trunkProbe) handleFailure(now instant, why failureReason) {
	if p.tx != nil {
		p.finish(now, false, "unreachable")
	}
}

// finish stores what an OPTIONS has shown. It logs when the target goes down, and when it
// is up again.
func (p *trunkProbe) finish(now instant, up bool, text string) {
	p.tx = nil
	t := p.target
	old, next := t.answer.Load(), &probeAnswer{up: up, since: now, text: text}
	if old != nil && old.up == up {
		if old.text == text {
			return
		}
		next.since = old.since
	}
	t.answer.Store(next)
	if wasUp := old == nil || old.up; wasUp != up {
		p.prober.worker.proxy.log.Warn("trunk state changed", "trunk", p.prober.trunk, "address", t.Addr.String(), "down", !up, "why", text)
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
		for _, b := range set.probers {
			if !slices.Contains(t.remotes, b.remote) {
				continue
			}
			for _, to := range b.remote.view.Load().targets {
				target := TargetState{Addr: to.Addr}
				if v := to.answer.Load(); v != nil {
					target.Known, target.Up, target.For, target.Answer = true, v.up, max(time.Duration(now-v.since), 0), v.text
				}
				s.Targets = append(s.Targets, target)
			}
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
