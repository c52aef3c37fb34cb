package admin

import (
	"encoding/json"
	"net/http/httptest"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/time/rate"

	"bellhop/admin/limit"
	"bellhop/notify"
)

var modified = regexp.MustCompile(`"modified":"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d\d:\d\d"`)

// wantJSON sends a request and expects a status and JSON; "" is an empty body. In the
// expected JSON, M stands for a valid time of modification and H for the host.
func (r *rig) wantJSON(status int, want, method, path string, body any, header ...string) {
	r.Helper()
	resp, text := r.raw(method, path, body, header...)
	if resp.StatusCode != status {
		r.Errorf("%s %s: %d, want %d: %s", method, path, resp.StatusCode, status, text)
		return
	}
	if want == "" {
		if text != "" {
			r.Errorf("%s %s: a body where none belongs: %s", method, path, text)
		}
		return
	}
	if typ := resp.Header.Get("Content-Type"); typ != "application/json" {
		r.Errorf("%s %s: Content-Type %q", method, path, typ)
	}
	text = modified.ReplaceAllString(text, `"modified":"M"`)
	text = strings.ReplaceAll(text, r.url, "H")
	var got, wanted any
	if err := json.Unmarshal([]byte(text), &got); err != nil {
		r.Fatalf("%s %s: %v in %q", method, path, err, text)
	}
	if err := json.Unmarshal([]byte(want), &wanted); err != nil {
		r.Fatal(err)
	}
	if d := cmp.Diff(wanted, got); d != "" {
		r.Errorf("%s %s (- want, + got):\n%s", method, path, d)
	}
}

// subscriptionTexts returns each subscription as its extension and types, oldest first.
func (r *rig) subscriptionTexts() (all []string) {
	for _, s := range r.notifier.Subscriptions() {
		all = append(all, s.Extension+s.ExtensionRegex+" "+strings.Join(s.Types, ","))
	}
	return all
}

func (r *rig) wantSubs(want ...string) {
	r.Helper()
	if got := r.subscriptionTexts(); !slices.Equal(got, want) {
		r.Errorf("there are %q, want %q", got, want)
	}
}

// createSubscription creates a subscription over /v1 and returns its id.
func (r *rig) createSubscription(extension string, types ...string) string {
	r.Helper()
	return r.want(201, "POST", "/v1/subscriptions", object{"extension": extension, "types": types, "url": "http://crm.example/"})["id"].(string)
}

// The three APIs manage the same subscriptions.
func TestDialectsShareSubscriptions(t *testing.T) {
	r := newRig(t, Config{})
	id := r.want(200, "POST", "/uapi/extensions/@me/101/phoneCallEvents/2", object{"url": "http://a.example/"})["PhoneCallEvent"].(object)["id"].(string)
	n := r.want(201, "POST", "/extension/101/event/", object{"url": "http://b.example/", "event_type": "answer"})
	r.createSubscription("101", "dial-in", "hangup", "ringing")

	// Each lists the events of the others.
	sub := r.want(200, "GET", "/v1/subscriptions/"+id, nil)
	for key, want := range (object{"extension": "101", "types": []any{"hangup"}, "url": "http://a.example/", "method": "GET", "dialect": "unified", "active": true}) {
		if d := cmp.Diff(want, sub[key]); d != "" {
			t.Errorf("in /v1, %s of what /uapi made (- want, + got):\n%s", key, d)
		}
	}
	subs := r.notifier.Subscriptions()
	if s := subs[1]; s.Extension != "101" || !slices.Equal(s.Types, []string{"answer"}) || s.Method != "GET" || s.Dialect != notify.Telphin || !s.Active {
		t.Errorf("in /v1, what Telphin's client made is %+v", s)
	}
	_, text := r.raw("GET", "/extension/101/event/", nil)
	var events []telphinEvent
	if err := json.Unmarshal([]byte(text), &events); err != nil {
		t.Fatal(err)
	}
	var types []string
	numbers := map[uint64]bool{}
	for _, e := range events {
		types = append(types, e.EventType+" "+e.Method+" "+e.URL)
		numbers[e.ID] = true
	}
	if want := []string{"hangup GET http://a.example/", "answer GET http://b.example/", "dial-in POST http://crm.example/", "hangup POST http://crm.example/"}; !slices.Equal(types, want) || len(numbers) != 4 || !numbers[uint64(n["id"].(float64))] {
		t.Errorf("Telphin lists %q with the ids %v, want %q", types, numbers, want)
	}
	r.wantJSON(200, `[{"startIndex":0,"totalResults":5,"itemsPerPage":20,"filtered":true,"sorted":true,"entry":[
		{"type":"2","url":"http://a.example/"},
		{"type":"3","url":"http://b.example/"},{"type":"4","url":"http://b.example/"},
		{"type":"0","url":"http://crm.example/"},{"type":"2","url":"http://crm.example/"}]}]`,
		"GET", "/uapi/extensions/@me/101/phoneCallEvents?fields=type,url", nil)

	// Deleting one type deletes no other, and none that the dialect does not know.
	r.wantJSON(200, `[{"id":"`+id+`"},{"id":"`+subs[2].ID+`"}]`, "DELETE", "/uapi/extensions/@me/101/phoneCallEvents/2/", nil)
	r.wantSubs("101 answer", "101 dial-in,ringing")
	r.wantJSON(204, "", "DELETE", "/extension/101/event/", nil)
	r.wantSubs("101 ringing")
	r.wantJSON(200, "[]", "GET", "/extension/101/event/", nil)
	r.wantJSON(204, "", "GET", "/uapi/extensions/@me/101/phoneCallEvents/", nil)
}

