package cli

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"bellhop/admin/ops"
)

// TestStatusShowsFaults prints the status of a bellhop that is not ready.
func TestStatusShowsFaults(t *testing.T) {
	at, later := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), time.Date(2026, 1, 2, 3, 5, 0, 0, time.UTC)
	s := ops.Status{Version: "1.2.3", Uptime: 3700, Reasons: []string{"no PBX answers OPTIONS"}, Degraded: []string{"store damaged\x1b[31m"}}
	s.Connections = ops.Connections{TCP: 1, TLS: 2, WS: 3, WSS: 4, Refused: 5, HandshakesFailed: 6}
	s.Listeners = []ops.Listener{{Address: "udp://192.0.2.1:5060", Side: "both"}, {Address: "tls://192.0.2.1:5061", Side: "edge", Connections: 2}}
	s.Certificates = []ops.Certificate{{Name: "sip.tls_cert[0]", Hosts: []string{"a.example", "b.example"}, Expires: at.AddDate(0, 0, 10), State: ops.CertificateExpiring}}
	s.PBX = []ops.Target{
		{Configured: "udp://pbx.example", Address: "udp://10.0.0.2:5060", State: "up", Since: &at, Answer: "200 OK", Answered: &later, RoundTrip: 1500},
		{Configured: "udp://10.0.0.3:5060", Address: "udp://10.0.0.3:5060", State: "down", Since: &at, Error: "OPTIONS: no response", Failed: &later},
		{Configured: "udp://gone.example", State: "unresolved", Since: &at, Error: "lookup gone.example: no such name"},
	}
	s.Trunks = []ops.Trunk{{Name: "carrier", Targets: []ops.Target{{Configured: "tcp://198.51.100.1:5060", Address: "tcp://198.51.100.1:5060", State: "unknown"}}}}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/v1/status" || r.Header.Get("Authorization") != "Bearer secret" {
			t.Errorf("got %s with %q", r.URL, r.Header.Get("Authorization"))
		}
		json.NewEncoder(w).Encode(s)
	}))
	defer server.Close()
	t.Setenv("BELLHOP_SERVER", server.URL)
	t.Setenv("BELLHOP_TOKEN", "secret")
	stdout, stderr := runCommand(t, 0, "status", "--utc")
	want := `bellhop 1.2.3 is not ready, up for 1h01m
not ready: no PBX answers OPTIONS
degraded: store damaged[31m
live calls     unknown: the tracker is too busy
connections    TCP 1, TLS 2, WS 3, WSS 4; 5 refused, 6 handshakes failed
subscriptions  0 active, 0 paused, 0 disabled
deliveries     0 pending, 0 delivered, 0 expired

PEER                   ADDRESS                  STATE       SINCE                ROUND TRIP  LAST ANSWER          LAST ERROR
PBX udp://pbx.example  udp://10.0.0.2:5060      up          2026-01-02 03:04:05  1.5ms       2026-01-02 03:05:00
PBX                    udp://10.0.0.3:5060      down        2026-01-02 03:04:05                                   OPTIONS: no response, 2026-01-02 03:05:00
PBX                    udp://gone.example       unresolved  2026-01-02 03:04:05                                   lookup gone.example: no such name
trunk carrier          tcp://198.51.100.1:5060  unknown

LISTENER              SIDE  CONNECTIONS
udp://192.0.2.1:5060  both  -
tls://192.0.2.1:5061  edge  2

CERTIFICATE      STATE     EXPIRES           HOSTS
sip.tls_cert[0]  expiring  2026-01-12 03:04  a.example b.example
`
	if stdout != want || stderr != "" {
		t.Errorf("got %q\n%s\nwant\n%s", stderr, stdout, want)
	}
	stdout, _ = runCommand(t, 0, "status", "--json")
	var got ops.Status
	if err := json.Unmarshal([]byte(stdout), &got); err != nil || len(got.PBX) != 3 || got.PBX[0].RoundTrip != 1500 {
		t.Errorf("got %v: %s", err, stdout)
	}
}
