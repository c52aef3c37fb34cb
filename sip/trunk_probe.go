package sip

import (
	"bytes"
	"slices"
	"time"
)

// maxProbeAnswer is how many bytes of a status line are remembered.
const maxProbeAnswer = 80

// probeAnswer is whether a target of a trunk is up, as the last OPTIONS have shown. It
// does not change: each OPTIONS stores a new one if needed.
type probeAnswer struct {
	up    bool
	since instant // time at which the target became up or down
	text  string  // status code and reason of the last response, or why there is none
}

// ProbeInterval returns the interval of the OPTIONS to a trunk over a transport; 0 means
// that none are sent. It is probe, or keepAlive over UDP if that is shorter: the OPTIONS
// then also keep a NAT open for the calls of the trunk, as they do for a phone.
func ProbeInterval(proto Proto, probe, keepAlive time.Duration) time.Duration {
	if proto == UDP && keepAlive > 0 {
		return min(probe, keepAlive)
	}
	return probe
}

// newTrunkProbers returns a prober for each remote of a trunk. It reuses a prober in old
// for the same remote and interval. Trunks are probed for two more reasons than to see
// which are up: some send no calls before they have received OPTIONS, and a NAT in front
// of bellhop stays open for calls of the trunk.
func newTrunkProbers(cfg *Config, trunks []*Trunk, old []*prober) (probers []*prober) {
	for _, t := range trunks {
		for _, r := range t.remotes {
			interval := instant(ProbeInterval(r.config.Proto, t.Probe, cfg.KeepAlive))
			if interval <= 0 {
				continue
			}
			b := &prober{trunk: t.Name, remote: r, interval: interval, timeout: min(optionsTimeout, interval/2)}
			if i := slices.IndexFunc(old, func(o *prober) bool { return o.remote == r && o.interval == interval }); i >= 0 {
				b = old[i]
			}
			probers = append(probers, b)
		}
	}
	return probers
}

// storeAnswer stores what an OPTIONS to a target of a trunk has shown: the final response m
// or, if m is nil, why there is none. A trunk that refuses calls answers 503; one that does
// not accept the proxy as its peer answers 403. storeAnswer logs when the target goes down,
// and when it is up again.
func (t *target) storeAnswer(px *Proxy, now instant, trunk string, m *message, why failureReason) {
	next := &probeAnswer{since: now, text: "no response"}
	switch {
	case m != nil:
		line, _, _ := bytes.Cut(m.b, crlf)
		text := line[len("SIP/2.0 "):]
		next.up, next.text = m.status != 403 && m.status != 503, string(text[:min(len(text), maxProbeAnswer)])
	case why == unreachable:
		next.text = "unreachable"
	}
	old := t.answer.Load()
	if old != nil && old.up == next.up {
		if old.text == next.text {
			return
		}
		next.since = old.since
	}
	t.answer.Store(next)
	if wasUp := old == nil || old.up; wasUp != next.up {
		px.log.Warn("trunk state changed", "trunk", trunk, "address", t.Addr.String(), "down", !next.up, "why", next.text)
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
