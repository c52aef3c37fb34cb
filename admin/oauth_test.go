package admin

import (
	"crypto/sha256"
	"net/url"
	"testing"
	"time"
)

func TestOAuth(t *testing.T) {
	r := newRig(t, Config{})
	r.token = ""
	form := []string{"Content-Type", "application/x-www-form-urlencoded"}
	asked := url.Values{"grant_type": {"client_credentials"}, "client_id": {"admin"}, "client_secret": {testToken}}
	seen := map[string]bool{}
	for _, tt := range []struct {
		path, body string
		header     []string
	}{
		{"/oauth/token", asked.Encode(), form},
		{"/api/ver1.0/oauth/token/", asked.Encode(), form},
		{"/oauth/token?" + asked.Encode(), "", nil},
		{"/oauth/token?client_id=admin&grant_type=client_credentials", "client_secret=" + testToken, form},
		{"/oauth/token", "grant_type=client_credentials", append([]string{"Authorization", "Basic YWRtaW46YmVsbGhvcF90ZXN0"}, form...)},
	} {
		resp, out := r.do("POST", tt.path, tt.body, tt.header...)
		token, _ := out["access_token"].(string)
		if resp.StatusCode != 200 || len(out) != 3 || len(token) < 40 || seen[token] || out["token_type"] != "Bearer" || out["expires_in"] != 3600.0 || resp.Header.Get("Cache-Control") != "no-store" {
			t.Errorf("POST %s: %d %v", tt.path, resp.StatusCode, out)
		}
		seen[token] = true
		bearer := []string{"Authorization", "Bearer " + token}
		r.wantJSON(200, "[]", "GET", "/extension/175/event/", nil, bearer...)
		r.wantJSON(204, "", "GET", events, nil, bearer...)

		// It is no client's secret.
		again := url.Values{"grant_type": {"client_credentials"}, "client_id": {"admin"}, "client_secret": {token}}
		r.wantJSON(401, `{"status":401,"message":"Unauthorized"}`, "POST", "/oauth/token", again.Encode(), form...)
	}
	for _, change := range []url.Values{
		{"client_id": {"config"}}, {"client_id": {""}}, {"client_id": {testToken}}, {"client_secret": {testToken + "x"}}, {"client_secret": {""}}, {"client_secret": {"admin"}},
	} {
		wrong := url.Values{"grant_type": {"client_credentials"}, "client_id": {"admin"}, "client_secret": {testToken}}
		for key, v := range change {
			wrong[key] = v
		}
		r.wantJSON(401, `{"status":401,"message":"Unauthorized"}`, "POST", "/oauth/token", wrong.Encode(), form...)
	}
	for _, body := range []string{"", "grant_type=password&client_id=admin&client_secret=" + testToken, "client_id=admin&client_secret=" + testToken, "grant_type=%zz"} {
		r.wantTelphin(400, "POST", "/oauth/token", body, form...)
	}
	r.wantTelphin(405, "GET", "/oauth/token?"+asked.Encode(), nil)
	r.wantTelphin(405, "DELETE", "/api/ver1.0/oauth/token/", nil)
}

// Without a token of the config, an empty secret is none.
func TestOAuthOfNobody(t *testing.T) {
	if who := newTokens(nil, nil, "").find("", time.Now()); who != nil {
		t.Errorf("nobody is %+v", who)
	}
}

func TestGrantsEnd(t *testing.T) {
	g := newGrants()
	now := time.Now()
	api := sha256.Sum256([]byte("secret"))
	access := sha256.Sum256([]byte(g.give(api, now)))
	if got := g.behind(access, now.Add(grantFor-1)); got != api {
		t.Error("a grant ends early")
	}
	if got := g.behind(access, now.Add(grantFor)); got != access {
		t.Error("a grant is good for more than its time")
	}
	if got := g.behind(api, now); got != api {
		t.Error("an API token does not stand for itself")
	}
	for range maxGrants {
		g.give(api, now)
	}
	if got := g.behind(access, now); got != access || g.kept.Len() != maxGrants {
		t.Errorf("%d grants are kept, want %d", g.kept.Len(), maxGrants)
	}
}