// A change of one event changes no other, and nothing that the config declares.
func TestDialectsChangeOneEventOnly(t *testing.T) {
	r := newRig(t, Config{})
	id := r.createSubscription("101", "dial-in", "answer")
	s := notify.NewSubscription()
	s.Extension, s.Types, s.URL, s.Declared = "102", []string{"hangup"}, "http://crm.example/", "[[subscription]] 1"
	r.notifier.Declare([]notify.Subscription{s})
	declared := r.notifier.Subscriptions()[0]
	uapi, telphin := "/uapi/extensions/@me/", "/api/ver1.0/extension/"
	before := r.notifier.Subscriptions()

	r.wantUAPI(403, "access_denied", "PUT", uapi+"101/phoneCallEvents/0/"+id, object{"status": "0"})
	r.wantUAPI(403, "access_denied", "PUT", uapi+"101/phoneCallEvents/3/"+id, object{"url": "http://b.example/"})
	r.wantUAPI(400, "pce_id_invalid", "PUT", uapi+"101/phoneCallEvents/"+id, object{"status": "0"})
	r.wantUAPI(400, "pce_id_invalid", "DELETE", uapi+"101/phoneCallEvents/"+id, nil)
	r.wantUAPI(403, "access_denied", "PUT", uapi+"102/phoneCallEvents/2/"+declared.ID, object{"status": "0"})
	r.wantUAPI(403, "access_denied", "DELETE", uapi+"102/phoneCallEvents/2/"+declared.ID, nil)
	r.wantUAPI(403, "access_denied", "DELETE", uapi+"102/phoneCallEvents", nil)
	for _, extension := range []string{"101", "102"} {
		_, text := r.raw("GET", telphin+extension+"/event/", nil)
		var events []telphinEvent
		if err := json.Unmarshal([]byte(text), &events); err != nil || len(events) == 0 {
			t.Fatalf("%v in %s", err, text)
		}
		for _, e := range events {
			r.wantTelphin(409, "PUT", telphin+extension+"/event/"+itoa(e.ID), object{"method": "GET"})
		}
		if extension == "102" {
			r.wantTelphin(409, "DELETE", telphin+"102/event/"+itoa(events[0].ID)+"/", nil)
			r.wantTelphin(409, "DELETE", telphin+"102/event/", nil)
		}
	}
	if d := cmp.Diff(before, r.notifier.Subscriptions()); d != "" {
		t.Errorf("something changed:\n%s", d)
	}
	if entries, _ := r.raw("GET", uapi+"102/phoneCallEvents", nil); entries.StatusCode != 200 {
		t.Errorf("what the config declares is not listed: %d", entries.StatusCode)
	}

	// Types are deleted one by one, and the subscription with the last.
	r.wantJSON(200, `[{"id":"`+id+`"}]`, "DELETE", uapi+"101/phoneCallEvents/3/"+id, nil)
	r.wantUAPI(400, "pce_id_invalid", "DELETE", uapi+"101/phoneCallEvents/3/"+id, nil)
	r.wantSubs("102 hangup", "101 dial-in,answer-out")
	r.wantJSON(200, `[{"id":"`+id+`"}]`, "DELETE", uapi+"101/phoneCallEvents/4/"+id, nil)
	r.want(200, "PUT", uapi+"101/phoneCallEvents/0/"+id, object{"status": "0"})
	r.wantJSON(200, `[{"id":"`+id+`"}]`, "DELETE", uapi+"101/phoneCallEvents/0/"+id, nil)
	r.wantUAPI(400, "pce_id_invalid", "DELETE", uapi+"101/phoneCallEvents/0/"+id, nil)
	r.wantSubs("102 hangup")
}

