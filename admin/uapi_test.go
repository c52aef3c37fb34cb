package admin

import (
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"bellhop/notify"
)

// wantUAPI sends a request and expects an error of the UnifiedAPI.
func (r *rig) wantUAPI(status int, code, method, path string, body any, header ...string) {
	r.Helper()
	resp, out := r.do(method, path, body, header...)
	e, _ := out["error"].(object)
	message, _ := e["message"].(string)
	if resp.StatusCode != status || e["code"] != code || message == "" || len(out) != 1 || len(e) != 2 {
		r.Errorf("%s %s: %d %v, want %d %s", method, path, resp.StatusCode, out, status, code)
	}
}

const (
	events = "/uapi/extensions/@me/0003*210/phoneCallEvents"

	// The cookies of the examples belong to a session of the page.
	cookies = "dev=ffffffffffffffff2kjZMApYaH; xsrf-token=44HzZ6YIHDN6mbRY; vn=" + testToken
)

// awesome returns the event of the documents' examples.
func awesome(pairs ...any) object {
	return withFields(object{"method": "0", "note": "My phone call event is awesome", "url": "http://myevent.com/SaveMyPhoneCallDetails", "status": "1"}, pairs...)
}

// The examples of the documents, as curl sends them.
func TestUAPIDocumentedExamples(t *testing.T) {
	r := newRig(t, Config{})
	r.token = ""
	header := []string{"x-xsrf-token", "44HzZ6YIHDN6mbRY", "content-type", "application/json", "cookie", cookies}
	created := r.want(200, "POST", events+"/0/", `{"method":"0","note":"My phone call event is awesome","url":"http://myevent.com/SaveMyPhoneCallDetails","status":"1"}`, header...)
	id := created["PhoneCallEvent"].(object)["id"].(string)
	if len(id) != 30 || strings.ContainsFunc(id, func(r rune) bool {
		return (r < '0' || r > '9') && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z')
	}) {
		t.Errorf("the id is %q, want 30 letters and digits", id)
	}
	event := `{"type":"0","id":"` + id + `","method":"0","note":"My phone call event is awesome","url":"http://myevent.com/SaveMyPhoneCallDetails","status":"1","modified":"M","links":{"self":"H` + events + `/0/` + id + `"}}`
	page := `[{"startIndex":0,"totalResults":1,"itemsPerPage":20,"filtered":true,"sorted":true,"entry":[` + event + `]}]`
	r.wantJSON(200, page, "GET", events+"/0/"+id, nil, header...)
	r.wantJSON(200, page, "GET", events+"/0/"+id+"/", `{"startIndex":0}`, header...) // curl's --data-binary with -X GET
	r.wantJSON(200, page, "GET", events, nil, header...)
	r.wantJSON(200, page, "GET", events+"/"+id, nil, header...)

	changed := strings.Replace(event, `"method":"0","note":"My phone call event is awesome"`, `"method":"1","note":"I want to use POST for my event"`, 1)
	r.wantJSON(200, `{"PhoneCallEvent":`+changed+`}`, "PUT", events+"/0/"+id+"/", `{"method":"1","note":"I want to use POST for my event"}`, header...)
	sub := r.notifier.Subscriptions()[0]
	if sub.ID != id || sub.Extension != "0003*210" || sub.Method != "POST" || sub.Dialect != notify.Unified || !slices.Equal(sub.Types, []string{"dial-in"}) {
		t.Errorf("it is the subscription %+v", sub)
	}
	r.wantJSON(200, `[{"id":"`+id+`"}]`, "DELETE", events+"/0/"+id, nil, header...)
	r.wantJSON(204, "", "GET", events+"/0", nil, header...)
	r.wantSubs()
}

