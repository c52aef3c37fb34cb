package admin

import (
	"encoding/base32"
	"encoding/json"
	"strings"
	"testing"

	"bellhop/admin/ops"
	"bellhop/dialog"
)

// wantTelphin sends a request and expects an error of the Telphin API.
func (r *rig) wantTelphin(status int, method, path string, body any, header ...string) {
	r.Helper()
	resp, out := r.do(method, path, body, header...)
	if message, _ := out["message"].(string); resp.StatusCode != status || message == "" || len(out) != 1 {
		r.Errorf("%s %s: %d %v, want %d with a message", method, path, resp.StatusCode, out, status)
	}
}

// telphin creates an event and returns its id as text.
func (r *rig) telphin(path, event string) string {
	r.Helper()
	return itoa(uint64(r.want(201, "POST", path, object{"url": "http://a.example/", "event_type": event})["id"].(float64)))
}

// show is the path of the documents' example.
const show = "https://somehost.com/fordel/show.php?myid=175"

func TestTelphinDocumentedExamples(t *testing.T) {
	r := newRig(t, Config{})
	for _, root := range []string{"", "/api/ver1.0"} {
		event := root + "/extension/175/event/"
		var ids []string
		for _, typ := range []string{"dial-out", "answer", "hangup"} {
			out := r.want(201, "POST", event, `{"url":"`+show+`","event_type":"`+typ+`","method":"GET"}`)
			id, _ := out["id"].(float64)
			if len(out) != 4 || out["url"] != show || out["method"] != "GET" || out["event_type"] != typ || id < 1 || id != float64(uint64(id)) {
				t.Errorf("made %v", out)
			}
			ids = append(ids, itoa(uint64(id)))
		}
		one := func(i int, typ, method string) string {
			return `{"url":"` + show + `","method":"` + method + `","event_type":"` + typ + `","id":` + ids[i] + `}`
		}
		all := "[" + one(0, "dial-out", "GET") + "," + one(1, "answer", "GET") + "," + one(2, "hangup", "GET") + "]"
		r.wantJSON(200, all, "GET", event, nil)
		r.wantJSON(200, all, "GET", strings.TrimSuffix(event, "/"), nil)
		r.wantJSON(200, one(1, "answer", "GET"), "GET", event+ids[1]+"/", nil)
		r.wantJSON(200, one(1, "answer", "POST"), "PUT", event+ids[1]+"/", object{"url": show, "event_type": "answer", "method": "POST"})
		r.wantJSON(200, one(1, "answer", "POST"), "GET", event+ids[1], nil)
		r.wantJSON(204, "", "DELETE", event+ids[1]+"/", nil)
		r.wantTelphin(404, "DELETE", event+ids[1]+"/", nil)
		r.wantJSON(200, "["+one(0, "dial-out", "GET")+","+one(2, "hangup", "GET")+"]", "GET", event, nil)
		r.wantSubs("175 dial-out", "175 hangup")
		r.wantJSON(204, "", "DELETE", event, nil)
		r.wantJSON(204, "", "DELETE", event, nil)
		r.wantJSON(200, "[]", "GET", event, nil)
	}
}

