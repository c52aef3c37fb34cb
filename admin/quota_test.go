package admin

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"

	"bellhop/admin/ops"
	"bellhop/notify"
)

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
	each := ops.ProgramSize("1(a{30}){30}")
	var last object
	for i := range ops.MaxProgramsPerToken / each {
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

// The number of subscriptions of a token is limited, whatever their extensions, and each
// dialect says so in its own format.
func TestSubscriptionsOfTokenAreBounded(t *testing.T) {
	r := newRig(t, Config{})
	full, id := r.newToken(object{"scope": "write"})
	other, _ := r.newToken(object{"scope": "write"})
	var declared []notify.Subscription
	for i := range ops.MaxSubscriptionsPerToken {
		declared = append(declared, notify.Subscription{
			Extension: fmt.Sprint(1000 + i), Types: []string{"hangup"}, URL: "http://crm.example/", Method: "POST", Dialect: notify.JSON, Owner: id,
		})
	}
	r.notifier.Declare(declared)
	sub := object{"extension": "101", "types": []string{"hangup"}, "url": "http://crm.example/"}
	full.wantProblem(409, "", "POST", "/v1/subscriptions", sub)
	for _, tt := range []struct {
		path string
		body object
		want int
		text string
	}{
		{"/v1/subscriptions", sub, 409, `"status":409`},
		{"/extension/101/event/", object{"url": "http://crm.example/", "event_type": "hangup"}, 400, `{"message":"`},
		{"/uapi/extensions/@me/101/phoneCallEvents/2", object{"url": "http://crm.example/"}, 403, `"access_denied"`},
	} {
		resp, text := full.raw("POST", tt.path, tt.body)
		if resp.StatusCode != tt.want || !strings.Contains(text, tt.text) || !strings.Contains(text, "this token has reached its limit") || strings.Contains(text, "max_subscriptions") {
			t.Errorf("%s: %d %s", tt.path, resp.StatusCode, text)
		}
	}
	other.want(201, "POST", "/v1/subscriptions", sub)
	r.want(201, "POST", "/v1/subscriptions", sub)
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
	for range ops.MaxTestsPerToken {
		test(client)
	}
	resp, out := client.do("POST", path, nil)
	if resp.StatusCode != 429 || resp.Header.Get("Retry-After") == "" || resp.Header.Get("Content-Type") != "application/problem+json" {
		t.Errorf("one too many: %d %v %v", resp.StatusCode, resp.Header, out)
	}
	test(r) // the token of the config has room
	for range ops.MaxTestsPerToken + 1 {
		end <- true
		if status := <-done; status != 200 {
			t.Errorf("a test: %d", status)
		}
	}
	test(client)
	end <- true
	<-done
}