// Another node has changed the subscription to delete. This node learns that only after
// a failed try, and tries again.
func TestDialectsDeleteAfterConcurrentChange(t *testing.T) {
	r := newRig(t, Config{})
	for _, path := range []string{"/uapi/extensions/@me/101/phoneCallEvents", "/extension/101/event"} {
		id := r.createSubscription("101", "hangup")
		other, err := notify.Open(t.Context(), r.js, notify.Config{})
		if err != nil {
			t.Fatal(err)
		}
		note := func(sub *notify.Subscription) error { sub.Note += "!"; return nil }
		if _, err := other.Edit(t.Context(), id, 0, note); err != nil {
			t.Fatal(err)
		}
		attempts, err := r.store.SubscribeSync("$KV.bellhop_subscriptions." + id)
		if err != nil {
			t.Fatal(err)
		}
		var hear sync.WaitGroup
		hear.Go(func() {
			if _, err := attempts.NextMsg(10 * time.Second); err != nil {
				t.Errorf("DELETE %s is not tried: %v", path, err)
			}
			if _, err := r.notifier.Edit(t.Context(), id, 0, note); err != nil {
				t.Error(err)
			}
		})
		if resp, text := r.raw("DELETE", path, nil); resp.StatusCode/100 != 2 {
			t.Errorf("DELETE %s: %d %s", path, resp.StatusCode, text)
		}
		hear.Wait()
		attempts.Unsubscribe()
		r.wantSubs()
	}
}