func TestTelphinUpdatesEvent(t *testing.T) {
	r := newRig(t, Config{})
	id := r.telphin("/extension/175/event/", "dial-out")
	path := "/extension/175/event/" + id
	r.wantJSON(200, `{"url":"http://a.example/","method":"GET","event_type":"hangup","id":`+id+`}`, "PUT", path, object{"event_type": "hangup"})
	r.wantJSON(200, `{"url":"http://a.example/","method":"POST","event_type":"hangup","id":`+id+`}`, "PUT", path, object{"method": "POST", "id": 7})
	r.wantJSON(200, `{"url":"http://b.example/","method":"POST","event_type":"hangup","id":`+id+`}`, "PUT", path, object{"url": "http://b.example/"})
	r.wantJSON(200, `{"url":"http://b.example/","method":"POST","event_type":"hangup","id":`+id+`}`, "PUT", path, object{})
	before := r.notifier.Subscriptions()[0]

	// An answer of one flow is shown as answer, and keeps its flow.
	one := r.createSubscription("175", "answer-in")
	_, text := r.raw("GET", "/extension/175/event/", nil)
	var events []telphinEvent
	if err := json.Unmarshal([]byte(text), &events); err != nil || len(events) != 2 {
		t.Fatalf("%v in %s, with subscription %s", err, text, one)
	}
	number := itoa(events[1].ID)
	r.wantJSON(200, `{"url":"http://b.example/","method":"POST","event_type":"answer","id":`+number+`}`, "PUT", "/extension/175/event/"+number, object{"event_type": "answer", "url": "http://b.example/"})
	r.wantSubs("175 hangup", "175 answer-in")

	for _, body := range []any{
		object{"event_type": "ringing"}, object{"event_type": ""}, object{"event_type": "answer-in"}, object{"event_type": 1},
		object{"method": "PUT"}, object{"method": "ge"}, object{"method": ""}, object{"method": nil, "url": ""},
		object{"url": "somehost.com"}, object{"url": []string{}}, "", "x", "[]", `"x"`,
	} {
		r.wantTelphin(400, "PUT", path, body)
	}
	if after, err := r.notifier.Subscription(before.ID); err != nil || after.Revision != before.Revision {
		t.Errorf("what is refused changes %+v to %+v: %v", before, after, err)
	}
	for _, path := range []string{"/extension/175/event/1", "/extension/176/event/" + id, "/client/@me/phone_events/" + id, "/extension/175/event/0x1", "/extension/175/event/99999999999999999999"} {
		r.wantTelphin(404, "PUT", path, object{"method": "GET"})
		r.wantTelphin(404, "GET", path, nil)
		r.wantTelphin(404, "DELETE", path, nil)
	}
}

func TestTelphinRefusesInvalidEvents(t *testing.T) {
	r := newRig(t, Config{Config: ops.Config{Kind: func(user string) dialog.Kind {
		return map[string]dialog.Kind{"600": dialog.Queue, "101": dialog.Phone}[user]
	}}})
	event := func(pairs ...any) object {
		return withFields(object{"url": show, "event_type": "dial-out", "method": "GET"}, pairs...)
	}
	for _, body := range []any{
		"", "x", "[]", "null", `{"url":`, event("url", nil), event("url", ""), event("url", "ftp://a.example/"), event("url", "http://a.example:65536/"), event("url", "http://a.example:0/"), event("url", 1), event("url", "http://a.example/{call_id}"),
		event("event_type", nil), event("event_type", "dial"), event("event_type", "ringing"), event("event_type", []string{"hangup"}),
		event("method", "PUT"), event("method", "BREW"), event("method", true),
	} {
		r.wantTelphin(400, "POST", "/extension/175/event/", body)
		r.wantTelphin(400, "POST", "/client/@me/phone_events/", body)
	}
	for _, typ := range []string{"message-in", "message-out"} {
		r.wantTelphin(400, "POST", "/extension/600/event/", event("event_type", typ))
		r.wantTelphin(400, "POST", "/extension/@600@pbx.example/event/", event("event_type", typ))
		for _, phone := range []string{"101", "102", "@101@pbx.example"} {
			r.want(201, "POST", "/extension/"+phone+"/event/", event("event_type", typ))
		}
	}
	queue := r.telphin("/extension/600/event/", "hangup")
	r.wantTelphin(400, "PUT", "/extension/600/event/"+queue, event("event_type", "message-in"))
	for _, path := range []string{"/extension//event/", "/extension/@/event", "/extension/@me/event", "/extension/@@200/event", "/extension/2%200/event", "/extension/" + strings.Repeat("1", 257) + "/event"} {
		r.wantTelphin(400, "POST", path, event())
	}
	for _, path := range []string{"/extension/175", "/extension/175/events", "/client/1/event", "/client/1", "/limit/1", "/extension/175/event/1/2", "/extension/175/limit/1", "/api/ver1.0/", "/api/ver1.0/healthz", "/oauth/x"} {
		r.wantTelphin(404, "POST", path, event())
	}
	for path, allow := range map[string]string{"/limit/": "GET", "/extension/175/limit": "GET", "/extension/600/event/" + queue: "GET, PUT, DELETE", "/client/1/phone_events": "GET, POST, DELETE"} {
		r.wantTelphin(405, "PATCH", path, event())
		if resp, _ := r.raw("PATCH", path, event()); resp.Header.Get("Allow") != allow {
			t.Errorf("%s allows %q, want %q", path, resp.Header.Get("Allow"), allow)
		}
	}
}

