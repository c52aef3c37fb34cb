package sip_test

import (
	"bytes"
	"context"
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"bellhop/dialog"
	"bellhop/sip"
	"bellhop/sip/resolve/resolvetest"
	"bellhop/sip/siptest"
)

// The addresses of the testbed. The proxy listens on UDP and TCP.
var (
	proxyAt = netip.MustParseAddrPort("192.0.2.1:5060")
	pbxAt   = netip.MustParseAddrPort("192.0.2.2:5060")
	phoneAt = netip.MustParseAddrPort("192.0.2.101:5062")
	otherAt = netip.MustParseAddrPort("192.0.2.102:5062") // another phone
)

var key = bytes.Repeat([]byte("k"), 32)

// A testbed is a proxy in virtual time between a phone and a PBX, on a network in
// memory. Messages arrive at once.
type testbed struct {
	t            *testing.T
	net          *siptest.Network
	proxy        *sip.Proxy
	log          *logBuffer
	observations chan dialog.Message
	peers        []*peer
	stop         func()

	phone, pbx *peer
	allPBXs    []*peer
	probes     bool // several PBXs, one with a name, or a trunk get OPTIONS all the time

	restartProxy func() // starts a new proxy with the same configuration
}

// logBuffer holds a log. Workers write to it while a test reads it.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func (l *logBuffer) Reset() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.b.Reset()
}

// runScenario runs a script on a testbed. At its end the proxy must come to rest: five
// minutes later no transaction and no timer is left, and nothing has panicked. The phone
// has proved its address, as a registered one has.
func runScenario(t *testing.T, script func(s *testbed), changes ...func(*sip.Config)) {
	t.Helper()
	runUnproven(t, func(s *testbed) {
		s.proxy.Prove(phoneAt.Addr())
		script(s)
	}, changes...)
}

// runUnproven is runScenario with no proven source.
func runUnproven(t *testing.T, script func(s *testbed), changes ...func(*sip.Config)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		s := newTestbed(t, changes...)
		defer s.closeAll()
		script(s)
		s.checkAtRest()
	})
}

// newTestbed returns a testbed with a running proxy. It must be called in a synctest
// bubble.
func newTestbed(t *testing.T, changes ...func(*sip.Config)) *testbed {
	s := &testbed{t: t, net: siptest.NewNetwork(), log: &logBuffer{}, observations: make(chan dialog.Message, 1<<14)}
	cfg := sip.Config{
		Listen:       listenOn(sip.Addr{Proto: sip.UDP, AddrPort: proxyAt}, sip.Addr{Proto: sip.TCP, AddrPort: proxyAt}),
		PBX:          []sip.Addr{{Proto: sip.UDP, AddrPort: pbxAt}},
		Key:          key,
		Observations: s.observations,
		Workers:      2,
		Log:          slog.New(slog.NewTextHandler(s.log, nil)),
		Net:          s.net,

		NameServers:    []netip.AddrPort{netip.MustParseAddrPort("192.0.2.53:53")},
		DialNameServer: resolvetest.NewServer(t, "").Dial,
	}
	for _, change := range changes {
		change(&cfg)
	}
	s.phone = s.addUDPPeer(phoneAt)
	s.phone.name = "phone"
	for _, p := range cfg.PBX {
		open := s.addUDPPeer
		if p.Proto == sip.TCP {
			open = s.addTCPListener
		}
		at := p.AddrPort
		if p.Host != "" {
			at = pbxAt
		}
		s.probes = s.probes || p.Host != "" || len(cfg.PBX) > 1
		s.allPBXs = append(s.allPBXs, open(at))
	}
	s.pbx = s.allPBXs[0]
	s.pbx.name = "pbx"
	s.startProxy(cfg)
	return s
}

// startProxy starts a proxy.
func (s *testbed) startProxy(cfg sip.Config) {
	proxy, err := sip.Listen(cfg)
	if err != nil {
		s.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var run sync.WaitGroup
	run.Go(func() { proxy.Run(ctx) })
	s.proxy = proxy
	s.restartProxy = func() { s.startProxy(cfg) }
	s.stop = sync.OnceFunc(func() {
		cancel()
		run.Wait()
	})
}

// checkAtRest stops the proxy after five minutes and checks that it has nothing left.
func (s *testbed) checkAtRest() {
	s.t.Helper()
	s.advance(5 * time.Minute)
	if n := s.proxy.Stats().Transactions; n != 0 && !s.probes {
		s.t.Errorf("%d transactions are counted as under way at the end", n)
	}
	s.stop()
	if n := s.proxy.Held(); n != 0 && !s.probes {
		s.t.Errorf("%d transactions and timers are left at the end", n)
	}
	if n := s.proxy.Stats().Panics; n != 0 {
		s.t.Errorf("%d panics: %s", n, s.log)
	}
}

// closeAll stops the proxy and closes every peer.
func (s *testbed) closeAll() {
	s.stop()
	for _, p := range s.peers {
		p.close()
	}
}

// advance lets the time d pass.
func (s *testbed) advance(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// sendInvite sends an INVITE from the phone to the PBX. It returns the INVITE as sent
// and as received.
func (s *testbed) sendInvite() (invite, got text) {
	s.t.Helper()
	invite = s.phone.newInvite()
	s.phone.send(invite)
	return invite, s.pbx.expect("the INVITE goes on", "INVITE")
}

// registerPhone registers the phone, which proves its address.
func (s *testbed) registerPhone() {
	s.t.Helper()
	s.phone.send(s.phone.newRequest("REGISTER", "sip:pbx.example"))
	s.pbx.respond(s.pbx.expect("the REGISTER goes on", "REGISTER"), "200 OK")
	s.phone.expect("the answer comes back", "SIP/2.0 200")
}

// expectNothing checks that no peer receives anything.
func (s *testbed) expectNothing(why string) {
	s.t.Helper()
	synctest.Wait()
	for _, p := range s.peers {
		if m, ok := p.nextMessage(); ok {
			s.t.Fatalf("%s: %s got\n%s", why, p.name, m)
		}
	}
}

// oneWorker configures a single worker, so that messages of different calls keep their
// order too.
func oneWorker(c *sip.Config) { c.Workers = 1 }

// listenOn returns listeners of both sides without an advertised name.
func listenOn(addrs ...sip.Addr) (ls []sip.Listener) {
	for _, a := range addrs {
		ls = append(ls, sip.Listener{Addr: a})
	}
	return ls
}

func pbxOverTCP(c *sip.Config) { c.PBX[0].Proto = sip.TCP }

func withRegister(r sip.Register) func(*sip.Config) {
	return func(c *sip.Config) { c.Register = r }
}

func assertEqual(t *testing.T, what, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("%s:\n got %q\nwant %q", what, got, want)
	}
}

func parsePrefixes(list ...string) (ps []netip.Prefix) {
	for _, p := range list {
		if !strings.Contains(p, "/") {
			p += "/32"
		}
		ps = append(ps, netip.MustParsePrefix(p))
	}
	return ps
}
