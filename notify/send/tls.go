package send

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net/http"
	"sync"
	"time"
)

// TLS holds the TLS settings of a request, in PEM. The zero value means the CAs that the
// machine trusts, and no client certificate.
type TLS struct {
	CA   string // CAs of which one must have signed the receiver's certificate; "": those of the machine
	Cert string // client certificate and its intermediates; "": none
	Key  string // private key of Cert
}

// transportIdle is how long an unused transport is kept.
const transportIdle = 10 * time.Minute

// tlsTransports holds the HTTP clients for requests that have their own TLS settings.
// Requests with the same settings share a client. The zero value is empty.
type tlsTransports struct {
	mu        sync.Mutex
	all       map[TLS]*tlsTransport
	lastSweep time.Time // when unused ones were last closed
}

// A tlsTransport is the HTTP client for one TLS.
type tlsTransport struct {
	*http.Transport
	conns *connPool // of the hosts with ASCII names
	used  time.Time
}

// transportFor returns the transport for settings: a copy of common with these settings.
func (ts *tlsTransports) transportFor(common *http.Transport, settings TLS, now time.Time) (http.RoundTripper, error) {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	if now.Sub(ts.lastSweep) > transportIdle {
		ts.lastSweep = now
		ts.closeWhere(func(t *tlsTransport) bool { return now.Sub(t.used) > transportIdle })
	}
	t := ts.all[settings]
	if t == nil {
		t = &tlsTransport{Transport: common.Clone()}
		if err := settings.apply(t.TLSClientConfig); err != nil {
			return nil, err
		}
		t.conns = newConnPool(t.DialContext, t.TLSClientConfig.Clone())
		t.RegisterProtocol("https", t.conns)
		if ts.all == nil {
			ts.all = make(map[TLS]*tlsTransport)
		}
		ts.all[settings] = t
	}
	t.used = now
	return t, nil
}

// apply sets the CAs and the client certificate in c.
func (s TLS) apply(c *tls.Config) error {
	if s.CA != "" {
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM([]byte(s.CA)) {
			return errors.New("parse tls_ca: contains no certificate")
		}
	}
	if s.Cert != "" {
		pair, err := tls.X509KeyPair([]byte(s.Cert), []byte(s.Key))
		if err != nil {
			return err
		}
		c.Certificates = []tls.Certificate{pair}
	}
	return nil
}

// closeWhere closes and removes the transports that unused selects. Requests in flight
// are finished.
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
