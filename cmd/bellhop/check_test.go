package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// cli runs a command and wants the exit status.
func cli(t *testing.T, want int, args ...string) (stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	if got := run(t.Context(), args, &out, &errs); got != want {
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

func TestCheckGood(t *testing.T) {
	path := write(t, "[sip]\nlisten = [\"udp://127.0.0.1:5060\", \"tcp://127.0.0.1:5060\"]\npbx = [\"udp://127.0.0.2:5060\"]\n")
	stdout, stderr := cli(t, 0, "check", "--config", path)
	want := path + " is good: phones reach the PBX udp://127.0.0.2:5060 through udp://127.0.0.1:5060, tcp://127.0.0.1:5060; the admin API is at http://127.0.0.1:8080, the store in data\n"
	if stdout != want || stderr != "" {
		t.Errorf("got %q and %q, want %q", stdout, stderr, want)
	}
	stdout, stderr = cli(t, 0, "check", "--config", path, "--json")
	if want := "{\n  \"ok\": true,\n  \"problems\": []\n}\n"; stdout != want || stderr != "" {
		t.Errorf("got %q and %q, want %q", stdout, stderr, want)
	}
}

func TestCheckBad(t *testing.T) {
	path := write(t, "[sip]\nlisten = [\"tls://127.0.0.1\"]\nregistr = 1\n")
	stdout, stderr := cli(t, 1, "check", "-c", path)
	want := path + ":2:11: sip.listen: address \"tls://127.0.0.1\": tls is not supported yet: use udp:// or tcp://\n" +
		path + ":3:1: sip.registr: unknown key: did you mean \"register\"?\n"
	if stdout != "" || stderr != want {
		t.Errorf("got %q and %q, want %q", stdout, stderr, want)
	}

	stdout, stderr = cli(t, 1, "check", "-c", path, "--json")
	var report struct {
		OK       bool
		Problems problems
	}
	if err := json.Unmarshal([]byte(stdout), &report); err != nil {
		t.Fatal(err)
	}
	if stderr != "" || report.OK || len(report.Problems) != 2 || report.Problems[1] != (problem{File: path, Line: 3, Column: 1, Key: "sip.registr", Text: `unknown key: did you mean "register"?`}) {
		t.Errorf("got %q and %+v", stderr, report)
	}

	// serve says the same, and starts nothing.
	if _, stderr := cli(t, 1, "serve", "--config", path); stderr != want {
		t.Errorf("serve says %q, want %q", stderr, want)
	}
}

func TestNoConfig(t *testing.T) {
	t.Chdir(t.TempDir())
	for _, command := range []string{"check", "serve"} {
		stdout, stderr := cli(t, 1, command)
		if !strings.HasPrefix(stderr, "bellhop: there is no config.toml: ") || !strings.Contains(stderr, "--config") || strings.Count(stderr, "\n") != 1 || stdout != "" {
			t.Errorf("%s without a config says %q and %q", command, stdout, stderr)
		}
	}
	if err := os.WriteFile("config.toml", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if stdout, _ := cli(t, 0, "check"); !strings.HasPrefix(stdout, "config.toml is good") {
		t.Errorf("check does not find ./config.toml: %q", stdout)
	}
}

func TestUsage(t *testing.T) {
	if stdout, _ := cli(t, 0, "version"); !strings.HasPrefix(stdout, "bellhop ") || strings.Count(stdout, "\n") != 1 {
		t.Errorf("version says %q", stdout)
	}
	for _, args := range [][]string{{"chek"}, {"check", "this"}, {"check", "--confg", "x"}, {"serve", "-x"}, {"token", "mak"}, {"completion", "ksh"}} {
		if stdout, stderr := cli(t, 2, args...); !strings.HasPrefix(stderr, "bellhop: unknown ") || stdout != "" {
			t.Errorf("%v says %q and %q", args, stdout, stderr)
		}
	}
	stdout, _ := cli(t, 0, "--help")
	for _, command := range []string{"serve", "demo", "check", "token", "subscriptions", "events", "deliveries", "verify", "completion", "man", "version"} {
		if !strings.Contains(stdout, "\n  "+command+" ") {
			t.Errorf("help does not list %s:\n%s", command, stdout)
		}
	}
}
