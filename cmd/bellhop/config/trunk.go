package config

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"bellhop/sip"
)

// A Trunk is a [[trunk]] table.
type Trunk struct {
	Name    string        `toml:"name"`
	Sources []CIDR        `toml:"sources"`
	Secret  Secret        `toml:"secret"` // "" adds no header to the trunk's requests
	To      []sip.Addr    `toml:"to"`
	Contact TrunkContact  `toml:"contact"`
	Probe   ProbeInterval `toml:"probe"`
	MaxCPS  int           `toml:"max_cps"` // 0 is no limit

	TLSNames []string `toml:"tls_names"`
	TLSName  string   `toml:"tls_name"`
	TLSCA    PEM      `toml:"tls_ca"`
	TLSCert  PEM      `toml:"tls_cert"`
	TLSKey   PEM      `toml:"tls_key"`
}

// TrunkContact is the Contact that a trunk gets in the messages of the PBX.
type TrunkContact string

const (
	PBXContact TrunkContact = ""     // the PBX's own
	OwnContact TrunkContact = "ours" // bellhop's advertised name
)

func (c *TrunkContact) UnmarshalText(b []byte) error {
	switch v := TrunkContact(b); v {
	case PBXContact, OwnContact:
		*c = v
		return nil
	}
	return fmt.Errorf(`must be "" or "ours", not %q`, b)
}

// defaultProbe is the interval of the OPTIONS to a trunk without the key probe.
const defaultProbe = 60 * time.Second

// A ProbeInterval is the interval of the OPTIONS to a trunk. 0 is defaultProbe. noProbe,
// written "0s", sends none.
type ProbeInterval time.Duration

const noProbe ProbeInterval = -1

func (p *ProbeInterval) UnmarshalText(b []byte) error {
	var d Duration
	switch err := d.UnmarshalText(b); {
	case err != nil:
		return err
	case d == 0:
		*p = noProbe
	case d < Duration(minOptionsInterval):
		return fmt.Errorf(`%q is too short: use at least %v, or "0s" for no OPTIONS`, b, minOptionsInterval)
	default:
		*p = ProbeInterval(d)
	}
	return nil
}

// interval returns the interval as the proxy gets it: 0 for none.
func (p ProbeInterval) interval() time.Duration {
	return max(cmp.Or(time.Duration(p), defaultProbe), 0)
}

// ProbeInterval returns the interval of the OPTIONS to an address of a trunk, or 0.
func (c *Config) ProbeInterval(t *Trunk, a sip.Addr) time.Duration {
	return sip.ProbeInterval(a.Proto, t.Probe.interval(), time.Duration(c.NAT.KeepAlive))
}

// minOptionsInterval is the shortest interval of OPTIONS to trunks and phones. An OPTIONS
// waits 4 s for its response.
const minOptionsInterval = 5 * time.Second

// Trunks returns the trunks of the proxy, without their TLS clients.
func (c *Config) Trunks() []sip.Trunk {
	var ts []sip.Trunk
	for _, t := range c.Trunk {
		ts = append(ts, sip.Trunk{
			Name: t.Name, Sources: Prefixes(t.Sources), Secret: string(t.Secret),
			To: t.To, Probe: t.Probe.interval(), OwnContact: t.Contact == OwnContact, MaxCPS: t.MaxCPS, TLSNames: t.TLSNames,
		})
	}
	return ts
}

// maxMaxCPS is the largest max_cps. The proxy remembers as many calls of each trunk.
const maxMaxCPS = 100000

// validateTrunks reports invalid or incomplete trunks, and address ranges that overlap
// with the PBX or another trunk.
func (c *Config) validateTrunks(report func(path, format string, args ...any)) {
	for i := range c.Trunk {
		t, at := &c.Trunk[i], indexPath("trunk", i)
		if strings.TrimSpace(t.Name) == "" {
			report(at+".name", `a trunk needs a name: set name = "carrier"`)
		}
		if len(t.Sources)+len(t.To)+len(t.TLSNames) == 0 {
			report(at+".sources", `trunk %q needs the addresses it sends from: set sources = ["192.0.2.0/24"]`, t.Name)
		}
		if n := len(t.Secret); n > 0 && (n < 16 || n > 256) {
			report(at+".secret", "the secret of trunk %q has %d characters: use 16 to 256 random ones, like the output of openssl rand -hex 16", t.Name, n)
		}
		if t.MaxCPS < 0 || t.MaxCPS > maxMaxCPS {
			report(at+".max_cps", "%d is not a number of calls a second: use 1 to %d, or 0 for no limit", t.MaxCPS, maxMaxCPS)
		}
		for _, other := range c.Trunk[:i] {
			if other.Name == t.Name {
				report(at+".name", "two trunks are called %q: give each its own name", t.Name)
			}
		}
		if t.Contact == OwnContact && !c.hasNameFor(t) {
			report(at+".contact", `"ours" needs a name that the trunk reaches: set sip.advertise = "sip.example.com"`)
		}
		c.validateSources(i, report)
		c.validateTargets(report, i, at)
	}
}

// hasNameFor reports whether each address of a trunk, or a trunk without addresses, gets the
// advertised name of a listener.
func (c *Config) hasNameFor(t *Trunk) bool {
	listeners := c.Listeners()
	named := func(a sip.Addr) bool {
		i := slices.IndexFunc(listeners, func(l sip.Listener) bool { return l.ReachesEdge(a) })
		return i < 0 || listeners[i].Advertise.Host != "" // an address that no listener reaches is reported
	}
	if len(t.To) > 0 {
		return !slices.ContainsFunc(t.To, func(a sip.Addr) bool { return !named(a) })
	}
	return slices.ContainsFunc(listeners, func(l sip.Listener) bool { return l.Side != sip.PBXListener && l.Advertise.Host != "" })
}

