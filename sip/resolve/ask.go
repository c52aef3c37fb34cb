package resolve

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"
)

// The times and the number of the requests to name servers for one question. The next
// server is asked after tryInterval, and earlier if the last one fails. A late response of
// an earlier one still counts.
const (
	questionTimeout = 6 * time.Second
	tryInterval     = time.Second
	maxTries        = 4
)

const (
	udpSize     = 1232 // largest response over UDP that is asked for (DNS flag day 2020)
	maxResponse = 4096 // largest response over UDP that is read
)

// errNoResponse is the error if no name server has responded in time.
var errNoResponse = errors.New("no name server answers")

// A question asks for the records of one type that a name has.
type question struct {
	name  string
	qtype uint16
}

// A response is what one name server has sent.
type response struct {
	server netip.AddrPort
	msg    *dns.Msg // nil: nothing
	err    error    // why it cannot be used
}

// ask asks the name servers a question. It follows at most maxAliases CNAME records.
func (r *Resolver) ask(ctx context.Context, q question, maxAliases int) (rrset, error) {
	select {
	case r.asking <- struct{}{}:
		defer func() { <-r.asking }()
	case <-ctx.Done():
		return rrset{}, errNoResponse
	}
	m, err := r.exchange(ctx, q)
	if err != nil {
		return rrset{}, fmt.Errorf("ask for %s of %s: %w", dns.TypeToString[q.qtype], q.name, err)
	}
	return readAnswer(m, q, maxAliases), nil
}

// exchange returns the first usable response of a name server.
func (r *Resolver) exchange(ctx context.Context, q question) (*dns.Msg, error) {
	ctx, cancel := context.WithTimeout(ctx, questionTimeout)
	defer cancel()
	servers := r.servers.list(time.Now())
	responses := make(chan response, maxTries)
	next := time.NewTimer(0)
	defer next.Stop()
	responded, err := false, errNoResponse
	for tries, open := 0, 0; ; {
		select {
		case <-next.C:
			if tries < maxTries {
				server := servers[tries%len(servers)]
				r.goroutines.Go(func() { responses <- r.exchangeWith(ctx, server, q) })
				tries++
				open++
				next.Reset(tryInterval)
			}
			continue
		case re := <-responses:
			open--
			if re.msg != nil {
				responded = true
				r.unreachable.Store(false)
			}
			if re.err == nil {
				r.servers.prefer(re.server)
				return re.msg, nil
			}
			err = re.err
			next.Reset(0)
		case <-ctx.Done():
			open = 0
		}
		if open == 0 && (tries == maxTries || ctx.Err() != nil) {
			r.unreachable.Store(!responded)
			return nil, err
		}
	}
}

// exchangeWith asks one name server: over UDP, over TCP if the response is truncated, and
// without EDNS if the server does not understand it.
func (r *Resolver) exchangeWith(ctx context.Context, server netip.AddrPort, q question) (re response) {
	re.server = server
	defer func() {
		if p := recover(); p != nil {
			re.err = r.panicError(p)
		}
	}()
	query := new(dns.Msg)
	query.SetQuestion(dns.Fqdn(q.name), q.qtype)
	query.SetEdns0(udpSize, false)
	re.msg, re.err = r.roundTrip(ctx, "udp", server, query)
	if re.err == nil && re.msg.Rcode == dns.RcodeFormatError {
		query.Extra = nil
		re.msg, re.err = r.roundTrip(ctx, "udp", server, query)
	}
	if re.err == nil && re.msg.Truncated {
		re.msg, re.err = r.roundTrip(ctx, "tcp", server, query)
	}
	if re.err == nil && re.msg.Rcode != dns.RcodeSuccess && re.msg.Rcode != dns.RcodeNameError {
		re.err = fmt.Errorf("name server %s answers %s", server, dns.RcodeToString[re.msg.Rcode])
	}
	return re
}

