package resolve_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"

	"bellhop/sip/resolve"
)

var (
	serverA = netip.MustParseAddrPort("192.0.2.53:53")
	serverB = netip.MustParseAddrPort("192.0.2.54:53")
)

// A nameServer answers questions from a zone, in virtual time and in memory.
type nameServer struct {
	mu    sync.Mutex
	zone  []dns.RR
	asked map[string]int // by type and name

	// respond, if set, answers in place of the zone. A response of nil is never sent.
	respond func(network string, server netip.AddrPort, q *dns.Msg) (m *dns.Msg, after time.Duration)
	// raw, if set, is sent as the response.
	raw func(q *dns.Msg) [][]byte
}

// newNameServer returns a server of a zone in the form of a master file.
func newNameServer(t testing.TB, zone string) *nameServer {
	t.Helper()
	s := &nameServer{asked: map[string]int{}}
	s.setZone(t, zone)
	return s
}

func (s *nameServer) setZone(t testing.TB, zone string) {
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
	s.mu.Lock()
	defer s.mu.Unlock()
	s.zone = records
}

// questions returns how often a question was asked, like "A pbx.example".
func (s *nameServer) questions(q string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.asked[q]
}

// answer returns the response of the zone to a query, with the CNAME records on the way.
func (s *nameServer) answer(query *dns.Msg) *dns.Msg {
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

// dial opens a connection to the server.
func (s *nameServer) dial(_ context.Context, network string, server netip.AddrPort) (net.Conn, error) {
	return &memConn{server: s, network: network, at: server, in: make(chan []byte, 64), deadline: make(chan struct{})}, nil
}

// memConn is a connection to a nameServer.
type memConn struct {
	net.Conn
	server  *nameServer
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
	s.mu.Lock()
	q := query.Question[0]
	s.asked[dns.TypeToString[q.Qtype]+" "+strings.TrimSuffix(q.Name, ".")]++
	respond, raw := s.respond, s.raw
	var m *dns.Msg
	if respond == nil {
		m = s.answer(query)
	}
	s.mu.Unlock()
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

// A testbed is a running resolver with a nameServer.
type testbed struct {
	*resolve.Resolver
	t      *testing.T
	server *nameServer
	log    *bytes.Buffer
}

var allTransports = map[resolve.Transport]resolve.Families{
	resolve.UDP: {IPv4: true, IPv6: true},
	resolve.TCP: {IPv4: true, IPv6: true},
	resolve.TLS: {IPv4: true, IPv6: true},
}

// run runs a script with a resolver in virtual time.
func run(t *testing.T, zone string, script func(b *testbed), changes ...func(*resolve.Config)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		b := &testbed{t: t, server: newNameServer(t, zone), log: &bytes.Buffer{}}
		cfg := resolve.Config{
			Servers:  []netip.AddrPort{serverA, serverB},
			Families: allTransports,
			Log:      slog.New(slog.NewTextHandler(b.log, nil)),
			Dial:     b.server.dial,
		}
		for _, change := range changes {
			change(&cfg)
		}
		b.Resolver = resolve.New(cfg)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- b.Run(ctx) }()
		defer func() {
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
			if strings.Contains(b.log.String(), "panic recovered") {
				t.Errorf("a lookup panicked: %s", b.log)
			}
		}()
		script(b)
	})
}

// lookup returns the answer for a target after at most the time d.
func (b *testbed) lookup(target resolve.Target, d time.Duration) resolve.Answer {
	answers := make(chan resolve.Answer, 2)
	a := b.Lookup(target, func(a resolve.Answer) { answers <- a })
	if !a.Pending() {
		return a
	}
	select {
	case a = <-answers:
	case <-time.After(d):
	}
	return a
}

// want checks the addresses that a target has.
func (b *testbed) want(why string, target resolve.Target, want ...string) {
	b.t.Helper()
	a := b.lookup(target, time.Minute)
	if got := addrs(a); !slices.Equal(got, want) {
		b.t.Errorf("%s: %v has %v (%v), want %v", why, target, got, a.Err(), want)
	}
}

// wantError checks that a target has no address for a reason.
func (b *testbed) wantError(why string, target resolve.Target, reason string) {
	b.t.Helper()
	a := b.lookup(target, time.Minute)
	if err := a.Err(); err == nil || !strings.Contains(err.Error(), reason) || len(addrs(a)) > 0 {
		b.t.Errorf("%s: %v has %v and error %v, want %q", why, target, addrs(a), err, reason)
	}
}

// addrs returns the addresses of an answer. Equal weights keep their order.
func addrs(a resolve.Answer) (list []string) {
	for _, to := range a.AppendAddrs(nil, func(int) int { return 0 }) {
		list = append(list, to.String())
	}
	return list
}

var _ io.Reader = (*memConn)(nil)
