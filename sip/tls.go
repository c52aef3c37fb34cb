package sip

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"iter"
	"slices"
	"time"

	"bellhop/sip/certs"
)

// TLSServer is how TLS listeners treat old clients.
type TLSServer struct {
	MinVersion uint16 // 0: TLS 1.2
	Legacy     bool   // also offer RSA key exchange and CBC, for old phones

	// Challenge returns the certificate by which an authority verifies that a name leads
	// here (TLS-ALPN-01, RFC 8737). It may wait. nil: no authority asks.
	Challenge func(*tls.ClientHelloInfo) (*tls.Certificate, error)
}

// challengeProtocol is the only application protocol that an authority offers when it
// verifies a name.
const challengeProtocol = "acme-tls/1"

// Cipher suites of TLS 1.2 and earlier. TLS 1.3 has its own.
var (
	modernSuites = []uint16{
		tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
		tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
		tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256, tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
	}
	oldSuites = []uint16{ // the only ones with forward secrecy before TLS 1.2
		tls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA, tls.TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA,
		tls.TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA, tls.TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA,
	}
	legacySuites = []uint16{
		tls.TLS_RSA_WITH_AES_128_GCM_SHA256, tls.TLS_RSA_WITH_AES_256_GCM_SHA384,
		tls.TLS_RSA_WITH_AES_128_CBC_SHA256, tls.TLS_RSA_WITH_AES_128_CBC_SHA, tls.TLS_RSA_WITH_AES_256_CBC_SHA,
	}
)

// newConfig returns the TLS configuration of a listener whose certificates are in store.
// If askClient is true, the listener asks clients for a certificate. The handshake
// accepts any certificate, or none; trunkOfCertificate verifies it afterwards.
func (s TLSServer) newConfig(store *certs.Store, askClient bool) *tls.Config {
	c := &tls.Config{GetCertificate: store.GetCertificate, MinVersion: max(s.MinVersion, tls.VersionTLS10), CipherSuites: modernSuites}
	if s.MinVersion == 0 {
		c.MinVersion = tls.VersionTLS12
	}
	if c.MinVersion < tls.VersionTLS12 || s.Legacy {
		c.CipherSuites = append(c.CipherSuites[:len(modernSuites):len(modernSuites)], oldSuites...)
	}
	if s.Legacy {
		c.CipherSuites = append(c.CipherSuites, legacySuites...)
	}
	if askClient {
		c.ClientAuth = tls.RequestClientCert
	}
	if s.Challenge != nil {
		challenge := s.newChallengeConfig()
		c.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
			if len(hello.SupportedProtos) == 1 && hello.SupportedProtos[0] == challengeProtocol {
				return challenge, nil
			}
			return nil, nil // c
		}
	}
	return c
}

// newChallengeConfig returns the TLS configuration for the handshake of an authority that
// verifies a name. While the handshake waits for Challenge, another one computes.
func (s TLSServer) newChallengeConfig() *tls.Config {
	get := func(hello *tls.ClientHelloInfo) (cert *tls.Certificate, err error) {
		c, ok := hello.Conn.(*handshakeConn)
		if !ok {
			return s.Challenge(hello)
		}
		err = c.pauseFor(func() (err error) {
			cert, err = s.Challenge(hello)
			return err
		})
		return cert, err
	}
	return &tls.Config{NextProtos: []string{challengeProtocol}, MinVersion: tls.VersionTLS12, GetCertificate: get}
}

// clientsFor returns the TLS configurations for connections to an address. There is none
// if the proxy opens no such connection: TLS is used towards a configured PBX or trunk
// only, because nobody else's certificate can be verified.
//
// The server is verified by the name that the PBX or trunk is configured with. If a has no
// name, it may be the address of several names. Then the first configuration is for new
// connections, and an open connection with another one is as good.
func (ps *peers) clientsFor(a Addr) iter.Seq[*tls.Config] {
	return func(yield func(*tls.Config) bool) {
		if a.Proto != TLS {
			return
		}
		set := ps.pbxs.Load()
		for _, p := range set.known {
			if set.tls != nil && p.isTLSAt(a) && !yield(set.tls.TLS(p.config.Host)) {
				return
			}
		}
		for _, t := range ps.trunks.Load().all {
			for _, r := range t.remotes {
				if client := t.TLS; client != nil && r.isTLSAt(a) && !yield(client.TLS(r.config.Host)) {
					return
				}
			}
		}
		if t := ps.trunkAt(a.Addr()); t != nil && t.TLS != nil {
			yield(t.TLS.TLS(t.nameForTLS()))
		}
	}
}

// clientFor returns the first of clientsFor, or nil.
func (ps *peers) clientFor(a Addr) *tls.Config {
	for client := range ps.clientsFor(a) {
		return client
	}
	return nil
}

// isTLSAt reports whether a TLS address is one of a remote.
func (r *remote) isTLSAt(a Addr) bool {
	if r.config.Proto != TLS {
		return false
	}
	if a.Host != "" {
		return a.Host == r.config.Host
	}
	return r.hasIP(a.Addr())
}

// nameForTLS returns the first name of a TLS address in To, or "". By that name the
// trunk's other servers, whose addresses are only in Sources, are verified.
func (t *Trunk) nameForTLS() string {
	for _, a := range t.To {
		if a.Proto == TLS && a.Host != "" {
			return a.Host
		}
	}
	return ""
}

// canDial reports whether the proxy may open a stream to an address. Phones on TLS and
// WebSocket do not listen.
func (ps *peers) canDial(a Addr) bool { return a.Proto == TCP || ps.clientFor(a) != nil }

// asksForCertificate reports whether a trunk is known by its certificate.
func (ps *peers) asksForCertificate() bool {
	return slices.ContainsFunc(ps.trunks.Load().all, func(t *Trunk) bool { return len(t.TLSNames) > 0 })
}

// trunkOfCertificate returns the trunk to which a client certificate belongs, or nil.
// chain has that certificate first; it is empty if the client has none. err tells why a
// certificate belongs to no trunk.
//
// Any extended key usage is accepted, because public authorities no longer issue
// certificates for clients.
func (ps *peers) trunkOfCertificate(chain []*x509.Certificate, now time.Time) (t *Trunk, err error) {
	if len(chain) == 0 {
		return nil, nil
	}
	err = fmt.Errorf("no trunk has a name of the certificate in tls_names: %q", chain[0].DNSNames)
	for _, t := range ps.trunks.Load().all {
		for _, name := range t.TLSNames {
			if !certs.HasName(chain[0], name) {
				continue
			}
			var roots *x509.CertPool
			if t.TLS != nil {
				roots = t.TLS.Roots()
			}
			if err = certs.VerifyChain(chain, roots, x509.ExtKeyUsageAny, now); err == nil {
				return t, nil
			}
		}
	}
	return nil, err
}
