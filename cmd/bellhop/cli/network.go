package cli

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"bellhop/cmd/bellhop/config"
	"bellhop/sip"
)

// describeNetwork returns sentences about the addresses at which phones reach bellhop, and
// the addresses of bellhop that each PBX sees.
func describeNetwork(c *config.Config) (lines []string) {
	for _, l := range c.Listeners() {
		if l.Side == sip.PBXListener {
			continue
		}
		at, who := realAddress(l), "phones"
		if l.Proto == sip.WS || l.Proto == sip.WSS {
			who = "browsers"
		}
		if l.Advertise.Host == "" {
			lines = append(lines, who+" reach bellhop at "+at)
			continue
		}
		line := who + " reach bellhop at " + advertisedAddress(l)
		if len(c.SIP.LocalNet) > 0 {
			line += ", and " + who + " in sip.local_net at " + at
		}
		lines = append(lines, line)
	}
	for _, pbx := range c.SIP.PBX {
		lines = append(lines, fmt.Sprintf("the PBX %v sees bellhop at %s", pbx, strings.Join(addressesSeen(c, pbx), ", ")))
	}
	return lines
}

// addressesSeen returns the addresses of bellhop that a PBX sees. A request leaves from
// the listener that it came to, if this listener reaches the PBX, else from the first that
// does.
func addressesSeen(c *config.Config, pbx sip.Addr) (seen []string) {
	for _, l := range c.Listeners() {
		if !l.ReachesPBX(pbx) || l.Side == sip.PBXListener && len(seen) > 0 {
			continue
		}
		at := l.Addr.String()
		if l.Side == sip.PBXListener && l.Advertise.Host != "" {
			at = advertisedAddress(l)
		} else if ip, ok := sip.SourceAddr(pbx.AddrPort); l.Addr.Addr().IsUnspecified() && ok {
			at = fmt.Sprintf("%v://%s", l.Proto, sip.HostPort{Host: ip.String(), Port: l.Port()})
		}
		if !slices.Contains(seen, at) {
			seen = append(seen, at)
		}
	}
	return seen
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
