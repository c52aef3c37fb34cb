package admin

import (
	"context"
	"encoding/json"
	"encoding/xml"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"bellhop/admin/ops"
	"bellhop/dialog"
	"bellhop/dialog/trace"
)

// tracedCall returns the trace of a call whose INVITE timed out.
func tracedCall(_ context.Context, id string) (trace.Call, bool, error) {
	switch id {
	case "busy":
		return trace.Call{}, false, errors.New("the tracker is busy")
	case "c1":
	default:
		return trace.Call{}, false, nil
	}
	phone, hop, pbx := netip.MustParseAddrPort("192.0.2.11:5060"), netip.MustParseAddrPort("192.0.2.5:5060"), netip.MustParseAddrPort("192.0.2.1:5060")
	at := time.Date(2026, 1, 2, 3, 4, 5, 6000, time.UTC)
	return trace.Call{
		ID: "c1", Began: at, Up: true, LeftOut: 2,
		Ends: []trace.End{{Name: "pbx", Address: pbx, Side: dialog.PBX}, {Name: "<101>", Address: phone, Side: dialog.Edge, Calls: true}},
		Legs: []trace.Leg{{CallID: "a@b", Origin: dialog.Edge, End: 1}},
		Messages: []trace.Message{
			{At: at, Method: "INVITE", Sender: 1, From: phone, To: pbx, Local: hop, Head: "INVITE sip:102@pbx SIP/2.0\r\n\r\n", Body: "v=0", Truncated: true},
			{At: at.Add(time.Second), After: time.Second, Method: "INVITE", Status: 100, Absorbed: true, Receiver: 1, From: pbx, To: phone, Local: hop, Stream: true, Head: "SIP/2.0 100 Trying\r\n\r\n"},
			{At: at.Add(time.Minute), After: time.Minute, Method: "INVITE", Status: 408, Own: true, Receiver: 1, From: pbx, To: phone, Local: hop, Head: "SIP/2.0 408 Request Timeout\r\n\r\n"},
		},
	}, true, nil
}

func TestTraceHasFourFormats(t *testing.T) {
	r := newRig(t, Config{Config: ops.Config{Trace: tracedCall}})
	resp, got := r.do("GET", "/v1/calls/c1/trace", nil)
	var want object
	err := json.Unmarshal([]byte(`{"call_id": "c1", "began": "2026-01-02T03:04:05.000006Z", "up": true, "left_out": 2,
		"ends": [{"name": "pbx", "address": "192.0.2.1:5060", "side": "pbx"}, {"name": "<101>", "address": "192.0.2.11:5060", "side": "edge"}],
		"legs": [{"sip_call_id": "a@b", "origin": "edge", "end": 1}],
		"messages": [
			{"time": "2026-01-02T03:04:05.000006Z", "leg": 0, "from": "192.0.2.11:5060", "to": "192.0.2.1:5060", "through": "192.0.2.5:5060", "transport": "udp",
				"direction": "edge-pbx", "sender": 1, "receiver": 0, "method": "INVITE", "summary": "INVITE sip:102@pbx", "text": "INVITE sip:102@pbx SIP/2.0\r\n\r\nv=0", "cut": true},
			{"time": "2026-01-02T03:04:06.000006Z", "leg": 0, "from": "192.0.2.1:5060", "to": "192.0.2.5:5060", "transport": "tcp",
				"direction": "pbx-bellhop", "sender": 0, "receiver": 1, "method": "INVITE", "status": 100, "summary": "100 Trying", "text": "SIP/2.0 100 Trying\r\n\r\n"},
			{"time": "2026-01-02T03:05:05.000006Z", "leg": 0, "from": "192.0.2.5:5060", "to": "192.0.2.11:5060", "transport": "udp",
				"direction": "bellhop-edge", "sender": 0, "receiver": 1, "own": true, "method": "INVITE", "status": 408, "summary": "408 Request Timeout", "text": "SIP/2.0 408 Request Timeout\r\n\r\n"}
		]}`), &want)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("- want, + got:\n%s", d)
	}
	if h := resp.Header; h.Get("Content-Type") != "application/json" || h.Get("Content-Disposition") != "" || h.Get("Cache-Control") != "no-store" {
		t.Errorf("%v", h)
	}
	for _, tt := range []struct{ as, contentType, disposition, begins, contains string }{
		{"json", "application/json", "", "{", `"\u003c101\u003e"`},
		{"text", "text/plain; charset=utf-8", "", "call c1", "◀408 Request…──"},
		{"svg", "image/svg+xml", "", "<svg", "&lt;101&gt;"},
		{"pcap", "application/vnd.tcpdump.pcap", `attachment; filename="c1.pcap"`, "\xd4\xc3\xb2\xa1", "INVITE sip:102@pbx SIP/2.0\r\n"},
	} {
		resp, out := r.do("GET", "/v1/calls/c1/trace/?as="+tt.as, nil)
		h := resp.Header
		text, _ := out["text"].(string)
		if tt.as == "json" {
			text = tt.begins + tt.contains // decoded and compared above
		}
		if resp.StatusCode != 200 || h.Get("Content-Type") != tt.contentType || h.Get("Content-Disposition") != tt.disposition || h.Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("%s: %d %v", tt.as, resp.StatusCode, h)
		}
		if !strings.HasPrefix(text, tt.begins) || !strings.Contains(text, tt.contains) {
			t.Errorf("%s: %q", tt.as, text)
		}
		if tt.as == "svg" {
			if err := xml.Unmarshal([]byte(text), new(struct{})); err != nil {
				t.Error(err)
			}
			if h.Get("Content-Security-Policy") != "default-src 'none'; style-src 'unsafe-inline'" {
				t.Errorf("the picture may %q", h.Get("Content-Security-Policy"))
			}
		}
	}
}

func TestTraceErrors(t *testing.T) {
	r := newRig(t, Config{Config: ops.Config{Trace: tracedCall}})
	r.wantProblem(404, "", "GET", "/v1/calls/c2/trace?as=svg", nil)
	r.wantProblem(422, "query.as", "GET", "/v1/calls/c1/trace?as=gif", nil)
	r.wantProblem(422, "query.at", "GET", "/v1/calls/c1/trace?at=svg", nil)
	r.wantProblem(503, "", "GET", "/v1/calls/busy/trace", nil)
	r.wantProblem(405, "", "POST", "/v1/calls/c1/trace", nil)
	r.token = ""
	r.wantProblem(401, "", "GET", "/v1/calls/c1/trace", nil)
	newRig(t, Config{}).wantProblem(404, "", "GET", "/v1/calls/c1/trace", nil)
}

func TestTraceFormatsAreDescribed(t *testing.T) {
	r := newRig(t, Config{})
	paths := r.want(200, "GET", "/openapi.json", nil)["paths"].(object)
	answers := paths["/v1/calls/{id}/trace"].(object)["get"].(object)["responses"].(object)
	content := answers["200"].(object)["content"].(object)
	for _, form := range []string{"application/json", "text/plain; charset=utf-8", "image/svg+xml", "application/vnd.tcpdump.pcap"} {
		if content[form] == nil {
			t.Errorf("there is no %s in %v", form, content)
		}
	}
	if ref := content["application/json"].(object)["schema"].(object)["$ref"]; ref != "#/components/schemas/Trace" {
		t.Errorf("the schema is %v", ref)
	}
	if answers["404"] == nil {
		t.Error("404 is not described")
	}
}
