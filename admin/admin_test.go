package admin

import (
	gocmp "cmp"
	"context"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"bellhop/admin/limit"
	"bellhop/admin/ops"
	"bellhop/dialog"
	"bellhop/notify"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const testToken = "bellhop_test"

// rig is a Server on a real store, and a client of it.
type rig struct {
	*testing.T
	url      string
	server   *Server
	notifier *notify.Notifier
	js       jetstream.JetStream
	store    *nats.Conn
	token    string
}

// newRig starts a Server. It fills in the Notifier and other missing fields of c.
func newRig(t *testing.T, c Config, allow ...netip.Prefix) *rig {
	t.Helper()
	c, js := openStore(t, c, allow...)
	api := openServer(t, js, c)
	s := httptest.NewUnstartedServer(nil)
	s.Config = api.HTTPServer()
	s.Start()
	t.Cleanup(s.Close)
	return &rig{t, s.URL, api, c.Notifier, js, js.Conn(), testToken}
}

// openStore starts a store, and fills in the fields of c that depend on it.
func openStore(t testing.TB, c Config, allow ...netip.Prefix) (Config, jetstream.JetStream) {
	t.Helper()
	srv, err := server.NewServer(&server.Options{DontListen: true, NoLog: true, NoSigs: true, JetStream: true, StoreDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	srv.Start()
	t.Cleanup(func() { srv.Shutdown(); srv.WaitForShutdown() })
	if !srv.ReadyForConnections(5 * time.Minute) {
		t.Fatal("the store does not start")
	}
	nc, err := nats.Connect("", nats.InProcessServer(srv))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.NewTextHandler(io.Discard, nil))
	n, err := notify.Open(t.Context(), js, notify.Config{MaxSubscriptions: 3, Log: log, Allow: allow})
	if err != nil {
		t.Fatal(err)
	}
	c.Token, c.Notifier, c.Version = testToken, n, "v0"
	c.Log = gocmp.Or(c.Log, log)
	return c, js
}

// openServer opens a Server, and runs it until the test ends.
func openServer(t testing.TB, js jetstream.JetStream, c Config) *Server {
	t.Helper()
	s, err := Open(t.Context(), js, c)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.WithoutCancel(t.Context()))
	var run sync.WaitGroup
	run.Go(func() { s.Run(ctx) })
	t.Cleanup(func() { stop(); run.Wait() })
	return s
}

type object = map[string]any

// transport opens a connection for each request, because the server closes connections
// whose request bodies it has not read completely.
var transport = http.Transport{DisableKeepAlives: true}

// raw sends a request and returns the response and its text. The body is JSON, or the
// text of it.
func (r *rig) raw(method, path string, body any, header ...string) (*http.Response, string) {
	r.Helper()
	text, ok := body.(string)
	if !ok && body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			r.Fatal(err)
		}
		text = string(b)
	}
	req, err := http.NewRequestWithContext(r.Context(), method, r.url+path, strings.NewReader(text))
	if err != nil {
		r.Fatal(err)
	}
	if r.token != "" {
		req.Header.Set("Authorization", "Bearer "+r.token)
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		r.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		r.Fatal(err)
	}
	return resp, string(b)
}

// do is raw, but decodes the response if it is a JSON object.
func (r *rig) do(method, path string, body any, header ...string) (*http.Response, object) {
	r.Helper()
	resp, text := r.raw(method, path, body, header...)
	var out object
	if strings.Contains(resp.Header.Get("Content-Type"), "json") {
		if err := json.Unmarshal([]byte(text), &out); err != nil {
			r.Fatalf("%s %s: %v in %q", method, path, err, text)
		}
	} else {
		out = object{"text": text}
	}
	return resp, out
}

// want sends a request, expects a status and returns the response.
func (r *rig) want(status int, method, path string, body any, header ...string) object {
	r.Helper()
	resp, out := r.do(method, path, body, header...)
	if resp.StatusCode != status {
		r.Fatalf("%s %s: %d, want %d: %v", method, path, resp.StatusCode, status, out)
	}
	return out
}

// wantProblem sends a request and expects a problem whose first error is at a location;
// "": at any.
func (r *rig) wantProblem(status int, location, method, path string, body any, header ...string) {
	r.Helper()
	resp, out := r.do(method, path, body, header...)
	if resp.StatusCode != status || resp.Header.Get("Content-Type") != "application/problem+json" || out["status"] != float64(status) || out["title"] != http.StatusText(status) {
		r.Errorf("%s %s: %d %s %v, want problem %d", method, path, resp.StatusCode, resp.Header.Get("Content-Type"), out, status)
		return
	}
	if location == "" {
		return
	}
	errs, _ := out["errors"].([]any)
	if len(errs) == 0 || errs[0].(object)["location"] != location || errs[0].(object)["message"] == "" {
		r.Errorf("%s %s: errors %v, want the first at %s", method, path, errs, location)
	}
	for _, e := range errs {
		if v, ok := e.(object)["value"]; ok {
			r.Errorf("%s %s: the problem repeats %v", method, path, v)
		}
	}
}

