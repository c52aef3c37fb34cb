package cli

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"bellhop/cmd/bellhop/config"
	"bellhop/sip"
)

// describeNetwork returns sentences about the addresses at which phones reach bellhop, the
// addresses of bellhop that each PBX sees, and how bellhop and each trunk know each other.
func describeNetwork(c *config.Config) (lines []string) {
	for _, l := range c.Listeners() {
		if l.Side != sip.PBXListener {
			lines = append(lines, describeListener(c, l)...)
		}
	}
	lines = append(lines, describePBXs(c)...)
	for i := range c.Trunk {
		lines = append(lines, describeTrunk(c, &c.Trunk[i])...)
	}
	return lines
}

// describeListener returns sentences about who reaches a listener of the edge side, and at
// which address.
func describeListener(c *config.Config, l sip.Listener) (lines []string) {
	at, who := realAddress(l), "phones"
	switch {
	case l.Proto == sip.WS || l.Proto == sip.WSS:
		who = "browsers"
	case len(c.Trunk) > 0:
		who = "phones and trunks"
	}
	line := who + " reach bellhop at " + at
	if l.Advertise.Host != "" {
		line = who + " reach bellhop at " + advertisedAddress(l)
		if len(c.SIP.LocalNet) > 0 {
			line += ", and " + who + " in sip.local_net at " + at
		}
	}
	lines = append(lines, line)
	if len(l.Origins) > 0 {
		lines = append(lines, fmt.Sprintf("browsers at %v must show a page of %s", l.Addr, strings.Join(l.Origins, ", ")))
	}
	if len(l.ProxyFrom) > 0 {
		lines = append(lines, fmt.Sprintf("reverse proxies at %s connect to %v for others, and name them in a PROXY header", joinNetworks(l.ProxyFrom), l.Addr))
	}
	return lines
}

// describePBXs returns sentences about which PBX gets requests, the address of bellhop that
// each PBX sees, and where else the PBX may send from and to.
func describePBXs(c *config.Config) (lines []string) {
	seen := make(map[string]bool)
	for _, pbx := range c.SIP.PBX {
		at := addressesSeen(c, pbx)
		lines = append(lines, fmt.Sprintf("the PBX %v sees bellhop at %s", pbx, strings.Join(at, ", ")))
		for _, a := range at {
			seen[a] = true
		}
	}
	for _, l := range c.Listeners() {
		at := realAddress(l)
		if l.Advertise.Host != "" {
			at = advertisedAddress(l)
		}
		if l.Side == sip.PBXListener && !seen[at] {
			lines = append(lines, "the PBX may also send to "+at)
		}
	}
	if len(c.SIP.PBXSources) > 0 {
		lines = append(lines, "the PBX may also send from "+joinNetworks(c.SIP.PBXSources))
	}
	switch {
	case len(c.SIP.PBX) < 2:
	case c.SIP.PBXMode == sip.SpreadPBX:
		lines = append(lines, "new requests go to a PBX that depends on their sender, and to another while that one is down")
	default:
		lines = append(lines, "new requests go to the first PBX that is up")
	}
	return lines
}

// networkText returns a network as people write it: a single address without its length.
func networkText(n fmt.Stringer) string {
	if p, err := netip.ParsePrefix(n.String()); err == nil && p.IsSingleIP() {
		return p.Addr().String()
	}
	return n.String()
}

// joinNetworks joins networks with commas.
func joinNetworks[T fmt.Stringer](networks []T) string {
	var texts []string
	for _, n := range networks {
		texts = append(texts, networkText(n))
	}
	return strings.Join(texts, ", ")
}

