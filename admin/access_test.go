package admin

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"bellhop/admin/access"
	"bellhop/admin/ops"
	"bellhop/dialog"
)

// as returns the client with another token; "" is none.
func (r rig) as(token string) *rig {
	r.token = token
	return &r
}

// newToken creates a token with the fields of o, and returns a client that uses it, and
// its id.
func (r *rig) newToken(o object) (client *rig, id string) {
	r.Helper()
	t := r.want(201, "POST", "/v1/tokens", o)
	return r.as(t["token"].(string)), t["id"].(string)
}

// Test tokens that may use a route, beside those of scope admin and the config's.
const (
	admins  = ""
	unbound = "read, write"
	readers = "read, write, bound to read, bound to write"
	writers = "write, bound to write"
)

// ruled are the test tokens that rules name.
var ruled = map[string]object{
	"read":           {"scope": "read"},
	"write":          {"scope": "write"},
	"admin":          {"scope": "admin"},
	"bound to read":  {"scope": "read", "extensions": []string{"101"}},
	"bound to write": {"scope": "write", "extensions": []string{"101"}},
}

// opened are the routes that are open, or leave the check to the mux behind them.
var opened = []string{"GET /healthz", "GET /metrics", "GET /openapi.json", "GET /readyz",
	"GET /login", "POST /login", "POST /logout", "GET /static/{name}"}

// rules are the test tokens that may use each other route. A new route must be added.
var rules = map[string]string{
	"GET /v1/subscriptions":                     readers,
	"POST /v1/subscriptions":                    writers,
	"GET /v1/subscriptions/{id}":                readers,
	"PATCH /v1/subscriptions/{id}":              writers,
	"DELETE /v1/subscriptions/{id}":             writers,
	"POST /v1/subscriptions/{id}/rotate-secret": writers,
	"POST /v1/subscriptions/{id}/test":          writers,
	"POST /v1/subscriptions/{id}/replay":        writers,
	"GET /v1/subscriptions/{id}/deliveries":     readers,
	"GET /v1/deliveries":                        readers,
	"GET /v1/deliveries/{id}":                   readers,
	"POST /v1/deliveries/{id}/redeliver":        writers,
	"GET /v1/calls":                             readers,
	"GET /v1/calls/{id}":                        readers,
	"GET /v1/calls/{id}/trace":                  unbound,
	"GET /v1/events":                            readers,
	"GET /v1/extensions":                        readers,
	"GET /v1/extensions/{extension}":            readers,
	"GET /v1/status":                            unbound,
	"GET /v1/bans":                              unbound,
	"POST /v1/bans":                             admins,
	"GET /v1/bans/{source}":                     unbound,
	"DELETE /v1/bans/{source}":                  admins,
	"GET /v1/tokens":                            admins,
	"POST /v1/tokens":                           admins,
	"GET /v1/tokens/{id}":                       admins,
	"DELETE /v1/tokens/{id}":                    admins,
	"GET /v1/audit":                             admins,
}

// routePermissions returns the permissions of the routes of all muxes, by pattern.
func (s *Server) routePermissions() map[string]access.Permission {
	all := make(map[string]access.Permission)
	maps.Copy(all, s.v1.Permissions())
	maps.Copy(all, s.root.Permissions)
	for pattern := range s.page.Permissions {
		delete(all, pattern) // TestPermissionsOfEveryPage
	}
	return all
}