func (r *rig) ids(path string) (ids []string, next string) {
	r.Helper()
	out := r.want(200, "GET", path, nil)
	for _, item := range out["items"].([]any) {
		for _, key := range []string{"id", "event_id", "call_id"} {
			if id, ok := item.(object)[key]; ok {
				ids = append(ids, id.(string))
				break
			}
		}
	}
	return ids, out["next"].(string)
}

func subscription() object {
	return object{"extension": "1001", "types": []string{"dial-out", "answer", "hangup"}, "url": "http://127.0.0.1:8088/cb", "method": "POST", "dialect": "telphin"}
}

// withFields returns a copy of the object with other values; a field with nil is
// removed.
func withFields(o object, pairs ...any) object {
	for i := 0; i < len(pairs); i += 2 {
		key := pairs[i].(string)
		if o[key] = pairs[i+1]; o[key] == nil {
			delete(o, key)
		}
	}
	return o
}

func TestSubscriptionLifecycle(t *testing.T) {
	r := newRig(t, Config{})
	resp, sub := r.do("POST", "/v1/subscriptions", `{"extension":"1001","types":["dial-out","answer","hangup"],"url":"http://127.0.0.1:8088/cb","method":"POST","dialect":"telphin"}`)
	id, _ := sub["id"].(string)
	if resp.StatusCode != 201 || id == "" || resp.Header.Get("Location") != "/v1/subscriptions/"+id || resp.Header.Get("ETag") == "" {
		t.Fatalf("%d %v %v", resp.StatusCode, resp.Header, sub)
	}
	for key, want := range withFields(subscription(), "active", true, "state", "active", "types", []any{"dial-out", "answer", "hangup"}) {
		if d := cmp.Diff(want, sub[key]); d != "" {
			t.Errorf("%s (- want, + got):\n%s", key, d)
		}
	}

	path := "/v1/subscriptions/" + id
	delete(sub, "secret") // shown only in this response
	if d := cmp.Diff(sub, r.want(200, "GET", path, nil)); d != "" {
		t.Errorf("read differs from created:\n%s", d)
	}
	changed := r.want(200, "PATCH", path, object{"active": false, "types": []string{"hangup"}, "note": "lunch", "timeout": "3s"})
	for key, want := range (object{"active": false, "types": []any{"hangup"}, "note": "lunch", "timeout": "3s", "state": "disabled", "url": sub["url"], "id": id, "created": sub["created"]}) {
		if d := cmp.Diff(want, changed[key]); d != "" {
			t.Errorf("changed %s (- want, + got):\n%s", key, d)
		}
	}
	if d := cmp.Diff(changed, r.want(200, "GET", path, nil)); d != "" {
		t.Errorf("read differs from changed:\n%s", d)
	}
	r.want(204, "DELETE", path, nil)
	r.wantProblem(404, "", "GET", path, nil)
	r.wantProblem(404, "", "DELETE", path, nil)
	r.wantProblem(404, "", "PATCH", path, object{"active": true})
}

func TestNewSubscriptionHasDefaults(t *testing.T) {
	r := newRig(t, Config{})
	sub := r.want(201, "POST", "/v1/subscriptions", object{"extension": "101", "types": []string{"hangup"}, "url": "https://crm.example/x"})
	for key, want := range (object{"method": "POST", "dialect": "json", "active": true}) {
		if sub[key] != want {
			t.Errorf("%s is %v, want %v", key, sub[key], want)
		}
	}
}

