package main

import (
	"bytes"
	"os"
	"strings"
	"testing"
)

// runCommand runs a command and fails the test on another exit status.
func runCommand(t *testing.T, want int, args ...string) (stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	if got := newProgram().Run(t.Context(), args, &out, &errs); got != want {
		t.Errorf("bellhop %s exits %d, want %d", strings.Join(args, " "), got, want)
	}
	return out.String(), errs.String()
}

// TestServeNeedsValidConfig runs serve without a config and with a wrong one: it prints
// what check prints, and starts nothing.
func TestServeNeedsValidConfig(t *testing.T) {
	t.Chdir(t.TempDir())
	stdout, stderr := runCommand(t, 1, "serve")
	if !strings.HasPrefix(stderr, "bellhop: config file config.toml does not exist: ") || !strings.Contains(stderr, "--config") || strings.Count(stderr, "\n") != 1 || stdout != "" {
		t.Errorf("serve without a config says %q and %q", stdout, stderr)
	}
	if err := os.WriteFile("config.toml", []byte("[sip]\nlisten = [\"sctp://127.0.0.1\"]\nregistr = 1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, want := runCommand(t, 1, "check")
	if _, stderr := runCommand(t, 1, "serve"); stderr != want || !strings.HasPrefix(stderr, "config.toml:2:11: sip.listen: ") {
		t.Errorf("serve says %q, want %q", stderr, want)
	}
}
