package config

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"bellhop/sip/siptest"
)

// tlsFiles writes certificates into a folder and makes it the working directory: a pair for
// sip.example.com (good), one that has expired (old), one with most of its life gone (soon),
// and the authority (ca).
func tlsFiles(t *testing.T) {
	t.Helper()
	t.Chdir(t.TempDir())
	ca := siptest.NewAuthority("ca")
	issue := func(name string, notAfter time.Time) {
		cert, key := ca.Issue(siptest.CertificateRequest{Hosts: []string{"sip.example.com"}, NotAfter: notAfter})
		writeFile(t, name+".crt", cert)
		writeFile(t, name+".key", key)
	}
	issue("good", time.Time{})
	issue("old", time.Now().Add(-time.Hour))
	issue("soon", time.Now().Add(time.Hour))
	writeFile(t, "ca.crt", ca.PEM())
	writeFile(t, "nonsense", []byte("nonsense"))
}

func writeFile(t *testing.T, name string, b []byte) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(".", name), b, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestTLSProblems(t *testing.T) {
	tlsFiles(t)
	const listen = "sip.listen = [\"udp://127.0.0.1:5060\", \"tls://127.0.0.1:5061\"]\nsip.tls_cert = [\"file:good.crt\"]\nsip.tls_key = [\"file:good.key\"]\n"
	for _, tt := range []struct {
		name, text string
		want       []string
	}{
		{"all is well", listen + `sip.tls_min = "1.0"` + "\nsip.tls_legacy = true", nil},
		{"browsers share the address", listen + "[[listener]]\nlisten = \"wss://127.0.0.1:5061\"", nil},
		{"browsers share the address with another certificate", listen + "[[listener]]\nlisten = \"wss://127.0.0.1:5061\"\ntls_cert = [\"file:soon.crt\"]\ntls_key = [\"file:soon.key\"]", []string{
			`c:5:10: listener.listen: wss://127.0.0.1:5061 shares its address with tls://127.0.0.1:5061: give both the same tls_cert`}},
		{"no certificate", `sip.listen = ["udp://127.0.0.1:5060", "tls://127.0.0.1:5061"]`, []string{
			`c:1:39: sip.listen: tls://127.0.0.1:5061 needs a certificate: set sip.tls_cert = ["file:PATH"] and sip.tls_key = ["file:PATH"], or acme.names`}},
		{"no key", "sip.tls_cert = [\"file:good.crt\"]", []string{
			`c:1:17: sip.tls_cert: certificate without a key: tls_key needs one for each certificate, in the same order`}},
		{"no certificate of a key", "sip.tls_cert = [\"file:good.crt\"]\nsip.tls_key = [\"file:good.key\", \"file:old.key\"]", []string{
			`c:2:33: sip.tls_key: key without a certificate: tls_cert needs one for each key, in the same order`}},
		{"a key that does not fit", "sip.tls_cert = [\"file:good.crt\", \"file:old.crt\"]\nsip.tls_key = [\"file:good.key\", \"file:good.key\"]", []string{
			`c:1:34: sip.tls_cert: tls: private key does not match public key: tls_key needs the key of each certificate, in the same order`}},
		{"no file", "sip.tls_cert = [\"file:none.crt\"]\nsip.tls_key = [\"file:good.key\"]", []string{
			`c:1:17: sip.tls_cert: open none.crt: no such file or directory`}},
		{"no PEM", "sip.tls_cert = [\"file:nonsense\"]\nsip.tls_key = [\"file:good.key\"]", []string{
			`c:1:17: sip.tls_cert: tls: failed to find any PEM data in certificate input: use "file:PATH" of a file in PEM form`}},
		{"a wrong version", `sip.tls_min = "1.4"`, []string{
			`c:1:15: sip.tls_min: "1.4" is not a version of TLS: use "1.2" or "1.3", or for old phones "1.0" or "1.1"`}},
		{"a contradiction", "sip.tls_min = \"1.3\"\nsip.tls_legacy = true", []string{
			`c:2:18: sip.tls_legacy: has no effect with tls_min = "1.3": remove it, or set tls_min = "1.2"`}},
		{"a listener without TLS", "sip.listen = [\"udp://127.0.0.1:5060\"]\n[[listener]]\nlisten = \"tcp://127.0.0.1:5061\"\ntls_cert = [\"file:good.crt\"]\ntls_key = [\"file:good.key\"]", []string{
			`c:4:12: listener.tls_cert: tcp://127.0.0.1:5061 does not use TLS: remove tls_cert and tls_key, or listen on tls://127.0.0.1:5061`}},
		{"a listener with its own", "sip.listen = [\"udp://127.0.0.1:5060\"]\n[[listener]]\nlisten = \"tls://127.0.0.1:5061\"\ntls_cert = [\"file:good.crt\"]\ntls_key = [\"file:good.key\"]", nil},
		{"a PBX that nothing proves", listen + `sip.pbx = ["tls://127.0.0.2"]`, []string{
			`c:4:12: sip.pbx: no certificate proves the address tls://127.0.0.2:5061: set sip.tls_name to the name in the PBX's certificate, or sip.tls_ca to the certificate of the authority that issued it`}},
		{"a PBX with a name", listen + "sip.pbx = [\"tls://127.0.0.2\"]\nsip.tls_name = \"pbx.example\"", nil},
		{"a PBX with an authority", listen + "sip.pbx = [\"tls://127.0.0.2\"]\nsip.tls_ca = \"file:ca.crt\"", nil},
		{"a wrong authority", listen + "sip.pbx = [\"tls://127.0.0.2\"]\nsip.tls_ca = \"file:nonsense\"\nsip.tls_name = \"a b\"", []string{
			`c:5:14: sip.tls_ca: no certificate in PEM form: use "file:PATH" of the authority's certificate`,
			`c:6:16: sip.tls_name: "a b" is not a host name or an address: use a name in the certificate, like sip.example.com`}},
		{"a PBX over TLS without a listener", "sip.pbx = [\"tls://127.0.0.2\"]\nsip.tls_name = \"pbx.example\"", []string{
			`c:1:12: sip.pbx: no listener reaches tls://127.0.0.2:5061: add to sip.listen a tls:// listener on an IPv4 loopback address or on 0.0.0.0`}},
		{"a trunk", listen + "[[trunk]]\nname = \"a\"\nto = [\"tls://127.0.0.3\"]\ntls_name = \"sip.carrier.example\"\ntls_cert = \"file:good.crt\"\ntls_key = \"file:good.key\"\ntls_names = [\"sip.carrier.example\"]", nil},
		{"a trunk known by its certificate", listen + "[[trunk]]\nname = \"a\"\ntls_names = [\"sip.carrier.example\"]", nil},
		{"a trunk that nothing proves", listen + "[[trunk]]\nname = \"a\"\nto = [\"tls://127.0.0.3\"]", []string{
			`c:6:7: trunk.to: no certificate proves the address tls://127.0.0.3:5061: set tls_name to the name in the carrier's certificate, or tls_ca to the certificate of the authority that issued it`}},
		{"wrong addresses of a trunk", listen + "[[trunk]]\nname = \"a\"\nto = [\"udp://127.0.0.3\", \"udp://127.0.0.3:5060\", \"ws://127.0.0.4\", \"udp://0.0.0.0\", \"udp://127.0.0.1\", \"tcp://127.0.0.5\"]\n[[trunk]]\nname = \"b\"\nto = [\"udp://127.0.0.3:5070\"]", []string{
			`c:6:26: trunk.to: udp://127.0.0.3:5060 is listed twice`,
			`c:6:50: trunk.to: ws://127.0.0.4:80: bellhop opens no WebSocket to a trunk: use udp://, tcp:// or tls://`,
			`c:6:68: trunk.to: udp://0.0.0.0:5060 is not an address to send to: use the carrier's own address and port`,
			`c:6:85: trunk.to: udp://127.0.0.1:5060 is bellhop's own listener udp://127.0.0.1:5060: calls would loop: use the carrier's address`,
			`c:6:104: trunk.to: no listener reaches tcp://127.0.0.5:5060: add to sip.listen a tcp:// listener on an IPv4 loopback address or on 0.0.0.0`,
			`c:9:7: trunk.to: udp://127.0.0.3:5070 belongs to trunk "a" too: an address belongs to one trunk`}},
		{"wrong certificates of a trunk", "[[trunk]]\nname = \"a\"\nsources = [\"192.0.2.1\"]\ntls_names = [\"\", \"a/b\"]\ntls_cert = \"file:good.crt\"\ntls_ca = \"file:none\"\n[[trunk]]\nname = \"b\"\nsources = [\"192.0.2.2\"]\ntls_key = \"file:good.key\"\n[[trunk]]\nname = \"c\"\nsources = [\"192.0.2.3\"]\ntls_cert = \"file:good.crt\"\ntls_key = \"file:old.key\"", []string{
			`c:4:13: trunk.tls_names: no listener sees certificates: add a tls:// address to sip.listen`,
			`c:4:14: trunk.tls_names: must not be empty: use a name in the carrier's certificate`,
			`c:4:18: trunk.tls_names: "a/b" is not a host name or an address: use a name in the certificate, like sip.example.com`,
			`c:5:12: trunk.tls_cert: certificate without a key: set tls_key too`,
			`c:6:10: trunk.tls_ca: open none: no such file or directory`,
			`c:10:11: trunk.tls_key: key without a certificate: set tls_cert too`,
			`c:14:12: trunk.tls_cert: tls: private key does not match public key`}},
	} {
		t.Run(tt.name, func(t *testing.T) { wantProblems(t, tt.text, tt.want) })
	}
}