func TestInvalidSubscriptionsAreRefused(t *testing.T) {
	r := newRig(t, Config{})
	id := r.want(201, "POST", "/v1/subscriptions", subscription())["id"].(string)
	for _, tt := range []struct {
		name     string
		status   int
		location string
		body     any
	}{
		{"no body", 400, "", nil},
		{"no JSON", 400, "body", `{"extension":`},
		{"an array", 422, "body", `[]`},
		{"unknown field", 422, "body.urll", withFields(subscription(), "urll", "x")},
		{"id in the body", 422, "body.id", withFields(subscription(), "id", "x")},
		{"no extension", 422, "body.extension", withFields(subscription(), "extension", nil)},
		{"extension with a space", 422, "body.extension", withFields(subscription(), "extension", "1 2")},
		{"extension is a number", 422, "body.extension", withFields(subscription(), "extension", 1001)},
		{"two kinds of extension", 422, "body.extension_regex", withFields(subscription(), "extension_regex", ".*")},
		{"bad regex", 422, "body.extension_regex", withFields(subscription(), "extension", nil, "extension_regex", "(")},
		{"no types", 422, "body.types", withFields(subscription(), "types", nil)},
		{"empty types", 422, "body.types", withFields(subscription(), "types", []string{})},
		{"unknown type", 422, "body.types", withFields(subscription(), "types", []string{"dial-out", "dial-up"})},
		{"types is a string", 422, "body.types", withFields(subscription(), "types", "hangup")},
		{"type is a number", 422, "body.types[1]", withFields(subscription(), "types", []any{"hangup", 2})},
		{"no url", 422, "body.url", withFields(subscription(), "url", nil)},
		{"ftp url", 422, "body.url", withFields(subscription(), "url", "ftp://127.0.0.1/")},
		{"relative url", 422, "body.url", withFields(subscription(), "url", "/cb")},
		{"userinfo in url", 422, "body.url", withFields(subscription(), "url", "http://me:you@127.0.0.1/")},
		{"line end in url", 422, "body.url", withFields(subscription(), "url", "http://127.0.0.1/\r\nX: y")},
		{"unknown method", 422, "body.method", withFields(subscription(), "method", "BREW")},
		{"unknown dialect", 422, "body.dialect", withFields(subscription(), "dialect", "klingon")},
		{"type that the dialect does not know", 422, "body.types", withFields(withFields(subscription(), "dialect", "cti"), "types", []string{"ringing"})},
		{"method that the dialect does not know", 422, "body.method", withFields(withFields(subscription(), "dialect", "cloudevents"), "method", "GET")},
		{"variable that the dialect does not know", 422, "body.url", withFields(subscription(), "url", "http://127.0.0.1/{call_id}")},
		{"variable in the host", 422, "body.url", withFields(subscription(), "url", "http://{CallID}/")},
		{"active is text", 422, "body.active", withFields(subscription(), "active", "yes")},
		{"flow_case", 422, "body.flow_case", withFields(subscription(), "flow_case", "camel")},
		{"timeout is no duration", 422, "body.timeout", withFields(subscription(), "timeout", "soon")},
		{"timeout too long", 422, "body.timeout", withFields(subscription(), "timeout", "10h")},
		{"live_ttl", 422, "body.live_ttl", withFields(subscription(), "live_ttl", "-1s")},
		{"max_in_flight", 422, "body.max_in_flight", withFields(subscription(), "max_in_flight", -1)},
		{"reserved header", 422, "body.headers", withFields(subscription(), "headers", object{"Host": "x"})},
		{"header with a line end", 422, "body.headers", withFields(subscription(), "headers", object{"X-A": "b\r\nc: d"})},
		{"too large", 413, "", withFields(subscription(), "note", strings.Repeat("x", limit.MaxBody))},
		{"far too large", 413, "", withFields(subscription(), "note", strings.Repeat("x", 3*limit.MaxBody))},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := *r
			r.T = t
			r.wantProblem(tt.status, tt.location, "POST", "/v1/subscriptions", tt.body)
			if b, ok := tt.body.(object); ok && !strings.HasPrefix(tt.name, "no ") && tt.name != "bad regex" {
				r.wantProblem(tt.status, tt.location, "PATCH", "/v1/subscriptions/"+id, b)
			}
		})
	}
	r.wantProblem(415, "", "POST", "/v1/subscriptions", "extension=1", "Content-Type", "application/x-www-form-urlencoded")
	if ids, _ := r.ids("/v1/subscriptions"); len(ids) != 1 {
		t.Errorf("there are %d subscriptions, want the first alone", len(ids))
	}
}

func TestSubscriptionsBeyondLimitAreRefused(t *testing.T) {
	r := newRig(t, Config{})
	for range 3 {
		r.want(201, "POST", "/v1/subscriptions", subscription())
	}
	r.wantProblem(409, "", "POST", "/v1/subscriptions", subscription())
	r.want(201, "POST", "/v1/subscriptions", withFields(subscription(), "extension", "1002"))
}

func TestListsSubscriptionsPageByPage(t *testing.T) {
	r := newRig(t, Config{})
	var all []string
	for i, change := range []object{
		{},
		{"types": []string{"hangup"}},
		{"extension": "0003*210"},
		{"active": false},
		{"extension": nil, "extension_regex": "10.."},
	} {
		o := subscription()
		for k, v := range change {
			withFields(o, k, v)
		}
		all = append(all, r.want(201, "POST", "/v1/subscriptions", o)["id"].(string))
		if i > 0 && all[i] == all[i-1] {
			t.Fatal("two subscriptions have one id")
		}
	}
	for query, want := range map[string][]int{
		"":                                {0, 1, 2, 3, 4},
		"?extension=1001":                 {0, 1, 3},
		"?extension=0003*210":             {2},
		"?extension=9":                    {},
		"?type=dial-out":                  {0, 2, 3, 4},
		"?active=false":                   {3},
		"?active=true&type=hangup":        {0, 1, 2, 4},
		"?extension=1001&active=true":     {0, 1},
		"?extension=1001&type=voicemail":  {},
		"/?extension=1001&type=answer":    {0, 3},
		"//?extension=1001&type=dial-out": {0, 3},
	} {
		got, next := r.ids("/v1/subscriptions" + query)
		var wantIDs []string
		for _, i := range want {
			wantIDs = append(wantIDs, all[i])
		}
		if !slices.Equal(got, wantIDs) || next != "" {
			t.Errorf("%s: got %v next %q, want %v", query, got, next, wantIDs)
		}
	}

	// The next page follows, although the last subscription of the page was deleted.
	first, next := r.ids("/v1/subscriptions?limit=2")
	r.want(204, "DELETE", "/v1/subscriptions/"+first[1], nil)
	second, next := r.ids("/v1/subscriptions?limit=2&cursor=" + next)
	third, end := r.ids("/v1/subscriptions?limit=2&cursor=" + next)
	if got := slices.Concat(first, second, third); !slices.Equal(got, all) || end != "" {
		t.Errorf("pages %v, %v, %v next %q; want %v", first, second, third, end, all)
	}

	r.wantProblem(422, "query.active", "GET", "/v1/subscriptions?active=perhaps", nil)
	r.wantProblem(422, "query.type", "GET", "/v1/subscriptions?type=dial-up", nil)
	r.wantProblem(422, "query.limit", "GET", "/v1/subscriptions?limit=0", nil)
	r.wantProblem(422, "query.limit", "GET", "/v1/subscriptions?limit=many", nil)
	r.wantProblem(422, "query.extention", "GET", "/v1/subscriptions?extention=1001", nil)
}

