package cli

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"bellhop/cmd/bellhop/config"
)

// fakeProgram is a bellhop that does not serve.
var fakeProgram = Program{Version: "1.2.3"}

// runCommand runs a command and fails the test on another exit status.
func runCommand(t *testing.T, want int, args ...string) (stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	if got := fakeProgram.Run(t.Context(), args, &out, &errs); got != want {
		t.Errorf("bellhop %s exits %d, want %d", strings.Join(args, " "), got, want)
	}
	return out.String(), errs.String()
}

func write(t *testing.T, text string) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "config.toml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestCheckDescribesValidConfig(t *testing.T) {
	path := write(t, "[sip]\nlisten = [\"udp://127.0.0.1:5060\", \"tcp://127.0.0.1:5060\"]\npbx = [\"udp://127.0.0.2:5060\"]\n")
	stdout, stderr := runCommand(t, 0, "check", "--config", path)
	want := path + " is valid: phones reach the PBX udp://127.0.0.2:5060 through udp://127.0.0.1:5060, tcp://127.0.0.1:5060; the admin API is at http://127.0.0.1:8080; the store is in data\n" +
		"phones reach bellhop at udp://127.0.0.1:5060\nphones reach bellhop at tcp://127.0.0.1:5060\nthe PBX udp://127.0.0.2:5060 sees bellhop at udp://127.0.0.1:5060\n"
	if stdout != want || stderr != "" {
		t.Errorf("got %q and %q, want %q", stdout, stderr, want)
	}
	stdout, stderr = runCommand(t, 0, "check", "--config", path, "--json")
	want = `{
  "ok": true,
  "problems": [],
  "network": [
    "phones reach bellhop at udp://127.0.0.1:5060",
    "phones reach bellhop at tcp://127.0.0.1:5060",
    "the PBX udp://127.0.0.2:5060 sees bellhop at udp://127.0.0.1:5060"
  ]
}
`
	if stdout != want || stderr != "" {
		t.Errorf("got %q and %q, want %q", stdout, stderr, want)
	}
}

// TestCheckPrintsDegradedReasons checks a config while a degraded bellhop runs with it.
func TestCheckPrintsDegradedReasons(t *testing.T) {
	running := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/readyz" {
			io.WriteString(w, `{"ready": true, "degraded": ["PBX udp://192.0.2.2:5060 ignores Path\u001b[31m", "store damaged"]}`)
		}
	}))
	defer running.Close()
	path := write(t, "admin.listen = \""+strings.TrimPrefix(running.URL, "http://")+"\"\n")
	stdout, stderr := runCommand(t, 0, "check", "--config", path)
	lines := strings.Split(strings.TrimSpace(stdout), "\n")
	if len(lines) != 5 || !strings.HasPrefix(lines[0], path+" is valid: ") || stderr != "" ||
		!strings.HasPrefix(lines[3], "bellhop is running, but degraded: PBX udp://192.0.2.2:5060 ignores Path") || strings.Contains(lines[3], "\x1b") ||
		lines[4] != "bellhop is running, but degraded: store damaged" {
		t.Errorf("got %q and %q", stdout, stderr)
	}
	stdout, _ = runCommand(t, 0, "check", "--config", path, "--json")
	var report struct {
		OK       bool
		Degraded []string
	}
	if err := json.Unmarshal([]byte(stdout), &report); err != nil || !report.OK || len(report.Degraded) != 2 {
		t.Errorf("got %q: %v", stdout, err)
	}
	running.Config.Handler = http.NotFoundHandler() // no bellhop
	if stdout, _ := runCommand(t, 0, "check", "--config", path); strings.Count(stdout, "\n") != 3 {
		t.Errorf("got %q", stdout)
	}
}