func TestPermissionsOfEveryRoute(t *testing.T) {
	r := newRig(t, Config{Config: ops.Config{Calls: func(context.Context) ([]dialog.Call, error) {
		return []dialog.Call{
			{ID: "aa", Parties: []dialog.Party{{Extension: dialog.Extension{User: "101"}}}},
			{ID: "bb", Parties: []dialog.Party{{Extension: dialog.Extension{User: "102"}}}},
		}, nil
	}}})
	mine := r.want(201, "POST", "/v1/subscriptions", withFields(subscription(), "extension", "101"))["id"].(string)
	yours := r.want(201, "POST", "/v1/subscriptions", withFields(subscription(), "extension", "102"))["id"].(string)
	everybodys := r.want(201, "POST", "/v1/subscriptions", withFields(subscription(), "extension", nil, "extension_regex", "101"))["id"].(string)
	_, token := r.newToken(object{"scope": "read"})

	clients := map[string]*rig{"config": r}
	for name, o := range ruled {
		clients[name], _ = r.newToken(o)
	}
	revoked, id := r.newToken(object{"scope": "admin"})
	r.want(204, "DELETE", "/v1/tokens/"+id, nil)

	rights := r.server.routePermissions()
	for pattern, asks := range rights {
		_, known := rules[pattern]
		if known == slices.Contains(opened, pattern) || (asks == access.PermitAll) == known {
			t.Errorf("%s: this test does not know whom it is for", pattern)
		}
	}
	for pattern, allowed := range rules {
		if _, ok := rights[pattern]; !ok {
			t.Errorf("%s is no route", pattern)
			continue
		}
		method, path, _ := strings.Cut(pattern, " ")
		ids, mine := []string{""}, mine
		switch {
		case strings.Contains(path, "/calls/{id}/trace"):
			ids = []string{"nothing"}
		case strings.Contains(path, "/calls/{id}"):
			ids, mine = []string{"aa", "bb", "nothing"}, "aa"
		case strings.Contains(path, "/extensions/{extension}"):
			ids, mine = []string{"101", "102", "nothing"}, "101"
		case strings.Contains(path, "/subscriptions/{id}"):
			ids = []string{mine, yours, everybodys, "nothing"}
		case strings.Contains(path, "/deliveries/{id}"):
			ids = []string{"nothing"} // TestBoundTokenSeesItsDeliveriesOnly
		case strings.Contains(path, "/bans/{source}"):
			ids = []string{"nothing"}
		case strings.Contains(path, "/tokens/{id}"):
			ids = []string{token, "nothing"}
		case strings.Contains(path, "{"):
			t.Errorf("%s: this test does not know what ids there are", pattern)
		}
		// Changes come last.
		ask := func(client *rig, id string) (int, object) {
			var body any
			if method == "PATCH" || method == "POST" {
				body = object{}
			}
			resp, out := client.do(method, strings.NewReplacer("{id}", id, "{extension}", id, "{source}", id).Replace(path), body, "If-Match", `"1000000"`)
			if resp.StatusCode == 401 && resp.Header.Get("WWW-Authenticate") == "" {
				t.Errorf("%s: 401 without WWW-Authenticate", pattern)
			}
			return resp.StatusCode, out
		}
		for _, id := range ids {
			for _, nobody := range []*rig{r.as(""), r.as("wrong"), r.as(access.TokenPrefix + "wrong"), revoked} {
				if status, _ := ask(nobody, id); status != 401 {
					t.Errorf("%s %s with the token %q: %d, want 401", pattern, id, nobody.token, status)
				}
			}
			for name, client := range clients {
				if method == "DELETE" && id == token && name == "config" {
					continue // only admin may revoke it
				}
				status, out := ask(client, id)
				may := name == "config" || name == "admin" || slices.Contains(strings.Split(allowed, ", "), name)
				switch {
				case !may && status != 403:
					t.Errorf("%s %s as %s: %d %v, want 403", pattern, id, name, status, out)
				case may && (status == 401 || status == 403):
					t.Errorf("%s %s as %s: %d %v", pattern, id, name, status, out)
				case may && strings.HasPrefix(name, "bound") && id != "" && id != mine:
					nothing, same := ask(client, "nothing")
					if status != 404 || nothing != 404 || !cmp.Equal(out, same) {
						t.Errorf("%s of another's as %s: %d %v, and of nothing: %d %v", pattern, name, status, out, nothing, same)
					}
				case may && id != "" && id != "nothing" && status == 404 && id != token:
					t.Errorf("%s %s as %s: 404 %v", pattern, id, name, out)
				}
			}
		}
	}
	if subs, _ := r.ids("/v1/subscriptions"); len(subs) != 3 {
		t.Errorf("there are %d subscriptions, want all three", len(subs))
	}
}

