package subscription

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"strings"
)

const maxPEM = 32 << 10 // bytes of each of tls_ca, tls_cert and tls_key

func checkTLS(s *Subscription) *Invalid {
	if _, err := s.caPool(); err != nil {
		return &Invalid{"tls_ca", err.Error()}
	}
	switch {
	case s.TLSCert == "" && s.TLSKey != "":
		return &Invalid{"tls_cert", "is missing: tls_key needs it"}
	case s.TLSCert != "" && s.TLSKey == "":
		return &Invalid{"tls_key", "is missing: tls_cert needs it"}
	case len(s.TLSKey) > maxPEM:
		return &Invalid{"tls_key", "is longer than 32 KiB"}
	case s.TLSCert != "":
		if _, err := parseCertificates(s.TLSCert); err != nil {
			return &Invalid{"tls_cert", err.Error()}
		}
		if _, err := tls.X509KeyPair([]byte(s.TLSCert), []byte(s.TLSKey)); err != nil {
			return &Invalid{"tls_key", "is not the key, in PEM and without a password, of the first certificate in tls_cert"}
		}
	}
	if s.hasOwnTLS() && strings.HasPrefix(strings.ToLower(s.URL), "http:") {
		return &Invalid{"url", "must begin with https:// if tls_ca or tls_cert is set"}
	}
	return nil
}

// hasOwnTLS reports whether s has a CA or a client certificate of its own.
func (s *Subscription) hasOwnTLS() bool { return s.TLSCA != "" || s.TLSCert != "" }

// caPool returns the CAs in TLSCA, or nil if it is empty: then the CAs that the machine
// trusts apply.
func (s *Subscription) caPool() (*x509.CertPool, error) {
	if s.TLSCA == "" {
		return nil, nil
	}
	cas, err := parseCertificates(s.TLSCA)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	for _, c := range cas {
		pool.AddCert(c)
	}
	return pool, nil
}

// parseCertificates parses PEM that contains certificates and nothing else.
func parseCertificates(text string) (all []*x509.Certificate, err error) {
	if len(text) > maxPEM {
		return nil, errors.New("is longer than 32 KiB")
	}
	for rest := bytes.TrimSpace([]byte(text)); len(rest) > 0; rest = bytes.TrimSpace(rest) {
		var b *pem.Block
		b, rest = pem.Decode(rest)
		switch {
		case b == nil:
			return nil, errors.New("is not PEM, which begins with -----BEGIN CERTIFICATE-----")
		case b.Type != "CERTIFICATE":
			return nil, errors.New("contains a PEM block that is not a certificate")
		}
		c, err := x509.ParseCertificate(b.Bytes)
		if err != nil {
			return nil, errors.New("contains a certificate that cannot be parsed")
		}
		all = append(all, c)
	}
	if len(all) == 0 {
		return nil, errors.New("contains no certificate")
	}
	return all, nil
}