func TestCheckDescribesNetwork(t *testing.T) {
	for _, tt := range []struct {
		name string
		text string
		want []string
	}{
		{"1:1 NAT", `[sip]
listen = ["udp://192.0.2.10:5060"]
advertise = "sip.example.com"
pbx = ["udp://192.0.2.1:5060"]`, []string{
			"phones reach bellhop at udp://sip.example.com:5060, and phones in sip.local_net at udp://192.0.2.10:5060",
			"the PBX udp://192.0.2.1:5060 sees bellhop at udp://192.0.2.10:5060",
		}},
		{"no local networks", `[sip]
listen = ["udp://192.0.2.10:5060"]
advertise = "203.0.113.1:5070"
local_net = []
pbx = ["udp://192.0.2.1:5060"]`, []string{
			"phones reach bellhop at udp://203.0.113.1:5070",
			"the PBX udp://192.0.2.1:5060 sees bellhop at udp://192.0.2.10:5060",
		}},
		{"browsers", `[sip]
listen = ["udp://192.0.2.10:5060", "ws://192.0.2.10"]
advertise = "sip.example.com"
pbx = ["udp://192.0.2.1:5060"]`, []string{
			"phones reach bellhop at udp://sip.example.com:5060, and phones in sip.local_net at udp://192.0.2.10:5060",
			"browsers reach bellhop at ws://sip.example.com:80, and browsers in sip.local_net at ws://192.0.2.10:80",
			"the PBX udp://192.0.2.1:5060 sees bellhop at udp://192.0.2.10:5060",
		}},
		{"all addresses", `[sip]
listen = ["udp://0.0.0.0:5060", "udp://[::]:5060"]
pbx = ["udp://127.0.0.2:5070"]`, []string{
			"phones reach bellhop at udp://0.0.0.0:5060, every IPv4 address of this machine",
			"phones reach bellhop at udp://[::]:5060, every IPv6 address of this machine",
			"the PBX udp://127.0.0.2:5070 sees bellhop at udp://127.0.0.1:5060",
			"warning: CONFIG:2:11: sip.listen: udp://0.0.0.0:5060 has no advertised name: each phone is given the address of this machine to which it sends. If phones come through a NAT in front of bellhop, set sip.advertise",
			"warning: CONFIG:2:33: sip.listen: udp://[::]:5060 has no advertised name: each phone is given the address of this machine to which it sends. If phones come through a NAT in front of bellhop, set sip.advertise",
		}},
		{"two networks", `sip.pbx = ["udp://10.0.0.2:5060"]
[[listener]]
listen = "udp://203.0.113.1:5060"
side = "edge"
[[listener]]
listen = "udp://10.0.0.1:5060"
side = "pbx"
[[listener]]
listen = "tcp://10.0.0.1:5060"`, []string{
			"phones reach bellhop at udp://203.0.113.1:5060",
			"phones reach bellhop at tcp://10.0.0.1:5060",
			"the PBX udp://10.0.0.2:5060 sees bellhop at udp://10.0.0.1:5060",
		}},
		{"two PBXs with listeners of their own", `[sip]
pbx = ["udp://10.0.0.2:5060", "udp://10.0.0.3:5060"]
pbx_sources = ["10.0.1.0/24", "10.0.2.1"]
[[listener]]
listen = "udp://203.0.113.1:5060"
side = "edge"
[[listener]]
listen = "udp://10.0.0.1:5060"
side = "pbx"
[[listener]]
listen = "tcp://10.0.0.1:5060"
side = "pbx"`, []string{
			"phones reach bellhop at udp://203.0.113.1:5060",
			"the PBX udp://10.0.0.2:5060 sees bellhop at udp://10.0.0.1:5060",
			"the PBX udp://10.0.0.3:5060 sees bellhop at udp://10.0.0.1:5060",
			"the PBX may also send to tcp://10.0.0.1:5060",
			"the PBX may also send from 10.0.1.0/24, 10.0.2.1",
			"new requests go to the first PBX that is up",
		}},
		{"browsers of one page behind a reverse proxy", `[sip]
pbx = ["udp://10.0.0.2:5060", "udp://10.0.0.3:5060"]
pbx_mode = "spread"
listen = ["udp://10.0.0.1:5060"]
[[listener]]
listen = "ws://10.0.0.1:8088"
side = "edge"
advertise = "phone.example.com:443"
origins = ["https://phone.example.com", "https://crm.example.com"]
proxy_from = ["10.0.0.8"]`, []string{
			"phones reach bellhop at udp://10.0.0.1:5060",
			"browsers reach bellhop at ws://phone.example.com:443, and browsers in sip.local_net at ws://10.0.0.1:8088",
			"browsers at ws://10.0.0.1:8088 must show a page of https://phone.example.com, https://crm.example.com",
			"reverse proxies at 10.0.0.8 connect to ws://10.0.0.1:8088 for others, and name them in a PROXY header",
			"the PBX udp://10.0.0.2:5060 sees bellhop at udp://10.0.0.1:5060",
			"the PBX udp://10.0.0.3:5060 sees bellhop at udp://10.0.0.1:5060",
			"new requests go to a PBX that depends on their sender, and to another while that one is down",
		}},
		{"trunks", `[sip]
listen = ["udp://192.0.2.10:5060", "tcp://192.0.2.10:5060"]
advertise = "sip.example.com"
pbx = ["udp://192.0.2.1:5060"]
[[trunk]]
name = "carrier"
sources = ["198.51.100.0/24"]
to = ["udp://198.51.100.1:5060", "tcp://203.0.113.9:5070", "udp://10.0.0.9:5060"]
max_cps = 30
[[trunk]]
name = "inside"
to = ["tcp://10.0.0.10:5060"]
contact = "ours"
probe = "0s"`, []string{
			"phones and trunks reach bellhop at udp://sip.example.com:5060, and phones and trunks in sip.local_net at udp://192.0.2.10:5060",
			"phones and trunks reach bellhop at tcp://sip.example.com:5060, and phones and trunks in sip.local_net at tcp://192.0.2.10:5060",
			"the PBX udp://192.0.2.1:5060 sees bellhop at udp://192.0.2.10:5060",
			`the trunk "carrier" is known by 198.51.100.0/24, 203.0.113.9, 10.0.0.9`,
			`the trunk "carrier" gets requests at udp://198.51.100.1:5060, and OPTIONS every 25s, and sees bellhop at udp://sip.example.com:5060`,
			`the trunk "carrier" gets requests at tcp://203.0.113.9:5070, and OPTIONS every 1m0s, and sees bellhop at tcp://sip.example.com:5060`,
			`the trunk "carrier" gets requests at udp://10.0.0.9:5060, and OPTIONS every 25s, and sees bellhop at udp://192.0.2.10:5060`,
			`the trunk "carrier" gets at most 30 calls a second`,
			`the trunk "inside" is known by 10.0.0.10`,
			`the trunk "inside" gets requests at tcp://10.0.0.10:5060, and sees bellhop at tcp://sip.example.com:5060`,
			`the trunk "inside" gets that address in the Contact of the PBX`,
		}},
		{"the PBX has a name for bellhop", `sip.pbx = ["udp://10.0.0.2:5060"]
[[listener]]
listen = "udp://192.0.2.1:5060"
[[listener]]
listen = "udp://192.0.2.1:5070"
advertise = "inside.example"
side = "pbx"`, []string{
			"phones reach bellhop at udp://192.0.2.1:5060",
			"the PBX udp://10.0.0.2:5060 sees bellhop at udp://192.0.2.1:5060",
			"the PBX may also send to udp://inside.example:5070",
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			path := write(t, tt.text)
			stdout, _ := runCommand(t, 0, "check", "-c", path)
			got := strings.Split(strings.TrimSpace(strings.ReplaceAll(stdout, path, "CONFIG")), "\n")[1:]
			if !slices.Equal(got, tt.want) {
				t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(tt.want, "\n"))
			}
		})
	}
}

