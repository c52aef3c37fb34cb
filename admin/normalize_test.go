package admin

import (
	"encoding/json"
	"testing"
)

// The case of a media type and a byte order mark make no difference.
func TestMediaTypeIgnoresCase(t *testing.T) {
	r := newRig(t, Config{})
	b, err := json.Marshal(subscription())
	if err != nil {
		t.Fatal(err)
	}
	const mark = "\xEF\xBB\xBF"
	for _, kind := range []string{"application/json", "Application/JSON", "APPLICATION/JSON; charset=UTF-8", "application/Json ;Charset=utf-8"} {
		for _, begin := range []string{"", mark} {
			sub := r.want(201, "POST", "/v1/subscriptions", begin+string(b), "Content-Type", kind)
			r.want(204, "DELETE", "/v1/subscriptions/"+sub["id"].(string), nil)
		}
	}
	r.wantProblem(415, "body", "POST", "/v1/subscriptions", string(b), "Content-Type", "Text/Plain")
	r.wantProblem(400, "body", "POST", "/v1/subscriptions", mark+mark+string(b))
	for _, path := range []string{"/uapi/extensions/@me/102/phoneCallEvents/0", "/extension/@102/event/"} {
		body := `{"url":"http://crm.example/hook","method":"1"}`
		if path[1] == 'e' {
			body = `{"url":"http://crm.example/hook","event_type":"dial-in","method":"POST"}`
		}
		if resp, text := r.raw("POST", path, mark+body, "Content-Type", "Application/Json"); resp.StatusCode/100 != 2 {
			t.Errorf("POST %s: %d %s", path, resp.StatusCode, text)
		}
	}
}

// A filter that cannot be parsed is an error, not an absent filter.
func TestMalformedQueryIsRefused(t *testing.T) {
	r := newRig(t, Config{})
	r.want(201, "POST", "/v1/subscriptions", subscription())
	for _, path := range []string{
		"/v1/subscriptions?extension=%zz", "/v1/subscriptions?extension=100%", "/v1/subscriptions?limit=1;extension=7",
		"/v1/events?type=%", "/v1/calls?extension=%1", "/v1/deliveries?state=waiting&extension=%-1",
	} {
		r.wantProblem(400, "", "GET", path, nil)
	}
	const events = "/uapi/extensions/@me/1001/phoneCallEvents/"
	r.wantJSON(400, `{"error":{"code":"request_invalid","message":"malformed query: percent-encode special characters such as % and ;"}}`, "DELETE", events+"?filterValue=%", nil)
	r.wantJSON(400, `{"message":"malformed query: percent-encode special characters such as % and ;"}`, "DELETE", "/extension/@1001/event/?name=%", nil)
	if ids, _ := r.ids("/v1/subscriptions?extension=1001&cursor="); len(ids) != 1 {
		t.Errorf("left are %v", ids)
	}
}

func TestUnknownCursorIsRefused(t *testing.T) {
	r := newRig(t, Config{})
	for range 3 {
		r.want(201, "POST", "/v1/subscriptions", subscription())
	}
	for _, list := range []string{"/v1/subscriptions", "/v1/calls", "/v1/tokens"} {
		for _, cursor := range []string{"zzz", "-", "2", "%00", "00063f3c0b1d2a40", "00063f3c0b1d2a40-", "63f3c0b1d2a40-x", "00063f3c0b1d2a4g-x"} {
			r.wantProblem(422, "query.cursor", "GET", list+"?cursor="+cursor, nil)
		}
	}
	_, next := r.ids("/v1/subscriptions?limit=2")
	if last, end := r.ids("/v1/subscriptions?cursor=" + next); len(last) != 1 || end != "" {
		t.Errorf("behind %q: %v, next %q", next, last, end)
	}
	if ids, _ := r.ids("/v1/subscriptions?cursor=7fffffffffffffff-gone"); len(ids) != 0 {
		t.Errorf("behind all: %v", ids)
	}
}

func TestIfMatchWithSeveralTags(t *testing.T) {
	r := newRig(t, Config{})
	resp, sub := r.do("POST", "/v1/subscriptions", subscription())
	path, first := "/v1/subscriptions/"+sub["id"].(string), resp.Header.Get("ETag")
	r.wantProblem(412, "", "PATCH", path, object{"note": "a"}, "If-Match", `"999999", "`+first[1:len(first)-1]+`0"`)
	r.wantProblem(412, "", "PATCH", path, object{"note": "a"}, "If-Match", `"999999", W/`+first)
	r.wantProblem(404, "", "PATCH", path+"x", object{"note": "a"}, "If-Match", `"999999", `+first)
	r.want(200, "PATCH", path, object{"note": "a"}, "If-Match", `"999999",`+first)
	r.wantProblem(412, "", "DELETE", path, nil, "If-Match", `"999999", `+first)
	r.want(204, "DELETE", path, nil, "If-Match", r.entityTag(path)+`, "999999"`)
}

// entityTag returns the current entity tag of a path.
func (r *rig) entityTag(path string) string {
	r.Helper()
	resp, _ := r.do("GET", path, nil)
	return resp.Header.Get("ETag")
}
