package admin

import (
	"context"
	"encoding/base32"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"bellhop/admin/ops"
	"bellhop/dialog"
)

// knownConfig is a config whose tracker knows some extensions and calls.
func knownConfig(failing *error) Config {
	at := time.Date(2026, 1, 31, 9, 0, 0, 0, time.UTC)
	known := []dialog.ExtensionInfo{
		{Extension: dialog.Extension{User: "600"}, Kind: dialog.Queue, Declared: true},
		{Extension: dialog.Extension{User: "101", Domain: "pbx.example"}, Kind: dialog.Phone, Contacts: []dialog.Contact{{URI: "sip:101@192.0.2.11:5060", Until: at}}},
	}
	party := func(user string, over bool) dialog.Party {
		return dialog.Party{ID: "p", Extension: dialog.Extension{User: user, Domain: "pbx.example"}, Status: dialog.Answered, Since: at, Over: over}
	}
	return Config{
		Config: ops.Config{
			Calls: func(context.Context) ([]dialog.Call, error) {
				return []dialog.Call{
					{ID: "aa", State: "talking", Since: at, Parties: []dialog.Party{party("101", false), party("102", true), party("600", false)}},
					{ID: "bb", State: "talking", Since: at, Parties: []dialog.Party{party("103", false), party("600", false)}},
				}, *failing
			},
			Extensions: func(context.Context) ([]dialog.ExtensionInfo, error) { return known, *failing },
			Extension: func(_ context.Context, user string) (dialog.ExtensionInfo, bool, error) {
				if user == "199" { // it matches the pattern
					return dialog.ExtensionInfo{Extension: dialog.Extension{User: user}, Kind: dialog.Phone}, true, *failing
				}
				i := slices.IndexFunc(known, func(k dialog.ExtensionInfo) bool { return k.User == user })
				if i < 0 {
					return dialog.ExtensionInfo{}, false, *failing
				}
				return known[i], true, *failing
			},
		},
	}
}

// extensionNumber allots a number to an extension, as a callback would.
func (r *rig) extensionNumber(user string) float64 {
	r.Helper()
	kv, err := r.js.KeyValue(r.Context(), "bellhop_extensions")
	if err != nil {
		r.Fatal(err)
	}
	n, err := kv.Create(r.Context(), base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString([]byte(user)), []byte(user))
	if err != nil {
		r.Fatal(err)
	}
	return float64(n)
}

func TestListsKnownExtensions(t *testing.T) {
	var failing error
	r := newRig(t, knownConfig(&failing))
	first, second := r.extensionNumber("0003*210"), r.extensionNumber("101")
	none := []any{}
	want := map[string]object{
		"0003*210": {"extension": "0003*210", "kind": "phone", "id": first, "declared": false, "registered": false, "contacts": none, "busy": false, "calls": none},
		"101": {"extension": "101", "domain": "pbx.example", "kind": "phone", "id": second, "declared": false, "registered": true,
			"contacts": []any{object{"uri": "sip:101@192.0.2.11:5060", "expires": "2026-01-31T09:00:00Z"}}, "busy": true, "calls": []any{"aa"}},
		"103": {"extension": "103", "domain": "pbx.example", "kind": "phone", "declared": false, "registered": false, "contacts": none, "busy": true, "calls": []any{"bb"}},
		"600": {"extension": "600", "domain": "pbx.example", "kind": "queue", "declared": true, "registered": false, "contacts": none, "busy": true, "calls": []any{"aa", "bb"}},
	}
	items := r.want(200, "GET", "/v1/extensions", nil)["items"]
	if d := cmp.Diff([]any{want["0003*210"], want["101"], want["103"], want["600"]}, items); d != "" {
		t.Errorf("extensions (- want, + got):\n%s", d)
	}
	for name, want := range want {
		if d := cmp.Diff(want, r.want(200, "GET", "/v1/extensions/"+name, nil)); d != "" {
			t.Errorf("%s (- want, + got):\n%s", name, d)
		}
	}
	if d := cmp.Diff(want["101"], r.want(200, "GET", "/v1/extensions/101@pbx.example/", nil)); d != "" {
		t.Errorf("by its domain (- want, + got):\n%s", d)
	}
	if e := r.want(200, "GET", "/v1/extensions/199", nil); e["extension"] != "199" || e["busy"] != false {
		t.Errorf("what the pattern names is %v", e)
	}
	for _, name := range []string{"102", "999", "101@elsewhere", "@", "%20", "6"} {
		r.wantProblem(404, "", "GET", "/v1/extensions/"+name, nil)
	}

	names := func(r *rig, query string) (names []string) {
		for _, item := range r.want(200, "GET", "/v1/extensions"+query, nil)["items"].([]any) {
			names = append(names, item.(object)["extension"].(string))
		}
		return names
	}
	bound, _ := r.newToken(object{"scope": "read", "extensions": []string{"101", "600@pbx.example", "0003*210@pbx.example"}})
	for _, tt := range []struct {
		client *rig
		query  string
		want   []string
	}{
		{r, "?registered=true", []string{"101"}},
		{r, "?registered=false&busy=true", []string{"103", "600"}},
		{r, "?busy=false", []string{"0003*210"}},
		{r, "?limit=2", []string{"0003*210", "101"}},
		{r, "?cursor=101", []string{"103", "600"}},
		{bound, "", []string{"101", "600"}},
	} {
		if got := names(tt.client, tt.query); !slices.Equal(got, tt.want) {
			t.Errorf("%s: got %v, want %v", tt.query, got, tt.want)
		}
	}
	if e := bound.want(200, "GET", "/v1/extensions/600", nil); !cmp.Equal(e, want["600"]) {
		t.Errorf("who is bound to 600 sees %v", e)
	}
	bound.wantProblem(404, "", "GET", "/v1/extensions/103", nil)
	r.wantProblem(422, "query.busy", "GET", "/v1/extensions?busy=perhaps", nil)

	failing = errors.New("the tracker is busy")
	r.wantProblem(503, "", "GET", "/v1/extensions", nil)
	r.wantProblem(503, "", "GET", "/v1/extensions/101", nil)
	r.wantProblem(503, "", "GET", "/v1/calls/aa", nil)
	failing = nil
	r.store.Close()
	r.wantProblem(503, "", "GET", "/v1/extensions/101", nil)
}