// Every dialect refuses a token that lacks a scope or the extension.
func TestDialectsCheckPermissions(t *testing.T) {
	r := newRig(t, Config{})
	uapi := func(extension string) string { return "/uapi/extensions/@me/" + extension + "/phoneCallEvents/" }
	telphin := func(extension string) string { return "/extension/" + extension + "/event/" }
	const all = "/client/@me/phone_events/"
	event := object{"url": "http://a.example/", "event_type": "hangup", "type": "2"}
	ids := map[string]string{}
	for _, extension := range []string{"101", "102"} {
		ids[extension] = r.want(200, "POST", uapi(extension), event)["PhoneCallEvent"].(object)["id"].(string)
		ids["of "+extension] = r.telphin(telphin(extension), "hangup")
	}
	ids["of all"] = r.telphin(all, "hangup")
	before := r.subscriptionTexts()

	reader, _ := r.newToken(object{"scope": "read"})
	for _, e := range []string{"101", "102"} {
		reader.want(200, "GET", telphin(e)+ids["of "+e], nil)
		reader.want(200, "GET", "/extension/"+e+"/limit/", nil)
		if resp, _ := reader.raw("GET", uapi(e)+ids[e], nil); resp.StatusCode != 200 {
			t.Errorf("a reader reads %s: %d", e, resp.StatusCode)
		}
	}
	reader.want(200, "GET", all+ids["of all"], nil)
	bound, _ := r.newToken(object{"scope": "write", "extensions": []string{"101"}})
	for _, method := range []string{"POST", "PUT", "DELETE"} {
		reader.wantUAPI(403, "access_denied", method, uapi("101")+ids["101"], event)
		reader.wantUAPI(403, "access_denied", method, uapi("101"), nil)
		reader.wantTelphin(403, method, telphin("101")+ids["of 101"], event)
		reader.wantTelphin(403, method, telphin("101"), nil)
		reader.wantTelphin(403, method, all, nil)
		bound.wantUAPI(403, "access_denied", method, uapi("102")+ids["102"], event)
		bound.wantUAPI(403, "access_denied", method, uapi("102"), nil)
		bound.wantTelphin(403, method, telphin("102")+ids["of 102"], event)
		bound.wantTelphin(403, method, telphin("@102"), nil)
	}
	bound.wantUAPI(403, "access_denied", "GET", uapi("102"), nil)
	bound.wantTelphin(403, "GET", telphin("102"), nil)
	bound.wantTelphin(403, "GET", "/extension/102/limit/", nil)
	bound.wantTelphin(403, "POST", all, event)
	bound.wantTelphin(404, "GET", all+ids["of all"], nil)
	bound.wantTelphin(404, "DELETE", all+ids["of all"], nil)
	bound.wantJSON(200, "[]", "GET", all, nil)
	bound.wantJSON(204, "", "DELETE", all, nil)
	bound.wantUAPI(400, "pce_id_invalid", "DELETE", uapi("101")+ids["102"], nil)
	bound.wantTelphin(404, "DELETE", telphin("101")+ids["of 102"], nil)
	r.wantSubs(before...)

	// It may change its own, by name: the numbers of other extensions do not matter.
	for n := range uint64(101) {
		if got := r.allotNumber("3" + itoa(n)); got != n+1 {
			t.Fatalf("extension %d has the number %d", n, got)
		}
	}
	r.wantTelphin(400, "GET", telphin("101"), nil)
	bound.want(200, "GET", telphin("101")+ids["of 101"], nil)
	bound.want(200, "PUT", uapi("101")+ids["101"], object{"status": "0"})
	bound.wantJSON(204, "", "DELETE", telphin("101"), nil)
	r.wantSubs("102 hangup", "102 hangup", ".* hangup")
}

func TestDialectsRefuseCrossOriginChanges(t *testing.T) {
	r := newRig(t, Config{})
	r.createSubscription("101", "hangup")
	page := []string{"Sec-Fetch-Site", "cross-site", "Cookie", cookies, "X-XSRF-Token", "44HzZ6YIHDN6mbRY"}
	r.wantUAPI(403, "access_denied", "DELETE", "/uapi/extensions/@me/101/phoneCallEvents", nil, page...)
	r.wantTelphin(403, "DELETE", "/extension/101/event/", nil, page...)
	r.wantTelphin(403, "POST", "/oauth/token", nil, page...)
	r.wantSubs("101 hangup")
}

// A 429 has the format of the dialect.
func TestDialectsHaveRateLimits(t *testing.T) {
	r := newRig(t, Config{})
	client, _ := r.newToken(object{"scope": "read"})
	limit := r.server.auth.Tokens.Find(client.token, time.Now()).Limit
	limit.SetBurst(1)
	limit.SetLimit(1e-9)
	client.want(200, "GET", "/limit/", nil)
	client.wantUAPI(429, "too_many_requests", "GET", events, nil)
	resp, out := client.do("GET", "/limit/", nil)
	h := resp.Header
	if resp.StatusCode != 429 || out["status"] != "rate_limit_exceeded" || out["message"] == "" || h.Get("X-RateLimit-Limit") != "1" || h.Get("X-RateLimit-Remaining") != "0" || h.Get("X-RateLimit-Reset") == "" || h.Get("Retry-After") == "" {
		t.Errorf("%d %v %v", resp.StatusCode, h, out)
	}
}

