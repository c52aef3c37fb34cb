package cli

import (
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestClientFindsServerAndToken resolves the server from environment, config and store.
func TestClientFindsServerAndToken(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	t.Setenv("BELLHOP_SERVER", "")
	t.Setenv("BELLHOP_TOKEN", "")
	find := func(r apiClient, server, token string) {
		t.Helper()
		if err := r.resolveServer(); err != nil || r.server != server || r.token != token {
			t.Errorf("found %q and %q, %v; want %q and %q", r.server, r.token, err, server, token)
		}
	}
	refuse := func(r apiClient, parts ...string) {
		t.Helper()
		wantError(t, r.resolveServer(), parts...)
	}

	refuse(apiClient{}, "no token", "data/admin.token", "BELLHOP_TOKEN")
	if err := os.Mkdir("data", 0o700); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join("data", "admin.token")
	for _, text := range []string{"", "of-the-store\n"} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if text == "" {
			refuse(apiClient{}, path, "is empty")
		}
	}
	find(apiClient{}, "http://127.0.0.1:8080", "of-the-store")
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	refuse(apiClient{}, path, "accessible to other users", "BELLHOP_TOKEN")

	config := write(t, "[admin]\nlisten = \"0.0.0.0:9090\"\ninsecure = true\ntoken = \"of-the-config\"\n")
	find(apiClient{config: config}, "http://127.0.0.1:9090", "of-the-config")
	refuse(apiClient{config: config, server: "http://other.example"}, "no token")
	refuse(apiClient{config: filepath.Join(dir, "nowhere.toml")}, "does not exist", "nowhere.toml")
	refuse(apiClient{config: write(t, "[admin]\nlisten = 1\n")}, "admin.listen")
	find(apiClient{config: write(t, "[admin]\nlisten = \"[::]:9090\"\ninsecure = true\ntoken = \"x\"\n")}, "http://[::1]:9090", "x")

	secrets := `
[store]
nats = ["env:BELLHOP_TEST_UNSET"]
[[trunk]]
name = "carrier"
sources = ["192.0.2.0/24"]
secret = "env:BELLHOP_TEST_UNSET"
[[subscription]]
secret = "file:/nowhere/secret"
[admin]
listen = "127.0.0.1:9090"
tls_key = "file:/nowhere/key"
`
	unset := write(t, secrets+`token = "env:BELLHOP_TEST_UNSET"`)
	find(apiClient{config: write(t, secrets+`token = "of-the-config"`)}, "http://127.0.0.1:9090", "of-the-config")
	refuse(apiClient{config: unset}, "admin.token", "BELLHOP_TEST_UNSET")
	refuse(apiClient{config: write(t, "admin = 1\n")}, "admin: must be a table")

	t.Setenv("BELLHOP_TOKEN", "of-the-environment")
	find(apiClient{config: unset}, "http://127.0.0.1:9090", "of-the-environment")
	find(apiClient{config: config}, "http://127.0.0.1:9090", "of-the-environment")
	t.Setenv("BELLHOP_SERVER", "https://there.example/")
	find(apiClient{config: config}, "https://there.example", "of-the-environment")
	find(apiClient{server: "http://here.example"}, "http://here.example", "of-the-environment")
	refuse(apiClient{server: "here.example:8080"}, "--server", "is not a URL")
}

// TestClientRejectsForeignServer gets responses that bellhop would not send.
func TestClientRejectsForeignServer(t *testing.T) {
	t.Setenv("BELLHOP_TOKEN", testToken)
	for _, tt := range []struct {
		status       int
		answer, want string
	}{
		{200, "<html>", "is the server a bellhop?"},
		{418, "<html>", "GET /v1/tokens: 418 I'm a teapot: is the server a bellhop?"},
		{500, `{"detail": "it \u001b[31mburns"}`, "request failed (500 Internal Server Error): it [31mburns"},
	} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(tt.status)
			w.Write([]byte(tt.answer))
		}))
		_, stderr := runCommand(t, 1, "token", "list", "--server", server.URL)
		server.Close()
		if !strings.Contains(stderr, tt.want) {
			t.Errorf("stderr is %q, want %q", stderr, tt.want)
		}
	}
}

