package sip

import (
	"slices"
	"time"
)

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
			b := &prober{remote: r, interval: interval, timeout: min(optionsTimeout, interval/2)}
			if i := slices.IndexFunc(old, func(o *prober) bool { return o.remote == r && o.interval == interval }); i >= 0 {
				b = old[i]
			}
			probers = append(probers, b)
		}
	}
	return probers
}

// optionsFields returns the header fields of the 200 to an OPTIONS that is addressed to the
// proxy. A trunk gets the Contact at which it reaches the proxy too.
func (c *composer) optionsFields(p *packet) string {
	if p.side == edgeSide && c.peers.trunkOf(p) != nil {
		return "Contact: <sip:" + p.ownName().uri + ">\r\n" + allowedMethods
	}
	return allowedMethods
}