func TestUAPICreatesEvent(t *testing.T) {
	r := newRig(t, Config{})
	for path, word := range map[string]string{"0": "dial-in", "1/": "dial-out", "2": "hangup", "3": "answer-in", "4": "answer-out"} {
		e := r.want(200, "POST", "/uapi/extensions/@owner/21"+path[:1]+"/phoneCallEvents/"+path, object{"url": "http://a.example/x"})["PhoneCallEvent"].(object)
		for key, want := range (object{"type": path[:1], "method": "0", "status": "1", "note": "", "url": "http://a.example/x"}) {
			if e[key] != want {
				t.Errorf("type %s: %s is %v, want %v", path, key, e[key], want)
			}
		}
		sub, err := r.notifier.Subscription(e["id"].(string))
		if err != nil || !slices.Equal(sub.Types, []string{word}) || !sub.Active {
			t.Errorf("type %s: %+v, %v; want %s", path, sub, err, word)
		}
	}

	// The older form has the type in the body; numbers stand for strings.
	e := r.want(200, "POST", "/uapi/extensions/17/220/phoneCallEvents/", awesome("type", "2", "status", "0", "method", "1"))["PhoneCallEvent"].(object)
	if e["type"] != "2" || e["status"] != "0" || e["method"] != "1" || !strings.HasPrefix(e["links"].(object)["self"].(string), r.url+"/uapi/extensions/17/220/phoneCallEvents/2/") {
		t.Errorf("made with the type in the body: %v", e)
	}
	e = r.want(200, "POST", "/uapi/extensions/@viewer/220/phoneCallEvents/4", awesome("type", 4, "status", 1, "method", 1, "flavor", "?"))["PhoneCallEvent"].(object)
	if e["type"] != "4" || e["status"] != "1" || e["method"] != "1" {
		t.Errorf("made with numbers: %v", e)
	}
	if e["type"] == "4" {
		sub, _ := r.notifier.Subscription(e["id"].(string))
		if sub.Method != "POST" {
			t.Errorf("method 1 is %s", sub.Method)
		}
	}
}

func TestUAPIRefusesInvalidEvents(t *testing.T) {
	r := newRig(t, Config{})
	user := "/uapi/extensions/"
	for _, tt := range []struct {
		code, path string
		body       any
	}{
		{"pcet_type_invalid", events + "/5", awesome()},
		{"pcet_type_invalid", events + "/00", awesome()},
		{"pcet_type_invalid", events + "/-1", awesome()},
		{"pcet_type_invalid", events + "/dial-in", awesome()},
		{"pcet_type_invalid", events + "//", awesome()},
		{"pcet_type_invalid", events, awesome()},
		{"pcet_type_invalid", events, awesome("type", "5")},
		{"pcet_type_invalid", events, awesome("type", "dial-in")},
		{"pcet_type_invalid", events, awesome("type", []string{"0"})},
		{"pcet_type_invalid", events, awesome("type", 0.5)},
		{"pcet_type_invalid", events + "/0", awesome("type", "1")},
		{"pce_id_invalid", events + "/0/NqeyDRqo4FtabmFj8gNWq3hsiGNYyq", awesome()},
		{"pce_id_invalid", events + "/0//", awesome()},
		{"pce_method_invalid", events + "/0", awesome("method", "2")},
		{"pce_method_invalid", events + "/0", awesome("method", "GET")},
		{"pce_method_invalid", events + "/0", awesome("method", "")},
		{"pce_method_invalid", events + "/0", awesome("method", true)},
		{"pce_status_invalid", events + "/0", awesome("status", "2")},
		{"pce_status_invalid", events + "/0", awesome("status", "enabled")},
		{"pce_status_invalid", events + "/0", awesome("status", object{})},
		{"pce_url_invalid", events + "/0", awesome("url", nil)},
		{"pce_url_invalid", events + "/0", ""},
		{"pce_url_invalid", events + "/0", awesome("url", "")},
		{"pce_url_invalid", events + "/0", awesome("url", "ftp://a.example/")},
		{"pce_url_invalid", events + "/0", awesome("url", "http://a.example/ x")},
		{"pce_url_invalid", events + "/0", awesome("url", "http://a.example/{call_id}")}, // a field of json
		{"pce_url_invalid", events + "/0", awesome("url", "http://a.example:65536/")},
		{"pce_url_invalid", events + "/0", awesome("url", "https://a.example:0/x")},
		{"pce_url_invalid", events + "/0", awesome("url", false)},
		{"request_invalid", events + "/0", awesome("note", []int{1})},
		{"request_invalid", events + "/0", `{"url":`},
		{"request_invalid", events + "/0", `["url"]`},
		{"user_invalid", user + "@you/210/phoneCallEvents/0", awesome()},
		{"user_invalid", user + "/210/phoneCallEvents/0", awesome()},
		{"extension_invalid", user + "@me/@self/phoneCallEvents/0", awesome()},
		{"extension_invalid", user + "@me//phoneCallEvents/0", awesome()},
		{"extension_invalid", user + "@me/21%200/phoneCallEvents/0", awesome()},
		{"extension_invalid", user + "@me/210@/phoneCallEvents/0", awesome()},
		{"extension_invalid", user + "@me/" + strings.Repeat("1", 257) + "/phoneCallEvents/0", awesome()},
	} {
		r.wantUAPI(400, tt.code, "POST", tt.path, tt.body)
	}
	for _, path := range []string{"/uapi", "/uapi/", "/uapi/extensions/@me", "/uapi/extensions/@me/210/presence", "/uapi/phoneCalls/@me/simple", "/uapi/extensions/@me/210/phonecallevents/0", "/uapi/extensions/@me/210/phoneCallEvents%2F0"} {
		r.wantUAPI(501, "request_not_implemented", "POST", path, awesome())
	}
	r.wantUAPI(501, "request_not_implemented", "PATCH", events+"/0", awesome())
	r.wantSubs()
}

