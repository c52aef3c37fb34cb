package resolve

import (
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/miekg/dns"
)

// An rrset is the answer to a question: the records of one type that a name has.
type rrset struct {
	ips    []netip.Addr // sorted
	srvs   []srv
	naptrs []naptr
	ttl    time.Duration

	alias   string // name to ask for next, because the answer ends at a CNAME record; else ""
	aliases int    // CNAME records in the answer
}

// An srv is an SRV record (RFC 2782).
type srv struct {
	priority, weight, port uint16
	target                 string // "": the service is not available
}

// A naptr is a NAPTR record of a SIP service (RFC 3263 §4.1).
type naptr struct {
	order, preference uint16
	transport         Transport
	replacement       string // name of the SRV records
}

// maxRecords is the number of SRV and of NAPTR records that are read from an answer.
const maxRecords = 64

// readAnswer reads the records that m has for a question. It follows at most maxAliases
// CNAME records. If m has no record, the TTL is that of its SOA record (RFC 2308 §5).
func readAnswer(m *dns.Msg, q question, maxAliases int) rrset {
	rs := rrset{ttl: maxTTL}
	name := q.name
	for ; rs.aliases < maxAliases; rs.aliases++ {
		target, ttl, ok := findAlias(m, name)
		if !ok {
			break
		}
		name = target
		rs.limitTTL(ttl)
	}
	found := false
	for _, rr := range m.Answer {
		h := rr.Header()
		if owner, ok := recordName(h.Name); ok && owner == name && h.Class == dns.ClassINET && h.Rrtype == q.qtype {
			found = true
			rs.limitTTL(h.Ttl)
			rs.add(rr)
		}
	}
	slices.SortFunc(rs.ips, netip.Addr.Compare)
	rs.ips = slices.Compact(rs.ips)
	rs.ips = rs.ips[:min(len(rs.ips), maxIPs)]
	switch negative, known := negativeTTL(m); {
	case found:
	case known:
		rs.limitTTL(negative)
	case m.Rcode == dns.RcodeSuccess && rs.aliases > 0:
		rs.alias = name
	default:
		rs.ttl = min(rs.ttl, maxNegative)
	}
	return rs
}

// findAlias returns the target of the CNAME record of a name.
func findAlias(m *dns.Msg, name string) (target string, ttl uint32, ok bool) {
	for _, rr := range m.Answer {
		c, isAlias := rr.(*dns.CNAME)
		if !isAlias {
			continue
		}
		if owner, valid := recordName(c.Hdr.Name); !valid || owner != name {
			continue
		}
		if target, ok = recordName(c.Target); ok {
			return target, c.Hdr.Ttl, true
		}
	}
	return "", 0, false
}

// negativeTTL returns how long the answer is valid that a record does not exist.
func negativeTTL(m *dns.Msg) (ttl uint32, known bool) {
	for _, rr := range m.Ns {
		if soa, ok := rr.(*dns.SOA); ok {
			return min(soa.Hdr.Ttl, soa.Minttl), true
		}
	}
	return 0, false
}

// limitTTL makes rs valid for at most a number of seconds.
func (rs *rrset) limitTTL(seconds uint32) {
	if seconds > 1<<31-1 {
		seconds = 0 // RFC 2181 §8
	}
	rs.ttl = min(rs.ttl, time.Duration(seconds)*time.Second)
}

// add adds a record, unless it is useless: an address that is no host's, an SRV record
// without a port, or a NAPTR record of another service.
func (rs *rrset) add(rr dns.RR) {
	switch rr := rr.(type) {
	case *dns.A:
		rs.addIP(rr.A)
	case *dns.AAAA:
		rs.addIP(rr.AAAA)
	case *dns.SRV:
		s := srv{priority: rr.Priority, weight: rr.Weight, port: rr.Port}
		ok := rr.Target == "."
		if !ok {
			s.target, ok = recordName(rr.Target)
			ok = ok && s.port != 0
		}
		if ok && len(rs.srvs) < maxRecords {
			rs.srvs = append(rs.srvs, s)
		}
	case *dns.NAPTR:
		t := transportOfService(rr.Service)
		replacement, ok := recordName(rr.Replacement)
		if ok && t != 0 && strings.EqualFold(rr.Flags, "s") && rr.Regexp == "" && len(rs.naptrs) < maxRecords {
			rs.naptrs = append(rs.naptrs, naptr{rr.Order, rr.Preference, t, replacement})
		}
	}
}

// addIP adds an address, unless no host can have it. An IPv4-mapped address is left out,
// because it belongs in an A record.
func (rs *rrset) addIP(b []byte) {
	ip, ok := netip.AddrFromSlice(b)
	if ok && !ip.Is4In6() && !ip.IsUnspecified() && !ip.IsMulticast() {
		rs.ips = append(rs.ips, ip)
	}
}

// transportOfService returns the transport of the service in a NAPTR record, or 0.
func transportOfService(service string) Transport {
	switch strings.ToUpper(service) {
	case "SIP+D2U":
		return UDP
	case "SIP+D2T":
		return TCP
	case "SIPS+D2T":
		return TLS
	}
	return 0
}
