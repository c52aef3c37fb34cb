package admin

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"bellhop/dialog"
)

var loopback = netip.MustParsePrefix("127.0.0.0/8")

// newReceiver starts delivering until the test ends, and a receiver that answers with
// the status stored in status.
func (r *rig) newReceiver() (url string, status *atomic.Int64) {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		r.notifier.Run(ctx)
		close(ended)
	}()
	status = new(atomic.Int64)
	status.Store(200)
	receiver := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		io.Copy(io.Discard, req.Body)
		w.Header().Set("Server", "crm")
		w.WriteHeader(int(status.Load()))
		io.WriteString(w, "hello")
	}))
	r.Cleanup(func() { cancel(); <-ended; receiver.Close() })
	return receiver.URL, status
}

// waitForJSON reads a path until its object fulfils a condition, and returns it.
func (r *rig) waitForJSON(path string, so func(object) bool) object {
	r.Helper()
	for begin := time.Now(); ; <-time.After(20 * time.Millisecond) {
		out := r.want(200, "GET", path, nil)
		if so(out) {
			return out
		}
		if time.Since(begin) > 5*time.Minute {
			r.Fatalf("GET %s: still %v", path, out)
		}
	}
}

func hasState(state string, attempts int) func(object) bool {
	return func(d object) bool { return d["state"] == state && len(d["attempts"].([]any)) == attempts }
}

func hangup(id string) []dialog.Event {
	return []dialog.Event{{
		ID: id, Call: "call" + id, Party: "p", Seq: 1, Type: dialog.Hangup, Flow: dialog.In, At: time.Now(),
		Extension: dialog.Extension{User: "1001", Domain: "pbx"},
	}}
}

func TestListsDeliveriesWithAttempts(t *testing.T) {
	r := newRig(t, Config{}, loopback)
	url, status := r.newReceiver()
	sub := r.want(201, "POST", "/v1/subscriptions", withFields(subscription(), "url", url+"/cb", "headers", object{"X-Key": "hush"}))["id"].(string)
	other := r.want(201, "POST", "/v1/subscriptions", withFields(subscription(), "extension", "1002"))["id"].(string)
	for _, id := range []string{"e1", "e2", "e3"} {
		r.notifier.EventLog.Append(hangup(id))
		r.waitForJSON("/v1/deliveries?state=delivered", func(o object) bool {
			items := o["items"].([]any)
			return len(items) > 0 && items[0].(object)["event_id"] == id
		})
	}
	status.Store(500)
	r.notifier.EventLog.Append(hangup("e4"))
	waits := r.waitForJSON("/v1/deliveries?state=waiting", func(o object) bool {
		items := o["items"].([]any)
		return len(items) == 1 && hasState("waiting", 1)(items[0].(object))
	})["items"].([]any)[0].(object)
	if waits["id"] != "e4-"+sub || waits["subscription_id"] != sub || waits["event_type"] != "hangup" || waits["call_id"] != "calle4" || waits["extension"] != "1001@pbx" || waits["next_attempt"] == nil || waits["timestamp"] == nil {
		t.Errorf("got %v", waits)
	}

	for path, want := range map[string][]string{
		"/v1/deliveries":                                         {"e4", "e3", "e2", "e1"},
		"/v1/deliveries?state=delivered":                         {"e3", "e2", "e1"},
		"/v1/deliveries?state=expired":                           {},
		"/v1/subscriptions/" + sub + "/deliveries":               {"e4", "e3", "e2", "e1"},
		"/v1/subscriptions/" + sub + "/deliveries/":              {"e4", "e3", "e2", "e1"},
		"/v1/subscriptions/" + other + "/deliveries":             {},
		"/v1/subscriptions/" + sub + "/deliveries?state=waiting": {"e4"},
	} {
		if got := r.events(path); !slices.Equal(got, want) {
			t.Errorf("%s: got %v, want %v", path, got, want)
		}
		paged, sep := []string{}, "?"
		if strings.Contains(path, "?") {
			sep = "&"
		}
		cursor := ""
		for range 10 {
			out := r.want(200, "GET", path+sep+"limit=1"+cursor, nil)
			for _, d := range out["items"].([]any) {
				paged = append(paged, d.(object)["event_id"].(string))
			}
			if out["next"] == "" {
				break
			}
			cursor = "&cursor=" + out["next"].(string)
		}
		if !slices.Equal(paged, want) {
			t.Errorf("%s: by one, got %v, want %v", path, paged, want)
		}
	}

	d := r.want(200, "GET", "/v1/deliveries/e4-"+sub, nil)
	a := d["attempts"].([]any)[0].(object)
	for key, want := range (object{"number": 1.0, "status": 500.0, "error": "500 Internal Server Error", "outcome": "waiting", "by_hand": nil}) {
		if a[key] != want {
			t.Errorf("%s of the attempt is %v, want %v", key, a[key], want)
		}
	}
	request, answer := a["request"].(object), a["answer"].(object)
	if request["method"] != "POST" || request["url"] != url+"/cb" || !strings.Contains(request["body"].(string), "EventType=hangup") || request["header"].(object)["X-Key"] != "[redacted]" {
		t.Errorf("the request is %v", request)
	}
	if answer["body"] != "hello" || answer["header"].(object)["Server"] != "crm" {
		t.Errorf("the answer is %v", answer)
	}

	path := "/v1/deliveries/e4-" + sub
	a = r.want(200, "POST", path+"/redeliver", nil)
	if a["outcome"] != "failed" || a["by_hand"] != true || a["status"] != 500.0 || a["number"] != nil {
		t.Errorf("a redelivery that fails: %v", a)
	}
	r.waitForJSON(path, hasState("waiting", 2))
	status.Store(204)
	a = r.want(200, "POST", path+"/redeliver", nil)
	if a["outcome"] != "delivered" || a["status"] != 204.0 || a["request"].(object)["header"].(object)["Webhook-Id"] != "e4-"+sub {
		t.Errorf("a redelivery that succeeds: %v", a)
	}
	r.waitForJSON(path, hasState("delivered", 3))

	r.want(204, "DELETE", "/v1/subscriptions/"+sub, nil)
	r.wantProblem(409, "", "POST", path+"/redeliver", nil)
	r.wantProblem(404, "", "GET", "/v1/subscriptions/"+sub+"/deliveries", nil)
	r.waitForJSON(path, hasState("delivered", 3)) // a failed redelivery keeps the state
}

