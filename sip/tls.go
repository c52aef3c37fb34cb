package sip

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"slices"
	"time"

	"bellhop/sip/certs"
)

// TLSServer is how TLS listeners treat old clients.
type TLSServer struct {
	MinVersion uint16 // 0: TLS 1.2
	Legacy     bool   // also offer RSA key exchange and CBC, for old phones
}

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

// newConfig returns the configuration of a listener with certificates. askClient reports
// that the client is asked for a certificate. The handshake accepts any: see
// peers.trunkOfCertificate.
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
	return c
}

// clientFor returns the TLS configuration for connections to an address, or nil if the
// proxy opens none to it: TLS is used towards a configured PBX or trunk only, because
// nobody else's certificate can be verified.
func (ps *peers) clientFor(a Addr) *tls.Config {
	if a.Proto != TLS {
		return nil
	}
	for _, p := range ps.pbx {
		if p.addr.Proto == TLS && p.addr.Addr() == a.Addr() && ps.pbxTLS != nil {
			return ps.pbxTLS.TLS("")
		}
	}
	if t := ps.trunkAt(a.Addr()); t != nil && t.TLS != nil {
		return t.TLS.TLS("")
	}
	return nil
}

// canDial reports whether the proxy may open a stream to an address. Phones on TLS and
// WebSocket do not listen.
func (ps *peers) canDial(a Addr) bool { return a.Proto == TCP || ps.clientFor(a) != nil }

// asksForCertificate reports whether a trunk is known by its certificate.
func (ps *peers) asksForCertificate() bool {
	return slices.ContainsFunc(ps.trunks.Load().all, func(t *Trunk) bool { return len(t.TLSNames) > 0 })
}

// trunkOfCertificate returns the trunk that has presented the certificates of a chain. A
// client without a certificate, or with one of no trunk, is nobody's, as a phone is: err
// is the reason for the latter.
//
// Any extended key usage is good, because public authorities no longer issue certificates
// for clients.
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
