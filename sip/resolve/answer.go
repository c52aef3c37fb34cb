package resolve

import (
	"errors"
	"net/netip"
	"slices"
	"time"
)

// An Addr is where a request can be sent.
type Addr struct {
	Transport Transport
	netip.AddrPort
}

// String returns a in the form of the configuration.
func (a Addr) String() string { return a.Transport.String() + "://" + a.AddrPort.String() }

// An Answer is the outcome of a lookup. It never changes and may be copied. The zero
// Answer is pending.
type Answer struct {
	set  *set
	port uint16 // of hosts whose record names no port
}

// A set is the shared part of answers for the same key. It is never written after it has
// been published.
type set struct {
	hosts     []host
	err       error     // why there are no hosts
	expires   time.Time // when another lookup is due
	refreshAt time.Time // when the next lookup of a watched name is due
	goodUntil time.Time // when the TTL of the hosts ended or will end; zero: there are none
	failing   bool      // the last lookup failed; hosts are those of an earlier one
}

// A host is one server: the target of an SRV record, or the name itself.
type host struct {
	name      string
	rank      int // hosts with a lower rank come first; those of one rank share the load
	weight    uint16
	transport Transport
	port      uint16       // 0: none in a record
	ipv6      []netip.Addr // sorted
	ipv4      []netip.Addr // sorted
}

// equal reports whether two hosts are the same.
func (h host) equal(o host) bool {
	return h.name == o.name && h.rank == o.rank && h.weight == o.weight && h.transport == o.transport && h.port == o.port &&
		slices.Equal(h.ipv4, o.ipv4) && slices.Equal(h.ipv6, o.ipv6)
}

// Limits of an answer.
const (
	maxHosts = 32 // SRV targets
	maxIPs   = 16 // of one host in one family
)

// newSet returns the set of a lookup that name servers have answered.
func newSet(now time.Time, o outcome) *set {
	ttl := min(max(o.ttl, minTTL), maxTTL)
	if o.err != nil {
		ttl = min(ttl, maxNegative)
	}
	s := &set{hosts: o.hosts, err: o.err, expires: now.Add(ttl), refreshAt: now.Add(ttl - ttl/5)}
	if o.err == nil {
		s.goodUntil = s.expires
	}
	return s
}

// failedSet returns a set without hosts that is valid for the time retry.
func failedSet(now time.Time, retry time.Duration, err error) *set {
	return &set{err: err, expires: now.Add(retry), refreshAt: now.Add(retry)}
}

// extend returns the set that is used after a failed lookup: s, valid for the time retry,
// or until its TTL ends if that is later. An answer is used for at most maxStale after
// its TTL has ended. extend returns nil if that time is over, or if s has no hosts.
func (s *set) extend(now time.Time, retry time.Duration) *set {
	if s == nil || s.goodUntil.IsZero() || now.Sub(s.goodUntil) >= maxStale {
		return nil
	}
	e := *s
	e.failing = true
	e.refreshAt = now.Add(retry)
	e.expires = e.refreshAt
	if end := s.goodUntil.Add(maxStale); e.expires.After(end) {
		e.expires, e.refreshAt = end, end
	}
	if s.goodUntil.After(e.expires) {
		e.expires = s.goodUntil
	}
	return &e
}

// expire returns s as it is when another lookup is due.
func (s *set) expire(now time.Time) *set {
	e := *s
	e.expires, e.refreshAt = now, now
	return &e
}

// failedAnswer returns an answer that is not cached.
func failedAnswer(err error) Answer { return Answer{set: &set{err: err}} }

var errPending = errors.New("the lookup is under way")

// Pending reports that the lookup is under way.
func (a Answer) Pending() bool { return a.set == nil }

// Err returns why a has no addresses, or nil if it has some.
func (a Answer) Err() error {
	if a.set == nil {
		return errPending
	}
	return a.set.err
}

// AppendAddrs appends the addresses to dst, in the order in which one request should try
// them, and returns the result. The order differs from call to call: it follows the
// priorities of SRV records, and within a priority their weights (RFC 2782). The
// addresses of one host take turns, and IPv6 alternates with IPv4 (RFC 7984 §4.2).
//
// random(n) returns a number from 0 to n-1. A caller that sends all requests of a call to
// the same server returns numbers that depend on the call only.
func (a Answer) AppendAddrs(dst []Addr, random func(n int) int) []Addr {
	if a.set == nil {
		return dst
	}
	first, hosts := len(dst), a.set.hosts
	for len(hosts) > 0 {
		n := 1
		for n < len(hosts) && hosts[n].rank == hosts[0].rank {
			n++
		}
		dst = a.appendRank(dst, first, hosts[:n], random)
		hosts = hosts[n:]
	}
	return dst
}

// appendRank appends the addresses of the hosts of one rank, which are in the order of
// their weight. Addresses that are in dst[first:] already are left out.
func (a Answer) appendRank(dst []Addr, first int, hosts []host, random func(n int) int) []Addr {
	var order [maxHosts]uint8 // the hosts that are left
	left := order[:len(hosts)]
	sum := 0
	for i := range hosts {
		left[i] = uint8(i)
		sum += int(hosts[i].weight)
	}
	for len(left) > 0 {
		at, running := 0, 0
		if len(left) > 1 {
			chosen := random(sum + 1) // RFC 2782: from 0 to the sum, both included
			for running = int(hosts[left[0]].weight); running < chosen; running += int(hosts[left[at]].weight) {
				at++
			}
		}
		h := &hosts[left[at]]
		sum -= int(h.weight)
		left = slices.Delete(left, at, at+1)
		dst = a.appendHost(dst, first, h, random)
	}
	return dst
}

// appendHost appends the addresses of one host.
func (a Answer) appendHost(dst []Addr, first int, h *host, random func(n int) int) []Addr {
	port := h.port
	if port == 0 {
		port = a.port
	}
	if port == 0 {
		port = h.transport.defaultPort()
	}
	turn6, turn4 := randomTurn(h.ipv6, random), randomTurn(h.ipv4, random)
	for i := range max(len(h.ipv6), len(h.ipv4)) {
		for _, ips := range [2]struct {
			list []netip.Addr
			turn int
		}{{h.ipv6, turn6}, {h.ipv4, turn4}} {
			if i >= len(ips.list) {
				continue
			}
			ip := ips.list[(i+ips.turn)%len(ips.list)]
			if to := (Addr{h.transport, netip.AddrPortFrom(ip, port)}); !slices.Contains(dst[first:], to) {
				dst = append(dst, to)
			}
		}
	}
	return dst
}

// randomTurn returns which of the addresses comes first.
func randomTurn(ips []netip.Addr, random func(n int) int) int {
	if len(ips) < 2 {
		return 0
	}
	return random(len(ips))
}

// contains reports whether ip is an address of a host.
func (s *set) contains(ip netip.Addr) bool {
	for i := range s.hosts {
		if slices.Contains(s.hosts[i].ipv4, ip) || slices.Contains(s.hosts[i].ipv6, ip) {
			return true
		}
	}
	return false
}