func TestIfMatchPreventsLostUpdates(t *testing.T) {
	r := newRig(t, Config{})
	resp, sub := r.do("POST", "/v1/subscriptions", subscription())
	path, first := "/v1/subscriptions/"+sub["id"].(string), resp.Header.Get("ETag")
	resp, _ = r.do("PATCH", path, object{"note": "a"}, "If-Match", first)
	second := resp.Header.Get("ETag")
	if resp.StatusCode != 200 || second == first || second == "" {
		t.Fatalf("%d, ETag %s after %s", resp.StatusCode, second, first)
	}
	r.wantProblem(412, "", "PATCH", path, object{"note": "b"}, "If-Match", first)
	r.wantProblem(412, "", "DELETE", path, nil, "If-Match", first)
	r.wantProblem(412, "", "DELETE", path, nil, "If-Match", `W/"x"`)
	r.want(200, "PATCH", path, object{"note": "c"}, "If-Match", "*")
	resp, _ = r.do("GET", path, nil)
	r.want(204, "DELETE", path, nil, "If-Match", resp.Header.Get("ETag"))
}

func TestDeclaredSubscriptionIsReadOnly(t *testing.T) {
	r := newRig(t, Config{})
	s := notify.NewSubscription()
	s.Extension, s.Types, s.URL, s.Declared = "1001", []string{"hangup"}, "http://crm.example/", "[[subscription]] 1"
	s.Headers = map[string]string{"X-Key": "s3cret"}
	r.notifier.Declare([]notify.Subscription{s})
	made := r.want(201, "POST", "/v1/subscriptions", subscription())["id"].(string)
	if _, ok := r.want(200, "GET", "/v1/subscriptions/"+made, nil)["declared"]; ok {
		t.Error("what the API made is declared")
	}

	ids, next := r.ids("/v1/subscriptions?limit=1")
	if rest, _ := r.ids("/v1/subscriptions?limit=1&cursor=" + next); len(ids) != 1 || len(rest) != 1 || rest[0] != made {
		t.Fatalf("listed are %v, then %v, want what is declared first", ids, rest)
	}
	path := "/v1/subscriptions/" + ids[0]
	sub := r.want(200, "GET", path, nil)
	if d := cmp.Diff(object{"X-Key": ""}, sub["headers"]); d != "" || sub["declared"] != s.Declared || sub["state"] != "active" {
		t.Errorf("declared is %v", sub)
	}
	r.wantProblem(409, "", "PATCH", path, object{"active": false})
	r.wantProblem(409, "", "DELETE", path, nil)
	r.wantProblem(422, "body.declared", "PATCH", "/v1/subscriptions/"+made, object{"declared": "by me"})
	_, out := r.do("DELETE", path, nil)
	if detail, _ := out["detail"].(string); !strings.Contains(detail, s.Declared) {
		t.Errorf("the problem says %q, and not where it is declared", detail)
	}
	if d := cmp.Diff(sub, r.want(200, "GET", path, nil)); d != "" {
		t.Errorf("it has changed:\n%s", d)
	}
}