// validateSources reports source addresses of trunk i that belong to the PBX or to another
// trunk.
func (c *Config) validateSources(i int, report func(path, format string, args ...any)) {
	for j, source := range c.Trunk[i].Sources {
		path := indexPath(indexPath("trunk", i)+".sources", j)
		for _, pbx := range c.SIP.PBX {
			if source.Contains(pbx.Addr().Unmap()) {
				report(path, "%v contains the PBX %v: use the trunk's own addresses, to tell the two apart", source, pbx)
			}
		}
		for _, pbx := range c.SIP.PBXSources {
			if source.Overlaps(pbx.Prefix) {
				report(path, "%v overlaps with %v of sip.pbx_sources: an address belongs to either the PBX or a trunk", source, pbx)
			}
		}
		for _, other := range c.Trunk[:i] {
			for _, a := range other.To {
				if source.Contains(a.Addr()) {
					report(path, "%v contains %v of trunk %q: an address belongs to one trunk", source, a, other.Name)
				}
			}
		}
		for k, other := range c.Trunk[:i+1] {
			for l, s := range other.Sources {
				if (k < i || l < j) && source.Overlaps(s.Prefix) {
					report(path, "%v overlaps with %v of trunk %q: an address belongs to one trunk", source, s, other.Name)
				}
			}
		}
	}
}

// validateTargets reports addresses of a trunk that are invalid, belong to another, or that
// no listener can reach. at is the path of the trunk at an index.
func (c *Config) validateTargets(report func(path, format string, args ...any), index int, at string) {
	t := c.Trunk[index]
	listeners := c.Listeners()
	for i, a := range t.To {
		path := indexPath(at+".to", i)
		switch {
		case a.Proto == 0:
			continue // reported
		case a.Proto == sip.WS || a.Proto == sip.WSS:
			report(path, "%v: bellhop opens no WebSocket to a trunk: use udp://, tcp:// or tls://", a)
			continue
		case isNoTarget(a):
			report(path, "%v is not an address to send to: use the carrier's own address and port", a)
		case slices.Contains(t.To[:i], a):
			report(path, "%v is listed twice", a)
		}
		for _, l := range listeners {
			if l.Receives(a) {
				report(path, "%v is bellhop's own listener %v: calls would loop: use the carrier's address", a, l.Addr)
			}
		}
		for _, pbx := range c.SIP.PBX {
			if sameHost(pbx, a) {
				report(path, "%v has the address of the PBX %v: use the carrier's own address, to tell the two apart", a, pbx)
			}
		}
		for _, source := range c.SIP.PBXSources {
			if source.Contains(a.Addr()) {
				report(path, "%v is in %v of sip.pbx_sources: use the carrier's own address, to tell the two apart", a, source)
			}
		}
		for _, other := range c.Trunk[:index] {
			if slices.ContainsFunc(other.To, func(o sip.Addr) bool { return sameHost(o, a) }) ||
				slices.ContainsFunc(other.Sources, func(s CIDR) bool { return s.Contains(a.Addr()) }) {
				report(path, "%v belongs to trunk %q too: an address belongs to one trunk", a, other.Name)
			}
		}
		if len(listeners) > 0 && !slices.ContainsFunc(listeners, func(l sip.Listener) bool { return !l.IsValid() || l.ReachesEdge(a) }) {
			report(path, "no listener reaches %v: add to sip.listen %s", a, describeListener(a))
		}
	}
}

// sameHost reports whether two addresses have the same name, or the same IP address.
func sameHost(a, b sip.Addr) bool {
	if a.Host != "" || b.Host != "" {
		return a.Host == b.Host
	}
	return a.Addr() == b.Addr()
}

// validateNAT reports an interval that is too short, and sizes that no datagram has.
func (c *Config) validateNAT(report func(path, format string, args ...any)) {
	if d := time.Duration(c.NAT.KeepAlive); d != 0 && d < minOptionsInterval {
		report("nat.keepalive", `%v is too short: use at least %v, or "0s" for no OPTIONS`, d, minOptionsInterval)
	}
	if n := c.SIP.UDPMax; n < 0 || 0 < n && n < minUDPMax || n > maxUDPMax {
		report("sip.udp_max", "%d is not a size of requests: use %d to %d bytes, or 0 for UDP at any size", n, minUDPMax, maxUDPMax)
	}
}

// The bounds of sip.udp_max. Almost any INVITE is longer than the lower one. No datagram is
// longer than the upper one.
const (
	minUDPMax = 500
	maxUDPMax = 65507
)

// warnUDPMax reports a PBX over UDP that large requests cannot reach over TCP.
func (c *Config) warnUDPMax(report func(path, format string, args ...any)) {
	for _, pbx := range c.SIP.PBX {
		overTCP := sip.Addr{Proto: sip.TCP, AddrPort: pbx.AddrPort}
		if c.SIP.UDPMax > 0 && pbx.Proto == sip.UDP && !slices.ContainsFunc(c.Listeners(), func(l sip.Listener) bool { return l.ReachesPBX(overTCP) }) {
			report("sip.udp_max", "no listener reaches %v over TCP, so that requests of any size leave over UDP: add to sip.listen %s", pbx, describeListener(overTCP))
		}
	}
}
