package acme

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddyserver/certmagic"
	"github.com/letsencrypt/pebble/v2/ca"
	"github.com/letsencrypt/pebble/v2/db"
	"github.com/letsencrypt/pebble/v2/va"
	"github.com/letsencrypt/pebble/v2/wfe"
	protocol "github.com/mholt/acmez/v3/acme"
	"github.com/miekg/dns"

	"bellhop/cmd/bellhop/store"
	"bellhop/cmd/bellhop/store/storetest"
	"bellhop/sip/certs"
)

// An authority is a Pebble, the test server of Let's Encrypt. For it, all names lead to
// 127.0.0.1.
type authority struct {
	*httptest.Server
	management        http.Handler
	httpPort, tlsPort int // to which it connects to verify a name

	mu     sync.Mutex
	noARI  bool // it does not tell when to renew
	orders int
}

// startAuthority starts an authority. It ends with the test.
func startAuthority(t *testing.T) *authority {
	t.Setenv("PEBBLE_VA_NOSLEEP", "1")
	t.Setenv("PEBBLE_WFE_NONCEREJECT", "0")
	t.Setenv("PEBBLE_AUTHZREUSE", "0")
	a := &authority{httpPort: freePort(t), tlsPort: freePort(t)}
	quiet, stored := log.New(io.Discard, "", 0), db.NewMemoryStore()
	front := wfe.New(quiet, stored, va.New(quiet, a.httpPort, a.tlsPort, false, startResolver(t), stored),
		ca.New(quiet, stored, "", "ecdsa", 0, 1, map[string]ca.Profile{
			"classic":    {ValidityPeriod: 90 * 24 * 3600},
			"shortlived": {ValidityPeriod: 160 * 3600},
		}), []string{"pebble.letsencrypt.org"}, false, false, 0, 0)
	a.management = front.ManagementHandler()
	handler := front.Handler()
	a.Server = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		a.mu.Lock()
		defer a.mu.Unlock()
		answer := httptest.NewRecorder()
		handler.ServeHTTP(answer, r)
		body := answer.Body.Bytes()
		switch {
		case r.URL.Path == "/dir" && a.noARI:
			var directory map[string]any
			json.Unmarshal(body, &directory)
			delete(directory, "renewalInfo")
			body, _ = json.Marshal(directory)
		case strings.Contains(r.URL.Path, "/renewalInfo/"):
			answer.Header().Del("Retry-After") // so that it is asked again at once
		case r.URL.Path == "/order-plz":
			a.orders++
		}
		for name, values := range answer.Header() {
			w.Header()[name] = values
		}
		w.WriteHeader(answer.Code)
		w.Write(body)
	}))
	t.Cleanup(a.Close)
	return a
}

// count returns the number of orders so far.
func (a *authority) count() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.orders
}

// startResolver starts a name server for which every name is 127.0.0.1.
func startResolver(t *testing.T) (address string) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &dns.Server{Listener: l, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		m := new(dns.Msg).SetReply(q)
		if q.Question[0].Qtype == dns.TypeA {
			m.Answer = append(m.Answer, &dns.A{Hdr: dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET}, A: net.IPv4(127, 0, 0, 1)})
		}
		w.WriteMsg(m)
	})}
	go server.ActivateAndServe()
	t.Cleanup(func() { server.Shutdown() })
	return l.Addr().String()
}

