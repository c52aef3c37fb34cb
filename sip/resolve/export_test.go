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
