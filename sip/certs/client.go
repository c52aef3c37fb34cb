package certs

import (
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// A ClientConfig is how a TLS client proves who it is, and how it verifies the server.
type ClientConfig struct {
	Name       string // of this client in the config, for errors and logs
	ServerName string // name that the server's certificate must have; "": the host that is connected to
	CA         Source // certificates of authorities to trust instead of the system's; nil: the system's
	Cert       *Pair  // certificate of the client; nil: none
}

// A Client holds the TLS configuration of the connections to a PBX or trunk.
type Client struct {
	current atomic.Pointer[clientState]

	mu     sync.Mutex // guards the fields below; held while the sources are read
	config ClientConfig
	file   file
}

// clientState is what a Client has read. It does not change.
type clientState struct {
	config ClientConfig     // whose sources have been read
	roots  *x509.CertPool   // nil: the system's
	cert   *tls.Certificate // nil: none
	byHost sync.Map         // host that is connected to → *tls.Config
}

// NewClient returns a Client.
func NewClient(c ClientConfig) (*Client, error) {
	client := &Client{}
	return client, client.Configure(c)
}

// Configure replaces the configuration. If it is wrong, nothing changes. If neither the
// configuration nor the certificates have changed, [Client.TLS] returns the same pointers
// as before, so that open connections stay in use.
func (c *Client) Configure(config ClientConfig) error {
	next := Client{config: config}
	if config.CA != nil {
		next.file.sources = append(next.file.sources, config.CA)
	}
	if config.Cert != nil {
		next.file.sources = append(next.file.sources, config.Cert.Cert, config.Cert.Key)
	}
	if _, err := next.file.update(next.use); err != nil {
		return fmt.Errorf("load %s: %w", config.Name, err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.current.Load() == nil || next.config.ServerName != c.config.ServerName || next.file.used != c.file.used {
		c.current.Store(next.current.Load())
	}
	c.config, c.file = next.config, next.file
	return nil
}

// Refresh reads the certificates again, and uses them if their contents have changed. A
// wrong one is reported once, and the last good ones stay.
func (c *Client) Refresh() (changed bool, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if changed, err = c.file.update(c.use); err != nil {
		err = fmt.Errorf("load %s: %w", c.config.Name, err)
	}
	return changed, err
}

// use makes the TLS configuration from the texts of the sources.
func (c *Client) use(texts [][]byte) error {
	s := &clientState{config: c.config}
	if c.config.CA != nil {
		if s.roots = x509.NewCertPool(); !s.roots.AppendCertsFromPEM(texts[0]) {
			return errors.New("no certificate of an authority in PEM form")
		}
		texts = texts[1:]
	}
	if c.config.Cert != nil {
		cert, err := parsePair(texts[0], texts[1])
		if err != nil {
			return err
		}
		s.cert = cert
	}
	c.current.Store(s)
	return nil
}

// TLS returns the configuration for new connections to a host name, or to an IP address
// if host is "". It returns the same pointer for a host until the certificates change.
//
// The name in the server's certificate is verified. A server at an IP address has no name
// to verify: if authorities are configured, any certificate of theirs is accepted there.
func (c *Client) TLS(host string) *tls.Config {
	s := c.current.Load()
	if t, ok := s.byHost.Load(host); ok {
		return t.(*tls.Config)
	}
	t, _ := s.byHost.LoadOrStore(host, s.newTLS(cmp.Or(s.config.ServerName, host)))
	return t.(*tls.Config)
}

// newTLS returns the TLS configuration for a server with that name.
//
// The key shares are those that fit into a ClientHello of one segment: carriers exist
// whose servers read once (https://go.dev/issue/70047). The client certificate is
// presented whatever authorities the server lists, because lists are often incomplete.
func (s *clientState) newTLS(name string) *tls.Config {
	t := &tls.Config{
		ServerName:       name,
		RootCAs:          s.roots,
		MinVersion:       tls.VersionTLS12,
		CurvePreferences: []tls.CurveID{tls.X25519, tls.CurveP256, tls.CurveP384},
	}
	if s.cert != nil {
		t.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return s.cert, nil }
	}
	if name == "" && s.roots != nil { // without both, every handshake fails
		t.InsecureSkipVerify = true // VerifyConnection verifies all but the name
		t.VerifyConnection = func(cs tls.ConnectionState) error {
			return VerifyChain(cs.PeerCertificates, s.roots, x509.ExtKeyUsageServerAuth, time.Now())
		}
	}
	return t
}

// Roots returns the authorities that the client trusts; nil are the system's.
func (c *Client) Roots() *x509.CertPool { return c.current.Load().roots }

// Infos describes the certificate of the client, if it has one.
func (c *Client) Infos() []Info {
	s := c.current.Load()
	if s.cert == nil {
		return nil
	}
	return []Info{newInfo(s.config.Cert.Name, s.cert.Leaf)}
}

// VerifyChain verifies that the first certificate is valid now for a usage and leads to
// one of roots. nil roots are the system's. It verifies no name.
func VerifyChain(chain []*x509.Certificate, roots *x509.CertPool, usage x509.ExtKeyUsage, now time.Time) error {
	if len(chain) == 0 {
		return errors.New("no certificate")
	}
	others := x509.NewCertPool()
	for _, c := range chain[1:] {
		others.AddCert(c)
	}
	_, err := chain[0].Verify(x509.VerifyOptions{Roots: roots, Intermediates: others, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{usage}})
	return err
}

// HasName reports whether a certificate is valid for a host name or an IP address: by a
// DNS or IP address in its subject alternative names, or by a SIP URI (RFC 5922 §7.1). The
// common name does not count.
func HasName(leaf *x509.Certificate, name string) bool {
	for _, u := range leaf.URIs {
		if (u.Scheme == "sip" || u.Scheme == "sips") && normalizeHost(u.Opaque) == normalizeHost(name) {
			return true
		}
	}
	return leaf.VerifyHostname(name) == nil
}
