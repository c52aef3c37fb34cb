package notify

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"net/http"
	"strings"
	"sync"
	"time"
)

// A PrivateKey is a key in PEM. It is stored, and never printed.
type PrivateKey string

func (k PrivateKey) String() string {
	if k == "" {
		return ""
	}
	return "[secret]"
}

func (k PrivateKey) GoString() string { return k.String() }

const (
	maxPEM        = 32 << 10         // bytes of each of the three texts
	transportIdle = 10 * time.Minute // a transport that no attempt has used for so long is closed
)

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

// caPool returns the CAs of which one must have signed the receiver's certificate; nil:
// those that the machine trusts.
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

// tlsTransports holds the HTTP clients of the subscriptions with a CA or certificate of
// their own. Subscriptions with the same ones share a client. The zero value is empty.
type tlsTransports struct {
	mu        sync.Mutex
	all       map[tlsIdentity]*tlsTransport
	lastSweep time.Time // when unused ones were last closed
}

// A tlsIdentity is all that a tlsTransport depends on.
type tlsIdentity struct {
	ca, cert string
	key      PrivateKey
}

// A tlsTransport is the HTTP client of one tlsIdentity.
type tlsTransport struct {
	*http.Transport
	conns *connPool // of the hosts with ASCII names
	used  time.Time
}

// transportFor returns the transport of s: a copy of common with the TLS settings of s.
func (ts *tlsTransports) transportFor(common *http.Transport, s *Subscription, now time.Time) (http.RoundTripper, error) {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	if now.Sub(ts.lastSweep) > transportIdle {
		ts.lastSweep = now
		ts.closeWhere(func(t *tlsTransport) bool { return now.Sub(t.used) > transportIdle })
	}
	id := tlsIdentity{s.TLSCA, s.TLSCert, s.TLSKey}
	t := ts.all[id]
	if t == nil {
		pool, err := s.caPool()
		if err != nil {
			return nil, err
		}
		t = &tlsTransport{Transport: common.Clone()}
		t.TLSClientConfig.RootCAs = pool
		if s.TLSCert != "" {
			pair, err := tls.X509KeyPair([]byte(s.TLSCert), []byte(s.TLSKey))
			if err != nil {
				return nil, err
			}
			t.TLSClientConfig.Certificates = []tls.Certificate{pair}
		}
		t.conns = newConnPool(t.DialContext, t.TLSClientConfig.Clone())
		t.RegisterProtocol("https", t.conns)
		if ts.all == nil {
			ts.all = make(map[tlsIdentity]*tlsTransport)
		}
		ts.all[id] = t
	}
	t.used = now
	return t, nil
}

// closeWhere closes and removes the transports that unused selects. An attempt in flight is
// finished, and its connection closed after its idle timeout.
func (ts *tlsTransports) closeWhere(unused func(*tlsTransport) bool) {
	for id, t := range ts.all {
		if unused(t) {
			t.CloseIdleConnections()
			t.conns.close()
			delete(ts.all, id)
		}
	}
}

// close closes all transports.
func (ts *tlsTransports) close() {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	ts.closeWhere(func(*tlsTransport) bool { return true })
}
