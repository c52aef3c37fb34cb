package config

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"bellhop/sip"
	"bellhop/sip/resolve"
)

// A NameServer is the address of a DNS server. The default port is 53.
type NameServer struct{ netip.AddrPort }

func (n *NameServer) UnmarshalText(b []byte) error {
	s := string(b)
	if ip, err := netip.ParseAddr(strings.Trim(s, "[]")); err == nil {
		n.AddrPort = netip.AddrPortFrom(ip.Unmap(), 53)
	} else if n.AddrPort, err = netip.ParseAddrPort(s); err != nil {
		return fmt.Errorf("%q is not the address of a name server: use a form like 192.0.2.53 or 192.0.2.53:53", s)
	}
	if n.Port() == 0 || n.Addr().IsUnspecified() || n.Addr().IsMulticast() {
		return fmt.Errorf("%q is not an address to send to: use the name server's own address", s)
	}
	return nil
}

// NameServers converts name servers to addresses.
func NameServers(ns []NameServer) (addrs []netip.AddrPort) {
	for _, n := range ns {
		addrs = append(addrs, n.AddrPort)
	}
	return addrs
}

// validateListenNames reports listeners with a host name.
func (c *Config) validateListenNames(report func(path, format string, args ...any)) {
	for _, l := range c.placedListeners() {
		if l.Host != "" {
			report(l.path, "%v: a listener needs an address, not a name: use %v://0.0.0.0 for all IPv4 addresses of this machine", l.Addr, l.Proto)
		}
	}
}

// maxFailoverAfter is the longest time for failover_after: a request ends after 32 s.
const maxFailoverAfter = 30 * time.Second

// validateFailover reports a failover_after that is too short or too long.
func (c *Config) validateFailover(report func(path, format string, args ...any)) {
	if d := time.Duration(c.SIP.FailoverAfter); d < 100*time.Millisecond || d > maxFailoverAfter {
		report("sip.failover_after", "%v is not a time in which a PBX can answer: use 100ms to %v, like 2s", d, maxFailoverAfter)
	}
}

// lookupTime is how long check waits for name servers.
const lookupTime = 5 * time.Second

// warnNames reports names of PBXs and trunks that have no address at the moment.
func (c *Config) warnNames(report func(path, format string, args ...any)) {
	type place struct {
		path string
		addr sip.Addr
	}
	var names []place
	for i, a := range c.SIP.PBX {
		names = append(names, place{indexPath("sip.pbx", i), a})
	}
	for i, t := range c.Trunk {
		for j, a := range t.To {
			names = append(names, place{indexPath(indexPath("trunk", i)+".to", j), a})
		}
	}
	names = slices.DeleteFunc(names, func(p place) bool { return p.addr.Host == "" })
	if len(names) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), lookupTime)
	defer cancel()
	both := resolve.Families{IPv4: true, IPv6: true}
	r := resolve.New(resolve.Config{
		Servers:  NameServers(c.DNS.Servers),
		Families: map[resolve.Transport]resolve.Families{resolve.UDP: both, resolve.TCP: both, resolve.TLS: both},
	})
	var running sync.WaitGroup
	running.Go(func() { r.Run(ctx) })
	transports := map[string]resolve.Transport{"udp": resolve.UDP, "tcp": resolve.TCP, "tls": resolve.TLS}
	for _, n := range names {
		answers := make(chan resolve.Answer, 1)
		a := r.Lookup(resolve.Target{Host: n.addr.Host, Port: n.addr.Port(), Transport: transports[n.addr.Proto.String()]}, func(a resolve.Answer) { answers <- a })
		if a.Pending() {
			select {
			case a = <-answers:
			case <-ctx.Done():
			}
		}
		if err := a.Err(); err != nil {
			report(n.path, "%v has no address now: %v; bellhop starts, and sends nothing there until it has one", n.addr, err)
		}
	}
	cancel()
	running.Wait()
}