// TestClientWaitsAfterTooManyRequests gets a 429 with Retry-After before the response.
func TestClientWaitsAfterTooManyRequests(t *testing.T) {
	t.Setenv("BELLHOP_TOKEN", testToken)
	asked := 0
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if asked++; asked == 1 {
			w.Header().Set("Retry-After", "1")
			w.WriteHeader(http.StatusTooManyRequests)
			return
		}
		w.Write([]byte(`{"items": [], "next": ""}`))
	}))
	defer server.Close()
	if stdout, _ := runCommand(t, 0, "token", "list", "--json", "--server", server.URL); stdout != "[]\n" || asked != 2 {
		t.Errorf("after %d requests: %q", asked, stdout)
	}
}

// TestListsAllPages reads a list of several pages to its end, or to a limit.
func TestListsAllPages(t *testing.T) {
	t.Setenv("BELLHOP_TOKEN", testToken)
	var asked []string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked = append(asked, r.URL.RawQuery)
		page, ok := map[string]string{
			"":  `{"items": [{"id": "1"}, {"id": "2"}], "next": "b"}`,
			"b": `{"items": [{"id": "3"}], "next": ""}`,
		}[r.URL.Query().Get("cursor")]
		if !ok {
			t.Errorf("asked for %s", r.URL)
		}
		w.Write([]byte(page))
	}))
	defer server.Close()
	for limit, want := range map[string]struct {
		n     int
		last  string
		notes bool
	}{
		"0": {3, "cursor=b&limit=200", false},
		"3": {3, "cursor=b&limit=4", false},
		"2": {2, "cursor=b&limit=3", true},
		"1": {1, "limit=2", true},
	} {
		asked = nil
		stdout, stderr := runCommand(t, 0, "deliveries", "list", "--json", "--limit", limit, "--server", server.URL)
		if n := strings.Count(stdout, `"id"`); n != want.n || asked[len(asked)-1] != want.last || (stderr != "") != want.notes {
			t.Errorf("with a limit of %s: %d, asked %q, %q", limit, n, asked, stderr)
		}
	}
}

func TestParsesTimes(t *testing.T) {
	r := &apiClient{utc: true}
	now := time.Now().UTC()
	midnight := time.Date(now.Year(), now.Month(), now.Day(), 0, 0, 0, 0, time.UTC)
	for text, want := range map[string]time.Time{
		"2026-01-31T09:30:00.5+01:00": time.Date(2026, 1, 31, 8, 30, 0, 5e8, time.UTC),
		"2026-01-31 09:30:15":         time.Date(2026, 1, 31, 9, 30, 15, 0, time.UTC),
		"2026-01-31T09:30":            time.Date(2026, 1, 31, 9, 30, 0, 0, time.UTC),
		"2026-01-31":                  time.Date(2026, 1, 31, 0, 0, 0, 0, time.UTC),
		"09:30":                       midnight.Add(9*time.Hour + 30*time.Minute),
	} {
		if got, ok := r.parseTime(text); !ok || !got.Equal(want) && !got.Equal(want.Add(24*time.Hour)) { // midnight may pass
			t.Errorf("%s is %v, %v; want %v", text, got, ok, want)
		}
	}
	before := time.Now()
	if got, ok := r.parseTime("90m"); !ok || got.Before(before.Add(-90*time.Minute)) || got.After(time.Now().Add(-90*time.Minute)) {
		t.Errorf("90m is %v, %v", got, ok)
	}
	for _, text := range []string{"", "yesterday", "9", "2026-13-01", "25:00"} {
		if got, ok := r.parseTime(text); ok {
			t.Errorf("%q is %v", text, got)
		}
	}
}

func TestSuggestsNearestID(t *testing.T) {
	ids := []string{"4xq7abcdef", "5yr8abcdef"}
	for given, want := range map[string]string{
		"4xq":         "4xq7abcdef",
		"5yr8abcdfe":  "5yr8abcdef",
		"4xq7abcdefg": "4xq7abcdef",
		"4":           "",
		"something":   "",
	} {
		if got := nearestID(given, ids); got != want {
			t.Errorf("nearest to %s is %q, want %q", given, got, want)
		}
	}
}
