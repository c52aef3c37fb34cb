package certs_test

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"bellhop/sip/certs"
	"bellhop/sip/siptest"
)

var authority = siptest.NewAuthority("test authority")

// text returns a source of b.
func text(b []byte) certs.Source { return func() ([]byte, error) { return b, nil } }

// issue returns a pair of a new certificate.
func issue(name string, r siptest.CertificateRequest) certs.Pair {
	cert, key := authority.Issue(r)
	return certs.Pair{Name: name, Cert: text(cert), Key: text(key)}
}

// handshake makes a handshake between a server and a client in memory, and returns the
// state of the client.
func handshake(server, client *tls.Config) (tls.ConnectionState, error) {
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	done := make(chan error, 1)
	go func() {
		s := tls.Server(a, server)
		err := s.Handshake()
		if err == nil {
			s.Write([]byte("x")) // the client reads the last message of the handshake with it
		}
		done <- err
	}()
	c := tls.Client(b, client)
	if err := c.Handshake(); err != nil {
		return tls.ConnectionState{}, err
	}
	c.Read(make([]byte, 1))
	return c.ConnectionState(), <-done
}

// firstSerial returns the serial number of the first certificate in a store.
func firstSerial(store *certs.Store) int64 {
	c, _ := store.GetCertificate(&tls.ClientHelloInfo{})
	return c.Leaf.SerialNumber.Int64()
}

