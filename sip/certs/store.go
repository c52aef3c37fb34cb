package certs

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
)

// A Store holds the certificates of a TLS server. Handshakes read it without a lock.
type Store struct {
	current atomic.Pointer[set]

	mu    sync.Mutex
	pairs []*loadedPair
}

// loadedPair is a Pair with its last good certificate.
type loadedPair struct {
	Pair
	file file
	cert *tls.Certificate // nil: it is not issued yet
}

// New returns a Store with the certificates of pairs. It needs at least one.
func New(pairs []Pair) (*Store, error) {
	s := &Store{}
	return s, s.Configure(pairs)
}

// Configure replaces the pairs. If one of them is wrong, nothing changes.
func (s *Store) Configure(pairs []Pair) error {
	loaded := make([]*loadedPair, len(pairs))
	for i, p := range pairs {
		loaded[i] = &loadedPair{Pair: p, file: p.file()}
		if _, err := loaded[i].update(); err != nil && !errors.Is(err, ErrNotIssued) {
			return err
		}
	}
	if len(loaded) == 0 {
		return errNoPair
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pairs = loaded
	s.current.Store(newSet(loaded))
	return nil
}

// Refresh reads the pairs again, and uses those whose contents have changed. It returns
// their names. A wrong pair is reported once, and its last good certificate stays.
func (s *Store) Refresh() (changed []string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var errs []error
	for _, p := range s.pairs {
		ok, err := p.update()
		if err != nil {
			errs = append(errs, err)
		} else if ok {
			changed = append(changed, p.Name)
		}
	}
	if changed != nil {
		s.current.Store(newSet(s.pairs))
	}
	return changed, errors.Join(errs...)
}

// update reads the pair again if its contents have changed.
func (p *loadedPair) update() (changed bool, err error) {
	changed, err = p.file.update(func(texts [][]byte) error {
		cert, err := parsePair(texts[0], texts[len(texts)-1])
		if err == nil {
			p.cert = cert
		}
		return err
	})
	if err != nil {
		return false, fmt.Errorf("load %s: %w", p.Name, err)
	}
	return changed, nil
}

// Infos describes the certificates in use.
func (s *Store) Infos() (all []Info) {
	for _, c := range s.current.Load().all {
		all = append(all, newInfo(c.name, c.cert.Leaf))
	}
	return all
}

// GetCertificate chooses the certificate of the server for a handshake. It is for
// [tls.Config.GetCertificate].
//
// Certificates for the name that the client asks for come first, and then those for the
// wildcard of that name. Of these, GetCertificate returns the first whose algorithms the
// client supports. A client that asks for no name, or for one without a certificate, is
// treated as if it had asked for the first host of the first certificate. If no certificate
// is issued yet, the error is [ErrNotIssued].
func (s *Store) GetCertificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	fitting := s.current.Load().find(hello.ServerName)
	client := *hello
	client.ServerName = "" // find has looked at the name
	for _, c := range fitting {
		if client.SupportsCertificate(c) == nil {
			return c, nil
		}
	}
	if len(fitting) == 0 {
		return nil, ErrNotIssued
	}
	return fitting[0], nil // the handshake fails with the client's own error
}

// set holds the certificates of a Store, by host. It does not change: the Store replaces
// it.
type set struct {
	all    []namedCert
	byHost map[string][]*tls.Certificate // host in lower case → certificates for it, then those for its wildcard
}

// namedCert is a certificate with its name in the config.
type namedCert struct {
	name string
	cert *tls.Certificate
}

// newSet returns the set of the certificates of pairs.
func newSet(pairs []*loadedPair) *set {
	s := &set{byHost: map[string][]*tls.Certificate{}}
	for _, p := range pairs {
		if p.cert == nil {
			continue
		}
		s.all = append(s.all, namedCert{p.Name, p.cert})
		for _, host := range hostsOf(p.cert.Leaf) {
			s.add(host, p.cert)
		}
	}
	for host := range s.byHost {
		for _, c := range s.byHost[wildcardOf(host)] {
			s.add(host, c)
		}
	}
	return s
}

// add adds a certificate for a host, unless it is there already.
func (s *set) add(host string, c *tls.Certificate) {
	if !slices.Contains(s.byHost[host], c) {
		s.byHost[host] = append(s.byHost[host], c)
	}
}

// hostsOf returns the names, in lower case, and addresses for which a certificate is valid.
func hostsOf(leaf *x509.Certificate) (hosts []string) {
	for _, name := range leaf.DNSNames {
		hosts = append(hosts, normalizeHost(name))
	}
	for _, ip := range leaf.IPAddresses {
		hosts = append(hosts, ip.String())
	}
	if len(leaf.DNSNames) == 0 && leaf.Subject.CommonName != "" {
		hosts = append(hosts, normalizeHost(leaf.Subject.CommonName)) // old certificates have no other name
	}
	return hosts
}

func normalizeHost(name string) string { return strings.ToLower(strings.TrimSuffix(name, ".")) }

// wildcardOf returns the wildcard that stands for a host.
func wildcardOf(host string) string {
	_, rest, _ := strings.Cut(host, ".")
	return "*." + rest
}

// find returns the certificates for a host, the best first. There is none only if the set
// is empty.
func (s *set) find(host string) []*tls.Certificate {
	host = normalizeHost(host)
	if found := s.byHost[host]; host != "" && found != nil {
		return found
	}
	if found := s.byHost[wildcardOf(host)]; found != nil {
		return found
	}
	if len(s.all) == 0 {
		return nil
	}
	first := s.all[0].cert
	if hosts := hostsOf(first.Leaf); len(hosts) > 0 {
		return s.byHost[hosts[0]]
	}
	return []*tls.Certificate{first}
}