func TestBoundTokenSeesItsExtensionsOnly(t *testing.T) {
	at := time.Now().UTC().Truncate(time.Microsecond)
	r := newRig(t, Config{Config: ops.Config{Calls: func(context.Context) ([]dialog.Call, error) {
		return []dialog.Call{
			{ID: "aa", State: "talking", Since: at, Parties: []dialog.Party{
				{ID: "p1", Extension: dialog.Extension{User: "101", Domain: "pbx.example"}, Since: at},
				{ID: "p2", Extension: dialog.Extension{User: "102"}, Since: at},
			}},
			{ID: "bb", State: "talking", Since: at, Parties: []dialog.Party{{ID: "p3", Extension: dialog.Extension{User: "102"}, Since: at}}},
			{ID: "cc", State: "calling", Since: at},
		}, nil
	}}})
	bound, _ := r.newToken(object{"scope": "write", "extensions": []string{"101", "0003*210@pbx.example"}})

	// Subscriptions.
	path := "/v1/subscriptions"
	mine := bound.want(201, "POST", path, withFields(subscription(), "extension", "101"))["id"].(string)
	domain := bound.want(201, "POST", path, withFields(subscription(), "extension", "101@pbx.example"))["id"].(string)
	star := bound.want(201, "POST", path, withFields(subscription(), "extension", "0003*210@pbx.example"))["id"].(string)
	yours := r.want(201, "POST", path, withFields(subscription(), "extension", "102"))["id"].(string)
	r.want(201, "POST", path, withFields(subscription(), "extension", nil, "extension_regex", "101"))
	if got, _ := bound.ids(path); !slices.Equal(got, []string{mine, domain, star}) {
		t.Errorf("it sees %v, want %v", got, []string{mine, domain, star})
	}
	for _, sub := range []object{
		withFields(subscription(), "extension", "102"),
		withFields(subscription(), "extension", "0003*210"),
		withFields(subscription(), "extension", "0003*210@other.example"),
		withFields(subscription(), "extension", nil, "extension_regex", "101"),
		withFields(subscription(), "extension", nil, "extension_regex", ".*"),
	} {
		bound.wantProblem(403, "", "POST", path, sub)
		if sub["extension"] == nil {
			sub["extension"] = ""
		}
		bound.wantProblem(403, "", "PATCH", path+"/"+mine, object{"extension": sub["extension"], "extension_regex": sub["extension_regex"]})
	}
	bound.wantProblem(422, "body.extension", "POST", path, withFields(subscription(), "extension", nil))
	bound.wantProblem(422, "body.extension", "PATCH", path+"/"+mine, object{"extension": ""})
	bound.wantProblem(404, "", "PATCH", path+"/"+yours, object{"extension": "101"})
	bound.wantProblem(404, "", "DELETE", path+"/"+yours, nil)
	bound.want(200, "PATCH", path+"/"+mine, object{"note": "x"})
	bound.want(200, "POST", path+"/"+mine+"/rotate-secret", nil)
	bound.want(204, "DELETE", path+"/"+mine, nil)
	if sub := r.want(200, "GET", path+"/"+yours, nil); sub["extension"] != "102" {
		t.Errorf("another's has become %v", sub)
	}

	// Calls: its own parties.
	calls := bound.want(200, "GET", "/v1/calls", nil)["items"].([]any)
	if len(calls) != 1 || calls[0].(object)["call_id"] != "aa" || len(calls[0].(object)["parties"].([]any)) != 1 {
		t.Errorf("it sees the calls %v", calls)
	}
	if got, _ := bound.ids("/v1/calls?extension=102"); got != nil {
		t.Errorf("it sees the calls %v of another", got)
	}
	if got, _ := r.ids("/v1/calls"); !slices.Equal(got, []string{"aa", "bb", "cc"}) {
		t.Errorf("who is bound to none sees the calls %v", got)
	}

	// Events.
	var ids []string
	for i, e := range []dialog.Extension{{User: "101", Domain: "pbx.example"}, {User: "102"}, {User: "101"}, {User: "0003*210", Domain: "pbx.example"}, {User: "0003*210", Domain: "other.example"}} {
		event := dialog.Event{Type: dialog.DialIn, Extension: e, At: at, ID: fmt.Sprintf("%032x", i), Call: fmt.Sprintf("%032x", 100), Seq: i + 1, Party: "p"}
		ids = append(ids, event.ID)
		r.publishEvents(event)
	}
	for query, want := range map[string][]string{
		"":                                   {ids[0], ids[2], ids[3]},
		"?extension=101":                     {ids[0], ids[2]},
		"?extension=102":                     nil,
		"?extension=0003*210":                {ids[3]},
		"?call=" + fmt.Sprintf("%032x", 100): {ids[0], ids[2], ids[3]},
		"?since=" + ids[0]:                   {ids[2], ids[3]},
	} {
		if got, next := bound.ids("/v1/events" + query); !slices.Equal(got, want) || next != "" {
			t.Errorf("%s: it sees the events %v next %q, want %v", query, got, next, want)
		}
	}
	if got, next := bound.ids("/v1/events?limit=2"); len(got) != 2 || next != ids[2] {
		t.Errorf("first page %v, next %q", got, next)
	}
	_, others := bound.do("GET", "/v1/events?since="+ids[1], nil)
	_, none := bound.do("GET", "/v1/events?since="+strings.Repeat("f", 32), nil)
	if others["status"] != 422.0 || !cmp.Equal(others, none) {
		t.Errorf("since another's event: %v, and since none: %v", others, none)
	}
}

