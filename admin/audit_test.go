package admin

import (
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"bellhop/admin/ops"
)

// logBuffer is written by a logger and read by a test.
type logBuffer struct {
	mu   sync.Mutex
	text strings.Builder
}

func (n *logBuffer) Write(b []byte) (int, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.text.Write(b)
}

func (n *logBuffer) String() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.text.String()
}

func TestAuditRecordsChanges(t *testing.T) {
	var log logBuffer
	r := newRig(t, Config{Config: ops.Config{Log: slog.New(slog.NewTextHandler(&log, nil))}})
	if out := r.want(200, "GET", "/v1/audit", nil); !cmp.Equal(out, object{"items": []any{}, "next": ""}) {
		t.Errorf("before anything was done there is %v", out)
	}
	const secret, value = "whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIz", "s3cret-value"
	client, id := r.newToken(object{"scope": "write", "extensions": []string{"101"}})
	sub := client.want(201, "POST", "/v1/subscriptions", withFields(subscription(), "extension", "101", "secret", secret, "headers", object{"X-Key": value}))
	path := "/v1/subscriptions/" + sub["id"].(string)
	client.want(200, "PATCH", path, object{"note": "x", "active": false, "headers": object{"X-Key": value + "2"}})
	rotated := client.want(200, "POST", path+"/rotate-secret", nil)["secret"].(string)
	client.want(204, "DELETE", path, nil)
	r.want(204, "DELETE", "/v1/tokens/"+id, nil)

	// Refused and reading requests are not recorded.
	client.wantProblem(401, "", "DELETE", path, nil)
	r.wantProblem(404, "", "DELETE", path, nil)
	r.wantProblem(422, "", "POST", "/v1/subscriptions", object{})
	r.want(200, "GET", "/v1/subscriptions", nil)

	items := r.want(200, "GET", "/v1/audit", nil)["items"].([]any)
	slices.Reverse(items)
	var got []string
	for _, item := range items {
		e := item.(object)
		got = append(got, fmt.Sprint(e["did"], " by ", e["by"], ": ", e["before"] != nil, " ", e["after"] != nil))
	}
	want := []string{
		"create-token by config: false true",
		"create-subscription by " + id + ": false true",
		"change-subscription by " + id + ": true true",
		"rotate-secret by " + id + ": true true",
		"delete-subscription by " + id + ": true false",
		"revoke-token by config: true false",
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Fatalf("(- want, + got):\n%s", d)
	}
	change := items[2].(object)
	before, after := change["before"].(object), change["after"].(object)
	if before["active"] != true || after["active"] != false || after["note"] != "x" || change["id"] != sub["id"] || !cmp.Equal(before["headers"], object{"X-Key": ""}) {
		t.Errorf("the change is %v", change)
	}
	if !strings.Contains(log.String(), `msg=audit by=`+id+` did=change-subscription id=`+sub["id"].(string)+` changed="[active modified note state why]"`) {
		t.Errorf("the log has\n%s", log.String())
	}
	everything := fmt.Sprint(items) + log.String()
	for _, hidden := range []string{secret, value, rotated, client.token} {
		if strings.Contains(everything, hidden) {
			t.Errorf("%s is in the audit log or the log", hidden)
		}
	}

	// Newest first, page by page, while entries are added.
	var pages []string
	next := ""
	for i := 0; i == 0 || next != ""; i++ {
		out := r.want(200, "GET", "/v1/audit?limit=4&cursor="+next, nil)
		for _, item := range out["items"].([]any) {
			pages = append(pages, item.(object)["did"].(string))
		}
		next = out["next"].(string)
		r.want(201, "POST", "/v1/tokens", object{"scope": "read"})
	}
	if d := cmp.Diff([]string{"revoke-token", "delete-subscription", "rotate-secret", "change-subscription", "create-subscription", "create-token"}, pages); d != "" {
		t.Errorf("pages (- want, + got):\n%s", d)
	}
	r.wantProblem(422, "query.cursor", "GET", "/v1/audit?cursor=x", nil)
	r.wantProblem(422, "query.limit", "GET", "/v1/audit?limit=0", nil)
	if out := r.want(200, "GET", "/v1/audit?cursor=1", nil); !cmp.Equal(out, object{"items": []any{}, "next": ""}) {
		t.Errorf("before the first there is %v", out)
	}
}

// A change succeeds although the store does not accept its audit entry, and the log has
// it.
func TestAuditWithoutStore(t *testing.T) {
	var log logBuffer
	r := newRig(t, Config{Config: ops.Config{Log: slog.New(slog.NewTextHandler(&log, nil))}})
	if err := r.js.DeleteStream(t.Context(), "bellhop_audit"); err != nil {
		t.Fatal(err)
	}
	r.want(201, "POST", "/v1/subscriptions", subscription())
	for _, want := range []string{"msg=audit by=config did=create-subscription", `msg="audit entry not stored" did=create-subscription`} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("the log lacks %q:\n%s", want, log.String())
		}
	}
}

func TestAuditIsKeptAsLongAsEvents(t *testing.T) {
	r := newRig(t, Config{Config: ops.Config{KeepEvents: 1234e9}})
	stream, err := r.js.Stream(t.Context(), "bellhop_audit")
	if err != nil {
		t.Fatal(err)
	}
	info, err := stream.Info(t.Context())
	if err != nil || info.Config.MaxAge != 1234e9 {
		t.Errorf("kept for %v: %v", info.Config.MaxAge, err)
	}
}