// events returns the event ids of a page of deliveries.
func (r *rig) events(path string) []string {
	r.Helper()
	all := []string{}
	for _, d := range r.want(200, "GET", path, nil)["items"].([]any) {
		all = append(all, d.(object)["event_id"].(string))
	}
	return all
}

func TestInvalidDeliveryRequestsAreRefused(t *testing.T) {
	r := newRig(t, Config{})
	sub := r.want(201, "POST", "/v1/subscriptions", subscription())["id"].(string)
	for _, path := range []string{"/v1/deliveries", "/v1/subscriptions/" + sub + "/deliveries"} {
		if out := r.want(200, "GET", path, nil); len(out["items"].([]any)) != 0 || out["next"] != "" {
			t.Errorf("%s: got %v", path, out)
		}
		r.wantProblem(422, "query.cursor", "GET", path+"?cursor=x", nil)
		r.wantProblem(422, "query.state", "GET", path+"?state=lost", nil)
		r.wantProblem(422, "query.limit", "GET", path+"?limit=201", nil)
		r.wantProblem(422, "query.limit", "GET", path+"?limit=0", nil)
		r.wantProblem(422, "query.stat", "GET", path+"?stat=waiting", nil)
	}
	r.wantProblem(404, "", "GET", "/v1/subscriptions/x/deliveries", nil)
	r.wantProblem(404, "", "POST", "/v1/subscriptions/x/test", nil)
	for _, id := range []string{"x", "e1-" + sub, "e1-", "%2A-" + sub} {
		r.wantProblem(404, "", "GET", "/v1/deliveries/"+id, nil)
		r.wantProblem(404, "", "POST", "/v1/deliveries/"+id+"/redeliver", nil)
	}
	r.wantProblem(405, "", "GET", "/v1/deliveries/x/redeliver", nil)
}