func TestUAPIUpdatesEvent(t *testing.T) {
	r := newRig(t, Config{})
	id := r.want(200, "POST", events+"/2", awesome())["PhoneCallEvent"].(object)["id"].(string)
	path := events + "/2/" + id
	for _, change := range []object{
		{"status": "0"}, {"status": 1}, {"method": "1"}, {"url": "https://b.example/?k=1"}, {"note": ""}, {"note": nil}, {},
		{"type": "2", "id": id, "modified": "yesterday", "links": object{}, "status": "0"}, // the whole event, as it was listed
	} {
		before := r.want(200, "PUT", events+"/"+id, object{})["PhoneCallEvent"].(object)
		after := r.want(200, "PUT", path, change)["PhoneCallEvent"].(object)
		for _, key := range []string{"type", "id", "method", "note", "url", "status"} {
			want := before[key]
			switch v := change[key].(type) {
			case string:
				want = v
			case int:
				want = "1"
			}
			if after[key] != want {
				t.Errorf("after %v %s is %v, want %v", change, key, after[key], want)
			}
		}
	}
	r.want(200, "PUT", path, "")

	r.wantUAPI(400, "pce_type_invalid", "PUT", path, object{"type": "1"})
	r.wantUAPI(400, "pce_type_invalid", "PUT", events+"/7/"+id, object{})
	r.wantUAPI(400, "pce_type_invalid", "PUT", events+"/x/"+id, object{})
	r.wantUAPI(400, "pce_id_invalid", "PUT", events+"/1/"+id, object{})
	r.wantUAPI(400, "pce_id_invalid", "PUT", path, object{"id": "other"})
	r.wantUAPI(400, "pce_id_invalid", "PUT", events+"/2", object{})
	r.wantUAPI(400, "pce_id_invalid", "PUT", events, object{"id": id})
	r.wantUAPI(400, "pce_id_invalid", "PUT", events+"/2/"+id[:29], object{})
	r.wantUAPI(400, "pce_id_invalid", "PUT", path+"/x", object{})
	r.wantUAPI(400, "pce_id_invalid", "PUT", "/uapi/extensions/@me/210/phoneCallEvents/2/"+id, object{})
	r.wantUAPI(400, "pce_method_invalid", "PUT", path, object{"method": "3"})
	r.wantUAPI(400, "pce_status_invalid", "PUT", path, object{"status": "x"})
	r.wantUAPI(400, "pce_url_invalid", "PUT", path, object{"url": "x"})
	r.wantUAPI(400, "request_invalid", "PUT", path, "x")

	// A method that the dialect of the callbacks does not have.
	sub := r.want(201, "POST", "/v1/subscriptions", object{"extension": "0003*210", "types": []string{"dial-in"}, "url": "http://a.example/", "dialect": "cti"})
	r.wantUAPI(400, "pce_method_invalid", "PUT", events+"/"+sub["id"].(string), object{"method": "0"})
}