// serveFrom serves a request from another machine.
func serveFrom(s *Server, peer, method, path, token string) *httptest.ResponseRecorder {
	req := httptest.NewRequest(method, path, nil)
	req.RemoteAddr = peer
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	w := httptest.NewRecorder()
	s.Handler().ServeHTTP(w, req)
	return w
}

func TestMetricsRefuseBoundTokens(t *testing.T) {
	r := newRig(t, Config{Config: ops.Config{Ready: func() []string { return []string{"draining"} }}})
	reader, _ := r.newToken(object{"scope": "read"})
	bound, _ := r.newToken(object{"scope": "write", "extensions": []string{"101"}})
	const peer = "192.0.2.1:1234"
	for token, want := range map[string]int{"": 401, "wrong": 401, bound.token: 403, reader.token: 200, testToken: 200} {
		if w := serveFrom(r.server, peer, "GET", "/metrics", token); w.Code != want {
			t.Errorf("/metrics with %q: %d, want %d", token, w.Code, want)
		}
		w := serveFrom(r.server, peer, "GET", "/readyz", token)
		if told := strings.Contains(w.Body.String(), "draining"); w.Code != 503 || told != (want == 200) {
			t.Errorf("/readyz with %q: %d %s", token, w.Code, w.Body)
		}
	}
}

func TestCrossOriginChangesAreRefused(t *testing.T) {
	r := newRig(t, Config{})
	for _, header := range [][]string{
		{"Sec-Fetch-Site", "cross-site"},
		{"Sec-Fetch-Site", "same-site"},
		{"Origin", "https://evil.example"},
		{"Origin", "null"},
	} {
		r.wantProblem(403, "", "POST", "/v1/subscriptions", subscription(), header...)
		r.wantProblem(403, "", "DELETE", "/v1/subscriptions/x", nil, header...)
		r.want(200, "GET", "/v1/subscriptions", nil, header...)
	}
	r.want(201, "POST", "/v1/subscriptions", subscription(), "Sec-Fetch-Site", "same-origin")
	r.want(201, "POST", "/v1/subscriptions", subscription(), "Origin", r.url)
}

func TestDescriptionNamesPermissions(t *testing.T) {
	r := newRig(t, Config{})
	type parameter struct{ Name, In string }
	var description struct {
		Security   []map[string][]string
		Components struct {
			SecuritySchemes map[string]map[string]any
		}
		Paths map[string]map[string]struct {
			Description string
			Responses   map[string]any
			Parameters  []parameter
		}
	}
	if err := json.Unmarshal(serveFrom(r.server, "192.0.2.1:1", "GET", "/openapi.json", "").Body.Bytes(), &description); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]map[string][]string{{"token": {}}}, description.Security); d != "" {
		t.Errorf("security (- want, + got):\n%s", d)
	}
	if s := description.Components.SecuritySchemes["token"]; s["type"] != "http" || s["scheme"] != "bearer" {
		t.Errorf("the scheme is %v", s)
	}
	for pattern := range rules {
		method, path, _ := strings.Cut(pattern, " ")
		if !strings.HasPrefix(path, "/v1/") {
			continue // not one of these APIs
		}
		op := description.Paths[path][strings.ToLower(method)]
		if op.Description == "" {
			t.Errorf("%s does not say whom it is for", pattern)
		}
		want := []string{"400", "401", "403", "422", "429", "503"}
		if method == "POST" || method == "PATCH" {
			want = append(want, "413", "415")
		}
		if strings.Contains(path, "{") {
			want = append(want, "404")
		}
		if slices.Contains(op.Parameters, parameter{"If-Match", "header"}) {
			want = append(want, "409", "412")
		}
		for _, status := range want {
			if op.Responses[status] == nil {
				t.Errorf("%s: %s is not described", pattern, status)
			}
		}
		keyed := slices.Contains(op.Parameters, parameter{"Idempotency-Key", "header"})
		if keyed != (method == "POST") {
			t.Errorf("%s: Idempotency-Key is described: %v", pattern, keyed)
		}
	}
}
