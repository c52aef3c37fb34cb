package cli

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
)

// TestCommandsSendRequests checks the requests and the output of commands.
func TestCommandsSendRequests(t *testing.T) {
	t.Setenv("BELLHOP_TOKEN", testToken)
	t.Setenv("A_SECRET", "of the environment")
	t.Chdir(t.TempDir())
	if err := os.WriteFile("ca.pem", []byte("the CA"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile("key", []byte("of a file\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		args   string
		answer string
		want   string // the last request
		stdout string
	}{
		{
			"subscriptions replay a --utc --from 2026-01-31T09:00 --to 2026-01-31T10:00 --type hangup,answer", `{"events": 7}`,
			`POST /v1/subscriptions/a/replay {"from":"2026-01-31T09:00:00Z","to":"2026-01-31T10:00:00Z","types":["hangup","answer"]}`,
			"replaying 7 events to subscription a\n",
		},
		{
			"subscriptions replay a --from 2026-01-31T09:00:00Z --json", `{"events": 0}`,
			`POST /v1/subscriptions/a/replay {"from":"2026-01-31T09:00:00Z"}`,
			"{\n  \"events\": 0\n}\n",
		},
		{
			"subscriptions edit a --secret env:A_SECRET --tls-ca ca.pem --tls-cert= --header X:file:key --max-in-flight 3 --extended --group each --follow-urls", `{"id": "a", "headers": {"X": "", "Y": ""}}`,
			`PATCH /v1/subscriptions/a {"extended":true,"follow_urls":true,"group":"each","headers":{"X":"of a file","Y":""},"max_in_flight":3,"secret":"of the environment","tls_ca":"the CA","tls_cert":""}`,
			"subscription a changed\n",
		},
		{
			"subscriptions edit a --extension 101 --live-ttl= --active=false", `{"id": "a"}`,
			`PATCH /v1/subscriptions/a {"active":false,"extension":"101","extension_regex":"","live_ttl":""}`,
			"subscription a changed\n",
		},
		{
			"subscriptions remove a%2Fb", "",
			`DELETE /v1/subscriptions/a%252Fb `,
			"subscription a%2Fb removed\n",
		},
	} {
		var got string
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			body, err := io.ReadAll(r.Body)
			if err != nil {
				t.Error(err)
			}
			got = fmt.Sprint(r.Method, " ", r.RequestURI, " ", string(body))
			io.WriteString(w, tt.answer)
		}))
		stdout, stderr := runCommand(t, 0, append(strings.Fields(tt.args), "--server", server.URL)...)
		server.Close()
		if got != tt.want || stdout != tt.stdout || stderr != "" {
			t.Errorf("%s asks for\n%s\nand writes %q, %q; want\n%s\nand %q", tt.args, got, stdout, stderr, tt.want, tt.stdout)
		}
	}
}
