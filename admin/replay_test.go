package admin

import (
	"testing"
	"time"
)

func TestReplaysTimeRange(t *testing.T) {
	r := newRig(t, Config{}, loopback)
	url, _ := r.newReceiver()
	sub := r.want(201, "POST", "/v1/subscriptions", withFields(subscription(), "url", url))["id"].(string)
	path := "/v1/subscriptions/" + sub
	begin := time.Now().Add(-time.Minute)
	r.notifier.EventLog.Append(hangup("e1"))
	r.waitForJSON(path+"/deliveries", func(o object) bool { return len(o["items"].([]any)) == 1 })
	if out := r.want(202, "POST", path+"/replay", object{"from": begin}); out["events"] != 1.0 {
		t.Errorf("got %v, want one event", out)
	}
	r.waitUntil("it is delivered again", func() bool { return r.notifier.Stats().Delivered == 2 })
	if out := r.want(202, "POST", path+"/replay", object{"from": begin, "types": []string{"dial-in"}}); out["events"] != 0.0 {
		t.Errorf("of a type that was not said: %v, want none", out)
	}

	r.wantProblem(422, "body.from", "POST", path+"/replay", object{"from": begin, "to": begin})
	r.wantProblem(422, "body.from", "POST", path+"/replay", object{"from": time.Now().Add(time.Hour)})
	r.wantProblem(422, "body.from", "POST", path+"/replay", object{"from": "yesterday"})
	r.wantProblem(422, "body.types", "POST", path+"/replay", object{"from": begin, "types": []string{"ring"}})
	r.wantProblem(422, "body.from", "POST", path+"/replay", object{})
	r.wantProblem(404, "", "POST", "/v1/subscriptions/x/replay", object{"from": begin})
	r.want(200, "PATCH", path, object{"active": false})
	r.wantProblem(409, "", "POST", path+"/replay", object{"from": begin})

	bound, _ := r.newToken(object{"scope": "write", "extensions": []string{"1009"}})
	bound.wantProblem(404, "", "POST", path+"/replay", object{"from": begin})
}
