package notify

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// A testCA signs certificates.
type testCA struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  string
}

func newTestCA(t *testing.T) *testCA {
	a := &testCA{t: t}
	template := &x509.Certificate{Subject: pkix.Name{CommonName: "CA"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	a.cert, a.key, a.pem = a.makeCert(template)
	return a
}

func (a *testCA) makeCert(template *x509.Certificate) (*x509.Certificate, *ecdsa.PrivateKey, string) {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	template.SerialNumber = big.NewInt(1)
	template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	parent, by := a.cert, a.key
	if parent == nil {
		parent, by = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, by)
	if err != nil {
		a.t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		a.t.Fatal(err)
	}
	return cert, key, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

// signCert returns a certificate for a name or an address, and its key.
func (a *testCA) signCert(name string) (cert, key string) {
	a.t.Helper()
	template := &x509.Certificate{Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}
	if ip := net.ParseIP(name); ip != nil {
		template.IPAddresses, template.DNSNames = []net.IP{ip}, nil
	}
	_, k, cert := a.makeCert(template)
	der, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		a.t.Fatal(err)
	}
	return cert, string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}

// startTLSReceiver starts a receiver that requires a client certificate.
func (a *testCA) startTLSReceiver(name string) string {
	a.t.Helper()
	cert, key := a.signCert(name)
	pair, err := tls.X509KeyPair([]byte(cert), []byte(key))
	if err != nil {
		a.t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	r := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if by := req.TLS.PeerCertificates[0].Subject.CommonName; by != "bellhop" {
			a.t.Errorf("called by %s", by)
		}
	}))
	r.TLS = &tls.Config{Certificates: []tls.Certificate{pair}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: pool}
	r.Config.ErrorLog = log.New(io.Discard, "", 0)
	r.StartTLS()
	a.t.Cleanup(r.Close)
	return r.URL
}

// The CA and the certificate of a subscription apply to its own attempts only.
func TestOwnTLS(t *testing.T) {
	ours, others := newTestCA(t), newTestCA(t)
	cert, key := ours.signCert("bellhop")
	foreign, foreignKey := others.signCert("bellhop")
	here, elsewhere := ours.startTLSReceiver("127.0.0.1"), ours.startTLSReceiver("crm.example")
	n := newUnstored(Config{Allow: loopback})
	defer n.sender.close()
	for _, tt := range []struct {
		name, url     string
		ca, cert, key string
		want          string // of the failure; "": delivered
	}{
		{"as it should be", here, ours.pem, cert, key, ""},
		{"again", here, ours.pem, cert, key, ""},
		{"one of several CAs", here, others.pem + "\n" + ours.pem, cert, key, ""},
		{"nothing of one's own", here, "", "", "", "signed by unknown authority"},
		{"no certificate", here, ours.pem, "", "", "certificate required"},
		{"no CA", here, "", cert, key, "signed by unknown authority"},
		{"another CA", here, others.pem, cert, key, "signed by unknown authority"},
		{"another's certificate", here, ours.pem, foreign, foreignKey, "bad certificate|certificate required|unknown certificate authority"},
		{"another name", elsewhere, ours.pem, cert, key, "doesn't contain any IP SANs"},
	} {
		s := testSubscription("a", tt.url)
		s.Dialect, s.TLSCA, s.TLSCert, s.TLSKey = Unified, tt.ca, tt.cert, PrivateKey(tt.key)
		if err := s.Validate(); err != nil {
			t.Errorf("%s: %v", tt.name, err)
		}
		a := attemptOnce(t, n, s)
		if tt.want == "" {
			if a.outcome != delivered {
				t.Errorf("%s: %v, %s", tt.name, a.outcome, a.detail)
			}
			continue
		}
		found := false
		for want := range strings.SplitSeq(tt.want, "|") {
			found = found || strings.Contains(a.detail, want)
		}
		if a.outcome != willRetry || !found {
			t.Errorf("%s: %v, %q; want %q", tt.name, a.outcome, a.detail, tt.want)
		}
	}
	if got := len(n.sender.tlsTransports.all); got != 6 {
		t.Errorf("%d transports are open, want one for each that differs: 6", got)
	}

	// An unused transport is closed.
	s := testSubscription("a", here)
	s.TLSCA = others.pem
	if _, err := n.sender.tlsTransports.transportFor(n.sender.transport.(*http.Transport), &s, time.Now().Add(2*transportIdle)); err != nil {
		t.Fatal(err)
	}
	if got := len(n.sender.tlsTransports.all); got != 1 {
		t.Errorf("%d transports are open, want the one that was used", got)
	}

	// The egress guard checks these receivers too.
	n = newUnstored(Config{})
	defer n.sender.close()
	s.Dialect, s.TLSCA = Unified, ours.pem
	if a := attemptOnce(t, n, s); a.outcome != willRetry || !strings.Contains(a.detail, "egress to 127.0.0.1:") {
		t.Errorf("a receiver on loopback: %v, %q", a.outcome, a.detail)
	}
}