func TestCertificatesAreWarnedAbout(t *testing.T) {
	tlsFiles(t)
	text := "sip.listen = [\"udp://127.0.0.1:5060\", \"tls://127.0.0.1:5061\"]\nsip.advertise = \"other.example.com\"\n" +
		"sip.tls_cert = [\"file:good.crt\", \"file:old.crt\", \"file:soon.crt\"]\nsip.tls_key = [\"file:good.key\", \"file:old.key\", \"file:soon.key\"]\n"
	c, r, err := parse("c", text)
	if err != nil {
		t.Fatal(err)
	}
	c.warnTLS(r.addProblem, time.Now())
	r.problems.Sort()
	old, soon := time.Now().Add(-time.Hour).UTC(), time.Now().Add(time.Hour).UTC()
	want := `c:1:39: sip.listen: no certificate of tls://127.0.0.1:5061 is for other.example.com, the advertised name: phones that verify it will not connect` + "\n" +
		fmt.Sprintf(`c:3:34: sip.tls_cert: the certificate has expired on %s: renew it`, old.Format(time.DateOnly)) + "\n" +
		fmt.Sprintf(`c:3:50: sip.tls_cert: the certificate expires on %s: renew it`, soon.Format(time.DateOnly))
	if got := strings.TrimSpace(r.problems.Error()); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}
