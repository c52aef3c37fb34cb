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
	both := resolve.Families{IPv4: true, IPv6: true}
	r := resolve.New(resolve.Config{
		Servers:  NameServers(c.DNS.Servers),
		Families: map[resolve.Transport]resolve.Families{resolve.UDP: both, resolve.TCP: both, resolve.TLS: both},
	})
	addrs := make([]sip.Addr, len(names))
	for i, n := range names {
		addrs[i] = n.addr
	}
	for i, err := range lookupAll(r, addrs) {
		if err != nil {
			report(names[i].path, "%v has no address now: %v; bellhop starts, and sends nothing there until it has one", names[i].addr, err)
		}
	}
}

// errLookupTime is the error of a name that no name server has answered for.
var errLookupTime = fmt.Errorf("no name server answers within %v", lookupTime)

// lookupAll looks up names at the same time, and returns why each has no address, or nil. It
// waits for lookupTime at most.
func lookupAll(r *resolve.Resolver, names []sip.Addr) []error {
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { r.Run(ctx) })
	defer running.Wait()
	defer cancel()
	transports := map[sip.Proto]resolve.Transport{sip.UDP: resolve.UDP, sip.TCP: resolve.TCP, sip.TLS: resolve.TLS}
	errs := make([]error, len(names))
	type result struct {
		index int
		err   error
	}
	results := make(chan result, len(names)) // has room for all, because done must not block
	pending := 0
	for i, n := range names {
		a := r.Lookup(resolve.Target{Host: n.Host, Port: n.Port(), Transport: transports[n.Proto]}, func(a resolve.Answer) { results <- result{i, a.Err()} })
		if errs[i] = a.Err(); a.Pending() {
			errs[i] = errLookupTime
			pending++
		}
	}
	for timeout := time.After(lookupTime); pending > 0; pending-- {
		select {
		case a := <-results:
			errs[a.index] = a.err
		case <-timeout:
			return errs
		}
	}
	return errs
}
