package main

import (
	"fmt"
	"strings"
	"syscall"
	"testing"

	"bellhop/sip"
)

// The authority of the config cannot be reached. bellhop starts and works without its
// certificate, and says in log and readiness what is wrong. SIGHUP makes another attempt.
func TestRunsWithoutAuthority(t *testing.T) {
	t.Parallel()
	s := newSite(t, sip.UDP, sip.UDP)
	at, nobody := freePort(t, "127.0.0.4"), freePort(t, "127.0.0.4")
	s.configure(fmt.Sprintf("[[listener]]\nlisten = \"tls://%s\"\n[acme]\nnames = [\"sip.example.com\"]\ndirectory = \"https://%s/dir\"\n", at, nobody))
	p := s.serve()
	warnings := func() int { return strings.Count(p.out.String(), "certificate not issued") }
	s.eventually("a warning", func() bool { return warnings() == 1 })
	if got := sipSerial(at); got != 0 {
		t.Errorf("there is a certificate: %d", got)
	}
	status, body := s.request("GET", "/readyz", nil)
	if want := "certificate acme.names[0] for sip.example.com not obtained: "; status != 200 || !strings.Contains(string(body), want) || !strings.Contains(string(body), "check acme.directory") {
		t.Errorf("readiness: %d %s", status, body)
	}
	p.signal(syscall.SIGHUP)
	s.eventually("another attempt", func() bool { return warnings() == 2 })
	p.stop()
}
