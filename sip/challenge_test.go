package sip_test

import (
	"crypto/tls"
	"errors"
	"testing"

	"bellhop/sip"
	"bellhop/sip/certs"
	"bellhop/sip/siptest"
)

// An authority that verifies a name gets the certificate of its challenge, and nobody else
// does. Phones that offer a protocol of their own are served as without challenges.
func TestChallengeOfAnAuthority(t *testing.T) {
	b := &tlsBed{}
	runUnproven(t, func(s *testbed) {
		shake := func(protos ...string) *tls.Conn {
			t.Helper()
			raw, err := s.net.Dial(otherAt.Addr(), proxyTLSAt)
			if err != nil {
				t.Fatal(err)
			}
			s.t.Cleanup(func() { raw.Close() })
			c := tls.Client(raw, &tls.Config{ServerName: "sip.example.com", InsecureSkipVerify: true, NextProtos: protos})
			if err := c.Handshake(); err != nil {
				t.Fatalf("offering %q: %v", protos, err)
			}
			return c
		}
		for _, tt := range []struct {
			protos []string
			host   string
		}{
			{nil, "sip.example.com"},
			{[]string{"sip/2"}, "sip.example.com"},
			{[]string{"http/1.1", "acme-tls/1"}, "sip.example.com"},
			{[]string{"acme-tls/1"}, "challenge.example.com"},
		} {
			state := shake(tt.protos...).ConnectionState()
			if got := state.PeerCertificates[0].DNSNames[0]; got != tt.host {
				t.Errorf("offering %q, the client gets the certificate of %s, want %s", tt.protos, got, tt.host)
			}
		}
		c := shake("acme-tls/1")
		if n, err := c.Read(make([]byte, 1)); n > 0 || err == nil {
			t.Errorf("after a challenge the connection reads %d bytes, %v, want its end", n, err)
		}
	}, guarded, b.listen, func(c *sip.Config) {
		pair, err := b.issue("challenge", siptest.CertificateRequest{Hosts: []string{"challenge.example.com"}}).Load()
		if err != nil {
			t.Fatal(err)
		}
		c.TLS.Challenge = func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
			if hello.ServerName != "sip.example.com" {
				return nil, errors.New("unknown name")
			}
			return pair, nil
		}
	})
}

// Phones that connect before the first certificate is issued fail, and are not banned.
func TestHandshakesBeforeACertificateIsIssued(t *testing.T) {
	b := &tlsBed{}
	issued := false
	var store *certs.Store
	runUnproven(t, func(s *testbed) {
		shake := func() error {
			raw, err := s.net.Dial(otherAt.Addr(), proxyTLSAt)
			if err != nil {
				return err
			}
			defer raw.Close()
			return tls.Client(raw, &tls.Config{ServerName: "sip.example.com", RootCAs: b.ca.Pool()}).Handshake()
		}
		for range 30 {
			if shake() == nil {
				t.Fatal("a handshake works without a certificate")
			}
		}
		if lines := s.bans(); len(lines) > 0 {
			t.Errorf("banned: %s", lines)
		}
		issued = true
		if changed, err := store.Refresh(); len(changed) != 1 || err != nil {
			t.Errorf("once it is issued: changed %q, %v", changed, err)
		}
		if err := shake(); err != nil {
			t.Errorf("once it is issued: %v", err)
		}
	}, guarded, b.listen, func(c *sip.Config) {
		var err error
		store, err = certs.New([]certs.Pair{{Name: "acme.names[0]", Cert: func() ([]byte, error) {
			if !issued {
				return nil, certs.ErrNotIssued
			}
			cert, _ := b.server.Cert()
			key, _ := b.server.Key()
			return append(cert, key...), nil
		}}})
		if err != nil {
			t.Fatal(err)
		}
		if infos := store.Infos(); len(infos) != 0 {
			t.Errorf("before it is issued, the certificates are %v", infos)
		}
		c.Listen[len(c.Listen)-1].Certificates = store
	})
}