func TestBadTLS(t *testing.T) {
	a := newTestCA(t)
	cert, key := a.signCert("bellhop")
	_, otherKey := a.signCert("bellhop")
	long := strings.Repeat(cert, 32<<10/len(cert)+1)
	for _, tt := range []struct {
		ca, cert, key, url string
		field              string // "": valid
	}{
		{a.pem, cert, key, "", ""},
		{a.pem, "", "", "", ""},
		{"\n" + a.pem + "\n" + a.pem + "\n\n", cert + a.pem, key, "", ""},
		{"/etc/ssl/ca.pem", "", "", "", "tls_ca"},
		{a.pem + "and more", "", "", "", "tls_ca"},
		{"  ", "", "", "", "tls_ca"},
		{key, "", "", "", "tls_ca"},
		{"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "", "", "", "tls_ca"},
		{long, "", "", "", "tls_ca"},
		{"", cert, "", "", "tls_key"},
		{"", "", key, "", "tls_cert"},
		{"", cert, otherKey, "", "tls_key"},
		{"", cert, "nonsense", "", "tls_key"},
		{"", cert, cert, "", "tls_key"},
		{"", key, key, "", "tls_cert"},
		{"", cert + key, key, "", "tls_cert"},
		{"", long, key, "", "tls_cert"},
		{"", cert, strings.Repeat(key, 200), "", "tls_key"},
		{a.pem, "", "", "http://crm.example/", "url"},
		{"", cert, key, "HTTP://crm.example/", "url"},
	} {
		s := testSubscription("a", "https://crm.example/")
		s.TLSCA, s.TLSCert, s.TLSKey = tt.ca, tt.cert, PrivateKey(tt.key)
		if tt.url != "" {
			s.URL = tt.url
		}
		var invalid *Invalid
		switch err := s.Validate(); {
		case tt.field == "" && err != nil:
			t.Errorf("%.40q %.40q %.40q: %v", tt.ca, tt.cert, tt.key, err)
		case tt.field != "" && (!errors.As(err, &invalid) || invalid.Field != tt.field):
			t.Errorf("%.40q %.40q %.40q %s: %v, want %s", tt.ca, tt.cert, tt.key, tt.url, err, tt.field)
		case invalid != nil && strings.Contains(invalid.Why, "PRIVATE"):
			t.Errorf("a key is shown: %v", invalid)
		}
	}
}

// The key is stored and never shown.
func TestKeyIsWriteOnly(t *testing.T) {
	a := newTestCA(t)
	cert, key := a.signCert("bellhop")
	js, closeStore := openStore(t, t.TempDir())
	defer closeStore()
	n, err := Open(t.Context(), js, Config{})
	if err != nil {
		t.Fatal(err)
	}
	s := testSubscription("", "https://crm.example/")
	s.TLSCert, s.TLSKey = cert, PrivateKey(key)
	made := mustSubscribe(t, n, s)
	one, err := n.Subscription(made.ID)
	if err != nil {
		t.Fatal(err)
	}
	edited, err := n.Edit(t.Context(), made.ID, 0, func(s *Subscription) error { s.Note = "x"; return nil })
	if err != nil {
		t.Fatal(err)
	}
	for _, shown := range append(n.Subscriptions(), made, one, edited) {
		if b, err := json.Marshal(shown); err != nil || shown.TLSCert != cert || shown.TLSKey != "" || strings.Contains(string(b), "PRIVATE") {
			t.Errorf("shown is %s, %v", b, err)
		}
	}
	stored, err := n.registry.get(made.ID)
	if err != nil || string(stored.TLSKey) != key {
		t.Errorf("the key is lost, %v", err)
	}
	if text := fmt.Sprintf("%v %+v %#v", stored, stored, stored); strings.Contains(text, "PRIVATE") {
		t.Error("the key is printed")
	}
}
