// Package acme obtains certificates from an authority by ACME (RFC 8555) and renews them.
//
// Each name has a certificate of its own. A [Manager] orders it, and renews it when the
// authority says so (ARI, RFC 9773), or else when a third of its life is left. To prove a
// name, it answers HTTP-01 on port 80 and TLS-ALPN-01 on port 443.
//
// Certificates, keys and the account are in the store. Nodes that share the store use the
// same certificates: only the node that has the lock of a name orders, and the others find
// the new certificate within a minute. Whoever can read the store can read the keys.
package acme

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/url"
	"slices"
	"sync"
	"time"

	"github.com/caddyserver/certmagic"
	protocol "github.com/mholt/acmez/v3/acme"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"

	"bellhop/sip/certs"
)

const (
	checkInterval  = time.Minute      // between two looks at each certificate
	attemptTimeout = lockExpiry       // of one attempt to obtain a certificate
	firstBackoff   = 10 * time.Minute // after a failed attempt; doubles with each further one
	maxBackoff     = 6 * time.Hour
	renewalRatio   = 1.0 / 3 // part of its life that a certificate has left when it is renewed
)

// Config is what a [Manager] needs to know.
type Config struct {
	Names     []string       // host names in lower case, and addresses
	Email     string         // at which the authority reaches the operator; may be empty
	Directory string         // URL of the authority's directory
	Profile   string         // kind of certificate, of those that the authority offers; "": its default
	Roots     *x509.CertPool // authorities that verify the directory; nil: those of the system

	// Host is the address on which challenges are answered. "" is all addresses. If a TLS
	// listener has port 443, it must be the address of that listener, which then answers
	// TLS-ALPN-01 by [Manager.Challenge].
	Host              string
	NoHTTP, NoTLS     bool          // another service has port 80 or 443
	httpPort, tlsPort int           // replace 80 and 443 in tests
	interval          time.Duration // replaces checkInterval in tests

	Replicas int // of the buckets
	Log      *slog.Logger
}

// A Manager obtains and renews certificates. A nil Manager has none.
type Manager struct {
	config  Config
	magic   *certmagic.Config
	cache   *certmagic.Cache
	issuer  string // key of the authority in the store
	storage *bucketStorage
	retry   chan struct{}

	mu    sync.Mutex
	certs []*certificate // in the order of Config.Names
}

// certificate is the certificate of one name. Manager.mu guards it.
type certificate struct {
	name     string
	text     []byte    // certificate, chain and key in PEM form; nil: there is none yet
	failures int       // failed attempts since the last success
	next     time.Time // of the next attempt after a failed one
	err      error     // of the last attempt
}

// Open opens the buckets, and reads the certificates that the store has. It uses no other
// network.
func Open(ctx context.Context, js jetstream.JetStream, c Config) (*Manager, error) {
	storage, err := openStorage(ctx, js, c.Replicas)
	if err != nil {
		return nil, err
	}
	c.interval = cmp.Or(c.interval, checkInterval)
	m := &Manager{config: c, storage: storage, retry: make(chan struct{}, 1)}
	m.cache = certmagic.NewCache(certmagic.CacheOptions{
		RenewCheckInterval: c.interval,
		Logger:             zap.NewNop(),
		// The cache renews nothing by itself: Run does.
		GetConfigForCert: func(certmagic.Certificate) (*certmagic.Config, error) { return nil, errors.ErrUnsupported },
	})
	m.magic = certmagic.New(m.cache, certmagic.Config{
		RenewalWindowRatio:  renewalRatio,
		KeySource:           certmagic.StandardKeyGenerator{KeyType: certmagic.RSA2048}, // some desk phones know no other
		Storage:             storage,
		DisableStorageCheck: true,
		OCSP:                certmagic.OCSPConfig{DisableStapling: true},
		Logger:              zap.NewNop(),
	})
	issuer := certmagic.NewACMEIssuer(m.magic, certmagic.ACMEIssuer{
		CA:                      c.Directory,
		Email:                   cmp.Or(c.Email, " "), // certmagic removes the space, but would ask the standard input without it
		Agreed:                  true,
		Profile:                 c.Profile,
		TrustedRoots:            c.Roots,
		ListenHost:              c.Host,
		DisableHTTPChallenge:    c.NoHTTP,
		DisableTLSALPNChallenge: c.NoTLS,
		AltHTTPPort:             c.httpPort,
		AltTLSALPNPort:          c.tlsPort,
		Logger:                  zap.NewNop(),
	})
	m.magic.Issuers = []certmagic.Issuer{issuer}
	m.issuer = issuer.IssuerKey()
	for _, name := range c.Names {
		cert := &certificate{name: name}
		if cert.text, err = m.load(ctx, name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			m.cache.Stop()
			return nil, fmt.Errorf("read the certificate of %s: %w", name, err)
		}
		m.certs = append(m.certs, cert)
	}
	return m, nil
}

// load reads a certificate and its key from the store.
func (m *Manager) load(ctx context.Context, name string) ([]byte, error) {
	cert, err := m.storage.Load(ctx, certmagic.StorageKeys.SiteCert(m.issuer, name))
	if err != nil {
		return nil, err
	}
	key, err := m.storage.Load(ctx, certmagic.StorageKeys.SitePrivateKey(m.issuer, name))
	if err != nil {
		return nil, err
	}
	if _, err := tls.X509KeyPair(cert, key); err != nil {
		return nil, err
	}
	return slices.Concat(cert, []byte("\n"), key), nil
}

