package payload

import (
	"net/url"
	"testing"

	"bellhop/dialog"
)

// Numbers of the dialect cti are written as sipgate does: E.164 without a plus.
func TestCTINumbers(t *testing.T) {
	own := dialog.Extension{User: "101", Domain: "pbx.example"}
	for _, tt := range []struct {
		name     string
		event    dialog.Event
		from, to string
		answered string // answeringNumber
	}{
		{"with a plus", dialog.Event{Flow: dialog.In, CallerNum: "+4930123456", CalledNumber: "101", CalledDID: "+4989987654"}, "4930123456", "4989987654", "101"},
		{"national, of a region that is known", dialog.Event{Flow: dialog.In, CallerNum: "030123456", CallerE164: "+4930123456", CalledNumber: "089987654",
			CalledDID: "089987654", CalledE164: "+4989987654"}, "4930123456", "4989987654", "101"},
		{"national, of none", dialog.Event{Flow: dialog.In, CallerNum: "030123456", CalledNumber: "101"}, "030123456", "101", "101"},
		{"of extensions", dialog.Event{Flow: dialog.Out, CallerNum: "101", CalledNumber: "102"}, "101", "102", "102"},
		{"to outside", dialog.Event{Flow: dialog.Out, CallerNum: "101", CalledNumber: "004930123456", CalledE164: "+4930123456"}, "101", "4930123456", "4930123456"},
		{"no number", dialog.Event{Flow: dialog.In, CalledNumber: "101"}, "anonymous", "101", "101"},
		{"no numbers with a plus", dialog.Event{Flow: dialog.In, CallerNum: "+49x", CalledDID: "+", CalledNumber: "101"}, "+49x", "+", "101"},
	} {
		e := tt.event
		e.Call, e.Party, e.Type, e.Extension = "c", "p", dialog.Answer, own
		form, err := url.ParseQuery(payloadOf(e, Format{Dialect: CTI, Method: "POST"}))
		if err != nil || form.Get("from") != tt.from || form.Get("to") != tt.to || form.Get("answeringNumber") != tt.answered {
			t.Errorf("%s: %v, %v", tt.name, form, err)
		}
	}
}

// A newCall has every field that sipgate's library and Zammad read.
func TestCTINewCall(t *testing.T) {
	e := dialog.Event{Call: "c", Party: "p", Type: dialog.DialIn, Flow: dialog.In, CallerNum: "+4930123456", CalledNumber: "101",
		Extension: dialog.Extension{User: "101", Domain: "pbx.example"}}
	form, err := url.ParseQuery(payloadOf(e, Format{Dialect: CTI, Method: "POST"}))
	for name, want := range map[string]string{"event": "newCall", "callId": "p", "origCallId": "c", "direction": "in", "user[]": "101",
		"userId[]": "101", "fullUserId[]": "101@pbx.example", "xcid": "c"} {
		if err != nil || form.Get(name) != want {
			t.Errorf("%s is %q, want %q: %v", name, form.Get(name), want, err)
		}
	}
}