func TestHeadersAreWriteOnly(t *testing.T) {
	r := newRig(t, Config{})
	sub := r.want(201, "POST", "/v1/subscriptions", withFields(subscription(), "headers", object{"x-key": "secret", "X-Other": "1"}))
	path := "/v1/subscriptions/" + sub["id"].(string)
	if d := cmp.Diff(object{"X-Key": "", "X-Other": ""}, sub["headers"]); d != "" {
		t.Errorf("headers (- want, + got):\n%s", d)
	}
	// A subscription can be sent back as it was read: empty header values keep the stored ones.
	r.want(200, "PATCH", path, object{"headers": object{"X-Key": "", "X-New": "2"}})
	if _, err := r.notifier.Edit(t.Context(), sub["id"].(string), 0, func(s *notify.Subscription) error {
		if d := cmp.Diff(map[string]string{"X-Key": "secret", "X-New": "2"}, map[string]string(s.Headers)); d != "" {
			t.Errorf("stored headers (- want, + got):\n%s", d)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}

func TestSubscriptionHasCertificates(t *testing.T) {
	r := newRig(t, Config{})
	s := httptest.NewUnstartedServer(nil)
	s.StartTLS()
	defer s.Close()
	pair := s.TLS.Certificates[0]
	der, err := x509.MarshalPKCS8PrivateKey(pair.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	cert := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: pair.Certificate[0]}))
	key := string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))

	r.wantProblem(422, "body.tls_ca", "POST", "/v1/subscriptions", withFields(subscription(), "url", "https://a.example/", "tls_ca", "/etc/ca.pem"))
	r.wantProblem(422, "body.tls_key", "POST", "/v1/subscriptions", withFields(subscription(), "url", "https://a.example/", "tls_cert", cert))
	r.wantProblem(422, "body.url", "POST", "/v1/subscriptions", withFields(subscription(), "tls_ca", cert))
	sub := r.want(201, "POST", "/v1/subscriptions", withFields(subscription(), "url", "https://a.example/", "tls_ca", cert, "tls_cert", cert, "tls_key", key))
	path := "/v1/subscriptions/" + sub["id"].(string)
	for _, sub := range []object{sub, r.want(200, "GET", path, nil), r.want(200, "PATCH", path, object{"note": "x"})} {
		if _, shown := sub["tls_key"]; shown || sub["tls_cert"] != cert || sub["tls_ca"] != cert {
			t.Errorf("shown is %v", sub)
		}
	}
	r.want(200, "PATCH", path, object{"tls_cert": cert}) // the key stays
	if sub := r.want(200, "PATCH", path, object{"tls_cert": "", "tls_ca": "", "url": "http://a.example/"}); sub["tls_cert"] != nil || sub["tls_ca"] != nil {
		t.Errorf("without certificates it is %v", sub)
	}
	r.wantProblem(422, "body.tls_key", "PATCH", path, object{"tls_cert": cert}) // the key was deleted
}

func TestRequestsWithoutTokenAreRefused(t *testing.T) {
	r := newRig(t, Config{})
	for _, header := range []string{"", "Bearer", "Bearer ", "Bearer wrong", "Bearer " + testToken + "x", "Bearer " + testToken[1:], "Basic " + testToken, testToken} {
		for _, path := range []string{"/v1/subscriptions", "/v1/subscriptions/", "/v1/subscriptions/x", "/v1/calls", "/v1/events", "/v1/", "/v1/nowhere"} {
			for _, method := range []string{"GET", "POST", "DELETE"} {
				resp, out := r.do(method, path, nil, "Authorization", header)
				if resp.StatusCode != 401 || !strings.HasPrefix(resp.Header.Get("WWW-Authenticate"), "Bearer") || resp.Header.Get("Content-Type") != "application/problem+json" {
					t.Errorf("%s %s with %q: %d %v", method, path, header, resp.StatusCode, out)
				}
			}
		}
	}
	r.want(200, "GET", "/v1/calls", nil, "Authorization", "bearer  "+testToken)

	// Without a token of its own, a Server admits nobody.
	closed := httptest.NewServer(openServer(t, r.js, Config{Config: ops.Config{Notifier: r.notifier}}).Handler())
	defer closed.Close()
	r.url = closed.URL
	for _, header := range []string{"", "Bearer", "Bearer "} {
		r.want(401, "GET", "/v1/calls", nil, "Authorization", header)
	}
}

func TestRemoteRequestsNeedToken(t *testing.T) {
	r := newRig(t, Config{})
	h := openServer(t, r.js, Config{Token: testToken, Config: ops.Config{Notifier: r.notifier, Ready: func() []string { return []string{"no listener"} }}}).Handler()
	get := func(path, token string) *httptest.ResponseRecorder {
		req := httptest.NewRequest("GET", path, nil) // from 192.0.2.1
		if token != "" {
			req.Header.Set("Authorization", "Bearer "+token)
		}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, req)
		return w
	}
	for _, tt := range []struct {
		path, token string
		status      int
		body        string
	}{
		{"/healthz", "", 200, "ok"},
		{"/readyz", "", 503, `{"ready":false}`},
		{"/readyz", testToken, 503, "no listener"},
		{"/metrics", "", 401, "token"},
		{"/metrics", testToken, 200, "go_goroutines"},
		{"/openapi.json", "", 200, "/v1/subscriptions"},
	} {
		if w := get(tt.path, tt.token); w.Code != tt.status || !strings.Contains(w.Body.String(), tt.body) {
			t.Errorf("%s with %q: %d %s", tt.path, tt.token, w.Code, w.Body)
		}
	}
}

func TestUnknownPathsAreNotFound(t *testing.T) {
	r := newRig(t, Config{})
	r.wantProblem(404, "", "GET", "/v1/nowhere", nil)
	r.wantProblem(404, "", "GET", "/nowhere", nil)
	r.wantProblem(405, "", "PUT", "/v1/subscriptions", nil)
	for _, path := range []string{"/v1%2F", "/v1%2Fcalls", "/v1%2Fsubscriptions%2Fx", "/v1%2F/calls", "/v12"} { // not below /v1
		r.wantProblem(404, "", "GET", path, nil)
		r.as("").wantProblem(404, "", "GET", path, nil)
	}
	resp, _ := r.do("POST", "/healthz", nil)
	if resp.StatusCode != 405 || !strings.Contains(resp.Header.Get("Allow"), "GET") {
		t.Errorf("POST /healthz: %d, Allow %q", resp.StatusCode, resp.Header.Get("Allow"))
	}
}