// A token bound to extensions sees and redelivers only deliveries whose subscription
// and event both belong to these.
func TestBoundTokenSeesItsDeliveriesOnly(t *testing.T) {
	r := newRig(t, Config{}, loopback)
	url, _ := r.newReceiver()
	path := "/v1/subscriptions"
	mine := r.want(201, "POST", path, withFields(subscription(), "url", url))["id"].(string)
	yours := r.want(201, "POST", path, withFields(subscription(), "url", url, "extension", "1002"))["id"].(string)
	everybodys := r.want(201, "POST", path, withFields(subscription(), "url", url, "extension", nil, "extension_regex", ".*"))["id"].(string)
	bound, _ := r.newToken(object{"scope": "write", "extensions": []string{"1001"}})
	nobody, _ := r.newToken(object{"scope": "write", "extensions": []string{"1009"}})
	events := slices.Concat(hangup("e1"), hangup("e2"))
	events[1].Extension.User = "1002"
	r.notifier.EventLog.Append(events)
	r.waitForJSON("/v1/deliveries", func(o object) bool { return len(o["items"].([]any)) == 4 })

	seen := func(client *rig, path string) []string {
		all := []string{}
		for _, d := range client.want(200, "GET", path, nil)["items"].([]any) {
			all = append(all, d.(object)["id"].(string))
		}
		return all
	}
	if got, want := seen(bound, "/v1/deliveries"), []string{"e1-" + mine}; !slices.Equal(got, want) {
		t.Errorf("it sees %v, want %v", got, want)
	}
	if got := seen(nobody, "/v1/deliveries"); len(got) != 0 {
		t.Errorf("who has none sees %v", got)
	}
	if got, want := seen(bound, path+"/"+mine+"/deliveries"), []string{"e1-" + mine}; !slices.Equal(got, want) {
		t.Errorf("of its own it sees %v, want %v", got, want)
	}
	bound.want(200, "GET", "/v1/deliveries/e1-"+mine, nil)
	bound.want(200, "POST", "/v1/deliveries/e1-"+mine+"/redeliver", nil)
	_, none := bound.do("GET", "/v1/deliveries/nothing", nil)
	for _, id := range []string{"e2-" + yours, "e1-" + everybodys, "e2-" + everybodys} {
		r.want(200, "GET", "/v1/deliveries/"+id, nil)
		if _, got := bound.do("GET", "/v1/deliveries/"+id, nil); got["status"] != 404.0 || !cmp.Equal(got, none) {
			t.Errorf("%s: %v, and of none: %v", id, got, none)
		}
		bound.wantProblem(404, "", "POST", "/v1/deliveries/"+id+"/redeliver", nil)
	}
	for _, id := range []string{yours, everybodys} {
		bound.wantProblem(404, "", "GET", path+"/"+id+"/deliveries", nil)
		bound.wantProblem(404, "", "POST", path+"/"+id+"/test", nil)
	}

	// Deliveries of the former extension stay hidden.
	r.want(200, "PATCH", path+"/"+yours, object{"extension": "1001"})
	if got, want := seen(bound, "/v1/deliveries"), []string{"e1-" + mine}; !slices.Equal(got, want) {
		t.Errorf("with another's subscription it sees %v, want %v", got, want)
	}
	bound.wantProblem(404, "", "GET", "/v1/deliveries/e2-"+yours, nil)

	r.want(204, "DELETE", path+"/"+mine, nil)
	bound.wantProblem(404, "", "GET", "/v1/deliveries/e1-"+mine, nil)
	r.want(200, "GET", "/v1/deliveries/e1-"+mine, nil)

	did := []string{}
	for _, e := range r.want(200, "GET", "/v1/audit", nil)["items"].([]any) {
		if e.(object)["did"] == "redeliver" {
			did = append(did, e.(object)["id"].(string))
		}
	}
	if want := []string{"e1-" + mine}; !slices.Equal(did, want) {
		t.Errorf("the audit log has redeliveries of %v, want %v", did, want)
	}
}

func TestRedeliverOfExpiredEvent(t *testing.T) {
	r := newRig(t, Config{}, loopback)
	url, _ := r.newReceiver()
	sub := r.want(201, "POST", "/v1/subscriptions", withFields(subscription(), "url", url))["id"].(string)
	r.notifier.EventLog.Append(hangup("e1"))
	r.waitForJSON("/v1/deliveries", func(o object) bool { return len(o["items"].([]any)) == 1 })
	if _, err := r.store.Request("$JS.API.STREAM.PURGE.bellhop_events", nil, 5*time.Minute); err != nil {
		t.Fatal(err)
	}
	r.wantProblem(409, "", "POST", "/v1/deliveries/e1-"+sub+"/redeliver", nil)
}

func TestSendsSampleCallbacks(t *testing.T) {
	r := newRig(t, Config{}, loopback)
	url, status := r.newReceiver()
	sub := r.want(201, "POST", "/v1/subscriptions", withFields(subscription(), "url", url, "active", false))["id"].(string)
	for _, code := range []int{200, 503} {
		status.Store(int64(code))
		var types []string
		for _, item := range r.want(200, "POST", "/v1/subscriptions/"+sub+"/test", nil)["items"].([]any) {
			trial := item.(object)
			types = append(types, trial["type"].(string))
			want := map[int]string{200: "delivered", 503: "failed"}[code]
			if trial["outcome"] != want || trial["status"] != float64(code) || trial["answer"].(object)["body"] != "hello" {
				t.Errorf("got %v", trial)
			}
			request := trial["request"].(object)
			if id := trial["id"].(string); !strings.HasPrefix(id, "test-") || !strings.HasSuffix(id, "-"+sub) || request["header"].(object)["Webhook-Id"] != id ||
				!strings.Contains(request["body"].(string), fmt.Sprint("EventType=", trial["type"])) {
				t.Errorf("got %v", trial)
			}
		}
		if want := []string{"dial-out", "answer", "hangup"}; !slices.Equal(types, want) {
			t.Errorf("tested were %v, want %v", types, want)
		}
	}
	if out := r.want(200, "GET", "/v1/events", nil); len(out["items"].([]any)) != 0 {
		t.Errorf("the event log has %v", out)
	}
}
