package payload

import (
	"strings"
	"testing"
	"time"

	"bellhop/dialog"
)

// Each dialect has its own word for a forwarded call; the form dialects have none.
func TestForwardedInEachDialect(t *testing.T) {
	missed := false
	e := dialog.Event{
		ID: "00000000000000000000000000000001", Call: "00000000000000000000000000000002", Party: "00000000000000000000000000000003",
		Seq: 4, At: time.Unix(1772600794, 0), Type: dialog.Hangup, Flow: dialog.In, Extension: dialog.Extension{User: "101"},
		Status: dialog.Forwarded, HangupBy: dialog.ByCallee, Missed: &missed,
	}
	for _, tt := range []struct {
		sub  Format
		want string
	}{
		{Format{Dialect: JSON, Method: "POST"}, `"call_status":"FORWARDED"`},
		{Format{Dialect: JSON, Method: "GET"}, "&call_status=FORWARDED&"},
		{Format{Dialect: CloudEvents, Method: "POST"}, `"call_status":"FORWARDED"`},
		{Format{Dialect: Unified, Method: "POST"}, "&CallStatus=CANCEL&"},
		{Format{Dialect: Telphin, Method: "GET"}, "&CallStatus=CANCEL&"},
		{Format{Dialect: Telphin, Method: "POST", Extended: true}, "&Missed=no"},
		{Format{Dialect: Telphin, Method: "POST", StatusWords: "unified"}, "&CallStatus=UNKNOWN&"},
		{Format{Dialect: JSON, Method: "POST", StatusWords: "unified"}, `"call_status":"UNKNOWN"`},
		{Format{Dialect: CTI, Method: "POST"}, "&cause=forwarded"},
	} {
		if got := payloadOf(e, tt.sub); !strings.Contains(got, tt.want) {
			t.Errorf("%s %s: got %s\nwant %s in it", tt.sub.Dialect, tt.sub.Method, got, tt.want)
		}
	}
}