func TestUAPIListsEvents(t *testing.T) {
	r := newRig(t, Config{})
	var ids []string
	for _, e := range []object{
		{"type": "0", "url": "http://c.example/", "note": "third, and 1"},
		{"type": "1", "url": "http://a.example/", "note": "first", "method": "1"},
		{"type": "1", "url": "http://b.example/", "note": "second", "status": "0"},
	} {
		ids = append(ids, r.want(200, "POST", events, e)["PhoneCallEvent"].(object)["id"].(string))
	}
	for query, want := range map[string]string{
		"":                                      "a b c",
		"/":                                     "a b c",
		"/1":                                    "a b",
		"/1/":                                   "a b",
		"/" + ids[0]:                            "c",
		"/0/" + ids[0] + "/":                    "c",
		"?sortOrder=asc":                        "a b c",
		"?sortOrder=ascending":                  "a b c",
		"?sortOrder=desc":                       "c b a",
		"?sortOder=descending":                  "c b a",
		"?sortOrder=asc&sortOder=desc":          "a b c",
		"?count=2":                              "a b",
		"?count=4999&startIndex=1":              "b c",
		"?count=1&startIndex=1&sortOrder=desc":  "b",
		"?startIndex=3":                         "",
		"?startIndex=5000":                      "",
		"?filterBy=type&filterValue=1":          "a b",
		"?filterBy=type&filterValue=2":          "",
		"?filterBy=method&filterValue=1":        "a",
		"?filterBy=status&filterValue=0":        "b",
		"?filterBy=note&filterValue=ir":         "a c",
		"?filterBy=note&filterValue=":           "a b c",
		"?filterBy=url&filterValue=b.example":   "b",
		"?filterBy=modified&filterValue=T":      "a b c",
		"?filterBy=id&filterValue=" + ids[1]:    "a",
		"?filterBy=id&filterValue=a":            "",
		"/0?filterBy=url&filterValue=a.example": "",
		"?_=17&cache=no":                        "a b c",
	} {
		resp, text := r.raw("GET", events+query, nil)
		var got []string
		for _, host := range []string{"a", "b", "c"} {
			if at := strings.Index(text, "http://"+host+".example"); at >= 0 {
				got = append(got, host)
			}
		}
		slices.SortFunc(got, func(a, b string) int {
			return strings.Index(text, "//"+a+".") - strings.Index(text, "//"+b+".")
		})
		status := 200
		if want == "" {
			status = 204
		}
		if strings.Join(got, " ") != want || resp.StatusCode != status {
			t.Errorf("GET %s: %d %q, want %q", query, resp.StatusCode, got, want)
		}
	}
	r.wantJSON(200, `[{"startIndex":1,"totalResults":3,"itemsPerPage":1,"filtered":true,"sorted":true,"entry":[
		{"id":"`+ids[2]+`","links":{"self":"H`+events+`/1/`+ids[2]+`"},"status":"0"}]}]`,
		"GET", events+"?fields=id,links,status&count=1&startIndex=1", nil)

	for query, code := range map[string]string{
		"?count=0":                           "count_invalid",
		"?count=5000":                        "count_invalid",
		"?count=many":                        "count_invalid",
		"?startIndex=-1":                     "startindex_invalid",
		"?startIndex=5001":                   "startindex_invalid",
		"?filterBy=links&filterValue=x":      "filterby_invalid",
		"?filterBy=color&filterValue=x":      "filterby_invalid",
		"?filterValue=x":                     "filterby_invalid",
		"?filterBy=note":                     "filtervalue_invalid",
		"?fields=id,color":                   "fields_invalid",
		"?fields=,":                          "fields_invalid",
		"?sortOrder=up":                      "sortorder_invalid",
		"?sortOder=up":                       "sortorder_invalid",
		"/5":                                 "pce_type_invalid",
		"/9/" + ids[0]:                       "pce_type_invalid",
		"/x/" + ids[0]:                       "pce_type_invalid",
		"/10":                                "pce_id_invalid",
		"/NqeyDRqo4FtabmFj8gNWq3hsiGNYyq":    "pce_id_invalid",
		"/1/" + ids[0]:                       "pce_id_invalid",
		"/0/" + strings.ToLower(ids[0]):      "pce_id_invalid",
		"/0/" + ids[0] + "/x":                "pce_id_invalid",
		"//":                                 "pce_id_invalid",
		"/0//" + ids[0]:                      "pce_id_invalid",
		"/..":                                "pce_id_invalid",
		"/" + url.PathEscape("0/"+ids[0]):    "pce_id_invalid",
		"/?filterBy=id%00&filterValue=" + "": "filterby_invalid",
	} {
		r.wantUAPI(400, code, "GET", events+query, nil)
	}
	if resp, text := r.raw("HEAD", events, nil); resp.StatusCode != 200 || text != "" {
		t.Errorf("HEAD: %d %q", resp.StatusCode, text)
	}
}

