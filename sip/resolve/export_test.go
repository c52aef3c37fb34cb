package resolve

import (
	"net/netip"
	"time"

	"github.com/miekg/dns"
)

// Names returns the number of names that are kept.
func (r *Resolver) Names() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.names
}

// Stale reports that the addresses have expired but no name server has answered since.
func (a Answer) Stale() bool { return a.set.failing && !time.Now().Before(a.set.goodUntil) }

// Expires returns when the next lookup is due.
func (a Answer) Expires() time.Time { return a.set.expires }

// ReadAnswer reads an answer of a name server, for the fuzz test. It returns the number
// of records, the lifetime and the name to ask for next.
func ReadAnswer(m *dns.Msg, name string, qtype uint16) (records int, ttl time.Duration, alias string) {
	rs := readAnswer(m, question{name, qtype}, maxAliases)
	return len(rs.ips) + len(rs.srvs) + len(rs.naptrs), rs.ttl, rs.alias
}

// ServersOf returns the name servers in a file at a time.
type ServerList struct{ list serverList }

func NewServerList(file string) *ServerList { return &ServerList{serverList{file: file}} }

func (s *ServerList) At(now time.Time) []netip.AddrPort { return s.list.list(now) }