func TestListsNoExtensions(t *testing.T) {
	r := newRig(t, Config{})
	if out := r.want(200, "GET", "/v1/extensions", nil); !cmp.Equal(out, object{"items": []any{}, "next": ""}) {
		t.Errorf("got %v", out)
	}
	r.wantProblem(404, "", "GET", "/v1/extensions/101", nil)
	r.wantProblem(404, "", "GET", "/v1/calls/aa", nil)
}

func TestGetsLiveCall(t *testing.T) {
	r := newRig(t, knownConfig(new(error)))
	for i, item := range r.want(200, "GET", "/v1/calls", nil)["items"].([]any) {
		if d := cmp.Diff(item, any(r.want(200, "GET", "/v1/calls/"+[]string{"aa", "bb"}[i], nil))); d != "" {
			t.Errorf("call (- as listed, + alone):\n%s", d)
		}
	}
	var over []any
	call := r.want(200, "GET", "/v1/calls/aa", nil)
	for _, p := range call["parties"].([]any) {
		over = append(over, p.(object)["over"])
	}
	if !cmp.Equal(over, []any{nil, true, nil}) {
		t.Errorf("over are %v", over)
	}
	bound, _ := r.newToken(object{"scope": "read", "extensions": []string{"103"}})
	if call := bound.want(200, "GET", "/v1/calls/bb", nil); len(call["parties"].([]any)) != 1 {
		t.Errorf("who is bound to 103 sees %v", call)
	}
	bound.wantProblem(404, "", "GET", "/v1/calls/aa", nil)
	for _, id := range []string{"a", "aaa", "%20", "*"} {
		r.wantProblem(404, "", "GET", "/v1/calls/"+id, nil)
	}
}