// The addresses of a name are not known without a lookup.
func TestNetworkWithNames(t *testing.T) {
	c, err := config.Parse("c", `[sip]
listen = ["udp://0.0.0.0:5060"]
pbx = ["udp://pbx.example.com"]
[[trunk]]
name = "carrier"
sources = ["198.51.100.0/24"]
to = ["udp://a.example.com", "udp://a.example.com:5070", "udp://b.example.com"]
max_cps = 1`)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"phones and trunks reach bellhop at udp://0.0.0.0:5060, every IPv4 address of this machine",
		"the PBX udp://pbx.example.com sees bellhop at udp port 5060 of an address of this machine",
		`the trunk "carrier" is known by 198.51.100.0/24, the addresses of a.example.com, the addresses of b.example.com`,
		`the trunk "carrier" gets requests at udp://a.example.com, and OPTIONS every 25s, and sees bellhop at udp port 5060 of an address of this machine`,
		`the trunk "carrier" gets requests at udp://a.example.com:5070, and OPTIONS every 25s, and sees bellhop at udp port 5060 of an address of this machine`,
		`the trunk "carrier" gets requests at udp://b.example.com, and OPTIONS every 25s, and sees bellhop at udp port 5060 of an address of this machine`,
		`the trunk "carrier" gets at most 1 call a second`,
	}
	if got := describeNetwork(&c); !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestCheckPrintsAllProblems(t *testing.T) {
	path := write(t, "[sip]\nlisten = [\"sctp://127.0.0.1\"]\nregistr = 1\n")
	stdout, stderr := runCommand(t, 1, "check", "-c", path)
	want := path + ":2:11: sip.listen: address \"sctp://127.0.0.1\": unknown transport \"sctp\": use udp://, tcp://, tls://, ws:// or wss://\n" +
		path + ":3:1: sip.registr: unknown key: did you mean \"register\"?\n"
	if stdout != "" || stderr != want {
		t.Errorf("got %q and %q, want %q", stdout, stderr, want)
	}

	stdout, stderr = runCommand(t, 1, "check", "-c", path, "--json")
	var report struct {
		OK       bool
		Problems config.Problems
	}
	if err := json.Unmarshal([]byte(stdout), &report); err != nil {
		t.Fatal(err)
	}
	if stderr != "" || report.OK || len(report.Problems) != 2 || report.Problems[1] != (config.Problem{File: path, Line: 3, Column: 1, Key: "sip.registr", Text: `unknown key: did you mean "register"?`}) {
		t.Errorf("got %q and %+v", stderr, report)
	}
}

