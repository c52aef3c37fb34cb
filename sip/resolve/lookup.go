package resolve

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/miekg/dns"
)

// A lookup finds the hosts of one key (RFC 3263 §4.1 and §4.2). Its methods wait for name
// servers, each for lookupTimeout at most.
type lookup struct {
	resolver *Resolver
	ctx      context.Context
	key      key

	mu  sync.Mutex // guards ttl, because several questions are asked at once
	ttl time.Duration
}

// An outcome is what name servers say about a key: hosts, or why there are none.
type outcome struct {
	hosts []host
	err   error
	ttl   time.Duration
}

// A service is the name of SRV records, with the transport that they are for.
type service struct {
	name      string
	transport Transport
	order     int // services of a lower order come first
}

// The reasons why a name has no addresses, although name servers answer.
var (
	errNoAddress = errors.New("the name has no address: add an A, AAAA or SRV record for a transport and an address family that a listener has")
	errDeclined  = errors.New(`the name offers no SIP service: the target of its SRV record is "."`)
)

// lookupNumeric returns the set of a target whose host is an address, and nil for a name.
func (r *Resolver) lookupNumeric(t Target) *set {
	ip, ok := t.numeric()
	if !ok {
		return nil
	}
	tr, _ := t.transport()
	forever := time.Now().Add(maxTTL)
	if !r.cfg.Families[tr].include(ip) {
		return &set{err: fmt.Errorf("lookup %s: no listener has transport %s and the address family", t, tr), expires: forever}
	}
	h := host{name: t.Host, transport: tr}
	if ip.Is4() {
		h.ipv4 = []netip.Addr{ip}
	} else {
		h.ipv6 = []netip.Addr{ip}
	}
	return &set{hosts: []host{h}, expires: forever, goodUntil: forever}
}

// keyOf returns the key of a target whose host is a name. It returns an error if the target
// can never have an address.
func (r *Resolver) keyOf(t Target) (key, error) {
	k, err := t.key()
	if err == nil && k.transport != 0 && !r.usable(k.transport) {
		err = fmt.Errorf("lookup %s: no listener has the transport %s", k.host, k.transport)
	}
	return k, err
}

// run finds the hosts. It returns an error if the name servers give no usable answer.
func (l *lookup) run() (outcome, error) {
	l.ttl = maxTTL
	k := l.key
	hosts, found, err := []host(nil), false, error(nil)
	if !k.hasPort {
		hosts, found, err = l.findServices()
	}
	switch {
	case err != nil:
		return outcome{}, err
	case !found: // no SRV record: RFC 3263 §4.2
		if hosts, err = l.findName(); err != nil {
			return outcome{}, err
		}
	}
	o := outcome{hosts: hosts, ttl: l.ttl}
	switch {
	case len(hosts) > 0:
	case found && hosts != nil:
		o.err = fmt.Errorf("lookup %s: %w", k.host, errDeclined)
	default:
		o.err = fmt.Errorf("lookup %s: %w", k.host, errNoAddress)
	}
	return o, nil
}

// usable reports whether a listener has the transport.
func (r *Resolver) usable(t Transport) bool { return r.cfg.Families[t] != Families{} }

// defaultTransport returns the transport without SRV records.
func (l *lookup) defaultTransport() Transport {
	switch {
	case l.key.transport != 0:
		return l.key.transport
	case l.key.secure:
		return TLS
	}
	return UDP
}

// findName returns the name itself as the only host, or none.
func (l *lookup) findName() ([]host, error) {
	h := host{name: l.key.host, transport: l.defaultTransport()}
	if !l.resolver.usable(h.transport) {
		return nil, nil
	}
	if err := l.findIPs(&h); err != nil {
		return nil, err
	}
	if len(h.ipv4)+len(h.ipv6) == 0 {
		return nil, nil
	}
	return []host{h}, nil
}

// findServices returns the hosts in the SRV records of the name. found reports whether
// there is any SRV record. hosts is empty but not nil if every record declines the
// service.
//
// Services are chosen by the first order of NAPTR records that gives a host. All services
// have one order if there is no NAPTR record for a usable transport.
func (l *lookup) findServices() (hosts []host, found bool, err error) {
	services := l.listServices()
	for len(services) > 0 {
		n := 1
		for n < len(services) && services[n].order == services[0].order {
			n++
		}
		var some bool
		if hosts, some, err = l.findHosts(services[:n]); err != nil || len(hosts) > 0 {
			return hosts, true, err
		}
		found = found || some
		services = services[n:]
	}
	return hosts, found, nil
}

// listServices returns the services to ask for, by NAPTR records or else by the usable
// transports. A failed question for NAPTR counts as no record, because some name servers
// know no NAPTR. Then the answer is valid for a short time.
func (l *lookup) listServices() []service {
	k := l.key
	if k.transport != 0 {
		return []service{{name: k.transport.srvPrefix() + k.host, transport: k.transport}}
	}
	rs, err := l.ask(k.host, dns.TypeNAPTR)
	if err != nil {
		l.limitTTL(maxNegative)
	}
	if list := l.chooseServices(rs.naptrs); len(list) > 0 {
		return list
	}
	var list []service
	for _, t := range transports {
		if l.resolver.usable(t) && (t == TLS || !k.secure) {
			list = append(list, service{name: t.srvPrefix() + k.host, transport: t})
		}
	}
	return list
}

