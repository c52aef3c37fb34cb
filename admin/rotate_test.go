package admin

import (
	"encoding/base64"
	"encoding/json"
	"strings"
	"testing"
)

func TestSecretIsShownOnce(t *testing.T) {
	r := newRig(t, Config{})
	sub := r.want(201, "POST", "/v1/subscriptions", subscription())
	path := "/v1/subscriptions/" + sub["id"].(string)
	secret, _ := sub["secret"].(string)
	key, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(secret, "whsec_"))
	if !strings.HasPrefix(secret, "whsec_") || err != nil || len(key) != 32 {
		t.Fatalf("created with the secret %q", secret)
	}
	hidden := func(when string, answer object) {
		t.Helper()
		if b, _ := json.Marshal(answer); strings.Contains(string(b), "whsec_") || strings.Contains(string(b), `"secret"`) {
			t.Errorf("%s it is shown: %s", when, b)
		}
	}
	hidden("read", r.want(200, "GET", path, nil))
	hidden("listed", r.want(200, "GET", "/v1/subscriptions", nil))
	hidden("changed", r.want(200, "PATCH", path, object{"note": "x", "secret": ""}))

	resp, rotated := r.do("POST", path+"/rotate-secret", nil)
	fresh, _ := rotated["secret"].(string)
	if resp.StatusCode != 200 || !strings.HasPrefix(fresh, "whsec_") || fresh == secret || rotated["id"] != sub["id"] || rotated["old_secret_until"] == nil {
		t.Errorf("rotated: %d %v", resp.StatusCode, rotated)
	}
	if b, _ := json.Marshal(rotated); strings.Contains(string(b), secret) {
		t.Errorf("rotated, the old secret is shown: %s", b)
	}
	hidden("read after it", r.want(200, "GET", path, nil))
	r.want(200, "POST", path+"/rotate-secret/", nil, "If-Match", resp.Header.Get("ETag"))
	r.wantProblem(412, "", "POST", path+"/rotate-secret", nil, "If-Match", resp.Header.Get("ETag"))
	r.wantProblem(404, "", "POST", "/v1/subscriptions/nobody/rotate-secret", nil)
	if resp, _ := r.do("GET", path+"/rotate-secret", nil); resp.StatusCode != 405 {
		t.Errorf("GET of rotate-secret is answered %d", resp.StatusCode)
	}
}

func TestSubscriptionWithOwnSecret(t *testing.T) {
	r := newRig(t, Config{})
	own := "whsec_" + base64.StdEncoding.EncodeToString(make([]byte, 24))
	sub := r.want(201, "POST", "/v1/subscriptions", withFields(subscription(), "secret", own))
	if sub["secret"] != own {
		t.Errorf("created with %v", sub["secret"])
	}
	path := "/v1/subscriptions/" + sub["id"].(string)
	changed := r.want(200, "PATCH", path, object{"secret": "whsec_" + base64.StdEncoding.EncodeToString(make([]byte, 25))})
	if _, shown := changed["secret"]; shown || changed["old_secret_until"] == nil {
		t.Errorf("changed: %v", changed)
	}
	r.wantProblem(422, "body.secret", "POST", "/v1/subscriptions", withFields(subscription(), "secret", "open sesame"))
	r.wantProblem(422, "body.secret", "PATCH", path, object{"secret": own[:20]})
	r.wantProblem(422, "", "PATCH", path, object{"old_secret": own})
	if _, out := r.do("PATCH", path, object{"secret": own + "!"}); strings.Contains(out["detail"].(string), own) {
		t.Errorf("the problem tells the secret: %v", out)
	}
}