func TestUAPIDeletesEvents(t *testing.T) {
	r := newRig(t, Config{})
	var ids []string
	for _, typ := range []string{"0", "1", "1"} {
		ids = append(ids, r.want(200, "POST", events+"/"+typ, awesome())["PhoneCallEvent"].(object)["id"].(string))
	}
	r.createSubscription("210", "dial-in")
	for path, code := range map[string]string{ // typing errors
		"/NqeyDRqo4FtabmFj8gNWq3hsiGNYyq":   "pce_id_invalid",
		"/0/NqeyDRqo4FtabmFj8gNWq3hsiGNYyq": "pce_id_invalid",
		"/1/" + ids[0]:                      "pce_id_invalid",
		"/undefined":                        "pce_id_invalid",
		"/10":                               "pce_id_invalid",
		"/%20":                              "pce_id_invalid",
		"/0/../":                            "pce_id_invalid",
		"/%2e%2e/":                          "pce_id_invalid",
		"//":                                "pce_id_invalid",
		"/1//":                              "pce_id_invalid",
		"/1/./":                             "pce_id_invalid",
		"/1/" + ids[1] + "/" + ids[2]:       "pce_id_invalid",
		"/5":                                "pce_type_invalid",
		"/5/" + ids[0]:                      "pce_type_invalid",
		"/" + ids[0] + "/0":                 "pce_type_invalid",
		"/dial-in/" + ids[0]:                "pce_type_invalid",
		"/1?filterBy=id&filterValue=x":      "pce_id_invalid",
		"?id=" + ids[0]:                     "pce_id_invalid",
	} {
		r.wantUAPI(400, code, "DELETE", events+path, nil)
	}
	r.wantUAPI(400, "pce_id_invalid", "DELETE", events, object{"id": ids[0]})
	r.wantUAPI(400, "pce_id_invalid", "DELETE", events+"/1", object{"id": ids[1]})
	r.wantUAPI(400, "extension_invalid", "DELETE", "/uapi/extensions/@me/@self/phoneCallEvents", nil)
	r.wantUAPI(400, "extension_invalid", "DELETE", "/uapi/extensions/@me//phoneCallEvents", nil)
	r.wantUAPI(501, "request_not_implemented", "DELETE", "/uapi/extensions/@me/0003*210/", nil)
	r.wantSubs("0003*210 dial-in", "0003*210 dial-out", "0003*210 dial-out", "210 dial-in")

	r.wantJSON(200, `[{"id":"`+ids[0]+`"}]`, "DELETE", events+"/"+ids[0]+"/", nil)
	r.wantJSON(200, `[{"id":"`+ids[1]+`"},{"id":"`+ids[2]+`"}]`, "DELETE", events+"/1/", nil)
	r.wantJSON(204, "", "DELETE", events+"/1/", nil)
	r.wantSubs("210 dial-in")
	for _, typ := range []string{"0", "3"} {
		r.want(200, "POST", events+"/"+typ, awesome())
	}
	if resp, _ := r.raw("DELETE", events, nil); resp.StatusCode != 200 {
		t.Errorf("DELETE of all: %d", resp.StatusCode)
	}
	r.wantJSON(204, "", "DELETE", events, nil)
	r.wantSubs("210 dial-in")
}