// Pairs returns where the certificates come from. A certificate that is not issued yet has
// the error [certs.ErrNotIssued].
func (m *Manager) Pairs() (pairs []certs.Pair) {
	if m == nil {
		return nil
	}
	for i, c := range m.certs {
		pairs = append(pairs, certs.Pair{Name: fmt.Sprintf("acme.names[%d]", i), Cert: func() ([]byte, error) {
			m.mu.Lock()
			defer m.mu.Unlock()
			if c.text == nil {
				return nil, certs.ErrNotIssued
			}
			return c.text, nil
		}})
	}
	return pairs
}

// Challenge returns the certificate that proves a name by TLS-ALPN-01 (RFC 8737). It may
// wait for the store, where it finds the challenges of other nodes.
func (m *Manager) Challenge(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	return m.magic.GetCertificate(hello)
}

// Run obtains and renews the certificates until ctx ends.
func (m *Manager) Run(ctx context.Context) {
	defer m.cache.Stop()
	ticker := time.NewTicker(m.config.interval)
	defer ticker.Stop()
	for {
		for _, c := range m.certs {
			m.update(ctx, c)
		}
		select {
		case <-ticker.C:
		case <-m.retry:
			m.mu.Lock()
			for _, c := range m.certs {
				c.next = time.Time{}
			}
			m.mu.Unlock()
		case <-ctx.Done():
			return
		}
	}
}

// Retry ends the waits after failed attempts.
func (m *Manager) Retry() {
	if m == nil {
		return
	}
	select {
	case m.retry <- struct{}{}:
	default: // it is noted
	}
}

// update obtains or renews a certificate if it is time to, and reads what the store has:
// another node may have renewed it.
func (m *Manager) update(ctx context.Context, c *certificate) {
	m.mu.Lock()
	waits := time.Now().Before(c.next)
	m.mu.Unlock()
	var err error
	if !waits {
		err = m.obtain(ctx, c.name)
	}
	text, loadErr := m.load(ctx, c.name)
	if ctx.Err() != nil {
		return
	}
	if err == nil && !waits {
		err = loadErr
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if text != nil && !bytes.Equal(text, c.text) {
		c.text, waits = text, false
		m.config.Log.Info("certificate issued", "name", c.name, "expires", expiry(text))
	}
	switch {
	case waits:
	case err == nil:
		c.failures, c.next, c.err = 0, time.Time{}, nil
	default:
		wait := min(firstBackoff<<min(c.failures, 10), maxBackoff)
		c.failures++
		c.next, c.err = time.Now().Add(wait), err
		cause, remedy := explain(err, c.name)
		args := []any{"name", c.name, "err", cause, "remedy", remedy, "next_attempt", c.next.Round(time.Second)}
		if c.text == nil {
			m.config.Log.Warn("certificate not issued", args...)
		} else {
			m.config.Log.Warn("certificate not renewed", append(args, "expires", expiry(c.text))...)
		}
	}
}

// obtain orders the certificate of a name if the store has none or if it is to be renewed.
func (m *Manager) obtain(ctx context.Context, name string) error {
	ctx, cancel := context.WithTimeout(ctx, attemptTimeout)
	defer cancel()
	m.cache.RemoveManaged([]certmagic.SubjectIssuer{{Subject: name}}) // so that it is read from the store
	return m.magic.ManageSync(ctx, []string{name})
}

// expiry returns the end of the life of the certificate in PEM text.
func expiry(text []byte) time.Time {
	pair, err := tls.X509KeyPair(text, text)
	if err != nil {
		return time.Time{}
	}
	return pair.Leaf.NotAfter
}

// explain returns the part of an error that tells why an attempt has failed, and what the
// operator can do.
func explain(err error, name string) (cause, remedy string) {
	var problem protocol.Problem
	var request *url.Error
	var unknown x509.UnknownAuthorityError
	switch {
	case errors.As(err, &problem):
		_, challenged := problem.Resource.(protocol.Authorization)
		switch {
		case problem.Type == protocol.ProblemTypeCAA:
			remedy = fmt.Sprintf("allow the authority in the CAA records of %s", name)
		case challenged:
			remedy = fmt.Sprintf("let %s lead to this machine, and its port 80 or 443 be reachable from the Internet", name)
		case problem.Type == protocol.ProblemTypeRateLimited:
			return problem.Error(), "wait; to test, use the staging directory of the authority"
		case problem.Type == protocol.ProblemTypeExternalAccountRequired:
			return problem.Error(), "set acme.directory to an authority that needs no account of its own"
		case problem.Type == protocol.ProblemTypeInvalidContact, problem.Type == protocol.ProblemTypeUnsupportedContact:
			return problem.Error(), "correct acme.email"
		default:
			remedy = "correct acme.names or acme.profile if the authority refuses them"
		}
		cause = problem.Error()
	case errors.As(err, &unknown):
		return err.Error(), "set acme.ca to the authority that has issued the certificate of acme.directory"
	case errors.As(err, &request):
		cause, remedy = request.Error(), "check acme.directory and that this machine can reach it"
	default:
		return err.Error(), "SIGHUP tries again"
	}
	return cause, remedy + "; SIGHUP tries again"
}

// Problems returns a sentence about each certificate whose last attempt has failed.
func (m *Manager) Problems() (all []string) {
	if m == nil {
		return nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for i, c := range m.certs {
		if c.err != nil {
			cause, remedy := explain(c.err, c.name)
			failure := "not obtained"
			if c.text != nil {
				failure = "not renewed"
			}
			all = append(all, fmt.Sprintf("certificate acme.names[%d] for %s %s: %s: %s", i, c.name, failure, cause, remedy))
		}
	}
	return all
}