// The dialects serve only their own paths, and clean no path.
func TestDialectsLeaveOtherPathsAlone(t *testing.T) {
	r := newRig(t, Config{})
	r.createSubscription("101", "dial-in")
	r.want(200, "GET", "/healthz", nil)
	r.want(200, "GET", "/readyz/", nil)
	r.want(200, "GET", "/metrics", nil)
	r.want(200, "GET", "/openapi.json", nil)
	r.want(200, "GET", "/v1/subscriptions", nil)
	for _, path := range []string{"/index.html", "/uapix", "/api", "/api/ver2.0/limit", "/limits", "/v1/uapi", "/v1//subscriptions", "/v1/../healthz", "//", "/calls//x"} {
		r.wantProblem(404, "", "GET", path, nil)
	}
	r.token = ""
	for _, path := range []string{"/uapi", "/uapi/", "/uapi/extensions/@me/101/phoneCallEvents", "/uapi/x/../../healthz"} {
		r.wantUAPI(401, "access_denied", "GET", path, nil)
	}
	for _, path := range []string{"/api/ver1.0", "/api/ver1.0/", "/api/ver1.0/extension/101/event/", "/extension", "/limit/", "/client/1/phone_events", "/oauth/x", "/extension/../healthz"} {
		r.wantJSON(401, `{"status":401,"message":"Unauthorized"}`, "GET", path, nil)
	}
}

func TestDialectsRefuseLargeBodies(t *testing.T) {
	r := newRig(t, Config{})
	body := object{"note": strings.Repeat("x", limit.MaxBody)}
	r.wantUAPI(413, "request_invalid", "POST", "/uapi/extensions/@me/101/phoneCallEvents/0", body)
	r.wantTelphin(413, "POST", "/extension/101/event/", body)
	r.wantTelphin(413, "POST", "/oauth/token", body)
}

// A missing store is not reported as the client's error.
func TestDialectsWithoutStore(t *testing.T) {
	r := newRig(t, Config{})
	r.store.Close()
	r.wantUAPI(500, "internal_server_error", "POST", "/uapi/extensions/@me/101/phoneCallEvents/0", object{"url": "http://a.example/"})
	r.wantTelphin(500, "POST", "/extension/@101/event/", object{"url": "http://a.example/", "event_type": "hangup"})
	r.wantTelphin(500, "GET", "/extension/101/event/", nil)
}

func TestSubscriptionLimitSpansDialects(t *testing.T) {
	r := newRig(t, Config{})
	r.createSubscription("101", "dial-in", "dial-out", "hangup")
	r.want(200, "POST", "/uapi/extensions/@me/101/phoneCallEvents/0", object{"url": "http://a.example/"})
	r.wantJSON(200, `{"event":{"limit":3,"used":2}}`, "GET", "/extension/101/limit/", nil)
	r.want(201, "POST", "/extension/101/event/", object{"url": "http://a.example/", "event_type": "hangup"})
	r.wantTelphin(400, "POST", "/extension/101/event/", object{"url": "http://a.example/", "event_type": "hangup"})
	r.wantUAPI(403, "access_denied", "POST", "/uapi/extensions/@me/101/phoneCallEvents/0", object{"url": "http://a.example/"})
	r.wantJSON(200, `{"event":{"limit":3,"used":3}}`, "GET", "/extension/101/limit/", nil)
	r.wantJSON(200, `{"event":{"limit":3,"used":0}}`, "GET", "/limit", nil)
}