func TestUAPIAcceptsCookiePair(t *testing.T) {
	r := newRig(t, Config{})
	r.createSubscription("0003*210", "dial-in")
	r.want(200, "PUT", events+"/"+r.notifier.Subscriptions()[0].ID, object{}, "Authorization", "bearer  "+testToken)
	v := r.visit()
	_, session, _ := strings.Cut(v.cookie, "=")
	pair := []string{"Cookie", "xsrf-token=a; vn=" + session, "X-XSRF-Token", "a"}
	r.token = ""
	for _, tt := range []struct {
		name   string
		ok     bool
		header []string
	}{
		{"nothing", false, nil},
		{"another token", false, []string{"Authorization", "Bearer " + testToken + "x"}},
		{"no scheme", false, []string{"Authorization", testToken}},
		{"the pair", true, []string{"Cookie", cookies, "X-XSRF-Token", "44HzZ6YIHDN6mbRY"}},
		{"a pair with escapes", true, []string{"Cookie", "xsrf-token=a; vn=bellhop%5Ftest", "X-XSRF-Token", "a"}},
		{"an escape that is none", false, []string{"Cookie", "xsrf-token=a; vn=bellhop%5", "X-XSRF-Token", "a"}},
		{"a session of the page", true, pair},
		{"a session without a header", false, pair[:2]},
		{"a session that is no token", false, []string{"Authorization", "Bearer " + session}},
		{"a session in the page's cookie", false, []string{"Cookie", "xsrf-token=a; " + v.cookie, "X-XSRF-Token", "a"}},
		{"a token before a session", false, append([]string{"Authorization", "Bearer x"}, pair...)},
		{"no header", false, []string{"Cookie", cookies}},
		{"another header", false, []string{"Cookie", cookies, "X-XSRF-Token", "44HzZ6YIHDN6mbRy"}},
		{"empty pair", false, []string{"Cookie", "xsrf-token=; vn=" + testToken, "X-XSRF-Token", ""}},
		{"no xsrf cookie", false, []string{"Cookie", "vn=" + testToken, "X-XSRF-Token", ""}},
		{"no session", false, []string{"Cookie", "xsrf-token=a", "X-XSRF-Token", "a"}},
		{"another session", false, []string{"Cookie", "xsrf-token=a; vn=XI%2Cm-tpsEWgqBMBCNVpeAnUEaeqCpG7f", "X-XSRF-Token", "a"}},
	} {
		for _, method := range []string{http.MethodGet, http.MethodDelete} {
			if tt.ok {
				if resp, text := r.raw(method, events+"/1/", nil, tt.header...); resp.StatusCode != 204 {
					t.Errorf("%s with %s: %d %s", method, tt.name, resp.StatusCode, text)
				}
				continue
			}
			r.wantUAPI(401, "access_denied", method, events, nil, tt.header...)
		}
	}
	r.wantProblem(401, "", "GET", "/v1/subscriptions", nil, "Cookie", cookies, "X-XSRF-Token", "44HzZ6YIHDN6mbRY")
	r.wantProblem(401, "", "GET", "/v1/subscriptions", nil, pair...)
	v.send("POST", "/logout", nil)
	r.wantUAPI(401, "access_denied", "GET", events, nil, pair...)
	r.wantSubs("0003*210 dial-in")
}