// chooseServices returns the services of NAPTR records for usable transports, by order
// and preference. For a SIPS URI only those with TLS are chosen (RFC 3263 §4.1).
func (l *lookup) chooseServices(records []naptr) []service {
	records = slices.Clone(records)
	slices.SortStableFunc(records, func(a, b naptr) int {
		return cmp.Or(cmp.Compare(a.order, b.order), cmp.Compare(a.preference, b.preference))
	})
	var list []service
	for _, n := range records {
		s := service{name: n.replacement, transport: n.transport, order: int(n.order)}
		if l.resolver.usable(n.transport) && (n.transport == TLS || !l.key.secure) && !slices.Contains(list, s) && len(list) < maxServices {
			list = append(list, s)
		}
	}
	return list
}

// maxServices bounds the SRV questions of a lookup.
const maxServices = 6

// findHosts returns the hosts in the SRV records of services, but only hosts that have an
// address. found reports whether there is any SRV record. If all records decline the
// service, hosts is empty but not nil.
//
// If the addresses of some hosts cannot be looked up, these hosts are left out, and the
// answer is valid for a short time only. If that is so for all hosts, findHosts returns
// the error.
func (l *lookup) findHosts(services []service) (hosts []host, found bool, err error) {
	answers := make([]rrset, len(services))
	if errs := l.each(len(services), func(i int) (err error) {
		answers[i], err = l.ask(services[i].name, dns.TypeSRV)
		return err
	}); errors.Join(errs...) != nil {
		return nil, false, errors.Join(errs...)
	}
	var all []host
	declined := 0
	for i, rs := range answers {
		for _, s := range rs.srvs {
			found = true
			if s.target == "" {
				declined++
				continue
			}
			all = append(all, host{name: s.target, rank: i<<16 + int(s.priority), weight: s.weight, transport: services[i].transport, port: s.port})
		}
	}
	if found && len(all) == 0 && declined > 0 {
		return []host{}, true, nil
	}
	sortHosts(all)
	all = all[:min(len(all), maxHosts)]
	errs := l.each(len(all), func(i int) error { return l.findIPs(&all[i]) })
	for i := range all {
		if errs[i] == nil && len(all[i].ipv4)+len(all[i].ipv6) > 0 {
			hosts = append(hosts, all[i])
		}
	}
	if err := errors.Join(errs...); err != nil {
		if len(hosts) == 0 {
			return nil, true, err
		}
		l.limitTTL(maxNegative)
	}
	return hosts, found, nil
}

// sortHosts sorts hosts by rank, and those of one rank as RFC 2782 wants it: weight 0
// first.
func sortHosts(hosts []host) {
	slices.SortFunc(hosts, func(a, b host) int {
		return cmp.Or(cmp.Compare(a.rank, b.rank), cmp.Compare(a.weight, b.weight), cmp.Compare(a.name, b.name), cmp.Compare(a.port, b.port))
	})
}

// findIPs sets the addresses of a host, in the families of its transport. Of two families,
// one that cannot be looked up counts as none if the other has an address.
func (l *lookup) findIPs(h *host) error {
	types := []uint16{}
	switch f := l.resolver.cfg.Families[h.transport]; {
	case f.IPv4 && f.IPv6:
		types = []uint16{dns.TypeA, dns.TypeAAAA}
	case f.IPv4:
		types = []uint16{dns.TypeA}
	case f.IPv6:
		types = []uint16{dns.TypeAAAA}
	}
	answers := make([]rrset, len(types))
	errs := l.each(len(types), func(i int) (err error) {
		answers[i], err = l.ask(h.name, types[i])
		return err
	})
	for i, rs := range answers {
		if types[i] == dns.TypeA {
			h.ipv4 = rs.ips
		} else {
			h.ipv6 = rs.ips
		}
	}
	if err := errors.Join(errs...); err != nil {
		if len(h.ipv4)+len(h.ipv6) == 0 {
			return err
		}
		l.limitTTL(maxNegative)
	}
	return nil
}

// each calls f for 0 to n-1, maxParallel at a time, waits for all calls, and returns their
// errors. A panic becomes an error.
func (l *lookup) each(n int, f func(i int) error) []error {
	var group sync.WaitGroup
	errs := make([]error, n)
	turns := make(chan struct{}, maxParallel)
	for i := range n {
		turns <- struct{}{}
		group.Go(func() {
			defer func() {
				if p := recover(); p != nil {
					errs[i] = l.resolver.panicError(p)
				}
				<-turns
			}()
			errs[i] = f(i)
		})
	}
	group.Wait()
	return errs
}

// maxParallel is the number of questions that a lookup asks at once, times two for the
// families of a host.
const maxParallel = 4

// limitTTL makes the answer valid for at most ttl.
func (l *lookup) limitTTL(ttl time.Duration) {
	l.mu.Lock()
	l.ttl = min(l.ttl, ttl)
	l.mu.Unlock()
}

// maxAliases is the number of CNAME records that are followed from one name.
const maxAliases = 8

// ask returns the records of a type that a name has, also by CNAME records. A chain that
// is too long or a loop counts as no record.
func (l *lookup) ask(name string, qtype uint16) (rrset, error) {
	left := maxAliases
	for {
		rs, err := l.resolver.ask(l.ctx, question{name, qtype}, left)
		if err != nil {
			return rrset{}, err
		}
		l.limitTTL(rs.ttl)
		if rs.alias == "" {
			return rs, nil
		}
		name = rs.alias
		if left -= rs.aliases; left <= 0 {
			l.limitTTL(maxNegative)
			return rrset{}, nil
		}
	}
}
