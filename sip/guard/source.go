package guard

import (
	"encoding/binary"
	"errors"
	"hash/maphash"
	"net/netip"
	"strconv"
	"strings"
	"sync/atomic"
)

// source is a source in one word: the upper half of an IPv6 address, or an IPv4 address
// behind 0:ffff. The IPv6 networks with that start are reserved.
type source uint64

const ipv4Source = source(0xffff << 32)

// sourceOf returns the source that an address belongs to.
func sourceOf(ip netip.Addr) source {
	if ip = ip.Unmap(); ip.Is4() {
		b := ip.As4()
		return ipv4Source | source(binary.BigEndian.Uint32(b[:]))
	}
	b := ip.As16()
	return source(binary.BigEndian.Uint64(b[:8]))
}

// SourceOf returns the addresses of the source that an address belongs to: a /32 or a /64.
func SourceOf(ip netip.Addr) netip.Prefix { return sourceOf(ip).prefix() }

// ParseSource parses a source: an IPv4 address with or without /32, or an IPv6 address, which
// stands for its /64 network, with or without /64. It returns the address.
func ParseSource(text string) (netip.Addr, error) {
	address, bits, isNetwork := strings.Cut(text, "/")
	ip, err := netip.ParseAddr(address)
	isNone := ip.IsUnspecified() && (ip.Is4() || !isNetwork) // ::/64 is the network of ::1
	if err != nil || ip.Zone() != "" || isNone || ip.IsMulticast() || isNetwork && bits != strconv.Itoa(SourceOf(ip).Bits()) {
		return netip.Addr{}, errors.New("must be an IPv4 address, an IPv6 address or a /64 network of IPv6")
	}
	return ip.Unmap(), nil
}

// SourceText returns an IPv4 source as an address, and an IPv6 source as a network.
func SourceText(p netip.Prefix) string {
	if p.IsSingleIP() {
		return p.Addr().String()
	}
	return p.String()
}

// prefix returns the addresses of a source: a /32 or a /64.
func (s source) prefix() netip.Prefix {
	if s&^(1<<32-1) == ipv4Source {
		var b [4]byte
		binary.BigEndian.PutUint32(b[:], uint32(s))
		return netip.PrefixFrom(netip.AddrFrom4(b), 32)
	}
	var b [16]byte
	binary.BigEndian.PutUint64(b[:8], uint64(s))
	return netip.PrefixFrom(netip.AddrFrom16(b), 64)
}

// ways is the number of slots in a bucket. A bucket fills a cache line, because a slot
// has one word.
const ways = 8

// bucketOf returns the bucket of a key, and a hash of the key for the tags in its slots.
// The seed is secret, so nobody can choose sources that share a bucket.
func bucketOf(slots []atomic.Uint64, seed maphash.Seed, key uint64) (bucket []atomic.Uint64, hash uint64) {
	var b [8]byte
	binary.LittleEndian.PutUint64(b[:], key)
	hash = maphash.Bytes(seed, b[:])
	i := hash % uint64(len(slots)/ways) // of the lower bits; tags are the upper bits
	return slots[i*ways:][:ways], hash
}