// freePort returns a port of all addresses that nobody listens on.
func freePort(t *testing.T) int {
	l, err := net.Listen("tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// openStore opens an embedded store.
func openStore(t *testing.T) *store.Store {
	s, err := store.Open(t.Context(), storetest.Config(t.TempDir()), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

// A node is a Manager that runs, with its log.
type node struct {
	*Manager
	t      *testing.T
	store  *certs.Store
	cancel context.CancelFunc
	ended  chan struct{}

	mu  sync.Mutex
	log bytes.Buffer
}

// Write adds to the log of the node.
func (n *node) Write(b []byte) (int, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.log.Write(b)
}

// logged returns the log so far.
func (n *node) logged() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.log.String()
}

// startNode starts a node for names. The functions change its configuration.
func startNode(t *testing.T, s *store.Store, a *authority, names string, change ...func(*Manager)) *node {
	t.Helper()
	roots := x509.NewCertPool()
	roots.AddCert(a.Certificate())
	n := &node{t: t, ended: make(chan struct{})}
	var err error
	n.Manager, err = Open(t.Context(), s, Config{
		Names: strings.Fields(names), Directory: a.URL + "/dir", Roots: roots, Profile: "classic", Replicas: 1,
		httpPort: a.httpPort, tlsPort: a.tlsPort, interval: 20 * time.Millisecond, Log: slog.New(slog.NewTextHandler(n, nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range change {
		f(n.Manager)
	}
	if n.store, err = certs.New(n.Pairs()); err != nil {
		t.Fatal(err)
	}
	var ctx context.Context
	ctx, n.cancel = context.WithCancel(context.Background())
	go func() {
		defer close(n.ended)
		n.Run(ctx)
	}()
	t.Cleanup(n.stop)
	return n
}

// stop ends the node.
func (n *node) stop() {
	n.cancel()
	<-n.ended
}

// eventually waits until a condition is met.
func (n *node) eventually(what string, met func() bool) {
	n.t.Helper()
	for began := time.Now(); !met(); time.Sleep(10 * time.Millisecond) {
		if time.Since(began) > 2*time.Minute {
			n.t.Fatalf("%s: not within two minutes: %s", what, n.logged())
		}
	}
}

// leaf returns the certificate for a name that a handshake gets, or nil.
func (n *node) leaf(name string) *x509.Certificate {
	n.t.Helper()
	if _, err := n.store.Refresh(); err != nil {
		n.t.Fatal(err)
	}
	c, err := n.store.GetCertificate(&tls.ClientHelloInfo{ServerName: name, SupportedVersions: []uint16{tls.VersionTLS13}, SignatureSchemes: []tls.SignatureScheme{tls.PSSWithSHA256}})
	if errors.Is(err, certs.ErrNotIssued) {
		return nil
	}
	if err != nil {
		n.t.Fatal(err)
	}
	return c.Leaf
}

// issued waits for the certificate of a name, and returns it.
func (n *node) issued(name string) *x509.Certificate {
	n.t.Helper()
	n.eventually("the certificate of "+name, func() bool {
		leaf := n.leaf(name)
		return leaf != nil && leaf.VerifyHostname(name) == nil
	})
	return n.leaf(name)
}

// The first certificates are issued by HTTP-01, one for each name. A restart keeps them.
// Another node uses them without an order of its own.
func TestIssuesAndKeepsCertificates(t *testing.T) {
	a, s := startAuthority(t), openStore(t)
	a.tlsPort = freePort(t) // where the authority does not look
	n := startNode(t, s, a, "sip.example.com 127.0.0.1 www.example.com")
	first := n.issued("sip.example.com")
	n.issued("www.example.com")
	n.eventually("the certificate of an address", func() bool {
		for _, i := range n.store.Infos() {
			if i.Name == "acme.names[1]" {
				return i.Hosts[0] == "127.0.0.1"
			}
		}
		n.leaf("")
		return false
	})
	if life := first.NotAfter.Sub(first.NotBefore).Round(time.Hour); life != 90*24*time.Hour {
		t.Errorf("the certificate lives for %v", life)
	}
	if got := n.Problems(); len(got) > 0 {
		t.Errorf("the problems are %q", got)
	}
	n.stop()
	orders := a.count()

	a.Close()
	again := startNode(t, s, a, "sip.example.com")
	if leaf := again.leaf("sip.example.com"); leaf == nil || !leaf.Equal(first) {
		t.Error("after a restart the certificate is another")
	}
	again.stop()
	if got := a.count(); got != orders {
		t.Errorf("the restart has made %d orders", got-orders)
	}
}

// Two nodes that begin at the same time make one order. Each renewal by one is used by both.
func TestNodesShareCertificates(t *testing.T) {
	a, s := startAuthority(t), openStore(t)
	one := startNode(t, s, a, "sip.example.com")
	two := startNode(t, s, a, "sip.example.com")
	if x, y := one.issued("sip.example.com"), two.issued("sip.example.com"); !x.Equal(y) {
		t.Error("the nodes have different certificates")
	}
	if got := a.count(); got != 1 {
		t.Errorf("the nodes have made %d orders", got)
	}
}

// The authority verifies a name by TLS-ALPN-01 at a listener that answers by Challenge. It
// also answers for a challenge that another node has put into the store.
func TestAnswersTLSChallenge(t *testing.T) {
	a, s := startAuthority(t), openStore(t)
	var n *node
	started := make(chan struct{})
	l, err := tls.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", a.tlsPort), &tls.Config{NextProtos: []string{"acme-tls/1"}, GetCertificate: func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
		<-started
		return n.Challenge(hello)
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				c.(*tls.Conn).Handshake()
			}()
		}
	}()
	n = startNode(t, s, a, "sip.example.com", func(m *Manager) { issuerOf(m).ListenHost, issuerOf(m).DisableHTTPChallenge = "127.0.0.1", true })
	close(started)
	n.issued("sip.example.com")

	shake := func(name string) error {
		c, err := tls.Dial("tcp", l.Addr().String(), &tls.Config{ServerName: name, NextProtos: []string{"acme-tls/1"}, InsecureSkipVerify: true})
		if err != nil {
			return err
		}
		defer c.Close()
		return c.ConnectionState().PeerCertificates[0].VerifyHostname(name)
	}
	if err := shake("other.example.com"); err == nil {
		t.Error("a challenge that nobody has made is answered")
	}
	challenge, _ := json.Marshal(protocol.Challenge{Type: "tls-alpn-01", Token: "t", KeyAuthorization: "t.k", Identifier: protocol.Identifier{Type: "dns", Value: "other.example.com"}})
	if err := n.storage.Store(t.Context(), "acme/"+certmagic.StorageKeys.Safe(n.issuer)+"/challenge_tokens/other.example.com.json", challenge); err != nil {
		t.Fatal(err)
	}
	if err := shake("other.example.com"); err != nil {
		t.Errorf("the challenge of another node: %v", err)
	}
}

// issuerOf returns the ACME client of certmagic, to change it.
func issuerOf(m *Manager) *certmagic.ACMEIssuer {
	return m.magic.Issuers[0].(*certmagic.ACMEIssuer)
}

// A certificate is renewed when two thirds of its life are over, and not before, whatever
// its length.
func TestRenewsAtTwoThirds(t *testing.T) {
	for _, tt := range []struct {
		age, left time.Duration
		renewed   bool
	}{
		{61 * 24 * time.Hour, 29 * 24 * time.Hour, true},
		{59 * 24 * time.Hour, 31 * 24 * time.Hour, false},
		{108 * time.Hour, 52 * time.Hour, true}, // of 160 h
		{106 * time.Hour, 54 * time.Hour, false},
	} {
		a, s := startAuthority(t), openStore(t)
		a.noARI = true
		old := startNode(t, s, a, "sip.example.com", func(m *Manager) {
			issuerOf(m).NotBefore, issuerOf(m).NotAfter = -tt.age, tt.left
			m.magic.RenewalWindowRatio = 0.01
		})
		before := old.issued("sip.example.com")
		old.stop()

		n := startNode(t, s, a, "sip.example.com")
		if tt.renewed {
			n.eventually(fmt.Sprintf("a certificate with %v left is renewed", tt.left), func() bool { return !n.leaf("sip.example.com").Equal(before) })
		}
		n.pass()
		want := 1
		if tt.renewed {
			want = 2
		}
		if got := a.count(); got != want {
			t.Errorf("a certificate of %v with %v left: %d orders, want %d", tt.age+tt.left, tt.left, got, want)
		}
		n.stop()
	}
}

// pass waits until the node has looked at its certificates a few times more.
func (n *node) pass() {
	n.t.Helper()
	n.Retry()
	n.eventually("the node looks again", func() bool { return len(n.retry) == 0 })
	n.Retry()
	n.eventually("the node looks again", func() bool { return len(n.retry) == 0 })
}

// A certificate is renewed when the authority says so, though most of its life is left.
func TestRenewsByARI(t *testing.T) {
	a, s := startAuthority(t), openStore(t)
	n := startNode(t, s, a, "sip.example.com", func(m *Manager) { issuerOf(m).Profile = "shortlived" })
	before := n.issued("sip.example.com")
	if life := before.NotAfter.Sub(before.NotBefore).Round(time.Hour); life != 160*time.Hour {
		t.Errorf("the certificate of the profile shortlived lives for %v", life)
	}
	n.pass()
	if got := a.count(); got != 1 {
		t.Fatalf("%d orders before the authority asks for a renewal", got)
	}
	window, _ := json.Marshal(map[string]any{"suggestedWindow": map[string]any{"start": time.Now().Add(-2 * time.Hour), "end": time.Now().Add(-time.Hour)}})
	request, _ := json.Marshal(map[string]string{
		"certificate": string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: before.Raw})),
		"ariResponse": string(window),
	})
	answer, post := httptest.NewRecorder(), httptest.NewRequest("POST", "/set-renewal-info/", bytes.NewReader(request))
	post.Header.Set("User-Agent", "test")
	a.management.ServeHTTP(answer, post)
	if answer.Code != 200 {
		t.Fatalf("set the renewal info: %d %s", answer.Code, answer.Body)
	}
	n.eventually("the renewal", func() bool { return !n.leaf("sip.example.com").Equal(before) })
}

// A certificate stays in use while the authority is down. The log says what to do. Attempts
// do not follow each other at once. Retry makes one at once.
func TestKeepsCertificateWithoutAuthority(t *testing.T) {
	a, s := startAuthority(t), openStore(t)
	a.noARI = true // else each attempt asks for it first, three times
	old := startNode(t, s, a, "sip.example.com", func(m *Manager) {
		issuerOf(m).NotBefore, issuerOf(m).NotAfter = -2*time.Hour, time.Hour/2
		m.magic.RenewalWindowRatio = 0.01
	})
	before := old.issued("sip.example.com")
	old.stop()
	a.Close()

	n := startNode(t, s, a, "sip.example.com new.example.com")
	n.eventually("the warnings", func() bool {
		text := n.logged()
		return strings.Contains(text, "certificate not renewed") && strings.Contains(text, "certificate not issued")
	})
	if leaf := n.leaf("sip.example.com"); leaf == nil || !leaf.Equal(before) {
		t.Error("the certificate is not used any more")
	}
	for _, want := range []string{"name=sip.example.com", "connection refused", `remedy="check acme.directory and that this machine can reach it; SIGHUP tries again"`, "next_attempt=", "expires="} {
		if !strings.Contains(n.logged(), want) {
			t.Errorf("the log has no %s: %s", want, n.logged())
		}
	}
	problems := strings.Join(n.Problems(), "\n")
	for _, want := range []string{"certificate acme.names[0] for sip.example.com not renewed: ", "certificate acme.names[1] for new.example.com not obtained: "} {
		if !strings.Contains(problems, want) {
			t.Errorf("the problems have no %q: %s", want, problems)
		}
	}
	count := func() int { return strings.Count(n.logged(), "certificate not renewed") }
	if got := count(); got != 1 {
		t.Errorf("%d attempts", got)
	}
	n.Retry()
	n.eventually("another attempt", func() bool { return count() == 2 })
}

// An authority that cannot reach the name says so, and the log passes it on.
func TestExplainsFailedChallenge(t *testing.T) {
	a, s := startAuthority(t), openStore(t)
	a.httpPort, a.tlsPort = freePort(t), freePort(t) // where the authority does not look
	n := startNode(t, s, a, "sip.example.com")
	n.eventually("the warning", func() bool { return strings.Contains(n.logged(), "certificate not issued") })
	if text := n.logged(); !strings.Contains(text, `remedy="let sip.example.com lead to this machine, and its port 80 or 443 be reachable from the Internet; SIGHUP tries again"`) {
		t.Error(text)
	}
	if n.leaf("sip.example.com") != nil {
		t.Error("there is a certificate")
	}
}

// A lock that a node asks for while it stops is released, and a lock is released only by
// the node that has it.
func TestLocksAreReleased(t *testing.T) {
	s := openStore(t)
	open := func() *bucketStorage {
		b, err := openStorage(t.Context(), s, 1)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	one, two := open(), open()
	stopped, cancel := context.WithCancel(t.Context())
	cancel()
	if err := one.Lock(stopped, "a@b"); err != nil {
		t.Fatalf("while the node stops: %v", err)
	}
	if err := two.Lock(stopped, "a@b"); err == nil {
		t.Error("two nodes have the lock")
	}
	two.Unlock(stopped, "a@b")
	if err := two.Lock(stopped, "a@b"); err == nil {
		t.Error("a node has released the lock of another")
	}
	if err := one.Unlock(stopped, "a@b"); err != nil {
		t.Errorf("release: %v", err)
	}
	if err := two.Lock(t.Context(), "a@b"); err != nil {
		t.Errorf("after the release: %v", err)
	}
}