func TestCertificateIsChosenByNameAndAlgorithm(t *testing.T) {
	store, err := certs.New([]certs.Pair{
		issue("first", siptest.CertificateRequest{Hosts: []string{"first.example"}}),
		issue("wildcard", siptest.CertificateRequest{Hosts: []string{"*.example.com"}}),
		issue("exact", siptest.CertificateRequest{Hosts: []string{"SIP.example.com"}}),
		issue("exact-rsa", siptest.CertificateRequest{Hosts: []string{"sip.example.com", "*.example.com"}, RSA: true}),
		issue("first-rsa", siptest.CertificateRequest{Hosts: []string{"first.example"}, RSA: true}),
		issue("wildcard-rsa", siptest.CertificateRequest{Hosts: []string{"*.example.net"}, RSA: true}),
		issue("exact-ec", siptest.CertificateRequest{Hosts: []string{"ec.example.net"}}),
	})
	if err != nil {
		t.Fatal(err)
	}
	names := map[string]string{} // by serial number
	for i, name := range []string{"first", "wildcard", "exact", "exact-rsa", "first-rsa", "wildcard-rsa", "exact-ec"} {
		names[fmt.Sprint(firstSerial(store)+int64(i))] = name
	}
	rsa := []uint16{tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256}
	for _, tt := range []struct {
		sni    string
		suites []uint16
		want   string
	}{
		{"sip.example.com", nil, "exact"},
		{"SIP.Example.COM", nil, "exact"},
		{"sip.example.com", rsa, "exact-rsa"},
		{"other.example.com", nil, "wildcard"},
		{"other.example.com", rsa, "exact-rsa"},
		{"ec.example.net", nil, "exact-ec"},
		{"ec.example.net", rsa, "wildcard-rsa"},
		{"two.labels.example.com", nil, "first"},
		{"example.com", nil, "first"},
		{"unknown.example", nil, "first"},
		{"unknown.example", rsa, "first-rsa"},
		{"", nil, "first"},
		{"", rsa, "first-rsa"},
	} {
		t.Run(fmt.Sprint(tt.sni, tt.suites), func(t *testing.T) {
			client := &tls.Config{ServerName: tt.sni, InsecureSkipVerify: true}
			if tt.suites != nil {
				client.CipherSuites, client.MaxVersion = tt.suites, tls.VersionTLS12
			}
			state, err := handshake(&tls.Config{GetCertificate: store.GetCertificate}, client)
			if err != nil {
				t.Fatal(err)
			}
			if got := names[state.PeerCertificates[0].SerialNumber.String()]; got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

// A client that connects to an IP address sends no name.
func TestCertificatesForAnAddressAreChosenByAlgorithm(t *testing.T) {
	store, err := certs.New([]certs.Pair{
		issue("ecdsa", siptest.CertificateRequest{Hosts: []string{"192.0.2.1"}}),
		issue("rsa", siptest.CertificateRequest{Hosts: []string{"192.0.2.1"}, RSA: true}),
	})
	if err != nil {
		t.Fatal(err)
	}
	client := &tls.Config{
		InsecureSkipVerify: true,
		CipherSuites:       []uint16{tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256},
		MaxVersion:         tls.VersionTLS12,
	}
	if _, err := handshake(&tls.Config{GetCertificate: store.GetCertificate}, client); err != nil {
		t.Errorf("an RSA client: %v", err)
	}
}

// A renewal replaces files by swapping symbolic links, as certbot does.
func TestChangedFilesAreUsed(t *testing.T) {
	dir := t.TempDir()
	link := filepath.Join(dir, "live")
	install := func(name string, cert, key []byte) {
		t.Helper()
		version := filepath.Join(dir, name)
		os.Mkdir(version, 0o700)
		os.WriteFile(filepath.Join(version, "cert.pem"), cert, 0o600)
		os.WriteFile(filepath.Join(version, "key.pem"), key, 0o600)
		os.Remove(link)
		if err := os.Symlink(version, link); err != nil {
			t.Fatal(err)
		}
	}
	file := func(name string) certs.Source {
		return func() ([]byte, error) { return os.ReadFile(filepath.Join(link, name)) }
	}
	cert, key := authority.Issue(siptest.CertificateRequest{Hosts: []string{"one.example"}})
	install("1", cert, key)
	store, err := certs.New([]certs.Pair{{Name: "sip.tls_cert", Cert: file("cert.pem"), Key: file("key.pem")}})
	if err != nil {
		t.Fatal(err)
	}
	check := func(what, wantChanged, wantErr, wantHost string) {
		t.Helper()
		changed, err := store.Refresh()
		got := ""
		if err != nil {
			got = err.Error()
		}
		if strings.Join(changed, " ") != wantChanged || !strings.Contains(got, wantErr) || wantErr == "" && err != nil {
			t.Errorf("%s: changed %q, error %v, want %q, %q", what, changed, err, wantChanged, wantErr)
		}
		if hosts := store.Infos()[0].Hosts; !slices.Equal(hosts, []string{wantHost}) {
			t.Errorf("%s: the certificate is for %q, want %q", what, hosts, wantHost)
		}
	}
	check("nothing has changed", "", "", "one.example")
	install("1b", cert, key)
	check("the same content", "", "", "one.example")
	cert2, key2 := authority.Issue(siptest.CertificateRequest{Hosts: []string{"two.example"}})
	install("2", cert2, key)
	check("a key that does not fit", "", "load sip.tls_cert: tls: private key does not match public key", "one.example")
	check("it is reported once", "", "", "one.example")
	os.Remove(link)
	check("no file", "", "no such file", "one.example")
	check("it is reported once", "", "", "one.example")
	install("2b", cert2, key2)
	check("the renewed pair", "sip.tls_cert", "", "two.example")
	install("3", []byte("nonsense"), key2)
	check("no PEM", "", "failed to find any PEM data", "two.example")
	install("2c", cert2, key2)
	check("the good one is back", "", "", "two.example")
	install("3b", []byte("nonsense"), key2)
	check("and the wrong one again, which is reported again", "", "failed to find any PEM data", "two.example")
}

func TestWrongPairsAreRefused(t *testing.T) {
	good := issue("a", siptest.CertificateRequest{Hosts: []string{"a.example"}})
	other := issue("b", siptest.CertificateRequest{Hosts: []string{"b.example"}})
	store, err := certs.New([]certs.Pair{good})
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		pairs []certs.Pair
		want  string
	}{
		{nil, "no certificate"},
		{[]certs.Pair{good, {Name: "b", Cert: other.Cert, Key: good.Key}}, "load b: tls: private key does not match public key"},
		{[]certs.Pair{{Name: "c", Cert: func() ([]byte, error) { return nil, errors.New("no file") }, Key: good.Key}}, "load c: no file"},
	} {
		if err := store.Configure(tt.pairs); err == nil || err.Error() != tt.want {
			t.Errorf("got %v, want %q", err, tt.want)
		}
		if got := store.Infos(); len(got) != 1 || got[0].Name != "a" {
			t.Errorf("a wrong pair replaces the good one: %v", got)
		}
	}
}

func TestClientVerifiesTheServer(t *testing.T) {
	foreign := siptest.NewAuthority("foreign")
	expired := time.Now().Add(-time.Minute)
	serve := func(a *siptest.Authority, r siptest.CertificateRequest) *tls.Config {
		return &tls.Config{Certificates: []tls.Certificate{a.IssueTLS(r)}}
	}
	for _, tt := range []struct {
		name       string
		serverName string
		host       string // that is connected to
		ca         bool
		server     *tls.Config
		want       string // error; "": none
	}{
		{"the name", "carrier.example", "", true, serve(authority, siptest.CertificateRequest{Hosts: []string{"carrier.example"}}), ""},
		{"a wildcard", "sip.carrier.example", "", true, serve(authority, siptest.CertificateRequest{Hosts: []string{"*.carrier.example"}}), ""},
		{"the host", "", "carrier.example", true, serve(authority, siptest.CertificateRequest{Hosts: []string{"carrier.example"}}), ""},
		{"a wrong host", "", "carrier.example", true, serve(authority, siptest.CertificateRequest{Hosts: []string{"other.example"}}), "not carrier.example"},
		{"the name goes before the host", "carrier.example", "other.example", true, serve(authority, siptest.CertificateRequest{Hosts: []string{"carrier.example"}}), ""},
		{"a wrong name", "carrier.example", "", true, serve(authority, siptest.CertificateRequest{Hosts: []string{"other.example"}}), "not carrier.example"},
		{"expired", "carrier.example", "", true, serve(authority, siptest.CertificateRequest{Hosts: []string{"carrier.example"}, NotAfter: expired}), "expired"},
		{"a foreign authority", "carrier.example", "", true, serve(foreign, siptest.CertificateRequest{Hosts: []string{"carrier.example"}}), "unknown authority"},
		{"the system's authorities", "carrier.example", "", false, serve(authority, siptest.CertificateRequest{Hosts: []string{"carrier.example"}}), "unknown authority"},
		{"an authority and no name", "", "", true, serve(authority, siptest.CertificateRequest{Hosts: []string{"any.example"}}), ""},
		{"expired, and no name", "", "", true, serve(authority, siptest.CertificateRequest{Hosts: []string{"any.example"}, NotAfter: expired}), "expired"},
		{"a foreign authority, and no name", "", "", true, serve(foreign, siptest.CertificateRequest{Hosts: []string{"any.example"}}), "unknown authority"},
		{"neither", "", "", false, serve(authority, siptest.CertificateRequest{Hosts: []string{"any.example"}}), "ServerName"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := certs.ClientConfig{Name: "trunk", ServerName: tt.serverName}
			if tt.ca {
				c.CA = text(authority.PEM())
			}
			client, err := certs.NewClient(c)
			if err != nil {
				t.Fatal(err)
			}
			_, err = handshake(tt.server, client.TLS(tt.host))
			if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
}

// The server lists an authority that has not issued the client's certificate.
func TestClientAlwaysPresentsItsCertificate(t *testing.T) {
	pair := issue("trunk.tls_cert", siptest.CertificateRequest{Hosts: []string{"sbc.example"}, Usage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}})
	client, err := certs.NewClient(certs.ClientConfig{Name: "trunk", ServerName: "carrier.example", CA: text(authority.PEM()), Cert: &pair})
	if err != nil {
		t.Fatal(err)
	}
	var presented int
	server := &tls.Config{
		Certificates: []tls.Certificate{authority.IssueTLS(siptest.CertificateRequest{Hosts: []string{"carrier.example"}})},
		ClientAuth:   tls.RequireAnyClientCert,
		ClientCAs:    siptest.NewAuthority("somebody else").Pool(),
		VerifyConnection: func(cs tls.ConnectionState) error {
			presented = len(cs.PeerCertificates)
			return nil
		},
	}
	if _, err := handshake(server, client.TLS("")); err != nil || presented != 1 {
		t.Errorf("presented %d certificates, %v", presented, err)
	}
}

// A carrier's server may read the ClientHello with one call.
func TestClientHelloFitsIntoASegment(t *testing.T) {
	client, err := certs.NewClient(certs.ClientConfig{Name: "trunk", ServerName: strings.Repeat("carrier.", 12) + "example"})
	if err != nil {
		t.Fatal(err)
	}
	a, b := net.Pipe()
	defer b.Close()
	go tls.Client(a, client.TLS("")).Handshake()
	hello := make([]byte, 4096)
	n, err := b.Read(hello)
	if err != nil || n > 512 {
		t.Errorf("the ClientHello has %d bytes, %v", n, err)
	}
}

func TestClientConfigurationIsNewAfterAChange(t *testing.T) {
	ca := authority.PEM()
	client, err := certs.NewClient(certs.ClientConfig{Name: "trunk", ServerName: "a", CA: func() ([]byte, error) { return ca, nil }})
	if err != nil {
		t.Fatal(err)
	}
	before := client.TLS("")
	if changed, err := client.Refresh(); changed || err != nil || client.TLS("") != before {
		t.Errorf("without a change: %v, %v", changed, err)
	}
	ca = siptest.NewAuthority("next").PEM()
	if changed, err := client.Refresh(); !changed || err != nil || client.TLS("") == before {
		t.Errorf("after a change: %v, %v", changed, err)
	}
	before, ca = client.TLS(""), []byte("nonsense")
	if changed, err := client.Refresh(); changed || err == nil || client.TLS("") != before {
		t.Errorf("a wrong file: %v, %v", changed, err)
	}
}

// A config that is read again with the same content changes no connection: each has the TLS
// configuration with which it was opened, and carriers exist that refuse a second one.
func TestSameClientConfigurationIsKept(t *testing.T) {
	pair := issue("trunk.tls_cert", siptest.CertificateRequest{Hosts: []string{"sbc.example"}})
	other := issue("trunk.tls_cert", siptest.CertificateRequest{Hosts: []string{"sbc.example"}})
	base := func() certs.ClientConfig {
		p := pair
		return certs.ClientConfig{Name: "trunk", ServerName: "a", CA: text(authority.PEM()), Cert: &p}
	}
	client, err := certs.NewClient(base())
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name   string
		change func(c *certs.ClientConfig)
		kept   bool
	}{
		{"nothing", func(*certs.ClientConfig) {}, true},
		{"the name of the server", func(c *certs.ClientConfig) { c.ServerName = "b" }, false},
		{"the authority", func(c *certs.ClientConfig) { c.CA = text(siptest.NewAuthority("next").PEM()) }, false},
		{"no authority", func(c *certs.ClientConfig) { c.CA = nil }, false},
		{"the certificate", func(c *certs.ClientConfig) { c.Cert = &other }, false},
		{"no certificate", func(c *certs.ClientConfig) { c.Cert = nil }, false},
		{"neither", func(c *certs.ClientConfig) { c.CA, c.Cert = nil, nil }, false},
	} {
		if err := client.Configure(base()); err != nil {
			t.Fatal(err)
		}
		before, next := client.TLS("carrier.example"), base()
		tt.change(&next)
		if err := client.Configure(next); err != nil || (client.TLS("carrier.example") == before) != tt.kept {
			t.Errorf("%s: kept %v, %v", tt.name, !tt.kept, err)
		}
	}
}

// Connections are opened while the disk is slow.
func TestClientConnectsDuringARefresh(t *testing.T) {
	ca, reading, read := authority.PEM(), make(chan bool), make(chan bool)
	slow := false
	client, err := certs.NewClient(certs.ClientConfig{Name: "trunk", CA: func() ([]byte, error) {
		if slow {
			reading <- true
			<-read
		}
		return ca, nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	slow = true
	refreshed := make(chan bool)
	go func() { client.Refresh(); close(refreshed) }()
	<-reading
	connected := make(chan bool)
	go func() { client.TLS("carrier.example"); close(connected) }()
	select {
	case <-connected:
	case <-time.After(time.Minute):
		t.Error("a new connection waits for the disk")
	}
	close(read)
	<-refreshed
}

func TestExpirySoonIsAThirdOfLife(t *testing.T) {
	now := time.Now()
	i := certs.Info{NotBefore: now, NotAfter: now.Add(90 * 24 * time.Hour)}
	for days, want := range map[int]bool{0: false, 59: false, 60: true, 90: true, 100: true} {
		if got := i.ExpiresSoon(now.Add(time.Duration(days) * 24 * time.Hour)); got != want {
			t.Errorf("after %d of 90 days: %v", days, got)
		}
	}
}
