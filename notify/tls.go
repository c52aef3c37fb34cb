package notify

import (
	"crypto/tls"
	"net/http"
	"sync"
	"time"
)

const (
	transportIdle = 10 * time.Minute // a transport that no attempt has used for so long is closed
)

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
		pool, err := s.CAPool()
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