func TestTelphinDeletesEvents(t *testing.T) {
	r := newRig(t, Config{})
	for _, e := range []string{"dial-in", "hangup"} {
		r.telphin("/extension/175/event/", e)
		r.telphin("/client/@me/phone_events/", e)
	}
	all := []string{"175 dial-in", ".* dial-in", "175 hangup", ".* hangup"}
	for _, path := range []string{
		"/extension/175/event//", "/extension/175/event/undefined", "/extension/175/event/-1", "/extension/175/event/%20", "/extension/175/event/0", "/extension/175/event/../",
		"/extension/175/", "/client/@me/phone_events//", "/client/@me/phone_events/x", "/client/@me/", "/client//phone_events/1", "/api/ver1.0/extension/175/event/x",
	} {
		r.wantTelphin(404, "DELETE", path, nil)
	}
	for _, path := range []string{"/extension/175/event/", "/client/@me/phone_events"} {
		r.wantTelphin(400, "DELETE", path+"?id=1", nil)
		r.wantTelphin(400, "DELETE", path, object{"id": 1})
	}
	r.wantTelphin(405, "DELETE", "/limit/", nil)
	r.wantSubs(all...)
	r.wantJSON(204, "", "DELETE", "/api/ver1.0/client/7/phone_events/", nil)
	r.wantSubs("175 dial-in", "175 hangup")
	r.wantJSON(204, "", "DELETE", "/api/ver1.0/extension/@175/event/", nil)
	r.wantSubs()
}

func TestTelphinEventsOfAllPhones(t *testing.T) {
	r := newRig(t, Config{})
	r.wantJSON(200, "[]", "GET", "/client/@me/phone_events/", nil)
	id := r.telphin("/api/ver1.0/client/1137/phone_events/", "message-in")
	want := `{"url":"http://a.example/","method":"GET","event_type":"message-in","id":` + id + `}`
	r.wantJSON(200, "["+want+"]", "GET", "/client/@me/phone_events", nil)
	r.wantJSON(200, want, "GET", "/client/@me/phone_events/"+id+"/", nil)
	r.wantJSON(200, `{"event":{"limit":3,"used":1}}`, "GET", "/api/ver1.0/limit/", nil)
	r.wantSubs(".* message-in")
	r.want(200, "PUT", "/client/@me/phone_events/"+id, object{"method": "POST"})
	r.wantJSON(200, "[]", "GET", "/extension/101/event/", nil)

	// The dialect shows no pattern but .*
	some := r.want(201, "POST", "/v1/subscriptions", object{"extension_regex": "1..", "types": []string{"hangup"}, "url": "http://a.example/"})
	r.wantJSON(204, "", "DELETE", "/client/@me/phone_events/"+id, nil)
	r.wantJSON(204, "", "DELETE", "/client/@me/phone_events/", nil)
	if left := r.notifier.Subscriptions(); len(left) != 1 || left[0].ID != some["id"] {
		t.Errorf("left are %+v", left)
	}
}

