package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"bellhop/sip"
)

// ask runs a command against the site's bellhop with a token, and returns its output.
func (s *site) ask(token string, status int, args ...string) (stdout, stderr string) {
	s.t.Helper()
	var out output
	cmd := exec.Command(program(s.t), args...)
	cmd.Stdout, cmd.Env = &out, append(os.Environ(), "BELLHOP_TOKEN="+token)
	p := launch(s.t, strings.Join(args, " "), cmd)
	p.exits(status, patience)
	return out.String(), p.out.String()
}

// TestTokenCommands creates, uses, lists and revokes a token.
func TestTokenCommands(t *testing.T) {
	t.Parallel()
	s := newSite(t, sip.UDP, sip.UDP)
	p := s.serve()
	server := []string{"--server", "http://" + s.admin.String()}
	token := func(bearer string, status int, args ...string) (stdout, stderr string) {
		t.Helper()
		return s.ask(bearer, status, append(append([]string{"token"}, args...), server...)...)
	}

	stdout, stderr := token(testToken, 0, "create", "--scope", "write", "--extension", "101", "--extension", "102", "--note", "c\x1b[31mrm", "--expires", "1h")
	secret := strings.TrimSpace(stdout)
	id := regexp.MustCompile(`^token (\S+) \(shown once\):\n$`).FindStringSubmatch(stderr)
	if !strings.HasPrefix(secret, "bh_") || id == nil {
		t.Fatalf("create writes %q and %q", stdout, stderr)
	}
	stdout, _ = token(testToken, 0, "list")
	if lines := strings.Split(strings.TrimSpace(stdout), "\n"); len(lines) != 2 || !regexp.MustCompile(`^`+id[1]+` +write +101 102 +20\S+ \S+ +never +20\S+ \S+ +c\[31mrm$`).MatchString(lines[1]) {
		t.Errorf("list writes\n%s", stdout)
	}
	if stdout, _ = token(testToken, 0, "list", "--json"); !strings.Contains(stdout, `"id": "`+id[1]+`"`) || strings.Contains(stdout, secret) {
		t.Errorf("list --json writes\n%s", stdout)
	}
	if stdout, _ = token(testToken, 0, "create", "--scope", "admin", "--json"); !strings.Contains(stdout, `"token": "bh_`) {
		t.Errorf("create --json writes\n%s", stdout)
	}
	for _, tt := range []struct {
		bearer string
		status int
		args   []string
		stderr string
	}{
		{"", 1, []string{"list"}, "bellhop: no token: set BELLHOP_TOKEN"},
		{"wrong", 1, []string{"list"}, "bellhop: token rejected (401 Unauthorized): set BELLHOP_TOKEN"},
		{secret, 1, []string{"list"}, "bellhop: request rejected (403 Forbidden): use a token with scope admin"},
		{testToken, 1, []string{"revoke", "nothing/../x"}, "bellhop: request rejected (404 Not Found): no such token"},
		{testToken, 2, []string{"revoke"}, "bellhop: want at least 1 argument, got 0"},
		{testToken, 2, []string{"create"}, `bellhop: missing flags: "scope"`},
		{testToken, 2, []string{"create", "--scope", "read", "--expires", "-1h"}, "bellhop: --expires must not be negative: -1h0m0s"},
		{testToken, 1, []string{"create", "--scope", "root"}, "bellhop: request rejected (422 Unprocessable Entity): scope: "},
		{testToken, 1, []string{"create", "--scope", "admin", "--extension", "101"}, "bellhop: request rejected (422 Unprocessable Entity): extensions: must be empty with scope admin"},
	} {
		if stdout, stderr := token(tt.bearer, tt.status, tt.args...); !strings.HasPrefix(stderr, tt.stderr) || stdout != "" {
			t.Errorf("%q writes %q and %q, want %q", tt.args, stdout, stderr, tt.stderr)
		}
	}
	if stdout, _ = token(testToken, 0, "revoke", id[1]); stdout != "token "+id[1]+" revoked\n" {
		t.Errorf("revoke writes %q", stdout)
	}
	if _, stderr := token(secret, 1, "list"); !strings.Contains(stderr, "401") {
		t.Errorf("who was revoked is told %q", stderr)
	}
	p.stop()

	if _, stderr := token(testToken, 1, "list"); !strings.Contains(stderr, "cannot reach bellhop at ") || strings.Contains(stderr, testToken) {
		t.Errorf("where no bellhop runs, list writes %q", stderr)
	}
	if _, stderr := s.ask(testToken, 2, "token", "list", "--server", "127.0.0.1:1"); !strings.Contains(stderr, "--server") {
		t.Errorf("with no URL, list writes %q", stderr)
	}
	if _, err := os.Stat(filepath.Join(s.dir, "data", "admin.token")); !os.IsNotExist(err) {
		t.Errorf("a token was written beside the configured one: %v", err)
	}
}
