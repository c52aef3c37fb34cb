package main

import (
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"bellhop/admin/ops"
	"bellhop/cmd/bellhop/config"
	"bellhop/sip"
	"bellhop/sip/siptest"
)

// openTestCertificates returns the certificates of two listeners, each valid for a day
// from an hour ago.
func openTestCertificates(t *testing.T) *certificates {
	cert, key := siptest.NewAuthority("ca").Issue(siptest.CertificateRequest{Hosts: []string{"sip.example.com"}})
	cfg := config.Default()
	for _, proto := range []sip.Proto{sip.TLS, sip.WSS} {
		cfg.Listener = append(cfg.Listener, config.Listener{
			Listen:  sip.Addr{Proto: proto},
			TLSCert: []config.PEM{config.PEM(cert)}, TLSKey: []config.PEM{config.PEM(key)},
		})
	}
	c, err := openCertificates(cfg, nil, slog.Default())
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestCertificatesAreDescribed(t *testing.T) {
	c := openTestCertificates(t)
	for _, tt := range []struct {
		after   time.Duration
		state   ops.CertificateState
		expired int
	}{
		{0, ops.CertificateValid, 0},
		{14 * time.Hour, ops.CertificateValid, 0},
		{16 * time.Hour, ops.CertificateExpiring, 0},
		{24 * time.Hour, ops.CertificateExpired, 2},
	} {
		now := time.Now().Add(tt.after)
		all := c.describe(now)
		for i, name := range []string{"listener[0].tls_cert[0]", "listener[1].tls_cert[0]"} {
			if got := all[i]; got.State != tt.state || got.Name != name || got.Issuer != "CN=ca" || !slices.Equal(got.Hosts, []string{"sip.example.com"}) {
				t.Errorf("after %v, a certificate is %+v, want %s of state %s", tt.after, got, name, tt.state)
			}
		}
		why := c.expired(now)
		if len(why) != tt.expired || tt.expired > 0 && !strings.HasPrefix(why[0], "certificate listener[0].tls_cert[0] for sip.example.com expired at ") {
			t.Errorf("after %v, bellhop is degraded because of %q", tt.after, why)
		}
	}
}

func TestCertificatesOfSeveralListenersAreMeasured(t *testing.T) {
	r := prometheus.NewRegistry()
	r.MustRegister(openTestCertificates(t))
	families, err := r.Gather()
	if err != nil || len(families) != 1 || len(families[0].Metric) != 2 {
		t.Errorf("collected %v, %v, want one family of two metrics", families, err)
	}
}
