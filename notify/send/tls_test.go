package send

import (
	"bellhop/notify/send/tlstest"
	"crypto/tls"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// startTLSReceiver starts a receiver that requires a client certificate.
func startTLSReceiver(t *testing.T, a *tlstest.CA, name string) string {
	t.Helper()
	cert, key := a.Sign(name)
	pair, err := tls.X509KeyPair([]byte(cert), []byte(key))
	if err != nil {
		t.Fatal(err)
	}
	r := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if by := req.TLS.PeerCertificates[0].Subject.CommonName; by != "bellhop" {
			t.Errorf("called by %s", by)
		}
	}))
	r.TLS = &tls.Config{Certificates: []tls.Certificate{pair}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: a.Pool()}
	r.Config.ErrorLog = log.New(io.Discard, "", 0)
	r.StartTLS()
	t.Cleanup(r.Close)
	return r.URL
}

// The CA and the certificate of a request apply to requests with the same ones only.
func TestOwnTLS(t *testing.T) {
	ours, others := tlstest.NewCA(t), tlstest.NewCA(t)
	cert, key := ours.Sign("bellhop")
	foreign, foreignKey := others.Sign("bellhop")
	here, elsewhere := startTLSReceiver(t, ours, "127.0.0.1"), startTLSReceiver(t, ours, "crm.example")
	s := New(Config{Allow: loopback})
	defer s.Close()
	for _, tt := range []struct {
		name, url     string
		ca, cert, key string
		want          string // of the failure; "": 200
	}{
		{"as it should be", here, ours.PEM, cert, key, ""},
		{"again", here, ours.PEM, cert, key, ""},
		{"one of several CAs", here, others.PEM + "\n" + ours.PEM, cert, key, ""},
		{"nothing of one's own", here, "", "", "", "signed by unknown authority"},
		{"no certificate", here, ours.PEM, "", "", "certificate required"},
		{"no CA", here, "", cert, key, "signed by unknown authority"},
		{"another CA", here, others.PEM, cert, key, "signed by unknown authority"},
		{"another's certificate", here, ours.PEM, foreign, foreignKey, "bad certificate|certificate required|unknown certificate authority"},
		{"another name", elsewhere, ours.PEM, cert, key, "doesn't contain any IP SANs"},
	} {
		res := sendTo(t, s, Request{TLS: TLS{tt.ca, tt.cert, tt.key}}, tt.url)
		if tt.want == "" {
			if res.StatusCode != 200 {
				t.Errorf("%s: %s", tt.name, textOf(res))
			}
			continue
		}
		found := false
		for want := range strings.SplitSeq(tt.want, "|") {
			found = found || strings.Contains(textOf(res), want)
		}
		if res.Err == nil || !found {
			t.Errorf("%s: %q; want %q", tt.name, textOf(res), tt.want)
		}
	}
	if got := len(s.tlsTransports.all); got != 6 {
		t.Errorf("%d transports are open, want one for each that differs: 6", got)
	}

	// An unused transport is closed.
	if _, err := s.tlsTransports.transportFor(s.transport.(*http.Transport), TLS{CA: others.PEM}, time.Now().Add(2*transportIdle)); err != nil {
		t.Fatal(err)
	}
	if got := len(s.tlsTransports.all); got != 1 {
		t.Errorf("%d transports are open, want the one that was used", got)
	}

	// The egress guard checks these receivers too.
	s = New(Config{})
	defer s.Close()
	if res := sendTo(t, s, Request{TLS: TLS{CA: ours.PEM}}, here); res.Err == nil || !strings.Contains(res.Err.Error(), "egress to 127.0.0.1:") {
		t.Errorf("a receiver on loopback: %q", textOf(res))
	}
}
