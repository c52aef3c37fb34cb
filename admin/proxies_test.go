package admin

import (
	"net/http/httptest"
	"net/netip"
	"testing"

	"bellhop/admin/ops"
)

// A request that a local proxy forwards has none of the rights of this machine.
func TestMetricsBehindAProxy(t *testing.T) {
	r := newRig(t, Config{Config: ops.Config{Ready: func() []string { return []string{"draining"} }}})
	reader, _ := r.newToken(object{"scope": "read"})
	behind := openServer(t, r.js, Config{
		Token:          testToken,
		TrustedProxies: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("10.0.0.0/24"), netip.MustParsePrefix("::1/128")},
		Config: ops.Config{
			Notifier: r.notifier,
			Log:      r.server.log,
		},
	})
	for _, tt := range []struct {
		server *Server
		peer   string
		header []string
		open   bool
	}{
		{r.server, "127.0.0.1:1", nil, true},
		{r.server, "[::1]:1", nil, true},
		{r.server, "192.0.2.1:1", nil, false},
		{r.server, "127.0.0.1:1", []string{"X-Forwarded-For", "203.0.113.9"}, false},
		{r.server, "127.0.0.1:1", []string{"x-forwarded-for", "127.0.0.1"}, false},
		{r.server, "127.0.0.1:1", []string{"X-Forwarded-For", ""}, false},
		{r.server, "127.0.0.1:1", []string{"Forwarded", "for=127.0.0.1"}, false},
		{r.server, "127.0.0.1:1", []string{"X-Real-IP", "127.0.0.1"}, false},
		{r.server, "127.0.0.1:1", []string{"Via", "1.1 proxy"}, false},
		{r.server, "127.0.0.1:1", []string{"X-Forwarded-Host", "pbx.example"}, false},
		{r.server, "127.0.0.1:1", []string{"X-Forwarded-Proto", "https"}, false},
		{r.server, "[::1]:1", []string{"CF-Connecting-IP", "127.0.0.1"}, false},
		{behind, "127.0.0.1:1", nil, true},
		{behind, "127.0.0.1:1", []string{"X-Forwarded-For", "203.0.113.9"}, false},
		{behind, "127.0.0.1:1", []string{"X-Forwarded-For", "127.0.0.1, 203.0.113.9"}, false},
		{behind, "127.0.0.1:1", []string{"X-Forwarded-For", "127.0.0.1, 203.0.113.9, 10.0.0.7"}, false},
		{behind, "127.0.0.1:1", []string{"X-Forwarded-For", "127.0.0.1"}, true},
		{behind, "127.0.0.1:1", []string{"X-Forwarded-For", "127.0.0.1, 10.0.0.7"}, true},
		{behind, "127.0.0.1:1", []string{"X-Forwarded-For", "nonsense"}, false},
		{behind, "127.0.0.1:1", []string{"X-Forwarded-For", "127.0.0.1,"}, false},
		{behind, "127.0.0.1:1", []string{"X-Forwarded-For", "127.0.0.1", "Forwarded", "for=203.0.113.9"}, false},
		{behind, "127.0.0.1:1", []string{"Forwarded", "for=unknown"}, false},
		{behind, "127.0.0.1:1", []string{"Forwarded", "proto=http"}, false},
		{behind, "127.0.0.1:1", []string{"Via", "1.1 proxy"}, false},
		{behind, "192.0.2.1:1", []string{"X-Forwarded-For", "127.0.0.1"}, false},
	} {
		for token, open := range map[string]bool{"": tt.open, reader.token: true} {
			req := httptest.NewRequest("GET", "/metrics", nil)
			req.RemoteAddr = tt.peer
			for i := 0; i < len(tt.header); i += 2 {
				req.Header.Add(tt.header[i], tt.header[i+1])
			}
			if token != "" {
				req.Header.Set("Authorization", "Bearer "+token)
			}
			w := httptest.NewRecorder()
			tt.server.Handler().ServeHTTP(w, req)
			if got := w.Code == 200; got != open || !got && w.Code != 401 {
				t.Errorf("%s with %q from %s: %d", tt.header, token, tt.peer, w.Code)
			}
		}
	}
}

func TestForwardedClientAddress(t *testing.T) {
	trusted := []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("10.0.0.0/24"), netip.MustParsePrefix("2001:db8:f::/48")}
	for _, tt := range []struct {
		peer   string
		header []string
		want   string // "": the request stays as it is
	}{
		{"127.0.0.1:9", []string{"X-Forwarded-For", "203.0.113.9"}, "203.0.113.9"},
		{"127.0.0.1:9", []string{"X-Forwarded-For", "203.0.113.9:4711"}, "203.0.113.9"},
		{"127.0.0.1:9", []string{"X-Forwarded-For", "1.1.1.1, 203.0.113.9"}, "203.0.113.9"},
		{"127.0.0.1:9", []string{"X-Forwarded-For", "junk, 203.0.113.9, 10.0.0.1"}, "203.0.113.9"},
		{"127.0.0.1:9", []string{"X-Forwarded-For", "203.0.113.9", "X-Forwarded-For", "10.0.0.1"}, "203.0.113.9"},
		{"[::ffff:10.0.0.3]:9", []string{"X-Forwarded-For", "::ffff:203.0.113.9"}, "203.0.113.9"},
		{"[2001:db8:f::1]:9", []string{"Forwarded", `for=1.1.1.1;proto=https, For="[2001:db8::17]:4711";by=x`}, "2001:db8::17"},
		{"127.0.0.1:9", []string{"Forwarded", `for="[2001:db8::17]"`}, "2001:db8::17"},
		{"127.0.0.1:9", []string{"Forwarded", "for=203.0.113.9", "X-Forwarded-For", "203.0.113.9"}, "203.0.113.9"},
		{"127.0.0.1:9", []string{"Forwarded", "for=203.0.113.9", "X-Forwarded-For", "203.0.113.8"}, ""},
		{"127.0.0.1:9", []string{"Forwarded", "for=_hidden"}, ""},
		{"127.0.0.1:9", []string{"X-Forwarded-For", "203.0.113.9, junk"}, ""},
		{"127.0.0.1:9", nil, ""},
		{"10.0.1.1:9", []string{"X-Forwarded-For", "203.0.113.9"}, ""},
		{"@", []string{"X-Forwarded-For", "203.0.113.9"}, ""},
	} {
		req := httptest.NewRequest("GET", "/", nil)
		req.RemoteAddr = tt.peer
		for i := 0; i < len(tt.header); i += 2 {
			req.Header.Add(tt.header[i], tt.header[i+1])
		}
		got, ok := forwardedClient(req, trusted)
		if ok != (tt.want != "") || ok && got.String() != tt.want {
			t.Errorf("%s from %s: %v %v, want %q", tt.header, tt.peer, got, ok, tt.want)
		}
	}
}

// Failures are counted for each client behind a trusted proxy.
func TestFailuresBehindAProxy(t *testing.T) {
	r := newRig(t, Config{TrustedProxies: []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")}})
	exhaustLimiter(failureLimiter(r.server, "203.0.113.9"))
	for client, want := range map[string]int{"203.0.113.9": 429, "203.0.113.8": 401} {
		resp, _ := r.do("GET", "/v1/calls", nil, "Authorization", "Bearer guess", "X-Forwarded-For", client)
		if resp.StatusCode != want {
			t.Errorf("from %s: %d, want %d", client, resp.StatusCode, want)
		}
	}
}
