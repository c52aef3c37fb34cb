package config

import (
	"testing"
	"time"
)

func TestACMEProblems(t *testing.T) {
	tlsFiles(t)
	const listen = "sip.listen = [\"udp://127.0.0.1:5060\", \"tls://127.0.0.1:5061\"]\n"
	for _, tt := range []struct {
		name, text string
		want       []string
	}{
		{"all is well", listen + "[acme]\nnames = [\"Sip.example.com\", \"192.0.2.1\", \"2001:db8::1\"]\nemail = \"admin@example.com\"\nca = \"file:ca.crt\"", nil},
		{"off", "acme.names = []\nacme.profile = \"shortlived\"", nil},
		{"wrong names", listen + "[acme]\nnames = [\"*.example.com\", \"a b\", \"\", \"a.example\", \"A.EXAMPLE\", \"fe80::1%eth0\", \"-a.example\"]", []string{
			`c:3:10: acme.names: "*.example.com" needs DNS-01, which bellhop does not support: list each name`,
			`c:3:27: acme.names: "a b" is not a host name or an address: use the name that phones connect to, like sip.example.com`,
			`c:3:34: acme.names: "" is not a host name or an address: use the name that phones connect to, like sip.example.com`,
			`c:3:51: acme.names: "a.example" is listed twice: remove one`,
			`c:3:64: acme.names: "fe80::1%eth0" is not a host name or an address: use the name that phones connect to, like sip.example.com`,
			`c:3:80: acme.names: "-a.example" is not a host name or an address: use the name that phones connect to, like sip.example.com`}},
		{"wrong settings of the authority", "[acme]\ndirectory = \"http://ca.example\"\nemail = \"admin\"\nca = \"file:nonsense\"", []string{
			`c:2:13: acme.directory: "http://ca.example" is not the https:// URL of a directory: use that of your authority, like https://acme-v02.api.letsencrypt.org/directory`,
			`c:3:9: acme.email: "admin" is not an address: use a form like admin@example.com, or leave it out`,
			`c:4:6: acme.ca: no certificate in PEM form: use "file:PATH" of the authority's certificate`}},
		{"no listener", `acme.names = ["sip.example.com"]`, []string{
			`c:1:14: acme.names: no listener uses these certificates: add a tls:// or wss:// address to sip.listen`}},
		{"a listener with its own certificate", "acme.names = [\"sip.example.com\"]\n[[listener]]\nlisten = \"tls://127.0.0.1:5061\"\ntls_cert = [\"file:good.crt\"]\ntls_key = [\"file:good.key\"]\n[[listener]]\nlisten = \"udp://127.0.0.1:5060\"", []string{
			`c:1:14: acme.names: no listener uses these certificates: add a tls:// or wss:// address to sip.listen`}},
		{"no port", "sip.listen = [\"udp://127.0.0.1:5060\", \"tls://127.0.0.1:5061\", \"ws://127.0.0.1:80\"]\nacme.names = [\"sip.example.com\"]\nadmin.listen = \"127.0.0.1:443\"", []string{
			`c:2:14: acme.names: other listeners have the ports 80 and 443, so the authority cannot verify a name: use another port for one of them`}},
		{"a wrong key", "acme.name = \"sip.example.com\"", []string{
			`c:1:1: acme.name: unknown key: did you mean "names"?`}},
	} {
		t.Run(tt.name, func(t *testing.T) { wantProblems(t, tt.text, tt.want) })
	}
}

func TestChallengePorts(t *testing.T) {
	for _, tt := range []struct {
		listen    string
		host      string
		http, tls bool
	}{
		{`"tls://127.0.0.1:5061"`, "", true, true},
		{`"wss://192.0.2.1:443", "udp://192.0.2.1:80"`, "192.0.2.1", true, true},
		{`"wss://0.0.0.0:443", "ws://0.0.0.0:80"`, "", false, true},
		{`"tls://127.0.0.1:5061", "ws://127.0.0.1:443"`, "", true, false},
	} {
		c, err := Parse("c", `sip.listen = ["udp://127.0.0.1:5060", "udp://0.0.0.0:5062", `+tt.listen+"]\nacme.names = [\"sip.example.com\"]")
		if err != nil {
			t.Fatal(err)
		}
		if host, http, tls := c.ChallengePorts(); host != tt.host || http != tt.http || tls != tt.tls {
			t.Errorf("%s: %q, %v, %v, want %q, %v, %v", tt.listen, host, http, tls, tt.host, tt.http, tt.tls)
		}
	}
}

// A name that ACME is for needs no other certificate.
func TestAdvertisedNameOfACME(t *testing.T) {
	for name, want := range map[string]int{"sip.example.com": 0, "other.example.com": 1} {
		c, r, err := parse("c", "sip.listen = [\"udp://127.0.0.1:5060\", \"tls://127.0.0.1:5061\"]\nsip.advertise = \""+name+"\"\nacme.names = [\"SIP.example.com\"]")
		if err != nil {
			t.Fatal(err)
		}
		if c.warnTLS(r.addProblem, time.Now()); len(r.problems) != want {
			t.Errorf("%s: the warnings are %v", name, r.problems)
		}
	}
}