// roundTrip sends a query and returns the response with its ID and question. Over UDP, it
// ignores other datagrams, because they may be forged.
func (r *Resolver) roundTrip(ctx context.Context, network string, server netip.AddrPort, query *dns.Msg) (*dns.Msg, error) {
	wire, err := query.Pack()
	if err != nil {
		return nil, err
	}
	c, err := r.cfg.Dial(ctx, network, server)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	defer context.AfterFunc(ctx, func() { c.SetDeadline(time.Unix(1, 0)) })()
	if network == "tcp" {
		wire = append(binary.BigEndian.AppendUint16(nil, uint16(len(wire))), wire...)
	}
	if _, err := c.Write(wire); err != nil {
		return nil, err
	}
	for buf := make([]byte, maxResponse); ; {
		b, err := readResponse(c, network, buf)
		if err != nil {
			return nil, fmt.Errorf("read from name server %s: %w", server, err)
		}
		m := new(dns.Msg)
		if err = m.Unpack(b); (err == nil || m.Truncated) && answers(m, query) {
			return m, nil
		}
		if network == "tcp" {
			return nil, fmt.Errorf("name server %s sends an invalid response", server)
		}
	}
}

// readResponse reads one message. The result may use buf.
func readResponse(c net.Conn, network string, buf []byte) ([]byte, error) {
	if network == "udp" {
		n, err := c.Read(buf)
		return buf[:n], err
	}
	if _, err := io.ReadFull(c, buf[:2]); err != nil {
		return nil, err
	}
	if n := int(binary.BigEndian.Uint16(buf)); n > len(buf) {
		buf = make([]byte, n)
	} else {
		buf = buf[:n]
	}
	_, err := io.ReadFull(c, buf)
	return buf, err
}

// answers reports whether m is a response to query.
func answers(m, query *dns.Msg) bool {
	if !m.Response || m.Id != query.Id || len(m.Question) != 1 {
		return false
	}
	got, asked := m.Question[0], query.Question[0]
	return got.Qtype == asked.Qtype && got.Qclass == asked.Qclass && strings.EqualFold(got.Name, asked.Name)
}

// serverList is the list of name servers, in the order in which they are asked.
type serverList struct {
	file string

	mu         sync.Mutex       // guards the fields below
	configured []netip.AddrPort // empty: those in file
	readAt     time.Time
	modTime    time.Time
	servers    []netip.AddrPort
}

// resolvConfInterval is the shortest time between two looks at resolv.conf.
const resolvConfInterval = 5 * time.Second

// configure replaces the configured name servers.
func (s *serverList) configure(servers []netip.AddrPort) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.configured, s.servers, s.modTime = servers, nil, time.Time{}
}

// list returns the name servers. It reads resolv.conf again if that has changed.
func (s *serverList) list(now time.Time) []netip.AddrPort {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case len(s.configured) > 0:
		if s.servers == nil {
			s.servers = slices.Clone(s.configured)
		}
	case s.servers == nil || now.Sub(s.readAt) >= resolvConfInterval:
		s.readAt = now
		info, err := os.Stat(s.file)
		if err == nil && !info.ModTime().Equal(s.modTime) {
			s.modTime = info.ModTime()
			s.servers = readServers(s.file)
		}
		if len(s.servers) == 0 {
			s.servers = []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:53")} // resolv.conf(5)
		}
	}
	return slices.Clone(s.servers)
}

// prefer puts a name server that has answered at the front of the list.
func (s *serverList) prefer(server netip.AddrPort) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if i := slices.Index(s.servers, server); i > 0 {
		s.servers = slices.Insert(slices.Delete(s.servers, i, i+1), 0, server)
	}
}

// readServers returns the name servers in a file of resolv.conf(5). Lines without an
// address are left out.
func readServers(file string) (servers []netip.AddrPort) {
	conf, err := dns.ClientConfigFromFile(file)
	if err != nil {
		return nil
	}
	for _, s := range conf.Servers {
		if ip, err := netip.ParseAddr(s); err == nil {
			servers = append(servers, netip.AddrPortFrom(ip, 53))
		}
	}
	return servers
}