func TestStatusShowsCounts(t *testing.T) {
	var failing error
	c := knownConfig(&failing)
	var reasons []string
	c.Node, c.Ready = "ONE", func() []string { return reasons }
	c.Suppressed = func() uint64 { return 7 }
	since := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	c.Peers = func() ([]ops.Target, []ops.Trunk) {
		return []ops.Target{
				{Configured: "udp://pbx.example", Address: "udp://192.0.2.9:5060", State: "resting", Since: &since, Answer: "200 OK", Answered: &since, RoundTrip: 1500, Error: "INVITE: 503 Overloaded", Failed: &since},
				{Configured: "udp://gone.example", State: "unresolved", Since: &since, Error: "no such name"},
			}, []ops.Trunk{{Name: "carrier", Refused: 8, Targets: []ops.Target{
				{Configured: "udp://192.0.2.1:5060", Address: "udp://192.0.2.1:5060", State: "up", Since: &since, Answer: "200 OK"},
				{Configured: "udp://192.0.2.2:5060", Address: "udp://192.0.2.2:5060", State: "unknown"},
			}}}
	}
	expires := time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)
	c.Edge = func() (ops.Connections, []ops.Listener, []ops.Certificate) {
		return ops.Connections{TCP: 1, TLS: 2, WS: 3, WSS: 4, Refused: 5, HandshakesFailed: 6},
			[]ops.Listener{{Address: "tls://192.0.2.1:5061", Side: "edge", Connections: 2}},
			[]ops.Certificate{{Name: "sip.tls_cert[0]", Hosts: []string{"a.example"}, Issuer: "CN=ca", Expires: expires, State: ops.CertificateExpiring}}
	}
	r := newRig(t, c)
	r.want(201, "POST", "/v1/subscriptions", withFields(subscription(), "extension", "999"))
	r.want(201, "POST", "/v1/subscriptions", withFields(subscription(), "active", false))
	r.publishEvents(event(0, "101"), event(1, "101"))
	f := r.follow("")
	got := r.want(200, "GET", "/v1/status", nil)
	started, err := time.Parse(time.RFC3339, got["started"].(string))
	if up, ok := got["uptime"].(float64); err != nil || !ok || time.Since(started) < time.Duration(up)*time.Second {
		t.Errorf("it has started %v, and is up for %v", got["started"], got["uptime"])
	}
	want := object{
		"version": "v0", "node": "ONE", "started": got["started"], "uptime": got["uptime"],
		"delivering": false, "ready": true, "reasons": []any{}, "degraded": []any{}, "store": object{"ok": true, "losses": []any{}},
		"calls": 2.0, "streams": 1.0, "attempts_suppressed": 7.0,
		"pbx": []any{
			object{"configured": "udp://pbx.example", "address": "udp://192.0.2.9:5060", "state": "resting", "since": "2026-01-02T03:04:05Z", "answer": "200 OK",
				"answered": "2026-01-02T03:04:05Z", "round_trip": 1500.0, "error": "INVITE: 503 Overloaded", "failed": "2026-01-02T03:04:05Z"},
			object{"configured": "udp://gone.example", "state": "unresolved", "since": "2026-01-02T03:04:05Z", "error": "no such name"},
		},
		"trunks": []any{object{"name": "carrier", "calls_refused": 8.0, "targets": []any{
			object{"configured": "udp://192.0.2.1:5060", "address": "udp://192.0.2.1:5060", "state": "up", "since": "2026-01-02T03:04:05Z", "answer": "200 OK"},
			object{"configured": "udp://192.0.2.2:5060", "address": "udp://192.0.2.2:5060", "state": "unknown"},
		}}},
		"connections":   object{"tcp": 1.0, "tls": 2.0, "ws": 3.0, "wss": 4.0, "refused": 5.0, "handshakes_failed": 6.0},
		"listeners":     []any{object{"address": "tls://192.0.2.1:5061", "side": "edge", "connections": 2.0}},
		"certificates":  []any{object{"name": "sip.tls_cert[0]", "hosts": []any{"a.example"}, "issuer": "CN=ca", "expires": "2026-03-01T00:00:00Z", "state": "expiring"}},
		"subscriptions": object{"all": 2.0, "active": 1.0, "paused": 0.0, "disabled": 1.0},
		"events":        object{"published": 2.0, "dropped": 0.0, "unpublished": 0.0},
		"deliveries":    object{"pending": 0.0, "delivered": 0.0, "expired": 0.0, "refused": 0.0, "canceled": 0.0, "failed_attempts": 0.0},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("status (- want, + got):\n%s", d)
	}
	f.stop()

	r.startNotifier()
	for tick := time.NewTicker(time.Millisecond); !r.notifier.Delivering(); {
		<-tick.C
	}
	failing, reasons = errors.New("the tracker is busy"), []string{"draining"}
	got = r.want(200, "GET", "/v1/status", nil)
	if got["delivering"] != true || got["ready"] != false || !cmp.Equal(got["reasons"], []any{"draining"}) || got["calls"] != nil {
		t.Errorf("got %v", got)
	}
	r.store.Close()
	got = r.want(200, "GET", "/v1/status", nil)
	if store := got["store"].(object); store["ok"] != false || store["why"] == "" || len(got["reasons"].([]any)) != 2 {
		t.Errorf("without a store: %v", got)
	}
}
