package admin

import (
	"net/url"
	"testing"
)

func TestOAuthIssuesAccessToken(t *testing.T) {
	r := newRig(t, Config{})
	r.token = ""
	form := []string{"Content-Type", "application/x-www-form-urlencoded"}
	asked := url.Values{"grant_type": {"client_credentials"}, "client_id": {"admin"}, "client_secret": {testToken}}
	var parts string
	for name, values := range asked {
		parts += "--next part\r\nContent-Disposition: form-data; name=\"" + name + "\"\r\n\r\n" + values[0] + "\r\n"
	}
	parts += "--next part--\r\n"
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
		{"/oauth/token", parts, []string{"Content-Type", "multipart/form-data; boundary=\"next part\""}},
		{"/api/ver1.0/oauth/token/?" + asked.Encode(), "--x--\r\n", []string{"Content-Type", "multipart/form-data; boundary=x"}},
		{"/oauth/token.php", asked.Encode() + "&type=unifiedapi&redirect_uri=https%3A%2F%2Fcrm.example%2Foauth", form},
		{"/oauth/token.php/?type=unifiedapi", asked.Encode(), form},
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

		// An access token is not a client's secret.
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
	for _, body := range []string{"", "--y--\r\n", "--next part\r\nContent-Disposition: form-data"} {
		r.wantTelphin(400, "POST", "/oauth/token", body, "Content-Type", "multipart/form-data; boundary=\"next part\"")
	}
	r.wantTelphin(405, "GET", "/oauth/token?"+asked.Encode(), nil)
	r.wantTelphin(405, "DELETE", "/api/ver1.0/oauth/token/", nil)
}

// An access token has the permissions and the lifetime of its API token.
func TestAccessTokenHasItsTokensRights(t *testing.T) {
	r := newRig(t, Config{})
	bound, id := r.newToken(object{"scope": "read", "extensions": []string{"101"}})
	other, otherID := r.newToken(object{"scope": "read"})
	ask := func(id, secret string) (status int, token string) {
		resp, out := r.do("POST", "/oauth/token?"+url.Values{"grant_type": {"client_credentials"}, "client_id": {id}, "client_secret": {secret}}.Encode(), nil)
		token, _ = out["access_token"].(string)
		return resp.StatusCode, token
	}
	for _, wrong := range [][2]string{{otherID, bound.token}, {id, other.token}, {"admin", bound.token}, {id, ""}, {id, testToken}} {
		if status, _ := ask(wrong[0], wrong[1]); status != 401 {
			t.Errorf("client %s with the secret of another: %d", wrong[0], status)
		}
	}
	status, token := ask(id, bound.token)
	if status != 200 {
		t.Fatalf("%d", status)
	}
	client := r.as(token)
	client.want(200, "GET", "/extension/101/limit/", nil)
	client.wantTelphin(403, "GET", "/extension/102/limit/", nil)
	client.wantTelphin(403, "DELETE", "/extension/101/event/", nil)
	client.want(200, "GET", "/v1/subscriptions", nil)
	r.want(204, "DELETE", "/v1/tokens/"+id, nil)
	client.wantJSON(401, `{"status":401,"message":"Unauthorized"}`, "GET", "/extension/101/limit/", nil)
}

// An address that sends too many wrong secrets is answered 429.
func TestOAuthLimitsWrongSecrets(t *testing.T) {
	r := newRig(t, Config{})
	failureLimiter(r.server, "127.0.0.1").SetBurst(0)
	resp, out := r.do("POST", "/oauth/token?grant_type=client_credentials&client_id=admin&client_secret=x", nil)
	if resp.StatusCode != 429 || out["status"] != "rate_limit_exceeded" || resp.Header.Get("Retry-After") == "" {
		t.Errorf("%d %v %v", resp.StatusCode, resp.Header, out)
	}
}