func TestReadyzGivesReasons(t *testing.T) {
	var reasons []string
	r := newRig(t, Config{Config: ops.Config{Ready: func() []string { return reasons }}})
	r.token = ""
	if out := r.want(200, "GET", "/healthz", nil); out["status"] != "ok" {
		t.Errorf("healthz: %v", out)
	}
	if out := r.want(200, "GET", "/readyz", nil); out["ready"] != true {
		t.Errorf("readyz: %v", out)
	}
	reasons = []string{"draining"}
	if out := r.want(503, "GET", "/readyz/", nil); !cmp.Equal(out["reasons"], []any{"draining"}) {
		t.Errorf("readyz while draining: %v", out)
	}
	reasons = nil
	r.store.Close()
	if out := r.want(503, "GET", "/readyz", nil); out["reasons"] == nil {
		t.Errorf("readyz without a store: %v", out)
	}
	r.want(200, "GET", "/healthz", nil)
	r.token = testToken
	r.wantProblem(503, "", "POST", "/v1/subscriptions", subscription())
	r.wantProblem(503, "", "GET", "/v1/events", nil)
}

func TestMetricsShowCounts(t *testing.T) {
	r := newRig(t, Config{Collectors: []prometheus.Collector{
		prometheus.NewCounterFunc(prometheus.CounterOpts{Name: "bellhop_sip_messages_total", Help: "x"}, func() float64 { return 7 }),
	}})
	r.want(201, "POST", "/v1/subscriptions", subscription())
	r.token = ""
	text := r.want(200, "GET", "/metrics", nil)["text"].(string)
	for _, want := range []string{
		"\nbellhop_sip_messages_total 7\n",
		"\nbellhop_subscriptions 1\n",
		"\nbellhop_events_published_total 0\n",
		"\nbellhop_subscriptions_disabled 0\n",
		"\nbellhop_deliveries_total{outcome=\"delivered\"} 0\n",
		"\nbellhop_delivery_log_dropped_total 0\n",
		"\nbellhop_build_info{version=\"v0\"} 1\n",
		"\nprocess_open_fds ",
		"\ngo_goroutines ",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("/metrics lacks %q", want)
		}
	}
}

func TestListsLiveCalls(t *testing.T) {
	at := time.Date(2026, 1, 31, 9, 0, 0, 0, time.UTC)
	live := []dialog.Call{
		{ID: "aa", State: "talking", Since: at, Answered: at.Add(time.Second), Parties: []dialog.Party{
			{ID: "p1", Extension: dialog.Extension{User: "101", Domain: "pbx.example"}, Flow: dialog.Out, Status: dialog.Answered, Since: at, Answered: at.Add(time.Second), CallerNum: "101", CalledNumber: "102"},
			{ID: "p2", Extension: dialog.Extension{User: "102"}, Flow: dialog.In, Status: dialog.Calling, Since: at},
		}},
		{ID: "bb", State: "calling", Since: at},
		{ID: "cc", State: "ringing", Since: at.Add(time.Second)},
	}
	var failing error
	r := newRig(t, Config{Config: ops.Config{Calls: func(context.Context) ([]dialog.Call, error) { return live, failing }}})
	items := r.want(200, "GET", "/v1/calls", nil)["items"].([]any)
	want := object{"call_id": "aa", "state": "talking", "since": "2026-01-31T09:00:00Z", "answered": "2026-01-31T09:00:01Z", "parties": []any{
		object{"sub_call_id": "p1", "extension": "101", "domain": "pbx.example", "call_flow": "out", "call_status": "ANSWER", "since": "2026-01-31T09:00:00Z", "answered": "2026-01-31T09:00:01Z", "caller_id_num": "101", "called_number": "102"},
		object{"sub_call_id": "p2", "extension": "102", "call_flow": "in", "call_status": "CALLING", "since": "2026-01-31T09:00:00Z"},
	}}
	if d := cmp.Diff(want, items[0]); d != "" {
		t.Errorf("call (- want, + got):\n%s", d)
	}
	for query, want := range map[string][]string{
		"":                           {"aa", "bb", "cc"},
		"?extension=102":             {"aa"},
		"?extension=101@pbx.example": {"aa"},
		"?extension=101@elsewhere":   nil,
	} {
		if got, _ := r.ids("/v1/calls" + query); !slices.Equal(got, want) {
			t.Errorf("%s: got %v, want %v", query, got, want)
		}
	}
	_, next := r.ids("/v1/calls?limit=2")
	if got, next := r.ids("/v1/calls?cursor=" + next); !slices.Equal(got, []string{"cc"}) || next != "" {
		t.Errorf("second page: %v, next %q", got, next)
	}
	failing = errors.New("stopped")
	r.wantProblem(503, "", "GET", "/v1/calls", nil)
}