// Each of several types has its own number, which is valid as long as the subscription
// has the type.
func TestTelphinNumbersOfSeveralTypes(t *testing.T) {
	r := newRig(t, Config{})
	r.createSubscription("175", "dial-in", "answer", "voicemail", "ringing")
	list := func() (events []telphinEvent) {
		_, text := r.raw("GET", "/extension/175/event/", nil)
		if err := json.Unmarshal([]byte(text), &events); err != nil {
			t.Fatal(err)
		}
		return events
	}
	first := list()
	if len(first) != 3 || first[0].ID == first[1].ID || first[1].ID == first[2].ID || first[0].ID == first[2].ID || first[2].ID >= 1<<31 {
		t.Fatalf("they are %+v", first)
	}
	path := func(e telphinEvent) string { return "/extension/175/event/" + itoa(e.ID) }
	r.wantJSON(204, "", "DELETE", path(first[1]), nil)
	r.wantTelphin(404, "DELETE", path(first[1]), nil)
	if second := list(); len(second) != 2 || second[0] != first[0] || second[1] != first[2] {
		t.Errorf("after one is deleted they are %+v", second)
	}
	r.wantSubs("175 dial-in,voicemail,ringing")
	r.wantTelphin(409, "PUT", path(first[0]), object{"event_type": "hangup"})

	id := r.notifier.Subscriptions()[0].ID
	r.want(200, "PATCH", "/v1/subscriptions/"+id, object{"types": []string{"voicemail"}})
	r.want(200, "PUT", path(first[2]), object{"method": "GET"}) // still valid
	alone := list()
	r.want(200, "GET", path(alone[0]), nil)
	r.wantTelphin(404, "GET", path(first[0]), nil)
	r.wantJSON(204, "", "DELETE", path(first[2]), nil)
	r.wantSubs()
}

// The id in a path is the number of an extension in callbacks, or its name.
func TestTelphinResolvesExtensionNumbers(t *testing.T) {
	r := newRig(t, Config{})
	number := r.allotNumber("205")
	id := r.telphin("/extension/"+itoa(number)+"/event/", "hangup")
	r.wantSubs("205 hangup")
	for _, path := range []string{"/extension/@205/event/", "/extension/205/event/", "/extension/" + itoa(number) + "/event/"} {
		r.want(200, "GET", path+id, nil)
	}
	r.telphin("/extension/0"+itoa(number)+"/event/", "hangup") // a number has no leading zero: it is a name
	r.telphin("/extension/0003*210/event/", "hangup")
	r.wantSubs("205 hangup", "0"+itoa(number)+" hangup", "0003*210 hangup")

	// A segment that is both a number and a name is refused.
	r.telphin("/extension/@"+itoa(number)+"/event/", "hangup")
	for _, method := range []string{"GET", "POST", "DELETE"} {
		r.wantTelphin(400, method, "/extension/"+itoa(number)+"/event/", object{"url": show, "event_type": "hangup"})
	}
	if resp, _ := r.raw("DELETE", "/extension/"+itoa(number)+"/event/", nil); resp.StatusCode != 400 {
		t.Errorf("DELETE of the events of two: %d", resp.StatusCode)
	}
	if got := len(r.subscriptionTexts()); got != 4 {
		t.Errorf("%d are left, want 4", got)
	}
}

// allotNumber allots a number to an extension, as its first callback does.
func (r *rig) allotNumber(user string) uint64 {
	r.Helper()
	kv, err := r.js.KeyValue(r.Context(), "bellhop_extensions")
	if err != nil {
		r.Fatal(err)
	}
	number, err := kv.Create(r.Context(), base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString([]byte(user)), []byte(user))
	if err != nil {
		r.Fatal(err)
	}
	return number
}

// telphinEvent is an event in the JSON of the Telphin dialect.
type telphinEvent struct {
	URL       string `json:"url"`
	Method    string `json:"method"`
	EventType string `json:"event_type"`
	ID        uint64 `json:"id"`
}
