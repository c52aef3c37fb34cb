package admin

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"

	"bellhop/admin/access"
	"bellhop/notify"
)

func TestProgramSizeEstimate(t *testing.T) {
	for expr, tooMuch := range map[string]bool{
		"":                              false,
		".*":                            false,
		"1[0-9]{2}":                     false,
		"(101|102|103)@pbx[.]example":   false,
		strings.Repeat("1234567|", 100): false,
		"[0-9]{1000}":                   false,
		"(a{30}){30}":                   false,
		"(a{100}){100}":                 false, // also malformed
		"(ab?c*d){1000}":                true,
		"(ab?c*){400}(ab?c*){400}":      true,
		`\pL{1000}`:                     true,
		"(":                             false, // refused as malformed
	} {
		if size := programSize(expr); size > maxProgramSize != tooMuch {
			t.Errorf("%s has %d instructions", expr, size)
		}
	}
}

// The program size of expressions is limited for each and for all of a token, in every
// dialect. Tokens do not share their quota. The token of the config has only the limit
// of each.
func TestExpressionsOfTokenAreBounded(t *testing.T) {
	r := newRig(t, Config{})
	client, id := r.newToken(object{"scope": "write"})
	other, _ := r.newToken(object{"scope": "write"})
	expression := func(i int) object {
		return object{"extension_regex": fmt.Sprintf("%d(a{30}){30}", i), "types": []string{"hangup"}, "url": "http://crm.example/"}
	}
	complex := object{"extension_regex": "(ab?c*d){1000}", "types": []string{"hangup"}, "url": "http://crm.example/"}
	for _, r := range []*rig{r, client} {
		r.wantProblem(422, "body.extension_regex", "POST", "/v1/subscriptions", complex)
	}
	each := programSize("1(a{30}){30}")
	var last object
	for i := range maxProgramsPerToken / each {
		last = client.want(201, "POST", "/v1/subscriptions", expression(i))
	}
	if last["owner"] != id {
		t.Errorf("its owner is %v, want %s", last["owner"], id)
	}
	_, out := client.do("POST", "/v1/subscriptions", expression(90))
	if out["status"] != 409.0 || !strings.Contains(fmt.Sprint(out["detail"]), "instructions") {
		t.Errorf("one too many: %v", out)
	}
	client.want(201, "POST", "/v1/subscriptions", object{"extension": "101", "types": []string{"hangup"}, "url": "http://crm.example/"})
	other.want(201, "POST", "/v1/subscriptions", expression(91))
	r.want(201, "POST", "/v1/subscriptions", expression(92))

	// A change cannot exceed the limit either.
	path := "/v1/subscriptions/" + last["id"].(string)
	client.wantProblem(422, "body.extension_regex", "PATCH", path, object{"extension_regex": "(ab?c*d){1000}"})
	client.want(200, "PATCH", path, object{"extension_regex": "a"})
	small := client.want(201, "POST", "/v1/subscriptions", object{"extension_regex": "b", "types": []string{"hangup"}, "url": "http://crm.example/"})
	client.want(200, "PATCH", path, expression(93))
	resp, _ := client.do("PATCH", "/v1/subscriptions/"+small["id"].(string), expression(94))
	if resp.StatusCode != 409 {
		t.Errorf("a change to one too many: %d", resp.StatusCode)
	}
}

// A quota error has the format of each dialect.
func TestQuotaErrorsInEachDialect(t *testing.T) {
	r := newRig(t, Config{})
	err := fmt.Errorf("wrapped: %w", &quotaError{"this token has enough"})
	w := httptest.NewRecorder()
	r.server.respondTelphinError(w, err)
	if w.Code != 400 || !strings.Contains(w.Body.String(), "enough") || strings.Contains(w.Body.String(), "max_subscriptions") {
		t.Errorf("telphin: %d %s", w.Code, w.Body)
	}
	if e := r.server.uapiErrorOf(err); e.status != 403 || e.code != "access_denied" || !strings.Contains(e.message, "enough") {
		t.Errorf("uapi: %+v", e)
	}
	if status, detail := r.server.pageError(err); status != 409 || !strings.Contains(detail, "enough") {
		t.Errorf("page: %d %s", status, detail)
	}
	if status, _ := r.server.pageError(errManyTests); status != 429 {
		t.Errorf("page: %d", status)
	}
}

// The number of subscriptions of a token is limited, whatever their extensions.
func TestSubscriptionsOfTokenAreBounded(t *testing.T) {
	r := newRig(t, Config{})
	var declared []notify.Subscription
	for i := range maxSubscriptionsPerToken {
		declared = append(declared, notify.Subscription{
			Extension: fmt.Sprint(1000 + i), Types: []string{"hangup"}, URL: "http://crm.example/", Method: "POST", Dialect: notify.JSON, Owner: "full",
		})
	}
	r.notifier.Declare(declared)
	sub := notify.Subscription{Extension: "101", Types: []string{"hangup"}, URL: "http://crm.example/"}
	for token, want := range map[string]bool{"full": false, "other": true, access.ConfigID: true} {
		if err := r.server.checkQuota(token, &sub); (err == nil) != want {
			t.Errorf("%s: %v", token, err)
		}
	}
}

// The number of tests in progress with one token is limited.
func TestTestsOfTokenAreBounded(t *testing.T) {
	begun, end := make(chan bool), make(chan bool)
	receiver := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { begun <- true; <-end }))
	defer receiver.Close()
	r := newRig(t, Config{}, netip.MustParsePrefix("127.0.0.0/8"))
	client, _ := r.newToken(object{"scope": "write"})
	made := client.want(201, "POST", "/v1/subscriptions", object{"extension": "101", "types": []string{"hangup"}, "url": receiver.URL, "max_in_flight": 64})
	path := "/v1/subscriptions/" + made["id"].(string) + "/test"
	done := make(chan int)
	test := func(r *rig) {
		go func() {
			resp, _ := r.do("POST", path, nil)
			done <- resp.StatusCode
		}()
		<-begun
	}
	for range maxTestsPerToken {
		test(client)
	}
	resp, out := client.do("POST", path, nil)
	if resp.StatusCode != 429 || resp.Header.Get("Retry-After") == "" || resp.Header.Get("Content-Type") != "application/problem+json" {
		t.Errorf("one too many: %d %v %v", resp.StatusCode, resp.Header, out)
	}
	test(r) // the token of the config has room
	for range maxTestsPerToken + 1 {
		end <- true
		if status := <-done; status != 200 {
			t.Errorf("a test: %d", status)
		}
	}
	test(client)
	end <- true
	<-done
	if len(r.server.tests.running) != 0 {
		t.Errorf("%v are under way", r.server.tests.running)
	}
}