// Names of up to 256 bytes are looked up; longer ones are refused in the format of each
// API.
func TestLongNamesAreRefused(t *testing.T) {
	r := newRig(t, Config{})
	long := strings.Repeat("é", dialog.MaxName/2) // of 256 bytes
	at := func(form string, extra string) string {
		return strings.ReplaceAll(form, "NAME", url.PathEscape(long+extra))
	}
	for _, path := range []string{"/v1/subscriptions/NAME", "/v1/deliveries/NAME", "/v1/calls/NAME", "/v1/calls/NAME/trace", "/v1/extensions/NAME", "/v1/tokens/NAME"} {
		r.wantProblem(404, "", "GET", at(path, ""), nil)
		r.wantProblem(404, "", "GET", at(path, "x"), nil)
	}
	for _, tt := range []struct{ path, key string }{
		{"/v1/events", "extension"}, {"/v1/events", "call"}, {"/v1/subscriptions", "extension"}, {"/v1/calls", "extension"}, {"/v1/extensions", "cursor"},
	} {
		r.want(200, "GET", at(tt.path+"?"+tt.key+"=NAME", ""), nil)
		r.wantProblem(422, "query."+tt.key, "GET", at(tt.path+"?"+tt.key+"=NAME", "x"), nil)
	}
	r.wantProblem(422, "query.since", "GET", at("/v1/events?since=NAME", ""), nil)
	r.wantProblem(422, "query.since", "GET", at("/v1/events?since=NAME", "x"), nil)
	r.wantProblem(422, "header.Last-Event-ID", "GET", "/v1/events", nil, "Accept", limit.EventStream, "Last-Event-ID", strings.Repeat("x", 10_000))
	r.wantProblem(422, "body.extension", "POST", "/v1/subscriptions", withFields(subscription(), "extension", long+"x"))
	r.wantProblem(422, "body.extensions", "POST", "/v1/tokens", object{"scope": "read", "extensions": []string{long + "x"}})

	resp, out := r.do("GET", at("/uapi/extensions/@me/NAME/phoneCallEvents", "x"), nil)
	if code := out["error"].(object)["code"]; resp.StatusCode != 400 || code != "extension_invalid" {
		t.Errorf("uapi answers %d %v", resp.StatusCode, out)
	}
	resp, out = r.do("GET", at("/api/ver1.0/extension/@NAME/event", "x"), nil)
	if resp.StatusCode != 400 || out["message"] == "" {
		t.Errorf("telphin answers %d %v", resp.StatusCode, out)
	}
	if reconnects := r.store.Stats().Reconnects; reconnects > 0 || r.store.IsClosed() {
		t.Errorf("the store was left %d times", reconnects)
	}
}

func TestListsNoCalls(t *testing.T) {
	r := newRig(t, Config{})
	if out := r.want(200, "GET", "/v1/calls", nil); !cmp.Equal(out, object{"items": []any{}, "next": ""}) {
		t.Errorf("got %v", out)
	}
}

// publishEvents writes events to the event log.
func (r *rig) publishEvents(events ...dialog.Event) {
	r.Helper()
	ctx, stop := context.WithCancel(r.Context())
	ended := make(chan error)
	go func() { ended <- r.notifier.Run(ctx) }()
	before := r.notifier.Stats().Published
	r.notifier.EventLog.Append(events)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for r.notifier.Stats().Published < before+uint64(len(events)) {
		select {
		case <-tick.C:
		case <-r.Context().Done():
			r.Fatal("the events were not said")
		}
	}
	stop()
	if err := <-ended; err != nil {
		r.Fatal(err)
	}
}