func TestCheckNeedsConfigFile(t *testing.T) {
	t.Chdir(t.TempDir())
	stdout, stderr := runCommand(t, 1, "check")
	if !strings.HasPrefix(stderr, "bellhop: config file config.toml does not exist: ") || !strings.Contains(stderr, "--config") || strings.Count(stderr, "\n") != 1 || stdout != "" {
		t.Errorf("check without a config says %q and %q", stdout, stderr)
	}
	if err := os.WriteFile("config.toml", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if stdout, _ := runCommand(t, 0, "check"); !strings.HasPrefix(stdout, "config.toml is valid") {
		t.Errorf("check does not find ./config.toml: %q", stdout)
	}
}

func TestRejectsWrongArguments(t *testing.T) {
	if stdout, _ := runCommand(t, 0, "version"); !strings.HasPrefix(stdout, "bellhop ") || strings.Count(stdout, "\n") != 1 {
		t.Errorf("version says %q", stdout)
	}
	for _, args := range [][]string{{"chek"}, {"check", "this"}, {"check", "--confg", "x"}, {"serve", "-x"}, {"token", "mak"}, {"completion", "ksh"}} {
		if stdout, stderr := runCommand(t, 2, args...); !strings.HasPrefix(stderr, "bellhop: unknown ") || stdout != "" {
			t.Errorf("%v says %q and %q", args, stdout, stderr)
		}
	}
	stdout, _ := runCommand(t, 0, "--help")
	for _, command := range []string{"serve", "demo", "check", "status", "token", "subscriptions", "events", "deliveries", "verify", "completion", "man", "version"} {
		if !strings.Contains(stdout, "\n  "+command+" ") {
			t.Errorf("help does not list %s:\n%s", command, stdout)
		}
	}
}