// FuzzDialects checks that no request does more than it names: a request that is not
// exactly to a whole collection removes at most one event.
func FuzzDialects(f *testing.F) {
	for _, path := range []string{
		"/uapi/extensions/@me/101/phoneCallEvents", "/uapi/extensions/@me/101/phoneCallEvents/0/", "/uapi/extensions/@me/101/phoneCallEvents/0/ID",
		"/uapi/extensions/@me/101/phoneCallEvents//", "/uapi/extensions/@me/101/phoneCallEvents/0//", "/uapi/extensions/@me/101/phoneCallEvents/0/../",
		"/uapi/extensions/@me/101/phoneCallEvents/%2F", "/uapi/extensions/@me/101/phoneCallEvents/%2e%2e/", "/uapi/extensions/@me/101/phoneCallEvents/ID/0",
		"/uapi//extensions/@me/101/phoneCallEvents", "/uapi/extensions/@me/101/phoneCallEvents/5", "/uapi/extensions/@me/101/phoneCallEvents?filterBy=id&filterValue=ID",
		"/extension/101/event/", "/extension/101/event//", "/extension/101/event/72/", "/extension/101/event/-1", "/extension/101/event/%00",
		"/extension/%31%30%31/event", "/extension//event/", "/client/@me/phone_events/", "/client/@me/phone_events/1", "/api/ver1.0/extension/@101/event?id=72",
		"/api/ver1.0/extension/101/event/ID", "/limit", "/oauth/token", "/v1/subscriptions/ID", "/?x", "/calls//", "/calls//x",
	} {
		for _, method := range []string{"GET", "POST", "PUT", "DELETE", "PATCH"} {
			f.Add(method, path, `{"url":"http://a.example/","type":"0","event_type":"hangup"}`)
			f.Add(method, path, "")
		}
	}
	for _, change := range []string{`{"types":["dial-out"]}`, `{"types":["answer"]}`, `{"url":"http://a.example/"}`, `{"url":"http://b.example/"}`, `{"extension":"102"}`} {
		f.Add("PATCH", "/v1/subscriptions/ID", change)
	}
	c, js := openStore(f, Config{})
	s := openServer(f, js, c)
	s.auth.Tokens.Find(testToken, time.Now()).Limit.SetLimit(rate.Inf)
	h := s.Handler()
	var kept foundSubscriptions
	f.Fuzz(func(t *testing.T, method, path, body string) {
		kept.restore(t, c.Notifier)
		u, err := url.Parse(strings.ReplaceAll(path, "ID", kept[0].ID))
		if err != nil || !strings.HasPrefix(path, "/") || u.Host != "" || !validMethod(method) {
			return
		}
		r := httptest.NewRequest("GET", "/", strings.NewReader(body))
		r.Method, r.URL, r.RequestURI = method, u, u.RequestURI()
		r.Header.Set("Authorization", "Bearer "+testToken)
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if w.Code < 200 || w.Code == 500 || w.Code == 503 {
			t.Errorf("%s %s: %d %s", method, path, w.Code, w.Body)
		}
		page := w.Header().Get("Content-Security-Policy") != ""
		if (w.Body.Len() > 0) != json.Valid(w.Body.Bytes()) && !page && !strings.HasPrefix(u.Path, "/metrics") {
			t.Errorf("%s %s: %d with a body that is no JSON: %s", method, path, w.Code, w.Body)
		}
		gone := 0
		for _, one := range kept {
			if _, err := c.Notifier.Subscription(one.ID); err != nil {
				gone++
			}
		}
		whole := method == "DELETE" && u.RawQuery == "" && strings.TrimSpace(body) == "" && collection.MatchString(u.EscapedPath())
		if gone > 1 && !whole {
			t.Errorf("%s %s with %q deletes %d", method, path, body, gone)
		}
	})
}

var collection = regexp.MustCompile(`^(/uapi/extensions/[^/]+/[^/]+/phoneCallEvents(/[0-4])?|(/api/ver1\.0)?/(extension/[^/]+/event|client/[^/]+/phone_events))/?$`)

func validMethod(m string) bool {
	return m != "" && !strings.ContainsFunc(m, func(r rune) bool { return r < 'A' || r > 'Z' })
}

// foundSubscriptions are the subscriptions that exist at each fuzzed request: two of
// 101 and two of all extensions.
type foundSubscriptions [4]notify.Subscription

// restore undoes the effects of the request before: the subscriptions exist as they
// were created, and no others.
func (k *foundSubscriptions) restore(t *testing.T, n *notify.Notifier) {
	t.Helper()
	there := map[string]bool{}
	for _, s := range n.Subscriptions() {
		if slices.ContainsFunc(k[:], func(one notify.Subscription) bool { return one.ID == s.ID && one.Revision == s.Revision }) {
			there[s.ID] = true
		} else if err := n.Unsubscribe(t.Context(), s.ID, 0); err != nil {
			t.Fatal(err)
		}
	}
	for i, s := range []notify.Subscription{
		{Extension: "101", Types: []string{"dial-in"}},
		{Extension: "101", Types: []string{"hangup"}},
		{ExtensionRegex: ".*", Types: []string{"dial-in"}},
		{ExtensionRegex: ".*", Types: []string{"hangup"}},
	} {
		if there[k[i].ID] {
			continue
		}
		s.URL, s.Method = "http://kept.example/", "GET"
		var err error
		if k[i], err = n.Subscribe(t.Context(), s); err != nil {
			t.Fatal(err)
		}
	}
}

func itoa(n uint64) string { return strconv.FormatUint(n, 10) }
