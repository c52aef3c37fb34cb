package main

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"bellhop/admin/ops"
	"bellhop/sip"
)

// sipSerial returns the serial number of the certificate at a TLS listener; 0: no handshake.
func sipSerial(at netip.AddrPort) int64 {
	c, err := tls.Dial("tcp", at.String(), &tls.Config{InsecureSkipVerify: true})
	if err != nil {
		return 0
	}
	defer c.Close()
	return c.ConnectionState().PeerCertificates[0].SerialNumber.Int64()
}

// askOptions sends an OPTIONS over a TLS connection and returns the status line of the
// response.
func askOptions(c *tls.Conn, at netip.AddrPort) (string, error) {
	c.SetDeadline(time.Now().Add(patience))
	fmt.Fprintf(c, "OPTIONS sip:%s;transport=tls SIP/2.0\r\nVia: SIP/2.0/TLS %s;branch=z9hG4bK-%d;rport\r\nMax-Forwards: 70\r\n"+
		"From: <sip:a@a>;tag=a\r\nTo: <sip:b@b>\r\nCall-ID: %d\r\nCSeq: 1 OPTIONS\r\nContent-Length: 0\r\n\r\n", at, c.LocalAddr(), time.Now().UnixNano(), time.Now().UnixNano())
	r := bufio.NewReader(c)
	status, err := r.ReadString('\n')
	for line := status; err == nil && line != "\r\n"; {
		line, err = r.ReadString('\n')
	}
	return strings.TrimSpace(status), err
}

// renewCertificate puts a new certificate and its key into the folder live, as certbot does.
func (s *site) renewCertificate(ip netip.Addr, serial int64) {
	s.t.Helper()
	cert, key := newCertificate(s.t, serial, ip.AsSlice())
	name, live := fmt.Sprintf("version%d", serial), filepath.Join(s.dir, "live")
	if err := os.Mkdir(filepath.Join(s.dir, name), 0o700); err != nil {
		s.t.Fatal(err)
	}
	s.write(filepath.Join(name, "cert.pem"), cert)
	s.write(filepath.Join(name, "key.pem"), key)
	os.Symlink(name, live+".new")
	if err := os.Rename(live+".new", live); err != nil {
		s.t.Fatal(err)
	}
}

// TestRenewsSIPCertificates renews the files of a TLS listener: with SIGHUP, without, and
// wrongly. A connection that is open lives on.
func TestRenewsSIPCertificates(t *testing.T) {
	t.Parallel()
	s := newSite(t, sip.UDP, sip.UDP)
	at := freePort(t, "127.0.0.4")
	live := filepath.Join(s.dir, "live")
	renew := func(serial int64) { s.renewCertificate(at.Addr(), serial) }
	renew(1)
	s.configure("")
	b, err := os.ReadFile(filepath.Join(s.dir, "config.toml"))
	if err != nil {
		t.Fatal(err)
	}
	s.write("config.toml", string(b)+fmt.Sprintf("\n[[listener]]\nlisten = \"tls://%s\"\ntls_cert = [\"file:%s/cert.pem\"]\ntls_key = [\"file:%s/key.pem\"]\n", at, live, live))
	p := s.serve()
	if got := sipSerial(at); got != 1 {
		t.Fatalf("the certificate has the serial number %d", got)
	}
	open, err := tls.Dial("tcp", at.String(), &tls.Config{InsecureSkipVerify: true})
	if err != nil {
		t.Fatal(err)
	}
	defer open.Close()
	check := func(what string) {
		t.Helper()
		if status, err := askOptions(open, at); status != "SIP/2.0 200 OK" {
			t.Errorf("%s: the open connection answers %q, %v", what, status, err)
		}
	}
	check("at first")

	renew(2)
	p.signal(syscall.SIGHUP)
	s.eventually("the renewed certificate is used after SIGHUP", func() bool { return sipSerial(at) == 2 })
	check("after SIGHUP")
	renew(3)
	s.eventually("a renewed certificate is found without a signal", func() bool { return sipSerial(at) == 3 })
	check("after a renewal")

	_, key := newCertificate(t, 4, at.Addr().AsSlice())
	s.write(filepath.Join("version3", "key.pem"), key)
	s.eventually("the log says that the key does not fit", func() bool { return strings.Contains(p.out.String(), "certificate not reloaded") })
	if got := sipSerial(at); got != 3 {
		t.Errorf("a wrong pair replaces the last good one: serial number %d", got)
	}
	check("after a wrong renewal")

	_, metrics := s.request("GET", "/metrics", nil)
	if !strings.Contains(string(metrics), `bellhop_tls_expiry_seconds{certificate="listener[0].tls_cert[0]",host="127.0.0.4"} 3`) {
		t.Error("the metrics have no expiry of the certificate")
	}
	var status ops.Status
	s.api("GET", "/v1/status", nil, &status)
	if n := status.Connections.TLS; n != 1 {
		t.Errorf("the status counts %d connections over TLS, want 1", n)
	}
	if n := len(status.Listeners); n != 3 || status.Listeners[2] != (ops.Listener{Address: "tls://" + at.String(), Side: "both", Connections: 1}) {
		t.Errorf("the listeners are %v", status.Listeners)
	}
	if cs := status.Certificates; len(cs) != 1 || cs[0].State != ops.CertificateValid || cs[0].Name != "listener[0].tls_cert[0]" || !slices.Equal(cs[0].Hosts, []string{"127.0.0.4"}) {
		t.Errorf("the certificates are %v", cs)
	}
	p.stop()
	if _, err := io.ReadAll(open); err != nil && !strings.Contains(err.Error(), "EOF") && !strings.Contains(err.Error(), "reset") {
		t.Errorf("the open connection ends with %v", err)
	}
}
