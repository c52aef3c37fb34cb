package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"bellhop/sip"
)

// newCertificate returns a certificate for an address, and its key, as PEM.
func newCertificate(t *testing.T, serial int64, ip net.IP) (cert, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(serial), IPAddresses: []net.IP{ip},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})),
		string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}))
}

// serial returns the serial number of the admin API's certificate, for clients with TLS
// up to a version; 0: no handshake.
func (s *site) serial(version uint16) int64 {
	c, err := tls.Dial("tcp", s.admin.String(), &tls.Config{InsecureSkipVerify: true, MaxVersion: version})
	if err != nil {
		return 0
	}
	defer c.Close()
	return c.ConnectionState().PeerCertificates[0].SerialNumber.Int64()
}

// TestReloadsCertificate renews the files of the admin API's certificate, then
// configures another one, then a broken one.
func TestReloadsCertificate(t *testing.T) {
	t.Parallel()
	s := newSite(t, sip.UDP, sip.UDP)
	renew := func(serial int64) {
		cert, key := newCertificate(t, serial, s.admin.Addr().AsSlice())
		s.write("cert.pem", cert)
		s.write("key.pem", key)
	}
	config := func(cert, key string) {
		s.configure("")
		b, err := os.ReadFile(filepath.Join(s.dir, "config.toml"))
		if err != nil {
			t.Fatal(err)
		}
		tls := fmt.Sprintf("[admin]\ntls_cert = '''%s'''\ntls_key = '''%s'''\n", cert, key)
		s.write("config.toml", strings.Replace(string(b), "[admin]\n", tls, 1))
	}
	renew(1)
	config(filepath.Join(s.dir, "cert.pem"), "file:"+filepath.Join(s.dir, "key.pem"))
	p := bellhop(t, "serve", "--config", filepath.Join(s.dir, "config.toml"))
	s.eventually("the API speaks TLS", func() bool { return s.serial(tls.VersionTLS13) == 1 })
	if s.serial(tls.VersionTLS12) != 1 || s.serial(tls.VersionTLS11) != 0 {
		t.Error("the API speaks TLS 1.1, or not 1.2")
	}

	renew(2)
	p.signal(syscall.SIGHUP)
	s.eventually("the renewed certificate is used", func() bool { return s.serial(tls.VersionTLS13) == 2 })

	config(newCertificate(t, 3, s.admin.Addr().AsSlice()))
	p.signal(syscall.SIGHUP)
	s.eventually("the certificate in the config is used", func() bool { return s.serial(tls.VersionTLS13) == 3 })
	s.eventually("the log says so", func() bool {
		return strings.Contains(p.out.String(), `"applied":"admin.tls_cert admin.tls_key"`)
	})

	config("-----BEGIN CERTIFICATE-----", "-----BEGIN PRIVATE KEY-----")
	p.signal(syscall.SIGHUP)
	s.eventually("the log says what is wrong", func() bool {
		return strings.Contains(p.out.String(), "config reload rejected")
	})
	if s.serial(tls.VersionTLS13) != 3 {
		t.Error("a broken certificate is used")
	}
	p.stop()
}