func TestListsEvents(t *testing.T) {
	r := newRig(t, Config{})
	at := time.Now().UTC().Truncate(time.Microsecond)
	var all []string
	for i, e := range []dialog.Event{
		{Type: dialog.DialOut, Flow: dialog.Out, Status: dialog.Calling, Extension: dialog.Extension{User: "101", Domain: "pbx.example"}, CalledNumber: "102", CallerName: "<img src=x>"},
		{Type: dialog.Answer, Flow: dialog.Out, Status: dialog.Answered, Extension: dialog.Extension{User: "101", Domain: "pbx.example"}},
		{Type: dialog.Hangup, Flow: dialog.Out, Status: dialog.Busy, Extension: dialog.Extension{User: "0003*210"}, SipCode: 486, Headers: [][2]string{{"X-A", "b"}}},
	} {
		e.ID, e.Call, e.Seq, e.At, e.Party = fmt.Sprintf("%032x", i), fmt.Sprintf("%032x", 100+i/2), i+1, at, "p"
		all = append(all, e.ID)
		r.publishEvents(e)
	}
	for query, want := range map[string][]int{
		"":                                   {0, 1, 2},
		"?since=" + all[0]:                   {1, 2},
		"?since=" + all[2]:                   {},
		"?extension=101":                     {0, 1},
		"?extension=0003*210":                {2},
		"?extension=101@elsewhere":           {},
		"?type=answer":                       {1},
		"?type=answer-in":                    {},
		"?call=" + fmt.Sprintf("%032x", 100): {0, 1},
		"?since=2020-01-01T00:00:00Z":        {0, 1, 2},
		"?since=2020-01-01T02:00:00.5+02:00&limit=9": {0, 1, 2},
		"?since=2220-01-01T02:00:00%2B02:00":         {},
	} {
		got, next := r.ids("/v1/events" + query)
		var wantIDs []string
		for _, i := range want {
			wantIDs = append(wantIDs, all[i])
		}
		if !slices.Equal(got, wantIDs) || next != "" {
			t.Errorf("%s: got %v next %q, want %v", query, got, next, wantIDs)
		}
	}
	if got, next := r.ids("/v1/events?limit=2"); !slices.Equal(got, all[:2]) || next != all[1] {
		t.Errorf("first page %v, next %q", got, next)
	}

	items := r.want(200, "GET", "/v1/events", nil)["items"].([]any)
	timestamp := at.Format(time.RFC3339Nano)
	if d := cmp.Diff([]any{
		object{"event_id": all[0], "event_type": "dial-out", "event_time": float64(at.UnixMicro()), "timestamp": timestamp, "extension": "101", "domain": "pbx.example", "call_id": fmt.Sprintf("%032x", 100), "sequence": 1.0, "sub_call_id": "p", "call_flow": "out", "call_status": "CALLING", "caller_extension": "101", "caller_id_name": "<img src=x>", "called_number": "102"},
		object{"event_id": all[1], "event_type": "answer", "event_time": float64(at.UnixMicro()), "timestamp": timestamp, "extension": "101", "domain": "pbx.example", "call_id": fmt.Sprintf("%032x", 100), "sequence": 2.0, "sub_call_id": "p", "call_flow": "out", "call_status": "ANSWER", "caller_extension": "101"},
		object{"event_id": all[2], "event_type": "hangup", "event_time": float64(at.UnixMicro()), "timestamp": timestamp, "extension": "0003*210", "call_id": fmt.Sprintf("%032x", 101), "sequence": 3.0, "sub_call_id": "p", "call_flow": "out", "call_status": "BUSY", "caller_extension": "0003*210", "duration": 0.0, "sip_code": 486.0, "headers": object{"X-A": "b"}},
	}, items); d != "" {
		t.Errorf("events (- want, + got):\n%s", d)
	}

	r.wantProblem(422, "query.since", "GET", "/v1/events?since=yesterday", nil)
	r.wantProblem(422, "query.since", "GET", "/v1/events?since="+strings.Repeat("f", 32), nil)
	r.wantProblem(422, "query.since", "GET", "/v1/events?since=*", nil)
	r.wantProblem(422, "query.type", "GET", "/v1/events?type=dial-up", nil)
	r.wantProblem(422, "query.limit", "GET", "/v1/events?limit=1001", nil)
}

var update = flag.Bool("update", false, "rewrite testdata/openapi.json")

// The description of the API matches the golden file, so that each change of it is
// reviewed.
func TestDescriptionMatchesGoldenFile(t *testing.T) {
	r := newRig(t, Config{Config: ops.Config{Version: "1"}})
	r.token = ""
	out := r.want(200, "GET", "/openapi.json", nil)
	got, err := json.MarshalIndent(out, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	golden := filepath.Join("..", "testdata", "openapi.json")
	if *update {
		if err := os.WriteFile(golden, append(got, '\n'), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)+"\n"); diff != "" {
		t.Errorf("the description is not that of %s, which -update rewrites:\n%s", golden, diff)
	}
	if v, _ := out["openapi"].(string); !strings.HasPrefix(v, "3.1") {
		t.Errorf("openapi is %q, want 3.1", v)
	}
	for _, path := range []string{"/v1/subscriptions", "/v1/subscriptions/{id}", "/v1/subscriptions/{id}/rotate-secret", "/v1/calls", "/v1/events", "/v1/calls/{id}", "/v1/extensions", "/v1/extensions/{extension}", "/v1/status", "/v1/tokens", "/v1/tokens/{id}", "/v1/audit"} {
		if _, ok := out["paths"].(object)[path]; !ok {
			t.Errorf("%s is not described", path)
		}
	}
	for _, schema := range []string{"Change", "Subscription"} {
		properties := out["components"].(object)["schemas"].(object)[schema].(object)["properties"].(object)
		for name, want := range map[string]string{"method": "[GET POST PUT]", "dialect": "[unified telphin cti json cloudevents]"} {
			if got := fmt.Sprint(properties[name].(object)["enum"]); got != want {
				t.Errorf("%s.%s is described as %s, want %s", schema, name, got, want)
			}
		}
	}
}

// A connection of the server is counted until it is closed.
func TestConnectionsAreCounted(t *testing.T) {
	r := newRig(t, Config{})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	h := r.server.HTTPServer()
	served := make(chan error)
	go func() { served <- h.Serve(r.server.Listener(l)) }()
	r.url = "http://" + l.Addr().String()
	f := r.follow("")
	if n, _ := r.server.conns.Count(); n != 1 {
		t.Errorf("%d connections are counted, want 1", n)
	}
	f.stop()
	if err := h.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
	<-served
	if n, _ := r.server.conns.Count(); n != 0 {
		t.Errorf("%d connections are left", n)
	}
}
