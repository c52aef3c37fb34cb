// Package resolvetest has a name server for tests.
package resolvetest

import (
	"context"
	"encoding/binary"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// A Server is a name server that answers questions from a zone, in virtual time and in memory.
type Server struct {
	sync.Mutex // guards the fields below

	zone  []dns.RR
	asked map[string]int // by type and name

	// Respond, if set, answers in place of the zone. A response of nil is never sent.
	Respond func(network string, server netip.AddrPort, q *dns.Msg) (m *dns.Msg, after time.Duration)
	// Raw, if set, is sent as the response.
	Raw func(q *dns.Msg) [][]byte
}

// NewServer returns a server of a zone in the form of a master file.
func NewServer(t testing.TB, zone string) *Server {
	t.Helper()
	s := &Server{asked: map[string]int{}}
	s.SetZone(t, zone)
	return s
}

// SetZone replaces the zone.
func (s *Server) SetZone(t testing.TB, zone string) {
	t.Helper()
	var records []dns.RR
	for line := range strings.Lines(zone) {
		rr, err := dns.NewRR(strings.TrimSpace(line))
		if err != nil {
			t.Fatal(err)
		}
		if rr != nil {
			records = append(records, rr)
		}
	}
	s.Lock()
	defer s.Unlock()
	s.zone = records
}

// Questions returns how often a question was asked, like "A pbx.example".
func (s *Server) Questions(q string) int {
	s.Lock()
	defer s.Unlock()
	return s.asked[q]
}

// Answer returns the response of the zone to a query, with the CNAME records on the way.
func (s *Server) Answer(query *dns.Msg) *dns.Msg {
	m := new(dns.Msg)
	m.SetReply(query)
	name, exists := query.Question[0].Name, false
	for range 20 {
		alias := ""
		for _, rr := range s.zone {
			h := rr.Header()
			if !strings.EqualFold(h.Name, name) {
				continue
			}
			exists = true
			if h.Rrtype == query.Question[0].Qtype {
				m.Answer = append(m.Answer, rr)
			} else if c, ok := rr.(*dns.CNAME); ok {
				m.Answer = append(m.Answer, rr)
				alias = c.Target
			}
		}
		if name = alias; alias == "" {
			break
		}
	}
	if !exists {
		m.Rcode = dns.RcodeNameError
	}
	if len(m.Answer) == 0 {
		for _, rr := range s.zone {
			if rr.Header().Rrtype == dns.TypeSOA {
				m.Ns = append(m.Ns, rr)
			}
		}
	}
	return m
}

// Dial opens a connection to the server.
func (s *Server) Dial(_ context.Context, network string, server netip.AddrPort) (net.Conn, error) {
	return &memConn{server: s, network: network, at: server, in: make(chan []byte, 64), deadline: make(chan struct{})}, nil
}

// memConn is a connection to a Server.
type memConn struct {
	net.Conn
	server  *Server
	network string
	at      netip.AddrPort
	in      chan []byte
	rest    []byte // of a message on a stream

	mu       sync.Mutex
	deadline chan struct{}
	closed   bool
}

func (c *memConn) Write(b []byte) (int, error) {
	query := new(dns.Msg)
	wire := b
	if c.network == "tcp" {
		wire = b[2:]
	}
	if err := query.Unpack(wire); err != nil {
		return 0, err
	}
	s := c.server
	s.Lock()
	q := query.Question[0]
	s.asked[dns.TypeToString[q.Qtype]+" "+strings.TrimSuffix(q.Name, ".")]++
	respond, raw := s.Respond, s.Raw
	var m *dns.Msg
	if respond == nil {
		m = s.Answer(query)
	}
	s.Unlock()
	if raw != nil {
		for _, b := range raw(query) {
			c.in <- b
		}
	}
	after := time.Duration(0)
	if respond != nil {
		m, after = respond(c.network, c.at, query)
	}
	if m == nil {
		return len(b), nil
	}
	reply, err := m.Pack()
	if err != nil {
		return 0, err
	}
	if c.network == "tcp" {
		reply = append(binary.BigEndian.AppendUint16(nil, uint16(len(reply))), reply...)
	}
	time.AfterFunc(after, func() {
		select {
		case c.in <- reply:
		default:
		}
	})
	return len(b), nil
}

func (c *memConn) Read(b []byte) (int, error) {
	c.mu.Lock()
	deadline := c.deadline
	c.mu.Unlock()
	if len(c.rest) == 0 {
		select {
		case c.rest = <-c.in:
		case <-deadline:
			return 0, os.ErrDeadlineExceeded
		}
	}
	n := copy(b, c.rest)
	if c.rest = c.rest[n:]; c.network == "udp" {
		c.rest = nil
	}
	return n, nil
}

// SetDeadline ends reads at once: the resolver only sets a deadline that has passed.
func (c *memConn) SetDeadline(time.Time) error { return c.Close() }

func (c *memConn) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.closed {
		c.closed = true
		close(c.deadline)
	}
	return nil
}
