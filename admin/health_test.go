package admin

import (
	"strings"
	"testing"
	"time"

	"bellhop/admin/ops"
)

// A loss makes bellhop degraded for a day, and stays in the status. bellhop remains
// ready.
func TestLossDegradesForADay(t *testing.T) {
	now := time.Now().UTC()
	r := newRig(t, Config{Config: ops.Config{Losses: func() []ops.Loss {
		return []ops.Loss{
			{Stream: "bellhop_events", What: "events", Records: 210, From: now.Add(-time.Hour), To: now, Found: now},
			{Stream: "KV_bellhop_tokens", What: "records", Records: 1, Found: now, Restored: true},
			{Stream: "bellhop_audit", What: "entries of the audit log", Records: 3, Found: now.Add(-24 * time.Hour)},
		}
	}}})
	want := "store damaged: events lost: 210, between " + now.Add(-time.Hour).Format(time.RFC3339) + " and " + now.Format(time.RFC3339)
	out := r.want(200, "GET", "/readyz", nil)
	if d := out["degraded"].([]any); out["ready"] != true || len(d) != 1 || d[0] != want {
		t.Errorf("readyz: %v", out)
	}
	status := r.want(200, "GET", "/v1/status", nil)
	if d := status["degraded"].([]any); status["ready"] != true || len(d) != 1 || d[0] != want {
		t.Errorf("status: %v", status)
	}
	losses := status["store"].(object)["losses"].([]any)
	if len(losses) != 3 || losses[0].(object)["records"] != 210.0 || losses[1].(object)["restored"] != true {
		t.Errorf("losses: %v", losses)
	}
	r.visit().sees("/health", "Ready", "Degraded", want)
	if w := serveFrom(r.server, "192.0.2.1:1234", "GET", "/readyz", ""); w.Code != 200 || strings.Contains(w.Body.String(), "degraded") {
		t.Errorf("a stranger gets %d %s", w.Code, w.Body)
	}
}

// A misconfigured PBX is shown wherever degradation is, and bellhop remains ready.
func TestMisconfiguredPBXDegrades(t *testing.T) {
	const want = "PBX udp://192.0.2.2:5060 ignores Path: set support_path = yes"
	r := newRig(t, Config{Config: ops.Config{Degraded: func() []string { return []string{want} }}})
	for _, path := range []string{"/readyz", "/v1/status"} {
		out := r.want(200, "GET", path, nil)
		if d := out["degraded"].([]any); out["ready"] != true || len(d) != 1 || d[0] != want {
			t.Errorf("%s: %v", path, out)
		}
	}
	r.visit().sees("/health", "Ready", "Degraded", want)
	if w := serveFrom(r.server, "192.0.2.1:1234", "GET", "/readyz", ""); w.Code != 200 || strings.Contains(w.Body.String(), "PBX") {
		t.Errorf("a stranger gets %d %s", w.Code, w.Body)
	}
}