// describeTrunk returns sentences about how bellhop knows a trunk, and about each address
// at which the trunk gets requests.
func describeTrunk(c *config.Config, t *config.Trunk) (lines []string) {
	var known []string
	for _, s := range t.Sources {
		known = append(known, networkText(s))
	}
	for _, a := range t.To {
		if a.Host != "" {
			if named := "the addresses of " + a.Host; !slices.Contains(known, named) {
				known = append(known, named)
			}
			continue
		}
		if ip := a.Addr().String(); !slices.ContainsFunc(t.Sources, func(s config.CIDR) bool { return s.Contains(a.Addr()) }) && !slices.Contains(known, ip) {
			known = append(known, ip)
		}
	}
	for _, name := range t.TLSNames {
		known = append(known, "its certificate for "+name)
	}
	lines = append(lines, fmt.Sprintf("the trunk %q is known by %s", t.Name, strings.Join(known, ", ")))
	for _, a := range t.To {
		line := fmt.Sprintf("the trunk %q gets requests at %v", t.Name, a)
		if every := c.ProbeInterval(t, a); every > 0 {
			line += fmt.Sprintf(", and OPTIONS every %v", every)
		}
		if seen := addressSeenBy(c, t, a); seen != "" {
			line += ", and sees bellhop at " + seen
		}
		lines = append(lines, line)
	}
	if t.Contact == config.OwnContact {
		lines = append(lines, fmt.Sprintf("the trunk %q gets that address in the Contact of the PBX", t.Name))
	}
	if t.MaxCPS > 0 {
		calls := "calls"
		if t.MaxCPS == 1 {
			calls = "call"
		}
		lines = append(lines, fmt.Sprintf("the trunk %q gets at most %d %s a second", t.Name, t.MaxCPS, calls))
	}
	return lines
}

// addressSeenBy returns the address of bellhop that a trunk sees at the trunk's address
// a. The first listener that reaches a decides: it is the advertised name of that
// listener, or the address from which the listener sends.
func addressSeenBy(c *config.Config, t *config.Trunk, a sip.Addr) string {
	for _, l := range c.Listeners() {
		if !l.ReachesEdge(a) {
			continue
		}
		local := t.Contact != config.OwnContact && slices.ContainsFunc(c.SIP.LocalNet, func(n config.CIDR) bool { return n.Contains(a.Addr()) })
		if l.Advertise.Host != "" && !local {
			return advertisedAddress(l)
		}
		return sourceAddress(l, a)
	}
	return ""
}

// addressesSeen returns the addresses of bellhop that a PBX sees. A request leaves from
// the listener that it came to, if this listener reaches the PBX, else from the first that
// does.
func addressesSeen(c *config.Config, pbx sip.Addr) (seen []string) {
	for _, l := range c.Listeners() {
		if !l.ReachesPBX(pbx) || l.Side == sip.PBXListener && len(seen) > 0 {
			continue
		}
		at := sourceAddress(l, pbx)
		if l.Side == sip.PBXListener && l.Advertise.Host != "" {
			at = advertisedAddress(l)
		}
		if !slices.Contains(seen, at) {
			seen = append(seen, at)
		}
	}
	return seen
}

// sourceAddress returns the address from which listener l sends to a PBX or trunk at to. If
// to is a name and l listens on all addresses, only the port is certain.
func sourceAddress(l sip.Listener, to sip.Addr) string {
	if !l.Addr.Addr().IsUnspecified() {
		return l.Addr.String()
	}
	if ip, ok := sip.SourceAddr(to.AddrPort); to.Host == "" && ok {
		return fmt.Sprintf("%v://%s", l.Proto, sip.HostPort{Host: ip.String(), Port: l.Port()})
	}
	return fmt.Sprintf("%v port %d of an address of this machine", l.Proto, l.Port())
}

// realAddress describes the address of a listener.
func realAddress(l sip.Listener) string {
	switch ip := l.Addr.Addr(); {
	case !ip.IsUnspecified():
		return l.Addr.String()
	case ip.Is4():
		return l.Addr.String() + ", every IPv4 address of this machine"
	}
	return l.Addr.String() + ", every IPv6 address of this machine"
}

// advertisedAddress returns the advertised name of a listener in the form of an address.
func advertisedAddress(l sip.Listener) string {
	return fmt.Sprintf("%v://%v", l.Proto, sip.HostPort{Host: l.Advertise.Host, Port: cmp.Or(l.Advertise.Port, l.Port())})
}
